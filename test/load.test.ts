/**
 * Much at once: many secondaries, many connections, many bytes, and a side that takes nothing. The primary is one process;
 * the secondaries share a few others, each with as many connections as fall to it.
 */
import * as fs from "node:fs"
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import type { Plot } from "../bench/plot.js"
import { median, quantile } from "../bench/statistics.js"
import type { ProtocolName } from "../src/internal/platform.js"
import { crossing, failing, itNeeds, needs, stateOf, until } from "./contenders.js"
import type { Answers, Pressure, Progress, Round } from "./fixtures/measured-peer.js"
import type { Options } from "./fixtures/measured-primary.js"
import { type Measured, makePrimary, memoryOf } from "./measured.js"
import { isStress, reported, scaled } from "./stress.js"

type Given = Omit<Options, "id" | "directory" | "home">

const config = { timeout: "2 minutes", helloTimeout: "1 minute" } as const
// No more than is asked for, however long the run.
const upTo = (short: number, long: number) => Math.min(long, scaled(short, long))
const MiB = 2 ** 20
const limit = 900_000
// A message takes some milliseconds over files: much at once is not what they are for. TCP shares its code with `unix`.
const protocols = crossing.filter((name) => name !== "file" && (isStress || name !== "tcp"))

/** The bounds, in MiB, of what a process may have in memory more than before; and of a connection that is open, in KiB. */
const bounds = { crowd: 384, connection: 40, stream: 384, writer: 192, reader: 64, transport: 16 }

type Axis = Pick<Plot, "file" | "title" | "note" | "x" | "panels">
const curve = (axis: Axis, name: string, points: Plot["series"][number]["points"]): Plot => ({
  ...axis,
  series: [{ name, isReference: false, points }]
})

/** All that there is to say of a peer that has ended. */
const finished = <A>(peer: Measured): A => JSON.parse(peer.lines.at(-1)!)
const isOpen = (peer: Measured) => peer.waitFor((lines) => lines.includes("open") || undefined)
const told = (value: number) => (value < 10 ? value.toFixed(1) : Math.round(value))

// -------------------------------------------------------------------------------------
// many secondaries
// -------------------------------------------------------------------------------------

const requests = upTo(20, 100)
// Each has two rings of a MiB over shared memory.
const secondaries = (protocol: ProtocolName) => (protocol === "shm" ? upTo(50, 200) : upTo(200, 1_000))
const most = secondaries("unix")

const latency: Axis = {
  file: "latency",
  title: "How long is a request answered, among many secondaries at once?",
  note: "Each sends its next request when it has the answer; all share the machine with the primary",
  x: { name: "secondaries at once", base: 10, ticks: [1, 10, 100, 1_000].filter((tick) => tick < 10 * most) },
  panels: [{ name: "median, ms" }, { name: "99 of 100 are faster than, ms" }]
}

/** So many secondaries, each of which sends so many requests, one behind the other. */
const crowd = Effect.fnUntraced(function* (given: Given, { connections, requests }: Round) {
  const primary = yield* makePrimary({ config, ...given })
  const idle = memoryOf(primary.pid).peak
  const before = yield* primary.measure
  const each = Math.ceil(connections / 4)
  const peers: Array<Measured> = []
  for (let rest = connections; rest > 0; rest -= each) {
    peers.push(yield* primary.peer({ mode: "crowd", connections: Math.min(each, rest) }))
  }
  yield* Effect.forEach(peers, isOpen)
  const round = JSON.stringify({ connections: each, requests } satisfies Round)
  const lines = yield* Effect.forEach(peers, (peer) => peer.ask(round), { concurrency: "unbounded" })
  const answers = lines.map((line): Answers => JSON.parse(line))
  const grown = memoryOf(primary.pid).peak - idle
  const after = yield* primary.measure
  const sum = (what: (answers: Answers) => number) => answers.reduce((sum, answers) => sum + what(answers), 0)
  const total = connections * requests
  const failures = answers.flatMap(({ failures }) => failures)
  assert.deepStrictEqual(failures.slice(0, 3), [], "each is answered")
  const wrong = sum(({ wrong }) => wrong)
  assert.strictEqual(wrong, 0, "each is answered with its own")
  const right = sum(({ right }) => right)
  assert.strictEqual(right, total)
  // As each was answered, one more than these would be one of them twice.
  assert.strictEqual(after.handled - before.handled, total, "each is handled once")
  assert.strictEqual(after.accepted - before.accepted, connections)
  assert.isBelow(grown, bounds.crowd)
  return { grown, millis: answers.flatMap(({ micros }) => micros).map((micros) => micros / 1_000) }
})

