/**
 * Frames over a named pipe of Windows.
 *
 * @since 0.1.0
 */

import * as crypto from "node:crypto"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as nodeSocket from "../internal/nodeSocket.js"
import { Protocol } from "../Protocol.js"
import { ProtocolError } from "../SingleInstanceError.js"

/**
 * The protocol `pipe`. It listens on `\\.\pipe\esi-<128 random bits>`, under the address `pipe://./pipe/esi-…`. Pipes have
 * one name space for all users, so that only who can read the record knows the name.
 *
 * - `listen` fails with `Unavailable` off Windows, with `EndpointOccupied` where the name is taken.
 * - `connect` fails with `Unreachable` where nobody listens, with `Busy` where the listener takes nobody for half a
 *   second, with `Unavailable` off Windows and where this process may not connect.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as NamedPipe from "effect-single-instance/protocol/NamedPipe"
 * import * as Protocol from "effect-single-instance/Protocol"
 *
 * const program = Effect.map(Protocol.Protocol, (protocol) => protocol.name)
 *
 * export const name = Effect.runSync(Effect.provide(program, NamedPipe.layer)) // "pipe"
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Protocol> = Layer.succeed(Protocol, {
  name: "pipe",
  listen: ({ maxConnections, maxFrameBytes }) =>
    Effect.suspend(() => {
      if (unsupported) return Effect.fail(unsupported)
      const name = `esi-${crypto.randomBytes(16).toString("hex")}`
      const options = { protocol: "pipe", maxFrameBytes, maxConnections }
      return nodeSocket.listen({ path: prefix + name }, options, () => `pipe://./pipe/${name}`)
    }),
  connect: (address, { maxFrameBytes }) => {
    if (unsupported) return Effect.fail(unsupported)
    const name = /^pipe:\/\/\.\/pipe\/([\w.-]+)$/.exec(address)?.[1]
    return name === undefined
      ? Effect.fail(error("Unreachable", `it cannot be reached under ${address}`))
      : nodeSocket.connect({ path: prefix + name }, { protocol: "pipe", maxFrameBytes })
  }
})

const prefix = "\\\\.\\pipe\\"

const error = (reason: ProtocolError["reason"], detail: string): ProtocolError =>
  new ProtocolError({ reason, protocol: "pipe", detail, outcome: "NotDelivered" })

const unsupported = process.platform === "win32" ? undefined : error("Unavailable", "named pipes are for Windows")
