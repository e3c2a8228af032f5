import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { deepStrictEqual } from "@effect/vitest/utils"
import * as Arbitrary from "effect/Arbitrary"
import * as Either from "effect/Either"
import * as FastCheck from "effect/FastCheck"
import { Endpoint } from "effect-single-instance/Endpoint"
import {
  decode,
  encode,
  InstanceRecord,
  maxBytes,
  ProcessIdentity,
  type Unreadable,
  Witness
} from "effect-single-instance/InstanceRecord"

const text = FastCheck.oneof(
  FastCheck.string({ unit: "grapheme" }),
  FastCheck.array(FastCheck.integer({ min: 0, max: 0xffff })).map((units) => String.fromCharCode(...units))
)

const record = FastCheck.record({
  record: Arbitrary.make(InstanceRecord),
  host: text,
  version: FastCheck.option(text),
  argv0: text,
  machine: FastCheck.option(text)
}).map(
  ({ machine, record, ...rest }) =>
    new InstanceRecord({ ...record, ...rest, process: new ProcessIdentity({ ...record.process, machine }) })
)

const nonce = "00112233445566778899aabbccddeeff"
const pinned = new InstanceRecord({
  nonce,
  epoch: 1767225600000,
  released: false,
  process: new ProcessIdentity({
    pid: 4711,
    start: "8675309",
    boot: "3f2e1d0c-0000-4000-8000-123456789abc",
    pidNamespace: "pid:[4026531836]",
    timeNamespace: "time:[4026531834]",
    machine: "0123456789abcdef0123456789abcdef"
  }),
  host: "bär.local",
  uid: 1000,
  version: "1.2.3-β",
  argv0: '/opt/my app/"editor"\n',
  startedAt: 1767225600123,
  sequence: 2,
  witness: new Witness({ name: `w.${nonce}`, device: "65025", inode: "18446744073709551615" }),
  key: "a5".repeat(32),
  endpoints: [
    new Endpoint({ protocol: "unix", address: `unix:s.${nonce}`, wire: [1, 1] }),
    new Endpoint({ protocol: "tcp", address: "tcp://127.0.0.1:4711", wire: [1, 3] })
  ]
})
const released = new InstanceRecord({
  nonce: "ffeeddccbbaa99887766554433221100",
  epoch: 0,
  released: true,
  process: new ProcessIdentity({
    pid: 4294967295,
    start: null,
    boot: null,
    pidNamespace: null,
    timeNamespace: null,
    machine: null
  }),
  host: "",
  uid: null,
  version: null,
  argv0: "",
  startedAt: 0,
  sequence: 0,
  witness: null,
  key: "",
  endpoints: []
})

const onDisk = (name: string): Buffer => readFileSync(new URL(`fixtures-data/${name}`, import.meta.url))

/** A record made by hand, with a right check sum. */
const forge = (header: string, body: string): Buffer => {
  const check = createHash("sha256").update(`${header}\n${body}`).digest("hex").slice(0, 32)
  return Buffer.from(`${header} ${check}\n${body}`)
}
const pinnedHeader = onDisk("record-v1.txt").toString().split("\n")[0]!.slice(0, -33)
const pinnedBody = JSON.parse(onDisk("record-v1.txt").toString().split("\n")[1]!)

const rejected = (bytes: Uint8Array): Unreadable => {
  const decoded = decode(bytes)
  if (Either.isRight(decoded)) return assert.fail(`accepted ${JSON.stringify(Buffer.from(bytes).toString("latin1"))}`)
  return decoded.left
}
const corrupt = (bytes: Uint8Array): string => {
  const left = rejected(bytes)
  return left._tag === "Corrupt" ? left.detail : assert.fail(left._tag)
}
const flip = (bytes: Uint8Array, bit: number): Uint8Array => {
  const copy = Uint8Array.from(bytes)
  copy[bit >> 3]! ^= 1 << (bit & 7)
  return copy
}

