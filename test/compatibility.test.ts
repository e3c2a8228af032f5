/**
 * Other versions of the package: conversations as an earlier one had them, byte by byte, and as a later one might.
 *
 * `fixtures-data/wire-v1-*.txt` hold whole conversations between two processes: the record, then each frame with the number
 * of its connection, its direction, its length prefix in hexadecimal and its body (JSON as it is, MessagePack in
 * hexadecimal). `wire-v1-first.txt` was recorded with the first version of the package: this file was run there, in a copy
 * of the repository at the first commit. `RECORD=<folder> npx vitest run test/compatibility.test.ts` records with the code as
 * it is, into that folder; what is there already for a version that was published is never replaced.
 */
import crypto, { createHash } from "node:crypto"
import * as fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import * as net from "node:net"
import * as path from "node:path"
import { pathToFileURL } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Deferred, Duration, Effect, Either, Fiber, Layer, Queue, Schema } from "effect"
import { SingleInstance } from "effect-single-instance"
import { Endpoint } from "effect-single-instance/Endpoint"
import { InstanceId } from "effect-single-instance/InstanceId"
import { InstanceLock } from "effect-single-instance/InstanceLock"
import { decode, encode, InstanceRecord, ProcessIdentity } from "effect-single-instance/InstanceRecord"
import * as Message from "effect-single-instance/Message"
import { PidVerifier } from "effect-single-instance/PidVerifier"
import { Protocol } from "effect-single-instance/Protocol"
import * as TestPidVerifier from "effect-single-instance/pid/TestPidVerifier"
import * as UnixSocket from "effect-single-instance/protocol/UnixSocket"
import * as Secondary from "effect-single-instance/Secondary"
import * as SingleInstanceConfig from "effect-single-instance/SingleInstanceConfig"
import { ProtocolError } from "effect-single-instance/SingleInstanceError"
import * as TestSingleInstance from "effect-single-instance/TestSingleInstance"
import { Packr } from "msgpackr"
import { afterAll, beforeAll } from "vitest"
import { failing } from "./contenders.js"
import { member, puppet, temporary } from "./simulation.js"

// Nonces and ids are those of the recording. Changed in the module itself: other files of tests may have loaded before
// what uses it.
const random = { given: [] as Array<string> }
const { randomBytes } = crypto
const setRandomBytes = (to: unknown) => {
  Object.assign(crypto, { randomBytes: to })
  syncBuiltinESMExports()
}
beforeAll(() =>
  setRandomBytes((size: number) => {
    const index = random.given.findIndex((hex) => hex.length === 2 * size)
    return index === -1 ? randomBytes(size) : Buffer.from(random.given.splice(index, 1)[0]!, "hex")
  })
)
afterAll(() => setRandomBytes(randomBytes))

class Refusal extends Schema.TaggedError<Refusal>()("Refusal", { why: Schema.String }) {}

const Told = Schema.Struct({
  request: Schema.String,
  launch: Message.Launch,
  from: Schema.Struct({ pid: Schema.Int, version: Schema.NullOr(Schema.String) })
})

class Wire extends SingleInstance.Tag<Wire>()("com.example.wire", {
  request: Schema.String,
  reply: Told,
  failure: Refusal,
  broadcast: Schema.Struct({ news: Schema.String })
}) {}

// -------------------------------------------------------------------------------------
// recordings
// -------------------------------------------------------------------------------------

interface Frame {
  readonly connection: number
  /** From the secondary, from the primary, or the end of the connection, which nobody wanted. */
  readonly direction: ">" | "<" | "x"
  readonly bytes: Buffer
}

const folder = new URL("fixtures-data/", import.meta.url)

const write = (record: InstanceRecord, frames: ReadonlyArray<Frame>): string => {
  const lines = frames.map(({ bytes, connection, direction }) => {
    const body = bytes.subarray(4)
    const text = body[0] === 0x7b ? body.toString() : body.toString("hex")
    return `${connection} ${direction} ${bytes.subarray(0, 4).toString("hex")} ${text}`.trimEnd()
  })
  return `${Buffer.from(encode(record))}\n${lines.join("\n")}\n`
}

