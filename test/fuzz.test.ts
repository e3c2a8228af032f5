/**
 * Bytes that no honest process ever writes: mutations of a committed corpus, as many as the run has time for, against all
 * that parses. Nothing may throw, hang, hold more memory than it says, or take for valid what is not.
 */
import * as fs from "node:fs"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Either, Equal, Layer, Scope } from "effect"
import { Endpoint, InstanceRecord, Message } from "effect-single-instance"
import { InstanceId } from "effect-single-instance/InstanceId"
import { Protocol } from "effect-single-instance/Protocol"
import * as FileMailbox from "effect-single-instance/protocol/FileMailbox"
import * as framing from "../src/internal/framing.js"
import * as msgPack from "../src/internal/msgPack.js"
import { child, nonce, temporary } from "./contract/Protocol.js"
import { largeIf } from "./size.js"
import { randomOf, reported, scaled, seed } from "./stress.js"

const corpusFolder = fileURLToPath(new URL("./fixtures-data/corpus", import.meta.url))
const corpus = (kind: string): ReadonlyArray<Buffer> =>
  fs
    .readdirSync(corpusFolder)
    .filter((name) => name.startsWith(`${kind}-`))
    .sort()
    .map((name) => fs.readFileSync(`${corpusFolder}/${name}`))

type Random = () => number
const below = (random: Random, limit: number) => Math.floor(random() * limit)
const oneOf = <A>(random: Random, values: ReadonlyArray<A>): A => values[below(random, values.length)]!

const tokens = [
  "__proto__",
  '"constructor"',
  "\0",
  "\n",
  "ESI1 ",
  "ESI2 ",
  "null",
  "1e999",
  "-1",
  "[[[[",
  '{"a":',
  "\ud800",
  "é",
  "�"
]
const edges = [0, 1, 0x7f, 0x80, 0x81, 0x8f, 0x90, 0xc0, 0xc1, 0xc7, 0xd4, 0xd9, 0xdf, 0xff]

/** One to four small changes: what truncation, a bad disk, another version or an enemy would do. */
const mutate = (random: Random, seeds: ReadonlyArray<Buffer>): Buffer => {
  let bytes: Buffer = Buffer.from(oneOf(random, seeds))
  for (let changes = 1 + below(random, 4); changes > 0; changes--) {
    const at = below(random, bytes.length + 1)
    const length = below(random, 16)
    const behind = bytes.subarray(Math.min(bytes.length, at + length))
    switch (below(random, 8)) {
      case 0:
        bytes = bytes.subarray(0, at)
        break
      case 1:
        bytes = Buffer.concat([bytes.subarray(0, at), behind])
        break
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from(oneOf(random, tokens)), behind])
        break
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), Buffer.of(oneOf(random, edges)), bytes.subarray(at)])
        break
      case 4: {
        const other = oneOf(random, seeds)
        bytes = Buffer.concat([bytes.subarray(0, at), other.subarray(below(random, other.length + 1))])
        break
      }
      case 5:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at, at + length), bytes.subarray(at)])
        break
      default:
        if (at < bytes.length) bytes[at] = bytes[at]! ^ (1 << below(random, 8))
    }
  }
  return bytes
}

/** Throws where the target does not do what is asked of it. */
type Target = (bytes: Buffer, random: Random) => void

const failing = (bytes: Buffer, cause: unknown): string => `${cause} (input ${bytes.toString("base64")}, seed ${seed})`

const fuzz = (name: string, kinds: ReadonlyArray<string>, count: number, target: Target): string | undefined => {
  const random = randomOf(name)
  const seeds = kinds.flatMap(corpus)
  assert.isAbove(seeds.length, 0)
  for (let round = -seeds.length; round < count; round++) {
    // First as they are.
    const bytes = round < 0 ? Buffer.from(seeds[round + seeds.length]!) : mutate(random, seeds)
    try {
      target(bytes, random)
    } catch (cause) {
      return failing(bytes, cause)
    }
  }
  return undefined
}

const limit = 4096

