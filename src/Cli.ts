/**
 * The commands of `single-instance`: one primary per id for programs in any language.
 *
 * @since 0.1.0
 */
import { spawnSync } from "node:child_process"
import { isatty } from "node:tty"
import { stripVTControlCharacters } from "node:util"
import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as HelpDoc from "@effect/cli/HelpDoc"
import * as Options from "@effect/cli/Options"
import * as Prompt from "@effect/cli/Prompt"
import * as ValidationError from "@effect/cli/ValidationError"
import type * as CommandExecutor from "@effect/platform/CommandExecutor"
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Terminal from "@effect/platform/Terminal"
import * as NodeCommandExecutor from "@effect/platform-node/NodeCommandExecutor"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as NodePath from "@effect/platform-node/NodePath"
import * as NodeTerminal from "@effect/platform-node/NodeTerminal"
import * as Cause from "effect/Cause"
import { type ConfigError, isConfigError } from "effect/ConfigError"
import * as Console from "effect/Console"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import type { ExitEncoded } from "effect/Schema"
import * as Schema from "effect/Schema"
import type * as Endpoint from "./Endpoint.js"
import type { Delivered, LaunchOptions as DescribedLaunch, Inspection, Primary as PrimaryOf } from "./Instance.js"
import type { Took } from "./InstanceLock.js"
import { background, type CommandError, foreground, inShell, Signals } from "./internal/children.js"
import * as commandLine from "./internal/commandLine.js"
import * as Contract from "./internal/contract.js"
import * as durationText from "./internal/durationText.js"
import { isOption } from "./internal/environment.js"
import * as inherited from "./internal/inherited.js"
import * as location from "./internal/location.js"
import * as output from "./internal/output.js"
import { type ProtocolName, protocol, protocolNames } from "./internal/platform.js"
import type { Conclude } from "./internal/quick.js"
import * as supervisors from "./internal/supervisor.js"
import * as telling from "./internal/telling.js"
import type { Launch } from "./Message.js"
import type { IncomingLaunch } from "./Primary.js"
import { Protocol } from "./Protocol.js"
import * as SingleInstance from "./SingleInstance.js"
import * as SingleInstanceConfig from "./SingleInstanceConfig.js"
import {
  isSingleInstanceError,
  LockError,
  type Outcome,
  ProtocolError,
  type SingleInstanceError,
  TimeoutError
} from "./SingleInstanceError.js"

/**
 * The version that `--version` shows.
 *
 * @since 0.1.0
 * @category constants
 */
export const version = "0.1.0"

/**
 * The exit codes that are not those of a command or handler, from `sysexits.h` where it has them. A signal gives 128 and
 * its number, a command that cannot be started 126 or 127.
 *
 * @since 0.1.0
 * @category constants
 */
export const exitCodes = supervisors.exitCodes

/**
 * What happens, as `--json` prints it: one object per line. Names of events and fields are stable.
 *
 * @since 0.1.0
 * @category models
 */
export type Event =
  | {
      readonly event: "primary"
      readonly id: string
      readonly pid: number
      readonly epoch: number
      readonly took: Took
      readonly endpoints: ReadonlyArray<Endpoint.Endpoint>
    }
  | { readonly event: "standby"; readonly primary: { readonly pid: number } }
  | {
      readonly event: "launch"
      readonly message: string
      readonly argv: ReadonlyArray<string>
      readonly cwd: string
      readonly protocol: string
      readonly from: { readonly pid: number }
    }
  | { readonly event: "output"; readonly stream: "stdout" | "stderr"; readonly text: string }
  | telling.DeliveredEvent
  | { readonly event: "lost"; readonly reason: string }
  | { readonly event: "stopped" }
  | {
      readonly event: "status"
      readonly id: string
      readonly state: Inspection["state"]
      readonly pid: number | null
      readonly epoch: number | null
      readonly since: string | null
      readonly endpoints: ReadonlyArray<Endpoint.Endpoint>
      /** `null` where it cannot be told. */
      readonly alive: boolean | null
      readonly evidence: string
      readonly host: string | null
      readonly version: string | null
      readonly location: string
      readonly nonce: string | null
    }
  | { readonly event: "broken"; readonly id: string; readonly nonce: string }
  | {
      readonly event: "error"
      readonly error: string
      readonly reason: string
      readonly outcome: Outcome
      readonly message: string
      readonly primary?: { readonly pid: number }
    }

/**
 * What the commands need from the platform.
 *
 * @since 0.1.0
 * @category models
 */
export type Environment =
  | CommandExecutor.CommandExecutor
  | FileSystem.FileSystem
  | Path.Path
  | Terminal.Terminal
  | Signals

/**
 * Runs a command line, given as `process.argv`, and answers its exit code. Words behind the first `--` are taken as they
 * are. `spent` says how much of the time that `--timeout` allows is
 * over already, in milliseconds.
 *
 * @since 0.1.0
 * @category running
 */
