/**
 * Frames over a Unix domain socket in the instance's directory, on Linux and macOS.
 *
 * @since 0.1.0
 */

import * as path from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as nodeSocket from "../internal/nodeSocket.js"
import { shortPath } from "../internal/socketPath.js"
import { Protocol } from "../Protocol.js"
import { ProtocolError } from "../SingleInstanceError.js"

/**
 * The protocol `unix`. It listens on `s.<nonce>` in the instance's directory, which keeps other users out, under the
 * address `unix:s.<nonce>`. It connects to such an address and to an absolute one, `unix:///path/x.sock`, in which what a
 * URI cannot hold is percent-encoded. How long the directory's name is does not matter.
 *
 * - `listen` fails with `Unavailable` on Windows, without a directory and where the directory cannot hold sockets; with
 *   `EndpointOccupied` where there is a file of that name.
 * - `connect` fails with `Unreachable` where nobody listens, with `Busy` where the listener's backlog stays full for half
 *   a second, with `Unavailable` where this process may not connect.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as Protocol from "effect-single-instance/Protocol"
 * import * as UnixSocket from "effect-single-instance/protocol/UnixSocket"
 *
 * const program = Effect.map(Protocol.Protocol, (protocol) => protocol.name)
 *
 * export const name = Effect.runSync(Effect.provide(program, UnixSocket.layer)) // "unix"
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Protocol> = Layer.succeed(Protocol, {
  name: "unix",
  listen: ({ directory, maxConnections, maxFrameBytes, nonce }) => {
    if (unsupported) return Effect.fail(unsupported)
    if (directory === null) return Effect.fail(error("Unavailable", "this lock has no directory to listen in"))
    const options = { protocol: "unix", maxFrameBytes, maxConnections }
    const name = `s.${nonce}`
    return shortPath(directory, name).pipe(
      Effect.mapError((cause) => nodeSocket.listenError(options, cause)),
      Effect.flatMap((bound) => nodeSocket.listen({ path: bound }, options, () => `unix:${name}`))
    )
  },
  connect: (address, { directory, maxFrameBytes }) => {
    if (unsupported) return Effect.fail(unsupported)
    const file = locate(address, directory)
    if (file === undefined) return Effect.fail(error("Unreachable", `it cannot be reached under ${address}`))
    const options = { protocol: "unix", maxFrameBytes }
    return Effect.flatMap(Effect.scope, (scope) =>
      shortPath(path.dirname(file), path.basename(file)).pipe(
        Effect.mapError((cause) => nodeSocket.connectError(options, cause)),
        Effect.flatMap((bound) => Scope.extend(nodeSocket.connect({ path: bound }, options), scope)),
        // The path has served when the socket is connected.
        Effect.scoped
      )
    )
  }
})

const error = (reason: ProtocolError["reason"], detail: string): ProtocolError =>
  new ProtocolError({ reason, protocol: "unix", detail, outcome: "NotDelivered" })

const unsupported =
  process.platform === "win32" ? error("Unavailable", "Node has no Unix sockets on Windows") : undefined

const locate = (address: string, directory: string | null): string | undefined => {
  const [, absolute, relative] = /^unix:(?:\/\/(\/[^\0]*[^/\0])|([^/\0]+))$/.exec(decode(address)) ?? []
  if (absolute !== undefined) return absolute
  return relative === undefined || relative === ".." || relative === "." || directory === null
    ? undefined
    : path.join(directory, relative)
}

const decode = (address: string): string => {
  try {
    return decodeURIComponent(address)
  } catch {
    return ""
  }
}
