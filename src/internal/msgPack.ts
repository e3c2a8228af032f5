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
    packr ??= new Packr({ useRecords: false, mapsAsObjects: true })
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
  return packr.unpack(frame)
}

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
