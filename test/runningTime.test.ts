import * as net from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { type Clock, Effect, Fiber, Option, Ref, Schema, TestClock } from "effect"
import * as Election from "effect-single-instance/Election"
import { InstanceId } from "effect-single-instance/InstanceId"
import { InstanceLock } from "effect-single-instance/InstanceLock"
import { InstanceRecord } from "effect-single-instance/InstanceRecord"
import { alive } from "effect-single-instance/Liveness"
import { PidVerifier } from "effect-single-instance/PidVerifier"
import * as TestPidVerifier from "effect-single-instance/pid/TestPidVerifier"
import * as SingleInstance from "effect-single-instance/SingleInstance"
import * as TestSingleInstance from "effect-single-instance/TestSingleInstance"
import * as limit from "../src/internal/limit.js"
import * as runningTime from "../src/internal/runningTime.js"

const block = (millis: number) => {
  for (const ends = performance.now() + millis; performance.now() < ends; );
}

/** Both ends of a connection within this process. */
const connection = Effect.gen(function* () {
  let far: net.Socket | undefined
  const server = yield* Effect.acquireRelease(
    Effect.async<net.Server>((resume) => {
      const server = net.createServer((socket) => {
        far = socket.on("error", () => {})
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) => Effect.sync(() => server.close())
  )
  const near = yield* Effect.acquireRelease(
    Effect.sync(() => net.connect((server.address() as net.AddressInfo).port, "127.0.0.1")),
    (socket) => Effect.sync(() => socket.destroy())
  )
  while (far === undefined) yield* Effect.sleep("5 millis")
  return { near, far }
})

describe("runningTime", () => {
  it("counts no more than a step of a time in which the process stood still", () => {
    let clock = 1_000
    const time = runningTime.start(() => clock, 100)
    clock += 100
    assert.isFalse(time.tick(100))
    clock += 3_600_000
    assert.strictEqual(time.now(), 200)
    assert.isTrue(time.tick(100))
    assert.strictEqual(time.now(), 200)
    clock -= 10_000
    assert.strictEqual(time.now(), 200)
  })

  // Blocked shortly before the limit of 200 ms until after it; when the process goes on, the answer has arrived, and
  // nobody has read it yet.
  const whileBlocked = (wait: (answer: Effect.Effect<string>) => Effect.Effect<string>) =>
    Effect.gen(function* () {
      const { far, near } = yield* connection
      const answer = Effect.async<string>((resume) => {
        near.on("error", () => {}).once("data", () => resume(Effect.succeed("answered")))
      })
      // From there the event loop goes to its timers first, and to its sockets after that.
      const answerLate = () => {
        far.end("!")
        block(500)
      }
      setTimeout(() => setImmediate(answerLate), 190)
      return yield* wait(answer)
    })

  it.scopedLive("takes an answer that arrived while the process was blocked beyond the limit", () =>
    Effect.gen(function* () {
      const outcome = yield* whileBlocked((answer) =>
        Effect.map(
          limit.timeoutOption(answer, 200),
          Option.getOrElse(() => "timed out")
        )
      )
      assert.strictEqual(outcome, "answered")
    })
  )

  it.scopedLive("takes it also without Effect", () =>
    Effect.gen(function* () {
      const outcome = yield* whileBlocked((answer) =>
        Effect.raceFirst(
          answer,
          Effect.async<string>((resume) => {
            const stop = runningTime.limit(200, () => resume(Effect.succeed("timed out")))
            return Effect.sync(stop)
          })
        )
      )
      assert.strictEqual(outcome, "answered")
    })
  )

  it.scopedLive("a plain timer does not (the canary)", () =>
    Effect.gen(function* () {
      const once = whileBlocked((answer) =>
        Effect.map(
          Effect.timeoutOption(answer, 200),
          Option.getOrElse(() => "timed out")
        )
      )
      // On a busy machine the wait may begin so late that the answer comes within the limit.
      const outcome = yield* Effect.repeat(once, { until: (outcome) => outcome === "timed out", times: 9 })
      assert.strictEqual(outcome, "timed out")
    })
  )

  it.scoped("ends where nobody answers, on the clock of the program, also in an uninterruptible region", () =>
    Effect.gen(function* () {
      const waiting = yield* Effect.fork(Effect.uninterruptible(limit.timeoutOption(Effect.never, 20_000)))
      yield* TestClock.adjust("19900 millis")
      assert.isTrue(Option.isNone(yield* Fiber.poll(waiting)))
      yield* TestClock.adjust("200 millis")
      assert.isTrue(Option.isNone(yield* Fiber.join(waiting)))
    })
  )
})

class Greeter extends SingleInstance.Tag<Greeter>()("com.example.running-time", {
  request: Schema.String,
  reply: Schema.String
}) {}

describe("a frozen primary", () => {
  it.scoped("is given up in time although the wall clock is set back by an hour meanwhile", () =>
    Effect.gen(function* () {
      const clock = yield* Effect.clock
      let ahead = 0
      const jumping: Clock.Clock = Object.create(clock, {
        unsafeCurrentTimeMillis: { value: () => clock.unsafeCurrentTimeMillis() + ahead },
        currentTimeMillis: { get: () => Effect.map(clock.currentTimeMillis, (millis) => millis + ahead) }
      })
      const program = Effect.gen(function* () {
        const serve = Greeter.enforce({
          request: "first",
          primary: (primary) => Effect.zipRight(primary.serve(Effect.succeed), Effect.never)
        })
        const first = yield* TestSingleInstance.launch(Greeter, serve)
        yield* first.freeze
        const sending = yield* Effect.fork(
          Effect.flip(Greeter.enforce({ request: "second", primary: () => Effect.succeed("led") }))
        )
        yield* TestClock.adjust("1 seconds")
        ahead = -3_600_000
        yield* TestClock.adjust("3 seconds")
        const error = yield* Effect.flatten(Fiber.poll(sending))
        assert.deepInclude(yield* error, { _tag: "TimeoutError", phase: "hello" })
      })
      yield* program.pipe(
        Effect.provide(TestSingleInstance.layer(Greeter, { timeout: "2 seconds", helloTimeout: "300 millis" })),
        // Also while the layer is built, which takes its clock along.
        Effect.withClock(jumping)
      )
    })
  )
})

describe("Election.terminate", () => {
  const id = InstanceId.make("com.example.terminate")
  const recordOf = (process: InstanceRecord["process"], nonce: string) =>
    new InstanceRecord({
      nonce,
      epoch: 1,
      released: false,
      process,
      host: "host",
      uid: null,
      version: null,
      argv0: "",
      startedAt: 1,
      sequence: 0,
      witness: null,
      key: "",
      endpoints: []
    })

  // The process lives on after it has given the lock away, at the look with that number.
  const signalled = (ownsFor: number) =>
    Effect.gen(function* () {
      const process = yield* Effect.flatMap(PidVerifier, (verifier) => verifier.self)
      const [own, next] = [recordOf(process, "a".repeat(32)), recordOf(process, "b".repeat(32))]
      const looks = yield* Ref.make(0)
      const sent: Array<string> = []
      const refused = Effect.dieMessage("it only looks")
      const lock = InstanceLock.of({
        inspect: () =>
          Effect.map(
            Ref.getAndUpdate(looks, (count) => count + 1),
            (count) => ({
              _tag: "Recorded",
              location: "",
              directory: null,
              record: count < ownsFor ? own : next,
              liveness: alive("it runs")
            })
          ),
        contend: () => refused,
        breakLock: () => refused
      })
      const verifier = PidVerifier.of({
        ...(yield* PidVerifier),
        signal: (_, signal) => Effect.sync(() => sent.push(signal) > 0)
      })
      const gone = yield* Election.terminate(id, own).pipe(
        Effect.provideService(InstanceLock, lock),
        Effect.provideService(PidVerifier, verifier),
        Effect.fork
      )
      yield* TestClock.adjust("12 seconds")
      return { gone: yield* Fiber.join(gone), sent }
    }).pipe(Effect.provide(TestPidVerifier.layerTable(yieldTable)))

  const yieldTable = Effect.runSync(TestPidVerifier.makeTable)

  it.scoped("signals nobody who does not own any more", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* signalled(0), { gone: true, sent: [] })
      assert.deepStrictEqual(yield* signalled(2), { gone: true, sent: ["SIGTERM"] })
      // SIGTERM, 50 looks, and a look before SIGKILL.
      assert.deepStrictEqual(yield* signalled(51), { gone: true, sent: ["SIGTERM"] })
    })
  )
})
