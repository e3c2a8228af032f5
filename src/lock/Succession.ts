/**
 * Steps 3 to 8 of the election: who may succeed an owner is decided in a write-once file named after that owner's nonce,
 * and put in place by rename. No contended name is ever removed on the evidence of an earlier read. An owner that ends
 * puts its tombstone in place in the same way.
 *
 * @since 0.1.0
 */
import { createHash } from "node:crypto"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import type { InstanceId } from "../InstanceId.js"
import { ownerOf, type Took } from "../InstanceLock.js"
import * as InstanceRecord from "../InstanceRecord.js"
import * as fileIdentity from "../internal/fileIdentity.js"
import * as Liveness from "../Liveness.js"
import type { PidVerifier } from "../PidVerifier.js"
import { LockError } from "../SingleInstanceError.js"
import { type Content, FileFailure, identity, type LockDirectory, type LockFiles } from "./LockFiles.js"

type Record = InstanceRecord.InstanceRecord

/**
 * What stands under a name, with the nonce under which it can be succeeded.
 *
 * @since 0.1.0
 * @category models
 */
export type Seen = { readonly _tag: "Missing" } | Predecessor

/**
 * @since 0.1.0
 * @category models
 */
export type Predecessor = { readonly name: string; readonly nonce: string; readonly epoch: number } & (
  | { readonly _tag: "Recorded"; readonly record: Record }
  | { readonly _tag: "Unreadable"; readonly detail: string }
  | { readonly _tag: "Newer"; readonly header: string }
)

/**
 * What can be said of who wrote what was seen. `Changed`: something else stands there by now.
 *
 * @since 0.1.0
 * @category models
 */
export type Judgement =
  | { readonly _tag: "Alive"; readonly record: Record; readonly evidence: string }
  | { readonly _tag: "Dead"; readonly proof: Liveness.Proof }
  | { readonly _tag: "Changed" }

/**
 * @since 0.1.0
 * @category models
 */
export type Decision =
  | { readonly _tag: "Won"; readonly took: Took; readonly proof: Liveness.Proof | undefined }
  | { readonly _tag: "Follow"; readonly record: Record; readonly evidence: string }
  | { readonly _tag: "ListenAgain" }

/**
 * One candidature. `record` is what `t.<nonce>` holds. While this candidature leads and `paired` is set, `lock` is a second
 * name of the same file, so the two can be compared also where no file can be opened. `e.<nonce>` holds the tombstone, with
 * a nonce of its own. `predecessors` are owners that were proven dead on the way.
 *
 * `lost` is a leadership that ended, or may have begun, while `lock` may still carry our record; `untold` one that ended
 * and whose record could not be replaced.
 *
 * @since 0.1.0
 * @category models
 */
export interface Candidature {
  readonly directory: LockDirectory
  record: Record
  paired: boolean
  readonly tombstoneNonce: string
  predecessors: ReadonlySet<string>
  state: "contending" | "leading" | "lost" | "ended" | "untold"
}

/**
 * Of whom it is known that they are dead; without a proof where a person said so.
 *
 * @since 0.1.0
 * @category models
 */
export type Known = ReadonlyMap<string, Liveness.Proof | undefined>

/**
 * @since 0.1.0
 * @category models
 */
export interface Succession {
  /** Whether the author of a record lives. That it is a tombstone counts only for what stands under `lock`. */
  readonly judge: (
    directory: LockDirectory,
    seen: { readonly name: string; readonly record: Record }
  ) => Effect.Effect<Liveness.Liveness>
  /** Step 5. Fails where it cannot be told. */
  readonly living: (
    id: InstanceId,
    directory: LockDirectory,
    seen: Predecessor
  ) => Effect.Effect<Judgement, LockError | FileFailure>
  /** Steps 3 to 8. `known` are nonces whose owners are dead, by a proof or by a person's word: dead stays dead. */
  readonly decide: (id: InstanceId, own: Candidature, known: Known) => Effect.Effect<Decision, LockError | FileFailure>
  /**
   * Replaces the own record in `lock` by the tombstone; does nothing where `lock` holds another record, or none. Fails with
   * `EEXIST` while somebody alive is about to succeed us. Nothing is created but names, and nothing has to be opened.
   */
  readonly retire: (own: Candidature) => Effect.Effect<void, FileFailure>
}

const maxChain = 1_000

/**
 * @since 0.1.0
 * @category constructors
 */
