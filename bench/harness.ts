/**
 * The processes of the contenders, and whose turn it is.
 */
import { type ChildProcess, type ForkOptions, fork, spawnSync } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, rmSync, statfsSync, statSync, writeFileSync } from "node:fs"
import { cpus, loadavg, release, tmpdir, totalmem } from "node:os"
import { join, resolve } from "node:path"
import { createInterface } from "node:readline"
import { parseArgs } from "node:util"
import { bundle, root } from "../scripts/bundle.mjs"
import type { Answer, Job, Usage } from "./jobs.js"
import type { Bars, Plot } from "./plot.js"

export const { values: options } = parseArgs({
  options: {
    only: { type: "string", multiple: true, default: [] },
    node: { type: "string" },
    quick: { type: "boolean", default: false },
    write: { type: "boolean", default: false }
  }
})

/** Fewer where it is to be quick. */
export const few = (count: number): number => (options.quick ? Math.max(2, Math.round(count / 10)) : count)

/** What answers one question. */
export interface Section {
  readonly markdown: string
  readonly data: unknown
  readonly plots?: ReadonlyArray<Plot | Bars>
}

// Names and extra certificates in the environment cost every Node process of some machines 100 ms of its start.
const { NODE_EXTRA_CA_CERTS: _, NODE_OPTIONS: __, ...environment } = process.env
export const env = environment

/** Where the contenders meet. */
export const directory = mkdtempSync(join(tmpdir(), "esi-bench-"))

// In the project, so that native packages are found from there.
const build = join(root, ".build")
mkdirSync(build, { recursive: true })
export const bundles = mkdtempSync(join(build, "bench-"))

const children = new Set<ChildProcess>()
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL")
  for (const folder of [directory, bundles]) rmSync(folder, { recursive: true, force: true })
})
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(130))

export const progress = (text: string) => process.stderr.write(`${text}\n`)

const installMillis = 120_000
const waitMillis = 60_000
const within = <A>(what: string, promise: Promise<A>): Promise<A> => {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${waitMillis} ms`)), waitMillis)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

export const built = async (name: string, entry: string, settings = {}): Promise<string> => {
  const file = join(bundles, `${name}.mjs`)
  writeFileSync(file, (await bundle(resolve(root, entry), settings)).text)
  return file
}

/** The others from npm, in a folder of their own that nothing else needs. */
export const others = join(root, "bench/contenders")

/** Installs them, once, or says why they are not there. */
export const installed = (): string | undefined => {
  const [wanted, found] = ["package-lock.json", "node_modules/.package-lock.json"].map((file) => join(others, file))
  if (existsSync(found!) && statSync(found!).mtimeMs >= statSync(wanted!).mtimeMs) return undefined
  progress("npm ci in bench/contenders")
  // On Windows npm is a script, which only a shell starts.
  const { error, signal, status, stderr } = spawnSync("npm ci", {
    cwd: others,
    shell: true,
    encoding: "utf8",
    timeout: installMillis
  })
  if (status === 0) return undefined
  const told = /npm error code (\w+)/.exec(stderr ?? "")?.[1] ?? error?.message ?? signal ?? `exit code ${status}`
  return `npm ci in bench/contenders: ${told}`
}

export type Started = ReturnType<typeof start>

export const start = (file: string, args: ReadonlyArray<string>, settings: ForkOptions = {}) => {
  const child = fork(file, args, { env, execArgv: [], stdio: ["ignore", "pipe", "inherit", "ipc"], ...settings })
  children.add(child)
  child.once("exit", () => children.delete(child))
  const lines: Array<any> = []
  const readers: Array<(line: any) => void> = []
  createInterface({ input: child.stdout! }).on("line", (text) => {
    const line = JSON.parse(text)
    const reader = readers.shift()
    if (reader === undefined) lines.push(line)
    else reader(line)
  })
  const next = (...events: ReadonlyArray<string>): Promise<any> =>
    within(
      `${args.join(" ")} tells ${events.join(" or ")}`,
      new Promise((resolve) => (lines.length > 0 ? resolve(lines.shift()) : readers.push(resolve)))
    ).then((line: any) => (events.includes(line.event) ? line : next(...events)))
  const answered = <A>(pick: (answer: Answer) => A | undefined, job?: Job): Promise<A> => {
    let settle = () => {}
    const answer = new Promise<A>((resolve, reject) => {
      const onExit = (code: number | null) => reject(new Error(`${args.join(" ")} ended with ${code}`))
      const onMessage = (message: unknown) => {
        const picked = pick(message as Answer)
        if (picked !== undefined) resolve(picked)
      }
      settle = () => {
        child.removeListener("exit", onExit)
        child.removeListener("message", onMessage)
      }
      child.once("exit", onExit)
      child.on("message", onMessage)
      if (job !== undefined) child.send(job)
    })
    return within(`${args.join(" ")} answers`, answer).finally(settle)
  }
  const ready = () => answered((answer) => ("ready" in answer ? true : undefined))
  const ask = (job: Job): Promise<ReadonlyArray<number>> =>
    answered((answer) => ("samples" in answer ? answer.samples : undefined), job)
  const usage = (): Promise<Usage> =>
    answered((answer) => ("usage" in answer ? answer.usage : undefined), {
      kind: "usage",
      bytes: 0,
      count: 0,
      millis: 0
    })
  const end = (signal: NodeJS.Signals) =>
    within(
      `${args.join(" ")} ends`,
      new Promise<void>((resolve) => {
        if (child.exitCode !== null || child.signalCode !== null) return resolve()
        child.once("exit", () => resolve())
        child.kill(signal)
      })
    )
  return { child, next, ready, ask, usage, end }
}

/** Everyone's turn in each round; over the rounds everyone is as often before another as behind. */
export const alternating = async (rounds: number, contenders: ReadonlyArray<() => Promise<void>>) => {
  for (let round = 0; round < rounds; round++) for (const contender of inTurn(round, contenders)) await contender()
}

/** The order of one round. */
export const inTurn = <A>(round: number, contenders: ReadonlyArray<A>): ReadonlyArray<A> => {
  const first = Math.floor(round / 2) % contenders.length
  const rotated = [...contenders.slice(first), ...contenders.slice(0, first)]
  return round % 2 === 0 ? rotated : rotated.reverse()
}

const fileSystems: Record<number, string> = {
  61267: "ext4",
  16914836: "tmpfs",
  1481003842: "xfs",
  2435016766: "btrfs",
  2035054128: "overlay"
}

export const machine = () => {
  const type = statfsSync(directory).type
  return {
    cpu: `${cpus().length} × ${cpus()[0]?.model.trim()}`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    system: `${process.platform} ${release()} ${process.arch}`,
    node: process.version,
    directory: `${tmpdir()} (${fileSystems[type] ?? `0x${type.toString(16)}`})`,
    loadBefore: loadavg()[0]!.toFixed(1)
  }
}
