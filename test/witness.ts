/**
 * What really happened, as seen from outside of the library: processes append what they do to logs, one line per write;
 * who leads holds a name that the kernel gives to one process at a time and frees at its death; a checker reads all
 * logs and names the first contradiction.
 */
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import * as net from "node:net"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/**
 * One line of a log. `at` is CLOCK_MONOTONIC in nanoseconds, comparable between all processes of one boot. `who` names one
 * process for all time, as a pid does not. The checker knows these events, all others are for people and tests:
 *
 * - `begin { epoch }`, `end`: leads from now; leads no more, and has not begun to release.
 * - `clash { final? }`: it believes to lead, and the kernel says that somebody else still holds the name; `at` is when it
 *   asked: who held it may be seen to have ended before this can be written.
 * - `handled { message }`: the primary's handler has it.
 * - `outcome { message, outcome }`: what its sender was told.
 * - `lost`: leadership ended on evidence.
 * - `cleaned { target, epoch }`: the file that made it the leader was removed; it leads on until it learns that.
 * - `kill { target }`, `gone { target }`: SIGKILL is about to be sent; the process was seen to have ended.
 */
export interface Entry {
  readonly at: number
  readonly who: string
  readonly event: string
  readonly [field: string]: unknown
}

export interface Log {
  readonly who: string
  readonly append: (event: string, fields?: { readonly [field: string]: unknown }) => Entry
  readonly close: () => void
}

/** Monotonic time in nanoseconds; exact up to 104 days after the boot, and to a few nanoseconds after that. */
export const now = (): number => Number(process.hrtime.bigint())

/** A log of one process, in a folder with those of the others. A killed process leaves at most its last line torn. */
export const openLog = (folder: string, who: string): Log => {
  const fd = fs.openSync(join(folder, `${who}.log`), "a", 0o666)
  return {
    who,
    append: (event, fields) => {
      const entry = { at: now(), who, event, ...fields }
      fs.writeSync(fd, `${JSON.stringify(entry)}\n`)
      return entry
    },
    close: () => fs.closeSync(fd)
  }
}

/** All logs of a folder as one, in the order of time. */
export const readHistory = (folder: string): ReadonlyArray<Entry> =>
  fs
    .readdirSync(folder)
    .filter((name) => name.endsWith(".log"))
    .flatMap((name) => fs.readFileSync(join(folder, name), "utf8").split("\n").slice(0, -1))
    .map((line) => JSON.parse(line) as Entry)
    .sort((a, b) => a.at - b.at)

/**
 * Leads, as far as the witness is concerned, until the scope closes: `begin` is logged, the name is bound; `end` is logged,
 * the name is freed. A predecessor that is just being killed may hold the name for an instant longer than its lock.
 */
export const leading = (
  log: Log,
  name: string | undefined,
  fields: { readonly epoch: number; readonly [field: string]: unknown }
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function* () {
    yield* Effect.acquireRelease(
      Effect.sync(() => log.append("begin", fields)),
      () => Effect.sync(() => log.append("end"))
    )
    const path = name && kernelName(name)
    if (path === undefined) return
    let bound = false
    for (let attempt = 1; !bound && attempt <= 200; attempt++) {
      const at = now()
      bound = yield* bind(path)
      if (bound) break
      log.append("clash", { at, final: attempt === 200 })
      yield* Effect.sleep("5 millis")
    }
  })

const bind = (path: string): Effect.Effect<boolean, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.async<net.Server | undefined>((resume) => {
      const server = net.createServer((socket) => socket.destroy())
      server.once("error", () => resume(Effect.succeed(undefined)))
      server.listen({ path, exclusive: true }, () => resume(Effect.succeed(server.unref())))
    }),
    (server) => Effect.sync(() => server?.close())
  ).pipe(Effect.map((server) => server !== undefined))

// Other systems have no name that ends with its process.
const kernelName = (name: string): string | undefined => {
  const digest = createHash("sha256").update(name).digest("hex").slice(0, 32)
  switch (process.platform) {
    case "linux":
      return `\0esi-witness-${digest}`
    case "win32":
      return `\\\\.\\pipe\\esi-witness-${digest}`
    default:
      return undefined
  }
}

/**
 * The first contradiction in a history, in words; `undefined` where there is none. `outsiders`: somebody tampers with the
 * files, so that leadership may be lost.
 */
