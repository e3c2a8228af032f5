import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  FiberId,
  Layer,
  Logger,
  LogLevel,
  ParseResult,
  Ref,
  Schema,
  Scope
} from "effect"
import { type Instance, Message, Primary, SingleInstance, TestSingleInstance } from "effect-single-instance"
import { Endpoint } from "effect-single-instance/Endpoint"
import { InstanceId } from "effect-single-instance/InstanceId"
import { type Connection, Protocol } from "effect-single-instance/Protocol"
import type { ConfigOptions } from "effect-single-instance/SingleInstanceConfig"
import * as SingleInstanceConfig from "effect-single-instance/SingleInstanceConfig"
import { ProtocolError, TimeoutError } from "effect-single-instance/SingleInstanceError"
import {
  elapse,
  failureOf,
  greet,
  isDone,
  type Member,
  type MemberOptions,
  member,
  Peer,
  type Puppet,
  pass,
  puppet,
  recordOf,
  secondary,
  settle,
  stranger,
  valueOf
} from "./simulation.js"
import { largeIf } from "./size.js"

class Refusal extends Schema.TaggedError<Refusal>()("Refusal", { why: Schema.String }) {}

/** Throws, as a schema of an application might by mistake. */
const Fragile = Schema.transform(Schema.String, Schema.String, {
  decode: (text) => {
    if (text.includes("undecodable")) throw new Error("decode broke")
    return text
  },
  encode: (text) => {
    if (text.includes("unencodable")) throw new Error("encode broke")
    return text
  }
})

class Work extends SingleInstance.Tag<Work>()("test.work", { request: Fragile, reply: Fragile, failure: Refusal }) {}

class Anything extends SingleInstance.Tag<Anything>()("test.anything", {
  request: Schema.Unknown,
  reply: Schema.Unknown
}) {}

type WorkPrimary = Instance.Primary<string, string, Refusal>
type WorkHandler = (request: string, launch: Primary.IncomingLaunch) => Effect.Effect<string, Refusal, Scope.Scope>

interface Running {
  readonly process: Member<Work, string, string, Refusal>
  readonly primary: WorkPrimary
  readonly fiber: Fiber.RuntimeFiber<unknown, unknown>
}

/** Runs on in a fiber whose end nobody waits for: it may wait for a clock that does not move any more. */
const abandoned = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.acquireRelease(Effect.forkDaemon(Effect.interruptible(effect)), Fiber.interruptFork)

/** A process that leads, with this handler or without one. */
const leading = (handler?: WorkHandler, options?: MemberOptions) =>
  Effect.gen(function* () {
    const process = yield* member(Work, options)
    const ready = yield* Deferred.make<WorkPrimary>()
    const fiber = yield* Work.enforce({
      request: "first",
      primary: (primary) =>
        Effect.gen(function* () {
          if (handler !== undefined) yield* primary.serve(handler)
          yield* Deferred.succeed(ready, primary)
          return yield* Effect.never
        })
    }).pipe(Effect.provide(process.context), abandoned)
    return { process, primary: yield* Deferred.await(ready), fiber } satisfies Running
  })

/** A primary's protocol, whose connections are changed so. */
const accepting =
  (change: (connection: Connection) => Connection): NonNullable<MemberOptions["protocols"]> =>
  (own) => [
    Layer.succeed(Protocol, {
      ...own,
      listen: (options) =>
        Effect.map(own.listen(options), (listener) => ({
          ...listener,
          accept: Effect.map(listener.accept, change)
        }))
    })
  ]

/** The same of a secondary. */
const connecting =
  (change: (connection: Connection) => Connection): NonNullable<MemberOptions["protocols"]> =>
  (own) => [
    Layer.succeed(Protocol, {
      ...own,
      connect: (address, options) => Effect.map(own.connect(address, options), change)
    })
  ]

const echo: WorkHandler = (request) => Effect.succeed(`re: ${request}`)

/** A handler that notes what it saw and what became of it; it waits where the request says so. */
const observed = Effect.gen(function* () {
  const seen: Array<string> = []
  const gates = new Map<string, Deferred.Deferred<void>>()
  const gate = (request: string) => {
    const existing = gates.get(request)
    if (existing !== undefined) return existing
    const made = Deferred.unsafeMake<void>(FiberId.none)
    gates.set(request, made)
    return made
  }
  const handler: WorkHandler = (request) =>
    Effect.suspend(() => {
      seen.push(request)
      return request.startsWith("wait")
        ? Effect.onExit(Effect.as(Deferred.await(gate(request)), `re: ${request}`), (exit) =>
            Effect.sync(() => seen.push(`${request} ${Exit.isSuccess(exit) ? "done" : "interrupted"}`))
          )
        : Effect.succeed(`re: ${request}`)
    })
  return { seen, handler, open: (request: string) => Deferred.succeed(gate(request), undefined) }
})

const simulated = (options?: ConfigOptions) => TestSingleInstance.layerMachine(options)

const request = (id: string, payload: unknown, fields: Partial<Message.Request> = {}): Message.Request => ({
  _tag: "Request",
  id,
  payload,
  ...fields
})

const success = (value: string) => ({ _tag: "Success", value })

const tags = (messages: ReadonlyArray<Message.Message | Message.Unrecognised>) => messages.map(({ _tag }) => _tag)

const defectOf = (message: Message.Message | Message.Unrecognised | undefined): string => {
  assert(message?._tag === "Exit", JSON.stringify(message))
  return (message.exit as any).cause.defect.message
}

/** As sent, with or without the causes of its finalizers. */
const assertInterrupted = (message: { readonly exit?: unknown }) => {
  const { cause } = Schema.decodeUnknownSync(
    Schema.Exit({ success: Schema.Unknown, failure: Schema.Unknown, defect: Schema.Defect })
  )(message.exit) as Exit.Failure<unknown, unknown>
  assert.isTrue(Cause.isInterruptedOnly(cause), String(cause))
}

