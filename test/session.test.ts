/**
 * What a conversation offers beyond a request and its reply: broadcasts, another encoding, delivery at least once,
 * endpoints that are opened again.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Chunk, Deferred, Effect, Exit, Fiber, Layer, Option, Schema, Scope, Stream } from "effect"
import { type Instance, Message, type Primary, SingleInstance } from "effect-single-instance"
import { type Connection, Protocol } from "effect-single-instance/Protocol"
import * as FileMailbox from "effect-single-instance/protocol/FileMailbox"
import * as Tcp from "effect-single-instance/protocol/Tcp"
import { ProtocolError, TimeoutError } from "effect-single-instance/SingleInstanceError"
import { fileWorld, type MemberOptions, memoryWorld, realWorld, spying, type World } from "./simulation.js"
import { largeIf } from "./size.js"

// A number of any size fits the schema and is no JSON.
const News = Schema.Struct({ headline: Schema.String, number: Schema.optional(Schema.BigIntFromSelf) })

class Desk extends SingleInstance.Tag<Desk>()("test.desk", {
  request: Schema.String,
  reply: Schema.String,
  broadcast: News
}) {}

type Leader = Instance.Primary<string, string, never, typeof News.Type>

/** A member that leads until the scope closes. */
const leader = (
  world: World,
  options?: MemberOptions,
  serve: (primary: Leader) => Effect.Effect<void> = (primary) =>
    primary.serve((request) => Effect.succeed(`re: ${request}`))
) =>
  Effect.gen(function* () {
    const process = yield* world.member(Desk, options)
    const ready = yield* Deferred.make<Leader>()
    yield* Desk.enforce({
      request: "first",
      primary: (primary) =>
        Effect.zipRight(serve(primary), Effect.zipRight(Deferred.succeed(ready, primary), Effect.never))
    }).pipe(Effect.provide(process.context), Effect.interruptible, Effect.forkScoped)
    return { process, primary: yield* Deferred.await(ready) }
  })

const until = (what: string, condition: Effect.Effect<boolean, unknown>) =>
  Effect.gen(function* () {
    for (let round = 0; round < 1_000; round++) {
      if (yield* condition) return
      yield* Effect.sleep("20 millis")
    }
    assert.fail(`${what} did not come about`)
  })

// What was received and what was missed, in the order of the numbers that headlines are.
const account = (heard: Iterable<{ readonly message: typeof News.Type; readonly missed: number }>) => {
  let next = 0
  let missing = 0
  for (const { message, missed } of heard) {
    assert.strictEqual(Number(message.headline), next + missed)
    next += missed + 1
    missing += missed
  }
  return { next, missing }
}

const isLast = ({ message }: { readonly message: typeof News.Type }) => message.headline === "last"

