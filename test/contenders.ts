/**
 * Real processes that contend: started, watched, stopped and killed, and the history of what they did.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { randomUUID } from "node:crypto"
import * as fs from "node:fs"
import { createRequire } from "node:module"
import type * as net from "node:net"
import { tmpdir, userInfo } from "node:os"
import { basename, join } from "node:path"
import { NodeContext } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Cause, Effect, Either, Exit, type Scope } from "effect"
import { type Instance, SingleInstance } from "effect-single-instance"
import { folderName } from "effect-single-instance/InstanceId"
import { decode, type InstanceRecord } from "effect-single-instance/InstanceRecord"
import type { Launch } from "effect-single-instance/Message"
import { parseStat } from "effect-single-instance/pid/LinuxPidVerifier"
import { type ProtocolName, protocolNames, protocols } from "../src/internal/platform.js"
import type { Options } from "./fixtures/contender.js"
import { fixture } from "./fixtures.js"
import { contradiction, type Entry, now, openLog, readHistory } from "./witness.js"

export interface Contender {
  readonly who: string
  /** What was spawned, which is another process where the contender was started through a command. */
  readonly handle: ChildProcess
  /** What it has logged up to now. */
  readonly entries: ReadonlyArray<Entry>
  /** The contender's own pid, as this process sees it. */
  readonly pid: Effect.Effect<number>
  /** The first entry of its log that fits, as soon as there is one. */
  readonly waitFor: (event: string, fields?: { readonly [field: string]: unknown }) => Effect.Effect<Entry>
  /** How it ended, as soon as it has. */
  readonly ended: Effect.Effect<{ readonly code: number | null; readonly signal: string | null }>
  readonly isRunning: () => boolean
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** SIGKILL, also to another process that it made. */
  readonly shoot: (pid?: number) => Effect.Effect<void>
  /** SIGKILL, and waits for the end. */
  readonly kill: Effect.Effect<void>
  /** SIGSTOP, and waits until it stands still. */
  readonly freeze: Effect.Effect<void>
  /** Waits until it has stopped itself. */
  readonly frozen: Effect.Effect<void>
  readonly thaw: Effect.Effect<void>
  /** Writes a line to its standard input. */
  readonly say: (line: string) => Effect.Effect<void>
}

export type StartOptions = Partial<Options> & {
  /** Another contender than that of this version. */
  readonly program?: string | undefined
  /** The words before `node`. */
  readonly through?: ReadonlyArray<string> | undefined
  readonly env?: NodeJS.ProcessEnv | undefined
  readonly cwd?: string | undefined
}

export interface Arena {
  readonly id: string
  /** Holds all that follows. */
  readonly base: string
  /** The option `directory`, and the folder in it that is the instance's. */
  readonly directory: string
  readonly home: string
  readonly logs: string
  /** Starts a process that is killed with the scope. */
  readonly start: (mode: Options["mode"], options?: StartOptions) => Effect.Effect<Contender, never, Scope.Scope>
  readonly history: Effect.Effect<ReadonlyArray<Entry>>
  /** Dies of the first contradiction in the history. */
  readonly consistent: (options?: { readonly outsiders?: boolean }) => Effect.Effect<void>
  /** The names in the instance's folder, without their nonces: `lock`, `s`, `w`. */
  readonly kinds: Effect.Effect<ReadonlyArray<string>>
  readonly record: Effect.Effect<InstanceRecord>
  /** Removes the lock and whatever else of the living primary is named so, as a cleaner does; nothing where none lives. */
  readonly clean: (letters: string) => Effect.Effect<void>
  /** The instance in this process, to inspect and to break the lock with. */
  readonly instance: Effect.Effect<Instance.Instance<Launch, number, never>>
}

/** Waits for a condition; dies after half a minute, saying what was awaited and what there was instead. */
export const until = <A>(
  what: string,
  condition: () => A | undefined | false,
  instead: () => unknown = () => ""
): Effect.Effect<A> =>
  Effect.gen(function* () {
    for (const started = performance.now(); performance.now() - started < 30_000; ) {
      const found = condition()
      if (found !== undefined && found !== false) return found
      yield* Effect.sleep("4 millis")
    }
    return yield* Effect.dieMessage(`waited in vain for ${what}; there is ${JSON.stringify(instead(), null, 1)}`)
  })

