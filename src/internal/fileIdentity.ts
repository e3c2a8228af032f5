/**
 * What tells a file from any other while it exists.
 */
import type { BigIntStats } from "node:fs"

export interface FileIdentity {
  readonly device: string
  readonly inode: string
}

/** The identity that a look at a file shows. */
export const of = ({ dev, ino }: Pick<BigIntStats, "dev" | "ino">): FileIdentity => ({
  device: deviceOf(String(dev)),
  inode: String(ino)
})

/** Whether a look shows the recorded file. */
export const isSame = (recorded: FileIdentity, stat: Pick<BigIntStats, "dev" | "ino">): boolean =>
  isEqual({ ...recorded, device: deviceOf(recorded.device) }, of(stat))

/** Whether two looks, at names in one directory, show the same file. */
export const isEqual = (one: FileIdentity, other: FileIdentity): boolean =>
  one.inode === other.inode && (one.device === other.device || isUntold(one) || isUntold(other))

// On Windows libuv 1.49 and 1.50 tell 64 bits of a volume's serial number for a name, and its lower 32 for a descriptor
// (libuv pull request 4698); some versions are said to tell 0 for a name. One directory is on one volume.
const isUntold = ({ device }: FileIdentity): boolean => process.platform === "win32" && device === "0"

const deviceOf = (device: string): string =>
  process.platform === "win32" && /^\d+$/.test(device) ? String(BigInt.asUintN(32, BigInt(device))) : device