describe("many secondaries at once @large", () => {
  for (const protocol of protocols) {
    const connections = secondaries(protocol)
    itNeeds(needs.linux)(
      `are answered over ${protocol}: ${connections}, each with ${requests} requests`,
      () =>
        reported(
          { area: "8", test: `secondaries at once over ${protocol}`, faults: "none" },
          Effect.gen(function* () {
            const { grown, millis } = yield* Effect.scoped(crowd({ protocol }, { connections, requests }))
            const points = [{ x: connections, values: [median(millis), quantile(millis, 0.99)] }]
            for (const fewer of isStress ? [100, 10, 1] : []) {
              if (fewer >= connections) continue
              // A few take so little time that one slow moment would be most of it.
              const round = { connections: fewer, requests: Math.max(requests, 2_000 / fewer) }
              const { millis } = yield* Effect.scoped(crowd({ protocol }, round))
              points.unshift({ x: fewer, values: [median(millis), quantile(millis, 0.99)] })
            }
            return {
              size: `${connections} secondaries × ${requests} requests; median ${told(median(millis))} ms, slowest ${told(Math.max(...millis))} ms; ${told(grown)} MiB`,
              curves: [curve(latency, protocol, points)]
            }
          })
        ),
      limit
    )
  }
})

// -------------------------------------------------------------------------------------
// many connections
// -------------------------------------------------------------------------------------

const open = upTo(500, 10_000)
const steps = 5
const descriptors = {
  met:
    needs.linux.met &&
    Number(/Max open files\s+(\d+)/.exec(fs.readFileSync("/proc/self/limits", "utf8"))?.[1]) >= open + 500,
  text: `Linux and ${open + 500} descriptors in a process (ulimit -n)`
}

const connectionsAxis: Axis = {
  file: "connections",
  title: "What does a primary hold for connections that are open?",
  note: "The heap with what is beside it, after a collection; and all that the process has",
  x: { name: "open connections", ticks: Array.from({ length: steps + 1 }, (_, step) => (step * open) / steps) },
  panels: [{ name: "heap, MiB" }, { name: "resident memory, MiB" }]
}

/** Opens so many connections step by step; then a few of each step are used. */
const opened = Effect.fnUntraced(function* (given: Given, connections: number) {
  const primary = yield* makePrimary({ config, ...given })
  const before = yield* primary.measure
  const points = [{ x: 0, values: [before.heap / MiB, memoryOf(primary.pid).now] }]
  const each = Math.ceil(connections / steps)
  const peers: Array<Measured> = []
  for (let step = 1; step <= steps; step++) {
    const peer = yield* primary.peer({ mode: "crowd", connections: each })
    peers.push(peer)
    yield* isOpen(peer)
    const { accepted, heap } = yield* primary.measure
    assert.strictEqual(accepted - before.accepted, step * each)
    points.push({ x: step * each, values: [heap / MiB, memoryOf(primary.pid).now] })
  }
  const kib = ((points.at(-1)!.values[0]! - points[0]!.values[0]!) * 1_024) / (steps * each)
  assert.isBelow(kib, bounds.connection, "KiB for each")
  let slowest = 0
  for (const peer of peers) {
    const answers: Answers = JSON.parse(yield* peer.ask(JSON.stringify({ connections: 50, requests: 2 })))
    assert.deepStrictEqual(answers.failures, [])
    assert.strictEqual(answers.right, 100)
    slowest = Math.max(slowest, ...answers.micros)
  }
  return { points, kib, slowest: slowest / 1_000 }
})

describe("many connections @large", () => {
  for (const protocol of protocols.filter((name) => name !== "shm")) {
    itNeeds(descriptors)(
      `are open over ${protocol} and take little: ${open}`,
      () =>
        reported(
          { area: "8", test: `open connections over ${protocol}`, faults: "none" },
          Effect.map(opened({ protocol }, open), ({ kib, points, slowest }) => ({
            size: `${open} connections, ${told(kib)} KiB each; a request over each of ${50 * steps}, slowest ${told(slowest)} ms`,
            curves: [curve(connectionsAxis, protocol, points)]
          }))
        ),
      limit
    )
  }
})

