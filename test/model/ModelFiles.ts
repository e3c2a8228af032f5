/**
 * A directory in memory, and the services that a simulated process sees of it. Every operation parks in the process's
 * port, so that a scheduler decides when it happens; it then takes place in one step.
 */
import { Clock, Duration, Effect, Option, type Scope } from "effect"
import * as InstanceRecord from "effect-single-instance/InstanceRecord"
import * as Liveness from "effect-single-instance/Liveness"
import * as LockFiles from "effect-single-instance/lock/LockFiles"
import type { PidVerifier } from "effect-single-instance/PidVerifier"

// -----------------------------------------------------------------------------
// operations
// -----------------------------------------------------------------------------

/**
 * What a process asks the system for. Results are strings, so that the history of a process is a list of strings and
 * the process a function of it. `write` and `openWitness` are several operations each, because a crash may come between
 * creating a file and filling it, and between binding, listening and giving the socket its name.
 */
export type Operation =
  | { readonly _tag: "find" }
  | { readonly _tag: "open" }
  | { readonly _tag: "read"; readonly name: string }
  | { readonly _tag: "create"; readonly name: string; readonly inode: string }
  | { readonly _tag: "fill"; readonly name: string; readonly inode: string; readonly content: number }
  | { readonly _tag: "link"; readonly from: string; readonly to: string }
  | { readonly _tag: "rename"; readonly from: string; readonly to: string }
  | { readonly _tag: "unlink"; readonly name: string }
  | { readonly _tag: "list" }
  | { readonly _tag: "stat"; readonly name: string }
  | { readonly _tag: "bind"; readonly name: string; readonly inode: string }
  | { readonly _tag: "listen"; readonly name: string; readonly inode: string }
  | { readonly _tag: "close"; readonly name: string; readonly inode: string }
  | { readonly _tag: "probe"; readonly name: string; readonly inode: string }
  | { readonly _tag: "verify"; readonly pid: number }
  | { readonly _tag: "sleep"; readonly millis: number }
  | { readonly _tag: "changed" }
  | { readonly _tag: "hungUp"; readonly name: string; readonly inode: string }
  /** Not of the system: the process is the primary and does its work until the scheduler lets it go on. */
  | { readonly _tag: "lead"; readonly stays: boolean }
  /** Not of the system: its work is over, whatever the lock file says. */
  | { readonly _tag: "stop" }

/**
 * Every byte sequence that was ever written, by number; 0 is the empty file.
 */
export class Contents {
  private readonly numbers = new Map<string, number>()
  private readonly all: Array<{ readonly bytes: Uint8Array; readonly header: Header | undefined }> = []

  constructor() {
    this.intern(new Uint8Array(0))
  }

  intern(bytes: Uint8Array): number {
    const text = Buffer.from(bytes).toString("latin1")
    let number = this.numbers.get(text)
    if (number === undefined) {
      number = this.all.length
      this.numbers.set(text, number)
      const match = /^ESI1 ([0-9a-f]{32}) (\d+) (\d+) .* ([or]) [0-9a-f]{32}\n/.exec(text)
      const header =
        match === null
          ? undefined
          : { nonce: match[1]!, epoch: Number(match[2]), pid: Number(match[3]), released: match[4] === "r" }
      this.all.push({ bytes: Uint8Array.from(bytes), header })
    }
    return number
  }

  bytes(number: number): Uint8Array {
    return this.all[number]!.bytes
  }

  header(number: number): Header | undefined {
    return this.all[number]!.header
  }
}

/**
 * What the observer of the model reads in a record.
 */
export interface Header {
  readonly nonce: string
  readonly epoch: number
  readonly pid: number
  readonly released: boolean
}

// -----------------------------------------------------------------------------
// the directory
// -----------------------------------------------------------------------------

/**
 * One name. `content` is -1 for a socket; `listening` is whether somebody accepts there; `old` is whether it is older
 * than a minute.
 */
export interface Entry {
  readonly inode: string
  readonly content: number
  readonly listening: boolean
  readonly old: boolean
}

/**
 * An immutable directory; the same one for the same entries, so that comparing its number compares it.
 */
export interface Directory {
  readonly number: number
  readonly entries: ReadonlyMap<string, Entry>
}

export class Directories {
  private readonly known = new Map<string, Directory>()

