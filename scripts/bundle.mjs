// The one place that knows how a TypeScript entry becomes one file that plain `node` starts.
import { mkdirSync, writeFileSync } from "node:fs"
import { basename, join } from "node:path"
import { fileURLToPath } from "node:url"
import { build, transform } from "esbuild"

export const root = fileURLToPath(new URL("..", import.meta.url))

// A CommonJS dependency calls `require`, which an ES module does not have.
const banner = {
  js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);'
}

const bundling = (options) =>
  build({
    absWorkingDir: root,
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
    banner,
    ...options
  })

/**
 * Bundles one entry, all dependencies included, and writes nothing. The aliases of the package's own name come from
 * tsconfig.json. Returns the text and esbuild's metafile.
 */
export const bundle = async (entry, options = {}) => {
  const { metafile, outputFiles } = await bundling({ entryPoints: [entry], outfile: "out.mjs", ...options })
  return { text: outputFiles[0].text, metafile }
}

/**
 * Bundles several entries in the same way, each on its own. What they share is parsed once, which takes half the time.
 * Returns the name of each, without its ending, and the text.
 */
export const bundleEach = async (entries) => {
  const outExtension = { ".js": ".mjs" }
  const { outputFiles } = await bundling({ entryPoints: entries, outdir: "out", outExtension })
  return outputFiles.map(({ path, text }) => ({ name: basename(path, ".mjs"), text }))
}

/** How what is shipped is made small. */
export const small = { minifySyntax: true, minifyWhitespace: true }

/**
 * Bundles an entry that needs nothing but Node as CommonJS, which Node starts sooner than an ES module. What esbuild does
 * to each required module so that it can be any, a copy with a default, would cost a second launch a millisecond.
 */
export const commonJs = async (entry, options = {}) => {
  const { metafile, text } = await bundle(entry, { ...options, banner: {}, format: "cjs" })
  const plain = text.replace(/__toESM\((require\("node:\w+"\))(?:, 1)?\)/g, "$1")
  // esbuild has more than one way to say it.
  if (/__toESM\(require\("node:/.test(plain)) throw new Error(`${entry} copies what it requires of Node`)
  const { code } = await transform(plain, {
    ...small,
    minifyIdentifiers: true,
    treeShaking: true,
    target: "node20",
    format: "cjs"
  })
  return { metafile, text: code }
}

/**
 * Bundles the command line into a folder and returns the metafile: `bin.cjs` is all that a launch loads that hands over,
 * CommonJS because Node starts that in less time; it loads `Cli.mjs` for the rest.
 */
export const bundleBin = async (folder, options = {}) => {
  const apart = {
    name: "apart",
    setup: ({ onResolve }) => onResolve({ filter: /^\.\/Cli\.js$/ }, () => ({ path: "./Cli.mjs", external: true }))
  }
  const [bin, cli] = await Promise.all([commonJs("src/bin.ts", { plugins: [apart] }), bundle("src/Cli.ts", options)])
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, "bin.cjs"), bin.text, { mode: 0o755 })
  writeFileSync(join(folder, "Cli.mjs"), cli.text)
  return { file: join(folder, "bin.cjs"), metafile: cli.metafile }
}
