/**
 * The lock in memory: for tests, and wherever several simulated processes share one heap.
 *
 * @since 0.1.0
 */
import { randomBytes } from "node:crypto"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { Endpoint } from "../Endpoint.js"
import type { InstanceId } from "../InstanceId.js"
import { type Candidate, InstanceLock, ownerOf, type Verdict } from "../InstanceLock.js"
import { InstanceRecord, isSameProcess } from "../InstanceRecord.js"
import { keepIf } from "../internal/childScope.js"
import { addFinalizer } from "../internal/finalizer.js"
import * as validIds from "../internal/validIds.js"
import * as Liveness from "../Liveness.js"
import { PidVerifier } from "../PidVerifier.js"
import { LockError } from "../SingleInstanceError.js"

/**
 * What the simulated processes share: the record of each id, and who waits for it to change.
 *
 * @since 0.1.0
 * @category context
 */
export class MemoryStore extends Context.Tag("effect-single-instance/MemoryStore")<
  MemoryStore,
  {
    readonly get: (id: string) => InstanceRecord | undefined
    /** Also wakes those who wait; `undefined` removes the record, as an outsider might. */
    readonly set: (id: string, record: InstanceRecord | undefined) => void
    /**
     * Completes at the next change of any record or the next `wake` since the last time, or since this function was
     * called: what happens while nobody waits is not missed.
     */
    readonly changed: () => Effect.Effect<void>
    /** Wakes all who wait: a process died, say. */
    readonly wake: () => void
  }
>() {}

/**
 * @since 0.1.0
 * @category constructors
 */
export const makeStore = (): MemoryStore["Type"] => {
  const records = new Map<string, InstanceRecord>()
  const waiting = new Set<() => void>()
  let changes = 0
  const wake = () => {
    changes++
    for (const resume of [...waiting]) resume()
  }
  return {
    get: (id) => records.get(id),
    set: (id, record) => {
      if (record === undefined) records.delete(id)
      else records.set(id, record)
      wake()
    },
    wake,
    changed: () => {
      let seen = changes
      return Effect.async<void>((resume) => {
        const done = () => {
          seen = changes
          waiting.delete(done)
          resume(Effect.void)
        }
        if (changes !== seen) return done()
        waiting.add(done)
        return Effect.sync(() => waiting.delete(done))
      })
    }
  }
}

/**
 * @since 0.1.0
 * @category layers
 */
export const layerStore: Layer.Layer<MemoryStore> = Layer.sync(MemoryStore, makeStore)

/**
 * @since 0.1.0
 * @category constructors
 */
