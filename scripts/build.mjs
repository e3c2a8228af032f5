// `npm run build`: src → dist (or `--out <folder>`), one ES module with declarations per source and the bundled bin.
import { spawnSync } from "node:child_process"
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"
import { bundle, root } from "./bundle.mjs"

const { values } = parseArgs({ options: { out: { type: "string", default: join(root, "dist") } } })
const out = resolve(values.out)

rmSync(out, { recursive: true, force: true })
mkdirSync(out, { recursive: true })

const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc")
const compiled = spawnSync(process.execPath, [tsc, "-p", join(root, "tsconfig.build.json"), "--outDir", out], {
  stdio: "inherit"
})
if (compiled.status !== 0) process.exit(compiled.status ?? 1)

const entry = join(root, "src/bin.ts")
if (existsSync(entry)) {
  const { metafile, text } = await bundle(entry, { minifySyntax: true, minifyWhitespace: true })
  const inputs = Object.values(metafile.outputs)[0].inputs
  const packages = [...new Set(Object.keys(inputs).flatMap(packageOf))].sort()

  // They cost more to load than all the rest, and nothing here needs them.
  const unwanted = packages.filter((name) => /^(undici|ws|@parcel\/watcher.*)$/.test(name))
  if (unwanted.length > 0) {
    console.error(`build: ${unwanted.join(", ")} must not get into the bin; import Effect's modules by their sub-path`)
    process.exit(1)
  }

  const file = join(out, "bin.js")
  writeFileSync(file, text.startsWith("#!") ? text : `#!/usr/bin/env node\n${text}`)
  chmodSync(file, 0o755)
  writeFileSync(join(out, "bin.licenses.txt"), packages.map(notice).join("\n\n"))
  console.log(`build: ${file} has ${(statSync(file).size / 1024).toFixed(0)} KiB (${packages.join(", ")})`)
} else {
  console.log("build: src/bin.ts is not written yet, so there is no bin")
}

function packageOf(input) {
  const found = /^.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input)
  return found === null ? [] : [found[1]]
}

// What is copied into the bin keeps its notice.
function notice(name) {
  const folder = join(root, "node_modules", name)
  const { license, version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"))
  const file = ["LICENSE", "LICENSE.md", "LICENSE.txt", "license"].map((base) => join(folder, base)).find(existsSync)
  return `${name} ${version} (${license})\n\n${file === undefined ? "" : readFileSync(file, "utf8").trim()}`
}
