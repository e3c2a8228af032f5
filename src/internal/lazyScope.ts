/**
 * Scopes for what seldom needs one.
 */
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import type * as Exit from "effect/Exit"
import { pipeArguments } from "effect/Pipeable"
import * as Scope from "effect/Scope"

/** A scope that is made when something is added to it: to make and close one costs as much as a small request. */
export const make = (): Scope.CloseableScope => new LazyScope() as unknown as Scope.CloseableScope

// The methods are those that the functions of `Scope` call.
class LazyScope {
  readonly [Scope.ScopeTypeId]: Scope.ScopeTypeId = Scope.ScopeTypeId
  readonly [Scope.CloseableScopeTypeId]: Scope.CloseableScopeTypeId = Scope.CloseableScopeTypeId
  readonly strategy = ExecutionStrategy.sequential
  private made: Scope.CloseableScope | undefined
  private closed: Exit.Exit<unknown, unknown> | undefined

  private readonly real: Effect.Effect<Scope.CloseableScope> = Effect.suspend(() => {
    if (this.made !== undefined) return Effect.succeed(this.made)
    return Effect.tap(Scope.make(this.strategy), (scope) => {
      this.made = scope
      return this.closed === undefined ? Effect.void : Scope.close(scope, this.closed)
    })
  })

  fork(strategy: ExecutionStrategy.ExecutionStrategy): Effect.Effect<Scope.CloseableScope> {
    return Effect.flatMap(this.real, (scope) => Scope.fork(scope, strategy))
  }

  addFinalizer(finalizer: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<unknown>): Effect.Effect<void> {
    return Effect.flatMap(this.real, (scope) => Scope.addFinalizerExit(scope, finalizer))
  }

  close(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.made !== undefined) return Scope.close(this.made, exit)
      this.closed ??= exit
      return Effect.void
    })
  }

  pipe() {
    return pipeArguments(this, arguments)
  }
}
