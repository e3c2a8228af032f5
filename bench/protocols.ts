/**
 * What each protocol costs, at two levels: the library's typed requests, and the frames at the seam below; beside what one
 * writes over `node:net`.
 */
import { mkdtempSync } from "node:fs"
import { join } from "node:path"
import { protocolNames } from "../src/internal/platform.js"
import { built, directory, inTurn, options, progress, type Section, type Started, start } from "./harness.js"
import { inFlight, type Job } from "./jobs.js"
import type { Plot } from "./plot.js"
import { type Interval, interval, median, number, quantile, type Ratio, ratio, table, times } from "./statistics.js"

// Processes are started anew now and then: two starts of one program are seldom equally fast.
const starts = options.quick ? 1 : 2
const roundsOfStart = options.quick ? 3 : 6
const jobMillis = options.quick ? 150 : 300
// Of each job. What the library runs through is compiled after some 10,000 requests.
const warmUpMillis = options.quick ? 400 : 1_000
const idleMillis = options.quick ? 6_000 : 60_000
// Starting leaves work behind, such as garbage, which the engine gets round to within half a minute.
const settleMillis = options.quick ? 3_000 : 45_000

const sizes = [64, 1024, 64 * 1024, 1024 * 1024]

const size = (bytes: number) =>
  bytes < 1024 ? `${bytes} B` : bytes < 1024 ** 2 ? `${bytes / 1024} KiB` : `${bytes / 1024 ** 2} MiB`

type Level = "typed" | "frames"

// -------------------------------------------------------------------------------------
// contenders
// -------------------------------------------------------------------------------------

interface Contender {
  readonly name: string
  readonly file: string
  /** What follows its mode. */
  readonly args: ReadonlyArray<string>
}

interface Pair {
  readonly primary: Started
  readonly client: Started
}

// What is between processes; `memory` is not.
const memory = "memory"
const reference = "raw unix"

const enter = async ({ args, file, name }: Contender): Promise<Pair | string> => {
  const place = mkdtempSync(join(directory, "pair-"))
  if (name === memory) {
    const both = start(file, [place, "both", ...args])
    await both.ready()
    return { primary: both, client: both }
  }
  const primary = start(file, [place, "primary", ...args])
  const told = await primary.next("primary", "unavailable")
  if (told.event === "unavailable") return told.message
  const client = start(file, [place, "client", ...args, ...(told.address === undefined ? [] : [told.address])])
  await client.ready()
  return { primary, client }
}

const leave = async ({ client, primary }: Pair) => {
  await client.end("SIGTERM")
  await primary.end("SIGTERM")
}

const entered = async (contender: Contender): Promise<Pair> => {
  const pair = await enter(contender)
  if (typeof pair === "string") throw new Error(`${contender.name}: ${pair}`)
  return pair
}

/** Every protocol that works here, and what stands beside it. */
const contenders = async (): Promise<Record<Level, ReadonlyArray<Contender>>> => {
  const [library, frames, raw] = await Promise.all(
    ["library", "frames", "raw"].map((name) => built(name, `bench/${name}.ts`))
  )
  const usable: Array<string> = []
  for (const name of protocolNames) {
    const pair = await enter({ name, file: frames!, args: [name] })
    if (typeof pair === "string") {
      progress(`${name} is left out: ${pair}`)
    } else {
      usable.push(name)
      await leave(pair)
    }
  }
  const level = (file: string, form: string): ReadonlyArray<Contender> => [
    ...[...usable, memory].map((name) => ({ name, file, args: [name] })),
    ...(process.platform === "win32" ? ["tcp"] : ["unix", "tcp"]).map((name) => ({
      name: `raw ${name}`,
      file: raw!,
      args: [name, form]
    }))
  ]
  return { typed: level(library!, "lines"), frames: level(frames!, "frames") }
}

// -------------------------------------------------------------------------------------
// measures
// -------------------------------------------------------------------------------------

interface Measure {
  readonly name: string
  /** The file of its plot. */
  readonly plot?: string
  readonly level: Level
  readonly kind: Job["kind"]
  readonly sizes: ReadonlyArray<number>
  readonly question: string
  /** What the comparison of that name is to show, as times faster. */
  readonly aims: Readonly<Record<string, string>>
}

const measures: ReadonlyArray<Measure> = [
  {
    name: "typed round trip",
    plot: "typed-round-trip",
    level: "typed",
    kind: "round trip",
    sizes,
    question: "How long does a typed request take, there and back?",
    aims: { "unix : raw unix": "≥ 0.4", "unix : tcp": "others claim 10" }
  },
  {
    name: `typed requests, ${inFlight} in flight`,
    level: "typed",
    kind: "pipelined",
    sizes: [64],
    question: "How many typed requests are answered?",
    aims: { "unix : raw unix": "≥ 0.25", "unix : tcp": "others claim 10" }
  },
  {
    name: "frame round trip",
    plot: "frame-round-trip",
    level: "frames",
    kind: "round trip",
    sizes,
    question: "How long does a frame take, there and back?",
    aims: { "shm : raw unix": "> 1 at 64 B", "shm : file": "others claim 5", "raw unix : raw tcp": "others claim 10" }
  },
  {
    name: "frames one way",
    plot: "frames-one-way",
    level: "frames",
    kind: "one way",
    sizes,
    question: "How many frames go one way, and how much is that?",
    aims: { "shm : raw unix": "> 1 at 1 MiB", "shm : file": "others claim 5", "raw unix : raw tcp": "others claim 10" }
  }
]

