import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, type Layer, Ref, Schema, type Scope, TestClock } from "effect"
import { type Instance, SingleInstance, TestSingleInstance } from "effect-single-instance"
import { LockError, ProtocolError, TimeoutError } from "effect-single-instance/SingleInstanceError"
import { elapse, failureOf, isDone, pass, settle } from "./simulation.js"

class Greeter extends SingleInstance.Tag<Greeter>()("test.greeter", { request: Schema.String, reply: Schema.String }) {}

class Counter extends SingleInstance.Tag<Counter>()("test.counter", { request: Schema.Int, reply: Schema.Int }) {}

type GreeterPrimary = Instance.Primary<string, string, never>

/** Leads until the end, or answers what the primary said. */
const greet = (
  name: string,
  handler: (name: string) => Effect.Effect<string> = (name) => Effect.succeed(`hello ${name}`)
) =>
  Greeter.enforce({
    request: name,
    primary: (primary) => Effect.zipRight(primary.serve(handler), Effect.never),
    secondary: ({ reply }) => Effect.succeed(reply)
  })

/** A launch that leads, and what it leads as. */
const leader = (handler?: (name: string) => Effect.Effect<string>) =>
  Effect.gen(function* () {
    const ready = yield* Deferred.make<GreeterPrimary>()
    const launch = yield* TestSingleInstance.launch(
      Greeter,
      Greeter.enforce({
        request: "leader",
        primary: (primary) =>
          Effect.gen(function* () {
            yield* primary.serve(handler ?? ((name) => Effect.succeed(`hello ${name}`)))
            yield* Deferred.succeed(ready, primary)
            return yield* Effect.never
          })
      })
    )
    return { launch, primary: yield* Deferred.await(ready) }
  })

