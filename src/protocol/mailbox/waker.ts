/**
 * Looking again: at once upon a hint, and ever more seldom without one.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { addFinalizer } from "../../internal/finalizer.js"
import type { MailFolder } from "./MailFiles.js"

const firstMillis = 10
// What no hint tells of, such as the end of a process, may be known this much later.
const lastMillis = 3_000
// While looking fails, or no hints come.
const blindMillis = 250

/**
 * What a look showed.
 *
 * @since 0.1.0
 * @category models
 */
export type Look = "found" | "nothing" | "failed"

/**
 * Looks until it is interrupted.
 *
 * @since 0.1.0
 * @category models
 */
export interface Waker {
  readonly run: (look: Effect.Effect<Look>) => Effect.Effect<never>
}

/**
 * A waker that gets hints of what changes in a folder. What a watch misses is found by polling; where none could be opened,
 * the next look tries again.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (mail: MailFolder, folder: string): Effect.Effect<Waker, never, Scope.Scope> =>
  Effect.gen(function* () {
    let hinted = false
    let isClosed = false
    let wake: (() => void) | undefined
    let unwatch: (() => void) | undefined
    const hint = () => {
      hinted = true
      wake?.()
    }
    const lost = () => {
      unwatch = undefined
      hint()
    }
    const watch = () => {
      if (!isClosed) unwatch ??= mail.watch(folder, hint, lost)
    }
    yield* addFinalizer(() =>
      Effect.sync(() => {
        isClosed = true
        unwatch?.()
      })
    )
    watch()
    const pause = (millis: number) =>
      Effect.async<void>((resume) => {
        const done = () => {
          wake = undefined
          clearTimeout(timer)
          resume(Effect.void)
        }
        const timer = setTimeout(done, millis)
        wake = done
        if (hinted) done()
        return Effect.sync(() => {
          wake = undefined
          clearTimeout(timer)
        })
      })
    return {
      run: (look) => {
        let millis = firstMillis
        return Effect.suspend(() => {
          hinted = false
          watch()
          return look
        }).pipe(
          Effect.flatMap((seen) => {
            const longest = seen === "failed" || unwatch === undefined ? blindMillis : lastMillis
            millis = seen === "found" || hinted ? firstMillis : Math.min(longest, millis * 2)
            return pause(millis)
          }),
          Effect.forever
        )
      }
    }
  })
