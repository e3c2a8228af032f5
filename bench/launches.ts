/**
 * What a second launch costs, against a process that does nothing, and how soon a standby is primary.
 */
import { spawn, spawnSync } from "node:child_process"
import { rmSync, writeFileSync } from "node:fs"
import * as net from "node:net"
import { join } from "node:path"
import { bundleBin, commonJs, small } from "../scripts/bundle.mjs"
import {
  alternating,
  built,
  bundles,
  directory,
  env,
  few,
  options,
  progress,
  type Section,
  type Started,
  start
} from "./harness.js"
import { micros } from "./jobs.js"
import { median, number, quantile, type Ratio, ratio, table, times } from "./statistics.js"

/** One line of the table, in milliseconds. */
interface Figure {
  readonly name: string
  readonly library: Summary
  readonly reference: Summary & { readonly name: string }
  readonly ratio: Ratio
  readonly aim: string
}

interface Summary {
  readonly p50: number
  readonly p99: number
  readonly samples: number
}

const summary = (samples: ReadonlyArray<number>): Summary => ({
  p50: median(samples),
  p99: quantile(samples, 0.99),
  samples: samples.length
})

const figure = (
  name: string,
  aim: string,
  library: ReadonlyArray<number>,
  reference: ReadonlyArray<number>,
  against: string
): Figure => ({
  name,
  library: summary(library),
  reference: { ...summary(reference), name: against },
  ratio: ratio(library, reference),
  aim
})

const section = (plot: { readonly file: string; readonly title: string }, figures: ReadonlyArray<Figure>): Section => ({
  markdown: table(
    ["", "library p50", "p99", "reference p50", "p99", "ratio", "samples", "aim"],
    figures.map(({ aim, library, name, ratio, reference }) => [
      name,
      `${number(library.p50)} ms`,
      number(library.p99),
      `${number(reference.p50)} (${reference.name})`,
      number(reference.p99),
      times(ratio),
      `${library.samples}`,
      aim
    ])
  ),
  data: figures,
  plots: [
    {
      ...plot,
      note: "Grey: what the others are held against.",
      panels: [{ name: "ms, p50" }, { name: "ms, p99" }],
      bars: figures.flatMap(({ library, name, reference }, which) => [
        // It stands above those that are held against it.
        ...(reference.name === figures[which - 1]?.reference.name
          ? []
          : [{ name: reference.name, isReference: true, values: [reference.p50, reference.p99] }]),
        { name, isReference: false, values: [library.p50, library.p99] }
      ])
    }
  ]
})

// What a runtime is called, and whether it keeps compiled code.
const runtimeOf = (command: string) => {
  const text = spawnSync(command, ["-p", `JSON.stringify([process.version, !!require("module").enableCompileCache])`], {
    env,
    encoding: "utf8"
  }).stdout
  const [version, caches]: [string, boolean] = JSON.parse(text)
  return { command, version, caches }
}