export const run = (
  argv: ReadonlyArray<string>,
  spent: () => number = () => 0
): Effect.Effect<number, never, Environment> =>
  Effect.suspend(() => {
    const { flaw, own, rest } = commandLine.read(argv.slice(2), syntax)
    const isJson = own.some((word) => word === "--json" || word === "--json=true")
    let exitCode = 0
    const cli = Command.run(
      commands({ argv, rest, spent }, (code) => {
        exitCode = code
      }),
      { name: "single-instance", version, footer }
    )
    const misused = (error: ValidationError.ValidationError) => {
      const message = stripVTControlCharacters(HelpDoc.toAnsiText(error.error)).trim()
      return isJson
        ? print({ event: "error", error: "UsageError", reason: error._tag, outcome: "NotDelivered", message })
        : write("stderr", `single-instance: ${telling.escaped(message)}\nSee \`single-instance --help\`.\n`)
    }
    const parsed =
      flaw === undefined
        ? cli([...argv.slice(0, 2), ...own])
        : Effect.fail(ValidationError.invalidArgument(HelpDoc.p(telling.escaped(flaw))))
    return parsed.pipe(
      Effect.map(() => (own.length === 0 ? exitCodes.usage : exitCode)),
      Effect.catchAll((error) => Effect.as(misused(error), exitCodes.usage)),
      withConsole,
      Effect.provide(Logger.replace(Logger.defaultLogger, logger))
    )
  })

/**
 * Runs a command line as this process: ends it with the exit code, and by a signal with 128 and its number, all released.
 * A second signal does not wait. `descriptors` are those from 3 on that a command of `run` is to inherit.
 *
 * @since 0.1.0
 * @category running
 */
export const main = (argv: ReadonlyArray<string>, descriptors: ReadonlyArray<number> = []): void => {
  const supervisor = supervisors.supervise(() => fiber.unsafeInterruptAsFork(fiber.id()))
  const fiber = Effect.runFork(
    run(argv, () => performance.now()).pipe(
      Effect.provideService(Signals, {
        redirect: supervisor.redirect,
        ignoresHangup: supervisor.ignoresHangup,
        descriptors
      }),
      Effect.provide(platform)
    )
  )
  supervisor.watchOutput()
  fiber.addObserver((exit) => {
    if (Exit.isSuccess(exit)) supervisor.end(exit.value)
    else supervisor.end(exitCodes.defect, Cause.pretty(exit.cause))
  })
}

/**
 * Shows how a launch ended that was handed over without all this, and answers the exit code.
 *
 * @since 0.1.0
 * @category running
 */
export const conclude: Conclude = ({ ending, id, json, millis }) => {
  const tell = teller(json, true)
  const { message, primary, protocol } = ending
  const { pid } = primary
  const failed = (reason: string, detail: string, outcome: Outcome, cause?: unknown) =>
    new ProtocolError({ reason: reason as ProtocolError["reason"], protocol, detail, outcome, pid, cause })
  const replied: Effect.Effect<number, SingleInstanceError> =
    ending._tag === "Answered"
      ? Contract.conclude(
          Contract.make({ reply: Schema.Int }),
          ending.exit as ExitEncoded<unknown, unknown, unknown>,
          (reason, detail, cause) => failed(reason, detail, "Delivered", cause)
        )
      : ending.reason === "accept" || ending.reason === "reply"
        ? new TimeoutError({ phase: ending.reason, id, millis, pid, outcome: ending._tag, messageId: message })
        : failed(ending.reason, ending.detail, ending._tag)
  return replied.pipe(
    Effect.flatMap((reply) => told(tell, { message, primary, protocol, reply })),
    Effect.catchAll((error) => Effect.as(tell(eventOf(error)), codeOf(error))),
    Effect.runPromise
  )
}

// -------------------------------------------------------------------------------------
// the command line
// -------------------------------------------------------------------------------------

