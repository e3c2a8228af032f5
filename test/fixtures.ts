import { existsSync } from "node:fs"
import { fileURLToPath } from "node:url"

/**
 * The bundle of `test/fixtures/<name>.ts`, to be started with `process.execPath`.
 */
export const fixture = (name: string): string => {
  const path = fileURLToPath(new URL(`../.build/fixtures/${name}.mjs`, import.meta.url))
  if (!existsSync(path)) throw new Error(`test/fixtures/${name}.ts does not exist or does not compile`)
  return path
}
