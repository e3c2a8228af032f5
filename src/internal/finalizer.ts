/**
 * Finalizers that leave nothing behind in the fiber that runs them.
 */
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"

/**
 * As `Effect.addFinalizer`, whose finalizers hand the fiber references of the fiber that added them to the one that closes
 * the scope, where they stay: a program that launches or sends for days in one fiber would keep some of each round, as
 * all that has a bound is acquired in a fiber of its own.
 */
export const addFinalizer = (
  finalizer: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<unknown>
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.flatMap(Effect.scope, (scope) =>
    Scope.addFinalizerExit(scope, (exit) => Effect.uninterruptible(Effect.suspend(() => finalizer(exit))))
  )

/**
 * Runs an effect in a fiber that is nobody's child, and waits for it. Who is interrupted interrupts its children, also where
 * it cannot be interrupted itself: what has a bound within a finalizer, and so runs in one, would end with the first
 * interruption that comes while the finalizer runs, and with it the finalizer.
 */
export const apart = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.flatMap(Effect.forkDaemon(effect), (fiber) => Effect.flatten(Fiber.await(fiber)))

/** As `Scope.close`, where others may have added finalizers in the usual way: the fiber takes along what they leave in it. */
export const close = (scope: Scope.CloseableScope, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
  apart(Scope.close(scope, exit))

/** As `Effect.acquireRelease`, with such a finalizer. */
export const acquireRelease = <A, E, R>(
  acquire: Effect.Effect<A, E, R>,
  release: (acquired: A) => Effect.Effect<unknown>
): Effect.Effect<A, E, R | Scope.Scope> =>
  Effect.uninterruptible(Effect.tap(acquire, (acquired) => addFinalizer(() => release(acquired))))
