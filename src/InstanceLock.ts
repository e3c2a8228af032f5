/**
 * The lock that makes one process the primary.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Endpoint } from "./Endpoint.js"
import type { InstanceId } from "./InstanceId.js"
import type { InstanceRecord } from "./InstanceRecord.js"
import type { Liveness, Proof } from "./Liveness.js"
import type { LockError, Owner } from "./SingleInstanceError.js"

/**
 * A starter that is about to contend. It listens before it locks, so that a primary can be reached from the instant in
 * which it is one.
 *
 * @since 0.1.0
 * @category models
 */
export interface Candidate {
  /** 32 hexadecimal digits; names of its files end in it. */
  readonly nonce: string
  /** The 256-bit key, 64 hexadecimal digits, that proves to others that they speak to the process of the record. */
  readonly key: string
  /** The verified directory, or `null` where the lock has none. */
  readonly directory: string | null
}

/**
 * How the lock was come by: nobody held it, its last owner released it, or its last owner died.
 *
 * @since 0.1.0
 * @category models
 */
export type Took = "free" | "released" | "dead"

/**
 * The lock is ours until the scope closes: then a tombstone replaces the record and the liveness witness closes last.
 *
 * @since 0.1.0
 * @category models
 */
export interface Leading {
  readonly _tag: "Leading"
  readonly record: InstanceRecord
  readonly took: Took
  /** What proved the predecessor's death, where it died. */
  readonly proof: Proof | undefined
  readonly directory: string | null
  /**
   * The file descriptor of the liveness witness. A process that inherits it keeps the witness alive until it ends, as with
   * flock(2). `undefined` where the lock has none.
   */
  readonly descriptor?: number | undefined
  /** Fails with reason `Lost` on evidence that the lock is ours no more; any other trouble keeps it. */
  readonly check: Effect.Effect<void, LockError>
  /** Completes when something changed where the lock lives: a hint to check. */
  readonly changed: Effect.Effect<void>
  /** Puts other endpoints into the record. */
  readonly publish: (endpoints: ReadonlyArray<Endpoint>) => Effect.Effect<void, LockError>
}

/**
 * Another process holds the lock.
 *
 * @since 0.1.0
 * @category models
 */
export interface Following {
  readonly _tag: "Following"
  readonly record: InstanceRecord
  /** Why we think that it lives. */
  readonly evidence: string
  readonly directory: string | null
  /** Completes when the owner may have gone: a hint to contend again, never a proof. Keeps no process alive. */
  readonly gone: Effect.Effect<void>
}

/**
 * @since 0.1.0
 * @category models
 */
export type Verdict = Leading | Following

/**
 * What stands where the lock lives.
 *
 * @since 0.1.0
 * @category models
 */
export type Observation =
  | { readonly _tag: "Free"; readonly location: string }
  | {
      readonly _tag: "Recorded"
      readonly location: string
      readonly directory: string | null
      readonly record: InstanceRecord
      readonly liveness: Liveness
    }
  | {
      readonly _tag: "Unreadable"
      readonly location: string
      /** Names these very bytes to `breakLock`. */
      readonly nonce: string
      readonly detail: string
    }
  | { readonly _tag: "Newer"; readonly location: string; readonly nonce: string; readonly header: string }

/**
 * Elects one owner per id. Implementations never take a lock over without a proof of death.
 *
 * @since 0.1.0
 * @category context
 */
export class InstanceLock extends Context.Tag("effect-single-instance/InstanceLock")<
  InstanceLock,
  {
    /** Who holds the lock, and whether it lives. Opens, writes and creates nothing. */
    readonly inspect: (id: InstanceId) => Effect.Effect<Observation, LockError>

    /**
     * One run of the election. `listen` is called only by a process that may win, or rehearses; of a loser nothing stays.
     * Fails with `LockError` where there is no verdict.
     */
    readonly contend: <E, R>(options: {
      readonly id: InstanceId
      readonly version: string | null
      readonly listen: (candidate: Candidate) => Effect.Effect<ReadonlyArray<Endpoint>, E, R>
      /**
       * Whether to go all the way also where somebody lives, and to follow where that fails: what a later run needs is then
       * loaded and compiled.
       */
      readonly rehearse?: boolean | undefined
    }) => Effect.Effect<Verdict, LockError | E, R | Scope.Scope>

    /**
     * A person's word that the owner with this nonce (or the unreadable record that `inspect` gave this nonce) is gone:
     * puts a tombstone in its place. Fails with `BreakRefused` while anybody lives there.
     */
    readonly breakLock: (id: InstanceId, nonce: string) => Effect.Effect<void, LockError>
  }
>() {}

/**
 * The owner as errors name it; without the key.
 *
 * @since 0.1.0
 * @category getters
 */
export const ownerOf = (record: InstanceRecord): Owner => ({
  pid: record.process.pid,
  epoch: record.epoch,
  startedAt: record.startedAt,
  host: record.host,
  nonce: record.nonce
})
