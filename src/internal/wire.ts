/**
 * What every side of the wire agrees on, before anybody reads a message.
 */
import { isAscii, isUtf8 } from "node:buffer"
import { createHmac, timingSafeEqual } from "node:crypto"

/** The wire versions that this version of the package speaks, lowest and highest. */
export const range: readonly [number, number] = [1, 1]

/** The largest frame that is accepted from a peer that has not yet proven who it is, in bytes. */
export const maxStrangerBytes = 65_536

/** With these a message is certainly not delivered, and the next attempt may find another primary, or none. */
export const passing: ReadonlySet<string> = new Set([
  "AllFailed",
  "Unreachable",
  "Disconnected",
  "ShuttingDown",
  "Busy",
  "NotPrimary",
  "connect",
  "hello"
])

/** What a frame in JSON holds. Throws an error that says what is wrong with it. */
export const parse = (frame: Uint8Array): unknown => {
  // Most are, and are read in a third of the time.
  const encoding = isAscii(frame) ? "latin1" : "utf8"
  if (encoding === "utf8" && !isUtf8(frame)) throw new Error("the frame is not UTF-8")
  try {
    return JSON.parse(bufferOf(frame).toString(encoding))
  } catch {
    throw new Error("the frame is no JSON document")
  }
}

const bufferOf = (frame: Uint8Array): Buffer =>
  Buffer.isBuffer(frame) ? frame : Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength)

/** The bytes of a frame that may be a text. */
export const bytesOf = (frame: Uint8Array | string): Uint8Array =>
  typeof frame === "string" ? Buffer.from(frame) : frame

/** How many they are. */
export const sizeOf = (frame: Uint8Array | string): number =>
  typeof frame === "string" ? Buffer.byteLength(frame) : frame.byteLength

/** Whether they are so many at most; a text is seldom counted for that. */
export const fits = (frame: Uint8Array | string, most: number): boolean =>
  // A character has three bytes at most.
  (typeof frame === "string" && frame.length * 3 <= most) || sizeOf(frame) <= most

/** Whether it can be a message. */
export const isTagged = (value: unknown): value is { readonly _tag: string } =>
  typeof value === "object" && value !== null && "_tag" in value && typeof value._tag === "string"

/** What both sides must agree on for a proof. */
export interface Transcript {
  readonly recordNonce: string
  readonly clientNonce: string
  readonly serverNonce: string
  readonly clientWire: readonly [number, number]
  readonly serverWire: readonly [number, number]
  readonly address: string
}

/** The proof of one side, each part of the transcript with its length before it. */
export const mac = (key: string, role: "server" | "client", transcript: Transcript): string => {
  const hmac = createHmac("sha256", Buffer.from(key, "hex"))
  const { address, clientNonce, clientWire, recordNonce, serverNonce, serverWire } = transcript
  for (const part of [role, recordNonce, clientNonce, serverNonce, `${clientWire}`, `${serverWire}`, address]) {
    const length = Buffer.alloc(4)
    length.writeUInt32BE(Buffer.byteLength(part))
    hmac.update(length).update(part)
  }
  return hmac.digest("hex")
}

/** Compares two proofs in constant time. */
export const isSameMac = (a: string, b: string): boolean => {
  const left = Buffer.from(a)
  const right = Buffer.from(b)
  return left.length === right.length && timingSafeEqual(left, right)
}