/** Who is held against whom. */
const comparisons: ReadonlyArray<readonly [of: string, to: string]> = [
  ["shm", "raw unix"],
  ["shm", "unix"],
  ["shm", "file"],
  ["unix", "file"],
  ["unix", "raw unix"],
  ["unix", "tcp"],
  ["raw unix", "raw tcp"]
]

/** What one contender did of one measure with one size. */
interface Cell {
  readonly contender: string
  readonly bytes: number
  /** Of each round, in the order of the rounds: microseconds for one message. */
  readonly medians: ReadonlyArray<number>
  readonly samples: number
  readonly p50: number
  readonly p99: number
  readonly interval: Interval
  /** To the raw Unix socket, of what the measure is given in. */
  readonly ratio: Ratio | undefined
}

interface Outcome {
  readonly measure: Measure
  readonly cells: ReadonlyArray<Cell>
}

const form = ({ level }: Measure) => (level === "typed" ? "lines of JSON" : "frames behind their length")

const isRate = ({ kind }: Measure) => kind !== "round trip"

const measureLevel = async (level: Level, contenders: ReadonlyArray<Contender>): Promise<ReadonlyArray<Outcome>> => {
  const own = measures.filter((measure) => measure.level === level)
  const jobs = own.flatMap((measure) => measure.sizes.map((bytes) => ({ measure, bytes })))
  // By job, contender and round.
  const samples = jobs.map(() => contenders.map(() => [] as Array<ReadonlyArray<number>>))
  const turns = [...contenders.keys()]
  for (let begun = 0; begun < starts; begun++) {
    const pairs: Array<Pair> = []
    for (const contender of contenders) pairs.push(await entered(contender))
    const run = ({ bytes, measure }: (typeof jobs)[number], who: number, millis: number) =>
      pairs[who]!.client.ask({ kind: measure.kind, bytes, millis, count: measure.kind === "round trip" ? 20_000 : 1e9 })
    progress(`${level}: warming up`)
    for (const job of jobs) for (const who of turns) await run(job, who, warmUpMillis)
    for (let round = 0; round < roundsOfStart; round++) {
      progress(`${level}: start ${begun + 1} of ${starts}, round ${round + 1} of ${roundsOfStart}`)
      for (const [which, job] of jobs.entries()) {
        for (const who of inTurn(round, turns)) samples[which]![who]!.push(await run(job, who, jobMillis))
      }
    }
    for (const pair of pairs) await leave(pair)
  }
  return own.map((measure) => ({
    measure,
    cells: jobs.flatMap(({ bytes, measure: of }, which) => {
      if (of !== measure) return []
      const medians = samples[which]!.map((rounds) => rounds.map(median))
      const against = medians[contenders.findIndex(({ name }) => name === reference)]
      return contenders.map(({ name }, who): Cell => {
        const all = samples[which]![who]!.flat()
        return {
          contender: name,
          bytes,
          medians: medians[who]!,
          samples: all.length,
          p50: median(all),
          p99: quantile(all, 0.99),
          interval: interval(medians[who]!),
          ratio:
            against === undefined || name === reference
              ? undefined
              : isRate(measure)
                ? ratio(against, medians[who]!)
                : ratio(medians[who]!, against)
        }
      })
    })
  }))
}

const names = ({ cells }: Outcome) => [...new Set(cells.map(({ contender }) => contender))]

const find = ({ cells }: Outcome, contender: string, bytes: number) =>
  cells.find((cell) => cell.contender === contender && cell.bytes === bytes)

const perSecond = (micros: number) => 1e6 / micros
const megabytes = (bytes: number, micros: number) => bytes / micros

const faster = (outcome: Outcome, of: string, to: string, bytes: number): Ratio | undefined => {
  const [ours, theirs] = [find(outcome, of, bytes), find(outcome, to, bytes)]
  return ours && theirs && ratio(theirs.medians, ours.medians)
}

const absolute = ({ kind }: Measure, { bytes, p50, p99 }: Cell): string => {
  if (kind === "round trip") return `${number(p50)} / ${number(p99)}`
  if (kind === "pipelined") return `${number(perSecond(p50))}/s`
  return `${number(megabytes(bytes, p50))} MB/s, ${number(perSecond(p50))}/s`
}

