/**
 * Scopes for what seldom needs one.
 */
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import type * as Exit from "effect/Exit"
import { pipeArguments } from "effect/Pipeable"
import * as Scope from "effect/Scope"

/** A scope that is made when something is added to it: to make and close one costs as much as a small request. */
export const make = (): LazyScope & Scope.CloseableScope => new LazyScope() as LazyScope & Scope.CloseableScope

/** Closes it now, and gives what is to be run for that, if anything was added. */
export const close = (scope: LazyScope, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | undefined =>
  scope.end(exit)

// The methods are those that the functions of `Scope` call.
class LazyScope {
  private made: Scope.CloseableScope | undefined
  private closed: Exit.Exit<unknown, unknown> | undefined

  get [Scope.ScopeTypeId](): Scope.ScopeTypeId {
    return Scope.ScopeTypeId
  }

  get [Scope.CloseableScopeTypeId](): Scope.CloseableScopeTypeId {
    return Scope.CloseableScopeTypeId
  }

  get strategy(): ExecutionStrategy.ExecutionStrategy {
    return ExecutionStrategy.sequential
  }

  private get real(): Effect.Effect<Scope.CloseableScope> {
    return Effect.suspend(() =>
      this.made !== undefined
        ? Effect.succeed(this.made)
        : Effect.flatMap(Scope.make(this.strategy), (scope) => this.use(scope))
    )
  }

  // Of two that were made at the same time the first one counts.
  private use(scope: Scope.CloseableScope): Effect.Effect<Scope.CloseableScope> {
    if (this.made !== undefined) return Effect.succeed(this.made)
    this.made = scope
    return this.closed === undefined ? Effect.succeed(scope) : Effect.as(Scope.close(scope, this.closed), scope)
  }

  fork(strategy: ExecutionStrategy.ExecutionStrategy): Effect.Effect<Scope.CloseableScope> {
    return Effect.flatMap(this.real, (scope) => Scope.fork(scope, strategy))
  }

  addFinalizer(finalizer: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<unknown>): Effect.Effect<void> {
    return Effect.flatMap(this.real, (scope) => Scope.addFinalizerExit(scope, finalizer))
  }

  close(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> {
    return Effect.suspend(() => this.end(exit) ?? Effect.void)
  }

  end(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | undefined {
    if (this.made !== undefined) return Scope.close(this.made, exit)
    this.closed ??= exit
    return undefined
  }

  pipe() {
    return pipeArguments(this, arguments)
  }
}
