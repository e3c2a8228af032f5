/**
 * Scopes that outlive their effect only for a result worth keeping.
 */
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"

/**
 * Runs an effect in a child of the current scope. The child closes at once where the effect fails, is interrupted or its
 * result is not to be kept, otherwise with the current scope.
 */
export const keepIf = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  keep: (a: A) => boolean
): Effect.Effect<A, E, R | Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.scope, (outer) =>
      Effect.flatMap(Scope.fork(outer, ExecutionStrategy.sequential), (scope) =>
        restore(Effect.provideService(effect, Scope.Scope, scope)).pipe(
          Effect.onExit((exit) => (Exit.isSuccess(exit) && keep(exit.value) ? Effect.void : Scope.close(scope, exit)))
        )
      )
    )
  )
