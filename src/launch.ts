/**
 * A second launch that costs nothing: for the first line of a program, before it loads anything else. Knows the wire and
 * the record, and neither Effect nor any other dependency.
 *
 * @since 0.1.0
 */
import { inspect } from "node:util"
import * as engine from "./internal/handOver.js"
import * as location from "./internal/location.js"

/**
 * What to hand over, and to whom.
 *
 * @since 0.1.0
 * @category models
 */
export interface LaunchOptions {
  /** The id of the application's tag or layer. */
  readonly id: string
  /** The option `directory` of the primary; left out, the platform's place. */
  readonly directory?: string | undefined
  /** The option `trustDirectory` of the primary; false if left out. */
  readonly trustDirectory?: boolean | undefined
  /**
   * The request as its schema encodes it, which must be JSON. Left out where the request is the launch itself.
   */
  readonly request?: unknown
  /** Left out, those of this process. */
  readonly argv?: ReadonlyArray<string> | undefined
  /**
   * Left out, that of this process. Where the working directory no longer exists, its name with ` (deleted)` behind it.
   */
  readonly cwd?: string | undefined
  /** The names of the environment variables to pass on: none by default, as environments hold secrets. */
  readonly env?: ReadonlyArray<string> | undefined
  /** Any JSON value beside argv. */
  readonly data?: unknown
  /**
   * How long the primary may take to accept the request, and how long it may keep silent after that, in milliseconds: more
   * than 0, `Infinity` for no limit. A handler that works is not silent: its primary answers pings. 20 seconds if left out.
   */
  readonly timeout?: number | undefined
  /** Called in order with what the handler writes while it runs; the primary waits for it. */
  readonly onOutput?: ((stream: "stdout" | "stderr", chunk: Uint8Array) => void | Promise<void>) | undefined
  /** Interrupts the handler, which has a second to say how it ended. */
  readonly signal?: AbortSignal | undefined
}

/**
 * Who was given the request, and under which id.
 *
 * @since 0.1.0
 * @category models
 */
export interface Receipt {
  readonly message: string
  readonly protocol: string
  readonly address: string
  readonly primary: { readonly pid: number; readonly epoch: number; readonly version: string | null }
}

/**
 * How the handler ended: with a reply or the contract's failure, both as their schemas encode them; of a defect; by an
 * interruption; or in a way that only another version could read.
 *
 * @since 0.1.0
 * @category models
 */
export type Exit =
  | { readonly _tag: "Success"; readonly value: unknown }
  | { readonly _tag: "Failure"; readonly error: unknown }
  | { readonly _tag: "Defect"; readonly defect: unknown }
  | { readonly _tag: "Interrupted" }
  | { readonly _tag: "Unreadable" }

/**
 * Load the application: its election decides, with the request still in hand. Nobody handled the request nor ever will;
 * there may be no primary, or one that only the whole library reaches or can judge. `reason` says why, for people.
 *
 * @since 0.1.0
 * @category models
 */
export interface Candidate {
  readonly _tag: "Candidate"
  readonly reason: string
}

/**
 * The exit of the primary's handler arrived.
 *
 * @since 0.1.0
 * @category models
 */
export interface Delivered extends Receipt {
  readonly _tag: "Delivered"
  readonly exit: Exit
}

/**
 * The primary declined the request for good, or struck it off when it did not accept it in time. `reason` is that of the
 * library's `ProtocolError`, or the phase of its `TimeoutError`.
 *
 * @since 0.1.0
 * @category models
 */
export interface NotDelivered extends Receipt {
  readonly _tag: "NotDelivered"
  readonly reason: string
  readonly detail: string
}

/**
 * The request was handed over, and then nobody could be asked what became of it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Unknown extends Receipt {
  readonly _tag: "Unknown"
  /** As of `NotDelivered`, or `Interrupted` by the signal. */
  readonly reason: string
  readonly detail: string
}

/**
 * @since 0.1.0
 * @category models
 */
export type Verdict = Candidate | Delivered | NotDelivered | Unknown

