/**
 * Processes that are stopped and go on: a primary, a starter in the midst of the election, a primary in its release. Nobody
 * takes over from them, and nobody waits for them for longer than he said.
 */
import * as net from "node:net"
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import {
  type Arena,
  assertDelivered,
  assertFailed,
  assertSoon,
  begin,
  begins,
  type Contender,
  crossing,
  failing,
  impatient,
  itNeeds,
  kindsOfPrimary,
  launch,
  makeArena,
  needs,
  type StartOptions,
  until,
  whereOf,
  witnessOf
} from "./contenders.js"
import { reported, scaled } from "./stress.js"

/** How long a process is stopped, at least. */
const seconds = scaled(1, 30)
const timeout = 300_000

/** As long as a process is stopped, one launch after the other is told so, in time; answers how many, and how fast. */
const denials = (arena: Arena, expected: { readonly [field: string]: unknown }, options?: StartOptions) =>
  Effect.gen(function* () {
    const times: Array<number> = []
    for (const ends = performance.now() + seconds * 1_000; performance.now() < ends; ) {
      const denied = yield* launch(arena, { ...impatient, ...options })
      assertFailed(denied, { outcome: "NotDelivered", ...expected })
      assertSoon(denied)
      times.push(denied.millis as number)
    }
    return `stopped for ${seconds} s, ${times.length} senders with a limit of 1500 ms told after ${Math.round(Math.max(...times))} at most`
  })

/** As long as a process is stopped, others are served by the primary. */
const deliveries = (arena: Arena, primary: Contender) =>
  Effect.gen(function* () {
    let count = 0
    for (const ends = performance.now() + seconds * 1_000; performance.now() < ends; count++) {
      assertDelivered(yield* launch(arena), primary)
    }
    return `stopped for ${seconds} s, ${count} senders served meanwhile`
  })

/** Connects as long as the kernel lets it; the connections stay with the scope. Answers how many there are. */
const fillBacklog = (where: net.NetConnectOpts) =>
  Effect.gen(function* () {
    const connect = Effect.acquireRelease(
      Effect.sync(() => net.connect(where).on("error", () => {})),
      (socket) => Effect.sync(() => socket.destroy())
    ).pipe(
      Effect.flatMap((socket) =>
        Effect.async<boolean>((resume) => {
          socket.once("connect", () => resume(Effect.succeed(true)))
          // EAGAIN; over TCP there is no answer at all.
          socket.once("close", () => resume(Effect.succeed(false)))
        })
      ),
      Effect.timeoutTo({ duration: "3 seconds", onSuccess: (connected) => connected, onTimeout: () => false })
    )
    let there = 0
    for (let isFull = false; !isFull && there < 10_000; ) {
      const connected = yield* Effect.all(
        Array.from({ length: 100 }, () => connect),
        { concurrency: "unbounded" }
      )
      there += connected.filter(Boolean).length
      isFull = connected.includes(false)
    }
    assert.isFalse(yield* connect, `the backlog is not full after ${there} connections`)
    return there
  })