const harmless = "it does not fail"

/** Why a test fails that must; for canaries. A race need not be lost at once: it is run again, up to ten times. */
export const failing = (test: Effect.Effect<unknown, unknown, Scope.Scope>): Effect.Effect<string> =>
  Effect.map(Effect.exit(Effect.scoped(test)), (exit) =>
    Exit.isFailure(exit) ? Cause.pretty(exit.cause) : harmless
  ).pipe(Effect.repeat({ times: 9, until: (why) => why !== harmless }))

const childrenOf = (pid: number): ReadonlyArray<number> => {
  try {
    return fs.readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number)
  } catch {
    return []
  }
}
const family = (pid: number): ReadonlyArray<number> => [...childrenOf(pid).flatMap(family), pid]
/** The letter of proc(5) for the state of a process: `T` is stopped, `Z` a zombie. */
export const stateOf = (pid: number): string | undefined => {
  try {
    return parseStat(fs.readFileSync(`/proc/${pid}/stat`, "utf8"))?.state
  } catch {
    return undefined
  }
}
const send = (pid: number, signal: NodeJS.Signals): void => {
  try {
    process.kill(pid, signal)
  } catch {
    // It has ended.
  }
}

/** What a primary keeps in the instance's folder for each protocol that crosses processes, as `kinds` shows it. */
const traces: { readonly [Name in ProtocolName]: ReadonlyArray<string> } = {
  unix: ["s"],
  pipe: [],
  file: ["mail"],
  shm: process.platform === "win32" ? [] : ["m"],
  tcp: []
}

/** Those of them that work on this system. */
export const crossing: ReadonlyArray<ProtocolName> = protocolNames.filter(
  (name) => name !== (process.platform === "win32" ? "unix" : "pipe")
)

/** What `kinds` shows while somebody leads over these protocols, and nobody has left anything behind. */
export const kindsOver = (...names: ReadonlyArray<ProtocolName>): ReadonlyArray<string> =>
  ["lock", "t", "e", process.platform === "linux" ? "w" : "k", ...names.flatMap((name) => traces[name])].sort()

/** The same over the platform's chain. */
export const kindsOfPrimary: ReadonlyArray<string> = kindsOver(...protocols().map(({ name }) => name as ProtocolName))

/** A stress run keeps what a violation is explained with, since the same seed need not show it again. */
const keepLogs = (base: string, exit: Exit.Exit<unknown, unknown>): void => {
  const kept = process.env.STRESS_LOGS
  if (kept === undefined || Exit.isSuccess(exit) || Cause.isInterruptedOnly(exit.cause)) return
  fs.cpSync(join(base, "logs"), join(kept, basename(base)), { recursive: true })
}

