/**
 * The decision: who is primary, for how long, and who comes next. Knows no protocol.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { Endpoint } from "./Endpoint.js"
import type { InstanceId } from "./InstanceId.js"
import { type Candidate, type Following, InstanceLock, type Leading } from "./InstanceLock.js"
import type { InstanceRecord } from "./InstanceRecord.js"
import { keepIf } from "./internal/childScope.js"
import * as errno from "./internal/errno.js"
import { PidVerifier } from "./PidVerifier.js"
import { LockError } from "./SingleInstanceError.js"

/**
 * @since 0.1.0
 * @category models
 */
export interface Contest<E, R> {
  readonly id: InstanceId
  /** The application's version, for the record. */
  readonly version: string | null
  /** Opens the endpoints of a candidate, in a scope that closes if it loses. */
  readonly listen: (candidate: Candidate) => Effect.Effect<ReadonlyArray<Endpoint>, E, R>
}

/**
 * This process leads until the scope closes or `lost` fails.
 *
 * @since 0.1.0
 * @category models
 */
export interface Leader extends Leading {
  /** Never succeeds; fails with reason `Lost` when leadership ended on evidence. */
  readonly lost: Effect.Effect<never, LockError>
  /** Completes with the next self-check: a time to see after what else may have been removed. */
  readonly checked: Effect.Effect<void>
}

// So that `lost` is there within 5 s, whatever the system does not tell of.
const checkMillis = 4_000
const coalesceMillis = 250

/**
 * Contends once. A leader checks itself for as long as the scope lives: when something changed where the lock lives, at
 * most every 250 ms, and every 4 s.
 *
 * @since 0.1.0
 * @category operations
 */
export const contend: <E, R>(
  contest: Contest<E, R>,
  options?: { readonly rehearse?: boolean | undefined } | undefined
) => Effect.Effect<Leader | Following, LockError | E, InstanceLock | R | Scope.Scope> = Effect.fnUntraced(function* <
  E,
  R
>(contest: Contest<E, R>, options?: { readonly rehearse?: boolean | undefined }) {
  const lock = yield* InstanceLock
  const verdict = yield* lock.contend({ ...contest, rehearse: options?.rehearse })
  if (verdict._tag === "Following") return verdict
  const lost = yield* Deferred.make<never, LockError>()
  let checked = yield* Deferred.make<void>()
  yield* Effect.raceFirst(verdict.changed, Effect.sleep(checkMillis)).pipe(
    Effect.zipRight(verdict.check),
    Effect.zipRight(Effect.suspend(() => Deferred.succeed(checked, undefined))),
    Effect.tap(
      Effect.map(Deferred.make<void>(), (next) => {
        checked = next
      })
    ),
    Effect.zipRight(Effect.sleep(coalesceMillis)),
    Effect.forever,
    Effect.catchAll((error) => Deferred.fail(lost, error)),
    Effect.interruptible,
    Effect.forkScoped
  )
  return { ...verdict, lost: Deferred.await(lost), checked: Effect.suspend(() => Deferred.await(checked)) }
})

/**
 * Waits until this process leads. Nothing polls: each round ends with a hint that the owner may have gone. Once it has
 * followed somebody, it waits on where the system refuses something for the moment (descriptors, memory, space), as a
 * leader keeps its lock then, and logs a warning.
 *
 * @since 0.1.0
 * @category operations
 */
export const standby: <E, R>(
  contest: Contest<E, R>,
  options?: { readonly onFollow?: ((record: InstanceRecord) => Effect.Effect<void>) | undefined } | undefined
) => Effect.Effect<Leader, LockError | E, InstanceLock | R | Scope.Scope> = Effect.fnUntraced(function* <E, R>(
  contest: Contest<E, R>,
  options?: { readonly onFollow?: ((record: InstanceRecord) => Effect.Effect<void>) | undefined }
) {
  let followed: string | undefined
  // At first, when nobody waits for it: by far the most of an election is the first run of its code.
  const run = Effect.suspend(() => contend(contest, { rehearse: followed === undefined }))
  const round = Effect.tap(run, (verdict) => {
    if (verdict._tag === "Leading") return Effect.void
    const announce = followed === verdict.record.nonce ? undefined : options?.onFollow?.(verdict.record)
    followed = verdict.record.nonce
    return Effect.zipRight(announce ?? Effect.void, verdict.gone)
  })
  const isPassing = (error: LockError | E): boolean =>
    followed !== undefined && LockError.is(error) && (errno.isPassing(error.cause) || errno.isFull(error.cause))
  const enduring = keepIf(round, (verdict) => verdict._tag === "Leading").pipe(
    Effect.tapError((error) =>
      isPassing(error) ? Effect.logWarning(`a standby tries again: ${(error as LockError).message}`) : Effect.void
    ),
    Effect.retry({ while: isPassing, schedule: Schedule.spaced("500 millis") })
  )
  while (true) {
    const verdict = yield* enduring
    if (verdict._tag === "Leading") return verdict
  }
})

/**
 * Ends an owner that keeps silent, at the caller's explicit wish: SIGTERM, 5 s later SIGKILL. Directly before each signal
 * it is asked whether that record still stands and whether the process is still the recorded one; who has released the
 * lock meanwhile is not signalled. Succeeds with whether the owner is gone: dead, or not the owner any more.
 *
 * @since 0.1.0
 * @category operations
 */
export const terminate: (
  id: InstanceId,
  record: InstanceRecord
) => Effect.Effect<boolean, LockError, InstanceLock | PidVerifier> = Effect.fnUntraced(function* (
  id: InstanceId,
  record: InstanceRecord
) {
  const lock = yield* InstanceLock
  const verifier = yield* PidVerifier
  const isGone = Effect.map(
    lock.inspect(id),
    (seen) => seen._tag !== "Recorded" || seen.record.nonce !== record.nonce || seen.liveness._tag === "Dead"
  )
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    if (yield* isGone) return true
    if (!(yield* verifier.signal(record.process, signal))) return yield* isGone
    for (let round = 0; round < 50; round++) {
      if (yield* isGone) return true
      yield* Effect.sleep(100)
    }
  }
  return yield* isGone
})
