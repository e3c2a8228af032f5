/**
 * The conversation over every protocol, in every encoding.
 */
import * as path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, type Scope } from "effect"
import { Protocol } from "effect-single-instance/Protocol"
import * as FileMailbox from "effect-single-instance/protocol/FileMailbox"
import * as NamedPipe from "effect-single-instance/protocol/NamedPipe"
import * as SharedMemory from "effect-single-instance/protocol/SharedMemory"
import * as Tcp from "effect-single-instance/protocol/Tcp"
import * as UnixSocket from "effect-single-instance/protocol/UnixSocket"
import { flooding, type Options, suite } from "./contract/Conversation.js"
import { memoryWorld, realWorld, type World } from "./simulation.js"
import { largeIf } from "./size.js"

const pipe = (address: string) => ({ path: `\\\\.\\pipe\\${address.slice("pipe://./pipe/".length)}` })
const unix = (address: string, directory: string) => ({
  path: path.resolve(directory, address.slice("unix:".length))
})
const tcp = (address: string) => {
  const { hostname, port } = new URL(address)
  return { host: hostname, port: Number(port) }
}

const protocols: Record<string, readonly [Effect.Effect<World, never, Scope.Scope>, Omit<Options, "encoding">?]> = {
  memory: [memoryWorld],
  ...(process.platform === "win32"
    ? { pipe: [realWorld(NamedPipe.layer), { every: 5, socket: pipe }] }
    : { unix: [realWorld(UnixSocket.layer), { every: 5, socket: unix }] }),
  shm: [realWorld(SharedMemory.layer), { every: 5 }],
  // The system's receive buffer of a TCP socket grows up to net.ipv4.tcp_rmem, 32 MiB on some.
  tcp: [realWorld(Tcp.layer), { every: 5, bufferedBytes: 48 * 1024 * 1024, socket: tcp }],
  // Each frame is a file.
  file: [
    realWorld(FileMailbox.layer),
    { vouched: true, requests: 300, questions: 50, every: 25, cut: ["shows output", "answers at once"] }
  ]
}

// The small size has this one; test/SingleInstance.test.ts has conversations over sockets as well.
const small: { readonly [name: string]: string } = { memory: "msgpack" }

for (const [name, [world, options]] of Object.entries(protocols)) {
  for (const encoding of ["json", "msgpack"] as const) {
    suite(`${name}${largeIf(small[name] !== encoding)}`, world, { ...options, encoding })
  }
}

describe("the suite notices", () => {
  // Takes whatever it is given, at once, and sends it when it may.
  const unbounded = (own: Protocol["Type"]) => [
    Layer.succeed(Protocol, {
      ...own,
      listen: (options) =>
        Effect.map(own.listen(options), (listener) => ({
          ...listener,
          accept: Effect.map(listener.accept, (connection) => {
            let sending: Effect.Effect<unknown> = Effect.void
            return {
              ...connection,
              offer: undefined,
              send: (frame: Uint8Array) => {
                const before = sending
                return Effect.forkDaemon(Effect.zipRight(before, Effect.ignore(connection.send(frame)))).pipe(
                  Effect.tap((fiber) =>
                    Effect.sync(() => {
                      sending = fiber.await
                    })
                  ),
                  Effect.asVoid
                )
              }
            }
          })
        }))
    })
  ]

  it.scopedLive("a transport that buffers without a bound", () =>
    Effect.gen(function* () {
      const enough = 6 * 1024 * 1024
      const { stopped } = yield* flooding(yield* memoryWorld, {}, enough, { protocols: unbounded })
      assert.isAtLeast(stopped, enough)
    })
  )
})