// Only a question reads the terminal; the layer of Node would open the input of the command that we run at once.
const terminal = Terminal.Terminal.of({
  columns: Effect.sync(() => (isatty(1) ? process.stdout.columns : 0)),
  rows: Effect.sync(() => (isatty(1) ? process.stdout.rows : 0)),
  isTTY: Effect.sync(() => isatty(1)),
  readInput: Effect.flatMap(NodeTerminal.make(), ({ readInput }) => readInput),
  readLine: Effect.scoped(Effect.flatMap(NodeTerminal.make(), ({ readLine }) => readLine)),
  display: (text) => write("stdout", telling.isColourful("stdout") ? text : text.replace(/\u001b\[[\d;]*m/g, ""))
})

const platform = Layer.mergeAll(
  NodePath.layer,
  NodeCommandExecutor.layer,
  Layer.succeed(Terminal.Terminal, terminal)
).pipe(Layer.provideMerge(NodeFileSystem.layer))

const footer = HelpDoc.blocks([
  HelpDoc.h1("EXAMPLES"),
  HelpDoc.p("$ single-instance run my-editor --on-launch 'open-in-editor' -- my-editor file.txt"),
  HelpDoc.p("$ single-instance run nvim --exec 'nvim --listen S' --on-launch 'nvim --server S --remote' -- file.txt"),
  HelpDoc.p("$ single-instance listen my-app --json"),
  HelpDoc.p("$ single-instance send my-app -- any words --even-such"),
  HelpDoc.h1("EXIT CODES"),
  HelpDoc.p(
    `That of the command or handler, else ${exitCodes.usage} usage, ${exitCodes.nobody} nobody is there, ${exitCodes.lock} lock, ${exitCodes.timeout} time-out, ${exitCodes.protocol} protocol; 128 and its number for a signal.`
  )
])

// The value of `--wait` that is written without one.
const unlimited = "unlimited"

const text = <A = string>(
  name: string,
  pseudoName: string,
  description: string,
  read: (text: string) => Effect.Effect<A, string> = (text) => Effect.succeed(text as A)
): Options.Options<A | undefined> =>
  Options.text(name).pipe(
    Options.withPseudoName(pseudoName),
    Options.withDescription(description),
    Options.mapEffect((text) =>
      (text.trim() === "" ? Effect.fail("it must not be empty") : read(text)).pipe(
        Effect.mapError((detail) => ValidationError.invalidValue(HelpDoc.p(`--${name} "${text}": ${detail}`)))
      )
    ),
    Options.optional,
    Options.map(Option.getOrUndefined)
  )

const durationOf = (text: string): Effect.Effect<Duration.Duration, string> => {
  const found = durationText.read(text)
  return found === undefined ? Effect.fail(`expected ${durationText.expected}`) : Effect.succeed(found)
}

// As flock(1) has it: a number is one of seconds.
const waitOf = (text: string): Effect.Effect<Duration.Duration, string> =>
  text === unlimited
    ? Effect.succeed(Duration.infinity)
    : /^\d+(\.\d+)?$/.test(text)
      ? Effect.succeed(Duration.seconds(Number(text)))
      : durationOf(text)

const exitCodeOf = (text: string): Effect.Effect<number, string> =>
  /^\d{1,3}$/.test(text) && Number(text) <= 255
    ? Effect.succeed(Number(text))
    : Effect.fail("an exit code is a number from 0 to 255")

const protocolsOf = (text: string): Effect.Effect<ReadonlyArray<ProtocolName>, string> => {
  const given = [...new Set(text.split(",").map((name) => name.trim()))]
  const unknown = given.find((name) => !protocolNames.some((known) => known === name))
  return unknown === undefined
    ? Effect.succeed(given as ReadonlyArray<ProtocolName>)
    : Effect.fail(`there is no protocol "${unknown}"; there are ${protocolNames.join(", ")}`)
}

const namesOf = (text: string): Effect.Effect<ReadonlyArray<string>, string> => {
  const names = [...new Set(text.split(",").map((name) => name.trim()))]
  const wrong = names.find((name) => name === "" || name.includes("=") || inherited.isReserved(name))
  return wrong === undefined
    ? Effect.succeed(names)
    : Effect.fail(`"${wrong}" is not the name of a variable that can be passed on`)
}

// What is wrong with a line for the shell is said at the start, not by each launch that it should run for.
const lineOf = (line: string): Effect.Effect<string, string> =>
  Effect.suspend(() => {
    const built = inShell(line, [])
    if (typeof built === "string") return Effect.fail(built)
    if (process.platform === "win32") return Effect.succeed(line)
    const [file, words] = built
    const { status, stderr } = spawnSync(file, ["-n", ...words], { encoding: "utf8", timeout: 5_000 })
    // Where there is no shell, who runs the line says so.
    return status === null || status === 0 ? Effect.succeed(line) : Effect.fail(stderr.trim())
  })

const json = Options.boolean("json").pipe(
  Options.withDescription("Print one JSON object per line instead of sentences.")
)
const dir = text("dir", "directory", "Where the lock lives. By default the same place for all launches of a user.")
const trustDirectory = Options.boolean("trust-directory").pipe(
  Options.withDescription(
    "You vouch for --dir and its parents, such as a volume that others may write to; they are not verified."
  ),
  // Left out, the environment may say it.
  Options.map((given) => given || undefined)
)
const timeout = text(
  "timeout",
  "duration",
  `How long to wait for a decision and for the primary, such as "500ms", "5s" or "2 minutes". 20 seconds by default.`,
  durationOf
)
const protocols = text(
  "protocol",
  "list",
  `What carries the messages, in order of preference, with commas: ${protocolNames.join(", ")}. By default what fits the platform.`,
  protocolsOf
)

const env = text(
  "env",
  "names",
  "The environment variables that a later launch passes on to the --on-launch command, with commas, such as DISPLAY. The first launch accepts those that its own --env names.",
  namesOf
)

// What may stand behind the name of each command.
const syntax = {
  run: {
    takesWords: true,
    // `@effect/cli` has no options whose value may be left out.
    implied: { "--wait": unlimited },
    options: {
      exec: text(
        "exec",
        "command",
        "What the first launch runs instead: a line for the shell. Everything behind -- is then its arguments, for the first launch and later ones alike.",
        lineOf
      ),
      onLaunch: text(
        "on-launch",
        "command",
        `What the first launch runs for each later one: a line for the shell, in the later one's directory. It gets the later one's arguments behind the words of its last command, or where it says "$@".`,
        lineOf
      ),
      env,
      stdin: Options.boolean("stdin").pipe(Options.withDescription("A later launch hands over its standard input.")),
      wait: text(
        "wait",
        "duration",
        `Hand over nothing: wait for the end of the command that runs, then run this one. "--wait" waits for ever, "--wait=5s" at most so long.`,
        waitOf
      ),
      nonblock: Options.boolean("nonblock").pipe(
        Options.withAlias("n"),
        Options.withDescription("Hand over nothing: where a command runs, end at once with 1.")
      ),
      conflictExitCode: text(
        "conflict-exit-code",
        "number",
        "What --nonblock, or --wait after its time, ends with instead of 1.",
        exitCodeOf
      ).pipe(Options.withAlias("E")),
      close: Options.boolean("close").pipe(
        Options.withAlias("o"),
        Options.withDescription(
          "The command does not inherit the lock: where this process is killed, the lock is free."
        )
      ),
      protocols,
      timeout,
      dir,
      trustDirectory,
      json
    }
  },
  listen: {
    takesWords: false,
    options: {
      standby: Options.boolean("standby").pipe(
        Options.withDescription("Where somebody else is the primary, wait for its end.")
      ),
      protocols,
      dir,
      trustDirectory,
      json
    }
  },
  send: {
    takesWords: true,
    options: {
      env,
      protocols,
      timeout,
      dir,
      trustDirectory,
      json
    }
  },
  status: { takesWords: false, options: { dir, trustDirectory, json } },
  break: {
    takesWords: false,
    options: {
      yes: Options.boolean("yes").pipe(Options.withAlias("y"), Options.withDescription("Do not ask.")),
      dir,
      trustDirectory,
      json
    }
  }
} satisfies { readonly [name: string]: commandLine.Syntax }

interface Situation {
  readonly argv: ReadonlyArray<string>
  readonly rest: ReadonlyArray<string>
  readonly spent: () => number
}

const commands = ({ argv, rest, spent }: Situation, exit: (code: number) => void) => {
  const finish =
    <O extends Common, E extends Failure, R>(
      handler: (options: O) => Effect.Effect<number, E, R>,
      beside: boolean = false
    ) =>
    (given: Omit<O, "tell"> & Given) => {
      const tell = teller(given.json, beside)
      const sound = refuse("NotUtf8", inherited.argumentFlaw(argv) ?? inherited.variableFlaw(isOption))
      return Effect.zipRight(sound, provide(given, spent(), handler({ ...given, tell } as unknown as O))).pipe(
        Effect.catchAll((error) => Effect.as(tell(eventOf(error)), codeOf(error))),
        Effect.map(exit)
      )
    }

  const id = Args.text({ name: "id" }).pipe(
    Args.withDescription("The name under which launches meet: any text. Different ids never meet."),
    Args.mapEffect((id) => {
      const flaw = location.flawOfId(id)
      return flaw === undefined ? Effect.succeed(id) : Effect.fail(HelpDoc.p(flaw))
    })
  )
  const words = (name: string, description: string) =>
    Args.text({ name }).pipe(
      Args.withDescription(description),
      Args.repeated,
      // `@effect/cli` would look for its own options behind `--`, too.
      Args.map(() => rest)
    )
  const run = Command.make(
    "run",
    {
      id,
      command: words(
        "command",
        "Behind --: the program that the first launch runs, and its arguments. A later launch hands over the arguments only."
      ),
      ...syntax.run.options
    },
    finish(launch, true)
  ).pipe(
    Command.withDescription(
      "Run a command, or hand over to the one that runs and show what its --on-launch command makes of it."
    )
  )

  const listen = Command.make(
    "listen",
    {
      id,
      ...syntax.listen.options
    },
    finish(listenTo)
  ).pipe(Command.withDescription("Become the primary and print what happens, a line each, until stopped."))

  const send = Command.make(
    "send",
    {
      id,
      args: words("args", "Behind --: what to hand over, as it is."),
      ...syntax.send.options
    },
    finish(sendTo, true)
  ).pipe(Command.withDescription("Hand over to the primary; fail if there is none."))

  const status = Command.make("status", { id, ...syntax.status.options }, finish(statusOf)).pipe(
    Command.withDescription("Show who is the primary, since when, and why we think that it lives. Changes nothing.")
  )

  const break_ = Command.make(
    "break",
    {
      id,
      ...syntax.break.options
    },
    finish(breakLock)
  ).pipe(
    Command.withDescription(
      "Free a lock of which only you can say that its owner is gone. Refuses while anybody lives there."
    )
  )

  return Command.make("single-instance").pipe(
    Command.withDescription(
      "One primary process per id; every later launch hands over to it and learns what became of it."
    ),
    Command.withSubcommands([run, listen, send, status, break_])
  )
}

// -------------------------------------------------------------------------------------
// the commands
// -------------------------------------------------------------------------------------

class UsageError extends Data.TaggedError("UsageError")<{ readonly reason: string; readonly message: string }> {}

const refuse = (reason: string, flaw: string | undefined): Effect.Effect<void, UsageError> =>
  flaw === undefined ? Effect.void : new UsageError({ reason, message: flaw })

// What a launch hands over; fails where that would not be what it was started with.
const launchOf = Effect.fnUntraced(function* (args: ReadonlyArray<string>, names: ReadonlyArray<string> = []) {
  yield* refuse(
    "NotUtf8",
    inherited.variableFlaw((name) => names.includes(name))
  )
  yield* refuse("Recursion", inherited.depthFlaw())
  yield* refuse("NotUtf8", inherited.directoryFlaw())
  return { argv: args, env: inherited.passedNames(names) }
})

type Failure = SingleInstanceError | ConfigError | CommandError | UsageError

type Primary = PrimaryOf<Launch, number, never>

interface Given {
  readonly id: string
  readonly json: boolean
  readonly dir: string | undefined
  readonly trustDirectory: true | undefined
  readonly timeout?: Duration.Duration | undefined
  readonly protocols?: ReadonlyArray<ProtocolName> | undefined
}

interface Common extends Given {
  readonly tell: Tell
}

const provide = <A, E, R>(options: Given, spentMillis: number, effect: Effect.Effect<A, E, R>) => {
  const [first, ...others] = (options.protocols ?? []).map((name) => Layer.succeed(Protocol, protocol(name)))
  const layer = SingleInstance.SingleInstance.layerWithoutDependencies(
    first === undefined ? { id: options.id } : { id: options.id, protocol: first, fallback: others }
  ).pipe(
    Layer.provide(SingleInstance.layerLock),
    Layer.provideMerge(
      SingleInstanceConfig.layerFromEnv({
        directory: options.dir,
        trustDirectory: options.trustDirectory,
        timeout: options.timeout && remaining(options.timeout, spentMillis)
      })
    ),
    Layer.provide(SingleInstance.layerPidVerifier)
  )
  return Effect.mapError(Effect.provide(effect, layer), (error) => inWhole(error, options, spentMillis))
}

// A primary that was found has kept its launch waiting since the process began.
const inWhole = <E>(error: E, { timeout }: Given, spentMillis: number): E | TimeoutError =>
  TimeoutError.is(error) && timeout !== undefined && error.phase !== "reply"
    ? new TimeoutError({ ...error, millis: Math.min(Duration.toMillis(timeout), error.millis + spentMillis) })
    : error

// The time that a person allows begins with the process: a primary that stands still has kept it waiting already. A
// quarter, or half a second, is left in any case.
const remaining = (timeout: Duration.Duration, spentMillis: number): Duration.Duration => {
  const millis = Duration.toMillis(timeout)
  return Duration.millis(Math.max(millis - spentMillis, Math.min(millis, Math.max(millis / 4, 500))))
}

interface LaunchOptions extends Common {
  readonly command: ReadonlyArray<string>
  readonly exec: string | undefined
  readonly onLaunch: string | undefined
  readonly env: ReadonlyArray<string> | undefined
  readonly stdin: boolean
  readonly wait: Duration.Duration | undefined
  readonly nonblock: boolean
  readonly conflictExitCode: number | undefined
  readonly close: boolean
}

const launch = Effect.fnUntraced(function* (options: LaunchOptions) {
  const { command, env, exec, tell } = options
  const conflict = conflictOf(options)
  if (conflict !== undefined) return yield* new UsageError({ reason: "ConflictingOptions", message: conflict })
  if (exec === undefined && command.length === 0) {
    return yield* new UsageError({ reason: "MissingArgument", message: `The command is missing: put it behind "--"` })
  }
  const args = exec === undefined ? command.slice(1) : command
  const words = exec === undefined ? ([command[0]!, args, {}] as const) : inShell(exec, args)
  if (typeof words === "string") return yield* new UsageError({ reason: "InvalidValue", message: words })
  const [file, fileArgs, shell] = words
  const launch = yield* launchOf(args, env)

  const primary = (stdin?: Uint8Array) => (primary: Primary) =>
    Effect.zipRight(
      refuse("NotUtf8", inherited.variableFlaw()),
      lead(tell, primary, handler(tell, primary, options, notTaken(primary)), (serve) =>
        foreground(file, fileArgs, {
          env: environment(primary),
          stdin,
          shell,
          lock: options.close ? undefined : primary.descriptor,
          // Before that nobody's launch is taken: the command may not even be found.
          started: serve,
          onSignal: refuser(primary)
        })
      )
    )

  if (options.nonblock || options.wait !== undefined) return yield* inTurn(options, launch, primary())

  const whole = (stdin?: Uint8Array) =>
    SingleInstance.SingleInstance.enforce({
      launch: { ...launch, stdin },
      onOutput: shower(options),
      primary: primary(stdin),
      secondary: (delivered) => told(tell, delivered)
    })

  if (!options.stdin) return yield* whole()
  // Only a later launch may read it: the command of the first one has it for itself.
  const followed = yield* Deferred.make<undefined>()
  const first = SingleInstance.SingleInstance.standby({
    launch,
    onFollow: () => Effect.asVoid(Deferred.succeed(followed, undefined)),
    primary: primary()
  })
  const exitCode = yield* Effect.raceFirst(first, Deferred.await(followed))
  if (exitCode !== undefined) return exitCode
  const { maxFrameBytes } = yield* SingleInstanceConfig.SingleInstanceConfig
  return yield* Effect.flatMap(readStdin(maxFrameBytes), whole)
})

const conflictOf = ({ conflictExitCode, nonblock, stdin, wait }: LaunchOptions): string | undefined => {
  const inTurn = nonblock ? "--nonblock" : wait !== undefined ? "--wait" : undefined
  if (nonblock && wait !== undefined) return "--wait and --nonblock exclude each other"
  if (stdin && inTurn !== undefined) return `--stdin and ${inTurn} exclude each other: ${inTurn} hands over nothing`
  return conflictExitCode !== undefined && !nonblock && (wait === undefined || !Duration.isFinite(wait))
    ? "--conflict-exit-code needs --nonblock, or --wait with a duration"
    : undefined
}

// As flock(1) does: runs when nobody else does, or ends with the exit code of a conflict.
const inTurn = Effect.fnUntraced(function* <E, R>(
  options: LaunchOptions,
  launch: DescribedLaunch,
  use: (primary: Primary) => Effect.Effect<number, E, R>
) {
  const { conflictExitCode = 1, id, json, nonblock, tell, wait = Duration.infinity } = options
  const decided = yield* Deferred.make<"run" | "conflict">()
  const waiting = yield* Deferred.make<void>()
  let owner: LockError["owner"]
  const running = SingleInstance.SingleInstance.standby({
    launch,
    onFollow: (followed) => {
      owner = followed
      return nonblock
        ? Effect.asVoid(Deferred.succeed(decided, "conflict"))
        : Effect.zipRight(
            Deferred.succeed(waiting, undefined),
            tell({ event: "standby", primary: { pid: followed.pid } })
          )
    },
    primary: (primary) =>
      Effect.flatMap(Deferred.succeed(decided, "run"), (first) => (first ? use(primary) : Effect.never))
  })
  const late = Duration.isFinite(wait)
    ? Deferred.await(waiting).pipe(
        Effect.zipRight(Effect.sleep(wait)),
        Effect.zipRight(Deferred.succeed(decided, "conflict"))
      )
    : Effect.never
  const refused = Effect.gen(function* () {
    if ((yield* Deferred.await(decided)) === "run") return yield* Effect.never
    // A job of cron that runs into itself sends no mail.
    if (json || output.isTerminal("stderr")) {
      const detail = `already running as process ${owner?.pid}`
      yield* tell(eventOf(new LockError({ reason: "AlreadyRunning", id, detail, owner })))
    }
    return conflictExitCode
  })
  return yield* Effect.raceFirst(running, Effect.raceFirst(refused, Effect.zipRight(late, Effect.never)))
})

// Who asks a command to end waits for that no longer than this in vain, in milliseconds: it may take the signal for
// something else, as shells and servers do.
const refusingMillis = 5_000

// A command that was told to end takes nothing more: a launch that comes now is to start its own.
const refuser = (primary: Primary) => {
  let terminated = false
  let timer: NodeJS.Timeout | undefined
  const refuse = (on: boolean) => Effect.runSync(primary.refuseNewcomers(on))
  return (signal: NodeJS.Signals) => {
    terminated ||= signal === "SIGTERM"
    if (!terminated && !["SIGHUP", "SIGINT", "SIGQUIT", "SIGBREAK"].includes(signal)) return
    clearTimeout(timer)
    refuse(true)
    if (!terminated) timer = setTimeout(() => refuse(false), refusingMillis).unref()
  }
}

const notTaken = (primary: Primary) => (launch: IncomingLaunch) =>
  Effect.as(launch.stderr(`single-instance: already running as process ${primary.pid}\n`), 0)

const listenTo = Effect.fnUntraced(function* (options: Common & { readonly standby: boolean }) {
  const { id, tell } = options
  const instance = yield* SingleInstance.SingleInstance
  const refused = yield* Deferred.make<never, LockError>()
  const occupied = (owner: NonNullable<LockError["owner"]>) =>
    Effect.match(instance.inspect, {
      onFailure: () => undefined,
      onSuccess: ({ evidence, state }) => (state === "held" ? evidence : undefined)
    }).pipe(
      Effect.map((held) => {
        const since = `process ${owner.pid} is the primary since ${timeOf(owner.startedAt) ?? "a time that is no date"}`
        return new LockError({ reason: held ? "OwnerEnded" : "AlreadyRunning", id, detail: held ?? since, owner })
      })
    )
  const listening = SingleInstance.SingleInstance.standby({
    onFollow: (owner) =>
      options.standby
        ? tell({ event: "standby", primary: { pid: owner.pid } })
        : Effect.flatMap(occupied(owner), (error) => Deferred.fail(refused, error)),
    primary: (primary) =>
      lead(
        tell,
        primary,
        handler(tell, primary, {}, () => Effect.succeed(0)),
        (serve) => Effect.zipRight(serve, Effect.never)
      )
  })
  return yield* Effect.raceFirst(listening, Deferred.await(refused)).pipe(
    // Nobody may read it any more.
    Effect.onInterrupt(() =>
      Effect.timeoutOption(Effect.interruptible(tell({ event: "stopped" })), Duration.seconds(1))
    )
  )
})

const sendTo = Effect.fnUntraced(function* (
  options: Common & { readonly args: ReadonlyArray<string>; readonly env: ReadonlyArray<string> | undefined }
) {
  const launch = yield* launchOf(options.args, options.env)
  const instance = yield* SingleInstance.SingleInstance
  return yield* told(options.tell, yield* instance.send(undefined, { launch, onOutput: shower(options) }))
})

const statusOf = (options: Common) =>
  Effect.flatMap(SingleInstance.SingleInstance, ({ inspect }) =>
    Effect.flatMap(inspect, (seen) => {
      const event = statusEvent(seen)
      const code = event.alive === null || event.state === "held" ? exitCodes.lock : event.alive ? 0 : exitCodes.nobody
      return Effect.as(options.tell(event), code)
    })
  )

const breakLock = Effect.fnUntraced(function* (options: Common & { readonly yes: boolean }) {
  const { id, json, tell } = options
  const instance = yield* SingleInstance.SingleInstance
  const seen = yield* instance.inspect
  const { evidence, nonce, owner, state } = seen
  yield* tell(statusEvent(seen))
  // There is nothing to break.
  if (nonce === undefined || state === "released") return 0
  if (state === "primary" || state === "held") {
    return yield* new LockError({ reason: "BreakRefused", id, path: seen.location, detail: evidence, owner })
  }
  if (!options.yes) {
    if (json || !isatty(0) || !isatty(1)) {
      return yield* new UsageError({
        reason: "NotConfirmed",
        message: "There is no terminal to ask on: if you are sure that nobody runs there, say so with --yes"
      })
    }
    const sure = yield* Prompt.run(
      Prompt.confirm({ message: `Nobody is the primary of ${shown(id)} any more, and I am sure of it. Free the lock?` })
    ).pipe(Effect.catchAll(() => Effect.succeed(undefined)))
    if (sure === undefined) return 130
    if (!sure) return exitCodes.lock
  }
  yield* instance.breakLock(nonce)
  yield* tell({ event: "broken", id, nonce })
  return 0
})

// Serves, runs and tells at once of the end of leadership, which interrupts what runs.
const lead = <E, R>(
  tell: Tell,
  primary: Primary,
  handler: (launch: IncomingLaunch) => Effect.Effect<number>,
  use: (serve: Effect.Effect<void>) => Effect.Effect<number, E, R>
) =>
  Effect.gen(function* () {
    const { endpoints, epoch, id, pid, took } = primary
    yield* tell({ event: "primary", id, pid, epoch, took, endpoints })
    yield* primary.lost.pipe(
      Effect.catchAll(({ detail }) => tell({ event: "lost", reason: detail })),
      Effect.forkScoped
    )
    return yield* use(primary.serve((_, launch) => handler(launch)))
  })

const handler =
  (
    tell: Tell,
    primary: Primary,
    {
      env: names = [],
      onLaunch
    }: { readonly onLaunch?: string | undefined; readonly env?: ReadonlyArray<string> | undefined },
    otherwise: (launch: IncomingLaunch) => Effect.Effect<number>
  ) =>
  (launch: IncomingLaunch): Effect.Effect<number> => {
    const { argv, cwd, from, message, protocol, stdin } = launch
    const announced = tell({ event: "launch", message, argv, cwd, protocol, from: { pid: from.pid } })
    if (onLaunch === undefined) return Effect.zipRight(announced, otherwise(launch))
    const env = {
      ...inherited.accepted(launch.env, names),
      ...environment(primary),
      SINGLE_INSTANCE_MESSAGE: message,
      SINGLE_INSTANCE_FROM_PID: String(from.pid)
    }
    const onOutput = (stream: "stdout" | "stderr", chunk: Uint8Array) => launch[stream](chunk)
    return Effect.zipRight(announced, background(onLaunch, argv, { cwd, env, stdin, onOutput })).pipe(
      Effect.catchAll((error) => Effect.as(launch.stderr(`single-instance: ${error.message}\n`), error.status))
    )
  }

// For commands that we run. None of these is an option of ours.
const environment = ({ epoch, id }: Primary) => ({
  SINGLE_INSTANCE_ID: id,
  SINGLE_INSTANCE_EPOCH: String(epoch)
})

const readStdin = (limit: number): Effect.Effect<Uint8Array, ProtocolError> =>
  Effect.async((resume) => {
    const { stdin } = process
    const chunks: Array<Uint8Array> = []
    let size = 0
    const done = (result: Effect.Effect<Uint8Array, ProtocolError>) => {
      stdin.off("data", onData).off("end", onEnd).off("error", onEnd).pause()
      resume(result)
    }
    const onData = (chunk: Uint8Array) => {
      chunks.push(chunk)
      size += chunk.length
      if (size <= limit) return
      const detail = `the standard input has more than ${limit} bytes`
      done(new ProtocolError({ reason: "TooLarge", protocol: "none", detail, outcome: "NotDelivered" }))
    }
    const onEnd = () => done(Effect.succeed(Buffer.concat(chunks)))
    stdin.on("data", onData).on("end", onEnd).on("error", onEnd)
  })

// -------------------------------------------------------------------------------------
// what is shown
// -------------------------------------------------------------------------------------

type Tell = (event: Event) => Effect.Effect<void>

// Beside a command's output only a person at a terminal wants to read more than errors.
const teller = (json: boolean, beside: boolean): Tell => {
  let lost = false
  return (event) =>
    Effect.suspend(() => {
      const again = event.event === "lost" && lost
      lost ||= event.event === "lost"
      if (again) return Effect.void
      if (json) return print(event)
      const wrong = event.event === "lost" || event.event === "error"
      const stream = beside || wrong ? "stderr" : "stdout"
      // What others launch would get into the screen of a command that draws one.
      const unwanted = beside && !wrong && (!output.isTerminal(stream) || event.event === "launch")
      if (unwanted) return Effect.void
      const text = event.event === "output" ? event.text : telling.escaped(sentence(event))
      return write(stream, `${telling.coloured(stream, colours[event.event], text)}\n`)
    })
}

// Waits until it is flushed: whoever makes the output goes no faster than it is read, and the end loses nothing.
const write = (name: output.Name, data: string | Uint8Array): Effect.Effect<void> =>
  Effect.promise(() => output.write(name, data))

const logger = Logger.map(Logger.logfmtLogger, (line) => void output.write("stderr", `${line}\n`))

const print = (event: Event): Effect.Effect<void> => write("stdout", `${telling.escaped(JSON.stringify(event))}\n`)

const shower = ({ json, tell }: Common) => {
  const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() }
  return (stream: "stdout" | "stderr", chunk: Uint8Array): Effect.Effect<void> =>
    json
      ? tell({ event: "output", stream, text: decoders[stream].decode(chunk, { stream: true }) })
      : write(stream, chunk)
}

