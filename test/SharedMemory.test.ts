/**
 * What is particular to shared memory: how it is set up, what a peer may do to it, and what is left behind.
 */
import { type ChildProcess, spawn } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { Duplex } from "node:stream"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Option, Scope } from "effect"
import { InstanceId } from "effect-single-instance/InstanceId"
import { type Connection, type ListenOptions, Protocol } from "effect-single-instance/Protocol"
import * as SharedMemory from "effect-single-instance/protocol/SharedMemory"
import type { ProtocolError } from "effect-single-instance/SingleInstanceError"
import { Decoder, encode } from "../src/internal/framing.js"
import * as localSocket from "../src/internal/localSocket.js"
import * as native from "../src/internal/native.js"
import * as nodeSocket from "../src/internal/nodeSocket.js"
import { pump } from "../src/internal/pump.js"
import { SharedRings, segmentBytes } from "../src/internal/sharedRings.js"
import { itNeeds, makeArena, makePidNamespace, needs } from "./contenders.js"
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
  suite,
  temporary,
  until
} from "./contract/Protocol.js"
import { fixture } from "./fixtures.js"
import { makeRandom } from "./random.js"

const isLinux = process.platform === "linux"
const maxFrameBytes = 4 * 1024 * 1024

/** The protocol with another way to share, or other patience. */
const layerWith = (options: { readonly load?: () => native.Native; readonly spinMillis?: number }) =>
  Layer.succeed(Protocol, {
    name: "shm",
    ...localSocket.local({
      name: "shm",
      letter: "m",
      over: (directory) => (carrier, role) =>
        new SharedRings(carrier, role, {
          native: options.load ?? native.load,
          directory,
          spinMillis: options.spinMillis
        })
    })
  })

// As macOS does it, where there is no memfd.
if (isLinux) suite("SharedMemory in files @large", Effect.succeed(layerWith({ load: () => native.load("darwin") })))

const setup = (directory: string, layer: Layer.Layer<Protocol> = SharedMemory.layer) =>
  Effect.gen(function* () {
    const protocol = Context.get(yield* Layer.build(layer), Protocol)
    const place = { id: InstanceId.make("com.example.shm"), directory, maxFrameBytes }
    return {
      listen: (options: Partial<ListenOptions> = {}) =>
        protocol.listen({ ...place, nonce: nonce(), maxConnections: 100, ...options }),
      connect: (address: string) => protocol.connect(address, place)
    }
  })

const trip = (connection: Connection, frame: Uint8Array) =>
  Effect.gen(function* () {
    const [, [back]] = yield* Effect.all([connection.send(frame), receive(connection, 1)], { concurrency: "unbounded" })
    assert.isTrue(isSame(back, frame))
  })

/** The mappings of shared memory that this process has. */
const mappings = () =>
  fs.readFileSync("/proc/self/maps", "utf8").match(/memfd:effect-single-instance|\/g\.[0-9a-f]{32}/g)
const mapped = () => mappings()?.length ?? 0
const descriptors = () => fs.readdirSync("/proc/self/fd").length

/** Sends frames of many sizes to who echoes each one where it is taken; answers what it sent and what came back of it. */
const echoes = (keep: (frame: Uint8Array) => Uint8Array) =>
  Effect.gen(function* () {
    const directory = yield* temporary
    const { connect, listen } = yield* setup(directory)
    const listener = yield* listen()
    const { far, near } = yield* pair(listener, connect(listener.address))
    const random = makeRandom(7)
    const sent = Array.from({ length: 300 }, (_, index) => {
      const size = random() < 0.9 ? random() * 2_000 : random() * 400_000
      return new Uint8Array(Math.floor(size)).fill(index)
    })
    const taken: Array<Uint8Array> = []
    const echoing = pump(far, (frame) => {
      const kept = keep(frame)
      taken.push(kept)
      // Amid what is lent, or in a fiber of its own.
      return far.offer?.(kept) ? Effect.void : far.send(kept)
    })
    yield* Effect.forkScoped(echoing)
    yield* Effect.fork(Effect.forEach(sent, near.send, { discard: true }))
    const back = yield* receive(near, sent.length)
    return { sent, taken, back }
  })