export const contradiction = (
  history: ReadonlyArray<Entry>,
  options?: { readonly outsiders?: boolean | undefined }
): string | undefined => {
  const start = history[0]?.at ?? 0
  const leaders = new Map<string, Entry>()
  const dying = new Set<string>()
  const robbed = new Map<string, unknown>()
  const leaving = new Set<string>()
  const handled = new Map<string, Entry>()
  const denied = new Map<string, Entry>()
  let highest: Entry | undefined
  let destroyed = 0

  const flawOf = (entry: Entry): string | undefined => {
    const { who } = entry
    switch (entry.event) {
      case "begin": {
        // It was robbed before it could say that it leads: what came of that is older news.
        if (robbed.get(who) === entry.epoch) return undefined
        robbed.delete(who)
        leaving.delete(who)
        const other = [...leaders.values()].find((leader) => leader.who !== who)
        const earlier = highest
        highest = entry
        // One that was shot at may be dead by now.
        if (!dying.has(who)) leaders.set(who, entry)
        if (other !== undefined) {
          return `two primaries at once: ${tell(other)} leads since ${since(other)} ms, and so does ${tell(entry)}`
        }
        // Of a record that was destroyed nobody knows; a starter that was under way may carry an earlier time.
        const isUnknown = entry.took === "free" && (earlier?.epoch as number) <= destroyed
        if (earlier !== undefined && !isUnknown && (earlier.epoch as number) >= (entry.epoch as number)) {
          return `the epoch did not grow: ${tell(earlier)}, then ${tell(entry)}`
        }
        return undefined
      }
      case "end":
        leaders.delete(who)
        // Nobody waited for who was robbed: the kernel's name is freed only now.
        if (robbed.delete(who)) leaving.add(who)
        return undefined
      case "cleaned": {
        const target = entry.target as string
        leaders.delete(target)
        robbed.set(target, entry.epoch)
        destroyed = Math.max(destroyed, entry.epoch as number)
        return undefined
      }
      case "clash": {
        const isOther = (other: string) => other !== who
        // Who is dead holds it for an instant only; who was robbed until it has noticed, and ended what it did. The one that
        // was robbed may be the one that finds it taken, too.
        const isExcused =
          robbed.has(who) ||
          [...robbed.keys(), ...leaving].some(isOther) ||
          (entry.final !== true && [...dying].some(isOther))
        return isExcused
          ? undefined
          : `two primaries at once: ${who} leads, and the kernel says that somebody else does`
      }
      case "lost":
        return options?.outsiders ? undefined : `${who} lost the lock: ${entry.detail}`
      case "kill":
        dying.add(entry.target as string)
        leaders.delete(entry.target as string)
        return undefined
      case "gone": {
        const target = entry.target as string
        dying.delete(target)
        robbed.delete(target)
        leaving.delete(target)
        return leaders.has(target) ? `${target} ended as the primary, and was not killed` : undefined
      }
      case "handled": {
        const message = entry.message as string
        const before = handled.get(message)
        handled.set(message, entry)
        if (before !== undefined) return `${message} was handled twice, by ${before.who} and by ${who}`
        if (denied.has(message)) return `${message} was handled by ${who} after its sender was told NotDelivered`
        if (!leaders.has(who) && !dying.has(who) && !robbed.has(who))
          return `${message} was handled by ${who}, which does not lead`
        return undefined
      }
      case "outcome": {
        const message = entry.message as string
        if (entry.outcome === "Delivered" && !handled.has(message)) {
          return `${message} is Delivered to ${who}, and in nobody's log`
        }
        if (entry.outcome !== "NotDelivered") return undefined
        denied.set(message, entry)
        const by = handled.get(message)
        return by === undefined ? undefined : `${message} is NotDelivered to ${who}, and was handled by ${by.who}`
      }
      default:
        return undefined
    }
  }
  const since = (entry: Entry) => Math.round((entry.at - start) / 1e6)
  const tell = (entry: Entry) => `${entry.who} (epoch ${entry.epoch}, ${entry.took})`

  for (const entry of history) {
    const flaw = flawOf(entry)
    if (flaw !== undefined) return `after ${since(entry)} ms: ${flaw}`
  }
  return undefined
}
