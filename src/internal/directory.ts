/**
 * Whether a directory can be trusted: it belongs to us alone, and nobody else can replace it.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { code, explain, isExisting } from "./errno.js"
import * as users from "./users.js"

/** What is wrong with a directory, in words; `undefined` if nothing is. */
export interface Flaw {
  readonly reason: "DirectoryInsecure" | "DirectoryUnusable"
  /** The directory that is refused, which may be a parent. */
  readonly path: string
  readonly detail: string
  /** It may be right in a moment: a directory has the mode that the umask left until its creator has corrected it. */
  readonly passing: boolean
  /** What the system said, where it refused something. */
  readonly cause?: unknown
}

export interface Options {
  /** Creates what is missing, with mode 0700 whatever the umask is. */
  readonly create: boolean
  /** The user vouches for the parents, so that only the directory itself is verified. */
  readonly trustParents?: boolean | undefined
}

/**
 * Finds or creates the directory and its parents and verifies it: a directory and not a link, owned by the effective
 * user, without rights for others; every parent owned by that user or root, and writable by nobody else unless sticky.
 * Answers `"missing"` where it does not exist and was not to be created.
 */
export const verify = (directory: string, { create, trustParents = false }: Options): Flaw | "missing" | undefined => {
  const euid = process.geteuid?.()
  const parentsOf = (name: string) => (trustParents || euid === undefined ? undefined : verifyParents(name, euid))
  try {
    if (!exists(directory)) {
      const flaw = parentsOf(existingAncestor(directory))
      if (flaw !== undefined) return flaw
      if (!create) return "missing"
      const failed = make(directory)
      if (failed !== undefined) return failed
    }
    return verifyOwn(directory, euid, create) ?? parentsOf(path.dirname(directory))
  } catch (cause) {
    const place = culprit(directory)
    return unusable(place, explain(cause), code(cause) === "EACCES" && isUnfinished(place, euid), cause)
  }
}

const exists = (name: string): boolean => fs.lstatSync(name, { throwIfNoEntry: false }) !== undefined

const existingAncestor = (directory: string): string => {
  const parent = path.dirname(directory)
  return parent === directory || exists(parent) ? parent : existingAncestor(parent)
}

// The first directory on the way that keeps us from going on.
const culprit = (directory: string): string => {
  for (const name of ancestors(directory)) {
    try {
      if (!fs.statSync(name).isDirectory()) return name
    } catch (cause) {
      return code(cause) === "EACCES" ? path.dirname(name) : name
    }
  }
  return directory
}

// -------------------------------------------------------------------------------------
// creating
// -------------------------------------------------------------------------------------

const make = (directory: string): Flaw | undefined => {
  const parent = path.dirname(directory)
  const failed = exists(parent) ? undefined : make(parent)
  if (failed !== undefined) return failed
  try {
    fs.mkdirSync(directory, { mode: 0o700 })
  } catch (cause) {
    // Another launch was faster; it also corrects the mode.
    if (isExisting(cause)) return undefined
    const isPassing = code(cause) === "EACCES" && isUnfinished(parent, process.geteuid?.())
    return unusable(parent, `${path.basename(directory)} cannot be created in it: ${explain(cause)}`, isPassing, cause)
  }
  correctMode(directory)
  return undefined
}

// mkdir(2) takes the bits of the umask away, also those of the owner.
const correctMode = (directory: string): void => {
  if (process.geteuid === undefined || (fs.lstatSync(directory).mode & 0o777) === 0o700) return
  // By descriptor, as somebody may have put a link in its place where the user vouches for the parents. O_PATH needs no
  // permission on the directory itself; Node does not name it.
  if (process.platform !== "linux") {
    const change = fs.lchmodSync ?? fs.chmodSync
    change(directory, 0o700)
    return
  }
  const O_PATH = 0o10000000
  const fd = fs.openSync(directory, O_PATH | fs.constants.O_DIRECTORY | fs.constants.O_NOFOLLOW)
  try {
    fs.chmodSync(`/proc/self/fd/${fd}`, 0o700)
  } finally {
    fs.closeSync(fd)
  }
}

// Ours alone, and not even we may use it.
const isUnfinished = (name: string, euid: number | undefined): boolean => {
  const stat = fs.lstatSync(name, { throwIfNoEntry: false })
  return stat?.isDirectory() === true && stat.uid === euid && (stat.mode & 0o077) === 0 && (stat.mode & 0o700) !== 0o700
}

