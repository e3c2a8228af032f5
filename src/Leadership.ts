/**
 * Leadership without messages: for a program, or a part of one, that must run in one process only.
 *
 * @since 0.1.0
 */
import type * as CommandExecutor from "@effect/platform/CommandExecutor"
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Election from "./Election.js"
import { type InstanceId, unchecked } from "./InstanceId.js"
import { ownerOf, type Took } from "./InstanceLock.js"
import type { InstanceRecord } from "./InstanceRecord.js"
import * as fibers from "./internal/fibers.js"
import * as platform from "./internal/platform.js"
import type { Proof } from "./Liveness.js"
import * as SingleInstanceConfig from "./SingleInstanceConfig.js"
import { LockError, type Owner, TimeoutError } from "./SingleInstanceError.js"

/**
 * That this process is the only one, and its fencing token. In a program that leads under several ids it is the
 * leadership that was provided last; `LeadershipOf` tells them apart.
 *
 * @since 0.1.0
 * @category context
 */
export class Leadership extends Context.Tag("effect-single-instance/Leadership")<
  Leadership,
  {
    readonly id: InstanceId
    readonly pid: number
    /** Greater than that of every earlier leader. Give it to what you write to. */
    readonly epoch: number
    /** How the lock was acquired. */
    readonly took: Took
    /** What proved the predecessor's death, where it died. */
    readonly proof: Proof | undefined
    /** Never succeeds; fails with reason `Lost` when leadership ended on evidence. */
    readonly lost: Effect.Effect<never, LockError>
  }
>() {}

/**
 * The identifier of the tag that `LeadershipOf` makes.
 *
 * @since 0.1.0
 * @category models
 */
export interface LeadershipOf<Id extends string> {
  readonly _: "effect-single-instance/LeadershipOf"
  readonly id: Id
}

/**
 * The tag of the leadership under one id, for programs that lead under several. `layerPrimary`, `layerStandby` and
 * `withLeadership` provide it beside `Leadership`.
 *
 * @since 0.1.0
 * @category context
 * @example
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { SingleInstance } from "effect-single-instance"
 *
 * export const epochs = Effect.gen(function* () {
 *   const billing = yield* SingleInstance.LeadershipOf("billing")
 *   const reports = yield* SingleInstance.LeadershipOf("reports")
 *   return [billing.epoch, reports.epoch]
 * }).pipe(
 *   Effect.provide(
 *     Layer.merge(SingleInstance.layerPrimary({ id: "billing" }), SingleInstance.layerPrimary({ id: "reports" }))
 *   )
 * )
 * ```
 */
export const LeadershipOf = <const Id extends string>(id: Id): Context.Tag<LeadershipOf<Id>, Leadership["Type"]> =>
  Context.GenericTag<LeadershipOf<Id>, Leadership["Type"]>(`effect-single-instance/LeadershipOf/${id}`)

/**
 * Options of a leadership: its id, and those of `SingleInstanceConfig` that do not concern messages.
 *
 * - `timeout`: how long it may take to become the primary, then `TimeoutError` with phase `acquire`. 20 seconds by default;
 *   no limit by default for who waits for its turn.
 * - `drain`: how long what leads may take to end after leadership was lost. Then the process ends with exit code 1, and
 *   says why on stderr. 10 seconds by default.
 *
 * @since 0.1.0
 * @category models
 */
export interface LeadershipOptions<Id extends string = string>
  extends Omit<
    SingleInstanceConfig.ConfigOptions,
    | "helloTimeout"
    | "maxFrameBytes"
    | "maxConnections"
    | "maxInFlight"
    | "maxRemembered"
    | "encoding"
    | "onUnresponsive"
  > {
  readonly id: Id
}

/**
 * @since 0.1.0
 * @category models
 */
export interface LeadershipLayerOptions<Id extends string = string> extends LeadershipOptions<Id> {
  /**
   * What to do when leadership is lost on evidence. By default the root fiber of the program that built the layer is
   * interrupted, and with it all that it runs. If that fiber has ended by then (as in a `ManagedRuntime`), or the layer's
   * scope is still open after `drain`, the process says why on stderr and ends with exit code 1.
   */
  readonly onLost?: ((error: LockError) => Effect.Effect<void>) | undefined
}

/**
 * Options of who waits for its turn.
 *
 * @since 0.1.0
 * @category models
 */
export interface WaitOptions {
  /** Called with each primary that it waits behind. */
  readonly onFollow?: ((owner: Owner) => Effect.Effect<void>) | undefined
}

type Platform = FileSystem.FileSystem | CommandExecutor.CommandExecutor

/**
 * Runs an effect while this process is the only one, with its `Leadership` and a scope of its own; then that scope closes
 * and the lock is released. This is the recommended form: it ends the effect and nothing else when leadership is lost.
 *
 * - Without `wait` it fails with reason `AlreadyRunning`, and says who runs, where another process leads. With `wait` it
 *   waits for its turn.
 * - When leadership is lost on evidence, the effect is interrupted, also where the caller cannot be, and the error is
 *   `LockError` with reason `Lost`. An effect that has not ended after `drain` is ended with the process (exit code 1).
 * - It fails with `TimeoutError`, phase `acquire`, where the decision or the turn takes longer than `timeout`.
 *
 * @since 0.1.0
 * @category running
 * @example
 * ```ts
 * import { NodeContext } from "@effect/platform-node"
 * import { Effect } from "effect"
 * import { SingleInstance } from "effect-single-instance"
 *
 * const bill = Effect.gen(function* () {
 *   const { epoch } = yield* SingleInstance.Leadership
 *   yield* Effect.log(`alone, with fencing token ${epoch}`)
 *   yield* Effect.never
 * })
 *
 * export const program = SingleInstance.withLeadership({ id: "billing-worker", wait: true }, bill).pipe(
 *   Effect.provide(NodeContext.layer)
 * )
 * ```
 */
