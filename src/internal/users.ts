/**
 * What the system knows of users and groups.
 */
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as errno from "./errno.js"

/**
 * The home directory of the effective user; `undefined` where the user has no entry, as in many containers, or one
 * without a home. Throws where the database cannot be read, since no other directory may then be used instead.
 */
export const home = (): string | undefined => {
  const failed = (cause: unknown) => new Error(`the user database cannot be read: ${errno.explain(cause)}`, { cause })
  try {
    const { homedir } = os.userInfo()
    return path.isAbsolute(homedir) ? homedir : undefined
  } catch (cause) {
    if (!errno.isMissing(cause)) throw failed(cause)
    const euid = process.geteuid?.()
    let listed: boolean
    try {
      listed = euid !== undefined && accounts().some(({ uid }) => uid === euid)
    } catch (unreadable) {
      throw failed(unreadable)
    }
    // The C library also says "no entry" where it could not open the file, and then found none in the next source.
    if (listed) throw failed(errno.make("EAGAIN", "it did not find an entry that /etc/passwd has"))
    return undefined
  }
}

/**
 * Whether a group is the private one of a user, as many systems give to each: the user's primary group, which carries
 * the user's name and has no other member. A group that is not in `/etc/group`, or a user who is not in `/etc/passwd`,
 * does not count. Root has none. Throws where these files cannot be read.
 */
export const isPrivateGroup = (gid: number, uid: number): boolean => {
  if (uid === 0) return false
  const all = accounts()
  const own = all.filter((account) => account.uid === uid)
  const names = own.map(({ name }) => name)
  const groups = lines("/etc/group").filter(([, , number]) => number === String(gid))
  return (
    own.some((account) => account.gid === gid) &&
    all.every((account) => account.gid !== gid || account.uid === uid) &&
    groups.length > 0 &&
    groups.every(
      ([name = "", , , members = ""]) =>
        names.includes(name) && members.split(",").every((member) => member === "" || names.includes(member))
    )
  )
}

const accounts = () =>
  lines("/etc/passwd").map(([name = "", , uid, gid]) => ({ name, uid: Number(uid), gid: Number(gid) }))

const lines = (file: string): ReadonlyArray<ReadonlyArray<string>> => {
  let text: string
  try {
    text = fs.readFileSync(file, "utf8")
  } catch (cause) {
    if (errno.isMissing(cause)) return []
    throw cause
  }
  // Comments and the `+` and `-` lines of NIS are not entries.
  return text.split("\n").flatMap((line) => (/^[^#+-][^:]*:[^:]*:\d+:/.test(line) ? [line.split(":")] : []))
}

/**
 * The number that stands for every user without a mapping in this user namespace, where root of the namespace around it
 * is one of them (user_namespaces(7)); `undefined` where it is not, and where the number is that of a mapped user.
 */
export const overflowUid = (): number | undefined => {
  if (process.platform !== "linux") return undefined
  try {
    const overflow = Number(fs.readFileSync("/proc/sys/kernel/overflowuid", "utf8"))
    const ranges = fs
      .readFileSync("/proc/self/uid_map", "utf8")
      .split("\n")
      .flatMap((line) => {
        const [inside, outside, count] = line.trim().split(/\s+/).map(Number)
        return count === undefined ? [] : [{ inside: inside!, outside: outside!, count }]
      })
    if (ranges.some(({ outside }) => outside === 0)) return undefined
    const isMapped = ranges.some(({ count, inside }) => overflow >= inside && overflow < inside + count)
    // Where both are possible, the root directory shows that root appears so.
    return isMapped && fs.statSync("/").uid !== overflow ? undefined : overflow
  } catch {
    return undefined
  }
}