const read = (name: string): { readonly record: InstanceRecord; readonly frames: ReadonlyArray<Frame> } => {
  const [header, body, ...lines] = fs.readFileSync(new URL(name, folder), "utf8").trimEnd().split("\n")
  return {
    record: Either.getOrThrow(decode(Buffer.from(`${header}\n${body}`))),
    frames: lines.map((line) => {
      const [, connection, direction, prefix = "", text = ""] = /^(\d) ([<>x])(?: ([0-9a-f]{8}) (.+))?$/.exec(line)!
      const bytes = Buffer.concat([Buffer.from(prefix, "hex"), Buffer.from(text, text[0] === "{" ? "utf8" : "hex")])
      return { connection: Number(connection), direction: direction as Frame["direction"], bytes }
    })
  }
}

const packr = new Packr({ useRecords: false, mapsAsObjects: true })
const parse = (frame: Buffer): any =>
  frame[4] === 0x7b ? JSON.parse(frame.subarray(4).toString()) : packr.unpack(frame.subarray(4))
const framed = (message: object, like: Buffer): Buffer => {
  const body = like[4] === 0x7b ? Buffer.from(JSON.stringify(message)) : packr.pack(message)
  const prefix = Buffer.alloc(4)
  prefix.writeUInt32BE(body.length)
  return Buffer.concat([prefix, body])
}

/** What is in an encoded cause, each once: a runtime repeats an interruption as often as its program is nested. */
const leaves = (cause: any): ReadonlyArray<unknown> => {
  const all = (cause: any): ReadonlyArray<any> =>
    cause._tag === "Empty" ? [] : "left" in cause ? [...all(cause.left), ...all(cause.right)] : [cause]
  return [...new Map(all(cause).map((leaf) => [JSON.stringify({ ...leaf, fiberId: undefined }), leaf])).values()]
}

/** Whether a version that knows more said the same: it may say more. */
const assertSays = (said: unknown, recorded: unknown, where: string): void => {
  if (typeof recorded !== "object" || recorded === null) {
    assert.strictEqual(said, recorded, where)
    return
  }
  assert(typeof said === "object" && said !== null, where)
  for (const [key, value] of Object.entries(recorded)) {
    // The clock's, the number of a fiber, and how busy it is at the moment.
    if (["deadline", "fiberId", "connections", "inFlight"].includes(key))
      assert.strictEqual(typeof (said as any)[key], typeof value, where)
    else if (key === "cause") assertSays(leaves((said as any)[key]), leaves(value), `${where}.${key}`)
    else assertSays((said as any)[key], value, `${where}.${key}`)
  }
}

// -------------------------------------------------------------------------------------
// the two sides
// -------------------------------------------------------------------------------------

/** Frames that come over a socket, and its end. */
const framesOf = (socket: net.Socket) => {
  const frames = Effect.runSync(Queue.unbounded<Buffer | "end">())
  let rest = Buffer.alloc(0)
  socket.on("data", (chunk) => {
    rest = Buffer.concat([rest, chunk])
    while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE()) {
      const size = 4 + rest.readUInt32BE()
      Queue.unsafeOffer(frames, rest.subarray(0, size))
      rest = rest.subarray(size)
    }
  })
  socket.on("error", () => {})
  socket.once("close", () => Queue.unsafeOffer(frames, "end"))
  return Effect.timeout(Queue.take(frames), "30 seconds").pipe(Effect.orDie)
}

