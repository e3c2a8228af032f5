import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Scope } from "effect"
import * as Election from "effect-single-instance/Election"
import { Endpoint } from "effect-single-instance/Endpoint"
import { InstanceId } from "effect-single-instance/InstanceId"
import { type Candidate, InstanceLock, type Leading } from "effect-single-instance/InstanceLock"
import type { SpawnOptions, TestProcess } from "effect-single-instance/pid/TestPidVerifier"
import type { LockError } from "effect-single-instance/SingleInstanceError"

/** A simulated process with its own lock. */
export interface Contender {
  readonly process: TestProcess
  readonly lock: InstanceLock["Type"]
  /** Another copy of the lock in the same process. */
  readonly copy: Effect.Effect<InstanceLock["Type"], never, Scope.Scope>
  /** SIGKILL: nothing that it does afterwards, in finalizers for example, has an effect. */
  readonly crash: Effect.Effect<void>
}

/** What the contenders of one test share. */
export interface World {
  readonly spawn: (options?: SpawnOptions) => Effect.Effect<Contender, never, Scope.Scope>
  /** Removes the record, as an outsider might. */
  readonly remove: Effect.Effect<void>
  /** Removes what is left of a crashed process besides its record. */
  readonly sweep: Effect.Effect<void>
  /** The names of all that stands there, and whatever changes with them; empty where nothing was ever created. */
  readonly standing: Effect.Effect<ReadonlyArray<string>>
}

export const id = InstanceId.make("com.example.lock")

/** A candidate's endpoints, and which of them are open. */
export const endpoints = () => {
  const open = new Set<string>()
  let opened = 0
  const listen = ({ nonce }: Candidate) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        opened++
        open.add(nonce)
        return [new Endpoint({ protocol: "test", address: `test:${nonce}`, wire: [1, 1] })]
      }),
      () => Effect.sync(() => open.delete(nonce))
    )
  return { listen, open, opened: () => opened }
}

const contend = (contender: Pick<Contender, "lock">, listen = endpoints().listen) =>
  contender.lock.contend({ id, version: "1.0", listen })

/** Leads in a scope of its own. */
export const lead = (contender: Pick<Contender, "lock">, listen = endpoints().listen) =>
  Effect.gen(function* () {
    const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))
    const verdict = yield* Scope.extend(contend(contender, listen), scope)
    assert(verdict._tag === "Leading", `it follows ${verdict.record.process.pid}`)
    return { ...verdict, release: Scope.close(scope, Exit.void) }
  })

/** Follows in a scope of its own. */
export const follow = (contender: Pick<Contender, "lock">) =>
  Effect.gen(function* () {
    const verdict = yield* contend(contender, () => Effect.die("a loser listens"))
    assert(verdict._tag === "Following", "it leads")
    return verdict
  })

const refusal = <A>(effect: Effect.Effect<A, LockError, Scope.Scope>) => Effect.scoped(Effect.flip(effect))

const inspect = ({ lock }: Contender) => lock.inspect(id)

const recorded = (contender: Contender) =>
  Effect.map(inspect(contender), (seen) => {
    assert(seen._tag === "Recorded", seen._tag)
    return seen
  })

/** Whether an effect completes within a while. */
const completes = <A, E>(fiber: Fiber.Fiber<A, E>) =>
  Effect.isSuccess(Effect.timeout(Effect.disconnect(Fiber.join(fiber)), "5 seconds"))

