/**
 * The secondary's side of the conversation: finds an endpoint that serves, proves itself, sends requests and learns what
 * became of them.
 *
 * @since 0.1.0
 */
import { randomBytes } from "node:crypto"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import type { ExitEncoded } from "effect/Schema"
import type * as Scope from "effect/Scope"
import { commonWire, type Endpoint } from "./Endpoint.js"
import type { InstanceId } from "./InstanceId.js"
import type { InstanceRecord } from "./InstanceRecord.js"
import { firstOf } from "./internal/fallback.js"
import { acquireRelease, addFinalizer } from "./internal/finalizer.js"
import * as limit from "./internal/limit.js"
import * as msgPack from "./internal/msgPack.js"
import { pump } from "./internal/pump.js"
import * as runningTime from "./internal/runningTime.js"
import { bytesOf, fits, sizeOf } from "./internal/wire.js"
import * as Message from "./Message.js"
import type { Connection, Protocol } from "./Protocol.js"
import type { SingleInstanceConfig } from "./SingleInstanceConfig.js"
import { type Attempt, type Outcome, ProtocolError, TimeoutError } from "./SingleInstanceError.js"

/**
 * A primary to talk to, and all that is needed for it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Target {
  readonly id: InstanceId
  readonly record: InstanceRecord
  readonly directory: string | null
  readonly protocols: ReadonlyArray<Protocol["Type"]>
  readonly config: SingleInstanceConfig["Type"]
  /** Our own pid, for the other side. */
  readonly pid: number
  /** How long it may still take to find an endpoint that serves, all of them together. */
  readonly remaining: Duration.Duration
  /** How long a message then waits for acceptance. */
  readonly patience: Duration.Duration
  /** Completes when the primary may be gone. */
  readonly gone: Effect.Effect<void>
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Request {
  /** The same over every protocol. */
  readonly id: string
  readonly payload: unknown
  /** Sent only where it is not that of the session's request before. */
  readonly launch: Message.Request["launch"]
  readonly trace: Message.Request["trace"]
  /** The handler goes on where the sender is interrupted or the connection is lost. */
  readonly detached: boolean
  /** Asked for at-least-once delivery. */
  readonly repeatable: boolean
  /** An earlier primary may have had it. */
  readonly redelivered: boolean
  /** Called in order; the primary waits while it runs. */
  readonly onOutput: ((stream: "stdout" | "stderr", chunk: Uint8Array) => Effect.Effect<void>) | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export type Reply = ExitEncoded<unknown, unknown, unknown>

/**
 * A conversation with a primary, after both sides have proven themselves.
 *
 * @since 0.1.0
 * @category models
 */
export interface Session {
  readonly protocol: string
  readonly address: string
  readonly primary: { readonly pid: number; readonly version: string | null; readonly epoch: number }
  /** Sends a request and waits for the exit of its handler; interruption travels. Errors tell the outcome. */
  readonly request: (request: Request) => Effect.Effect<Reply, TimeoutError | ProtocolError>
  /**
   * The same where the caller masks interruption and hands over how to restore it: the request is sent at once, and the
   * effect waits. Its result is what `conclude` makes of the exit, or of the error, as soon as it is known.
   */
  readonly ask: <A, E>(request: Request, conclude: Conclude<A, E>, restore: Restore) => Effect.Effect<A, E>
  /** Asks what became of a request and, where it runs, waits for its exit. One that has not started is struck off. */
  readonly resolve: (id: string) => Effect.Effect<Reply, TimeoutError | ProtocolError>
  /** How busy the primary is. */
  readonly inspect: Effect.Effect<typeof Message.Inspected.Type, TimeoutError | ProtocolError>
  /**
   * Asks for what the primary broadcasts from now on, and gives it to one more reader until the scope closes. The effect
   * that it answers takes all that has come since it was last run, at least one; each with how many were missed before it.
   * A bounded number is kept for each reader, the latest ones, and as many while there is no reader.
   */
  readonly subscribe: Effect.Effect<
    Effect.Effect<ReadonlyArray<Broadcast>, TimeoutError | ProtocolError>,
    TimeoutError | ProtocolError,
    Scope.Scope
  >
  /** Completes when the conversation is over. */
  readonly closed: Effect.Effect<void>
}

/**
 * @since 0.1.0
 * @category models
 */
export type Conclude<A, E> = (
  known: Exit.Exit<Reply, TimeoutError | ProtocolError>,
  request: { readonly id: string; readonly repeatable: boolean; readonly accepted: boolean }
) => Effect.Effect<A, E>

/**
 * What `Effect.uninterruptibleMask` gives.
 *
 * @since 0.1.0
 * @category models
 */
export type Restore = <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>

/**
 * @since 0.1.0
 * @category models
 */
export interface Broadcast {
  readonly payload: unknown
  readonly missed: number
}

type Question = Extract<Message.Message, { readonly _tag: "Request" | "Status" | "Inspect" | "Listen" }>

// Who reads the broadcasts of a conversation.
interface Reader {
  readonly heard: Array<Broadcast>
  wake: (() => void) | undefined
}

// Pushes the oldest out where there is no room.
const keep = (heard: Array<Broadcast>, broadcast: Broadcast): void => {
  heard.push(broadcast)
  if (heard.length <= inboxSize) return
  const { missed } = heard.shift()!
  heard[0] = { ...heard[0]!, missed: heard[0]!.missed + missed + 1 }
}

// A request, a status question or an inspection that waits for its answer.
interface Call {
  readonly id: string
  readonly tag: Question["_tag"]
  readonly since: number
  readonly detached: boolean
  readonly repeatable: boolean
  onOutput: Request["onOutput"]
  // As the transport got it where it did not take it at once, to be withdrawn.
  frame: Uint8Array
  // That it carried to the primary.
  launch: Message.Request["launch"]
  accepted: boolean
  asked: boolean
  // While the transport has not taken it.
  sending: Fiber.RuntimeFiber<void, ProtocolError> | undefined
  conclude: Conclude<any, any> | undefined
  result: Effect.Effect<any, any> | undefined
  resume: ((result: Effect.Effect<any, any>) => void) | undefined
}

const nothing = new Uint8Array(0)
const interruptMillis = 1_000
// How many broadcasts wait for a caller that is slow to take them.
const inboxSize = 256

/**
 * The first endpoint of the record that serves, in the record's order. The next one is tried only where one is not there
 * or does not answer; a refusal by the primary is final. A failed attempt leaves nothing open. Each waits for
 * `helloTimeout` at most, and for no more than its share of the time that remains.
 *
 * @since 0.1.0
 * @category constructors
 */
export const connect = (target: Target): Effect.Effect<Session, TimeoutError | ProtocolError, Scope.Scope> => {
  const remaining = Duration.toMillis(target.remaining)
  return limit.measured(remaining, (now) => {
    const pid = target.record.process.pid
    const { endpoints } = target.record
    const ends = now() + remaining
    const helloMillis = Duration.toMillis(target.config.helloTimeout)
    return firstOf(
      endpoints.map((endpoint, index) =>
        Effect.suspend(() => {
          const share = (ends - now()) / (endpoints.length - index)
          return attempt(target, endpoint, Math.max(1, Math.round(Math.min(helloMillis, share))))
        })
      ),
      {
        isFinal: (error) => error._tag === "ProtocolError" && !fallbackReasons.has(error.reason),
        onNone: (errors) => {
          const attempts = errors.map((error, index): Attempt => {
            const { address, protocol } = endpoints[index]!
            const detail =
              error._tag === "ProtocolError" ? error.detail : `no answer within ${Math.ceil(error.millis)} ms`
            return { protocol, address, reason: error.reason, detail }
          })
          // A primary that is there and keeps silent is what the caller should know of first.
          const silent = errors.filter((error) => error._tag === "TimeoutError")
          if (silent.length > 0) {
            const millis = silent.reduce((sum, { millis }) => sum + millis, 0)
            return new TimeoutError({ ...silent[0]!, millis, attempts })
          }
          return new ProtocolError({
            reason: "AllFailed",
            protocol: target.protocols.map((protocol) => protocol.name).join(", ") || "none",
            detail:
              attempts.length === 0
                ? "the primary takes no messages: it has no endpoint"
                : `no endpoint of the primary serves (${attempts.map(({ detail, protocol }) => `${protocol}: ${detail}`).join("; ")})`,
            outcome: "NotDelivered",
            pid,
            attempts
          })
        }
      }
    )
  })
}

// Not there, or not for us. What the primary itself refuses is final.
const fallbackReasons: ReadonlySet<ProtocolError["reason"]> = new Set([
  "Unavailable",
  "Unreachable",
  "EndpointOccupied",
  "Disconnected"
])

const attempt = Effect.fnUntraced(function* (
  target: Target,
  endpoint: Endpoint,
  millis: number
): Effect.fn.Return<Session, TimeoutError | ProtocolError, Scope.Scope> {
  const { config, id, record } = target
  const pid = record.process.pid
  const failed = (reason: ProtocolError["reason"], detail: string) =>
    new ProtocolError({ reason, protocol: endpoint.protocol, detail, outcome: "NotDelivered", pid })
  const protocol = target.protocols.find((candidate) => candidate.name === endpoint.protocol)
  if (protocol === undefined) return yield* failed("Unavailable", "this launch was not given the protocol")
  const within = <A, E, R>(phase: "connect" | "hello", effect: Effect.Effect<A, E, R>) =>
    limit.timeoutFail(effect, {
      millis,
      onTimeout: () => new TimeoutError({ phase, id, millis, pid, outcome: "NotDelivered" })
    })
  const { directory } = target
  const { maxFrameBytes } = config
  const connection = yield* within(
    "connect",
    // A protocol knows of no pids.
    Effect.mapError(
      protocol.connect(endpoint.address, { id, directory, maxFrameBytes, gone: target.gone }),
      (error) => new ProtocolError({ ...error, pid: error.pid ?? pid })
    )
  )
  const client = { pid: target.pid, version: config.version, maxFrameBytes }
  const encoding = config.encoding === "msgpack" && (yield* msgPack.load) ? config.encoding : undefined
  const hello: typeof Message.Hello.Type = {
    _tag: "Hello",
    wire: Message.wire,
    id,
    nonce: randomBytes(16).toString("hex"),
    ...(encoding === undefined ? undefined : { encoding })
  }
  if (connection.vouched === true) {
    yield* connection.trust
    yield* connection.send(Message.encode({ ...hello, client, primary: record.nonce }))
    const { process, version, epoch } = record
    const { maxInFlight } = config
    return yield* converse(target, endpoint, connection, {
      pid: process.pid,
      version,
      epoch,
      maxInFlight,
      maxFrameBytes
    })
  }
  const greeting = Effect.gen(function* () {
    yield* connection.send(Message.encode(hello))
    const [welcome, behind] = Either.getOrElse(
      Either.all((yield* connection.receive).slice(0, 2).map(Message.decode)),
      (detail) => [{ _tag: "Garbage", detail } as const]
    )
    if (welcome === undefined || welcome._tag === "Garbage") {
      return yield* failed("Malformed", welcome?.detail ?? "an empty greeting")
    }
    // A primary that goes away just now may say so right behind its Welcome.
    const refused = welcome._tag === "Refused" ? welcome : behind?._tag === "Refused" ? behind : undefined
    if (refused !== undefined) return yield* failed(refusals[refused.reason], refused.detail ?? refused.reason)
    if (welcome._tag !== "Welcome" || behind !== undefined) {
      return yield* failed("Malformed", `${(behind ?? welcome)._tag} is no greeting`)
    }
    if (commonWire(Message.wire, [welcome.wire, welcome.wire]) === undefined) {
      return yield* failed("Incompatible", `the primary chose wire ${welcome.wire}, we speak ${Message.wire}`)
    }
    const transcript: Message.Transcript = {
      recordNonce: record.nonce,
      clientNonce: hello.nonce,
      serverNonce: welcome.nonce,
      clientWire: Message.wire,
      serverWire: welcome.range,
      address: endpoint.address
    }
    if (!Message.isSameMac(welcome.mac, Message.mac(record.key, "server", transcript))) {
      return yield* failed("Forbidden", "whoever listens there is not the process of the record")
    }
    yield* connection.trust
    const mac = Message.mac(record.key, "client", transcript)
    yield* connection.send(Message.encode({ _tag: "Proof", mac, ...client }))
    return welcome
  })
  const welcome = yield* within("hello", greeting).pipe(
    // A surplus connection is closed before the greeting, and so is one of a primary that just dies.
    Effect.mapError((error) =>
      error._tag === "ProtocolError" ? new ProtocolError({ ...error, outcome: "NotDelivered", pid }) : error
    )
  )
  return yield* converse(target, endpoint, connection, welcome)
})

const refusals = {
  Incompatible: "Incompatible",
  Forbidden: "Forbidden",
  ShuttingDown: "ShuttingDown",
  Busy: "Busy",
  NotPrimary: "NotPrimary",
  Malformed: "Malformed",
  Expired: "Expired"
} as const

// An answer to another kind of question is none.
const isAbout = (question: Question["_tag"], answer: string): boolean =>
  answer === "Inspected"
    ? question === "Inspect"
    : answer === "Listening"
      ? question === "Listen"
      : answer === "Refused" || answer === "Unsupported" || question === "Request" || question === "Status"

// These say that a request has arrived, with all that it carried.
const isAnswer: ReadonlySet<string> = new Set(["Accepted", "Output", "Exit"])

// Who answers there, and what it takes.
type Greeting = Pick<
  typeof Message.Welcome.Type,
  "pid" | "version" | "epoch" | "maxInFlight" | "maxFrameBytes" | "encoding"
>

const converse = Effect.fnUntraced(function* (
  target: Target,
  endpoint: Endpoint,
  connection: Connection,
  greeting: Greeting
): Effect.fn.Return<Session, never, Scope.Scope> {
  const { config, id } = target
  const clock = yield* Effect.clock
  const silentMillis = Duration.toMillis(config.timeout)
  const millis = Duration.toMillis(target.patience)
  // Another one where the transport keeps messages for whoever is primary then.
  let welcome = greeting
  let greeted = connection.vouched !== true
  const { withdraw } = connection
  const readers = new Set<Reader>()
  // While nobody reads; the next reader gets it.
  let unread: Array<Broadcast> = []
  let isListening = false
  const fork = Runtime.runFork(Runtime.enableRuntimeFlag(yield* Effect.runtime<never>(), RuntimeFlags.Interruption))
  const calls = new Map<string, Call>()
  const waiting = new Set<() => void>()
  const closing = new Set<() => void>()
  const tickMillis = runningTime.tickMillis(millis)
  const ran = runningTime.start(() => limit.monotonicMillis(clock), tickMillis)
  const { now } = ran
  let heard = 0
  let isUsed = false
  let ticking: Fiber.RuntimeFiber<unknown> | undefined
  let consuming = false
  let pinging: Fiber.RuntimeFiber<void> | undefined
  // The launch that was sent last, and the one that the primary answered to since: only that may be left out of a request. A
  // transport that keeps messages may have another receiver for the next one.
  let sentLaunch: Message.Request["launch"]
  let heardLaunch: Message.Request["launch"]
  const isKept = connection.vouched === true || withdraw !== undefined
  let over: ProtocolError | undefined

  const failed = (reason: ProtocolError["reason"], detail: string, outcome: Outcome, cause?: unknown) =>
    new ProtocolError({ reason, protocol: endpoint.protocol, detail, outcome, pid: welcome.pid, cause })
  const timedOut = (phase: TimeoutError["phase"], call: Call, outcome: Outcome, limit = millis) =>
    new TimeoutError({ phase, id, millis: limit, pid: welcome.pid, outcome, messageId: call.id })

  const next = () => {
    for (const wake of waiting) {
      waiting.delete(wake)
      return wake()
    }
  }

  const finish = (call: Call, known: Exit.Exit<any, TimeoutError | ProtocolError>) => {
    if (call.result !== undefined) return
    calls.delete(call.id)
    call.sending?.unsafeInterruptAsFork(FiberId.none)
    const { conclude, resume } = call
    const result = conclude?.(known, call) ?? known
    resume?.(result)
    // As in `Primary`: nothing may hold what the map has held.
    call.result = resume === undefined ? result : Effect.void
    call.resume = undefined
    call.conclude = undefined
    call.frame = nothing
    call.launch = undefined
    call.onOutput = undefined
    next()
  }
  const fail = (call: Call, error: TimeoutError | ProtocolError) => finish(call, Exit.fail(error))
  // A primary that had accepted it contradicts itself: then nothing is certain.
  const decline = (call: Call, reason: ProtocolError["reason"], detail: string) =>
    fail(
      call,
      call.accepted
        ? failed(reason, `the primary had accepted the message, and now says: ${detail}`, "Unknown")
        : failed(reason, detail, "NotDelivered")
    )

  const onMessage = (message: Message.Message | Message.Unrecognised): Effect.Effect<void> | undefined => {
    if (message._tag === "Welcome" && connection.vouched === true) {
      // What its predecessor accepted died with that.
      if (greeted && message.epoch !== welcome.epoch) {
        for (const call of [...calls.values()]) {
          if (call.accepted) fail(call, failed("Disconnected", "another process is the primary now", "Unknown"))
        }
      }
      greeted = true
      welcome = message
      return undefined
    }
    if (message._tag === "Broadcast") {
      hear({ payload: message.payload, missed: message.missed ?? 0 })
      return undefined
    }
    const call = "id" in message && message.id !== undefined ? calls.get(message.id) : undefined
    if (call === undefined || !isAbout(call.tag, message._tag)) return undefined
    if (isAnswer.has(message._tag) && call.launch === sentLaunch && !isKept) heardLaunch = sentLaunch
    switch (message._tag) {
      case "Exit":
        finish(call, Exit.succeed(message.exit))
        return undefined
      case "Accepted":
        call.accepted = true
        return undefined
      case "Output":
        call.accepted = true
        return call.onOutput && consume(call, call.onOutput(message.stream, Buffer.from(message.chunk, "base64")))
      case "Refused":
        // A question that was declined says nothing of the message that it is about.
        if (call.tag === "Status")
          fail(call, failed(refusals[message.reason], message.detail ?? message.reason, "Unknown"))
        else decline(call, refusals[message.reason], message.detail ?? "the primary declined the message")
        return undefined
      case "State":
        onState(call, message)
        return undefined
      case "Inspected":
      case "Listening":
        finish(call, Exit.succeed(message))
        return undefined
      case "Unsupported":
        // What was said about the call later, such as an interruption, may be unknown as well.
        if (message.tag === call.tag) {
          const detail = `the primary does not know ${message.tag}`
          if (call.tag === "Status") fail(call, failed("Unsupported", detail, "Unknown"))
          else decline(call, "Unsupported", detail)
        }
        return undefined
      default:
        return undefined
    }
  }

  // A defect of the caller's own ends the caller's request, not the conversation.
  const consume = (call: Call, output: Effect.Effect<void>) =>
    Effect.catchAllCause(output, (cause) => {
      finish(call, Exit.failCause(cause))
      return say({ _tag: "Interrupt", id: call.id })
    })

  const onState = (call: Call, message: Message.State) => {
    switch (message.state) {
      case "unknown":
        return call.tag === "Status" || connection.vouched === true
          ? fail(call, failed("Disconnected", "the primary cannot tell what became of it", "Unknown"))
          : undefined
      case "struck":
        return call.tag === "Request" && call.asked && !call.accepted
          ? fail(call, timedOut("accept", call, "NotDelivered"))
          : decline(call, "Disconnected", "the primary never started it, and will not")
      case "running":
        call.accepted = true
        return
      case "done":
        call.accepted = true
        return message.exit === undefined
          ? fail(call, failed("Disconnected", "its handler ended, but the primary keeps its exit no more", "Unknown"))
          : finish(call, Exit.succeed(message.exit))
    }
  }

  const hear = (broadcast: Broadcast) => {
    if (readers.size === 0) keep(unread, broadcast)
    for (const reader of readers) {
      keep(reader.heard, broadcast)
      reader.wake?.()
    }
  }

  // Whether nobody ever had it, as far as the transport can say.
  const takeBack = (call: Call): Effect.Effect<boolean> =>
    withdraw === undefined || call.accepted || call.frame === nothing ? Effect.succeed(false) : withdraw(call.frame)

  const end = (error: ProtocolError) =>
    Effect.suspend(() => {
      // A transport does not know whom it lost.
      over ??= new ProtocolError({ ...error, pid: welcome.pid })
      const lost = over
      for (const resume of [...waiting, ...closing]) resume()
      for (const { wake } of readers) wake?.()
      waiting.clear()
      return Effect.forEach(
        [...calls.values()],
        (call) =>
          Effect.map(takeBack(call), (withdrawn) => {
            // A mailbox outlives a primary that takes nothing more: the next one has what cannot be taken back.
            const doubted = withdraw === undefined ? lost.outcome : "Unknown"
            const outcome =
              call.tag === "Status" || call.accepted
                ? "Unknown"
                : call.tag === "Request" && !withdrawn
                  ? doubted
                  : "NotDelivered"
            fail(call, new ProtocolError({ ...lost, outcome }))
          }),
        { discard: true }
      )
    })

  const onFrame = (frame: Uint8Array): Effect.Effect<void, ProtocolError> => {
    const decoded = Message.decode(frame)
    if (Either.isLeft(decoded)) return failed("Malformed", decoded.left, "Unknown")
    const message = decoded.right
    heard = now()
    if (message._tag === "Refused" && message.id === undefined) {
      // The connection as a whole: what is not accepted was not looked at, unless the primary stumbled over it.
      const outcome = message.reason === "Malformed" ? "Unknown" : "NotDelivered"
      return failed(refusals[message.reason], message.detail ?? message.reason, outcome)
    }
    const output = onMessage(message)
    if (output === undefined) return Effect.void
    consuming = true
    return Effect.tap(output, () => {
      consuming = false
      heard = now()
    })
  }

  const say = (message: Message.Message) => Effect.ignore(connection.send(Message.encode(message, welcome.encoding)))

  // One timer for all that waits: asks silent primaries for a sign of life and puts a bound to waiting for acceptance.
  // What it says is not waited for: a primary that stands still takes nothing more.
  const strikeMillis = millis - Math.min(1_000, millis / 4)
  const tick = Effect.sync(() => {
    const time = now()
    // It is not the primary that keeps silent while our own caller takes its time.
    if (consuming || calls.size === 0) return
    if (time - heard >= silentMillis / 4 && (pinging === undefined || pinging.unsafePoll() !== null)) {
      pinging = fork(say({ _tag: "Ping" }))
    }
    for (const call of [...calls.values()]) {
      if (call.accepted) {
        if (time - heard >= silentMillis) fail(call, timedOut("reply", call, "Unknown", silentMillis))
      } else if (time - call.since >= millis) {
        fail(call, timedOut(call.tag === "Request" ? "accept" : "reply", call, "Unknown"))
      } else if (time - call.since >= strikeMillis && call.tag === "Request" && !call.asked) {
        call.asked = true
        const ask = say({ _tag: "Status", id: call.id, strike: !call.repeatable })
        const giveUp = Effect.sync(() => fail(call, timedOut("accept", call, "NotDelivered")))
        fork(withdraw === undefined ? ask : Effect.if(takeBack(call), { onTrue: () => giveUp, onFalse: () => ask }))
      }
    }
  })

  yield* pump(connection, onFrame).pipe(Effect.catchAll(end), Effect.interruptible, Effect.forkScoped)
  // It runs while something waits, or did a moment ago: an idle conversation costs nothing.
  const ticks = Effect.repeat(Effect.zipRight(limit.step(ran, tickMillis), tick), {
    while: () => {
      const goesOn = calls.size > 0 || isUsed
      isUsed = false
      if (!goesOn) ticking = undefined
      return goesOn
    }
  })
  const use = () => {
    isUsed = true
    if (ticking !== undefined) return
    ran.tick(tickMillis)
    ticking = fork(ticks)
  }
  yield* addFinalizer(() =>
    Effect.suspend(() => {
      ticking?.unsafeInterruptAsFork(FiberId.none)
      return end(failed("Disconnected", "the conversation is over", "Unknown"))
    })
  )

  const outcome = (call: Call): Effect.Effect<any, any> =>
    Effect.async((resume) => {
      if (call.result !== undefined) return resume(call.result)
      call.resume = resume
    })

  const interrupt = (call: Call) =>
    Effect.suspend(() => {
      if (call.result !== undefined || over !== undefined) return Effect.void
      // Nobody asks any more what it means.
      call.conclude = undefined
      const leave = Effect.sync(() => finish(call, Exit.interrupt(FiberId.none)))
      if (call.tag !== "Request" || call.detached) return leave
      const stop = Effect.zipRight(say({ _tag: "Interrupt", id: call.id }), Effect.ignore(outcome(call)))
      const stopped = withdraw === undefined ? stop : Effect.unlessEffect(stop, takeBack(call))
      return stopped.pipe(
        // This is a finalizer: what waits in it must be interruptible to have a bound.
        (stopping) => limit.timeoutOption(stopping, interruptMillis),
        // Also where another interruption ends that.
        Effect.ensuring(leave)
      )
    })

  const room = Effect.async<void>((resume) => {
    const wake = () => resume(Effect.void)
    waiting.add(wake)
    return Effect.sync(() => {
      // Who is interrupted after it was woken wakes the next one.
      if (!waiting.delete(wake)) next()
    })
  })

  // In a fiber of its own: a primary that stands still may never take it.
  const sendLater = (call: Call, frame: Uint8Array) => {
    call.frame = frame
    const onSent = (exit: Exit.Exit<void, ProtocolError>) => {
      call.sending = undefined
      if (Exit.isSuccess(exit)) return
      sentLaunch = undefined
      heardLaunch = undefined
      const error = Option.getOrElse(Cause.failureOption(exit.cause), () =>
        failed("Disconnected", "it was not sent whole", "Unknown")
      )
      const notSent = (outcome: Outcome) => fail(call, new ProtocolError({ ...error, outcome, pid: welcome.pid }))
      // That a question did not get through says nothing of what it is about.
      if (call.tag === "Status") return notSent("Unknown")
      // A transport that has no room took nothing of it.
      if (error.reason === "Busy" || error.reason === "TooLarge") return notSent(error.outcome)
      if (withdraw === undefined || call.result !== undefined) return notSent("Unknown")
      fork(Effect.map(takeBack(call), (withdrawn) => notSent(withdrawn ? "NotDelivered" : "Unknown")))
    }
    const sending = fork(connection.send(frame))
    const sent = sending.unsafePoll()
    if (sent !== null) return onSent(sent)
    call.sending = sending
    sending.addObserver(onSent)
  }

  // The message is made when it is sent, and without the launch where the primary has it.
  const requestOf = (request: Request): Message.Request => {
    const { detached, id, launch, payload, redelivered, repeatable, trace } = request
    const message: { -readonly [K in keyof Message.Request]: Message.Request[K] } = { _tag: "Request", id, payload }
    // JSON has no infinity.
    if (Number.isFinite(millis)) message.deadline = clock.unsafeCurrentTimeMillis() + millis
    if (launch !== undefined && launch !== heardLaunch) message.launch = launch
    if (trace !== undefined) message.trace = trace
    if (detached) message.detached = true
    if (repeatable) message.repeatable = true
    if (redelivered) message.redelivered = true
    return message
  }

  // From the moment in which it is sent nothing interrupts but the wait: what is on its way must be followed by the
  // interruption.
  const ask = (
    restore: Restore,
    question: Exclude<Question, Message.Request> | Request,
    conclude?: Conclude<any, any>
  ): Effect.Effect<any, any> => {
    const request = "_tag" in question ? undefined : question
    const message = "_tag" in question ? question : requestOf(question)
    const undelivered = message._tag === "Status" ? "Unknown" : "NotDelivered"
    if (over !== undefined) return new ProtocolError({ ...over, outcome: undelivered })
    if (calls.size >= welcome.maxInFlight) {
      return Effect.flatMap(restore(room), () => ask(restore, question, conclude))
    }
    if (calls.has(message.id)) return failed("Malformed", "a message with this id is under way", undelivered)
    let frame: Uint8Array | string
    try {
      frame = Message.write(message, welcome.encoding)
    } catch (cause) {
      return failed("Malformed", "the message cannot be written as JSON", undelivered, cause)
    }
    const maxFrameBytes = Math.min(config.maxFrameBytes, welcome.maxFrameBytes)
    if (!fits(frame, maxFrameBytes)) {
      const detail = `the message has ${sizeOf(frame)} bytes, the limit is ${maxFrameBytes}`
      return failed("TooLarge", detail, undelivered)
    }
    use()
    const call: Call = {
      id: message.id,
      tag: message._tag,
      since: now(),
      detached: request?.detached === true,
      repeatable: request?.repeatable === true,
      onOutput: request?.onOutput,
      frame: nothing,
      launch: undefined,
      accepted: false,
      asked: false,
      sending: undefined,
      conclude,
      result: undefined,
      resume: undefined
    }
    calls.set(call.id, call)
    if (message._tag === "Request" && message.launch !== undefined) {
      call.launch = message.launch
      sentLaunch = message.launch
      heardLaunch = undefined
    }
    // From here on the primary may have it.
    if (connection.offer?.(frame) !== true) sendLater(call, bytesOf(frame))
    return Effect.catchAllCause(restore(outcome(call)), (cause) =>
      Cause.isInterruptedOnly(cause)
        ? Effect.zipRight(interrupt(call), Effect.failCause(cause))
        : Effect.failCause(cause)
    )
  }
  const begin = (question: Parameters<typeof ask>[1]): Effect.Effect<any, any> =>
    Effect.uninterruptibleMask((restore) => ask(restore, question))

  const nextBroadcasts = (reader: Reader): Effect.Effect<ReadonlyArray<Broadcast>, ProtocolError> =>
    Effect.suspend(() => {
      if (reader.heard.length > 0) return Effect.succeed(reader.heard.splice(0))
      if (over !== undefined) return new ProtocolError({ ...over, outcome: "NotDelivered" })
      return Effect.zipRight(
        Effect.async<void>((resume) => {
          reader.wake = () => {
            reader.wake = undefined
            resume(Effect.void)
          }
          return Effect.sync(() => {
            reader.wake = undefined
          })
        }),
        nextBroadcasts(reader)
      )
    })
  const newReader = acquireRelease(
    Effect.sync(() => {
      const reader: Reader = { heard: unread, wake: undefined }
      unread = []
      readers.add(reader)
      return reader
    }),
    (reader) =>
      Effect.sync(() => {
        readers.delete(reader)
        if (readers.size === 0) unread = reader.heard
      })
  )
  // Only an answer says that the primary has heard it: whoever is interrupted before that leaves it to the next one.
  const listen = Effect.suspend(() => {
    if (isListening) return Effect.void
    const id = randomBytes(8).toString("hex")
    return Effect.map(begin({ _tag: "Listen", id }), () => {
      isListening = true
    })
  })

  return {
    protocol: endpoint.protocol,
    address: endpoint.address,
    get primary() {
      return { pid: welcome.pid, version: welcome.version, epoch: welcome.epoch }
    },
    request: begin,
    ask: (request, conclude, restore) => ask(restore, request, conclude),
    resolve: (id) => begin({ _tag: "Status", id, strike: true }),
    inspect: Effect.suspend(() => {
      const id = randomBytes(8).toString("hex")
      return begin({ _tag: "Inspect", id })
    }),
    subscribe: Effect.map(Effect.zipRight(listen, newReader), nextBroadcasts),
    closed: Effect.async((resume) => {
      if (over !== undefined) return resume(Effect.void)
      const done = () => resume(Effect.void)
      closing.add(done)
      return Effect.sync(() => closing.delete(done))
    })
  }
})

/**
 * What sends requests over a session, as `Session.ask` does; their results are what `conclude` makes of the exits of their
 * handlers. Where the connection is lost underway, the same primary is asked by id what became of one; only where it cannot
 * say is the outcome `Unknown`.
 *
 * @since 0.1.0
 * @category operations
 */
export const delivering = <A, E>(
  target: Target,
  session: Session,
  conclude: (reply: Reply) => Effect.Effect<A, E>
): ((request: Request, restore: Restore) => Effect.Effect<A, E | TimeoutError | ProtocolError>) => {
  const settle: Conclude<A, E | TimeoutError | ProtocolError> = (known, { accepted, id, repeatable }) => {
    if (Exit.isSuccess(known)) return conclude(known.value)
    const lost = Option.getOrUndefined(Cause.failureOption(known.cause))
    // What may be sent again need not be struck off.
    if (lost?._tag !== "ProtocolError" || lost.outcome !== "Unknown" || repeatable) return Effect.failCause(known.cause)
    return connect(target).pipe(
      Effect.mapError(() => lost),
      Effect.flatMap((again) => again.resolve(id)),
      // After "accepted", "never started" is not believed.
      Effect.mapError((error) => (error.outcome === "Unknown" || accepted ? lost : error)),
      Effect.scoped,
      Effect.flatMap(conclude)
    )
  }
  return (request, restore) => session.ask(request, settle, restore)
}
