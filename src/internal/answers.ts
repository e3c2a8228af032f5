/**
 * What a second launch reads, without a schema library: the record, and what a primary says to it. Whatever is accepted
 * here the schemas of `InstanceRecord` and `Message` accept, too, with the same values.
 */
import * as recordText from "./recordText.js"
import * as shape from "./shape.js"
import * as wire from "./wire.js"

const range = shape.pairOf(shape.int)
const natural = shape.where(shape.int, (value) => value >= 0)
const positive = shape.where(shape.int, (value) => value > 0)
const id = shape.where(shape.string, ({ length }) => length > 0 && length <= 128)

const isBody = shape.struct({
  host: shape.string,
  uid: shape.nullOr(shape.int),
  version: shape.nullOr(shape.string),
  argv0: shape.string,
  startedAt: natural,
  sequence: natural,
  witness: shape.nullOr(
    shape.struct({ name: shape.text(/^[wk]\.[0-9a-f]{32}$/), device: shape.string, inode: shape.string })
  ),
  key: shape.text(/^([0-9a-f]{64})?$/),
  endpoints: shape.arrayOf(
    shape.struct({
      protocol: shape.where(shape.string, ({ length }) => length > 0),
      address: shape.text(/^[a-z][a-z0-9+.-]*:\S+$/),
      wire: range
    })
  ),
  machine: shape.nullOr(shape.string)
})

/** An owner that says where it listens. */
export interface Owner {
  readonly nonce: string
  readonly key: string
  readonly endpoints: ReadonlyArray<{ readonly protocol: string; readonly address: string }>
}

/** The living owner of a record; of anything else why it is none. */
export const readRecord = (bytes: Uint8Array): Owner | string => {
  const text = recordText.read(bytes)
  if (text._tag !== "Text") return text._tag === "Newer" ? "the record is that of a later version" : text.detail
  if (text.header.released) return "the last primary released the lock"
  let body: unknown
  try {
    body = JSON.parse(text.body)
  } catch {
    body = undefined
  }
  if (!isBody(body)) return "its JSON document is not that of a record"
  return { nonce: text.header.nonce, key: body.key, endpoints: body.endpoints }
}

const shapes = {
  Welcome: shape.struct({
    _tag: shape.literal("Welcome"),
    wire: shape.int,
    range,
    nonce: shape.text(/^[0-9a-f]{32}$/),
    mac: shape.text(/^[0-9a-f]{64}$/),
    pid: shape.int,
    version: shape.nullOr(shape.string),
    epoch: shape.int,
    maxInFlight: positive,
    maxFrameBytes: positive,
    // Another one was not asked for.
    encoding: shape.optional(shape.literal("json"))
  }),
  Refused: shape.struct({
    _tag: shape.literal("Refused"),
    reason: shape.literal("Incompatible", "Forbidden", "ShuttingDown", "Busy", "NotPrimary", "Malformed", "Expired"),
    detail: shape.optional(shape.string),
    id: shape.optional(id)
  }),
  Accepted: shape.struct({ _tag: shape.literal("Accepted"), id }),
  Output: shape.struct({
    _tag: shape.literal("Output"),
    id,
    stream: shape.literal("stdout", "stderr"),
    chunk: shape.string
  }),
  Exit: shape.struct({ _tag: shape.literal("Exit"), id, exit: shape.anything }),
  State: shape.struct({
    _tag: shape.literal("State"),
    id,
    state: shape.literal("unknown", "struck", "pending", "running", "done"),
    exit: shape.optional(shape.anything)
  }),
  Unsupported: shape.struct({ _tag: shape.literal("Unsupported"), tag: shape.string, id: shape.optional(id) })
}

/** A message of a primary that a second launch heeds. */
export type Answer = { [K in keyof typeof shapes]: shape.TypeOf<(typeof shapes)[K]> }[keyof typeof shapes]

export type Welcome = Extract<Answer, { readonly _tag: "Welcome" }>

/** What a frame says; `undefined` where that is nothing for us, and a string where it keeps to no protocol. */
export const read = (frame: Uint8Array): Answer | undefined | string => {
  let value: unknown
  try {
    value = wire.parse(frame)
  } catch (cause) {
    return (cause as Error).message
  }
  if (!wire.isTagged(value)) return "the frame holds no tagged message"
  if (!Object.hasOwn(shapes, value._tag)) return undefined
  const isWhole: shape.Shape<Answer> = shapes[value._tag as Answer["_tag"]]
  return isWhole(value) ? value : `the ${value._tag} message lacks what it must have`
}
