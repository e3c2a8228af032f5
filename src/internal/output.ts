/**
 * The standard output and error of the command line. Node makes a pipe or socket that it writes to non-blocking, for
 * everybody who shares it: a shell's other commands then lose output with EAGAIN. So a pipe is opened once more, as the
 * flag belongs to the opening, and what cannot be opened again is written by a `cat` that waits in our place.
 */
import * as fs from "node:fs"
import * as net from "node:net"
import { Writable } from "node:stream"
import { isatty } from "node:tty"
import { make } from "./errno.js"

export type Name = "stdout" | "stderr"

interface Output {
  readonly stream: NodeJS.WritableStream
  /** Completes when all that was written has reached the descriptor. */
  readonly flush: () => Promise<void>
}

const numbers = { stdout: 1, stderr: 2 } as const
// As they are before `guard`.
const nodeStream = (name: Name): (() => NodeJS.WritableStream) => {
  const get = Object.getOwnPropertyDescriptor(process, name)?.get
  return () => (get === undefined ? process[name] : get.call(process))
}
const nodes = { stdout: nodeStream("stdout"), stderr: nodeStream("stderr") }
const opened = new Map<string, Promise<Output>>()
const listeners = new Map<Name, (error: Error) => void>()

/**
 * Puts outputs of ours in place of Node's, for whoever looks at those: Effect does when it is loaded, and to look at one
 * is enough to make it non-blocking.
 */
export const guard = (): void => {
  for (const name of ["stdout", "stderr"] as const) {
    if (fileOf(name) === name) continue
    const stream = new Writable({
      decodeStrings: true,
      write: (chunk, _, done) => void write(name, chunk).then(() => done())
    })
    Object.defineProperty(process, name, { configurable: true, enumerable: true, get: () => stream })
  }
}

export const isTerminal = (name: Name): boolean => isatty(numbers[name])

/** Completes when it is written, or cannot be. */
export const write = async (name: Name, data: string | Uint8Array): Promise<void> => {
  const { stream } = await open(name)
  await new Promise<void>((resolve) => stream.write(data, () => resolve()))
}

/** Calls `listener` with what goes wrong; without one it is ignored. */
export const onError = (name: Name, listener: (error: Error) => void): void => {
  listeners.set(name, listener)
}

/** Ends both outputs; nothing can be written after that. */
export const flush = async (): Promise<void> => {
  await Promise.all([...opened.values()].map(async (output) => (await output).flush()))
}

const open = (name: Name): Promise<Output> => {
  const key = fileOf(name)
  const existing = opened.get(key)
  if (existing !== undefined) return existing
  const output = (async (): Promise<Output> => {
    const made = key === name ? plain(nodes[name]()) : ((await reopened(name)) ?? (await relayed(name)))
    made.stream.on("error", (error: Error) => listeners.get(name)?.(error))
    return made
  })()
  opened.set(key, output)
  return output
}

// What must not become non-blocking is known by its file, as both outputs may share it; else the name of the output.
const fileOf = (name: Name): string => {
  if (process.platform === "win32") return name
  try {
    const stat = fs.fstatSync(numbers[name])
    return stat.isFIFO() || stat.isSocket() ? `${stat.dev} ${stat.ino}` : name
  } catch {
    return name
  }
}

const plain = (stream: NodeJS.WritableStream): Output => ({
  stream,
  flush: () => new Promise((resolve) => stream.write("", () => resolve()))
})

// Only Linux opens it anew, and neither a socket, nor a pipe of another user, nor one that nobody reads.
const reopened = (name: Name): Output | undefined => {
  if (process.platform !== "linux") return undefined
  try {
    const { O_NONBLOCK, O_WRONLY } = fs.constants
    const fd = fs.openSync(`/proc/self/fd/${numbers[name]}`, O_WRONLY | O_NONBLOCK)
    return plain(new net.Socket({ fd, readable: false, writable: true }))
  } catch {
    return undefined
  }
}

const relayed = async (name: Name): Promise<Output> => {
  // Most launches write nothing, and do not need it.
  const { spawn } = await import("node:child_process")
  // Out of the reach of signals to our group: what was accepted is written.
  const cat = spawn("cat", [], { stdio: ["pipe", numbers[name], "ignore"], detached: true })
  const ended = new Promise<void>((resolve) => {
    cat.on("error", () => resolve())
    cat.once("exit", (code) => {
      // It was told to end only after all that it was given.
      if (code !== 0) listeners.get(name)?.(make("EPIPE", "nobody reads it any more"))
      resolve()
    })
  })
  if (cat.pid === undefined) return plain(nodes[name]())
  return {
    stream: cat.stdin!,
    flush: () => {
      cat.stdin!.end()
      return ended
    }
  }
}
