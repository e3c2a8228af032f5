/**
 * One launch of one contract: contend, lead or hand over, and contend again with the message still in hand.
 *
 * @since 0.1.0
 */
import { randomBytes, randomUUID } from "node:crypto"
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import * as Election from "./Election.js"
import { Endpoint } from "./Endpoint.js"
import type { InstanceId } from "./InstanceId.js"
import { type Candidate, type Following, InstanceLock, type Observation, ownerOf, type Took } from "./InstanceLock.js"
import type { InstanceRecord } from "./InstanceRecord.js"
import { keepIf } from "./internal/childScope.js"
import * as Contract from "./internal/contract.js"
import * as durationText from "./internal/durationText.js"
import * as known from "./internal/known.js"
import * as limit from "./internal/limit.js"
import * as location from "./internal/location.js"
import * as Metrics from "./internal/metrics.js"
import * as wire from "./internal/wire.js"
import type { Liveness, Proof } from "./Liveness.js"
import * as Message from "./Message.js"
import { PidVerifier } from "./PidVerifier.js"
import * as Conversation from "./Primary.js"
import type { ListenOptions, Protocol } from "./Protocol.js"
import * as Secondary from "./Secondary.js"
import { SingleInstanceConfig } from "./SingleInstanceConfig.js"
import {
  type Attempt,
  isSingleInstanceError,
  LockError,
  type Owner,
  ProtocolError,
  type SingleInstanceError,
  TimeoutError
} from "./SingleInstanceError.js"

declare const launchRequest: unique symbol

/**
 * The request of a contract that names none: the launch itself. A type of its own, because a contract may name a request
 * that looks like a launch or a part of one.
 *
 * @since 0.1.0
 * @category models
 */
export interface LaunchRequest extends Message.Launch {
  readonly [launchRequest]?: never
}

// `keyof any` has every symbol in it.
type IsLaunchRequest<Request> = 0 extends 1 & Request
  ? false
  : typeof launchRequest extends keyof Request
    ? true
    : false

/**
 * A request as an argument: `undefined` is possible only where the contract names no request.
 *
 * @since 0.1.0
 * @category models
 */
export type RequestArgument<Request> = IsLaunchRequest<Request> extends true ? Request | undefined : Request

/**
 * A request as an option, which can be left out only where the contract names no request.
 *
 * @since 0.1.0
 * @category models
 */
export type RequestOption<Request> =
  IsLaunchRequest<Request> extends true ? { readonly request?: Request | undefined } : { readonly request: Request }

/**
 * Options of `standby`.
 *
 * @since 0.1.0
 * @category models
 */
export type StandbyOptions<Request> = RequestOption<Request> & {
  readonly launch?: LaunchOptions | undefined
  readonly onFollow?: ((owner: Owner) => Effect.Effect<void>) | undefined
}

/**
 * What a launch tells of itself; left out, it is told as it is. `env` names the variables to pass on: none by default,
 * as environments hold secrets.
 *
 * @since 0.1.0
 * @category models
 */
