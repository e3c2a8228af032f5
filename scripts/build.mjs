// `npm run build`: src → dist (or `--out <folder>`), one ES module with declarations per source, the launch as one
// file, and the bundled bin.
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import { basename, join, resolve } from "node:path"
import { parseArgs } from "node:util"
import { bundle, bundleBin, commonJs, root, small } from "./bundle.mjs"

const { values } = parseArgs({ options: { out: { type: "string", default: join(root, "dist") } } })
const out = resolve(values.out)

rmSync(out, { recursive: true, force: true })
mkdirSync(out, { recursive: true })

const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc")
const compiled = spawnSync(process.execPath, [tsc, "-p", join(root, "tsconfig.build.json"), "--outDir", out], {
  stdio: "inherit"
})
if (compiled.status !== 0) process.exit(compiled.status ?? 1)

// As one file each: an ES module of its own for every few lines would cost a second launch more than what it does.
const [launch, launchCjs] = await Promise.all([
  bundle("src/launch.ts", { ...small, minifyIdentifiers: true, banner: {} }),
  commonJs("src/launch.ts")
])
writeFileSync(join(out, "launch.js"), launch.text)
writeFileSync(join(out, "launch.cjs"), launchCjs.text)
rmSync(join(out, "launch.js.map"))
writeFileSync(
  join(out, "launch.d.cts"),
  `export type * from "./launch.js" with { "resolution-mode": "import" }
export declare const launch: typeof import("./launch.js", { with: { "resolution-mode": "import" } }).launch
`
)

const { file, metafile } = await bundleBin(out, small)
const inputs = Object.values(metafile.outputs)[0].inputs
const packages = [...new Set(Object.keys(inputs).flatMap(packageOf))].sort()

// They cost more to load than all the rest, and nothing here needs them.
const unwanted = packages.filter((name) => /^(undici|ws|@parcel\/watcher.*)$/.test(name))
if (unwanted.length > 0) {
  console.error(`build: ${unwanted.join(", ")} must not get into the bin; import Effect's modules by their sub-path`)
  process.exit(1)
}

writeFileSync(join(out, "bin.licenses.txt"), packages.map(notice).join("\n\n"))
const kib = (name) => `${name} ${(statSync(join(out, name)).size / 1024).toFixed(0)} KiB`
console.log(
  `build: ${["launch.js", "launch.cjs", basename(file), "Cli.mjs"].map(kib).join(", ")} (${packages.join(", ")})`
)

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
