/**
 * Frames as files in the instance's directory: slow, and survives everything.
 *
 * @since 0.1.0
 */
import * as path from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Protocol } from "../Protocol.js"
import { connect } from "./mailbox/connector.js"
import { error } from "./mailbox/errors.js"
import { listen } from "./mailbox/Listener.js"
import { MailFiles } from "./mailbox/MailFiles.js"
import * as NodeMailFiles from "./mailbox/NodeMailFiles.js"

/**
 * How many messages, and how many bytes of them, wait in a mailbox at most for a primary to take them.
 *
 * @since 0.1.0
 * @category constants
 */
export const spool = { messages: 1_000, bytes: 64 * 1024 * 1024 } as const

/**
 * The protocol `file`, by the rules of Maildir (https://cr.yp.to/proto/maildir.html): a message is written under another
 * name, synced and renamed to where it counts; whoever takes it renames it first, so that exactly one process does. It
 * needs nothing but files, and reaches a primary that is stopped at the moment, or the next one: what no primary has taken
 * can be taken back for certain, what one that went away had not looked at it gave back, and what a dead one had taken is
 * known as such to the next.
 *
 * It listens in the folder `mail` of the instance's directory, which vouches for who writes there, under the address
 * `file:mail/<nonce>`; each listener and each sender has a folder of its own there. A message is synced to disk; an answer
 * is not. A sender that dies is noticed by its pid, on Linux also by its start, within about three seconds and only in the
 * same pid namespace; a handler goes on until then. A sender of another host or pid namespace is taken for gone after a day
 * without a sign of life.
 *
 * What the system refuses for a moment, such as a file descriptor or space, is tried again, or the message is given back.
 *
 * - `listen` fails with `Unavailable` without a directory and where files cannot be written in it.
 * - `connect` fails with `Unreachable` where nobody listens, with `Unavailable` where files cannot be read or written now.
 * - `send` fails with `Busy` where {@link spool} is full of what others sent to the same primary, and with `Disconnected`
 *   after two seconds in which the message could not be written; its `outcome` says whether it was posted.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as FileMailbox from "effect-single-instance/protocol/FileMailbox"
 * import * as Protocol from "effect-single-instance/Protocol"
 *
 * const program = Effect.map(Protocol.Protocol, (protocol) => protocol.name)
 *
 * export const name = Effect.runSync(Effect.provide(program, FileMailbox.layer)) // "file"
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Protocol> = Layer.suspend(() => Layer.provide(layerFiles, NodeMailFiles.layer))

/**
 * The same over file operations that are given: for tests in which they fail.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerFiles: Layer.Layer<Protocol, never, MailFiles> = Layer.effect(
  Protocol,
  Effect.map(MailFiles, (files) => ({
    name: "file",
    listen: ({ directory, maxConnections, maxFrameBytes, nonce }) =>
      directory === null
        ? Effect.fail(error("Unavailable", "this lock has no directory to keep mail in"))
        : listen(files, { folder: path.join(directory, "mail"), nonce, maxFrameBytes, maxConnections }),
    connect: (address, { directory, gone, maxFrameBytes }) => {
      const to = /^file:mail\/([0-9a-f]{32})$/.exec(address)?.[1]
      return to === undefined || directory === null
        ? Effect.fail(error("Unreachable", `it cannot be reached under ${address}`))
        : connect(files, { folder: path.join(directory, "mail"), to, maxFrameBytes, gone, spool })
    }
  }))
)
