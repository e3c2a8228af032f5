/**
 * What a conversation must be over every protocol and in every encoding: what two processes say to each other arrives
 * whole, once and in order; who lies, breaks off or keeps silent harms nobody else.
 */
import * as net from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Either, Exit, Fiber, Ref, Schema, Scope } from "effect"
import { type Message, type Primary, SingleInstance } from "effect-single-instance"
import { InstanceId } from "effect-single-instance/InstanceId"
import { maxStrangerBytes } from "effect-single-instance/Protocol"
import { ProtocolError, TimeoutError } from "effect-single-instance/SingleInstanceError"
import { greet, knock, type MemberOptions, type Peer, pretender, spying, type World } from "../simulation.js"
import { largeIf } from "../size.js"
import { Work as CutWork, cutEverywhere, kinds, realTime } from "./Delivery.js"
import { noFrames, noMessages, pack, samples, wrongFields } from "./hostile.js"
import { bytes, settled } from "./Protocol.js"

class Refusal extends Schema.TaggedError<Refusal>()("Refusal", { why: Schema.String }) {}

class Work extends SingleInstance.Tag<Work>()("test.contract", {
  request: Schema.String,
  reply: Schema.String,
  failure: Refusal
}) {}

class Binary extends SingleInstance.Tag<Binary>()("test.contract.binary", {
  request: Schema.Uint8ArrayFromBase64,
  reply: Schema.Uint8ArrayFromBase64
}) {}

type Handler = (request: string, launch: Primary.IncomingLaunch) => Effect.Effect<string, Refusal, Scope.Scope>

export interface Options {
  /** What the secondaries ask for. */
  readonly encoding: Message.Encoding
  /** The transport vouches for both sides: nobody proves anything. */
  readonly vouched?: boolean
  /** How many requests are under way at once, 1,000 if left out. */
  readonly requests?: number
  /** What a handler may be ahead of a sender that takes no output, the system's buffers included; 6 MiB if left out. */
  readonly bufferedBytes?: number
  /** The conversations that are cut at every frame, all kinds if left out. */
  readonly cut?: ReadonlyArray<string>
  /** Every so many of the messages with a wrong field is sent, all of them if left out. */
  readonly every?: number
  /** How many questions are asked at once, 500 if left out. */
  readonly questions?: number
  /** How a stranger reaches an address beneath the frames. */
  readonly socket?: (address: string, directory: string) => net.NetConnectOpts
}

const limit = 16 * 1024 * 1024

/** Text of so many bytes in UTF-8: characters of one to four bytes, and those that encodings write in another way. */
export const text = (size: number): string => 'a\0é€🙂\n"\\'.repeat(Math.floor(size / 14)) + "x".repeat(size % 14)

/** The same without those: it is as long in JSON. */
const plain = (size: number): string => "🙂".repeat(Math.floor(size / 4)) + "x".repeat(size % 4)

/** What is no well-formed Unicode, which JSON alone can say. */
const odd = [
  'nul \0, line\nfeed, "quotes", \\ud800, emoji 🙂, |, __proto__ ',
  "\ud800 alone",
  "\udc00\ud800",
  `${text(70_000)}\ud83d`
]

export const echo: Handler = (request) => Effect.succeed(`re: ${request}`)

/** A process that leads with this handler until the scope closes. */
export const leading = (world: World, handler: Handler = echo, options?: MemberOptions) =>
  Effect.gen(function* () {
    const { instance } = yield* world.member(Work, options)
    const verdict = yield* instance.elect("first")
    assert(verdict._tag === "Primary")
    yield* verdict.serve(handler)
    return verdict
  })

/** A conversation with it. */
const connecting = (world: World, options?: MemberOptions) =>
  Effect.flatMap(world.member(Work, options), ({ instance }) => instance.connect)

/** A launch from beginning to end. */
const isServed = (world: World, options?: MemberOptions) =>
  Effect.gen(function* () {
    const { instance } = yield* world.member(Work, { timeout: "10 seconds", ...options })
    return (yield* instance.send("a launch")).reply === "re: a launch"
  }).pipe(Effect.scoped)

/** Says this, and hears what comes until a Pong or the end. */
const provoke = (peer: Peer, frames: ReadonlyArray<Uint8Array>) =>
  Effect.gen(function* () {
    // The other side may have ended it before all was said.
    yield* Effect.ignore(Effect.forEach(frames, peer.say, { discard: true }))
    yield* Effect.ignore(peer.say({ _tag: "Ping" }))
    const heard: Array<Message.Message | Message.Unrecognised> = []
    while (true) {
      const next = yield* Effect.either(peer.hear)
      if (Either.isLeft(next)) return { heard, isOver: true, error: next.left }
      if (next.right._tag === "Pong") return { heard, isOver: false, error: undefined }
      heard.push(next.right)
    }
  }).pipe(Effect.timeoutFail({ duration: "30 seconds", onTimeout: () => new Error("neither an answer nor an end") }))

const errorOf = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) =>
  Effect.map(Effect.flip(Effect.scoped(effect)), (error) => {
    assert(ProtocolError.is(error) || TimeoutError.is(error), String(error))
    return error
  })

const tags = (messages: ReadonlyArray<Message.Message | Message.Unrecognised>) => messages.map(({ _tag }) => _tag)

const inTurns = { concurrency: 8, discard: true } as const

/**
 * What every protocol must make possible. `world` makes whatever the processes of one test share.
 */
