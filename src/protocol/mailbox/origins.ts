/**
 * Processes as the names of files tell them: an origin is a host, a boot, a process table, a pid and a start. On Linux the
 * start is that of proc_pid_stat(5), by which the lock identifies processes, too; elsewhere it is 0, and only the pid counts.
 *
 * @since 0.1.0
 */
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import { hostname } from "node:os"
import * as errno from "../../internal/errno.js"
import { presence } from "../../internal/processes.js"
import { isOwnStatus, parseStat } from "../../pid/LinuxPidVerifier.js"
import type { Life } from "./MailFiles.js"

interface Here {
  readonly host: string
  readonly boot: string
  /** The process table, and the clock that tells when its processes were started. */
  readonly table: string
  readonly start: string
}

const digest = (text: string) => createHash("sha256").update(text).digest("hex").slice(0, 8)

// What this system does not have, or does not show us, is empty for as long as it runs. Any other failure passes.
const unlessAbsent = (read: () => string): string => {
  try {
    return read()
  } catch (cause) {
    if (["ENOENT", "ENOTDIR", "EACCES", "EPERM", "EINVAL"].includes(errno.code(cause))) return ""
    throw cause
  }
}

const text = (file: string): string => unlessAbsent(() => fs.readFileSync(file, "utf8"))
const link = (file: string): string => unlessAbsent(() => fs.readlinkSync(file))

const read = (): Here => {
  const isOwn = isOwnStatus(text("/proc/self/status"), process.pid)
  return {
    host: digest(text("/etc/machine-id") + hostname()),
    boot: digest(text("/proc/sys/kernel/random/boot_id")),
    table: digest(`${link("/proc/self/ns/pid")} ${link("/proc/self/ns/time")}`),
    start: (isOwn ? parseStat(text("/proc/self/stat"))?.start : undefined) ?? "0"
  }
}

let here: Here | undefined

/**
 * The origin of this process. Throws what the system says where it cannot be told at the moment; a later call asks again.
 *
 * @since 0.1.0
 * @category getters
 */
export const self = (): string => {
  here ??= read()
  const { boot, host, start, table } = here
  return `${host}-${boot}-${table}-${process.pid}-${start}`
}

/**
 * Whether the process of an origin lives. `dead` is only what is certain: no such process, another one under its pid, or
 * one of before the last start of this very machine.
 *
 * @since 0.1.0
 * @category getters
 */
export const lifeOf = (origin: string, isLocal: () => boolean): Life => {
  const [host, boot, table, pid, start] = origin.split("-")
  if (here === undefined || host !== here.host) return "unknown"
  if (boot !== here.boot) return isLocal() ? "dead" : "unknown"
  if (table !== here.table) return "unknown"
  if (presence(Number(pid)) === "none") return "dead"
  if (here.start === "0" || start === "0") return "alive"
  return isAnother(Number(pid), start!) ? "dead" : "alive"
}

// A process that cannot be looked at lives, as far as its pid tells.
const isAnother = (pid: number, start: string): boolean => {
  try {
    const stat = parseStat(fs.readFileSync(`/proc/${pid}/stat`, "utf8"))
    // A zombie with one thread has ended.
    return stat !== null && (stat.start !== start || (/^[ZXx]$/.test(stat.state) && stat.threads === 1))
  } catch {
    return false
  }
}
