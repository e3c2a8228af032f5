/**
 * Where an instance lives, before anybody looks.
 */
import { createHash } from "node:crypto"
import * as os from "node:os"
import * as path from "node:path"

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

/** The platform's place for the folders of all instances. */
export const defaultDirectory = (): string => {
  let home: string
  try {
    home = os.userInfo().homedir
  } catch {
    // The user has no entry, as in many containers.
    return `/tmp/effect-single-instance-${process.geteuid?.() ?? 0}`
  }
  switch (process.platform) {
    case "win32":
      return path.join(home, "AppData", "Local", "effect-single-instance")
    case "darwin":
      return path.join(home, "Library", "Application Support", "effect-single-instance")
    default:
      return path.join(home, ".local", "state", "effect-single-instance")
  }
}

/** The directory of an instance, in the given place or the platform's. */
export const of = (id: string, directory: string | null): string =>
  path.join(directory === null ? defaultDirectory() : path.resolve(directory), folderName(id))
