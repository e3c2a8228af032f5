/**
 * `npm run demo`: the main job with real processes, told step by step. Every step is checked; the first that is not as it
 * should be ends the demo with what was expected, what was seen and exit code 1.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { createInterface } from "node:readline"
import { NodeContext, NodeRuntime } from "@effect/platform-node"
import { Console, Data, Effect } from "effect"
import { SingleInstance } from "effect-single-instance"
import { bundle, root } from "./bundle.mjs"

const waitMillis = 10_000
const allMillis = 45_000

class Unexpected extends Data.TaggedError("Unexpected")<{ readonly what: string; readonly seen: string }> {}

interface Told {
  readonly event: string
  readonly at: number
  readonly [key: string]: any
}

/** A process that was started here, with what it tells and how it ended. */
interface Launch {
  readonly pid: number
  readonly told: Array<Told>
  readonly next: (event: string) => Effect.Effect<Told, Unexpected>
  readonly ended: Effect.Effect<number | string, Unexpected>
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
}

let checks = 0

const heading = (text: string) => Console.log(`\n${text}`)
const say = (text: string) => Console.log(`   ${text}`)
const check = (what: string, holds: boolean, seen: unknown) =>
  holds
    ? Effect.zipRight(
        Effect.sync(() => checks++),
        Console.log(`   ok  ${what}`)
      )
    : new Unexpected({ what, seen: JSON.stringify(seen, undefined, 2) ?? "nothing" })

const within = (what: string, seen: () => unknown) =>
  Effect.timeoutFail({
    duration: waitMillis,
    onTimeout: () =>
      new Unexpected({ what: `${what}, within ${waitMillis / 1000} s`, seen: JSON.stringify(seen(), undefined, 2) })
  })

const temporary = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-single-instance-demo-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

// What still runs when the demo ends, however it ends, is killed by its pid.
const launching =
  (app: string, state: string) =>
  (cwd: string, ...args: ReadonlyArray<string>) =>
    Effect.map(
      Effect.acquireRelease(
        Effect.sync(() => spawn(process.execPath, [app, state, ...args], { cwd, stdio: ["ignore", "pipe", "pipe"] })),
        (child) => Effect.sync(() => isRunning(child) && child.kill("SIGKILL"))
      ),
      (child): Launch => {
        const told: Array<Told> = []
        const complaints: Array<string> = []
        const name = `process ${child.pid} (${args.join(" ")})`
        let look = () => {}
        createInterface({ input: child.stdout }).on("line", (line) => {
          told.push(JSON.parse(line))
          look()
        })
        createInterface({ input: child.stderr }).on("line", (line) => complaints.push(line))
        const closed = Effect.async<number | string>((resume) => {
          const done = () => resume(Effect.succeed(child.exitCode ?? child.signalCode ?? "?"))
          if (isRunning(child)) child.once("close", done)
          else done()
        })
        let taken = 0
        return {
          pid: child.pid!,
          told,
          next: (event) =>
            Effect.async<Told, Unexpected>((resume) => {
              const isIt = (line: Told, index: number) => index >= taken && line.event === event
              look = () => {
                const at = told.findIndex(isIt)
                if (at < 0) return
                taken = at + 1
                resume(Effect.succeed(told[at]!))
              }
              child.once("close", () => {
                look()
                resume(new Unexpected({ what: `${name} tells "${event}"`, seen: JSON.stringify({ told, complaints }) }))
              })
              look()
            }).pipe(within(`${name} tells "${event}"`, () => ({ told, complaints }))),
          ended: closed.pipe(within(`${name} ends`, () => ({ told, complaints }))),
          signal: (signal) => Effect.sync(() => child.kill(signal))
        }
      }
    )

const isRunning = (child: ChildProcess) => child.exitCode === null && child.signalCode === null

