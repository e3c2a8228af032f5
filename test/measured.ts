/**
 * A primary in a process of its own that tells what it holds, and the processes that make it hold something.
 */
import { type ChildProcess, spawn } from "node:child_process"
import * as fs from "node:fs"
import { assert } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { makeArena, until } from "./contenders.js"
import type { Options as PeerOptions, Task } from "./fixtures/measured-peer.js"
import type { Measure, Options } from "./fixtures/measured-primary.js"
import { fixture } from "./fixtures.js"

/** A process and the lines it wrote; killed with the scope. */
export interface Measured {
  readonly handle: ChildProcess
  readonly pid: number
  readonly lines: ReadonlyArray<string>
  /** Waits for something to be there in its lines; dies where it ends before. */
  readonly waitFor: <A>(found: (lines: ReadonlyArray<string>) => A | undefined | false) => Effect.Effect<A>
  /** Writes a line to its standard input, and waits for the next one that it writes. */
  readonly ask: (line: string) => Effect.Effect<string>
  readonly kill: Effect.Effect<void>
  readonly isRunning: () => boolean
  readonly ended: Effect.Effect<void>
}

export const start = (
  name: string,
  options: object,
  ...flags: ReadonlyArray<string>
): Effect.Effect<Measured, never, Scope.Scope> =>
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
        }).once("close", () => {
          ended = true
        })
      ),
      kill
    )
    handle.stdin.on("error", () => {})
    handle.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      const [...all] = (rest + chunk).split("\n")
      rest = all.pop()!
      lines.push(...all)
    })
    const waitFor: Measured["waitFor"] = (found) =>
      untilLong(() => {
        // Looked at first, as the last lines come with the end or before it.
        const over = ended
        return found(lines) ?? (over && assert.fail(`${name} has ended with ${lines.at(-1)}`))
      })
    return {
      handle,
      pid: handle.pid!,
      lines,
      waitFor,
      ask: (line) =>
        Effect.suspend(() => {
          const count = lines.length
          handle.stdin.write(`${line}\n`)
          return waitFor((lines) => lines[count])
        }),
      kill: kill(handle),
      isRunning: () => !ended,
      ended: untilLong(() => ended)
    }
  })

/** As `until`, for what takes its time. */
export const untilLong = <A>(condition: () => A | undefined | false): Effect.Effect<A> =>
  Effect.gen(function* () {
    while (true) {
      const found = condition()
      if (found !== undefined && found !== false) return found
      yield* Effect.sleep("10 millis")
    }
  }).pipe(Effect.timeout("4 minutes"), Effect.orDie)

/** A primary with a place of its own, and peers that find it there. */
export const makePrimary = Effect.fnUntraced(function* (given: Omit<Options, "id" | "directory" | "home">) {
  const { directory, home, id } = yield* makeArena
  const options: Options = { id, directory, home, ...given }
  const primary = yield* start("measured-primary", options, "--expose-gc")
  yield* until("the primary", () => primary.lines[0])
  const ask = (what: string): Effect.Effect<Measure> => Effect.map(primary.ask(what), (line) => JSON.parse(line))
  return {
    ...primary,
    measure: ask(""),
    goOn: ask("go on"),
    peer: (task: Task, more: Partial<Options> = {}) =>
      start("measured-peer", { ...options, transport: undefined, ...more, ...task } satisfies PeerOptions)
  }
})

/** What a process has in memory, and the most that it had, in MiB; nothing where it has ended. */
export const memoryOf = (pid: number): { readonly now: number; readonly peak: number } => {
  const status = fs.readFileSync(`/proc/${pid}/status`, "utf8")
  const of = (key: string) => Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)?.[1] ?? 0) / 1024
  return { now: of("VmRSS"), peak: of("VmHWM") }
}