const everywhere = (name: string, world: Effect.Effect<World, never, Scope.Scope>) =>
  describe(name, () => {
    it.scopedLive("a broadcast reaches all who listen, and nobody else", () =>
      Effect.gen(function* () {
        const place = yield* world
        const { primary } = yield* leader(place)
        assert.strictEqual(yield* primary.broadcast({ headline: "nobody" }), 0)
        const silent = yield* (yield* place.member(Desk)).instance.connect
        const listeners = yield* Effect.replicateEffect(
          Effect.gen(function* () {
            const client = yield* (yield* place.member(Desk)).instance.connect
            return { client, heard: yield* Effect.fork(Stream.runCollect(Stream.take(client.broadcasts, 3))) }
          }),
          3
        )
        const [latecomer] = listeners
        yield* until(
          "three listeners",
          Effect.map(primary.broadcast({ headline: "0" }), (count) => count === 3)
        )
        for (const headline of ["last", "last", "last"]) yield* primary.broadcast({ headline })
        for (const { heard } of listeners) {
          const all = Chunk.toReadonlyArray(yield* Fiber.join(heard))
          assert.isTrue(all.every(({ message, missed }) => missed === 0 && /^(0|last)$/.test(message.headline)))
        }
        // It goes on with requests.
        assert.strictEqual(yield* latecomer!.client.send("a"), "re: a")
        assert.strictEqual(yield* silent.send("b"), "re: b")
        const wrong = yield* Effect.flip(primary.broadcast({ headline: 1 } as never))
        assert.deepStrictEqual([wrong.reason, wrong.outcome], ["Malformed", "NotDelivered"])
      })
    )

    // Each broadcast is a file there.
    const size = largeIf(name === "over files")
    it.scopedLive(
      `who does not take broadcasts keeps the latest and is told how many it missed; others miss none${size}`,
      () =>
        Effect.gen(function* () {
          const place = yield* world
          const { primary } = yield* leader(place)
          const slow = yield* (yield* place.member(Desk)).instance.connect
          const fast = yield* (yield* place.member(Desk)).instance.connect
          const count = 2_000
          const gate = yield* Deferred.make<void>()
          const listening = (client: typeof slow, first: Effect.Effect<unknown>) =>
            client.broadcasts.pipe(
              Stream.filter(({ message }) => message.headline !== "before"),
              Stream.tap(() => Effect.sync(() => (heard += client === fast ? 1 : 0))),
              Stream.tap(({ message }) => (message.headline === "0" ? first : Effect.void)),
              Stream.takeUntil(({ message }) => message.headline === `${count - 1}`),
              Stream.runCollect,
              Effect.fork
            )
          let heard = 0
          const listeners = (n: number) => Effect.map(primary.broadcast({ headline: "before" }), (count) => count === n)
          const slowly = yield* listening(slow, Deferred.await(gate))
          yield* until("the slow one", listeners(1))
          const quickly = yield* listening(fast, Effect.void)
          yield* until("the fast one", listeners(2))
          for (let n = 0; n < count; n++) {
            assert.strictEqual(yield* primary.broadcast({ headline: `${n}` }), 2)
            // No faster than the other process reads.
            if (n % 50 === 49)
              yield* until(
                "the fast one",
                Effect.sync(() => heard > n)
              )
          }
          const quick = account(yield* Fiber.join(quickly))
          assert.deepStrictEqual(quick, { next: count, missing: 0 })
          yield* Deferred.succeed(gate, undefined)
          const late = account(yield* Fiber.join(slowly))
          assert.strictEqual(late.next, count)
          assert.isAbove(late.missing, 1_000)
          assert.isBelow(late.missing, count)
        })
    )

    it.scopedLive("each reader gets every broadcast, and what came while nobody read", () =>
      Effect.gen(function* () {
        const place = yield* world
        const { primary } = yield* leader(place)
        const client = yield* (yield* place.member(Desk)).instance.connect
        const taking = (count: number) =>
          Effect.map(Stream.runCollect(Stream.take(client.broadcasts, count)), (all) =>
            Chunk.toReadonlyArray(all).map(({ message }) => message.headline)
          )
        const first = yield* Effect.fork(taking(1))
        yield* until(
          "the first reader",
          Effect.map(primary.broadcast({ headline: "0" }), (count) => count === 1)
        )
        yield* Fiber.join(first)
        yield* primary.broadcast({ headline: "while nobody reads" })
        // The conversation has heard what was said before an answer.
        yield* client.send("a")
        const kept = yield* taking(1)
        assert.match(kept[0]!, /^(0|while nobody reads)$/)
        let began = 0
        const reading = () => {
          const heard: Array<string> = []
          return Stream.runForEach(
            Stream.takeUntil(client.broadcasts, ({ message }) => message.headline === "last"),
            ({ message }) =>
              Effect.sync(() => {
                if (heard.length === 0) began++
                heard.push(message.headline)
              })
          ).pipe(Effect.as(heard), Effect.fork)
        }
        const both = yield* Effect.all([reading(), reading()])
        yield* until(
          "both readers",
          Effect.map(primary.broadcast({ headline: "before" }), () => began === 2)
        )
        for (const headline of ["1", "2", "3", "last"]) yield* primary.broadcast({ headline })
        for (const reader of both) {
          assert.deepStrictEqual((yield* Fiber.join(reader)).slice(-4), ["1", "2", "3", "last"])
        }
      })
    )

    it.scopedLive("whoever is interrupted while he asks or waits leaves nothing deaf", () =>
      Effect.gen(function* () {
        const place = yield* world
        const { primary } = yield* leader(place)
        const client = yield* (yield* place.member(Desk)).instance.connect
        for (let turn = 0; turn < 5; turn++) {
          const impatient = yield* Effect.fork(Stream.runDrain(client.broadcasts))
          for (let yields = 0; yields < turn; yields++) yield* Effect.yieldNow()
          yield* Fiber.interrupt(impatient)
        }
        const heard = yield* Effect.fork(Stream.runCollect(Stream.take(client.broadcasts, 1)))
        yield* until(
          "the reader",
          Effect.map(primary.broadcast({ headline: "0" }), (count) => count === 1)
        )
        yield* Fiber.join(heard)
      })
    )

    it.scopedLive("a broadcast that is interrupted leaves nobody deaf", () =>
      Effect.gen(function* () {
        const place = yield* world
        const { primary } = yield* leader(place)
        const readers = yield* Effect.replicateEffect(
          Effect.gen(function* () {
            const client = yield* (yield* place.member(Desk)).instance.connect
            return yield* Effect.fork(Stream.runDrain(Stream.takeUntil(client.broadcasts, isLast)))
          }),
          4
        )
        yield* until(
          "all readers",
          Effect.map(primary.broadcast({ headline: "0" }), (count) => count === readers.length)
        )
        // It gives way to others after each few steps, and is interrupted in one of these moments.
        for (let turn = 0; turn < 60; turn++) {
          const broadcast = Effect.withMaxOpsBeforeYield(primary.broadcast({ headline: "0" }), 16 + (turn % 16))
          const broadcasting = yield* Effect.fork(broadcast)
          for (let yields = 0; yields < turn; yields++) yield* Effect.yieldNow()
          yield* Fiber.interrupt(broadcasting)
        }
        yield* primary.broadcast({ headline: "last" })
        for (const reader of readers) yield* Fiber.join(reader)
      })
    )

    it.scopedLive("a broadcast that cannot be written fails as Malformed, and the next one is heard", () =>
      Effect.gen(function* () {
        const place = yield* world
        const { primary } = yield* leader(place)
        const unwritable = { headline: "unwritable", number: 1n }
        assert.strictEqual((yield* Effect.flip(primary.broadcast(unwritable))).reason, "Malformed")
        const client = yield* (yield* place.member(Desk)).instance.connect
        const heard = yield* Effect.fork(
          Stream.runCollect(Stream.takeUntil(client.broadcasts, ({ message }) => message.headline === "last"))
        )
        yield* until(
          "the reader",
          Effect.map(primary.broadcast({ headline: "first" }), (count) => count === 1)
        )
        const error = yield* Effect.flip(primary.broadcast(unwritable))
        assert.deepStrictEqual([error.reason, error.outcome], ["Malformed", "NotDelivered"])
        yield* primary.broadcast({ headline: "last" })
        const headlines = Chunk.toReadonlyArray(yield* Fiber.join(heard)).map(({ message }) => message.headline)
        assert.notInclude(headlines, "unwritable")
        assert.strictEqual(headlines.at(-1), "last")
      })
    )

    it.scopedLive("broadcasts fail when the conversation is over", () =>
      Effect.gen(function* () {
        const place = yield* world
        const scope = yield* Scope.make()
        const { primary } = yield* Scope.extend(leader(place), scope)
        const client = yield* (yield* place.member(Desk)).instance.connect
        const listening = yield* Effect.fork(Effect.flip(Stream.runDrain(client.broadcasts)))
        yield* until(
          "a listener",
          Effect.map(primary.broadcast({ headline: "0" }), (count) => count === 1)
        )
        yield* Scope.close(scope, Exit.void)
        const error = yield* Fiber.join(listening)
        assert(ProtocolError.is(error))
        assert.strictEqual(error.outcome, "NotDelivered")
        assert.strictEqual((yield* Effect.flip(Stream.runDrain(client.broadcasts))).outcome, "NotDelivered")
      })
    )
  })

