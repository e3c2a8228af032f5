/**
 * `npm run bench`: the library against what one writes without it, in one run, in alternating order, each contender in
 * processes of its own. Prints a table; with `--write` also writes docs/bench/results.json. `--quick` takes few samples.
 */
import { type ChildProcess, type ForkOptions, fork, spawn } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from "node:fs"
import { cpus, loadavg, release, tmpdir, totalmem } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { parseArgs } from "node:util"
import { bundle, root } from "../scripts/bundle.mjs"
import { type Answer, inFlight, type Job, micros } from "./jobs.js"

const { values: options } = parseArgs({
  options: { quick: { type: "boolean", default: false }, write: { type: "boolean", default: false } }
})
const few = (count: number) => (options.quick ? Math.max(2, Math.round(count / 10)) : count)

/** One line of the table. `samples` of all rounds; `unit` is that of a sample. */
interface Figure {
  readonly name: string
  readonly unit: "µs" | "ms" | "1/s"
  readonly library: Summary
  readonly reference: Summary & { readonly name: string }
  /** Library to reference; and the least and greatest of the rounds. */
  readonly ratio: number
  readonly spread: readonly [number, number]
  readonly aim: string
}

interface Summary {
  readonly p50: number
  readonly p99: number
  readonly samples: number
}

const quantile = (sorted: ReadonlyArray<number>, q: number) =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))]!
const median = (samples: ReadonlyArray<number>) =>
  quantile(
    [...samples].sort((a, b) => a - b),
    0.5
  )
// Of a rate the bad end is the low one.
const summary = (rounds: ReadonlyArray<ReadonlyArray<number>>, unit: Figure["unit"]): Summary => {
  const sorted = rounds.flat().sort((a, b) => (unit === "1/s" ? b - a : a - b))
  return { p50: quantile(sorted, 0.5), p99: quantile(sorted, 0.99), samples: sorted.length }
}

// So many rounds as one: a round of one launch says nothing.
const grouped = (rounds: ReadonlyArray<ReadonlyArray<number>>, together: number) =>
  rounds.flatMap((_, index) => (index % together === 0 ? [rounds.slice(index, index + together).flat()] : []))

const figure = (
  name: string,
  unit: Figure["unit"],
  aim: string,
  library: ReadonlyArray<ReadonlyArray<number>>,
  reference: ReadonlyArray<ReadonlyArray<number>>,
  against: string,
  together = 1
): Figure => {
  const [ourRounds, theirRounds] = [grouped(library, together), grouped(reference, together)]
  const ratios = ourRounds.map((samples, round) => median(samples) / median(theirRounds[round]!))
  const [ours, theirs] = [summary(library, unit), summary(reference, unit)]
  return {
    name,
    unit,
    library: ours,
    reference: { ...theirs, name: against },
    ratio: ours.p50 / theirs.p50,
    spread: [Math.min(...ratios), Math.max(...ratios)],
    aim
  }
}

// Names and extra certificates in the environment cost every Node process of some machines 100 ms of its start.
const { NODE_EXTRA_CA_CERTS: _, NODE_OPTIONS: __, ...env } = process.env
const directory = mkdtempSync(join(tmpdir(), "esi-bench-"))
const children = new Set<ChildProcess>()
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL")
  rmSync(directory, { recursive: true, force: true })
})
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(130))

