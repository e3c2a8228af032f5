import * as net from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Layer, Schema, type Scope } from "effect"
import { SingleInstance } from "effect-single-instance"
import { InstanceId } from "effect-single-instance/InstanceId"
import { Protocol } from "effect-single-instance/Protocol"
import * as Tcp from "effect-single-instance/protocol/Tcp"
import { ProtocolError } from "effect-single-instance/SingleInstanceError"
import { nonce } from "./contract/Protocol.js"
import { realWorld } from "./simulation.js"

const id = InstanceId.make("com.example.tcp")
const place = { id, directory: null, maxFrameBytes: 1024 * 1024 }

const protocol = Effect.map(Layer.build(Tcp.layer), Context.get(Protocol))

const port = (address: string) => Number(address.split(":").at(-1))

/** A server of somebody else's, on a port of its choice. */
const foreign = (at: number, answer: (socket: net.Socket) => void): Effect.Effect<number, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.async<net.Server>((resume) => {
        const sockets = new Set<net.Socket>()
        const server = net.createServer((socket) => {
          sockets.add(socket.on("error", () => {}))
          answer(socket)
        })
        server.on("close", () => sockets.clear())
        server.listen(at, "127.0.0.1", () => resume(Effect.succeed(server)))
      }),
      (server) => Effect.sync(() => server.close())
    ),
    (server) => (server.address() as net.AddressInfo).port
  )

class Text extends SingleInstance.Tag<Text>()("test.tcp", { request: Schema.String, reply: Schema.String }) {}

describe("Tcp", () => {
  it.scopedLive("listens on a free port of the loopback address, without a directory", () =>
    Effect.gen(function* () {
      const { listen } = yield* protocol
      const options = { ...place, nonce: nonce(), maxConnections: 10 }
      const listeners = yield* Effect.all([listen(options), listen(options)])
      for (const { address } of listeners) assert.match(address, /^tcp:\/\/(127\.0\.0\.1|\[::1\]):\d+$/)
      assert.notStrictEqual(listeners[0].address, listeners[1].address)
    })
  )

  it.scopedLive("connects to no other machine, and to nothing that is no port", () =>
    Effect.gen(function* () {
      const { connect } = yield* protocol
      let called = 0
      const open = yield* foreign(0, (socket) => {
        called++
        socket.destroy()
      })
      for (const host of [
        "localhost",
        "0.0.0.0",
        "127.0.0.2",
        "127.1",
        "[::]",
        "[::ffff:127.0.0.1]",
        "example.com",
        ""
      ]) {
        const error = yield* Effect.flip(connect(`tcp://${host}:${open}`, place))
        assert.deepStrictEqual([error.reason, error.outcome], ["Unreachable", "NotDelivered"], host)
      }
      for (const wrong of ["0", "65536", "99999", "-1", "1e3", `${open}/`, `${open}?x`, `0${open}`, "", " 80"]) {
        const error = yield* Effect.flip(connect(`tcp://127.0.0.1:${wrong}`, place))
        assert.strictEqual(error.reason, "Unreachable", wrong)
      }
      assert.strictEqual(called, 0)
    })
  )

  it.scopedLive("is served while strangers talk to the port", () =>
    Effect.gen(function* () {
      const world = yield* realWorld(Tcp.layer)
      const ready = yield* Deferred.make<string>()
      const first = yield* world.member(Text)
      yield* Text.enforce({
        request: "first",
        primary: (primary) =>
          Effect.gen(function* () {
            yield* primary.serve((text) => Effect.succeed(`re: ${text}`))
            yield* Deferred.succeed(ready, primary.endpoints[0]!.address)
            return yield* Effect.never
          })
      }).pipe(Effect.provide(first.context), Effect.forkScoped)
      const at = port(yield* Deferred.await(ready))
      const strangers = ["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "\0\0\0\u0002{}", "\u007f\u007f\u007f\u007f", ""]
      for (const text of strangers) {
        const socket = net.connect(at, "127.0.0.1").on("error", () => {})
        yield* Effect.addFinalizer(() => Effect.sync(() => socket.destroy()))
        socket.write(text)
      }
      const { instance } = yield* world.member(Text)
      assert.strictEqual((yield* instance.send("a")).reply, "re: a")
    })
  )

  it.scopedLive("recognises whoever took the port of a dead primary", () =>
    Effect.gen(function* () {
      const said: Array<string> = []
      // It answers all it hears with the same.
      const squatted = yield* foreign(0, (socket) => {
        socket.on("data", (chunk) => {
          said.push(chunk.toString("latin1"))
          socket.write(chunk)
        })
      })
      const squatting = Layer.effect(
        Protocol,
        Effect.map(Effect.provide(Protocol, Tcp.layer), (own) => ({
          ...own,
          listen: (options: Parameters<typeof own.listen>[0]) =>
            Effect.map(own.listen(options), (listener) => ({ ...listener, address: `tcp://127.0.0.1:${squatted}` }))
        }))
      )
      const world = yield* realWorld(Tcp.layer)
      const first = yield* world.member(Text, { protocols: () => [squatting] })
      const ready = yield* Deferred.make<void>()
      yield* Text.enforce({
        request: "first",
        primary: () => Effect.zipRight(Deferred.succeed(ready, undefined), Effect.never)
      }).pipe(Effect.provide(first.context), Effect.forkScoped)
      yield* Deferred.await(ready)
      const { instance } = yield* world.member(Text)
      const error = yield* Effect.flip(instance.send("the secret text"))
      assert(ProtocolError.is(error))
      assert.deepStrictEqual([error.reason, error.outcome], ["Malformed", "NotDelivered"])
      assert.isAbove(said.length, 0)
      assert.isFalse(said.some((text) => text.includes("secret text")))
    })
  )
})
