import { createHash } from "node:crypto"
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Either, FastCheck as fc, Schema } from "effect"
import type { WireRange } from "effect-single-instance/Endpoint"
import * as Message from "effect-single-instance/Message"

/** Any string of the language, lone surrogates included. */
const text = fc.oneof(
  fc.string({ unit: "grapheme" }),
  fc.array(fc.integer({ min: 0, max: 0xffff })).map((units) => String.fromCharCode(...units)),
  fc.constantFrom(
    "",
    "\0",
    "a\0 b",
    " leading",
    "trailing ",
    "a\nb\r\n",
    "a|b",
    "👩‍👩‍👧",
    "\ud800",
    "\udc00x",
    "é",
    "\\u0000",
    '"'
  )
)

/** Any JSON value that is its own image (-0 is not). */
const json = fc.jsonValue().map((value) => JSON.parse(JSON.stringify(value)) as unknown)

/** A variable called "__proto__" is lost in the object that holds them. */
const environment = fc.dictionary(
  text.filter((name) => name !== "__proto__"),
  text
)

/** Whether it can be written at all. */
const isWritable = (value: unknown): boolean => {
  try {
    JSON.stringify(value)
    return true
  } catch {
    return false
  }
}

const bytes = (value: string | Uint8Array): Uint8Array => Buffer.from(value as string)

const decoded = (frame: Uint8Array): Message.Message | Message.Unrecognised =>
  Either.getOrElse(Message.decode(frame), (detail) => assert.fail(detail))

const transcript: Message.Transcript = {
  recordNonce: "00112233445566778899aabbccddeeff",
  clientNonce: "a".repeat(32),
  serverNonce: "b".repeat(32),
  clientWire: [1, 1],
  serverWire: [1, 3],
  address: "unix:s.bär"
}
const key = "0123456789abcdef".repeat(4)

/** RFC 2104 and SHA-256, without node's HMAC. */
const hmac = (key: Buffer, message: Buffer): string => {
  const pad = (byte: number) => Buffer.from(Buffer.concat([key, Buffer.alloc(64 - key.length)]).map((b) => b ^ byte))
  const inner = createHash("sha256").update(pad(0x36)).update(message).digest()
  return createHash("sha256").update(pad(0x5c)).update(inner).digest("hex")
}

const lengthPrefixed = (parts: ReadonlyArray<string>): Buffer =>
  Buffer.concat(
    parts.flatMap((part) => {
      const content = Buffer.from(part, "utf8")
      return [Buffer.of(0, 0, content.length >> 8, content.length & 0xff), content]
    })
  )