export interface LaunchOptions {
  readonly argv?: ReadonlyArray<string> | undefined
  readonly cwd?: string | undefined
  readonly env?: ReadonlyArray<string> | undefined
  readonly data?: unknown
  readonly stdin?: Uint8Array | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface SendOptions {
  readonly launch?: LaunchOptions | undefined
  /** Called in order with what the handler writes while it runs; the primary waits for it. */
  readonly onOutput?: ((stream: "stdout" | "stderr", chunk: Uint8Array) => Effect.Effect<void>) | undefined
  /** The handler goes on where this process ends or loses the connection. */
  readonly detached?: boolean | undefined
  /** How long the handler may take; no limit by default, as its primary answers pings while it works. */
  readonly replyTimeout?: Duration.DurationInput | undefined
  /**
   * `"at-most-once"` if left out: a message that a primary may have had is never sent again. `"at-least-once"`: where its
   * outcome is unknown it is sent again, with the same id, until the option `timeout`; whoever gets it then is told that it
   * is `redelivered`. A conversation that stays open has one primary only and knows no more than the former.
   */
  readonly delivery?: "at-most-once" | "at-least-once" | undefined
}

/**
 * This process is the primary, until the scope closes or `lost` fails.
 *
 * @since 0.1.0
 * @category models
 */
export interface Primary<Request, Reply, Failure, Broadcast = never> {
  readonly _tag: "Primary"
  readonly id: InstanceId
  readonly pid: number
  /** The fencing token: greater than that of every earlier primary. Give it to what you write to. */
  readonly epoch: number
  /** How the lock was come by. */
  readonly took: Took
  /** What proved the predecessor's death, where it died. */
  readonly proof: Proof | undefined
  /** Where it listens. */
  readonly endpoints: ReadonlyArray<Endpoint>
  /** The first launch is one, too: its own request. */
  readonly request: Request
  readonly launch: Message.Launch
  /** An earlier primary may have handled it; only with at-least-once delivery. */
  readonly redelivered: boolean
  /**
   * Installs the handler and returns. Requests that came before wait for it; each runs in a fiber and a scope of its own,
   * is interrupted with its sender, and answered when both have ended, with all that the handler forked.
   */
  readonly serve: <R>(
    handler: (request: Request, launch: Conversation.IncomingLaunch) => Effect.Effect<Reply, Failure, R>
  ) => Effect.Effect<void, never, Exclude<R, Scope.Scope>>
  /**
   * Says something to all who listen at present and answers how many these are. It waits for none of them: 256 messages
   * are kept for each, the latest ones, and who is slower is told how many it missed. Fails with reason `Malformed` where
   * the message does not fit the contract's schema or cannot be written, and then nobody gets it.
   */
  readonly broadcast: (message: Broadcast) => Effect.Effect<number, ProtocolError>
  /**
   * The file descriptor that shows others that this process lives, where the lock has one. As with flock(2), a child that
   * inherits it holds the lock until it ends, also where this process dies before.
   */
  readonly descriptor: number | undefined
  /**
   * While on, newcomers are refused with reason `ShuttingDown` and try again; accepted requests go on. For a process that
   * was told to end and cannot end at once.
   */
  readonly refuseNewcomers: (on: boolean) => Effect.Effect<void>
  /**
   * Refuses newcomers and lets accepted requests end, within the bound of the option `drain`. A handler that runs it does
   * not wait for itself, nor for others that run it, and still answers.
   */
  readonly shutdown: Effect.Effect<void>
  /** Never succeeds; fails with reason `Lost` when leadership ended on evidence. */
  readonly lost: Effect.Effect<never, LockError>
}

/**
 * The primary handled the message; its handler's exit arrived.
 *
 * @since 0.1.0
 * @category models
 */
export interface Delivered<Reply> {
  readonly _tag: "Delivered"
  readonly reply: Reply
  /** The message's id. */
  readonly message: string
  readonly primary: { readonly pid: number; readonly epoch: number; readonly version: string | null }
  readonly protocol: string
  readonly address: string
  /** How many times this launch contended or connected until it was served. */
  readonly attempts: number
}

/**
 * A conversation that stays open, for many messages.
 *
 * @since 0.1.0
 * @category models
 */
export interface Client<Request, Reply, Failure, Broadcast = never> {
  readonly primary: Delivered<Reply>["primary"]
  readonly protocol: string
  readonly address: string
  /** As `send` of the instance, over this connection; senders wait where too many requests are unanswered. */
  readonly send: (
    request: RequestArgument<Request>,
    options?: SendOptions
  ) => Effect.Effect<Reply, Failure | TimeoutError | ProtocolError>
  /**
   * What the primary broadcasts from now on, until the conversation is over: then it fails. Each run of it gets all of them.
   * At most 256 messages wait for each while it is not pulled, the latest ones; each comes with how many were missed before
   * it. What comes while nobody reads is kept for the next one.
   */
  readonly broadcasts: Stream.Stream<
    { readonly message: Broadcast; readonly missed: number },
    TimeoutError | ProtocolError
  >
  /** Completes when the conversation is over. */
  readonly closed: Effect.Effect<void>
}

/**
 * Who is there, without the secret that its record holds.
 *
 * @since 0.1.0
 * @category models
 */
export interface Inspection {
  readonly id: InstanceId
  readonly location: string
  /** `held`: the primary has ended, and a process that it started has inherited its lock and still runs. */
  readonly state: "free" | "released" | "primary" | "held" | "dead" | "unverifiable" | "unreadable" | "newer"
  /** Why we think so. */
  readonly evidence: string
  readonly owner: (Owner & { readonly version: string | null; readonly argv0: string }) | undefined
  readonly endpoints: ReadonlyArray<Endpoint>
  /** What `breakLock` must be given. */
  readonly nonce: string | undefined
}

/**
 * The service behind a tag.
 *
 * @since 0.1.0
 * @category models
 */
export interface Instance<Request, Reply, Failure, Broadcast = never> {
  readonly id: InstanceId
  /**
   * Contends with the request in hand: becomes the primary, or has it handled by the primary. Where that is gone, going or
   * was never there, contends again, until the option `timeout`.
   */
  readonly elect: (
    request: RequestArgument<Request>,
    options?: SendOptions
  ) => Effect.Effect<
    Primary<Request, Reply, Failure, Broadcast> | Delivered<Reply>,
    SingleInstanceError | Failure,
    Scope.Scope
  >
  /** Waits until this process is the primary; nothing polls. `onFollow` is told of each primary that it waits behind. */
  readonly standby: (
    ...options: IsLaunchRequest<Request> extends true
      ? [options?: StandbyOptions<Request>]
      : [options: StandbyOptions<Request>]
  ) => Effect.Effect<Primary<Request, Reply, Failure, Broadcast>, LockError | ProtocolError, Scope.Scope>
  /** Hands over only: fails with reason `Unreachable` where there is no primary. */
  readonly send: (
    request: RequestArgument<Request>,
    options?: SendOptions
  ) => Effect.Effect<Delivered<Reply>, SingleInstanceError | Failure>
  /** Opens a conversation with the primary. */
  readonly connect: Effect.Effect<Client<Request, Reply, Failure, Broadcast>, SingleInstanceError, Scope.Scope>
  /** Who is there. Read-only. */
  readonly inspect: Effect.Effect<Inspection, LockError>
  /** A person's word that the owner, named by the nonce that `inspect` gave, is gone. */
  readonly breakLock: (nonce: string) => Effect.Effect<void, LockError>
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options<Request, Reply, Failure, Broadcast> {
  readonly id: InstanceId
  readonly contract: Contract.Contract<Request, Reply, Failure, Broadcast>
  readonly protocols: ReadonlyArray<Protocol["Type"]>
  /** Protocols that could not even be built, for the errors. */
  readonly unavailable: ReadonlyArray<ProtocolError>
}

// What a launch does round after round.
interface Rounds<L, A, E> {
  readonly find: (remaining: number) => Effect.Effect<L | Following, E, Scope.Scope>
  readonly use: (following: Following, remaining: number, attempts: number) => Effect.Effect<A, E, Scope.Scope>
  readonly keep: (result: L | A) => boolean
  /** Whether another round is wanted although this one may have done its work. */
  readonly repeat?: ((error: TimeoutError | ProtocolError) => boolean) | undefined
}

// How one round of a launch ended: in a result, or in an error after which another round may end better.
type Round<A> =
  | { readonly _tag: "Done"; readonly result: A }
  | { readonly _tag: "Again"; readonly error: TimeoutError | ProtocolError; readonly record: InstanceRecord }

const isTransport = (error: unknown): error is TimeoutError | ProtocolError =>
  TimeoutError.is(error) || ProtocolError.is(error)

const mayPass = (error: TimeoutError | ProtocolError): boolean =>
  error.outcome === "NotDelivered" && wire.passing.has(error.reason)

const isFollowing = (found: unknown): found is Following =>
  typeof found === "object" && found !== null && "_tag" in found && found._tag === "Following"

// How long a living owner may have no endpoint that serves: between closing the endpoints and the tombstone.
const deafMillis = 3_000

// One that closes the connection before its greeting is there: it serves as many as it may, or is about to end.
const isDeaf = (error: TimeoutError | ProtocolError): boolean =>
  error.reason === "AllFailed" && error.attempts.every(({ reason }) => reason !== "Disconnected")

/**
 * The service behind a contract. Layers are the usual way to it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <Request, Reply, Failure, Broadcast>(
  options: Options<Request, Reply, Failure, Broadcast>
): Effect.Effect<
  Instance<Request, Reply, Failure, Broadcast>,
  never,
  InstanceLock | PidVerifier | SingleInstanceConfig
> =>
  Effect.gen(function* () {
    // Picked, as the rest holds the scope in which this is made, and leadership belongs to the scope of the caller.
    const context = Context.pick(
      InstanceLock,
      PidVerifier,
      SingleInstanceConfig
    )(yield* Effect.context<InstanceLock | PidVerifier | SingleInstanceConfig>())
    const lock = Context.get(context, InstanceLock)
    const verifier = Context.get(context, PidVerifier)
    const config = Context.get(context, SingleInstanceConfig)
    const clock = yield* Effect.clock
    const codec = Contract.make(options.contract)
    const { id, protocols } = options
    const timeoutMillis = Duration.toMillis(config.timeout)
    // What is handed over with less time than that could end as unknown only because nobody could have answered.
    const leastMillis = Math.min(200, timeoutMillis / 4)
    // How long the primary itself must have kept silent before `onUnresponsive: "terminate"` ends it.
    const chanceMillis = Math.min(Duration.toMillis(config.helloTimeout), timeoutMillis / 2)

    const invalid = (detail: string) =>
      new ProtocolError({ reason: "Malformed", protocol: "contract", detail, outcome: "NotDelivered" })

    // Where the launch itself is the request, there is no payload.
    const encode = (request: Request | undefined): Effect.Effect<unknown, ProtocolError> =>
      codec.encodeRequest === undefined ? Effect.void : known.mapError(codec.encodeRequest(request as Request), invalid)

    const launchOf = (request: Request | undefined, given: LaunchOptions | undefined): Message.Launch => {
      if (codec.encodeRequest !== undefined || request === undefined) return currentLaunch(given)
      return request instanceof Message.Launch ? request : new Message.Launch(request as any)
    }

    const prepare = (request: Request | undefined, given: LaunchOptions | undefined) =>
      Effect.map(encode(request), (payload) => {
        const launch = launchOf(request, given)
        return { payload, launch, request: (codec.encodeRequest === undefined ? launch : request) as Request }
      })

    const contest = Effect.map(
      Effect.sync(() => [] as Array<Serving>),
      (serving) => ({
        serving,
        contest: {
          id,
          version: config.version,
          listen: (candidate: Candidate) => listen(candidate, serving)
        }
      })
    )

    const listen = Effect.fnUntraced(function* (candidate: Candidate, serving: Array<Serving>) {
      serving.length = 0
      const attempts: Array<Attempt> = options.unavailable.map((error) => attemptOf(error.protocol, "", error))
      for (const protocol of protocols) {
        const { maxConnections, maxFrameBytes } = config
        const { directory, nonce } = candidate
        const open = openIn(yield* Effect.scope, protocol, { id, directory, nonce, maxConnections, maxFrameBytes })
        const opened = yield* Effect.either(open)
        if (Either.isRight(opened)) serving.push({ protocol, open: opened.right })
        else attempts.push(attemptOf(protocol.name, "", opened.left))
      }
      if (serving.length === 0) {
        return yield* new ProtocolError({
          reason: "AllFailed",
          protocol: protocols.map((protocol) => protocol.name).join(", ") || "none",
          detail: "no protocol can listen here",
          outcome: "NotDelivered",
          attempts
        })
      }
      return endpointsOf(serving)
    })

    // What newcomers find no more is opened again, or struck from the record until that works.
    const upkeep = (
      leader: Election.Leader,
      serving: ReadonlyArray<Serving>,
      server: Conversation.Server,
      scope: Scope.Scope
    ) =>
      Effect.gen(function* () {
        const { directory, record } = leader
        const { maxConnections, maxFrameBytes } = config
        const place = { id, directory, nonce: record.nonce, maxConnections, maxFrameBytes }
        let published = true
        while (true) {
          yield* leader.checked
          for (const each of serving) {
            if (each.open !== undefined && (yield* each.open.listener.reachable ?? Effect.succeed(true))) continue
            published &&= each.open === undefined
            if (each.open !== undefined) yield* Scope.close(each.open.scope, Exit.void)
            each.open = Option.getOrUndefined(yield* Effect.option(openIn(scope, each.protocol, place)))
            if (each.open === undefined) continue
            published = false
            yield* server.serve(each.open)
          }
          // The record may be what a full disk has no room for.
          if (!published) {
            published = yield* Effect.match(leader.publish(endpointsOf(serving)), {
              onFailure: () => false,
              onSuccess: () => true
            })
          }
        }
      })

    const lead = Effect.fnUntraced(function* (
      leader: Election.Leader,
      serving: ReadonlyArray<Serving>,
      prepared: { readonly request: Request; readonly launch: Message.Launch },
      redelivered: boolean
    ) {
      const { proof, record, took } = leader
      yield* Metric.increment(Metric.tagged(Metrics.takeovers, "took", took))
      // What is opened again outlives the server as well, which tells newcomers of its end.
      const listeners = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.sequential)
      const server = yield* Conversation.make({ id, record, config })
      for (const { open } of serving) if (open !== undefined) yield* server.serve(open)
      yield* Effect.forkScoped(Effect.interruptible(upkeep(leader, serving, server, listeners)))
      yield* leader.lost.pipe(
        Effect.catchAll(() => server.abdicate),
        Effect.interruptible,
        Effect.forkScoped
      )
      const primary: Primary<Request, Reply, Failure, Broadcast> = {
        _tag: "Primary",
        id,
        pid: record.process.pid,
        epoch: record.epoch,
        took,
        proof,
        get endpoints() {
          return endpointsOf(serving)
        },
        request: prepared.request,
        launch: prepared.launch,
        redelivered,
        broadcast: (message) =>
          Effect.flatMap(Effect.mapError(codec.encodeBroadcast(message), invalid), (payload) =>
            Effect.mapError(server.broadcast(payload), invalid)
          ),
        lost: leader.lost,
        descriptor: leader.descriptor,
        refuseNewcomers: (on) => Effect.sync(() => server.refuseNewcomers(on)),
        shutdown: server.shutdown,
        serve: (handler) => server.install(handle(id, codec, handler))
      }
      yield* Effect.logDebug(`primary, epoch ${record.epoch} (${took})`)
      return primary
    })

    const follow = Effect.fnUntraced(function* (following: Following, remaining: number, patienceMillis = remaining) {
      const target: Secondary.Target = {
        id,
        record: following.record,
        directory: following.directory,
        protocols,
        config,
        pid: verifier.pid,
        remaining: Duration.millis(remaining),
        patience: Duration.millis(patienceMillis),
        gone: following.gone
      }
      return { target, session: yield* Effect.raceFirst(Secondary.connect(target), whereHeld(following.record)) }
    })

    // Sends at once, and waits where interruption is restored.
    const exchange = (target: Secondary.Target, session: Secondary.Session) => {
      const deliver = Secondary.delivering(target, session, concluding(session))
      return (
        request: Secondary.Request,
        { replyTimeout }: SendOptions,
        restore: Secondary.Restore
      ): Effect.Effect<Reply, Failure | TimeoutError | ProtocolError> => {
        if (replyTimeout === undefined) return deliver(request, restore)
        const delivering = Effect.uninterruptibleMask((restore) => deliver(request, restore))
        const millis = Duration.toMillis(durationText.decode("replyTimeout", replyTimeout))
        const timely = limit.timeoutFail(delivering, {
          millis,
          onTimeout: () =>
            new TimeoutError({
              phase: "reply",
              id,
              millis,
              pid: session.primary.pid,
              outcome: "Unknown",
              messageId: request.id
            })
        })
        return restore(timely)
      }
    }

    // What the handler's exit means to the sender.
    const concluding = (session: Secondary.Session) => {
      const failed = (reason: ProtocolError["reason"], detail: string, cause?: unknown) =>
        new ProtocolError({
          reason,
          protocol: session.protocol,
          detail,
          outcome: "Delivered",
          pid: session.primary.pid,
          ...(cause === undefined ? undefined : { cause })
        })
      return (encoded: Secondary.Reply): Effect.Effect<Reply, Failure | ProtocolError> =>
        Contract.conclude(codec, encoded, failed)
    }

    // Whether the owner has ended and somebody who inherited its witness has not.
    const isHeld = (seen: Observation): Effect.Effect<boolean> =>
      isInheritable() && seen._tag === "Recorded" && !seen.record.released && seen.liveness._tag === "Alive"
        ? Effect.map(verifier.verify(seen.record.process, { local: false }), ({ _tag }) => _tag === "Dead")
        : Effect.succeed(false)

    // Looks twice, as the owner may end between the look at its witness and the look at its process.
    const observe = Effect.gen(function* () {
      const first = yield* lock.inspect(id)
      if (!(yield* isHeld(first))) return { seen: first, held: false }
      const seen = yield* lock.inspect(id)
      return { seen, held: yield* isHeld(seen) }
    })

    const heldError = (record: InstanceRecord) =>
      new LockError({
        reason: "OwnerEnded",
        id,
        detail: `process ${record.process.pid} has ended, but a command that it started still runs and holds the lock; nobody takes messages`,
        owner: ownerOf(record)
      })

    // Fails where that is so, and looks once, as soon as a connection takes longer than usual. In two looks, as a child
    // that is just being started has all that its parent had, for a moment.
    const whereHeld = (record: InstanceRecord): Effect.Effect<never, LockError> => {
      const held = Effect.orElseSucceed(
        Effect.map(observe, ({ held }) => held),
        () => false
      )
      const look = (millis: number) => Effect.zipRight(Effect.sleep(millis), held)
      return Effect.interruptible(
        Effect.if(Effect.if(look(200), { onTrue: () => look(100), onFalse: () => Effect.succeed(false) }), {
          onTrue: () => heldError(record),
          onFalse: () => Effect.never
        })
      )
    }

    // Contends or looks, and uses the primary that is found: round after round while another one may end better, until
    // the time is up. What a round opened is closed with it, unless its result is to be kept.
    const persist = <L, A, E>(round: Rounds<L, A, E>): Effect.Effect<L | A, E | SingleInstanceError, Scope.Scope> =>
      limit.measured(timeoutMillis, (now) => persistent(round, now))

    const persistent = Effect.fnUntraced(function* <L, A, E>(
      round: Rounds<L, A, E>,
      now: () => number
    ): Effect.fn.Return<L | A, E | SingleInstanceError, Scope.Scope> {
      let started = now()
      let deafSince: number | undefined
      let silent: { readonly nonce: string; readonly since: number } | undefined
      let held = false
      let attempts = 0
      while (true) {
        attempts++
        const began = now()
        const remaining = Math.max(1, started + timeoutMillis - began)
        const once = Effect.gen(function* (): Effect.fn.Return<Round<L | A>, E, Scope.Scope> {
          const found = yield* round.find(remaining)
          if (!isFollowing(found)) return { _tag: "Done", result: found }
          const used = yield* Effect.either(round.use(found, remaining, attempts))
          if (Either.isRight(used)) return { _tag: "Done", result: used.right }
          const error = used.left
          if (!isTransport(error) || !(mayPass(error) || round.repeat?.(error))) {
            const since = silent?.nonce === found.record.nonce ? silent.since : began
            return yield* Effect.fail(inWhole(error, Math.min(timeoutMillis, now() - since)))
          }
          const pause = yield* Random.nextIntBetween(20, 100)
          // Interruptible also where the caller is not, in a finalizer for example: a bound would not be any.
          yield* Effect.timeoutOption(Effect.interruptible(found.gone), pause)
          return { _tag: "Again", error, record: found.record }
        })
        const outcome = yield* keepIf(once, (outcome) => outcome._tag === "Done" && round.keep(outcome.result))
        if (outcome._tag === "Done") return outcome.result
        const { error, record } = outcome
        if (isDeaf(error) || error._tag === "TimeoutError") {
          // In two rounds, as above.
          const before = held
          held = (yield* Effect.orElseSucceed(observe, () => ({ held: false }))).held
          if (held && before) return yield* heldError(record)
        }
        const time = now()
        deafSince = isDeaf(error) ? (deafSince ?? time) : undefined
        const deaf = deafSince !== undefined && time - deafSince >= deafMillis
        if (error._tag !== "TimeoutError") silent = undefined
        else if (silent?.nonce !== record.nonce) silent = { nonce: record.nonce, since: began }
        if (!deaf && started + timeoutMillis - time >= leastMillis) continue
        // A primary that came only just now has not had its chance to answer.
        const terminated =
          config.onUnresponsive === "terminate" && silent !== undefined && time - silent.since >= chanceMillis
            ? yield* Effect.provide(Election.terminate(id, record), context)
            : false
        if (!terminated)
          return yield* Effect.fail(inWhole(error, Math.min(timeoutMillis, time - (silent?.since ?? time))))
        started = now()
        silent = undefined
      }
    })

    const deliver =
      (prepared: { readonly payload: unknown; readonly launch: Message.Launch }, letter: Letter, send: SendOptions) =>
      (following: Following, remaining: number, attempts: number) =>
        follow(following, remaining).pipe(
          Effect.tap(() => {
            if (!letter.redelivered) letter.message = randomUUID()
          }),
          Effect.flatMap(({ session, target }) =>
            Effect.map(
              Effect.uninterruptibleMask((restore) => {
                const launch = encodeLaunch(prepared.launch)
                return exchange(target, session)(requestOf(prepared.payload, launch, letter, send), send, restore)
              }),
              (reply): Delivered<Reply> => ({
                _tag: "Delivered",
                reply,
                message: letter.message,
                primary: session.primary,
                protocol: session.protocol,
                address: session.address,
                attempts
              })
            )
          ),
          Effect.scoped
        )

    const elect = Effect.fnUntraced(function* (request: Request | undefined, send: SendOptions = {}) {
      const prepared = yield* prepare(request, send.launch)
      const letter = letterOf(send)
      return yield* persist<
        Primary<Request, Reply, Failure, Broadcast>,
        Delivered<Reply>,
        SingleInstanceError | Failure
      >({
        find: Effect.fnUntraced(function* (remaining) {
          const { contest: own, serving } = yield* contest
          const verdict = yield* limit.timeoutFail(Effect.provide(Election.contend(own), context), {
            millis: remaining,
            onTimeout: () => new TimeoutError({ phase: "acquire", id, millis: timeoutMillis, outcome: "NotDelivered" })
          })
          return verdict._tag === "Leading" ? yield* lead(verdict, serving, prepared, letter.redelivered) : verdict
        }),
        use: deliver(prepared, letter, send),
        keep: (result) => result._tag === "Primary",
        repeat: (error) => repeat(letter, error, send)
      }).pipe(Effect.mapError((error) => doubted(letter, error)))
    })

    const nobody = (location: string) =>
      new ProtocolError({
        reason: "Unreachable",
        protocol: "none",
        detail: `nobody is the primary of "${id}" (${location})`,
        outcome: "NotDelivered"
      })

    // The primary that lives, for those who never contend.
    const living: Effect.Effect<Following, LockError | ProtocolError> = Effect.gen(function* () {
      const seen = yield* lock.inspect(id)
      switch (seen._tag) {
        case "Recorded": {
          const { directory, liveness, record } = seen
          if (liveness._tag === "Dead") return yield* nobody(seen.location)
          const evidence = liveness._tag === "Alive" ? liveness.evidence : liveness.reason
          return { _tag: "Following", record, evidence, directory, gone: Effect.never }
        }
        case "Free":
          return yield* nobody(seen.location)
        default:
          return yield* new LockError({
            reason: seen._tag === "Newer" ? "RecordNewer" : "RecordUnreadable",
            id,
            path: seen.location,
            detail: seen._tag === "Newer" ? seen.header : seen.detail
          })
      }
    })

    const standby = Effect.fnUntraced(function* (given: Partial<StandbyOptions<Request>> = {}) {
      const prepared = yield* prepare(given.request, given.launch)
      const { contest: own, serving } = yield* contest
      const onFollow = given.onFollow && ((record: InstanceRecord) => given.onFollow!(ownerOf(record)))
      const leader = yield* Effect.provide(Election.standby(own, { onFollow }), context)
      return yield* lead(leader, serving, prepared, false)
    })

    const handOver = Effect.fnUntraced(function* (request: Request | undefined, send: SendOptions = {}) {
      const prepared = yield* prepare(request, send.launch)
      const letter = letterOf(send)
      return yield* persist<never, Delivered<Reply>, SingleInstanceError | Failure>({
        // Who has no primary any more waits for the next one.
        find: (remaining) =>
          letter.redelivered
            ? Effect.retry(living, { while: ({ reason }) => reason === "Unreachable", schedule: patiently(remaining) })
            : living,
        use: deliver(prepared, letter, send),
        keep: () => false,
        repeat: (error) => repeat(letter, error, send)
      }).pipe(Effect.mapError((error) => doubted(letter, error)))
    }, Effect.scoped)

    const conversation = persist<
      never,
      { readonly session: Secondary.Session; readonly target: Secondary.Target },
      SingleInstanceError
    >({
      find: () => living,
      use: (following, remaining) => follow(following, remaining, timeoutMillis),
      keep: () => true
    })

    const connect = Effect.map(conversation, ({ session, target }): Client<Request, Reply, Failure, Broadcast> => {
      // The very same one each time, so that the session need not send it again.
      let own: Message.Request["launch"]
      // Cheaper than a name of its own for each message, and short, as it is read four times.
      const name = randomBytes(16).toString("base64url")
      let count = 0
      const deliver = exchange(target, session)
      return {
        get primary() {
          return session.primary
        },
        protocol: session.protocol,
        address: session.address,
        closed: session.closed,
        send: (request, options = noOptions) =>
          Effect.uninterruptibleMask((restore) => {
            const isOwn = options.launch === undefined && (codec.encodeRequest !== undefined || request === undefined)
            if (isOwn) own ??= encodeLaunch(currentLaunch())
            const ask = (payload: unknown) => {
              const launch = isOwn ? own : encodeLaunch(launchOf(request, options.launch))
              const letter = { message: `${name}.${++count}`, repeatable: false, redelivered: false }
              return deliver(requestOf(payload, launch, letter, options), options, restore)
            }
            const encoded = encode(request)
            const payload = Either.isEither(encoded) ? encoded : restore(encoded)
            return known.match(payload, { onFailure: Effect.fail, onSuccess: ask })
          }),
        broadcasts: Stream.unwrapScoped(
          Effect.map(session.subscribe, (next) => Stream.repeatEffectChunk(Effect.map(next, Chunk.unsafeFromArray)))
        ).pipe(
          Stream.mapEffect(({ missed, payload }) =>
            Effect.map(codec.decodeBroadcast(payload), (message) => ({ message, missed }))
          ),
          Stream.mapError((error) => (typeof error === "string" ? invalid(error) : error))
        )
      }
    })

    return {
      id,
      elect: (request, send) =>
        elect(request, send).pipe(
          measured(clock),
          Effect.withSpan("SingleInstance.elect", { attributes: { id } }),
          Effect.annotateLogs({ module: "effect-single-instance", id })
        ),
      standby: (...[given]) =>
        standby(given).pipe(
          Effect.withSpan("SingleInstance.standby", { attributes: { id } }),
          Effect.annotateLogs({ module: "effect-single-instance", id })
        ),
      send: (request, send) =>
        handOver(request, send).pipe(
          measured(clock),
          Effect.withSpan("SingleInstance.send", { attributes: { id } }),
          Effect.annotateLogs({ module: "effect-single-instance", id })
        ),
      connect,
      inspect: Effect.map(observe, ({ held, seen }) => {
        const seenAs = inspection(id, seen)
        if (!held) return seenAs
        const evidence = `process ${seenAs.owner?.pid} has ended, but a process that it started still holds its liveness witness`
        return { ...seenAs, state: "held" as const, evidence }
      }),
      breakLock: (nonce) => lock.breakLock(id, nonce)
    }
  })

// One message on its way through all rounds. Its id is another one in each: where one round struck it off, it stays so.
// Only what may have been handled keeps its id.
interface Letter {
  message: string
  readonly repeatable: boolean
  redelivered: boolean
}

const noOptions: SendOptions = {}

const letterOf = ({ delivery }: SendOptions): Letter => ({
  message: randomUUID(),
  repeatable: delivery === "at-least-once",
  redelivered: false
})

const requestOf = (
  payload: unknown,
  launch: Message.Request["launch"],
  { message, redelivered, repeatable }: Letter,
  { detached = false, onOutput }: SendOptions
): Secondary.Request => ({
  id: message,
  payload,
  launch,
  trace: currentTrace(),
  detached,
  repeatable,
  redelivered,
  onOutput
})

// Whether it goes out once more although a primary may have had it. The caller's own limit is for the caller.
const repeat = (letter: Letter, error: TimeoutError | ProtocolError, { replyTimeout }: SendOptions): boolean => {
  if (!letter.repeatable || error.outcome !== "Unknown") return false
  const isAsked = error._tag === "TimeoutError" && error.phase === "reply" && replyTimeout !== undefined
  if (isAsked && error.millis === Duration.toMillis(replyTimeout)) return false
  letter.redelivered = true
  return true
}

const patiently = (millis: number) => Schedule.upTo(Schedule.spaced("50 millis"), millis)

// On Windows no command inherits the lock, and to look at a process starts a program.
const isInheritable = () => process.platform !== "win32"

// A primary that was silent for several rounds, or before it got the message, was so for longer than the last limit.
const inWhole = <E>(error: E, silentMillis: number): E =>
  error instanceof TimeoutError && error.phase !== "reply"
    ? (new TimeoutError({ ...error, millis: Math.max(error.millis, Math.round(silentMillis)) }) as E)
    : error

// What later rounds are certain of says nothing about the first one.
const doubted = <E>(letter: Letter, error: E): E =>
  letter.redelivered && isSingleInstanceError(error) && error.outcome === "NotDelivered"
    ? new (error.constructor as new (fields: object) => E)({ ...error, outcome: "Unknown" })
    : error

// A protocol that listens, or did; with the scope that ends it.
interface Serving {
  readonly protocol: Protocol["Type"]
  open: (Conversation.Serving & { readonly scope: Scope.CloseableScope }) | undefined
}

const openIn = (
  scope: Scope.Scope,
  protocol: Protocol["Type"],
  options: ListenOptions
): Effect.Effect<NonNullable<Serving["open"]>, ProtocolError> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Scope.fork(scope, ExecutionStrategy.sequential), (own) =>
      restore(Scope.extend(protocol.listen(options), own)).pipe(
        Effect.onError((cause) => Scope.close(own, Exit.failCause(cause))),
        Effect.map((listener) => ({ protocol: protocol.name, listener, scope: own }))
      )
    )
  )

const endpointsOf = (serving: ReadonlyArray<Serving>): ReadonlyArray<Endpoint> =>
  serving.flatMap(({ open }) =>
    open === undefined
      ? []
      : [new Endpoint({ protocol: open.protocol, address: open.listener.address, wire: Message.wire })]
  )

/**
 * How this process was started. `env` holds only the variables that are named, and that there are. `cwd` is, where the
 * working directory no longer exists, its name with ` (deleted)` behind it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const currentLaunch = (given: LaunchOptions = {}): Message.Launch => {
  return new Message.Launch({
    argv: given.argv ?? process.argv.slice(2),
    cwd: given.cwd ?? location.cwd(),
    env: location.variables(given.env ?? []),
    ...(given.data === undefined ? undefined : { data: given.data }),
    ...(given.stdin === undefined ? undefined : { stdin: given.stdin })
  })
}

const encodeLaunch = Schema.encodeSync(Message.Launch)

const attemptOf = (protocol: string, address: string, error: ProtocolError): Attempt => ({
  protocol,
  address,
  reason: error.reason,
  detail: error.detail
})

// The user's handler between its two schemas.
const handle = <Request, Reply, Failure, Broadcast, R>(
  id: InstanceId,
  codec: Contract.Codec<Request, Reply, Failure, Broadcast>,
  handler: (request: Request, launch: Conversation.IncomingLaunch) => Effect.Effect<Reply, Failure, R>
): Conversation.Handler<R> => ({
  run: ({ launch, payload, trace }) => {
    const run = (request: Request) => traced(id, launch, trace, () => handler(request, launch))
    if (codec.encodeRequest === undefined) return run(launch as Request)
    const decoded = codec.decodeRequest(payload)
    if (known.isRight(decoded)) return run(decoded.right)
    // An interruption while the schema is asked leaves no request either.
    return Effect.uninterruptibleMask((restore) =>
      Effect.matchCauseEffect(restore(decoded), {
        onFailure: (cause) =>
          new Conversation.Unreadable({
            detail: Option.getOrElse(Cause.failureOption(cause), () => Cause.pretty(cause))
          }),
        onSuccess: (request) => restore(Effect.suspend(() => run(request)))
      })
    )
  },
  encode: (exit) => codec.encodeExit(exit as Exit.Exit<Reply, Failure>)
})

// A span costs more than a round trip of the transport, and without a tracer or a parent nobody can ever see it.
const traced = <A, E, R>(
  id: InstanceId,
  launch: Conversation.IncomingLaunch,
  trace: Message.Request["trace"],
  evaluate: () => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  trace === undefined
    ? evaluate()
    : Effect.withSpan(Effect.suspend(evaluate), "SingleInstance.handle", {
        kind: "server",
        parent: Tracer.externalSpan(trace),
        attributes: { id, message: launch.message, protocol: launch.protocol }
      })

const currentTrace = (): Message.Request["trace"] => {
  const own = Option.flatMap(Fiber.getCurrentFiber(), ({ currentContext }) =>
    Context.getOption(currentContext, Tracer.ParentSpan)
  )
  const span = Option.getOrUndefined(own)
  if (span === undefined) return undefined
  const { sampled, spanId, traceId } = span
  return { sampled, spanId, traceId }
}

const measured =
  (clock: Clock.Clock) =>
  <A extends { readonly _tag: "Primary" } | { readonly _tag: "Delivered" }, E, R>(
    effect: Effect.Effect<A, E, R>
  ): Effect.Effect<A, E, R> =>
    Effect.suspend(() => {
      const started = limit.monotonicMillis(clock)
      const count = (role: string, outcome: string) =>
        Effect.zipRight(
          Metric.increment(Metric.tagged(Metrics.launches, "role", role)),
          role === "primary" ? Effect.void : Metric.increment(Metric.tagged(Metrics.outcomes, "outcome", outcome))
        )
      return effect.pipe(
        Effect.tap((result) =>
          result._tag === "Primary"
            ? count("primary", "")
            : Effect.zipRight(
                count("delivered", "Delivered"),
                Metric.update(Metrics.handOff, limit.monotonicMillis(clock) - started)
              )
        ),
        // The application's own failure is an answer of the handler.
        Effect.tapError((error) =>
          isSingleInstanceError(error) ? count("failed", error.outcome) : count("delivered", "Delivered")
        )
      )
    })

const inspection = (id: InstanceId, seen: Observation): Inspection => {
  const { location } = seen
  const bare = { id, location, owner: undefined, endpoints: [], nonce: undefined }
  switch (seen._tag) {
    case "Free":
      return { ...bare, state: "free", evidence: "there is no record" }
    case "Unreadable":
      return { ...bare, state: "unreadable", evidence: seen.detail, nonce: seen.nonce }
    case "Newer":
      return { ...bare, state: "newer", evidence: `the record reads "${seen.header}"`, nonce: seen.nonce }
    case "Recorded": {
      const { liveness, record } = seen
      return {
        id,
        location,
        state: record.released ? "released" : stateOf(liveness),
        evidence:
          liveness._tag === "Alive"
            ? liveness.evidence
            : liveness._tag === "Dead"
              ? `${liveness.proof.rule}: ${liveness.proof.detail}`
              : liveness.reason,
        owner: { ...ownerOf(record), version: record.version, argv0: record.argv0 },
        endpoints: record.endpoints,
        nonce: record.nonce
      }
    }
  }
}

const stateOf = (liveness: Liveness): Inspection["state"] =>
  liveness._tag === "Alive" ? "primary" : liveness._tag === "Dead" ? "dead" : "unverifiable"
