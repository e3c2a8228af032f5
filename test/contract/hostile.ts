/**
 * What no honest peer sends, by name: in the encoding of the conversation where it is a message, byte for byte where it
 * is none.
 */
import type { Message } from "effect-single-instance"
import { Packr } from "msgpackr"

// Without the limits of our own encoder: any value goes.
const packr = new Packr({ useRecords: false, mapsAsObjects: true, variableMapSize: true })

export const pack = (value: unknown, encoding: Message.Encoding): Uint8Array =>
  encoding === "json" ? Buffer.from(JSON.stringify(value)) : packr.pack(value)

const text = (content: string): Uint8Array => Buffer.from(content)
const nested = (open: string, close: string) => open.repeat(100_000) + close.repeat(100_000)
const announced = (head: ReadonlyArray<number>, times = 1) =>
  Buffer.concat(Array.from({ length: times }, () => Buffer.from(head)))

/** Frames that hold no message. Whoever hears one ends the connection. */
export const noMessages: Record<string, Uint8Array> = {
  "an empty frame": text(""),
  "one NUL": text("\0"),
  "a page of NULs": Buffer.alloc(4_096),
  "bytes 0 to 255": Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)),
  "bytes 255 to 0": Buffer.from(Array.from({ length: 256 }, (_, byte) => 255 - byte)),
  "a request of another protocol": text("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
  "truncated JSON": text('{"_tag":"Request","id":"a","payl'),
  "two JSON documents": text('{"_tag":"Ping"}{"_tag":"Ping"}'),
  "JSON behind a byte order mark": text('\ufeff{"_tag":"Ping"}'),
  "invalid UTF-8 within a text": Buffer.concat([text('{"_tag":"Ping","x":"'), Buffer.of(0xc3, 0x28), text('"}')]),
  "UTF-8 cut within a character": Buffer.from('{"_tag":"Ping","x":"🙂').subarray(0, -2),
  "a number": text("42"),
  "a number that is none": text("NaN"),
  "a text": text('"Request"'),
  null: text("null"),
  "an array": text('[{"_tag":"Ping"}]'),
  "an object without a tag": text('{"id":"a"}'),
  "a tag that is no text": text('{"_tag":{"toString":"Ping"}}'),
  "100,000 brackets": text(nested("[", "]")),
  "100,000 brackets, never closed": text("[".repeat(100_000)),
  "100,000 objects": text(nested('{"_tag":', "}").replace("}", "0}")),
  "truncated MessagePack": packr.pack({ _tag: "Request", id: "a", payload: "b" }).subarray(0, -1),
  "two MessagePack documents": Buffer.concat([packr.pack({ _tag: "Ping" }), packr.pack({ _tag: "Ping" })]),
  "an array of 4,294,967,295 items, of which there is none": announced([0xdd, 0xff, 0xff, 0xff, 0xff]),
  "10,000 arrays of 30,000,000 items, each within the other": announced([0xdd, 0x01, 0xc9, 0xc3, 0x80], 10_000),
  "a map of 4,294,967,295 entries, of which there is none": announced([0xdf, 0xff, 0xff, 0xff, 0xff]),
  "a text of 4,294,967,295 bytes, of which there is none": announced([0xdb, 0xff, 0xff, 0xff, 0xff]),
  "50,000 arrays in MessagePack": Buffer.concat([announced([0x91], 50_000), Buffer.of(0)]),
  "a record structure of MessagePack": Buffer.of(0x81, 0xa1, 0x61, 0xd4, 0x72, 0x40, 0x91, 0xa1, 0x78, 0x01),
  "an extension type of MessagePack": Buffer.of(0x81, 0xa1, 0x61, 0xd6, 0xff, 0, 0, 0, 0),
  "the code that MessagePack never uses": Buffer.of(0xc1)
}

/** Every message that there is, as somebody might say it at the wrong time or to the wrong side. */
export const samples = (id: string): Record<Message.Message["_tag"], Record<string, unknown>> => {
  const nonce = "0".repeat(32)
  const mac = "0".repeat(64)
  const launch = { argv: ["a"], cwd: "/", env: { A: "b" }, data: 1, stdin: "YQ==" }
  return {
    Hello: { wire: [1, 1], id, nonce, encoding: "json", client: { pid: 1, version: null }, primary: nonce },
    Welcome: {
      ...{ wire: 1, range: [1, 1], nonce, mac, pid: 1, version: null, epoch: 1 },
      ...{ maxInFlight: 1, maxFrameBytes: 1_000, encoding: "json" }
    },
    Proof: { mac, pid: 1, version: null, maxFrameBytes: 1_000 },
    Refused: { reason: "Busy", detail: "no", id },
    Request: {
      ...{ id, payload: "a", launch, trace: { traceId: "1", spanId: "2", sampled: true }, deadline: 1e15 },
      ...{ detached: false, repeatable: false, redelivered: false }
    },
    Accepted: { id },
    Starting: { id },
    Output: { id, stream: "stdout", chunk: "YQ==" },
    Exit: { id, exit: { _tag: "Success", value: "a" } },
    Interrupt: { id },
    Status: { id, strike: false },
    State: { id, state: "done", exit: { _tag: "Success", value: "a" } },
    Ping: {},
    Pong: {},
    Inspect: { id },
    Inspected: { id, connections: 1, inFlight: 1, handled: 1, serving: true },
    Listen: { id },
    Listening: { id },
    Broadcast: { payload: "a", missed: 0 },
    Unsupported: { tag: "Request", id }
  }
}

/** What no field of a message may be, whatever its kind, except where anything goes. */
const wrong: ReadonlyArray<unknown> = [null, -1, 1.5, 1e308, "", "x".repeat(200), true, [], {}, [[0]]]

// Fields that hold what the application says, or what is not looked into.
const open = new Set(["payload", "exit"])

/** Each message with each of its fields in turn as it should not be. */
export const wrongFields = (id: string): ReadonlyArray<{ readonly name: string; readonly message: object }> =>
  Object.entries(samples(id)).flatMap(([_tag, fields]) =>
    Object.keys(fields).flatMap((field) =>
      open.has(field)
        ? []
        : wrong.map((value) => ({
            name: `${_tag} with ${field} ${JSON.stringify(value).slice(0, 20)}`,
            message: { _tag, ...fields, [field]: value }
          }))
    )
  )

/** Below the frames: what a stranger writes into a socket. */
export const noFrames: Record<string, Uint8Array> = {
  "a frame of 4 GiB, announced": Buffer.of(0xff, 0xff, 0xff, 0xff),
  "one byte more than a stranger may, announced": Buffer.of(0, 1, 0, 1, 0x7b),
  "a request of another protocol": text("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
  "half a header": Buffer.of(0, 0),
  "half a frame": Buffer.concat([Buffer.of(0, 0, 0, 100), text('{"_tag":"Hello"')]),
  "a thousand empty frames": Buffer.alloc(4_000)
}