describe("Message", () => {
  it.prop(
    "decodes what it encodes, whatever the message",
    [Arbitrary.make(Message.Message)],
    ([message]) => {
      // An exit is a document; "undefined" is none.
      fc.pre(message._tag !== "Exit" || JSON.stringify(message.exit) !== undefined)
      assert.deepStrictEqual(decoded(Message.encode(message)), JSON.parse(JSON.stringify(message)))
    },
    { fastCheck: { numRuns: 500 } }
  )

  // Their envelope is written by hand.
  it.prop(
    "writes requests and exits as JSON.stringify does",
    [
      fc.constantFrom("Request", "Exit"),
      text.filter((id) => id.length > 0 && id.length <= 128),
      fc.oneof(
        json,
        fc.anything({ withDate: true, withSparseArray: true, withUndefined: true } as object).filter(isWritable)
      ),
      fc.option(fc.double(), { nil: undefined })
    ],
    ([_tag, id, value, deadline]) => {
      const message: Message.Message =
        _tag === "Exit"
          ? { _tag, id, exit: value }
          : { _tag: "Request", id, payload: value, ...(deadline === undefined ? undefined : { deadline }) }
      assert.deepStrictEqual(
        JSON.parse(Buffer.from(Message.encode(message)).toString()),
        JSON.parse(JSON.stringify(message))
      )
    },
    { fastCheck: { numRuns: 500 } }
  )

  it.prop(
    "keeps argv, cwd, environment, data and stdin as they were",
    [fc.array(text), text, environment, json, fc.uint8Array(), json],
    ([argv, cwd, env, data, stdin, payload]) => {
      const launch = new Message.Launch({ argv, cwd, env, data, stdin })
      const frame = Message.encode({
        _tag: "Request",
        id: "1",
        payload,
        launch: Schema.encodeSync(Message.Launch)(launch)
      })
      const request = decoded(frame)
      assert(request._tag === "Request" && request.launch !== undefined)
      const received = Schema.decodeSync(Message.Launch)(request.launch)
      assert.deepStrictEqual([...received.argv], argv)
      assert.strictEqual(received.cwd, cwd)
      assert.deepStrictEqual(Object.entries(received.env), Object.entries(env))
      assert.deepStrictEqual(received.data, data)
      assert.deepStrictEqual(Buffer.from(received.stdin!), Buffer.from(stdin))
      assert.deepStrictEqual(request.payload, payload)
    },
    { fastCheck: { numRuns: 1_000 } }
  )

  it("reads a frame that lies within a larger buffer", () => {
    const frame = Message.encode({ _tag: "Ping" })
    const around = Buffer.concat([Buffer.from("xx"), frame, Buffer.from("yy")])
    assert.deepStrictEqual(decoded(around.subarray(2, 2 + frame.length)), { _tag: "Ping" })
  })

  it.prop(
    "takes the messages that its schemas take, and no others",
    [
      fc.constantFrom<Schema.Schema<any>>(Message.Request, Message.Exit),
      fc.record(
        {
          id: fc.oneof(text, fc.constantFrom("a", "x".repeat(128), "x".repeat(129), null, 1)),
          exit: json,
          payload: json,
          launch: fc.constantFrom(null, {}, { argv: [], cwd: "/", env: {} }),
          trace: fc.constantFrom(null, {}, { traceId: "1", spanId: "2", sampled: true }),
          deadline: fc.oneof(fc.double(), fc.constantFrom("1", null)),
          detached: fc.constantFrom(true, false, null, 1),
          repeatable: fc.constantFrom(true, false, null, 1),
          redelivered: fc.constantFrom(true, false, null, 1)
        },
        { requiredKeys: [] }
      )
    ],
    ([schema, fields]) => {
      const written = JSON.stringify({ _tag: schema === Message.Exit ? "Exit" : "Request", ...fields })
      assert.strictEqual(
        Either.isRight(Message.decode(bytes(written))),
        Schema.is(schema)(JSON.parse(written)),
        written
      )
    },
    { fastCheck: { numRuns: 1_000 } }
  )

  it.prop(
    "never throws, whatever the bytes",
    [
      fc.oneof(
        fc.uint8Array(),
        text.map(bytes),
        fc.json().map(bytes),
        fc.anything().map((value) => bytes(`${JSON.stringify(value)}`))
      )
    ],
    ([frame]) => {
      const answer = Message.decode(frame)
      if (Either.isLeft(answer)) assert.match(answer.left, /^the frame|^the \w+ message/)
    },
    { fastCheck: { numRuns: 5_000 } }
  )

  it.prop(
    "never throws, and takes no tag for another, where fields are missing or of another kind",
    [
      Arbitrary.make(Message.Message),
      fc.dictionary(fc.constantFrom("id", "mac", "nonce", "wire", "exit", "state", "launch", "maxInFlight"), json)
    ],
    ([message, fields]) => {
      const answer = Message.decode(bytes(JSON.stringify({ ...message, ...fields })))
      if (Either.isRight(answer)) assert.strictEqual(answer.right._tag, message._tag)
    },
    { fastCheck: { numRuns: 500 } }
  )

  it("says what is wrong with a frame", () => {
    const said = (frame: string | Uint8Array) => Either.flip(Message.decode(bytes(frame))).pipe(Either.getOrThrow)
    assert.strictEqual(said(Buffer.of(0x7b, 0xff, 0x7d)), "the frame is not UTF-8")
    assert.strictEqual(said("{"), "the frame is no JSON document")
    assert.strictEqual(said(""), "the frame is no JSON document")
    for (const value of ["null", "1", '"Ping"', "[]", "{}", '{"_tag":1}']) {
      assert.strictEqual(said(value), "the frame holds no tagged message")
    }
    assert.strictEqual(said('{"_tag":"Exit"}'), "the Exit message lacks what it must have")
  })

  it("refuses an id that is empty, too long or no string", () => {
    for (const id of ["", "x".repeat(129), 1, null]) {
      assert.isTrue(Either.isLeft(Message.decode(bytes(JSON.stringify({ _tag: "Interrupt", id })))), JSON.stringify(id))
    }
    assert.isTrue(Either.isRight(Message.decode(bytes(JSON.stringify({ _tag: "Interrupt", id: "x".repeat(128) })))))
  })

  it("refuses a greeting under which nothing could ever be sent", () => {
    const welcome = { _tag: "Welcome", wire: 1, range: [1, 1], nonce: "0".repeat(32), mac: "0".repeat(64), pid: 1 }
    const whole = { ...welcome, version: null, epoch: 1, maxInFlight: 1, maxFrameBytes: 1024 }
    assert.isTrue(Either.isRight(Message.decode(bytes(JSON.stringify(whole)))))
    for (const change of [{ maxInFlight: 0 }, { maxInFlight: -1 }, { maxFrameBytes: 0 }, { maxInFlight: 0.5 }]) {
      assert.isTrue(Either.isLeft(Message.decode(bytes(JSON.stringify({ ...whole, ...change })))))
    }
  })

  it("ignores the fields of later versions", () => {
    assert.strictEqual(decoded(bytes('{"_tag":"Ping","later":[1]}'))._tag, "Ping")
  })

  it.prop(
    "recognises neither later tags nor those of the language itself",
    [fc.oneof(text, fc.constantFrom("toString", "__proto__", "constructor", "hasOwnProperty", "ping")), json],
    ([tag, id]) => {
      fc.pre(!knownTags.has(tag))
      const message = decoded(bytes(JSON.stringify({ _tag: tag, id })))
      assert(message._tag === "Unrecognised")
      assert.strictEqual(message.tag, tag.slice(0, 64))
      const isId = typeof id === "string" && id.length > 0 && id.length <= 128
      assert.strictEqual(message.id, isId ? id : undefined)
      // What we answer is a message again.
      const answer: Message.Message = {
        _tag: "Unsupported",
        tag: message.tag,
        ...(message.id === undefined ? undefined : { id: message.id })
      }
      assert.deepStrictEqual(decoded(Message.encode(answer)), answer)
    }
  )

  it("throws for what JSON cannot say, as documented", () => {
    assert.throws(() => Message.encode({ _tag: "Request", id: "1", payload: 1n }))
    const circular: Array<unknown> = []
    circular.push(circular)
    assert.throws(() => Message.encode({ _tag: "Request", id: "1", payload: circular }))
  })
})

