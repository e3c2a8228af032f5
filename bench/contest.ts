/**
 * Contenders that do the same jobs: their processes, the rounds, what is said of them, as a table and as a plot.
 */
import { mkdtempSync } from "node:fs"
import { join } from "node:path"
import { directory, inTurn, options, progress, type Section, type Started, start } from "./harness.js"
import type { Job } from "./jobs.js"
import type { Plot } from "./plot.js"
import { type Interval, interval, median, number, quantile, type Ratio, ratio, table, times } from "./statistics.js"

// Processes are started anew now and then: two starts of one program are seldom equally fast.
const starts = options.quick ? 1 : 2
const roundsOfStart = options.quick ? 3 : 6
const jobMillis = options.quick ? 150 : 300
// Of each job. What the library runs through is compiled after some 10,000 requests.
const warmUpMillis = options.quick ? 400 : 1_000

const size = (bytes: number) =>
  bytes < 1024 ? `${bytes} B` : bytes < 1024 ** 2 ? `${bytes / 1024} KiB` : `${bytes / 1024 ** 2} MiB`

// -------------------------------------------------------------------------------------
// contenders
// -------------------------------------------------------------------------------------

export interface Contender {
  readonly name: string
  readonly file: string
  /** What follows its mode. */
  readonly args: ReadonlyArray<string>
  /** Both ends are in one process. */
  readonly isAlone?: boolean
}

/** Why somebody does not take part. */
export interface LeftOut {
  readonly name: string
  readonly reason: string
}

export const linesOf = (leftOut: ReadonlyArray<LeftOut>): ReadonlyArray<string> =>
  leftOut.map(({ name, reason }) => `\n${name} is left out: ${reason}`)

export interface Pair {
  readonly primary: Started
  readonly client: Started
}

