/**
 * Whether a directory's file system is this machine's alone, or shared with others.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import * as Effect from "effect/Effect"
import * as systemProgram from "./systemProgram.js"

// The types that statfs(2) tells on Linux. ext2/3/4, xfs, btrfs, zfs, f2fs, tmpfs, overlay.
const local = new Set([0xef53, 0x58465342, 0x9123683e, 0x2fc12fc1, 0xf2f52010, 0x01021994, 0x794c7630])
// nfs, smb, cifs, smb2, afs, 9p, ceph, lustre.
const shared = new Set([0x6969, 0x517b, 0xff534d42, 0xfe534d42, 0x5346414f, 0x01021997, 0x00c36400, 0x0bd00bd0])

/**
 * It is known to be this machine's alone, without a program having been asked. `type` is what statfs(2) tells, which means
 * something on Linux only.
 */
export const isSurelyLocal = (directory: string, type: number): boolean => {
  switch (process.platform) {
    case "linux":
      return local.has(type)
    case "darwin":
      return isOnSystemVolume(directory)
    case "win32":
      return !isOnShare(directory)
    default:
      return false
  }
}

/** It is known to be this machine's alone. On macOS `mount` is asked about a volume that is not the system's own. */
export const isLocal = (directory: string, type: number): Effect.Effect<boolean> =>
  Effect.suspend(() =>
    process.platform === "darwin" && !isOnSystemVolume(directory)
      ? isMountedLocally(directory)
      : Effect.succeed(isSurelyLocal(directory, type))
  )

/** It is known to be shared with other machines. */
export const isShared = (type: number): boolean => process.platform === "linux" && shared.has(type)

// Windows resolves the letter of a network drive to the share that it stands for.
const isOnShare = (directory: string): boolean => {
  try {
    return /^\\\\(?![.?]\\)/.test(fs.realpathSync.native(directory))
  } catch {
    return true
  }
}

// The volume that macOS writes its own data to, as most homes are; no program has to be asked.
const isOnSystemVolume = (directory: string): boolean => {
  try {
    return fs.statSync("/private/var").dev === fs.statSync(directory).dev
  } catch {
    return false
  }
}

const isMountedLocally = (directory: string): Effect.Effect<boolean> =>
  Effect.map(systemProgram.ask("/sbin/mount"), (output = "") => {
    try {
      return optionsOf(output, fs.realpathSync.native(directory)).includes("local")
    } catch {
      return false
    }
  })

/** The options with which a path is mounted, as `mount` prints them; none where that cannot be told. */
export const optionsOf = (output: string, name: string): ReadonlyArray<string> => {
  let best = { point: "", options: "" }
  for (const line of output.split("\n")) {
    const [, point, options] = /^.*? on (\/.*) \(([^()]*)\)$/.exec(line) ?? []
    if (point === undefined || options === undefined) continue
    const below = path.posix.relative(point, name)
    if (below !== ".." && !below.startsWith("../") && point.length >= best.point.length) best = { point, options }
  }
  return best.options.split(", ")
}