export const suite = (name: string, world: Effect.Effect<World, never, Scope.Scope>, options: Options): void => {
  const { encoding, vouched = false } = options
  const requests = options.requests ?? 1_000
  const questions = options.questions ?? 500
  const bufferedBytes = options.bufferedBytes ?? 6 * 1024 * 1024
  const own = { encoding }

  describe(`${name}, ${encoding}`, () => {
    it.scopedLive("texts of 0 B to 1 MiB arrive as they were, and so do replies, launches and output", () =>
      Effect.gen(function* () {
        const place = yield* world
        const launches: Array<Primary.IncomingLaunch> = []
        yield* leading(place, (request, launch) =>
          Effect.zipRight(
            Effect.sync(() => launches.push(launch)),
            Effect.as(launch.stderr(request), request)
          )
        )
        const frames: Array<Uint8Array> = []
        const client = yield* connecting(place, { ...own, protocols: spying(frames) })
        const output: Array<Buffer> = []
        const onOutput = (_: string, chunk: Uint8Array) => Effect.sync(() => output.push(Buffer.from(chunk)))
        for (const request of [...[0, 1, 65_535, 65_536, 65_537, 1024 * 1024].map(text), ...odd, "done"]) {
          const launch = { argv: [request.slice(0, 100), ""], data: { n: [1.5, -1, 2 ** 40, null], [odd[0]!]: [{}] } }
          output.length = 0
          assert.isTrue((yield* client.send(request, { launch, onOutput })) === request, `${request.length} characters`)
          // Bytes have no lone surrogates.
          assert.isTrue(Buffer.concat(output).equals(Buffer.from(request)), `output of ${request.length} characters`)
          const { argv, data } = launches.at(-1)!
          assert.deepStrictEqual({ argv, data }, launch)
        }
        assert.strictEqual(frames.at(-1)![0] === 0x7b ? "json" : "msgpack", encoding)
      })
    )

    it.scopedLive("bytes of 0 B to 1 MiB arrive as they were, and so do replies", () =>
      Effect.gen(function* () {
        const place = yield* world
        const leader = yield* (yield* place.member(Binary)).instance.elect(new Uint8Array())
        assert(leader._tag === "Primary")
        yield* leader.serve((request) => Effect.succeed(request.toReversed()))
        const client = yield* (yield* place.member(Binary, own)).instance.connect
        for (const size of [0, 1, 65_535, 65_536, 65_537, 1024 * 1024]) {
          const reply = yield* client.send(bytes(size, size))
          assert.isTrue(Buffer.from(reply).equals(bytes(size, size).toReversed()), `${size} bytes`)
        }
      })
    )

    it.scopedLive("a frame of exactly 16 MiB passes each way, and one byte more is refused @large", () =>
      Effect.gen(function* () {
        const place = yield* world
        let handled = 0
        yield* leading(place, (request) =>
          Effect.sync(() => {
            handled++
            return request.startsWith("give ") ? plain(Number(request.slice(5))) : `${Buffer.byteLength(request)}`
          })
        )
        const client = yield* connecting(place, own)
        assert.strictEqual(yield* client.send("a"), "1")
        // The error says how large the frame would have been: what is above the payload is known then.
        const around = (said: unknown) => Number(/has (\d+) bytes/.exec(String(said))![1]) - limit
        const refused = yield* errorOf(client.send(plain(limit)))
        assert.deepStrictEqual([refused.reason, refused.outcome], ["TooLarge", "NotDelivered"])
        const most = limit - around(refused)
        assert.strictEqual((yield* errorOf(client.send(plain(most + 1)))).reason, "TooLarge")
        assert.strictEqual(yield* client.send(plain(most)), `${most}`)
        assert.strictEqual(handled, 2)

        const unsaid = yield* errorOf(client.send(`give ${limit}`))
        assert.deepStrictEqual([unsaid.reason, unsaid.outcome], ["HandlerDefect", "Delivered"])
        const largest = limit - around((unsaid as ProtocolError).cause)
        assert.strictEqual((yield* errorOf(client.send(`give ${largest + 1}`))).reason, "HandlerDefect")
        assert.isTrue((yield* client.send(`give ${largest}`)) === plain(largest))
        assert.strictEqual(yield* client.send("goes on"), "7")
        assert.strictEqual(handled, 6)
      })
    )

    it.scopedLive("the smaller limit of both holds, and the conversation goes on", () =>
      Effect.gen(function* () {
        const place = yield* world
        const seen: Array<number> = []
        yield* leading(
          place,
          (request, { stdout }) =>
            Effect.suspend(() => {
              seen.push(request.length)
              return Effect.as(stdout(plain(300_000)), request === "give" ? plain(150_000) : "short")
            }),
          { maxFrameBytes: 200_000 }
        )
        const receiving = () => {
          const output: Array<Uint8Array> = []
          const onOutput = (_: string, chunk: Uint8Array) => Effect.sync(() => output.push(chunk))
          return { onOutput, isWhole: () => Buffer.concat(output).equals(Buffer.from(plain(300_000))) }
        }
        // The sender could say more than the primary reads.
        const larger = yield* connecting(place, own)
        const [first, second] = [receiving(), receiving()]
        assert.strictEqual(yield* larger.send("a", first), "short")
        assert.isTrue(first.isWhole())
        const refused = yield* errorOf(larger.send(plain(250_000)))
        assert.deepStrictEqual([refused.reason, refused.outcome], ["TooLarge", "NotDelivered"])
        assert.isTrue((yield* larger.send("give", second)) === plain(150_000))
        assert.isTrue(second.isWhole())
        // The primary could say more than the sender reads.
        const smaller = yield* connecting(place, { ...own, maxFrameBytes: 100_000 })
        const [third, fourth] = [receiving(), receiving()]
        const unsaid = yield* errorOf(smaller.send("give", third))
        assert.deepStrictEqual([unsaid.reason, unsaid.outcome], ["HandlerDefect", "Delivered"])
        assert.isTrue(third.isWhole())
        assert.strictEqual(yield* smaller.send("bc", fourth), "short")
        assert.deepStrictEqual(seen, [1, 4, 4, 2])
        // Said before it can be known what the primary reads.
        const early = yield* connecting(place, own)
        const lost = yield* errorOf(early.send(plain(250_000)))
        assert.strictEqual(lost.outcome, "NotDelivered")
        assert.deepStrictEqual(seen, [1, 4, 4, 2])
      })
    )

    for (const maxInFlight of [64, requests]) {
      it.scopedLive(`${requests} requests, ${maxInFlight} in flight: each gets its reply, and all start in order`, () =>
        Effect.gen(function* () {
          const place = yield* world
          const started: Array<number> = []
          let running = 0
          let most = 0
          const full = yield* Deferred.make<void>()
          yield* leading(
            place,
            (request) =>
              Effect.gen(function* () {
                started.push(Number(request))
                most = Math.max(most, ++running)
                if (started.length === maxInFlight) yield* Deferred.succeed(full, undefined)
                yield* Deferred.await(full)
                yield* Effect.yieldNow()
                running--
                return `re: ${request}`
              }),
            { maxInFlight }
          )
          const client = yield* connecting(place, { ...own, maxInFlight })
          const numbers = Array.from({ length: requests }, (_, n) => n)
          const replies = yield* Effect.forEach(numbers, (n) => client.send(`${n}`), { concurrency: "unbounded" })
          assert.deepStrictEqual(
            replies,
            numbers.map((n) => `re: ${n}`)
          )
          assert.deepStrictEqual(started, numbers)
          assert.strictEqual(most, maxInFlight)
        })
      )
    }

    it.scopedLive("4 MiB of output on both streams arrive in the order in which they were written", () =>
      Effect.gen(function* () {
        const place = yield* world
        const chunks = Array.from({ length: 40 }, (_, n) => bytes(((n * 37) % 41) * 5_000 + 1, n))
        const isOut = (n: number) => n % 2 === 0
        yield* leading(place, (request, { stderr, stdout }) =>
          Effect.as(
            Effect.forEach(chunks, (chunk, n) => (isOut(n) ? stdout(chunk) : stderr(chunk)), { discard: true }),
            request
          )
        )
        const client = yield* connecting(place, own)
        const heard: Array<{ readonly stream: string; readonly parts: Array<Uint8Array> }> = []
        const onOutput = (stream: string, chunk: Uint8Array) =>
          Effect.sync(() => {
            if (heard.at(-1)?.stream !== stream) heard.push({ stream, parts: [] })
            heard.at(-1)!.parts.push(chunk)
          })
        yield* client.send("a", { onOutput })
        assert.lengthOf(heard, chunks.length)
        heard.forEach(({ parts, stream }, n) => {
          assert.strictEqual(stream, isOut(n) ? "stdout" : "stderr")
          assert.isTrue(Buffer.concat(parts).equals(chunks[n]!), `chunk ${n}`)
        })
      })
    )

    it.scopedLive("a handler is held up while its sender takes no output, and nothing is lost", () =>
      Effect.gen(function* () {
        const place = yield* world
        const { arrived, stopped, written } = yield* flooding(place, own, bufferedBytes)
        assert.isAbove(stopped, 0)
        assert.isBelow(stopped, bufferedBytes, "the handler was not held up")
        assert.strictEqual(arrived, written)
      })
    )

    it.scopedLive("failures, defects and interruptions of the handler arrive as what they are", () =>
      Effect.gen(function* () {
        const place = yield* world
        yield* leading(place, (request) => {
          switch (request) {
            case "fail":
              return new Refusal({ why: odd[0]! })
            case "fail later":
              return Effect.zipRight(Effect.sleep("20 millis"), new Refusal({ why: text(1_000_000) }))
            case "die":
              return Effect.die(new RangeError("broken \0"))
            case "die of a value":
              return Effect.die({ n: [1] })
            case "throw":
              throw new Error("thrown")
            case "interrupt":
              return Effect.interrupt
            default:
              return echo(request, undefined as never)
          }
        })
        const client = yield* connecting(place, own)
        for (const [request, why] of [
          ["fail", odd[0]],
          ["fail later", text(1_000_000)]
        ] as const) {
          const failure = yield* Effect.flip(client.send(request))
          assert(failure instanceof Refusal)
          assert.isTrue(failure.why === why)
        }
        for (const [request, cause] of [
          ["die", new RangeError("broken \0")],
          // As the schema of defects has it.
          ["die of a value", '{"n":[1]}'],
          ["throw", new Error("thrown")]
        ] as const) {
          const error = yield* errorOf(client.send(request))
          assert(ProtocolError.is(error))
          assert.deepStrictEqual([error.reason, error.outcome], ["HandlerDefect", "Delivered"])
          if (cause instanceof Error) assert.include(error.cause, { name: cause.name, message: cause.message })
          else assert.strictEqual(error.cause, cause)
        }
        const interrupted = yield* errorOf(client.send("interrupt"))
        assert.deepStrictEqual([interrupted.reason, interrupted.outcome], ["HandlerInterrupted", "Delivered"])
        assert.strictEqual(yield* client.send("goes on"), "re: goes on")
      })
    )

    it.scopedLive("an interruption travels both ways: of a sender, of one that goes away, of a primary that ends", () =>
      Effect.gen(function* () {
        const place = yield* world
        const began = new Map<string, Deferred.Deferred<void>>()
        const ended = new Map<string, Deferred.Deferred<string>>()
        for (const request of ["sender", "connection", "primary"]) {
          began.set(request, yield* Deferred.make<void>())
          ended.set(request, yield* Deferred.make<string>())
        }
        const primary = yield* Scope.make()
        yield* Scope.extend(
          leading(
            place,
            (request) =>
              began.has(request)
                ? Effect.onExit(
                    Effect.zipRight(Deferred.succeed(began.get(request)!, undefined), Effect.never),
                    (exit) => Deferred.succeed(ended.get(request)!, Exit.isInterrupted(exit) ? "interrupted" : "ended")
                  )
                : echo(request, undefined as never),
            { drain: "300 millis" }
          ),
          primary
        )
        const fate = (request: string) => Deferred.await(ended.get(request)!)
        const connection = yield* Scope.make()
        const client = yield* connecting(place, own)
        const other = yield* Scope.extend(connecting(place, own), connection)

        const sending = yield* Effect.fork(client.send("sender"))
        yield* Deferred.await(began.get("sender")!)
        assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(sending)))
        assert.strictEqual(yield* fate("sender"), "interrupted")
        assert.strictEqual(yield* client.send("goes on"), "re: goes on")

        yield* Effect.forkDaemon(Effect.ignore(other.send("connection")))
        yield* Deferred.await(began.get("connection")!)
        yield* Scope.close(connection, Exit.void)
        assert.strictEqual(yield* fate("connection"), "interrupted")
        assert.strictEqual(yield* client.send("goes on"), "re: goes on")

        const last = yield* Effect.fork(errorOf(client.send("primary")))
        yield* Deferred.await(began.get("primary")!)
        yield* Scope.close(primary, Exit.void)
        assert.strictEqual(yield* fate("primary"), "interrupted")
        const error = yield* Fiber.join(last)
        assert.deepStrictEqual([error.reason, error.outcome], ["HandlerInterrupted", "Delivered"])
      })
    )

    for (const kind of options.cut ?? Object.keys(kinds)) {
      const large = largeIf(!["answers at once", "fails"].includes(kind))
      it.scopedLive(`cut at any frame the sender is told the truth: a handler that ${kind}${large}`, () =>
        Effect.gen(function* () {
          const place = yield* world
          const outcomes = yield* cutEverywhere(place, realTime, kind, yield* place.member(CutWork), own)
          assert.include(outcomes, "Delivered")
        })
      )
    }

    // What the primary has done when it is gone from one instant to the next, and what its sender may be told then.
    const moments = {
      "before its greeting": ["NotDelivered"],
      "behind its greeting": ["NotDelivered", "Unknown"],
      "with the request in hand": ["Unknown"],
      "behind its acceptance": ["Unknown"],
      "behind output": ["Unknown"],
      "behind the exit": ["Delivered"]
    } as const
    for (const [moment, allowed] of Object.entries(moments)) {
      it.scopedLive(`a primary that is gone ${moment} is not taken for what it was not`, () =>
        Effect.gen(function* () {
          const place = yield* world
          const alive = yield* Scope.make()
          yield* Effect.addFinalizer(() => Scope.close(alive, Exit.void))
          const gone = Effect.zipRight(Effect.sleep("50 millis"), Scope.close(alive, Exit.void))
          const speaker = yield* Scope.extend(pretender(yield* place.outsider, Work.key), alive)
          const playing = Effect.gen(function* () {
            if (moment === "before its greeting") return yield* Effect.zipRight(speaker.accept, gone)
            const peer = yield* speaker.serve()
            if (moment === "behind its greeting") return yield* gone
            const { id } = yield* peer.expect("Request")
            if (moment === "with the request in hand") return yield* gone
            yield* peer.say({ _tag: "Accepted", id })
            if (moment === "behind its acceptance") return yield* gone
            yield* peer.say({ _tag: "Output", id, stream: "stdout", chunk: "YQ==" })
            if (moment === "behind output") return yield* gone
            yield* peer.say({ _tag: "Exit", id, exit: { _tag: "Success", value: "re: a" } })
            return yield* gone
          })
          const ending = yield* Effect.forkDaemon(Scope.extend(playing, alive))
          const exit = yield* Effect.exit(
            Effect.scoped(
              Effect.flatMap(connecting(place, { ...own, timeout: "2 seconds", helloTimeout: "1 seconds" }), (client) =>
                client.send("a", { onOutput: () => Effect.void })
              )
            )
          )
          const outcome = yield* Exit.match(exit, {
            onSuccess: (reply) => Effect.succeed(reply === "re: a" ? "Delivered" : reply),
            onFailure: (cause) => Effect.map(errorOf(Effect.failCause(cause)), (error) => error.outcome)
          })
          assert.include(allowed, outcome)
          yield* Fiber.join(ending)
        })
      )
    }

    it.scopedLive("a primary that says nothing is given up, and nothing was delivered", () =>
      Effect.gen(function* () {
        const place = yield* world
        const speaker = yield* pretender(yield* place.outsider, Work.key)
        yield* speaker.accept.pipe(Effect.forever, Effect.interruptible, Effect.forkScoped)
        const times = { timeout: "1 seconds", helloTimeout: "300 millis" } as const
        const error = yield* errorOf(Effect.flatMap(connecting(place, { ...own, ...times }), (_) => _.send("a")))
        assert(TimeoutError.is(error), error.message)
        // Where nobody proves anything, the greeting is not waited for; a request that nobody took is taken back.
        assert.deepStrictEqual([error.phase, error.outcome], [vouched ? "accept" : "hello", "NotDelivered"])
      })
    )

    it.scopedLive("strangers that say nothing, or only half of the hello, are closed and hold up nobody", () =>
      Effect.gen(function* () {
        const place = yield* world
        yield* leading(place, echo, { helloTimeout: "1 seconds" })
        const outsider = yield* place.outsider
        const silent = yield* Effect.replicateEffect(knock(outsider, Work.key), 5)
        const half = yield* Effect.replicateEffect(knock(outsider, Work.key), vouched ? 0 : 5)
        for (const { peer } of half) {
          yield* peer.say({ _tag: "Hello", wire: [1, 1], id: Work.key, nonce: "0".repeat(32) })
          yield* peer.expect("Welcome")
        }
        const client = yield* connecting(place, own)
        assert.strictEqual(yield* client.send("meanwhile"), "re: meanwhile")
        const ends = yield* Effect.forEach([...silent, ...half], ({ peer }) => peer.rest, { concurrency: "unbounded" })
        assert.isTrue(ends.every((messages) => messages.length === 0))
        // Who introduced itself may be silent for as long as it likes.
        assert.strictEqual(yield* client.send("afterwards"), "re: afterwards")
        assert.isTrue(yield* isServed(place, own))
      })
    )

    it.scopedLive("the wrong key serves neither side, and nothing is handed over", () =>
      Effect.gen(function* () {
        const place = yield* world
        const seen: Array<string> = []
        const note: Handler = (request) =>
          Effect.as(
            Effect.sync(() => seen.push(request)),
            `re: ${request}`
          )
        const scope = yield* Scope.make()
        yield* Scope.extend(leading(place, note), scope)
        const { peer, record } = yield* knock(yield* place.outsider, Work.key)
        assert.strictEqual(peer.connection.vouched === true, vouched)
        const greeting = yield* greet(peer, record, Work.key, { key: "0".repeat(64), encoding })
        assert.strictEqual(greeting._tag, "Welcome")
        const { heard, isOver } = yield* provoke(peer, [pack({ _tag: "Request", id: "1", payload: "b" }, encoding)])
        // The directory vouches for whoever can write into it: there the key is not asked for.
        assert.deepStrictEqual(tags(heard), [vouched ? "Exit" : "Refused"])
        assert.strictEqual(isOver, !vouched)
        if (!vouched) assert.strictEqual((heard[0] as typeof Message.Refused.Type).reason, "Forbidden")
        assert.deepStrictEqual(seen, vouched ? ["b"] : [])
        // But it must mean this instance.
        const { peer: stray } = yield* knock(yield* place.outsider, Work.key)
        const refused = yield* greet(stray, record, Work.key, { id: "test.other", encoding })
        assert(refused._tag === "Refused")
        assert.strictEqual(refused.reason, "Forbidden")
        assert.deepStrictEqual(yield* stray.rest, [])
        yield* Scope.close(scope, Exit.void)

        if (vouched) return
        const speaker = yield* pretender(yield* place.outsider, Work.key)
        const heardOf: Array<string> = []
        yield* Effect.gen(function* () {
          const peer = yield* speaker.accept
          yield* peer.say(speaker.welcome(yield* peer.expect("Hello"), { mac: "0".repeat(64) }))
          heardOf.push(...tags(yield* peer.rest))
        }).pipe(Effect.forkScoped)
        const error = yield* errorOf(Effect.flatMap(connecting(place, own), (client) => client.send("c")))
        assert.deepStrictEqual([error.reason, error.outcome], ["Forbidden", "NotDelivered"])
        assert.deepStrictEqual(heardOf, [])
      })
    )

    it.scopedLive("old and new versions of the wire serve each other, and disjoint ones say so", () =>
      Effect.gen(function* () {
        const place = yield* world
        const scope = yield* Scope.make()
        yield* Scope.extend(leading(place), scope)
        for (const [wire, isFit] of [
          [[1, 1], true],
          [[1, 2], true],
          [[0, 1], true],
          [[2, 9], false],
          [[0, 0], false]
        ] as const) {
          const { peer, record } = yield* knock(yield* place.outsider, Work.key)
          const answer = yield* greet(peer, record, Work.key, { wire, encoding })
          if (isFit) {
            assert(answer._tag === "Welcome")
            assert.strictEqual(answer.wire, 1)
            const { heard } = yield* provoke(peer, [pack({ _tag: "Request", id: `${wire}`, payload: "a" }, encoding)])
            assert.deepStrictEqual(tags(heard), ["Exit"])
          } else {
            assert(answer._tag === "Refused")
            assert.strictEqual(answer.reason, "Incompatible")
            assert.deepStrictEqual(yield* peer.rest, [])
          }
        }
        yield* Scope.close(scope, Exit.void)

        const speaker = yield* pretender(yield* place.outsider, Work.key)
        const send = Effect.flatMap(connecting(place, own), (client) => client.send("a"))
        const newer = yield* Effect.fork(Effect.scoped(send))
        const peer = yield* speaker.serve({ range: [1, 2] })
        const { id } = yield* peer.expect("Request")
        yield* peer.say({ _tag: "Exit", id, exit: { _tag: "Success", value: "newer" } })
        assert.strictEqual(yield* Fiber.join(newer), "newer")
        const foreign = yield* Effect.fork(errorOf(send))
        const stranger = yield* speaker.accept
        yield* stranger.expect("Hello")
        yield* stranger.say({ _tag: "Refused", reason: "Incompatible", detail: "the primary speaks wire 2,3" })
        const error = yield* Fiber.join(foreign)
        assert.deepStrictEqual([error.reason, error.outcome], ["Incompatible", "NotDelivered"])
      })
    )

    it.scopedLive("hostile bytes before the hello end the connection, and reach nobody", () =>
      Effect.gen(function* () {
        const place = yield* world
        const seen: Array<string> = []
        yield* leading(place, (request) =>
          Effect.as(
            Effect.sync(() => seen.push(request)),
            `re: ${request}`
          )
        )
        const client = yield* connecting(place, own)
        const outsider = yield* place.outsider
        const hello = { _tag: "Hello", wire: [1, 1], id: Work.key, nonce: "0".repeat(32) }
        const request = pack({ _tag: "Request", id: "1", payload: "hostile" }, encoding)
        const said: Record<string, ReadonlyArray<Uint8Array>> = {
          "a large frame": [Buffer.alloc(maxStrangerBytes, 0x20)],
          "a frame that is too large": [Buffer.alloc(maxStrangerBytes + 1, 0x20)],
          "an unknown tag": [pack({ _tag: "Frobnicate", id: "1" }, encoding)],
          "a hello without what vouching needs": vouched ? [pack(hello, encoding), request] : [],
          "a hello of another instance": [pack({ ...hello, id: "test.other" }, encoding), request],
          "a hello with a range that is none": [pack({ ...hello, wire: [2, 1] }, encoding), request]
        }
        for (const [name, frame] of Object.entries(noMessages)) said[name] = [frame]
        for (const [tag, fields] of Object.entries(samples("1"))) {
          said[`${tag} first`] = [pack({ _tag: tag, ...fields }, encoding), request]
          if (!vouched && tag !== "Hello") {
            said[`${tag} for the proof`] = [pack(hello, encoding), pack({ _tag: tag, ...fields }, encoding), request]
          }
        }
        if (!vouched) {
          const proof = pack({ _tag: "Proof", ...samples("1").Proof }, encoding)
          said["a request for the proof"] = [pack(hello, encoding), request]
          said["hello twice"] = [pack(hello, encoding), pack(hello, encoding), request]
          said["a wrong proof twice"] = [pack(hello, encoding), proof, proof, request]
        }
        assert.isAbove(Object.keys(said).length, 50)
        yield* Effect.forEach(
          Object.entries(said),
          ([name, frames]) =>
            Effect.scoped(
              Effect.gen(function* () {
                if (frames.length === 0) return
                const { peer } = yield* knock(outsider, Work.key)
                const { heard, isOver } = yield* provoke(peer, frames)
                assert.isTrue(isOver, name)
                for (const message of heard) assert.include(["Welcome", "Refused"], message._tag, name)
                assert.strictEqual(yield* client.send(name), `re: ${name}`)
              })
            ),
          inTurns
        )
        assert.notInclude(seen, "hostile")
        assert.isTrue(yield* isServed(place, own))
      })
    )

    it.scopedLive("a peer that proved itself may say anything: it ends, or is answered for that alone", () =>
      Effect.gen(function* () {
        const place = yield* world
        const maxFrameBytes = 256 * 1024
        yield* leading(place, echo, { maxFrameBytes })
        const client = yield* connecting(place, own)
        const outsider = yield* place.outsider
        const request = (id: unknown, fields: object = {}) =>
          pack({ _tag: "Request", id, payload: "a", ...fields }, encoding)
        const deep = "[".repeat(50_000) + "]".repeat(50_000)
        const polluted = '"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}'
        const launch = { argv: [], cwd: "", env: {} }
        // With an id of its own each: the primary remembers them.
        const answers: Record<string, readonly [(id: string) => ReadonlyArray<Uint8Array>, ReadonlyArray<string>]> = {
          "an unknown tag": [(id) => [pack({ _tag: "Frobnicate", id }, encoding)], ["Unsupported"]],
          "an unknown tag without a fit id": [() => [pack({ _tag: "Frobnicate", id: {} }, encoding)], ["Unsupported"]],
          "a tag of 100,000 letters": [(id) => [pack({ _tag: "x".repeat(100_000), id }, encoding)], ["Unsupported"]],
          "the tag __proto__": [() => [Buffer.from('{"_tag":"__proto__","id":"1"}')], ["Unsupported"]],
          "the tag constructor": [(id) => [pack({ _tag: "constructor", id }, encoding)], ["Unsupported"]],
          "keys that would pollute prototypes": [
            (id) => [
              Buffer.from(
                `{"_tag":"Request","id":"${id}","payload":"a",${polluted},` +
                  `"launch":{"argv":[],"cwd":"","env":{${polluted.slice(0, 11)}:"b"},${polluted}}}`
              )
            ],
            ["Exit"]
          ],
          "a payload of 50,000 brackets": [
            (id) => [Buffer.from(`{"_tag":"Request","id":"${id}","payload":${deep}}`)],
            ["Refused"]
          ],
          "a payload of another kind": [(id) => [request(id, { payload: { a: [1] } })], ["Refused"]],
          "a payload of another kind, as large as a frame": [
            (id) => [request(id, { payload: { a: '"\\'.repeat((maxFrameBytes - 1_000) / 4) } })],
            ["Refused"]
          ],
          "no payload": [(id) => [pack({ _tag: "Request", id }, encoding)], ["Refused"]],
          "an id twice": [(id) => [request(id), request(id)], ["Exit", "State"]],
          "an id of a minus sign": [() => [request("-")], ["Exit"]],
          "ids like the keys of every object": [() => [request("__proto__"), request("toString")], ["Exit", "Exit"]],
          "a deadline in the past": [(id) => [request(id, { deadline: -1e308 })], ["Refused"]],
          "stdin that is no base64": [(id) => [request(id, { launch: { ...launch, stdin: "\0!" } })], ["Exit"]],
          "a trace that is none": [
            (id) => [request(id, { trace: { traceId: "", spanId: "\0", sampled: true } })],
            ["Exit"]
          ],
          "an interruption of what is not there": [(id) => [pack({ _tag: "Interrupt", id }, encoding)], []],
          "hello and proof twice": [
            (id) =>
              (["Hello", "Proof", "Proof"] as const).map((tag) => pack({ _tag: tag, ...samples(id)[tag] }, encoding)),
            []
          ],
          [`${questions} questions`]: [
            (id) =>
              Array.from({ length: questions }, (_, n) =>
                pack({ _tag: "Status", id: `${id} ${n}`, strike: true }, encoding)
              ),
            Array.from({ length: questions }, () => "State")
          ]
        }
        const replies: Record<string, ReadonlyArray<string>> = {
          Request: ["Exit"],
          Status: ["State"],
          Inspect: ["Inspected"],
          Listen: ["Listening"]
        }
        for (const tag of Object.keys(samples(""))) {
          if (tag === "Ping") continue
          const message = (id: string) => pack({ _tag: tag, ...samples(id)[tag as "Ping"] }, encoding)
          answers[tag] = [(id) => [message(id)], replies[tag] ?? []]
        }
        const ends: Record<string, Uint8Array> = {
          ...noMessages,
          "an id that is negative": request(-1),
          "an id that is empty": request(""),
          "an id of 129 letters": request("x".repeat(129)),
          "a number beyond all bounds": Buffer.from('{"_tag":"Request","id":"1","deadline":1e999}'),
          "spaces up to the limit": Buffer.alloc(maxFrameBytes, 0x20),
          "one byte more than the limit": Buffer.concat([
            Buffer.from('{"_tag":"Ping"}'),
            Buffer.alloc(maxFrameBytes - 14, 0x20)
          ])
        }
        const introduced = Effect.gen(function* () {
          const { peer, record } = yield* knock(outsider, Work.key)
          yield* greet(peer, record, Work.key, { encoding })
          return peer
        })
        yield* Effect.forEach(
          Object.entries(answers),
          ([name, [frames, expected]], n) =>
            Effect.scoped(
              Effect.gen(function* () {
                const { heard, isOver } = yield* provoke(yield* introduced, frames(`id ${n}`))
                assert.deepStrictEqual(tags(heard), expected, name)
                assert.isFalse(isOver, name)
                for (const message of heard) {
                  if (message._tag === "Refused") assert.strictEqual(message.id, `id ${n}`, name)
                  if (message._tag === "Unsupported") assert.isAtMost(message.tag.length, 64, name)
                }
                assert.strictEqual(yield* client.send(name), `re: ${name}`)
              })
            ),
          inTurns
        )
        yield* Effect.forEach(
          Object.entries(ends),
          ([name, frame]) =>
            Effect.scoped(
              Effect.gen(function* () {
                const { heard, isOver } = yield* provoke(yield* introduced, [frame])
                assert.isTrue(isOver, name)
                // What does not fit the frames is refused below the conversation.
                if (frame.byteLength <= maxFrameBytes) assert.deepStrictEqual(tags(heard), ["Refused"], name)
                assert.strictEqual(yield* client.send(name), `re: ${name}`)
              })
            ),
          inTurns
        )
        assert.isUndefined(({} as { polluted?: number }).polluted)
        assert.isTrue(yield* isServed(place, own))
      })
    )

    it.scopedLive("a field of the wrong kind ends the connection that it came over, or nothing", () =>
      Effect.gen(function* () {
        const place = yield* world
        yield* leading(place)
        const client = yield* connecting(place, own)
        const outsider = yield* place.outsider
        const all = wrongFields("1").filter((_, n) => n % (options.every ?? 1) === 0)
        assert.isAbove(all.length, 15)
        let ended = 0
        yield* Effect.forEach(
          all,
          ({ message, name }) =>
            Effect.scoped(
              Effect.gen(function* () {
                const { peer, record } = yield* knock(outsider, Work.key)
                yield* greet(peer, record, Work.key, { encoding })
                const { heard, isOver } = yield* provoke(peer, [pack(message, encoding)])
                if (isOver) {
                  assert.deepStrictEqual(tags(heard), ["Refused"], name)
                  ended++
                }
              })
            ),
          inTurns
        )
        // Some fields may be anything; the most may not.
        assert.isAbove(ended, all.length / 2)
        assert.strictEqual(yield* client.send("a"), "re: a")
        assert.isTrue(yield* isServed(place, own))
      })
    )

    it.scopedLive("a primary that proved itself may say anything: what it says harms its sender alone", () =>
      Effect.gen(function* () {
        const place = yield* world
        const deep = "[".repeat(50_000) + "]".repeat(50_000)
        const exit = (id: string, exit: unknown) => pack({ _tag: "Exit", id, exit }, encoding)
        const rawExit = (id: string, exit: string) => Buffer.from(`{"_tag":"Exit","id":"${id}","exit":${exit}}`)
        // What it says before the exit, and what its sender is told: a reply, or a reason and an outcome.
        const said: Record<string, readonly [(id: string) => Uint8Array, string]> = {
          "an unknown tag": [(id) => pack({ _tag: "Frobnicate", id }, encoding), "after"],
          "an unknown tag of __proto__": [(id) => Buffer.from(`{"_tag":"__proto__","id":"${id}"}`), "after"],
          "an exit that is none": [(id) => exit(id, 42), "Malformed, Delivered"],
          "an exit of nothing": [(id) => exit(id, null), "Malformed, Delivered"],
          "a success without a value": [(id) => exit(id, { _tag: "Success" }), "Malformed, Delivered"],
          "a success of another kind": [(id) => exit(id, { _tag: "Success", value: [] }), "Malformed, Delivered"],
          "a failure without a cause": [(id) => exit(id, { _tag: "Failure" }), "Malformed, Delivered"],
          "a failure of another kind": [
            (id) => exit(id, { _tag: "Failure", cause: { _tag: "Fail", error: { _tag: "__proto__" } } }),
            "Malformed, Delivered"
          ],
          "a success of 50,000 brackets": [
            (id) => rawExit(id, `{"_tag":"Success","value":${deep}}`),
            "Malformed, Delivered"
          ],
          "a cause of 50,000 causes": [
            (id) =>
              rawExit(
                id,
                '{"_tag":"Failure","cause":' +
                  '{"_tag":"Sequential","left":{"_tag":"Empty"},"right":'.repeat(50_000) +
                  '{"_tag":"Empty"}' +
                  "}".repeat(50_001)
              ),
            "Malformed, Delivered"
          ],
          "a refusal of all": [() => pack({ _tag: "Refused", reason: "Malformed" }, encoding), "Malformed, Unknown"],
          "output that is no base64": [
            (id) => pack({ _tag: "Output", id, stream: "stdout", chunk: "\0!" }, encoding),
            "after"
          ]
        }
        // What is meant for another one, or answers another question, is no answer.
        const answers: Record<string, string> = {
          Refused: "Busy, NotDelivered",
          Exit: "a",
          State: "a",
          Unsupported: "Unsupported, NotDelivered"
        }
        for (const tag of Object.keys(samples(""))) {
          const message = (id: string) => pack({ _tag: tag, ...samples(id)[tag as "Ping"] }, encoding)
          said[tag] = [message, answers[tag] ?? "after"]
          if (tag !== "Welcome") said[`${tag} about another one`] = [() => message("another"), "after"]
        }
        for (const [name, frame] of Object.entries(noMessages)) said[name] = [() => frame, "Malformed, Unknown"]
        const speaker = yield* pretender(yield* place.outsider, Work.key)
        const converse = (peer: Peer) =>
          Effect.forever(
            Effect.flatMap(peer.hear, (message) => {
              if (message._tag === "Status") return peer.say({ _tag: "State", id: message.id, state: "unknown" })
              if (message._tag !== "Request") return Effect.void
              const { id, payload } = message
              const [frame] = said[String(payload)] ?? []
              const value = frame === undefined ? `re: ${payload}` : "after"
              return Effect.zipRight(
                frame === undefined ? Effect.void : peer.say(frame(id)),
                peer.say({ _tag: "Exit", id, exit: { _tag: "Success", value } })
              )
            })
          )
        yield* Effect.gen(function* () {
          const scope = yield* Scope.make()
          const peer = yield* Scope.extend(speaker.serve(), scope)
          yield* converse(peer).pipe(Effect.ignore, Effect.ensuring(Scope.close(scope, Exit.void)), Effect.forkScoped)
        }).pipe(Effect.forever, Effect.interruptible, Effect.forkScoped)
        const { instance } = yield* place.member(Work, { ...own, timeout: "10 seconds" })
        yield* Effect.forEach(
          Object.entries(said),
          ([name, [, expected]]) =>
            Effect.gen(function* () {
              const client = yield* instance.connect
              const exit = yield* Effect.exit(client.send(name, { onOutput: () => Effect.void }))
              const told = yield* Exit.match(exit, {
                onSuccess: Effect.succeed,
                onFailure: (cause) =>
                  Effect.map(errorOf(Effect.failCause(cause)), ({ outcome, reason }) => `${reason}, ${outcome}`)
              })
              assert.strictEqual(told, expected, name)
              assert.isTrue(yield* isServed(place, own), name)
            }).pipe(Effect.scoped),
          inTurns
        )
      })
    )

    const { socket } = options
    if (socket !== undefined) {
      it.scopedLive("hostile bytes beneath the frames end the connection, and hold up nobody", () =>
        Effect.gen(function* () {
          const place = yield* world
          const { endpoints } = yield* leading(place, echo, { helloTimeout: "1 seconds" })
          const { lock } = yield* place.outsider
          const seen = yield* lock.inspect(InstanceId.make(Work.key))
          assert(seen._tag === "Recorded")
          const target = socket(endpoints[0]!.address, seen.directory!)
          yield* Effect.forEach(
            Object.entries(noFrames),
            ([name, written]) =>
              Effect.gen(function* () {
                const stranger = yield* Effect.acquireRelease(
                  Effect.sync(() => net.connect(target)),
                  (stranger) => Effect.sync(() => stranger.destroy())
                )
                yield* Effect.async<void>((resume) => {
                  stranger.on("error", () => {})
                  stranger.on("close", () => resume(Effect.void))
                  stranger.resume()
                  stranger.write(written)
                }).pipe(Effect.timeoutFail({ duration: "20 seconds", onTimeout: () => new Error(`${name}: no end`) }))
                assert.isTrue(yield* isServed(place, own), name)
              }).pipe(Effect.scoped),
            { concurrency: "unbounded" }
          )
        })
      )
    }
  })
}

