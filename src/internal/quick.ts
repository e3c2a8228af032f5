/**
 * The command line where another process is the primary, without loading what only a primary needs.
 */
import * as durations from "./durations.js"
import { isOption } from "./environment.js"
import * as engine from "./handOver.js"
import * as inherited from "./inherited.js"
import * as location from "./location.js"
import { isTerminal, write } from "./output.js"
import { type Supervisor, supervise } from "./supervisor.js"
import { coloured, deliveredEvent, deliveredSentence, exitCodeOf, green } from "./telling.js"

/** What of a command line matters here. */
interface Words {
  readonly id: string
  readonly args: ReadonlyArray<string>
  readonly env: { readonly [name: string]: string }
  readonly json: boolean
  readonly dir: string | null
  readonly trustDirectory: boolean
  readonly timeoutMillis: number
}

/** Loads what is needed to say what an ending means, and answers the exit code. */
export type Conclude = (options: {
  readonly id: string
  readonly json: boolean
  readonly millis: number
  readonly ending: engine.Answered | engine.Failed
}) => Promise<number>

/**
 * Hands over and ends this process. Answers `false` where the whole command line has to be loaded instead: where it says
 * anything that is not the usual, or nobody took the message and nobody will.
 */
export const handOver = async (argv: ReadonlyArray<string>, conclude: Conclude): Promise<boolean> => {
  const words = read(argv.slice(2), process.env)
  if (words === undefined || inherited.depthFlaw() !== undefined) return false
  const cwd = location.cwd()
  // What Node may not have read as it was given.
  if (inherited.isAnySuspect([...argv, cwd, ...Object.values(words.env)])) return false
  const controller = new AbortController()
  const supervisor = supervise(() => controller.abort())
  const { args, dir, env, id, json, timeoutMillis: millis, trustDirectory } = words
  const ending = await engine.handOver({
    id,
    directory: dir,
    trustDirectory,
    payload: undefined,
    launch: { argv: args, cwd, env },
    timeoutMillis: millis,
    onOutput: shower(json, supervisor),
    signal: controller.signal
  })
  if (ending._tag === "Candidate") {
    if (controller.signal.aborted) supervisor.end(0)
    else supervisor.release()
    return controller.signal.aborted
  }
  const reply = ending._tag === "Answered" ? replyOf(ending.exit) : undefined
  if (ending._tag === "Answered" && reply !== undefined) {
    const event = deliveredEvent(ending.message, ending.protocol, reply, ending.primary.pid)
    supervisor.watchOutput()
    if (json) await write("stdout", `${JSON.stringify(event)}\n`)
    else if (isTerminal("stderr")) await write("stderr", `${coloured("stderr", green, deliveredSentence(event))}\n`)
    supervisor.end(exitCodeOf(reply))
  } else if (controller.signal.aborted) {
    supervisor.end(0)
  } else {
    supervisor.watchOutput()
    supervisor.end(await conclude({ id, json, millis, ending }))
  }
  return true
}

// The exit code that a handler answered; anything else takes more to be told.
const replyOf = (exit: unknown): number | undefined =>
  typeof exit === "object" &&
  exit !== null &&
  "_tag" in exit &&
  exit._tag === "Success" &&
  "value" in exit &&
  typeof exit.value === "number" &&
  Number.isSafeInteger(exit.value)
    ? exit.value
    : undefined

const shower = (json: boolean, supervisor: Supervisor) => {
  const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() }
  return (stream: "stdout" | "stderr", chunk: Uint8Array): Promise<void> => {
    supervisor.watchOutput()
    if (!json) return write(stream, chunk)
    const text = decoders[stream].decode(chunk, { stream: true })
    return write("stdout", `${JSON.stringify({ event: "output", stream, text })}\n`)
  }
}

// `send` or `run`, the id, options that a later launch may have, and `--` with what is handed over. What is only slightly
// unusual is left to who knows all about it, and so are options from the environment.
const read = (words: ReadonlyArray<string>, env: NodeJS.ProcessEnv): Words | undefined => {
  const [command, id, ...rest] = words
  if ((command !== "send" && command !== "run") || id === undefined || id === "" || id.startsWith("-")) return undefined
  if (Object.keys(env).some(isOption)) return undefined
  const at = rest.indexOf("--")
  const behind = at < 0 ? [] : rest.slice(at + 1)
  const given = new Map<string, string>()
  const own = at < 0 ? rest : rest.slice(0, at)
  for (let index = 0; index < own.length; index++) {
    const name = own[index]!
    if (given.has(name)) return undefined
    if (name === "--json" || name === "--trust-directory") {
      given.set(name, "")
      continue
    }
    const value = own[++index]
    if (!valued.has(name) && !(command === "run" && valuedOfRun.has(name))) return undefined
    if (value === undefined || value.trim() === "" || value.startsWith("-")) return undefined
    given.set(name, value)
  }
  const timeoutMillis = durations.shortMillis(given.get("--timeout") ?? "20s")
  if (timeoutMillis === undefined || !(timeoutMillis >= 1)) return undefined
  const names = given.get("--env")?.split(",") ?? []
  if (!names.every((name) => /^[A-Za-z_]\w*$/.test(name) && !inherited.isReserved(name))) return undefined
  const isProgram = command === "run" && !given.has("--exec")
  if (isProgram && behind.length === 0) return undefined
  return {
    id,
    // The program is only for the first launch.
    args: isProgram ? behind.slice(1) : behind,
    env: inherited.passedOn(names),
    json: given.has("--json"),
    dir: given.get("--dir") ?? null,
    trustDirectory: given.has("--trust-directory"),
    timeoutMillis
  }
}

const valued = new Set(["--dir", "--timeout", "--env"])
const valuedOfRun = new Set(["--on-launch", "--exec"])
