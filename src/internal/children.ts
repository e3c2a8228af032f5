/**
 * Commands of other programs, run as children of this process.
 */
import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { constants } from "node:os"
import type { Writable } from "node:stream"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberId from "effect/FiberId"
import { forward, makePipes } from "./commandStreams.js"
import { code, isMissing, make as makeError } from "./errno.js"
import * as forwarding from "./forwarding.js"
import * as shellLine from "./shellLine.js"
import { namesUs } from "./startup.js"

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

/** What the process is to a command that it runs: who gets its signals (nobody: they end it), and what it was given. */
export class Signals extends Context.Tag("effect-single-instance/internal/Signals")<
  Signals,
  {
    /**
     * Not an effect, so that no signal can come between the start of a child and this. `more` are signals that are listened
     * to only as long as they go to somebody else.
     */
    readonly redirect: (
      to: ((signal: NodeJS.Signals) => void) | undefined,
      more?: ReadonlyArray<NodeJS.Signals>
    ) => void
    /** From 3 on, those that were open when this process was started. */
    readonly descriptors: ReadonlyArray<number>
    readonly ignoresHangup: boolean
  }
>() {}

interface Child {
  readonly process: ChildProcess
  /** Its exit code; 128 and the signal's number where a signal ended it. */
  readonly status: Effect.Effect<number>
}

// From the request to end until the order, in milliseconds.
const terminateMillis = 5_000
// How long an interrupted command's output waits for each time that somebody takes some of it.
const takeMillis = 1_000

const isWindows = process.platform === "win32"

/**
 * Runs a command in our place: with our terminal, input and output, and all signals that we get, in a process group of its
 * own where there is no terminal. Answers its exit code. Interrupted, it ends the command: SIGTERM, 5 s later SIGKILL.
 */
export const foreground = (
  command: string,
  args: ReadonlyArray<string>,
  options: {
    readonly env: NodeJS.ProcessEnv
    /** Left out: ours. */
    readonly stdin?: Uint8Array | undefined
    /** The descriptor that keeps the lock as long as it is open. */
    readonly lock: number | undefined
    /** Run once the command has started. */
    readonly started: Effect.Effect<void>
    /** Told of each signal before the command gets it. */
    readonly onSignal: (signal: NodeJS.Signals) => void
    /** Of `inShell`. */
    readonly shell?: SpawnOptions | undefined
  }
): Effect.Effect<number, CommandError, Signals> =>
  Effect.flatMap(
    Effect.all([Signals, runnable(command, args, options.shell)]),
    ([signals, [program, programArgs, shell]]) => {
      const ownGroup = !forwarding.hasTerminal()
      let forwarder: forwarding.Forwarder | undefined
      const open = () => {
        // Before the command can do anything, and none is delivered before the end of this function.
        signals.redirect((signal) => {
          options.onSignal(signal)
          forwarder?.forward(signal)
        }, forwarding.signals(ownGroup))
        const [file, words] = prepared(program, programArgs, signals.ignoresHangup)
        const descriptors = options.lock === undefined ? signals.descriptors : [...signals.descriptors, options.lock]
        const child = spawn(file, words, {
          env: { ...process.env, ...options.env },
          stdio: inheriting(options.stdin === undefined ? "inherit" : "pipe", descriptors),
          detached: ownGroup,
          ...shell
        })
        if (child.pid !== undefined) forwarder = forwarding.make(child, ownGroup)
        return child
      }
      const close = Effect.sync(() => {
        signals.redirect(undefined)
        forwarder?.close()
      })
      return Effect.acquireUseRelease(
        start(command, open),
        (child) => Effect.zipRight(options.started, Effect.zipRight(feed(child, options.stdin), child.status)),
        (child, exit) =>
          Exit.isInterrupted(exit) ? terminate(child.status, (signal) => child.process.kill(signal)) : Effect.void
      ).pipe(Effect.ensuring(close))
    }
  )

interface BackgroundOptions {
  readonly cwd: string
  readonly env: NodeJS.ProcessEnv
  readonly stdin: Uint8Array | undefined
  readonly onOutput: (stream: "stdout" | "stderr", chunk: Uint8Array) => Effect.Effect<void>
}