const told = (
  tell: Tell,
  { message, primary, protocol, reply }: Pick<Delivered<number>, "message" | "primary" | "protocol" | "reply">
): Effect.Effect<number> =>
  Effect.as(tell(telling.deliveredEvent(message, protocol, reply, primary.pid)), telling.exitCodeOf(reply))

// A record may hold a number that is no date.
const timeOf = (millis: number): string | null => {
  const date = new Date(millis)
  return Number.isNaN(date.getTime()) ? null : date.toISOString()
}

const statusEvent = ({ endpoints, evidence, id, location, nonce, owner, state }: Inspection) => ({
  event: "status" as const,
  id,
  state,
  pid: owner?.pid ?? null,
  epoch: owner?.epoch ?? null,
  since: owner === undefined ? null : timeOf(owner.startedAt),
  endpoints,
  alive: state === "primary" ? true : ["free", "released", "held", "dead"].includes(state) ? false : null,
  evidence,
  host: owner?.host ?? null,
  version: owner?.version ?? null,
  location,
  nonce: nonce ?? null
})

const eventOf = (error: Failure): Event => {
  if (LockError.is(error) && error.reason === "Lost") return { event: "lost", reason: error.detail }
  if (isConfigError(error)) {
    const message = `An environment variable is wrong: ${error}`
    return { event: "error", error: "ConfigError", reason: error._op, outcome: "NotDelivered", message }
  }
  const { _tag, reason } = error
  const message =
    reason === "Unreachable" ? "Nobody is the primary; the message was not handed over" : inOwnWords(error.message)
  if (!isSingleInstanceError(error)) return { event: "error", error: _tag, reason, outcome: "NotDelivered", message }
  const pid = LockError.is(error) ? error.owner?.pid : error.pid
  return {
    event: "error",
    error: _tag,
    reason,
    outcome: error.outcome,
    message,
    ...(pid === undefined ? undefined : { primary: { pid } })
  }
}

