/**
 * Frames over TCP, within this machine only.
 *
 * @since 0.1.0
 */
import type { AddressInfo } from "node:net"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as addresses from "../internal/addresses.js"
import * as nodeSocket from "../internal/nodeSocket.js"
import { Protocol } from "../Protocol.js"
import { ProtocolError } from "../SingleInstanceError.js"

/**
 * The protocol `tcp`. It listens on a free port of 127.0.0.1, or of ::1 where there is no IPv4, under an address such as
 * `tcp://127.0.0.1:49152`. Every user of the machine can connect to a port: the proofs of the hello keep strangers out, and
 * one that took the port of a dead primary is recognised by them. Not in the default chain: choose it where neither a
 * Unix socket nor a named pipe will do.
 *
 * - `listen` fails with `Unavailable` where there is no loopback address to listen on.
 * - `connect` fails with `Unreachable` where nobody listens and for any address that is not of this machine.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as Protocol from "effect-single-instance/Protocol"
 * import * as Tcp from "effect-single-instance/protocol/Tcp"
 *
 * const program = Effect.map(Protocol.Protocol, (protocol) => protocol.name)
 *
 * export const name = Effect.runSync(Effect.provide(program, Tcp.layer)) // "tcp"
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Protocol> = Layer.succeed(Protocol, {
  name: "tcp",
  listen: ({ maxConnections, maxFrameBytes }) => {
    const options = { protocol: "tcp", maxFrameBytes, maxConnections }
    const on = (host: string) =>
      nodeSocket.listen({ host, port: 0, ipv6Only: true }, options, (bound) => {
        const { address, family, port } = bound as AddressInfo
        return `tcp://${family === "IPv6" ? `[${address}]` : address}:${port}`
      })
    return Effect.orElse(on("127.0.0.1"), () => on("::1"))
  },
  connect: (address, { maxFrameBytes }) => {
    const target = addresses.tcp(address)
    return target === undefined
      ? Effect.fail(
          new ProtocolError({
            reason: "Unreachable",
            protocol: "tcp",
            detail: `${address} is no port of this machine's own`,
            outcome: "NotDelivered"
          })
        )
      : nodeSocket.connect({ ...target, noDelay: true }, { protocol: "tcp", maxFrameBytes })
  }
})
