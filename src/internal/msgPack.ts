/**
 * MessagePack, loaded when a conversation agrees on it: most never do.
 */
import * as Effect from "effect/Effect"
import type { Packr } from "msgpackr"

let packr: Packr | undefined

/** Must have run before anything is encoded; succeeds with whether this installation has it. */
export const load: Effect.Effect<boolean> = Effect.promise(async () => {
  try {
    const { Packr } = await import("msgpackr")
    // As maps with their keys: no state between frames, and readable by any other implementation.
    packr ??= new Packr({ useRecords: false, mapsAsObjects: true, variableMapSize: true })
    return true
  } catch {
    return false
  }
})

/** Messages are maps, whose first byte no JSON text begins with. */
export const isMsgPack = (frame: Uint8Array): boolean => frame[0]! >= 0x80

/** Leaves alone what JSON would write in another way. */
export const encode = (message: object): Uint8Array | undefined =>
  packr !== undefined && isPlain(message) ? packr.pack(message) : undefined

/** Throws where the bytes are none, or where none were agreed on. */
export const decode = (frame: Uint8Array): unknown => {
  if (packr === undefined) throw new Error("MessagePack was not agreed on")
  if (!isWhole(frame)) throw new Error("the frame is not one whole document")
  return packr.unpack(frame)
}

// Whether it is one value, whole, of what JSON knows. The decoder makes room for what is announced before it reads it: a
// few bytes could make it take gigabytes, so each item that is announced must have a byte of its own.
const isWhole = (frame: Uint8Array): boolean => {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  let at = 0
  let due = 1
  while (due > 0) {
    if (due > frame.length - at) return false
    due--
    const head = frame[at++]!
    if (head < 0x80 || head >= 0xe0) continue
    if (head < 0x90) due += 2 * (head & 0x0f)
    else if (head < 0xa0) due += head & 0x0f
    else if (head < 0xc0) at += head & 0x1f
    else {
      const width = widths[head - 0xc0]!
      if (width < 0) return false
      if (head >= 0xd9) {
        const length = width === 1 ? view.getUint8(at) : width === 2 ? view.getUint16(at) : view.getUint32(at)
        if (head < 0xdc) at += length
        else due += head < 0xde ? length : 2 * length
      }
      at += width
    }
  }
  return at === frame.length
}

// How many bytes of a number or a length follow the heads from 0xc0 on; no JSON knows what is marked -1: binary data,
// extensions, and the one that is never used.
const widths = [
  ...[0, -1, 0, 0, -1, -1, -1, -1, -1, -1, 4, 8, 1, 2, 4, 8],
  ...[1, 2, 4, 8, -1, -1, -1, -1, -1, 1, 2, 4, 2, 4, 2, 4]
]

const isPlain = (value: unknown): boolean => {
  switch (typeof value) {
    case "string":
      return (value as string & { isWellFormed(): boolean }).isWellFormed()
    case "number":
      return Number.isFinite(value) && !Object.is(value, -0)
    case "boolean":
      return true
    case "object": {
      if (value === null) return true
      if (Array.isArray(value)) return value.every(isPlain)
      const prototype = Object.getPrototypeOf(value)
      // Keys are strings, too; "__proto__" would not come out as it went in.
      return (
        (prototype === Object.prototype || prototype === null) &&
        Object.entries(value).every(([key, item]) => key !== "__proto__" && isPlain(key) && isPlain(item))
      )
    }
    default:
      return false
  }
}
