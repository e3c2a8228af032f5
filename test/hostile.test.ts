/**
 * A primary that strangers do everything to that they can, and a legitimate launch that is served meanwhile. The strangers
 * are processes of the same user, over a Unix socket and beside shared memory, or of any user, over TCP. Another user does
 * not get as far as that.
 */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import { join } from "node:path"
import { assert, describe } from "@effect/vitest"
import { Effect, Either, type Scope } from "effect"
import { Message } from "effect-single-instance"
import { maxStrangerBytes } from "effect-single-instance/Protocol"
import { Decoder, encode } from "../src/internal/framing.js"
import type { ProtocolName } from "../src/internal/platform.js"
import { type Arena, crossing, itNeeds, makeArena, needs, type StartOptions, whereOf } from "./contenders.js"
import { memoryOf } from "./measured.js"
import { largeIf } from "./size.js"
import { isStress, randomOf, reported, scaled } from "./stress.js"

const sockets = crossing.filter((name) => name !== "file" && name !== "pipe")
const maxConnections = 256
const config = { timeout: "30 seconds", helloTimeout: "3 seconds", maxConnections } as const
// What a primary may need for all that strangers send, in MiB: 64 KiB of each of them, its copy, and what the runtime keeps.
const boundMiB = 200
const flood = scaled(1_500, 10_000)
const seconds = scaled(0.4, 6)

type Stranger = (socket: net.Socket, random: () => number, id: string) => void

const hello = (id: string) =>
  encode(Message.encode({ _tag: "Hello", wire: [1, 1], id, nonce: "0123456789abcdef".repeat(2) }))
const proof = encode(Message.encode({ _tag: "Proof", mac: "0".repeat(64), pid: 1, version: null }))
const huge = Buffer.of(0xff, 0xff, 0xff, 0xff)
const noise = (random: () => number, length: number) => Buffer.from(Array.from({ length }, () => random() * 256))

const every = (socket: net.Socket, millis: number, write: () => boolean) => {
  const timer = setInterval(() => {
    if (!socket.writable || !write()) clearInterval(timer)
  }, millis)
  socket.once("close", () => clearInterval(timer))
}

/** What one stranger does with his connection. */
const strangers: Record<string, Stranger> = {
  "says nothing": () => {},
  "sends garbage": (socket, random) => socket.write(noise(random, 1 + random() * 2_000)),
  "breaks off a hello": (socket, random, id) => {
    const whole = hello(id)
    socket.write(whole.subarray(0, random() * whole.length))
    if (random() < 0.5) socket.end()
  },
  "announces more than there can be": (socket) => socket.write(huge),
  "sends frames without end": (socket) => {
    const frame = encode(Buffer.alloc(60_000, 0x20))
    every(socket, 1, () => socket.write(frame) || socket.writableLength < 1_000_000)
  },
  "drips a byte at a time": (socket, _random, id) => {
    const whole = hello(id)
    let at = 0
    every(socket, 20, () => socket.write(whole.subarray(at, ++at)) && at < whole.length)
  },
  "closes one half": (socket) => socket.end(),
  "proves nothing": (socket, _random, id) => socket.write(Buffer.concat([hello(id), proof])),
  "says hello again and again": (socket, _random, id) => every(socket, 5, () => socket.write(hello(id)))
}

/** Keeps so many strangers there while an effect runs; answers how many had a connection. */
const amid = <A, E, R>(
  where: net.NetConnectOpts,
  act: Stranger,
  options: { readonly atOnce: number; readonly random: () => number; readonly id: string },
  effect: Effect.Effect<A, E, R>
) =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      const open = new Set<net.Socket>()
      let count = 0
      let over = false
      const begin = () => {
        if (over) return
        const socket = net.connect(where)
        open.add(socket)
        socket.on("error", () => {})
        socket.resume()
        socket.once("connect", () => {
          count++
          act(socket, options.random, options.id)
        })
        socket.once("close", () => {
          open.delete(socket)
          // Another one takes the place of who was turned away; not without a pause, for this is one process.
          setTimeout(begin, 5)
        })
      }
      for (let index = 0; index < options.atOnce; index++) begin()
      return {
        count: () => count,
        end: () => {
          over = true
          for (const socket of open) socket.destroy()
        }
      }
    }),
    ({ count }) => Effect.map(effect, (result) => [result, count()] as const),
    ({ end }) => Effect.sync(end)
  )

