/**
 * Simulated processes around one directory: what can happen next, what happens then, and what must never be seen.
 */
import * as Model from "./ModelFiles.js"
import type { Actor, Participant } from "./Process.js"

/**
 * What is searched: who takes part, from which start, and what may go wrong on the way.
 */
export interface Scenario {
  readonly name: string
  readonly participants: ReadonlyArray<Participant>
  /** One more that starts when all the others are done: what they leave behind must not stop it. */
  readonly newcomer?: Participant
  readonly start: Start
  readonly proofs: Model.DeathProofs
  /** How many processes may crash. */
  readonly crashes: number
  /** What crashes is a worker thread: its process lives on, and Node removes the names that its sockets were bound to. */
  readonly threads?: boolean
  /** How often a look at a live witness may time out. */
  readonly silences?: number
  /** How often a process may be stopped in favour of another although it could go on; any number if left out. */
  readonly preemptions?: number
  /** Operations that take place at once, together with the one before, so that nothing comes between the two. */
  readonly glued?: (operation: Model.Operation) => boolean
  /** Steps that are taken before the search begins. */
  readonly prelude?: ReadonlyArray<Prelude>
  /** How a process may end other than leading or following. */
  readonly mayFail?: ReadonlyArray<string>
  /** What may be left behind by a clean run, because nothing proves that it is of the dead. */
  readonly leaves?: ReadonlyArray<string>
  /** What is looked for; everything if left out. */
  readonly looksFor?: ReadonlyArray<Violation["kind"]> | undefined
}

/**
 * Files at the beginning, by name; `null` is a directory that does not exist.
 */
export type Start = (contents: Model.Contents) => ReadonlyMap<string, Model.Entry> | null

/**
 * Runs a process until it wants an operation of this kind.
 */
export interface Prelude {
  readonly process: number
  readonly until: (operation: Model.Operation) => boolean
}

/**
 * What must never be seen.
 */
export interface Violation {
  readonly kind:
    | "TwoPrimaries"
    | "LockMissing"
    | "LockNotOurs"
    | "EpochNotGreater"
    | "NobodyLeads"
    | "NotReleased"
    | "FollowsNobody"
    | "Failed"
    | "Wedged"
    | "Litter"
  readonly detail: string
}

/**
 * One thing that can happen: a process's parked operation takes place, its probe times out, or it crashes. As a word:
 * `1`, `1~`, `1!`; `1.2` is the process's parked operation number 2.
 */
export interface Choice {
  readonly process: number
  readonly kind: "step" | "silence" | "crash"
  readonly index: number
}

export const toWord = ({ index, kind, process }: Choice): string =>
  `${process}${index === 0 ? "" : `.${index}`}${kind === "step" ? "" : kind === "crash" ? "!" : "~"}`

export const fromWord = (word: string): Choice => {
  const match = /^(\d+)(?:\.(\d+))?([!~]?)$/.exec(word)
  if (match === null) throw new Error(`"${word}" is no choice`)
  const kind = match[3] === "!" ? "crash" : match[3] === "~" ? "silence" : "step"
  return { process: Number(match[1]), index: Number(match[2] ?? 0), kind }
}

/** Rounds in which sleepers wake and find everything as it was, before we say that nothing will ever happen. */
const idleRounds = 3

export class World {
  violation: Violation | undefined
  /** What happened, for people; kept only where it was set to a list. */
  log: Array<string> | undefined
  private directory: Model.Directory | undefined
  private crashed = 0
  /** Sleepers that something happened for since they last woke. */
  private changed: number
  private idle = 0
  private silences = 0
  private preemptions = 0
  private last = -1
  /** Processes that took the lock, until their tombstone or crash. */
  private tenure = 0
  /** Processes that ever took it, and those whose time is over. */
  private took = 0
  private over = 0
  /** For each process, whose time was over when it began; -1 before. */
  private readonly began: Array<number>

  private constructor(
    readonly scenario: Scenario,
    private readonly contents: Model.Contents,
    private readonly directories: Model.Directories,
    private readonly actors: Array<Actor>,
    began: ReadonlyArray<number>
  ) {
    this.began = [...began]
    this.changed = (1 << actors.length) - 1
  }

