/**
 * Asks a program of macOS for one thing, where no executor of the caller's is at hand.
 */
import * as Effect from "effect/Effect"

/** What the program printed in the C locale; `undefined` where it cannot be run, failed, or took longer than 5 seconds. */
export const ask = (file: string, ...args: ReadonlyArray<string>): Effect.Effect<string | undefined> =>
  Effect.promise(async () => {
    // Loaded here, because other systems never need it.
    const { execFile } = await import("node:child_process")
    return new Promise<string | undefined>((resolve) => {
      try {
        const options = { encoding: "utf8", env: { LC_ALL: "C" }, timeout: 5_000, killSignal: "SIGKILL" } as const
        execFile(file, args, options, (cause, stdout) => resolve(cause === null ? stdout : undefined))
      } catch {
        // Node throws what a sandbox answers (EPERM).
        resolve(undefined)
      }
    })
  })
