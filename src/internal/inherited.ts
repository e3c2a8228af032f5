/**
 * What this process was started with, where Node cannot pass it on unchanged: Node decodes arguments, environment and
 * directory as UTF-8, with U+FFFD for what is not, and so would name another file.
 */
import { isUtf8 } from "node:buffer"
import { readFileSync, readlinkSync } from "node:fs"
import * as location from "./location.js"

// How often handlers of `--on-launch` may start each other: one that starts the guarded program again would never end.
const maxDepth = 8
const depthName = "SINGLE_INSTANCE_DEPTH"

/** Whether a variable is for us to set, and not for a launch to pass on. */
export const isReserved = (name: string): boolean => /^SINGLE_INSTANCE_/i.test(name)

// In how many handlers this process or the sender of a launch runs.
const depthOf = (env: { readonly [name: string]: string | undefined }): number => {
  const depth = Number(env[depthName] ?? 0)
  return Number.isSafeInteger(depth) && depth > 0 ? depth : 0
}

/** Why this process may not hand over: it runs in a handler that was started by a handler, and so on. */
export const depthFlaw = (): string | undefined =>
  depthOf(process.env) < maxDepth
    ? undefined
    : `${maxDepth} --on-launch commands have started each other, so this launch is not handed over: does the one of ` +
      `"${process.env.SINGLE_INSTANCE_ID}" start the program again that it runs for?`

/** Which variables a launch passes on: those that are named, if they are set, and how deep it is within handlers. */
export const passedNames = (names: ReadonlyArray<string>): ReadonlyArray<string> =>
  [...names, depthName].filter((name) => Object.hasOwn(process.env, name))

/** The same with their values. */
export const passedOn = (names: ReadonlyArray<string>): { readonly [name: string]: string } =>
  location.variables(passedNames(names))

/**
 * What a handler gets of the environment of the launch that it runs for, with only `names` accepted. Of a launch that
 * passes on any of them, those that it lacks are unset: half of two environments would be neither.
 */
export const accepted = (
  env: { readonly [name: string]: string },
  names: ReadonlyArray<string>
): { readonly [name: string]: string | undefined } => {
  const given = names.filter((name) => Object.hasOwn(env, name))
  return Object.fromEntries([
    ...(given.length === 0 ? [] : names.map((name) => [name, Object.hasOwn(env, name) ? env[name] : undefined])),
    [depthName, String(depthOf(env) + 1)]
  ])
}

const isSuspect = (text: string): boolean => text.includes("\uFFFD")

/** Whether anything of what a launch says needs a closer look. */
export const isAnySuspect = (texts: ReadonlyArray<string>): boolean => texts.some(isSuspect)

/** Which argument of `argv`, the `process.argv` of this process, is not UTF-8. */
export const argumentFlaw = (argv: ReadonlyArray<string>): string | undefined => {
  const at = argv.findIndex(isSuspect)
  if (at < 0) return undefined
  const raw = entriesOf("/proc/self/cmdline")?.slice(-argv.length)
  for (let index = at; index < argv.length; index++) {
    if (isSuspect(argv[index]!) && isChanged(raw?.[index])) {
      return `argument ${index - 1}, ${printable(raw?.[index], argv[index]!)}, is not UTF-8`
    }
  }
  return undefined
}

/** Which variable of the environment is not UTF-8, of those whose name is `relevant`. */
export const variableFlaw = (relevant: (name: string) => boolean = () => true): string | undefined => {
  const suspect = Object.entries(process.env).find(
    ([name, value = ""]) => relevant(name) && (isSuspect(name) || isSuspect(value))
  )
  if (suspect === undefined) return undefined
  const raw = entriesOf("/proc/self/environ")
  const changed =
    raw?.find((entry) => isChanged(entry) && relevant(entry.toString().split("=")[0]!)) ??
    (raw === undefined ? Buffer.from(suspect.join("=")) : undefined)
  if (changed === undefined) return undefined
  const text = printable(changed, "")
  return `the environment variable ${text.slice(0, text.indexOf("="))} is not UTF-8: ${text}`
}

/** Whether the current directory is not UTF-8. */
export const directoryFlaw = (): string | undefined => {
  let cwd: string
  let raw: Buffer | undefined
  try {
    cwd = process.cwd()
  } catch {
    // It is gone, which others find out.
    return undefined
  }
  if (!isSuspect(cwd)) return undefined
  try {
    raw = readlinkSync("/proc/self/cwd", { encoding: "buffer" })
  } catch {
    // Only Linux tells the octets.
  }
  return isChanged(raw) ? `the current directory, ${printable(raw, cwd)}, is not UTF-8` : undefined
}

// Where the octets cannot be read, U+FFFD itself is not to be told from what took its place.
const isChanged = (raw: Buffer | undefined): boolean => raw === undefined || !isUtf8(raw)

const entriesOf = (file: string): ReadonlyArray<Buffer> | undefined => {
  let bytes: Buffer
  try {
    bytes = readFileSync(file)
  } catch {
    return undefined
  }
  const entries: Array<Buffer> = []
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf(0, at)
    entries.push(bytes.subarray(at, end < 0 ? bytes.length : end))
    at = end < 0 ? bytes.length : end + 1
  }
  return entries
}

// With the octets that are not ASCII written as in a shell's $'…'.
const printable = (raw: Buffer | undefined, decoded: string): string =>
  raw === undefined
    ? JSON.stringify(decoded)
    : [...raw]
        .map((octet) =>
          octet < 0x20 || octet > 0x7e ? `\\x${octet.toString(16).padStart(2, "0")}` : String.fromCharCode(octet)
        )
        .join("")
