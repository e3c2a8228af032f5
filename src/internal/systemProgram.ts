/**
 * Programs of the system, where no executor of the caller's is at hand, and those of them that this process may not start.
 */
import * as Effect from "effect/Effect"
import * as errno from "./errno.js"

/**
 * The programs that the system refuses to start for this process (EPERM), as `ps` in the App Sandbox. Each is tried once, as
 * no right comes later, and the system logs each attempt. Cleared by tests only.
 */
export const refused = new Set<string>()

/** Keeps in mind that a program was refused, if that is what its failure says. */
export const note = (program: string, failure: unknown): void => {
  // Node throws what the system answers; an executor may wrap it.
  const inner = typeof failure === "object" && failure !== null && "cause" in failure ? failure.cause : undefined
  if (process.platform === "darwin" && [failure, inner].some((cause) => errno.code(cause) === "EPERM")) {
    refused.add(program)
  }
}

/** What the program printed in the C locale; `undefined` where it cannot be run, failed, or took longer than 5 seconds. */
export const ask = (file: string, ...args: ReadonlyArray<string>): Effect.Effect<string | undefined> =>
  Effect.promise(async () => {
    if (refused.has(file)) return undefined
    // Loaded here, because other systems never need it.
    const { execFile } = await import("node:child_process")
    return new Promise<string | undefined>((resolve) => {
      const settle = (cause: unknown, output?: string) => {
        note(file, cause)
        resolve(cause === null ? output : undefined)
      }
      try {
        const options = { encoding: "utf8", env: environment(), timeout: 5_000, killSignal: "SIGKILL" } as const
        execFile(file, args, options, settle)
      } catch (cause) {
        settle(cause)
      }
    })
  })

/** The user's temporary folder, as `getconf` told it: it stays the same, and a start asks several times. Cleared by tests. */
export const known: { temporaryFolder?: string } = {}

/** The user's temporary folder by the user database; `undefined` where the system has no such thing. */
export const temporaryFolder: Effect.Effect<string | undefined> = Effect.suspend(() =>
  known.temporaryFolder !== undefined
    ? Effect.succeed(known.temporaryFolder)
    : Effect.map(ask("/usr/bin/getconf", "DARWIN_USER_TEMP_DIR"), (output) => {
        const told = output?.trim()
        if (told) known.temporaryFolder = told
        return told
      })
)

const environment = (): NodeJS.ProcessEnv => (process.platform === "win32" ? process.env : { LC_ALL: "C" })
