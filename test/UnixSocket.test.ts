import { type ChildProcess, spawn } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Ref, Scope } from "effect"
import { InstanceId } from "effect-single-instance/InstanceId"
import { type Connection, type ListenOptions, Protocol } from "effect-single-instance/Protocol"
import * as UnixSocket from "effect-single-instance/protocol/UnixSocket"
import { encode } from "../src/internal/framing.js"
import {
  bytes,
  child,
  drain,
  echo,
  isSame,
  nonce,
  pair,
  receive,
  serve,
  temporary,
  until
} from "./contract/Protocol.js"
import { fixture } from "./fixtures.js"

const isLinux = process.platform === "linux"
const maxFrameBytes = 1024 * 1024

const setup = (directory: string) =>
  Effect.gen(function* () {
    const protocol = Context.get(yield* Layer.build(UnixSocket.layer), Protocol)
    const place = { id: InstanceId.make("com.example.unix"), directory, maxFrameBytes }
    return {
      listen: (options: Partial<ListenOptions> = {}) =>
        protocol.listen({ ...place, nonce: nonce(), maxConnections: 100, ...options }),
      connect: (address: string) => protocol.connect(address, place)
    }
  })

/** A client without any of our code, which keeps what it read. */
const raw = (file: string) =>
  Effect.acquireRelease(
    Effect.async<{ socket: net.Socket; read: () => Buffer; ended: Promise<void>; closed: Promise<void> }, Error>(
      (resume) => {
        const chunks: Array<Buffer> = []
        const socket = net.connect({ path: file, allowHalfOpen: true })
        const ended = new Promise<void>((done) => socket.once("end", done))
        const closed = new Promise<void>((done) => socket.once("close", () => done()))
        socket.on("data", (chunk) => chunks.push(chunk))
        socket.once("connect", () =>
          resume(Effect.succeed({ socket, ended, closed, read: () => Buffer.concat(chunks) }))
        )
        socket.on("error", (cause) => resume(Effect.fail(cause)))
      }
    ),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

const listening = (server: net.Server, name: string) =>
  Effect.async<void>((resume) => {
    server.listen(name, () => resume(Effect.void))
  })

const file = (directory: string, address: string) => path.join(directory, address.slice("unix:".length))

/** A directory whose name alone is longer than a socket's address may be. */
const deep = Effect.map(temporary, (directory) => {
  const target = path.join(directory, "d".repeat(100), "e".repeat(100))
  fs.mkdirSync(target, { recursive: true, mode: 0o700 })
  return target
})

const descriptors = () => fs.readdirSync("/proc/self/fd").length

describe.skipIf(process.platform === "win32")("UnixSocket", () => {
  it.scopedLive("serves a directory of any length, in which two long names do not meet", () =>
    Effect.gen(function* () {
      const directory = yield* deep
      assert.isAbove(Buffer.byteLength(directory), 200)
      const { connect, listen } = yield* setup(directory)
      const first = yield* listen()
      const second = yield* listen()
      yield* serve(first, (connection) => Effect.zipRight(connection.send(Buffer.from("first")), Effect.never))
      yield* serve(second, (connection) => Effect.zipRight(connection.send(Buffer.from("second")), Effect.never))
      for (const [listener, word] of [
        [first, "first"],
        [second, "second"]
      ] as const) {
        const [frame] = yield* receive(yield* connect(listener.address), 1)
        assert.strictEqual(Buffer.from(frame!).toString(), word)
        assert.isTrue(fs.statSync(file(directory, listener.address)).isSocket())
      }
      assert.lengthOf(fs.readdirSync(directory), 2)
    })
  )

  it.scopedLive("gives frames to who waits where they arrive, until it says that something is left to do", () =>
    Effect.gen(function* () {
      const { connect, listen } = yield* setup(yield* temporary)
      const listener = yield* listen()
      const { far, near } = yield* pair(listener, connect(listener.address))
      const numbered = (from: number, to: number) =>
        Array.from({ length: to - from }, (_, index) => Buffer.from(String(from + index)))
      const taken: Array<string> = []
      const waiting = yield* Effect.fork(
        far.receiveWith!((frame) => {
          taken.push(Buffer.from(frame).toString())
          return taken.length < 1_000
        })
      )
      yield* Effect.forEach(numbered(0, 999), near.send, { discard: true })
      yield* until("999 frames", () => taken.length === 999)
      assert.isNull(waiting.unsafePoll())
      yield* Effect.forEach(numbered(999, 1_010), near.send, { discard: true })
      const behind = yield* Fiber.join(waiting)
      const rest = yield* receive(far, 1_010 - taken.length - behind.length)
      assert.deepStrictEqual([...taken, ...[...behind, ...rest].map(String)], numbered(0, 1_010).map(String))
      assert.lengthOf(taken, 1_000)
    })
  )

  it.scopedLive("gives nothing to who was interrupted", () =>
    Effect.gen(function* () {
      const { connect, listen } = yield* setup(yield* temporary)
      const listener = yield* listen()
      const { far, near } = yield* pair(listener, connect(listener.address))
      let taken = 0
      const waiting = yield* Effect.fork(far.receiveWith!(() => ++taken > 0))
      yield* near.send(bytes(3))
      yield* until("a frame", () => taken === 1)
      yield* Fiber.interrupt(waiting)
      yield* near.send(bytes(4))
      assert.isTrue(isSame((yield* receive(far, 1))[0], bytes(4)))
      assert.strictEqual(taken, 1)
    })
  )

  it.scopedLive("refuses a name that does not fit instead of cutting it", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect, listen } = yield* setup(directory)
      const failure = yield* Effect.flip(listen({ nonce: "n".repeat(120) }))
      assert.strictEqual(failure.reason, "Unavailable")
      assert.include(failure.detail, "ENAMETOOLONG")
      const unconnected = yield* Effect.flip(connect(`unix:s.${"n".repeat(120)}`))
      assert.strictEqual(unconnected.reason, isLinux ? "Unavailable" : "Unreachable")
      assert.deepStrictEqual(fs.readdirSync(directory), [])
    })
  )

  it.scopedLive("connects to an absolute address", () =>
    Effect.gen(function* () {
      const directory = path.join(yield* temporary, "with blank é %41")
      fs.mkdirSync(directory, { mode: 0o700 })
      const { listen } = yield* setup(directory)
      const { connect } = yield* setup("/nowhere")
      const listener = yield* listen()
      yield* serve(listener, echo)
      const address = `unix://${encodeURI(file(directory, listener.address))}`
      const connection = yield* connect(address)
      yield* connection.send(bytes(4))
      assert.lengthOf(yield* receive(connection, 1), 1)
    })
  )

  it.scopedLive("takes nothing else for an address", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect, listen } = yield* setup(directory)
      const listener = yield* listen()
      const name = listener.address.slice("unix:".length)
      for (const address of [
        "unix:",
        "unix:..",
        "unix:/",
        `unix:../${path.basename(directory)}/${name}`,
        `unix:${name}%00`,
        `unix:%zz`,
        `unix://host/${name}`,
        `tcp:${name}`,
        name
      ]) {
        const failure = yield* Effect.flip(Effect.scoped(connect(address)))
        assert.strictEqual(failure.reason, "Unreachable", address)
      }
    })
  )

  it.scopedLive("needs a directory that is there", () =>
    Effect.gen(function* () {
      const directory = path.join(yield* temporary, "missing")
      const { connect, listen } = yield* setup(directory)
      assert.strictEqual((yield* Effect.flip(listen())).reason, "Unavailable")
      assert.strictEqual((yield* Effect.flip(listen({ directory: null }))).reason, "Unavailable")
      assert.strictEqual((yield* Effect.flip(connect("unix:s.1"))).reason, "Unreachable")
    })
  )

  it.scopedLive.skipIf(!isLinux)("does not follow a link in the directory's place", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const elsewhere = yield* temporary
      const link = path.join(directory, "link")
      fs.symlinkSync(elsewhere, link)
      const { listen } = yield* setup(link)
      assert.strictEqual((yield* Effect.flip(listen())).reason, "Unavailable")
      assert.deepStrictEqual(fs.readdirSync(elsewhere), [])
    })
  )

  for (const [what, put] of [
    ["a regular file", (name: string) => fs.writeFileSync(name, "mine")],
    ["a directory", (name: string) => fs.mkdirSync(name)],
    ["a link to nowhere", (name: string) => fs.symlinkSync("nowhere", name)]
  ] as const) {
    it.scopedLive(`leaves ${what} in the way alone`, () =>
      Effect.gen(function* () {
        const directory = yield* temporary
        const { connect, listen } = yield* setup(directory)
        const name = path.join(directory, "s.taken")
        put(name)
        const before = fs.lstatSync(name)
        const listening = yield* Effect.flip(Effect.scoped(listen({ nonce: "taken" })))
        assert.strictEqual(listening.reason, "EndpointOccupied")
        const connecting = yield* Effect.flip(Effect.scoped(connect("unix:s.taken")))
        assert.strictEqual(connecting.reason, "Unreachable")
        const after = fs.lstatSync(name)
        assert.deepStrictEqual([after.ino, after.size, after.mode], [before.ino, before.size, before.mode])
      })
    )
  }

  it.scopedLive("does not take the name of a listener that lives", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect, listen } = yield* setup(directory)
      const listener = yield* listen({ nonce: "one" })
      yield* serve(listener, echo)
      const failure = yield* Effect.flip(Effect.scoped(listen({ nonce: "one" })))
      assert.strictEqual(failure.reason, "EndpointOccupied")
      const connection = yield* connect(listener.address)
      yield* connection.send(bytes(1))
      assert.lengthOf(yield* receive(connection, 1), 1)
    })
  )

  it.scopedLive("finds nobody behind the socket of a process that died", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect } = yield* setup(directory)
      const name = path.join(directory, "s.dead")
      const server = net.createServer()
      yield* listening(server, name)
      fs.renameSync(name, `${name}.kept`)
      server.close()
      fs.renameSync(`${name}.kept`, name)
      assert.strictEqual((yield* Effect.flip(connect("unix:s.dead"))).reason, "Unreachable")
      assert.isTrue(fs.existsSync(name))
    })
  )

  it.scopedLive("understands a client that writes byte by byte", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { listen } = yield* setup(directory)
      const listener = yield* listen()
      yield* serve(listener, echo)
      const { read, socket } = yield* raw(file(directory, listener.address))
      const stream = Buffer.concat([encode(Buffer.from("a 🚀")), encode(Buffer.alloc(0)), encode(bytes(300))])
      for (const byte of stream) {
        yield* Effect.async<void>((resume) => {
          socket.write(Buffer.of(byte), () => resume(Effect.void))
        })
      }
      yield* until("the echo", () => read().length >= stream.length)
      assert.isTrue(read().equals(stream))
    })
  )

  it.scopedLive("refuses an oversized header at once, after the frames before it, and ends", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { listen } = yield* setup(directory)
      const listener = yield* listen()
      const { closed, ended, read, socket } = yield* raw(file(directory, listener.address))
      const far = yield* listener.accept
      yield* far.trust
      yield* far.send(Buffer.from("sent before"))
      socket.write(Buffer.concat([encode(bytes(10)), Buffer.of(0, 0x10, 0, 1), Buffer.alloc(100)]))
      const [frames, failure] = yield* drain(far)
      assert.deepStrictEqual(
        frames.map((frame) => frame.length),
        [10]
      )
      assert.strictEqual(failure.reason, "TooLarge")
      assert.include(failure.detail, "1048577")
      yield* Effect.promise(() => ended)
      assert.isTrue(read().equals(encode(Buffer.from("sent before"))))
      assert.strictEqual((yield* Effect.flip(far.send(bytes(1)))).reason, "TooLarge")
      // It goes on sending for ever; we do not listen for ever.
      const endless = setInterval(() => socket.write(Buffer.alloc(1000)), 10)
      yield* Effect.promise(() => closed).pipe(
        Effect.timeout("5 seconds"),
        Effect.ensuring(Effect.sync(() => clearInterval(endless)))
      )
    })
  )

  it.scopedLive("outlives garbage", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect, listen } = yield* setup(directory)
      const listener = yield* listen()
      const failures = yield* Ref.make<Array<string>>([])
      yield* serve(listener, (connection) =>
        Effect.tapError(echo(connection), (failure) => Ref.update(failures, (all) => [...all, failure.reason]))
      )
      for (let round = 0; round < 20; round++) {
        const { closed, socket } = yield* raw(file(directory, listener.address))
        socket.write(Buffer.from(bytes(5000, round)).fill(0xff - round, 0, 4))
        if (round % 2 === 0) socket.destroy()
        else socket.end()
        yield* Effect.promise(() => closed)
      }
      const connection = yield* connect(listener.address)
      yield* connection.send(bytes(100))
      const [back] = yield* receive(connection, 1)
      assert.isTrue(isSame(back, bytes(100)))
      assert.include(yield* Ref.get(failures), "TooLarge")
    })
  )

  it.scopedLive("takes the end of a half-open client for the end", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { listen } = yield* setup(directory)
      const listener = yield* listen()
      const { ended, socket } = yield* raw(file(directory, listener.address))
      const far = yield* listener.accept
      socket.end(encode(bytes(3)).subarray(0, 5))
      const [frames, failure] = yield* drain(far)
      assert.lengthOf(frames, 0)
      assert.strictEqual(failure.reason, "Disconnected")
      assert.include(failure.detail, "amid a frame")
      yield* Effect.promise(() => ended)
    })
  )

  it.scopedLive("closes within its bound where the peer does not", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { listen } = yield* setup(directory)
      const listener = yield* listen()
      const { ended, read } = yield* raw(file(directory, listener.address))
      const own = yield* child
      const far = yield* Scope.extend(listener.accept, own)
      yield* far.send(Buffer.from("last words"))
      const start = Date.now()
      // The client never ends by itself.
      yield* Scope.close(own, Exit.void)
      assert.isBelow(Date.now() - start, 4000)
      yield* Effect.promise(() => ended)
      assert.isTrue(read().equals(encode(Buffer.from("last words"))))
    })
  )

  it.scopedLive("reads on after its end, so that a peer that writes before it reads loses nothing", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { listen } = yield* setup(directory)
      const listener = yield* listen()
      const { ended, read, socket } = yield* raw(file(directory, listener.address))
      socket.pause()
      const own = yield* child
      const far = yield* Scope.extend(listener.accept, own)
      yield* far.send(Buffer.from("last words"))
      const closing = yield* Effect.fork(Scope.close(own, Exit.void))
      yield* Effect.sleep("200 millis")
      yield* Effect.async<void>((resume) => {
        socket.write(encode(bytes(1000)), () => resume(Effect.void))
      })
      socket.resume()
      yield* Effect.promise(() => ended)
      assert.isTrue(read().equals(encode(Buffer.from("last words"))))
      const start = Date.now()
      socket.end()
      yield* Fiber.join(closing)
      // The peer's end was all that it waited for.
      assert.isBelow(Date.now() - start, 600)
    })
  )

  it.scopedLive("bounds what clients that say nothing can take, and serves others again", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect, listen } = yield* setup(directory)
      const listener = yield* listen({ maxConnections: 100 })
      const open = yield* Ref.make(0)
      // A time limit that passes when the test says so.
      let over = yield* Deferred.make<void>()
      yield* serve(listener, (connection) =>
        Effect.acquireUseRelease(
          Ref.update(open, (n) => n + 1),
          () => Effect.asVoid(Effect.raceFirst(connection.receive, Deferred.await(over))),
          () => Ref.update(open, (n) => n - 1)
        )
      )
      const clients = yield* Effect.forEach(
        Array.from({ length: 500 }),
        () => Effect.either(raw(file(directory, listener.address))),
        { concurrency: 50 }
      )
      let ended = 0
      for (const client of clients) {
        if (client._tag === "Left") ended++
        else void client.right.ended.then(() => ended++)
      }
      yield* until("the end of the surplus", () => ended >= 400)
      assert.isAtMost(yield* Ref.get(open), 100)
      assert.strictEqual(ended, 400)
      // Their time passes; the clients end as well, and there is room.
      yield* Deferred.succeed(over, undefined)
      over = yield* Deferred.make<void>()
      yield* until("the end of the others", () => ended === 500)
      for (const client of clients) if (client._tag === "Right") client.right.socket.destroy()
      yield* Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* connect(listener.address)
          yield* connection.send(bytes(1))
          assert.strictEqual((yield* Effect.flip(connection.receive)).reason, "Disconnected")
        })
      )
    })
  )

  it.scopedLive("has strangers make room for newcomers, the oldest first, and nobody who has proven who it is", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect, listen } = yield* setup(directory)
      const listener = yield* listen({ maxConnections: 5 })
      // Whoever says something is trusted.
      yield* Effect.gen(function* () {
        const own = yield* child
        const connection = yield* Scope.extend(listener.accept, own)
        yield* Effect.flatMap(connection.receive, (frames) =>
          Effect.zipRight(connection.trust, Effect.forEach(frames, connection.send, { discard: true }))
        ).pipe(Effect.zipRight(echo(connection)), Effect.ignore, Effect.interruptible, Effect.forkScoped)
      }).pipe(Effect.forever, Effect.interruptible, Effect.forkScoped)
      const trip = (connection: Connection, text: string) =>
        Effect.gen(function* () {
          yield* connection.send(Buffer.from(text))
          assert.strictEqual(Buffer.from((yield* receive(connection, 1))[0]!).toString(), text)
        })
      const known = [yield* connect(listener.address), yield* connect(listener.address)]
      for (const connection of known) yield* trip(connection, "first")
      const ended: Array<number> = []
      for (let index = 0; index < 200; index++) {
        const { ended: end } = yield* raw(file(directory, listener.address))
        void end.then(() => ended.push(index))
        if (index % 10 === 0)
          yield* Effect.scoped(Effect.flatMap(connect(listener.address), (other) => trip(other, "hi")))
      }
      yield* until("the end of all but the last", () => ended.length >= 197)
      assert.deepStrictEqual(
        ended,
        ended.map((_, index) => index)
      )
      for (const connection of known) yield* trip(connection, "still here")
    })
  )

  it.scopedLive("does not let a client that never reads fill the memory", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { listen } = yield* setup(directory)
      const listener = yield* listen()
      const { socket } = yield* raw(file(directory, listener.address))
      socket.pause()
      const far = yield* listener.accept
      const sent = yield* Ref.make(0)
      const sending = yield* Effect.fork(
        Effect.forever(
          Effect.zipRight(
            far.send(bytes(10_000)),
            Ref.update(sent, (n) => n + 10_000)
          )
        )
      )
      yield* Effect.sleep("500 millis")
      assert.isBelow(yield* Ref.get(sent), 3 * 1024 * 1024)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(sending)))
    })
  )

  it.scopedLive("does not read on for a receiver that does not receive", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { listen } = yield* setup(directory)
      const listener = yield* listen()
      const { socket } = yield* raw(file(directory, listener.address))
      const far = yield* listener.accept
      const frame = encode(bytes(1000))
      let written = 0
      const write = () => {
        while (
          socket.write(frame, () => {
            written += frame.length
          })
        );
      }
      socket.on("drain", write)
      write()
      yield* Effect.sleep("500 millis")
      // A stranger gets 64 KiB; the rest is in the kernel and in this client.
      assert.isBelow(written, 1024 * 1024)
      yield* far.trust
      yield* receive(far, 5000)
      assert.isAbove(written, 4 * 1024 * 1024)
      socket.destroy()
    })
  )

  it.scopedLive.skipIf(!isLinux)("gives every descriptor back", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect, listen } = yield* setup(directory)
      const round = (address: string) =>
        Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* connect(address)
            yield* connection.send(bytes(50))
            yield* receive(connection, 1)
          })
        )
      const before = descriptors()
      yield* Effect.scoped(
        Effect.gen(function* () {
          const listener = yield* listen()
          yield* serve(listener, echo)
          yield* round(listener.address)
          const serving = descriptors()
          yield* Effect.forEach(Array.from({ length: 200 }), () => round(listener.address), { concurrency: 20 })
          // Attempts that fail and attempts that are given up count as well.
          yield* Effect.forEach(Array.from({ length: 50 }), () => Effect.ignore(Effect.scoped(connect("unix:s.none"))))
          yield* Effect.forEach(Array.from({ length: 50 }), () =>
            Effect.flatMap(Effect.fork(Effect.scoped(connect(listener.address))), Fiber.interrupt)
          )
          yield* until("as many descriptors as before the connections", () => descriptors() <= serving)
        })
      )
      yield* until("as many descriptors as before the listener", () => descriptors() <= before)
    })
  )

  it.scopedLive.skipIf(!isLinux)("is Busy, not dead, while the backlog is full", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect } = yield* setup(directory)
      const name = path.join(directory, "s.full")
      // A listener that never accepts: its own process is stopped.
      const program = `require("node:net").createServer().listen({ path: ${JSON.stringify(name)}, backlog: 1 }, () => console.log("up"))`
      const stopped = yield* Effect.acquireRelease(
        Effect.async<ChildProcess>((resume) => {
          const process_ = spawn(process.execPath, ["-e", program], { stdio: ["ignore", "pipe", "inherit"] })
          process_.stdout!.once("data", () => resume(Effect.succeed(process_)))
        }),
        (process_) => Effect.sync(() => process_.kill("SIGKILL"))
      )
      stopped.kill("SIGSTOP")
      yield* Effect.sleep("100 millis")
      const exits = yield* Effect.forEach(Array.from({ length: 4 }), () => Effect.exit(connect("unix:s.full")))
      assert.isTrue(Exit.isSuccess(exits[0]!))
      const failure = yield* Effect.flip(connect("unix:s.full"))
      assert.strictEqual(failure.reason, "Busy")
      assert.strictEqual(failure.outcome, "NotDelivered")
      // One that asks while it is stopped gets through once it goes on.
      const patient = yield* Effect.fork(connect("unix:s.full"))
      yield* Effect.sleep("30 millis")
      stopped.kill("SIGCONT")
      yield* Fiber.join(patient)
    })
  )

  it.scopedLive("is served by the worker of a cluster itself, and breaks with it", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect } = yield* setup(directory)
      let printed = ""
      const cluster = yield* Effect.acquireRelease(
        Effect.sync(() => spawn(process.execPath, [fixture("unix-cluster"), directory])),
        (cluster) => Effect.sync(() => cluster.kill("SIGKILL"))
      )
      cluster.stdout.on("data", (text) => {
        printed += text
      })
      yield* until("the listener", () => printed.includes("unix:s.worker"))
      assert.deepStrictEqual(fs.readdirSync(directory), ["s.worker"])
      const connection = yield* connect("unix:s.worker")
      yield* connection.send(bytes(20))
      assert.lengthOf(yield* receive(connection, 1), 1)
      cluster.stdin.write("\n")
      yield* until("the worker's death", () => printed.includes("gone"))
      const [frames, failure] = yield* drain(connection)
      assert.lengthOf(frames, 0)
      assert.strictEqual(failure.reason, "Disconnected")
      // The parent lives; had it owned the socket, it would still answer.
      assert.isNull(cluster.exitCode)
      assert.strictEqual((yield* Effect.flip(connect("unix:s.worker"))).reason, "Unreachable")
    })
  )

  it.scopedLive("does not keep who leaves a listener that reads nothing more, and has been silent for a while", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const file = path.join(directory, "s.stopped")
      const server = yield* Effect.acquireRelease(
        Effect.sync(() => {
          const server = net.createServer((socket) => {
            socket.on("error", () => {})
            // It has said something, and then stands still.
            socket.once("data", () => socket.pause().write(encode(bytes(1))))
          })
          return server.listen(file)
        }),
        (server) => Effect.sync(() => server.close())
      )
      yield* Effect.async<void>((resume) => void server.once("listening", () => resume(Effect.void)))
      const { connect } = yield* setup(directory)
      const leaving = (pauseMillis: number) =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const connection = yield* Scope.extend(connect("unix:s.stopped"), scope)
          yield* connection.send(bytes(1))
          yield* receive(connection, 1)
          // More than the system takes.
          yield* Effect.fork(Effect.forEach(Array.from({ length: 8 }), () => connection.send(bytes(maxFrameBytes))))
          yield* Effect.sleep(pauseMillis)
          const since = performance.now()
          yield* Scope.close(scope, Exit.void)
          return performance.now() - since
        })
      // A ratio: the first one is waited for as long as a peer may take its time.
      const [waited, left] = [yield* leaving(0), yield* leaving(1_000)]
      assert.isBelow(left * 2, waited)
    })
  )
})
