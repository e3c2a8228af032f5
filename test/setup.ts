/**
 * Bundles `test/fixtures/*.ts` into `.build/fixtures/*.mjs`, so that tests with real processes start them with plain
 * `node`, in a fraction of the time that a loader needs.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { bundleEach, root } from "../scripts/bundle.mjs"

const source = join(root, "test/fixtures")
const target = join(root, ".build/fixtures")

export default async function setup(): Promise<void> {
  mkdirSync(target, { recursive: true })
  const names = existsSync(source)
    ? readdirSync(source).flatMap((file) => (file.endsWith(".ts") ? [file.slice(0, -3)] : []))
    : []
  for (const file of readdirSync(target)) {
    if (file.endsWith(".mjs") && !names.includes(file.slice(0, -4))) rmSync(join(target, file))
  }
  for (const { name, text } of await bundleEach(names.map((name) => join(source, `${name}.ts`)))) {
    const file = join(target, `${name}.mjs`)
    // Another run of the tests may be starting this very file: it is replaced whole, and only by a different one.
    if (existsSync(file) && readFileSync(file, "utf8") === text) continue
    writeFileSync(`${file}.${process.pid}`, text)
    renameSync(`${file}.${process.pid}`, file)
  }
}