const setup = (protocol: ProtocolName, options: StartOptions = {}) =>
  Effect.gen(function* () {
    const arena = yield* makeArena
    const primary = yield* arena.start("launch", { protocol, config, ...options })
    yield* primary.waitFor("begin")
    const legitimate = yield* arena.start("rounds", { protocol, config: { ...config, ...options.config } })
    yield* legitimate.waitFor("ready")
    let last = 0
    /** How long a launch takes, in milliseconds; it says what it was told where it was not delivered. */
    const launch = Effect.gen(function* () {
      const message = `legitimate ${++last}`
      const started = performance.now()
      yield* legitimate.say(JSON.stringify({ message }))
      const outcome = yield* legitimate.waitFor("outcome", { message })
      return { outcome: String(outcome.outcome), millis: performance.now() - started }
    })
    yield* launch
    return { arena, primary, launch, where: yield* whereOf(arena, protocol), pid: yield* primary.pid }
  })

describe("amid strangers", () => {
  for (const [protocol, crowd] of [
    ...(isStress ? [] : [["unix", 50] as const]),
    ...sockets.map((name) => [name, 300] as const)
  ]) {
    itNeeds(needs.linux)(
      `over ${protocol}, ${crowd} at once, whatever they do, launches are served${largeIf(crowd !== 50)}`,
      () =>
        reported(
          { area: "6", test: `hostile clients over ${protocol}`, faults: Object.keys(strangers).join(", ") },
          Effect.gen(function* () {
            const { arena, launch, pid, primary, where } = yield* setup(protocol)
            const random = randomOf(`hostile ${protocol}`)
            const before = memoryOf(pid).peak
            const slowest: Array<number> = []
            let launches = 0
            let total = 0
            for (const [what, act] of Object.entries(strangers)) {
              const [times, count] = yield* amid(
                where,
                act,
                { atOnce: crowd, random, id: arena.id },
                Effect.gen(function* () {
                  const times: Array<number> = []
                  for (const ends = performance.now() + seconds * 1_000; performance.now() < ends; ) {
                    const { millis, outcome } = yield* launch
                    assert.strictEqual(outcome, "Delivered", what)
                    times.push(millis)
                    yield* Effect.sleep("20 millis")
                  }
                  return times
                })
              )
              // Generous: this machine runs strangers, launches and other tests on two processors.
              assert.isBelow(Math.max(...times), 15_000, what)
              assert.isAbove(count, crowd / 3, what)
              slowest.push(Math.max(...times))
              launches += times.length
              total += count
            }
            assert.isTrue(primary.isRunning())
            const grown = memoryOf(pid).peak - before
            assert.isBelow(grown, boundMiB)
            yield* arena.consistent()
            return `${total} strangers, ${crowd} at once; ${launches} launches, slowest ${Math.round(Math.max(...slowest))} ms; ${Math.round(grown)} MiB`
          })
        ),
      600_000
    )

    itNeeds(needs.linux)(
      `over ${protocol}, ${flood} silent ones at once keep no launch out @large`,
      () =>
        reported(
          { area: "6", test: `silent connections over ${protocol}`, faults: `${flood} connections at once` },
          Effect.gen(function* () {
            const { arena, launch, pid, where } = yield* setup(protocol)
            const before = memoryOf(pid).peak
            const [times, count] = yield* amid(
              where,
              strangers["says nothing"]!,
              { atOnce: flood, random: Math.random, id: arena.id },
              Effect.gen(function* () {
                const times: Array<number> = []
                for (let index = 0; index < 20; index++) {
                  const { millis, outcome } = yield* launch
                  assert.strictEqual(outcome, "Delivered")
                  times.push(millis)
                }
                return times
              })
            )
            assert.isAtLeast(count, Math.min(flood, maxConnections))
            assert.isBelow(Math.max(...times), 15_000)
            const grown = memoryOf(pid).peak - before
            assert.isBelow(grown, boundMiB)
            return `${count} connections; 20 launches, slowest ${Math.round(Math.max(...times))} ms; ${Math.round(grown)} MiB`
          })
        ),
      600_000
    )
  }
})

