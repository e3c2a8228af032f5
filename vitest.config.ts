import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const src = fileURLToPath(new URL("./src", import.meta.url))

/**
 * The sizes of the suite. A test is large if its title, or the title of a group around it, has the word `@large` in it.
 * Give it to a test that takes seconds while a smaller one beside it shows the same, and to a test that measures CPU or
 * memory and so has to run alone.
 *
 *     npm test                           all but the large ones, several files at a time
 *     npm run test:all                   all, one file after another
 *     npm run test:all -- --mode rest    the large ones, one file after another
 */
const large = /@large/
const sizes: Record<string, { readonly testNamePattern?: RegExp; readonly maxWorkers: number }> = {
  // More than there are processors, as most of the time is spent waiting.
  small: { testNamePattern: new RegExp(`^(?!.*${large.source})`, "s"), maxWorkers: 4 },
  rest: { testNamePattern: large, maxWorkers: 1 }
}

export default defineConfig(({ mode }) => ({
  resolve: {
    alias: [
      { find: /^effect-single-instance$/, replacement: `${src}/index.ts` },
      { find: /^effect-single-instance\/(.*)$/, replacement: `${src}/$1.ts` }
    ]
  },
  test: {
    include: ["test/**/*.test.ts", "examples/**/*.test.ts"],
    globalSetup: ["test/setup.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 60_000,
    minWorkers: mode === "small" ? 4 : 1,
    poolOptions: { forks: { isolate: mode !== "small" } },
    ...(sizes[mode] ?? { maxWorkers: 1 })
  }
}))
