/**
 * The seam between the conversation and what carries it. A protocol moves frames, not types: schemas, time limits,
 * correlation, authentication and interruption live once, above it. It never decides who is primary.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { InstanceId } from "./InstanceId.js"
import * as wire from "./internal/wire.js"
import type { ProtocolError } from "./SingleInstanceError.js"

/**
 * One connection between a secondary and a primary. Frames arrive whole, once and in order.
 *
 * @since 0.1.0
 * @category models
 */
export interface Connection {
  /**
   * Sends one frame; waits while the transport's buffer is full. Fails with `TooLarge` before anything is sent, with
   * `Disconnected` when the connection is gone.
   */
  readonly send: (frame: Uint8Array) => Effect.Effect<void, ProtocolError>

  /**
   * Sends one frame, or one that is this text in UTF-8, if the transport takes it at once; otherwise answers `false`, has
   * sent nothing, and `send` will wait or tell what is wrong. A shortcut for the hot path: a protocol may leave it out.
   */
  readonly offer?: ((frame: Uint8Array | string) => boolean) | undefined

  /**
   * Takes all frames that are there, at least one; waits where there is none. Frames that arrived before the end are
   * delivered before it fails. Fails with `Disconnected` when the peer closed, `TooLarge` or `Malformed` when it broke
   * the framing (the connection is then closed).
   */
  readonly receive: Effect.Effect<ReadonlyArray<Uint8Array>, ProtocolError>

  /**
   * As `receive`, except that while it waits each frame that arrives is given to `take` at once, and no fiber is woken for
   * as long as that answers `true`. Otherwise it returns what came behind that frame, which may be nothing. The memory of
   * a frame is another one's when `take` has returned. A shortcut for the hot path: a protocol may leave it out, and who
   * wraps `receive` of another one must.
   */
  readonly receiveWith?:
    | ((take: (frame: Uint8Array) => boolean) => Effect.Effect<ReadonlyArray<Uint8Array>, ProtocolError>)
    | undefined

  /**
   * The peer has proven who it is: frames up to `maxFrameBytes` may come. Until then more than 64 KiB are refused, so
   * that strangers cannot fill the memory.
   */
  readonly trust: Effect.Effect<void>

  /**
   * The transport vouches for the peer, as a directory does that only this user may write to: the hello's proofs are left
   * out, and nothing that the secondary sends waits for an answer. Then the first frame introduces the secondary; it is
   * given to every primary that takes one of the later ones, before those.
   */
  readonly vouched?: boolean | undefined

  /**
   * Takes back a frame that was given to `send`, the very same array; answers whether nobody ever had it nor ever will.
   * Of a transport that keeps what is sent until a primary takes it, whichever that is by then.
   */
  readonly withdraw?: ((frame: Uint8Array) => Effect.Effect<boolean>) | undefined

  /**
   * Gives back to its sender, who may withdraw it, what came and was not received; takes nothing more. Of a transport that
   * would hand it to the next primary otherwise.
   */
  readonly giveBack?: Effect.Effect<void> | undefined

  /**
   * What arrives here was already taken once, by an earlier primary that has died since. Its end says only that this is all
   * of it: answers are still taken, until it is closed.
   */
  readonly recovered?: boolean | undefined
}

/**
 * The largest frame that is accepted from a peer that has not yet proven who it is, in bytes.
 *
 * @since 0.1.0
 * @category constants
 */
export const maxStrangerBytes: number = wire.maxStrangerBytes

/**
 * An endpoint that listens.
 *
 * @since 0.1.0
 * @category models
 */
export interface Listener {
  /** The URI under which `connect` reaches it, as it goes into the record. */
  readonly address: string

  /**
   * Waits for the next connection; it is closed with the scope. Connections wait here in a bounded queue.
   */
  readonly accept: Effect.Effect<Connection, ProtocolError, Scope.Scope>

  /**
   * Whether newcomers still find it under its address: a cleaner may have removed its file. Left out where nothing can
   * come between.
   */
  readonly reachable?: Effect.Effect<boolean> | undefined
}

/**
 * Where an instance lives, as far as a protocol needs to know.
 *
 * @since 0.1.0
 * @category models
 */
export interface Place {
  /** The instance. */
  readonly id: InstanceId
  /** Its verified directory, 0700 and ours; `null` where the lock has none (the memory lock). */
  readonly directory: string | null
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ListenOptions extends Place {
  /** Makes names unique: files in the directory are called `<letter>.<nonce>`, so that they can be collected. */
  readonly nonce: string
  /** The largest frame, in bytes. */
  readonly maxFrameBytes: number
  /**
   * How many connections may be open at once, those in the queue included. Above it one makes room that is not trusted yet,
   * the oldest first, where the protocol can tell; else the newcomer is closed.
   */
  readonly maxConnections: number
}

/**
 * @since 0.1.0
 * @category models
 */
export interface ConnectOptions extends Place {
  /** The largest frame, in bytes. */
  readonly maxFrameBytes: number
  /**
   * Completes when the primary may be gone, for a transport that does not see that: a hint, never a proof. Left out where
   * nobody watches it.
   */
  readonly gone?: Effect.Effect<void> | undefined
}

/**
 * A way for frames between two processes. One file in `protocol/` and its layer make a new one.
 *
 * @since 0.1.0
 * @category context
 */
export class Protocol extends Context.Tag("effect-single-instance/Protocol")<
  Protocol,
  {
    /** Its name in records, options and verdicts, such as `unix`. */
    readonly name: string

    /**
     * Listens under a name of its own. Fails with `Unavailable` where the protocol cannot work here, `EndpointOccupied`
     * where something that is not ours is in the way (it is not deleted). All is closed and removed with the scope, and
     * nothing that another listener owns by then.
     */
    readonly listen: (options: ListenOptions) => Effect.Effect<Listener, ProtocolError, Scope.Scope>

    /**
     * Connects to an address that a record gave. Fails with `Unavailable` where the protocol cannot work here,
     * `Unreachable` where nobody listens. The connection is closed with the scope: what was sent is flushed, an end is
     * sent, the peer's end awaited for at most a second.
     */
    readonly connect: (
      address: string,
      options: ConnectOptions
    ) => Effect.Effect<Connection, ProtocolError, Scope.Scope>
  }
>() {}