// -------------------------------------------------------------------------------------
// verifying
// -------------------------------------------------------------------------------------

const insecure = (name: string, detail: string): Flaw => ({
  reason: "DirectoryInsecure",
  path: name,
  detail,
  passing: false
})

const unusable = (name: string, detail: string, passing: boolean, cause?: unknown): Flaw => ({
  reason: "DirectoryUnusable",
  path: name,
  detail,
  passing,
  cause
})

const octal = (mode: number): string => (mode & 0o7777).toString(8).padStart(4, "0")

const verifyOwn = (directory: string, euid: number | undefined, create: boolean): Flaw | undefined => {
  const stat = fs.lstatSync(directory)
  if (stat.isSymbolicLink()) return insecure(directory, "it is a symbolic link")
  if (!stat.isDirectory()) return insecure(directory, "it is not a directory")
  if (euid === undefined) return undefined
  if (stat.uid !== euid) return insecure(directory, `it belongs to user ${stat.uid}, not to ${euid}`)
  if ((stat.mode & 0o077) !== 0) return insecure(directory, `its mode is ${octal(stat.mode)}, not 0700`)
  const needed = create ? 0o700 : 0o500
  if (euid !== 0 && (stat.mode & needed) !== needed) {
    return unusable(directory, `its mode is ${octal(stat.mode)}, not 0700`, isUnfinished(directory, euid))
  }
  if (euid === users.overflowUid() && !isOwner(directory)) {
    return insecure(directory, "it cannot be told whose it is, as this user namespace does not map our user")
  }
  return undefined
}

// Every unmapped user has the same number. Only the owner may open with O_NOATIME (open(2)).
const isOwner = (directory: string): boolean => {
  const { O_DIRECTORY, O_NOATIME, O_NOFOLLOW, O_RDONLY } = fs.constants
  try {
    fs.closeSync(fs.openSync(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NOATIME))
    return true
  } catch (cause) {
    if (code(cause) === "EPERM") return false
    throw cause
  }
}

const verifyParents = (directory: string, euid: number): Flaw | undefined => {
  for (const name of wayTo(directory)) {
    const stat = fs.lstatSync(name)
    const flaw = stat.isSymbolicLink()
      ? isOursOrRoots(stat, euid)
        ? undefined
        : `it is a symbolic link of user ${stat.uid}`
      : flawOfParent(stat, euid)
    if (flaw !== undefined) return insecure(name, `${flaw}; \`trustDirectory\` would accept that`)
  }
  return undefined
}

const isOursOrRoots = ({ uid }: fs.Stats, euid: number): boolean =>
  uid === euid || uid === 0 || uid === users.overflowUid()

const flawOfParent = (stat: fs.Stats, euid: number): string | undefined => {
  if (!stat.isDirectory()) return "it is not a directory"
  if (!isOursOrRoots(stat, euid)) return `it belongs to user ${stat.uid}`
  if ((stat.mode & 0o022) === 0) return undefined
  const mode = `its mode is ${octal(stat.mode)}`
  // Root, or anybody else: whoever owns a directory in which others may write could have lured us into it.
  if (stat.uid !== 0 && stat.uid === users.overflowUid()) {
    return `${mode}: others may write to it, and this user namespace does not tell whether it is root's`
  }
  if ((stat.mode & 0o1000) !== 0) return undefined
  if ((stat.mode & 0o002) !== 0) return `${mode}: others may write to it`
  if (stat.uid !== euid) return `${mode}: group ${stat.gid} may write to it`
  return users.isPrivateGroup(stat.gid, euid)
    ? undefined
    : `${mode}: group ${stat.gid} may write to it, and it is not the private group of user ${euid}`
}

/** All that must not be another user's to change: a path with its links, and what it leads to. */
export const wayTo = (directory: string): ReadonlyArray<string> => {
  const resolved = path.resolve(directory)
  return [...new Set([...ancestors(resolved), ...ancestors(fs.realpathSync.native(resolved))])]
}

/** A path and all directories above it. */
export const ancestors = (name: string): Array<string> => {
  const parent = path.dirname(name)
  return parent === name ? [name] : [...ancestors(parent), name]
}
