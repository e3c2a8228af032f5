/**
 * Every end of a process: the next start works at once, and who was promised something learns what became of it.
 */
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import {
  assertDelivered,
  assertFailed,
  begin,
  end,
  hook,
  itNeeds,
  kindsOfPrimary,
  launch,
  makeArena,
  needs,
  takeOver
} from "./contenders.js"

/** Says that a signal has arrived; whatever the contender does about it has begun by then. */
const confessing = (signal: NodeJS.Signals) =>
  hook(`process.on("${signal}", () => console.log(JSON.stringify({ event: "asked" })))`)

const codes = [
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129]
] as const

describe("a signal", () => {
  for (const [signal, code] of codes) {
    itNeeds(needs.linux)(`${signal} releases the lock and ends with ${code}`, () =>
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

  itNeeds(needs.linux)("lets accepted messages end; a launch meanwhile becomes the next primary with its own", () =>
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

  itNeeds(needs.linux)("loses no message of launches that come all the while", () =>
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

  itNeeds(needs.linux)("does not wait for ever for accepted messages", () =>
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

  itNeeds(needs.linux)("a second time waits for nobody; the sender learns that nothing is known", () =>
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
    itNeeds(needs.linux)(`${signal} to a sender interrupts its handler, and nothing else`, () =>
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

describe("a primary that died", () => {
  const quiet = ["sh", "-c", 'exec "$@" 2> /dev/null', "sh"]
  const ends = [
    ["SIGKILL", {}, "SIGKILL", { code: null, signal: "SIGKILL" }],
    ["process.exit", hook('process.on("SIGUSR2", () => process.exit(3))'), "SIGUSR2", { code: 3, signal: null }],
    [
      "an uncaught exception",
      { ...hook('process.on("SIGUSR2", () => { throw new Error("on purpose") })'), through: quiet },
      "SIGUSR2",
      { code: 1, signal: null }
    ],
    [
      "an unhandled rejection",
      { ...hook('process.on("SIGUSR2", () => { Promise.reject(new Error("on purpose")) })'), through: quiet },
      "SIGUSR2",
      { code: 1, signal: null }
    ]
  ] as const
  for (const [name, options, signal, expected] of ends) {
    itNeeds(needs.linux)(`of ${name}, without a release, is succeeded at once`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* begin(arena, options)
        yield* end(primary, signal)
        assert.deepStrictEqual(yield* primary.ended, expected)
        assert.strictEqual((yield* (yield* arena.instance).inspect).state, "dead")
        // Its witness still stands, so that other containers could tell, too.
        assert.deepInclude((yield* takeOver(arena)).begun, { took: "dead", proof: "D2" })
        assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
      })
    )
  }
})