describe("a primary that is stopped", () => {
  itNeeds(needs.linux)(
    "is told of with its pid, succeeded by nobody, and serves again",
    () =>
      reported(
        { area: "3", test: "a primary that is stopped", faults: "SIGSTOP, empty backlog" },
        Effect.gen(function* () {
          const arena = yield* makeArena
          const primary = yield* begin(arena)
          const pid = yield* primary.pid
          const standby = yield* arena.start("standby")
          yield* standby.waitFor("follow", { pid })
          yield* primary.freeze
          const before = yield* arena.record
          const late = yield* arena.start("standby")
          const told = yield* Effect.all([launch(arena, impatient), launch(arena, impatient)], {
            concurrency: "unbounded"
          })
          for (const denied of told) {
            assertFailed(denied, { outcome: "NotDelivered", error: "TimeoutError", pid })
            assert.include(String(denied.text), String(pid))
            assert.isAtLeast(denied.millis as number, 1_400)
            assertSoon(denied)
          }
          yield* late.waitFor("follow", { pid })
          const size = yield* denials(arena, { error: "TimeoutError", pid })
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
          return size
        })
      ),
    timeout
  )

  for (const protocol of crossing.filter((name) => name !== "file" && name !== "pipe")) {
    itNeeds(needs.linux)(
      `is succeeded by nobody whose connections over ${protocol} the kernel takes no more @large`,
      () =>
        reported(
          { area: "3", test: `a primary that is stopped, over ${protocol}`, faults: "SIGSTOP, full backlogs" },
          Effect.gen(function* () {
            const arena = yield* makeArena
            const primary = yield* begin(arena, { protocol })
            const pid = yield* primary.pid
            const standby = yield* arena.start("standby", { protocol })
            yield* standby.waitFor("follow", { pid })
            const where = yield* whereOf(arena, protocol)
            const witness = yield* witnessOf(arena)
            yield* primary.freeze
            const size = yield* Effect.scoped(
              Effect.gen(function* () {
                const there = yield* fillBacklog(where)
                const atWitness = yield* fillBacklog(witness)
                const size = yield* denials(arena, { pid }, { protocol })
                assert.deepStrictEqual(yield* begins(arena), [primary.who])
                yield* primary.thaw
                // Amid all those that say nothing.
                assertDelivered(yield* launch(arena, { protocol }), primary)
                return `${there} connections, ${atWitness} at its witness; ${size}`
              })
            )
            assertDelivered(yield* launch(arena, { protocol }), primary)
            assert.deepStrictEqual(yield* begins(arena), [primary.who])
            yield* arena.consistent()
            return size
          })
        ),
      timeout
    )
  }

  itNeeds(needs.linux)("becomes ready for a sender that waits when it goes on in time @large", () =>
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

  itNeeds(needs.linux)("while it works on a message, leaves its sender with Unknown @large", () =>
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
    itNeeds(needs.linux)(
      `before ${operation} ${name} finds another primary when it goes on, and sends to it @large`,
      () =>
        reported(
          {
            area: "3",
            test: `a starter that is stopped before ${`${operation} ${name}`.trim()}`,
            faults: "SIGSTOP during election"
          },
          Effect.gen(function* () {
            const arena = yield* place
            // Its own time limit goes on while it is stopped.
            const config = { timeout: "2 minutes" } as const
            const slow = yield* arena.start("launch", { freeze: { operation, name }, config })
            yield* slow.frozen
            const primary = yield* begin(arena)
            const served = yield* deliveries(arena, primary)
            yield* slow.thaw
            assertDelivered(yield* slow.waitFor("outcome"), primary)
            assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
            yield* arena.consistent()
            return served
          })
        ),
      timeout
    )
  }

  itNeeds(needs.linux)("before it takes a slot does not succeed the owner that was succeeded meanwhile @large", () =>
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
  itNeeds(needs.linux)(
    "with the slot in hand is waited for, not passed by @large",
    () =>
      reported(
        { area: "3", test: "a starter that is stopped with the slot in hand", faults: "SIGSTOP during election" },
        Effect.gen(function* () {
          const arena = yield* overRemains
          const slow = yield* arena.start("launch", { freeze: committing })
          yield* slow.frozen
          const size = yield* denials(arena, { error: "TimeoutError", reason: "acquire" })
          yield* slow.thaw
          assert.strictEqual((yield* slow.waitFor("begin")).took, "dead")
          assertDelivered(yield* launch(arena), slow)
          yield* arena.consistent()
          return size
        })
      ),
    timeout
  )

  itNeeds(needs.linux)("with the slot in hand, and killed, is succeeded at once @large", () =>
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

  itNeeds(needs.linux)(
    "right after its commit is the primary @large",
    () =>
      reported(
        { area: "3", test: "a starter that is stopped after its commit", faults: "SIGSTOP during election" },
        Effect.gen(function* () {
          const arena = yield* overRemains
          const slow = yield* arena.start("launch", { freeze: { ...committing, after: true } })
          yield* slow.frozen
          const size = yield* denials(arena, { error: "TimeoutError", pid: yield* slow.pid })
          yield* slow.thaw
          yield* slow.waitFor("begin")
          assertDelivered(yield* launch(arena), slow)
          yield* arena.consistent()
          return size
        })
      ),
    timeout
  )
})

describe("a release that is stopped @large", () => {
  const tombstone = { operation: "rename", name: "lock" } as const
  itNeeds(needs.linux)(
    "before its tombstone still holds the lock",
    () =>
      reported(
        { area: "3", test: "a release that is stopped before its tombstone", faults: "SIGSTOP during release" },
        Effect.gen(function* () {
          const arena = yield* makeArena
          const primary = yield* begin(arena, { freeze: tombstone })
          yield* primary.signal("SIGTERM")
          yield* primary.frozen
          const size = yield* denials(arena, { pid: yield* primary.pid })
          assert.deepStrictEqual(yield* begins(arena), [primary.who])
          yield* primary.thaw
          assert.strictEqual((yield* primary.ended).code, 143)
          const next = yield* begin(arena)
          assert.strictEqual((yield* next.waitFor("begin")).took, "released")
          yield* arena.consistent()
          return size
        })
      ),
    timeout
  )

  itNeeds(needs.linux)(
    "behind its tombstone holds nothing, and harms no successor when it goes on",
    () =>
      reported(
        { area: "3", test: "a release that is stopped behind its tombstone", faults: "SIGSTOP during release" },
        Effect.gen(function* () {
          const arena = yield* makeArena
          const primary = yield* begin(arena, { freeze: { ...tombstone, after: true } })
          yield* primary.signal("SIGTERM")
          yield* primary.frozen
          const next = yield* begin(arena)
          assert.strictEqual((yield* next.waitFor("begin")).took, "released")
          const size = yield* deliveries(arena, next)
          yield* primary.thaw
          assert.strictEqual((yield* primary.ended).code, 143)
          assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
          assertDelivered(yield* launch(arena), next)
          yield* arena.consistent()
          return size
        })
      ),
    timeout
  )
})

describe("the canary", () => {
  itNeeds(needs.linux)("a lock that is over when it is not renewed has two primaries @large", () =>
    Effect.gen(function* () {
      const why = yield* failing(
        Effect.gen(function* () {
          const arena = yield* makeArena
          const primary = yield* begin(arena, { lock: "age" })
          yield* primary.freeze
          yield* begin(arena, { lock: "age" })
          yield* arena.consistent()
        })
      )
      assert.include(why, "two primaries at once")
    })
  )
})