/** A place for one test: an id, a directory and logs of its own, all removed with the scope. */
export const makeArena: Effect.Effect<Arena, never, Scope.Scope> = Effect.gen(function* () {
  const base = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(join(tmpdir(), "esi-"))),
    (base, exit) =>
      Effect.promise(async () => {
        keepLogs(base, exit)
        await fs.promises.rm(base, { recursive: true, force: true, maxRetries: 20 })
      })
  )
  const id = `arena ${randomUUID()}`
  const directory = join(base, "directory")
  const home = join(directory, folderName(id))
  const logs = join(base, "logs")
  fs.mkdirSync(logs)
  // Windows removes no file that is open.
  const driver = yield* Effect.acquireRelease(
    Effect.sync(() => openLog(logs, "driver")),
    ({ close }) => Effect.sync(close)
  )
  let started = 0
  const pids = new Map<number, string>()

  const start: Arena["start"] = (mode, { cwd, env, program = fixture("contender"), through = [], ...given } = {}) =>
    Effect.gen(function* () {
      const who = given.who ?? `${mode}-${++started}`
      const options: Options = { who, logs, id, directory, kernel: id, mode, ...given }
      const words = [...through, process.execPath, program, JSON.stringify(options)]
      const entries: Array<Entry> = []
      let rest = ""
      let end: { readonly code: number | null; readonly signal: string | null } | undefined

      const killAll = Effect.suspend(() => {
        if (end !== undefined) return Effect.void
        driver.append("kill", { target: who })
        for (const pid of linux ? family(handle.pid!) : [handle.pid!]) send(pid, "SIGKILL")
        return Effect.asVoid(ended)
      })
      const handle = yield* Effect.acquireRelease(
        Effect.sync(() =>
          spawn(words[0]!, words.slice(1), {
            stdio: [mode === "rounds" ? "pipe" : "ignore", "pipe", "inherit"],
            cwd,
            env: env ?? process.env
          })
        ),
        () => killAll
      )
      if (handle.pid !== undefined) pids.set(handle.pid, who)
      const ended = until(`the end of ${who}`, () => end)
      handle.once("error", () => (end = { code: null, signal: null }))
      handle.once("exit", (code, signal) => {
        end = { code, signal }
        driver.append("gone", { target: who, code, signal })
      })
      handle.stdin?.on("error", () => {})
      handle.stdout!.setEncoding("utf8").on("data", (chunk: string) => {
        const lines = (rest + chunk).split("\n")
        rest = lines.pop()!
        for (const line of lines) entries.push(JSON.parse(line))
      })

      const waitFor: Contender["waitFor"] = (event, fields = {}) =>
        until(
          `${event} ${JSON.stringify(fields)} of ${who}`,
          () =>
            entries.find(
              (entry) => entry.event === event && Object.entries(fields).every(([key, value]) => entry[key] === value)
            ),
          () => ({ entries, end })
        )
      // Through a command it is the last one of a row of processes.
      const pid =
        through.length === 0
          ? Effect.succeed(handle.pid!)
          : Effect.as(waitFor("ready"), undefined).pipe(Effect.map(() => family(handle.pid!)[0]!))
      const signal = (signal: NodeJS.Signals) => Effect.map(pid, (pid) => send(pid, signal))
      const shoot = (other?: number) =>
        Effect.map(pid, (pid) => {
          driver.append("kill", { target: who })
          send(other ?? pid, "SIGKILL")
          if (pid !== handle.pid) send(handle.pid!, "SIGCONT")
        })
      const still = Effect.flatMap(pid, (pid) => until(`${who} to stand still`, () => stateOf(pid) === "T"))

      return {
        who,
        handle,
        entries,
        pid,
        waitFor,
        ended,
        isRunning: () => end === undefined,
        signal,
        shoot,
        kill: Effect.zipRight(shoot(), ended),
        freeze: Effect.zipRight(signal("SIGSTOP"), still),
        frozen: Effect.zipRight(waitFor("frozen"), still),
        // A command that waits for the contender has stopped with it.
        thaw: Effect.sync(() => family(handle.pid!).forEach((pid) => send(pid, "SIGCONT"))),
        say: (line) => Effect.sync(() => handle.stdin!.write(`${line}\n`))
      } satisfies Contender
    })

  const history = Effect.sync(() => readHistory(logs))
  return {
    id,
    base,
    directory,
    home,
    logs,
    start,
    history,
    consistent: (options) =>
      Effect.flatMap(history, (history) => {
        const found = contradiction(history, options)
        return found === undefined ? Effect.void : Effect.dieMessage(found)
      }),
    kinds: Effect.sync(() =>
      fs
        .readdirSync(home)
        .map((name) => name.replace(/\.[0-9a-f]{32}$/, ""))
        .sort()
    ),
    record: Effect.sync(() => Either.getOrThrow(decode(fs.readFileSync(join(home, "lock"))))),
    clean: (letters) =>
      Effect.sync(() => {
        const lock = join(home, "lock")
        const aside = join(base, "removed")
        const read = (path: string) => Either.getOrThrow(decode(fs.readFileSync(path)))
        if (!fs.existsSync(lock) || read(lock).released) return
        const at = now()
        fs.renameSync(lock, aside)
        // What was renamed tells who was robbed, whoever led when it was looked at.
        const { epoch, nonce, process } = read(aside)
        for (const letter of letters) fs.rmSync(join(home, `${letter}.${nonce}`), { force: true })
        driver.append("cleaned", { at, target: pids.get(process.pid), epoch })
      }),
    instance: SingleInstance.SingleInstance.pipe(
      Effect.provide(SingleInstance.SingleInstance.layer({ id, directory, timeout: "5 seconds" })),
      Effect.provide(NodeContext.layer)
    )
  } satisfies Arena
})

