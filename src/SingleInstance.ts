/**
 * One process of an application is the primary; every later launch hands it a typed message, gets a typed answer and
 * learns what became of it.
 *
 * @since 0.1.0
 */
import type * as CommandExecutor from "@effect/platform/CommandExecutor"
import type * as FileSystem from "@effect/platform/FileSystem"
import * as PlatformRuntime from "@effect/platform/Runtime"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Instance from "./Instance.js"
import { unchecked } from "./InstanceId.js"
import type { InstanceLock } from "./InstanceLock.js"
import type { Contract } from "./internal/contract.js"
import * as fibers from "./internal/fibers.js"
import { apart, close } from "./internal/finalizer.js"
import * as platform from "./internal/platform.js"
import type { PidVerifier } from "./PidVerifier.js"
import { Protocol } from "./Protocol.js"
import type * as SingleInstanceConfig from "./SingleInstanceConfig.js"
import type { LockError, Owner, ProtocolError, SingleInstanceError } from "./SingleInstanceError.js"

export {
  Leadership,
  type LeadershipLayerOptions,
  LeadershipOf,
  type LeadershipOptions,
  layerPrimary,
  layerStandby,
  type WaitOptions,
  withLeadership
} from "./Leadership.js"

/**
 * @since 0.1.0
 * @category models
 */
export type AnyProtocol = Layer.Layer<Protocol, ProtocolError, any>

/**
 * What layers of an instance need from the platform; `NodeContext.layer` has it.
 *
 * @since 0.1.0
 * @category models
 */
export type Platform = FileSystem.FileSystem | CommandExecutor.CommandExecutor

/**
 * What is tried behind `protocol`.
 *
 * @since 0.1.0
 * @category models
 */
export type Fallback = ReadonlyArray<AnyProtocol> | "none"

/**
 * Which protocols carry the messages. `protocol` comes first, then `fallback` in its order; what is left out is the
 * platform's default chain. `"none"` switches fallback off.
 *
 * @since 0.1.0
 * @category models
 */
