/**
 * Processes that are stopped and go on: a primary, a starter in the midst of the election, a primary in its release. Nobody
 * takes over from them, and nobody waits for them for longer than he said.
 */
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import {
  assertDelivered,
  assertFailed,
  assertSoon,
  begin,
  begins,
  impatient,
  itNeeds,
  kindsOfPrimary,
  launch,
  makeArena,
  needs,
  until
} from "./contenders.js"

describe("a primary that is stopped", () => {
  itNeeds(needs.linux)("is told of with its pid, succeeded by nobody, and serves again", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena)
      const pid = yield* primary.pid
      const standby = yield* arena.start("standby")
      yield* standby.waitFor("follow", { pid })
      yield* primary.freeze
      const before = yield* arena.record
      const late = yield* arena.start("standby")
      const told = yield* Effect.all([launch(arena, impatient), launch(arena, impatient)], { concurrency: "unbounded" })
      for (const denied of told) {
        assertFailed(denied, { outcome: "NotDelivered", error: "TimeoutError", pid })
        assert.include(String(denied.text), String(pid))
        assert.isAtLeast(denied.millis as number, 1_400)
        assertSoon(denied)
      }
      yield* late.waitFor("follow", { pid })
      assert.deepStrictEqual(yield* arena.record, before)
      assert.strictEqual((yield* (yield* arena.instance).inspect).state, "primary")
      yield* primary.thaw
      assertDelivered(yield* launch(arena), primary)
      assert.deepStrictEqual(yield* begins(arena), [primary.who])
      // What it was not to have, it does not get later: the check knows of the messages that were denied.
      yield* arena.consistent()

      // Both could have: now that it is dead, one of them does, also while it stands still.
      yield* primary.freeze
      yield* primary.kill
      const begun = yield* until("a standby that takes over", () =>
        [standby, late].flatMap(({ entries }) => entries).find(({ event }) => event === "begin")
      )
      assert.strictEqual(begun.took, "dead")
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("becomes ready for a sender that waits when it goes on in time", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena)
      yield* primary.freeze
      const sender = yield* arena.start("launch", { message: "patient", config: { helloTimeout: "200 millis" } })
      yield* sender.waitFor("ready")
      yield* Effect.sleep("1 second")
      assert.isUndefined(sender.entries.find(({ event }) => event === "outcome"))
      yield* primary.thaw
      assertDelivered(yield* sender.waitFor("outcome"), primary)
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("while it works on a message, leaves its sender with Unknown", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena)
      const sender = yield* arena.start("launch", { ...impatient, message: "long", work: 600_000 })
      yield* primary.waitFor("handled", { message: "long" })
      // Its handler says so before the sender is told of the acceptance.
      yield* Effect.sleep("200 millis")
      yield* primary.freeze
      const outcome = yield* sender.waitFor("outcome")
      assertFailed(outcome, { outcome: "Unknown", error: "TimeoutError", reason: "reply", pid: yield* primary.pid })
      yield* primary.thaw
      yield* primary.waitFor("interrupted", { message: "long" })
      yield* arena.consistent()
    })
  )
})

describe("a starter that is stopped", () => {
  const overRemains = Effect.gen(function* () {
    const arena = yield* makeArena
    const first = yield* begin(arena)
    yield* first.kill
    return arena
  })
  const late = [
    ["link", "lock", makeArena],
    ["link", "slot", overRemains],
    ["openWitness", "", overRemains]
  ] as const
  for (const [operation, name, place] of late) {
    itNeeds(needs.linux)(`before ${operation} ${name} finds another primary when it goes on, and sends to it`, () =>
      Effect.gen(function* () {
        const arena = yield* place
        const slow = yield* arena.start("launch", { freeze: { operation, name } })
        yield* slow.frozen
        const primary = yield* begin(arena)
        yield* slow.thaw
        assertDelivered(yield* slow.waitFor("outcome"), primary)
        assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
        yield* arena.consistent()
      })
    )
  }

  itNeeds(needs.linux)("before it takes a slot does not succeed the owner that was succeeded meanwhile", () =>
    Effect.gen(function* () {
      const arena = yield* overRemains
      const slow = yield* arena.start("launch", { freeze: { operation: "link", name: "slot" } })
      yield* slow.frozen
      const other = yield* begin(arena)
      yield* other.signal("SIGTERM")
      yield* other.ended
      yield* slow.thaw
      assert.strictEqual((yield* slow.waitFor("begin")).took, "released")
      yield* arena.consistent()
    })
  )

  const committing = { operation: "rename", name: "lock" } as const
  itNeeds(needs.linux)("with the slot in hand is waited for, not passed by", () =>
    Effect.gen(function* () {
      const arena = yield* overRemains
      const slow = yield* arena.start("launch", { freeze: committing })
      yield* slow.frozen
      const denied = yield* launch(arena, impatient)
      assertFailed(denied, { outcome: "NotDelivered", error: "TimeoutError", reason: "acquire" })
      assertSoon(denied)
      yield* slow.thaw
      assert.strictEqual((yield* slow.waitFor("begin")).took, "dead")
      assertDelivered(yield* launch(arena), slow)
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("with the slot in hand, and killed, is succeeded at once", () =>
    Effect.gen(function* () {
      const arena = yield* overRemains
      const slow = yield* arena.start("launch", { freeze: committing })
      yield* slow.frozen
      yield* slow.kill
      const next = yield* begin(arena)
      assert.strictEqual((yield* next.waitFor("begin")).took, "dead")
      assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("right after its commit is the primary", () =>
    Effect.gen(function* () {
      const arena = yield* overRemains
      const slow = yield* arena.start("launch", { freeze: { ...committing, after: true } })
      yield* slow.frozen
      assertFailed(yield* launch(arena, impatient), {
        outcome: "NotDelivered",
        error: "TimeoutError",
        pid: yield* slow.pid
      })
      yield* slow.thaw
      yield* slow.waitFor("begin")
      assertDelivered(yield* launch(arena), slow)
      yield* arena.consistent()
    })
  )
})

describe("a release that is stopped", () => {
  const tombstone = { operation: "rename", name: "lock" } as const
  itNeeds(needs.linux)("before its tombstone still holds the lock", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena, { freeze: tombstone })
      yield* primary.signal("SIGTERM")
      yield* primary.frozen
      const denied = yield* launch(arena, impatient)
      assertFailed(denied, { outcome: "NotDelivered", pid: yield* primary.pid })
      assertSoon(denied)
      assert.deepStrictEqual(yield* begins(arena), [primary.who])
      yield* primary.thaw
      assert.strictEqual((yield* primary.ended).code, 143)
      const next = yield* begin(arena)
      assert.strictEqual((yield* next.waitFor("begin")).took, "released")
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("behind its tombstone holds nothing, and harms no successor when it goes on", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena, { freeze: { ...tombstone, after: true } })
      yield* primary.signal("SIGTERM")
      yield* primary.frozen
      const next = yield* begin(arena)
      assert.strictEqual((yield* next.waitFor("begin")).took, "released")
      yield* primary.thaw
      assert.strictEqual((yield* primary.ended).code, 143)
      assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
      assertDelivered(yield* launch(arena), next)
      yield* arena.consistent()
    })
  )
})
