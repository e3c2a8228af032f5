/**
 * Gives the signals that this process receives to the command that it runs, each of them once.
 *
 * A signal that was sent to our whole process group has reached the command already, if that is in the group, and one for
 * this process alone has not. Node does not say which it was. So a shell of ours, the bystander, is in the group, too, and
 * tells us what it receives: a signal that it has received at the same time was for the group. Where it cannot say, the
 * signal is taken to be for us alone, as a signal too many is better than one that is lost.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { closeSync, constants as fsConstants, openSync } from "node:fs"
import type { Socket } from "node:net"
import { constants } from "node:os"
import { createInterface } from "node:readline"
import { hasSignal } from "./startup.js"

// How long equal signals count as one, in milliseconds: `timeout` sends its signal to the process and to the group.
const gatherMillis = 50
// How long the bystander has for its answer, in milliseconds. Somebody may have stopped it.
const answerMillis = 5_000

const ending: ReadonlyArray<NodeJS.Signals> = [
  "SIGHUP",
  "SIGINT",
  "SIGTERM",
  "SIGUSR1",
  "SIGUSR2",
  "SIGALRM",
  "SIGVTALRM",
  "SIGPROF",
  "SIGIO",
  "SIGPWR",
  "SIGSTKFLT",
  "SIGQUIT",
  "SIGABRT",
  "SIGTRAP",
  "SIGSYS",
  "SIGXCPU",
  "SIGXFSZ"
]
const stopping: ReadonlyArray<NodeJS.Signals> = ["SIGTSTP", "SIGTTIN", "SIGTTOU"]
const passing: ReadonlyArray<NodeJS.Signals> = ["SIGCONT", "SIGURG", "SIGWINCH"]

const isWindows = process.platform === "win32"

/** Whether this process has a terminal that may send it signals. */
export const hasTerminal = (): boolean => {
  if (isWindows) return true
  try {
    closeSync(openSync("/dev/tty", fsConstants.O_RDWR | fsConstants.O_NOCTTY))
    return true
  } catch {
    return false
  }
}

/** What is listened to while a command runs. With a terminal, stopping is between the shell and the group. */
export const signals = (ownGroup: boolean): ReadonlyArray<NodeJS.Signals> =>
  isWindows ? [] : [...ending, ...passing, ...(ownGroup ? stopping : [])]

export interface Forwarder {
  readonly forward: (signal: NodeJS.Signals) => void
  readonly close: () => void
}

/** `ownGroup`: the command leads a process group of its own; else it is in ours. */
export const make = (command: ChildProcess, ownGroup: boolean): Forwarder => {
  // Its signals are the events of the console, which the command has received as well. Windows knows no other signal, so a
  // second one would be the end of the command whatever it makes of them.
  if (process.platform === "win32") return { forward: () => {}, close: () => {} }
  const bystander = accompany(signals(ownGroup))
  // Each with the time when it came first.
  const gathered = new Map<NodeJS.Signals, number>()
  let timer: NodeJS.Timeout | undefined
  let closed = false
  let delivered = Promise.resolve()

  const deliver = (signal: NodeJS.Signals, toGroup: boolean) => {
    if (command.pid === undefined || command.exitCode !== null || command.signalCode !== null) return
    if (!toGroup) command.kill(signal)
    else if (ownGroup) killGroup(command.pid, signal)
    if (stopping.includes(signal)) stop(command, signal)
  }

  const flush = async () => {
    timer = undefined
    const came = [...gathered]
    gathered.clear()
    await bystander.hasToldAll()
    if (closed) return
    for (const [signal, at] of came) deliver(signal, bystander.received(signal, at - gatherMillis))
  }

  return {
    forward: (signal) => {
      if (!gathered.has(signal)) gathered.set(signal, performance.now())
      timer ??= setTimeout(() => {
        delivered = delivered.then(flush)
      }, gatherMillis)
    },
    close: () => {
      closed = true
      clearTimeout(timer)
      bystander.end()
    }
  }
}