/** How far a handler comes while its sender takes nothing, and what has arrived when that has taken all. */
export const flooding = (place: World, own: MemberOptions, enough: number, leader?: MemberOptions) =>
  Effect.gen(function* () {
    const written = yield* Ref.make(0)
    const gate = yield* Deferred.make<void>()
    let isEnough = false
    yield* leading(
      place,
      (request, { stdout }) =>
        request === "flood"
          ? Effect.as(
              stdout(bytes(65_536)).pipe(
                Effect.zipRight(Ref.updateAndGet(written, (n) => n + 65_536)),
                Effect.repeat({ until: (total) => isEnough || total >= enough })
              ),
              "flooded"
            )
          : Effect.succeed(`re: ${request}`),
      leader
    )
    const client = yield* connecting(place, own)
    let arrived = 0
    const onOutput = (_: string, chunk: Uint8Array) =>
      Effect.zipRight(
        Deferred.await(gate),
        Effect.sync(() => {
          arrived += chunk.length
        })
      )
    const sending = yield* Effect.fork(client.send("flood", { onOutput }))
    while ((yield* Ref.get(written)) === 0) yield* Effect.sleep("10 millis")
    const stopped = yield* settled(written)
    // Nobody else is held up.
    assert.isTrue(yield* isServed(place, own))
    isEnough = true
    yield* Deferred.succeed(gate, undefined)
    assert.strictEqual(yield* Fiber.join(sending), "flooded")
    return { stopped, arrived, written: yield* Ref.get(written) }
  })
