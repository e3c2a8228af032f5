/**
 * What is open and says nothing.
 */
import type { ForkOptions } from "node:child_process"
import { mkdtempSync } from "node:fs"
import { join } from "node:path"
import { entered, type LeftOut, leave, linesOf, type Pair } from "./contest.js"
import { built, directory, options, progress, type Section, type Started, start } from "./harness.js"
import { spread } from "./jobs.js"
import { memory, typed } from "./protocols.js"
import { median, number, quantile, table } from "./statistics.js"

const idleMillis = options.quick ? 6_000 : 60_000
// Starting leaves work behind, such as garbage, which the engine gets round to within half a minute.
const settleMillis = options.quick ? 3_000 : 45_000

const sleep = (millis: number) => new Promise<void>((resolve) => setTimeout(resolve, millis))

const local = process.platform === "win32" ? "pipe" : "unix"
const crowded = 100

const leading = async (settings: ForkOptions = {}) => {
  const place = mkdtempSync(join(directory, "idle-"))
  const file = await built("library", "bench/library.ts")
  const primary = start(file, [place, "primary", local], settings)
  await primary.next("primary")
  return {
    primary,
    beside: (mode: string, ...args: ReadonlyArray<string>) => start(file, [place, mode, local, ...args])
  }
}

const besides = async (mode: string, event: string, ...args: ReadonlyArray<string>): Promise<Pair> => {
  const { beside, primary } = await leading()
  const client = beside(mode, ...args)
  await client.next(event)
  return { primary, client }
}

/** What a primary costs, and who is connected to it or waits behind it, while nobody says anything. */
export const idle = async (): Promise<Section> => {
  const { contenders } = await typed()
  const pairs: Array<{ readonly name: string; readonly pair: Pair }> = []
  for (const contender of contenders) pairs.push({ name: contender.name, pair: await entered(contender) })
  pairs.push({ name: `${local}, a standby`, pair: await besides("standby", "follows") })
  pairs.push({
    name: `${local}, ${crowded} connections of one client`,
    pair: await besides("crowd", "connected", String(crowded))
  })
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
      `For ${Math.round(seconds)} s nothing is said over an open connection, if nothing else is said here; \`raw\` is a bare Node process with a socket.\n`,
      table(
        ["", "primary, % of a core", "wakes/s", "client or standby, % of a core", "wakes/s", "aim"],
        figures.map(({ client, name, primary }) => [
          name,
          ...(name === memory ? [primary] : [primary, client]).flatMap(({ cpuPercent, wakesPerSecond }) => [
            cpuPercent.toFixed(3),
            wakesPerSecond.toFixed(1)
          ]),
          ...(name === memory ? ["the same process", ""] : []),
          name.startsWith(local) ? "< 0.1" : ""
        ])
      )
    ].join("\n"),
    data: { seconds, contenders: figures },
    plots: [
      {
        file: "idle",
        title: "What does it cost to say nothing?",
        note: "raw: a bare Node process with a socket; memory: both in one process.",
        panels: [{ name: "primary, % of a core" }, { name: "client or standby, % of a core" }],
        bars: figures.map(({ client, name, primary }) => ({
          name,
          isReference: name.startsWith("raw "),
          values: [primary.cpuPercent, name === memory ? undefined : client.cpuPercent]
        }))
      }
    ]
  }
}

// -------------------------------------------------------------------------------------
// many connections
// -------------------------------------------------------------------------------------

const crowds = options.quick ? [0, 50, 500] : [0, 1_000, 10_000]
// As many as one process opens, so that no limit of open files is met before the primary's own.
const ofOneClient = 2_500
const besideMillis = options.quick ? 1_000 : 5_000

const summary = (samples: ReadonlyArray<number>) => ({
  samples: samples.length,
  p50: median(samples),
  p99: quantile(samples, 0.99),
  max: samples.reduce((a, b) => Math.max(a, b))
})

const crowd = async (count: number) => {
  progress(`${count} connections`)
  const { beside, primary } = await leading({ execArgv: ["--expose-gc"] })
  const client = beside("client")
  await client.ready()
  const ask = (millis: number) => client.ask({ kind: "round trip", bytes: 64, count: 1e6, millis })
  await ask(besideMillis)
  const clients: Array<Started> = []
  let isComplete = false
  const coming = (async () => {
    for (const size of spread(count, ofOneClient)) {
      const one = beside("crowd", String(size))
      clients.push(one)
      const told = await one.next("connected", "unavailable")
      if (told.event === "unavailable") throw new Error(told.message)
    }
  })().finally(() => {
    isComplete = true
  })
  // The rejection is heard below.
  coming.catch(() => {})
  const during: Array<number> = []
  while (count > 0 && !isComplete) during.push(...(await ask(100)))
  const end = async () => {
    await Promise.all([...clients, client].map((one) => one.end("SIGKILL")))
    await primary.end("SIGTERM")
  }
  try {
    await coming
    const { heap, resident } = await primary.usage()
    const beside = summary(await ask(besideMillis))
    return { count, heap, resident, beside, during: during.length === 0 ? undefined : summary(during) }
  } finally {
    await end()
  }
}

/** What many open connections cost the primary, and another client that speaks beside them. */
export const connections = async (): Promise<Section> => {
  const results: Array<Awaited<ReturnType<typeof crowd>>> = []
  const leftOut: Array<LeftOut> = []
  for (const count of crowds) {
    try {
      results.push(await crowd(count))
    } catch (error) {
      leftOut.push({ name: `${count} connections`, reason: String(error) })
    }
  }
  const none = results.find(({ count }) => count === 0)
  const kibibytes = (of: "heap" | "resident", result: (typeof results)[number]) =>
    none === undefined || none === result ? "" : number((result[of] - none[of]) / result.count / 1024)
  const latency = (of: ReturnType<typeof summary> | undefined) =>
    of === undefined ? ["", "", ""] : [of.p50, of.p99, of.max].map(number)
  return {
    markdown: [
      `Connections over \`${local}\` that have proven who they are and say nothing. Memory is that of the primary, the heap without`,
      "garbage; the round trip is another client's, of 64 B in µs, beside them and while they come. Aim: no request takes 2 s.\n",
      table(
        [
          "connections",
          "resident, MiB",
          "heap, MiB",
          "resident, KiB for each",
          "heap, KiB for each",
          ...["beside", "while they come"].flatMap((when) => ["p50", "p99", "max"].map((what) => `${what} ${when}`))
        ],
        results.map((result) => [
          result.count.toLocaleString("en"),
          number(result.resident / 2 ** 20),
          number(result.heap / 2 ** 20),
          kibibytes("resident", result),
          kibibytes("heap", result),
          ...latency(result.beside),
          ...latency(result.during)
        ])
      ),
      ...linesOf(leftOut)
    ].join("\n"),
    data: { unit: "bytes; microseconds", leftOut, connections: results },
    plots: [
      {
        file: "connections",
        title: "What do many open connections cost?",
        note: "The round trip is that of one client beside them, which say nothing.",
        x: { name: "connections", ticks: crowds },
        panels: [{ name: "memory of the primary, MiB resident" }, { name: "µs, p99 of a round trip beside them" }],
        series: [
          {
            name: local,
            isReference: false,
            points: results.map(({ beside, count, resident }) => ({
              x: count,
              values: [resident / 2 ** 20, beside.p99]
            }))
          }
        ]
      }
    ]
  }
}
