/**
 * What two sides say to each other, once a protocol carries their frames.
 *
 * @since 0.1.0
 */
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import { WireRange } from "./Endpoint.js"
import { lazy } from "./internal/lazy.js"
import * as msgPack from "./internal/msgPack.js"
import * as shared from "./internal/wire.js"

/**
 * The wire versions that this version of the package speaks.
 *
 * @since 0.1.0
 * @category constants
 */
export const wire: WireRange = shared.range

// `Schema.Record` assigns each key to a new object, which loses a variable called `__proto__`.
const Variables = Schema.declare(
  (u): u is { readonly [name: string]: string } =>
    typeof u === "object" &&
    u !== null &&
    !Array.isArray(u) &&
    Object.values(u).every((value) => typeof value === "string"),
  {
    identifier: "Variables",
    arbitrary: () => (fc) => fc.dictionary(fc.string(), fc.string(), { noNullPrototype: true })
  }
)

/**
 * How a process was started: what a launch tells the primary about itself. `env` holds only what the caller chose;
 * `data` is any JSON value.
 *
 * @since 0.1.0
 * @category schemas
 */
export class Launch extends Schema.Class<Launch>("effect-single-instance/Launch")({
  argv: Schema.Array(Schema.String),
  cwd: Schema.String,
  env: Variables,
  data: Schema.optional(Schema.Unknown),
  stdin: Schema.optional(Schema.Uint8ArrayFromBase64)
}) {}

const maxIdLength = 128
const Id = Schema.NonEmptyString.pipe(Schema.maxLength(maxIdLength))
const Mac = Schema.String.pipe(Schema.pattern(/^[0-9a-f]{64}$/))
const Random = Schema.String.pipe(Schema.pattern(/^[0-9a-f]{32}$/))
const Limit = Schema.Int.pipe(Schema.positive())

/**
 * How messages are written in frames. Both are read at any time: a frame tells by its first byte.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Encoding: Schema.Literal<["json", "msgpack"]> = Schema.Literal("json", "msgpack")

/**
 * @since 0.1.0
 * @category models
 */
export type Encoding = typeof Encoding.Type

const Client = Schema.Struct({
  pid: Schema.Int,
  version: Schema.NullOr(Schema.String),
  maxFrameBytes: Schema.optional(Limit)
})

/**
 * The first message, from the secondary. No payload travels before both sides have proven that they know the key; where
 * the transport vouches for both, `client` and the nonce of the primary that is meant, `primary`, stand for the proofs.
 * `encoding` is the one that the secondary would like.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Hello = Schema.TaggedStruct("Hello", {
  wire: WireRange,
  id: Schema.String,
  nonce: Random,
  encoding: Schema.optional(Schema.String),
  client: Schema.optional(Client),
  primary: Schema.optional(Schema.String)
})

/**
 * The primary's answer: it knows the key, speaks `wire`, and serves so many requests of this connection at once. What
 * follows is written in `encoding`, JSON where it is left out.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Welcome = Schema.TaggedStruct("Welcome", {
  wire: Schema.Int,
  range: WireRange,
  nonce: Random,
  mac: Mac,
  pid: Schema.Int,
  version: Schema.NullOr(Schema.String),
  epoch: Schema.Int,
  maxInFlight: Limit,
  maxFrameBytes: Limit,
  encoding: Schema.optional(Encoding)
})

/**
 * The secondary knows the key, too. Without `maxFrameBytes` it reads frames as large as the primary does.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Proof = Schema.TaggedStruct("Proof", { mac: Mac, ...Client.fields })

/**
 * The primary declines: the connection, or with `id` one request, which then never starts.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Refused = Schema.TaggedStruct("Refused", {
  reason: Schema.Literal("Incompatible", "Forbidden", "ShuttingDown", "Busy", "NotPrimary", "Malformed", "Expired"),
  detail: Schema.optional(Schema.String),
  id: Schema.optional(Id)
})

/**
 * A message for the primary's handler. `launch` is left out where it is that of the connection's request before;
 * `deadline` is the wall clock in milliseconds after which it must not start any more. With `repeatable` the sender asked
 * for at-least-once delivery; `redelivered` where an earlier primary may have had it.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Request = Schema.TaggedStruct("Request", {
  id: Id,
  payload: Schema.optional(Schema.Unknown),
  launch: Schema.optional(Schema.encodedSchema(Launch)),
  trace: Schema.optional(Schema.Struct({ traceId: Schema.String, spanId: Schema.String, sampled: Schema.Boolean })),
  deadline: Schema.optional(Schema.Finite),
  detached: Schema.optional(Schema.Boolean),
  repeatable: Schema.optional(Schema.Boolean),
  redelivered: Schema.optional(Schema.Boolean)
})

/**
 * @since 0.1.0
 * @category models
 */