/** A stream that gives what comes while it is written to, as one through memory does. */
class Answering extends Duplex {
  readonly connecting = false
  readonly written: Array<Buffer> = []
  private questions = 5
  private borrower: (chunk: Buffer) => void = () => {}

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.written.push(Buffer.from(chunk))
    if (this.questions-- > 0) this.borrower(encode(Buffer.from("question")))
    done()
  }

  lend(take: (chunk: Buffer) => void): void {
    this.borrower = take
  }
}

/** A peer without any of our code on top: the socket, and what it answered. */
const raw = (file: string) =>
  Effect.acquireRelease(
    Effect.async<{ socket: net.Socket; read: () => Buffer; isOver: () => boolean }>((resume) => {
      const chunks: Array<Buffer> = []
      let over = false
      const socket = net.connect(file)
      socket.on("data", (chunk) => chunks.push(chunk))
      socket.on("error", () => {})
      socket.on("close", () => {
        over = true
      })
      socket.once("connect", () =>
        resume(Effect.succeed({ socket, read: () => Buffer.concat(chunks), isOver: () => over }))
      )
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

const socketIn = (directory: string, address: string) => path.join(directory, address.slice("shm:".length))

// The layout of version 1, as it is on the wire: words 128 bytes apart, rings of 1 MiB behind the first page.
const layout = { head: 0, tail: 32, sleeping: 64, waiting: 96, secondRing: 128, data: 4096, capacity: 1024 * 1024 }

/** A client that has set up its memory and may do to it what it likes. */
const puppet = (file: string) =>
  Effect.gen(function* () {
    const peer = yield* raw(file)
    const offer = yield* Effect.acquireRelease(
      Effect.sync(() => native.load().create(segmentBytes, path.dirname(file))),
      ({ unmap, withdraw }) =>
        Effect.sync(() => {
          withdraw()
          unmap()
        })
    )
    peer.socket.write(`ESIR1 ${offer.reference}\n`)
    yield* until("an answer", () => peer.read().length > 0)
    assert.strictEqual(peer.read()[0], 2)
    const cells = new Int32Array(offer.memory, 0, 1024)
    const ring = Buffer.from(offer.memory, layout.data, layout.capacity)
    return {
      ...peer,
      cells,
      ring,
      publish: (frame: Uint8Array) => {
        const at = Atomics.load(cells, layout.head)
        ring.set(frame, at)
        Atomics.store(cells, layout.head, at + frame.length)
        peer.socket.write(Buffer.of(1))
      }
    }
  })

const header = (length: number) => {
  const head = Buffer.alloc(4)
  head.writeUInt32BE(length)
  return head
}

describe("SharedMemory", () => {
  it.scopedLive("lends frames of any size to who takes them where they arrive, and answers there", () =>
    Effect.gen(function* () {
      const { back, sent, taken } = yield* echoes((frame) => Uint8Array.from(frame))
      assert.isTrue(sent.every((frame, index) => isSame(taken[index], frame)))
      assert.isTrue(sent.every((frame, index) => isSame(back[index], frame)))
    })
  )

  it.scopedLive("loses nothing that is answered amid a write", () =>
    Effect.gen(function* () {
      const stream = new Answering()
      const { connection } = nodeSocket.make(stream, { protocol: "shm", maxFrameBytes })
      let answered = 0
      yield* Effect.forkScoped(
        pump(connection, () => {
          answered++
          assert.isTrue(connection.offer!("answer"))
          return Effect.void
        })
      )
      yield* Effect.yieldNow()
      // More than a piece of memory for small frames holds, within one turn.
      for (let sent = 0; sent < 200; sent++) assert.isTrue(connection.offer!("x".repeat(sent)))
      yield* Effect.sleep("20 millis")
      stream.destroy()
      const frames: Array<Uint8Array> = []
      new Decoder(maxFrameBytes).push(Buffer.concat(stream.written), frames)
      const told = frames.map((frame) => Buffer.from(frame).toString())
      assert.isAbove(answered, 1)
      assert.deepStrictEqual(
        told.filter((one) => one !== "answer"),
        Array.from({ length: 200 }, (_, sent) => "x".repeat(sent))
      )
      assert.strictEqual(told.length - 200, answered)
    })
  )

  it.scopedLive("wakes who waits for room since amid a write", () =>
    Effect.gen(function* () {
      const stream = new Answering()
      const { connection } = nodeSocket.make(stream, { protocol: "shm", maxFrameBytes })
      const waiting: Array<Fiber.RuntimeFiber<void, ProtocolError>> = []
      yield* Effect.forkScoped(
        pump(connection, () => {
          if (connection.offer!("answer")) return Effect.void
          waiting.push(Effect.runFork(connection.send(Buffer.from("answer"))))
          return Effect.void
        })
      )
      yield* Effect.yieldNow()
      // As large as what a stream takes before it is full, and written at once.
      assert.isTrue(connection.offer!("x".repeat(16_400)))
      assert.isAbove(waiting.length, 0)
      const sent = yield* Effect.timeoutOption(Fiber.joinAll(waiting), "10 seconds")
      stream.destroy()
      assert.isTrue(Option.isSome(sent))
    })
  )

  it.scopedLive("uses their memory again, so that who keeps one has another one's (the canary)", () =>
    Effect.gen(function* () {
      const { sent, taken } = yield* echoes((frame) => frame)
      assert.isFalse(sent.every((frame, index) => isSame(taken[index], frame)))
    })
  )

  itNeeds(needs.linux)("leaves no descriptor, no mapping and no file behind @large", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect, listen } = yield* setup(directory)
      const before = [descriptors(), mapped()]
      yield* Effect.scoped(
        Effect.gen(function* () {
          const listener = yield* listen()
          yield* serve(listener, echo)
          for (let round = 0; round < 300; round++) {
            yield* Effect.scoped(
              Effect.flatMap(connect(listener.address), (connection) => trip(connection, bytes(100)))
            )
          }
          const open = yield* connect(listener.address)
          yield* trip(open, bytes(100))
          // Both ends are in this process; nothing in the directory tells of it.
          assert.strictEqual(mapped(), before[1]! + 2)
          assert.deepStrictEqual(fs.readdirSync(directory), [socketIn("", listener.address)])
        })
      )
      yield* until("an end without a rest", () => descriptors() === before[0] && mapped() === before[1])
      assert.deepStrictEqual(fs.readdirSync(directory), [])
    })
  )

  itNeeds(needs.linux)("is told by its socket that the peer was killed, and keeps what had arrived", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { listen } = yield* setup(directory)
      const listener = yield* listen()
      const before = mapped()
      for (const [what, written, arrived] of [
        ["at rest", [header(3), "abc"], ["abc"]],
        ["amid a frame", [header(3), "abc", header(9), "def"], ["abc"]]
      ] as const) {
        const own = yield* child
        const { publish, socket } = yield* Scope.extend(puppet(socketIn(directory, listener.address)), own)
        const accepted = yield* child
        const connection = yield* Scope.extend(listener.accept, accepted)
        publish(Buffer.concat(written.map((part) => Buffer.from(part))))
        yield* Effect.sleep("50 millis")
        // What a SIGKILL leaves of the connection.
        socket.destroy()
        const [frames, failure] = yield* drain(connection)
        assert.deepStrictEqual(
          frames.map((frame) => Buffer.from(frame).toString()),
          [...arrived],
          what
        )
        assert.strictEqual(failure.reason, "Disconnected")
        assert.strictEqual(failure.detail.includes("amid a frame"), what === "amid a frame", failure.detail)
        yield* Scope.close(accepted, Exit.void)
        yield* Scope.close(own, Exit.void)
      }
      assert.strictEqual(mapped(), before)
    })
  )

  it.scopedLive.skipIf(process.platform === "win32")(
    "keeps one bell at most for a peer that asks for one with each byte and reads none",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporary
        const file = path.join(directory, "m.bells")
        const carriers: Array<net.Socket> = []
        let received = 0
        const server = net.createServer((carrier) => {
          carriers.push(carrier)
          const rings = new SharedRings(carrier, "server", { native: native.load, directory })
          rings.lend((chunk) => {
            received += chunk.length
          })
        })
        yield* Effect.acquireRelease(
          Effect.async<void>((resume) => void server.listen(file, () => resume(Effect.void))),
          () =>
            Effect.sync(() => {
              for (const carrier of carriers) carrier.destroy()
              server.close()
            })
        )
        const { cells, socket } = yield* puppet(file)
        // A paused socket of Node still reads 64 KiB.
        socket.pause()
        const handle = (socket as unknown as { readonly _handle: { readonly readStop: () => void } })._handle
        handle.readStop()
        // Until the system's own buffer is full and one bell waits, and some more.
        let asked = 100_000
        let most = 0
        yield* Effect.async<void>((resume) => {
          const step = () => {
            const at = Atomics.load(cells, layout.head)
            if (at === asked) return resume(Effect.void)
            if (Atomics.load(cells, layout.tail) === at) {
              Atomics.store(cells, layout.waiting, 1)
              Atomics.store(cells, layout.head, at + 1)
            }
            if (Atomics.exchange(cells, layout.sleeping, 0) === 1) socket.write(Buffer.of(1))
            if (most === 0 && carriers[0]!.writableLength > 0) asked = at + 3_000
            most = Math.max(most, carriers[0]!.writableLength)
            setImmediate(step)
          }
          step()
        })
        yield* until("all bytes", () => received === asked)
        assert.strictEqual(most, 1)
      })
  )

  const hostile: ReadonlyArray<
    readonly [what: string, act: (peer: Effect.Effect.Success<ReturnType<typeof puppet>>) => void]
  > = [
    ["a head far ahead", ({ cells }) => Atomics.store(cells, layout.head, layout.capacity + 7)],
    ["a head behind", ({ cells }) => Atomics.store(cells, layout.head, -1)],
    ["a tail ahead of what was written", ({ cells }) => Atomics.store(cells, layout.secondRing + layout.tail, 5)],
    ["a tail far behind", ({ cells }) => Atomics.store(cells, layout.secondRing + layout.tail, 0x7fff_ffff)],
    ["a length above the limit", ({ publish }) => publish(header(maxFrameBytes + 1))],
    ["the largest length there is", ({ publish }) => publish(header(0xffff_ffff))]
  ]
  for (const [what, act] of hostile) {
    it.scopedLive(`survives ${what}, and says what is wrong`, () =>
      Effect.gen(function* () {
        const directory = yield* temporary
        const { connect, listen } = yield* setup(directory)
        const listener = yield* listen()
        const peer = yield* puppet(socketIn(directory, listener.address))
        const connection = yield* listener.accept
        yield* connection.trust
        peer.publish(Buffer.concat([header(2), Buffer.from("ok")]))
        assert.lengthOf(yield* receive(connection, 1), 1)
        act(peer)
        peer.socket.write(Buffer.of(1))
        // It is found when the ring is used next.
        yield* Effect.ignore(connection.send(bytes(10)))
        const [frames, failure] = yield* drain(connection)
        assert.lengthOf(frames, 0)
        assert.strictEqual(failure.reason, what.includes("length") ? "TooLarge" : "Disconnected")
        // Others are served as before.
        yield* serve(listener, echo)
        yield* trip(yield* connect(listener.address), bytes(1000))
      })
    )
  }

  it.scopedLive("maps nothing that is not what it must be, and serves others", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { connect, listen } = yield* setup(directory)
      const listener = yield* listen()
      yield* serve(listener, echo)
      const file = fs.openSync(path.join(directory, "large"), "wx+")
      fs.ftruncateSync(file, segmentBytes)
      const small = native.load().create(4096, directory)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          fs.closeSync(file)
          small.withdraw()
          small.unmap()
        })
      )
      for (const line of [
        // Of another size, not sealed, no memory at all, not there.
        small.reference,
        `memfd:${process.pid}:${file}`,
        `memfd:${process.pid}:0`,
        `memfd:${process.pid}:99999999`,
        "memfd:1:0/../../../etc/passwd",
        "memfd:-1:0",
        `file:g.${"0".repeat(32)}`,
        "file:../large",
        "section:esi-0",
        "",
        "\0",
        "é".repeat(20)
      ]) {
        const { isOver, read, socket } = yield* raw(socketIn(directory, listener.address))
        socket.write(`ESIR1 ${line}\n`)
        yield* until(`a refusal of ${line}`, isOver)
        assert.deepStrictEqual([...read()], [3], line)
      }
      for (const garbage of [
        "GET / HTTP/1.1\r\n\r\n",
        "\n",
        "ESIR2 memfd:1:1\n",
        "x".repeat(5000),
        `ESIR1 ${"9".repeat(5000)}`
      ]) {
        const { isOver, read, socket } = yield* raw(socketIn(directory, listener.address))
        socket.write(garbage)
        yield* until("an end", isOver)
        assert.lengthOf(read(), 0)
      }
      yield* trip(yield* connect(listener.address), bytes(1000))
    })
  )

  itNeeds(needs.linux)("does not follow a link, a FIFO or a shorter file in a segment's place", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const posix = native.load("darwin")
      const own = posix.create(segmentBytes, directory)
      const name = own.reference.slice("file:".length)
      const target = path.join(directory, name)
      const opens = () => posix.open(own.reference, segmentBytes, directory).unmap()
      opens()
      fs.renameSync(target, `${target}.away`)
      fs.symlinkSync(`${target}.away`, target)
      assert.throws(opens, /ELOOP/)
      fs.unlinkSync(target)
      yield* Effect.promise(() => new Promise((done) => spawn("mkfifo", [target]).once("exit", done)))
      assert.throws(opens, /no file/)
      fs.unlinkSync(target)
      fs.writeFileSync(target, Buffer.alloc(segmentBytes - 1))
      assert.throws(opens, /another size/)
      fs.unlinkSync(target)
      assert.throws(opens, /ENOENT/)
      own.unmap()
    })
  )

  itNeeds(needs.mounts)("says that there is no room for a segment instead of dying of it, and leaves nothing", () =>
    Effect.gen(function* () {
      const script = `
        mount -t tmpfs -o size=1m none "$1" && exec "$2" "$3" segment "$1"`
      const directory = yield* temporary
      const ended = yield* Effect.promise(
        () =>
          new Promise<string>((done) => {
            const args = ["-m", "sh", "-c", script, "sh", directory, process.execPath, fixture("shared-memory")]
            const { stdout } = spawn("unshare", args, { stdio: ["ignore", "pipe", "inherit"] })
            let text = ""
            stdout.setEncoding("utf8").on("data", (chunk) => (text += chunk))
            stdout.once("close", () => done(text.trim()))
          })
      )
      assert.strictEqual(ended, "ENOSPC []")
    })
  )

  itNeeds(needs.posix)("is unavailable without koffi, and who has another protocol goes on", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      // Where nothing is installed above it.
      const alone = path.join(directory, "alone.mjs")
      fs.copyFileSync(fixture("shared-memory"), alone)
      const lines = yield* run(alone, "without", directory)
      assert.deepStrictEqual(lines, [
        "listen Unavailable NotDelivered",
        "connect Unavailable NotDelivered",
        "served by unix"
      ])
    })
  )

  itNeeds(needs.linux)("sleeps when nothing is said, and spins only for as long as that pays @large", () =>
    Effect.gen(function* () {
      const busy = Number((yield* run(fixture("shared-memory"), "idle", yield* temporary, "60000"))[0])
      const idle = Number((yield* run(fixture("shared-memory"), "idle", yield* temporary))[0])
      // In milliseconds of the processor within two seconds; the canary never stops looking.
      assert.isBelow(idle, 400)
      assert.isAbove(busy, 3 * idle)
    })
  )

  itNeeds(needs.namespaces)("serves nobody in another pid namespace, who goes on to the next protocol @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* arena.start("launch", { protocol: "shm", fallback: "unix" })
      yield* primary.waitFor("begin")
      const near = yield* arena.start("launch", { protocol: "shm", fallback: "unix" })
      assert.strictEqual((yield* near.waitFor("outcome")).protocol, "shm")
      const far = yield* arena.start("launch", { protocol: "shm", fallback: "unix", through: yield* makePidNamespace })
      assert.deepInclude({ ...(yield* far.waitFor("outcome")) }, { outcome: "Delivered", protocol: "unix" })
    })
  )
})

const run = (file: string, ...args: ReadonlyArray<string>) =>
  Effect.acquireUseRelease(
    Effect.sync((): ChildProcess => spawn(process.execPath, [file, ...args], { stdio: ["ignore", "pipe", "inherit"] })),
    ({ stdout }) =>
      Effect.promise(
        () =>
          new Promise<ReadonlyArray<string>>((done) => {
            let text = ""
            stdout!.setEncoding("utf8").on("data", (chunk) => (text += chunk))
            stdout!.once("close", () => done(text.trim().split("\n")))
          })
      ),
    (handle) => Effect.sync(() => handle.kill("SIGKILL"))
  )