// -------------------------------------------------------------------------------------
// many bytes
// -------------------------------------------------------------------------------------

const bytes = upTo(384, 1_024) * MiB

const bytesAxis: Axis = {
  file: "bytes",
  title: "What do both sides hold while much goes over one connection?",
  note: "Messages of up to 16 MiB, two at a time, each answered with its hash; resident memory, which the collector frees late",
  x: { name: "MiB sent", ticks: Array.from({ length: 5 }, (_, step) => (step * bytes) / 4 / MiB) },
  panels: [{ name: "the sender, MiB" }, { name: "the primary, MiB" }]
}

/** So many bytes over one connection, in messages up to the largest. */
const streamed = Effect.fnUntraced(function* (given: Given, bytes: number) {
  const primary = yield* makePrimary({ config, ...given })
  const idle = memoryOf(primary.pid).peak
  const peer = yield* primary.peer({ mode: "stream", bytes })
  const points: Array<{ readonly x: number; readonly values: ReadonlyArray<number> }> = []
  let [sender, receiver] = [0, 0]
  yield* peer.waitFor((lines) => {
    const { bytes: sent } = lines.length === 0 ? { bytes: 0 } : finished<Progress>(peer)
    const [here, there] = [memoryOf(peer.pid), memoryOf(primary.pid)]
    sender = Math.max(sender, here.peak - idle)
    receiver = there.peak - idle
    if (sent / MiB >= (points.at(-1)?.x ?? -16) + 16) points.push({ x: sent / MiB, values: [here.now, there.now] })
    return sent === bytes || undefined
  })
  const { messages, wrong } = finished<Progress>(peer)
  assert.strictEqual(wrong, 0, "each has its hash")
  assert.isBelow(Math.max(sender, receiver), bounds.stream, "MiB more than before")
  return { points, messages, sender, receiver }
})

describe("many bytes over one connection @large", () => {
  for (const protocol of protocols) {
    itNeeds(needs.linux)(
      `arrive as they were sent, over ${protocol}: ${bytes / MiB} MiB`,
      () =>
        reported(
          { area: "8", test: `bytes over one connection of ${protocol}`, faults: "none" },
          Effect.map(streamed({ protocol }, bytes), ({ messages, points, receiver, sender }) => ({
            size: `${bytes / MiB} MiB in ${messages} messages; sender ${told(sender)} MiB, primary ${told(receiver)} MiB`,
            curves: [curve(bytesAxis, protocol, points)]
          }))
        ),
      limit
    )
  }
})

// -------------------------------------------------------------------------------------
// a side that takes nothing
// -------------------------------------------------------------------------------------

const messages = upTo(512, 4_096)
const textBytes = 256 * 1_024
const maxInFlight = 256

const stop = ({ handle, pid }: Measured) =>
  Effect.suspend(() => {
    handle.kill("SIGSTOP")
    return until("it to stand still", () => stateOf(pid) === "T")
  })

/** A primary that stands still, or whose handler does not go on, while much is sent to it; and then goes on. */
const pressed = Effect.fnUntraced(function* (
  given: Given,
  how: "is stopped" | "does not go on",
  sender: Partial<Options> = {}
) {
  const primary = yield* makePrimary({ config, ...given })
  const act = how === "is stopped" ? "echo" : "hold"
  const peer = yield* primary.peer({ mode: "press", messages, act }, sender)
  yield* isOpen(peer)
  const idle = memoryOf(peer.pid).peak
  const { handled } = yield* primary.measure
  if (how === "is stopped") yield* stop(primary)
  yield* peer.ask("go")
  // Nothing has changed for more than a second.
  const plateau = yield* peer.waitFor((lines) => {
    const recent = lines.slice(1).slice(-30)
    if (recent.length < 30 || recent.some((line) => line !== recent[0])) return undefined
    const last: Pressure = JSON.parse(recent[0]!)
    return last.given > 0 ? last : undefined
  })
  const held = memoryOf(peer.pid).peak - idle
  assert.strictEqual(plateau.answered, 0)
  assert.isAtMost(plateau.given, maxInFlight * (textBytes + 1_024), "bytes in flight")
  if (how === "is stopped") assert.isBelow(plateau.taken / MiB, bounds.transport, "MiB that the transport took")
  assert.isBelow(held, bounds.writer, "MiB more than before")
  if (how === "is stopped") primary.handle.kill("SIGCONT")
  else yield* primary.goOn
  yield* peer.waitFor(() => finished<Pressure>(peer).answered === messages || undefined)
  assert.strictEqual((yield* primary.measure).handled - handled, messages)
  return `${messages} messages of 256 KiB; ${told(plateau.given / MiB)} MiB in flight, ${told(plateau.taken / MiB)} MiB taken, ${told(held)} MiB held`
})

