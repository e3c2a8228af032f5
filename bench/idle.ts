/**
 * What is open and says nothing.
 */
import { entered, leave, type Pair } from "./contest.js"
import { options, progress, type Section } from "./harness.js"
import { memory, typed } from "./protocols.js"
import { table } from "./statistics.js"

const idleMillis = options.quick ? 6_000 : 60_000
// Starting leaves work behind, such as garbage, which the engine gets round to within half a minute.
const settleMillis = options.quick ? 3_000 : 45_000

const sleep = (millis: number) => new Promise<void>((resolve) => setTimeout(resolve, millis))

/** What an open connection costs while nobody says anything. */
export const idle = async (): Promise<Section> => {
  const { contenders } = await typed()
  const pairs: Array<{ readonly name: string; readonly pair: Pair }> = []
  for (const contender of contenders) pairs.push({ name: contender.name, pair: await entered(contender) })
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