everywhere("in memory", memoryWorld)
everywhere("over Unix sockets or named pipes", fileWorld)
everywhere("over TCP", realWorld(Tcp.layer))
everywhere("over files", realWorld(FileMailbox.layer))

describe("the launch of a conversation", () => {
  const carried = (world: Effect.Effect<World, never, Scope.Scope>) =>
    Effect.gen(function* () {
      const place = yield* world
      yield* leader(place)
      const frames: Array<Uint8Array> = []
      const client = yield* (yield* place.member(Desk, { protocols: spying(frames) })).instance.connect
      for (const text of ["a", "b", "c"]) yield* client.send(text)
      return frames
        .map((frame) => JSON.parse(Buffer.from(frame).toString()))
        .flatMap((message) => (message._tag === "Request" ? [message.launch !== undefined] : []))
    })

  it.scopedLive("is told once over a socket", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* carried(fileWorld), [true, false, false])
    })
  )

  it.scopedLive("is told each time where the next message may have another receiver", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* carried(realWorld(FileMailbox.layer)), [true, true, true])
    })
  )
})

describe("MessagePack", () => {
  const heads = (options: MemberOptions) =>
    Effect.gen(function* () {
      const place = yield* memoryWorld
      yield* leader(place)
      const frames: Array<Uint8Array> = []
      const { instance } = yield* place.member(Desk, { ...options, protocols: spying(frames) })
      yield* instance.send("a")
      return frames.map((frame) => (frame[0] === 0x7b ? "json" : "msgpack"))
    })

  it.scopedLive("is what is sent where the secondary asks for it, from behind the hello on", () =>
    Effect.gen(function* () {
      const plain = yield* heads({})
      assert.isTrue(plain.every((encoding) => encoding === "json"))
      const packed = yield* heads({ encoding: "msgpack" })
      assert.strictEqual(packed.length, plain.length)
      assert.deepStrictEqual(packed.slice(0, 3), ["json", "json", "json"])
      assert.isAtLeast(packed.length, 5)
      assert.isTrue(packed.slice(3).every((encoding) => encoding === "msgpack"))
    })
  )

  it.scoped("says in JSON what it could not say", () =>
    Effect.gen(function* () {
      const { load } = yield* Effect.promise(() => import("../src/internal/msgPack.js"))
      assert.isTrue(yield* load)
      const back = (payload: unknown) => {
        const frame = Message.encode({ _tag: "Request", id: "1", payload }, "msgpack")
        const decoded = Message.decode(frame)
        assert(decoded._tag === "Right" && decoded.right._tag === "Request", String(payload))
        return { json: frame[0] === 0x7b, payload: decoded.right.payload }
      }
      for (const value of [null, "", "🙂", 1, -1.5, 2 ** 53 - 1, true, [], {}, [[{ a: [1] }]], { "": "" }]) {
        assert.deepStrictEqual(back(value), { json: false, payload: value })
      }
      for (const value of ["\ud800", { "\udfff": 1 }, [undefined], Number.NaN, -0, new Date(0), { a: undefined }]) {
        assert.deepStrictEqual(back(value), { json: true, payload: JSON.parse(JSON.stringify(value)) })
      }
      assert.throws(() => Message.encode({ _tag: "Request", id: "1", payload: 1n }, "msgpack"))
      for (const garbage of [[0x81], [0xdf, 0xff, 0xff, 0xff, 0xff], [0xc1], [0x80], [0xde, 0, 1, 0xa1], [0xff]]) {
        assert.strictEqual(Message.decode(Uint8Array.from(garbage))._tag, "Left")
      }
    })
  )

  it.scoped("reads every whole document, and nothing that is more or less than one", () =>
    Effect.gen(function* () {
      const { decode, encode, load } = yield* Effect.promise(() => import("../src/internal/msgPack.js"))
      assert.isTrue(yield* load)
      const sizes = [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536]
      const numbers = [
        0,
        127,
        128,
        255,
        256,
        65_535,
        65_536,
        2 ** 32,
        -1,
        -32,
        -33,
        -128,
        -129,
        -32_769,
        -(2 ** 31),
        0.5
      ]
      const documents = [
        numbers,
        ...sizes.flatMap((size) => [
          "x".repeat(size),
          Array.from({ length: size }, () => true),
          Object.fromEntries(Array.from({ length: size }, (_, n) => [`${n}`, null]))
        ])
      ]
      for (const value of documents) {
        const bytes = encode({ value })!
        assert.deepStrictEqual(decode(bytes), { value })
        assert.throws(() => decode(bytes.subarray(0, -1)))
        assert.throws(() => decode(Buffer.concat([bytes, Buffer.of(0)])))
      }
    })
  )

  it.scoped("makes no room for what is only announced @large", () =>
    Effect.gen(function* () {
      const { decode, load } = yield* Effect.promise(() => import("../src/internal/msgPack.js"))
      assert.isTrue(yield* load)
      const { Packr } = yield* Effect.promise(() => import("msgpackr"))
      // Eight arrays of 3,000,000 items each, of which there is none.
      const claims = Buffer.concat(Array.from({ length: 8 }, () => Buffer.of(0xdd, 0x00, 0x2d, 0xc6, 0xc0)))
      const grown = (read: (bytes: Uint8Array) => unknown) => {
        const before = process.memoryUsage().heapTotal
        assert.throws(() => read(claims))
        return process.memoryUsage().heapTotal - before
      }
      assert.isBelow(grown(decode), 32 * 1024 * 1024)
      // The canary: the decoder on its own does.
      const packr = new Packr({ useRecords: false, mapsAsObjects: true, variableMapSize: true })
      assert.isAbove(
        grown((bytes) => packr.unpack(bytes)),
        64 * 1024 * 1024
      )
    })
  )
})

