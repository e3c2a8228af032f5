/**
 * Frames over a named pipe of Windows.
 *
 * @since 0.1.0
 */
import * as Layer from "effect/Layer"
import * as localSocket from "../internal/localSocket.js"
import { Protocol } from "../Protocol.js"

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
  ...(process.platform === "win32"
    ? localSocket.pipe({ name: "pipe", letter: "p" })
    : localSocket.unavailable("pipe", "named pipes are for Windows"))
})
