/**
 * The scenarios in which the file lock must hold.
 */
import * as InstanceRecord from "effect-single-instance/InstanceRecord"
import * as FileLock from "effect-single-instance/lock/FileLock"
import * as Model from "./ModelFiles.js"
import type { Participant } from "./Process.js"
import type { Scenario, Start } from "./World.js"

// -----------------------------------------------------------------------------
// starts
// -----------------------------------------------------------------------------

const epoch = 1_799_999_999_990
const nonceOf = (dead: number) => `d${dead}`.padEnd(32, "0")

const recordOf = (
  dead: number,
  options?: { readonly released?: boolean; readonly epoch?: number }
): InstanceRecord.InstanceRecord =>
  new InstanceRecord.InstanceRecord({
    nonce: nonceOf(dead),
    epoch: options?.epoch ?? epoch + dead,
    released: options?.released ?? false,
    process: Model.identity(90 + dead),
    host: "host",
    uid: 1_000,
    version: null,
    argv0: "node",
    startedAt: epoch,
    sequence: 0,
    witness: options?.released
      ? null
      : new InstanceRecord.Witness({ name: `w.${nonceOf(dead)}`, device: "1", inode: `w${dead}` }),
    key: "",
    endpoints: []
  })

const recorded = (contents: Model.Contents, inode: string, record: InstanceRecord.InstanceRecord): Model.Entry => ({
  inode,
  content: contents.intern(InstanceRecord.encode(record)),
  listening: false,
  old: true
})

const witnessOf = (dead: number): readonly [string, Model.Entry] => [
  `w.${nonceOf(dead)}`,
  { inode: `w${dead}`, content: -1, listening: false, old: true }
]

/** Not even the directory is there. */
export const nothing: Start = () => null

export const empty: Start = () => new Map()

/** z was the primary and crashed. Its epoch is ahead of every clock. */
export const stale: Start = (contents) =>
  new Map([[Model.lockName, recorded(contents, "t0", recordOf(0, { epoch: 1_900_000_000_000 }))], witnessOf(0)])

/** z crashed, y crashed while it took over from z, and x while it took over from both. */
export const chain: Start = (contents) => {
  const files = new Map<string, Model.Entry>()
  for (const dead of [0, 1, 2]) {
    const record = recorded(contents, `t${dead}`, recordOf(dead))
    files.set(dead === 0 ? Model.lockName : `slot.${nonceOf(dead - 1)}`, record)
    if (dead > 0) files.set(`t.${nonceOf(dead)}`, record)
    files.set(...witnessOf(dead))
  }
  return files
}

/** z released. */
export const tombstone: Start = (contents) =>
  new Map([[Model.lockName, recorded(contents, "t0", recordOf(0, { released: true }))]])

const starts: ReadonlyArray<readonly [string, Start]> = [
  ["no directory", nothing],
  ["empty", empty],
  ["stale", stale],
  ["chain", chain],
  ["tombstone", tombstone]
]

// -----------------------------------------------------------------------------
// two processes, every operation a step of its own
// -----------------------------------------------------------------------------

const real = (leads: Participant["leads"]): Participant => ({ lock: FileLock.make, leads })

const both: Model.DeathProofs = { witness: true, pid: true }
const kindsOfProof: ReadonlyArray<readonly [string, Model.DeathProofs]> = [
  ["both proofs", both],
  ["witness only", { witness: true, pid: false }],
  ["pid only", { witness: false, pid: true }]
]

const untilIt = (process: number, tag: Model.Operation["_tag"]) => ({
  process,
  until: (operation: Model.Operation) => operation._tag === tag
})

/** Both may crash, at any operation, and a third one starts when they are done. */
const pairs = kindsOfProof.flatMap(([proofsName, proofs]) => [
  ...starts.map(
    ([startName, start]): Scenario => ({
      name: `two, ${startName}, ${proofsName}`,
      participants: [real("stays"), real("releases")],
      newcomer: real("releases"),
      start,
      proofs,
      crashes: 2
    })
  ),
  {
    name: `two, one rehearses, ${proofsName}`,
    participants: [real("works"), { ...real("releases"), rehearses: true }],
    newcomer: real("releases"),
    start: stale,
    proofs,
    crashes: 2
  } satisfies Scenario,
  {
    name: `two, release under way, ${proofsName}`,
    participants: [real("works"), real("releases")],
    newcomer: real("releases"),
    start: tombstone,
    prelude: [untilIt(0, "lead")],
    proofs,
    crashes: 2
  } satisfies Scenario,
  {
    name: `two, time-outs, ${proofsName}`,
    participants: [real("releases"), real("stays")],
    newcomer: real("releases"),
    start: stale,
    proofs,
    crashes: 1,
    silences: 2,
    // Without a second proof an owner that does not answer in time cannot be told from a dead one.
    mayFail: proofs.pid ? [] : ["failed OwnerUnverifiable"]
  } satisfies Scenario
])

/** Somebody says that z is gone, which is so, while others start. */
const breakers = kindsOfProof.flatMap(([proofsName, proofs]) => [
  {
    name: `two, one breaks the lock, ${proofsName}`,
    participants: [{ ...real("stays"), breaks: nonceOf(0) }, real("stays")],
    newcomer: real("releases"),
    start: stale,
    proofs,
    crashes: 1,
    mayFail: ["failed BreakRefused"],
    // Nothing but its record told that this witness was of z.
    leaves: proofs.witness ? [] : [`w.${nonceOf(0)}`]
  } satisfies Scenario,
  {
    name: `two, both break the lock, ${proofsName}`,
    participants: [
      { ...real("stays"), breaks: nonceOf(0) },
      { ...real("stays"), breaks: nonceOf(0) }
    ],
    newcomer: real("releases"),
    start: stale,
    proofs,
    crashes: 1,
    mayFail: ["failed BreakRefused"],
    // Nothing but its record told that this witness was of z.
    leaves: proofs.witness ? [] : [`w.${nonceOf(0)}`]
  } satisfies Scenario
])

