/**
 * How the command line ends as a process: by a signal, by nobody who reads any more, or with a code.
 */
import { constants } from "node:os"
import { isBrokenPipe } from "./errno.js"

/** The exit codes that are not those of a command or handler, from `sysexits.h` where it has them. */
export const exitCodes = { usage: 64, nobody: 69, defect: 70, lock: 73, io: 74, timeout: 75, protocol: 76 } as const

export interface Supervisor {
  /** Gives signals to somebody else. */
  readonly redirect: (to: ((signal: NodeJS.Signals) => void) | undefined) => void
  /** Ends by what goes wrong with the output, and not before all of it is flushed. */
  readonly watchOutput: () => void
  /** Ends the process, unless by the signal that it got. */
  readonly end: (code: number, complaint?: string) => void
  /** Is none any more; answers whether a signal came. */
  readonly release: () => boolean
}

// Those that end a process and that it may hear of.
const signals: ReadonlyArray<NodeJS.Signals> =
  process.platform === "win32"
    ? ["SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"]
    : ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"]

/** Calls `interrupt` at the first signal; a second one does not wait. */
export const supervise = (interrupt: () => void): Supervisor => {
  let redirected: ((signal: NodeJS.Signals) => void) | undefined
  let received: number | undefined
  let watching = false
  const keepAlive = setInterval(() => {}, 2 ** 31 - 1)
  const stop = (code: number) => {
    received = code
    interrupt()
  }
  const onSignal = (signal: NodeJS.Signals) => {
    if (redirected !== undefined) return redirected(signal)
    if (received !== undefined) return process.exit(received)
    stop(128 + constants.signals[signal])
  }
  for (const signal of signals) process.on(signal, onSignal)
  return {
    redirect: (to) => {
      redirected = to
    },
    watchOutput: () => {
      if (watching) return
      watching = true
      // Where nobody reads any more, an end as by SIGPIPE; but not of a command that runs.
      process.stdout.on("error", (error) => {
        if (redirected !== undefined || received !== undefined) return
        if (isBrokenPipe(error)) return stop(128 + 13)
        process.stderr.write(`single-instance: The output cannot be written: ${error.message}\n`)
        stop(exitCodes.io)
      })
      process.stderr.on("error", () => {})
    },
    end: (code, complaint) => {
      clearInterval(keepAlive)
      if (received !== undefined) return process.exit(received)
      if (complaint !== undefined) process.stderr.write(`${complaint}\n`)
      if (!watching) return process.exit(code)
      process.stdout.write("", () => process.exit(code))
    },
    release: () => {
      clearInterval(keepAlive)
      for (const signal of signals) process.off(signal, onSignal)
      return received !== undefined
    }
  }
}
