/**
 * Each protocol, made to fail in each of its ways, in front of each next one: what the sender learns is what WIRE.md says,
 * the message is handled at most once, and who is primary never changes.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Either, Layer, Schema, type Scope } from "effect"
import { Message, SingleInstance } from "effect-single-instance"
import { type Connection, type Listener, Protocol } from "effect-single-instance/Protocol"
import * as FileMailbox from "effect-single-instance/protocol/FileMailbox"
import * as InMemory from "effect-single-instance/protocol/InMemory"
import * as NamedPipe from "effect-single-instance/protocol/NamedPipe"
import * as SharedMemory from "effect-single-instance/protocol/SharedMemory"
import * as Tcp from "effect-single-instance/protocol/Tcp"
import * as UnixSocket from "effect-single-instance/protocol/UnixSocket"
import { ProtocolError, TimeoutError } from "effect-single-instance/SingleInstanceError"
import { realWorld } from "./simulation.js"
import { largeIf } from "./size.js"

class Text extends SingleInstance.Tag<Text>()("test.fallback", { request: Schema.String, reply: Schema.String }) {}

const network = Effect.runSync(InMemory.makeNetwork)
const memory = Layer.provide(InMemory.layer, Layer.succeed(InMemory.Network, network))

const transports: ReadonlyArray<readonly [name: string, layer: Layer.Layer<Protocol>]> = [
  ["memory", memory],
  process.platform === "win32" ? ["pipe", NamedPipe.layer] : ["unix", UnixSocket.layer],
  ["file", FileMailbox.layer],
  ["shm", SharedMemory.layer],
  ["tcp", Tcp.layer]
]

const gone = new ProtocolError({ reason: "Disconnected", protocol: "broken", detail: "cut", outcome: "Unknown" })
const refused = new ProtocolError({
  reason: "Unreachable",
  protocol: "broken",
  detail: "refused",
  outcome: "NotDelivered"
})
const unavailable = new ProtocolError({
  reason: "Unavailable",
  protocol: "broken",
  detail: "no",
  outcome: "NotDelivered"
})

type Transport = Protocol["Type"]

const isRequest = (frame: Uint8Array) =>
  Either.match(Message.decode(frame), { onLeft: () => false, onRight: ({ _tag }) => _tag === "Request" })

/** The sender's connection is lost when it has sent its request; every later connection as well. */
const dying = (connection: Connection, failure = gone): Connection => {
  let lost = false
  return {
    ...connection,
    offer: undefined,
    withdraw: undefined,
    send: (frame) =>
      Effect.suspend(() => {
        if (lost) return failure
        lost = isRequest(frame)
        return connection.send(frame)
      }),
    receiveWith: undefined,
    receive: Effect.suspend(() =>
      lost ? failure : Effect.flatMap(connection.receive, (frames) => (lost ? failure : Effect.succeed(frames)))
    )
  }
}

/** A listener that takes connections and says nothing. */
const silent = (listener: Listener): Listener => ({
  ...listener,
  accept: Effect.zipRight(listener.accept, Effect.never)
})

interface Way {
  readonly primary?: (own: Transport) => Partial<Transport>
  readonly secondary?: (own: Transport) => Partial<Transport>
  /** Delivered over the next protocol, or an error with this reason and outcome. */
  readonly expected: "next" | readonly [reason: string, outcome: string]
  /** How often it is handled. */
  readonly handled: 0 | 1
}

const connecting =
  (change: (connection: Connection) => Connection) =>
  (own: Transport): Partial<Transport> => ({
    connect: (...given) => Effect.map(own.connect(...given), change)
  })

const ways: { readonly [way: string]: Way } = {
  "cannot bind": { primary: () => ({ listen: () => Effect.fail(unavailable) }), expected: "next", handled: 1 },
  "is not there for the sender": {
    secondary: () => ({ connect: () => Effect.fail(unavailable) }),
    expected: "next",
    handled: 1
  },
  refuses: { secondary: () => ({ connect: () => Effect.fail(refused) }), expected: "next", handled: 1 },
  "does not answer": {
    primary: (own) => ({ listen: (options) => Effect.map(own.listen(options), silent) }),
    expected: "next",
    handled: 1
  },
  "dies after the request": {
    secondary: connecting((connection) => dying(connection)),
    // Over the next protocol it is asked what became of it: it ran, and its reply is known there.
    expected: "next",
    handled: 1
  },
  "answers garbage": {
    secondary: connecting((connection) => ({
      ...connection,
      receiveWith: undefined,
      receive: Effect.succeed([Buffer.from("garbage")])
    })),
    expected: ["Malformed", "NotDelivered"],
    handled: 0
  }
}

