/**
 * Effects whose outcome is known before they are run: most of the hot path's are, as an `Either`, and no fiber has to step
 * through those.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"

/** Whether it is known to have succeeded. */
export const isRight = <A>(effect: Effect.Effect<A, unknown>): effect is Either.Right<never, A> =>
  Either.isEither(effect) && Either.isRight(effect)

/** What becomes of an outcome; at once, where it is known. */
export const match = <A, E, B, F, R>(
  effect: Effect.Effect<A, E>,
  to: { readonly onFailure: (error: E) => Effect.Effect<B, F, R>; readonly onSuccess: (a: A) => Effect.Effect<B, F, R> }
): Effect.Effect<B, F, R> => {
  if (!Either.isEither(effect)) return Effect.matchEffect(effect, to)
  const known = effect as Either.Either<A, E>
  return Either.isRight(known) ? to.onSuccess(known.right) : to.onFailure(known.left)
}

/** The same with another error; the very same, where it is known to have none. */
export const mapError = <A, E, F>(effect: Effect.Effect<A, E>, to: (error: E) => F): Effect.Effect<A, F> =>
  isRight(effect) ? effect : Effect.mapError(effect, to)

/** What somebody else's function gives, or why it gives nothing: also where it throws, or its effect dies. */
export const attempt = <A, E>(evaluate: () => Effect.Effect<A, E>): Effect.Effect<A, Cause.Cause<E>> => {
  try {
    const effect = evaluate()
    return isRight(effect) ? effect : Effect.sandbox(effect)
  } catch (defect) {
    return Either.left(Cause.die(defect))
  }
}