const report = (outcome: Outcome): string => {
  const { measure } = outcome
  const better = isRate(measure) ? "more" : "less"
  const unit = isRate(measure) ? "Median" : "p50 / p99 in µs"
  const against = comparisons.flatMap(([of, to]) => {
    const found = measure.sizes.map((bytes) => faster(outcome, of, to, bytes))
    const name = `${of} : ${to}`
    return found.includes(undefined) ? [] : [[name, ...found.map((found) => times(found!)), measure.aims[name] ?? ""]]
  })
  return [
    `### ${measure.name}\n`,
    `${unit}; in bold the ratio to \`${reference}\`, which is \`node:net\` with ${form(measure)}: ${better} is better.\n`,
    table(
      ["", ...measure.sizes.map(size)],
      names(outcome).map((name) => [
        name,
        ...measure.sizes.map((bytes) => {
          const cell = find(outcome, name, bytes)!
          return `${absolute(measure, cell)}${cell.ratio === undefined ? "" : ` · ${times(cell.ratio)}`}`
        })
      ])
    ),
    "\nTimes faster, of the same rounds: more is better.\n",
    table(["", ...measure.sizes.map(size), "aim"], against)
  ].join("\n")
}

const draw = (outcome: Outcome): ReadonlyArray<Plot> => {
  const { measure } = outcome
  if (measure.plot === undefined) return []
  const values = ({ bytes, p50, p99 }: Cell) => (isRate(measure) ? [megabytes(bytes, p50), perSecond(p50)] : [p50, p99])
  return [
    {
      file: measure.plot,
      title: measure.question,
      note: `raw: node:net with ${form(measure)}; memory: within one process. Both axes are logarithmic.`,
      x: {
        name: measure.level === "typed" ? "characters of the text" : "bytes of the frame",
        base: 4,
        ticks: sizes,
        label: size
      },
      panels: isRate(measure)
        ? [{ name: "MB/s, median (more is better)" }, { name: "frames/s, median (more is better)" }]
        : [{ name: "µs, p50 (less is better)" }, { name: "µs, p99 (less is better)" }],
      series: names(outcome).map((name) => ({
        name,
        isReference: name.startsWith("raw "),
        points: measure.sizes.map((bytes) => ({ x: bytes, values: values(find(outcome, name, bytes)!) }))
      }))
    }
  ]
}

export const protocols = async (): Promise<Section> => {
  const { frames, typed } = await contenders()
  const outcomes = [...(await measureLevel("typed", typed)), ...(await measureLevel("frames", frames))]
  return {
    markdown: outcomes.map(report).join("\n\n"),
    data: {
      rounds: starts * roundsOfStart,
      starts,
      jobMillis,
      warmUpMillis,
      unit: "microseconds for one message",
      measures: outcomes.map((outcome) => ({
        name: outcome.measure.name,
        cells: outcome.cells,
        faster: comparisons.flatMap(([of, to]) =>
          outcome.measure.sizes.flatMap((bytes) => {
            const found = faster(outcome, of, to, bytes)
            return found === undefined ? [] : [{ of, to, bytes, ...found }]
          })
        )
      }))
    },
    plots: outcomes.flatMap(draw)
  }
}

// -------------------------------------------------------------------------------------
// doing nothing
// -------------------------------------------------------------------------------------

const sleep = (millis: number) => new Promise<void>((resolve) => setTimeout(resolve, millis))

/** What an open connection costs while nobody says anything. */
export const idle = async (): Promise<Section> => {
  const { typed } = await contenders()
  const pairs: Array<{ readonly name: string; readonly pair: Pair }> = []
  for (const contender of typed) pairs.push({ name: contender.name, pair: await entered(contender) })
  progress(`idle for ${(settleMillis + idleMillis) / 1_000} s`)
  await sleep(settleMillis)
  const usages = () =>
    Promise.all(
      pairs.map(async ({ pair: { client, primary } }) => ({
        primary: await primary.usage(),
        client: await client.usage()
      }))
    )
  const before = await usages()
  const from = performance.now()
  await sleep(idleMillis)
  const after = await usages()
  const seconds = (performance.now() - from) / 1_000
  const figures = pairs.map(({ name }, which) => {
    const spent = (end: "primary" | "client") => ({
      cpuPercent: (after[which]![end].cpuMicros - before[which]![end].cpuMicros) / seconds / 1e4,
      wakesPerSecond: (after[which]![end].wakes - before[which]![end].wakes) / seconds
    })
    return { name, primary: spent("primary"), client: spent("client") }
  })
  for (const { pair } of pairs) await leave(pair)
  return {
    markdown: [
      `### idle CPU\n`,
      `One open connection for ${Math.round(seconds)} s, in which nothing is said; \`raw\` is a bare Node process with a socket.\n`,
      table(
        ["", "primary, % of a core", "wakes/s", "client, % of a core", "wakes/s"],
        figures.map(({ client, name, primary }) => [
          name,
          ...(name === memory ? [primary] : [primary, client]).flatMap(({ cpuPercent, wakesPerSecond }) => [
            cpuPercent.toFixed(3),
            wakesPerSecond.toFixed(1)
          ]),
          ...(name === memory ? ["the same process", ""] : [])
        ])
      )
    ].join("\n"),
    data: { seconds, contenders: figures }
  }
}
