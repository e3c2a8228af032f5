/**
 * What a second launch costs, against a process that does nothing, and how soon a standby is primary.
 */
import { spawn } from "node:child_process"
import { existsSync, rmSync } from "node:fs"
import { join } from "node:path"
import { root } from "../scripts/bundle.mjs"
import { alternating, built, directory, env, few, progress, type Section, type Started, start } from "./harness.js"
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

const section = (figures: ReadonlyArray<Figure>): Section => ({
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
  data: figures
})

export const launches = async (): Promise<Section> => {
  const library = await built("library", "bench/library.ts")
  const run = (...args: ReadonlyArray<string>) =>
    new Promise<number>((resolve, reject) => {
      const from = micros()
      const child = spawn(process.execPath, args, { env, stdio: "ignore" })
      child.once("exit", (code) => {
        if (code === 0) resolve((micros() - from) / 1_000)
        else reject(new Error(`${args.join(" ")} ended with ${code}`))
      })
    })
  const primary = start(library, [directory, "primary"])
  await primary.next("primary")
  const contenders: Array<{ readonly name: string; readonly args: ReadonlyArray<string> }> = [
    { name: "node -e 0", args: ["-e", "0"] },
    { name: "second launch, library", args: [library, directory, "launch"] }
  ]
  const others: Array<Started> = [primary]
  const entry = "src/bin.ts"
  if (existsSync(join(root, entry))) {
    const bin = await built("bin", entry, { minifySyntax: true, minifyWhitespace: true })
    const listener = start(bin, ["listen", "bench/cli", "--dir", directory, "--json"])
    others.push(listener)
    await listener.next("primary")
    contenders.push({
      name: "second launch, CLI",
      args: [bin, "send", "bench/cli", "--dir", directory, "--", "a", "b"]
    })
  } else {
    progress(`${entry} is not there: the command line is left out`)
  }
  progress("second launches")
  const samples = contenders.map(() => [] as Array<number>)
  for (const { args } of contenders) await run(...args)
  await alternating(
    few(40),
    contenders.map(({ args }, which) => async () => {
      samples[which]!.push(await run(...args))
    })
  )
  await Promise.all(others.map(({ end }) => end("SIGTERM")))
  return section(
    contenders.slice(1).map(({ name }, which) => figure(name, "", samples[which + 1]!, samples[0]!, "node -e 0"))
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
  return section([figure("SIGKILL to the standby being primary", "< 50 ms", ours, theirs, "raw socket closes")])
}
