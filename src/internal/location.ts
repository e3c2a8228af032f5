/**
 * Where an instance lives, before anybody looks, and what a launch tells of itself.
 */
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import * as appSandbox from "./appSandbox.js"
import * as users from "./users.js"

/** The largest length of an id, in UTF-16 code units. */
export const maxIdLength = 1_024

/** Why a string cannot be an id; `undefined` where it can. */
export const flawOfId = (id: string): string | undefined =>
  id === ""
    ? "the id must not be empty"
    : id.length > maxIdLength
      ? `the id has ${id.length} characters, which is more than ${maxIdLength}`
      : undefined

/** Why these options cannot say where an instance lives; `undefined` where they can. */
export const flawOfPlace = ({
  directory,
  trustDirectory
}: {
  readonly directory: string | null
  readonly trustDirectory: boolean
}): string | undefined => {
  if (directory === null) return trustDirectory ? "`trustDirectory` is given without a `directory` to trust" : undefined
  if (directory === "") return "`directory` is empty; leave it out for the usual place"
  return directory.includes("\0") ? "`directory` has a NUL character, which no path can have" : undefined
}

/** Of the named environment variables those that there are. */
export const variables = (names: ReadonlyArray<string>): { [name: string]: string } =>
  // `process.env` inherits names such as `constructor`, and an assignment to `__proto__` would not make a key.
  Object.fromEntries(
    names.flatMap((name) => (Object.hasOwn(process.env, name) ? [[name, process.env[name]!] as const] : []))
  )

/** The folder that belongs to an id. */
export const folderName = (id: string): string => {
  const slug = id
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+/, "")
    .slice(0, 16)
    .replace(/-+$/, "")
  const digest = createHash("sha256").update(Buffer.from(id, "utf16le")).digest("hex").slice(0, 32)
  return slug === "" ? digest : `${slug}-${digest}`
}

/** The platform's place for the folders of all instances. Throws where the user database cannot be read, and on Windows where the user has no profile. */
export const defaultDirectory = (): string => {
  const home = users.home()
  if (home === undefined) {
    if (process.platform !== "win32") return `/tmp/effect-single-instance-${process.geteuid?.() ?? 0}`
    throw new Error(
      "this user has no profile folder, as in an application pool without a loaded profile; give a `directory`"
    )
  }
  switch (process.platform) {
    case "win32":
      return path.join(home, "AppData", "Local", "effect-single-instance")
    case "darwin":
      return path.join(appSandbox.applicationSupport(home), "effect-single-instance")
    default:
      return path.join(home, ".local", "state", "effect-single-instance")
  }
}

/**
 * The directory of an instance, in the given place (as `resolve` answers it) or the platform's. Throws an error that says
 * why, where there is no telling which one that is.
 */
export const of = (id: string, directory: string | null): string => {
  const place = directory ?? defaultDirectory()
  if (!path.isAbsolute(place)) {
    throw new Error(`"${directory}" is relative, and the current working directory no longer exists`)
  }
  return path.join(place, folderName(id))
}

/** A directory as an absolute path; as it was given where it is relative to a working directory that is gone. */
export const resolve = (directory: string | null): string | null => {
  try {
    return directory === null ? null : path.resolve(directory)
  } catch {
    return directory
  }
}

/**
 * The current working directory. Where it no longer exists, the name by which Linux still calls it, such as
 * `/tmp/work (deleted)`: nothing can be meant by a path in it, least of all a file in another process's directory.
 */
export const cwd = (): string => {
  try {
    return process.cwd()
  } catch {
    return deletedDirectory()
  }
}

const deletedDirectory = (): string => {
  const suffix = " (deleted)"
  try {
    const name = fs.readlinkSync("/proc/self/cwd")
    return name.endsWith(suffix) ? name : `${name}${suffix}`
  } catch {
    return `/${suffix}`
  }
}
