/**
 * Locks from npm in elections. They verify nobody, serve nobody and say nobody's name: what they take is compared with the
 * library's lock.
 *
 *   locks <folder of this package> proper-lockfile | fs-native-extensions
 */
import { closeSync, openSync } from "node:fs"
import { createRequire } from "node:module"
import { join } from "node:path"
import { answer, beElected, tell } from "../jobs.js"

const [folder = "", name = ""] = process.argv.slice(2)
// Not bundled: one of them is native.
const load = createRequire(join(folder, "package.json"))

const electors: Record<string, () => (place: string, index: number) => Promise<() => unknown>> = {
  // `realpath` would ask for a file that is there before.
  "proper-lockfile": () => {
    const { lock } = load("proper-lockfile")
    return (place, index) => lock(join(place, String(index)), { realpath: false })
  },
  // Kept by the kernel, so that nobody who has died holds it.
  "fs-native-extensions": () => {
    const { tryLock } = load("fs-native-extensions")
    return async (place, index) => {
      const descriptor = openSync(join(place, String(index)), "a+")
      if (!tryLock(descriptor)) throw new Error("nobody else can hold it")
      return () => closeSync(descriptor)
    }
  }
}

try {
  answer(beElected(electors[name]!()))
  tell({ event: "elects" })
} catch (error) {
  tell({ event: "unavailable", message: String(error) })
}