describe("Message.mac", () => {
  it("is HMAC-SHA-256 over the role and the transcript, each with its length", () => {
    // Computed with Python's hmac and struct.
    assert.strictEqual(
      Message.mac(key, "server", transcript),
      "7e4b5f18fc7c2d82f5ae51da92dcbe5032b51528fc8a810e93264a9288eb09f7"
    )
    assert.strictEqual(
      Message.mac(key, "client", transcript),
      "f4988871bf612d98a18011c83e37cd3029865c15cebe66a7d8d982b1f71b8c10"
    )
  })

  const nonce = Arbitrary.make(Schema.String.pipe(Schema.pattern(/^[0-9a-f]{32}$/)))
  const range = fc.tuple(fc.nat(99), fc.nat(99)).map(([a, b]): WireRange => [a, b])
  const transcripts = fc.record({
    recordNonce: nonce,
    clientNonce: nonce,
    serverNonce: nonce,
    clientWire: range,
    serverWire: range,
    address: fc.string({ unit: "grapheme", minLength: 1, maxLength: 100 })
  })

  it.prop("is what RFC 2104 says", [fc.uint8Array({ minLength: 32, maxLength: 32 }), transcripts], ([key, given]) => {
    const secret = Buffer.from(key)
    for (const role of ["server", "client"] as const) {
      const { address, clientNonce, clientWire, recordNonce, serverNonce, serverWire } = given
      const parts = [
        role,
        recordNonce,
        clientNonce,
        serverNonce,
        `${clientWire[0]},${clientWire[1]}`,
        `${serverWire[0]},${serverWire[1]}`,
        address
      ]
      assert.strictEqual(Message.mac(secret.toString("hex"), role, given), hmac(secret, lengthPrefixed(parts)))
    }
  })

  it("differs with each part of the transcript, the role and the key", () => {
    const variants: ReadonlyArray<Message.Transcript> = [
      transcript,
      { ...transcript, recordNonce: "10112233445566778899aabbccddeeff" },
      { ...transcript, clientNonce: "c".repeat(32) },
      { ...transcript, serverNonce: "c".repeat(32) },
      { ...transcript, clientNonce: transcript.serverNonce, serverNonce: transcript.clientNonce },
      { ...transcript, clientWire: [1, 3] },
      { ...transcript, clientWire: [1, 3], serverWire: [1, 1] },
      { ...transcript, serverWire: [0, 3] },
      { ...transcript, address: "unix:s.other" },
      // Without lengths these two would read the same.
      { ...transcript, serverWire: [1, 33], address: "x" },
      { ...transcript, serverWire: [1, 3], address: "3x" }
    ]
    const macs = variants.flatMap((variant) => [
      Message.mac(key, "server", variant),
      Message.mac(key, "client", variant),
      Message.mac(key.replace("0", "1"), "server", variant)
    ])
    assert.strictEqual(new Set(macs).size, macs.length)
    for (const mac of macs) assert.match(mac, /^[0-9a-f]{64}$/)
  })

  it.prop("is compared as a whole", [fc.stringMatching(/^[0-9a-f]{64}$/), fc.nat(63), text], ([mac, at, other]) => {
    assert.isTrue(Message.isSameMac(mac, `${mac}`))
    const flipped = mac[at] === "0" ? "1" : "0"
    assert.isFalse(Message.isSameMac(mac, mac.slice(0, at) + flipped + mac.slice(at + 1)))
    assert.isFalse(Message.isSameMac(mac, mac.slice(1)))
    assert.isFalse(Message.isSameMac(mac, ""))
    assert.strictEqual(Message.isSameMac(mac, other), mac === other)
  })
})

const knownTags = new Set([
  "Hello",
  "Welcome",
  "Proof",
  "Refused",
  "Request",
  "Accepted",
  "Starting",
  "Output",
  "Exit",
  "Interrupt",
  "Status",
  "State",
  "Ping",
  "Pong",
  "Inspect",
  "Inspected",
  "Unsupported"
])
