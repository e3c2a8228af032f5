/**
 * The access control lists of Windows, where mode bits mean nothing. Node cannot read them, so PowerShell is asked, once
 * for a directory.
 */
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import * as Effect from "effect/Effect"
import { ancestors, type Flaw, wayTo } from "./directory.js"
import * as fileIdentity from "./fileIdentity.js"
import * as location from "./location.js"
import * as systemProgram from "./systemProgram.js"
import * as users from "./users.js"

/** What an entry allows to whom: a bit mask, and a security identifier or its abbreviation, such as `BU`. */
export interface Entry {
  readonly principal: string
  readonly mask: number
  /** It is only for what is made in the directory. */
  readonly isInheritOnly: boolean
}

/** Who owns a file, and what is allowed in it; `undefined` where there is no list, which allows everybody everything. */
export interface Descriptor {
  readonly owner: string
  readonly entries: ReadonlyArray<Entry> | undefined
}

/**
 * Reads a security descriptor as a text (Security Descriptor Definition Language); `undefined` where it is none. Entries that
 * deny something are left out.
 */
export const parse = (sddl: string): Descriptor | undefined => {
  const owner = /^O:(S-1-[0-9-]+|[A-Z]{2})/.exec(sddl)?.[1]
  if (owner === undefined) return undefined
  const at = partAt(sddl, "D:")
  const [control = ""] = at < 0 ? [] : /^[A-Z_]*/.exec(sddl.slice(at + 2))!
  if (at < 0 || control.includes("NO_ACCESS_CONTROL")) return { owner, entries: undefined }
  const entries: Array<Entry> = []
  for (const entry of groupsOf(sddl.slice(at + 2 + control.length))) {
    const [type = "", inheritance = "", rights = "", , , principal] = entry.split(";")
    const mask = maskOf(rights)
    if (principal === undefined || mask === undefined) return undefined
    // Allowed, by an entry of whatever kind.
    const isAllowing = ["A", "OA", "XA", "ZA"].includes(type)
    const isInheritOnly = /^(?:..)*?IO/.test(inheritance)
    if (isAllowing) entries.push({ principal, mask, isInheritOnly })
  }
  return { owner, entries }
}

// How deep in brackets each character stands; those of a quoted text do not count.
const depths = (text: string): ReadonlyArray<number> => {
  let depth = 0
  let isQuoted = false
  return [...text].map((character) => {
    if (character === '"') isQuoted = !isQuoted
    if (character === "(" && !isQuoted) depth++
    return character === ")" && !isQuoted ? depth-- : depth
  })
}

// Where a part begins, outside of all brackets.
const partAt = (sddl: string, name: string): number =>
  depths(sddl).findIndex((depth, at) => depth === 0 && sddl.startsWith(name, at))

// What stands in the brackets that follow each other, without those.
const groupsOf = (text: string): ReadonlyArray<string> => {
  const depth = depths(text)
  const end = depth.indexOf(0)
  const inside = text.slice(0, end < 0 ? text.length : end)
  const groups: Array<string> = []
  let from = 0
  for (let at = 0; at < inside.length; at++) {
    if (inside[at] !== ")" || depth[at] !== 1) continue
    groups.push(inside.slice(from + 1, at))
    from = at + 1
  }
  return groups
}

const maskOf = (rights: string): number | undefined => {
  if (/^(0x[0-9a-fA-F]+|\d+)$/.test(rights)) return Number(rights) >>> 0
  let mask = 0
  for (const [right] of rights.matchAll(/../g)) {
    const bits = rightsByName[right]
    if (bits === undefined) return undefined
    mask |= bits
  }
  return rights.length % 2 === 0 ? mask >>> 0 : undefined
}

// sddl.h, and winnt.h for what they mean for a file.
const rightsByName: { readonly [name: string]: number } = {
  GA: 0x10000000,
  GX: 0x20000000,
  GW: 0x40000000,
  GR: 0x80000000,
  RC: 0x20000,
  SD: 0x10000,
  WD: 0x40000,
  WO: 0x80000,
  CC: 0x1,
  DC: 0x2,
  LC: 0x4,
  SW: 0x8,
  RP: 0x10,
  WP: 0x20,
  DT: 0x40,
  LO: 0x80,
  CR: 0x100,
  FA: 0x1f01ff,
  FR: 0x120089,
  FW: 0x120116,
  FX: 0x1200a0
}

// To go through a directory, to see its attributes and its list, and to wait for it.
const harmless = 0x20 | 0x80 | 0x8 | 0x20000 | 0x100000
// To delete what is in a directory or itself, to change its list or its owner, and everything.
const replacing = 0x40 | 0x10000 | 0x40000 | 0x80000 | 0x10000000

// The system, administrators (of the machine, by account, of the domain, of the forest), the owner's own rights, and who
// will make a file. Entries for packages only narrow what their user may do.
const isTrusted = (principal: string): boolean =>
  /^(SY|BA|LA|DA|EA|OW|CO|AC|S-1-5-18|S-1-5-32-544|S-1-3-[04]|S-1-5-21-\d+-\d+-\d+-(500|512|519)|S-1-15-[23]-[\d-]+)$/.test(
    principal
  )

// Windows' own installer, which owns the directories of the system.
const installer = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"

