/**
 * Frames through memory that both processes have mapped.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as localSocket from "../internal/localSocket.js"
import * as native from "../internal/native.js"
import { SharedRings } from "../internal/sharedRings.js"
import { Protocol } from "../Protocol.js"
import { ProtocolError } from "../SingleInstanceError.js"

/**
 * The protocol `shm`: for long conversations with much to say. Each connection has 2 MiB of its own, a ring for each
 * direction; frames that are larger go through in pieces. Who waits looks again for at most 100 µs, as long as that pays,
 * and then sleeps until it is woken: an idle connection costs no processor time.
 *
 * It is set up and woken over a socket `m.<nonce>` in the instance's directory, under the address `shm:m.<nonce>` (on
 * Windows over a named pipe), which also ends with either process. The memory has no name on Linux and cannot be truncated
 * (memfd_create(2)); on Windows it is a section of the paging file; else a file `g.<random>`, 0600, in the directory, which
 * is removed as soon as both have mapped it. A peer that keeps such a file open can truncate it, and who then touches the
 * memory gets a SIGBUS.
 *
 * It needs the optional package `koffi`, which is loaded with the first connection.
 *
 * - `listen` and `connect` fail with `Unavailable` where `koffi` is not installed or cannot be loaded, `connect` also where
 *   no memory can be shared with the primary; else as `unix` and `pipe` do.
 * - A position that cannot be, or an end amid a frame, ends the connection: `Disconnected`.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as Protocol from "effect-single-instance/Protocol"
 * import * as SharedMemory from "effect-single-instance/protocol/SharedMemory"
 *
 * const program = Effect.map(Protocol.Protocol, (protocol) => protocol.name)
 *
 * export const name = Effect.runSync(Effect.provide(program, SharedMemory.layer)) // "shm"
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Protocol> = Layer.sync(Protocol, () => {
  const socket = localSocket.local({
    name: "shm",
    letter: "m",
    over: (directory) => (carrier, role) => new SharedRings(carrier, role, { native: native.load, directory })
  })
  const ifInstalled = <A, R>(effect: Effect.Effect<A, ProtocolError, R>): Effect.Effect<A, ProtocolError, R> =>
    Effect.suspend(() => (native.isInstalled() ? effect : missing))
  return {
    name: "shm",
    listen: (options) => ifInstalled(socket.listen(options)),
    connect: (address, options) => ifInstalled(socket.connect(address, options))
  }
})

const missing = new ProtocolError({
  reason: "Unavailable",
  protocol: "shm",
  detail: "the package koffi is not installed",
  outcome: "NotDelivered"
})