describe("delivery at least once", () => {
  // The n-th connection is lost right behind its first request.
  const losing = (lost: number) => (own: Protocol["Type"]) => {
    let count = 0
    const cut = (connection: Connection): Connection => {
      if (++count > lost) return connection
      let broken = false
      const gone = new ProtocolError({ reason: "Disconnected", protocol: "memory", detail: "cut", outcome: "Unknown" })
      const cutting = Effect.suspend(() => (broken ? Effect.fail(gone) : connection.receive))
      return {
        ...connection,
        offer: undefined,
        send: (frame) =>
          Effect.suspend(() => {
            if (broken) return Effect.fail(gone)
            const message = Message.decode(frame)
            broken = message._tag === "Right" && message.right._tag === "Request"
            return connection.send(frame)
          }),
        receiveWith: undefined,
        receive: Effect.flatMap(cutting, (frames) => (broken ? Effect.fail(gone) : Effect.succeed(frames)))
      }
    }
    return [Layer.succeed(Protocol, { ...own, connect: (...given) => Effect.map(own.connect(...given), cut) })]
  }

  it.scopedLive("the same primary handles it once, and the reply arrives", () =>
    Effect.gen(function* () {
      const place = yield* memoryWorld
      const seen: Array<string> = []
      yield* leader(place, {}, (primary) =>
        primary.serve((request, launch) =>
          Effect.sync(() => {
            seen.push(launch.message)
            return `re: ${request}`
          })
        )
      )
      const { instance } = yield* place.member(Desk, { protocols: losing(2) })
      const delivered = yield* instance.send("a", { delivery: "at-least-once" })
      assert.strictEqual(delivered.reply, "re: a")
      assert.deepStrictEqual(seen, [delivered.message])
    })
  )

  // A primary that dies amid its first request.
  const dying = Effect.gen(function* () {
    const place = yield* memoryWorld
    const seen: Array<{ readonly message: string; readonly redelivered: boolean }> = []
    const note = ({ message, redelivered }: Primary.IncomingLaunch) =>
      Effect.sync(() => seen.push({ message, redelivered }))
    const { process } = yield* leader(place, {}, (primary) =>
      primary.serve((_, launch) => Effect.zipRight(note(launch), Effect.never))
    )
    const { instance } = yield* place.member(Desk)
    const crash = Effect.zipRight(
      until(
        "the request",
        Effect.sync(() => seen.length === 1)
      ),
      process.crash
    )
    return { place, seen, note, instance, crash }
  })

  it.scopedLive("the next primary gets it with the same id, and is told", () =>
    Effect.gen(function* () {
      const { crash, instance, note, place, seen } = yield* dying
      const sending = yield* Effect.fork(instance.send("a", { delivery: "at-least-once" }))
      yield* crash
      yield* leader(place, {}, (primary) =>
        primary.serve((request, launch) => Effect.as(note(launch), `next: ${request}`))
      )
      const { message, reply } = yield* Fiber.join(sending)
      assert.strictEqual(reply, "next: a")
      assert.deepStrictEqual(seen, [
        { message, redelivered: false },
        { message, redelivered: true }
      ])
    })
  )

  it.scopedLive("a sender that becomes the primary itself is told", () =>
    Effect.gen(function* () {
      const { crash, instance, seen } = yield* dying
      const electing = yield* Effect.fork(instance.elect("a", { delivery: "at-least-once" }))
      yield* crash
      const verdict = yield* Fiber.join(electing)
      assert(verdict._tag === "Primary")
      assert.deepStrictEqual([verdict.request, verdict.redelivered, seen.length], ["a", true, 1])
    })
  )

  it.scopedLive("is not what is done unasked: the outcome is unknown", () =>
    Effect.gen(function* () {
      const { crash, instance, seen } = yield* dying
      const electing = yield* Effect.fork(Effect.flip(instance.elect("a")))
      yield* crash
      const error = yield* Fiber.join(electing)
      assert(ProtocolError.is(error))
      assert.deepStrictEqual([error.outcome, seen.length], ["Unknown", 1])
    })
  )

  it.scopedLive("does not go out again where the limit that the sender asked for is over", () =>
    Effect.gen(function* () {
      const place = yield* memoryWorld
      const seen: Array<string> = []
      yield* leader(place, undefined, (primary) =>
        primary.serve((request) =>
          Effect.zipRight(
            Effect.sync(() => seen.push(request)),
            Effect.never
          )
        )
      )
      const { instance } = yield* place.member(Desk)
      const options = { delivery: "at-least-once", replyTimeout: "200 millis" } as const
      const error = yield* Effect.flip(instance.send("a", options))
      assert(TimeoutError.is(error))
      assert.deepStrictEqual([error.phase, error.outcome, error.millis], ["reply", "Unknown", 200])
      assert.deepStrictEqual(seen, ["a"])
    })
  )

  it.scopedLive("never says NotDelivered of what an earlier primary may have handled", () =>
    Effect.gen(function* () {
      const { crash, place, seen } = yield* dying
      const { instance } = yield* place.member(Desk, { timeout: "1 second" })
      const sending = yield* Effect.fork(Effect.flip(instance.send("a", { delivery: "at-least-once" })))
      yield* crash
      const error = yield* Fiber.join(sending)
      assert(ProtocolError.is(error))
      assert.deepStrictEqual([error.outcome, seen.length], ["Unknown", 1])
    })
  )
})