const listening = (file: string) =>
  Effect.gen(function* () {
    const sockets = yield* Queue.unbounded<net.Socket>()
    const server = yield* Effect.acquireRelease(
      Effect.sync(() => net.createServer((socket) => Queue.unsafeOffer(sockets, socket))),
      (server) => Effect.sync(() => server.close())
    )
    yield* Effect.async<void>((resume) => {
      server.listen(file, () => resume(Effect.void))
    })
    return Effect.timeout(Queue.take(sockets), "30 seconds").pipe(
      Effect.orDie,
      Effect.tap((socket) => Effect.addFinalizer(() => Effect.sync(() => socket.destroy())))
    )
  })

const connecting = (file: string) =>
  Effect.acquireRelease(
    Effect.sync(() => net.connect(file)),
    (socket) => Effect.sync(() => socket.destroy())
  )

/** A primary with this record; `see` is to be told the tags of what it says, upon which it does what comes next. */
const leading = (record: InstanceRecord, directory: string) =>
  Effect.gen(function* () {
    const { endpoints: _, ...rest } = record
    const lock = InstanceLock.of({
      inspect: () => Effect.dieMessage("nobody asks"),
      breakLock: () => Effect.dieMessage("nobody asks"),
      contend: ({ listen }) =>
        Effect.map(listen({ nonce: record.nonce, key: record.key, directory }), (endpoints) => ({
          _tag: "Leading",
          record: new InstanceRecord({ ...rest, endpoints }),
          took: "free",
          proof: undefined,
          directory,
          check: Effect.void,
          changed: Effect.never,
          publish: () => Effect.void
        }))
    })
    const table = yield* TestPidVerifier.makeTable
    const layer = Wire.layerWithoutDependencies({ protocol: UnixSocket.layer, fallback: "none" }).pipe(
      Layer.provide(Layer.succeed(InstanceLock, lock)),
      Layer.provide(Layer.succeed(PidVerifier, (yield* table.spawn()).verifier)),
      Layer.provide(SingleInstanceConfig.layer({ version: "1.0", drain: "100 millis" }))
    )
    const gates = new Map<string, Deferred.Deferred<void>>()
    for (const tag of ["Starting", "Pong", "State", "Listening", "stop"]) gates.set(tag, yield* Deferred.make<void>())
    const at = (tag: string) => Deferred.await(gates.get(tag)!)
    const ready = yield* Deferred.make<void>()
    const seen: Array<string> = []
    const fiber = yield* Wire.enforce({
      request: "first",
      primary: (primary) =>
        Effect.gen(function* () {
          yield* Deferred.succeed(ready, undefined)
          yield* Effect.forkScoped(
            Effect.zipRight(at("Listening"), primary.broadcast?.({ news: "ünd" }) ?? Effect.void)
          )
          yield* at("Starting")
          yield* primary.serve((request, { argv, cwd, data, env, from, stderr, stdin, stdout }) =>
            Effect.gen(function* () {
              seen.push(request)
              if (request === "fail") return yield* new Refusal({ why: "no" })
              if (request === "die") return yield* Effect.die(new Error("broken"))
              if (request === "output") {
                yield* stdout("zur Ausgabe: ✓\n")
                yield* stderr(Uint8Array.of(0, 255))
              }
              if (request === "interrupt me") yield* Effect.zipRight(stdout("begun"), Effect.never)
              if (request === "slow") yield* at("Pong")
              if (request === "detached") yield* Effect.zipRight(stdout("begun"), at("State"))
              return { request, from, launch: new Message.Launch({ argv, cwd, env, data, stdin }) }
            })
          )
          yield* at("stop")
        })
    }).pipe(Effect.provide(layer), Effect.forkScoped)
    yield* Deferred.await(ready)
    const see = (tag: string) => Deferred.succeed(gates.get(tag) ?? ready, undefined)
    return { fiber, see, seen, stop: see("stop") }
  })

const launch: Secondary.Request["launch"] = {
  argv: ["--open", " a\u0000b\n|", "😀"],
  cwd: "/home/ana",
  env: { LANG: "de_DE.UTF-8" },
  data: { list: [1, -2.5, null, true], text: "ä" },
  stdin: "AP8="
}

