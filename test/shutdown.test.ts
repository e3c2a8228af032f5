/**
 * Every end of a process: the next start works at once, and who was promised something learns what became of it.
 */
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import {
  assertDelivered,
  assertFailed,
  begin,
  type Contender,
  end,
  hook,
  impatient,
  itNeeds,
  kindsOfPrimary,
  launch,
  makeArena,
  needs,
  takeOver
} from "./contenders.js"
import type { End, Where } from "./fixtures/contender.js"
import { largeIf } from "./size.js"
import { randomOf, reported, scaled } from "./stress.js"

/** Says that a signal has arrived; whatever the contender does about it has begun by then. */
const confessing = (signal: NodeJS.Signals) =>
  hook(`process.on("${signal}", () => console.log(JSON.stringify({ event: "asked" })))`)

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const
const codes = [
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129]
] as const

describe("a signal", () => {
  for (const [signal, code] of codes) {
    itNeeds(needs.linux)(`${signal} releases the lock and ends with ${code}${largeIf(signal !== "SIGTERM")}`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* begin(arena)
        const { epoch, nonce } = yield* arena.record
        assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
        yield* primary.signal(signal)
        assert.deepStrictEqual(yield* primary.ended, { code, signal: null })
        const tombstone = yield* arena.record
        assert.deepInclude(tombstone, { epoch, key: "", released: true })
        assert.notStrictEqual(tombstone.nonce, nonce)
        assert.deepStrictEqual(yield* arena.kinds, ["lock"])
        assert.strictEqual((yield* (yield* arena.instance).inspect).state, "released")
        assert.deepInclude((yield* takeOver(arena)).begun, { took: "released", proof: "D0" })
        yield* arena.consistent()
      })
    )
  }

  itNeeds(needs.linux)(
    "lets accepted messages end; a launch meanwhile becomes the next primary with its own @large",
    () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* begin(arena, confessing("SIGTERM"))
        const newcomer = yield* arena.start("rounds")
        yield* newcomer.waitFor("ready")
        const slow = yield* arena.start("launch", { message: "slow", work: 1_500 })
        yield* primary.waitFor("handled", { message: "slow" })
        yield* primary.signal("SIGTERM")
        yield* primary.waitFor("asked")
        yield* newcomer.say(JSON.stringify({ message: "late" }))
        assertDelivered(yield* slow.waitFor("outcome"), primary)
        assert.deepStrictEqual(yield* primary.ended, { code: 143, signal: null })
        assert.strictEqual((yield* newcomer.waitFor("begin")).took, "released")
        yield* newcomer.waitFor("handled", { message: "late" })
        assertDelivered(yield* launch(arena), newcomer)
        yield* arena.consistent()
      })
  )

  itNeeds(needs.linux)("loses no message of launches that come all the while @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const sender = yield* arena.start("send")
      yield* sender.waitFor("begin")
      // The sender is the primary; a second one sends without end, and takes over when the first one goes.
      const other = yield* arena.start("send")
      yield* other.waitFor("outcome", { outcome: "Delivered" })
      yield* sender.signal("SIGTERM")
      assert.deepStrictEqual(yield* sender.ended, { code: 143, signal: null })
      yield* other.waitFor("begin", { took: "released" })
      assert.deepStrictEqual(
        other.entries.filter(({ event, outcome }) => event === "outcome" && outcome !== "Delivered"),
        []
      )
      // The last one is its own.
      const messages = other.entries.flatMap(({ event, message }) =>
        event === "outcome" || event === "handled" ? [Number(String(message).split(".").at(-1))] : []
      )
      assert.deepStrictEqual(
        messages,
        messages.map((_, index) => index)
      )
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("does not wait for ever for accepted messages @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena, { config: { drain: "300 millis" } })
      const sender = yield* arena.start("launch", { message: "endless", work: 600_000 })
      yield* primary.waitFor("handled", { message: "endless" })
      yield* primary.signal("SIGTERM")
      assertFailed(yield* sender.waitFor("outcome"), { outcome: "Delivered", reason: "HandlerInterrupted" })
      yield* primary.waitFor("interrupted", { message: "endless" })
      assert.strictEqual((yield* primary.ended).code, 143)
      assert.isTrue((yield* arena.record).released)
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("a second time waits for nobody; the sender learns that nothing is known @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena, confessing("SIGINT"))
      const slow = yield* arena.start("launch", { message: "slow", work: 60_000 })
      yield* primary.waitFor("handled", { message: "slow" })
      const started = performance.now()
      yield* primary.signal("SIGINT")
      yield* primary.waitFor("asked")
      assert.isTrue(primary.isRunning())
      yield* primary.signal("SIGINT")
      assert.deepStrictEqual(yield* primary.ended, { code: 130, signal: null })
      // It would have drained for 10 seconds.
      assert.isBelow(performance.now() - started, 8_000)
      assertFailed(yield* slow.waitFor("outcome"), { outcome: "Unknown", pid: yield* primary.pid })
      assert.strictEqual((yield* takeOver(arena)).begun.took, "dead")
    })
  )

  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    itNeeds(needs.linux)(`${signal} to a sender interrupts its handler, and nothing else @large`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* begin(arena)
        const sender = yield* arena.start("launch", { message: "endless", work: 600_000 })
        const other = yield* arena.start("launch", { message: "slow", work: 1_500 })
        yield* primary.waitFor("handled", { message: "endless" })
        yield* primary.waitFor("handled", { message: "slow" })
        yield* sender.signal(signal)
        yield* primary.waitFor("interrupted", { message: "endless" })
        if (signal === "SIGINT") assert.strictEqual((yield* sender.ended).code, 130)
        assertDelivered(yield* other.waitFor("outcome"), primary)
        assert.isUndefined(primary.entries.find((entry) => entry.event === "interrupted" && entry.message === "slow"))
        yield* arena.consistent()
      })
    )
  }
})

