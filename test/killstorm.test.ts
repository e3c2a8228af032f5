/**
 * Processes that elect, serve, send, wait and release without end, at any moment stalled, stopped or killed; and locks
 * that do not survive that.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { type Arena, type Contender, itNeeds, kindsOfPrimary, makeArena, needs } from "./contenders.js"
import type { Naive } from "./naive.js"
import { makeRandom } from "./random.js"
import { isStress, reported, scaled, seed } from "./stress.js"
import { contradiction, type Entry } from "./witness.js"

const seconds = scaled(20, 240)
const workers = isStress ? 12 : 7

/** Lets the storm rage for so long, or until `enough`; afterwards all of its processes are dead. */
const rage = Effect.fnUntraced(function* (
  arena: Arena,
  options: { readonly seconds: number; readonly lock?: Naive; readonly enough?: () => boolean }
) {
  const random = makeRandom(seed)
  const between = (from: number, to: number) => from + random() * (to - from)
  const begin = Effect.suspend(() =>
    arena.start("storm", {
      seed: Math.floor(random() * 2 ** 31),
      hold: 100,
      fate: { stall: 0.1, millis: 30, kill: 0.003 },
      config: { timeout: "5 seconds", helloTimeout: "2 seconds", drain: "500 millis" },
      lock: options.lock
    })
  )
  const present: Array<Contender> = []
  const ends = performance.now() + options.seconds * 1_000
  while (performance.now() < ends && !options.enough?.()) {
    for (let index = 0; index < workers; index++) {
      const worker = present[index]
      if (worker?.isRunning()) continue
      assert.isTrue(worker === undefined || (yield* worker.ended).signal === "SIGKILL", lastWords(worker))
      present[index] = yield* begin
    }
    yield* Effect.sleep(between(50, 350))
    const leader = random() < 0.6 ? present.find(isLeading) : undefined
    const victim = leader ?? present[Math.floor(random() * workers)]!
    if (random() < (leader === undefined ? 0.3 : 0.7)) {
      yield* victim.kill
    } else {
      yield* victim.signal("SIGSTOP")
      yield* Effect.forkScoped(Effect.delay(victim.signal("SIGCONT"), between(1, 250)))
    }
  }
  for (const worker of present) yield* worker.kill
})

const isLeading = ({ entries }: Contender) =>
  entries.findLast((entry) => entry.event === "begin" || entry.event === "end")?.event === "begin"
const lastWords = (worker: Contender | undefined) =>
  `${worker?.who} ended by itself: ${JSON.stringify(worker?.entries.slice(-3))}`

const summary = (history: ReadonlyArray<Entry>) => {
  const count = (event: string, outcome?: string) =>
    history.filter((entry) => entry.event === event && (outcome === undefined || entry.outcome === outcome)).length
  return {
    // From where one contends, or sends, until it has ended in whatever way.
    lives: count("life"),
    kills: count("kill"),
    leaderships: count("begin"),
    handled: count("handled"),
    delivered: count("outcome", "Delivered"),
    notDelivered: count("outcome", "NotDelivered"),
    unknown: count("outcome", "Unknown"),
    clashes: count("clash")
  }
}

describe("a storm of SIGKILL and SIGSTOP", () => {
  itNeeds(needs.posix)(
    `shows one primary at a time, and the truth about each message, for ${seconds} s`,
    () =>
      reported(
        { area: "2", test: "kill storm", faults: "SIGKILL, SIGSTOP, stalls of the lock's operations" },
        Effect.gen(function* () {
          const arena = yield* makeArena
          yield* Effect.scoped(rage(arena, { seconds }))
          const history = yield* arena.history
          const result = summary(history)
          console.log(`storm with STRESS_SEED=${seed}: ${JSON.stringify(result)}`)
          yield* arena.consistent()
          assert.deepStrictEqual(
            history.filter((entry) => entry.event === "crashed"),
            []
          )
          // It did rage.
          assert.isAbove(result.lives, 100)
          assert.isAbove(result.kills, 10)
          assert.isAbove(result.leaderships, 10)
          assert.isAbove(result.delivered, 3)

          // The next start is not held up by what lies there, and clears it away as soon as it may.
          const next = yield* arena.start("launch", { ahead: 120_000 })
          const ready = yield* next.waitFor("ready")
          const begun = yield* next.waitFor("begin")
          console.log(`the next start leads after ${Math.round((begun.at - ready.at) / 1e6)} ms`)
          assert.isBelow(begun.at - ready.at, 5e9)
          assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
          const other = yield* arena.start("launch", { ahead: 120_000 })
          yield* other.waitFor("outcome", { outcome: "Delivered", by: next.who })
          yield* arena.consistent()
          const { delivered, kills, leaderships, lives, notDelivered, unknown } = result
          return `${workers} workers, ${lives} lives: ${kills} kills, ${leaderships} leaderships; Delivered ${delivered}, NotDelivered ${notDelivered}, Unknown ${unknown}`
        })
      ),
    seconds * 1_000 + 120_000
  )

  it.scopedLive(
    "may strike before any operation of the lock: the next start leads",
    () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        let deaths = 0
        for (let survived = false; !survived; ) {
          // Over what the one before left: an owner that was killed, or that released.
          const victim = yield* arena.start("launch", { hold: 0, dies: deaths + 1 })
          survived = (yield* victim.ended).code === 0
          if (survived) break
          deaths++
          const next = yield* arena.start("launch", { hold: 0 })
          const ready = yield* next.waitFor("ready")
          const begun = yield* next.waitFor("begin")
          assert.isBelow(begun.at - ready.at, 5e9)
          if (deaths % 2 === 0) yield* next.ended
          else yield* next.kill
        }
        console.log(`killed before each of ${deaths} operations`)
        // At least the steps 2 to 9 and the release.
        assert.isAbove(deaths, 12)
        const last = yield* arena.start("launch", { ahead: 120_000 })
        yield* last.waitFor("begin")
        assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
        yield* arena.consistent()
      }),
    300_000
  )

  for (const lock of ["socket", "pid"] as const) {
    itNeeds(needs.posix)(
      `catches a lock as it is commonly written: ${lock}`,
      () =>
        Effect.gen(function* () {
          const arena = yield* makeArena
          let found: string | undefined
          const watching = Effect.gen(function* () {
            while (found === undefined) {
              yield* Effect.sleep("500 millis")
              found = contradiction(yield* arena.history)
            }
          })
          yield* Effect.scoped(
            Effect.zipRight(
              Effect.forkScoped(watching),
              rage(arena, { seconds: Math.max(90, seconds), lock, enough: () => found !== undefined })
            )
          )
          found = contradiction(yield* arena.history)
          console.log(`caught with STRESS_SEED=${seed}: ${found}`)
          assert.match(String(found), /two primaries at once/)
        }),
      300_000
    )
  }
})