  static make(
    scenario: Scenario,
    contents: Model.Contents,
    directories: Model.Directories,
    actors: ReadonlyArray<Actor>
  ): World {
    const world = new World(
      scenario,
      contents,
      directories,
      [...actors],
      actors.map(() => -1)
    )
    const files = scenario.start(contents)
    if (files !== null) world.directory = directories.make(files)
    for (const { process, until } of scenario.prelude ?? []) {
      while (!until(world.actors[process]!.parked[0]!)) world.apply({ process, kind: "step", index: 0 })
    }
    world.preemptions = 0
    world.last = -1
    return world
  }

  clone(): World {
    const world = new World(this.scenario, this.contents, this.directories, [...this.actors], this.began)
    world.directory = this.directory
    world.crashed = this.crashed
    world.changed = this.changed
    world.idle = this.idle
    world.silences = this.silences
    world.preemptions = this.preemptions
    world.last = this.last
    world.tenure = this.tenure
    world.took = this.took
    world.over = this.over
    return world
  }

  /** Two worlds with the same key have the same future. */
  key(): string {
    let key = `${this.directory?.number ?? -1} ${this.crashed} ${this.changed} ${this.idle} ${this.silences}`
    key += ` ${this.tenure} ${this.took} ${this.over}`
    if (this.scenario.preemptions !== undefined) key += ` ${this.preemptions} ${this.last}`
    for (let process = 0; process < this.actors.length; process++) {
      key += this.isCrashed(process) ? " !" : ` ${this.actors[process]!.number} ${this.began[process]}`
    }
    return key
  }

  // ---------------------------------------------------------------------------
  // what can happen
  // ---------------------------------------------------------------------------

  /** Everything that can happen next; nothing where the run is over. */
  choices(): Array<Choice> {
    const early = this.scenario.participants.length
    let next = this.steps(0, early)
    if (next.length === 0) next = this.steps(early, this.actors.length)
    if (next.length === 0) return []
    const bound = this.scenario.preemptions
    if (bound !== undefined && this.preemptions >= bound && next.some(({ process }) => process === this.last)) {
      next = next.filter(({ process }) => process === this.last)
    }
    if (popCount(this.crashed) < this.scenario.crashes) {
      for (let process = 0; process < early; process++) {
        if (!this.isCrashed(process) && this.actors[process]!.end === undefined) {
          next.push({ process, kind: "crash", index: 0 })
        }
      }
    }
    return next
  }

  private steps(from: number, to: number): Array<Choice> {
    const steps: Array<Choice> = []
    const sleepers: Array<Choice> = []
    for (let process = from; process < to; process++) {
      if (this.isCrashed(process)) continue
      const { parked } = this.actors[process]!
      for (let index = 0; index < parked.length; index++) {
        const operation = parked[index]!
        const choice: Choice = { process, kind: "step", index }
        switch (operation._tag) {
          case "lead":
            if (!operation.stays) steps.push(choice)
            break
          case "sleep":
          case "changed":
            // Next to another operation it is a time limit, which passes only where nothing else can happen.
            if (parked.length === 1 && (this.changed & (1 << process)) !== 0) steps.push(choice)
            else sleepers.push(choice)
            break
          case "hungUp":
            if (!this.listens(operation)) steps.push(choice)
            break
          case "probe":
            steps.push(choice)
            if (this.silences < (this.scenario.silences ?? 0) && this.listens(operation)) {
              steps.push({ process, kind: "silence", index })
            }
            break
          default:
            steps.push(choice)
        }
      }
    }
    return steps.length > 0 ? steps : this.idle < idleRounds * sleepers.length ? sleepers : []
  }

  private isCrashed(process: number): boolean {
    return (this.crashed & (1 << process)) !== 0
  }

  private entry(name: string): Model.Entry | undefined {
    return this.directory?.entries.get(name)
  }

  private listens({ inode, name }: { readonly name: string; readonly inode: string }): boolean {
    const entry = this.entry(name)
    return entry !== undefined && entry.inode === inode && entry.listening
  }

  // ---------------------------------------------------------------------------
  // what happens
  // ---------------------------------------------------------------------------

