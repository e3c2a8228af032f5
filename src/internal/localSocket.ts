/**
 * Sockets between the processes of one machine: in the instance's directory, or among the named pipes of Windows.
 */
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type { Protocol } from "../Protocol.js"
import { ProtocolError } from "../SingleInstanceError.js"
import * as addresses from "./addresses.js"
import * as errno from "./errno.js"
import * as nodeSocket from "./nodeSocket.js"
import * as socketPath from "./socketPath.js"

/** What tells one protocol over such sockets from another. */
export interface Kind {
  /** The protocol's name, which is the scheme of its addresses, too. */
  readonly name: string
  /** What the socket's name in the directory begins with; a pipe's does not. */
  readonly letter: string
  /** What carries the bytes instead of the socket. */
  readonly over?: ((directory: string) => nodeSocket.Options["over"]) | undefined
}

/** What of a protocol is not its name. */
export type Transport = Pick<Protocol["Type"], "listen" | "connect">

/** Unix domain sockets called `<letter>.<nonce>`, under the address `<name>:<letter>.<nonce>`. */
export const unix = ({ letter, name: protocol, over }: Kind): Transport => {
  const error = errorOf(protocol)
  return {
    listen: ({ directory, maxConnections, maxFrameBytes, nonce }) => {
      if (directory === null) return Effect.fail(error("Unavailable", "this lock has no directory to listen in"))
      const options = { protocol, maxFrameBytes, maxConnections, over: over?.(directory) }
      const name = `${letter}.${nonce}`
      return socketPath.toListen(directory, name).pipe(
        Effect.mapError((cause) => nodeSocket.listenError(options, cause)),
        Effect.flatMap((bound) => nodeSocket.listen({ path: bound }, options, () => `${protocol}:${name}`)),
        // Where a link stands for the socket, either of them may be removed.
        Effect.map((listener) =>
          process.platform === "linux" ? listener : { ...listener, reachable: exists(path.join(directory, name)) }
        )
      )
    },
    connect: (address, { directory, maxFrameBytes }) => {
      const file = addresses.unix(protocol, address, directory)
      if (file === undefined) return Effect.fail(error("Unreachable", `it cannot be reached under ${address}`))
      const options = { protocol, maxFrameBytes, over: over?.(path.dirname(file)) }
      return Effect.flatMap(Effect.scope, (scope) =>
        socketPath.toConnect(path.dirname(file), path.basename(file)).pipe(
          Effect.mapError((cause) => nodeSocket.connectError(options, cause)),
          Effect.flatMap((bound) => Scope.extend(nodeSocket.connect({ path: bound }, options), scope)),
          // The path has served when the socket is connected.
          Effect.scoped
        )
      )
    }
  }
}

const exists = (name: string): Effect.Effect<boolean> =>
  Effect.async((resume) => {
    fs.stat(name, (cause) => resume(Effect.succeed(!errno.isMissing(cause))))
  })

/** Pipes with random names, under the address `<name>://./pipe/esi-<32 hex digits>`. */
export const pipe = ({ name: protocol, over }: Kind): Transport => ({
  listen: ({ directory, maxConnections, maxFrameBytes }) =>
    Effect.suspend(() => {
      const name = `esi-${randomBytes(16).toString("hex")}`
      const options = { protocol, maxFrameBytes, maxConnections, over: over?.(directory ?? "") }
      return nodeSocket.listen({ path: addresses.pipePrefix + name }, options, () => `${protocol}://./pipe/${name}`)
    }),
  connect: (address, { directory, maxFrameBytes }) => {
    const path = addresses.pipe(protocol, address)
    return path === undefined
      ? Effect.fail(errorOf(protocol)("Unreachable", `it cannot be reached under ${address}`))
      : nodeSocket.connect({ path }, { protocol, maxFrameBytes, over: over?.(directory ?? "") })
  }
})

/** What this platform has of both. */
export const local: (kind: Kind) => Transport = process.platform === "win32" ? pipe : unix

/** A protocol that can do nothing here. */
export const unavailable = (protocol: string, detail: string): Transport => {
  const failure = Effect.fail(errorOf(protocol)("Unavailable", detail))
  return { listen: () => failure, connect: () => failure }
}

const errorOf =
  (protocol: string) =>
  (reason: ProtocolError["reason"], detail: string): ProtocolError =>
    new ProtocolError({ reason, protocol, detail, outcome: "NotDelivered" })
