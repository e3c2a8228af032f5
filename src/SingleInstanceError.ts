/**
 * Everything that can go wrong between two launches, as three tagged errors with a literal `reason` each.
 *
 * @since 0.1.0
 */
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"

/**
 * @since 0.1.0
 * @category type ids
 */
export const TypeId: unique symbol = Symbol.for("effect-single-instance/SingleInstanceError")

/**
 * @since 0.1.0
 * @category type ids
 */
export type TypeId = typeof TypeId

/**
 * What is known of a message. `Delivered`: the exit of the primary's handler arrived. `NotDelivered`: certain, no handler
 * saw it and none will. `Unknown`: it was handed over and nobody could be asked what became of it.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Outcome: Schema.Literal<["Delivered", "NotDelivered", "Unknown"]> = Schema.Literal(
  "Delivered",
  "NotDelivered",
  "Unknown"
)

/**
 * @since 0.1.0
 * @category models
 */
export type Outcome = typeof Outcome.Type

/**
 * One endpoint that was tried, and why it did not serve.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Attempt: Schema.Struct<{
  protocol: typeof Schema.String
  address: typeof Schema.String
  reason: typeof Schema.String
  detail: typeof Schema.String
}> = Schema.Struct({
  protocol: Schema.String,
  address: Schema.String,
  reason: Schema.String,
  detail: Schema.String
})

/**
 * @since 0.1.0
 * @category models
 */
export type Attempt = typeof Attempt.Type

/**
 * Who holds the lock.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Owner: Schema.Struct<{
  pid: typeof Schema.Int
  epoch: typeof Schema.Int
  startedAt: typeof Schema.Int
  host: typeof Schema.String
  nonce: typeof Schema.String
}> = Schema.Struct({
  pid: Schema.Int,
  epoch: Schema.Int,
  startedAt: Schema.Int,
  host: Schema.String,
  nonce: Schema.String
})

/**
 * @since 0.1.0
 * @category models
 */
export type Owner = typeof Owner.Type

const advice = {
  AlreadyRunning:
    "another process is the primary; wait for its end with `wait` or `layerStandby`, or send it a message if it takes any",
  AlreadyHeldInProcess: "this process holds the lock already; provide one layer and share it",
  OwnerUnverifiable:
    "it cannot be told whether the recorded owner lives; if you are sure that it does not, break the lock",
  OwnerEnded: "wait until that command ends, or end it; `run --wait` waits for it",
  OwnerOnOtherHost: "the owner was recorded on another host; if you are sure that it is gone, break the lock",
  RecordUnreadable:
    "the record cannot be read and is never taken for stale; if you are sure that nobody runs, break the lock",
  RecordNewer: "the owner runs a later version of this package; update this one",
  DirectoryInsecure: "others could change the directory; correct its owner or mode, or choose another `directory`",
  DirectoryUnusable: "the directory cannot be used; correct the cause, or choose another `directory`",
  FilesystemUnsupported: "this file system cannot hold the lock; choose a `directory` on a local one",
  SystemUnsupported: "the lock needs this of the system; permit or mount it",
  IdInvalid: "an id has 1 to 1,024 characters; choose another one",
  ChainTooLong: "more than 1,000 starters died one after the other while they took over; break the lock",
  BreakRefused: "somebody lives; stop that process first",
  Lost: "somebody removed or replaced the lock; this process is not the primary any more"
} as const

/**
 * The election failed, or a primary lost the lock. `reason`:
 *
 * - `AlreadyRunning`: a primary lives; `owner` says who.
 * - `AlreadyHeldInProcess`: this very process is the primary already, through another layer, worker or copy of the package.
 * - `OwnerUnverifiable`, `OwnerOnOtherHost`: neither a proof of death nor a sign of life, e.g. across containers.
 * - `OwnerEnded`: the primary has ended, but a command that it started inherited the lock and still runs.
 * - `RecordUnreadable`: torn, huge, foreign or not a regular file; nothing was deleted.
 * - `RecordNewer`: written by a later version, which is taken for alive.
 * - `DirectoryInsecure`, `DirectoryUnusable`, `FilesystemUnsupported`: where the lock should live. `path` is what is
 *   refused, which may be a parent of the instance's folder; `DirectoryUnusable` without a `path` means that there was no
 *   telling where to look, as the user database could not be read, for example.
 * - `SystemUnsupported`: `/proc` is not mounted, or the process may not use Unix sockets (AF_UNIX).
 * - `IdInvalid`: the id is empty or longer than 1,024 characters.
 * - `ChainTooLong`: a bound that no ordinary use reaches.
 * - `BreakRefused`: `breakLock` found somebody alive.
 * - `Lost`: leadership ended on evidence while the primary ran.
 *
 * @since 0.1.0
 * @category errors
 */