/** A sender that stands still while its handler shows it much; and then goes on. */
const poured = Effect.fnUntraced(function* (given: Given) {
  const primary = yield* makePrimary({ config, ...given })
  const chunks = messages * 4
  const peer = yield* primary.peer({ mode: "drink", chunks }, { transport: undefined })
  yield* peer.waitFor(([line]) => line)
  yield* stop(peer)
  const drunk = finished<number>(peer)
  const idle = memoryOf(primary.pid).peak
  let shown = -1
  yield* Effect.delay(primary.measure, "500 millis").pipe(
    Effect.repeat({
      until: ({ poured }) => {
        const before = shown
        shown = poured
        return poured === before
      }
    })
  )
  const held = memoryOf(primary.pid).peak - idle
  assert.isBelow((shown - drunk) / MiB, bounds.transport, "MiB that the transport took")
  assert.isBelow(held, bounds.reader, "MiB more than before")
  peer.handle.kill("SIGCONT")
  yield* peer.waitFor(() => finished<number>(peer) === chunks * 65_536 || undefined)
  return `${(chunks * 65_536) / MiB} MiB; ${told((shown - drunk) / MiB)} MiB taken, ${told(held)} MiB held`
})

describe("a side that takes nothing bounds the other @large", () => {
  for (const protocol of protocols) {
    for (const how of ["is stopped", "does not go on"] as const) {
      itNeeds(needs.linux)(
        `over ${protocol}: a primary that ${how}`,
        () =>
          reported(
            {
              area: "8",
              test: `back-pressure of a primary over ${protocol}`,
              faults: how === "is stopped" ? "SIGSTOP" : "a handler that does not go on"
            },
            pressed({ protocol }, how)
          ),
        limit
      )
    }
    itNeeds(needs.linux)(
      `over ${protocol}: a sender that is stopped`,
      () =>
        reported(
          { area: "8", test: `back-pressure of a sender over ${protocol}`, faults: "SIGSTOP" },
          poured({ protocol })
        ),
      limit
    )
  }
})

// -------------------------------------------------------------------------------------
// the canaries
// -------------------------------------------------------------------------------------

describe("the canary @large", () => {
  // None of this depends on the protocol.
  const protocol = "unix"
  const few = { connections: 8, requests: 6 }
  const hasty = { ...config, timeout: "2 seconds" } as const
  const canaries = [
    ["answers with another one's", crowd({ protocol, confused: true }, few), /answered with its own/],
    ["loses requests", crowd({ protocol, config: hasty, transport: "lost" }, few), /each is answered/],
    ["passes requests on twice", crowd({ protocol, transport: "twice" }, few), /each is handled once/],
    ["keeps something of each connection", opened({ protocol, leak: "memory" }, 250), /KiB for each/],
    ["keeps what it was sent", streamed({ protocol, leak: "text" }, bytes), /MiB more than before/],
    [
      "lets any number be in flight",
      pressed({ protocol, config: { ...config, maxInFlight: 1e6 } }, "is stopped"),
      /in flight/
    ],
    [
      "has a sender that queues without a bound",
      pressed({ protocol }, "is stopped", { transport: "greedy" }),
      /transport took/
    ],
    ["queues for its senders without a bound", poured({ protocol, transport: "greedy" }), /transport took/]
  ] as const
  for (const [what, test, flaw] of canaries) {
    itNeeds(needs.linux)(`a primary that ${what}`, () => Effect.map(failing(test), (why) => assert.match(why, flaw)))
  }
})