export const make = (files: LockFiles["Type"], verifier: PidVerifier["Type"]): Succession => {
  const ownBoot = Effect.match(verifier.self, { onFailure: () => null, onSuccess: ({ boot }) => boot })

  const judge: Succession["judge"] = Effect.fnUntraced(function* (directory, { name, record }) {
    // A tombstone in a slot is the word of somebody who still has to put it in place, and who may live.
    if (record.released && name === directory.lockName) return Liveness.dead("D0", "its owner released it")
    if (files.ended.has(record.nonce)) return Liveness.dead("D0", "its leadership ended in this process")
    const { process, witness } = record
    if (witness !== null && directory.local) {
      // A socket's refusal speaks for this kernel only; a kernel's lock does not survive a restart anyway.
      const isKernelLock = witness.name.startsWith("k.")
      if (isKernelLock || (process.boot !== null && process.boot === (yield* ownBoot))) {
        const probe = yield* directory.probe(witness)
        if (probe._tag === "Answered") return Liveness.alive("its liveness witness answers")
        if (probe._tag === "Refused") {
          return Liveness.dead(probe.rule, `nobody holds its liveness witness ${witness.name}`)
        }
      }
    }
    return yield* verifier.verify(process, { local: directory.local })
  })

  const living: Succession["living"] = Effect.fnUntraced(function* (id, directory, seen) {
    const failed = (reason: LockError["reason"], detail: string, owner?: LockError["owner"]) =>
      new LockError({ reason, id, path: `${directory.path}/${seen.name}`, detail, owner })
    if (seen._tag === "Unreadable") return yield* failed("RecordUnreadable", seen.detail)
    if (seen._tag === "Newer") return yield* failed("RecordNewer", `the record reads "${seen.header}"`)
    const { record } = seen
    const liveness = yield* judge(directory, seen)
    switch (liveness._tag) {
      case "Dead":
        return liveness
      case "Unknown": {
        // A witness goes only after its owner's name was replaced: what still stands there is really in doubt.
        const now = yield* look(directory, seen.name)
        if (now._tag === "Missing" || now.nonce !== seen.nonce) return { _tag: "Changed" }
        const reason = liveness.otherHost ? "OwnerOnOtherHost" : "OwnerUnverifiable"
        return yield* failed(reason, liveness.reason, ownerOf(record))
      }
      case "Alive":
        // Who only follows need not know more of itself than its pid. A tombstone in a slot is about to be put in place.
        if (
          !record.released &&
          record.process.pid === verifier.pid &&
          InstanceRecord.isSameProcess(record.process, yield* identity(verifier))
        ) {
          return yield* failed("AlreadyHeldInProcess", `process ${record.process.pid} is this one`, ownerOf(record))
        }
        return { _tag: "Alive", record, evidence: liveness.evidence }
    }
  })

  const decide: Succession["decide"] = Effect.fnUntraced(function* (id, own, known) {
    const { directory } = own
    const lock = directory.lockName
    contending: while (true) {
      const first = yield* look(directory, lock)
      if (first._tag === "Missing") {
        // Nobody was ever here, or an outsider removed the record.
        if (yield* begin(own)) return { _tag: "Won", took: "free", proof: undefined }
        continue
      }
      const visited = new Set([first.nonce])
      let current: Predecessor = first
      let proof: Liveness.Proof | undefined
      while (true) {
        if (known.has(current.nonce)) {
          proof ??= known.get(current.nonce)
        } else {
          const judgement = yield* living(id, directory, current)
          if (judgement._tag === "Changed") continue contending
          if (judgement._tag === "Alive") {
            if (current === first) return { ...judgement, _tag: "Follow" }
            // Somebody is taking over, and lives.
            yield* Effect.sleep(yield* Random.nextIntBetween(5, 100))
            continue contending
          }
          proof ??= judgement.proof
        }
        const step = yield* take(own, current, visited)
        if (step === "again") continue contending
        if (step === "listen again") return { _tag: "ListenAgain" }
        if (step === "won") {
          own.predecessors = visited
          return { _tag: "Won", took: proof?.rule === "D0" ? "released" : "dead", proof }
        }
        if (visited.has(step.nonce) || visited.size >= maxChain) {
          return yield* new LockError({
            reason: "ChainTooLong",
            id,
            path: `${directory.path}/${step.name}`,
            detail: `${visited.size} slots follow one another`
          })
        }
        visited.add(step.nonce)
        current = step
      }
    }
  })

  const begin = (own: Candidature): Effect.Effect<boolean, FileFailure> =>
    own.directory.link(`t.${own.record.nonce}`, own.directory.lockName).pipe(
      Effect.catchAll((failure) => mine(own, failure)),
      Effect.as(true),
      Effect.catchIf(isExisting, () => Effect.succeed(false)),
      Effect.tap((won) => wonIf(own, won)),
      Effect.uninterruptible
    )

  // Steps 6 to 8, the one place where the lock changes hands. Every way out but "won" leaves no slot of ours behind.
  const take = (
    own: Candidature,
    current: Predecessor,
    visited: ReadonlySet<string>
  ): Effect.Effect<"won" | "again" | "listen again" | Predecessor, FileFailure> =>
    Effect.gen(function* () {
      const { directory } = own
      const temporary = `t.${own.record.nonce}`
      const slot = `slot.${current.nonce}`
      if (own.record.epoch <= current.epoch) {
        // The file may be linked elsewhere, so it is replaced, never written in place.
        const epoch = Math.max(current.epoch + 1, yield* Clock.currentTimeMillis)
        own.record = InstanceRecord.update(own.record, { epoch })
        yield* replace(files, directory, own.record, temporary)
        // A breaker's record is a tombstone itself.
        if (!own.record.released) yield* replace(files, directory, tombstone(own), tombstoneName(own))
      }
      const linked = yield* directory.link(temporary, slot).pipe(
        Effect.as(true),
        Effect.catchIf(isExisting, () => Effect.succeed(false))
      )
      if (!linked) {
        const successor = yield* look(directory, slot)
        if (successor._tag === "Missing") return "again"
        if (successor.nonce !== own.record.nonce) return successor
      }
      const commit = Effect.gen(function* () {
        // Step 7. A starter that slept since it read the record could succeed an owner twice without this look; and an
        // owner that led again since, after it had backed out of a slot, has a higher epoch than that slot tells.
        const now = yield* look(directory, directory.lockName)
        if (now._tag === "Missing" || !visited.has(now.nonce) || now.epoch >= own.record.epoch) {
          return yield* Effect.as(directory.unlink(slot), "again" as const)
        }
        if (!(yield* inPlace(own))) return yield* Effect.as(directory.unlink(slot), "listen again" as const)
        return yield* directory.rename(slot, directory.lockName).pipe(
          Effect.as("won" as const),
          Effect.catchIf(
            (failure) => failure.code === "ENOENT",
            () => Effect.succeed("again" as const)
          ),
          Effect.catchAll((failure) => Effect.as(mine(own, failure), "won" as const))
        )
      })
      return yield* commit.pipe(
        Effect.tap((step) => wonIf(own, step === "won")),
        Effect.tapError(() => Effect.ignore(directory.unlink(slot)))
      )
    }).pipe(Effect.uninterruptible)

  const retire: Succession["retire"] = Effect.fnUntraced(function* (own) {
    const { directory } = own
    const prepared = tombstoneName(own)
    const link = (slot: string) =>
      directory.link(prepared, slot).pipe(
        Effect.as(true),
        // It is ours where an earlier try got so far.
        Effect.catchIf(isExisting, () =>
          Effect.map(compare(directory, prepared, slot), (found) => found === "the same")
        )
      )
    let slot = `slot.${own.record.nonce}`
    for (let length = 0; ; length++) {
      const linked = yield* Effect.catchIf(link(slot), isMissing, () =>
        // An outsider removed the tombstone.
        Effect.zipRight(directory.write(prepared, InstanceRecord.encode(tombstone(own))), link(slot))
      )
      if (linked) break
      // Somebody was told by a person that we are dead, or proved it; while it lives, the succession is its own.
      const successor = yield* look(directory, slot)
      const isDead = successor._tag === "Recorded" && (yield* judge(directory, successor))._tag === "Dead"
      if (!isDead || length >= maxChain) {
        return yield* new FileFailure({ code: "EEXIST", operation: "link", name: slot, cause: undefined })
      }
      slot = `slot.${successor.nonce}`
    }
    const stillOurs = yield* Effect.tapError(holdsLock(own), () => Effect.ignore(directory.unlink(slot)))
    if (!stillOurs) return yield* directory.unlink(slot)
    yield* Effect.tapError(directory.rename(slot, directory.lockName), () => Effect.ignore(directory.unlink(slot)))
  }, Effect.uninterruptible)

  return { judge, living, decide, retire }
}

