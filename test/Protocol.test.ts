import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { InstanceId } from "effect-single-instance/InstanceId"
import { Protocol } from "effect-single-instance/Protocol"
import * as FileMailbox from "effect-single-instance/protocol/FileMailbox"
import * as InMemory from "effect-single-instance/protocol/InMemory"
import * as NamedPipe from "effect-single-instance/protocol/NamedPipe"
import * as SharedMemory from "effect-single-instance/protocol/SharedMemory"
import * as Tcp from "effect-single-instance/protocol/Tcp"
import * as UnixSocket from "effect-single-instance/protocol/UnixSocket"
import { nonce, suite, taking, temporary } from "./contract/Protocol.js"

const isWindows = process.platform === "win32"

suite(
  "InMemory",
  Effect.map(InMemory.makeNetwork, (network) => Layer.provide(InMemory.layer, Layer.succeed(InMemory.Network, network)))
)

if (isWindows) suite("NamedPipe", Effect.succeed(NamedPipe.layer))
else suite("UnixSocket", Effect.succeed(UnixSocket.layer))

// That of all sockets of this process.
suite("frames that are taken where they arrive", Effect.succeed(taking(isWindows ? NamedPipe.layer : UnixSocket.layer)))

suite("FileMailbox", Effect.succeed(FileMailbox.layer), { connections: 10, frames: 100 })

suite("SharedMemory", Effect.succeed(SharedMemory.layer))

suite("frames that are lent where they arrive", Effect.succeed(taking(SharedMemory.layer)))

// The system's receive buffer of a TCP socket grows up to net.ipv4.tcp_rmem, 32 MiB on some.
suite("Tcp", Effect.succeed(Tcp.layer), { bufferedBytes: 48 * 1024 * 1024 })

describe("on the wrong platform", () => {
  const foreign = isWindows ? UnixSocket.layer : NamedPipe.layer
  it.scopedLive("a protocol is unavailable", () =>
    Effect.gen(function* () {
      const protocol = yield* Protocol
      const place = { id: InstanceId.make("com.example.foreign"), directory: yield* temporary, maxFrameBytes: 1024 }
      const listening = yield* Effect.flip(protocol.listen({ ...place, nonce: nonce(), maxConnections: 1 }))
      assert.strictEqual(listening.reason, "Unavailable")
      const connecting = yield* Effect.flip(protocol.connect("pipe://./pipe/esi-0", place))
      assert.strictEqual(connecting.reason, "Unavailable")
      assert.strictEqual(connecting.outcome, "NotDelivered")
    }).pipe(Effect.provide(foreign))
  )
})