export const make: Effect.Effect<InstanceLock["Type"], never, MemoryStore | PidVerifier> = Effect.gen(function* () {
  const store = yield* MemoryStore
  const verifier = yield* PidVerifier
  const location = (id: InstanceId) => `memory:${id}`

  const judge = (record: InstanceRecord): Effect.Effect<Liveness.Liveness> =>
    record.released
      ? Effect.succeed(Liveness.dead("D0", "its owner released it"))
      : verifier.verify(record.process, { local: true })

  const contend = Effect.fnUntraced(function* <E, R>(options: {
    readonly id: InstanceId
    readonly version: string | null
    readonly listen: (candidate: Candidate) => Effect.Effect<ReadonlyArray<Endpoint>, E, R>
  }): Effect.fn.Return<Verdict, LockError | E, R | Scope.Scope> {
    const { id } = options
    const self = yield* Effect.mapError(
      verifier.self,
      (error) => new LockError({ reason: "DirectoryUnusable", id, detail: error.message, cause: error })
    )
    while (true) {
      const gone = store.changed()
      const current = store.get(id)
      let proof: Liveness.Proof | undefined
      if (current !== undefined) {
        const owner = ownerOf(current)
        const liveness = yield* judge(current)
        if (liveness._tag === "Unknown") {
          const reason = liveness.otherHost ? "OwnerOnOtherHost" : "OwnerUnverifiable"
          return yield* new LockError({ reason, id, detail: liveness.reason, owner })
        }
        if (liveness._tag === "Alive") {
          if (isSameProcess(current.process, self)) {
            const detail = `process ${owner.pid} is this one`
            return yield* new LockError({ reason: "AlreadyHeldInProcess", id, detail, owner })
          }
          const evidence = liveness.evidence
          return { _tag: "Following", record: current, evidence, directory: null, gone }
        }
        proof = liveness.proof
      }
      const candidature = Effect.gen(function* () {
        const nonce = randomBytes(16).toString("hex")
        const key = randomBytes(32).toString("hex")
        yield* addFinalizer(() => release(id, nonce))
        const endpoints = yield* options.listen({ nonce, key, directory: null })
        const now = yield* Clock.currentTimeMillis
        const record = new InstanceRecord({
          nonce,
          epoch: current === undefined ? now : Math.max(current.epoch + 1, now),
          released: false,
          process: self,
          host: "memory",
          uid: null,
          version: options.version,
          argv0: "",
          startedAt: now,
          sequence: 0,
          witness: null,
          key,
          endpoints
        })
        // Dead stays dead: who is still recorded was judged above, and nothing can come between these two lines.
        if (store.get(id) !== current) return undefined
        store.set(id, record)
        return record
      })
      const won = yield* keepIf(candidature, (record) => record !== undefined)
      if (won === undefined) continue
      let record = won
      const check = Effect.suspend(() =>
        store.get(id)?.nonce === record.nonce
          ? Effect.void
          : new LockError({ reason: "Lost", id, detail: "the record was replaced", outcome: "Unknown" })
      )
      return {
        _tag: "Leading",
        record,
        took: proof === undefined ? "free" : proof.rule === "D0" ? "released" : "dead",
        proof,
        directory: null,
        check,
        changed: store.changed(),
        publish: (endpoints) =>
          Effect.map(check, () => {
            record = new InstanceRecord({ ...record, endpoints, sequence: record.sequence + 1 })
            store.set(id, record)
          })
      }
    }
  })

  // A process that crashed in a simulation runs its finalizers all the same; the dead write nothing.
  const release = (id: InstanceId, nonce: string): Effect.Effect<void> =>
    Effect.gen(function* () {
      const liveness = yield* verifier.verify(yield* verifier.self, { local: true })
      const record = store.get(id)
      if (liveness._tag === "Dead" || record === undefined || record.nonce !== nonce) return
      store.set(id, tombstone(record, record.epoch))
    }).pipe(Effect.ignore)

  const tombstone = (record: InstanceRecord, epoch: number) =>
    new InstanceRecord({
      ...record,
      epoch,
      nonce: randomBytes(16).toString("hex"),
      released: true,
      key: "",
      endpoints: []
    })

  return validIds.only({
    contend,
    inspect: (id) =>
      Effect.gen(function* () {
        const record = store.get(id)
        if (record === undefined) return { _tag: "Free", location: location(id) } as const
        return {
          _tag: "Recorded",
          location: location(id),
          directory: null,
          record,
          liveness: yield* judge(record)
        } as const
      }),
    breakLock: (id, nonce) =>
      Effect.gen(function* () {
        const record = store.get(id)
        const refused = (detail: string) => new LockError({ reason: "BreakRefused", id, detail })
        if (record === undefined) return yield* refused("there is no lock")
        if (record.nonce !== nonce) return yield* refused(`the record changed; it is ${record.nonce} now`)
        const liveness = yield* judge(record)
        if (liveness._tag === "Alive") {
          return yield* refused(`process ${record.process.pid} lives: ${liveness.evidence}`)
        }
        if (store.get(id) === record) store.set(id, tombstone(record, record.epoch + 1))
      })
  })
})

/**
 * The lock of one process in the given store. Made anew wherever it is provided, with the store that it finds.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<InstanceLock, never, MemoryStore | PidVerifier> = Layer.fresh(
  Layer.effect(InstanceLock, make)
)