export const launches = async (): Promise<Section> => {
  const [library, smallLibrary, { text: firstLineText }, { file: bin }] = await Promise.all([
    built("library", "bench/library.ts"),
    built("library-small", "bench/library.ts", { ...small, minifyIdentifiers: true }),
    commonJs("bench/first-line.ts"),
    bundleBin(join(bundles, "bin"), small)
  ])
  const firstLine = join(bundles, "first-line.cjs")
  writeFileSync(firstLine, firstLineText)
  const firstLineModule = await built("first-line", "bench/first-line.ts", {
    ...small,
    minifyIdentifiers: true,
    banner: {}
  })
  const aloneSource = join(bundles, "alone.ts")
  writeFileSync(
    aloneSource,
    `import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
Effect.runSync(Schema.decodeUnknown(Schema.String)(""))`
  )
  const alone = await built("alone", aloneSource, { ...small, minifyIdentifiers: true })
  const cached = join(bundles, "cached.mjs")
  writeFileSync(
    cached,
    `import module from "node:module"
module.enableCompileCache(${JSON.stringify(join(bundles, "cache"))})
await import(${JSON.stringify(smallLibrary)})\n`
  )
  const primary = start(library, [directory, "primary"])
  await primary.next("primary")
  const listener = start(bin, ["listen", "bench/cli", "--dir", directory, "--json"])
  await listener.next("primary")
  const raw = net.createServer((socket) => socket.on("data", (bytes) => socket.write(bytes)).on("error", () => {}))
  const rawPath = join(directory, "launch.sock")
  await new Promise<void>((resolve) => raw.listen(rawPath, resolve))
  const bare = `require("net").connect(${JSON.stringify(rawPath)}).once("data", () => process.exit()).write("a")`

  const runtimes = [process.execPath, ...(options.node === undefined ? [] : [options.node])].map(runtimeOf)
  const contenders = runtimes.flatMap(({ caches, command, version }) =>
    [
      { name: "node -e 0", args: ["-e", "0"] },
      { name: "one word over node:net, and nothing else", args: ["-e", bare] },
      { name: "effect/Effect and effect/Schema, and nothing else", args: [alone] },
      { name: "second launch, …/launch", args: [firstLine, directory], aim: "≤ 1.15 ×" },
      { name: "the same, as an ES module", args: [firstLineModule, directory] },
      { name: "second launch, CLI", args: [bin, "send", "bench/cli", "--dir", directory, "--", "a", "b"] },
      { name: "second launch, library in one file", args: [library, directory, "launch"] },
      { name: "second launch, library, minified", args: [smallLibrary, directory, "launch"] },
      ...(caches
        ? [
            {
              name: "second launch, library, minified, compile cache",
              args: [cached, directory, "launch"],
              aim: "≤ 2 ×"
            }
          ]
        : [])
    ].map((contender) => ({ aim: "", ...contender, command, version, samples: [] as Array<number> }))
  )
  const run = (command: string, args: ReadonlyArray<string>) =>
    new Promise<number>((resolve, reject) => {
      const from = micros()
      const child = spawn(command, args, { env, stdio: "ignore" })
      child.once("error", reject)
      child.once("exit", (code) => {
        if (code === 0) resolve((micros() - from) / 1_000)
        else reject(new Error(`${args.join(" ")} ended with ${code}`))
      })
    })
  progress("second launches")
  // Twice: the first one writes the cache.
  for (const { args, command } of [...contenders, ...contenders]) await run(command, args)
  await alternating(
    few(40),
    contenders.map(({ args, command, samples }) => async () => {
      samples.push(await run(command, args))
    })
  )
  await Promise.all([primary, listener].map(({ end }) => end("SIGTERM")))
  raw.close()
  return section(
    { file: "launches", title: "How long does a whole second launch take?" },
    runtimes.flatMap(({ version }) => {
      const [reference, ...others] = contenders.filter((contender) => contender.version === version)
      return others.map(({ aim, name, samples }) =>
        figure(`${name} (${version})`, aim, samples, reference!.samples, `${reference!.name} (${version})`)
      )
    })
  )
}

export const takeovers = async (): Promise<Section> => {
  progress("takeovers")
  const [library, raw] = await Promise.all([built("library", "bench/library.ts"), built("raw", "bench/raw.ts")])
  const ours: Array<number> = []
  const theirs: Array<number> = []
  const kill = async (leading: Started, following: Started) => {
    const from = micros()
    leading.child.kill("SIGKILL")
    return ((await following.next("primary")).at - from) / 1_000
  }
  let leading = start(library, [directory, "standby"])
  await leading.next("primary")
  await alternating(few(30), [
    async () => {
      const following = start(library, [directory, "standby"])
      await following.next("follows")
      ours.push(await kill(leading, following))
      leading = following
    },
    async () => {
      rmSync(join(directory, "raw.sock"), { force: true })
      const server = start(raw, [directory, "primary"])
      await server.next("primary")
      const watcher = start(raw, [directory, "standby"])
      await watcher.next("follows")
      theirs.push(await kill(server, watcher))
      await watcher.end("SIGTERM")
    }
  ])
  await leading.end("SIGTERM")
  return section({ file: "takeovers", title: "How long after SIGKILL is the standby the primary?" }, [
    figure("SIGKILL to the standby being primary and serving", "p99 ≤ 20 ms", ours, theirs, "raw socket closes")
  ])
}
