/**
 * The longer run, `npm run test:stress -- --seconds 600 --seed 1`, or with `--soak` for half an hour: how much of it falls
 * to a test, and what it reports. In `npm run test:all` the same tests run, shorter.
 */
import { appendFileSync } from "node:fs"
import { Cause, Effect, Exit } from "effect"
import type { Plot } from "../bench/plot.js"
import { makeRandom } from "./random.js"

const seconds = process.env.STRESS_SECONDS === undefined ? undefined : Number(process.env.STRESS_SECONDS)

/** Whether this is the longer run. */
export const isStress: boolean = seconds !== undefined

/** Whether it is one of the whole sizes, which also has what costs much and shows little that is new. */
export const isWhole: boolean = (seconds ?? 0) >= 3_600

/** How long a soak takes: shorter in `test:all` and in the longer run, as long as that one is where it is only this. */
export const soakSeconds: number = process.env.STRESS_SOAK === undefined ? 20 : seconds!

/** What all that is random follows from. The run prints it; given again, the same faults are injected. */
export const seed: number = Number(process.env.STRESS_SEED ?? Math.floor(Math.random() * 2 ** 31))

/** A source of numbers of a test's own: the same for the same seed and name, whatever other tests draw. */
export const randomOf = (name: string): (() => number) => {
  let mixed = seed
  for (const character of name) mixed = (Math.imul(mixed, 31) + character.charCodeAt(0)) | 0
  return makeRandom(mixed)
}

// What is the same in any run takes about this.
const leastSeconds = 480

/** A size: `short` in `test:all`, `long` in a stress run of an hour, and in proportion in a run of another length. */
export const scaled = (short: number, long: number): number =>
  seconds === undefined
    ? short
    : Math.max(short, Math.ceil((long * Math.max(0, seconds - leastSeconds)) / (3_600 - leastSeconds)))

/** What is reported of a test; the rest of its row is found out. */
export interface Report {
  /** The number of the scenario in SCENARIOS.md, or of the list. */
  readonly area: string
  readonly test: string
  readonly faults: string
}

/** What a test answers: its size, such as `50 processes × 40 rounds`, and lines for plots, which those of one file share. */
export interface Sized {
  readonly size: string
  readonly curves: ReadonlyArray<Plot>
}

/**
 * Runs a test and writes a row for it, with the size that it answers. What it fails with is a violation.
 */
export const reported = <E, R>(report: Report, test: Effect.Effect<string | Sized, E, R>): Effect.Effect<void, E, R> =>
  Effect.suspend(() => {
    const started = performance.now()
    return test.pipe(
      Effect.onExit((exit) =>
        Effect.sync(() => {
          if (process.env.STRESS_REPORT === undefined || (Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause)))
            return
          const answered = Exit.isSuccess(exit) ? exit.value : ""
          const row = {
            ...report,
            seed,
            ...(typeof answered === "string" ? { size: answered } : answered),
            violations: Exit.isSuccess(exit) ? [] : [String(exit.cause).split("\n")[0]!.slice(0, 300)],
            seconds: Math.round((performance.now() - started) / 1_000)
          }
          appendFileSync(process.env.STRESS_REPORT, `${JSON.stringify(row)}\n`)
        })
      ),
      Effect.asVoid
    )
  })
