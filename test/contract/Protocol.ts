import * as crypto from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Ref, Scope } from "effect"
import { InstanceId } from "effect-single-instance/InstanceId"
import {
  type Connection,
  type ConnectOptions,
  type Listener,
  type ListenOptions,
  maxStrangerBytes,
  Protocol
} from "effect-single-instance/Protocol"
import type { ProtocolError } from "effect-single-instance/SingleInstanceError"
import { largeIf } from "../size.js"

/** An empty directory of the test's own, as the lock hands it to a protocol. */
export const temporary: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "esi-protocol-"))),
  (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true, force: true }))
)

export const nonce = (): string => crypto.randomBytes(16).toString("hex")

/** Bytes that differ at every place where a mistake could shift them. */
export const bytes = (length: number, seed = 0): Uint8Array => {
  const frame = new Uint8Array(length)
  for (let i = 0; i < length; i++) frame[i] = (i * 31 + (i >>> 8) * 17 + seed) & 0xff
  return frame
}

export const isSame = (left: Uint8Array | undefined, right: Uint8Array): boolean =>
  left !== undefined && Buffer.compare(left, right) === 0

/** Receives until there are `count` frames. */
export const receive = (connection: Connection, count: number): Effect.Effect<Array<Uint8Array>, ProtocolError> =>
  Effect.gen(function* () {
    const frames: Array<Uint8Array> = []
    while (frames.length < count) frames.push(...(yield* connection.receive))
    return frames
  })

/** Receives until the connection is lost. */
export const drain = (connection: Connection): Effect.Effect<readonly [Array<Uint8Array>, ProtocolError]> =>
  Effect.gen(function* () {
    const frames: Array<Uint8Array> = []
    while (true) {
      const next = yield* Effect.either(connection.receive)
      if (next._tag === "Left") return [frames, next.left] as const
      frames.push(...next.right)
    }
  })

export const echo = (connection: Connection): Effect.Effect<never, ProtocolError> =>
  connection.receive.pipe(
    Effect.flatMap((frames) => Effect.forEach(frames, connection.send, { discard: true })),
    Effect.forever
  )