describe("TestSingleInstance", () => {
  it.effect("runs the example of its documentation", () =>
    Effect.gen(function* () {
      const first = yield* TestSingleInstance.launch(Greeter, greet("first"))
      const second = yield* greet("second")
      yield* first.crash
      assert.strictEqual(second, "hello second")
    }).pipe(Effect.scoped, Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it("needs nothing", () => {
    const layer = TestSingleInstance.layer(Greeter)
    expectTypeOf(layer).toEqualTypeOf<Layer.Layer<Greeter | TestSingleInstance.TestMachine>>()
    const test = Effect.gen(function* () {
      const launch = yield* TestSingleInstance.launch(Greeter, greet("first"))
      expectTypeOf(launch).toEqualTypeOf<
        TestSingleInstance.TestLaunch<string, LockError | TimeoutError | ProtocolError>
      >()
      return yield* launch.join
    })
    expectTypeOf(test).toEqualTypeOf<
      Effect.Effect<string, LockError | TimeoutError | ProtocolError, TestSingleInstance.TestMachine | Scope.Scope>
    >()
    expectTypeOf(Effect.scoped(Effect.provide(test, layer))).toEqualTypeOf<
      Effect.Effect<string, LockError | TimeoutError | ProtocolError>
    >()
    // Another tag's service is not there.
    expectTypeOf(TestSingleInstance.launch(Greeter, Counter)).toEqualTypeOf<
      Effect.Effect<
        TestSingleInstance.TestLaunch<Instance.Instance<number, number, never>, never>,
        never,
        Counter | TestSingleInstance.TestMachine | Scope.Scope
      >
    >()
  })

  it.scoped("runs each launch as a process of its own, of which one leads", () =>
    Effect.gen(function* () {
      const launches = yield* Effect.forEach(["a", "b", "c", "d"], (name) =>
        TestSingleInstance.launch(Greeter, greet(name))
      )
      yield* settle
      const ended = yield* Effect.filter(launches, ({ exit }) =>
        Effect.flatMap(Effect.fork(exit), (fiber) => Effect.zipRight(settle, isDone(fiber)))
      )
      assert.lengthOf(ended, 3)
      const replies = yield* Effect.forEach(ended, ({ join }) => join)
      assert.strictEqual(new Set(replies).size, 3)
      for (const reply of replies) assert.match(reply, /^hello [a-d]$/)
      assert.strictEqual(new Set(launches.map(({ pid }) => pid)).size, 4)
      // One that ended is gone, and leaves the process under test alone.
      const { table } = yield* TestSingleInstance.TestMachine
      const alive = (yield* table.processes).map(({ identity }) => identity.pid)
      for (const { pid } of ended) assert.notInclude(alive, pid)
      assert.match(yield* greet("the test's own"), /^hello/)
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("crash: the next one takes over, and says of what", () =>
    Effect.gen(function* () {
      const first = yield* leader()
      const instance = yield* Greeter
      assert.strictEqual((yield* instance.inspect).state, "primary")
      yield* first.launch.crash
      const seen = yield* instance.inspect
      assert.deepStrictEqual([seen.state, seen.owner?.pid], ["dead", first.launch.pid])
      const second = yield* leader()
      assert.deepStrictEqual([second.primary.took, second.primary.proof?.rule], ["dead", "D1"])
      assert.isAbove(second.primary.epoch, first.primary.epoch)
      const exit = yield* first.launch.exit
      assert.isTrue(Exit.isInterrupted(exit))
      assert.strictEqual((yield* instance.send("me")).primary.pid, second.launch.pid)
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("crash: nobody knows what became of a message that it was handling", () =>
    Effect.gen(function* () {
      const { launch } = yield* leader(() => Effect.never)
      const sending = yield* Effect.fork(Effect.exit(greet("me")))
      yield* settle
      yield* launch.crash
      yield* settle
      const error = failureOf(yield* Fiber.join(sending))
      assert(ProtocolError.is(error))
      assert.deepStrictEqual([error.reason, error.outcome, error.pid], ["Disconnected", "Unknown", launch.pid])
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("crash: who had not been accepted yet becomes the next primary, with its message in hand", () =>
    Effect.gen(function* () {
      // The lock is held, nobody serves.
      const elected = yield* Deferred.make<void>()
      const first = yield* TestSingleInstance.launch(
        Greeter,
        Effect.scoped(
          Effect.gen(function* () {
            yield* (yield* Greeter).elect("first")
            yield* Deferred.succeed(elected, undefined)
            return yield* Effect.never
          })
        )
      )
      yield* Deferred.await(elected)
      const second = yield* TestSingleInstance.launch(
        Greeter,
        Greeter.enforce({ request: "second", primary: ({ request, took }) => Effect.succeed([request, took]) })
      )
      yield* settle
      // Stopped, not crashed: what was not started is refused, and so certainly not delivered.
      yield* first.stop
      assert.deepStrictEqual(yield* second.join, ["second", "released"])
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("stop: it ends as on SIGTERM, and the next one knows that it was released", () =>
    Effect.gen(function* () {
      const first = yield* leader()
      yield* first.launch.stop
      const seen = yield* (yield* Greeter).inspect
      assert.deepStrictEqual([seen.state, seen.owner?.pid], ["released", first.launch.pid])
      const second = yield* leader()
      assert.deepStrictEqual([second.primary.took, second.primary.proof?.rule], ["released", "D0"])
      assert.isTrue(Exit.isInterrupted(yield* first.launch.exit))
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("freeze: nobody takes over, and a sender is told within its time", () =>
    Effect.gen(function* () {
      const { launch, primary } = yield* leader()
      const instance = yield* Greeter
      yield* launch.freeze
      assert.strictEqual((yield* instance.inspect).state, "primary")
      const sending = yield* Effect.fork(Effect.exit(greet("me")))
      yield* pass(19)
      assert.isFalse(yield* isDone(sending))
      yield* pass(2)
      const error = failureOf(yield* Fiber.join(sending))
      assert(TimeoutError.is(error), String(error))
      assert.deepStrictEqual([error.phase, error.pid, error.outcome], ["hello", launch.pid, "NotDelivered"])
      yield* launch.thaw
      const sent = yield* instance.send("me")
      assert.deepStrictEqual(
        [sent.reply, sent.primary.pid, sent.primary.epoch],
        ["hello me", launch.pid, primary.epoch]
      )
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("freeze: a sender that waits is served when it thaws", () =>
    Effect.gen(function* () {
      const { launch } = yield* leader()
      yield* launch.freeze
      const sending = yield* Effect.fork(greet("me"))
      yield* pass(3)
      assert.isFalse(yield* isDone(sending))
      yield* launch.thaw
      assert.strictEqual(yield* Fiber.join(sending), "hello me")
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("freeze: a frozen launch can be crashed, and is then taken over", () =>
    Effect.gen(function* () {
      const { launch } = yield* leader()
      yield* launch.freeze
      yield* launch.crash
      assert.strictEqual((yield* leader()).primary.took, "dead")
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("freeze: where the option says so, it is terminated and taken over", () =>
    Effect.gen(function* () {
      const { launch } = yield* leader()
      yield* launch.freeze
      const sending = yield* Effect.fork(
        Greeter.enforce({ request: "me", primary: ({ request, took }) => Effect.succeed([request, took]) })
      )
      yield* pass(19)
      assert.isFalse(yield* isDone(sending))
      // SIGTERM waits in a stopped process; SIGKILL does not.
      yield* pass(8)
      assert.deepStrictEqual(yield* Fiber.join(sending), ["me", "dead"])
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter, { onUnresponsive: "terminate" })))
  )

  it.scoped("reusePid: the pid lives, and is not taken for the primary", () =>
    Effect.gen(function* () {
      const first = yield* leader()
      yield* first.launch.reusePid
      const { table } = yield* TestSingleInstance.TestMachine
      assert.include(
        (yield* table.processes).map(({ identity }) => identity.pid),
        first.launch.pid
      )
      const second = yield* leader()
      assert.strictEqual(second.primary.took, "dead")
      assert.include(second.primary.proof?.detail, `${first.launch.pid}`)
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("removeRecord: the primary loses the lock, and does not fight its successor", () =>
    Effect.gen(function* () {
      const first = yield* leader()
      const { removeRecord } = yield* TestSingleInstance.TestMachine
      yield* removeRecord(Greeter.key)
      const error = failureOf(yield* first.launch.exit)
      assert(LockError.is(error))
      assert.strictEqual(error.reason, "Lost")
      const second = yield* leader()
      assert.strictEqual(second.primary.took, "free")
      yield* pass(10)
      assert.isFalse(yield* isDone(yield* Effect.fork(second.launch.exit)))
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("removeRecord: noticed at most 250 ms after the last look, without a clock that is moved by more", () =>
    Effect.gen(function* () {
      const { launch } = yield* leader()
      const { removeRecord, store } = yield* TestSingleInstance.TestMachine
      // A look has just begun its pause: the change falls into it.
      store.wake()
      yield* settle
      yield* removeRecord(Greeter.key)
      const exit = yield* Effect.fork(launch.exit)
      yield* settle
      assert.isFalse(yield* isDone(exit))
      yield* elapse("250 millis")
      yield* settle
      assert.isTrue(yield* isDone(exit))
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("ends what still runs with the scope, without the clock being moved", () =>
    Effect.gen(function* () {
      const ended = yield* Ref.make<ReadonlyArray<string>>([])
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* leader(() => Effect.uninterruptible(Effect.never))
          const sender = yield* TestSingleInstance.launch(
            Greeter,
            Effect.onExit(greet("me"), () => Ref.update(ended, (all) => [...all, "sender"]))
          )
          yield* settle
          assert.isFalse(yield* isDone(yield* Effect.fork(sender.exit)))
        })
      )
      yield* settle
      assert.deepStrictEqual(yield* Ref.get(ended), ["sender"])
      assert.strictEqual((yield* leader()).primary.took, "dead")
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("keeps two machines apart", () =>
    Effect.gen(function* () {
      const took = Effect.provide(
        Effect.scoped(Effect.map(leader(), ({ primary }) => primary.took)),
        TestSingleInstance.layerMachine()
      )
      yield* leader()
      assert.strictEqual(yield* took, "free")
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
  )

  it.scoped("holds several contracts on one machine", () =>
    Effect.gen(function* () {
      const greeter = yield* leader()
      const ready = yield* Deferred.make<void>()
      const counter = yield* TestSingleInstance.launch(
        Counter,
        Counter.enforce({
          request: 0,
          primary: (primary) =>
            Effect.gen(function* () {
              yield* primary.serve((n) => Effect.succeed(n + 1))
              yield* Deferred.succeed(ready, undefined)
              return yield* Effect.never
            })
        })
      )
      yield* Deferred.await(ready)
      const counted = yield* TestSingleInstance.launch(
        Counter,
        Effect.flatMap(Counter, (instance) => instance.send(41))
      )
      const { primary, reply } = yield* counted.join
      assert.deepStrictEqual([reply, primary.pid], [42, counter.pid])
      assert.notStrictEqual(counter.pid, greeter.launch.pid)
    }).pipe(Effect.provide(TestSingleInstance.layerMachine()))
  )

  it.scoped("takes options", () =>
    Effect.gen(function* () {
      const { launch } = yield* leader(() => Effect.succeed("x".repeat(5_000)))
      yield* launch.freeze
      const sending = yield* Effect.fork(Effect.exit(greet("me")))
      yield* pass(5)
      const error = failureOf(yield* Fiber.join(sending))
      assert(TimeoutError.is(error))
      assert.strictEqual(error.phase, "hello")
      yield* launch.thaw
      const large = failureOf(yield* Effect.exit(greet("x".repeat(5_000))))
      assert(ProtocolError.is(large))
      assert.strictEqual(large.reason, "TooLarge")
    }).pipe(Effect.provide(TestSingleInstance.layer(Greeter, { timeout: "4 seconds", maxFrameBytes: 4_096 })))
  )

  // A storm of launches with crashes, stops and a frozen one; what each came to, and when.
  const story = Effect.gen(function* () {
    const events: Array<string> = []
    const { table } = yield* TestSingleInstance.TestMachine
    const launches: Array<TestSingleInstance.TestLaunch<unknown, unknown>> = []
    const now = Effect.clockWith((clock) => clock.currentTimeMillis)
    for (let i = 0; i < 12; i++) {
      const launch = yield* TestSingleInstance.launch(
        Greeter,
        Greeter.enforce({
          request: `${i}`,
          primary: (primary) =>
            Effect.gen(function* () {
              events.push(`${i} leads, ${primary.took}, ${yield* now}`)
              yield* primary.serve((name) => Effect.as(Effect.sleep(`${10 * i} millis`), `${i} greets ${name}`))
              return yield* Effect.never
            }),
          secondary: ({ attempts, reply }) =>
            Effect.flatMap(now, (time) => Effect.sync(() => events.push(`${reply}, ${attempts} attempts, ${time}`)))
        }).pipe(
          Effect.catchAll((error) =>
            Effect.flatMap(now, (time) =>
              Effect.sync(() =>
                events.push(`${i} ${(error as TimeoutError).reason} ${(error as TimeoutError).outcome}, ${time}`)
              )
            )
          )
        )
      )
      launches.push(launch)
      yield* elapse(`${7 * i} millis`)
      if (i % 4 === 1) yield* launches[i - 1]!.crash
      if (i % 4 === 3) yield* Effect.fork(launches[i - 2]!.stop)
      if (i === 6) yield* launches[5]!.freeze
      yield* settle
    }
    yield* pass(30)
    events.push(`${(yield* table.processes).map(({ identity }) => identity.pid)}`)
    return events
  }).pipe(Effect.scoped, Effect.provide(TestSingleInstance.layerMachine()))

  it.effect("is deterministic", () =>
    Effect.gen(function* () {
      const start = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
      const first = yield* story
      yield* TestClock.setTime(start)
      const second = yield* story
      assert.isAbove(first.length, 6)
      assert.deepStrictEqual(second, first)
    })
  )
})