// Errors name what a program calls; a person at a terminal gives options.
const ownWords: { readonly [name: string]: string } = {
  directory: "--dir",
  trustDirectory: "--trust-directory",
  timeout: "--timeout",
  wait: "`run --wait`",
  layerStandby: "`listen --standby`",
  inspect: "`single-instance status`",
  breakLock: "`single-instance break`",
  maxFrameBytes: "SINGLE_INSTANCE_MAX_FRAME_BYTES"
}

const inOwnWords = (message: string): string =>
  message.replace(/`([A-Za-z]+)`/g, (quoted, name: string) =>
    Object.hasOwn(ownWords, name) ? ownWords[name]! : quoted
  )

const codeOf = (error: Failure): number => {
  switch (error._tag) {
    case "LockError":
      return exitCodes.lock
    case "TimeoutError":
      return exitCodes.timeout
    case "ProtocolError":
      return error.reason === "Unreachable" ? exitCodes.nobody : exitCodes.protocol
    case "CommandError":
      return error.status
    default:
      return exitCodes.usage
  }
}

const colours: { readonly [event in Event["event"]]?: number } = {
  primary: 32,
  delivered: telling.green,
  standby: 33,
  lost: 31,
  error: 31
}

const sentence = (event: Event): string => {
  switch (event.event) {
    case "primary": {
      const how = { free: "nobody was before it", released: "the last one released it", dead: "the last one died" }
      const where = event.endpoints.map(({ address }) => address).join(", ")
      return `This process, ${event.pid}, is the primary of ${shown(event.id)} (${how[event.took]}) and listens at ${where}.`
    }
    case "standby":
      return `Process ${event.primary.pid} is the primary; waiting for its end.`
    case "launch": {
      const words = event.argv.map(shown).join(" ")
      return `Process ${event.from.pid} handed over${words === "" ? " no arguments" : `: ${words}`} (in ${shown(event.cwd)}, by ${event.protocol})`
    }
    case "output":
      return event.text
    case "delivered":
      return telling.deliveredSentence(event)
    case "lost":
      return `single-instance: This process is the primary no more: ${event.reason}.`
    case "stopped":
      return "Stopped."
    case "status":
      return report(event)
    case "broken":
      return `The lock of ${shown(event.id)} is free.`
    case "error":
      return `single-instance: ${event.message}`
  }
}