export type Request = typeof Request.Type

/**
 * The handler runs. Left out where the exit follows at once.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Accepted = Schema.TaggedStruct("Accepted", { id: Id })

/**
 * The request is kept, but no handler is installed yet.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Starting = Schema.TaggedStruct("Starting", { id: Id })

/**
 * What the handler writes while it runs; `chunk` in base64.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Output = Schema.TaggedStruct("Output", {
  id: Id,
  stream: Schema.Literal("stdout", "stderr"),
  chunk: Schema.String
})

/**
 * How the handler ended: an encoded `Schema.Exit`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Exit = Schema.TaggedStruct("Exit", { id: Id, exit: Schema.Unknown })

/**
 * The sender was interrupted: interrupt the handler.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Interrupt = Schema.TaggedStruct("Interrupt", { id: Id })

/**
 * What became of a request? With `strike`, one that has not started never will.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Status = Schema.TaggedStruct("Status", { id: Id, strike: Schema.Boolean })

/**
 * The answer to `Status`. Where it is `running`, the exit follows on this connection.
 *
 * @since 0.1.0
 * @category schemas
 */
export const State = Schema.TaggedStruct("State", {
  id: Id,
  state: Schema.Literal("unknown", "struck", "pending", "running", "done"),
  exit: Schema.optional(Schema.Unknown)
})

/**
 * @since 0.1.0
 * @category models
 */
export type State = typeof State.Type

/**
 * @since 0.1.0
 * @category schemas
 */
export const Ping = Schema.TaggedStruct("Ping", {})

/**
 * @since 0.1.0
 * @category schemas
 */
export const Pong = Schema.TaggedStruct("Pong", {})

/**
 * @since 0.1.0
 * @category schemas
 */
export const Inspect = Schema.TaggedStruct("Inspect", { id: Id })

/**
 * How busy the primary is.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Inspected = Schema.TaggedStruct("Inspected", {
  id: Id,
  connections: Schema.Int,
  inFlight: Schema.Int,
  handled: Schema.Int,
  serving: Schema.Boolean
})

/**
 * The secondary wants to hear what the primary broadcasts, from `Listening` on.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Listen = Schema.TaggedStruct("Listen", { id: Id })

/**
 * @since 0.1.0
 * @category schemas
 */
export const Listening = Schema.TaggedStruct("Listening", { id: Id })

/**
 * What the primary says to all who listen. `missed` counts those before it that this connection was too slow for.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Broadcast = Schema.TaggedStruct("Broadcast", {
  payload: Schema.optional(Schema.Unknown),
  missed: Schema.optional(Schema.NonNegativeInt)
})

/**
 * A tag that this side does not know; nothing else on the connection is touched.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Unsupported = Schema.TaggedStruct("Unsupported", { tag: Schema.String, id: Schema.optional(Id) })

const schemas = {
  Hello,
  Welcome,
  Proof,
  Refused,
  Request,
  Accepted,
  Starting,
  Output,
  Exit,
  Interrupt,
  Status,
  State,
  Ping,
  Pong,
  Inspect,
  Inspected,
  Listen,
  Listening,
  Broadcast,
  Unsupported
}

/**
 * @since 0.1.0
 * @category models
 */
export type Message = { readonly [K in keyof typeof schemas]: (typeof schemas)[K]["Type"] }[keyof typeof schemas]

/**
 * @since 0.1.0
 * @category schemas
 */
export const Message: Schema.Schema<Message> = Schema.Union(...Object.values(schemas)) as any

/**
 * A well-formed message with a tag that only a later version knows.
 *
 * @since 0.1.0
 * @category models
 */