/**
 * What stands under a name.
 *
 * @since 0.1.0
 * @category operations
 */
export const look = (directory: LockDirectory, name: string): Effect.Effect<Seen, FileFailure> =>
  Effect.map(directory.read(name), (content) => interpret(name, content))

const interpret = (name: string, content: Content): Seen => {
  // Names these very bytes, so that even an unreadable record can have exactly one successor.
  const pseudoNonce = (identity: string | Uint8Array) =>
    createHash("sha256").update(name).update("\0").update(identity).digest("hex").slice(0, 32)
  const unreadable = (identity: string | Uint8Array, detail: string): Seen => ({
    _tag: "Unreadable",
    name,
    nonce: pseudoNonce(identity),
    epoch: 0,
    detail
  })
  switch (content._tag) {
    case "Missing":
      return content
    case "Special":
      return unreadable(content.identity, `there is a ${content.kind} where the record should be`)
    case "TooLarge":
      return unreadable(
        content.head,
        `the file has ${content.size} bytes, a record has at most ${InstanceRecord.maxBytes}`
      )
    case "Bytes": {
      const decoded = InstanceRecord.decode(content.bytes)
      if (Either.isRight(decoded)) {
        const record = decoded.right
        return { _tag: "Recorded", name, nonce: record.nonce, epoch: record.epoch, record }
      }
      return decoded.left._tag === "Newer"
        ? { _tag: "Newer", name, nonce: pseudoNonce(content.bytes), epoch: 0, header: decoded.left.header }
        : unreadable(content.bytes, decoded.left.detail)
    }
  }
}