describe("InstanceRecord", () => {
  it.prop(
    "decodes what it encodes",
    [record],
    ([one]) => {
      deepStrictEqual(decode(encode(one)), Either.right(one))
    },
    { fastCheck: { numRuns: 500 } }
  )

  it("reads the records of 0.1.0 for ever", () => {
    deepStrictEqual(decode(onDisk("record-v1.txt")), Either.right(pinned))
    deepStrictEqual(decode(onDisk("record-v1-released.txt")), Either.right(released))
  })

  it("writes the frozen header", () => {
    const lines = Buffer.from(encode(pinned)).toString().split("\n")
    assert.strictEqual(lines.length, 2)
    assert.strictEqual(lines[0]!.slice(0, -33), pinnedHeader)
    deepStrictEqual(JSON.parse(lines[1]!), pinnedBody)
    assert.match(
      Buffer.from(encode(released)).toString(),
      /^ESI1 ffeeddccbbaa99887766554433221100 0 4294967295 - - - - r /
    )
    deepStrictEqual(Buffer.from(encode(pinned)), forge(pinnedHeader, lines[1]!))
  })

  it("reads a part of a larger buffer", () => {
    const bytes = encode(pinned)
    const padded = Buffer.concat([Buffer.alloc(7, "x"), bytes, Buffer.alloc(9, "y")])
    deepStrictEqual(decode(padded.subarray(7, 7 + bytes.length)), Either.right(pinned))
  })

  it("rejects every strict prefix", () => {
    for (const bytes of [encode(pinned), encode(released)]) {
      for (let length = 0; length < bytes.length; length++) corrupt(bytes.subarray(0, length))
    }
  })

  it("rejects every single flipped bit", () => {
    for (const bytes of [encode(pinned), encode(released)]) {
      for (let bit = 0; bit < bytes.length * 8; bit++) rejected(flip(bytes, bit))
    }
  })

  it.prop(
    "rejects a flipped bit, a prefix and a tail of any record",
    [record, FastCheck.nat(), FastCheck.uint8Array({ minLength: 1 })],
    ([one, at, tail]) => {
      const bytes = encode(one)
      rejected(flip(bytes, at % (bytes.length * 8)))
      corrupt(bytes.subarray(0, at % bytes.length))
      corrupt(Buffer.concat([bytes, tail]))
      // A crash can leave blocks of zeros where data should be.
      corrupt(Buffer.concat([bytes.subarray(0, at % bytes.length), Buffer.alloc(bytes.length - (at % bytes.length))]))
    },
    { fastCheck: { numRuns: 1_000 } }
  )

  it.prop("rejects the header of one record before the body of another", [record, record], ([one, other]) => {
    FastCheck.pre(one.nonce !== other.nonce)
    const [head, body] = [one, other].map((each) => Buffer.from(encode(each)).toString().split("\n")) as [
      Array<string>,
      Array<string>
    ]
    FastCheck.pre(head[1] !== body[1])
    corrupt(Buffer.from(`${head[0]}\n${body[1]}`))
  })

  const beginning = FastCheck.constantFrom(
    "",
    "ESI1",
    "ESI1 ",
    `ESI1 ${nonce} 1 1 `,
    `${pinnedHeader} `,
    `${pinnedHeader} ${nonce}\n{}`
  )
  it.prop(
    "rejects random bytes",
    [beginning, FastCheck.uint8Array({ maxLength: 500 })],
    ([start, bytes]) => {
      rejected(Buffer.concat([Buffer.from(start), bytes]))
    },
    { fastCheck: { numRuns: 1_000 } }
  )

  it("takes another number in the header for a newer version", () => {
    for (const first of ["ESI2", "ESI12", "ESI0", "ESI999999999999999999999"]) {
      const header = `${first} whatever comes then`
      deepStrictEqual(decode(Buffer.from(`${header}\nanything`)), Either.left({ _tag: "Newer", header }))
      deepStrictEqual(decode(Buffer.from(header)), Either.left({ _tag: "Newer", header }))
    }
    const long = rejected(Buffer.from(`ESI2 ${"x".repeat(10_000)}`))
    assert.isTrue(long._tag === "Newer" && long.header.length <= 256)
    for (const start of ["ESI", "ESI2", "ESIx ", "ESI-2 ", " ESI2 ", "esi2 ", "ESI1", "ESI1 "])
      corrupt(Buffer.from(start))
  })

  it("ignores the fields of later versions", () => {
    const body = {
      future: { deep: [1] },
      ...pinnedBody,
      witness: { ...pinnedBody.witness, kind: "socket" },
      endpoints: pinnedBody.endpoints.map((endpoint: object) => ({ ...endpoint, compressed: true })),
      nonce: "not the header's"
    }
    deepStrictEqual(decode(forge(pinnedHeader, JSON.stringify(body))), Either.right(pinned))
    deepStrictEqual(decode(forge(pinnedHeader, `\n${JSON.stringify(body, null, 2)}\n`)), Either.right(pinned))
  })

  it("has a largest size", () => {
    const sized = (bytes: number) => {
      const empty = forge(pinnedHeader, JSON.stringify({ ...pinnedBody, padding: "" }))
      return forge(pinnedHeader, JSON.stringify({ ...pinnedBody, padding: "x".repeat(bytes - empty.length) }))
    }
    assert.strictEqual(maxBytes, 65_536)
    deepStrictEqual(decode(sized(maxBytes)), Either.right(pinned))
    assert.include(corrupt(sized(maxBytes + 1)), "65537")
    assert.include(corrupt(sized(100 * 1024)), "102400")
    assert.include(corrupt(Buffer.alloc(100 * 1024)), "102400")
  })

  it("rejects values out of range in spite of a right check sum", () => {
    const header = (change: (words: Array<string>) => void) => {
      const words = pinnedHeader.split(" ")
      change(words)
      return corrupt(forge(words.join(" "), JSON.stringify(pinnedBody)))
    }
    header((words) => (words[1] = nonce.toUpperCase()))
    header((words) => (words[2] = "9999999999999999"))
    header((words) => (words[2] = "-1"))
    header((words) => (words[3] = "0"))
    header((words) => (words[3] = "9999999999"))
    header((words) => (words[4] = "x".repeat(129)))
    header((words) => (words[4] = "-1"))
    header((words) => (words[4] = "ä"))
    header((words) => (words[8] = "x"))
    header((words) => words.push("more"))
    header((words) => words.pop())
    const body = (value: unknown) => corrupt(forge(pinnedHeader, JSON.stringify(value)))
    body({ ...pinnedBody, host: 1 })
    body({ ...pinnedBody, key: "a5" })
    body({ ...pinnedBody, startedAt: -1 })
    body({ ...pinnedBody, witness: { ...pinnedBody.witness, name: "../../etc/passwd" } })
    body({ ...pinnedBody, endpoints: [{ protocol: "unix", address: "no uri", wire: [1, 1] }] })
    for (const key of Object.keys(pinnedBody)) body({ ...pinnedBody, [key]: undefined })
    for (const other of [null, [], {}, "", 0, true]) body(other)
    for (const other of ["", "{", "nul", '{"__proto__":1}']) corrupt(forge(pinnedHeader, other))
  })

  it.prop("says in words what is wrong", [FastCheck.uint8Array()], ([bytes]) => {
    assert.match(corrupt(bytes), /^(the file|it does)/)
  })
})