const killGroup = (pid: number, signal: NodeJS.Signals): void => {
  try {
    process.kill(-pid, signal)
  } catch {
    // All of them have ended.
  }
}

// The kernel discards the default action of these in a group that no shell looks after, as ours is then.
const stop = (command: ChildProcess, signal: NodeJS.Signals): void => {
  const number = constants.signals[signal]
  const has = (set: string) => hasSignal(command.pid!, set, number)
  if (!has("SigCgt") && !has("SigIgn")) command.kill("SIGSTOP")
}

/** A bystander, and another one in its place whenever it ends. */
const accompany = (listened: ReadonlyArray<NodeJS.Signals>) => {
  const received = new Map<NodeJS.Signals, number>()
  const tell = (signal: NodeJS.Signals) => void received.set(signal, performance.now())
  let current: Bystander | undefined
  let closed = false
  const standUp = () => {
    const own = stand(listened, tell, (signal) => {
      if (current === own) current = undefined
      // One that ends by itself cannot be had here: the next signal is soon enough for another attempt.
      if (signal !== null && !closed && current === undefined) standUp()
    })
    current = own
  }
  standUp()
  return {
    /** Waits until all that the group has received by now is told, or cannot be. */
    hasToldAll: async () => {
      if (current === undefined) return standUp()
      const asked = current
      if (!(await asked.answers())) asked.end()
    },
    /** Whether it received a signal, at this time or later (of `performance.now`). */
    received: (signal: NodeJS.Signals, since: number): boolean =>
      (received.get(signal) ?? Number.NEGATIVE_INFINITY) >= since,
    end: () => {
      closed = true
      current?.end()
    }
  }
}

interface Bystander {
  /** Whether it has told all signals that it received before this call. */
  readonly answers: () => Promise<boolean>
  readonly end: () => void
}

/**
 * A shell that writes the number of each signal that it receives, and a full stop for each line that it reads: it sees to
 * the signals first. It ends with this process, as its input does. Whether `read` fails at a signal differs between shells.
 */
const stand = (
  listened: ReadonlyArray<NodeJS.Signals>,
  tell: (signal: NodeJS.Signals) => void,
  ended: (signal: NodeJS.Signals | null) => void
): Bystander => {
  const names = new Map(listened.map((name) => [String(constants.signals[name]), name]))
  names.delete("undefined")
  const traps = [...names.keys()].map((number) => `trap 'echo ${number}; s=1' ${number}`)
  // One that comes before its trap is set ends it: without a core dump.
  const script = ["ulimit -c 0", ...traps, "while s=; read -r l && echo . || [ $s ]; do :; done"].join("\n")
  const child = spawn("/bin/sh", ["-c", script], { stdio: ["pipe", "pipe", "ignore"], cwd: "/" })
  let waiting: Array<(answered: boolean) => void> = []
  const answer = (answered: boolean) => {
    for (const resolve of waiting) resolve(answered)
    waiting = []
  }
  const end = (signal: NodeJS.Signals | null) => {
    if (signal !== null) tell(signal)
    answer(false)
    ended(signal)
  }
  child.once("exit", (_, signal) => end(signal))
  child.once("error", () => end(null))
  // Nothing of it keeps this process from ending.
  child.unref()
  const output = child.stdout as Socket
  output.unref()
  child.stdin.on("error", () => {})
  createInterface(output).on("line", (line) => {
    const signal = names.get(line)
    if (signal !== undefined) tell(signal)
    else answer(true)
  })
  return {
    answers: () =>
      new Promise((resolve) => {
        const timer = setTimeout(() => resolve(false), answerMillis)
        waiting.push((answered) => {
          clearTimeout(timer)
          resolve(answered)
        })
        child.stdin.write("\n")
      }),
    end: () => void child.kill("SIGKILL")
  }
}