export const withLeadership = <const Id extends string, A, E, R>(
  options: LeadershipOptions<Id> & WaitOptions & { readonly wait?: boolean | undefined },
  effect: Effect.Effect<A, E, R>
): Effect.Effect<
  A,
  E | LockError | TimeoutError,
  Exclude<Exclude<R, Leadership | LeadershipOf<Id>>, Scope.Scope> | Platform
> =>
  Effect.scoped(
    Effect.flatMap(acquire(options, options.wait === true ? options : undefined), (leadership) =>
      fibers.whileLeading(Effect.provide(Effect.scoped(effect), contextOf(leadership)), leadership.lost, (error) =>
        Effect.zipRight(Effect.sleep(drainOf(options)), endProcess(error, "it did not end in time"))
      )
    )
  ) as any

/**
 * A layer that builds only in the one primary. Otherwise it fails with reason `AlreadyRunning` and who runs, or with
 * `TimeoutError` where the decision takes longer than `timeout`. It takes no messages. The lock is released with the
 * layer's scope. What happens when leadership is lost says `onLost`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerPrimary = <const Id extends string>(
  options: LeadershipLayerOptions<Id>
): Layer.Layer<Leadership | LeadershipOf<Id>, LockError | TimeoutError, Platform> => layer(options, undefined)

/**
 * As `layerPrimary`, but waits for its turn: without a limit unless `timeout` gives one.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerStandby = <const Id extends string>(
  options: LeadershipLayerOptions<Id> & WaitOptions
): Layer.Layer<Leadership | LeadershipOf<Id>, LockError | TimeoutError, Platform> => layer(options, options)

const layer = <Id extends string>(
  options: LeadershipLayerOptions<Id>,
  wait: WaitOptions | undefined
): Layer.Layer<Leadership | LeadershipOf<Id>, LockError | TimeoutError, Platform> =>
  Layer.scopedContext(
    Effect.gen(function* () {
      // Now, as the fiber that builds may end before the program that it builds for.
      const root = yield* fibers.root
      const leadership = yield* acquire(options, wait)
      const end = (error: LockError) => endProgram(error, root, drainOf(options))
      const onLost = (error: LockError) =>
        options.onLost === undefined ? end(error) : Effect.catchAllCause(options.onLost(error), () => end(error))
      yield* leadership.lost.pipe(
        Effect.catchAll(onLost),
        Effect.annotateLogs({ module: "effect-single-instance", id: options.id }),
        Effect.interruptible,
        Effect.forkScoped
      )
      return contextOf(leadership) as Context.Context<Leadership | LeadershipOf<Id>>
    })
  )

const contextOf = (leadership: Leadership["Type"]) =>
  Context.add(Context.make(Leadership, leadership), LeadershipOf(leadership.id), leadership)

const drainOf = (options: LeadershipOptions) => SingleInstanceConfig.make(options).drain

// The lock is made within the time limit, too. Interruptible, because the limit has to hold in an uninterruptible region.
const acquire = (
  options: LeadershipOptions,
  wait: WaitOptions | undefined
): Effect.Effect<Leadership["Type"], LockError | TimeoutError, Platform | Scope.Scope> =>
  Effect.gen(function* () {
    const config = SingleInstanceConfig.make(options)
    const id = unchecked(options.id)
    const contest = { id, version: config.version, listen: () => Effect.succeed([]) }
    const elect = wait === undefined ? contend(contest) : standBy(contest, wait)
    const lock = Layer.provide(platform.layerLock, platform.layerConfigured(options))
    const leading = Layer.build(lock).pipe(
      Effect.flatMap((context) => Effect.provide(elect, context)),
      Effect.interruptible
    )
    const duration = wait === undefined || options.timeout !== undefined ? config.timeout : Duration.infinity
    const { lost, proof, record, took } = yield* Effect.timeoutFail(leading, {
      duration,
      onTimeout: () =>
        new TimeoutError({ phase: "acquire", id, millis: Duration.toMillis(duration), outcome: "NotDelivered" })
    })
    return { id, pid: record.process.pid, epoch: record.epoch, took, proof, lost }
  })

const contend = (contest: Election.Contest<never, never>) =>
  Effect.flatMap(Election.contend(contest), (verdict) =>
    verdict._tag === "Leading"
      ? Effect.succeed(verdict)
      : new LockError({
          reason: "AlreadyRunning",
          id: contest.id,
          detail: `process ${verdict.record.process.pid} is the primary: ${verdict.evidence}`,
          owner: ownerOf(verdict.record)
        })
  )

const standBy = (contest: Election.Contest<never, never>, { onFollow }: WaitOptions) =>
  Election.standby(contest, { onFollow: onFollow && ((record: InstanceRecord) => onFollow(ownerOf(record))) })

// Runs in the layer's scope: when that closes in time, nothing of the program leads any more, and this is interrupted.
const endProgram = (error: LockError, root: Fiber.RuntimeFiber<any, any>, drain: Duration.Duration) =>
  Effect.gen(function* () {
    if (root.unsafePoll() !== null) {
      return yield* endProcess(error, "the fiber that acquired it has ended, so nothing else can be interrupted")
    }
    root.unsafeInterruptAsFork(root.id())
    yield* Effect.exit(Effect.logFatal(error.message))
    yield* Effect.sleep(drain)
    yield* endProcess(error, "the program did not end in time")
  })

const endProcess = (error: LockError, why: string) => Effect.sync(() => platform.exit(1, `${error.message} (${why})`))
