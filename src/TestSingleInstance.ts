/**
 * Whole launches in memory: a lock, a protocol and processes that a test crashes, freezes and replaces. Touches no file,
 * needs nothing, and is deterministic under `TestClock`.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { InstanceLock } from "./InstanceLock.js"
import * as MemoryLock from "./lock/MemoryLock.js"
import { PidVerifier } from "./PidVerifier.js"
import { Protocol } from "./Protocol.js"
import * as TestPidVerifier from "./pid/TestPidVerifier.js"
import * as InMemory from "./protocol/InMemory.js"
import type { TagClass } from "./SingleInstance.js"
import * as SingleInstanceConfig from "./SingleInstanceConfig.js"

/**
 * The simulated machine on which a test's launches run.
 *
 * @since 0.1.0
 * @category context
 */
export class TestMachine extends Context.Tag("effect-single-instance/TestMachine")<
  TestMachine,
  {
    readonly config: SingleInstanceConfig.SingleInstanceConfig["Type"]
    readonly table: TestPidVerifier.ProcessTable
    readonly network: InMemory.Network["Type"]
    readonly store: MemoryLock.MemoryStore["Type"]
    /** Removes an instance's record, as an outsider might: its primary loses the lock at the next check. */
    readonly removeRecord: (id: string) => Effect.Effect<void>
  }
>() {}

/**
 * A launch that runs as a process of its own.
 *
 * @since 0.1.0
 * @category models
 */
export interface TestLaunch<A, E> {
  readonly pid: number
  /** What the launch came to; waits for its end. A crashed launch was interrupted. */
  readonly exit: Effect.Effect<Exit.Exit<A, E>>
  /** As `exit`, with its failure as ours. */
  readonly join: Effect.Effect<A, E>
  /** SIGKILL: its connections break, and it writes nothing any more. */
  readonly crash: Effect.Effect<void>
  /** SIGSTOP: it neither sends nor receives; its fibers run on until they do. */
  readonly freeze: Effect.Effect<void>
  /** SIGCONT. */
  readonly thaw: Effect.Effect<void>
  /** SIGKILL, and an unrelated process gets its pid. */
  readonly reusePid: Effect.Effect<void>
  /** A clean end: its scope closes. */
  readonly stop: Effect.Effect<void>
}

/**
 * The tag's service for the process under test, and the machine on which `launch` starts others.
 *
 * @since 0.1.0
 * @category layers
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { SingleInstance, TestSingleInstance } from "effect-single-instance"
 *
 * class Greeter extends SingleInstance.Tag<Greeter>()("com.example.greeter", {
 *   request: Schema.String,
 *   reply: Schema.String
 * }) {}
 *
 * const greet = (name: string) =>
 *   Greeter.enforce({
 *     request: name,
 *     primary: (primary) => Effect.zipRight(primary.serve((name) => Effect.succeed(`hello ${name}`)), Effect.never),
 *     secondary: ({ reply }) => Effect.succeed(reply)
 *   })
 *
 * export const test = Effect.gen(function* () {
 *   const first = yield* TestSingleInstance.launch(Greeter, greet("first"))
 *   const second = yield* greet("second") // "hello second"
 *   yield* first.crash
 *   return second
 * }).pipe(Effect.provide(TestSingleInstance.layer(Greeter)))
 * ```
 */
export const layer = <Self, Id extends string, Request, Reply, Failure, Broadcast>(
  tag: TagClass<Self, Id, Request, Reply, Failure, Broadcast>,
  options?: SingleInstanceConfig.ConfigOptions
): Layer.Layer<Self | TestMachine> =>
  Layer.scopedContext(
    Effect.flatMap(process(tag), ({ context }) =>
      Effect.map(TestMachine, (machine) => Context.add(context, TestMachine, machine))
    )
  ).pipe(Layer.provide(layerMachine(options)))