  /** Lets it happen. */
  apply(choice: Choice): void {
    const { index, kind, process } = choice
    const bit = 1 << process
    if (this.began[process] === -1) this.began[process] = this.over
    if (kind === "crash") {
      this.crashed |= bit
      if ((this.took & bit) !== 0) this.over |= bit
      this.tenure &= ~bit
      // The kernel, or Node, closes what it had open.
      const closed: Array<readonly [name: string, entry: Model.Entry | undefined]> = []
      for (const [name, entry] of this.directory?.entries ?? []) {
        if (entry.content >= 0 || !entry.inode.startsWith(`${process}.`)) continue
        if (this.scenario.threads === true && /^[bs]\./.test(name)) closed.push([name, undefined])
        else if (entry.listening) closed.push([name, { ...entry, listening: false }])
      }
      this.update(closed)
      this.disturb(process)
      this.log?.push(`p${process} crashes`)
      return
    }
    if (this.last !== process && this.last >= 0 && this.canGoOn(this.last)) this.preemptions += 1
    this.last = process
    this.step(process, index, kind === "silence")
    const { glued } = this.scenario
    while (glued !== undefined && this.violation === undefined) {
      const { parked } = this.actors[process]!
      if (parked.length !== 1 || !glued(parked[0]!)) break
      this.step(process, 0, false)
    }
  }

  private step(process: number, index: number, silent: boolean): void {
    const before = this.directory
    const bit = 1 << process
    const actor = this.actors[process]!
    const operation = actor.parked[index]!
    if (operation._tag === "sleep" || operation._tag === "changed") {
      if ((this.changed & bit) === 0) this.idle += 1
      this.changed &= ~bit
    }
    const result = silent ? "timed out" : this.execute(operation)
    if (silent) this.silences += 1
    if (this.disturbs(before)) this.disturb(process)
    const next = actor.feed(index, result)
    this.actors[process] = next
    this.observe(process, before, operation._tag === "stop")
    if (this.log !== undefined) {
      const shown = operation._tag === "read" && Number(result) > 0 ? this.header(Number(result)) : result
      const end = next.end === undefined ? "" : ` — ${next.end.split("\n")[0]}`
      const leads = next.leading !== undefined && actor.leading === undefined ? " — LEADS" : ""
      this.log.push(Model.readable(`p${process} ${Model.describe(operation, this.contents)}: ${shown}${end}${leads}`))
    }
  }

  private canGoOn(process: number): boolean {
    if (this.isCrashed(process)) return false
    return this.actors[process]!.parked.some(
      (operation) =>
        operation._tag !== "sleep" && operation._tag !== "changed" && !(operation._tag === "lead" && operation.stays)
    )
  }

  private header(content: number): string {
    const header = this.contents.header(content)
    return header === undefined
      ? `content ${content}`
      : `${header.nonce}${header.released ? " (tombstone)" : ""} epoch ${header.epoch % 1_000_000}`
  }

  private update(changes: ReadonlyArray<readonly [name: string, entry: Model.Entry | undefined]>): void {
    if (changes.length > 0) this.directory = this.directories.with(this.directory!, changes)
  }

  // Whether a sleeper could find something new: what only its owner looks at wakes nobody.
  private disturbs(before: Model.Directory | undefined): boolean {
    const after = this.directory
    if (before === after) return false
    const of = (directory: Model.Directory | undefined) => {
      let text = ""
      for (const [name, entry] of directory?.entries ?? []) {
        if (name === Model.lockName || name.startsWith("slot.")) text += `${name} ${entry.content}\n`
        else if (name.startsWith("w.")) text += `${name} ${entry.inode} ${entry.listening}\n`
      }
      return text
    }
    return of(before) !== of(after)
  }

  private disturb(process: number): void {
    this.changed |= ((1 << this.actors.length) - 1) & ~(1 << process)
    this.idle = 0
  }

