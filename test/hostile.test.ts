/**
 * A primary that strangers do everything to that they can, and a legitimate launch that is served meanwhile. The strangers
 * are processes of the same user, over a Unix socket and beside shared memory, or of any user, over TCP.
 */
import * as fs from "node:fs"
import * as net from "node:net"
import { join } from "node:path"
import { assert, describe } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { Message } from "effect-single-instance"
import { encode } from "../src/internal/framing.js"
import type { ProtocolName } from "../src/internal/platform.js"
import { type Arena, crossing, itNeeds, makeArena, needs, type StartOptions } from "./contenders.js"
import { temporary } from "./contract/Protocol.js"
import { memoryOf } from "./measured.js"
import { randomOf, reported, scaled } from "./stress.js"

const sockets = crossing.filter((name) => name !== "file" && name !== "pipe")
const maxConnections = 256
const config = { timeout: "30 seconds", helloTimeout: "3 seconds", maxConnections } as const
// What a primary may need for all that strangers send, in MiB: 64 KiB of each of them, its copy, and what the runtime keeps.
const boundMiB = 200
const flood = scaled(1_500, 10_000)
const seconds = scaled(0.4, 6)

type Where = net.NetConnectOpts
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

const whereOf = Effect.fnUntraced(function* (
  arena: Arena,
  protocol: ProtocolName
): Effect.fn.Return<Where, never, Scope.Scope> {
  const { address } = (yield* arena.record).endpoints.find((endpoint) => endpoint.protocol === protocol)!
  const port = /^tcp:.*:(\d+)$/.exec(address)?.[1]
  if (port !== undefined) return { host: "127.0.0.1", port: Number(port), allowHalfOpen: true }
  // The name of a socket fits in 107 bytes only through a short link.
  const short = yield* temporary
  fs.symlinkSync(arena.home, join(short, "h"))
  return { path: join(short, "h", address.slice(address.indexOf(":") + 1)), allowHalfOpen: true }
})

/** Keeps so many strangers there while an effect runs; answers how many had a connection. */
const amid = <A, E, R>(
  where: Where,
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
  for (const protocol of sockets) {
    itNeeds(needs.linux)(
      `over ${protocol}, whatever they do, launches are served`,
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
                { atOnce: 300, random, id: arena.id },
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
              assert.isAbove(count, 100, what)
              slowest.push(Math.max(...times))
              launches += times.length
              total += count
            }
            assert.isTrue(primary.isRunning())
            const grown = memoryOf(pid).peak - before
            assert.isBelow(grown, boundMiB)
            yield* arena.consistent()
            return `${total} strangers, 300 at once; ${launches} launches, slowest ${Math.round(Math.max(...slowest))} ms; ${Math.round(grown)} MiB`
          })
        ),
      600_000
    )

    itNeeds(needs.linux)(
      `over ${protocol}, ${flood} silent ones at once keep no launch out`,
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

describe("the canary", () => {
  itNeeds(needs.linux)("a primary that waits for what a stranger says serves nobody else", () =>
    Effect.gen(function* (): Effect.fn.Return<void, never, Scope.Scope> {
      const impatient = { timeout: "2 seconds", helloTimeout: "60 seconds", maxConnections } as const
      const { arena, launch, where } = yield* setup("unix", { transport: "patient", config: impatient })
      const silent = { atOnce: 3, random: Math.random, id: arena.id }
      const [{ outcome }] = yield* amid(where, strangers["says nothing"]!, silent, Effect.delay(launch, "500 millis"))
      assert.strictEqual(outcome, "NotDelivered")
    })
  )
})
