/**
 * Load, kills and a cleaner of files, all at once and for long, `npm run test:stress -- --soak`: nobody is lost or served
 * twice, and processes that live through all of it hold no more at its end than in the middle.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { median } from "../bench/statistics.js"
import { itNeeds, makeArena, needs } from "./contenders.js"
import type { Held, Options } from "./fixtures/contender.js"
import { rage, summary } from "./rage.js"
import { reported, soakSeconds } from "./stress.js"
import { contradiction, type Entry } from "./witness.js"

const survivors = 2

// What may be more in the last third than in the middle one: what is loaded and compiled late, and what a round that has
// just ended still lets go of.
const tolerated: Held = { heap: 4 * 1_024 * 1_024, descriptors: 2, resources: 2 }

/** What has grown, in words. */
const grown = (samples: ReadonlyArray<Held>): ReadonlyArray<string> => {
  const third = Math.floor(samples.length / 3)
  return (["heap", "descriptors", "resources"] as const).flatMap((what) => {
    const of = (from: number) => median(samples.slice(from, from + third).map((held) => held[what]))
    const [before, after] = [of(samples.length - 2 * third), of(samples.length - third)]
    return after > before + tolerated[what] ? [`${what}: ${before}, then ${after}`] : []
  })
}

const soak = Effect.fnUntraced(function* (seconds: number, leak?: Options["leak"]) {
  const arena = yield* makeArena
  const living = yield* Effect.replicateEffect(
    arena.start("storm", {
      hold: 200,
      config: { timeout: "5 seconds", helloTimeout: "2 seconds", drain: "500 millis" },
      measured: Math.max(300, seconds * 5),
      life: (seconds + 120) * 1_000,
      leak
    }),
    survivors
  )
  const also = (random: () => number) => (random() < 0.1 ? arena.clean(random() < 0.5 ? "" : "wsm") : Effect.void)
  yield* Effect.scoped(rage(arena, { workers: 4, seconds, also }))
  const samples = living.map(({ entries }) =>
    entries.filter(({ event }) => event === "held").map((entry): Held => entry as unknown as Held & Entry)
  )
  for (const survivor of living) {
    assert.isTrue(survivor.isRunning(), survivor.who)
    yield* survivor.kill
  }
  yield* arena.consistent({ outsiders: true })
  const history = yield* arena.history
  return {
    result: { ...summary(history), cleaned: history.filter(({ event }) => event === "cleaned").length },
    samples
  }
})

describe("what lives through load, kills and cleaners @large", () => {
  itNeeds(needs.linux)(
    `holds no more in the end, after ${soakSeconds} s`,
    () =>
      reported(
        { area: "10", test: "soak", faults: "SIGKILL, SIGSTOP, stalls, removal of the living primary's files" },
        Effect.gen(function* () {
          const { result, samples } = yield* soak(soakSeconds)
          const first = samples[0]!
          console.log(`soak: ${JSON.stringify(result)}, ${JSON.stringify([first[0], first.at(-1)])}`)
          assert.deepStrictEqual(samples.flatMap(grown), [])
          // There was something to live through.
          assert.isAbove(Math.min(...samples.map(({ length }) => length)), 11)
          assert.isAbove(result.kills, 5)
          assert.isAbove(result.cleaned, 0)
          assert.isAbove(result.delivered, 5)
          const { cleaned, delivered, kills, leaderships, notDelivered, unknown } = result
          return `${soakSeconds} s: ${kills} kills, ${cleaned} cleanings, ${leaderships} leaderships; Delivered ${delivered}, NotDelivered ${notDelivered}, Unknown ${unknown}; ${samples.flat().length} samples, heap ${Math.round(first.at(-1)!.heap / 1_024)} KiB`
        })
      ),
    soakSeconds * 1_000 + 180_000
  )

  for (const leak of ["heap", "descriptors", "resources"] as const) {
    itNeeds(needs.linux)(`unless something is kept of each round: ${leak}`, () =>
      Effect.map(soak(15, leak), ({ samples }) => {
        for (const one of samples) assert.match(grown(one).join("\n"), new RegExp(`^${leak}`, "m"))
      })
    )
  }

  it("are told from those that lead beside one another", () => {
    const lines = (...events: ReadonlyArray<Omit<Entry, "at">>) =>
      events.map((entry, at) => ({ at, ...entry }) as Entry)
    const begin = (who: string, epoch: number) => ({ who, event: "begin", epoch })
    const cleaned = (target: string, epoch: number) => ({ who: "driver", event: "cleaned", target, epoch })
    const end = { who: "a", event: "end" }
    const outsiders = { outsiders: true }
    assert.isUndefined(contradiction(lines(begin("a", 1), cleaned("a", 1), begin("b", 2), end), outsiders))
    // It may say that it leads only after it was robbed, or even after somebody else does.
    assert.isUndefined(contradiction(lines(cleaned("a", 1), begin("a", 1), begin("b", 2), end), outsiders))
    assert.isUndefined(contradiction(lines(cleaned("a", 1), begin("b", 2), begin("a", 1), end), outsiders))
    // Either may find the kernel's name with the other, until who was robbed has ended what it did and led again.
    const clash = (who: string) => ({ who, event: "clash" })
    const took = lines(begin("a", 1), cleaned("a", 1), begin("b", 2))
    for (const more of [[clash("b")], [clash("a")], [end, clash("b")]]) {
      assert.isUndefined(contradiction([...took, ...lines(...more)], outsiders))
    }
    for (const history of [
      [...took, ...lines(end, { who: "b", event: "end" }, begin("a", 3), clash("c"))],
      lines(begin("a", 1), begin("b", 2)),
      lines(begin("a", 1), cleaned("a", 1), begin("b", 2), begin("c", 3)),
      lines(begin("a", 1), cleaned("a", 1), end, begin("a", 2), begin("b", 3))
    ]) {
      assert.match(contradiction(history, outsiders)!, /two primaries at once/)
    }
  })
})