  private execute(operation: Model.Operation): string {
    switch (operation._tag) {
      case "find":
        return this.directory === undefined ? "none" : "some"
      case "open":
        this.directory ??= this.directories.make(new Map())
        return "ok"
      case "read": {
        const entry = this.entry(operation.name)
        return entry === undefined ? "missing" : String(entry.content)
      }
      case "create":
      case "bind": {
        if (this.entry(operation.name) !== undefined) return operation._tag === "bind" ? "EADDRINUSE" : "EEXIST"
        const content = operation._tag === "bind" ? -1 : 0
        this.update([[operation.name, { inode: operation.inode, content, listening: false, old: false }]])
        return "ok"
      }
      case "fill": {
        const { content } = operation
        this.update(this.links(operation.inode).map(([name, entry]) => [name, { ...entry, content }]))
        return "ok"
      }
      case "link": {
        const from = this.entry(operation.from)
        if (from === undefined) return "ENOENT"
        if (this.entry(operation.to) !== undefined) return "EEXIST"
        this.update([[operation.to, from]])
        return "ok"
      }
      case "rename": {
        const from = this.entry(operation.from)
        if (from === undefined) return "ENOENT"
        // POSIX: two names of one file stay as they are.
        if (this.entry(operation.to)?.inode === from.inode) return "ok"
        this.update([
          [operation.from, undefined],
          [operation.to, from]
        ])
        return "ok"
      }
      case "unlink":
        if (this.entry(operation.name) !== undefined) this.update([[operation.name, undefined]])
        return "ok"
      case "list":
        return [...(this.directory?.entries.keys() ?? [])].join(" ")
      case "stat": {
        const entry = this.entry(operation.name)
        return entry === undefined ? "missing" : `${entry.inode} ${entry.old ? 120_000 : 0}`
      }
      case "listen":
      case "close": {
        const listening = operation._tag === "listen"
        this.update(this.links(operation.inode).map(([name, entry]) => [name, { ...entry, listening }]))
        return "ok"
      }
      case "probe": {
        if (!this.scenario.proofs.witness) return "sockets cannot be reached"
        const entry = this.entry(operation.name)
        if (entry === undefined || entry.inode !== operation.inode) return "not there"
        return entry.listening ? "answered" : "refused"
      }
      case "verify": {
        if (!this.scenario.proofs.pid) return "unknown"
        const process = operation.pid - Model.firstPid
        const began = process >= 0 && process < this.actors.length
        return began && (this.scenario.threads === true || !this.isCrashed(process)) ? "alive" : "dead"
      }
      default:
        return "ok"
    }
  }

  private links(inode: string): ReadonlyArray<readonly [string, Model.Entry]> {
    return [...(this.directory?.entries ?? [])].filter(([, entry]) => entry.inode === inode)
  }

  // ---------------------------------------------------------------------------
  // what must never be seen
  // ---------------------------------------------------------------------------

  private violate(kind: Violation["kind"], detail: string): void {
    if (this.scenario.looksFor?.includes(kind) === false) return
    this.violation ??= { kind, detail: Model.readable(detail) }
  }

  private lockHeader(directory: Model.Directory | undefined): Model.Header | undefined {
    const entry = directory?.entries.get(Model.lockName)
    return entry === undefined ? undefined : this.contents.header(entry.content)
  }

