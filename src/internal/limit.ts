/**
 * Limits on how long another process may keep silent, as effects: see `runningTime.ts`.
 */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as runningTime from "./runningTime.js"

/**
 * The monotonic time of a clock in milliseconds: only differences mean anything. Effect's own clock takes it from
 * `process.hrtime`; its `currentTimeMillis` is the wall clock, which can be set.
 */
export const monotonicMillis = (clock: Clock.Clock): number => Number(clock.unsafeCurrentTimeNanos()) / 1e6

/** Lets the event loop read once what has arrived at its sockets. */
export const turn: Effect.Effect<void> = Effect.async((resume) => {
  const handle = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(handle))
})

/** One step of a running time; where the timer fired late, what has arrived meanwhile is read first. */
export const step = (time: runningTime.RunningTime, due: number): Effect.Effect<void> =>
  Effect.zipRight(
    Effect.sleep(due),
    Effect.suspend(() => (time.tick(due) ? turn : Effect.void))
  )

/** Waits until this process has run for as long as that. */
const elapsed = (millis: number): Effect.Effect<void> =>
  Effect.clockWith((clock) => {
    if (!Number.isFinite(millis)) return Effect.never
    const most = runningTime.tickMillis(millis)
    const time = runningTime.start(() => monotonicMillis(clock), most)
    const wait: Effect.Effect<void> = Effect.suspend(() => {
      const left = millis - time.now()
      return left <= 0 ? Effect.void : Effect.zipRight(step(time, Math.max(1, Math.min(most, left))), wait)
    })
    return wait
  })

/**
 * As `Effect.timeoutOption`, for a limit on another process. The effect must be interruptible, or the limit is none; it is
 * made so here, also where the caller is not.
 */
export const timeoutOption = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  millis: number
): Effect.Effect<Option.Option<A>, E, R> =>
  Effect.raceFirst(
    Effect.asSome(Effect.interruptible(effect)),
    Effect.as(Effect.interruptible(elapsed(millis)), Option.none<A>())
  )

/** As `timeoutOption`, failing with what `onTimeout` gives. */
export const timeoutFail = <A, E, R, E1>(
  effect: Effect.Effect<A, E, R>,
  { millis, onTimeout }: { readonly millis: number; readonly onTimeout: () => E1 }
): Effect.Effect<A, E | E1, R> =>
  Effect.flatMap(
    timeoutOption(effect, millis),
    Option.match({ onNone: () => Effect.failSync(onTimeout), onSome: (value) => Effect.succeed(value) })
  )

/** Measures running time for as long as `use` runs, for limits of about `limitMillis`. */
export const measured = <A, E, R>(
  limitMillis: number,
  use: (now: () => number) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(
    Effect.clockWith((clock) => {
      const most = runningTime.tickMillis(limitMillis)
      const time = runningTime.start(() => monotonicMillis(clock), most)
      const ticking = Effect.fork(Effect.interruptible(Effect.forever(step(time, most))))
      return Effect.map(ticking, (fiber) => ({ fiber, time }))
    }),
    ({ time }) => use(time.now),
    ({ fiber }) => Fiber.interruptFork(fiber)
  )
