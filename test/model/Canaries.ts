/**
 * Broken locks. The search that finds nothing in the file lock must find two primaries in each of them, or it is void.
 */
import { Clock, Effect } from "effect"
import { InstanceLock } from "effect-single-instance/InstanceLock"
import * as InstanceRecord from "effect-single-instance/InstanceRecord"
import * as FileLock from "effect-single-instance/lock/FileLock"
import { type FileFailure, type LockDirectory, LockFiles } from "effect-single-instance/lock/LockFiles"
import { PidVerifier } from "effect-single-instance/PidVerifier"
import { lockName } from "./ModelFiles.js"
import type { Participant } from "./Process.js"
import { empty, endedAndBroken, stale, tombstone } from "./Scenarios.js"
import type { Scenario } from "./World.js"

type Wrap = NonNullable<Participant["wrap"]>

// -----------------------------------------------------------------------------
// the file lock, with one thing taken away
// -----------------------------------------------------------------------------

/** Step 7 left out: the look after the own slot is linked shows what the look before it showed. */
const withoutReread: Wrap = (directory) => {
  let before: Effect.Effect.Success<ReturnType<LockDirectory["read"]>> | undefined
  let linked = false
  return {
    ...directory,
    link: (from, to) => Effect.tap(directory.link(from, to), () => (linked = to.startsWith("slot."))),
    read: (name) =>
      Effect.suspend(() => {
        const remembered = name === lockName && linked ? before : undefined
        linked = false
        if (remembered !== undefined) return Effect.succeed(remembered)
        return Effect.tap(directory.read(name), (content) => {
          if (name === lockName) before = content
        })
      })
  }
}

/** The witness closes as soon as the release begins. */
const witnessClosesFirst: Wrap = (directory, port) => {
  let close: Effect.Effect<void> = Effect.void
  const closed = Effect.suspend(() => {
    if (!port.retiring) return Effect.void
    const closing = close
    close = Effect.void
    return closing
  })
  return {
    ...directory,
    openWitness: (nonce) =>
      Effect.tap(directory.openWitness(nonce), ({ inode, name }) => {
        close = Effect.asVoid(port.perform({ _tag: "close", name, inode }))
      }),
    read: (name) => Effect.andThen(closed, directory.read(name)),
    write: (name, bytes) => Effect.andThen(closed, directory.write(name, bytes)),
    rename: (from, to) => Effect.andThen(closed, directory.rename(from, to)),
    unlink: (name) => Effect.andThen(closed, directory.unlink(name))
  }
}

/** Who does not answer in time is dead. */
const timeOutIsDeath: Wrap = (directory) => ({
  ...directory,
  probe: (witness) =>
    Effect.map(directory.probe(witness), (probe) =>
      probe._tag === "Silent" ? ({ _tag: "Refused", rule: "D2" } as const) : probe
    )
})

/** A slot is replaced where it exists already. */
const slotNotWriteOnce: Wrap = (directory) => ({
  ...directory,
  link: (from, to) =>
    to.startsWith("slot.") ? Effect.andThen(directory.unlink(to), directory.link(from, to)) : directory.link(from, to)
})

/** Whoever wrote a slot and has not become the primary yet is dead. */
const takerTakenForDead: Wrap = (directory) => {
  let taker = false
  return {
    ...directory,
    read: (name) =>
      Effect.suspend(() => {
        taker = name.startsWith("slot.")
        return directory.read(name)
      }),
    probe: (witness) =>
      Effect.suspend(() =>
        taker ? Effect.succeed({ _tag: "Refused", rule: "D2" } as const) : directory.probe(witness)
      )
  }
}

/** The end is not told through the slot: look, then rename over the lock file. */
const endsWithoutSlot: Wrap = (directory, port) => ({
  ...directory,
  link: (from, to) => (port.retiring && to.startsWith("slot.") ? Effect.void : directory.link(from, to)),
  rename: (from, to) =>
    port.retiring && from.startsWith("slot.")
      ? directory.rename(`e.${from.slice("slot.".length)}`, to)
      : directory.rename(from, to)
})

/** The end is told although the own witness refuses already. */
const endsWithRefusingWitness: Wrap = (directory) => ({ ...directory, holds: () => Effect.succeed(true) })

// -----------------------------------------------------------------------------
// locks as they are commonly written
// -----------------------------------------------------------------------------