// What an end on purpose says of itself is not to be read.
const quiet = ["sh", "-c", 'exec "$@" 2> /dev/null', "sh"]
const ends: ReadonlyArray<End> = [...signals, "process.exit", "an uncaught exception", "an unhandled rejection"]
const isSignal = (how: End) => (signals as ReadonlyArray<string>).includes(how)

describe("a primary that died", () => {
  const codes = new Map<End | "SIGKILL", number | null>([
    ["SIGKILL", null],
    ["process.exit", 3],
    ["an uncaught exception", 1],
    ["an unhandled rejection", 1]
  ])
  for (const [how, code] of codes) {
    itNeeds(needs.linux)(`of ${how}, without a release, is succeeded at once${largeIf(how !== "SIGKILL")}`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const killed = how === "SIGKILL"
        const primary = yield* begin(arena, killed ? {} : { ends: { how, abrupt: true }, through: quiet })
        yield* end(primary, killed ? how : "SIGUSR2")
        assert.deepStrictEqual(yield* primary.ended, { code, signal: killed ? how : null })
        assert.strictEqual((yield* (yield* arena.instance).inspect).state, "dead")
        // Its witness still stands, so that other containers could tell, too.
        assert.deepInclude((yield* takeOver(arena)).begun, { took: "dead", proof: "D2" })
        assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
        yield* arena.consistent()
      })
    )
  }
})

// -------------------------------------------------------------------------------------
// every end in every phase
// -------------------------------------------------------------------------------------

/**
 * Where an end comes, and what the next one may take: after a signal that is heeded, and after any other end. The end is
 * brought about at an operation of the lock, or when it has come so far.
 */
interface Phase {
  readonly name: string
  readonly where?: Where
  /** There are remains of a dead primary. */
  readonly remains?: boolean
  /** A message is accepted. */
  readonly sends?: boolean
  /** SIGTERM came before. */
  readonly asked?: boolean
  readonly took: { readonly signal: ReadonlyArray<string>; readonly other: ReadonlyArray<string> }
}

