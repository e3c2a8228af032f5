/**
 * Frames over a Unix domain socket in the instance's directory, on Linux and macOS.
 *
 * @since 0.1.0
 */
import * as Layer from "effect/Layer"
import * as localSocket from "../internal/localSocket.js"
import { Protocol } from "../Protocol.js"

/**
 * The protocol `unix`. It listens on `s.<nonce>` in the instance's directory, which keeps other users out, under the
 * address `unix:s.<nonce>`. It connects to such an address and to an absolute one, `unix:///path/x.sock`, in which what a
 * URI cannot hold is percent-encoded.
 *
 * How long the directory's name is does not matter. On macOS, where the socket's own path would be longer than 103 bytes,
 * `s.<nonce>` is a symbolic link to a socket in a new folder in the user's temporary folder (`getconf
 * DARWIN_USER_TEMP_DIR`, or else TMPDIR or /tmp), which only the user can enter. Connecting creates nothing there.
 *
 * - `listen` fails with `Unavailable` on Windows, without a directory and where the directory cannot hold sockets; with
 *   `EndpointOccupied` where there is a file of that name.
 * - `connect` fails with `Unreachable` where nobody listens, with `Busy` where the listener's backlog stays full for half
 *   a second, with `Unavailable` where this process may not connect, or on macOS the path of an address is too long.
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
  ...(process.platform === "win32"
    ? localSocket.unavailable("unix", "Node has no Unix sockets on Windows")
    : localSocket.unix({ name: "unix", letter: "s" }))
})
