// The one place that knows how a TypeScript entry becomes one file that plain `node` starts.
import { fileURLToPath } from "node:url"
import { build } from "esbuild"

export const root = fileURLToPath(new URL("..", import.meta.url))

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
    // A CommonJS dependency calls `require`, which an ES module does not have.
    banner: {
      js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);'
    },
    ...options
  })
  return { text: result.outputFiles[0].text, metafile: result.metafile }
}