/**
 * The machine alone, for tests with several contracts.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMachine = (options?: SingleInstanceConfig.ConfigOptions): Layer.Layer<TestMachine> =>
  Layer.effect(
    TestMachine,
    Effect.gen(function* () {
      const store = MemoryLock.makeStore()
      return {
        config: SingleInstanceConfig.make(options),
        table: yield* TestPidVerifier.makeTable,
        network: yield* InMemory.makeNetwork,
        store,
        removeRecord: (id) => Effect.sync(() => store.set(id, undefined))
      }
    })
  )

/**
 * Starts a program as a process of its own and returns when it has gone as far as it can without the clock: what is
 * launched first is the primary. What still runs when the scope closes is crashed.
 *
 * @since 0.1.0
 * @category constructors
 */
export const launch = <Self, Id extends string, Request, Reply, Failure, Broadcast, A, E, R>(
  tag: TagClass<Self, Id, Request, Reply, Failure, Broadcast>,
  program: Effect.Effect<A, E, R>
): Effect.Effect<TestLaunch<A, E>, never, Exclude<R, Self> | TestMachine | Scope.Scope> =>
  Effect.gen(function* () {
    const { context, crash, host, simulated } = yield* process(tag)
    const crashing = (fiber: Fiber.RuntimeFiber<A, E>) => Effect.zipRight(crash, Fiber.interruptFork(fiber))
    const fiber = yield* program.pipe(
      Effect.provide(context),
      // A process that ends leaves nothing open, and is gone.
      Effect.ensuring(crash),
      Effect.interruptible,
      Effect.forkDaemon,
      // Its end is not waited for: it may be waiting for a clock that does not move any more.
      Effect.acquireRelease(crashing)
    ) as Effect.Effect<Fiber.RuntimeFiber<A, E>, never, Scope.Scope>
    const crashed = crashing(fiber)
    yield* Effect.repeatN(Effect.yieldNow(), headStart)
    return {
      pid: simulated.identity.pid,
      exit: Fiber.await(fiber),
      join: Fiber.join(fiber),
      crash: crashed,
      freeze: Effect.zipRight(simulated.freeze, host.freeze),
      thaw: Effect.zipRight(simulated.thaw, host.thaw),
      reusePid: Effect.zipRight(crashed, Effect.asVoid(simulated.reincarnate)),
      stop: Effect.asVoid(Fiber.interrupt(fiber))
    }
  }) as any

// Turns of the scheduler; an election in memory takes a few dozen.
const headStart = 200

// A process with the tag's service; it crashes with the scope, as nobody moves the clock then for a clean end.
const process = <Self, Id extends string, Request, Reply, Failure, Broadcast>(
  tag: TagClass<Self, Id, Request, Reply, Failure, Broadcast>
) =>
  Effect.gen(function* () {
    const { config, network, store, table } = yield* TestMachine
    const simulated = yield* table.spawn()
    const host = yield* network.host
    const dependencies = Layer.mergeAll(
      MemoryLock.layer.pipe(Layer.provide(Layer.succeed(MemoryLock.MemoryStore, store))),
      Layer.succeed(SingleInstanceConfig.SingleInstanceConfig, config)
    ).pipe(Layer.provideMerge(Layer.succeed(PidVerifier, simulated.verifier)))
    const layer = tag.layerWithoutDependencies as (options: {
      readonly protocol: Layer.Layer<Protocol>
      readonly fallback: "none"
      readonly id: string
    }) => Layer.Layer<Self, never, InstanceLock | PidVerifier | SingleInstanceConfig.SingleInstanceConfig>
    const context = yield* Layer.build(
      layer({ protocol: Layer.succeed(Protocol, host.protocol), fallback: "none", id: tag.key }).pipe(
        Layer.provide(dependencies)
      )
    )
    const crash = Effect.all([simulated.crash, host.kill, Effect.sync(store.wake)], { discard: true })
    yield* Effect.addFinalizer(() => crash)
    return { context, crash, host, simulated }
  })
