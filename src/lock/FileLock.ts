/**
 * The lock in a directory of the file system. `Succession.ts` decides who leads; here is what comes before and after: a
 * starter's candidature, a leader's checks and release, and what it clears away.
 *
 * @since 0.1.0
 */
import { hostname } from "node:os"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { Endpoint } from "../Endpoint.js"
import type { InstanceId } from "../InstanceId.js"
import {
  type Candidate,
  type Following,
  InstanceLock,
  type Leading,
  type Observation,
  type Took,
  type Verdict
} from "../InstanceLock.js"
import * as InstanceRecord from "../InstanceRecord.js"
import { keepIf } from "../internal/childScope.js"
import { addFinalizer } from "../internal/finalizer.js"
import * as validIds from "../internal/validIds.js"
import type { Proof } from "../Liveness.js"
import { PidVerifier } from "../PidVerifier.js"
import { LockError } from "../SingleInstanceError.js"
import { type FileFailure, identity, type LockDirectory, LockFiles, type Standing } from "./LockFiles.js"
import * as Succession from "./Succession.js"
import { type Candidature, holdsLock, inPlace, isOurs, look, replace, tombstone, tombstoneName } from "./Succession.js"

const litterMillis = 60_000
// How often and how far apart the end of a leadership is tried to be told: no longer than a second.
const endTries = 20
const endPause = "50 millis"

/**
 * @since 0.1.0
 * @category constructors
 */