  private observe(process: number, before: Model.Directory | undefined, stopped: boolean): void {
    const bit = 1 << process
    if (before !== this.directory) {
      const was = before?.entries.get(Model.lockName)
      const is = this.entry(Model.lockName)
      if (was !== undefined && is === undefined) this.violate("LockMissing", `p${process} removed the lock file`)
      if (is !== undefined && is.content !== was?.content) {
        const old = this.lockHeader(before)
        const header = this.contents.header(is.content)
        if (header === undefined) {
          this.violate("LockNotOurs", `p${process} wrote a lock file that is no record`)
        } else if (header.released) {
          this.tenure &= ~bit
          this.over |= this.took & bit
          const own = old !== undefined && Model.drawer(old.nonce) === process
          if (old !== undefined && (own ? header.epoch !== old.epoch : header.epoch <= old.epoch)) {
            this.violate("EpochNotGreater", `the tombstone has epoch ${header.epoch} after ${old.epoch}`)
          }
        } else if (header.nonce !== old?.nonce) {
          const owner = Model.drawer(header.nonce)
          if (owner < 0 || this.isCrashed(owner)) {
            this.violate("LockNotOurs", `p${process} put the record ${header.nonce} of a dead process in place`)
          } else {
            this.tenure |= 1 << owner
            this.took |= 1 << owner
          }
          if (old !== undefined && header.epoch <= old.epoch) {
            this.violate("EpochNotGreater", `${header.nonce} has epoch ${header.epoch} after ${old.epoch}`)
          }
        }
      }
    }
    if (stopped) this.tenure &= ~bit
    const { end } = this.actors[process]!
    if (end !== undefined) {
      this.over |= this.took & bit
      const left = this.lockHeader(this.directory)
      if (end === "released" && left !== undefined && !left.released && Model.drawer(left.nonce) === process) {
        const witness = this.entry(`w.${left.nonce}`)
        // Where the witness refuses, the end is proven without a tombstone.
        if (witness === undefined || witness.listening || !this.scenario.proofs.witness) {
          this.violate("NotReleased", `p${process} ended, the lock file is still its own, and nothing proves the end`)
        }
      }
      if (end.startsWith("failed") || end.startsWith("died")) {
        if (this.scenario.mayFail?.includes(end) !== true) this.violate("Failed", `p${process} ${end.split("\n")[0]}`)
      }
      if (end.startsWith("following ")) {
        const owner = Model.drawer(end.slice("following ".length))
        if (owner < 0 || (this.took & (1 << owner)) === 0 || (this.began[process]! & (1 << owner)) !== 0) {
          this.violate("FollowsNobody", `p${process} is ${end}, which did not lead at any time since it began`)
        }
      }
    }
    const header = this.lockHeader(this.directory)
    let primaries = this.tenure
    for (let other = 0; other < this.actors.length; other++) {
      if (this.isCrashed(other)) continue
      const { leading } = this.actors[other]!
      if (leading === undefined) continue
      primaries |= 1 << other
      if (header?.nonce !== leading || header.released) {
        this.violate(
          popCount(primaries) > 1 ? "TwoPrimaries" : "LockNotOurs",
          `p${other} leads as ${leading}, the lock file says ${header?.nonce ?? "nothing"}`
        )
      }
    }
    if (popCount(primaries) > 1) {
      const who = this.actors.flatMap((_, other) => ((primaries & (1 << other)) === 0 ? [] : [`p${other}`]))
      this.violate("TwoPrimaries", `${who.join(" and ")} are primary at once`)
    }
  }

  /** What must hold where nothing more can happen. */
  finish(): void {
    const open = this.actors.flatMap((actor, process) =>
      this.isCrashed(process) || actor.end !== undefined || actor.leading !== undefined ? [] : [process]
    )
    if (open.length > 0) {
      this.violate("Wedged", `${open.map((process) => `p${process}`).join(" and ")} will never come to a verdict`)
    }
    const ends = this.actors.filter((actor, process) => !this.isCrashed(process) && actor.end !== undefined)
    if (this.crashed !== 0 || ends.some(({ end }) => end!.startsWith("failed"))) return
    const leaders = this.actors.filter(({ leading }) => leading !== undefined)
    if (this.took === 0) this.violate("NobodyLeads", "every process came to an end, and none ever led")
    // An end that only the refusing witness proves is cleared by the next start, as that of a crashed process is.
    const untold = this.lockHeader(this.directory)
    const nonces = [...leaders.map(({ leading }) => leading), ...(untold?.released === false ? [untold.nonce] : [])]
    const allowed = nonces.flatMap((nonce) => ["w", "s", "t", "e"].map((kind) => `${kind}.${nonce}`))
    const litter = [...(this.directory?.entries.keys() ?? [])].filter(
      (name) => name !== Model.lockName && !allowed.includes(name) && this.scenario.leaves?.includes(name) !== true
    )
    if (litter.length > 0) this.violate("Litter", `${litter.join(" ")} are left behind`)
  }

  /** The directory, for people. */
  show(): string {
    return [...(this.directory?.entries ?? [])]
      .map(([name, entry]) => {
        const what = entry.content < 0 ? (entry.listening ? "listening" : "refusing") : this.header(entry.content)
        return Model.readable(`${name} = ${what}`)
      })
      .join(", ")
  }
}

const popCount = (mask: number): number => {
  let count = 0
  for (let rest = mask; rest !== 0; rest &= rest - 1) count += 1
  return count
}