export interface ProtocolOptions<P extends AnyProtocol, F extends Fallback> {
  readonly protocol?: P | undefined
  readonly fallback?: F | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export type ProtocolContext<P extends AnyProtocol, F extends Fallback> =
  | ContextOf<P>
  | ContextOf<Exclude<F, "none">[number]>

// Distributes, so that it is `never` for an empty list; `Layer.Layer.Context<never>` would be `any`.
type ContextOf<L> = L extends Layer.Layer<infer _ROut, infer _E, infer RIn> ? RIn : never

type NoContext = Layer.Layer<Protocol, ProtocolError>

/**
 * The class behind a contract: a tag for its service, and what one does with it.
 *
 * @since 0.1.0
 * @category models
 */
export interface TagClass<Self, Id extends string, Request, Reply, Failure, Broadcast = never>
  extends Context.TagClass<Self, Id, Instance.Instance<Request, Reply, Failure, Broadcast>> {
  /**
   * The whole loop: elect; the primary runs `primary`, with its request served like any other's left to it; a later
   * launch sends, and goes on with `secondary` (left out: returns the `Delivered`). The primary's scope closes with its
   * effect: accepted requests drain, then what it acquired is released, then the lock.
   * Where leadership is lost, the effect is interrupted and the error is `Lost`.
   */
  readonly enforce: <A, E, R, B = Instance.Delivered<Reply>, E2 = never, R2 = never>(
    options: Instance.RequestOption<Request> &
      Instance.SendOptions & {
        readonly primary: (primary: Instance.Primary<Request, Reply, Failure, Broadcast>) => Effect.Effect<A, E, R>
        readonly secondary?: ((delivered: Instance.Delivered<Reply>) => Effect.Effect<B, E2, R2>) | undefined
      }
  ) => Effect.Effect<A | B, E | E2 | SingleInstanceError | Failure, Self | Exclude<R | R2, Scope.Scope>>

  /** As `enforce`, but never hands over: waits for its turn to be the primary. */
  readonly standby: <A, E, R>(
    options: Instance.RequestOption<Request> & {
      readonly launch?: Instance.LaunchOptions | undefined
      readonly onFollow?: ((owner: Owner) => Effect.Effect<void>) | undefined
      readonly primary: (primary: Instance.Primary<Request, Reply, Failure, Broadcast>) => Effect.Effect<A, E, R>
    }
  ) => Effect.Effect<A, E | LockError | ProtocolError, Self | Exclude<R, Scope.Scope>>

  /** The service with all it is made of: the platform's lock, process verification and protocols. */
  readonly layer: <P extends AnyProtocol = NoContext, const F extends Fallback = []>(
    ...options: Id extends typeof launchId
      ? [options: LayerOptions<P, F> & { readonly id: string }]
      : [options?: LayerOptions<P, F>]
  ) => Layer.Layer<Self, never, Platform | ProtocolContext<P, F>>

  /** The same, with lock, verification and options left to you. */
  readonly layerWithoutDependencies: <P extends AnyProtocol = NoContext, const F extends Fallback = []>(
    ...options: Id extends typeof launchId
      ? [options: ProtocolOptions<P, F> & { readonly id: string }]
      : [options?: ProtocolOptions<P, F> & { readonly id?: string | undefined }]
  ) => Layer.Layer<
    Self,
    never,
    InstanceLock | PidVerifier | SingleInstanceConfig.SingleInstanceConfig | ProtocolContext<P, F>
  >
}

/**
 * @since 0.1.0
 * @category models
 */
export interface LayerOptions<P extends AnyProtocol, F extends Fallback>
  extends ProtocolOptions<P, F>,
    SingleInstanceConfig.ConfigOptions {
  /** Another id than the tag's. */
  readonly id?: string | undefined
}

/**
 * Makes a class that names an application's instance and what its launches say to each other. `request` left out: the
 * launch itself is the request (argv, cwd, the chosen environment, data). `reply` left out: nothing is answered. `failure`
 * left out: handlers do not fail.
 *
 * @since 0.1.0
 * @category constructors
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { SingleInstance } from "effect-single-instance"
 *
 * class Editor extends SingleInstance.Tag<Editor>()("com.example.editor", {
 *   request: Schema.Struct({ open: Schema.Array(Schema.String) }),
 *   reply: Schema.Struct({ windows: Schema.Int })
 * }) {}
 *
 * export const program = Editor.enforce({
 *   request: { open: process.argv.slice(2) },
 *   primary: (primary) => primary.serve(({ open }) => Effect.succeed({ windows: open.length }))
 * })
 * ```
 */
export const Tag =
  <Self>() =>
  <const Id extends string, Request = Instance.LaunchRequest, Reply = void, Failure = never, Broadcast = never>(
    id: Id,
    contract: Contract<Request, Reply, Failure, Broadcast> = {}
  ): TagClass<Self, Id, Request, Reply, Failure, Broadcast> => {
    const tag = Context.Tag(id)<Self, Instance.Instance<Request, Reply, Failure, Broadcast>>()

    const layerWithoutDependencies = (
      options: ProtocolOptions<AnyProtocol, Fallback> & { readonly id?: string | undefined } = {}
    ) =>
      Layer.scoped(
        tag as any,
        Effect.gen(function* () {
          const chain = yield* protocolsOf(options)
          return yield* Instance.make({ id: unchecked(options.id ?? id), contract, ...chain })
        })
      )

    const lead = <A, E, R>(
      primary: Instance.Primary<Request, Reply, Failure, Broadcast>,
      use: (primary: Instance.Primary<Request, Reply, Failure, Broadcast>) => Effect.Effect<A, E, R>
    ) =>
      // What the user acquires outlives the requests that use it.
      Effect.acquireUseRelease(
        Scope.make(),
        (scope) => {
          const using = Effect.suspend(() => use(primary))
          return fibers.whileLeading(Scope.extend(using, scope), primary.lost)
        },
        (scope, exit) => Effect.ensuring(apart(primary.shutdown), close(scope, exit))
      )

    return Object.assign(tag, {
      enforce: ({ primary, request, secondary, ...send }: any) =>
        Effect.flatMap(tag as any, (instance: Instance.Instance<Request, Reply, Failure, Broadcast>) =>
          Effect.scoped(
            Effect.flatMap(
              instance.elect(request, send),
              (verdict): Effect.Effect<any, any, any> =>
                verdict._tag === "Primary"
                  ? lead(verdict, primary)
                  : secondary === undefined
                    ? Effect.succeed(verdict)
                    : secondary(verdict)
            )
          )
        ),
      standby: ({ launch, onFollow, primary, request }: any) =>
        Effect.flatMap(tag as any, (instance: Instance.Instance<Request, Reply, Failure, Broadcast>) =>
          Effect.scoped(
            Effect.flatMap(instance.standby({ request, launch, onFollow }), (verdict) => lead(verdict, primary))
          )
        ),
      layer: (options: LayerOptions<AnyProtocol, Fallback> = {}) =>
        layerWithoutDependencies(options).pipe(
          Layer.provide(layerLock),
          Layer.provide(platform.layerConfigured(options))
        ),
      layerWithoutDependencies
    }) as any
  }

/**
 * The id of the default tag, which every layer of it overrides.
 *
 * @since 0.1.0
 * @category constants
 */
export const launchId = "effect-single-instance/SingleInstance"

/**
 * @since 0.1.0
 * @category constants
 */
export type launchId = typeof launchId

/**
 * For an application without a contract of its own: the request is the launch itself, the reply an exit code. Its layer
 * requires an `id`, so that two applications never meet by accident.
 *
 * @since 0.1.0
 * @category context
 */
export class SingleInstance extends Tag<SingleInstance>()(launchId, { reply: Schema.Int }) {}

// The given protocols and, behind them, those of the platform's chain that were not given. One at a time, as all of them
// have the same tag; and by the memo map of the graph that this is built in, so that its other parts share them.
const protocolsOf = Effect.fnUntraced(function* (options: ProtocolOptions<AnyProtocol, Fallback>) {
  const given = [
    ...(options.protocol === undefined ? [] : [options.protocol]),
    ...(options.fallback === undefined || options.fallback === "none" ? [] : options.fallback)
  ]
  const memoMap = yield* Layer.CurrentMemoMap
  const scope = yield* Effect.scope
  const built = yield* Effect.forEach(given, (layer) => Effect.either(Layer.buildWithMemoMap(layer, memoMap, scope)))
  const protocols = built.filter(Either.isRight).map(({ right }) => Context.get(right, Protocol))
  const unavailable = built.filter(Either.isLeft).map(({ left }) => left)
  const defaults = platform.protocols().filter(({ name }) => protocols.every((protocol) => protocol.name !== name))
  const complete =
    options.protocol === undefined
      ? [...(options.fallback === "none" ? defaults.slice(0, 1) : defaults)]
      : options.fallback === undefined
        ? defaults
        : []
  return {
    protocols: options.protocol === undefined ? [...complete, ...protocols] : [...protocols, ...complete],
    unavailable
  }
})

/**
 * The lock in the file system, as the layers use it: made anew wherever it is provided, with the options that it finds
 * there.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerLock: Layer.Layer<InstanceLock, never, SingleInstanceConfig.SingleInstanceConfig | PidVerifier> =
  platform.layerLock

/**
 * The platform's verifier of processes, as the layers use it: made anew wherever it is provided.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerPidVerifier: Layer.Layer<PidVerifier, never, Platform> = platform.layerPidVerifier

const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const

/**
 * Runs a program as `NodeRuntime.runMain` does, and ends it by SIGINT, SIGTERM or SIGHUP with the scope released and the
 * conventional exit code (130, 143, 129). A second signal does not wait.
 *
 * @since 0.1.0
 * @category running
 */
export const runMain: PlatformRuntime.RunMain = PlatformRuntime.makeRunMain(({ fiber, teardown }) => {
  const keepAlive = setInterval(() => {}, 2 ** 31 - 1)
  const signals = Object.keys(exitCodes) as Array<keyof typeof exitCodes>
  let received: keyof typeof exitCodes | undefined
  const onSignal = (signal: NodeJS.Signals) => {
    if (received !== undefined) return process.exit(exitCodes[received])
    received = signal as keyof typeof exitCodes
    fiber.unsafeInterruptAsFork(fiber.id())
  }
  for (const signal of signals) process.on(signal, onSignal)
  fiber.addObserver((exit) => {
    clearInterval(keepAlive)
    for (const signal of signals) process.removeListener(signal, onSignal)
    teardown(exit, (code) => {
      if (received !== undefined) process.exit(exitCodes[received])
      // Interrupted by no signal, but because the lock was lost, say: a supervisor should see that it did not end well.
      if (code !== 0 || Exit.isFailure(exit)) process.exit(code === 0 ? 1 : code)
    })
  })
})