/** What is wrong with a list, in words: of the instance's own directory, or of one above it. */
export const flawOf = (
  { entries, owner }: Descriptor,
  user: string,
  kind: "own" | "parent" | "root"
): string | undefined => {
  const isOurs = (principal: string) => principal === user || isTrusted(principal)
  if (!isOurs(owner) && !(kind !== "own" && owner === installer)) return `it belongs to ${owner}`
  if (entries === undefined) return "it has no access control list, which lets everybody in"
  for (const { isInheritOnly, mask, principal } of entries) {
    // What is made in our own directory gets these rights, and who knows its name needs none to the directory.
    if (isInheritOnly && kind !== "own") continue
    if (isOurs(principal) || (kind !== "own" && principal === installer)) continue
    // A volume itself cannot be deleted.
    const given = kind === "own" ? mask & ~harmless : mask & (kind === "root" ? replacing & ~0x10000 : replacing)
    if (given !== 0) return `its access control list allows ${principal} 0x${(given >>> 0).toString(16)}`
  }
  return undefined
}

/**
 * What is wrong with the lists of a directory and of those above it: one lets somebody besides the user, administrators and
 * the system use the directory, or replace it. A new directory that inherited such rights is given a list of its own.
 * Starts a program, unless the directory was found in order before, so a launch that only hands over does not ask. Where the
 * lists cannot be read, the user's own profile is believed to be in order.
 */
export const verify = (directory: string): Effect.Effect<Flaw | undefined> =>
  Effect.gen(function* () {
    const own = path.resolve(directory)
    const mark = markOf(own)
    if (mark !== undefined && fs.existsSync(mark)) return undefined
    let flaw = yield* look(own)
    if (flaw?.path === own && flaw.isTooOpen && isEmpty(own)) {
      yield* protect(own, flaw.user)
      flaw = yield* look(own)
    }
    if (flaw === undefined && mark !== undefined) remember(mark)
    return flaw && { reason: flaw.reason, path: flaw.path, detail: flaw.detail, passing: false }
  })

interface Finding extends Omit<Flaw, "passing"> {
  readonly isTooOpen?: boolean
  readonly user: string
}

const look = (own: string): Effect.Effect<Finding | undefined> =>
  Effect.suspend(() => {
    const names = [own, ...above(own)]
    return Effect.map(systemProgram.ask(powerShell(), ...command(names)), (output = "") => judge(names, output))
  })

const judge = (names: ReadonlyArray<string>, output: string): Finding | undefined => {
  const [own = ""] = names
  const [user = "", ...lines] = output.trim().split(/\r?\n/)
  const insecure = (name: string, detail: string, isTooOpen = false): Finding => ({
    reason: "DirectoryInsecure",
    path: name,
    detail: `${detail}; give access to the user, administrators and the system alone, or vouch for it with \`trustDirectory\``,
    isTooOpen,
    user
  })
  const descriptors = lines.map(parse)
  if (!/^S-1-[0-9-]+$/.test(user) || descriptors.length !== names.length || descriptors.includes(undefined)) {
    return isInProfile(own) ? undefined : insecure(own, "its access control list cannot be read")
  }
  for (const [index, name] of names.entries()) {
    const descriptor = descriptors[index]!
    const kind = index === 0 ? "own" : path.dirname(name) === name ? "root" : "parent"
    const flaw = flawOf(descriptor, user, kind)
    // Of what is ours the list can be mended.
    const isTooOpen = flaw !== undefined && flawOf({ ...descriptor, entries: [] }, user, kind) === undefined
    if (flaw !== undefined) return insecure(name, flaw, isTooOpen)
  }
  return undefined
}

const above = (own: string): ReadonlyArray<string> => {
  try {
    return wayTo(own).filter((name) => name !== own)
  } catch {
    return ancestors(path.dirname(own))
  }
}

// Absolute paths: Windows would also look in the working directory, and take a program that somebody put there.
const program = (name: string) => `${process.env.SystemRoot ?? "C:\\Windows"}\\System32\\${name}`
const powerShell = () => program("WindowsPowerShell\\v1.0\\powershell.exe")

// Who we are, then the descriptor of each directory, a line each. Encoded, so that no name can be anything but a name.
const command = (names: ReadonlyArray<string>): ReadonlyArray<string> => {
  const script = [
    "$ProgressPreference = 'SilentlyContinue'",
    "[Security.Principal.WindowsIdentity]::GetCurrent().User.Value",
    ...names.map((name) => `try { (Get-Acl -LiteralPath '${name.replaceAll("'", "''")}').Sddl } catch { '?' }`)
  ].join("\n")
  return ["-NoProfile", "-NonInteractive", "-EncodedCommand", Buffer.from(script, "utf16le").toString("base64")]
}

// Inherits nothing any more; what is made in it inherits this.
const protect = (name: string, user: string): Effect.Effect<unknown> =>
  systemProgram.ask(
    program("icacls.exe"),
    name,
    "/inheritance:r",
    "/grant:r",
    ...[user, "S-1-5-18", "S-1-5-32-544"].map((sid) => `*${sid}:(OI)(CI)F`)
  )

const isEmpty = (name: string): boolean => {
  try {
    return fs.readdirSync(name).length === 0
  } catch {
    return false
  }
}

const isInProfile = (name: string): boolean => {
  try {
    const home = users.home()
    return home !== undefined && ancestors(name).includes(home)
  } catch {
    return false
  }
}

// In the user's profile and not in the directory itself, where somebody who should not be in it could leave one. By identity,
// so that another directory in its place is looked at.
const markOf = (own: string): string | undefined => {
  try {
    const { device, inode } = fileIdentity.of(fs.lstatSync(own, { bigint: true }))
    const digest = createHash("sha256").update(`${own.toLowerCase()}\n${device}\n${inode}`).digest("hex").slice(0, 32)
    return path.join(location.defaultDirectory(), "checked", digest)
  } catch {
    return undefined
  }
}

const remember = (mark: string): void => {
  try {
    fs.mkdirSync(path.dirname(mark), { recursive: true })
    fs.writeFileSync(mark, "")
  } catch {
    // It is looked at again.
  }
}