const enter = async ({ args, file, isAlone }: Contender): Promise<Pair | string> => {
  const place = mkdtempSync(join(directory, "pair-"))
  if (isAlone) {
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

export const leave = async ({ client, primary }: Pair) => {
  await client.end("SIGTERM")
  await primary.end("SIGTERM")
}

export const entered = async (contender: Contender): Promise<Pair> => {
  const pair = await enter(contender)
  if (typeof pair === "string") throw new Error(`${contender.name}: ${pair}`)
  return pair
}

/** Whose protocol works here. */
export const usable = async (
  contenders: ReadonlyArray<Contender>
): Promise<{ readonly usable: ReadonlyArray<Contender>; readonly leftOut: ReadonlyArray<LeftOut> }> => {
  const usable: Array<Contender> = []
  const leftOut: Array<LeftOut> = []
  for (const contender of contenders) {
    const pair = await enter(contender)
    if (typeof pair === "string") {
      leftOut.push({ name: contender.name, reason: pair })
    } else {
      usable.push(contender)
      await leave(pair)
    }
  }
  return { usable, leftOut }
}

// -------------------------------------------------------------------------------------
// measures
// -------------------------------------------------------------------------------------

export interface Measure {
  readonly name: string
  /** The file of its plot. */
  readonly plot?: string
  readonly kind: Job["kind"]
  readonly sizes: ReadonlyArray<number>
  readonly question: string
  /** What the comparison of that name is to show, as times faster. */
  readonly aims: Readonly<Record<string, string>>
}

/** Who is measured how, side by side. */
export interface Level {
  readonly name: string
  readonly contenders: ReadonlyArray<Contender>
  readonly leftOut: ReadonlyArray<LeftOut>
  readonly measures: ReadonlyArray<Measure>
  /** What the others are held against, and what it writes over `node:net`. */
  readonly reference: string
  readonly form: string
  /** The axis of its plots, and what else a reader of them must know of the names. */
  readonly x: string
  readonly note: string
}

/** Who is held against whom. */
export type Comparisons = ReadonlyArray<readonly [of: string, to: string]>

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
  /** To the reference, of what the measure is given in. */
  readonly ratio: Ratio | undefined
}

interface Outcome {
  readonly level: Level
  readonly measure: Measure
  readonly cells: ReadonlyArray<Cell>
}

const isRate = ({ kind }: Measure) => kind !== "round trip"

const measureLevel = async (level: Level): Promise<ReadonlyArray<Outcome>> => {
  const { contenders, measures, reference } = level
  const jobs = measures.flatMap((measure) => measure.sizes.map((bytes) => ({ measure, bytes })))
  // By job, contender and round.
  const samples = jobs.map(() => contenders.map(() => [] as Array<ReadonlyArray<number>>))
  const turns = [...contenders.keys()]
  for (let begun = 0; begun < starts; begun++) {
    const pairs: Array<Pair> = []
    for (const contender of contenders) pairs.push(await entered(contender))
    const run = ({ bytes, measure }: (typeof jobs)[number], who: number, millis: number) =>
      pairs[who]!.client.ask({ kind: measure.kind, bytes, millis, count: measure.kind === "round trip" ? 20_000 : 1e9 })
    progress(`${level.name}: warming up`)
    for (const job of jobs) for (const who of turns) await run(job, who, warmUpMillis)
    for (let round = 0; round < roundsOfStart; round++) {
      progress(`${level.name}: start ${begun + 1} of ${starts}, round ${round + 1} of ${roundsOfStart}`)
      for (const [which, job] of jobs.entries()) {
        for (const who of inTurn(round, turns)) samples[which]![who]!.push(await run(job, who, jobMillis))
      }
    }
    for (const pair of pairs) await leave(pair)
  }
  return measures.map((measure) => ({
    level,
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

const report = (outcome: Outcome, comparisons: Comparisons): string => {
  const { level, measure } = outcome
  const better = isRate(measure) ? "more" : "less"
  const unit = isRate(measure) ? "Median" : "p50 / p99 in µs"
  const against = comparisons.flatMap(([of, to]) => {
    const found = measure.sizes.map((bytes) => faster(outcome, of, to, bytes))
    const name = `${of} : ${to}`
    return found.includes(undefined) ? [] : [[name, ...found.map((found) => times(found!)), measure.aims[name] ?? ""]]
  })
  return [
    `### ${measure.name}\n`,
    `${unit}; in bold the ratio to \`${level.reference}\`, which is \`node:net\` with ${level.form}: ${better} is better.\n`,
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
    table(["", ...measure.sizes.map(size), "aim"], against),
    ...linesOf(level.leftOut)
  ].join("\n")
}

const draw = (outcome: Outcome): ReadonlyArray<Plot> => {
  const { level, measure } = outcome
  if (measure.plot === undefined) return []
  const values = ({ bytes, p50, p99 }: Cell) => (isRate(measure) ? [megabytes(bytes, p50), perSecond(p50)] : [p50, p99])
  return [
    {
      file: measure.plot,
      title: measure.question,
      note: `raw: node:net with ${level.form}; ${level.note}. Both axes are logarithmic.`,
      x: {
        name: level.x,
        base: 4,
        ticks: measure.sizes,
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

/** Measures level by level, and holds everyone against the reference and those who are compared against each other. */
export const contest = async (levels: ReadonlyArray<Level>, comparisons: Comparisons): Promise<Section> => {
  const outcomes: Array<Outcome> = []
  for (const level of levels) {
    for (const { name, reason } of level.leftOut) progress(`${name} is left out: ${reason}`)
    outcomes.push(...(await measureLevel(level)))
  }
  return {
    markdown: outcomes.map((outcome) => report(outcome, comparisons)).join("\n\n"),
    data: {
      rounds: starts * roundsOfStart,
      starts,
      jobMillis,
      warmUpMillis,
      unit: "microseconds for one message",
      leftOut: levels.flatMap(({ leftOut }) => leftOut),
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
