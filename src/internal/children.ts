/**
 * Commands of other programs, run as children of this process.
 */
import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { constants } from "node:os"
import type { Readable } from "node:stream"
import { isatty } from "node:tty"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import { code, isMissing } from "./errno.js"

/** A command that could not even be started. */
export class CommandError extends Data.TaggedError("CommandError")<{
  readonly command: string
  readonly cwd?: string | undefined
  readonly cause: unknown
}> {
  get reason(): "NotFound" | "NotExecutable" {
    return isMissing(this.cause) ? "NotFound" : "NotExecutable"
  }

  /** What a shell ends with. */
  get status(): 126 | 127 {
    return this.reason === "NotFound" ? 127 : 126
  }

  override get message(): string {
    if (!isMissing(this.cause)) return `${this.command}: it cannot be started (${code(this.cause)})`
    // The system says the same of a directory that is not there.
    return this.cwd === undefined || existsSync(this.cwd)
      ? `${this.command}: there is no such command`
      : `${this.command}: there is no directory ${this.cwd} to run it in`
  }
}

/** Who gets the signals that this process receives. Nobody: they end it. */
export class Signals extends Context.Tag("effect-single-instance/internal/Signals")<
  Signals,
  {
    /** Not an effect, so that no signal can come between the start of a child and this. */
    readonly redirect: (to: ((signal: NodeJS.Signals) => void) | undefined) => void
  }
>() {}

interface Child {
  readonly process: ChildProcess
  /** Its exit code; 128 and the signal's number where a signal ended it. */
  readonly status: Effect.Effect<number>
}

// From the request to end until the order, in milliseconds.
const terminateMillis = 5_000
// How long what a command left behind may keep silent on its output until it is closed.
const silenceMillis = 1_000

const isWindows = process.platform === "win32"

/**
 * Runs a command in our place: with our terminal, input and output, and all signals that we get. Answers its exit code.
 * Interrupted, it ends the command: SIGTERM, 5 s later SIGKILL.
 */
export const foreground = (
  command: string,
  args: ReadonlyArray<string>,
  options: {
    readonly env: NodeJS.ProcessEnv
    /** Left out: ours. */
    readonly stdin?: Uint8Array | undefined
  }
): Effect.Effect<number, CommandError, Signals> =>
  Effect.flatMap(Signals, (signals) => {
    const open = () => {
      const child = spawn(command, args, {
        env: { ...process.env, ...options.env },
        stdio: [options.stdin === undefined ? "inherit" : "pipe", "inherit", "inherit"]
      })
      signals.redirect((signal) => {
        if (!isFromTerminal(signal)) child.kill(signal)
      })
      return child
    }
    return Effect.acquireUseRelease(
      start(command, open),
      (child) => Effect.zipRight(feed(child, options.stdin), child.status),
      (child, exit) =>
        Exit.isInterrupted(exit) ? terminate(child.status, (signal) => child.process.kill(signal)) : Effect.void
    ).pipe(Effect.ensuring(Effect.sync(() => signals.redirect(undefined))))
  })

/**
 * Runs a command of the shell for somebody else, with `args` as its last arguments, and hands its output over as it comes,
 * no faster than it is taken. Interrupted, it ends the command and what that started.
 */
export const background = (
  script: string,
  args: ReadonlyArray<string>,
  options: {
    readonly cwd: string
    readonly env: NodeJS.ProcessEnv
    readonly stdin: Uint8Array | undefined
    readonly onOutput: (stream: "stdout" | "stderr", chunk: Uint8Array) => Effect.Effect<void>
  }
): Effect.Effect<number, CommandError> => {
  const [file, words, shell] = inShell(script.trim(), args)
  const open = () => {
    const child = spawn(file, words, {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: [options.stdin === undefined ? "ignore" : "pipe", "pipe", "pipe"],
      // A group of its own, to be ended as a whole, and out of the reach of our terminal.
      detached: !isWindows,
      ...shell
    })
    if (child.pid !== undefined) remember(child.pid)
    return child
  }
  return Effect.acquireUseRelease(
    start(script, open, options.cwd),
    (child) =>
      Effect.zipRight(
        feed(child, options.stdin),
        Effect.all(
          [
            child.status,
            drain(child, child.process.stdout!, (chunk) => options.onOutput("stdout", chunk)),
            drain(child, child.process.stderr!, (chunk) => options.onOutput("stderr", chunk))
          ],
          { concurrency: "unbounded" }
        )
      ),
    (child, exit) => {
      const pid = child.process.pid!
      const ended = Exit.isInterrupted(exit)
        ? terminate(Effect.zipRight(child.status, groupEnd(pid)), (signal) => signalGroup(pid, signal))
        : Effect.void
      return Effect.zipRight(
        ended,
        Effect.sync(() => groups.delete(pid))
      )
    }
  ).pipe(Effect.map(([status]) => status))
}

// -------------------------------------------------------------------------------------
// internals
// -------------------------------------------------------------------------------------