// -------------------------------------------------------------------------------------
// conversations that are broken off, or said again
// -------------------------------------------------------------------------------------

interface Said {
  /** What this side sent, or as much of it as it was to send. */
  readonly bytes: Buffer
  /** What the primary said to it until the end. */
  readonly heard: ReadonlyArray<Message.Message["_tag"] | "Unrecognised">
}

const nonce = "fedcba9876543210".repeat(2)

/** A stranger's side of the frames: says these as the answers to his greeting come, and ends. */
const speak = (
  where: net.NetConnectOpts,
  first: Uint8Array,
  then: (welcome: typeof Message.Welcome.Type) => Uint8Array,
  options: { readonly bytes?: number; readonly ends: "in order" | "abruptly" }
) =>
  Effect.async<Said>((resume) => {
    const socket = net.connect(where)
    const decoder = new Decoder(maxStrangerBytes)
    const said: Array<Uint8Array> = []
    const heard: Array<Said["heard"][number]> = []
    let left = options.bytes ?? Number.POSITIVE_INFINITY
    const say = (bytes: Uint8Array) => {
      const part = bytes.subarray(0, left)
      left -= bytes.length
      said.push(part)
      socket.write(part, () => {
        if (left > 0) return
        if (options.ends === "in order") socket.end()
        else socket.destroy()
      })
    }
    socket.on("error", () => {})
    socket.setTimeout(30_000, () => socket.destroy())
    socket.once("connect", () => say(first))
    socket.on("data", (chunk) => {
      const frames: Array<Uint8Array> = []
      decoder.push(chunk, frames)
      for (const frame of frames) {
        const message = Either.getOrThrow(Message.decode(frame))
        heard.push(message._tag)
        if (message._tag === "Welcome" && left > 0) say(then(message))
        if (message._tag === "Exit") socket.end()
      }
    })
    socket.once("end", () => socket.destroy())
    socket.once("close", () => resume(Effect.succeed({ bytes: Buffer.concat(said), heard })))
  })

/** All that a secondary says who knows the key: its greeting, and what proves it and asks for something. */
const conversation = (arena: Arena, protocol: ProtocolName, message: string) =>
  Effect.map(arena.record, (record) => {
    const { address } = record.endpoints.find((endpoint) => endpoint.protocol === protocol)!
    const request = encode(Message.encode({ _tag: "Request", id: `id of ${message}`, payload: { message, work: 0 } }))
    return {
      request,
      greeting: encode(Message.encode({ _tag: "Hello", wire: [1, 1], id: arena.id, nonce })),
      answer: (welcome: typeof Message.Welcome.Type) => {
        const mac = Message.mac(record.key, "client", {
          recordNonce: record.nonce,
          clientNonce: nonce,
          serverNonce: welcome.nonce,
          clientWire: [1, 1],
          serverWire: welcome.range,
          address
        })
        return Buffer.concat([encode(Message.encode({ _tag: "Proof", mac, pid: 1, version: null })), request])
      }
    }
  })

