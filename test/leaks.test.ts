/**
 * What a primary holds after many connections and many peers that were killed: what it held before. Connections are those
 * that it accepted, as its own listener counts them; each peer is a process of its own, and is killed with some
 * connections open, half of them amid a handler, and others just being opened and closed. And what a fiber holds that goes
 * on after it has led or sent.
 */
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Layer, Schema } from "effect"
import { type Instance, SingleInstance } from "effect-single-instance"
import { Protocol } from "effect-single-instance/Protocol"
import { protocol as named } from "../src/internal/platform.js"
import { crossing, itNeeds, needs } from "./contenders.js"
import { temporary } from "./contract/Protocol.js"
import type { Leak, Measure, Options } from "./fixtures/measured-primary.js"
import { makePrimary, untilLong } from "./measured.js"
import { isStress, reported, scaled } from "./stress.js"

/** Connections in all, processes that are killed, and how many connections each of these holds at least. */
const whole = { connections: scaled(500, 10_000), killed: scaled(10, 200), held: isStress ? 5 : 10 }
const few = { connections: 150, killed: 3, held: 10 }

/** What is there now and was not before, in words. */
const grown = (before: Measure, after: Measure): ReadonlyArray<string> => {
  const connections = after.accepted - before.accepted
  const flaws: Array<string> = []
  const more = (what: "descriptors" | "mappings" | "namedMappings" | "heap", tolerated: number) => {
    if (after[what] > before[what] + tolerated) flaws.push(`${what}: ${before[what]}, then ${after[what]}`)
  }
  more("descriptors", 0)
  more("namedMappings", 0)
  // The heap's own come and go with it, some dozens at a time; one that is kept is kept of each connection.
  more("mappings", Math.max(128, connections / 2))
  // Compiled code and the like, of which there is always some more; a connection that is kept has 14 KB.
  more("heap", 1_280 * 1024 + 200 * connections)
  const files = after.files.filter((name) => !before.files.includes(name))
  if (files.length > 0) flaws.push(`files: ${files.length} more, such as ${files[0]}`)
  return flaws
}

const run = Effect.fnUntraced(function* (
  protocol: Options["protocol"],
  { connections, held, killed }: typeof whole,
  leak?: Leak
) {
  const primary = yield* makePrimary({ protocol, leak })
  const { measure } = primary
  const peer = (mode: "pass" | "stay", connections: number) =>
    Effect.gen(function* () {
      const { ended, kill, lines } = yield* primary.peer({ mode, connections })
      yield* untilLong(() => lines.includes("done"))
      yield* mode === "pass" ? ended : kill
    }).pipe(Effect.scoped)
  const settled = (before: Measure) =>
    Effect.gen(function* () {
      // A peer that was killed may be noticed only after a second.
      const ends = performance.now() + (leak === undefined ? 90_000 : 3_000)
      let after = yield* measure
      while (grown(before, after).length > 0 && performance.now() < ends) {
        yield* Effect.sleep("250 millis")
        after = yield* measure
      }
      return after
    })
  const empty = yield* measure
  // Both ways of ending a connection first, as whatever is loaded and compiled for it stays.
  yield* peer("pass", leak === undefined ? 400 : 100)
  yield* peer("stay", held)
  // What is loaded at the first connection is mapped from then on.
  const loaded = { ...empty, heap: Infinity, mappings: Infinity, namedMappings: Infinity }
  const before = yield* leak === undefined ? Effect.zipRight(settled(loaded), measure) : measure
  const wanted = Array.from({ length: killed }, (_, index) => index)
  yield* Effect.forEach(wanted, () => peer("stay", held), { concurrency: 4, discard: true })
  let rest = before.accepted + connections - (yield* measure).accepted
  for (; rest > 0; rest -= 1_000) yield* peer("pass", Math.min(rest, 1_000))
  const after = yield* settled(before)
  return { before, after, flaws: grown(before, after) }
})

