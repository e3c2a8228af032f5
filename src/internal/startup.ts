/**
 * What this process was started with and the command that it runs is to have as well.
 */
import * as fs from "node:fs"
import * as path from "node:path"

/**
 * The descriptors from 3 on that were open when this process was started. To be asked before this process opens any of
 * its own: at its start Node has made them close-on-exec, and only their place and kind tell them from its own. Those of
 * Node are several `epoll`, an `eventfd` for each, and pipes of which it has both ends. Linux only.
 */
export const inheritedDescriptors = (): ReadonlyArray<number> => {
  if (process.platform !== "linux") return []
  const found = list().flatMap((fd) => {
    try {
      const link = fs.readlinkSync(`/proc/self/fd/${fd}`)
      const flags = openFlags("self", fd)
      return flags === undefined ? [] : [{ fd, link, flags }]
    } catch {
      // That of the list itself.
      return []
    }
  })
  // Node takes the lowest free numbers, and this one first.
  const firstOwn = found.find(({ link }) => link === "anon_inode:[eventpoll]")?.fd ?? 2
  const named = namedDescriptors()
  const unclear = found.filter(({ fd, flags }) => fd > firstOwn && (flags & closeOnExec) !== 0 && !named.has(fd))
  const own = unclear.filter(({ flags, link }) => {
    if (link === "anon_inode:[eventpoll]" || link === "anon_inode:[io_uring]") return true
    if (link === "anon_inode:[eventfd]") return (flags & nonBlocking) !== 0
    if (!link.startsWith("pipe:") || !isPlainEnd(flags)) return false
    // The other end, in the same mode.
    return unclear.some((other) => other.link === link && other.flags === (flags ^ 1))
  })
  const notPassed = new Set([firstOwn, ...own.map(({ fd }) => fd)])
  return found.map(({ fd }) => fd).filter((fd) => !notPassed.has(fd))
}

// As Linux has them in /proc/PID/fdinfo.
const closeOnExec = 0o2000000
const nonBlocking = 0o4000
// What a shell opens, such as `<(…)`, has more flags than what pipe(2) makes.
const isPlainEnd = (flags: number): boolean => (flags & ~(closeOnExec | nonBlocking | 1)) === 0

/** Whether the variable, such as LISTEN_PID, names this process, and the command is to find its own pid there. */
export const namesUs = (name: string): boolean => process.env[name] === String(process.pid)

/**
 * Whether SIGHUP was to be ignored when this process was started, as `nohup` has it. At its start Node takes all signals
 * back to their defaults, so this is told from what remains: the name of the command in `_`, which bash, zsh and ksh set;
 * the input that `nohup` leaves in place of a terminal; and on Linux a parent in the same session that ignores it, such as
 * a script under `nohup`.
 */
export const ignoresHangup = (): boolean => {
  if (process.platform === "win32") return false
  if (path.basename(process.env._ ?? "") === "nohup") return true
  if (process.platform !== "linux") return false
  try {
    if (fs.readlinkSync("/proc/self/fd/0") === "/dev/null" && ((openFlags("self", 0) ?? 0) & 3) === 1) return true
  } catch {
    // It is closed.
  }
  if (hasSignal("self", "SigIgn", 1)) return true
  const [own, parents] = [sessionOf("self"), sessionOf(process.ppid)]
  return own !== undefined && own === parents && hasSignal(process.ppid, "SigIgn", 1)
}

/** Whether a set of signals in `/proc/PID/status`, such as SigIgn or SigCgt, has a signal, by its number. */
export const hasSignal = (pid: number | "self", set: string, signal: number): boolean => {
  try {
    const status = fs.readFileSync(`/proc/${pid}/status`, "latin1")
    const mask = new RegExp(`^${set}:\\s*([0-9a-f]+)`, "m").exec(status)?.[1]
    return mask !== undefined && ((BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n) === 1n
  } catch {
    return false
  }
}

const list = (): ReadonlyArray<number> => {
  try {
    return fs
      .readdirSync("/proc/self/fd")
      .map(Number)
      .filter((fd) => fd > 2)
      .sort((a, b) => a - b)
  } catch {
    return []
  }
}

const openFlags = (pid: number | "self", fd: number): number | undefined => {
  const flags = /^flags:\s*([0-7]+)/m.exec(fs.readFileSync(`/proc/${pid}/fdinfo/${fd}`, "latin1"))?.[1]
  return flags === undefined ? undefined : Number.parseInt(flags, 8)
}

// proc_pid_stat(5), behind the name in parentheses: state, parent, group, session.
const sessionOf = (pid: number | "self"): string | undefined => {
  try {
    return fs.readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)!.split(" ")[3]
  } catch {
    return undefined
  }
}

// sd_listen_fds(3) and the job server of make say in words which ones they mean.
const namedDescriptors = (): ReadonlySet<number> => {
  const listening = namesUs("LISTEN_PID") ? Math.min(Number(process.env.LISTEN_FDS) || 0, 1_024) : 0
  const jobs = [...(process.env.MAKEFLAGS ?? "").matchAll(/--jobserver-(?:auth|fds)=(\d+),(\d+)/g)].at(-1)
  return new Set([
    ...Array.from({ length: listening }, (_, index) => 3 + index),
    ...(jobs === undefined ? [] : [Number(jobs[1]), Number(jobs[2])])
  ])
}
