/**
 * How long a process that runs takes to be the primary.
 */
import { mkdtempSync } from "node:fs"
import { join } from "node:path"
import { type LeftOut, linesOf } from "./contest.js"
import {
  alternating,
  built,
  directory,
  few,
  installed,
  options,
  others,
  progress,
  type Section,
  type Started,
  start
} from "./harness.js"
import { median, number, quantile, ratio, table, times } from "./statistics.js"

const rounds = few(30)
// In a round. They are also how many ids the dead primary led under.
const count = 25
// What an election runs through is compiled after some hundred.
const warmUpRounds = options.quick ? 8 : 12

interface Elector {
  readonly name: string
  readonly file: string
  readonly args: ReadonlyArray<string>
  readonly aim?: string
  /** Who leads there before and is killed; if left out, nobody ever led there. */
  readonly predecessor?: ReadonlyArray<string>
}

const floor = "open(wx) and listen"
const locks = ["proper-lockfile", "fs-native-extensions"]

export const elections = async (): Promise<Section> => {
  const [elector, raw] = await Promise.all([built("elector", "bench/elector.ts"), built("raw", "bench/raw.ts")])
  const missing = installed()
  const ours = (name: string, endpoints: string, aim: string): ReadonlyArray<Elector> => [
    { name: `${name}, empty directory`, file: elector, args: [directory, endpoints, "elect", "free"], aim },
    {
      name: `${name}, stale directory`,
      file: elector,
      args: [directory, endpoints, "elect", "dead"],
      predecessor: [endpoints, "leave", String(count)],
      aim
    }
  ]
  const electors: Array<Elector> = [
    ...ours("lock and Unix socket", "unix", "p50 ≤ 2 ms"),
    ...ours("lock and the default endpoints", "all", ""),
    ...ours("lock alone", "lock", ""),
    { name: floor, file: raw, args: [directory, "elected"] }
  ]
  const leftOut: Array<LeftOut> = []
  if (missing === undefined) {
    const file = await built("locks", "bench/contenders/locks.ts")
    electors.push(...locks.map((name) => ({ name, file, args: [others, name] })))
  } else {
    leftOut.push(...locks.map((name) => ({ name, reason: missing })))
  }

  const taking: Array<{
    readonly elector: Elector
    readonly process: Started
    readonly rounds: Array<ReadonlyArray<number>>
  }> = []
  for (const elector of electors) {
    const process = start(elector.file, elector.args)
    const told = await process.next("elects", "unavailable")
    if (told.event === "elects") taking.push({ elector, process, rounds: [] })
    else leftOut.push({ name: elector.name, reason: told.message })
  }
  const turns = taking.map(({ elector, process, rounds }) => async () => {
    const place = mkdtempSync(join(directory, "elections-"))
    if (elector.predecessor !== undefined) {
      const predecessor = start(elector.file, [place, ...elector.predecessor])
      await predecessor.next("leads")
      await predecessor.end("SIGKILL")
    }
    rounds.push(await process.ask({ kind: "election", place, count, bytes: 0, millis: 0 }))
  })
  progress("elections: warming up")
  await alternating(warmUpRounds, turns)
  for (const { rounds } of taking) rounds.length = 0
  progress("elections")
  await alternating(rounds, turns)
  await Promise.all(taking.map(({ process }) => process.end("SIGTERM")))

  const results = taking.map(({ elector, rounds }) => {
    const all = rounds.flat()
    return {
      name: elector.name,
      aim: elector.aim ?? "",
      medians: rounds.map(median),
      samples: all.length,
      p50: median(all),
      p99: quantile(all, 0.99)
    }
  })
  const against = [floor, ...locks].flatMap((name) => results.filter((result) => result.name === name))
  const ratios = results.map(({ medians }) => against.map((other) => ratio(medians, other.medians)))
  return {
    markdown: [
      "From asking to being the primary, in a process that runs, in µs; what else it costs is started before. A stale",
      "directory is that of a primary that was killed. In bold the ratio to who is named above: less is better. Those verify",
      "nobody and serve nobody; the first one, once killed, is in its own way for ever.\n",
      table(
        ["", "p50", "p99", ...against.map(({ name }) => `: ${name}`), "samples", "aim"],
        results.map(({ aim, name, p50, p99, samples }, which) => [
          name,
          number(p50),
          number(p99),
          ...against.map((other, to) => (other.name === name ? "" : times(ratios[which]![to]!))),
          `${samples}`,
          aim
        ])
      ),
      ...linesOf(leftOut)
    ].join("\n"),
    data: {
      rounds,
      count,
      unit: "microseconds",
      leftOut,
      electors: results.map((result, which) => ({
        ...result,
        ratios: Object.fromEntries(against.map(({ name }, to) => [name, ratios[which]![to]!]))
      }))
    },
    plots: [
      {
        file: "elections",
        title: "How long does a process that runs take to be the primary?",
        note: "Grey: what verifies nobody and serves nobody.",
        panels: [{ name: "µs, p50" }, { name: "µs, p99" }],
        bars: results.map(({ name, p50, p99 }) => ({
          name,
          isReference: against.some((other) => other.name === name),
          values: [p50, p99]
        }))
      }
    ]
  }
}
