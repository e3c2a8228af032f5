/**
 * The primary's side of the conversation: greets, admits, runs and remembers requests. Schemas and the user's handler
 * are above it, transports below.
 *
 * @since 0.1.0
 */
import { randomBytes } from "node:crypto"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import * as FiberRefs from "effect/FiberRefs"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as RuntimeFlags from "effect/RuntimeFlags"
import type { ExitEncoded } from "effect/Schema"
import * as Scope from "effect/Scope"
import { commonWire } from "./Endpoint.js"
import type { InstanceId } from "./InstanceId.js"
import type { InstanceRecord } from "./InstanceRecord.js"
import { addFinalizer, apart } from "./internal/finalizer.js"
import * as known from "./internal/known.js"
import * as lazyScope from "./internal/lazyScope.js"
import * as limit from "./internal/limit.js"
import * as msgPack from "./internal/msgPack.js"
import { pump } from "./internal/pump.js"
import { bytesOf, fits, sizeOf } from "./internal/wire.js"
import * as Message from "./Message.js"
import type { Connection, Listener } from "./Protocol.js"
import type { SingleInstanceConfig } from "./SingleInstanceConfig.js"

/**
 * The launch behind a request, as its handler sees it.
 *
 * @since 0.1.0
 * @category models
 */
export interface IncomingLaunch extends Message.Launch {
  /** The request's id, the same over every protocol. */
  readonly message: string
  /** The process that sent it. */
  readonly from: { readonly pid: number; readonly version: string | null }
  /** The protocol it came over. */
  readonly protocol: string
  /** An earlier primary may have handled it; only where its sender asked for at-least-once delivery. */
  readonly redelivered: boolean
  /** Shows the sender something while the handler runs; waits while the sender is slow, and drops it once it is gone. */
  readonly stdout: (chunk: string | Uint8Array) => Effect.Effect<void>
  /** As `stdout`, for the sender's other stream. */
  readonly stderr: (chunk: string | Uint8Array) => Effect.Effect<void>
}

type Encoded = ExitEncoded<unknown, unknown, unknown>

/**
 * What the layer above does with a request.
 *
 * @since 0.1.0
 * @category models
 */
export interface Handler<R> {
  /**
   * Runs one, in a fiber of its own and with a scope of its own. It is answered when the fiber has ended, with all its
   * children, and the scope is closed. Fails with `Unreadable` where there is nothing to run: its sender is refused, or, if
   * it was told meanwhile that its request runs, gets a defect.
   */
  readonly run: (request: {
    readonly payload: unknown
    readonly launch: IncomingLaunch
    readonly trace: Message.Request["trace"]
  }) => Effect.Effect<unknown, unknown, R | Scope.Scope>
  /** What its exit is to who sent it; an `Either` where it is known at once, as most are. */
  readonly encode: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<Encoded>
}

/**
 * The payload is not a request: nothing was done.
 *
 * @since 0.1.0
 * @category errors
 */
export class Unreadable extends Data.TaggedError("Unreadable")<{ readonly detail: string }> {}

/**
 * @since 0.1.0
 * @category models
 */
export interface Server {
  /** Installs the handler; requests that waited for one start. A later one replaces it for requests to come. */
  readonly install: <R>(handler: Handler<R>) => Effect.Effect<void, never, Exclude<R, Scope.Scope>>
  /** While on, what is new is refused with reason `ShuttingDown`; what was accepted goes on. */
  readonly refuseNewcomers: (on: boolean) => void
  /** Refuses what is new, lets accepted requests end within the bound, then interrupts them. */
  readonly shutdown: Effect.Effect<void>
  /** This process leads no more: refuses what is new and interrupts what runs. */
  readonly abdicate: Effect.Effect<void>
  /**
   * Says something to all who listen, and waits for none of them; answers how many there are. Fails with a reason where it
   * cannot be written, and then nobody gets it; an interruption does not leave it half done.
   */
  readonly broadcast: (payload: unknown) => Effect.Effect<number, string>
  /** Serves one more listener, for as long as it accepts. It must outlive the server, which tells newcomers of its end. */
  readonly serve: (serving: Serving) => Effect.Effect<void>
}

/**
 * A listener and the protocol whose it is.
 *
 * @since 0.1.0
 * @category models
 */