/**
 * Hands over to the primary, if there is one that a socket reaches, and tells reliably what happened to the request. Takes
 * no lock, writes no file and removes none. After its verdict it keeps the process alive for about half a second at most. Rejects
 * with a `TypeError` where an option is wrong, and otherwise only with what `onOutput` throws.
 *
 * Until the request goes out, whatever is in the way makes a `Candidate`: no record or none that can be read, a directory
 * that others may write to, nobody who proves to be the process of the record within a second, a request that is too
 * large. So does a primary that is going away. It judges nobody dead and waits for nobody to come.
 *
 * @example
 * ```ts
 * import { launch } from "effect-single-instance/launch"
 *
 * export const main = async (application: () => Promise<unknown>) => {
 *   const verdict = await launch({ id: "com.example.editor", request: { open: process.argv.slice(2) } })
 *   switch (verdict._tag) {
 *     case "Candidate":
 *       return application() // such as import("./app.js")
 *     case "Delivered":
 *       process.exitCode = verdict.exit._tag === "Success" ? 0 : 1
 *       return
 *     default:
 *       console.error(`${verdict._tag}: ${verdict.detail}`)
 *       process.exitCode = 1
 *   }
 * }
 * ```
 *
 * @since 0.1.0
 * @category operations
 */
export const launch = async (options: LaunchOptions): Promise<Verdict> => {
  const flaw = flawOf(options)
  if (flaw !== undefined) throw new TypeError(`launch: ${flaw}`)
  const { argv, cwd, data, directory, env = [], id, onOutput, request, signal, timeout, trustDirectory } = options
  const ending = await engine.handOver({
    id,
    directory: directory ?? null,
    trustDirectory: trustDirectory ?? false,
    payload: request,
    launch: {
      argv: argv ?? process.argv.slice(2),
      cwd: cwd ?? location.cwd(),
      env: location.variables(env),
      data
    },
    timeoutMillis: timeout ?? 20_000,
    onOutput,
    signal
  })
  if (ending._tag !== "Answered") return ending
  const { exit, ...receipt } = ending
  return { ...receipt, _tag: "Delivered", exit: exitOf(exit) }
}

const isText = (value: unknown) => typeof value === "string"
// Also where an element is missing.
const areTexts = (value: unknown) => Array.isArray(value) && Array.from<unknown>(value).every(isText)
const isFunction = (value: unknown) => typeof value === "function"

const isSignal = (value: unknown) =>
  isObject(value) && isFunction(value.addEventListener) && isFunction(value.removeEventListener)

// What is not checked may be any JSON value.
const types: ReadonlyArray<readonly [keyof LaunchOptions, string, (value: unknown) => boolean]> = [
  ["id", "a string", isText],
  ["directory", "a string", isText],
  ["trustDirectory", "true or false", (value) => typeof value === "boolean"],
  ["argv", "an array of strings", areTexts],
  ["cwd", "a string", isText],
  ["env", "an array of names", areTexts],
  ["timeout", "a number of milliseconds greater than 0", (value) => typeof value === "number" && value > 0],
  ["onOutput", "a function", isFunction],
  ["signal", "an AbortSignal", isSignal]
]

const flawOf = (options: LaunchOptions): string | undefined => {
  if (!isObject(options)) return "the options are missing; at least `id` is needed"
  for (const [name, expected, isRight] of types) {
    const value = options[name]
    if ((value !== undefined || name === "id") && !isRight(value)) {
      return `\`${name}\` must be ${expected}, not ${inspect(value, { depth: 0, maxStringLength: 80, breakLength: Number.POSITIVE_INFINITY })}`
    }
  }
  const { directory = null, id, trustDirectory = false } = options
  return location.flawOfId(id) ?? location.flawOfPlace({ directory, trustDirectory })
}

const isObject = (value: unknown): value is { readonly [key: string]: unknown } =>
  typeof value === "object" && value !== null

// An encoded `Schema.Exit`. Of a cause with several parts the first failure counts, else the first defect.
const exitOf = (encoded: unknown): Exit => {
  if (!isObject(encoded)) return { _tag: "Unreadable" }
  if (encoded._tag === "Success") return { _tag: "Success", value: encoded.value }
  if (encoded._tag !== "Failure") return { _tag: "Unreadable" }
  let defect: Exit | undefined
  const parts = [encoded.cause]
  while (parts.length > 0) {
    const part = parts.pop()
    if (!isObject(part)) return { _tag: "Unreadable" }
    switch (part._tag) {
      case "Fail":
        return { _tag: "Failure", error: part.error }
      case "Die":
        defect ??= { _tag: "Defect", defect: part.defect }
        break
      case "Sequential":
      case "Parallel":
        parts.push(part.right, part.left)
        break
      case "Empty":
      case "Interrupt":
        break
      default:
        return { _tag: "Unreadable" }
    }
  }
  return defect ?? { _tag: "Interrupted" }
}
