import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Ref, Scope, TestClock } from "effect"
import { InstanceId } from "effect-single-instance/InstanceId"
import * as InMemory from "effect-single-instance/protocol/InMemory"
import { bytes, child, drain, nonce, pair, receive } from "./contract/Protocol.js"

const place = { id: InstanceId.make("com.example.memory"), directory: null, maxFrameBytes: 4 * 1024 * 1024 }

/** A primary that listens, a secondary, and a connection between them; all of it without the clock ever moving. */
const setup = Effect.gen(function* () {
  const network = yield* InMemory.makeNetwork
  const primary = yield* network.host
  const secondary = yield* network.host
  const listener = yield* primary.protocol.listen({ ...place, nonce: nonce(), maxConnections: 10 })
  const connect = secondary.protocol.connect(listener.address, place)
  const { closeFar, closeNear, far, near } = yield* pair(listener, connect)
  return { network, primary, secondary, listener, connect, near, far, closeNear, closeFar }
})

/** Lets every fiber go as far as it can. */
const settle = Effect.repeatN(Effect.yieldNow(), 1000)

const isDone = <A, E>(fiber: Fiber.RuntimeFiber<A, E>) => Effect.map(Fiber.poll(fiber), (exit) => exit._tag === "Some")

describe("InMemory", () => {
  it.scoped("copies frames", () =>
    Effect.gen(function* () {
      const { far, near } = yield* setup
      const frame = Buffer.from("before")
      yield* near.send(frame)
      frame.write("behind")
      const [received] = yield* receive(far, 1)
      assert.strictEqual(Buffer.from(received!).toString(), "before")
    })
  )

  it.scoped("keeps networks apart, and a name for one listener at a time", () =>
    Effect.gen(function* () {
      const { listener, network, secondary } = yield* setup
      const elsewhere = yield* Effect.flatMap(InMemory.makeNetwork, (other) => other.host)
      const unreachable = yield* Effect.flip(elsewhere.protocol.connect(listener.address, place))
      assert.strictEqual(unreachable.reason, "Unreachable")
      const options = { ...place, nonce: listener.address.slice("in-memory://".length), maxConnections: 1 }
      yield* elsewhere.protocol.listen(options)
      const taken = yield* Effect.flip(secondary.protocol.listen(options))
      assert.strictEqual(taken.reason, "EndpointOccupied")
      const third = yield* network.host
      assert.strictEqual((yield* Effect.flip(third.protocol.listen(options))).reason, "EndpointOccupied")
    })
  )

  it.scoped("bounds each direction by bytes and by frames", () =>
    Effect.gen(function* () {
      const { far, near } = yield* setup
      for (const [size, most] of [
        [0, 256],
        [256 * 1024, 4]
      ] as const) {
        const sent = yield* Ref.make(0)
        const sending = yield* Effect.fork(
          Effect.repeatN(
            Effect.zipRight(
              near.send(bytes(size)),
              Ref.update(sent, (n) => n + 1)
            ),
            599
          )
        )
        yield* settle
        assert.strictEqual(yield* Ref.get(sent), most)
        // The other direction is not held up by this one.
        yield* far.send(bytes(1))
        assert.lengthOf(yield* receive(near, 1), 1)
        assert.lengthOf(yield* receive(far, 600), 600)
        yield* Fiber.join(sending)
      }
    })
  )

  it.scoped("sends nothing when a waiting send is interrupted", () =>
    Effect.gen(function* () {
      const { far, near } = yield* setup
      yield* Effect.repeatN(near.send(bytes(1)), 255)
      const waiting = yield* Effect.fork(near.send(bytes(2)))
      yield* settle
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(waiting)))
      yield* Effect.fork(near.send(bytes(3)))
      const frames = yield* receive(far, 257)
      assert.deepStrictEqual(frames.map((frame) => frame.length).slice(255), [1, 3])
    })
  )

  it.scoped("a frozen process does nothing, and its peers wait for it", () =>
    Effect.gen(function* () {
      const { connect, far, listener, near, primary } = yield* setup
      const receiving = yield* Effect.fork(far.receive)
      const accepting = yield* Effect.fork(listener.accept)
      yield* settle
      yield* primary.freeze
      const sending = yield* Effect.fork(far.send(bytes(1)))
      const listening = yield* Effect.fork(primary.protocol.listen({ ...place, nonce: nonce(), maxConnections: 1 }))
      const second = yield* connect
      yield* second.send(bytes(5))
      const answer = yield* Effect.fork(near.receive)
      const sent = yield* Ref.make(0)
      const flood = yield* Effect.fork(
        Effect.repeatN(
          Effect.zipRight(
            near.send(bytes(3)),
            Ref.update(sent, (n) => n + 1)
          ),
          299
        )
      )
      yield* TestClock.adjust("1 hour")
      yield* settle
      for (const fiber of [receiving, accepting, sending, listening, answer, flood]) {
        assert.isFalse(yield* isDone<unknown, unknown>(fiber))
      }
      assert.strictEqual(yield* Ref.get(sent), 256)

      yield* primary.thaw
      assert.lengthOf(yield* Fiber.join(answer), 1)
      assert.isAtLeast((yield* Fiber.join(receiving)).length, 256)
      yield* Fiber.join(listening)
      const accepted = yield* Fiber.join(accepting)
      assert.deepStrictEqual(
        (yield* receive(accepted, 1)).map((frame) => frame.length),
        [5]
      )
      yield* Fiber.join(flood)
    })
  )

  it.scoped("a frozen process can be interrupted and closed", () =>
    Effect.gen(function* () {
      const { closeFar, far, near, primary } = yield* setup
      yield* primary.freeze
      const receiving = yield* Effect.fork(far.receive)
      yield* settle
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(receiving)))
      yield* closeFar
      assert.strictEqual((yield* Effect.flip(near.receive)).reason, "Disconnected")
    })
  )

  it.scoped("a killed process breaks all it had, and everything it tries fails", () =>
    Effect.gen(function* () {
      const { connect, far, listener, near, network, primary } = yield* setup
      const queued = yield* connect
      const other = yield* network.host
      const otherListener = yield* other.protocol.listen({ ...place, nonce: nonce(), maxConnections: 1 })
      const outgoing = yield* pair(otherListener, primary.protocol.connect(otherListener.address, place))
      yield* far.send(bytes(8))
      yield* near.send(bytes(9))
      const accepting = yield* Effect.fork(
        Effect.flip(Effect.scoped(Effect.zipRight(listener.accept, listener.accept)))
      )
      const waiting = yield* Effect.fork(Effect.flip(outgoing.near.receive))
      const flood = yield* Effect.fork(Effect.flip(Effect.forever(near.send(bytes(1)))))
      yield* settle
      yield* primary.kill

      const [frames, failure] = yield* drain(near)
      assert.deepStrictEqual(
        frames.map((frame) => frame.length),
        [8]
      )
      assert.strictEqual(failure.reason, "Disconnected")
      assert.strictEqual((yield* Fiber.join(flood)).reason, "Disconnected")
      assert.strictEqual((yield* Effect.flip(queued.receive)).reason, "Disconnected")
      assert.strictEqual((yield* Effect.flip(outgoing.far.receive)).reason, "Disconnected")
      assert.strictEqual((yield* Effect.flip(connect)).reason, "Unreachable")

      assert.strictEqual((yield* Fiber.join(accepting)).reason, "Disconnected")
      assert.strictEqual((yield* Fiber.join(waiting)).reason, "Disconnected")
      assert.strictEqual((yield* Effect.flip(far.receive)).reason, "Disconnected")
      assert.strictEqual((yield* Effect.flip(far.send(bytes(1)))).reason, "Disconnected")
      assert.strictEqual((yield* Effect.flip(Effect.scoped(listener.accept))).reason, "Disconnected")
      const address = otherListener.address
      assert.strictEqual((yield* Effect.flip(primary.protocol.connect(address, place))).reason, "Unavailable")
      const again = { ...place, nonce: nonce(), maxConnections: 1 }
      assert.strictEqual((yield* Effect.flip(primary.protocol.listen(again))).reason, "Unavailable")
    })
  )

  it.scoped("a frozen process can be killed", () =>
    Effect.gen(function* () {
      const { far, near, primary } = yield* setup
      yield* primary.freeze
      const receiving = yield* Effect.fork(Effect.flip(far.receive))
      yield* settle
      yield* primary.kill
      assert.strictEqual((yield* Fiber.join(receiving)).reason, "Disconnected")
      assert.strictEqual((yield* Effect.flip(near.receive)).reason, "Disconnected")
    })
  )

  it.scoped("a name is free once its process was killed, and the late close leaves the next owner alone", () =>
    Effect.gen(function* () {
      const network = yield* InMemory.makeNetwork
      const [first, second, client] = yield* Effect.all([network.host, network.host, network.host])
      const options = { ...place, nonce: nonce(), maxConnections: 10 }
      const old = yield* child
      yield* Scope.extend(first.protocol.listen(options), old)
      yield* first.kill
      const listener = yield* second.protocol.listen(options)
      yield* Scope.close(old, Exit.void)
      const { far, near } = yield* pair(listener, client.protocol.connect(listener.address, place))
      yield* near.send(bytes(2))
      assert.lengthOf(yield* receive(far, 1), 1)
    })
  )
})