/** A secondary that says everything that one can say; answers what it was answered. */
const asking = (
  record: InstanceRecord,
  directory: string,
  encoding: Message.Encoding,
  atLast: Effect.Effect<unknown> = Effect.void
) =>
  Effect.gen(function* () {
    const config = SingleInstanceConfig.make({
      version: "1.1",
      timeout: "8 seconds",
      helloTimeout: "20 seconds",
      encoding
    })
    const target: Secondary.Target = {
      id: InstanceId.make(Wire.key),
      record,
      directory,
      protocols: [Context.get(yield* Layer.build(UnixSocket.layer), Protocol)],
      config,
      pid: 4712,
      remaining: Duration.minutes(10),
      patience: Duration.minutes(10),
      gone: Effect.never
    }
    const session = yield* Secondary.connect(target)
    const outputs: Array<string> = []
    const begun = yield* Deferred.make<void>()
    const message = (payload: unknown, changes: Partial<Secondary.Request> = {}): Secondary.Request => ({
      id: `message: ${payload}`,
      payload,
      launch,
      trace: undefined,
      detached: false,
      repeatable: false,
      redelivered: false,
      onOutput: (stream, chunk) => Effect.sync(() => outputs.push(`${stream} ${Buffer.from(chunk).toString("hex")}`)),
      ...changes
    })
    const onBegun = { onOutput: () => Effect.asVoid(Deferred.succeed(begun, undefined)) }
    const early = yield* session.request(message("early"))
    const trace = { traceId: "0".repeat(31) + 1, spanId: "0".repeat(15) + 2, sampled: true }
    const traced = yield* session.request(message("traced", { trace, repeatable: true, redelivered: true }))
    const output = yield* session.request(message("output"))
    const fail = yield* session.request(message("fail"))
    const die = yield* session.request(message("die"))
    const odd = yield* Effect.flip(session.request(message(7)))
    const interrupted = yield* Effect.fork(session.request(message("interrupt me", onBegun)))
    yield* Deferred.await(begun)
    yield* Fiber.interrupt(interrupted)
    const slow = yield* session.request(message("slow"))
    const { handled } = yield* session.inspect
    // Earlier versions call it `broadcasts`, or have none.
    const earlier = (session as { readonly broadcasts?: Effect.Effect.Success<typeof session.subscribe> }).broadcasts
    const news = yield* Effect.either(
      session.subscribe === undefined ? (earlier ?? Effect.succeed([])) : Effect.flatten(session.subscribe)
    )
    // Cut when it has begun; the primary is asked what became of it.
    const deliver = Secondary.delivering(target, session, Effect.succeed)
    const detached = yield* Effect.uninterruptibleMask((restore) =>
      deliver(message("detached", { detached: true, onOutput: undefined }), restore)
    )
    const last = yield* Secondary.connect(target)
    yield* Effect.zipRight(last.inspect, atLast)
    yield* last.closed
    const bye = yield* Effect.flip(last.request(message("late")))
    return {
      answers: { early, traced, slow, detached, output },
      outputs,
      fail,
      die,
      odd: odd.reason,
      bye: bye.reason,
      handled,
      news
    }
  })

const assertAnswers = (given: Effect.Effect.Success<ReturnType<typeof asking>>, knowsBroadcasts: boolean) => {
  const { answers, bye, die, fail, handled, news, odd, outputs } = given
  for (const [request, exit] of Object.entries(answers)) {
    assertSays(exit, { _tag: "Success", value: { request, launch, from: { pid: 4712, version: "1.1" } } }, request)
  }
  assert.deepStrictEqual(outputs, [`stdout ${Buffer.from("zur Ausgabe: ✓\n").toString("hex")}`, "stderr 00ff"])
  assertSays(fail, { _tag: "Failure", cause: { _tag: "Fail", error: { _tag: "Refusal", why: "no" } } }, "fail")
  assertSays(die, { _tag: "Failure", cause: { _tag: "Die", defect: { message: "broken" } } }, "die")
  assert.deepStrictEqual([odd, bye], ["Malformed", "ShuttingDown"])
  assert.isAtLeast(handled, 7)
  if (Either.isRight(news)) assert.deepStrictEqual(news.right, [{ payload: { news: "ünd" }, missed: 0 }])
  else assert.deepStrictEqual([news.left.reason, news.left.outcome], ["Unsupported", "NotDelivered"])
  assert.strictEqual(Either.isRight(news), knowsBroadcasts)
}

