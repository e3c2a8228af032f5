/**
 * The standard streams of a command that runs for somebody else.
 */
import { execFile, spawn } from "node:child_process"
import { chmodSync, closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from "node:fs"
import { Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Readable } from "node:stream"
import * as Effect from "effect/Effect"
import { isBusy } from "./errno.js"

/** Two pipes, and the ends of them that the command gets as its output. */
export interface Pipes {
  readonly stdout: Readable
  readonly stderr: Readable
  readonly ends: readonly [stdout: number, stderr: number]
  /** To be called when the command has inherited them. */
  readonly closeEnds: () => void
  /** To be called when there is no command. */
  readonly closeReaders: () => void
}

/**
 * What Node gives a child as pipes are sockets, which `/dev/stdout` cannot open on Linux. So they are FIFOs, without a
 * name as soon as both ends are open. `undefined` where none can be made, such as without a folder for temporary files.
 */
export const makePipes: Effect.Effect<Pipes | undefined> = Effect.async((resume) => {
  let folder: string
  try {
    folder = mkdtempSync(join(tmpdir(), "single-instance-"))
    // Whatever the umask takes away.
    chmodSync(folder, 0o700)
  } catch {
    return resume(Effect.succeed(undefined))
  }
  const names = [join(folder, "out"), join(folder, "err")] as const
  const done = (made: boolean) => {
    const pipes = made ? openPipes(names) : undefined
    try {
      rmSync(folder, { recursive: true, force: true })
    } catch {
      // It holds nothing of worth, and only we can read it.
    }
    resume(Effect.succeed(pipes))
  }
  try {
    execFile("mkfifo", ["-m", "600", ...names], { timeout: 5_000 }, (error) => done(error === null))
  } catch {
    done(false)
  }
})

const openPipes = (names: readonly [string, string]): Pipes | undefined => {
  const opened: Array<number> = []
  const open = (name: string, flags: number): number => {
    const fd = openSync(name, flags)
    opened.push(fd)
    return fd
  }
  try {
    // Readers first: to open a FIFO for writing waits for one.
    const out = open(names[0], constants.O_RDONLY | constants.O_NONBLOCK)
    const err = open(names[1], constants.O_RDONLY | constants.O_NONBLOCK)
    const ends = [open(names[0], constants.O_WRONLY), open(names[1], constants.O_WRONLY)] as const
    const [stdout, stderr] = [out, err].map((fd) => new Socket({ fd, readable: true, writable: false }))
    return {
      stdout: stdout!,
      stderr: stderr!,
      ends,
      closeReaders: () => {
        stdout!.destroy()
        stderr!.destroy()
      },
      closeEnds: () => {
        for (const fd of ends) closeSync(fd)
      }
    }
  } catch {
    for (const fd of opened) closeSync(fd)
    return undefined
  }
}

// How long what a command leaves behind may still write for the one it ran for, such as a shell's `> >(tee)`.
const graceMillis = 100
// As much as a pipe of an unprivileged process can hold (pipe(7)).
const maxLeftBytes = 1024 * 1024

/**
 * Hands over what comes, at the pace of who takes it, until everybody has closed it or `ended`, and then what was written
 * by that time. If something that the command has left running still holds the other end, it keeps a reader, which is not
 * this process.
 */
export const forward = (
  from: Readable,
  ended: Effect.Effect<unknown>,
  take: (chunk: Uint8Array) => Effect.Effect<void>
): Effect.Effect<void> =>
  Effect.gen(function* () {
    let closed = false
    let over = false
    let wake = () => {}
    // Never without a listener: at the command's end Node throws away what nobody listens for.
    for (const event of ["readable", "end", "close", "error"]) from.on(event, () => wake())
    yield* Effect.fork(
      Effect.map(Effect.zipRight(ended, Effect.sleep(graceMillis)), () => {
        over = true
        wake()
      })
    )
    const event = Effect.async<void>((resume) => {
      wake = () => resume(Effect.void)
      return Effect.sync(() => {
        wake = () => {}
      })
    })
    const loop: Effect.Effect<void> = Effect.suspend(() => {
      if (over) return rest(maxLeftBytes)
      const chunk: Uint8Array | null = from.read()
      if (chunk !== null) return Effect.zipRight(take(chunk), loop)
      closed = from.readableEnded || from.destroyed
      return closed ? Effect.void : Effect.zipRight(event, loop)
    })
    const rest = (left: number): Effect.Effect<void> =>
      Effect.suspend(() => {
        const chunk: Uint8Array | undefined = left > 0 ? (from.read() ?? readNow(from)) : undefined
        closed = chunk?.length === 0 || from.readableEnded
        return chunk === undefined || closed ? Effect.void : Effect.zipRight(take(chunk), rest(left - chunk.length))
      })
    yield* Effect.ensuring(
      loop,
      Effect.sync(() => leave(from, closed))
    )
  })

const handleOf = (from: Readable): number => {
  const { _handle } = from as { readonly _handle?: { readonly fd?: number } | null }
  return _handle?.fd ?? -1
}

// What is there without waiting for more: nothing at the end of it, `undefined` while others may still write.
const readNow = (from: Readable): Uint8Array | undefined => {
  const fd = handleOf(from)
  if (fd < 0) return undefined
  const buffer = Buffer.allocUnsafe(64 * 1024)
  try {
    return buffer.subarray(0, readSync(fd, buffer))
  } catch (cause) {
    return isBusy(cause) ? undefined : buffer.subarray(0, 0)
  }
}

// A reader that outlives this process: without one, what still writes there would die of SIGPIPE, and with one that does
// not read it would stand still.
const leave = (from: Readable, closed: boolean): void => {
  if (!closed && handleOf(from) >= 0) {
    const reader = spawn("cat", [], { cwd: "/", stdio: [handleOf(from), "ignore", "ignore"], detached: true })
    reader.on("error", () => {})
    reader.unref()
    closed = reader.pid !== undefined
  }
  if (closed) {
    from.destroy()
  } else {
    from.resume()
    if (from instanceof Socket) from.unref()
  }
}
