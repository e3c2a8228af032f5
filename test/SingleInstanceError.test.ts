import { assert, describe, it } from "@effect/vitest"
import { deepStrictEqual } from "@effect/vitest/utils"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import * as Schema from "effect/Schema"
import {
  type Attempt,
  isSingleInstanceError,
  LockError,
  type Outcome,
  type Owner,
  ProtocolError,
  type SingleInstanceError,
  TimeoutError,
  TypeId
} from "effect-single-instance/SingleInstanceError"

const owner: Owner = { pid: 4711, epoch: 9, startedAt: 1767225600123, host: "mars", nonce: "0".repeat(32) }
const attempts: ReadonlyArray<Attempt> = [
  { protocol: "unix", address: "unix:s.1", reason: "Unreachable", detail: "connect ECONNREFUSED" },
  { protocol: "tcp", address: "tcp://127.0.0.1:1", reason: "Forbidden", detail: "a wrong proof" }
]
const outcomes: ReadonlyArray<Outcome> = ["Delivered", "NotDelivered", "Unknown"]
const toldOf = (error: SingleInstanceError) =>
  error.message.match(/(it is not known whether the message was|the message was not|the message was) delivered/g)

// Every reason, with and without what is optional.
const locks = LockError.fields.reason.literals.map((reason) => ({
  bare: new LockError({ reason, id: "app", detail: "so it was" }),
  full: new LockError({
    reason,
    id: "app",
    detail: "so it was",
    path: "/run/app/lock",
    owner,
    outcome: "NotDelivered",
    attempts,
    cause: new Error("boom")
  })
}))
const timeouts = TimeoutError.fields.phase.literals.flatMap((phase) =>
  outcomes.map((outcome) => ({
    bare: new TimeoutError({ phase, id: "app", millis: 20_000, outcome }),
    full: new TimeoutError({ phase, id: "app", millis: 20_000, outcome, pid: 4711, messageId: "m1", attempts })
  }))
)
const protocols = ProtocolError.fields.reason.literals.flatMap((reason) =>
  outcomes.map((outcome) => ({
    bare: new ProtocolError({ reason, protocol: "unix", detail: "so it was", outcome }),
    full: new ProtocolError({
      reason,
      protocol: "unix",
      detail: "so it was",
      outcome,
      pid: 4711,
      attempts,
      cause: new Error("boom")
    })
  }))
)
const all: ReadonlyArray<SingleInstanceError> = [...locks, ...timeouts, ...protocols].flatMap(({ bare, full }) => [
  bare,
  full
])