// -------------------------------------------------------------------------------------
// recording and replaying
// -------------------------------------------------------------------------------------

const base = Date.UTC(2026, 0, 1)

/** The clock of the recording, so that its deadlines are still to come. */
const then = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const started = performance.now()
    const millis = () => Math.round(base + performance.now() - started)
    const changes = { unsafeCurrentTimeMillis: millis, currentTimeMillis: Effect.sync(millis) }
    return Effect.withClock(effect, Object.assign(Object.create(Clock.make()), changes) as Clock.Clock)
  })

const nonce = "00112233445566778899aabbccddeeff"
const pinned = new InstanceRecord({
  nonce,
  epoch: base,
  released: false,
  process: new ProcessIdentity({
    pid: 4711,
    start: null,
    boot: null,
    pidNamespace: null,
    timeNamespace: null,
    machine: null
  }),
  host: "bär.local",
  uid: 1000,
  version: "1.0",
  argv0: "editor",
  startedAt: base,
  sequence: 0,
  witness: null,
  key: "a5".repeat(32),
  endpoints: [new Endpoint({ protocol: "unix", address: `unix:s.${nonce}`, wire: [1, 1] })]
})

/** What goes over the wire between both sides, as a relay sees it that changes nothing. */
const recording = (encoding: Message.Encoding) =>
  Effect.gen(function* () {
    random.given = [16, 16, 8, 8, 16, 16, 16, 16, 8].map((size, index) => `c${index}`.repeat(size))
    const [near, far] = [yield* temporary, yield* temporary]
    const frames: Array<Frame> = []
    const primary = yield* leading(pinned, far)
    const accept = yield* listening(path.join(near, `s.${nonce}`))
    const relay = Effect.gen(function* () {
      for (const connection of [1, 2, 3]) {
        const from = yield* accept
        const to = yield* connecting(path.join(far, `s.${nonce}`))
        const pass = (direction: ">" | "<", into: net.Socket, next: Effect.Effect<Buffer | "end">) =>
          Effect.gen(function* () {
            for (let bytes = yield* next; bytes !== "end"; bytes = yield* next) {
              frames.push({ connection, direction, bytes })
              const message = parse(bytes)
              into.write(bytes)
              if (direction === "<") yield* primary.see(message._tag)
              if (message._tag !== "Output" || message.id !== "message: detached") continue
              frames.push({ connection, direction: "x", bytes: Buffer.alloc(0) })
              return
            }
          })
        yield* Effect.raceFirst(pass(">", to, framesOf(from)), pass("<", from, framesOf(to)))
        from.destroy()
        to.destroy()
      }
    })
    const relaying = yield* Effect.forkScoped(Effect.scoped(relay))
    const answers = yield* asking(pinned, near, encoding, primary.stop)
    yield* Fiber.join(relaying)
    yield* Fiber.join(primary.fiber)
    return { frames, answers }
  }).pipe(Effect.scoped, then)

/** How a version may write what was recorded. */
type Change = (message: any) => ReadonlyArray<{ readonly _tag: string; readonly id?: string }>

const unchanged: Change = (message) => [message]