/** The words that start a program in a new pid namespace, which ends with the scope; its first process only waits. */
export const makePidNamespace: Effect.Effect<ReadonlyArray<string>, never, Scope.Scope> = Effect.gen(function* () {
  let entered = false
  const holder = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const words = ["-p", "-f", "-m", "--mount-proc", "--kill-child", "sh", "-c", "echo; exec sleep 600"]
      return spawn("unshare", words, { stdio: ["ignore", "pipe", "inherit"] })
    }),
    (holder) => Effect.sync(() => family(holder.pid!).forEach((pid) => send(pid, "SIGKILL")))
  )
  holder.stdout!.once("data", () => {
    entered = true
  })
  yield* until("a pid namespace", () => entered)
  return ["nsenter", "-t", String(family(holder.pid!)[0]), "-p", "-m"]
})

// -------------------------------------------------------------------------------------
// what most tests do with them
// -------------------------------------------------------------------------------------

// The name of a socket fits in 107 bytes only through a short link.
const socketIn = (arena: Arena, name: string): net.NetConnectOpts => {
  const short = join(arena.base, "h")
  if (!fs.existsSync(short)) fs.symlinkSync(arena.home, short)
  return { path: join(short, name), allowHalfOpen: true }
}

/** Where a primary listens with a protocol, for strangers that connect to it themselves. */
export const whereOf = (arena: Arena, protocol: ProtocolName): Effect.Effect<net.NetConnectOpts> =>
  Effect.map(arena.record, ({ endpoints }) => {
    const { address } = endpoints.find((endpoint) => endpoint.protocol === protocol)!
    const port = /^tcp:.*:(\d+)$/.exec(address)?.[1]
    if (port !== undefined) return { host: "127.0.0.1", port: Number(port), allowHalfOpen: true }
    return socketIn(arena, address.slice(address.indexOf(":") + 1))
  })

/** The same for its liveness witness. */
export const witnessOf = (arena: Arena): Effect.Effect<net.NetConnectOpts> =>
  Effect.map(arena.record, ({ witness }) => socketIn(arena, witness!.name))

