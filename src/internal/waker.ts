/**
 * Looking again: at once upon a hint, and ever more seldom without one.
 */
import * as fs from "node:fs"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { acquireRelease } from "./finalizer.js"

const firstMillis = 10
// What no hint tells of, such as the end of a process, may be known this much later.
const lastMillis = 3_000

/** `look` answers whether it found anything new. Runs until the scope closes; `hint` makes it look at once. */
export interface Waker {
  readonly hint: () => void
  readonly run: (look: Effect.Effect<boolean>) => Effect.Effect<never>
}

/** A waker that gets hints of what changes in a directory. What `fs.watch` misses, or fails to watch, is found by polling. */
export const make = (directory: string): Effect.Effect<Waker, never, Scope.Scope> =>
  Effect.gen(function* () {
    let hinted = false
    let wake: (() => void) | undefined
    const hint = () => {
      hinted = true
      wake?.()
    }
    yield* acquireRelease(
      Effect.sync(() => {
        try {
          return fs.watch(directory, hint).on("error", hint)
        } catch {
          return undefined
        }
      }),
      (watcher) => Effect.sync(() => watcher?.close())
    )
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
      hint,
      run: (look) => {
        let millis = firstMillis
        return Effect.suspend(() => {
          hinted = false
          return look
        }).pipe(
          Effect.flatMap((found) => {
            millis = found || hinted ? firstMillis : Math.min(lastMillis, millis * 2)
            return pause(millis)
          }),
          Effect.forever
        )
      }
    }
  })