/** With fields that nobody knows yet, and behind the greeting with messages that nobody knows yet between them. */
const later: Change = (message) => {
  const future = { deep: [1] }
  const grown = { future, ...message }
  for (const part of ["client", "launch", "trace"]) {
    if (message[part] !== undefined) grown[part] = { future, ...message[part] }
  }
  const isGreeting = ["Hello", "Welcome", "Proof"].includes(message._tag)
  return isGreeting ? [grown] : [{ _tag: "Teleport", id: `before ${message._tag}`, to: [0, 0] }, grown]
}

/** A record with all that a later version may add to it, and at first an endpoint that this one cannot use. */
const laterRecord = (record: InstanceRecord): InstanceRecord => {
  const [header, body] = Buffer.from(encode(record)).toString().split("\n") as [string, string]
  const fields = JSON.parse(body)
  const endpoints = [{ protocol: "quantum", address: "quantum:x", wire: [1, 9] }, ...fields.endpoints]
  const grown = JSON.stringify({
    future: 1,
    ...fields,
    endpoints: endpoints.map((endpoint) => ({ future: 1, ...endpoint }))
  })
  const head = header.slice(0, header.lastIndexOf(" "))
  const check = createHash("sha256").update(`${head}\n${grown}`).digest("hex").slice(0, 32)
  return Either.getOrThrow(decode(Buffer.from(`${head} ${check}\n${grown}`)))
}

const drawn = (frames: ReadonlyArray<Frame>, direction: ">" | "<") =>
  frames.flatMap(({ bytes, direction: from }) => {
    if (from !== direction) return []
    const { _tag, id, nonce } = parse(bytes)
    return nonce !== undefined ? [nonce] : ["Inspect", "Listen"].includes(_tag) ? [id] : []
  })

/** What the secondary of the recording said, to the primary of today, which must say what was recorded. */
const toPrimary = (name: string, change: Change) =>
  Effect.gen(function* () {
    const { frames, record } = read(name)
    const directory = yield* temporary
    random.given = drawn(frames, "<")
    const primary = yield* leading(record, directory)
    const replay = Effect.fnUntraced(function* (connection: number) {
      const own = frames.filter((frame) => frame.connection === connection)
      const socket = yield* connecting(path.join(directory, `s.${record.nonce}`))
      const next = framesOf(socket)
      for (const frame of own) {
        if (frame.direction === "x") {
          socket.destroy()
          break
        }
        const recorded = parse(frame.bytes)
        if (frame.direction === ">") {
          for (const message of change(recorded)) {
            socket.write(change === unchanged ? frame.bytes : framed(message, frame.bytes))
            if (message._tag !== "Teleport") continue
            const unsupported = yield* next
            assert(unsupported !== "end", "it ended the conversation over an unknown tag")
            assert.deepStrictEqual(parse(unsupported), { _tag: "Unsupported", tag: "Teleport", id: message.id })
          }
          continue
        }
        if (recorded._tag === "Refused" && recorded.id === undefined) yield* primary.stop
        const said = yield* next
        assert(said !== "end", `it ended before ${recorded._tag}`)
        assertSays(parse(said), recorded, recorded._tag)
        yield* primary.see(recorded._tag)
      }
    })
    for (const connection of [1, 2, 3]) yield* Effect.scoped(replay(connection))
    yield* Fiber.join(primary.fiber)
    return primary.seen
  }).pipe(Effect.scoped, then)