/** Runs a statement in the contender when it starts. */
export const hook = (statement: string): StartOptions => ({
  env: { ...process.env, NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(statement)}` }
})
/** A wall clock that is wrong, and may jump; other clocks go on as they are. */
export interface WrongClock {
  readonly options: StartOptions
  readonly set: (aheadSeconds: number) => Effect.Effect<void>
}

export const makeWrongClock = (arena: Arena, aheadSeconds: number): Effect.Effect<WrongClock> => {
  const file = join(arena.base, `clock.${randomUUID()}`)
  const set: WrongClock["set"] = (seconds) =>
    Effect.sync(() => {
      // Nobody reads half of it.
      fs.writeFileSync(`${file}.new`, `${seconds < 0 ? "" : "+"}${seconds}\n`)
      fs.renameSync(`${file}.new`, file)
    })
  const env = {
    ...process.env,
    LD_PRELOAD: libfaketime,
    FAKETIME_TIMESTAMP_FILE: file,
    FAKETIME_NO_CACHE: "1",
    FAKETIME_DONT_FAKE_MONOTONIC: "1",
    FAKETIME_DISABLE_SHM: "1"
  }
  return Effect.as(set(aheadSeconds), { options: { env }, set })
}

/** "At once": less than any time limit of ours, and more than a busy machine needs. */
const soonMillis = 10_000

/** A sender that does not wait for long, and what a busy machine may add to that. */
export const impatient = { config: { timeout: "1500 millis" } } as const
export const assertSoon = ({ millis }: Entry): void => assert.isBelow(millis as number, 1_500 + soonMillis)

/** Launches, and waits until it leads. */
export const begin = (arena: Arena, options?: StartOptions): Effect.Effect<Contender, never, Scope.Scope> =>
  Effect.tap(arena.start("launch", options), (primary) => primary.waitFor("begin"))

/** Launches, and answers how it came to lead, which it must at once. */
export const takeOver = Effect.fnUntraced(function* (
  arena: Arena,
  options?: StartOptions
): Effect.fn.Return<{ readonly next: Contender; readonly begun: Entry }, never, Scope.Scope> {
  const next = yield* arena.start("launch", options)
  const begun = { ...(yield* next.waitFor("begin")) }
  assert.isBelow((begun.at - (yield* next.waitFor("ready")).at) / 1e6, soonMillis)
  return { next, begun }
})

/** Launches, and answers what the launch was told. */
export const launch = (arena: Arena, options?: StartOptions): Effect.Effect<Entry, never, Scope.Scope> =>
  Effect.flatMap(arena.start("launch", options), (launched) => launched.waitFor("outcome"))

export const assertDelivered = (outcome: Entry, primary: Contender): void =>
  assert.strictEqual(`${outcome.outcome} by ${outcome.by}`, `Delivered by ${primary.who}`, `${outcome.text}`)

export const assertFailed = (outcome: Entry, expected: { readonly [field: string]: unknown }): void =>
  assert.deepInclude({ ...outcome }, expected, `${outcome.text}`)

/** Who has led up to now, in order. */
export const begins = (arena: Arena): Effect.Effect<ReadonlyArray<string>> =>
  Effect.map(arena.history, (history) => history.flatMap(({ event, who }) => (event === "begin" ? [who] : [])))

/** Takes the only witness away, so that nothing but the pid tells who lives. */
export const removeWitness = (arena: Arena): Effect.Effect<void> =>
  Effect.sync(() => {
    const witnesses = fs.readdirSync(arena.home).filter((name) => name.startsWith("w."))
    assert.lengthOf(witnesses, 1)
    fs.unlinkSync(join(arena.home, witnesses[0]!))
  })

/** SIGKILL is told to the check, for which every other end without a release is a contradiction. */
export const end = (contender: Contender, signal: NodeJS.Signals): Effect.Effect<void> =>
  signal === "SIGKILL" ? contender.kill : Effect.zipRight(contender.signal(signal), contender.ended)

// -------------------------------------------------------------------------------------
// what this machine permits
// -------------------------------------------------------------------------------------

const linux = process.platform === "linux"
const root = linux && process.getuid?.() === 0
const succeeds = (command: string, ...args: ReadonlyArray<string>) =>
  spawnSync(command, args, { stdio: "ignore" }).status === 0
const namespaces = root && succeeds("unshare", "-p", "-f", "-m", "--mount-proc", "--kill-child", "true")

// Where distributions put it.
const libfaketime = ["x86_64-linux-gnu/faketime", "aarch64-linux-gnu/faketime", "faketime", "../lib64/faketime"]
  .map((folder) => `/usr/lib/${folder}/libfaketime.so.1`)
  .find((file) => linux && fs.existsSync(file))

const canLoad = (name: string): boolean => {
  try {
    createRequire(import.meta.url).resolve(name)
    return true
  } catch {
    return false
  }
}

const hasHome = (): boolean => {
  try {
    fs.accessSync(userInfo().homedir, fs.constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** What a test may need, and whether it is permitted here. */
export const needs = {
  linux: { met: linux, text: "Linux" },
  posix: { met: process.platform !== "win32", text: "POSIX" },
  home: { met: linux && hasHome(), text: "Linux and a home directory" },
  root: { met: root, text: "root on Linux" },
  namespaces: { met: namespaces, text: "the right to make pid namespaces" },
  mounts: {
    met: root && succeeds("unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"),
    text: "the right to mount"
  },
  pids: {
    met: namespaces && fs.existsSync("/proc/sys/kernel/ns_last_pid"),
    text: "pid namespaces and /proc/sys/kernel/ns_last_pid"
  },
  network: {
    met: root && succeeds("unshare", "-n", "ip", "link", "set", "lo", "up"),
    text: "the right to make network namespaces, and ip"
  },
  time: {
    met: root && succeeds("unshare", "-T", "--boottime", "1000", "true"),
    text: "the right to make time namespaces"
  },
  faketime: { met: libfaketime !== undefined, text: "libfaketime" },
  native: { met: linux && canLoad("koffi"), text: "Linux and koffi" },
  otherUser: {
    met: root && succeeds("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "true"),
    text: "the right to become another user"
  }
}

/** `it.scopedLive`, or where something that it needs is not permitted here, a skipped test that says so. */
export const itNeeds =
  (need: { readonly met: boolean; readonly text: string }) =>
  (name: string, test: () => Effect.Effect<unknown, unknown, Scope.Scope>, timeout = 120_000): void => {
    if (need.met) {
      it.scopedLive(name, test, timeout)
    } else {
      console.warn(`skipped, because it needs ${need.text}: ${name}`)
      it.skip(`${name} (needs ${need.text})`)
    }
  }