const run = (first: Layer.Layer<Protocol>, next: Layer.Layer<Protocol>, way: Way) =>
  Effect.gen(function* () {
    const world = yield* realWorld(next)
    const changed = (change: ((own: Transport) => Partial<Transport>) | undefined) =>
      Layer.effect(
        Protocol,
        Effect.map(Effect.provide(Protocol, first), (own) => ({ ...own, ...change?.(own) }))
      )
    const options = { timeout: "6 seconds", helloTimeout: "500 millis", maxConnections: 16 } as const
    const primary = yield* world.member(Text, { ...options, protocols: () => [changed(way.primary), next] })
    const ready = yield* Deferred.make<void>()
    const seen: Array<string> = []
    yield* Text.enforce({
      request: "first",
      primary: (leader) =>
        Effect.gen(function* () {
          yield* leader.serve((text, launch) => Effect.sync(() => `${seen.push(text)} ${launch.protocol}`))
          yield* Deferred.succeed(ready, undefined)
          return yield* Effect.never
        })
    }).pipe(Effect.provide(primary.context), Effect.interruptible, Effect.forkScoped)
    yield* Deferred.await(ready)
    const sender = yield* world.member(Text, { ...options, protocols: () => [changed(way.secondary), next] })
    const before = yield* sender.instance.inspect
    const exit = yield* Effect.either(sender.instance.elect("a"))
    const after = yield* sender.instance.inspect
    assert.deepStrictEqual([after.state, after.owner?.pid], ["primary", primary.pid])
    assert.strictEqual(after.owner?.epoch, before.owner?.epoch)
    return { exit, seen }
  }) satisfies Effect.Effect<unknown, unknown, Scope.Scope>

for (const [first, firstLayer] of transports) {
  describe(`where ${first}`, () => {
    for (const [name, way] of Object.entries(ways)) {
      const isMail = first === "file"
      for (const [index, [next, nextLayer]] of transports.filter(([other]) => other !== first).entries()) {
        it.scopedLive(`${name}, before ${next}${largeIf(index > 0)}`, () =>
          Effect.gen(function* () {
            const { exit, seen } = yield* run(firstLayer, nextLayer, way)
            const outcome = Either.match(exit, {
              onLeft: (error) =>
                ProtocolError.is(error) || TimeoutError.is(error) ? [error.reason, error.outcome] : [String(error), ""],
              onRight: (verdict) => (verdict._tag === "Delivered" ? verdict.reply : verdict._tag)
            })
            if (isMail && !["cannot bind", "is not there for the sender", "refuses"].includes(name)) {
              // Nobody answers there before the message is posted: whether it was taken is known later, or never.
              const told = Array.isArray(outcome) ? outcome[1] : "Delivered"
              assert.isAtMost(seen.length, 1)
              if (told !== "Unknown") assert.strictEqual(told, seen.length === 1 ? "Delivered" : "NotDelivered")
              return
            }
            assert.lengthOf(seen, way.handled)
            if (way.expected !== "next") assert.deepStrictEqual(outcome, [...way.expected])
            else if (name !== "dies after the request") assert.strictEqual(outcome, `1 ${next}`)
            else assert.strictEqual(outcome, `1 ${first}`)
          })
        )
      }
    }
  })
}

describe("the canary", () => {
  it.scopedLive("a transport that denies what it sent has the message handled twice", () =>
    Effect.gen(function* () {
      const lie = new ProtocolError({ ...gone, outcome: "NotDelivered" })
      let cuts = 0
      const lying = connecting((connection) => (++cuts > 1 ? connection : dying(connection, lie)))
      const { seen } = yield* run(memory, UnixSocket.layer, { secondary: lying, expected: "next", handled: 1 })
      assert.deepStrictEqual(seen, ["a", "a"])
    })
  )
})
