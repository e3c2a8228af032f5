/**
 * Reads the file of a record, whatever may stand in its place.
 */
import * as fs from "node:fs"
import { isMissing } from "./errno.js"
import { maxBytes } from "./recordText.js"

/** What stands under a name. `Special` is anything but a regular file; `identity` then tells it from any other. */
export type Content =
  | { readonly _tag: "Missing" }
  | { readonly _tag: "Bytes"; readonly bytes: Uint8Array }
  | { readonly _tag: "TooLarge"; readonly size: number; readonly head: Uint8Array }
  | { readonly _tag: "Special"; readonly kind: string; readonly identity: string }

const noFollow = fs.constants.O_NOFOLLOW ?? 0

/** Never waits, follows no link and reads no more than a record may have; throws what the system says. */
export const read = (name: string): Content => {
  let fd: number
  try {
    // Without O_NONBLOCK a FIFO in the record's place would hold us up for ever.
    fd = fs.openSync(name, fs.constants.O_RDONLY | noFollow | (fs.constants.O_NONBLOCK ?? 0))
  } catch (cause) {
    if (isMissing(cause)) return { _tag: "Missing" }
    const stat = fs.lstatSync(name, { throwIfNoEntry: false })
    if (stat === undefined) return { _tag: "Missing" }
    if (stat.isFile()) throw cause
    return special(stat)
  }
  try {
    const stat = fs.fstatSync(fd)
    if (!stat.isFile()) return special(stat)
    const bytes = Buffer.alloc(Math.min(stat.size, maxBytes))
    let length = 0
    while (length < bytes.length) {
      const more = fs.readSync(fd, bytes, length, bytes.length - length, length)
      if (more === 0) break
      length += more
    }
    return stat.size > maxBytes
      ? { _tag: "TooLarge", size: stat.size, head: bytes }
      : { _tag: "Bytes", bytes: bytes.subarray(0, length) }
  } finally {
    fs.closeSync(fd)
  }
}

const special = (stat: fs.Stats): Content => {
  const kind = stat.isDirectory()
    ? "directory"
    : stat.isSymbolicLink()
      ? "symbolic link"
      : stat.isFIFO()
        ? "FIFO"
        : stat.isSocket()
          ? "socket"
          : "device"
  return { _tag: "Special", kind, identity: `${kind} ${stat.dev} ${stat.ino}` }
}