  make(entries: ReadonlyMap<string, Entry>): Directory {
    const names = [...entries.keys()].sort()
    let key = ""
    for (const name of names) {
      const entry = entries.get(name)!
      key += `${name} ${entry.inode} ${entry.content} ${entry.listening ? "l" : ""}${entry.old ? "o" : ""}\n`
    }
    let directory = this.known.get(key)
    if (directory === undefined) {
      directory = { number: this.known.size, entries: new Map(names.map((name) => [name, entries.get(name)!])) }
      this.known.set(key, directory)
    }
    return directory
  }

  with(directory: Directory, changes: ReadonlyArray<readonly [name: string, entry: Entry | undefined]>): Directory {
    const entries = new Map(directory.entries)
    for (const [name, entry] of changes) {
      if (entry === undefined) entries.delete(name)
      else entries.set(name, entry)
    }
    return this.make(entries)
  }
}

// -----------------------------------------------------------------------------
// what a process sees
// -----------------------------------------------------------------------------

/**
 * The side of a simulated process that its services talk to.
 */
export interface Port {
  readonly index: number
  readonly contents: Contents
  /** Parks until the scheduler executes the operation, and gives its result. */
  readonly perform: (operation: Operation) => Effect.Effect<string>
  /** How often randomness was asked for: makes it unique and repeatable. */
  randoms: number
  /** How many files were created: makes inodes unique, whatever the others do. */
  inodes: number
  /** The nonce under which the process takes itself for the primary. */
  leading: string | undefined
  /** Whether its work is done and the release may begin. */
  retiring: boolean
  /** Its witnesses whose handles were closed. */
  readonly closed: Set<string>
  /** Nonces of leaderships that it knows to have ended in itself. */
  readonly ended: Set<string>
}

export const lockName = "lock"
export const boot = "boot"

/** The identity of simulated process `index`; the dead ones of the start have pids of their own. */
export const identity = (pid: number): InstanceRecord.ProcessIdentity =>
  new InstanceRecord.ProcessIdentity({
    pid,
    start: `${pid}000`,
    boot,
    pidNamespace: "pidns",
    timeNamespace: "timens",
    machine: "machine"
  })

export const firstPid = 101

/** The process that drew a nonce; -1 for those of the start. */
export const drawer = (nonce: string): number => (nonce.startsWith("d") ? -1 : Number(nonce.slice(0, 2)))

/** Nonces in traces: `p0#1` was the first random number that process 0 drew, `z`, `y`, `x` are of the start. */
export const readable = (text: string): string =>
  text
    .replace(/d(\d)0{30}/g, (_, number) => "zyxwvu"[Number(number)]!)
    .replace(/(\d\d)(\d{4})0{26}/g, (_, process, count) => `p${Number(process)}#${Number(count)}`)

export const describe = (operation: Operation, contents: Contents): string => {
  const { _tag, ...rest } = operation
  const words = Object.entries(rest).flatMap(([key, value]) => {
    if (key === "inode") return []
    if (key !== "content") return [String(value)]
    const header = contents.header(Number(value))
    return header === undefined ? [`content ${value}`] : [`(${header.nonce} epoch ${header.epoch % 1_000_000})`]
  })
  return readable([_tag, ...words].join(" "))
}

/** `DeathProofs` says which of the proofs work where the processes run. */
export interface DeathProofs {
  readonly witness: boolean
  readonly pid: boolean
}

const failure = (operation: string, name: string, code: string) =>
  new LockFiles.FileFailure({ code, operation, name, cause: undefined })

const ok = (operation: string, name: string) => (result: string) =>
  result === "ok" ? Effect.void : Effect.fail(failure(operation, name, result))

/**
 * The file operations of one simulated process.
 */
