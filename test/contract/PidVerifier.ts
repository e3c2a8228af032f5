/**
 * What every `PidVerifier` promises.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Either, FastCheck, Layer, type Scope } from "effect"
import * as InstanceRecord from "effect-single-instance/InstanceRecord"
import type { Liveness } from "effect-single-instance/Liveness"
import { PidVerifier } from "effect-single-instance/PidVerifier"

/**
 * A process beside the one that verifies, which the test may end.
 */
export interface Subject {
  readonly identity: InstanceRecord.ProcessIdentity
  readonly isAlive: Effect.Effect<boolean>
  /** Kills it, and waits until its pid is free. */
  readonly end: Effect.Effect<void>
  readonly freeze: Effect.Effect<void>
}

/**
 * Starts processes on the same machine, under the same boot and in the same namespaces; they end with the scope.
 */
export class Subjects extends Context.Tag("test/Subjects")<
  Subjects,
  { readonly start: Effect.Effect<Subject, never, PidVerifier | Scope.Scope> }
>() {}

const local = { local: true }
const shared = { local: false }

const isDead = (verdict: Liveness, rule: "D1" | "D4") => {
  assert.strictEqual(verdict._tag, "Dead", JSON.stringify(verdict))
  if (verdict._tag === "Dead") assert.strictEqual(verdict.proof.rule, rule, verdict.proof.detail)
}
const isAlive = (verdict: Liveness) => assert.strictEqual(verdict._tag, "Alive", JSON.stringify(verdict))
const isUnknown = (verdict: Liveness, otherHost: boolean) => {
  assert.strictEqual(verdict._tag, "Unknown", JSON.stringify(verdict))
  if (verdict._tag === "Unknown") {
    assert.strictEqual(verdict.otherHost, otherHost, verdict.reason)
    assert.isAbove(verdict.reason.length, 10)
  }
}
const change = (identity: InstanceRecord.ProcessIdentity, fields: Partial<InstanceRecord.ProcessIdentity>) =>
  new InstanceRecord.ProcessIdentity({ ...identity, ...fields })

/**
 * The suite. `boots` says whether the platform tells boot ids, so that there is a D4; `freezes`, whether a process can be
 * stopped there.
 */