/** What the primary of the recording said, to the secondary of today, which must say what was recorded. */
const toSecondary = (name: string, change: Change) =>
  Effect.gen(function* () {
    const { frames, record } = read(name)
    const directory = yield* temporary
    random.given = drawn(frames, ">")
    const knowsBroadcasts = frames.some(({ bytes }) => bytes.length > 0 && parse(bytes)._tag === "Listen")
    // What was not asked then has an id of its own now.
    if (!knowsBroadcasts) random.given.splice(random.given.findIndex((hex) => hex.length === 16) + 1, 0, "0".repeat(16))
    const accept = yield* listening(path.join(directory, `s.${record.nonce}`))
    const primary = Effect.gen(function* () {
      for (const connection of [1, 2, 3]) {
        const own = frames.filter((frame) => frame.connection === connection)
        const socket = yield* accept
        const next = framesOf(socket)
        for (const frame of own) {
          if (frame.direction === "x") {
            socket.destroy()
            break
          }
          const recorded = parse(frame.bytes)
          if (frame.direction === "<") {
            for (const message of change(recorded)) {
              socket.write(change === unchanged ? frame.bytes : framed(message, frame.bytes))
            }
            continue
          }
          let said = yield* next
          while (said !== "end") {
            const { _tag, id } = parse(said)
            // A slow machine is asked for a sign of life.
            if (_tag === "Ping" && recorded._tag !== "Ping") socket.write(framed({ _tag: "Pong" }, frame.bytes))
            else if (_tag === "Listen" && recorded._tag !== "Listen") {
              socket.write(framed({ _tag: "Unsupported", tag: "Listen", id }, frame.bytes))
            } else break
            said = yield* next
          }
          assert(said !== "end", `it ended before ${recorded._tag}`)
          assertSays(parse(said), recorded, recorded._tag)
        }
      }
    })
    const [answers] = yield* Effect.all(
      [
        asking(
          change === later ? laterRecord(record) : record,
          directory,
          name.includes("msgpack") ? "msgpack" : "json"
        ),
        Effect.scoped(primary)
      ],
      { concurrency: "unbounded" }
    )
    assertAnswers(answers, knowsBroadcasts)
  }).pipe(Effect.scoped, then)

// -------------------------------------------------------------------------------------
// tests
// -------------------------------------------------------------------------------------

const recordings = ["wire-v1-first.txt", "wire-v1-json.txt", "wire-v1-msgpack.txt"]
const all = ["early", "traced", "output", "fail", "die", "interrupt me", "slow", "detached"]

const target = process.env.RECORD
if (target !== undefined) {
  describe("recording", () => {
    for (const encoding of ["json", "msgpack"] as const) {
      it.live(encoding, () =>
        Effect.map(recording(encoding), ({ frames }) => {
          fs.writeFileSync(path.join(target, `wire-v1-${encoding}.txt`), write(pinned, frames))
        })
      )
    }
  })
}