/**
 * Runs a line of the shell for somebody else, with `args` as its arguments (`shellLine.ts`), and hands its output over as it
 * comes, no faster than it is taken. Ends when the command has ended and what it wrote is taken; what it has left running
 * goes on. Interrupted, it ends the command and all of its process group: SIGTERM, 5 s later SIGKILL, with their output
 * handed over until then.
 */
export const background = (
  script: string,
  args: ReadonlyArray<string>,
  options: BackgroundOptions
): Effect.Effect<number, CommandError> => {
  const interrupted = Deferred.unsafeMake<void>(FiberId.none)
  let deaf = false
  const giveUp = Effect.map(Effect.zipRight(Deferred.await(interrupted), Effect.sleep(takeMillis)), () => {
    deaf = true
  })
  const take = (stream: "stdout" | "stderr") => (chunk: Uint8Array) =>
    deaf ? Effect.void : Effect.raceFirst(options.onOutput(stream, chunk), giveUp)

  const open = Effect.flatMap(startInBackground(script, args, options), (started) => {
    const { pid, status, stderr, stdout } = started
    // An interrupted shell may end before what it started.
    const ended = Effect.zipRight(
      status,
      Effect.flatMap(Deferred.isDone(interrupted), (done) => (done ? groupEnd(pid) : Effect.void))
    )
    return Effect.all([forward(stdout, ended, take("stdout")), forward(stderr, ended, take("stderr"))], {
      concurrency: "unbounded"
    }).pipe(
      Effect.interruptible,
      Effect.forkDaemon,
      Effect.map((forwarding) => ({ ...started, forwarding }))
    )
  })

  return Effect.acquireUseRelease(
    open,
    ({ forwarding, status }) => Effect.zipRight(Fiber.await(forwarding), status),
    ({ forwarding, input, pid, status }, exit) =>
      Effect.gen(function* () {
        if (Exit.isInterrupted(exit)) {
          yield* Deferred.succeed(interrupted, undefined)
          yield* terminate(Effect.zipRight(status, groupEnd(pid)), (signal) => signalGroup(pid, signal))
          yield* Effect.timeoutOption(Effect.interruptible(Fiber.await(forwarding)), takeMillis)
        }
        yield* Fiber.interrupt(forwarding)
        input?.destroy()
        groups.delete(pid)
      })
  )
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

const startInBackground = Effect.fnUntraced(function* (
  script: string,
  args: ReadonlyArray<string>,
  { cwd, env, stdin }: BackgroundOptions
) {
  const pipes = isWindows ? undefined : yield* makePipes
  const [out, err] = pipes?.ends ?? (["pipe", "pipe"] as const)
  const inputs = stdin === undefined ? [] : ["pipe" as const]
  const open = () => {
    const command = inShell(script, args, stdin !== undefined)
    if (typeof command === "string") throw new Error(command)
    const [file, words, shell] = command
    const child = spawn(file, words, {
      cwd,
      env: { ...process.env, ...env },
      // The shell passes the input on (`inShell`).
      stdio: isWindows ? [inputs[0] ?? "ignore", out, err] : ["ignore", out, err, ...inputs],
      // A group of its own, to be ended as a whole, and out of the reach of our terminal.
      detached: !isWindows,
      ...shell
    })
    if (child.pid !== undefined) remember(child.pid)
    return child
  }
  const { process: child, status } = yield* start(script, open, cwd).pipe(
    Effect.ensuring(Effect.sync(() => pipes?.closeEnds())),
    Effect.tapError(() => Effect.sync(() => pipes?.closeReaders()))
  )
  const input = (isWindows ? child.stdin : child.stdio[3]) as Writable | null | undefined
  // It may end without having read it all.
  input?.on("error", () => {}).end(stdin)
  return {
    pid: child.pid!,
    status,
    input,
    stdout: pipes?.stdout ?? child.stdout!,
    stderr: pipes?.stderr ?? child.stderr!
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

// Under the same numbers: the command knows some of them by these, and none of Node's own can be in the way.
const inheriting = (stdin: "inherit" | "pipe", descriptors: ReadonlyArray<number>) => {
  const stdio: Array<"inherit" | "pipe" | "ignore" | number> = [stdin, "inherit", "inherit"]
  for (const fd of descriptors) {
    while (stdio.length <= fd) stdio.push("ignore")
    stdio[fd] = fd
  }
  return stdio
}

// What `spawn` is given to run a command. On Windows, scripts such as npm.cmd run in cmd.exe only, which has rules of its own
// for quoting, and extensions are left out.
const runnable = (
  command: string,
  args: ReadonlyArray<string>,
  shell: SpawnOptions | undefined
): Effect.Effect<
  readonly [file: string, args: ReadonlyArray<string>, options: SpawnOptions | undefined],
  CommandError
> =>
  process.platform !== "win32" || shell !== undefined
    ? Effect.succeed([command, args, shell])
    : Effect.flatMap(
        Effect.promise(() => import("cross-spawn")),
        ({ default: { _parse } }) => {
          const found = _parse(command, args, {})
          if (found.file && !/\.(?:cmd|bat)$/i.test(found.file)) {
            return Effect.succeed([found.command, found.args, found.options] as const)
          }
          // cross-spawn escapes a quote such that what follows it in the argument could be run by a batch file.
          if (found.file && !args.some(shellLine.hasLineBreak)) {
            const name = _parse(command, [], {}).args.at(-1)!.slice(1, -1)
            const line = [name, ...args.map(shellLine.quoteForCmd)].join(" ")
            return Effect.succeed([found.command, ["/d", "/s", "/c", `"${line}"`], found.options] as const)
          }
          if (found.file) {
            const cause = makeError("EINVAL", "a batch file cannot be given an argument with a line break")
            return new CommandError({ command, cause })
          }
          // cmd.exe would say so in its own words, and end with 1.
          return new CommandError({ command, cause: makeError("ENOENT", "it is in no directory of PATH") })
        }
      )

// What only the process itself can do before it becomes the command: Node takes all signals back to their defaults in a
// child, and nobody knows its pid before.
const prepared = (
  command: string,
  args: ReadonlyArray<string>,
  ignoreHangup: boolean
): readonly [file: string, args: ReadonlyArray<string>] => {
  const steps = [
    ...["LISTEN_PID", "WATCHDOG_PID"].filter(namesUs).map((name) => `export ${name}=$$; `),
    ...(ignoreHangup ? [`trap "" HUP; `] : [])
  ]
  return steps.length === 0
    ? [command, args]
    : ["/bin/sh", ["-c", `${steps.join("")}exec "$@"`, "sh", command, ...args]]
}

// Passes descriptor 3 on as the input, through a pipe: what Node gives is a socket, which `/dev/stdin` cannot open. The
// input goes on by itself, as the command may leave something running that does not read it. This shell says nothing of
// how the command ends but its status.
const piping = 'trap : HUP INT TERM; exec 4>&2 2>/dev/null; (cat <&3 3<&- 4>&- &) | exec "$@" 2>&4 3<&- 4>&-'

/** How `spawn` runs a line for the shell, with the arguments where `shellLine.ts` puts them; or why there is no such place. */
export const inShell = (
  line: string,
  args: ReadonlyArray<string>,
  piped: boolean = false
): readonly [file: string, args: ReadonlyArray<string>, options: SpawnOptions] | string => {
  const read = isWindows ? shellLine.forCmd(line, args) : shellLine.withArguments(line)
  if (read._tag === "Refused") return read.detail
  const { script } = read
  if (isWindows) {
    const words = ["/d", "/s", "/c", `"${script}"`]
    return [process.env.ComSpec ?? "cmd.exe", words, { windowsVerbatimArguments: true, windowsHide: true }]
  }
  // Never pasted into the script: what a caller sends is data.
  const words = ["-c", script, "sh", ...args]
  return ["sh", piped ? ["-c", piping, "sh", "sh", ...words] : words, {}]
}