/** What every lock must do, on the real clock. */
export const suite = (name: string, world: Effect.Effect<World, never, Scope.Scope>): void => {
  describe(`${name}: the contract of a lock`, () => {
    it.scopedLive("is free at first, and nothing is created by looking", () =>
      Effect.gen(function* () {
        const { spawn, standing } = yield* world
        const contender = yield* spawn()
        assert.strictEqual((yield* inspect(contender))._tag, "Free")
        assert.deepStrictEqual(yield* standing, [])
      })
    )

    it.scopedLive("records who took it, and where", () =>
      Effect.gen(function* () {
        const { spawn } = yield* world
        const [leader, other] = [yield* spawn(), yield* spawn()]
        const before = Date.now()
        let candidate: Candidate | undefined
        const leading = yield* lead(leader, (given) => {
          candidate = given
          return endpoints().listen(given)
        })
        assert.deepStrictEqual([leading.took, leading.proof], ["free", undefined])
        const { record } = leading
        assert.strictEqual(record.nonce, candidate?.nonce)
        assert.strictEqual(record.key, candidate?.key)
        assert.match(record.nonce, /^[0-9a-f]{32}$/)
        assert.match(record.key, /^[0-9a-f]{64}$/)
        assert.deepStrictEqual({ ...record.process }, { ...leader.process.identity })
        assert.isAtLeast(record.epoch, before)
        assert.isAtLeast(record.startedAt, before)
        assert.deepStrictEqual([record.released, record.sequence, record.version], [false, 0, "1.0"])
        assert.deepStrictEqual(
          record.endpoints.map(({ address, protocol }) => [protocol, address]),
          [["test", `test:${record.nonce}`]]
        )
        const seen = yield* recorded(other)
        assert.strictEqual(seen.liveness._tag, "Alive")
        assert.deepStrictEqual({ ...seen.record }, { ...record })
        yield* leading.check
      })
    )

    it.scopedLive("is followed by whom finds it taken, without any side effect", () =>
      Effect.gen(function* () {
        const { spawn, standing } = yield* world
        const [leader, other] = [yield* spawn(), yield* spawn()]
        const { record } = yield* lead(leader)
        const before = yield* standing
        const following = yield* follow(other)
        assert.strictEqual(following.record.nonce, record.nonce)
        assert.strictEqual(following.record.key, record.key)
        assert.isNotEmpty(following.evidence)
        assert.deepStrictEqual(yield* standing, before)
      })
    )

    it.scopedLive("is taken over from an owner that released it", () =>
      Effect.gen(function* () {
        const { spawn } = yield* world
        const [first, second] = [yield* spawn(), yield* spawn()]
        const { open, listen } = endpoints()
        const former = yield* lead(first, listen)
        assert.strictEqual(open.size, 1)
        yield* former.release
        assert.strictEqual(open.size, 0)
        const seen = yield* recorded(second)
        assert.isTrue(seen.record.released)
        assert.deepStrictEqual([seen.record.key, seen.record.endpoints.length], ["", 0])
        assert.strictEqual(seen.record.epoch, former.record.epoch)
        assert.notStrictEqual(seen.record.nonce, former.record.nonce)
        assert(seen.liveness._tag === "Dead")
        assert.strictEqual(seen.liveness.proof.rule, "D0")
        const latter = yield* lead(second)
        assert.deepStrictEqual([latter.took, latter.proof?.rule], ["released", "D0"])
        assert.isAbove(latter.record.epoch, former.record.epoch)
      })
    )

    it.scopedLive("is taken again by the very process that released it", () =>
      Effect.gen(function* () {
        const { spawn } = yield* world
        const contender = yield* spawn()
        const former = yield* lead(contender)
        yield* former.release
        const latter = yield* lead(contender)
        assert.strictEqual(latter.took, "released")
        assert.isAbove(latter.record.epoch, former.record.epoch)
      })
    )

    const deaths: Record<string, (contender: Contender) => Effect.Effect<unknown>> = {
      "was killed": ({ crash }) => crash,
      "is a zombie": ({ crash, process }) => Effect.zipRight(process.becomeZombie, crash),
      "was killed, its pid in use again": ({ crash, process }) => Effect.zipRight(crash, process.reincarnate)
    }
    for (const [how, death] of Object.entries(deaths)) {
      it.scopedLive(`is taken over from an owner that ${how}`, () =>
        Effect.gen(function* () {
          const { spawn } = yield* world
          const [first, second, third] = [yield* spawn(), yield* spawn(), yield* spawn()]
          const former = yield* lead(first)
          yield* death(first)
          const seen = yield* recorded(third)
          assert.strictEqual(seen.liveness._tag, "Dead")
          const latter = yield* lead(second)
          assert.strictEqual(latter.took, "dead")
          assert.include(["D1", "D2", "D3"], latter.proof?.rule)
          assert.isAbove(latter.record.epoch, former.record.epoch)
          // What the dead one's finalizers do is nothing any more.
          yield* former.release
          yield* latter.check
          assert.strictEqual((yield* recorded(third)).record.nonce, latter.record.nonce)
        })
      )
    }

    it.scopedLive("is not taken from an owner that only stands still", () =>
      Effect.gen(function* () {
        const { spawn } = yield* world
        const [first, second] = [yield* spawn(), yield* spawn()]
        yield* lead(first)
        yield* first.process.freeze
        yield* follow(second)
        yield* first.process.thaw
      })
    )

    it.scopedLive("is refused to the process that has it already", () =>
      Effect.gen(function* () {
        const { spawn } = yield* world
        const contender = yield* spawn()
        const { check, record } = yield* lead(contender)
        for (const lock of [contender.lock, yield* contender.copy]) {
          const error = yield* refusal(contend({ lock }))
          assert.deepStrictEqual([error.reason, error.owner?.pid], ["AlreadyHeldInProcess", record.process.pid])
          assert.strictEqual(error.outcome, "NotDelivered")
        }
        yield* check
      })
    )

    it.scopedLive("has epochs that only ever grow", () =>
      Effect.gen(function* () {
        const { spawn } = yield* world
        let last = 0
        for (let round = 0; round < 24; round++) {
          const contender = yield* spawn()
          const leading = yield* lead(contender)
          assert.isAbove(leading.record.epoch, last, `round ${round}`)
          last = leading.record.epoch
          if (round % 3 === 0) yield* contender.crash
          else yield* leading.release
        }
      })
    )

    it.scopedLive("has a greater epoch than who led, and was removed, while it was opening what it listens on", () =>
      Effect.gen(function* () {
        const { remove, spawn } = yield* world
        const [first, second] = [yield* spawn(), yield* spawn()]
        let meanwhile = 0
        const { listen } = endpoints()
        const { record } = yield* lead(first, (candidate) =>
          Effect.gen(function* () {
            yield* Effect.sleep("5 millis")
            meanwhile = (yield* Effect.orDie(lead(second))).record.epoch
            yield* remove
            yield* Effect.sleep("5 millis")
            return yield* listen(candidate)
          })
        )
        assert.isAbove(record.epoch, meanwhile)
      })
    )

    it.scopedLive("is won by one of many, and the others leave nothing", () =>
      Effect.gen(function* () {
        const { spawn, standing } = yield* world
        for (const before of ["nothing", "released", "dead"] as const) {
          if (before !== "nothing") {
            const former = yield* spawn()
            const leading = yield* lead(former)
            yield* before === "dead" ? former.crash : leading.release
          }
          const contenders = yield* Effect.replicateEffect(spawn(), 12)
          const { listen, open } = endpoints()
          const scopes = yield* Effect.replicateEffect(Scope.make(), 12)
          const verdicts = yield* Effect.forEach(
            contenders,
            (contender, index) => Scope.extend(contend(contender, listen), scopes[index]!),
            { concurrency: "unbounded" }
          )
          const leading = verdicts.filter((verdict): verdict is Leading => verdict._tag === "Leading")
          assert.lengthOf(leading, 1)
          const [{ check, record }] = leading as [Leading]
          for (const verdict of verdicts) assert.strictEqual(verdict.record.nonce, record.nonce)
          assert.deepStrictEqual([...open], [record.nonce])
          yield* check
          const names = yield* standing
          assert.deepStrictEqual(
            names.filter((name) => /[0-9a-f]{32}/.test(name) && !name.includes(record.nonce)),
            []
          )
          assert.deepStrictEqual(
            names.filter((name) => name.startsWith("slot.")),
            []
          )
          for (const scope of scopes) yield* Scope.close(scope, Exit.void)
        }
      })
    )

    it.scopedLive("is left alone by a candidate that cannot listen", () =>
      Effect.gen(function* () {
        const { spawn, standing } = yield* world
        const [first, second] = [yield* spawn(), yield* spawn()]
        const listen = ({ nonce }: Candidate) =>
          Effect.zipRight(endpoints().listen({ nonce, key: "", directory: null }), Effect.fail("no endpoint"))
        const error = yield* Effect.scoped(Effect.flip(first.lock.contend({ id, version: null, listen })))
        assert.strictEqual(error, "no endpoint")
        assert.deepStrictEqual(yield* standing, [])
        yield* lead(second)
      })
    )

    it.scopedLive("is left alone by whom is interrupted, whenever that is", () =>
      Effect.gen(function* () {
        const { spawn, standing } = yield* world
        const contender = yield* spawn()
        // While it listens, which is the only thing of the caller's own.
        const listening = yield* Deferred.make<void>()
        const { listen, open } = endpoints()
        const waiting = yield* Effect.fork(
          Effect.scoped(
            contend(contender, (candidate) =>
              Effect.zipRight(listen(candidate), Effect.zipRight(Deferred.succeed(listening, undefined), Effect.never))
            )
          )
        )
        yield* Deferred.await(listening)
        assert.strictEqual(open.size, 1)
        yield* Fiber.interrupt(waiting)
        assert.strictEqual(open.size, 0)
        assert.deepStrictEqual(yield* standing, [])
        // After so many turns of the scheduler.
        for (let turns = 0; turns < 40; turns++) {
          const contending = yield* Effect.fork(
            Effect.scoped(Effect.zipRight(contend(contender, listen), Effect.never))
          )
          yield* Effect.repeatN(Effect.yieldNow(), turns)
          yield* Fiber.interrupt(contending)
          assert.strictEqual(open.size, 0)
          const seen = yield* inspect(contender)
          assert.isTrue(seen._tag === "Free" || (seen._tag === "Recorded" && seen.record.released), `turn ${turns}`)
          const names = yield* standing
          assert.isAtMost(names.length, 1, `${names}`)
        }
        yield* lead(yield* spawn())
      })
    )

    it.scopedLive("can have its endpoints replaced by its owner alone", () =>
      Effect.gen(function* () {
        const { remove, spawn } = yield* world
        const [first, second] = [yield* spawn(), yield* spawn()]
        const leading = yield* lead(first)
        const others = [new Endpoint({ protocol: "other", address: "other:1", wire: [1, 2] })]
        yield* leading.publish(others)
        const { record } = yield* recorded(second)
        assert.deepStrictEqual(
          record.endpoints.map(({ address }) => address),
          ["other:1"]
        )
        assert.deepStrictEqual(
          [record.nonce, record.epoch, record.key, record.sequence],
          [leading.record.nonce, leading.record.epoch, leading.record.key, 1]
        )
        yield* leading.publish([])
        assert.strictEqual((yield* recorded(second)).record.sequence, 2)
        yield* leading.check
        yield* remove
        const error = yield* Effect.flip(leading.publish(others))
        assert.strictEqual(error.reason, "Lost")
        assert.strictEqual((yield* inspect(second))._tag, "Free")
      })
    )

    it.scopedLive("is lost to an outsider who removes the record, and what was lost is not written to", () =>
      Effect.gen(function* () {
        const { remove, spawn } = yield* world
        const [first, second] = [yield* spawn(), yield* spawn()]
        const leading = yield* lead(first)
        const hint = yield* Effect.fork(leading.changed)
        // Whoever waits for a hint may have to come to it first.
        yield* Effect.sleep("50 millis")
        yield* remove
        assert.isTrue(yield* completes(hint))
        const successor = yield* lead(second)
        assert.strictEqual(successor.took, "free")
        const error = yield* Effect.flip(leading.check)
        assert.deepStrictEqual([error.reason, error.outcome], ["Lost", "Unknown"])
        yield* leading.release
        yield* successor.check
        assert.strictEqual((yield* recorded(second)).record.nonce, successor.record.nonce)
      })
    )

    it.scopedLive("tells who follows that the owner may have gone", () =>
      Effect.gen(function* () {
        const { spawn } = yield* world
        for (const end of ["release", "crash", "release before", "crash before"]) {
          const [first, second] = [yield* spawn(), yield* spawn()]
          const leading = yield* lead(first)
          const { gone } = yield* follow(second)
          const ending = end.startsWith("crash") ? first.crash : leading.release
          // What happened before anybody waited is not missed.
          if (end.endsWith("before")) yield* ending
          const waiting = yield* Effect.fork(gone)
          if (!end.endsWith("before")) {
            // Longer than the pause between two looks at a witness that does not tell by itself.
            yield* Effect.sleep("1200 millis")
            assert.isNull(waiting.unsafePoll(), `${end}: nobody has gone yet`)
            yield* ending
          }
          assert.isTrue(yield* completes(waiting), end)
          yield* (yield* lead(second)).release
        }
      })
    )

    it.scopedLive("is broken only at a person's word for the record that was seen, and only where nobody lives", () =>
      Effect.gen(function* () {
        const { spawn, sweep } = yield* world
        const [other, next] = [yield* spawn(), yield* spawn()]
        const missing = yield* Effect.flip(other.lock.breakLock(id, "0".repeat(32)))
        assert.strictEqual(missing.reason, "BreakRefused")

        const living = yield* spawn()
        const leading = yield* lead(living)
        for (const nonce of [leading.record.nonce, "0".repeat(32)]) {
          const refused = yield* Effect.flip(other.lock.breakLock(id, nonce))
          assert.strictEqual(refused.reason, "BreakRefused")
          yield* leading.check
        }
        yield* leading.release

        // In a namespace of its own, and without any other trace: whether it lives cannot be told from here.
        for (const [options, reason] of [
          [{ pidNamespace: "pid-2" }, "OwnerUnverifiable"],
          [{ machine: "another" }, "OwnerOnOtherHost"]
        ] as const) {
          const foreign = yield* spawn(options)
          const { record } = yield* lead(foreign)
          yield* foreign.crash
          yield* sweep
          const error = yield* refusal(contend(other))
          assert.deepStrictEqual([error.reason, error.owner?.nonce], [reason, record.nonce])
          const refused = yield* Effect.flip(other.lock.breakLock(id, "0".repeat(32)))
          assert.strictEqual(refused.reason, "BreakRefused")
          yield* other.lock.breakLock(id, record.nonce)
          const seen = yield* recorded(other)
          assert.isTrue(seen.record.released)
          assert.isAbove(seen.record.epoch, record.epoch)
          const successor = yield* lead(next)
          assert.strictEqual(successor.took, "released")
          assert.isAbove(successor.record.epoch, seen.record.epoch)
          yield* successor.release
        }
      })
    )

    it.scopedLive("keeps instances apart", () =>
      Effect.gen(function* () {
        const { spawn } = yield* world
        const [first, second] = [yield* spawn(), yield* spawn()]
        const leading = yield* lead(first)
        for (const name of ["com.example.LOCK", "com.example.lock ", "com.example.lock/.."]) {
          const other = yield* second.lock.contend({
            id: InstanceId.make(name),
            version: null,
            listen: endpoints().listen
          })
          assert.deepStrictEqual([other._tag, (other as Leading).took], ["Leading", "free"])
        }
        yield* leading.check
      })
    )

    it.scopedLive("passes from one standby to the next, one at a time", () =>
      Effect.gen(function* () {
        const { spawn } = yield* world
        const leaders: Array<Contender> = []
        const followed: Array<string> = []
        let active = 0
        let last = 0
        const events = yield* Deferred.make<void>()
        const standby = (contender: Contender, total: number) =>
          Effect.gen(function* () {
            const { pid } = contender.process.identity
            const leader = yield* Election.standby(
              { id, version: null, listen: endpoints().listen },
              { onFollow: (record) => Effect.sync(() => followed.push(`${pid} behind ${record.process.pid}`)) }
            )
            active++
            assert.strictEqual(active, 1)
            assert.isAbove(leader.record.epoch, last)
            last = leader.record.epoch
            leaders.push(contender)
            if (leaders.length === total) yield* Deferred.succeed(events, undefined)
            // Every second one crashes, the others release.
            yield* Effect.sleep("30 millis")
            active--
            if (leaders.length % 2 === 0) yield* contender.crash
          }).pipe(Effect.scoped, Effect.provideService(InstanceLock, contender.lock))
        const contenders = yield* Effect.replicateEffect(spawn(), 6)
        yield* Effect.forEach(contenders, (contender) => standby(contender, 6), { concurrency: "unbounded" })
        yield* Deferred.await(events)
        assert.strictEqual(new Set(leaders).size, 6)
        // Nobody is told twice of the same owner, which is what a poll would do.
        assert.strictEqual(new Set(followed).size, followed.length)
        assert.include(followed, `${leaders.at(-1)?.process.identity.pid} behind ${leaders[0]?.process.identity.pid}`)
      })
    )

    it.scopedLive("is told as lost, once, by an election over it", () =>
      Effect.gen(function* () {
        const { remove, spawn } = yield* world
        const contender = yield* spawn()
        const verdict = yield* Effect.provideService(
          Election.contend({ id, version: null, listen: endpoints().listen }),
          InstanceLock,
          contender.lock
        )
        assert(verdict._tag === "Leading")
        const waiting = yield* Effect.fork(Effect.flip(verdict.lost))
        yield* Effect.sleep("50 millis")
        assert.isNull(waiting.unsafePoll())
        yield* remove
        assert.isTrue(yield* completes(waiting))
        assert.strictEqual((yield* Fiber.join(waiting)).reason, "Lost")
        assert.strictEqual((yield* Effect.flip(verdict.lost)).reason, "Lost")
      })
    )
  })
}