// However a stream is cut, the same frames come out of it, or the same refusal; and only what arrived takes memory.
const framed =
  (decode: (chunks: ReadonlyArray<Buffer>) => readonly [ReadonlyArray<Uint8Array>, number]): Target =>
  (bytes, random) => {
    const at = below(random, bytes.length + 1)
    const [whole, refused] = decode([Buffer.from(bytes)])
    const [cut, refusedCut] = decode([Buffer.from(bytes.subarray(0, at)), Buffer.from(bytes.subarray(at))])
    assert.strictEqual(refusedCut, refused)
    assert.deepStrictEqual(cut.map(String), whole.map(String))
  }

const decodeFrames = (chunks: ReadonlyArray<Buffer>) => {
  const decoder = new framing.Decoder(limit)
  const frames: Array<Uint8Array> = []
  for (const chunk of chunks) {
    const refused = decoder.push(chunk, frames)
    assert.isAtMost(decoder.buffered, limit)
    if (refused >= 0) return [frames, refused] as const
  }
  return [frames, -1] as const
}

// A message without the fields that nobody knows, in the order of its schema.
const meaning = (message: Message.Message | Message.Unrecognised): string => {
  assert(message._tag !== "Unrecognised")
  const { fields }: { readonly fields: object } = Message[message._tag]
  const entries = Object.entries(message)
  return JSON.stringify(Object.keys(fields).map((name) => entries.find(([key]) => key === name)))
}

const targets: Record<
  string,
  { readonly kinds: ReadonlyArray<string>; readonly share: number; readonly target: Target }
> = {
  framing: { kinds: ["frames"], share: 0.2, target: framed(decodeFrames) },
  // What is taken for a record is what somebody wrote, to the last byte.
  record: {
    kinds: ["record"],
    share: 0.3,
    target: (bytes) => {
      const decoded = InstanceRecord.decode(bytes)
      if (Either.isLeft(decoded)) return
      const again = InstanceRecord.decode(InstanceRecord.encode(decoded.right))
      assert.isTrue(Either.isRight(again) && Equal.equals(again.right.process.pid, decoded.right.process.pid))
      assert.isTrue(corpus("record").some((known) => known.equals(bytes)))
    }
  },
  // What is understood can be said again, and means the same; nothing leaks into other objects.
  message: {
    kinds: ["json", "msgpack"],
    share: 0.4,
    target: (bytes) => {
      const decoded = Message.decode(bytes)
      assert.isUndefined(({} as { polluted?: unknown }).polluted)
      if (Either.isLeft(decoded) || decoded.right._tag === "Unrecognised") return
      for (const encoding of ["json", "msgpack"] as const) {
        const again = Message.decode(Message.encode(decoded.right as Message.Message, encoding))
        assert.isTrue(Either.isRight(again), encoding)
        assert.strictEqual(meaning(Either.getOrThrow(again)), meaning(decoded.right))
      }
    }
  },
  endpoint: {
    kinds: ["endpoint"],
    share: 0.1,
    target: (bytes) => {
      const address = bytes.toString("latin1")
      const made = Either.try(() => new Endpoint.Endpoint({ protocol: "x", address, wire: [1, 1] }))
      if (Either.isRight(made)) assert.match(address, /^[a-z][a-z0-9+.-]*:\S+$/)
    }
  }
}

describe("whatever the bytes", () => {
  const total = scaled(40_000, 1_000_000)
  for (const [name, { kinds, share, target }] of Object.entries(targets)) {
    const count = Math.round(total * share)
    it.effect(
      `${name} survives ${count} inputs, and takes nothing for what it is not${largeIf(count > 8_000)}`,
      () =>
        reported(
          { area: "7", test: `fuzz: ${name}`, faults: "mutations of the corpus" },
          Effect.gen(function* () {
            yield* msgPack.load
            const found = fuzz(name, kinds, count, target)
            if (found !== undefined) yield* Effect.dieMessage(found)
            return `${count} inputs`
          })
        ),
      600_000
    )
  }

  const rounds = scaled(2, 20)
  const files = 300
  it.scopedLive(
    `a mailbox serves ${rounds} times amid ${files} files that no sender wrote @large`,
    () =>
      reported(
        { area: "7", test: "fuzz: names and contents in the mailbox", faults: "mutations of names and contents" },
        Effect.gen(function* () {
          const random = randomOf("mailbox")
          for (let round = 0; round < rounds; round++) yield* Effect.scoped(litteredMailbox(random, files))
          return `${rounds} × ${files} files`
        })
      ),
    600_000
  )
})

