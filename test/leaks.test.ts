/**
 * What a primary holds after many connections and many peers that were killed: what it held before. Connections are those
 * that it accepted, as its own listener counts them; each peer is a process of its own, and is killed with some
 * connections open, half of them amid a handler, and others just being opened and closed.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import { crossing, itNeeds, makeArena, needs, until } from "./contenders.js"
import type { Options as PeerOptions } from "./fixtures/measured-peer.js"
import type { Leak, Measure, Options } from "./fixtures/measured-primary.js"
import { fixture } from "./fixtures.js"
import { isStress, reported, scaled } from "./stress.js"

/** Connections in all, processes that are killed, and how many connections each of these holds at least. */
const whole = { connections: scaled(500, 10_000), killed: scaled(10, 200), held: isStress ? 5 : 10 }
const few = { connections: 150, killed: 3, held: 10 }

/** A process and the lines it wrote; killed with the scope. */
const start = (name: string, options: object, ...flags: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    let ended = false
    const lines: Array<string> = []
    let rest = ""
    const kill = (handle: ChildProcess) =>
      Effect.suspend(() => {
        handle.kill("SIGKILL")
        return until(`the end of ${name}`, () => ended)
      })
    const handle = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(process.execPath, [...flags, fixture(name), JSON.stringify(options)], {
          stdio: ["pipe", "pipe", "inherit"]
        }).once("exit", () => {
          ended = true
        })
      ),
      kill
    )
    handle.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      const [...all] = (rest + chunk).split("\n")
      rest = all.pop()!
      lines.push(...all)
    })
    const line = Effect.suspend(() => {
      const count = lines.length
      return until(`a line of ${name}`, () => lines[count] ?? (ended && assert.fail(`${name} has ended`)))
    })
    return { handle, lines, line, kill: kill(handle), ended: until(`the end of ${name}`, () => ended) }
  })

const untilLong = (condition: () => boolean) =>
  Effect.sleep("10 millis").pipe(Effect.repeat({ until: () => condition() }), Effect.timeout("4 minutes"), Effect.orDie)

/** What is there now and was not before, in words. */
const grown = (before: Measure, after: Measure): ReadonlyArray<string> => {
  const connections = after.accepted - before.accepted
  const flaws: Array<string> = []
  const more = (what: "descriptors" | "mappings" | "namedMappings" | "heap", tolerated: number) => {
    if (after[what] > before[what] + tolerated) flaws.push(`${what}: ${before[what]}, then ${after[what]}`)
  }
  more("descriptors", 0)
  more("namedMappings", 0)
  // The heap's own come and go with it, some dozens at a time.
  more("mappings", 128)
  // Compiled code and the like; a connection that is kept has 14 KB.
  more("heap", 768 * 1024 + 200 * connections)
  const files = after.files.filter((name) => !before.files.includes(name))
  if (files.length > 0) flaws.push(`files: ${files.length} more, such as ${files[0]}`)
  return flaws
}

const run = Effect.fnUntraced(function* (
  protocol: Options["protocol"],
  { connections, held, killed }: typeof whole,
  leak?: Leak
) {
  const { directory, home, id } = yield* makeArena
  const options: Options = { id, directory, home, protocol, leak }
  const primary = yield* start("measured-primary", options, "--expose-gc")
  yield* until("the primary", () => primary.lines[0])
  const measure = Effect.gen(function* () {
    const { line } = primary
    const measured = yield* Effect.zipRight(
      Effect.sync(() => primary.handle.stdin!.write("\n")),
      line
    )
    return JSON.parse(measured) as Measure
  })
  const peer = (mode: PeerOptions["mode"], connections: number) =>
    Effect.gen(function* () {
      const { ended, kill, lines } = yield* start("measured-peer", { ...options, mode, connections })
      yield* untilLong(() => lines.includes("done"))
      yield* mode === "pass" ? ended : kill
    }).pipe(Effect.scoped)
  const settled = (before: Measure) =>
    Effect.gen(function* () {
      // A peer that was killed may be noticed only after a second.
      const ends = performance.now() + (leak === undefined ? 30_000 : 3_000)
      let after = yield* measure
      while (grown(before, after).length > 0 && performance.now() < ends) {
        yield* Effect.sleep("250 millis")
        after = yield* measure
      }
      return after
    })
  const empty = yield* measure
  // Both ways of ending a connection first, as whatever is loaded and compiled for it stays.
  yield* peer("pass", leak === undefined ? 400 : 100)
  yield* peer("stay", held)
  const before = yield* leak === undefined
    ? Effect.zipRight(settled({ ...empty, heap: Number.POSITIVE_INFINITY }), measure)
    : measure
  const wanted = Array.from({ length: killed }, (_, index) => index)
  yield* Effect.forEach(wanted, () => peer("stay", held), { concurrency: 4, discard: true })
  let rest = before.accepted + connections - (yield* measure).accepted
  for (; rest > 0; rest -= 1_000) yield* peer("pass", Math.min(rest, 1_000))
  const after = yield* settled(before)
  return { before, after, flaws: grown(before, after) }
})

describe("a primary holds no more than before", () => {
  for (const protocol of crossing) {
    itNeeds(needs.linux)(
      `after ${whole.connections} connections and ${whole.killed} peers that were killed, over ${protocol}`,
      () =>
        reported(
          { area: "8", test: `what is held after many connections, over ${protocol}`, faults: "SIGKILL of peers" },
          Effect.gen(function* () {
            const { after, before, flaws } = yield* run(protocol, whole)
            const told = ({ files, ...numbers }: Measure) => JSON.stringify({ ...numbers, files: files.length })
            console.log(`over ${protocol}: ${told(before)}, then ${told(after)}`)
            assert.deepStrictEqual(flaws, [])
            assert.isAtLeast(after.accepted - before.accepted, whole.connections)
            return `${whole.connections} connections, ${whole.killed} killed peers; heap ${Math.round((after.heap - before.heap) / 1024)} KiB more`
          })
        ),
      900_000
    )
  }

  for (const [leak, what] of [
    ["descriptor", /^descriptors/],
    ["mapping", /^mappings/],
    ["file", /^files/],
    ["memory", /^heap/],
    ["scope", /^(descriptors|heap|files)/]
  ] as const) {
    itNeeds(needs.linux)(`unless something keeps of each connection: ${leak}`, () =>
      Effect.map(run("unix", few, leak), ({ flaws }) => {
        assert.match(flaws.join("\n"), new RegExp(what, "m"))
      })
    )
  }
})
