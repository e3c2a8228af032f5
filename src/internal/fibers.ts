/**
 * What ends when leadership is lost.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type { LockError } from "../SingleInstanceError.js"

type AnyFiber = Fiber.RuntimeFiber<any, any>

/**
 * The fiber at whose end everything ends that the current fiber is part of. A layer that is built beside others is built
 * in a fiber without a parent, but what that fiber forks belongs to the builder of them all. So the search is for a child.
 */
export const root: Effect.Effect<AnyFiber> = Effect.acquireUseRelease(
  Effect.fork(Effect.interruptible(Effect.never)),
  (child) =>
    Effect.gen(function* () {
      for (const root of yield* Fiber.roots) if (yield* isBelow(child, root)) return root
      // With `Effect.daemonChildren` a child belongs to nobody.
      return yield* Effect.withFiberRuntime<AnyFiber>((fiber) => Effect.succeed(fiber))
    }),
  Fiber.interrupt
)

const isBelow = (child: AnyFiber, fiber: AnyFiber): Effect.Effect<boolean> =>
  Effect.flatMap(fiber.children, (children) =>
    children.includes(child) ? Effect.succeed(true) : Effect.exists(children, (below) => isBelow(child, below))
  )

/**
 * Runs an effect until `lost` fails. Then the effect is interrupted, and when it has ended, the error is that of `lost`.
 * The effect runs in a fiber that is nobody's child and is interruptible: in an uninterruptible region only the loss
 * interrupts it. `onLost` runs after the interruption was asked for, until the effect has ended.
 */
export const whileLeading = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  lost: Effect.Effect<never, LockError>,
  onLost: (error: LockError) => Effect.Effect<void> = () => Effect.void
): Effect.Effect<A, E | LockError, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const loss: { error?: LockError } = {}
      const fiber = yield* Effect.forkDaemon(Effect.interruptible(effect))
      const watch = yield* lost.pipe(
        Effect.catchAll((error) => {
          loss.error = error
          fiber.unsafeInterruptAsFork(fiber.id())
          return onLost(error)
        }),
        Effect.interruptible,
        Effect.forkDaemon
      )
      const exit = yield* restore(Fiber.await(fiber)).pipe(
        Effect.onInterrupt(() => Fiber.interrupt(fiber)),
        Effect.ensuring(Fiber.interruptFork(watch))
      )
      if (loss.error === undefined) return yield* Fiber.join(fiber)
      return yield* Exit.isFailure(exit) && !Cause.isInterruptedOnly(exit.cause)
        ? Effect.failCause(Cause.parallel(Cause.fail(loss.error), exit.cause))
        : Effect.fail(loss.error)
    })
  )