export const make: Effect.Effect<InstanceLock["Type"], never, LockFiles | PidVerifier> = Effect.gen(function* () {
  const files = yield* LockFiles
  const verifier = yield* PidVerifier
  const { decide, judge, living, retire } = Succession.make(files, verifier)
  const typed = <A, E, R>(id: InstanceId, effect: Effect.Effect<A, E | FileFailure, R>) =>
    Effect.catchIf(effect, isFileFailure, (failure) => toLockError(id, files.location(id), failure))

  // Step 9. Only a primary removes what others left, and only what a proof allows.
  const collect = Effect.fnUntraced(function* (own: Candidature) {
    const { directory } = own
    const names = yield* directory.list
    const groups = new Map<string, Array<string>>()
    for (const name of names) {
      const match = /^([a-z]+)\.([0-9a-f]{32})$/.exec(name)
      if (match === null || match[2] === own.record.nonce) continue
      if (match[1] === "slot") yield* directory.unlink(name)
      else groups.set(match[2]!, [...(groups.get(match[2]!) ?? []), name])
    }
    // All are judged before anything is removed, as one may be judged by the witness of another.
    const litter: Array<string> = []
    for (const [nonce, group] of groups) {
      if (own.predecessors.has(nonce) || (yield* isLitter(directory, nonce, group))) litter.push(...group)
    }
    // Records late, as the rest is judged by them, and witnesses last, as records are judged by those.
    const rank = (name: string) => (isWitness(name) ? 2 : name.startsWith("t.") ? 1 : 0)
    for (const name of litter.sort((a, b) => rank(a) - rank(b))) yield* directory.unlink(name)
  })

  const isLitter = Effect.fnUntraced(function* (directory: LockDirectory, nonce: string, group: ReadonlyArray<string>) {
    if (group.includes(`t.${nonce}`)) {
      const seen = yield* look(directory, `t.${nonce}`)
      if (seen._tag === "Recorded") return (yield* judge(directory, seen))._tag === "Dead"
      if (seen._tag === "Newer") return false
    }
    if (!directory.local) return false
    // No record tells whose these are. A starter may be between opening its witness and writing its record.
    for (const name of group) {
      const standing = yield* directory.stat(name)
      if (Option.isNone(standing)) continue
      if (standing.value.ageMillis < litterMillis) return false
      if (isWitness(name) && (yield* directory.probe(witnessAt(name, standing.value)))._tag !== "Refused") return false
    }
    return true
  })

  const release = (id: InstanceId, own: Candidature): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (own.state !== "leading" && own.state !== "lost") return Effect.void
      own.state = "untold"
      const { directory, record } = own
      const told = Effect.gen(function* () {
        // An outsider may have removed the record, or the folder: then there is nothing to tell, and nothing to wait for.
        const unlessReplaced = () => Effect.orElseSucceed(holdsLock(own), () => true)
        if (!(yield* directory.holds(record.witness!)) && (yield* inPlace(own))) {
          // Our witness refuses, which is the proof of our end already. Whoever has it takes a tombstone of ours in a slot
          // for that of somebody dead and goes on to the next slot, so we must not put one in place at the same time.
          if (yield* unlessReplaced()) return
        } else {
          yield* Effect.retry(retire(own), {
            schedule: Schedule.spaced(endPause),
            times: endTries,
            while: unlessReplaced
          }).pipe(Effect.catchAll((failure) => Effect.whenEffect(Effect.fail(failure), unlessReplaced())))
        }
        own.state = "ended"
      })
      return told.pipe(
        Effect.catchAll((failure) =>
          Effect.logWarning(
            `the end of the leadership could not be written to ${directory.path}: ${failure.message}; the next start has ` +
              "to prove it by the liveness witness, which is left there"
          ).pipe(Effect.annotateLogs({ module: "effect-single-instance", id }))
        ),
        Effect.uninterruptible
      )
    })

  const lead = (id: InstanceId, own: Candidature, took: Took, proof: Proof | undefined): Leading => {
    const { directory } = own
    const path = `${directory.path}/${directory.lockName}`
    const lost = (detail: string) =>
      Effect.suspend(() => {
        own.state = "lost"
        return new LockError({ reason: "Lost", id, path, detail, outcome: "Unknown" })
      })
    // Trouble in reading (EMFILE, EIO, ESTALE, …) is no evidence: nobody takes over without a proof of our death.
    const evidence = Effect.gen(function* () {
      let seen = yield* look(directory, directory.lockName)
      if (seen._tag === "Unreadable") {
        yield* Effect.sleep(100)
        seen = yield* look(directory, directory.lockName)
      }
      if (seen._tag === "Missing") return "the lock file was removed"
      if (seen._tag === "Unreadable" || seen._tag === "Newer") return "the lock file was overwritten"
      if (seen.nonce !== own.record.nonce) return `process ${seen.record.process.pid} replaced the lock file`
      if (!(yield* inPlace(own))) return "the liveness witness was removed"
      if (!(yield* directory.holds(own.record.witness!))) return "the liveness witness was closed"
      // A cleaner may have removed what the release needs.
      if (Option.isNone(yield* directory.stat(tombstoneName(own)))) {
        yield* directory.write(tombstoneName(own), InstanceRecord.encode(tombstone(own)))
      }
      return undefined
    }).pipe(Effect.orElseSucceed(() => undefined))
    return {
      _tag: "Leading",
      record: own.record,
      took,
      proof,
      directory: directory.path,
      descriptor: own.record.witness === null ? undefined : directory.descriptor?.(own.record.witness),
      check: Effect.suspend(() =>
        own.state === "leading"
          ? Effect.flatMap(evidence, (detail) => (detail === undefined ? Effect.void : lost(detail)))
          : Effect.void
      ),
      changed: directory.changed,
      publish: (endpoints) =>
        Effect.gen(function* () {
          if (own.state !== "leading") return
          if (!isOurs(own, yield* look(directory, directory.lockName)))
            return yield* lost("the lock is not ours any more")
          // Others may have the proof of our death by now, and be about to replace the record.
          if (!(yield* directory.holds(own.record.witness!))) return yield* lost("the liveness witness was closed")
          own.record = InstanceRecord.update(own.record, { endpoints, sequence: own.record.sequence + 1 })
          const temporary = `t.${own.record.nonce}`
          const second = `t.${yield* files.random(16)}`
          own.paired = false
          yield* replace(files, directory, own.record, temporary)
          yield* directory.link(temporary, second)
          yield* Effect.tapError(directory.rename(second, directory.lockName), () =>
            Effect.ignore(directory.unlink(second))
          )
          own.paired = true
        }).pipe(
          Effect.catchTag("FileFailure", (failure) => toLockError(id, directory, failure)),
          Effect.uninterruptible
        )
    }
  }

  const follow = (
    directory: LockDirectory,
    { evidence, record }: { readonly record: InstanceRecord.InstanceRecord; readonly evidence: string }
  ): Following => ({
    _tag: "Following",
    record,
    evidence,
    directory: directory.path,
    gone: record.witness === null ? directory.changed : directory.hungUp(record.witness)
  })

  // Closed in the opposite order: what the caller opens behind it, the tombstone, the witness, the private files.
  const candidate = Effect.fnUntraced(function* (
    id: InstanceId,
    directory: LockDirectory,
    version: string | null
  ): Effect.fn.Return<Candidature, FileFailure, Scope.Scope> {
    const nonce = yield* files.random(16)
    const names = [`e.${nonce}`, `t.${nonce}`]
    let own: Candidature | undefined
    yield* addFinalizer(() => {
      // Where the end could not be told, what is left is the proof of it.
      if (own?.state === "untold") return Effect.sync(() => files.ended.add(nonce))
      return Effect.forEach(names, (name) => Effect.ignore(directory.unlink(name)), { discard: true })
    })
    const witness = yield* Effect.uninterruptible(
      Effect.tap(directory.openWitness(nonce), ({ name }) => Effect.sync(() => names.push(name)))
    )
    const now = yield* Clock.currentTimeMillis
    own = {
      directory,
      paired: true,
      tombstoneNonce: yield* files.random(16),
      predecessors: new Set(),
      state: "contending",
      record: new InstanceRecord.InstanceRecord({
        nonce,
        epoch: now,
        released: false,
        process: yield* identity(verifier),
        host: hostname(),
        uid: process.geteuid?.() ?? null,
        version,
        argv0: process.argv0.slice(0, 1_024),
        startedAt: now,
        sequence: 0,
        witness,
        key: "",
        endpoints: []
      })
    }
    yield* addFinalizer(() => release(id, own))
    return own
  })

  // Steps 2 to 9 in a scope of their own, which closes where the verdict is not ours.
  const candidature = Effect.fnUntraced(function* <E, R>(
    id: InstanceId,
    version: string | null,
    listen: (candidate: Candidate) => Effect.Effect<ReadonlyArray<Endpoint>, E, R>,
    known: Succession.Known
  ) {
    const directory = yield* files.open(id)
    const own = yield* candidate(id, directory, version)
    const { nonce } = own.record
    const key = yield* files.random(32)
    const endpoints = yield* listen({ nonce, key, directory: directory.path })
    own.record = InstanceRecord.update(own.record, {
      key,
      endpoints: endpoints.map((given) => new Endpoint(given)),
      // As late as can be: somebody may have led since we began to listen, of whom an outsider left no trace.
      epoch: yield* Clock.currentTimeMillis
    })
    yield* directory.write(`t.${nonce}`, InstanceRecord.encode(own.record))
    yield* directory.write(tombstoneName(own), InstanceRecord.encode(tombstone(own)))
    const decision = yield* decide(id, own, known)
    if (decision._tag !== "Won") return decision
    yield* Effect.ignore(collect(own))
    return lead(id, own, decision.took, decision.proof)
  })

  // Step 0: whom to follow, before anything is opened; else who was proven dead.
  const survey = Effect.fnUntraced(function* (
    id: InstanceId,
    known: Map<string, Proof>
  ): Effect.fn.Return<Following | undefined, LockError | FileFailure, Scope.Scope> {
    const found = yield* files.find(id)
    if (Option.isNone(found)) return undefined
    const directory = found.value
    while (true) {
      const seen = yield* look(directory, directory.lockName)
      if (seen._tag === "Missing") return undefined
      const judgement = yield* living(id, directory, seen)
      if (judgement._tag === "Alive") return follow(directory, judgement)
      if (judgement._tag === "Changed") continue
      // What a tombstone proves depends on where it stands.
      if (judgement.proof.rule !== "D0") known.set(seen.nonce, judgement.proof)
      return undefined
    }
  })

  const contend = Effect.fnUntraced(function* <E, R>(options: {
    readonly id: InstanceId
    readonly version: string | null
    readonly listen: (candidate: Candidate) => Effect.Effect<ReadonlyArray<Endpoint>, E, R>
    readonly rehearse?: boolean | undefined
  }): Effect.fn.Return<Verdict, LockError | E, R | Scope.Scope> {
    const { id } = options
    const known = new Map<string, Proof>()
    const existing = yield* typed(id, survey(id, known))
    const once = keepIf(
      typed(id, candidature(id, options.version, options.listen, known)),
      (verdict) => verdict._tag === "Leading"
    )
    if (existing !== undefined) {
      if (options.rehearse !== true) return existing
      const outcome = yield* Effect.option(once)
      return Option.isSome(outcome) && outcome.value._tag === "Leading" ? outcome.value : existing
    }
    while (true) {
      const outcome = yield* once
      if (outcome._tag === "Leading") return outcome
      if (outcome._tag === "Follow") {
        const directory = yield* files.find(id)
        if (Option.isSome(directory)) return follow(directory.value, outcome)
      }
    }
  })

  // The same succession with a tombstone in hand, and one owner believed dead by a person's word.
  const breakLock = Effect.fnUntraced(function* (id: InstanceId, nonce: string) {
    const refused = (detail: string, path?: string) => new LockError({ reason: "BreakRefused", id, path, detail })
    const found = yield* files.find(id)
    if (Option.isNone(found)) return yield* refused("there is no lock", files.location(id))
    const directory = found.value
    const seen = yield* look(directory, directory.lockName)
    if (seen._tag === "Missing") return yield* refused("there is no lock", directory.path)
    if (seen.nonce !== nonce) return yield* refused(`the record changed; it is ${seen.nonce} now`, directory.path)
    if (seen._tag === "Recorded") {
      if (seen.record.released) return
      const liveness = yield* judge(directory, seen)
      if (liveness._tag === "Alive") {
        return yield* refused(`process ${seen.record.process.pid} lives: ${liveness.evidence}`)
      }
    }
    for (const name of yield* directory.list) {
      const standing = isWitness(name) ? yield* directory.stat(name) : Option.none()
      if (Option.isNone(standing)) continue
      const probe = yield* directory.probe(witnessAt(name, standing.value))
      if (probe._tag === "Answered") return yield* refused(`somebody answers at ${name}`, directory.path)
    }
    const own = yield* candidate(id, directory, null)
    own.record = InstanceRecord.update(own.record, {
      released: true,
      epoch: Math.max(seen.epoch + 1, own.record.epoch)
    })
    yield* directory.write(`t.${own.record.nonce}`, InstanceRecord.encode(own.record))
    const decision = yield* decide(id, own, new Map([[nonce, undefined]]))
    own.state = "ended"
    if (decision._tag !== "Won") return yield* refused("somebody took it over in the meantime", directory.path)
  })

  const inspect = Effect.fnUntraced(function* (
    id: InstanceId
  ): Effect.fn.Return<Observation, LockError | FileFailure, Scope.Scope> {
    const found = yield* files.find(id)
    if (Option.isNone(found)) return { _tag: "Free", location: files.location(id) }
    const directory = found.value
    const location = `${directory.path}/${directory.lockName}`
    while (true) {
      const seen = yield* look(directory, directory.lockName)
      if (seen._tag === "Missing") return { _tag: "Free", location }
      if (seen._tag !== "Recorded") return { ...seen, location }
      const liveness = yield* judge(directory, seen)
      // In doubt: perhaps it was replaced while we looked.
      if (liveness._tag === "Unknown") {
        const now = yield* look(directory, directory.lockName)
        if (now._tag === "Missing" || now.nonce !== seen.nonce) continue
      }
      return { _tag: "Recorded", location, directory: directory.path, record: seen.record, liveness }
    }
  })

  return validIds.only({
    inspect: (id) => Effect.scoped(typed(id, inspect(id))),
    contend,
    breakLock: (id, nonce) => Effect.scoped(typed(id, breakLock(id, nonce)))
  })
})