const isExisting = (failure: FileFailure): boolean => failure.code === "EEXIST"
const isMissing = (failure: FileFailure): boolean => failure.code === "ENOENT"

// In the same uninterruptible region as the commit, so that an interruption right after it still releases.
const wonIf = (own: Candidature, won: boolean) =>
  Effect.sync(() => {
    if (won) own.state = "leading"
  })

// After an ambiguous error: if the nonce is ours, we won. Where that cannot be read, the end must be told all the same.
const mine = (own: Candidature, failure: FileFailure): Effect.Effect<void, FileFailure> =>
  holdsLock(own).pipe(
    Effect.tapError(() =>
      Effect.sync(() => {
        own.state = "lost"
      })
    ),
    Effect.filterOrFail(
      (ours) => ours,
      () => failure
    ),
    Effect.asVoid
  )

/**
 * Whether what was seen is the record of this candidature.
 *
 * @since 0.1.0
 * @category guards
 */
export const isOurs = (own: Candidature, seen: Seen): boolean =>
  seen._tag === "Recorded" && seen.nonce === own.record.nonce

/**
 * Whether `lock` holds the record of this candidature. Where it cannot be read (no descriptors, an I/O error), by whether
 * it is the same file as `t.<nonce>`: an inode is not given to another file while it has a name.
 *
 * @since 0.1.0
 * @category operations
 */
export const holdsLock = (own: Candidature): Effect.Effect<boolean, FileFailure> => {
  const { directory } = own
  return look(directory, directory.lockName).pipe(
    Effect.map((seen) => isOurs(own, seen)),
    Effect.catchAll((failure) =>
      Effect.flatMap(compare(directory, `t.${own.record.nonce}`, directory.lockName), (found) =>
        found === "the first is missing" || (found === "different" && !own.paired)
          ? Effect.fail(failure)
          : Effect.succeed(found === "the same")
      )
    )
  )
}

const compare = (directory: LockDirectory, one: string, other: string) =>
  Effect.zipWith(directory.stat(one), directory.stat(other), (one, other) => {
    if (Option.isNone(other)) return "the second is missing"
    if (Option.isNone(one)) return "the first is missing"
    return fileIdentity.isEqual(one.value, other.value) ? "the same" : "different"
  })

/**
 * The tombstone of a candidature. It names the witness still, so that it can be judged while it stands in a slot.
 *
 * @since 0.1.0
 * @category getters
 */
export const tombstone = (own: Candidature): Record =>
  InstanceRecord.update(own.record, { nonce: own.tombstoneNonce, released: true, key: "", endpoints: [] })

/**
 * The file in which the tombstone waits.
 *
 * @since 0.1.0
 * @category getters
 */
export const tombstoneName = (own: Candidature): string => `e.${own.record.nonce}`

/**
 * Whether the liveness witness of this candidature still stands where its record says.
 *
 * @since 0.1.0
 * @category operations
 */
export const inPlace = (own: Candidature): Effect.Effect<boolean, FileFailure> => {
  const witness = own.record.witness
  return witness === null
    ? Effect.succeed(true)
    : Effect.map(
        own.directory.stat(witness.name),
        (standing) => Option.isSome(standing) && fileIdentity.isEqual(standing.value, witness)
      )
}

/**
 * Puts a record under a name, whatever stood there: written whole, then renamed.
 *
 * @since 0.1.0
 * @category operations
 */
export const replace = Effect.fnUntraced(function* (
  files: LockFiles["Type"],
  directory: LockDirectory,
  record: Record,
  name: string
): Effect.fn.Return<void, FileFailure> {
  const temporary = `t.${yield* files.random(16)}`
  yield* directory.write(temporary, InstanceRecord.encode(record))
  yield* Effect.tapError(directory.rename(temporary, name), () => Effect.ignore(directory.unlink(temporary)))
})