describe("the primary's side", () => {
  it.scoped("greets who knows the key, and says what it can take", () =>
    Effect.gen(function* () {
      const { process, primary } = yield* leading(echo, { maxInFlight: 7, maxFrameBytes: 5_000, version: "2.1" })
      const peer = yield* stranger(Work.key)
      const welcome = yield* greet(peer, yield* recordOf(Work.key), Work.key)
      assert(welcome._tag === "Welcome")
      const { epoch, maxFrameBytes, maxInFlight, pid, range, version, wire } = welcome
      assert.deepStrictEqual(
        { epoch, maxFrameBytes, maxInFlight, pid, range, version, wire },
        {
          epoch: primary.epoch,
          maxFrameBytes: 5_000,
          maxInFlight: 7,
          pid: process.pid,
          range: [1, 1],
          version: "2.1",
          wire: 1
        }
      )
      yield* peer.say(request("1", "a"))
      assert.deepStrictEqual(yield* peer.expect("Exit"), { _tag: "Exit", id: "1", exit: success("re: a") })
    }).pipe(Effect.provide(simulated()))
  )

  const refusals = {
    "a proof with another key": { options: { key: "0".repeat(64) }, reason: "Forbidden" },
    "a proof made for another address, as a relay's is": {
      options: { address: "in-memory://relay" },
      reason: "Forbidden"
    },
    "the hello of another instance": { options: { id: "test.other" }, reason: "Forbidden" },
    "a secondary that is too new": { options: { wire: [2, 9] }, reason: "Incompatible" },
    "a secondary that is too old": { options: { wire: [0, 0] }, reason: "Incompatible" }
  } as const
  for (const [who, { options, reason }] of Object.entries(refusals)) {
    it.scoped(`refuses ${who}, and handles nothing of it`, () =>
      Effect.gen(function* () {
        const { handler, seen } = yield* observed
        yield* leading(handler)
        const peer = yield* stranger(Work.key)
        const greeted = yield* greet(peer, yield* recordOf(Work.key), Work.key, options)
        yield* Effect.ignore(peer.say(request("1", "a")))
        const refused = greeted._tag === "Refused" ? greeted : yield* peer.expect("Refused")
        assert.strictEqual(refused.reason, reason)
        assert.deepStrictEqual(yield* peer.rest, [])
        assert.deepStrictEqual(seen, [])
      }).pipe(Effect.provide(simulated()))
    )
  }

  it.scoped("speaks the highest version that both sides know", () =>
    Effect.gen(function* () {
      yield* leading(echo)
      const peer = yield* secondary(Work.key, { wire: [0, 9] })
      yield* peer.say(request("1", "a"))
      yield* peer.expect("Exit")
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("handles nothing before the proof", () =>
    Effect.gen(function* () {
      const { handler, seen } = yield* observed
      yield* leading(handler)
      const rude = yield* stranger(Work.key)
      yield* rude.say(request("1", "a"))
      assert.strictEqual((yield* rude.expect("Refused")).reason, "Malformed")
      assert.deepStrictEqual(yield* rude.rest, [])

      const hasty = yield* stranger(Work.key)
      yield* hasty.say({ _tag: "Hello", wire: [1, 1], id: Work.key, nonce: "0".repeat(32) })
      yield* hasty.expect("Welcome")
      yield* hasty.say(request("2", "b"))
      assert.strictEqual((yield* hasty.expect("Refused")).reason, "Forbidden")
      assert.deepStrictEqual(yield* hasty.rest, [])

      const garbage = yield* stranger(Work.key)
      yield* garbage.say(Buffer.from([0xff, 0x00]))
      assert.deepStrictEqual(yield* garbage.rest, [])
      assert.deepStrictEqual(seen, [])
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("takes a proof and what follows it in one go", () =>
    Effect.gen(function* () {
      yield* leading(echo)
      const peer = yield* stranger(Work.key)
      yield* greet(peer, yield* recordOf(Work.key), Work.key)
      // Nobody ran since the proof was sent: all arrive together.
      for (const id of ["1", "2", "3"]) yield* peer.say(request(id, id))
      for (const id of ["1", "2", "3"]) assert.strictEqual((yield* peer.expect("Exit")).id, id)
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("closes who keeps silent, before and amid the hello, and holds up nobody", () =>
    Effect.gen(function* () {
      yield* leading(echo, { helloTimeout: "5 seconds" })
      const silent = yield* stranger(Work.key)
      const half = yield* stranger(Work.key)
      yield* half.say({ _tag: "Hello", wire: [1, 1], id: Work.key, nonce: "0".repeat(32) })
      yield* half.expect("Welcome")
      const ends = yield* Effect.fork(Effect.all([silent.rest, half.rest]))
      yield* elapse("4999 millis")
      yield* settle
      assert.isFalse(yield* isDone(ends))
      const peer = yield* secondary(Work.key)
      yield* peer.say(request("1", "a"))
      yield* peer.expect("Exit")
      yield* elapse("1 millis")
      assert.deepStrictEqual(yield* Fiber.join(ends), [[], []])
      // Who proved itself may be silent for as long as it likes.
      yield* elapse("1 minute")
      yield* peer.say(request("2", "b"))
      yield* peer.expect("Exit")
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("reads at most 64 KiB from a stranger", () =>
    Effect.gen(function* () {
      yield* leading(echo)
      const peer = yield* stranger(Work.key)
      const large = { _tag: "Hello", wire: [1, 1], id: "x".repeat(70_000), nonce: "0".repeat(32) }
      yield* peer.say(large)
      assert.deepStrictEqual(yield* peer.rest, [])
      const known = yield* secondary(Work.key)
      yield* known.say(request("1", "x".repeat(70_000)))
      assert.strictEqual(((yield* known.expect("Exit")).exit as any).value.length, 70_004)
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("says Accepted only where the exit does not follow at once", () =>
    Effect.gen(function* () {
      const { handler, open } = yield* observed
      yield* leading(handler)
      const peer = yield* secondary(Work.key)
      yield* peer.say(request("1", "quick"))
      yield* peer.expect("Exit")
      yield* peer.say(request("2", "wait"))
      assert.deepStrictEqual(tags(yield* peer.heard), ["Accepted"])
      yield* open("wait")
      assert.deepStrictEqual(yield* peer.expect("Exit"), { _tag: "Exit", id: "2", exit: success("re: wait") })
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("answers a failure, a defect and an interruption of the handler", () =>
    Effect.gen(function* () {
      yield* leading((request) =>
        request === "fail"
          ? new Refusal({ why: "no" })
          : request === "die"
            ? Effect.die(new Error("broken"))
            : request === "throw"
              ? (() => {
                  throw new Error("thrown")
                })()
              : Effect.interrupt
      )
      const peer = yield* secondary(Work.key)
      const exitOf = (id: string, text: string) =>
        Effect.zipRight(
          peer.say(request(id, text)),
          Effect.map(peer.expect("Exit"), ({ exit }) => (exit as any).cause)
        )
      assert.deepStrictEqual(yield* exitOf("1", "fail"), { _tag: "Fail", error: { _tag: "Refusal", why: "no" } })
      assert.strictEqual((yield* exitOf("2", "die")).defect.message, "broken")
      assert.strictEqual((yield* exitOf("3", "throw")).defect.message, "thrown")
      assert.strictEqual((yield* exitOf("4", "interrupt"))._tag, "Interrupt")
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("leaves the failure of a handler to its sender: its fiber does not fail", () =>
    Effect.gen(function* () {
      const logged: Array<string> = []
      const logger = Logger.make(({ message }) => logged.push(String(message)))
      const failing: WorkHandler = (request) =>
        request === "fails" ? Effect.fail(new Refusal({ why: "no" })) : Effect.die(request)
      const hearing = Layer.merge(Logger.replace(Logger.defaultLogger, logger), Logger.minimumLogLevel(LogLevel.All))
      const { primary } = yield* Effect.provide(leading(), hearing)
      yield* Effect.provide(primary.serve(failing), hearing)
      const peer = yield* secondary(Work.key)
      for (const id of ["fails", "dies"]) {
        yield* peer.say(request(id, id))
        yield* peer.expect("Exit")
      }
      assert.deepStrictEqual(
        logged.filter((line) => line.includes("unhandled")),
        []
      )
      // It would be heard.
      yield* Effect.provide(
        primary.serve(() =>
          Effect.fork(Effect.die("alone")).pipe(Effect.zipRight(Effect.yieldNow()), Effect.as("done"))
        ),
        hearing
      )
      yield* peer.say(request("forks", "forks"))
      yield* Effect.repeat(peer.hear, { until: (message) => message._tag === "Exit" })
      assert.lengthOf(
        logged.filter((line) => line.includes("unhandled")),
        1
      )
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("answers when what the handler forked has ended, and then what its scope holds", () =>
    Effect.gen(function* () {
      const ended: Array<string> = []
      const slowly = (what: string) =>
        Effect.yieldNow().pipe(Effect.repeatN(3), Effect.zipRight(Effect.sync(() => ended.push(what))))
      yield* leading((request) =>
        Effect.gen(function* () {
          yield* Effect.addFinalizer(() => slowly("scope"))
          yield* Effect.fork(Effect.ensuring(Effect.never, slowly("child")))
          // It has begun.
          yield* Effect.yieldNow()
          return yield* request === "fails" ? new Refusal({ why: "no" }) : Effect.succeed("done")
        })
      )
      const peer = yield* secondary(Work.key)
      for (const id of ["succeeds", "fails"]) {
        yield* peer.say(request(id, id))
        yield* Effect.repeat(peer.hear, { until: (message) => message._tag === "Exit" })
        assert.deepStrictEqual(ended.splice(0), ["child", "scope"], id)
      }
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("answers also where a schema throws, and serves on", () =>
    Effect.gen(function* () {
      const { handler, seen } = yield* observed
      const { primary } = yield* leading(handler)
      const peer = yield* secondary(Work.key)
      yield* peer.say(request("1", "undecodable"))
      const refused = yield* peer.expect("Refused")
      assert.deepStrictEqual([refused.reason, refused.id], ["Malformed", "1"])
      assert.include(refused.detail, "decode broke")
      yield* peer.say(request("2", 42))
      const mismatch = yield* peer.expect("Refused")
      assert.deepStrictEqual([mismatch.reason, mismatch.id], ["Malformed", "2"])
      assert.include(mismatch.detail, "42")
      assert.deepStrictEqual(seen, [])
      yield* peer.say(request("3", "unencodable"))
      assert.include(defectOf(yield* peer.hear), "encode broke")
      yield* peer.say(request("4", "a"))
      assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("re: a"))
      // Nothing is left that a shutdown would wait for.
      yield* primary.shutdown
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("answers for a handler of one's own whose exit cannot be told", () =>
    Effect.gen(function* () {
      const { process } = yield* leading()
      const record = yield* recordOf(Work.key)
      const machine = yield* TestSingleInstance.TestMachine
      const host = yield* machine.network.host
      const id = InstanceId.make(Work.key)
      const limits = { maxFrameBytes: 1_000_000, maxConnections: 10 }
      const listener = yield* host.protocol.listen({ id, directory: null, nonce: "f".repeat(32), ...limits })
      const server = yield* Primary.make({ id, record, config: SingleInstanceConfig.defaults })
      yield* server.serve({ protocol: "memory", listener })
      yield* server.install({
        run: ({ payload }) => {
          if (payload === "throws") throw new Error("thrown")
          if (payload === "interrupts") return Effect.interrupt
          return payload === "dies" ? Effect.die("gone") : Effect.succeed(payload)
        },
        encode: (exit) => {
          if (Exit.isFailure(exit))
            return Effect.succeed({ _tag: "Failure", cause: { _tag: "Fail", error: String(exit.cause) } })
          if (exit.value === "cannot be told") throw new Error("untold")
          if (exit.value === "nor later") return Effect.zipRight(Effect.yieldNow(), Effect.die("untold"))
          return Effect.succeed({ _tag: "Success", value: exit.value === "bigint" ? 1n : exit.value })
        }
      })
      const connection = yield* (yield* machine.network.host).protocol.connect(listener.address, {
        id,
        directory: null,
        maxFrameBytes: 1_000_000
      })
      const peer = new Peer(connection)
      const { address } = listener
      yield* peer.say({ _tag: "Hello", wire: [1, 1], id, nonce: "0".repeat(32) })
      const welcome = yield* peer.expect("Welcome")
      const transcript = { recordNonce: record.nonce, clientNonce: "0".repeat(32), serverNonce: welcome.nonce }
      const mac = Message.mac(record.key, "client", {
        ...transcript,
        clientWire: [1, 1],
        serverWire: welcome.range,
        address
      })
      yield* peer.say({ _tag: "Proof", mac, pid: process.pid, version: null })
      const exitOf = (payload: string) =>
        Effect.zipRight(
          peer.say(request(payload, payload)),
          Effect.repeat(peer.hear, { until: (message) => message._tag === "Exit" })
        )
      for (const payload of ["cannot be told", "nor later"]) {
        assert.match(defectOf(yield* exitOf(payload)), /^the handler's exit could not be told: Error: untold/, payload)
      }
      for (const [payload, why] of [
        ["dies", "Error: gone"],
        ["throws", "Error: thrown"],
        ["interrupts", "interrupted"]
      ] as const) {
        assert.include(((yield* exitOf(payload)) as any).exit.cause.error, why)
      }
      assert.deepStrictEqual(((yield* exitOf("told")) as any).exit, success("told"))
      assert.strictEqual(defectOf(yield* exitOf("bigint")), "the reply cannot be written as JSON")
      assert.deepStrictEqual(yield* peer.heard, [])
      yield* server.shutdown
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("keeps requests until there is a handler, then starts them in order", () =>
    Effect.gen(function* () {
      const { handler, seen } = yield* observed
      const { primary } = yield* leading()
      const peer = yield* secondary(Work.key)
      for (const id of ["1", "2", "3"]) yield* peer.say(request(id, id))
      assert.deepStrictEqual(tags(yield* peer.heard), ["Starting", "Starting", "Starting"])
      yield* primary.serve(handler)
      assert.deepStrictEqual(
        (yield* peer.heard).map((message) => (message as any).id),
        ["1", "2", "3"]
      )
      assert.deepStrictEqual(seen, ["1", "2", "3"])
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("gives requests to come to a later handler, and leaves running ones to theirs", () =>
    Effect.gen(function* () {
      const { handler, open } = yield* observed
      const { primary } = yield* leading(handler)
      const peer = yield* secondary(Work.key)
      yield* peer.say(request("1", "wait"))
      yield* peer.expect("Accepted")
      yield* primary.serve((text) => Effect.succeed(`new: ${text}`))
      yield* peer.say(request("2", "b"))
      assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("new: b"))
      yield* open("wait")
      assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("re: wait"))
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("never starts a waiting request that was struck, interrupted, expired or whose sender is gone", () =>
    Effect.gen(function* () {
      const { handler, seen } = yield* observed
      const { primary } = yield* leading()
      const peer = yield* secondary(Work.key)
      const other = yield* secondary(Work.key)
      const gone = yield* Effect.scoped(
        Effect.gen(function* () {
          const peer = yield* secondary(Work.key)
          yield* peer.say(request("gone", "gone"))
          yield* peer.say(request("detached", "detached", { detached: true }))
          yield* peer.expect("Starting")
          return peer
        })
      )
      for (const id of ["struck", "struck by another", "interrupted", "kept"]) yield* peer.say(request(id, id))
      yield* peer.say(request("expired", "expired", { deadline: 1_000 }))
      yield* settle
      yield* peer.say({ _tag: "Status", id: "struck", strike: true })
      yield* peer.say({ _tag: "Status", id: "kept", strike: false })
      yield* peer.say({ _tag: "Interrupt", id: "interrupted" })
      yield* other.say({ _tag: "Status", id: "struck by another", strike: true })
      // Not its own: it may not interrupt it.
      yield* other.say({ _tag: "Interrupt", id: "kept" })
      yield* other.say({ _tag: "Status", id: "gone", strike: false })
      yield* elapse("1001 millis")
      const states = (messages: ReadonlyArray<Message.Message | Message.Unrecognised>) =>
        messages.flatMap((message) => (message._tag === "State" ? [[message.id, message.state]] : []))
      assert.deepStrictEqual(states(yield* peer.heard), [
        ["struck", "struck"],
        ["kept", "pending"],
        ["interrupted", "struck"]
      ])
      assert.deepStrictEqual(states(yield* other.heard), [
        ["struck by another", "struck"],
        ["gone", "struck"]
      ])
      yield* primary.serve(handler)
      yield* settle
      assert.sameMembers(seen, ["detached", "kept"])
      const answers = yield* peer.heard
      assert.deepInclude(answers, { _tag: "Refused", reason: "Expired", id: "expired" })
      assert.deepStrictEqual(
        answers.flatMap((message) => (message._tag === "Exit" ? [message.id] : [])),
        ["kept"]
      )
      // And not when they come again either.
      for (const id of ["struck", "interrupted", "expired"]) yield* peer.say(request(id, id))
      assert.deepStrictEqual(states(yield* peer.heard), [
        ["struck", "struck"],
        ["interrupted", "struck"],
        ["expired", "struck"]
      ])
      assert.lengthOf(seen, 2)
      assert.deepStrictEqual(yield* gone.rest, [{ _tag: "Starting", id: "detached" }])
    }).pipe(Effect.provide(simulated()))
  )

  for (const jump of [3_600_000, -3_600_000]) {
    it.scoped(`keeps the deadline of a waiting request where the clock jumps by ${jump / 1_000} s`, () =>
      Effect.gen(function* () {
        const clock = yield* Effect.clock
        let ahead = 0
        const jumping: Clock.Clock = {
          [Clock.ClockTypeId]: Clock.ClockTypeId,
          unsafeCurrentTimeMillis: () => clock.unsafeCurrentTimeMillis() + ahead,
          unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
          currentTimeMillis: Effect.sync(() => clock.unsafeCurrentTimeMillis() + ahead),
          currentTimeNanos: clock.currentTimeNanos,
          sleep: (duration) => clock.sleep(duration)
        }
        const { handler, seen } = yield* observed
        const { primary } = yield* Effect.withClock(leading(), jumping)
        const peer = yield* secondary(Work.key)
        yield* peer.say(request("early", "early", { deadline: 4_000 }))
        yield* peer.say(request("late", "late", { deadline: 6_000 }))
        yield* settle
        ahead = jump
        yield* elapse("5 seconds")
        yield* primary.serve(handler)
        yield* settle
        assert.deepStrictEqual(seen, ["late"])
        const answers = yield* peer.heard
        assert.deepInclude(answers, { _tag: "Refused", reason: "Expired", id: "early" })
        assert.deepInclude(answers, { _tag: "Exit", id: "late", exit: success("re: late") })
      }).pipe(Effect.provide(simulated()))
    )
  }

  it.scoped("handles no request after its deadline", () =>
    Effect.gen(function* () {
      const { handler, seen } = yield* observed
      yield* leading(handler)
      yield* elapse("10 seconds")
      const peer = yield* secondary(Work.key)
      yield* peer.say(request("1", "late", { deadline: 9_999 }))
      const refused = yield* peer.expect("Refused")
      assert.deepStrictEqual([refused.reason, refused.id], ["Expired", "1"])
      yield* peer.say(request("2", "in time", { deadline: 10_000 }))
      yield* peer.expect("Exit")
      assert.deepStrictEqual(seen, ["in time"])
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("handles an id once, whoever sends it again, and gives each the exit", () =>
    Effect.gen(function* () {
      const { handler, open, seen } = yield* observed
      yield* leading(handler)
      const peer = yield* secondary(Work.key)
      const other = yield* secondary(Work.key)
      yield* peer.say(request("1", "wait"))
      yield* peer.expect("Accepted")
      yield* peer.say(request("1", "wait"))
      assert.strictEqual((yield* peer.expect("State")).state, "running")
      yield* other.say(request("1", "other"))
      assert.strictEqual((yield* other.expect("State")).state, "running")
      // Asked twice, answered once.
      yield* other.say({ _tag: "Status", id: "1", strike: true })
      assert.strictEqual((yield* other.expect("State")).state, "running")
      yield* open("wait")
      const exit = { _tag: "Exit", id: "1", exit: success("re: wait") } as const
      assert.deepStrictEqual(yield* peer.heard, [exit])
      assert.deepStrictEqual(yield* other.heard, [exit])
      for (const asking of [peer, other]) {
        yield* asking.say(request("1", "again"))
        const state = { _tag: "State", id: "1", state: "done", exit: success("re: wait") } as const
        assert.deepStrictEqual(yield* asking.expect("State"), state)
      }
      assert.deepStrictEqual(seen, ["wait", "wait done"])
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("strikes off an id that it has not seen, which then never starts", () =>
    Effect.gen(function* () {
      const { handler, seen } = yield* observed
      yield* leading(handler)
      const peer = yield* secondary(Work.key)
      const other = yield* secondary(Work.key)
      yield* peer.say({ _tag: "Status", id: "1", strike: false })
      assert.strictEqual((yield* peer.expect("State")).state, "unknown")
      yield* peer.say({ _tag: "Status", id: "1", strike: true })
      assert.strictEqual((yield* peer.expect("State")).state, "struck")
      yield* other.say(request("1", "late"))
      assert.strictEqual((yield* other.expect("State")).state, "struck")
      assert.deepStrictEqual(seen, [])
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("tells all who asked about a request that it could not be read", () =>
    Effect.gen(function* () {
      class Slow extends SingleInstance.Tag<Slow>()("test.slow", {
        request: Schema.transformOrFail(Schema.String, Schema.String, {
          decode: (text, _, ast) =>
            Effect.zipRight(Effect.sleep("1 seconds"), ParseResult.fail(new ParseResult.Type(ast, text))),
          encode: ParseResult.succeed
        })
      }) {}
      const process = yield* member(Slow)
      yield* Slow.enforce({
        request: "first",
        primary: (primary) =>
          Effect.zipRight(
            primary.serve(() => Effect.void),
            Effect.never
          )
      }).pipe(Effect.provide(process.context), abandoned)
      yield* settle
      const [peer, other] = yield* Effect.all([secondary(Slow.key), secondary(Slow.key)])
      yield* peer.say(request("1", "unreadable"))
      yield* peer.expect("Accepted")
      yield* other.say({ _tag: "Status", id: "1", strike: true })
      assert.strictEqual((yield* other.expect("State")).state, "running")
      yield* elapse("1001 millis")
      // Not that it was refused: they were told that it runs.
      for (const each of [peer, other]) {
        const { exit, id } = yield* each.expect("Exit")
        assert.strictEqual(id, "1")
        assert.match(JSON.stringify(exit), /"Die".*the message cannot be read: .*unreadable/)
      }
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("remembers small exits, and of large ones that there was one", () =>
    Effect.gen(function* () {
      yield* leading((text) => Effect.succeed("x".repeat(Number(text))))
      const peer = yield* secondary(Work.key)
      for (const [id, size, kept] of [
        ["1", 3_000, true],
        ["2", 5_000, false]
      ] as const) {
        yield* peer.say(request(id, `${size}`))
        yield* peer.expect("Exit")
        yield* peer.say({ _tag: "Status", id, strike: true })
        const state = yield* peer.expect("State")
        assert.strictEqual(state.state, "done")
        assert.strictEqual(state.exit !== undefined, kept)
      }
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("forgets the oldest of the ended, and never what still runs", () =>
    Effect.gen(function* () {
      const { handler, open, seen } = yield* observed
      yield* leading(handler, { maxRemembered: 8 })
      const peer = yield* secondary(Work.key)
      for (const id of ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]) {
        yield* peer.say(request(id, `wait ${id}`))
        yield* peer.expect("Accepted")
      }
      const stateOf = (id: string) =>
        Effect.zipRight(
          peer.say({ _tag: "Status", id, strike: false }),
          Effect.map(peer.expect("State"), ({ state }) => state)
        )
      // Many ended ones push out neither the running ones nor, at once, each other.
      for (let i = 0; i < 100; i++) {
        yield* peer.say(request(`${i}`, "quick"))
        yield* peer.expect("Exit")
        assert.strictEqual(yield* stateOf(`${i}`), "done")
        if (i >= 8) assert.strictEqual(yield* stateOf(`${i - 7}`), "done")
        if (i >= 8) assert.strictEqual(yield* stateOf(`${i - 8}`), "unknown")
      }
      // What took long is remembered as long as what was quick, from its end on.
      yield* open("wait b")
      yield* peer.expect("Exit")
      for (let i = 100; i < 107; i++) {
        yield* peer.say(request(`${i}`, "quick"))
        yield* peer.expect("Exit")
      }
      assert.strictEqual(yield* stateOf("b"), "done")
      yield* peer.say(request("107", "quick"))
      yield* peer.expect("Exit")
      assert.strictEqual(yield* stateOf("b"), "unknown")
      for (const id of ["a", "j"]) assert.strictEqual(yield* stateOf(id), "running")
      yield* peer.say(request("a", "again"))
      assert.strictEqual((yield* peer.expect("State")).state, "running")
      assert.notInclude(seen, "again")
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("is Busy for who ignores maxInFlight, on that connection alone", () =>
    Effect.gen(function* () {
      const { handler, open, seen } = yield* observed
      yield* leading(handler, { maxInFlight: 2 })
      const peer = yield* secondary(Work.key)
      const other = yield* secondary(Work.key)
      for (const id of ["1", "2", "3"]) yield* peer.say(request(id, `wait ${id}`))
      const refused = (yield* peer.heard).at(-1)
      assert.deepStrictEqual(refused, { _tag: "Refused", reason: "Busy", id: "3" })
      yield* other.say(request("4", "quick"))
      yield* other.expect("Exit")
      yield* open("wait 1")
      yield* peer.expect("Exit")
      // A refused one was never started: it may come again.
      yield* peer.say(request("3", "wait 3"))
      yield* peer.expect("Accepted")
      assert.deepStrictEqual(seen, ["wait 1", "wait 2", "quick", "wait 1 done", "wait 3"])
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("is not Busy for whom it has answered, though its transport has not said so yet", () =>
    Effect.gen(function* () {
      const protocols = accepting((connection) => ({
        ...connection,
        offer: undefined,
        send: (frame) => Effect.zipLeft(connection.send(frame), Effect.sleep("1 seconds"))
      }))
      yield* leading(echo, { maxInFlight: 2, protocols })
      const greeted = yield* Effect.fork(secondary(Work.key))
      yield* pass(3)
      const peer = yield* Fiber.join(greeted)
      for (const ids of [
        ["1", "2"],
        ["3", "4"]
      ]) {
        for (const id of ids) yield* peer.say(request(id, "a"))
        for (const id of ids) assert.strictEqual((yield* peer.expect("Exit")).id, id)
      }
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("keeps a bounded number of answers for who does not read", () =>
    Effect.gen(function* () {
      const handled = yield* Ref.make(0)
      const { primary } = yield* leading(
        () =>
          Effect.as(
            Ref.update(handled, (n) => n + 1),
            "x".repeat(100_000)
          ),
        { maxInFlight: 4 }
      )
      const peer = yield* secondary(Work.key)
      const flood = yield* Effect.fork(
        Effect.forEach(Array.from({ length: 2_000 }), (_, i) => peer.say(request(`${i}`, "a")))
      )
      yield* settle
      // The transport holds 1 MiB, about 10 answers.
      assert.isBelow(yield* Ref.get(handled), 30)
      const other = yield* secondary(Work.key)
      yield* other.say(request("other", "a"))
      yield* other.expect("Exit")
      // Nor does it hold up the end for longer than the bound.
      const ending = yield* Effect.fork(primary.shutdown)
      yield* settle
      assert.isFalse(yield* isDone(ending))
      yield* pass(20)
      yield* Fiber.join(ending)
      yield* Fiber.interrupt(flood)
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("answers an unknown tag for its id alone", () =>
    Effect.gen(function* () {
      const { handler, open } = yield* observed
      yield* leading(handler)
      const peer = yield* secondary(Work.key)
      yield* peer.say(request("1", "wait"))
      yield* peer.expect("Accepted")
      yield* peer.say({ _tag: "Teleport", id: "2" } as any)
      assert.deepStrictEqual(yield* peer.hear, { _tag: "Unsupported", tag: "Teleport", id: "2" })
      yield* peer.say({ _tag: "Teleport" } as any)
      assert.deepStrictEqual(yield* peer.hear, { _tag: "Unsupported", tag: "Teleport" })
      yield* peer.say({ _tag: "Teleport", id: "" } as any)
      assert.deepStrictEqual(yield* peer.hear, { _tag: "Unsupported", tag: "Teleport" })
      // What only a primary says means nothing from a secondary.
      yield* peer.say({ _tag: "Pong" })
      yield* peer.say({ _tag: "Exit", id: "1", exit: success("forged") })
      yield* peer.say({ _tag: "Ping" })
      yield* peer.expect("Pong")
      yield* open("wait")
      assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("re: wait"))
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("ends a connection that does not keep to the protocol, and interrupts what came over it", () =>
    Effect.gen(function* () {
      const { handler, seen } = yield* observed
      yield* leading(handler)
      for (const bad of [Buffer.of(0xff), Buffer.from("[]"), Buffer.from('{"_tag":"Request"}')]) {
        const peer = yield* secondary(Work.key)
        yield* peer.say(request(`${bad}`, `wait ${bad}`))
        yield* peer.expect("Accepted")
        yield* peer.say(bad)
        const [refused, ...rest] = yield* peer.rest
        assert(refused?._tag === "Refused")
        assert.deepStrictEqual([refused.reason, refused.id], ["Malformed", undefined])
        assert.deepStrictEqual(rest, [])
        yield* settle
        assert.include(seen, `wait ${bad} interrupted`)
      }
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("interrupts a running handler at its sender's wish, and answers when that has ended", () =>
    Effect.gen(function* () {
      const cleaning = yield* Deferred.make<void>()
      yield* leading(() => Effect.onInterrupt(Effect.never, () => Deferred.await(cleaning)))
      const peer = yield* secondary(Work.key)
      const other = yield* secondary(Work.key)
      yield* peer.say(request("1", "a"))
      yield* peer.expect("Accepted")
      yield* other.say({ _tag: "Interrupt", id: "1" })
      yield* other.say({ _tag: "Interrupt", id: "unheard of" })
      assert.deepStrictEqual(yield* peer.heard, [])
      yield* peer.say({ _tag: "Interrupt", id: "1" })
      assert.deepStrictEqual(yield* peer.heard, [])
      yield* Deferred.succeed(cleaning, undefined)
      assertInterrupted(yield* peer.expect("Exit"))
      yield* peer.say({ _tag: "Interrupt", id: "1" })
      yield* peer.say({ _tag: "Ping" })
      yield* peer.expect("Pong")
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("can interrupt a handler that was installed where nothing is interrupted", () =>
    Effect.gen(function* () {
      const { handler, seen } = yield* observed
      const { primary } = yield* leading()
      yield* Effect.uninterruptible(primary.serve(handler))
      const peer = yield* secondary(Work.key)
      yield* peer.say(request("1", "wait"))
      yield* peer.expect("Accepted")
      yield* peer.say({ _tag: "Interrupt", id: "1" })
      yield* peer.expect("Exit")
      assert.include(seen, "wait interrupted")
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("interrupts with the connection, except what is detached", () =>
    Effect.gen(function* () {
      const { handler, open, seen } = yield* observed
      yield* leading(handler)
      yield* Effect.scoped(
        Effect.gen(function* () {
          const peer = yield* secondary(Work.key)
          yield* peer.say(request("1", "wait 1"))
          yield* peer.say(request("2", "wait 2", { detached: true }))
          yield* peer.heard
        })
      )
      yield* settle
      assert.deepStrictEqual(seen, ["wait 1", "wait 2", "wait 1 interrupted"])
      // Who asks for it later gets its exit; who asked and left is not remembered.
      yield* Effect.scoped(
        Effect.gen(function* () {
          const left = yield* secondary(Work.key)
          yield* left.say({ _tag: "Status", id: "2", strike: true })
          yield* left.expect("State")
        })
      )
      const other = yield* secondary(Work.key)
      yield* other.say({ _tag: "Status", id: "1", strike: true })
      const state = yield* other.expect("State")
      assert.strictEqual(state.state, "done")
      assertInterrupted(state)
      yield* other.say({ _tag: "Status", id: "2", strike: true })
      assert.strictEqual((yield* other.expect("State")).state, "running")
      yield* open("wait 2")
      assert.deepStrictEqual((yield* other.expect("Exit")).exit, success("re: wait 2"))
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("ends a conversation that a dead primary had, when all of it is answered", () =>
    Effect.gen(function* () {
      const { handler, open, seen } = yield* observed
      const all = new ProtocolError({ reason: "Disconnected", protocol: "memory", detail: "all", outcome: "Unknown" })
      // Hello, proof and two requests.
      const protocols = accepting((connection) => {
        let taken = 0
        const receive = Effect.tap(connection.receive, ({ length }) => Effect.sync(() => (taken += length)))
        return {
          ...connection,
          recovered: true,
          receiveWith: undefined,
          receive: Effect.suspend(() => (taken < 4 ? receive : all))
        }
      })
      yield* leading(handler, { protocols })
      const peer = yield* secondary(Work.key)
      yield* peer.say(request("1", "once"))
      yield* peer.say(request("2", "wait", { repeatable: true }))
      assert.deepStrictEqual(yield* peer.expect("State"), { _tag: "State", id: "1", state: "unknown" })
      yield* peer.expect("Accepted")
      assert.deepStrictEqual(yield* peer.heard, [])
      assert.deepStrictEqual(seen, ["wait"])
      yield* open("wait")
      assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("re: wait"))
      assert.deepStrictEqual(yield* peer.rest, [])
      assert.deepStrictEqual(seen, ["wait", "wait done"])
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("closes the scope of each request with it", () =>
    Effect.gen(function* () {
      const events: Array<string> = []
      yield* leading((text) =>
        Effect.gen(function* () {
          yield* Effect.addFinalizer(() => Effect.sync(() => events.push(`${text} closed`)))
          events.push(text)
          if (text === "never") yield* Effect.never
          if (text === "fail") return yield* new Refusal({ why: "no" })
          return text
        })
      )
      const peer = yield* secondary(Work.key)
      yield* peer.say(request("1", "a"))
      yield* peer.expect("Exit")
      yield* peer.say(request("2", "fail"))
      yield* peer.expect("Exit")
      yield* peer.say(request("3", "never"))
      yield* peer.expect("Accepted")
      yield* peer.say({ _tag: "Interrupt", id: "3" })
      yield* peer.expect("Exit")
      assert.deepStrictEqual(events, ["a", "a closed", "fail", "fail closed", "never", "never closed"])
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("sends output in order, in pieces that fit, and none to who is gone", () =>
    Effect.gen(function* () {
      const large = Buffer.from(Array.from({ length: 300_000 }, (_, i) => i & 0xff))
      const { handler } = yield* observed
      const after = yield* Deferred.make<void>()
      const written = yield* Deferred.make<void>()
      yield* leading((text, launch) =>
        Effect.gen(function* () {
          yield* launch.stdout("é")
          yield* launch.stderr(Buffer.from([0, 255]))
          yield* launch.stdout("")
          yield* launch.stdout(large)
          yield* Deferred.await(after)
          yield* launch.stdout("unheard")
          yield* Deferred.succeed(written, undefined)
          return yield* handler(text, launch)
        }).pipe(Effect.uninterruptible)
      )
      const closing = yield* Effect.scoped(
        Effect.gen(function* () {
          const peer = yield* secondary(Work.key)
          yield* peer.say(request("1", "a"))
          const heard = (yield* peer.heard).flatMap((message) =>
            message._tag === "Output" ? [[message.stream, Buffer.from(message.chunk, "base64")] as const] : []
          )
          assert.deepStrictEqual(
            heard.slice(0, 2).map(([stream, chunk]) => [stream, chunk.toString("hex")]),
            [
              ["stdout", "c3a9"],
              ["stderr", "00ff"]
            ]
          )
          assert.isAbove(heard.length, 4)
          assert.isTrue(Buffer.concat(heard.slice(2).map(([, chunk]) => chunk)).equals(large))
          return heard.length
        })
      )
      assert.isAbove(closing, 0)
      yield* Deferred.succeed(after, undefined)
      yield* Deferred.await(written)
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("keeps to the smaller limit of both sides, and the connection lives on", () =>
    Effect.gen(function* () {
      yield* leading((text, launch) =>
        text === "output"
          ? Effect.as(launch.stdout("y".repeat(20_000)), "written")
          : Effect.succeed("x".repeat(Number(text)))
      )
      const peer = yield* secondary(Work.key, { maxFrameBytes: 2_000 })
      yield* peer.say(request("1", "3000"))
      assert.match(defectOf(yield* peer.hear), /^the reply has 30\d\d bytes, the limit is 2000$/)
      yield* peer.say(request("2", "output"))
      let output = ""
      while (true) {
        const message = yield* peer.hear
        assert.isAtMost(Message.encode(message as Message.Message).byteLength, 2_000)
        if (message._tag === "Exit") break
        if (message._tag === "Output") output += Buffer.from(message.chunk, "base64").toString()
      }
      assert.strictEqual(output, "y".repeat(20_000))
      yield* peer.say(request("3", "10"))
      assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("x".repeat(10)))
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("keeps the launch of a connection's last request that told one, also of a refused one", () =>
    Effect.gen(function* () {
      const { handler, open } = yield* observed
      yield* leading(
        (text, launch) =>
          text === "who" ? Effect.succeed(`${launch.cwd} ${launch.argv} ${launch.from.pid}`) : handler(text, launch),
        { maxInFlight: 1 }
      )
      const launch = (cwd: string) => ({ argv: ["a", "b"], cwd, env: {} })
      const peer = yield* secondary(Work.key)
      const other = yield* secondary(Work.key)
      yield* peer.say(request("1", "who", { launch: launch("/one") }))
      assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("/one a,b 4711"))
      yield* peer.say(request("2", "who"))
      assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("/one a,b 4711"))
      yield* other.say(request("3", "who"))
      assert.deepStrictEqual((yield* other.expect("Exit")).exit, success("  4711"))
      yield* peer.say(request("4", "wait"))
      yield* peer.say(request("5", "who", { launch: launch("/two") }))
      yield* peer.expect("Accepted")
      assert.strictEqual((yield* peer.expect("Refused")).reason, "Busy")
      yield* open("wait")
      yield* peer.expect("Exit")
      yield* peer.say(request("6", "who"))
      assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("/two a,b 4711"))
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("tells how busy it is", () =>
    Effect.gen(function* () {
      const { handler } = yield* observed
      const { primary } = yield* leading()
      const peer = yield* secondary(Work.key)
      const inspected = (id: string) => Effect.zipRight(peer.say({ _tag: "Inspect", id }), peer.expect("Inspected"))
      const idle = { _tag: "Inspected", connections: 1, inFlight: 0, handled: 0 }
      assert.deepStrictEqual(yield* inspected("1"), { ...idle, id: "1", serving: false } as any)
      yield* primary.serve(handler)
      yield* peer.say(request("2", "quick"))
      yield* peer.expect("Exit")
      yield* peer.say(request("3", "wait"))
      yield* peer.expect("Accepted")
      yield* Effect.scoped(secondary(Work.key))
      yield* settle
      assert.deepStrictEqual(yield* inspected("4"), { ...idle, id: "4", serving: true, inFlight: 1, handled: 1 } as any)
    }).pipe(Effect.provide(simulated()))
  )

  describe("going away", () => {
    it.scoped("refuses newcomers and what waits, and lets what runs end", () =>
      Effect.gen(function* () {
        const { handler, open, seen } = yield* observed
        const { primary } = yield* leading(handler)
        const peer = yield* secondary(Work.key)
        yield* peer.say(request("1", "wait"))
        yield* peer.expect("Accepted")
        const ending = yield* Effect.fork(primary.shutdown)
        const again = yield* Effect.fork(primary.shutdown)
        yield* settle
        const late = yield* stranger(Work.key)
        const refused = yield* greet(late, yield* recordOf(Work.key), Work.key)
        assert(refused._tag === "Refused")
        assert.strictEqual(refused.reason, "ShuttingDown")
        yield* peer.say(request("2", "new"))
        assert.deepStrictEqual(yield* peer.expect("Refused"), { _tag: "Refused", reason: "ShuttingDown", id: "2" })
        // Who asks what became of a request is told, all the same.
        yield* peer.say({ _tag: "Status", id: "2", strike: true })
        assert.strictEqual((yield* peer.expect("State")).state, "struck")
        assert.isFalse(yield* isDone(ending))
        assert.isFalse(yield* isDone(again))
        yield* open("wait")
        yield* Fiber.join(ending)
        yield* Fiber.join(again)
        assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("re: wait"))
        assert.deepStrictEqual(seen, ["wait", "wait done"])
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("tells requests that no handler was there for", () =>
      Effect.gen(function* () {
        const { handler, seen } = yield* observed
        const { primary } = yield* leading()
        const peer = yield* secondary(Work.key)
        yield* peer.say(request("1", "a"))
        yield* peer.expect("Starting")
        yield* primary.shutdown
        assert.deepStrictEqual(yield* peer.expect("Refused"), { _tag: "Refused", reason: "ShuttingDown", id: "1" })
        yield* primary.serve(handler)
        yield* settle
        assert.deepStrictEqual(seen, [])
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("denies nothing to whom it could not send an answer", () =>
      Effect.gen(function* () {
        const { handler, seen } = yield* observed
        const protocols = accepting((connection) => ({
          ...connection,
          offer: undefined,
          send: (frame) => (Buffer.from(frame).includes('"Exit"') ? Effect.fail(full) : connection.send(frame))
        }))
        const full = new ProtocolError({ reason: "Busy", protocol: "memory", detail: "full", outcome: "NotDelivered" })
        const { fiber } = yield* leading(handler, { protocols })
        const [peer, idle] = yield* Effect.all([secondary(Work.key), secondary(Work.key)])
        yield* peer.say(request("1", "a"))
        yield* settle
        assert.deepStrictEqual(seen, ["a"])
        yield* Effect.fork(Fiber.interrupt(fiber))
        yield* settle
        // Nothing of theirs was looked at.
        assert.deepStrictEqual(yield* idle.rest, [{ _tag: "Refused", reason: "ShuttingDown" }])
        assert.deepStrictEqual(yield* peer.rest, [])
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("starts nothing that was refused while others were started", () =>
      Effect.gen(function* () {
        const seen: Array<string> = []
        const { primary } = yield* leading()
        const peer = yield* secondary(Work.key)
        for (const id of ["1", "2"]) yield* peer.say(request(id, id))
        assert.deepStrictEqual(tags(yield* peer.heard), ["Starting", "Starting"])
        const handler: WorkHandler = (text) => {
          seen.push(text)
          Effect.runFork(primary.shutdown)
          return Effect.succeed(text)
        }
        yield* primary.serve(handler)
        yield* settle
        assert.deepStrictEqual(
          (yield* peer.heard).map((message) => [message._tag, (message as any).id]),
          [
            ["Exit", "1"],
            ["Refused", "2"]
          ]
        )
        assert.deepStrictEqual(seen, ["1"])
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("interrupts what outlasts the bound, and does not wait for ever for what cannot be", () =>
      Effect.gen(function* () {
        const { handler, seen } = yield* observed
        const { fiber, primary } = yield* leading(
          (text, launch) => (text === "stubborn" ? Effect.uninterruptible(Effect.never) : handler(text, launch)),
          { drain: "10 seconds" }
        )
        const peer = yield* secondary(Work.key)
        yield* peer.say(request("1", "wait"))
        yield* peer.expect("Accepted")
        yield* peer.say(request("2", "stubborn"))
        yield* peer.expect("Accepted")
        const ending = yield* Effect.fork(primary.shutdown)
        yield* elapse("9999 millis")
        yield* settle
        assert.deepStrictEqual(seen, ["wait"])
        yield* elapse("1 millis")
        yield* settle
        assert.deepStrictEqual(seen, ["wait", "wait interrupted"])
        assertInterrupted(yield* peer.expect("Exit"))
        assert.isFalse(yield* isDone(ending))
        yield* pass(6)
        yield* Fiber.join(ending)
        // The same where the whole program is interrupted, as by SIGTERM.
        const interrupting = yield* Effect.fork(Fiber.interrupt(fiber))
        yield* pass(20)
        yield* Fiber.join(interrupting)
        assert.isTrue((yield* recordOf(Work.key)).released)
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("drains also when its program is interrupted, while the primary's own effect is interrupted first", () =>
      Effect.gen(function* () {
        const events: Array<string> = []
        const process = yield* member(Work)
        const gate = yield* Deferred.make<void>()
        const ready = yield* Deferred.make<void>()
        const fiber = yield* Work.enforce({
          request: "first",
          primary: (primary) =>
            Effect.gen(function* () {
              yield* Effect.addFinalizer(() => Effect.sync(() => events.push("resource closed")))
              yield* primary.serve(() =>
                Effect.zipRight(
                  Deferred.await(gate),
                  Effect.sync(() => `handled, ${events.push("handled")}`)
                )
              )
              yield* Deferred.succeed(ready, undefined)
              return yield* Effect.onInterrupt(Effect.never, () =>
                Effect.zipRight(
                  Effect.sleep("1 seconds"),
                  Effect.sync(() => events.push("effect interrupted"))
                )
              )
            })
        }).pipe(Effect.provide(process.context), abandoned)
        yield* Deferred.await(ready)
        const peer = yield* secondary(Work.key)
        yield* peer.say(request("1", "a"))
        yield* peer.expect("Accepted")
        yield* Fiber.interruptFork(fiber)
        yield* elapse("1 seconds")
        yield* settle
        assert.deepStrictEqual(events, ["effect interrupted"])
        yield* Deferred.succeed(gate, undefined)
        yield* peer.expect("Exit")
        yield* Fiber.await(fiber)
        assert.deepStrictEqual(events, ["effect interrupted", "handled", "resource closed"])
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("drains before its connections close, where a scope of one's own ends it", () =>
      Effect.gen(function* () {
        const { handler, open, seen } = yield* observed
        const process = yield* member(Work)
        const elected = yield* Deferred.make<void>()
        const fiber = yield* Effect.gen(function* () {
          const verdict = yield* process.instance.elect("first")
          assert(verdict._tag === "Primary")
          yield* verdict.serve(handler)
          yield* Deferred.succeed(elected, undefined)
          return yield* Effect.never
        }).pipe(Effect.scoped, abandoned)
        yield* Deferred.await(elected)
        const peer = yield* secondary(Work.key)
        yield* peer.say(request("1", "wait"))
        yield* peer.expect("Accepted")
        yield* Fiber.interruptFork(fiber)
        yield* settle
        yield* peer.say(request("2", "new"))
        assert.strictEqual((yield* peer.expect("Refused")).reason, "ShuttingDown")
        yield* open("wait")
        assert.deepStrictEqual((yield* peer.expect("Exit")).exit, success("re: wait"))
        yield* Fiber.await(fiber)
        assert.deepStrictEqual(seen, ["wait", "wait done"])
        assert.isTrue((yield* recordOf(Work.key)).released)
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("having lost the lock it interrupts at once, and refuses as NotPrimary", () =>
      Effect.gen(function* () {
        const { handler, seen } = yield* observed
        const { primary } = yield* leading(handler)
        const record = yield* recordOf(Work.key)
        const peer = yield* secondary(Work.key)
        yield* peer.say(request("1", "wait"))
        yield* peer.expect("Accepted")
        const late = yield* stranger(Work.key)
        const { removeRecord } = yield* TestSingleInstance.TestMachine
        const lost = yield* Effect.fork(Effect.flip(primary.lost))
        yield* removeRecord(Work.key)
        assert.strictEqual((yield* Fiber.join(lost)).reason, "Lost")
        assertInterrupted(yield* peer.expect("Exit"))
        assert.deepStrictEqual(seen, ["wait", "wait interrupted"])
        const greeted = yield* Effect.either(greet(late, record, Work.key))
        // Its program ends as well, so that it may be gone before it says so.
        if (greeted._tag === "Right") {
          assert(greeted.right._tag === "Refused")
          assert.strictEqual(greeted.right.reason, "NotPrimary")
        }
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("refuses as NotPrimary for as long as a program goes on that lost the lock", () =>
      Effect.gen(function* () {
        const process = yield* member(Work)
        const verdict = yield* process.instance.elect("first")
        assert(verdict._tag === "Primary")
        yield* verdict.serve(echo)
        const record = yield* recordOf(Work.key)
        const peer = yield* secondary(Work.key)
        const late = yield* stranger(Work.key)
        yield* (yield* TestSingleInstance.TestMachine).removeRecord(Work.key)
        assert.strictEqual((yield* Effect.flip(verdict.lost)).reason, "Lost")
        yield* settle
        yield* peer.say(request("1", "a"))
        assert.deepStrictEqual(yield* peer.expect("Refused"), { _tag: "Refused", reason: "NotPrimary", id: "1" })
        const refused = yield* greet(late, record, Work.key)
        assert(refused._tag === "Refused")
        assert.strictEqual(refused.reason, "NotPrimary")
      }).pipe(Effect.provide(simulated()))
    )
  })
})

/** A session with a puppet, and the puppet's end of it. */
const session = (options: MemberOptions = {}, welcome?: Partial<typeof Message.Welcome.Type>) =>
  Effect.gen(function* () {
    const puppeteer = yield* puppet(Work.key)
    const process = yield* member(Work, options)
    const connecting = yield* Effect.forkScoped(process.instance.connect)
    const peer = yield* puppeteer.serve(welcome)
    return { puppeteer, process, peer, client: yield* Fiber.join(connecting) }
  })

/** Runs in a fiber, as far as it gets. */
const started = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.zipLeft(Effect.fork(effect), settle)

const exitOf = <A, E>(fiber: Fiber.RuntimeFiber<A, E>) =>
  Effect.gen(function* () {
    yield* settle
    assert.isTrue(yield* isDone(fiber), "it has not ended")
    return yield* Fiber.await(fiber)
  })

const failureIn = <A, E>(fiber: Fiber.RuntimeFiber<A, E>) => Effect.map(exitOf(fiber), failureOf)

const assertTimeout = (
  error: unknown,
  phase: TimeoutError["phase"],
  outcome: TimeoutError["outcome"],
  pid: number | undefined
) => {
  assert(TimeoutError.is(error), String(error))
  assert.deepStrictEqual([error.phase, error.outcome, error.pid], [phase, outcome, pid])
  return error
}

const assertProtocol = (error: unknown, reason: ProtocolError["reason"], outcome: ProtocolError["outcome"]) => {
  assert(ProtocolError.is(error), String(error))
  assert.deepStrictEqual([error.reason, error.outcome], [reason, outcome], error.detail)
  return error
}

describe("the secondary's side", () => {
  const forgeries: Record<string, (peer: Peer, puppeteer: Puppet) => Effect.Effect<unknown, ProtocolError>> = {
    "who does not know the key": (peer, puppeteer) =>
      Effect.flatMap(peer.expect("Hello"), (hello) => peer.say(puppeteer.welcome(hello, { mac: "0".repeat(64) }))),
    "a relay, whose primary listens elsewhere": (peer, puppeteer) =>
      Effect.flatMap(peer.expect("Hello"), (hello) => {
        const welcome = puppeteer.welcome(hello)
        const mac = Message.mac(puppeteer.record.key, "server", {
          recordNonce: puppeteer.record.nonce,
          clientNonce: hello.nonce,
          serverNonce: welcome.nonce,
          clientWire: hello.wire,
          serverWire: welcome.range,
          address: "in-memory://elsewhere"
        })
        return peer.say({ ...welcome, mac })
      }),
    "who sends our own proof back": (peer, puppeteer) =>
      Effect.flatMap(peer.expect("Hello"), (hello) => {
        const welcome = puppeteer.welcome(hello)
        const mac = Message.mac(puppeteer.record.key, "client", {
          recordNonce: puppeteer.record.nonce,
          clientNonce: hello.nonce,
          serverNonce: welcome.nonce,
          clientWire: hello.wire,
          serverWire: welcome.range,
          address: puppeteer.listener.address
        })
        return peer.say({ ...welcome, mac })
      }),
    "who repeats what was said to another": (peer, puppeteer) =>
      Effect.flatMap(peer.expect("Hello"), (hello) => peer.say(puppeteer.welcome({ ...hello, nonce: "0".repeat(32) }))),
    "who changed the versions on the way": (peer, puppeteer) =>
      Effect.flatMap(peer.expect("Hello"), (hello) => peer.say({ ...puppeteer.welcome(hello), range: [1, 9] }))
  }
  for (const [who, forge] of Object.entries(forgeries)) {
    it.scoped(`takes nobody for the primary: ${who}`, () =>
      Effect.gen(function* () {
        const puppeteer = yield* puppet(Work.key)
        const process = yield* member(Work)
        const sending = yield* started(process.instance.send("secret"))
        const peer = yield* puppeteer.accept
        yield* forge(peer, puppeteer)
        assertProtocol(yield* failureIn(sending), "Forbidden", "NotDelivered")
        // Neither a proof nor a payload.
        assert.deepStrictEqual(yield* peer.rest, [])
      }).pipe(Effect.provide(simulated()))
    )
  }

  it.scoped("speaks no version that it does not know", () =>
    Effect.gen(function* () {
      const puppeteer = yield* puppet(Work.key)
      const process = yield* member(Work)
      const sending = yield* started(process.instance.send("a"))
      const peer = yield* puppeteer.accept
      yield* peer.say(puppeteer.welcome(yield* peer.expect("Hello"), { wire: 2, range: [1, 2] }))
      assertProtocol(yield* failureIn(sending), "Incompatible", "NotDelivered")
      assert.deepStrictEqual(yield* peer.rest, [])
    }).pipe(Effect.provide(simulated()))
  )

  for (const reason of ["Incompatible", "Forbidden", "Malformed"] as const) {
    it.scoped(`takes a refusal for final: ${reason}`, () =>
      Effect.gen(function* () {
        const puppeteer = yield* puppet(Work.key)
        const process = yield* member(Work)
        const sending = yield* started(process.instance.send("a"))
        const peer = yield* puppeteer.accept
        yield* peer.expect("Hello")
        yield* peer.say({ _tag: "Refused", reason, detail: "because" })
        const error = assertProtocol(yield* failureIn(sending), reason, "NotDelivered")
        assert.strictEqual(error.detail, "because")
        assert.strictEqual(error.pid, puppeteer.pid)
      }).pipe(Effect.provide(simulated()))
    )
  }

  for (const reason of ["ShuttingDown", "Busy", "NotPrimary"] as const) {
    const size = largeIf(reason !== "Busy")
    it.scoped(`tries again after a refusal that passes, until the time is up: ${reason}${size}`, () =>
      Effect.gen(function* () {
        const puppeteer = yield* puppet(Work.key)
        const process = yield* member(Work, { timeout: "5 seconds" })
        let attempts = 0
        yield* Effect.scoped(
          Effect.gen(function* () {
            const peer = yield* puppeteer.accept
            yield* peer.expect("Hello")
            attempts++
            yield* peer.say({ _tag: "Refused", reason })
          })
        ).pipe(Effect.forever, abandoned)
        const sending = yield* started(process.instance.send("a"))
        yield* pass(4)
        assert.isFalse(yield* isDone(sending))
        yield* pass(2)
        assertProtocol(yield* failureIn(sending), reason, "NotDelivered")
        assert.isAbove(attempts, 20)
      }).pipe(Effect.provide(simulated()))
    )
  }

  it.scoped("hands nothing over that could not be answered in time @large", () =>
    Effect.gen(function* () {
      const puppeteer = yield* puppet(Work.key)
      const process = yield* member(Work, { timeout: "5 seconds" })
      const arrivals: Array<number> = []
      yield* Effect.scoped(
        Effect.gen(function* () {
          const peer = yield* puppeteer.serve()
          const { id } = yield* peer.expect("Request")
          arrivals.push(yield* Clock.currentTimeMillis)
          yield* peer.say({ _tag: "Refused", reason: "Busy", id })
        })
      ).pipe(Effect.forever, abandoned)
      const began = yield* Clock.currentTimeMillis
      const sending = yield* started(process.instance.send("a"))
      yield* pass(6)
      assertProtocol(yield* failureIn(sending), "Busy", "NotDelivered")
      assert.isAbove(arrivals.length, 20)
      assert.isAtMost(Math.max(...arrivals), began + 4_800)
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("tries again where the connection ends before the greeting, for longer than where nobody listens", () =>
    Effect.gen(function* () {
      const puppeteer = yield* puppet(Work.key)
      const process = yield* member(Work, { timeout: "8 seconds" })
      const closing = yield* abandoned(Effect.forever(Effect.scoped(puppeteer.accept)))
      const sending = yield* started(process.instance.send("a"))
      yield* pass(7)
      assert.isFalse(yield* isDone(sending))
      yield* pass(2)
      const error = assertProtocol(yield* failureIn(sending), "AllFailed", "NotDelivered")
      assert.deepStrictEqual(
        error.attempts.map(({ protocol, reason }) => [protocol, reason]),
        [["memory", "Disconnected"]]
      )
      yield* Fiber.interrupt(closing)
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("names a primary that takes no more connections", () =>
    Effect.gen(function* () {
      const { pid } = yield* puppet(Work.key)
      const busy = { reason: "Busy", protocol: "memory", detail: "EAGAIN", outcome: "NotDelivered" } as const
      const process = yield* member(Work, {
        timeout: "2 seconds",
        protocols: (own) => [Layer.succeed(Protocol, { ...own, connect: () => new ProtocolError(busy) })]
      })
      const sending = yield* started(process.instance.send("a"))
      yield* pass(3)
      assert.strictEqual(assertProtocol(yield* failureIn(sending), "Busy", "NotDelivered").pid, pid)
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("gives up after 3 seconds where a living owner listens nowhere", () =>
    Effect.gen(function* () {
      yield* puppet(Work.key, (own) => [new Endpoint({ ...own, address: "in-memory://nowhere" })])
      const process = yield* member(Work)
      const sending = yield* started(process.instance.send("a"))
      yield* pass(2)
      assert.isFalse(yield* isDone(sending))
      yield* pass(2)
      const error = assertProtocol(yield* failureIn(sending), "AllFailed", "NotDelivered")
      assert.deepStrictEqual(
        error.attempts.map(({ address, reason }) => [address, reason]),
        [["in-memory://nowhere", "Unreachable"]]
      )
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("names a primary that does not greet", () =>
    Effect.gen(function* () {
      const puppeteer = yield* puppet(Work.key)
      const process = yield* member(Work, { timeout: "12 seconds", helloTimeout: "5 seconds" })
      const sending = yield* started(process.instance.send("a"))
      yield* pass(11)
      assert.isFalse(yield* isDone(sending))
      yield* pass(2)
      assertTimeout(yield* failureIn(sending), "hello", "NotDelivered", puppeteer.pid)
      // Bounded also where the caller cannot be interrupted.
      const finalizing = yield* started(Effect.uninterruptible(process.instance.send("b")))
      yield* pass(13)
      assertTimeout(yield* failureIn(finalizing), "hello", "NotDelivered", puppeteer.pid)
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("is not fooled by a greeting that is none", () =>
    Effect.gen(function* () {
      const puppeteer = yield* puppet(Work.key)
      const process = yield* member(Work)
      const answers: ReadonlyArray<
        (peer: Peer, hello: typeof Message.Hello.Type) => Effect.Effect<void, ProtocolError>
      > = [
        (peer) => peer.say(Buffer.from("garbage")),
        (peer) => peer.say({ _tag: "Pong" }),
        (peer) => peer.say({ _tag: "Later" }),
        (peer, hello) => peer.say({ ...puppeteer.welcome(hello), maxInFlight: 0 }),
        (peer, hello) => Effect.zipRight(peer.say(puppeteer.welcome(hello)), peer.say({ _tag: "Pong" }))
      ]
      for (const answer of answers) {
        const sending = yield* Effect.fork(process.instance.send("a"))
        const peer = yield* puppeteer.accept
        yield* answer(peer, yield* peer.expect("Hello"))
        assertProtocol(yield* failureIn(sending), "Malformed", "NotDelivered")
        assert.deepStrictEqual(yield* peer.rest, [])
      }
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("knows that nothing was delivered where its proof is refused", () =>
    Effect.gen(function* () {
      const { client, peer } = yield* session()
      const sending = yield* started(client.send("a"))
      yield* peer.expect("Request")
      yield* peer.say({ _tag: "Refused", reason: "Forbidden", detail: "no" })
      assertProtocol(yield* failureIn(sending), "Forbidden", "NotDelivered")
      yield* client.closed
      assertProtocol(failureOf(yield* Effect.exit(client.send("b"))), "Forbidden", "NotDelivered")
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("sends the launch once, and again where the primary may not have it", () =>
    Effect.gen(function* () {
      const { client, peer } = yield* session({ maxFrameBytes: 4_096 })
      const cwds: Array<string | undefined> = []
      const ask = (text: string, launch?: Instance.LaunchOptions) =>
        Effect.gen(function* () {
          const sending = yield* started(client.send(text, { launch }))
          const { id, launch: sent } = yield* peer.expect("Request")
          cwds.push(sent?.cwd)
          yield* peer.say({ _tag: "Exit", id, exit: success("") })
          yield* Fiber.join(sending)
        })
      const here = process.cwd()
      // The one that would have told it is never sent.
      assertProtocol(yield* Effect.flip(client.send("x".repeat(5_000))), "TooLarge", "NotDelivered")
      yield* ask("1")
      yield* ask("2")
      yield* ask("3", { cwd: "/other" })
      yield* ask("4")
      yield* ask("5")
      assert.deepStrictEqual(cwds, [here, undefined, "/other", here, undefined])
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("leaves the launch out only after an answer to a request that carried it", () =>
    Effect.gen(function* () {
      const { client, peer } = yield* session()
      const send = (text: string, launch?: Instance.LaunchOptions) =>
        Effect.gen(function* () {
          const sending = yield* started(client.send(text, { launch }))
          const { id, launch: sent } = yield* peer.expect("Request")
          const answer = Effect.zipRight(
            peer.say({ _tag: "Exit", id, exit: success("") }),
            Effect.asVoid(Fiber.join(sending))
          )
          return { cwd: sent?.cwd, answer }
        })
      const here = process.cwd()
      const [first, second] = [yield* send("1"), yield* send("2")]
      assert.deepStrictEqual([first.cwd, second.cwd], [here, here])
      yield* first.answer
      const third = yield* send("3")
      assert.isUndefined(third.cwd)
      // Answers to what another launch has followed say nothing any more.
      const other = yield* send("4", { cwd: "/other" })
      yield* Effect.zipRight(second.answer, third.answer)
      const fifth = yield* send("5")
      assert.deepStrictEqual([other.cwd, fifth.cwd], ["/other", here])
      yield* other.answer
      const sixth = yield* send("6")
      assert.strictEqual(sixth.cwd, here)
      yield* fifth.answer
      assert.isUndefined((yield* send("7")).cwd)
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("fails before it sends what is too large or no JSON, and serves on", () =>
    Effect.gen(function* () {
      const puppeteer = yield* puppet(Anything.key)
      const process = yield* member(Anything)
      const connecting = yield* Effect.forkScoped(process.instance.connect)
      const peer = yield* puppeteer.serve({ maxFrameBytes: 3_000 })
      const client = yield* Fiber.join(connecting)
      assertProtocol(yield* Effect.flip(client.send("x".repeat(3_000))), "TooLarge", "NotDelivered")
      assertProtocol(yield* Effect.flip(client.send(1n)), "Malformed", "NotDelivered")
      const sending = yield* started(client.send({ fine: true }))
      const sent = yield* peer.expect("Request")
      assert.deepStrictEqual(sent.payload, { fine: true })
      yield* peer.say({ _tag: "Exit", id: sent.id, exit: { _tag: "Success", value: [1] } })
      assert.deepStrictEqual(yield* Fiber.join(sending), [1])
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("concludes nothing about a request from what is unknown about it", () =>
    Effect.gen(function* () {
      const { client, peer } = yield* session()
      const sending = yield* started(client.send("a"))
      const { id } = yield* peer.expect("Request")
      yield* peer.say({ _tag: "Accepted", id })
      yield* peer.say({ _tag: "Unsupported", tag: "Interrupt", id })
      yield* peer.say({ _tag: "Unsupported", tag: "Status", id })
      yield* peer.say({ _tag: "State", id, state: "unknown" })
      yield* peer.say({ _tag: "Progress", id } as any)
      yield* peer.say({ _tag: "Exit", id: "another", exit: success("forged") })
      yield* settle
      assert.isFalse(yield* isDone(sending))
      yield* peer.say({ _tag: "Exit", id, exit: success("re: a") })
      assert.strictEqual(yield* Fiber.join(sending), "re: a")
      // The request itself being unknown is another matter.
      const unsupported = yield* started(client.send("b"))
      yield* peer.say({ _tag: "Unsupported", tag: "Request", id: (yield* peer.expect("Request")).id })
      assertProtocol(yield* failureIn(unsupported), "Unsupported", "NotDelivered")
    }).pipe(Effect.provide(simulated()))
  )

  it.scoped("takes a reply that does not fit the contract for delivered all the same", () =>
    Effect.gen(function* () {
      const { client, peer } = yield* session()
      for (const exit of [
        { _tag: "Success", value: 42 },
        { _tag: "Failure" },
        "nonsense",
        { _tag: "Failure", cause: { _tag: "Fail", error: 1 } }
      ]) {
        const sending = yield* started(client.send("a"))
        yield* peer.say({ _tag: "Exit", id: (yield* peer.expect("Request")).id, exit })
        assertProtocol(yield* failureIn(sending), "Malformed", "Delivered")
      }
    }).pipe(Effect.provide(simulated()))
  )

  describe("waiting", () => {
    it.scoped("asks a primary that does not accept to strike it off, and believes the answer", () =>
      Effect.gen(function* () {
        const { client, peer, puppeteer } = yield* session({ timeout: "20 seconds" })
        const struck = yield* started(client.send("a"))
        const running = yield* started(client.send("b"))
        const ended = yield* started(client.send("c"))
        const ids = [
          (yield* peer.expect("Request")).id,
          (yield* peer.expect("Request")).id,
          (yield* peer.expect("Request")).id
        ]
        const asking = yield* Effect.fork(
          Effect.filterOrElse(
            Effect.repeat(peer.hear, { while: ({ _tag }) => _tag === "Ping" }),
            () => true,
            Effect.succeed
          )
        )
        yield* pass(18)
        assert.isFalse(yield* isDone(asking))
        yield* pass(1)
        const first = yield* Fiber.join(asking)
        assert.deepStrictEqual(first, { _tag: "Status", id: ids[0]!, strike: true })
        assert.deepStrictEqual(yield* peer.hear, { _tag: "Status", id: ids[1]!, strike: true })
        assert.deepStrictEqual(yield* peer.hear, { _tag: "Status", id: ids[2]!, strike: true })
        yield* peer.say({ _tag: "State", id: ids[0]!, state: "struck" })
        yield* peer.say({ _tag: "State", id: ids[1]!, state: "running" })
        yield* peer.say({ _tag: "State", id: ids[2]!, state: "done", exit: success("re: c") })
        const error = assertTimeout(yield* failureIn(struck), "accept", "NotDelivered", puppeteer.pid)
        assert.deepStrictEqual([error.messageId, error.millis], [ids[0], 20_000])
        assert.strictEqual(yield* Fiber.join(ended), "re: c")
        assert.isFalse(yield* isDone(running))
        yield* peer.say({ _tag: "Exit", id: ids[1]!, exit: success("re: b") })
        assert.strictEqual(yield* Fiber.join(running), "re: b")
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("does not know about what a silent primary was handed", () =>
      Effect.gen(function* () {
        const { client, puppeteer } = yield* session({ timeout: "20 seconds" })
        const sending = yield* started(client.send("a"))
        yield* pass(19)
        assert.isFalse(yield* isDone(sending))
        yield* pass(2)
        assertTimeout(yield* failureIn(sending), "accept", "Unknown", puppeteer.pid)
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("is bounded also where a primary that stands still takes no bytes any more", () =>
      Effect.gen(function* () {
        const { client, puppeteer } = yield* session({ timeout: "20 seconds" })
        yield* puppeteer.freeze
        // The transport holds about 1 MiB: these do not fit.
        const large = "x".repeat(600_000)
        const sending = yield* started(
          Effect.all(
            [1, 2, 3, 4].map(() => Effect.either(client.send(large))),
            { concurrency: "unbounded" }
          )
        )
        const small = yield* started(client.send("small"))
        const interrupted = yield* started(client.send("interrupted"))
        const interrupting = yield* started(Fiber.interrupt(interrupted))
        yield* pass(2)
        assert.isTrue(Exit.isInterrupted(yield* Fiber.join(interrupting)))
        yield* pass(19)
        for (const answer of valueOf(yield* exitOf(sending))) {
          assert(answer._tag === "Left")
          assertTimeout(answer.left, "accept", "Unknown", puppeteer.pid)
        }
        assertTimeout(yield* failureIn(small), "accept", "Unknown", puppeteer.pid)
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("waits for a handler for as long as its primary answers pings, and no longer", () =>
      Effect.gen(function* () {
        const { client, peer, puppeteer } = yield* session({ timeout: "20 seconds" })
        const sending = yield* started(client.send("a"))
        const { id } = yield* peer.expect("Request")
        yield* peer.say({ _tag: "Accepted", id })
        const ponging = yield* abandoned(
          Effect.forever(Effect.zipRight(peer.expect("Ping"), peer.say({ _tag: "Pong" })))
        )
        yield* pass(120)
        assert.isFalse(yield* isDone(sending))
        yield* Fiber.interrupt(ponging)
        yield* pass(18)
        assert.isFalse(yield* isDone(sending))
        yield* pass(8)
        const error = assertTimeout(yield* failureIn(sending), "reply", "Unknown", puppeteer.pid)
        assert.deepStrictEqual([error.messageId, error.millis], [id, 20_000])
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("does not take a jump of the clock, or its own standing still, for the primary's silence", () =>
      Effect.gen(function* () {
        const clock = yield* Effect.clock
        let offset = 0
        const jumping: Clock.Clock = Object.create(clock, {
          unsafeCurrentTimeMillis: { value: () => clock.unsafeCurrentTimeMillis() + offset },
          currentTimeMillis: { get: () => Effect.map(clock.currentTimeMillis, (millis) => millis + offset) },
          // Only our own standing still moves the monotonic clock that far.
          unsafeCurrentTimeNanos: { value: () => clock.unsafeCurrentTimeNanos() + BigInt(stoodStill) * 1_000_000n }
        })
        let stoodStill = 0
        const { client, peer } = yield* Effect.withClock(session({ timeout: "20 seconds" }), jumping)
        const accepted = yield* started(client.send("a"))
        const waiting = yield* started(client.send("b"))
        const { id } = yield* peer.expect("Request")
        yield* peer.say({ _tag: "Accepted", id })
        for (const jump of [3_600_000, -7_200_000, 3_600_000]) {
          offset += jump
          stoodStill += Math.max(0, jump)
          yield* pass(2)
        }
        assert.isFalse(yield* isDone(accepted))
        assert.isFalse(yield* isDone(waiting))
        yield* pass(16)
        assertTimeout(yield* failureIn(waiting), "accept", "Unknown", (yield* recordOf(Work.key)).process.pid)
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("waits below what the primary serves at once, in order", () =>
      Effect.gen(function* () {
        const { client, peer } = yield* session({}, { maxInFlight: 2 })
        const sending = yield* started(
          Effect.all(
            ["1", "2", "3", "4", "5"].map((text) => client.send(text)),
            { concurrency: "unbounded" }
          )
        )
        const open = (yield* peer.heard) as Array<Message.Request>
        assert.deepStrictEqual(
          open.map(({ payload }) => payload),
          ["1", "2"]
        )
        const payloads: Array<unknown> = []
        while (open.length > 0) {
          const { id, payload } = open.shift()!
          payloads.push(payload)
          yield* peer.say({ _tag: "Exit", id, exit: success(`re: ${payload}`) })
          open.push(...((yield* peer.heard) as Array<Message.Request>))
          assert.isAtMost(open.length, 2)
        }
        assert.deepStrictEqual(payloads, ["1", "2", "3", "4", "5"])
        assert.deepStrictEqual(yield* Fiber.join(sending), ["re: 1", "re: 2", "re: 3", "re: 4", "re: 5"])
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("passes its turn on where it is interrupted in the instant in which it comes", () =>
      Effect.gen(function* () {
        const { client, peer } = yield* session({}, { maxInFlight: 1 })
        const first = yield* started(client.send("1"))
        const second = yield* started(client.send("2"))
        const third = yield* started(client.send("3"))
        const { id } = yield* peer.expect("Request")
        yield* peer.say({ _tag: "Exit", id, exit: success("re: 1") })
        // It is woken by the end of the first, and has not run since.
        first.addObserver(() => second.unsafeInterruptAsFork(second.id()))
        yield* settle
        assert.strictEqual(yield* Fiber.join(first), "re: 1")
        yield* Fiber.await(second)
        const next = yield* peer.expect("Request")
        yield* peer.say({ _tag: "Exit", id: next.id, exit: success("next") })
        yield* settle
        if (next.payload === "2")
          yield* peer.say({ _tag: "Exit", id: (yield* peer.expect("Request")).id, exit: success("") })
        yield* Fiber.join(third)
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("interrupts the handler and waits for its end, for at most a second", () =>
      Effect.gen(function* () {
        const { client, peer } = yield* session()
        for (const answers of [true, false]) {
          const sending = yield* started(client.send("a"))
          const { id } = yield* peer.expect("Request")
          yield* peer.say({ _tag: "Accepted", id })
          const interrupting = yield* started(Fiber.interrupt(sending))
          assert.deepStrictEqual(yield* peer.hear, { _tag: "Interrupt", id })
          assert.isFalse(yield* isDone(interrupting))
          if (answers) yield* peer.say({ _tag: "Exit", id, exit: { _tag: "Failure", cause: { _tag: "Empty" } } })
          else yield* pass(1)
          yield* settle
          assert.isTrue(yield* isDone(interrupting))
          assert.isTrue(Exit.isInterrupted(yield* Fiber.join(interrupting)))
        }
        // Nothing is left of it: the place is free.
        const { client: narrow, peer: other } = yield* session({}, { maxInFlight: 1 })
        const sending = yield* started(narrow.send("a"))
        yield* other.expect("Request")
        const interrupting = yield* started(Fiber.interrupt(sending))
        yield* pass(2)
        yield* Fiber.join(interrupting)
        yield* other.expect("Interrupt")
        const next = yield* started(narrow.send("b"))
        yield* other.say({ _tag: "Exit", id: (yield* other.expect("Request")).id, exit: success("re: b") })
        assert.strictEqual(yield* Fiber.join(next), "re: b")
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("leaves its place also where it is interrupted twice", () =>
      Effect.gen(function* () {
        const { client, peer } = yield* session({}, { maxInFlight: 1 })
        const sending = yield* started(client.send("a"))
        yield* peer.expect("Request")
        for (let times = 0; times < 2; times++) {
          yield* Fiber.interruptFork(sending)
          yield* settle
        }
        assert.isTrue(Exit.isInterrupted(yield* exitOf(sending)))
        yield* peer.expect("Interrupt")
        const next = yield* started(client.send("b"))
        yield* peer.say({ _tag: "Exit", id: (yield* peer.expect("Request")).id, exit: success("re: b") })
        assert.strictEqual(yield* Fiber.join(next), "re: b")
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("leaves a detached handler alone where the sender is interrupted", () =>
      Effect.gen(function* () {
        const { client, peer } = yield* session()
        const sending = yield* started(client.send("a", { detached: true }))
        const sent = yield* peer.expect("Request")
        assert.isTrue(sent.detached)
        yield* peer.say({ _tag: "Accepted", id: sent.id })
        yield* Fiber.interrupt(sending)
        assert.deepStrictEqual(yield* peer.heard, [])
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("takes its own time over output without accusing the primary", () =>
      Effect.gen(function* () {
        const { client, peer } = yield* session({ timeout: "20 seconds" })
        const chunks: Array<string> = []
        const sending = yield* started(
          client.send("a", {
            onOutput: (stream, chunk) =>
              Effect.zipRight(
                Effect.sleep("1 minute"),
                Effect.sync(() => chunks.push(`${stream} ${Buffer.from(chunk)}`))
              )
          })
        )
        const { id } = yield* peer.expect("Request")
        const chunk = (text: string) => Buffer.from(text).toString("base64")
        yield* peer.say({ _tag: "Output", id, stream: "stdout", chunk: chunk("one") })
        yield* peer.say({ _tag: "Output", id, stream: "stderr", chunk: chunk("two") })
        yield* peer.say({ _tag: "Exit", id, exit: success("re: a") })
        yield* pass(121)
        assert.strictEqual(valueOf(yield* exitOf(sending)), "re: a")
        assert.deepStrictEqual(chunks, ["stdout one", "stderr two"])
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("ends a request whose own output handler dies, and no other", () =>
      Effect.gen(function* () {
        const { client, peer } = yield* session()
        const dying = yield* started(client.send("a", { onOutput: () => Effect.die("broken") }))
        const other = yield* started(client.send("b"))
        const { id } = yield* peer.expect("Request")
        const { id: otherId } = yield* peer.expect("Request")
        yield* peer.say({ _tag: "Output", id, stream: "stdout", chunk: "" })
        const exit = yield* exitOf(dying)
        assert(Exit.isFailure(exit))
        assert.deepStrictEqual([...Cause.defects(exit.cause)], ["broken"])
        assert.deepStrictEqual(yield* peer.hear, { _tag: "Interrupt", id })
        yield* peer.say({ _tag: "Exit", id: otherId, exit: success("re: b") })
        assert.strictEqual(yield* Fiber.join(other), "re: b")
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("is bounded for the reply where the caller says so, and interrupts the handler", () =>
      Effect.gen(function* () {
        const { client, peer, puppeteer } = yield* session()
        const sending = yield* started(client.send("a", { replyTimeout: "3 seconds" }))
        const { id } = yield* peer.expect("Request")
        yield* peer.say({ _tag: "Accepted", id })
        yield* pass(3)
        assert.deepStrictEqual(yield* peer.expect("Interrupt"), { _tag: "Interrupt", id })
        yield* pass(1)
        const error = assertTimeout(yield* failureIn(sending), "reply", "Unknown", puppeteer.pid)
        assert.deepStrictEqual([error.millis, error.messageId], [3_000, id])
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("has no deadline where there is no bound", () =>
      Effect.gen(function* () {
        const { client, peer } = yield* session({ timeout: Duration.infinity })
        const sending = yield* started(client.send("a"))
        const sent = yield* peer.expect("Request")
        assert.isUndefined(sent.deadline)
        yield* pass(60)
        assert.isFalse(yield* isDone(sending))
        yield* peer.say({ _tag: "Exit", id: sent.id, exit: success("re: a") })
        assert.strictEqual(yield* Fiber.join(sending), "re: a")
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("counts the time for acceptance from when it may send", () =>
      Effect.gen(function* () {
        const { client, peer } = yield* session({ timeout: "20 seconds" }, { maxInFlight: 1 })
        const first = yield* started(client.send("1"))
        const second = yield* started(client.send("2"))
        const { id } = yield* peer.expect("Request")
        yield* peer.say({ _tag: "Accepted", id })
        const ponging = yield* abandoned(
          Effect.forever(Effect.zipRight(peer.expect("Ping"), peer.say({ _tag: "Pong" })))
        )
        yield* pass(60)
        yield* Fiber.interrupt(ponging)
        yield* peer.say({ _tag: "Exit", id, exit: success("re: 1") })
        yield* Fiber.join(first)
        const sent = yield* peer.expect("Request")
        const now = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
        assert.strictEqual(sent.deadline, now + 20_000)
        yield* peer.say({ _tag: "Exit", id: sent.id, exit: success("re: 2") })
        assert.strictEqual(yield* Fiber.join(second), "re: 2")
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("gives a session the whole time-out, however long it took to come about", () =>
      Effect.gen(function* () {
        const puppeteer = yield* puppet(Work.key)
        const process = yield* member(Work, { timeout: "20 seconds", helloTimeout: "30 seconds" })
        const connecting = yield* Effect.forkScoped(process.instance.connect)
        const peer = yield* puppeteer.accept
        const hello = yield* peer.expect("Hello")
        yield* pass(19)
        yield* peer.say(puppeteer.welcome(hello))
        yield* peer.expect("Proof")
        const client = yield* Fiber.join(connecting)
        const sending = yield* started(client.send("a"))
        yield* pass(18)
        assert.isFalse(yield* isDone(sending))
        yield* peer.say({ _tag: "Exit", id: (yield* peer.expect("Request")).id, exit: success("re: a") })
        assert.strictEqual(yield* Fiber.join(sending), "re: a")
      }).pipe(Effect.provide(simulated()))
    )
  })

  describe("a lost connection", () => {
    /** A session whose connection is cut after the request was heard. */
    const cutOver = Effect.fnUntraced(function* (options: MemberOptions) {
      const puppeteer = yield* puppet(Work.key)
      const process = yield* member(Work, options)
      const own = yield* Scope.make()
      const connecting = yield* Effect.forkScoped(process.instance.connect)
      const peer = yield* Scope.extend(puppeteer.serve(), own)
      const client = yield* Fiber.join(connecting)
      const sending = yield* started(client.send("a"))
      const { id } = yield* peer.expect("Request")
      return { puppeteer, client, sending, id, cut: Scope.close(own, Exit.void) }
    })
    const cut = cutOver({})
    const busy = new ProtocolError({ reason: "Busy", protocol: "memory", detail: "full", outcome: "NotDelivered" })

    const answers = {
      "Delivered, where the exit is remembered": [
        (id: string) => ({ _tag: "State", id, state: "done", exit: success("re: a") }),
        (exit: Exit.Exit<unknown, unknown>) => assert.strictEqual(valueOf(exit), "re: a")
      ],
      "Unknown, where the exit is not": [
        (id: string) => ({ _tag: "State", id, state: "done" }),
        (exit: Exit.Exit<unknown, unknown>) => assertProtocol(failureOf(exit), "Disconnected", "Unknown")
      ],
      "NotDelivered, where it was struck off": [
        (id: string) => ({ _tag: "State", id, state: "struck" }),
        (exit: Exit.Exit<unknown, unknown>) => assertProtocol(failureOf(exit), "Disconnected", "NotDelivered")
      ],
      "Unknown, where the primary does not remember": [
        (id: string) => ({ _tag: "State", id, state: "unknown" }),
        (exit: Exit.Exit<unknown, unknown>) => assertProtocol(failureOf(exit), "Disconnected", "Unknown")
      ],
      "Unknown, where the primary cannot be asked": [
        (id: string) => ({ _tag: "Unsupported", tag: "Status", id }),
        (exit: Exit.Exit<unknown, unknown>) => assertProtocol(failureOf(exit), "Disconnected", "Unknown")
      ],
      "Unknown, where the primary refuses the second connection's proof": [
        () => ({ _tag: "Refused", reason: "Forbidden" }),
        (exit: Exit.Exit<unknown, unknown>) => assertProtocol(failureOf(exit), "Disconnected", "Unknown")
      ]
    } as const
    for (const [outcome, [answer, check]] of Object.entries(answers)) {
      it.scoped(`is asked about: ${outcome}`, () =>
        Effect.gen(function* () {
          const { client, cut: close, id, puppeteer, sending } = yield* cut
          yield* close
          const again = yield* puppeteer.serve()
          assert.deepStrictEqual(yield* again.hear, { _tag: "Status", id, strike: true })
          yield* again.say(answer(id) as Message.Message)
          const exit = yield* exitOf(sending)
          check(exit)
          if (Exit.isFailure(exit)) assert.strictEqual((failureOf(exit) as ProtocolError).pid, puppeteer.pid)
          // The second connection was for the question only.
          assert.deepStrictEqual(yield* again.rest, [])
          assertProtocol(yield* Effect.flip(client.send("b")), "Disconnected", "NotDelivered")
        }).pipe(Effect.provide(simulated()))
      )
    }

    it.scoped("is Unknown where there is no room for the question", () =>
      Effect.gen(function* () {
        const protocols = connecting((connection) => ({
          ...connection,
          offer: undefined,
          send: (frame) => (Buffer.from(frame).includes('"Status"') ? Effect.fail(busy) : connection.send(frame))
        }))
        const { cut: close, puppeteer, sending } = yield* cutOver({ protocols })
        yield* close
        yield* puppeteer.serve()
        assertProtocol(yield* failureIn(sending), "Disconnected", "Unknown")
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("of a mailbox that it was not posted to has delivered nothing", () =>
      Effect.gen(function* () {
        const gone = new ProtocolError({ ...busy, reason: "Disconnected", outcome: "Unknown" })
        const protocols = connecting((connection) => ({
          ...connection,
          offer: undefined,
          withdraw: () => Effect.succeed(true),
          send: (frame) => (Buffer.from(frame).includes('"Request"') ? Effect.fail(gone) : connection.send(frame))
        }))
        const { client } = yield* session({ protocols })
        assertProtocol(yield* failureIn(yield* started(client.send("a"))), "Disconnected", "NotDelivered")
      }).pipe(Effect.provide(simulated()))
    )

    for (const [result, outcome, isWithdrawn] of [
      ["back", "NotDelivered", true],
      ["not back, as the next one may have it", "Unknown", false]
    ] as const) {
      it.scoped(`of a mailbox whose primary takes nothing more: what it was sent comes ${result}`, () =>
        Effect.gen(function* () {
          const protocols = connecting((connection) => ({
            ...connection,
            withdraw: () => Effect.succeed(isWithdrawn)
          }))
          const { client, peer, puppeteer } = yield* session({ protocols })
          const sending = yield* started(client.send("a"))
          yield* peer.expect("Request")
          yield* peer.say({ _tag: "Refused", reason: "ShuttingDown" })
          yield* settle
          yield* puppeteer.crash
          assertProtocol(yield* failureIn(sending), "ShuttingDown", outcome)
        }).pipe(Effect.provide(simulated()))
      )
    }

    it.scoped("waits for the exit of what still runs", () =>
      Effect.gen(function* () {
        const { cut: close, id, puppeteer, sending } = yield* cut
        yield* close
        const again = yield* puppeteer.serve()
        yield* again.expect("Status")
        yield* again.say({ _tag: "State", id, state: "running" })
        yield* settle
        assert.isFalse(yield* isDone(sending))
        yield* again.say({ _tag: "Exit", id, exit: success("re: a") })
        assert.strictEqual(yield* Fiber.join(sending), "re: a")
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("is Unknown where that connection is lost, too, or nobody answers", () =>
      Effect.gen(function* () {
        const lost = yield* cut
        yield* lost.cut
        yield* Effect.scoped(Effect.flatMap(lost.puppeteer.serve(), (peer) => peer.expect("Status")))
        assertProtocol(yield* failureIn(lost.sending), "Disconnected", "Unknown")

        const silent = yield* cut
        yield* silent.cut
        yield* silent.puppeteer.serve()
        yield* pass(22)
        const error = assertProtocol(yield* failureIn(silent.sending), "Disconnected", "Unknown")
        assert.strictEqual(error.pid, silent.puppeteer.pid)

        const dead = yield* cut
        yield* dead.puppeteer.crash
        const crashed = assertProtocol(yield* failureIn(dead.sending), "Disconnected", "Unknown")
        assert.strictEqual(crashed.pid, dead.puppeteer.pid)
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("is asked about also where the other side broke the framing or the protocol", () =>
      Effect.gen(function* () {
        for (const say of [
          (peer: Peer) => peer.say(Buffer.of(0xff)),
          (peer: Peer) => peer.say({ _tag: "Refused", reason: "Malformed" }),
          (peer: Peer) => peer.say(Buffer.alloc(20_000_000))
        ]) {
          const puppeteer = yield* puppet(Work.key)
          const process = yield* member(Work)
          const connecting = yield* Effect.forkScoped(process.instance.connect)
          const peer = yield* puppeteer.serve()
          const client = yield* Fiber.join(connecting)
          const sending = yield* started(client.send("a"))
          const { id } = yield* peer.expect("Request")
          yield* say(peer)
          yield* settle
          const again = yield* puppeteer.serve()
          yield* again.expect("Status")
          yield* again.say({ _tag: "State", id, state: "struck" })
          assert.strictEqual((yield* failureIn(sending) as Effect.Effect<ProtocolError>).outcome, "NotDelivered")
        }
      }).pipe(Effect.provide(simulated()))
    )

    it.scoped("fails what waits when the conversation is closed on our side", () =>
      Effect.gen(function* () {
        yield* puppet(Work.key)
        const { process, puppeteer } = yield* Effect.all({ process: member(Work), puppeteer: puppet(Work.key) })
        const own = yield* Scope.make()
        const connecting = yield* Effect.forkScoped(Scope.extend(process.instance.connect, own))
        yield* puppeteer.serve({ maxInFlight: 1 })
        const client = yield* Fiber.join(connecting)
        const sent = yield* started(client.send("1"))
        const waiting = yield* started(client.send("2"))
        yield* puppeteer.crash
        yield* Scope.close(own, Exit.void)
        assertProtocol(yield* failureIn(sent), "Disconnected", "Unknown")
        assertProtocol(yield* failureIn(waiting), "Disconnected", "NotDelivered")
        yield* client.closed
      }).pipe(Effect.provide(simulated()))
    )
  })
})