export const contract = (
  name: string,
  layer: Layer.Layer<PidVerifier | Subjects>,
  { boots, freezes }: { readonly boots: boolean; readonly freezes: boolean }
): void => {
  describe(`PidVerifier contract: ${name}`, () => {
    const check = <E>(
      title: string,
      test: Effect.Effect<void, E, PidVerifier | Subjects | Scope.Scope>,
      skip = false
    ) => it.scopedLive.skipIf(skip)(title, () => Effect.provide(test, Layer.fresh(layer)))
    const start = Effect.flatMap(Subjects, (subjects) => subjects.start)

    check(
      "knows itself, always as the same, and survives the record",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const self = yield* verifier.self
        assert.deepStrictEqual(yield* verifier.self, self)
        assert.strictEqual(verifier.pid, self.pid)
        assert.isNotNull(self.start)
        assert.isNotNull(self.pidNamespace)
        assert.isNotNull(self.machine)
        assert.strictEqual(self.boot !== null, boots)
        isAlive(yield* verifier.verify(self, local))
        isAlive(yield* verifier.verify(self, shared))
        const record = new InstanceRecord.InstanceRecord({
          nonce: "0".repeat(32),
          epoch: 1,
          released: false,
          process: self,
          host: "",
          uid: null,
          version: null,
          argv0: "",
          startedAt: 0,
          sequence: 0,
          witness: null,
          key: "",
          endpoints: []
        })
        const decoded = Either.getOrThrow(InstanceRecord.decode(InstanceRecord.encode(record)))
        assert.deepStrictEqual(decoded.process, self)
      })
    )

    check(
      "a process that runs is alive, and dead once it was killed",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const subject = yield* start
        isAlive(yield* verifier.verify(subject.identity, local))
        yield* subject.end
        isDead(yield* verifier.verify(subject.identity, local), "D1")
        isDead(yield* verifier.verify(subject.identity, shared), "D1")
      })
    )

    check(
      "a process that was stopped is alive",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const subject = yield* start
        yield* subject.freeze
        isAlive(yield* verifier.verify(subject.identity, local))
      }),
      !freezes
    )

    check(
      "the pid of another process is dead; one whose start is not known cannot be told",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const { identity } = yield* start
        const early = change(identity, { start: earlier(identity.start!) })
        isDead(yield* verifier.verify(early, local), "D1")
        isUnknown(yield* verifier.verify(change(identity, { start: null }), local), false)
        // The same digits by another clock are another time.
        isUnknown(yield* verifier.verify(change(early, { timeNamespace: "other" }), local), false)
        isUnknown(yield* verifier.verify(change(early, { timeNamespace: null }), local), false)
        isUnknown(yield* verifier.verify(change(identity, { timeNamespace: null }), local), false)
      })
    )

    check(
      "another pid namespace cannot be told, whether a process has the pid or not",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const { end, identity } = yield* start
        const records = [change(identity, { pidNamespace: "1" }), change(identity, { pidNamespace: null })]
        for (const record of records) isUnknown(yield* verifier.verify(record, local), false)
        yield* end
        for (const record of records) isUnknown(yield* verifier.verify(record, local), false)
      })
    )

    check(
      "another boot of the same machine is a proof, on a local file system only",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const { identity } = yield* start
        const record = change(identity, { boot: "another-boot" })
        isDead(yield* verifier.verify(record, local), "D4")
        isUnknown(yield* verifier.verify(record, shared), false)
        // Namespaces are numbered by the kernel that ran then.
        isDead(yield* verifier.verify(change(record, { pidNamespace: "1" }), local), "D4")
      }),
      !boots
    )

    check(
      "another machine is another host, dead or alive",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const { end, identity } = yield* start
        const record = change(identity, { boot: "another-boot", machine: "another-machine" })
        isUnknown(yield* verifier.verify(record, local), true)
        yield* end
        isUnknown(yield* verifier.verify(record, local), true)
      })
    )

    check(
      "without a boot and a machine nothing can be told, not even of a pid that nobody has",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const { end, identity } = yield* start
        const record = change(identity, { boot: null, machine: null })
        isUnknown(yield* verifier.verify(record, local), false)
        yield* end
        isUnknown(yield* verifier.verify(record, local), false)
        isUnknown(yield* verifier.verify(change(record, { boot: "another-boot" }), local), false)
      })
    )

    check(
      "pids out of range are nobody's",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const self = yield* verifier.self
        for (const pid of [0x7fffffff, 0x80000000, 0xffffffff]) {
          isDead(yield* verifier.verify(change(self, { pid }), local), "D1")
          assert.isFalse(yield* verifier.signal(change(self, { pid }), "SIGKILL"))
        }
      })
    )

    check(
      "no record of a living process, whatever it lacks, is dead without D4 or another start",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const self = yield* verifier.self
        const word = (own: string | null) => FastCheck.constantFrom(own, null, "other", "1")
        const field = FastCheck.record({
          start: FastCheck.constantFrom(self.start, null),
          boot: word(self.boot),
          pidNamespace: word(self.pidNamespace),
          timeNamespace: word(self.timeNamespace),
          machine: word(self.machine)
        })
        for (const fields of FastCheck.sample(field, 25)) {
          for (const options of [local, shared]) {
            const verdict = yield* verifier.verify(change(self, fields), options)
            if (verdict._tag !== "Dead") continue
            assert.strictEqual(verdict.proof.rule, "D4", JSON.stringify({ fields, verdict }))
            assert.isTrue(
              boots &&
                options.local &&
                fields.machine === self.machine &&
                fields.boot !== null &&
                fields.boot !== self.boot
            )
          }
        }
      })
    )

    check(
      "a signal reaches the recorded process and nobody else",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const subject = yield* start
        const others: ReadonlyArray<Partial<InstanceRecord.ProcessIdentity>> = [
          { start: earlier(subject.identity.start!) },
          { start: null },
          { timeNamespace: "other" },
          { pidNamespace: "1" },
          { machine: "another-machine", boot: "another-boot" }
        ]
        for (const fields of others) {
          assert.isFalse(yield* verifier.signal(change(subject.identity, fields), "SIGKILL"), JSON.stringify(fields))
        }
        assert.isTrue(yield* subject.isAlive)
        isAlive(yield* verifier.verify(subject.identity, local))

        assert.isTrue(yield* verifier.signal(subject.identity, "SIGKILL"))
        yield* subject.end
        isDead(yield* verifier.verify(subject.identity, local), "D1")
        assert.isFalse(yield* verifier.signal(subject.identity, "SIGKILL"))
        assert.isFalse(yield* verifier.signal(subject.identity, "SIGTERM"))
      })
    )

    check(
      "SIGTERM ends a process, too",
      Effect.gen(function* () {
        const verifier = yield* PidVerifier
        const subject = yield* start
        assert.isTrue(yield* verifier.signal(subject.identity, "SIGTERM"))
        while (yield* subject.isAlive) yield* Effect.sleep("5 millis")
        isDead(yield* verifier.verify(subject.identity, local), "D1")
      })
    )
  })
}

// A start that differs in digits only, as that of another process does.
const earlier = (start: string): string => start.replace(/\d(?=\D*$)/, (digit) => String((Number(digit) + 1) % 10))