interface Attempt {
  readonly directory: LockDirectory
  /** The name of the own record. */
  readonly own: string
  readonly nonce: string
  /** Whether somebody is known to be dead, by the same proofs as in the file lock. */
  readonly isDead: (record: InstanceRecord.InstanceRecord) => Effect.Effect<boolean>
}

type Result = "won" | "again" | InstanceRecord.InstanceRecord

const naive = (
  attempt: (self: Attempt) => Effect.Effect<Result, FileFailure>
): Effect.Effect<InstanceLock["Type"], never, LockFiles | PidVerifier> =>
  Effect.gen(function* () {
    const files = yield* LockFiles
    const verifier = yield* PidVerifier
    const contend: InstanceLock["Type"]["contend"] = ({ id, listen, version }) =>
      Effect.gen(function* () {
        const directory = yield* files.open(id)
        const nonce = yield* files.random(16)
        const witness = yield* directory.openWitness(nonce)
        const endpoints = yield* listen({ nonce, key: "", directory: directory.path })
        const now = yield* Clock.currentTimeMillis
        const record = new InstanceRecord.InstanceRecord({
          nonce,
          epoch: now,
          released: false,
          process: yield* Effect.orDie(verifier.self),
          host: "host",
          uid: 1_000,
          version,
          argv0: "node",
          startedAt: now,
          sequence: 0,
          witness,
          key: "",
          endpoints
        })
        const own = `t.${nonce}`
        yield* directory.write(own, InstanceRecord.encode(record))
        const isDead = (other: InstanceRecord.InstanceRecord) =>
          Effect.gen(function* () {
            const probe = other.witness === null ? undefined : yield* directory.probe(other.witness)
            if (probe?._tag === "Answered" || probe?._tag === "Refused") return probe._tag === "Refused"
            return (yield* verifier.verify(other.process, { local: true }))._tag === "Dead"
          })
        while (true) {
          const result = yield* attempt({ directory, own, nonce, isDead })
          if (result === "again") continue
          if (result !== "won") {
            return { _tag: "Following", record: result, evidence: "", directory: null, gone: Effect.never } as const
          }
          return {
            _tag: "Leading",
            record,
            took: "free",
            proof: undefined,
            directory: null,
            check: Effect.void,
            changed: Effect.never,
            publish: () => Effect.void
          } as const
        }
      }).pipe(Effect.catchTag("FileFailure", (failure) => Effect.die(failure)))
    return InstanceLock.of({
      contend,
      inspect: () => Effect.dieMessage("not here"),
      breakLock: () => Effect.dieMessage("not here")
    })
  })

const read = (directory: LockDirectory, name: string) =>
  Effect.map(directory.read(name), (content) => {
    if (content._tag !== "Bytes") return undefined
    const decoded = InstanceRecord.decode(content.bytes)
    return decoded._tag === "Right" ? decoded.right : undefined
  })

/** Whether the file was not there before. */
const create = (directory: LockDirectory, from: string, to: string) =>
  directory.link(from, to).pipe(
    Effect.as(true),
    Effect.catchIf(
      ({ code }) => code === "EEXIST",
      () => Effect.succeed(false)
    )
  )

const wonIf = (won: boolean): Result => (won ? "won" : "again")

/** Read, prove the death, read once more (`twice`), unlink, create. */
const unlinkThenCreate = (twice: boolean) =>
  naive(({ directory, isDead, own }) =>
    Effect.gen(function* () {
      const seen = yield* read(directory, lockName)
      if (seen === undefined) return wonIf(yield* create(directory, own, lockName))
      if (!(yield* isDead(seen))) return seen
      if (twice && (yield* read(directory, lockName))?.nonce !== seen.nonce) return "again"
      yield* directory.unlink(lockName)
      return wonIf(yield* create(directory, own, lockName))
    })
  )

