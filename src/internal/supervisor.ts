/**
 * How the command line ends as a process: by a signal, by nobody who reads any more, or with a code.
 */
import { constants } from "node:os"
import { isBrokenPipe } from "./errno.js"
import * as output from "./output.js"
import { ignoresHangup } from "./startup.js"

/** The exit codes that are not those of a command or handler, from `sysexits.h` where it has them. */
export const exitCodes = { usage: 64, nobody: 69, defect: 70, lock: 73, io: 74, timeout: 75, protocol: 76 } as const

export interface Supervisor {
  /** Gives signals to somebody else, and `more` signals than those that end this process. */
  readonly redirect: (to: ((signal: NodeJS.Signals) => void) | undefined, more?: ReadonlyArray<NodeJS.Signals>) => void
  /** Whether SIGHUP is ignored, as it was when this process was started. */
  readonly ignoresHangup: boolean
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

// How long one that a signal ended waits for whoever reads its output, in milliseconds.
const flushMillis = 500

const ignore = () => {}

/** Calls `interrupt` at the first signal; a second one does not wait. */
export const supervise = (interrupt: () => void): Supervisor => {
  let redirected: ((signal: NodeJS.Signals) => void) | undefined
  let additional: ReadonlyArray<NodeJS.Signals> = []
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
  const hangup = ignoresHangup()
  const listener = (signal: NodeJS.Signals) => (hangup && signal === "SIGHUP" ? ignore : onSignal)
  for (const signal of signals) process.on(signal, listener(signal))
  return {
    redirect: (to, more = []) => {
      redirected = to
      for (const signal of additional) process.off(signal, onSignal)
      additional = more.filter((signal) => !signals.includes(signal))
      for (const signal of additional) process.on(signal, onSignal)
    },
    ignoresHangup: hangup,
    watchOutput: () => {
      if (watching) return
      watching = true
      // Where nobody reads any more, an end as by SIGPIPE; but not of a command that runs.
      output.onError("stdout", (error) => {
        if (redirected !== undefined || received !== undefined) return
        if (isBrokenPipe(error)) return stop(128 + 13)
        void output.write("stderr", `single-instance: The output cannot be written: ${error.message}\n`)
        stop(exitCodes.io)
      })
    },
    end: (code, complaint) => {
      clearInterval(keepAlive)
      const exit = () => process.exit(received ?? code)
      if (received !== undefined) setTimeout(exit, flushMillis)
      const said =
        complaint === undefined || received !== undefined ? Promise.resolve() : output.write("stderr", `${complaint}\n`)
      void said.then(output.flush).then(exit)
    },
    release: () => {
      clearInterval(keepAlive)
      for (const signal of signals) process.off(signal, listener(signal))
      return received !== undefined
    }
  }
}