describe("a conversation", () => {
  for (const protocol of sockets.filter((name) => name !== "shm")) {
    itNeeds(needs.linux)(
      `over ${protocol}, broken off after any byte, is handled where it was whole, and harms nobody @large`,
      () =>
        reported(
          { area: "6", test: `broken conversations over ${protocol}`, faults: "an end, or a reset, after each byte" },
          Effect.gen(function* () {
            const { arena, launch, primary, where } = yield* setup(protocol)
            const { answer, greeting } = yield* conversation(arena, protocol, "whole")
            const whole = yield* speak(where, greeting, answer, { ends: "in order" })
            assert.include(whole.heard, "Exit")
            const lengths = Array.from({ length: whole.bytes.length }, (_, length) => length).filter(
              (length) => isStress || length % 5 === 0
            )
            for (const ends of ["in order", "abruptly"] as const) {
              yield* Effect.forEach(
                lengths,
                Effect.fnUntraced(function* (bytes) {
                  const { answer, greeting } = yield* conversation(arena, protocol, "break")
                  const { heard } = yield* speak(where, greeting, answer, { bytes, ends })
                  assert.notInclude(heard, "Exit", `${bytes} bytes`)
                }),
                { concurrency: 16, discard: true }
              )
              assert.strictEqual((yield* launch).outcome, "Delivered")
            }
            assert.isUndefined(primary.entries.find(({ event, message }) => event === "handled" && message === "break"))
            assert.isDefined(primary.entries.find(({ event, message }) => event === "handled" && message === "whole"))
            yield* arena.consistent()
            return `${lengths.length * 2} of ${whole.bytes.length} bytes`
          })
        ),
      300_000
    )

    const size = largeIf(protocol !== "unix")
    itNeeds(needs.linux)(`over ${protocol}, heard by somebody and said again, opens nothing${size}`, () =>
      Effect.gen(function* () {
        const { arena, launch, primary, where } = yield* setup(protocol)
        const first = yield* conversation(arena, protocol, "heard")
        const { bytes, heard } = yield* speak(where, first.greeting, first.answer, { ends: "in order" })
        assert.include(heard, "Exit")
        const other = yield* conversation(arena, protocol, "said again")
        const proof = bytes.subarray(first.greeting.length, bytes.length - first.request.length)
        for (const attempt of [
          () => bytes.subarray(first.greeting.length),
          () => Buffer.concat([proof, other.request])
        ]) {
          const again = yield* speak(where, first.greeting, attempt, { ends: "in order" })
          assert.deepStrictEqual(again.heard, ["Welcome", "Refused"])
        }
        const handled = (message: string) =>
          primary.entries.filter((entry) => entry.event === "handled" && entry.message === message).length
        yield* primary.waitFor("handled", { message: "heard" })
        assert.deepStrictEqual([handled("heard"), handled("said again")], [1, 0])
        // Who has the key is let in with the same words but for the proof: it was the proof.
        assert.include((yield* speak(where, other.greeting, other.answer, { ends: "in order" })).heard, "Exit")
        yield* primary.waitFor("handled", { message: "said again" })
        assert.strictEqual(handled("said again"), 1)
        assert.strictEqual((yield* launch).outcome, "Delivered")
        yield* arena.consistent()
      })
    )
  }
})

// -------------------------------------------------------------------------------------
// another user
// -------------------------------------------------------------------------------------

const uid = 65_534

