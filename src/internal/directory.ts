/**
 * Whether a directory can be trusted: ours alone, and nobody else can replace it.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { code, isExisting } from "./errno.js"

/** What is wrong with a directory, in words; `undefined` if nothing is. */
export interface Flaw {
  readonly reason: "DirectoryInsecure" | "DirectoryUnusable"
  readonly path: string
  readonly detail: string
}

const euid = process.geteuid?.()

/**
 * Finds or creates the directory (and its parents, mode 0700) and verifies it: a directory and no link, owned by the
 * effective user, without rights for others; every parent owned by that user or root, and writable by nobody else unless
 * sticky. Answers `"missing"` where it does not exist and was not to be created.
 */
export const verify = (directory: string, options: { readonly create: boolean }): Flaw | "missing" | undefined => {
  try {
    if (!exists(directory)) {
      const flaw = verifyParents(existingAncestor(directory))
      if (flaw !== undefined) return flaw
      if (!options.create) return "missing"
      create(directory)
    }
    return verifyOwn(directory) ?? verifyParents(path.dirname(directory))
  } catch (cause) {
    return { reason: "DirectoryUnusable", path: directory, detail: `it cannot be used (${code(cause)})` }
  }
}

const exists = (name: string): boolean => fs.lstatSync(name, { throwIfNoEntry: false }) !== undefined

const existingAncestor = (directory: string): string => {
  const parent = path.dirname(directory)
  return parent === directory || exists(parent) ? parent : existingAncestor(parent)
}

const create = (directory: string): void => {
  fs.mkdirSync(path.dirname(directory), { recursive: true, mode: 0o700 })
  try {
    fs.mkdirSync(directory, { mode: 0o700 })
  } catch (cause) {
    if (!isExisting(cause)) throw cause
  }
}

const insecure = (name: string, detail: string): Flaw => ({ reason: "DirectoryInsecure", path: name, detail })

const octal = (mode: number): string => (mode & 0o7777).toString(8).padStart(4, "0")

const verifyOwn = (directory: string): Flaw | undefined => {
  const stat = fs.lstatSync(directory)
  if (stat.isSymbolicLink()) return insecure(directory, "it is a symbolic link")
  if (!stat.isDirectory()) return insecure(directory, "it is not a directory")
  if (euid === undefined) return undefined
  if (stat.uid !== euid) return insecure(directory, `it belongs to user ${stat.uid}, not to ${euid}`)
  if ((stat.mode & 0o077) !== 0) return insecure(directory, `its mode is ${octal(stat.mode)}, not 0700`)
  return undefined
}

const verifyParents = (directory: string): Flaw | undefined => {
  if (euid === undefined) return undefined
  const resolved = path.resolve(directory)
  const real = fs.realpathSync.native(resolved)
  // Links on the way must not be another user's to redirect; behind them the real path counts.
  for (const name of real === resolved ? [] : ancestors(resolved)) {
    const stat = fs.lstatSync(name)
    if (stat.isSymbolicLink() && stat.uid !== euid && stat.uid !== 0) {
      return insecure(name, `it is a symbolic link of user ${stat.uid}`)
    }
  }
  for (const name of ancestors(real)) {
    const stat = fs.lstatSync(name)
    if (!stat.isDirectory()) return insecure(name, "it is not a directory")
    if (stat.uid !== euid && stat.uid !== 0) return insecure(name, `it belongs to user ${stat.uid}`)
    if ((stat.mode & 0o022) !== 0 && (stat.mode & 0o1000) === 0 && !isPrivateGroup(stat)) {
      return insecure(name, `its mode is ${octal(stat.mode)}: others may write to it`)
    }
  }
  return undefined
}

// Many systems give each user a group of the same number and a umask of 002, so that ~/.local is 0775 by default.
const isPrivateGroup = (stat: fs.Stats): boolean =>
  (stat.mode & 0o002) === 0 && euid !== 0 && stat.uid === euid && stat.gid === euid

const ancestors = (name: string): Array<string> => {
  const parent = path.dirname(name)
  return parent === name ? [name] : [...ancestors(parent), name]
}
