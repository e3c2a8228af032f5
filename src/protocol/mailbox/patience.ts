/**
 * Trying again what the system refused for a moment. Limits count in a clock that nobody sets.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"

/**
 * Milliseconds of a clock that only goes forward.
 *
 * @since 0.1.0
 * @category getters
 */
export const monotonicMillis = (): number => performance.now()

/**
 * Waits in real time. It keeps the process alive.
 *
 * @since 0.1.0
 * @category combinators
 */
export const pause = (millis: number): Effect.Effect<void> =>
  Effect.async((resume) => {
    const timer = setTimeout(() => resume(Effect.void), millis)
    return Effect.sync(() => clearTimeout(timer))
  })

/**
 * Ever longer pauses, from 10 milliseconds up to `lastMillis`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const makeBackoff = (
  lastMillis: number
): { readonly next: () => number; readonly pause: Effect.Effect<void>; readonly reset: () => void } => {
  let millis = 5
  const next = () => {
    millis = Math.min(lastMillis, millis * 2)
    return millis
  }
  return {
    next,
    pause: Effect.suspend(() => pause(next())),
    reset: () => {
      millis = 5
    }
  }
}

/**
 * Tries again what fails, for so many milliseconds. An attempt is not interrupted, a pause between two may be.
 *
 * @since 0.1.0
 * @category combinators
 */
export const patiently = <A, E>(
  effect: Effect.Effect<A, E>,
  millis: number,
  isWorthIt: (error: E) => boolean = () => true
): Effect.Effect<A, E> =>
  Effect.suspend(() => {
    const until = monotonicMillis() + millis
    const backoff = makeBackoff(250)
    const attempt: Effect.Effect<A, E> = Effect.catchAll(Effect.uninterruptible(effect), (error) =>
      isWorthIt(error) && monotonicMillis() < until ? Effect.zipRight(backoff.pause, attempt) : Effect.fail(error)
    )
    return attempt
  })
