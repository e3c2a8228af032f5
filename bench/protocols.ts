/**
 * What each protocol costs, at two levels: the library's typed requests, and the frames at the seam below; beside what one
 * writes over `node:net`. And what others from npm take for the same requests.
 */
import { protocolNames } from "../src/internal/platform.js"
import { type Comparisons, type Contender, contest, type Level, type Measure, usable } from "./contest.js"
import { built, installed, type Section } from "./harness.js"
import { inFlight } from "./jobs.js"

const sizes = [64, 1024, 64 * 1024, 1024 * 1024]

// What is between processes; `memory` is not.
export const memory = "memory"
const reference = "raw unix"

const raw = async (form: string): Promise<ReadonlyArray<Contender>> => {
  const file = await built("raw", "bench/raw.ts")
  return (process.platform === "win32" ? ["tcp"] : ["unix", "tcp"]).map((name) => ({
    name: `raw ${name}`,
    file,
    args: [name, form]
  }))
}

const level = async (
  name: string,
  file: string,
  rest: Pick<Level, "measures" | "form" | "x"> & { readonly rawForm: string }
): Promise<Level> => {
  const probe = await built("frames", "bench/frames.ts")
  const { leftOut, usable: found } = await usable(protocolNames.map((name) => ({ name, file: probe, args: [name] })))
  const own = [...found.map(({ name }) => name), memory].map((name) => ({
    name,
    file,
    args: [name],
    isAlone: name === memory
  }))
  return {
    ...rest,
    name,
    reference,
    leftOut,
    note: "memory: within one process",
    contenders: [...own, ...(await raw(rest.rawForm))]
  }
}

/** The library's requests. */
export const typed = async (): Promise<Level> =>
  level("typed", await built("library", "bench/library.ts"), {
    rawForm: "lines",
    form: "lines of JSON",
    x: "characters of the text",
    measures: [
      {
        name: "typed round trip",
        plot: "typed-round-trip",
        kind: "round trip",
        sizes,
        question: "How long does a typed request take, there and back?",
        aims: { "unix : raw unix": unixAim, "unix : tcp": "others claim 10" }
      },
      {
        ...pipelined,
        aims: { "unix : raw unix": pipelinedAim, "unix : tcp": "others claim 10" }
      }
    ]
  })

const frames = async (): Promise<Level> =>
  level("frames", await built("frames", "bench/frames.ts"), {
    rawForm: "frames",
    form: "frames behind their length",
    x: "bytes of the frame",
    measures: [
      {
        name: "frame round trip",
        plot: "frame-round-trip",
        kind: "round trip",
        sizes,
        question: "How long does a frame take, there and back?",
        aims: {
          "shm : raw unix": "≥ 1.43 at 64 B",
          "shm : file": "others claim 5",
          "raw unix : raw tcp": "others claim 10"
        }
      },
      {
        name: "frames one way",
        plot: "frames-one-way",
        kind: "one way",
        sizes,
        question: "How many frames go one way, and how much is that?",
        aims: {
          "shm : raw unix": "≥ 3 at 64 KiB and 1 MiB",
          "shm : file": "others claim 5",
          "raw unix : raw tcp": "others claim 10"
        }
      }
    ]
  })

// At most 1.5 and 1.2 times as long as the bare line.
const unixAim = "≥ 0.667 at 64 B (0.57 the least), ≥ 0.83 at 64 KiB and 1 MiB"
const pipelinedAim = "≥ 0.6 (0.4 the least)"

const pipelined = {
  name: `typed requests, ${inFlight} in flight`,
  kind: "pipelined",
  sizes: [64],
  question: "How many typed requests are answered?"
} satisfies Partial<Measure>

const protocolComparisons: Comparisons = [
  ["shm", "raw unix"],
  ["shm", "unix"],
  ["shm", "file"],
  ["unix", "file"],
  ["unix", "raw unix"],
  ["unix", "tcp"],
  ["raw unix", "raw tcp"]
]

export const protocols = async (): Promise<Section> => contest([await typed(), await frames()], protocolComparisons)

// -------------------------------------------------------------------------------------
// others
// -------------------------------------------------------------------------------------

// Of what @effect/rpc can send, lines of JSON are faster than MessagePack for small requests and for very large ones.
const others: ReadonlyArray<{ readonly name: string; readonly entry: string; readonly args?: ReadonlyArray<string> }> =
  [
    { name: "@effect/rpc", entry: "effect-rpc", args: ["ndjson"] },
    { name: "@effect/rpc, msgpack", entry: "effect-rpc", args: ["msgpack"] },
    { name: "grpc-js", entry: "grpc" },
    { name: "vscode-jsonrpc", entry: "vscode-jsonrpc" },
    { name: "node-ipc", entry: "node-ipc" }
  ]

/** The same requests over a Unix socket, by what else a user would pick. */
export const messaging = async (): Promise<Section> => {
  const ours = { name: "unix", file: await built("library", "bench/library.ts"), args: ["unix"] }
  const [bare] = await raw("lines")
  const missing = installed()
  const theirs: Array<Contender> = []
  if (missing === undefined) {
    for (const { args = [], entry, name } of others) {
      theirs.push({ name, args, file: await built(entry, `bench/contenders/${entry}.ts`) })
    }
  }
  const level: Level = {
    name: "messaging",
    contenders: [ours, ...theirs, bare!],
    leftOut: missing === undefined ? [] : others.map(({ name }) => ({ name, reason: missing })),
    reference,
    form: "lines of JSON",
    x: "characters of the text",
    note: "@effect/rpc: with lines of JSON, too, if nothing else is said",
    measures: [
      {
        name: "round trip, beside others",
        plot: "messaging",
        kind: "round trip",
        sizes: [64, 64 * 1024, 1024 * 1024],
        question: "How long does a typed request take over a Unix socket, there and back?",
        aims: { "unix : raw unix": unixAim, "unix : @effect/rpc": "≥ 4 at 64 B" }
      },
      {
        ...pipelined,
        name: `requests, ${inFlight} in flight, beside others`,
        aims: { "unix : raw unix": pipelinedAim }
      }
    ]
  }
  return contest(
    [level],
    [bare!, ...theirs].map(({ name }) => ["unix", name] as const)
  )
}