export class LockError extends Schema.TaggedError<LockError>("effect-single-instance/LockError")("LockError", {
  reason: Schema.Literal(
    "AlreadyRunning",
    "AlreadyHeldInProcess",
    "OwnerUnverifiable",
    "OwnerEnded",
    "OwnerOnOtherHost",
    "RecordUnreadable",
    "RecordNewer",
    "DirectoryInsecure",
    "DirectoryUnusable",
    "FilesystemUnsupported",
    "SystemUnsupported",
    "IdInvalid",
    "ChainTooLong",
    "BreakRefused",
    "Lost"
  ),
  id: Schema.String,
  path: Schema.optional(Schema.String),
  detail: Schema.String,
  owner: Schema.optional(Owner),
  outcome: Schema.optionalWith(Outcome, { default: () => "NotDelivered" as const }),
  attempts: Schema.optionalWith(Schema.Array(Attempt), { default: () => [] }),
  cause: Schema.optional(Schema.Defect)
}) {
  /**
   * @since 0.1.0
   */
  readonly [TypeId]: TypeId = TypeId

  /**
   * @since 0.1.0
   */
  static is(u: unknown): u is LockError {
    return Predicate.hasProperty(u, TypeId) && Predicate.isTagged(u, "LockError")
  }

  /**
   * What happened and what to do, for a person.
   *
   * @since 0.1.0
   */
  override get message(): string {
    const who = this.owner === undefined ? "" : ` (owner: pid ${this.owner.pid} on ${this.owner.host})`
    const where = this.path === undefined ? "" : ` at ${this.path}`
    return `${shown(this.id)}${where}: ${this.detail}${who}. ${sentence(advice[this.reason])}`
  }
}

/**
 * A bound on waiting passed. `phase` says on what: `acquire` the election, `connect` a connection, `hello` the first
 * answer, `accept` the acceptance of the message, `reply` the exit of the handler. `outcome` says what is known of the
 * message; `pid` is the primary that kept silent.
 *
 * @since 0.1.0
 * @category errors
 */
export class TimeoutError extends Schema.TaggedError<TimeoutError>("effect-single-instance/TimeoutError")(
  "TimeoutError",
  {
    phase: Schema.Literal("acquire", "connect", "hello", "accept", "reply"),
    id: Schema.String,
    millis: Schema.Finite,
    pid: Schema.optional(Schema.Int),
    outcome: Outcome,
    messageId: Schema.optional(Schema.String),
    attempts: Schema.optionalWith(Schema.Array(Attempt), { default: () => [] })
  }
) {
  /**
   * @since 0.1.0
   */
  readonly [TypeId]: TypeId = TypeId

  /**
   * @since 0.1.0
   */
  static is(u: unknown): u is TimeoutError {
    return Predicate.hasProperty(u, TypeId) && Predicate.isTagged(u, "TimeoutError")
  }

  /**
   * The same as `phase`, under the name that the other errors use.
   *
   * @since 0.1.0
   */
  get reason(): TimeoutError["phase"] {
    return this.phase
  }

  /**
   * What happened and what to do, for a person.
   *
   * @since 0.1.0
   */
  override get message(): string {
    const [what, remedy] =
      this.pid === undefined
        ? ["no decision", "Allow more time with `timeout`, or see with `inspect` who holds the lock"]
        : [
            `process ${this.pid} did not answer`,
            "It may be stopped or busy; look at it, or allow more time with `timeout`"
          ]
    return `${shown(this.id)}: ${what} within ${Math.ceil(this.millis)} ms (${this.phase}; ${told[this.outcome]}). ${remedy}`
  }
}

