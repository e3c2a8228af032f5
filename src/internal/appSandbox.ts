/**
 * The App Sandbox of macOS, in which a program reaches little of the user's home besides a container of its own.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import * as errno from "./errno.js"

/**
 * The folder for application data of a home: the usual one, or that of the program's container where the system refuses the
 * usual one to it. `home` is the user's, as the user database tells it in a sandbox, too.
 */
export const applicationSupport = (home: string): string => {
  const usual = path.join(home, "Library", "Application Support")
  const id = process.env.APP_SANDBOX_CONTAINER_ID
  // The variable alone could differ between the launches of one program.
  if (id === undefined || !/^\w[\w.-]*$/.test(id) || !isRefused(usual)) return usual
  return path.join(home, "Library", "Containers", id, "Data", "Library", "Application Support")
}

// Looked at is a folder that does not depend on us, so that no launch decides otherwise because another one made ours.
// A look at the metadata would not do, as a sandbox may permit that everywhere.
const isRefused = (folder: string): boolean => {
  try {
    fs.opendirSync(folder).closeSync()
    return false
  } catch (cause) {
    const parent = path.dirname(folder)
    return errno.isMissing(cause) && parent !== folder ? isRefused(parent) : errno.code(cause) === "EPERM"
  }
}