/** A mailbox in which somebody writes what he likes delivers a message all the same. */
const litteredMailbox = Effect.fnUntraced(function* (random: Random, files: number) {
  const directory = yield* temporary
  const protocol = Context.get(yield* Layer.build(FileMailbox.layer), Protocol)
  const place = { id: InstanceId.make("com.example.fuzz"), directory, maxFrameBytes: limit }
  const own = nonce()
  const listener = yield* protocol.listen({ ...place, nonce: own, maxConnections: 1_000 })
  const heard = yield* Deferred.make<void>()
  yield* Effect.gen(function* () {
    const scope = yield* child
    const connection = yield* Scope.extend(listener.accept, scope)
    yield* connection.receive.pipe(
      Effect.tap((frames) =>
        frames.some((frame) => Buffer.from(frame).toString() === "hello")
          ? Deferred.succeed(heard, undefined)
          : Effect.void
      ),
      Effect.forever,
      Effect.ignore,
      Effect.interruptible,
      Effect.forkScoped
    )
  }).pipe(Effect.forever, Effect.interruptible, Effect.forkScoped)
  const folder = `${directory}/mail/${own}`
  // A sender that lives, as this process does.
  const known = fs.readdirSync(folder).find((name) => name.startsWith("l."))!
  const origin = known.slice("l.".length)
  const names = ["n", "c"]
    .flatMap((state) => [0, 1, 2].map((index) => `${state}.${origin}-${nonce()}.${String(index).padStart(16, "0")}`))
    .flatMap((name) => [`${name}.o9`, `${name}.f16`, `${name}.e9`])
    .concat(`d.${"0".repeat(16)}.${nonce()}.f16`, `x.${origin}`, `t.${origin}.${nonce()}`)
    .map((name) => Buffer.from(name))
  for (let index = 0; index < files; index++) {
    const name = oneOf(random, [mutate(random, names), oneOf(random, names)])
      .toString("latin1")
      .replace(/[\0/]/g, "_")
    const contents = mutate(random, [...corpus("mail"), ...corpus("json")])
    // Some names are none, others are there.
    yield* Effect.ignore(Effect.try(() => fs.writeFileSync(`${folder}/${name}`, contents, { flag: "wx" })))
    if (index % 50 === 0) yield* Effect.sleep("5 millis")
  }
  const sender = yield* protocol.connect(listener.address, place)
  yield* sender.send(Buffer.from("hello"))
  yield* Deferred.await(heard)
})

describe("the canaries", () => {
  const caught = (name: string, kinds: ReadonlyArray<string>, target: Target) =>
    assert.isDefined(fuzz(name, kinds, 20_000, target), name)

  it("a record that is read without its check sum", () => {
    caught("record", ["record"], (bytes) => {
      const text = bytes.toString("utf8")
      const isRead = /^ESI1 [0-9a-f]{32} \d+ \d+ /.test(text) && text.includes("\n{") && text.endsWith("}")
      if (isRead) assert.isTrue(corpus("record").some((known) => known.equals(bytes)))
    })
  })

  it("frames that are cut where the chunks end", () => {
    const naive = (chunks: ReadonlyArray<Buffer>) => {
      const frames = chunks.flatMap((chunk) => decodeFrames([chunk])[0])
      return [frames, -1] as const
    }
    caught("framing", ["frames"], framed(naive))
  })

  it("messages that are believed without a schema", () => {
    caught("message", ["json"], (bytes) => {
      const { id, _tag } = JSON.parse(bytes.toString())
      assert.isTrue(typeof _tag === "string" && (id === undefined || typeof id === "string"))
    })
  })
})