describe("a primary holds no more than before @large", () => {
  for (const protocol of crossing) {
    itNeeds(needs.linux)(
      `after ${whole.connections} connections and ${whole.killed} peers that were killed, over ${protocol}`,
      () =>
        reported(
          { area: "8", test: `what is held after many connections, over ${protocol}`, faults: "SIGKILL of peers" },
          Effect.gen(function* () {
            const { after, before, flaws } = yield* run(protocol, whole)
            const told = ({ files, ...numbers }: Measure) => JSON.stringify({ ...numbers, files: files.length })
            console.log(`over ${protocol}: ${told(before)}, then ${told(after)}`)
            assert.deepStrictEqual(flaws, [])
            assert.isAtLeast(after.accepted - before.accepted, whole.connections)
            return `${whole.connections} connections, ${whole.killed} killed peers; heap ${Math.round((after.heap - before.heap) / 1024)} KiB more`
          })
        ),
      900_000
    )
  }

  for (const [leak, what] of [
    ["descriptor", /^descriptors/],
    ["mapping", /^mappings/],
    ["file", /^files/],
    ["memory", /^heap/],
    ["scope", /^(descriptors|heap|files)/]
  ] as const) {
    itNeeds(needs.linux)(`unless something keeps of each connection: ${leak}`, () =>
      Effect.map(run("unix", few, leak), ({ flaws }) => {
        assert.match(flaws.join("\n"), new RegExp(what, "m"))
      })
    )
  }
})

class Rounds extends SingleInstance.Tag<Rounds>()("test.rounds", { request: Schema.String, reply: Schema.String }) {}

class Other extends Context.Tag("Other")<Other, object>() {}

/** How much of other fibers the current one has taken over for each of its references. */
const taken = Effect.map(Effect.getFiberRefs, ({ locals }) =>
  Math.max(...Array.from(locals.values(), (stack) => stack.length))
)

/** The same after one round and after a few more. */
const growth = <E, R>(round: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function* () {
    yield* round
    const before = yield* taken
    yield* Effect.repeatN(round, 4)
    return (yield* taken) - before
  })

describe("a fiber keeps nothing of each round in which it", () => {
  const serving = (primary: Instance.Primary<string, string, never>) => primary.serve(Effect.succeed)
  const acquiring = (primary: Instance.Primary<string, string, never>) =>
    Effect.zipRight(
      Effect.provideService(
        Effect.addFinalizer(() => Effect.void),
        Other,
        {}
      ),
      serving(primary)
    )
  const leads = Rounds.enforce({ request: "a", primary: acquiring })
  const standsBy = Rounds.standby({ request: "a", primary: acquiring })
  const sends = Effect.flatMap(Rounds, (instance) => instance.send("a"))
  const connects = Effect.flatMap(Rounds, (instance) =>
    Effect.scoped(Effect.flatMap(instance.connect, (client) => client.send("a")))
  )
  for (const name of crossing) {
    const layerIn = (directory: string) =>
      Rounds.layer({ directory, protocol: Layer.succeed(Protocol, named(name)), fallback: "none" })
    for (const [does, round] of Object.entries({ leads, "stands by": standsBy })) {
      it.scopedLive(`${does} over ${name}`, () =>
        Effect.gen(function* () {
          const layer = layerIn(yield* temporary)
          assert.strictEqual(yield* Effect.provide(growth(round), layer), 0)
        }).pipe(Effect.provide(NodeContext.layer))
      )
    }
    for (const [does, round] of Object.entries({ sends, connects })) {
      it.scopedLive(`${does} over ${name}`, () =>
        Effect.gen(function* () {
          const layer = layerIn(yield* temporary)
          const ready = yield* Deferred.make<void>()
          yield* Rounds.enforce({
            request: "a",
            primary: (primary) =>
              serving(primary).pipe(Effect.zipRight(Deferred.succeed(ready, undefined)), Effect.zipRight(Effect.never))
          }).pipe(Effect.provide(layer), Effect.forkScoped)
          yield* Deferred.await(ready)
          assert.strictEqual(yield* Effect.provide(growth(round), layer), 0)
        }).pipe(Effect.provide(NodeContext.layer))
      )
    }
  }

  it.scopedLive("would if a finalizer were added in the way of Effect", () =>
    Effect.gen(function* () {
      const acquired = Effect.provideService(
        Effect.addFinalizer(() => Effect.void),
        Other,
        {}
      )
      assert.isAbove(yield* growth(Effect.scoped(Effect.timeout(acquired, "1 seconds"))), 0)
    })
  )
})