/**
 * Requires the file operations and a verifier of processes. Made anew wherever it is provided, with those that it finds.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<InstanceLock, never, LockFiles | PidVerifier> = Layer.fresh(
  Layer.effect(InstanceLock, make)
)

// `b` is the witness of a starter that has not given it its name yet.
const isWitness = (name: string): boolean => /^[wkb]\.[0-9a-f]{32}$/.test(name)
const witnessAt = (name: string, { device, inode }: Standing): InstanceRecord.Witness =>
  new InstanceRecord.Witness({ name, device, inode }, true)

const isFileFailure = (u: unknown): u is FileFailure => Predicate.isTagged(u, "FileFailure")

const toLockError = (id: InstanceId, where: LockDirectory | string, failure: FileFailure): LockError => {
  const path = typeof where === "string" ? where : where.path
  const reasonOf = (): LockError["reason"] => {
    if (!["link", "listen", "lock"].includes(failure.operation)) return "DirectoryUnusable"
    if (["EAFNOSUPPORT", "ENOPROC"].includes(failure.code)) return "SystemUnsupported"
    const isUnsupported = ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK"].includes(failure.code)
    return isUnsupported ? "FilesystemUnsupported" : "DirectoryUnusable"
  }
  return new LockError({
    reason: reasonOf(),
    id,
    path,
    detail: failure.message,
    cause: failure.cause ?? failure
  })
}