const start = (command: string, open: () => ChildProcess, cwd?: string): Effect.Effect<Child, CommandError> =>
  Effect.async((resume) => {
    const fail = (cause: unknown) => resume(new CommandError({ command, cwd, cause }))
    try {
      const process = open()
      const ended = Deferred.unsafeMake<number>(FiberId.none)
      process.once("exit", (code, signal) =>
        Deferred.unsafeDone(ended, Effect.succeed(code ?? 128 + constants.signals[signal!]))
      )
      process.on("error", fail)
      process.once("spawn", () => resume(Effect.succeed({ process, status: Deferred.await(ended) })))
    } catch (cause) {
      // An argument that no command can be given, such as one with a NUL.
      fail(cause)
    }
  })

const feed = ({ process }: Child, bytes: Uint8Array | undefined): Effect.Effect<void> =>
  Effect.sync(() => {
    // It may end without having read it all.
    process.stdin?.on("error", () => {}).end(bytes)
  })

// In a daemon, as a second interruption reaches all children of a fiber, also those of its finalizers.
const terminate = (gone: Effect.Effect<unknown>, send: (signal: NodeJS.Signals) => void): Effect.Effect<void> => {
  const within = (millis: number) =>
    Effect.timeoutTo(Effect.interruptible(gone), { duration: millis, onSuccess: () => true, onTimeout: () => false })
  return Effect.sync(() => send("SIGTERM")).pipe(
    Effect.zipRight(within(terminateMillis)),
    Effect.flatMap((ended) => {
      if (!ended) send("SIGKILL")
      return ended ? Effect.void : within(1_000)
    }),
    Effect.forkDaemon,
    Effect.flatMap(Fiber.await),
    Effect.asVoid
  )
}

// At the pace of who takes it. A daemon that the command left behind may hold its output open for ever.
const drain = (child: Child, from: Readable, take: (chunk: Uint8Array) => Effect.Effect<void>): Effect.Effect<void> => {
  let wake = () => {}
  // Never without a listener: at the command's end Node throws away what nobody listens for.
  for (const event of ["readable", "end", "close", "error"]) from.on(event, () => wake())
  const next = Effect.async<Uint8Array | undefined>((resume) => {
    wake = () => {
      const chunk: Uint8Array | null = from.read()
      if (chunk === null && !from.readableEnded && !from.destroyed) return
      wake = () => {}
      resume(Effect.succeed(chunk ?? undefined))
    }
    wake()
    return Effect.sync(() => {
      wake = () => {}
    })
  })
  const silence = Effect.as(Effect.zipRight(child.status, Effect.sleep(silenceMillis)), undefined)
  const loop: Effect.Effect<void> = Effect.flatMap(Effect.raceFirst(next, silence), (chunk) =>
    chunk === undefined ? Effect.void : Effect.zipRight(take(chunk), loop)
  )
  return Effect.ensuring(
    loop,
    Effect.sync(() => from.destroy())
  )
}

// The groups of commands that run for others; none of them outlives this process.
const groups = new Set<number>()

const remember = (pid: number): void => {
  if (groups.size === 0 && process.listeners("exit").every((listener) => listener !== killGroups)) {
    process.on("exit", killGroups)
  }
  groups.add(pid)
}

const killGroups = (): void => {
  for (const pid of groups) signalGroup(pid, "SIGKILL")
}

const signalGroup = (pid: number, signal: NodeJS.Signals): void => {
  try {
    if (isWindows) spawn("taskkill", ["/pid", String(pid), "/T", "/F"], { stdio: "ignore" }).on("error", () => {})
    else process.kill(-pid, signal)
  } catch {
    // All of them are gone.
  }
}

const groupEnd = (pid: number): Effect.Effect<void> =>
  Effect.suspend(() => {
    try {
      if (isWindows) return Effect.void
      process.kill(-pid, 0)
      return Effect.zipRight(Effect.sleep(20), groupEnd(pid))
    } catch {
      return Effect.void
    }
  })

// The terminal gives these to its whole foreground group: the child has got them already, and twice may mean more to it.
const isFromTerminal = (signal: NodeJS.Signals): boolean =>
  (signal === "SIGINT" || signal === "SIGQUIT") && isForeground()

const isForeground = (): boolean => {
  try {
    // proc_pid_stat(5): the group and the foreground group of the terminal, behind the name in parentheses.
    const [, , group, , , foreground] = readFileSync("/proc/self/stat", "utf8").split(") ").at(-1)!.split(" ")
    return group === foreground
  } catch {
    return isatty(0) || isatty(1) || isatty(2)
  }
}

const inShell = (
  script: string,
  args: ReadonlyArray<string>
): readonly [file: string, args: ReadonlyArray<string>, options: SpawnOptions] =>
  isWindows
    ? [
        process.env.ComSpec ?? "cmd.exe",
        ["/d", "/s", "/c", `"${[script, ...args.map(quoteForCmd)].join(" ")}"`],
        { windowsVerbatimArguments: true, windowsHide: true }
      ]
    : // Never pasted into the script: what a caller sends is data.
      ["sh", ["-c", `${script} "$@"`, "sh", ...args], {}]

// First as the C runtime reads it, where backslashes count only before a quote; then each character that cmd would read.
const quoteForCmd = (arg: string): string =>
  `"${arg.replace(/(\\*)"/g, '$1$1\\"').replace(/(\\*)$/, "$1$1")}"`.replace(/[()\][%!^"`<>&|;, *?]/g, "^$&")