describe.skipIf(process.platform === "win32")("a conversation of version 1", () => {
  for (const name of recordings) {
    it.live(`${name}: its secondary speaks with the primary of today`, () =>
      Effect.map(toPrimary(name, unchanged), (seen) => assert.deepStrictEqual(seen, all))
    )
    it.live(`${name}: its primary speaks with the secondary of today`, () => toSecondary(name, unchanged))
    it.live(`${name}: with what a later version adds, to the primary of today`, () =>
      Effect.map(toPrimary(name, later), (seen) => assert.deepStrictEqual(seen, all))
    )
    it.live(`${name}: with what a later version adds, to the secondary of today`, () => toSecondary(name, later))
  }

  it("is recorded with every message that there is", () => {
    const tags = (names: ReadonlyArray<string>) =>
      new Set(
        names.flatMap((name) =>
          read(name).frames.flatMap(({ bytes }) => (bytes.length === 0 ? [] : [parse(bytes)._tag]))
        )
      )
    const known = Message.Message.ast._tag === "Union" ? Message.Message.ast.types : assert.fail("no union")
    const missing = known.flatMap((type: any) => {
      const tag = type.propertySignatures.find(({ name }: any) => name === "_tag").type.literal
      return tags(recordings).has(tag) ? [] : [tag]
    })
    // It answers what is only sent by later versions.
    assert.deepStrictEqual(missing, ["Unsupported"])
  })

  // Of the same length, as the prefix says it.
  for (const [what, replay, change, because] of [
    [
      "a proof",
      toSecondary,
      (text: string) => text.replace(/"mac":"./, '"mac":"0'),
      /not the process of the record|it ended before Proof/
    ],
    [
      "a field",
      toPrimary,
      (text: string) => text.replace('"payload":', '"payl0ad":'),
      /expected 'Refused' to equal 'Exit'/
    ],
    ["an answer", toPrimary, (text: string) => text.replace('"state":"running"', '"state":"pending"'), /State.state/]
  ] as const) {
    it.scopedLive(`is not what it was with ${what} changed`, () =>
      Effect.gen(function* () {
        const changed = path.join(yield* temporary, "changed.txt")
        fs.writeFileSync(changed, change(fs.readFileSync(new URL(recordings[0]!, folder), "utf8")))
        assert.match(yield* failing(replay(pathToFileURL(changed).href, unchanged)), because)
      })
    )
  }
})

describe("wire versions", () => {
  it.scoped("1 and 2 of a later primary meet 1 of this secondary", () =>
    Effect.gen(function* () {
      const puppeteer = yield* puppet(Wire.key, (own) => [
        new Endpoint({ protocol: "quantum", address: "quantum:x", wire: [2, 2] }),
        new Endpoint({ ...own, wire: [1, 2] })
      ])
      const { instance } = yield* member(Wire)
      const sending = yield* Effect.fork(instance.send("a"))
      const peer = yield* puppeteer.serve({ range: [1, 2] })
      const { id } = yield* peer.expect("Request")
      const value = { request: "a", launch, from: { pid: 1, version: null } }
      yield* peer.say({ _tag: "Exit", id, exit: { _tag: "Success", value } })
      assert.strictEqual((yield* Fiber.join(sending)).reply.request, "a")
    }).pipe(Effect.provide(TestSingleInstance.layerMachine()))
  )

  it.scoped("2 of a later secondary does not meet 1 of this primary: Incompatible, at both ends", () =>
    Effect.gen(function* () {
      const primary = yield* member(Wire)
      const ready = yield* Deferred.make<void>()
      const seen: Array<string> = []
      yield* Wire.enforce({
        request: "first",
        primary: (leader) =>
          leader
            .serve((request) =>
              Effect.zipRight(
                Effect.sync(() => seen.push(request)),
                Effect.never
              )
            )
            .pipe(Effect.zipRight(Deferred.succeed(ready, undefined)), Effect.zipRight(Effect.never))
      }).pipe(Effect.provide(primary.context), Effect.forkScoped)
      yield* Deferred.await(ready)
      const answers: Array<Message.Message | Message.Unrecognised> = []
      // Its hello is that of a version that speaks 2 only.
      const protocols = (own: Protocol["Type"]) => [
        Layer.succeed(Protocol, {
          ...own,
          connect: (...given) =>
            Effect.map(own.connect(...given), (connection) => ({
              ...connection,
              offer: undefined,
              send: (frame) => {
                const message = Either.getOrThrow(Message.decode(frame))
                return connection.send(message._tag === "Hello" ? Message.encode({ ...message, wire: [2, 2] }) : frame)
              },
              receiveWith: undefined,
              receive: Effect.tap(connection.receive, (frames) =>
                Effect.sync(() => answers.push(...frames.map((frame) => Either.getOrThrow(Message.decode(frame)))))
              )
            }))
        })
      ]
      const { instance } = yield* member(Wire, { protocols })
      const error = yield* Effect.flip(instance.send("a"))
      assert(ProtocolError.is(error), String(error))
      assert.deepStrictEqual([error.reason, error.outcome, error.pid], ["Incompatible", "NotDelivered", primary.pid])
      assert.match(error.detail, /the primary speaks wire 1,1, the secondary 2,2/)
      assert.deepStrictEqual(
        answers.map((answer) => answer._tag === "Refused" && answer.reason),
        ["Incompatible"]
      )
      assert.deepStrictEqual(seen, [])
    }).pipe(Effect.provide(TestSingleInstance.layerMachine()))
  )
})