const waitMillis = 30_000
const within = <A>(what: string, promise: Promise<A>): Promise<A> => {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${waitMillis} ms`)), waitMillis)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

const built = async (name: string, entry: string, settings = {}) => {
  const file = join(directory, `${name}.mjs`)
  writeFileSync(file, (await bundle(join(root, entry), settings)).text)
  return file
}

const start = (file: string, args: ReadonlyArray<string>, settings: ForkOptions = {}) => {
  const child = fork(file, args, { env, execArgv: [], stdio: ["ignore", "pipe", "inherit", "ipc"], ...settings })
  children.add(child)
  child.once("exit", () => children.delete(child))
  const lines: Array<any> = []
  const readers: Array<(line: any) => void> = []
  createInterface({ input: child.stdout! }).on("line", (text) => {
    const line = JSON.parse(text)
    const reader = readers.shift()
    if (reader === undefined) lines.push(line)
    else reader(line)
  })
  const next = (event: string): Promise<any> =>
    within(
      `${args.join(" ")} tells ${event}`,
      new Promise((resolve) => (lines.length > 0 ? resolve(lines.shift()) : readers.push(resolve)))
    ).then((line: any) => (line.event === event ? line : next(event)))
  const ask = (job?: Job): Promise<Answer> =>
    within(
      `${args.join(" ")} answers`,
      new Promise((resolve, reject) => {
        const onExit = (code: number | null) => reject(new Error(`${args.join(" ")} ended with ${code}`))
        child.once("exit", onExit)
        child.once("message", (answer) => {
          child.removeListener("exit", onExit)
          resolve(answer as Answer)
        })
        if (job !== undefined) child.send(job)
      })
    )
  const end = (signal: NodeJS.Signals) =>
    new Promise<void>((resolve) => {
      child.once("exit", () => resolve())
      child.kill(signal)
    })
  return { child, next, ask, end }
}

const progress = (text: string) => process.stderr.write(`${text}\n`)

// Both orders, equally often.
const alternating = async (rounds: number, contenders: ReadonlyArray<(round: number) => Promise<void>>) => {
  for (let round = 0; round < rounds; round++) {
    const turn = round % contenders.length
    for (const contender of [...contenders.slice(turn), ...contenders.slice(0, turn)]) await contender(round)
  }
}

const conversations = async (library: string, raw: string): Promise<ReadonlyArray<Figure>> => {
  const contenders = [library, raw].map((file) => ({ file, samples: [] as Array<ReadonlyArray<number>> }))
  const running = await Promise.all(
    contenders.map(async ({ file }) => {
      const primary = start(file, [directory, "primary"])
      await primary.next("primary")
      const client = start(file, [directory, "client"])
      await client.ask()
      return { primary, client }
    })
  )
  const measure = async (job: Job, rounds: number, warmUp: number) => {
    const samples: [Array<ReadonlyArray<number>>, Array<ReadonlyArray<number>>] = [[], []]
    const ask = (which: 0 | 1, job: Job) =>
      running[which]!.client.ask(job).then((answer) => ("samples" in answer ? answer.samples : []))
    for (const which of [0, 1] as const) await ask(which, { ...job, count: few(warmUp) })
    await alternating(
      rounds,
      ([0, 1] as const).map((which) => async () => {
        const took = await ask(which, job)
        samples[which].push(job.kind === "pipelined" ? took.map((micros) => (job.count * 1e6) / micros) : took)
      })
    )
    return samples
  }
  const figures: Array<Figure> = []
  for (const [label, bytes, count] of [
    ["64 B", 64, 2_000],
    ["64 KiB", 65_536, 500]
  ] as const) {
    progress(`round trips of ${label}`)
    const [ours, theirs] = await measure({ kind: "round trip", bytes, count: few(count) }, few(20), count * 3)
    figures.push(figure(`round trip, ${label}`, "µs", "≤ 2.5", ours, theirs, "raw socket"))
  }
  progress("pipelined requests")
  const [ours, theirs] = await measure({ kind: "pipelined", bytes: 64, count: few(20_000) }, few(20), 40_000)
  figures.push(figure(`requests, 64 B, ${inFlight} in flight`, "1/s", "≥ 0.25", ours, theirs, "raw socket"))
  await Promise.all(running.flatMap(({ client, primary }) => [client.end("SIGTERM"), primary.end("SIGTERM")]))
  return figures
}

const launches = async (library: string): Promise<ReadonlyArray<Figure>> => {
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
  const others: Array<ReturnType<typeof start>> = [primary]
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
  const samples = contenders.map(() => [] as Array<ReadonlyArray<number>>)
  for (const { args } of contenders) await run(...args)
  await alternating(
    few(40),
    contenders.map(({ args }, which) => async () => {
      samples[which]!.push([await run(...args)])
    })
  )
  await Promise.all(others.map(({ end }) => end("SIGTERM")))
  return contenders
    .slice(1)
    .map(({ name }, which) => figure(name, "ms", "", samples[which + 1]!, samples[0]!, "node -e 0", 10))
}

const takeovers = async (library: string, raw: string): Promise<ReadonlyArray<Figure>> => {
  progress("takeovers")
  const samples: [Array<ReadonlyArray<number>>, Array<ReadonlyArray<number>>] = [[], []]
  const kill = async (leading: ReturnType<typeof start>, following: ReturnType<typeof start>) => {
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
      samples[0].push([await kill(leading, following)])
      leading = following
    },
    async () => {
      rmSync(join(directory, "raw.sock"), { force: true })
      const server = start(raw, [directory, "primary"])
      await server.next("primary")
      const watcher = start(raw, [directory, "standby"])
      await watcher.next("follows")
      samples[1].push([await kill(server, watcher)])
      await watcher.end("SIGTERM")
    }
  ])
  await leading.end("SIGTERM")
  return [
    figure("SIGKILL to the standby being primary", "ms", "< 50 ms", samples[0], samples[1], "raw socket closes", 10)
  ]
}

const number = (value: number) =>
  value >= 1_000 ? Math.round(value).toLocaleString("en") : value >= 100 ? value.toFixed(0) : value.toPrecision(3)

const table = (figures: ReadonlyArray<Figure>) =>
  [
    "| figure | library p50 | p99 | reference p50 | p99 | ratio of p50 | ratios of rounds | aim |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ...figures.map(({ aim, library, name, ratio, reference, spread, unit }) =>
      [
        "",
        name,
        `${number(library.p50)} ${unit}`,
        number(library.p99),
        `${number(reference.p50)} (${reference.name})`,
        number(reference.p99),
        `**${ratio.toFixed(2)}**`,
        spread.map((value) => value.toFixed(2)).join(" – "),
        aim,
        ""
      ]
        .join(" | ")
        .trim()
    )
  ].join("\n")

const fileSystems: Record<number, string> = {
  61267: "ext4",
  16914836: "tmpfs",
  1481003842: "xfs",
  2435016766: "btrfs",
  2035054128: "overlay"
}

const machine = () => {
  const type = statfsSync(directory).type
  return {
    cpu: `${cpus().length} × ${cpus()[0]?.model.trim()}`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    system: `${process.platform} ${release()} ${process.arch}`,
    node: process.version,
    directory: `${tmpdir()} (${fileSystems[type] ?? `0x${type.toString(16)}`})`,
    loadBefore: loadavg()[0]!.toFixed(1)
  }
}

const where = machine()
const library = await built("library", "bench/library.ts")
const raw = await built("raw", "bench/raw.ts")
const figures = [
  ...(await conversations(library, raw)),
  ...(await launches(library)),
  ...(await takeovers(library, raw))
]
console.log(table(figures))
console.log(
  `\n${Object.entries(where)
    .map(([key, value]) => `${key}: ${value}`)
    .join(" · ")}`
)
console.log(`samples: ${figures.map(({ library, name }) => `${name} ${library.samples}`).join(" · ")}`)
if (options.write) {
  mkdirSync(join(root, "docs/bench"), { recursive: true })
  const file = join(root, "docs/bench/results.json")
  writeFileSync(file, `${JSON.stringify({ date: new Date().toISOString(), machine: where, figures }, undefined, 2)}\n`)
  console.log(`written: ${file}`)
}
process.exit(0)