export interface Serving {
  readonly protocol: string
  readonly listener: Listener
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ServerOptions {
  readonly id: InstanceId
  readonly record: InstanceRecord
  readonly config: SingleInstanceConfig["Type"]
}

// A request from its arrival until it is answered.
interface Entry {
  readonly id: string
  request: Message.Request
  readonly owner: Peer
  readonly launch: Message.Launch
  watchers: ReadonlyArray<Peer>
  // On the monotonic clock, where it waits for a handler: it must not start after that.
  expires: number
  state: "pending" | "running" | "ended"
  fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined
  interrupted: boolean
  // Somebody was told that it runs: nobody may be told afterwards that it never started.
  told: boolean
}

// What is kept of it afterwards: the exit as it was sent.
interface Ended {
  readonly state: "done" | "struck"
  readonly sent: Frame | undefined
}

// A connection whose other side has proven itself.
interface Peer {
  readonly connection: Connection
  readonly protocol: string
  readonly from: IncomingLaunch["from"]
  readonly maxFrameBytes: number
  readonly encoding: Message.Encoding
  // It meant another primary, which it asks about what that one did.
  readonly astray: boolean
  // What it has been too slow for is counted; `undefined` where it does not listen.
  outbox: { readonly queue: Array<Said>; missed: number; draining: boolean } | undefined
  readonly open: Set<Entry>
  readonly watching: Set<Entry>
  // Answers that the transport has not taken yet.
  unsent: number
  connected: boolean
  launch: Message.Launch
  // Called when it was answered something.
  onAnswered: (() => void) | undefined
}

// A text is written into the transport's memory as it is.
type Frame = Uint8Array | string

// What is said to all, encoded once for each encoding.
interface Said {
  readonly payload: unknown
  readonly frames: ReadonlyMap<Message.Encoding, Uint8Array>
}

// How many broadcasts wait for one slow listener.
const outboxSize = 256
const rememberedExitBytes = 4_096
const outputBytes = 128 * 1_024
// How long interrupted handlers are waited for.
const interruptMillis = 5_000
// How long a connection that ends may take its last frame.
const dismissMillis = 1_000
const nobody: ReadonlyArray<Peer> = []
const noRequest: Message.Request = { _tag: "Request", id: "" }
const noLaunch = new Message.Launch({ argv: [], cwd: "", env: {} })

/**
 * Serves connections until the scope closes, which shuts down first.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: (options: ServerOptions) => Effect.Effect<Server, never, Scope.Scope> = Effect.fnUntraced(function* (
  options: ServerOptions
) {
  const { config, record } = options
  const clock = yield* Effect.clock
  const helloMillis = Duration.toMillis(config.helloTimeout)
  // The connections end together, and behind `shutdown`.
  const scope = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.parallel)
  const requests = new Map<string, Entry | Ended>()
  // The ids of those that ended, up to as many as are remembered; the next one then takes the place of the oldest.
  const ended: Array<string> = []
  let oldest = 0
  const pending = new Set<Entry>()
  const idling = new Set<() => void>()
  // Requests whose handlers asked for the shutdown: it does not wait for them while they wait for it.
  const quitting = new Set<Entry>()
  const listening = new Set<Peer>()
  let connections = 0
  let running = 0
  let handled = 0
  let closing: "ShuttingDown" | "NotPrimary" | undefined
  let refusing = false
  let closed = false
  let run: ((entry: Entry) => void) | undefined

  // Most frames go at once, without an effect.
  const isSent = (peer: Peer, frame: Frame): boolean => !peer.connected || peer.connection.offer?.(frame) === true
  // Who missed one of them is told nothing more, least of all that nothing was done.
  const send = (peer: Peer, frame: Frame): Effect.Effect<void> =>
    isSent(peer, frame)
      ? Effect.void
      : Effect.catchAll(peer.connection.send(bytesOf(frame)), () =>
          Effect.sync(() => {
            peer.connected = false
          })
        )

  // Now, as far as the transport takes it at once.
  const tell = (peer: Peer, message: Message.Message): Effect.Effect<void> =>
    send(peer, Message.write(message, peer.encoding))

  const refuse = (
    peer: Peer,
    id: string,
    reason: "ShuttingDown" | "NotPrimary" | "Busy" | "Expired" | "Malformed",
    detail?: string
  ): Effect.Effect<void> =>
    Effect.suspend(() => {
      const message = { _tag: "Refused", reason, id } as const
      const frame = Message.write({ ...message, ...(detail === undefined ? undefined : { detail }) }, peer.encoding)
      // The detail may quote a payload as large as a frame.
      return fits(frame, peer.maxFrameBytes) ? send(peer, frame) : tell(peer, message)
    })

  const remember = (id: string, end: Ended) => {
    requests.set(id, end)
    if (ended.length < config.maxRemembered) {
      ended.push(id)
      return
    }
    requests.delete(ended[oldest]!)
    ended[oldest] = id
    oldest = (oldest + 1) % ended.length
  }

  const settle = (entry: Entry, state: Ended["state"], sent?: Frame) => {
    entry.state = "ended"
    entry.fiber = undefined
    entry.owner.open.delete(entry)
    for (const peer of entry.watchers) peer.watching.delete(entry)
    pending.delete(entry)
    // A map that grew anew keeps the entries of the old one until the next full collection, and what they refer to.
    entry.request = noRequest
    remember(entry.id, { state, sent })
  }

  const isIdle = () => running <= quitting.size
  const wakeIdling = () => {
    if (isIdle()) for (const resume of [...idling]) resume()
  }

  const answer = (entry: Entry, given: Encoded | Unreadable): Effect.Effect<void> => {
    const { id, owner, watchers } = entry
    const sent = () => {
      running--
      owner.onAnswered?.()
      for (const peer of watchers) peer.onAnswered?.()
      wakeIdling()
    }
    let reply: (peer: Peer) => Effect.Effect<void>
    if (given._tag === "Unreadable" && !entry.told) {
      settle(entry, "struck")
      reply = (peer) => refuse(peer, id, "Malformed", given.detail)
    } else {
      // A schema that took its time to refuse a payload is as good as a handler that died of it.
      const exit = given._tag === "Unreadable" ? defect(`the message cannot be read: ${given.detail}`) : given
      const frame =
        encodeExit(id, exit, owner.encoding) ??
        encodeExit(id, defect("the reply cannot be written as JSON"), owner.encoding)!
      const isSmall = fits(frame, Math.min(rememberedExitBytes, config.maxFrameBytes / 2))
      settle(entry, "done", isSmall ? frame : undefined)
      handled++
      reply = (peer) => send(peer, fitting(peer, id, frame))
    }
    const sending =
      watchers.length === 0
        ? reply(owner)
        : Effect.forEach([owner, ...watchers], reply, { concurrency: "unbounded", discard: true })
    // It went at once, as most do.
    if (sending === Effect.void) {
      sent()
      return sending
    }
    owner.unsent++
    return Effect.zipRight(
      sending,
      Effect.sync(() => {
        owner.unsent--
        sent()
      })
    )
  }

  // Once its scope is closed.
  const conclude = <R>(entry: Entry, handler: Handler<R>, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> => {
    const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.failureOption(exit.cause)) : undefined
    if (error instanceof Unreadable) return answer(entry, error)
    return known.match(
      known.attempt(() => handler.encode(exit)),
      {
        onFailure: (cause) => answer(entry, defect(`the handler's exit could not be told: ${Cause.pretty(cause)}`)),
        onSuccess: (encoded) => answer(entry, encoded)
      }
    )
  }

  // Once: a second interruption would reach into the finalizers that the first one started.
  const interrupt = (entry: Entry) => {
    if (entry.interrupted) return
    entry.interrupted = true
    entry.fiber?.unsafeInterruptAsFork(FiberId.none)
  }

  const start = (entry: Entry): Effect.Effect<void> => {
    entry.state = "running"
    running++
    pending.delete(entry)
    run!(entry)
    // What ended at once is answered already.
    if (entry.state !== "running") return Effect.void
    entry.told = true
    return tell(entry.owner, { _tag: "Accepted", id: entry.id })
  }

  const incoming = (entry: Entry): IncomingLaunch => {
    const write = (stream: "stdout" | "stderr") => (chunk: string | Uint8Array) => {
      const bytes = typeof chunk === "string" ? Buffer.from(chunk) : chunk
      const parts: Array<Uint8Array> = []
      // Whole groups of base64, as far as a frame has room for them.
      const envelope = Message.encode({ _tag: "Output", id: entry.id, stream, chunk: "" }).byteLength
      const room = Math.max(1, Math.floor((entry.owner.maxFrameBytes - envelope) / 4)) * 3
      const size = Math.min(outputBytes, room)
      for (let at = 0; at < bytes.length; at += size) parts.push(bytes.subarray(at, at + size))
      return Effect.forEach(
        parts,
        (part) =>
          tell(entry.owner, { _tag: "Output", id: entry.id, stream, chunk: Buffer.from(part).toString("base64") }),
        { discard: true }
      )
    }
    const { argv, cwd, data, env, stdin } = entry.launch
    return {
      argv,
      cwd,
      env,
      data,
      stdin,
      message: entry.id,
      from: entry.owner.from,
      protocol: entry.owner.protocol,
      redelivered: entry.owner.connection.recovered === true || entry.request.redelivered === true,
      stdout: write("stdout"),
      stderr: write("stderr")
    }
  }

  const now = () => limit.monotonicMillis(clock)
  const onRequest = (peer: Peer, request: Message.Request): Effect.Effect<void> => {
    const { id } = request
    // Also where it is refused: the next one may count on it.
    if (request.launch !== undefined) {
      const { stdin, ...launch } = request.launch
      peer.launch = { ...launch, ...(stdin === undefined ? undefined : { stdin: Buffer.from(stdin, "base64") }) }
    }
    if (requests.has(id)) return onStatus(peer, id, false)
    // An earlier primary had it: it may have run.
    if (peer.connection.recovered === true && request.repeatable !== true) {
      return tell(peer, { _tag: "State", id, state: "unknown" })
    }
    if (closing !== undefined || refusing) return refuse(peer, id, closing ?? "ShuttingDown")
    // Answers that the peer has already taken may count as unsent for a moment: that is no reason to refuse its next ones.
    if (peer.open.size >= config.maxInFlight || peer.unsent >= 2 * config.maxInFlight) return refuse(peer, id, "Busy")
    const { deadline = Number.POSITIVE_INFINITY } = request
    const left = deadline - clock.unsafeCurrentTimeMillis()
    if (left < 0) return refuse(peer, id, "Expired")
    const entry: Entry = {
      id,
      request,
      owner: peer,
      launch: peer.launch,
      watchers: nobody,
      expires: Number.POSITIVE_INFINITY,
      state: "pending",
      fiber: undefined,
      interrupted: false,
      told: false
    }
    requests.set(id, entry)
    peer.open.add(entry)
    if (run !== undefined) return start(entry)
    // How much time is left only the wall clock tells; what passes from now on a jump of it does not change.
    entry.expires = now() + left
    pending.add(entry)
    return tell(peer, { _tag: "Starting", id })
  }

  const onStatus = (peer: Peer, id: string, strike: boolean): Effect.Effect<void> => {
    const say = (state: Message.State["state"], exit?: unknown) =>
      tell(peer, { _tag: "State", id, state, ...(exit === undefined ? undefined : { exit }) })
    const entry = requests.get(id)
    if (entry === undefined) {
      if (!strike || peer.astray) return say("unknown")
      remember(id, { state: "struck", sent: undefined })
      return say("struck")
    }
    if (!isOpen(entry)) return say(entry.state, entry.sent && exitOf(entry.sent))
    if (entry.state === "pending") {
      if (!strike) return say("pending")
      settle(entry, "struck")
      return say("struck")
    }
    if (entry.owner !== peer) {
      entry.watchers = [...entry.watchers.filter((watcher) => watcher !== peer), peer]
      peer.watching.add(entry)
    }
    entry.told = true
    return say("running")
  }

  const onMessage = (peer: Peer, message: Message.Message | Message.Unrecognised): Effect.Effect<void> => {
    switch (message._tag) {
      case "Request":
        return onRequest(peer, message)
      case "Interrupt": {
        const entry = requests.get(message.id)
        if (entry === undefined || !isOpen(entry) || entry.owner !== peer) return Effect.void
        if (entry.state === "pending") {
          settle(entry, "struck")
          return tell(peer, { _tag: "State", id: entry.id, state: "struck" })
        }
        interrupt(entry)
        return Effect.void
      }
      case "Status":
        return onStatus(peer, message.id, message.strike)
      case "Ping":
        return tell(peer, { _tag: "Pong" })
      case "Listen":
        peer.outbox ??= { queue: [], missed: 0, draining: false }
        listening.add(peer)
        return tell(peer, { _tag: "Listening", id: message.id })
      case "Inspect":
        return tell(peer, {
          _tag: "Inspected",
          id: message.id,
          connections,
          inFlight: running,
          handled,
          serving: run !== undefined
        })
      case "Unrecognised":
        return tell(peer, {
          _tag: "Unsupported",
          tag: message.tag,
          ...(message.id === undefined ? undefined : { id: message.id })
        })
      default:
        // What only a primary says; from a secondary it means nothing.
        return Effect.void
    }
  }

  const onFrame = (peer: Peer, frame: Uint8Array): Effect.Effect<void, "Malformed"> => {
    const decoded = Message.decode(frame)
    if (Either.isRight(decoded)) return onMessage(peer, decoded.right)
    const refusal = tell(peer, { _tag: "Refused", reason: "Malformed", detail: decoded.left })
    return Effect.zipRight(refusal, Effect.fail("Malformed" as const))
  }

  const disconnect = (peer: Peer) =>
    Effect.sync(() => {
      peer.connected = false
      listening.delete(peer)
      for (const entry of peer.watching) entry.watchers = entry.watchers.filter((watcher) => watcher !== peer)
      peer.watching.clear()
      for (const entry of [...peer.open]) {
        if (entry.request.detached === true) continue
        if (entry.state === "pending") settle(entry, "struck")
        else interrupt(entry)
      }
    })

  const greet = Effect.fnUntraced(function* (protocol: string, address: string, connection: Connection, next: Next) {
    const refused = (
      reason: "Incompatible" | "Forbidden" | "ShuttingDown" | "NotPrimary" | "Malformed",
      detail: string
    ) => Effect.as(Effect.ignore(connection.send(Message.encode({ _tag: "Refused", reason, detail }))), undefined)
    const hello = yield* next
    if (hello._tag !== "Hello") return yield* refused("Malformed", "a conversation begins with Hello")
    if (closing === "NotPrimary") return yield* refused(closing, "this process lost the lock")
    if (closing !== undefined || refusing) return yield* refused("ShuttingDown", "the primary is going away")
    if (hello.id !== options.id) return yield* refused("Forbidden", "this is another instance")
    const wire = commonWire(Message.wire, hello.wire)
    if (wire === undefined) {
      return yield* refused("Incompatible", `the primary speaks wire ${Message.wire}, the secondary ${hello.wire}`)
    }
    if (connection.vouched === true && hello.client === undefined) {
      return yield* refused("Malformed", "whoever is vouched for says who it is")
    }
    const encoding = hello.encoding === "msgpack" && (yield* msgPack.load) ? "msgpack" : "json"
    const transcript: Message.Transcript = {
      recordNonce: record.nonce,
      clientNonce: hello.nonce,
      serverNonce: randomBytes(16).toString("hex"),
      clientWire: hello.wire,
      serverWire: Message.wire,
      address
    }
    yield* connection.send(
      Message.encode({
        _tag: "Welcome",
        wire,
        range: Message.wire,
        nonce: transcript.serverNonce,
        mac: Message.mac(record.key, "server", transcript),
        pid: record.process.pid,
        version: config.version,
        epoch: record.epoch,
        maxInFlight: config.maxInFlight,
        maxFrameBytes: config.maxFrameBytes,
        ...(encoding === "json" ? undefined : { encoding })
      })
    )
    let client = hello.client
    if (connection.vouched !== true || client === undefined) {
      const proof = yield* next
      if (proof._tag !== "Proof" || !Message.isSameMac(proof.mac, Message.mac(record.key, "client", transcript))) {
        return yield* refused("Forbidden", "the proof does not fit the key of this instance")
      }
      client = proof
    }
    yield* connection.trust
    const peer: Peer = {
      connection,
      protocol,
      from: { pid: client.pid, version: client.version },
      maxFrameBytes: Math.min(config.maxFrameBytes, client.maxFrameBytes ?? config.maxFrameBytes),
      encoding,
      astray: connection.vouched === true && hello.primary !== record.nonce,
      outbox: undefined,
      open: new Set(),
      watching: new Set(),
      unsent: 0,
      connected: true,
      launch: noLaunch,
      onAnswered: undefined
    }
    return peer
  })

  // Until what a dead primary had taken has become of something; who listens is kept. Without an end, each next primary
  // would take all of it once more.
  const answered = (peer: Peer) =>
    Effect.async<void>((resume) => {
      peer.onAnswered = () => {
        if (peer.outbox === undefined && peer.open.size + peer.watching.size + peer.unsent === 0) resume(Effect.void)
      }
      peer.onAnswered()
    })

  // The connection ends with this effect; whatever breaks it is the other side's business, not ours.
  const converse = Effect.fnUntraced(function* (protocol: string, address: string, connection: Connection) {
    const { next, rest } = reader(connection)
    // What came meanwhile is not looked at, and who sent it is told so.
    const dismiss = Effect.suspend(() =>
      closing === undefined
        ? Effect.void
        : Effect.timeoutOption(
            Effect.interruptible(
              Effect.zipRight(
                connection.giveBack ?? Effect.void,
                connection.send(Message.encode({ _tag: "Refused", reason: closing }))
              )
            ),
            dismissMillis
          )
    ).pipe(Effect.ignore)
    const greeted = yield* limit
      .timeoutOption(greet(protocol, address, connection, next), helloMillis)
      .pipe(Effect.onInterrupt(() => dismiss))
    const peer = Option.getOrUndefined(greeted)
    if (peer === undefined) return
    return yield* Effect.ensuring(
      Effect.forEach(rest(), (frame) => onFrame(peer, frame), { discard: true }).pipe(
        Effect.zipRight(pump(connection, (frame) => onFrame(peer, frame))),
        Effect.catchAll((error) =>
          connection.recovered === true && error !== "Malformed" ? answered(peer) : Effect.fail(error)
        ),
        Effect.onInterrupt(() => (peer.connected && peer.open.size + peer.unsent === 0 ? dismiss : Effect.void))
      ),
      disconnect(peer)
    )
  })

  const acceptFrom = ({ listener, protocol }: Serving) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Scope.make(), (own) =>
        restore(Scope.extend(listener.accept, own)).pipe(
          Effect.onError((cause) => Scope.close(own, Exit.failCause(cause))),
          Effect.flatMap((connection) => {
            connections++
            return restore(converse(protocol, listener.address, connection)).pipe(
              Effect.catchAllCause(() => Effect.void),
              Effect.ensuring(Effect.sync(() => connections--)),
              Effect.onExit((exit) => Scope.close(own, exit)),
              Effect.forkIn(scope)
            )
          })
        )
      )
    )

  // Interruptible also within a finalizer, or the bounds on it would not be any.
  const idle = Effect.interruptible(
    Effect.async<void>((resume) => {
      if (isIdle()) return resume(Effect.void)
      const done = () => {
        idling.delete(done)
        resume(Effect.void)
      }
      idling.add(done)
      return Effect.sync(() => idling.delete(done))
    })
  )

  const interrupting = Effect.sync(() => {
    for (const entry of requests.values()) if (isOpen(entry) && !quitting.has(entry)) interrupt(entry)
  })

  const close = (reason: "ShuttingDown" | "NotPrimary") =>
    Effect.contextWithEffect((context: Context.Context<never>) => {
      const entry = Option.getOrUndefined(Context.getOption(context, Handling))
      if (entry === undefined || requests.get(entry.id) !== entry) return closeFor(reason)
      quitting.add(entry)
      wakeIdling()
      return Effect.ensuring(
        closeFor(reason),
        Effect.sync(() => quitting.delete(entry))
      )
    })
  // Who calls it again before it is through, after an interruption for example, waits as well.
  const closeFor = (reason: "ShuttingDown" | "NotPrimary") =>
    Effect.suspend(() => {
      if (closed) return Effect.void
      if (closing !== "NotPrimary") closing = reason
      const declined = [...pending]
      for (const entry of declined) settle(entry, "struck")
      const refusing = Effect.forEach(declined, (entry) => refuse(entry.owner, entry.id, reason), {
        concurrency: "unbounded",
        discard: true
      })
      const ending = Effect.zipRight(Effect.interruptible(refusing), idle)
      const interrupted = (rest: Effect.Effect<void>) =>
        Effect.zipRight(interrupting, Effect.timeoutOption(rest, interruptMillis))
      const drained = Effect.zipRight(
        Effect.timeoutOption(ending, config.drain),
        Effect.suspend(() => (isIdle() ? Effect.void : interrupted(idle)))
      )
      return Effect.zipRight(
        closing === "NotPrimary" ? interrupted(ending) : drained,
        Effect.sync(() => {
          // Those that asked for it still have to answer.
          closed = quitting.size === 0
        })
      )
    })
  const refuseNewcomers = (on: boolean) => {
    refusing = on
  }
  const shutdown = close("ShuttingDown")
  const abdicate = close("NotPrimary")

  const serve = (serving: Serving) =>
    acceptFrom(serving).pipe(Effect.forever, Effect.ignore, Effect.interruptible, Effect.forkIn(scope), Effect.asVoid)
  yield* addFinalizer(() => apart(shutdown))

  const drain = (peer: Peer, outbox: NonNullable<Peer["outbox"]>): Effect.Effect<void> =>
    Effect.suspend(() => {
      const said = outbox.queue[0]
      outbox.draining = said !== undefined && peer.connected
      if (said === undefined || !outbox.draining) return Effect.void
      const { missed } = outbox
      outbox.missed = 0
      const frame =
        missed === 0
          ? said.frames.get(peer.encoding)!
          : Message.encode({ _tag: "Broadcast", payload: said.payload, missed }, peer.encoding)
      const fits = frame.byteLength <= peer.maxFrameBytes
      if (!fits) outbox.missed = missed + 1
      // It stays at the head while it is sent, and is never pushed out there.
      return Effect.zipRight(
        fits ? send(peer, frame) : Effect.void,
        Effect.suspend(() => {
          outbox.queue.shift()
          return drain(peer, outbox)
        })
      )
    })
  // Encoded for all before it is queued for anybody.
  const encodeBroadcast = (payload: unknown) =>
    Effect.try({
      try: (): Said => {
        const encodings = new Set<Message.Encoding>(["json", ...[...listening].map(({ encoding }) => encoding)])
        const encode = (encoding: Message.Encoding) => Message.encode({ _tag: "Broadcast", payload }, encoding)
        return { payload, frames: new Map([...encodings].map((encoding) => [encoding, encode(encoding)])) }
      },
      catch: (cause) => `the broadcast cannot be written: ${cause instanceof Error ? cause.message : cause}`
    })
  const broadcast = (payload: unknown) =>
    Effect.uninterruptible(
      Effect.flatMap(encodeBroadcast(payload), (said) => {
        const peers = [...listening]
        const idle: Array<Peer> = []
        for (const peer of peers) {
          const outbox = peer.outbox!
          outbox.queue.push(said)
          if (!outbox.draining) idle.push(peer)
          outbox.draining = true
          // The first is under way.
          if (outbox.queue.length > outboxSize) {
            outbox.queue.splice(1, 1)
            outbox.missed++
          }
        }
        return Effect.as(
          Effect.forEach(idle, (peer) => Effect.forkIn(Effect.interruptible(drain(peer, peer.outbox!)), scope), {
            discard: true
          }),
          peers.length
        )
      })
    )

  const install: Server["install"] = <R>(handler: Handler<R>) =>
    Effect.flatMap(Effect.runtime<Exclude<R, Scope.Scope>>(), ({ context, fiberRefs, runtimeFlags }) => {
      const inherited = inheriting(fiberRefs)
      // Whatever `serve` was called in.
      const interruptible = RuntimeFlags.enable(runtimeFlags, RuntimeFlags.Interruption)
      run = (entry) => {
        const scope = lazyScope.make()
        // From the start, as each change of a fiber's context costs as much as the rest of a small request.
        const own: Context.Context<R | Scope.Scope> = Context.unsafeMake(
          new Map(context.unsafeMap).set(Scope.Scope.key, scope).set(Handling.key, entry)
        )
        const fiber = Runtime.runFork(
          Runtime.make({ context: own, fiberRefs: inherited.fiberRefs, runtimeFlags: interruptible }),
          Effect.catchAllCause(
            Effect.suspend(() => {
              const { payload, trace } = entry.request
              return handler.run({ payload, launch: incoming(entry), trace })
            }),
            failed
          ),
          inherited
        )
        entry.fiber = fiber
        // Nothing interrupts an observer; where the fiber has ended, it is called at once.
        fiber.addObserver((ended) => {
          const exit =
            Exit.isSuccess(ended) && ended.value instanceof Failed ? Exit.failCause(ended.value.cause) : ended
          const releasing = lazyScope.close(scope, exit)
          const left =
            releasing === undefined
              ? conclude(entry, handler, exit)
              : Effect.matchCauseEffect(releasing, {
                  onFailure: (cause) => conclude(entry, handler, Exit.zipLeft(exit, Exit.failCause(cause))),
                  onSuccess: () => conclude(entry, handler, exit)
                })
          if (left === Effect.void) return
          const after = Runtime.make({ context, fiberRefs: fiber.getFiberRefs(), runtimeFlags })
          Runtime.runFork(after, Effect.uninterruptible(left))
        })
      }
      // All start now, in order; who reads slowly holds up nobody.
      return Effect.forEach(
        [...pending],
        (entry) => {
          // Those before it may have had it struck off.
          if (entry.state !== "pending") return Effect.void
          if (entry.expires >= now()) return Effect.forkIn(start(entry), scope)
          settle(entry, "struck")
          const { id, owner } = entry
          const told = Effect.sync(() => owner.onAnswered?.())
          return Effect.forkIn(Effect.zipRight(refuse(owner, id, "Expired"), told), scope)
        },
        { discard: true }
      )
    })

  return { install, refuseNewcomers, shutdown, abdicate, broadcast, serve }
})

// To ask each reference of a fiber what becomes of it in another one costs a tenth of a small request; hardly any does more
// than to pass on what it holds.
const inheriting = (captured: FiberRefs.FiberRefs) => {
  const isPlain = [...FiberRefs.forkAs(captured, FiberId.unsafeMake()).locals].every(
    ([ref, stack]) => captured.locals.get(ref) === stack
  )
  if (!isPlain) return { fiberRefs: captured }
  const updateRefs = (own: FiberRefs.FiberRefs) => {
    const locals = new Map(captured.locals)
    own.locals.forEach((stack, ref) => locals.set(ref, stack))
    return FiberRefs.unsafeMake(locals)
  }
  return { fiberRefs: FiberRefs.empty(), updateRefs }
}

// The request that a fiber and its children run for.
class Handling extends Context.Tag("effect-single-instance/internal/Handling")<Handling, Entry>() {}

// A failure is for the sender to handle: the fiber of the handler does not fail, which would be logged.
class Failed {
  constructor(readonly cause: Cause.Cause<unknown>) {}
}

const failed = (cause: Cause.Cause<unknown>) => Effect.succeed(new Failed(cause))

const isOpen = (known: Entry | Ended): known is Entry => known.state === "pending" || known.state === "running"

type Next = Effect.Effect<Message.Message | Message.Unrecognised, unknown>

// One message at a time for the hello; `rest` is what came with it.
const reader = (connection: Connection) => {
  let frames: Array<Uint8Array> = []
  const next: Next = Effect.suspend(() => {
    const frame = frames.shift()
    if (frame !== undefined) return Message.decode(frame)
    return Effect.flatMap(connection.receive, (more) => {
      frames = [...more]
      return next
    })
  })
  return { next, rest: () => frames }
}

const encodeExit = (
  id: string,
  exit: ExitEncoded<unknown, unknown, unknown>,
  encoding: Message.Encoding
): Frame | undefined => {
  try {
    return Message.write({ _tag: "Exit", id, exit }, encoding)
  } catch {
    return undefined
  }
}

const exitOf = (sent: Frame): unknown => {
  const message = Either.getOrThrow(Message.decode(bytesOf(sent)))
  return message._tag === "Exit" ? message.exit : undefined
}

// What a peer said that it cannot read would break the connection, and all else that it carries.
const fitting = (peer: Peer, id: string, frame: Frame): Frame => {
  if (fits(frame, peer.maxFrameBytes)) return frame
  const detail = `the reply has ${sizeOf(frame)} bytes, the limit is ${peer.maxFrameBytes}`
  return encodeExit(id, defect(detail), peer.encoding)!
}

const defect = (message: string): ExitEncoded<never, never, unknown> => ({
  _tag: "Failure",
  cause: { _tag: "Die", defect: { name: "Error", message } }
})