/** Accepts for as long as the scope is open, each connection in a scope of its own. */
export const serve = <E>(
  listener: Listener,
  handler: (connection: Connection) => Effect.Effect<unknown, E>
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.gen(function* () {
    const own = yield* Scope.make()
    const connection = yield* Scope.extend(listener.accept, own)
    yield* connection.trust
    yield* handler(connection).pipe(
      Effect.ignore,
      Effect.ensuring(Scope.close(own, Exit.void)),
      Effect.interruptible,
      Effect.forkScoped
    )
  }).pipe(Effect.forever, Effect.interruptible, Effect.forkScoped, Effect.asVoid)

/** Both ends of a connection, each trusting the other, each with the scope that closes it. */
export const pair = (
  listener: Listener,
  connect: Effect.Effect<Connection, ProtocolError, Scope.Scope>
): Effect.Effect<
  { near: Connection; far: Connection; closeNear: Effect.Effect<void>; closeFar: Effect.Effect<void> },
  ProtocolError,
  Scope.Scope
> =>
  Effect.gen(function* () {
    const nearScope = yield* child
    const farScope = yield* child
    const [near, far] = yield* Effect.all([Scope.extend(connect, nearScope), Scope.extend(listener.accept, farScope)], {
      concurrency: "unbounded"
    })
    yield* Effect.zipRight(near.trust, far.trust)
    return { near, far, closeNear: Scope.close(nearScope, Exit.void), closeFar: Scope.close(farScope, Exit.void) }
  })

export const child: Effect.Effect<Scope.CloseableScope, never, Scope.Scope> = Effect.acquireRelease(
  Scope.make(),
  (scope) => Scope.close(scope, Exit.void)
)

/** Waits for a condition, for at most ten seconds. */
export const until = (what: string, condition: () => boolean): Effect.Effect<void> =>
  Effect.gen(function* () {
    for (let round = 0; round < 500; round++) {
      if (condition()) return
      yield* Effect.sleep("20 millis")
    }
    assert.fail(`${what} did not come about`)
  })

/** Waits until a number has stopped growing. */
export const settled = (count: Ref.Ref<number>): Effect.Effect<number> =>
  Effect.gen(function* () {
    let last = -1
    while (true) {
      const now = yield* Ref.get(count)
      if (now === last) return now
      last = now
      yield* Effect.sleep("400 millis")
    }
  })

/** The protocol, whose frames are taken where they arrive. */
export const taking = <E>(layer: Layer.Layer<Protocol, E>): Layer.Layer<Protocol, E> => {
  const over = (connection: Connection): Connection => {
    const taken: Array<Uint8Array> = []
    const receive: Connection["receive"] = Effect.suspend(() =>
      taken.length > 0
        ? Effect.succeed(taken.splice(0))
        : // All come through here, also those that others waited for and were interrupted.
          Effect.map(connection.receiveWith!(take), (behind) => [...taken.splice(0), ...behind])
    )
    const take = (frame: Uint8Array) => {
      taken.push(Uint8Array.from(frame))
      return false
    }
    return { ...connection, receive }
  }
  return Layer.map(layer, (context) => {
    const protocol = Context.get(context, Protocol)
    return Context.make(Protocol, {
      ...protocol,
      listen: (options) =>
        Effect.map(protocol.listen(options), (listener) => ({
          ...listener,
          accept: Effect.map(listener.accept, over)
        })),
      connect: (address, options) => Effect.map(protocol.connect(address, options), over)
    })
  })
}

/**
 * What every protocol must do. `world` makes whatever the processes of one test share, and gives the layer that each of
 * them builds for itself.
 */
export const suite = (
  name: string,
  world: Effect.Effect<Layer.Layer<Protocol, ProtocolError>, never, Scope.Scope>,
  options: {
    /** Frames are as large as this, 2 MiB + 3 bytes if left out. */
    readonly maxFrameBytes?: number
    /** How many frames the throughput tests send, 1,000 if left out. */
    readonly frames?: number
    /** How many connections are open at once, 50 if left out. */
    readonly connections?: number
    /** What a writer may be ahead of a reader that takes nothing, the system's buffers included; 6 MiB if left out. */
    readonly bufferedBytes?: number
  } = {}
): void => {
  const maxFrameBytes = options.maxFrameBytes ?? 2 * 1024 * 1024 + 3
  const frameCount = options.frames ?? 1000
  const bufferedBytes = options.bufferedBytes ?? 6 * 1024 * 1024
  const connectionCount = options.connections ?? 50
  // Where each frame is a file.
  const large = largeIf(frameCount < 1000)

  const setup = Effect.gen(function* () {
    const directory = yield* temporary
    const layer = yield* world
    const place = { id: InstanceId.make("com.example.contract"), directory }
    const process = Effect.gen(function* () {
      const protocol = Context.get(yield* Layer.build(layer), Protocol)
      return {
        listen: (overrides: Partial<ListenOptions> = {}) =>
          protocol.listen({ ...place, nonce: nonce(), maxFrameBytes, maxConnections: 100, ...overrides }),
        connect: (address: string, overrides: Partial<ConnectOptions> = {}) =>
          protocol.connect(address, { ...place, maxFrameBytes, ...overrides })
      }
    })
    return { directory, process }
  })

  /** A primary that listens and a secondary. */
  const both = Effect.gen(function* () {
    const { directory, process } = yield* setup
    const primary = yield* process
    const secondary = yield* process
    const listener = yield* primary.listen()
    return { directory, process, primary, secondary, listener, connect: secondary.connect(listener.address) }
  })

  describe(name, () => {
    it.scopedLive("carries frames of 0 bytes up to the limit, and both ways", () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        yield* serve(listener, echo)
        const connection = yield* connect
        yield* connection.trust
        for (const length of [0, 1, 64 * 1024, 64 * 1024 + 1, 1024 * 1024, maxFrameBytes, 0, 1]) {
          const frame = bytes(Math.min(length, maxFrameBytes), length)
          const [, [back]] = yield* Effect.all([connection.send(frame), receive(connection, 1)], {
            concurrency: "unbounded"
          })
          assert.isTrue(isSame(back, frame), `${length} bytes`)
        }
      })
    )

    it.scopedLive("carries a frame of 16 MiB, and both ways @large", () =>
      Effect.gen(function* () {
        const { primary, secondary } = yield* both
        const maxFrameBytes = 16 * 1024 * 1024
        const listener = yield* primary.listen({ maxFrameBytes })
        yield* serve(listener, echo)
        const connection = yield* secondary.connect(listener.address, { maxFrameBytes })
        yield* connection.trust
        const frame = bytes(maxFrameBytes, 5)
        const [, [back]] = yield* Effect.all([connection.send(frame), receive(connection, 1)], {
          concurrency: "unbounded"
        })
        assert.isTrue(isSame(back, frame))
        assert.strictEqual((yield* Effect.flip(connection.send(bytes(maxFrameBytes + 1)))).reason, "TooLarge")
      })
    )

    it.scopedLive("refuses to send what is above the limit, and goes on", () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        const { far, near } = yield* pair(listener, connect)
        const failure = yield* Effect.flip(near.send(new Uint8Array(maxFrameBytes + 1)))
        assert.strictEqual(failure.reason, "TooLarge")
        assert.strictEqual(failure.outcome, "NotDelivered")
        yield* near.send(bytes(3))
        assert.deepStrictEqual(
          (yield* receive(far, 1)).map((frame) => [...frame]),
          [[...bytes(3)]]
        )
      })
    )

    it.scopedLive("keeps the receiver's own limit", () =>
      Effect.gen(function* () {
        const { primary, secondary } = yield* both
        const listener = yield* primary.listen({ maxFrameBytes: 2048 })
        const { far, near } = yield* pair(listener, secondary.connect(listener.address))
        yield* near.send(bytes(2048))
        yield* near.send(bytes(2049))
        const [frames, failure] = yield* drain(far)
        assert.deepStrictEqual(
          frames.map((frame) => frame.length),
          [2048]
        )
        assert.strictEqual(failure.reason, "TooLarge")
        const [, lost] = yield* drain(near)
        assert.strictEqual(lost.reason, "Disconnected")
      })
    )

    it.scopedLive("takes no large frame from a stranger", () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        yield* Effect.fork(
          Effect.gen(function* () {
            const near = yield* connect
            yield* near.send(bytes(maxStrangerBytes))
            yield* near.send(bytes(maxStrangerBytes + 1))
            yield* Effect.never
          })
        )
        const [frames, failure] = yield* drain(yield* listener.accept)
        assert.deepStrictEqual(
          frames.map((frame) => frame.length),
          [maxStrangerBytes]
        )
        assert.strictEqual(failure.reason, "TooLarge")
      })
    )

    it.scopedLive("takes a large frame that follows close upon the proof", () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        const near = yield* connect
        yield* Effect.fork(Effect.zipRight(near.send(bytes(10)), near.send(bytes(maxFrameBytes))))
        const far = yield* listener.accept
        const first = yield* receive(far, 1)
        assert.deepStrictEqual(
          first.map((frame) => frame.length),
          [10]
        )
        // The large one has arrived, at least its head, when the receiver has done its checks.
        yield* Effect.sleep("200 millis")
        yield* far.trust
        const [second] = yield* receive(far, 1)
        assert.isTrue(isSame(second, bytes(maxFrameBytes)))
      })
    )

    it.scopedLive(`carries ${frameCount} frames in order`, () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        yield* serve(listener, echo)
        const connection = yield* connect
        const sending = Effect.forEach(
          Array.from({ length: frameCount }, (_, i) => i),
          (i) => connection.send(Buffer.from(`${i}:${"x".repeat(i % 700)}`)),
          { discard: true }
        )
        const [, frames] = yield* Effect.all([sending, receive(connection, frameCount)], { concurrency: "unbounded" })
        assert.deepStrictEqual(
          frames.map((frame) => Number.parseInt(Buffer.from(frame).toString(), 10)),
          Array.from({ length: frameCount }, (_, i) => i)
        )
      })
    )

    it.scopedLive("carries frames of many fibers whole", () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        const { far, near } = yield* pair(listener, connect)
        const sending = Effect.forEach(
          Array.from({ length: 60 }, (_, i) => i),
          (i) => near.send(bytes(i * 3001, i)),
          { concurrency: "unbounded", discard: true }
        )
        const [, frames] = yield* Effect.all([sending, receive(far, 60)], { concurrency: "unbounded" })
        const sorted = [...frames].sort((left, right) => left.length - right.length)
        sorted.forEach((frame, i) => assert.isTrue(isSame(frame, bytes(i * 3001, i)), `frame ${i}`))
      })
    )

    it.scopedLive(`sends what many fibers give it in the order in which it is given${large}`, () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        const { far, near } = yield* pair(listener, connect)
        let given = 0
        const next = Effect.suspend(() => near.send(Buffer.from(`${given++}`)))
        // Each gives its next one while others wait.
        yield* Effect.forEach(Array.from({ length: 12 }), () => Effect.repeatN(next, 9), {
          concurrency: "unbounded"
        }).pipe(Effect.fork)
        const frames = yield* receive(far, 120)
        assert.deepStrictEqual(
          frames.map((frame) => Number(Buffer.from(frame).toString())),
          Array.from({ length: 120 }, (_, n) => n)
        )
      })
    )

    it.scopedLive(`lets no later sender overtake those that wait for room${large}`, () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        const { far, near } = yield* pair(listener, connect)
        const total = 240
        let given = 0
        const give = Effect.suspend(() => {
          const frame = Buffer.alloc(given % 2 === 0 ? 70_000 : 300)
          frame.writeUInt32BE(given++)
          return near.send(frame)
        })
        // Whoever is through gives its next one at once, before those that wait have been woken.
        const program = Effect.forEach(Array.from({ length: total / 12 }), () => give, { discard: true })
        yield* Effect.fork(Effect.forEach(Array.from({ length: 12 }), () => program, { concurrency: "unbounded" }))
        const numbers: Array<number> = []
        while (numbers.length < total) {
          for (const frame of yield* far.receive) numbers.push(Buffer.from(frame).readUInt32BE(0))
        }
        assert.deepStrictEqual(
          numbers,
          Array.from({ length: total }, (_, n) => n)
        )
      })
    )

    it.scopedLive(`serves ${connectionCount} connections at once`, () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        yield* serve(listener, echo)
        const all = yield* Effect.forEach(Array.from({ length: connectionCount }), () => connect, {
          concurrency: "unbounded"
        })
        yield* Effect.forEach(
          all,
          (connection, i) =>
            Effect.gen(function* () {
              yield* connection.send(Buffer.from(`first of ${i}`))
              yield* connection.send(Buffer.from(`second of ${i}`))
              const frames = yield* receive(connection, 2)
              assert.deepStrictEqual(
                frames.map((frame) => Buffer.from(frame).toString()),
                [`first of ${i}`, `second of ${i}`]
              )
            }),
          { concurrency: "unbounded" }
        )
      })
    )

    it.scopedLive("finds nobody where nobody listens", () =>
      Effect.gen(function* () {
        const { process } = yield* setup
        const primary = yield* process
        const secondary = yield* process
        const listening = yield* child
        const listener = yield* Scope.extend(primary.listen(), listening)
        yield* Scope.close(listening, Exit.void)
        const failure = yield* Effect.flip(secondary.connect(listener.address))
        assert.strictEqual(failure.reason, "Unreachable")
        assert.strictEqual(failure.outcome, "NotDelivered")
      })
    )

    for (const [who, mine, yours] of [
      ["near", "near", "far"],
      ["far", "far", "near"]
    ] as const) {
      it.scopedLive(`delivers what was sent before the ${who} side closed, and then says so`, () =>
        Effect.gen(function* () {
          const { connect, listener } = yield* both
          const both_ = yield* pair(listener, connect)
          const close = mine === "near" ? both_.closeNear : both_.closeFar
          const frames = [bytes(10), bytes(100_000, 1), bytes(0), bytes(5, 2)]
          yield* Effect.fork(Effect.zipRight(Effect.forEach(frames, both_[mine].send, { discard: true }), close))
          const [received, failure] = yield* drain(both_[yours])
          assert.deepStrictEqual(
            received.map((frame) => frame.length),
            frames.map((frame) => frame.length)
          )
          received.forEach((frame, i) => assert.isTrue(isSame(frame, frames[i]!)))
          assert.strictEqual(failure.reason, "Disconnected")
          const sending = yield* Effect.flip(both_[yours].send(bytes(1)))
          assert.strictEqual(sending.reason, "Disconnected")
          const again = yield* Effect.flip(both_[yours].receive)
          assert.strictEqual(again.reason, "Disconnected")
        })
      )
    }

    it.scopedLive("delivers its last frame to a peer that sends into the close", () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        const { closeFar, far, near } = yield* pair(listener, connect)
        yield* near.send(bytes(1000))
        yield* far.send(Buffer.from("Refused"))
        yield* Effect.fork(closeFar)
        yield* Effect.yieldNow()
        // A transport that is gone already breaks here, and what it had not yet read with it.
        yield* Effect.ignore(near.send(bytes(1000)))
        const [frames, failure] = yield* drain(near)
        assert.deepStrictEqual(
          frames.map((frame) => Buffer.from(frame).toString()),
          ["Refused"]
        )
        assert.strictEqual(failure.reason, "Disconnected")
      })
    )

    it.scopedLive("ends the connections that nobody accepted with the listener", () =>
      Effect.gen(function* () {
        const { primary, secondary } = yield* both
        const listening = yield* child
        const listener = yield* Scope.extend(primary.listen(), listening)
        const near = yield* secondary.connect(listener.address)
        yield* near.send(bytes(10))
        yield* Effect.sleep("100 millis")
        yield* Scope.close(listening, Exit.void)
        assert.strictEqual((yield* Effect.flip(near.receive)).reason, "Disconnected")
      })
    )

    it.scopedLive("fails what waits on a connection that this side closes", () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        const { closeNear, near } = yield* pair(listener, connect)
        const receiving = yield* Effect.fork(Effect.flip(near.receive))
        const sending = yield* Effect.fork(Effect.flip(Effect.forever(near.send(bytes(50_000)))))
        yield* Effect.sleep("300 millis")
        yield* closeNear
        assert.strictEqual((yield* Fiber.join(receiving)).reason, "Disconnected")
        assert.strictEqual((yield* Fiber.join(sending)).reason, "Disconnected")
      })
    )

    it.scopedLive(`holds up the writer while the reader is slow, and loses nothing${large}`, () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        const { far, near } = yield* pair(listener, connect)
        const size = 16 * 1024
        const total = Math.ceil((2 * bufferedBytes) / size)
        const sent = yield* Ref.make(0)
        const sending = yield* Effect.fork(
          Effect.forEach(
            Array.from({ length: total }, (_, i) => i),
            (i) =>
              Effect.zipRight(
                near.send(bytes(size, i)),
                Ref.update(sent, (n) => n + 1)
              ),
            { discard: true }
          )
        )
        const stopped = yield* settled(sent)
        assert.isAbove(stopped, 0)
        assert.isBelow(stopped * size, bufferedBytes, "the writer was not held up")
        const frames = yield* receive(far, total)
        assert.lengthOf(frames, total)
        assert.isTrue(frames.every((frame, i) => isSame(frame, bytes(size, i))))
        yield* Fiber.join(sending)
      })
    )

    it.scopedLive(`loses nothing when a waiting receive is interrupted${large}`, () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        const { far, near } = yield* pair(listener, connect)
        const early = yield* Effect.fork(far.receive)
        yield* Effect.sleep("20 millis")
        assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(early)))

        const received: Array<number> = []
        const keep = (frames: Iterable<Uint8Array>) => {
          for (const frame of frames) received.push(Buffer.from(frame).readUInt32BE(0))
        }
        const total = 200
        for (let i = 0; i < total; i++) {
          const waiting = yield* Effect.fork(far.receive)
          yield* Effect.yieldNow()
          const frame = Buffer.alloc(4)
          frame.writeUInt32BE(i)
          yield* near.send(frame)
          // Now and then the frame is there when the interruption comes, and now and then it is not.
          for (let turn = 0; turn < i % 4; turn++)
            yield* Effect.promise(() => new Promise((done) => setImmediate(done)))
          const exit = yield* Fiber.interrupt(waiting)
          if (Exit.isSuccess(exit)) keep(exit.value)
        }
        while (received.length < total) keep(yield* far.receive)
        assert.deepStrictEqual(
          received,
          Array.from({ length: total }, (_, i) => i)
        )
      })
    )

    it.scopedLive("loses no connection when a waiting accept is interrupted", () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        const waiting = yield* Effect.fork(Effect.scoped(listener.accept))
        yield* Effect.sleep("20 millis")
        assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(waiting)))
        const { far, near } = yield* pair(listener, connect)
        yield* near.send(bytes(7))
        assert.lengthOf(yield* receive(far, 1), 1)
      })
    )

    it.scopedLive("closes the connections above maxConnections, until there is room", () =>
      Effect.gen(function* () {
        const { primary, secondary } = yield* both
        const listener = yield* primary.listen({ maxConnections: 3 })
        yield* serve(listener, echo)
        const connect = secondary.connect(listener.address)
        const trip = (connection: Connection) =>
          Effect.zipRight(connection.send(bytes(9)), Effect.asVoid(receive(connection, 1)))
        const scopes = yield* Effect.replicateEffect(child, 3)
        for (const scope of scopes) yield* Effect.flatMap(Scope.extend(connect, scope), trip)

        const surplus = yield* Effect.flip(Effect.scoped(Effect.flatMap(connect, trip)))
        assert.include(["Disconnected", "Busy"], surplus.reason)

        yield* Scope.close(scopes[0]!, Exit.void)
        yield* Effect.scoped(Effect.flatMap(connect, trip)).pipe(
          Effect.retry({ times: 100, while: () => Effect.as(Effect.sleep("50 millis"), true) })
        )
      })
    )

    it.scopedLive("leaves nothing behind, and the name is free again", () =>
      Effect.gen(function* () {
        const { directory, process } = yield* setup
        const primary = yield* process
        const secondary = yield* process
        const before = fs.readdirSync(directory)
        const name = nonce()
        for (let round = 0; round < 3; round++) {
          yield* Effect.scoped(
            Effect.gen(function* () {
              const listener = yield* primary.listen({ nonce: name })
              yield* serve(listener, echo)
              const connection = yield* secondary.connect(listener.address)
              yield* connection.send(bytes(round + 1))
              assert.lengthOf(yield* receive(connection, 1), 1)
            })
          )
          assert.deepStrictEqual(fs.readdirSync(directory), before)
        }
      })
    )

    it.scopedLive("connects again and again", () =>
      Effect.gen(function* () {
        const { connect, listener } = yield* both
        yield* serve(listener, echo)
        for (let round = 0; round < 20; round++) {
          yield* Effect.scoped(
            Effect.gen(function* () {
              const connection = yield* connect
              yield* connection.send(bytes(round, round))
              const [back] = yield* receive(connection, 1)
              assert.isTrue(isSame(back, bytes(round, round)))
            })
          )
        }
      })
    )

    it.scopedLive("keeps two listeners apart, and the late close of one leaves the other", () =>
      Effect.gen(function* () {
        const { primary, process, secondary } = yield* both
        const successor = yield* process
        const old = yield* child
        const first = yield* Scope.extend(primary.listen(), old)
        const second = yield* successor.listen()
        assert.notStrictEqual(first.address, second.address)
        const sayer = (word: string) => (connection: Connection) =>
          Effect.zipRight(connection.send(Buffer.from(word)), Effect.flip(connection.receive))
        yield* Scope.extend(serve(first, sayer("first")), old)
        yield* serve(second, sayer("second"))
        const heard = (address: string) =>
          Effect.scoped(
            Effect.flatMap(secondary.connect(address), (connection) =>
              Effect.map(receive(connection, 1), ([frame]) => Buffer.from(frame!).toString())
            )
          )
        assert.strictEqual(yield* heard(first.address), "first")
        assert.strictEqual(yield* heard(second.address), "second")
        yield* Scope.close(old, Exit.void)
        assert.strictEqual(yield* heard(second.address), "second")
        assert.strictEqual((yield* Effect.flip(heard(first.address))).reason, "Unreachable")
      })
    )

    it.scopedLive("ends a waiting accept with the listener, not the connections that it accepted", () =>
      Effect.gen(function* () {
        const { primary, secondary } = yield* both
        const listening = yield* child
        const listener = yield* Scope.extend(primary.listen(), listening)
        const { far, near } = yield* pair(listener, secondary.connect(listener.address))
        const waiting = yield* Effect.fork(Effect.exit(Effect.scoped(listener.accept)))
        yield* Effect.sleep("20 millis")
        yield* Scope.close(listening, Exit.void)
        assert.isTrue(Exit.isFailure(yield* Fiber.join(waiting)))
        yield* near.send(bytes(12))
        assert.lengthOf(yield* receive(far, 1), 1)
        yield* far.send(bytes(12))
        assert.lengthOf(yield* receive(near, 1), 1)
      })
    )
  })
}