const nonceOfFirst = `000001${"0".repeat(26)}`

/** Ends of a leadership that cannot be told as usual, while the process lives on. */
const ends = kindsOfProof.flatMap(([proofsName, proofs]) => [
  ...(["loses", "swept", "closed"] as const).map(
    (leads): Scenario => ({
      name: `two, one ${leads}, ${proofsName}`,
      participants: [real(leads), real("releases")],
      newcomer: real("releases"),
      start: tombstone,
      prelude: [untilIt(0, "lead")],
      proofs,
      crashes: 1,
      // While the record of the one whose witness is gone still stands there, only the pid tells that it lives. A witness
      // that was closed in a process that lives on is all that proves the end.
      mayFail: proofs.pid && leads !== "closed" ? [] : ["failed OwnerUnverifiable"],
      looksFor: proofs.witness || leads !== "closed" ? undefined : ["TwoPrimaries", "LockMissing", "EpochNotGreater"]
    })
  ),
  ...(proofs.witness
    ? [
        {
          name: `two threads, stale, ${proofsName}`,
          participants: [real("stays"), real("releases")],
          newcomer: real("releases"),
          start: stale,
          proofs,
          crashes: 2,
          threads: true
        } satisfies Scenario
      ]
    : [])
])

/** The first one lost its witness and ends; a person says that it is gone, and is right, as it does nothing more. */
export const endedAndBroken = (options?: Partial<Participant>): Scenario => ({
  name: "three, one swept and broken",
  participants: [{ ...real("swept"), ...options }, { ...real("stays"), breaks: nonceOfFirst }, real("stays")],
  newcomer: real("stays"),
  start: empty,
  prelude: [untilIt(0, "stop"), untilIt(0, "link"), untilIt(1, "link")],
  proofs: { witness: true, pid: false },
  crashes: 0,
  glued: isPrivate,
  mayFail: ["failed BreakRefused", "failed OwnerUnverifiable"]
})

// -----------------------------------------------------------------------------
// three processes, every operation on a contended name a step of its own
// -----------------------------------------------------------------------------

/** What only its own process, or a primary that clears up, ever looks at. The pairs have each as a step. */
const isPrivate = (operation: Model.Operation): boolean => {
  switch (operation._tag) {
    case "find":
    case "open":
    case "bind":
    case "listen":
    case "create":
    case "fill":
    case "list":
    case "stat":
      return true
    case "read":
    case "unlink":
      return operation.name !== Model.lockName && !operation.name.startsWith("slot.")
    case "rename":
      return operation.to !== Model.lockName
    default:
      return false
  }
}

const trio = (name: string, start: Start, options: Partial<Scenario> & Pick<Scenario, "crashes">): Scenario => ({
  name: `three, ${name}`,
  participants: [real("stays"), real("releases"), real("stays")],
  start,
  proofs: both,
  glued: isPrivate,
  ...options
})

const beforeTheirLinks = [0, 1, 2].map((process) => untilIt(process, "link"))
const beforeItsRename = {
  process: 0,
  until: (operation: Model.Operation) => operation._tag === "rename" && operation.to === Model.lockName
}

const trios: ReadonlyArray<Scenario> = [
  trio("empty", empty, { crashes: 1 }),
  trio("stale", stale, { crashes: 1, preemptions: 2 }),
  trio("stale, before their slots", stale, { crashes: 1, preemptions: 3, prelude: beforeTheirLinks }),
  trio("chain", chain, { crashes: 1, preemptions: 1 }),
  trio("chain, before their slots", chain, { crashes: 1, preemptions: 2, prelude: beforeTheirLinks }),
  trio("tombstone", tombstone, { crashes: 1, preemptions: 2 }),
  trio("taker stopped before its rename", stale, { crashes: 1, preemptions: 3, prelude: [beforeItsRename] }),
  trio("release under way", empty, {
    crashes: 0,
    participants: [real("works"), real("stays"), real("releases")],
    prelude: [untilIt(0, "lead")]
  })
]

/** What the ordinary test run searches to the end. */
export const ordinary: ReadonlyArray<Scenario> = [...pairs, ...breakers, ...ends, endedAndBroken(), ...trios]

const without = <K extends keyof Scenario>(scenario: Scenario, ...keys: ReadonlyArray<K>): Scenario =>
  Object.fromEntries(Object.entries(scenario).filter(([key]) => !(keys as ReadonlyArray<string>).includes(key))) as any

/** The same without a bound on how often processes are stopped: minutes and gigabytes. */
export const deep: ReadonlyArray<Scenario> = trios
  .filter(({ preemptions }) => preemptions !== undefined)
  .map((scenario) => ({ ...without(scenario, "preemptions"), name: `${scenario.name}, without bound` }))

/** What is executed from the start to the end in orders that chance chooses: three processes in single operations. */
export const walked: ReadonlyArray<Scenario> = [
  ...pairs.map((scenario) => without(scenario, "newcomer")),
  ...breakers,
  ...ends.map((scenario) => without(scenario, "newcomer")),
  ...starts
    .slice(1)
    .map(
      ([startName, start]): Scenario =>
        without(trio(`${startName}, in single operations`, start, { crashes: 2 }), "glued")
    )
]