const unchanged = { signal: ["dead"], other: ["dead"] }
const released = { signal: ["released"], other: ["released"] }
const phases: ReadonlyArray<Phase> = [
  { name: "before the election", where: { operation: "read", name: "lock" }, remains: true, took: unchanged },
  { name: "before its witness", where: { operation: "openWitness", name: "" }, remains: true, took: unchanged },
  {
    name: "before its slot",
    where: { operation: "link", name: "slot" },
    remains: true,
    // From here to the commit a signal is not heeded: it leads, and releases.
    took: { signal: ["released"], other: ["dead"] }
  },
  {
    name: "behind its slot",
    where: { operation: "link", name: "slot", after: true },
    remains: true,
    took: { signal: ["released"], other: ["dead"] }
  },
  {
    name: "behind its commit",
    where: { operation: "rename", name: "lock", after: true },
    remains: true,
    took: { signal: ["released"], other: ["dead"] }
  },
  { name: "while it leads", took: { signal: ["released"], other: ["dead"] } },
  { name: "with a message accepted", sends: true, took: { signal: ["released"], other: ["dead"] } },
  { name: "while it drains", sends: true, asked: true, took: unchanged },
  {
    name: "before its tombstone",
    where: { operation: "rename", name: "lock" },
    asked: true,
    // Only process.exit comes in between for certain.
    took: { signal: ["released", "dead"], other: ["released", "dead"] }
  },
  {
    name: "with its tombstone in its slot",
    where: { operation: "link", name: "slot", after: true },
    asked: true,
    took: { signal: ["released", "dead"], other: ["released", "dead"] }
  },
  {
    name: "behind its tombstone",
    where: { operation: "rename", name: "lock", after: true },
    asked: true,
    took: released
  },
  { name: "before its last unlink", where: { operation: "unlink", name: "w." }, asked: true, took: released }
]

/** One end in one phase; the next start, and what the sender of an accepted message is told. */
const endIn = (phase: Phase, how: End) =>
  Effect.gen(function* () {
    const arena = yield* makeArena
    if (phase.remains) yield* (yield* begin(arena)).kill
    const heeded = isSignal(how) && phase.asked !== true
    const primary = yield* arena.start("launch", {
      ...confessing("SIGTERM"),
      through: quiet,
      ends: { how, abrupt: !heeded, where: phase.where }
    })
    let sender: Contender | undefined
    if (!phase.remains) {
      yield* primary.waitFor("begin")
      if (phase.sends) {
        sender = yield* arena.start("launch", { message: "accepted", work: 2_500 })
        yield* primary.waitFor("handled", { message: "accepted" })
        // Its handler says so before the sender is told of the acceptance.
        yield* Effect.sleep("200 millis")
      }
      if (phase.asked) {
        yield* primary.signal("SIGTERM")
        if (phase.where === undefined) yield* primary.waitFor("asked")
      }
      if (phase.where === undefined) yield* primary.signal("SIGUSR2")
    }
    yield* primary.ended
    yield* primary.waitFor("ends", { how })
    const { begun, next } = yield* takeOver(arena)
    assert.include(phase.took[isSignal(how) ? "signal" : "other"], begun.took)
    if (sender !== undefined) {
      const told = yield* sender.waitFor("outcome")
      if (heeded) assertDelivered(told, primary)
      else assertFailed(told, { outcome: "Unknown", pid: (yield* primary.waitFor("ready")).pid })
    }
    assertDelivered(yield* launch(arena), next)
    yield* arena.consistent()
  }).pipe(
    Effect.scoped,
    Effect.catchAllDefect((cause) => Effect.dieMessage(`${how} ${phase.name}: ${cause}`))
  )

describe("whatever ends a process, in whatever phase @large", () => {
  itNeeds(needs.linux)(
    "the next start works at once, and who was promised something hears the truth",
    () =>
      reported(
        { area: "9", test: "every end in every phase", faults: ends.join(", ") },
        Effect.gen(function* () {
          // Each end and each phase in turn; all pairs in the longer run.
          const turns = Math.min(ends.length, scaled(1, ends.length))
          const first = Math.floor(randomOf("shutdown")() * ends.length)
          const cases = Array.from({ length: turns }, (_, turn) =>
            phases.map((phase, index) => ({ phase, how: ends[(index + turn + first) % ends.length]! }))
          ).flat()
          yield* Effect.forEach(cases, ({ how, phase }) => endIn(phase, how), { concurrency: 3, discard: true })
          return `${cases.length} processes of ${ends.length} ends × ${phases.length} phases`
        })
      ),
    600_000
  )
})

describe("the canary", () => {
  itNeeds(needs.linux)("a lock that is over when it is not renewed holds up the next start @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena, { lock: "age", ends: { how: "process.exit", abrupt: true } })
      yield* end(primary, "SIGUSR2")
      assertFailed(yield* launch(arena, { lock: "age", ...impatient }), { outcome: "NotDelivered" })
    })
  )
})
