/**
 * A lock of the kernel on a file: held by a process as long as it lives, on macOS and Windows.
 */
import * as fs from "node:fs"
import * as errno from "./errno.js"

/** What a look at the lock of a file shows. */
export type Look =
  | { readonly _tag: "Held" }
  /** Nobody holds it; the file is told, as another one may have the name. */
  | { readonly _tag: "Free"; readonly stat: fs.BigIntStats }
  | { readonly _tag: "Unclear"; readonly code: string }

interface Flags {
  readonly hold: number
  readonly look: number
}

// Whoever only looks excludes the holder and nobody else, so that two who look do not take each other for the holder.
// macOS: O_EXLOCK or O_SHLOCK, and O_NONBLOCK. Windows: UV_FS_O_EXLOCK, no sharing; each other opening shares.
const flags = (): Flags =>
  process.platform === "darwin" ? { hold: 0x20 | 0x4, look: 0x10 | 0x4 } : { hold: 0x10000000, look: 0 }

/**
 * Creates the file and takes its lock. Throws what the system says, `EEXIST` where the name is taken, and leaves no file
 * behind where it cannot be locked.
 */
export const create = (file: string): number => {
  const { O_CREAT, O_EXCL, O_RDWR } = fs.constants
  try {
    return fs.openSync(file, O_CREAT | O_EXCL | O_RDWR | flags().hold, 0o600)
  } catch (cause) {
    // macOS creates the file before it locks it.
    if (!errno.isExisting(cause)) fs.rmSync(file, { force: true })
    throw cause
  }
}

/** Looks whether somebody holds the lock. Never throws, and keeps nothing. */
export const look = (file: string): Look => {
  try {
    const fd = fs.openSync(file, fs.constants.O_RDONLY | flags().look)
    try {
      return { _tag: "Free", stat: fs.fstatSync(fd, { bigint: true }) }
    } finally {
      fs.closeSync(fd)
    }
  } catch (cause) {
    return errno.isBusy(cause) ? { _tag: "Held" } : { _tag: "Unclear", code: errno.code(cause) }
  }
}