const report = (event: Event & { readonly event: "status" }): string => {
  const { endpoints, epoch, evidence, host, location, pid, since, state, version } = event
  const headlines = {
    primary: `Process ${pid} is the primary`,
    free: "Nobody is the primary",
    released: `Nobody is the primary; process ${pid} released it`,
    held: `Nobody is the primary; process ${pid} has ended, but a command that it started still runs and holds the lock`,
    dead: `Nobody is the primary; process ${pid} died without releasing it`,
    unverifiable: `It cannot be told whether process ${pid} is the primary`,
    unreadable: "It cannot be told who is the primary: the record cannot be read",
    newer: "A later version of this program is the primary"
  }
  const lines = [
    ["since", since],
    ["epoch", epoch],
    ["host", host],
    ["version", version],
    ["listens", endpoints.map(({ address }) => address).join(", ") || null],
    ["because", evidence],
    ["record", location]
  ].flatMap(([name, value]) =>
    value === null ? [] : [`\n  ${String(name).padEnd(8)} ${telling.escaped(String(value)).replaceAll("\n", "\\n")}`]
  )
  return `${shown(event.id)}: ${headlines[state]}.${lines.join("")}`
}

// As a shell would want it written; what could steer a terminal is escaped.
const shown = (text: string): string => (/^[\w@%+=:,./-]+$/.test(text) ? text : telling.escaped(JSON.stringify(text)))

// `@effect/cli` always writes colours.
const withConsole = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Console.consoleWith((console) => {
    const log = (text: string) =>
      write("stdout", `${completing(telling.isColourful("stdout") ? text : stripVTControlCharacters(text))}\n`)
    // What is wrong with a command line is told by `run`.
    return Effect.withConsole(effect, { ...console, log, error: () => Effect.void })
  })

// In its script for bash `@effect/cli` writes the name of the program in two ways if it has a hyphen, so that no command
// would be found.
// And bash before 4.4, which macOS has, knows no `nosort`; a path may stand before the name.
const completing = (script: string): string =>
  script
    .replace('cmd="single-instance"', 'cmd="single__instance"')
    .replace(/^(\s+)single-instance\)$/m, "$1single__instance)")
    .replace('",$1")', `",$1" | ",\${COMP_WORDS[0]}")`)
    .replace(/^(complete -F \S+) -o nosort (.*)$/m, "$1 -o nosort $2 2>/dev/null || $1 $2")