const demo = Effect.gen(function* () {
  const directory = yield* temporary
  const app = join(directory, "app.mjs")
  const state = join(directory, "state")
  const { text } = yield* Effect.promise(() => bundle(join(root, "scripts/demo-app.ts")))
  yield* Effect.sync(() => writeFileSync(app, text))
  const launch = launching(app, state)
  const inspect = Effect.flatMap(SingleInstance.SingleInstance, (instance) => instance.inspect).pipe(
    Effect.provide(SingleInstance.SingleInstance.layer({ id: "effect-single-instance/demo", directory: state })),
    Effect.provide(NodeContext.layer)
  )

  yield* heading("1. The first launch of an editor, with one file")
  const first = yield* launch(directory, "open", "first.txt")
  const leading = yield* first.next("primary")
  yield* say(
    `process ${first.pid} is the primary, epoch ${leading.epoch}, listening at ${leading.addresses.join(", ")}`
  )
  yield* check("nobody held the lock", leading.took === "free", leading)
  const seen = yield* inspect
  yield* check("others see who is primary, and why", seen.state === "primary" && seen.owner?.pid === first.pid, seen)
  yield* say(`(${seen.evidence})`)

  yield* heading("2. Four more launches at the same moment, each from a directory of its own")
  const folders = ["north", "east", "south", "west"].map((name) => join(directory, name))
  for (const folder of folders) mkdirSync(folder)
  const later = yield* Effect.forEach(folders, (folder) => launch(folder, "open", `${basename(folder)}.txt`, " *|\n"))
  const replies = yield* Effect.forEach(later, (one) => Effect.zip(one.next("reply"), one.ended))
  const arrived = first.told.filter(({ event }) => event === "launch")
  for (const { cwd, from, open } of arrived) yield* say(`${from} asked for ${JSON.stringify(open)} from ${cwd}`)
  yield* check(
    "each arrived exactly once, with its sender's files and directory, whatever characters they hold",
    arrived.length === 4 &&
      later.every(({ pid }, index) => {
        const one = arrived.filter(({ from }) => from === pid)
        return (
          one.length === 1 &&
          one[0]!.cwd === folders[index] &&
          one[0]!.open.join() === `${basename(folders[index]!)}.txt, *|\n`
        )
      }),
    arrived
  )
  yield* check(
    "each got its reply and ended with 0",
    replies
      .map(([{ windows }]) => windows)
      .sort()
      .join() === "3,5,7,9" && replies.every(([, code]) => code === 0),
    replies
  )
  yield* say(`windows, as the replies say: ${replies.map(([{ windows }]) => windows).join(", ")}`)

  yield* heading("3. A launch that the editor has to decline")
  const declined = yield* launch(directory, "open", "missing.txt")
  const failure = yield* declined.next("failed")
  yield* say(`process ${declined.pid} failed with ${failure.error}, path ${failure.path}`)
  yield* check(
    "the application's own typed failure travelled",
    failure.error === "FileMissing" && failure.path === "missing.txt",
    failure
  )
  yield* check("its exit code says so", (yield* declined.ended) === 1, declined.told)

  yield* heading("4. A launch that takes a while, and shows how far it is")
  const long = yield* launch(directory, "open", "long.mov")
  const done = yield* long.next("reply")
  const output = long.told.filter(({ event }) => event === "output")
  yield* say(output.map(({ at, text }) => `${text} (${Math.round(done.at - at)} ms before the reply)`).join(", "))
  yield* check(
    "the output came in order, while the handler ran",
    output.map(({ text }) => text).join() === [25, 50, 75, 100].map((percent) => `long.mov: ${percent} %`).join() &&
      done.at - output[0]!.at > 300,
    long.told
  )
  yield* check("and the reply behind it", (yield* long.ended) === 0 && done.primary === first.pid, done)

  yield* heading("5. A standby waits, a launch is under way, and the primary is killed")
  const standby = yield* launch(directory, "standby")
  const { pid: followed } = yield* standby.next("follows")
  yield* check(`process ${standby.pid} stands by behind the primary`, followed === first.pid, standby.told)
  const underway = yield* launch(directory, "open", "endless.mov")
  yield* Effect.iterate(first.told, {
    while: (told) => !told.some(({ from }) => from === underway.pid),
    body: () => first.next("launch").pipe(Effect.as(first.told))
  })
  yield* say(`kill -9 ${first.pid}`)
  const killed = performance.timeOrigin + performance.now()
  yield* first.signal("SIGKILL")
  const successor = yield* standby.next("primary")
  yield* say(`process ${standby.pid} is the primary ${(successor.at - killed).toFixed(1)} ms later`)
  yield* say(`(${successor.proof?.rule}: ${successor.proof?.detail})`)
  yield* check(
    "it took over on a proof of death",
    successor.took === "dead" && successor.proof !== undefined,
    successor
  )
  yield* check("its epoch is greater", successor.epoch > leading.epoch, { successor, leading })
  const lost = yield* underway.next("failed")
  yield* say(`the launch under way is told: ${lost.error}, ${lost.reason}; outcome ${lost.outcome}`)
  yield* check("which is the truth: nobody can know how far its handler came", lost.outcome === "Unknown", lost)

  yield* heading("6. The next launch finds the new primary")
  const next = yield* launch(directory, "open", "next.txt")
  const reply = yield* next.next("reply")
  yield* check(
    "it is answered by the former standby",
    reply.primary === standby.pid && (yield* next.ended) === 0,
    reply
  )
  const all = [...first.told, ...standby.told].flatMap(({ message }) => (message === undefined ? [] : [message]))
  yield* check("in all no message was handled twice", new Set(all).size === all.length && all.length === 8, all)

  yield* heading("7. A clean end")
  yield* say(`kill -TERM ${standby.pid}`)
  yield* standby.signal("SIGTERM")
  yield* check("the primary ends with 143, as one that was told to", (yield* standby.ended) === 143, standby.told)
  const left = yield* inspect
  yield* check("it released the lock", left.state === "released", left)
  const files = readdirSync(join(left.location, ".."))
  yield* check("and left nothing but its record", files.join() === "lock", files)
}).pipe(
  Effect.scoped,
  Effect.timeoutFail({
    duration: allMillis,
    onTimeout: () => new Unexpected({ what: `it is over within ${allMillis / 1000} s`, seen: "it is not" })
  })
)

const started = Date.now()

demo.pipe(
  Effect.zipRight(
    Effect.suspend(() =>
      heading(`${checks} checks, all as they should be, in ${((Date.now() - started) / 1000).toFixed(1)} s`)
    )
  ),
  Effect.tapErrorCause((cause) =>
    cause._tag === "Fail" && cause.error._tag === "Unexpected"
      ? Console.error(`   NOT as it should be: ${cause.error.what}\n   seen: ${cause.error.seen}`)
      : Console.error(`   NOT as it should be: ${cause}`)
  ),
  NodeRuntime.runMain({ disableErrorReporting: true })
)