describe("SingleInstanceError", () => {
  it("has a message for every reason", () => {
    for (const error of all) {
      assert.notMatch(error.message, /undefined|null|NaN|\[object/, error.message)
      // What happened, then advice: a sentence that begins with a capital.
      assert.match(error.message, /^("app"|unix)\S*.*(so it was|did not answer|no decision).*[.] [A-Z][^.]{15,}/)
      assert.strictEqual(String(error), `${error._tag}: ${error.message}`)
    }
  })

  it("has advice of its own for every reason", () => {
    const advice = new Set([...locks, ...protocols].map(({ bare }) => bare.message.split(/so it was[^.]*\. /)[1]))
    assert.strictEqual(
      advice.size,
      LockError.fields.reason.literals.length + ProtocolError.fields.reason.literals.length
    )
  })

  it("says who, where and what is known of the message", () => {
    for (const { full } of locks) {
      for (const part of ["/run/app/lock", "pid 4711", "mars"]) assert.include(full.message, part)
    }
    for (const { bare, full } of [...timeouts, ...protocols]) {
      const told = {
        Delivered: "the message was delivered",
        NotDelivered: "the message was not delivered",
        Unknown: "it is not known whether the message was delivered"
      }
      for (const error of [bare, full]) deepStrictEqual<unknown>([...(toldOf(error) ?? [])], [told[error.outcome]])
    }
    for (const { full } of timeouts) assert.match(full.message, /process 4711 .* 20000 ms/)
    for (const { full } of protocols) {
      for (const attempt of attempts) {
        assert.include(full.message, `\n  ${attempt.protocol} ${attempt.address}: ${attempt.detail}`)
      }
    }
  })

  it("quotes ids, so that none of them breaks a line or controls a terminal", () => {
    const id = "\u001b[31m\n\0"
    for (const error of [
      new LockError({ reason: "Lost", id, detail: "x" }),
      new TimeoutError({ phase: "hello", id, millis: 1, outcome: "Unknown" })
    ]) {
      assert.include(error.message, '"\\u001b[31m\\n\\u0000"')
    }
  })

  it("is known by its guards", () => {
    const guards = { LockError, TimeoutError, ProtocolError }
    for (const error of all) {
      assert.isTrue(isSingleInstanceError(error))
      for (const [name, guard] of Object.entries(guards)) assert.strictEqual(guard.is(error), name === error._tag)
    }
    for (const [name, guard] of Object.entries(guards)) {
      // Made by another copy of the package.
      assert.isTrue(guard.is({ _tag: name, [TypeId]: TypeId }))
      for (const other of [{ _tag: name }, new Error(name), name, null, undefined, 1]) assert.isFalse(guard.is(other))
    }
    for (const other of [{ _tag: "LockError" }, new Error("LockError"), "LockError", null, undefined, 1]) {
      assert.isFalse(isSingleInstanceError(other))
    }
    assert.strictEqual(TypeId, Symbol.for("effect-single-instance/SingleInstanceError"))
  })

  it("has a reason under one name", () => {
    for (const { full } of timeouts) assert.strictEqual(full.reason, full.phase)
  })

  it("knows nothing of a message that nobody spoke of", () => {
    const { bare } = locks[0]!
    deepStrictEqual([bare.outcome, bare.attempts], ["NotDelivered", []])
    deepStrictEqual(
      [...timeouts, ...protocols].flatMap(({ bare }) => bare.attempts),
      []
    )
  })

  it("crosses a wire", () => {
    const schema = Schema.Union(LockError, TimeoutError, ProtocolError)
    for (const error of all) {
      const decoded = Schema.decodeUnknownSync(schema)(overJson(Schema.encodeSync(schema)(error)))
      assert.strictEqual(decoded.constructor, error.constructor)
      assert.strictEqual(decoded.message, error.message)
      deepStrictEqual(Schema.encodeSync(schema)(decoded), Schema.encodeSync(schema)(error))
    }
  })

  const { cause: _, ...lockFields } = LockError.fields
  const { cause: __, ...protocolFields } = ProtocolError.fields
  const cause = FastCheck.option(
    FastCheck.string().map((message) => Object.assign(new Error(message), { name: "SomeError" })),
    { nil: undefined }
  )
  it.prop(
    "decodes what it encodes",
    {
      lock: Schema.typeSchema(Schema.Struct(lockFields)),
      timeout: Schema.typeSchema(Schema.Struct(TimeoutError.fields)),
      protocol: Schema.typeSchema(Schema.Struct(protocolFields)),
      cause
    },
    ({ cause, lock, protocol, timeout }) => {
      const withCause = cause === undefined ? {} : { cause }
      inverse(LockError, new LockError({ ...lock, ...withCause }))
      inverse(TimeoutError, new TimeoutError(timeout))
      inverse(ProtocolError, new ProtocolError({ ...protocol, ...withCause }))
    }
  )

  it.effect("is caught by its tag", () =>
    Effect.gen(function* () {
      const caught = yield* Effect.forEach(all, (error) =>
        Effect.catchTags(Effect.fail(error), {
          LockError: (error) => Effect.succeed(error.reason),
          TimeoutError: (error) => Effect.succeed(error.phase),
          ProtocolError: (error) => Effect.succeed(error.reason)
        })
      )
      deepStrictEqual<ReadonlyArray<string>>(
        caught,
        all.map((error) => error.reason)
      )
    })
  )
})

function overJson(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value))
}

function inverse<A extends SingleInstanceError, I>(schema: Schema.Schema<A, I>, error: A): void {
  const decoded = Schema.decodeUnknownSync(schema)(overJson(Schema.encodeSync(schema)(error)))
  assert.strictEqual(decoded.constructor, error.constructor)
  const { cause: found, ...fields } = decoded
  const { cause: given, ...expected } = error
  deepStrictEqual<unknown>(overJson(fields), overJson(expected))
  assert.strictEqual(String(found), String(given))
}