/** What another user tries, each as a program that fails where he does not get his way; what harms most comes last. */
const attempts = (arena: Arena, names: ReadonlyArray<string>): Record<string, string> => {
  const quoted = (...path: ReadonlyArray<string>) => JSON.stringify(join(arena.home, ...path))
  const away = JSON.stringify(`${arena.home}~`)
  const awaited = (socket: string, event: string) =>
    `${socket}.once("${event}", () => process.exit()).once("error", fail)`
  const each = (what: string, attempt: (name: string) => string) =>
    Object.fromEntries(names.map((name) => [`${what} ${name}`, attempt(name)]))
  return {
    ...each("reads", (name) => `fs.readFileSync(${quoted(name)})`),
    ...each("connects to", (name) => awaited(`net.connect(${quoted(name)})`, "connect")),
    "lists the folder": `fs.readdirSync(${quoted()})`,
    "creates a file in it": `fs.writeFileSync(${quoted(`slot.${nonce}`)}, "")`,
    "listens in it": awaited(`net.createServer().listen(${quoted("s")})`, "listening"),
    "puts another one beside it": `fs.mkdirSync(${away}); fs.rmdirSync(${away})`,
    "moves it away and back": `fs.renameSync(${quoted()}, ${away}); fs.renameSync(${away}, ${quoted()})`,
    ...each("writes to", (name) => `fs.appendFileSync(${quoted(name)}, "x")`),
    ...each(
      "replaces",
      (name) => `fs.symlinkSync("/", ${quoted("~")}); fs.renameSync(${quoted("~")}, ${quoted(name)})`
    ),
    ...each("removes", (name) => `fs.unlinkSync(${quoted(name)})`),
    "removes it": `fs.rmSync(${quoted()}, { recursive: true })`
  }
}

describe("another user @large", () => {
  const through = ["--reuid", `${uid}`, "--regid", `${uid}`, "--clear-groups"]
  /** How it ended for him: the code of the system's refusal, or that he got his way. */
  const tries = (program: string) => {
    const fail = "const fail = ({ code }) => { console.log(code); process.exit(1) }"
    const guarded = `${fail}; const fs = require("fs"), net = require("net"); try { ${program} } catch (cause) { fail(cause) }`
    const { status, stdout } = spawnSync("setpriv", [...through, process.execPath, "-e", guarded], { encoding: "utf8" })
    return status === 0 ? "did it" : stdout.trim()
  }

  for (const protocol of crossing.filter((name) => name !== "tcp")) {
    itNeeds(needs.otherUser)(
      `over ${protocol} can neither connect, read, replace nor block`,
      () =>
        reported(
          { area: "6", test: `another user, over ${protocol}`, faults: "connects, reads, writes, replaces, removes" },
          Effect.gen(function* () {
            const { arena, launch, primary } = yield* setup(protocol)
            // It is the folder itself that is closed to him, not one above it; and his own log is open.
            fs.chmodSync(arena.base, 0o755)
            fs.chmodSync(arena.logs, 0o777)
            const names = fs.readdirSync(arena.home)
            const tried = Object.entries(attempts(arena, names))
            for (const [what, program] of tried) assert.include(["EACCES", "EPERM"], tries(program), what)
            assert.deepStrictEqual(fs.readdirSync(arena.home), names)
            const launched = yield* arena.start("launch", {
              through: ["setpriv", ...through],
              protocol,
              config: { timeout: "5 seconds" }
            })
            assert.deepInclude(yield* launched.waitFor("outcome"), { error: "LockError", outcome: "NotDelivered" })
            assert.strictEqual((yield* launch).outcome, "Delivered")
            assert.isTrue(primary.isRunning())
            yield* arena.consistent()

            // All of it can be done where the folder is open.
            spawnSync("chmod", ["-R", "777", arena.directory])
            for (const [what, program] of Object.entries(attempts(arena, ["lock"]))) {
              assert.strictEqual(tries(program), what === "connects to lock" ? "ECONNREFUSED" : "did it", what)
            }
            return `${tried.length} attempts`
          })
        ),
      300_000
    )
  }
})

describe("the canary", () => {
  itNeeds(needs.linux)("a primary that waits for what a stranger says serves nobody else @large", () =>
    Effect.gen(function* (): Effect.fn.Return<void, never, Scope.Scope> {
      const impatient = { timeout: "2 seconds", helloTimeout: "60 seconds", maxConnections } as const
      const { arena, launch, where } = yield* setup("unix", { transport: "patient", config: impatient })
      const silent = { atOnce: 3, random: Math.random, id: arena.id }
      const [{ outcome }] = yield* amid(where, strangers["says nothing"]!, silent, Effect.delay(launch, "500 millis"))
      assert.strictEqual(outcome, "NotDelivered")
    })
  )
})
