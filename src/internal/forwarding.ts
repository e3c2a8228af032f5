/**
 * Gives the signals that this process receives to the command that it runs, each of them once.
 *
 * A signal that was sent to our whole process group has reached the command already, if that is in the group, and one for
 * this process alone has not. Node does not say which it was. So another process of ours is in the group and does nothing:
 * if a signal ended it, the signal was for the group.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { closeSync, constants as fsConstants, openSync } from "node:fs"
import { constants } from "node:os"
import { hasSignal } from "./startup.js"

// How long equal signals count as one, in milliseconds: `timeout` sends its signal to the process and to the group.
const gatherMillis = 50

// Those whose default action ends a process; the second kind leaves a core dump, and is delivered later than the others.
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
  "SIGSTKFLT"
]
const dumping: ReadonlyArray<NodeJS.Signals> = ["SIGQUIT", "SIGABRT", "SIGTRAP", "SIGSYS", "SIGXCPU"]
const stopping: ReadonlyArray<NodeJS.Signals> = ["SIGTSTP", "SIGTTIN", "SIGTTOU"]
const passing: ReadonlyArray<NodeJS.Signals> = ["SIGCONT", "SIGURG", "SIGWINCH", "SIGXFSZ"]

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

/**
 * What is listened to while a command runs. With a terminal, stopping and continuing is between the shell and the group,
 * and the terminal itself tells the command of its size.
 */
export const signals = (ownGroup: boolean): ReadonlyArray<NodeJS.Signals> =>
  isWindows
    ? []
    : [...ending, ...dumping, ...(ownGroup ? [...stopping, ...passing] : ["SIGURG" as const, "SIGXFSZ" as const])]

export interface Forwarder {
  readonly forward: (signal: NodeJS.Signals) => void
  readonly close: () => void
}

/** `ownGroup`: the command leads a process group of its own; else it is in ours. */
export const make = (command: ChildProcess, ownGroup: boolean): Forwarder => {
  if (isWindows) return { forward: (signal) => void command.kill(signal), close: () => {} }
  const gathered = new Set<NodeJS.Signals>()
  let bystander = stand()
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
    const signals = [...gathered]
    gathered.clear()
    const told = signals.filter((signal) => ending.includes(signal) || dumping.includes(signal))
    let toGroup = false
    if (told.length > 0) {
      const asked = bystander
      bystander = stand()
      toGroup = await asked.endedBy(told)
    }
    if (closed) return
    for (const signal of signals) deliver(signal, toGroup && told.includes(signal))
  }

  return {
    forward: (signal) => {
      gathered.add(signal)
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

// It ends with this process, as its input does. The shell spares us core dumps of it.
const stand = () => {
  const child = spawn("/bin/sh", ["-c", "ulimit -c 0; exec cat"], { stdio: ["pipe", "ignore", "ignore"], cwd: "/" })
  const ended = new Promise<NodeJS.Signals | null>((resolve) => {
    child.once("exit", (_, signal) => resolve(signal))
    child.once("error", () => resolve(null))
  })
  child.stdin!.on("error", () => {})
  child.unref()
  return {
    /**
     * Whether it received one of these signals before. A signal that ends it decides at once what it ends by, and those
     * with a core dump are delivered in the order of their numbers: so we end it with a signal that comes after them.
     */
    endedBy: (signals: ReadonlyArray<NodeJS.Signals>): Promise<boolean> => {
      child.kill(signals.some((signal) => dumping.includes(signal)) ? "SIGXFSZ" : "SIGKILL")
      return ended.then((signal) => signal !== null && signals.includes(signal))
    },
    end: () => {
      child.kill("SIGKILL")
    }
  }
}
