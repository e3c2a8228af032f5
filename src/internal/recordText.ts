/**
 * The text of a record: the frozen header line and the check over all that follows.
 */
import { createHash } from "node:crypto"

/** The largest record that is read, in bytes. */
export const maxBytes = 65_536

/** The header's fields; what a platform does not tell is `null`. */
export interface Header {
  readonly nonce: string
  readonly epoch: number
  readonly pid: number
  readonly start: string | null
  readonly boot: string | null
  readonly pidNamespace: string | null
  readonly timeNamespace: string | null
  readonly released: boolean
}

/** Why bytes are no record of this version. */
export type Unreadable =
  | { readonly _tag: "Newer"; readonly header: string }
  | { readonly _tag: "Corrupt"; readonly detail: string }

/** What a record says before its document is read. */
export interface Text {
  readonly _tag: "Text"
  readonly header: Header
  readonly body: string
}

const pattern =
  /^ESI1 ([0-9a-f]{32}) (\d{1,16}) (\d{1,10}) (-|[!-,.-~][!-~]{0,127}) (-|[!-,.-~][!-~]{0,127}) (-|[!-,.-~][!-~]{0,127}) (-|[!-,.-~][!-~]{0,127}) ([or]) ([0-9a-f]{32})\n/
const isPid = (pid: number): boolean => pid >= 1 && pid <= 0xffff_ffff
const optional = (field: string): string | null => (field === "-" ? null : field)
const checksum = (line: string, body: string | Uint8Array): string =>
  createHash("sha256").update(line).update("\n").update(body).digest("hex").slice(0, 32)

/** The bytes of a record. */
export const write = (header: Header, body: string): Uint8Array => {
  const { boot, epoch, nonce, pid, pidNamespace, released, start, timeNamespace } = header
  const identity = [start, boot, pidNamespace, timeNamespace].map((field) => field ?? "-")
  const line = ["ESI1", nonce, epoch, pid, ...identity, released ? "r" : "o"].join(" ")
  return Buffer.from(`${line} ${checksum(line, body)}\n${body}`)
}

/** Never throws; anything torn, foreign or changed is `Corrupt`. */
export const read = (bytes: Uint8Array): Text | Unreadable => {
  const corrupt = (detail: string): Unreadable => ({ _tag: "Corrupt", detail })
  if (bytes.length === 0) return corrupt("the file is empty")
  if (bytes.length > maxBytes) return corrupt(`the file has ${bytes.length} bytes, a record has at most ${maxBytes}`)
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8")
  const newer = /^ESI(\d+) /.exec(text)
  if (newer !== null && newer[1] !== "1") {
    return { _tag: "Newer", header: text.slice(0, text.indexOf("\n") >>> 0).slice(0, 256) }
  }
  const match = pattern.exec(text)
  if (match === null) return corrupt("it does not begin with a complete header")
  const [line, nonce, epoch, pid, start, boot, pidNamespace, timeNamespace, flag, check] = match
  if (checksum(line!.slice(0, -34), bytes.subarray(line!.length)) !== check) {
    return corrupt("its check sum does not match")
  }
  if (!Number.isSafeInteger(Number(epoch)) || !isPid(Number(pid))) {
    return corrupt("its header holds numbers out of range")
  }
  return {
    _tag: "Text",
    header: {
      nonce: nonce!,
      epoch: Number(epoch),
      pid: Number(pid),
      start: optional(start!),
      boot: optional(boot!),
      pidNamespace: optional(pidNamespace!),
      timeNamespace: optional(timeNamespace!),
      released: flag === "r"
    },
    body: text.slice(line!.length)
  }
}