export const makeLockFiles = (
  port: Port,
  wrap: (directory: LockFiles.LockDirectory, port: Port) => LockFiles.LockDirectory
): LockFiles.LockFiles["Type"] => {
  const { contents, perform } = port
  const inode = () => `${port.index}.${port.inodes++}`
  const directory: LockFiles.LockDirectory = {
    path: "/model",
    lockName,
    local: true,
    read: (name) =>
      Effect.map(perform({ _tag: "read", name }), (result): LockFiles.Content => {
        if (result === "missing") return { _tag: "Missing" }
        const number = Number(result)
        return number < 0
          ? { _tag: "Special", kind: "socket", identity: name }
          : { _tag: "Bytes", bytes: contents.bytes(number) }
      }),
    write: (name, bytes) =>
      Effect.suspend(() => {
        const content = contents.intern(bytes)
        const created = inode()
        return perform({ _tag: "create", name, inode: created }).pipe(
          Effect.flatMap(ok("write", name)),
          Effect.andThen(perform({ _tag: "fill", name, inode: created, content })),
          Effect.flatMap(ok("write", name)),
          Effect.uninterruptible
        )
      }),
    link: (from, to) => Effect.flatMap(perform({ _tag: "link", from, to }), ok("link", to)),
    rename: (from, to) => Effect.flatMap(perform({ _tag: "rename", from, to }), ok("rename", to)),
    unlink: (name) => Effect.flatMap(perform({ _tag: "unlink", name }), ok("unlink", name)),
    list: Effect.map(perform({ _tag: "list" }), (names) => (names === "" ? [] : names.split(" "))),
    stat: (name) =>
      Effect.map(perform({ _tag: "stat", name }), (result) => {
        if (result === "missing") return Option.none()
        const [node, age] = result.split(" ")
        return Option.some({ device: "1", inode: node!, ageMillis: Number(age) })
      }),
    openWitness: (nonce) =>
      Effect.suspend(() => {
        const [bound, name] = [`b.${nonce}`, `w.${nonce}`]
        const node = inode()
        return Effect.acquireRelease(
          perform({ _tag: "bind", name: bound, inode: node }).pipe(
            Effect.flatMap(ok("listen", name)),
            Effect.andThen(perform({ _tag: "listen", name: bound, inode: node })),
            Effect.andThen(perform({ _tag: "rename", from: bound, to: name })),
            Effect.as(new InstanceRecord.Witness({ name, device: "1", inode: node }))
          ),
          () => perform({ _tag: "close", name, inode: node })
        )
      }),
    holds: ({ name }) => Effect.sync(() => !port.closed.has(name)),
    probe: (witness) =>
      Effect.map(perform({ _tag: "probe", name: witness.name, inode: witness.inode }), (result): LockFiles.Probe => {
        if (result === "answered") return { _tag: "Answered" }
        return result === "refused" ? { _tag: "Refused", rule: "D2" } : { _tag: "Silent", reason: result }
      }),
    hungUp: (witness) => Effect.asVoid(perform({ _tag: "hungUp", name: witness.name, inode: witness.inode })),
    changed: Effect.asVoid(perform({ _tag: "changed" }))
  }
  const wrapped = wrap(directory, port)
  return {
    location: () => directory.path,
    find: () =>
      Effect.map(perform({ _tag: "find" }), (result) => (result === "some" ? Option.some(wrapped) : Option.none())),
    open: () => Effect.as(perform({ _tag: "open" }), wrapped),
    random: (bytes) =>
      Effect.sync(() => {
        port.randoms += 1
        const process = String(port.index).padStart(2, "0")
        return `${process}${String(port.randoms).padStart(4, "0")}`.padEnd(bytes * 2, "0")
      }),
    ended: port.ended
  }
}

/**
 * Opens a socket of the application under the candidate's nonce, closed with the scope.
 */
export const openEndpoint = (port: Port, nonce: string): Effect.Effect<void, never, Scope.Scope> =>
  Effect.suspend(() => {
    const name = `s.${nonce}`
    const inode = `${port.index}.${port.inodes++}`
    return Effect.acquireRelease(Effect.asVoid(port.perform({ _tag: "bind", name, inode })), () =>
      port.perform({ _tag: "unlink", name })
    )
  })

/**
 * What one simulated process can tell of the others.
 */
export const makePidVerifier = (port: Port): PidVerifier["Type"] => ({
  pid: firstPid + port.index,
  self: Effect.succeed(identity(firstPid + port.index)),
  verify: (recorded) =>
    Effect.map(port.perform({ _tag: "verify", pid: recorded.pid }), (result): Liveness.Liveness => {
      if (result === "alive") return Liveness.alive(`process ${recorded.pid} runs`)
      return result === "dead"
        ? Liveness.dead("D1", `there is no process ${recorded.pid}`)
        : Liveness.unknown("the owner runs in another pid namespace")
    }),
  signal: () => Effect.succeed(false)
})

/**
 * Each process has a clock of its own that stands still; later processes are behind, so that an epoch cannot lean on
 * time. Sleeping parks.
 */
export const makeClock = (port: Port): Clock.Clock => {
  const millis = 1_800_000_000_000 - port.index * 1_000
  return {
    [Clock.ClockTypeId]: Clock.ClockTypeId,
    unsafeCurrentTimeMillis: () => millis,
    unsafeCurrentTimeNanos: () => BigInt(millis) * 1_000_000n,
    currentTimeMillis: Effect.succeed(millis),
    currentTimeNanos: Effect.succeed(BigInt(millis) * 1_000_000n),
    sleep: (duration) => Effect.asVoid(port.perform({ _tag: "sleep", millis: Duration.toMillis(duration) }))
  }
}