export interface Unrecognised {
  readonly _tag: "Unrecognised"
  readonly tag: string
  readonly id: string | undefined
}

/**
 * The frame of a message. Throws what `JSON.stringify` throws where a payload cannot be JSON, such as a `bigint`.
 * MessagePack carries only what is JSON, so that a contract does not depend on the encoding; a message with anything else
 * in it, or with text that is not well-formed Unicode, is written as JSON.
 *
 * @since 0.1.0
 * @category encoding
 */
export const encode = (message: Message, encoding?: Encoding): Uint8Array => shared.bytesOf(write(message, encoding))

/**
 * The same, as a text where it is JSON: who writes it into memory of its own needs no bytes.
 *
 * @since 0.1.0
 * @category encoding
 */
export const write = (message: Message, encoding: Encoding = "json"): Uint8Array | string =>
  (encoding === "msgpack" && msgPack.encode(message)) || textOf(message)

// Of the two that come with every request the envelope is written by hand: twice as fast.
const textOf = (message: Message): string => {
  if (!isUsual(message)) return JSON.stringify(message)
  const { _tag, id } = message
  const rest =
    _tag === "Exit"
      ? field("exit", message.exit)
      : `${message.deadline === undefined ? "" : `,"deadline":${message.deadline}`}${field("payload", message.payload)}`
  return `{"_tag":"${_tag}","id":${JSON.stringify(id)}${rest}}`
}

const field = (name: string, value: unknown): string => {
  const text = JSON.stringify(value)
  return text === undefined ? "" : `,"${name}":${text}`
}

/**
 * Reads a frame. A guard per tag, as a union of all would try one after the other.
 *
 * @since 0.1.0
 * @category decoding
 */
export const decode = (frame: Uint8Array): Either.Either<Message | Unrecognised, string> => {
  const isJson = !msgPack.isMsgPack(frame)
  let value: unknown
  try {
    value = isJson ? shared.parse(frame) : msgPack.decode(frame)
  } catch (cause) {
    return Either.left(isJson ? (cause as Error).message : "the frame is no MessagePack document")
  }
  if (!shared.isTagged(value)) return Either.left("the frame holds no tagged message")
  const tag = value._tag
  if (!Object.hasOwn(guards, tag)) {
    const id = "id" in value && isId(value.id) ? value.id : undefined
    return Either.right({ _tag: "Unrecognised", tag: tag.slice(0, 64), id })
  }
  return isUsual(value) || guards[tag]!(value)
    ? Either.right(value as Message)
    : Either.left(`the ${tag} message lacks what it must have`)
}

const isId = Schema.is(Id)

// The two that come with every request, where nothing is unusual about them: to ask the schema takes as long as all the
// rest of reading one.
const isUsual = (value: { readonly [field: string]: unknown }): value is Request | typeof Exit.Type => {
  const { _tag, id } = value
  if (typeof id !== "string" || id.length === 0 || id.length > maxIdLength) return false
  if (_tag === "Exit") return value.exit !== undefined
  return (
    _tag === "Request" &&
    value.launch === undefined &&
    value.trace === undefined &&
    value.detached === undefined &&
    value.repeatable === undefined &&
    value.redelivered === undefined &&
    (value.deadline === undefined || Number.isFinite(value.deadline))
  )
}

// Most conversations need a few of them only.
const guards: Record<string, (value: unknown) => boolean> = Object.fromEntries(
  Object.entries(schemas).map(([tag, schema]) => [tag, lazy(() => Schema.is(schema as Schema.Schema<any>))])
)

/**
 * What both sides must agree on for a proof: a relay or a squatter differs in at least one of them.
 *
 * @since 0.1.0
 * @category models
 */
export type Transcript = shared.Transcript

/**
 * The proof of one side: HMAC-SHA-256 with the record's key over the role and the transcript, each part with its length
 * before it so that no two transcripts read the same.
 *
 * @since 0.1.0
 * @category authentication
 */
export const mac: (key: string, role: "server" | "client", transcript: Transcript) => string = shared.mac

/**
 * Compares two proofs in constant time.
 *
 * @since 0.1.0
 * @category authentication
 */
export const isSameMac: (a: string, b: string) => boolean = shared.isSameMac
