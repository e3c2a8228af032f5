// The one place that knows how a TypeScript entry becomes one file that plain `node` starts.
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { build } from "esbuild"

export const root = fileURLToPath(new URL("..", import.meta.url))

// A CommonJS dependency calls `require`, which an ES module does not have.
const banner = {
  js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);'
}

/**
 * Bundles one entry, all dependencies included, and writes nothing. The aliases of the package's own name come from
 * tsconfig.json. Returns the text and esbuild's metafile.
 */
export const bundle = async (entry, options = {}) => {
  const result = await build({
    absWorkingDir: root,
    entryPoints: [entry],
    outfile: "out.mjs",
    write: false,
    bundle: true,
    metafile: true,
    treeShaking: true,
    format: "esm",
    platform: "node",
    target: "node20",
    tsconfig: "tsconfig.json",
    logLevel: "silent",
    // Native and optional: found at run time, or not.
    external: ["koffi"],
    ...(options.format === "cjs" ? undefined : { banner }),
    ...options
  })
  return { text: result.outputFiles[0].text, metafile: result.metafile }
}

/** How what is shipped is made small. */
export const small = { minifySyntax: true, minifyWhitespace: true }

/**
 * Bundles the command line into a folder and returns the metafile: `bin.cjs` is all that a launch loads that hands over,
 * CommonJS because Node starts that in less time; it loads `Cli.mjs` for the rest.
 */
export const bundleBin = async (folder, options = {}) => {
  const apart = {
    name: "apart",
    setup: ({ onResolve }) => onResolve({ filter: /^\.\/Cli\.js$/ }, () => ({ path: "./Cli.mjs", external: true }))
  }
  const [bin, cli] = await Promise.all([
    bundle("src/bin.ts", { ...options, format: "cjs", plugins: [apart] }),
    bundle("src/Cli.ts", options)
  ])
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, "bin.cjs"), bin.text, { mode: 0o755 })
  writeFileSync(join(folder, "Cli.mjs"), cli.text)
  return { file: join(folder, "bin.cjs"), metafile: cli.metafile }
}