const protocolAdvice = {
  Unavailable: "this protocol does not work here; add a fallback",
  Unreachable: "nobody listens there; the primary may just be leaving",
  EndpointOccupied: "something that is not ours is in the way; move it aside",
  Disconnected: "the connection was lost",
  Incompatible: "the two sides have no wire version in common; update the older one",
  Forbidden: "the other side could not prove that it belongs to this instance",
  ShuttingDown: "the primary is going away; try again",
  Busy: "the primary serves as many as it may; try again",
  NotPrimary: "the process there is not the primary any more; try again",
  TooLarge: "send less, or raise `maxFrameBytes` on both sides",
  Malformed: "the other side does not keep to the protocol, or the two contracts differ",
  Unsupported: "the other side does not know this kind of message; update it",
  Expired: "the message was older than its sender allowed",
  HandlerDefect: "the primary's handler died of a defect; see `cause`",
  HandlerInterrupted: "the primary's handler was interrupted before it ended",
  AllFailed: "there is no other way to reach the primary: see why with `inspect`"
} as const

/**
 * A conversation failed. `outcome` says what is known of the message, whatever the reason. `reason`:
 *
 * - `Unavailable`, `Unreachable`, `EndpointOccupied`: the protocol or endpoint cannot be used; the next one is tried.
 * - `Disconnected`: the connection was lost.
 * - `Incompatible`, `Forbidden`, `ShuttingDown`, `Busy`, `NotPrimary`: the primary refused.
 * - `TooLarge`, `Malformed`, `Unsupported`, `Expired`: the message itself.
 * - `HandlerDefect`, `HandlerInterrupted`: the message was delivered and the handler did not end well.
 * - `AllFailed`: no endpoint served; `attempts` has a reason for each.
 *
 * @since 0.1.0
 * @category errors
 */
export class ProtocolError extends Schema.TaggedError<ProtocolError>("effect-single-instance/ProtocolError")(
  "ProtocolError",
  {
    reason: Schema.Literal(
      "Unavailable",
      "Unreachable",
      "EndpointOccupied",
      "Disconnected",
      "Incompatible",
      "Forbidden",
      "ShuttingDown",
      "Busy",
      "NotPrimary",
      "TooLarge",
      "Malformed",
      "Unsupported",
      "Expired",
      "HandlerDefect",
      "HandlerInterrupted",
      "AllFailed"
    ),
    protocol: Schema.String,
    detail: Schema.String,
    outcome: Outcome,
    pid: Schema.optional(Schema.Int),
    attempts: Schema.optionalWith(Schema.Array(Attempt), { default: () => [] }),
    cause: Schema.optional(Schema.Defect)
  }
) {
  /**
   * @since 0.1.0
   */
  readonly [TypeId]: TypeId = TypeId

  /**
   * @since 0.1.0
   */
  static is(u: unknown): u is ProtocolError {
    return Predicate.hasProperty(u, TypeId) && Predicate.isTagged(u, "ProtocolError")
  }

  /**
   * What happened and what to do, for a person.
   *
   * @since 0.1.0
   */
  override get message(): string {
    const tried = this.attempts
      .map((attempt) => `\n  ${attempt.protocol} ${attempt.address}: ${attempt.detail}`)
      .join("")
    const who = this.pid === undefined ? "" : `process ${this.pid}; `
    return `${this.protocol}: ${this.detail} (${who}${told[this.outcome]}). ${sentence(protocolAdvice[this.reason])}${tried}`
  }
}

/**
 * @since 0.1.0
 * @category models
 */
export type SingleInstanceError = LockError | TimeoutError | ProtocolError

/**
 * @since 0.1.0
 * @category guards
 */
export const isSingleInstanceError = (u: unknown): u is SingleInstanceError => Predicate.hasProperty(u, TypeId)

const told = {
  Delivered: "the message was delivered",
  NotDelivered: "the message was not delivered",
  Unknown: "it is not known whether the message was delivered"
} as const

const shown = (id: string): string => JSON.stringify(id.length > 200 ? `${id.slice(0, 200)}…` : id)

const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1)