/** Rename the record aside, see whose it was, put it back where that one lives. */
const renameAside = naive(({ directory, isDead, nonce, own }) =>
  Effect.gen(function* () {
    const seen = yield* read(directory, lockName)
    if (seen === undefined) return wonIf(yield* create(directory, own, lockName))
    if (!(yield* isDead(seen))) return seen
    const aside = `aside.${nonce}`
    const moved = yield* directory.rename(lockName, aside).pipe(
      Effect.as(true),
      Effect.catchIf(
        ({ code }) => code === "ENOENT",
        () => Effect.succeed(false)
      )
    )
    if (!moved) return "again"
    const taken = yield* read(directory, aside)
    if (taken !== undefined && !(yield* isDead(taken))) {
      yield* create(directory, aside, lockName)
      yield* directory.unlink(aside)
      return "again"
    }
    yield* directory.unlink(aside)
    return wonIf(yield* create(directory, own, lockName))
  })
)

const naiveSteps = (steps: number): Participant["lock"] =>
  Effect.map(LockFiles, (files) =>
    InstanceLock.of({
      contend: ({ id }) =>
        Effect.andThen(Effect.repeatN(Effect.orDie(files.find(id)), steps - 1), Effect.dieMessage("done")),
      inspect: () => Effect.dieMessage("not here"),
      breakLock: () => Effect.dieMessage("not here")
    })
  )

/** Right, as long as nobody crashes: what the search must find nothing in. */
const createOnly = naive(({ directory, own }) =>
  Effect.gen(function* () {
    if (yield* create(directory, own, lockName)) return "won"
    return (yield* read(directory, lockName)) ?? "again"
  })
)

// -----------------------------------------------------------------------------
// scenarios
// -----------------------------------------------------------------------------

const sabotaged = (wrap: Wrap, leads: Participant["leads"]): Participant => ({ lock: FileLock.make, leads, wrap })

const canary = (name: string, participants: ReadonlyArray<Participant>, options?: Partial<Scenario>): Scenario => ({
  name: `canary, ${name}`,
  participants,
  start: stale,
  proofs: { witness: true, pid: true },
  crashes: 0,
  looksFor: ["TwoPrimaries"],
  ...options
})

const endsWhileRefusing = (name: string, wrap: Wrap) =>
  canary(name, [sabotaged(wrap, "closed"), { lock: FileLock.make, leads: "stays" }], {
    newcomer: { lock: FileLock.make, leads: "stays" },
    start: tombstone,
    prelude: [{ process: 0, until: ({ _tag }) => _tag === "lead" }]
  })

const two = (participant: Participant) => [participant, participant]

export const canaries: ReadonlyArray<Scenario> = [
  canary("without the second look of step 7", two(sabotaged(withoutReread, "stays"))),
  canary("unlink, then create", two({ lock: unlinkThenCreate(false), leads: "stays" })),
  canary("look twice, unlink, then create", two({ lock: unlinkThenCreate(true), leads: "stays" })),
  canary("rename aside, look, put back", [
    ...two({ lock: renameAside, leads: "stays" }),
    { lock: renameAside, leads: "stays" }
  ]),
  canary("the witness closes before the tombstone", two(sabotaged(witnessClosesFirst, "releases")), { start: empty }),
  canary("a time-out is death", two(sabotaged(timeOutIsDeath, "stays")), { silences: 1 }),
  canary("slots that are not write-once", two(sabotaged(slotNotWriteOnce, "stays"))),
  canary("a live taker is taken for dead", two(sabotaged(takerTakenForDead, "stays"))),
  {
    ...endedAndBroken({ wrap: endsWithoutSlot }),
    name: "canary, an end without the slot, broken",
    prelude: [],
    looksFor: ["TwoPrimaries"]
  },
  endsWhileRefusing("an end without the slot, the witness closed", (directory, port) =>
    endsWithoutSlot(endsWithRefusingWitness(directory, port), port)
  ),
  endsWhileRefusing("an end through the slot, the witness closed", endsWithRefusingWitness)
]

/** A lock in which nothing is wrong, so that the checks themselves are seen to let something pass. */
export const sound: Scenario = canary("exclusive create", two({ lock: createOnly, leads: "stays" }), {
  start: empty,
  looksFor: ["TwoPrimaries", "LockMissing", "LockNotOurs", "NobodyLeads", "FollowsNobody", "Failed", "Wedged"]
})

/** Processes that do nothing but take so many steps, so that their orders can be counted. */
export const counting = (steps: number, crashes: number): Scenario =>
  canary(
    `${steps} steps`,
    two({
      lock: naiveSteps(steps),
      leads: "stays"
    }),
    { start: empty, crashes, looksFor: [] }
  )
