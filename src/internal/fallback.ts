/**
 * The one chain of alternatives.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { keepIf } from "./childScope.js"

/**
 * The first attempt that succeeds. The next is tried only after a failure that is not final, and after all that the
 * failed one opened is closed: `Effect.orElse` alone would keep it open until the outer scope closes.
 */
export const firstOf = <A, E, R>(
  attempts: ReadonlyArray<Effect.Effect<A, E, R>>,
  options: {
    readonly isFinal: (error: E) => boolean
    /** Makes one error of those of all attempts, in their order. */
    readonly onNone: (errors: ReadonlyArray<E>) => E
  }
): Effect.Effect<A, E, R | Scope.Scope> =>
  Effect.suspend(() => {
    const errors: Array<E> = []
    const none: Effect.Effect<Effect.Effect<A, E>, E, R | Scope.Scope> = Effect.suspend(() =>
      Effect.fail(options.onNone(errors))
    )
    return attempts
      .map((attempt) =>
        keepIf(attempt, () => true).pipe(
          Effect.map(Effect.succeed),
          Effect.tapError((error) => Effect.sync(() => errors.push(error))),
          // A final failure travels past the alternatives as a success.
          Effect.catchIf(options.isFinal, (error) => Effect.succeed(Effect.fail(error)))
        )
      )
      .reduceRight((rest, attempt) => Effect.orElse(attempt, () => rest), none)
      .pipe(Effect.flatten)
  })
