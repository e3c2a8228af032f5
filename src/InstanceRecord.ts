/**
 * The record of an owner: one frozen header line and a JSON document behind it.
 *
 * @since 0.1.0
 */
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import { Endpoint } from "./Endpoint.js"
import * as recordText from "./internal/recordText.js"

// One word of the header line; "-" stands for null there.
const HeaderField = Schema.NullOr(Schema.String.pipe(Schema.pattern(/^[!-,.-~][!-~]{0,127}$/)))

/**
 * Who a process is, so that another one that later has the same pid is not taken for it. What a platform does not
 * tell is `null`. Starts are in the kernel's own unit and only ever compared for equality.
 *
 * @since 0.1.0
 * @category schemas
 */
export class ProcessIdentity extends Schema.Class<ProcessIdentity>("effect-single-instance/ProcessIdentity")({
  pid: Schema.Int.pipe(Schema.between(1, 0xffff_ffff)),
  start: HeaderField,
  boot: HeaderField,
  pidNamespace: HeaderField,
  timeNamespace: HeaderField,
  machine: Schema.NullOr(Schema.String)
}) {}

/**
 * Whether two identities are those of one process, through whatever layer, worker or copy of this package.
 *
 * @since 0.1.0
 * @category guards
 */
export const isSameProcess = (a: ProcessIdentity, b: ProcessIdentity): boolean =>
  a.pid === b.pid && a.start === b.start && a.boot === b.boot && a.pidNamespace === b.pidNamespace

/**
 * The file in which an owner can be seen to live: a socket that it listens on or a file on which the kernel holds its
 * lock. Device and inode tell it from any other file that later has the name; decimal strings, as they exceed 2^53.
 *
 * @since 0.1.0
 * @category schemas
 */
export class Witness extends Schema.Class<Witness>("effect-single-instance/Witness")({
  name: Schema.NonEmptyString.pipe(Schema.pattern(/^[wk]\.[0-9a-f]{32}$/)),
  device: Schema.String,
  inode: Schema.String
}) {}

/**
 * 128 random bits as 32 hexadecimal digits: the identity of one candidature. Who succeeds an owner is decided in a file
 * that carries its nonce.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Nonce: Schema.filter<typeof Schema.String> = Schema.String.pipe(Schema.pattern(/^[0-9a-f]{32}$/))

/**
 * What an owner says about itself. `epoch` is the fencing token, greater than that of every earlier owner. `released`
 * marks a tombstone. Unknown fields of later versions are ignored.
 *
 * @since 0.1.0
 * @category schemas
 */
export class InstanceRecord extends Schema.Class<InstanceRecord>("effect-single-instance/InstanceRecord")({
  nonce: Nonce,
  epoch: Schema.NonNegativeInt,
  released: Schema.Boolean,
  process: ProcessIdentity,
  host: Schema.String,
  uid: Schema.NullOr(Schema.Int),
  version: Schema.NullOr(Schema.String),
  argv0: Schema.String,
  startedAt: Schema.NonNegativeInt,
  sequence: Schema.NonNegativeInt,
  witness: Schema.NullOr(Witness),
  key: Schema.String.pipe(Schema.pattern(/^([0-9a-f]{64})?$/)),
  endpoints: Schema.Array(Endpoint)
}) {}

/**
 * The largest record that is read, in bytes.
 *
 * @since 0.1.0
 * @category constants
 */
export const maxBytes: number = recordText.maxBytes

/**
 * Why bytes are no record of this version. `Newer` is a record of a later version of this package: an owner that lives.
 *
 * @since 0.1.0
 * @category models
 */
export type Unreadable = recordText.Unreadable

// The header repeats what a decision needs, at fixed places, so that every later version can still be judged.
const Body = Schema.parseJson(
  InstanceRecord.pipe(Schema.omit("nonce", "epoch", "released", "process")).pipe(
    Schema.extend(Schema.Struct({ machine: Schema.NullOr(Schema.String) }))
  )
)
const encodeBody = Schema.encodeSync(Body)
const decodeBody = Schema.decodeUnknownEither(Body)

/**
 * The bytes of a record: `ESI1 <nonce> <epoch> <pid> <start> <boot> <pidns> <timens> <flags> <check>`, a line feed and
 * the JSON document. `check` is the first 32 hexadecimal digits of SHA-256 over the rest of the file.
 *
 * @since 0.1.0
 * @category encoding
 */
export const encode = (record: InstanceRecord): Uint8Array => {
  const { epoch, nonce, process, released, ...rest } = record
  const { machine, pid, start, boot, pidNamespace, timeNamespace } = process
  return recordText.write(
    { nonce, epoch, released, pid, start, boot, pidNamespace, timeNamespace },
    encodeBody({ ...rest, machine })
  )
}

/**
 * Reads the bytes of a record. Never throws; anything torn, foreign or changed is `Corrupt`.
 *
 * @since 0.1.0
 * @category decoding
 */
export const decode = (bytes: Uint8Array): Either.Either<InstanceRecord, Unreadable> => {
  const text = recordText.read(bytes)
  if (text._tag !== "Text") return Either.left(text)
  const decoded = decodeBody(text.body)
  if (Either.isLeft(decoded)) {
    return Either.left({ _tag: "Corrupt", detail: "its JSON document is not that of a record" })
  }
  const { boot, epoch, nonce, pid, pidNamespace, released, start, timeNamespace } = text.header
  const { machine, ...rest } = decoded.right
  // All was checked above; to check again would cost more than all the rest.
  const process = new ProcessIdentity({ pid, start, boot, pidNamespace, timeNamespace, machine }, true)
  return Either.right(new InstanceRecord({ ...rest, nonce, epoch, released, process }, true))
}

/**
 * A record with other values in some fields. They are not checked.
 *
 * @since 0.1.0
 * @category constructors
 */
export const update = (
  record: InstanceRecord,
  changes: Partial<ConstructorParameters<typeof InstanceRecord>[0]>
): InstanceRecord => new InstanceRecord({ ...record, ...changes }, true)