describe("a handler that asks for the shutdown", () => {
  const quitting = (also: (request: string) => Effect.Effect<string>) =>
    Effect.gen(function* () {
      const place = yield* memoryWorld
      const seen: Array<string> = []
      yield* leader(place, undefined, (primary) =>
        primary.serve((request) => {
          seen.push(request)
          return request.startsWith("quit") ? Effect.as(primary.shutdown, `${request}: bye`) : also(request)
        })
      )
      const send = (text: string) =>
        Effect.flatMap(place.member(Desk, { timeout: "3 seconds" }), ({ instance }) =>
          Effect.map(instance.send(text), ({ reply }) => reply)
        )
      return { seen, send }
    })

  it.scopedLive("does not wait for itself, and its sender gets the reply", () =>
    Effect.gen(function* () {
      const { send } = yield* quitting(() => Effect.never)
      assert.strictEqual(yield* send("quit"), "quit: bye")
    })
  )

  it.scopedLive("waits for the others, but not for those who do the same", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const { seen, send } = yield* quitting((request) => Effect.as(Deferred.await(gate), `re: ${request}`))
      const slow = yield* Effect.fork(send("slow"))
      yield* until(
        "the slow one",
        Effect.sync(() => seen.includes("slow"))
      )
      const quits = yield* Effect.forEach(["quit 1", "quit 2"], (text) => Effect.fork(send(text)))
      yield* until(
        "one that asks",
        Effect.sync(() => seen.some((text) => text.startsWith("quit")))
      )
      yield* Effect.sleep(100)
      for (const quit of quits) assert.isTrue(Option.isNone(yield* quit.poll))
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual(yield* Fiber.join(slow), "re: slow")
      const replies = yield* Effect.forEach(quits, (quit) => Effect.either(Fiber.join(quit)))
      // The second one may have come too late to be taken.
      assert.isTrue(replies.some((reply) => reply._tag === "Right" && reply.right.endsWith("bye")))
    })
  )
})

describe("the endpoints of a primary", () => {
  it.scopedLive.skipIf(process.platform === "win32")("are opened again where a cleaner removed the file", () =>
    Effect.gen(function* () {
      const place = yield* fileWorld
      const { primary } = yield* leader(place)
      const other = yield* place.member(Desk)
      const { location } = yield* other.instance.inspect
      const held = yield* other.instance.connect
      for (let round = 0; round < 3; round++) {
        const [endpoint] = primary.endpoints
        const file = path.join(
          fs.statSync(location).isDirectory() ? location : path.dirname(location),
          endpoint!.address.slice("unix:".length)
        )
        fs.rmSync(file)
        yield* until(
          "another socket",
          Effect.sync(() => fs.existsSync(file))
        )
        const { instance } = yield* place.member(Desk)
        assert.strictEqual((yield* instance.send("a")).reply, "re: a")
      }
      // Who was connected stays so.
      assert.strictEqual(yield* held.send("b"), "re: b")
    })
  )
})
