/**
 * Processes as `/proc` shows them.
 *
 * @since 0.1.0
 */
import { hostname } from "node:os"
import type { PlatformError } from "@effect/platform/Error"
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import { ProcessIdentity } from "../InstanceRecord.js"
import * as errno from "../internal/errno.js"
import {
  absent,
  judgeWhere,
  makeVerifier,
  once,
  persistently,
  presence,
  type Sighting,
  unavailable,
  unreadable
} from "../internal/processes.js"
import { dead, unknown } from "../Liveness.js"
import { type IdentityUnavailable, PidVerifier } from "../PidVerifier.js"

/**
 * What one line of `/proc/PID/stat` tells: the state's letter, the number of threads, and the start in clock ticks since
 * the boot.
 *
 * @since 0.1.0
 * @category models
 */
export interface Stat {
  readonly state: string
  readonly threads: number
  readonly start: string
}

/**
 * Reads a line of `/proc/PID/stat` (proc_pid_stat(5)): fields 3, 20 and 22, counted from behind the last `)`, as the name
 * of a program may itself hold parentheses, blanks and line feeds. `null` where the line is none or is cut short.
 *
 * @since 0.1.0
 * @category decoding
 */
export const parseStat = (line: string): Stat | null => {
  const end = line.lastIndexOf(")")
  if (end < 0 || !/^\d+ \(/.test(line)) return null
  const fields = line
    .slice(end + 1)
    .trim()
    .split(" ")
  const [state, threads, start, next] = [fields[0], fields[17], fields[19], fields[20]]
  // Without a field behind the start the start itself may be cut short.
  if (state === undefined || threads === undefined || start === undefined || next === undefined) return null
  if (!/^[A-Za-z]$/.test(state) || !/^\d{1,9}$/.test(threads) || !/^\d{1,20}$/.test(start)) return null
  return { state, threads: Number(threads), start }
}

/**
 * Whether `/proc/self/status` is that of the process with this pid, so that `/proc` shows the process table in which our
 * own pids count. `NSpid` has one number then; a `/proc` of an outer namespace shows a number for each level.
 *
 * @since 0.1.0
 * @category decoding
 */
export const isOwnStatus = (status: string, pid: number): boolean => {
  const shown = /^Pid:\s*(\d+)\s*$/m.exec(status)?.[1]
  const levels = /^NSpid:[ \t]*(.*)$/m.exec(status)?.[1]
  return shown === String(pid) && (levels === undefined || levels.trim() === shown)
}

/**
 * Reads `/proc`, `/etc/machine-id` and the links of namespaces when they are first needed. The start is that of
 * `/proc/PID/stat`, and counts in the namespace of `/proc/self/ns/time`; a kernel that has no time namespaces (before
 * 5.6) gets the word `none` for its only one.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: Effect.Effect<PidVerifier["Type"], never, FileSystem.FileSystem> = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const self = once(persistently(readSelf(fs)))

  const look = (pid: number, again: number): Effect.Effect<Sighting, IdentityUnavailable> =>
    Effect.flatMap(Effect.either(fs.readFileString(`/proc/${pid}/stat`)), (line) => {
      if (Either.isLeft(line)) {
        const seen = presence(pid)
        if (!isGone(line.left)) {
          return Effect.succeed(unreadable(pid, seen, `/proc/${pid}/stat cannot be read: ${line.left.message}`))
        }
        // A mount with hidepid hides processes that live, so the kernel itself is asked, too.
        if (seen === "none") return Effect.succeed(absent(pid))
        // It may also have been started in between.
        return seen !== "refused" && again > 0
          ? look(pid, again - 1)
          : Effect.succeed(unreadable(pid, seen, `a process has the pid ${pid}, but /proc does not show it`))
      }
      const stat = parseStat(line.right)
      if (stat === null) return Effect.succeed(unknown(`/proc/${pid}/stat has an unknown form`))
      if (/^[ZXx]$/.test(stat.state)) {
        // Whether it was the recorded process or a later one: the recorded one is gone.
        if (stat.threads === 1) return Effect.succeed(dead("D1", `the process with the pid ${pid} is a zombie`))
        // 0: it is just being removed, or (a thread other than the first called exec) just being replaced by its heir.
        if (stat.threads === 0) {
          return again > 0
            ? look(pid, again - 1)
            : Effect.succeed(unknown(`the process with the pid ${pid} is neither there nor gone`))
        }
      }
      return Effect.map(self, ({ timeNamespace }) => ({ _tag: "Process", start: stat.start, timeNamespace }))
    })

  return makeVerifier({
    self,
    where: (recorded, options) => Effect.map(self, (own) => judgeWhere(recorded, own, options)),
    look: (pid) => look(pid, 3)
  })
})

/**
 * The verifier of Linux.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<PidVerifier, never, FileSystem.FileSystem> = Layer.effect(PidVerifier, make)

// -------------------------------------------------------------------------------------
// internals
// -------------------------------------------------------------------------------------

const bootPath = "/proc/sys/kernel/random/boot_id"

const isNotFound = (error: PlatformError): boolean => error._tag === "SystemError" && error.reason === "NotFound"

// A process that ends between open and read gives ESRCH, for which the platform has no reason of its own.
const isGone = (error: PlatformError): boolean =>
  isNotFound(error) || (error._tag === "SystemError" && errno.code(error.cause) === "ESRCH")

// Only what the system denies for good is unknown; what fails for a passing reason fails the whole.
const readSelf = (fs: FileSystem.FileSystem): Effect.Effect<ProcessIdentity, IdentityUnavailable> => {
  const denied =
    <A>(path: string, otherwise: (error: PlatformError) => A) =>
    (error: PlatformError) =>
      unavailable(path, error) ?? Effect.succeed(otherwise(error))
  const text = (path: string) =>
    Effect.catchAll(
      fs.readFileString(path),
      denied(path, () => "")
    )
  const namespace = (name: string) => {
    const path = `/proc/self/ns/${name}`
    return fs.readLink(path).pipe(
      Effect.map((link) => /\[(\d{1,20})\]$/.exec(link)?.[1] ?? null),
      Effect.catchAll(denied(path, (error) => (isNotFound(error) ? ("none" as const) : null)))
    )
  }
  const device = (path: string) =>
    fs.stat(path).pipe(
      Effect.map((info) => info.dev),
      Effect.catchAll(denied(path, () => null))
    )
  return Effect.map(
    // One after the other, so that one free descriptor is enough.
    Effect.all({
      status: text("/proc/self/status"),
      stat: text("/proc/self/stat"),
      pidNamespace: namespace("pid"),
      timeNamespace: namespace("time"),
      boot: text(bootPath),
      bootDevice: device(bootPath),
      procDevice: device("/proc"),
      etc: text("/etc/machine-id"),
      dbus: text("/var/lib/dbus/machine-id")
    }),
    (found) => {
      const trusted = isOwnStatus(found.status, process.pid)
      const pidNamespace = found.pidNamespace === "none" ? null : found.pidNamespace
      const machine = machineId(found.etc) ?? machineId(found.dbus)
      const ownBoot = found.bootDevice !== null && found.bootDevice === found.procDevice
      return new ProcessIdentity({
        pid: process.pid,
        start: trusted ? (parseStat(found.stat)?.start ?? null) : null,
        boot: /^[0-9a-f-]{36}$/.exec(found.boot.trim())?.[0] ?? null,
        pidNamespace: trusted ? pidNamespace : null,
        timeNamespace: trusted && pidNamespace !== null ? found.timeNamespace : null,
        // A container whose boot id was mounted over the kernel's own (systemd-nspawn) has boots of its own, and often
        // the machine id of its host or of its siblings: those are no boots of one machine, and prove nothing (D4).
        machine: machine === null || ownBoot ? machine : `${machine}@${hostname().replace(/[^A-Za-z0-9.-]/g, "_")}`
      })
    }
  )
}

// `machine-id(5)`; `uninitialized` stands there during a first boot.
const machineId = (text: string): string | null => {
  const id = text.trim().toLowerCase()
  return /^[0-9a-f]{32}$/.test(id) && !/^0+$/.test(id) ? id : null
}
