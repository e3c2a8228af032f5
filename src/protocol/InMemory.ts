/**
 * Frames between simulated processes within one real process, for tests: no file, no timer, no socket.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { addFinalizer } from "../internal/finalizer.js"
import { type Connection, type Listener, type ListenOptions, maxStrangerBytes, Protocol } from "../Protocol.js"
import { ProtocolError } from "../SingleInstanceError.js"

/**
 * A simulated process: the protocol as that process sees it, and what may befall it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Host {
  /** The protocol `memory`; its listeners and connections are this process's. */
  readonly protocol: Protocol["Type"]

  /**
   * Stops the process: what it sends, receives, accepts, listens or connects does not proceed. Others still connect to it
   * and send until its buffers are full. Closing a scope is not held up.
   */
  readonly freeze: Effect.Effect<void>

  /** Lets it go on. */
  readonly thaw: Effect.Effect<void>

  /**
   * Ends the process: its listeners and connections break at once, and whatever it tries afterwards fails, also where it
   * was frozen. What it had sent still arrives; what was sent to it and not received is lost.
   */
  readonly kill: Effect.Effect<void>
}

/**
 * Where simulated processes find each other. Two networks know nothing of each other.
 *
 * @since 0.1.0
 * @category context
 */
export class Network extends Context.Tag("effect-single-instance/InMemory/Network")<
  Network,
  {
    /** Starts a simulated process. */
    readonly host: Effect.Effect<Host>
  }
>() {}

/**
 * A network without anybody.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeNetwork: Effect.Effect<Network["Type"]> = Effect.sync(() => {
  const listeners = new Map<string, Server>()
  return { host: Effect.sync(() => makeHost(listeners)) }
})

/**
 * The protocol `memory` of a process of its own, each time that the layer is built. It listens under
 * `in-memory://<nonce>`; a directory is not needed. Frames are copied. `listen` fails with `EndpointOccupied` where
 * somebody listens under that nonce, `connect` with `Unreachable` where nobody does.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 * import * as InMemory from "effect-single-instance/protocol/InMemory"
 * import * as Protocol from "effect-single-instance/Protocol"
 *
 * const program = Effect.map(Protocol.Protocol, (protocol) => protocol.name)
 *
 * const memory = InMemory.layer.pipe(Layer.provide(InMemory.layerNetwork))
 *
 * export const name = Effect.runSync(Effect.provide(program, memory)) // "memory"
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Protocol, never, Network> = Layer.effect(
  Protocol,
  Effect.flatMap(Network, (network) => Effect.map(network.host, (host) => host.protocol))
)

/**
 * A network without anybody.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerNetwork: Layer.Layer<Network> = Layer.effect(Network, makeNetwork)

// A sender waits while what its peer has not received is at either mark.
const inboxBytes = 1024 * 1024
const inboxFrames = 256

// Who waits is told to look again, never handed anything: what was interrupted meanwhile has then lost nothing.
type Waiting = Set<() => void>

interface Process {
  frozen: boolean
  dead: boolean
  readonly thawing: Waiting
  readonly sides: Set<Side>
  readonly servers: Set<Server>
}

class Server {
  readonly queue: Array<Side> = []
  readonly accepted: Set<Side> = new Set()
  readonly arrival: Waiting = new Set()
  closed = false

  constructor(
    readonly process: Process,
    readonly address: string,
    readonly options: ListenOptions
  ) {}
}

// One end of a connection, and what has arrived there.
class Side {
  peer: Side = this
  inbox: Array<Uint8Array> = []
  bytes = 0
  trusting = false
  lost: ProtocolError | undefined
  readonly arrival: Waiting = new Set()
  readonly room: Waiting = new Set()
  // Those that have been given a frame to send and wait, in the order in which they were.
  readonly senders: Array<object> = []

  constructor(
    readonly process: Process,
    readonly maxFrameBytes: number,
    readonly onLost: (side: Side) => void
  ) {}
}

const makeHost = (servers: Map<string, Server>): Host => {
  const process: Process = { frozen: false, dead: false, thawing: new Set(), sides: new Set(), servers: new Set() }

  const closeServer = (server: Server) => {
    if (server.closed) return
    server.closed = true
    servers.delete(server.address)
    process.servers.delete(server)
    for (const side of server.queue.splice(0)) leave(side)
    wake(server.arrival)
  }

  const listen: Protocol["Type"]["listen"] = (options) =>
    inTurn(process, () => {
      if (process.dead) return Effect.fail(error("Unavailable", dead))
      const address = `in-memory://${options.nonce}`
      if (servers.has(address)) return Effect.fail(error("EndpointOccupied", `${address} is taken`))
      const server = new Server(process, address, options)
      servers.set(address, server)
      process.servers.add(server)
      return Effect.as(
        addFinalizer(() => Effect.sync(() => closeServer(server))),
        { address, accept: accept(server) }
      )
    })

  const connect: Protocol["Type"]["connect"] = (address, { maxFrameBytes }) =>
    inTurn(process, () => {
      if (process.dead) return Effect.fail(error("Unavailable", dead))
      const server = servers.get(address)
      if (server === undefined) return Effect.fail(error("Unreachable", `nobody listens under ${address}`))
      const ours = new Side(process, maxFrameBytes, (side) => process.sides.delete(side))
      const theirs = new Side(server.process, server.options.maxFrameBytes, (side) => {
        server.process.sides.delete(side)
        server.accepted.delete(side)
      })
      ours.peer = theirs
      theirs.peer = ours
      process.sides.add(ours)
      server.process.sides.add(theirs)
      if (server.queue.length + server.accepted.size < server.options.maxConnections) server.queue.push(theirs)
      else leave(theirs)
      wake(server.arrival)
      return scoped(ours)
    })

  return {
    protocol: { name: "memory", listen, connect },
    freeze: Effect.sync(() => {
      process.frozen = true
    }),
    thaw: Effect.sync(() => {
      process.frozen = false
      wake(process.thawing)
    }),
    kill: Effect.sync(() => {
      process.dead = true
      for (const server of [...process.servers]) closeServer(server)
      for (const side of [...process.sides]) leave(side)
      wake(process.thawing)
    })
  }
}

const dead = "this process was killed"

const accept = (server: Server): Listener["accept"] =>
  inTurn(server.process, (restore) => {
    if (server.closed) return Effect.fail(error("Disconnected", "the listener is closed"))
    const side = server.queue.shift()
    if (side === undefined) {
      const arrival = waitIn(server.arrival, () => server.queue.length > 0 || server.closed)
      return Effect.zipRight(restore(arrival), restore(accept(server)))
    }
    if (side.lost === undefined) server.accepted.add(side)
    return scoped(side)
  })

const scoped = (side: Side): Effect.Effect<Connection, never, Scope.Scope> =>
  Effect.as(
    addFinalizer(() => Effect.sync(() => leave(side))),
    makeConnection(side)
  )

const makeConnection = (side: Side): Connection => {
  const sendInTurn = (frame: Uint8Array, turn: object): Effect.Effect<void, ProtocolError> =>
    whileThawed(side.process, () => {
      if (frame.length > side.maxFrameBytes) {
        const detail = `a frame of ${frame.length} bytes is above the limit of ${side.maxFrameBytes}`
        return Effect.fail(error("TooLarge", detail))
      }
      if (side.lost !== undefined) return Effect.fail(side.lost)
      const peer = side.peer
      const mayGo = () => side.lost !== undefined || (side.senders[0] === turn && !isFull(peer))
      if (!mayGo()) return Effect.zipRight(waitIn(peer.room, mayGo), sendInTurn(frame, turn))
      peer.inbox.push(new Uint8Array(frame))
      peer.bytes += frame.length
      wake(peer.arrival)
      return Effect.void
    })
  const send: Connection["send"] = (frame) =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        const turn = {}
        side.senders.push(turn)
        return turn
      }),
      (turn) => sendInTurn(frame, turn),
      (turn) =>
        Effect.sync(() => {
          side.senders.splice(side.senders.indexOf(turn), 1)
          wake(side.peer.room)
        })
    )
  const receive: Connection["receive"] = whileThawed(side.process, () => {
    if (side.inbox.length === 0) {
      if (side.lost !== undefined) return Effect.fail(side.lost)
      const arrival = waitIn(side.arrival, () => side.inbox.length > 0 || side.lost !== undefined)
      return Effect.zipRight(arrival, receive)
    }
    const limit = side.trusting ? side.maxFrameBytes : Math.min(side.maxFrameBytes, maxStrangerBytes)
    const large = side.inbox.findIndex((frame) => frame.length > limit)
    if (large === 0) {
      const detail = `the peer sent a frame of ${side.inbox[0]!.length} bytes, above the limit of ${limit}`
      const failure = error("TooLarge", detail, "Unknown")
      leave(side, failure)
      return Effect.fail(failure)
    }
    const frames = side.inbox.splice(0, large < 0 ? side.inbox.length : large)
    for (const frame of frames) side.bytes -= frame.length
    if (!isFull(side)) wake(side.room)
    return Effect.succeed(frames)
  })
  const trust = Effect.sync(() => {
    side.trusting = true
  })
  return { send, receive, trust }
}

const isFull = (side: Side): boolean => side.bytes >= inboxBytes || side.inbox.length >= inboxFrames

// This end goes: it receives nothing more; its peer still receives what has arrived there.
const leave = (side: Side, failure = error("Disconnected", "this side closed the connection", "Unknown")): void => {
  side.inbox = []
  side.bytes = 0
  lose(side, failure)
  lose(side.peer, error("Disconnected", "the peer closed the connection", "Unknown"))
}

const lose = (side: Side, failure: ProtocolError): void => {
  if (side.lost !== undefined) return
  side.lost = failure
  side.onLost(side)
  wake(side.arrival)
  wake(side.peer.room)
}

type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

// What a process does when it is its turn, without being interrupted half-way.
const inTurn = <A, E, R>(process: Process, run: (restore: Restore) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.zipRight(
      restore(whileThawed(process, () => Effect.void)),
      Effect.suspend(() => run(restore))
    )
  )

const whileThawed = <A, E, R>(process: Process, run: () => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() =>
    process.frozen && !process.dead
      ? Effect.zipRight(
          waitIn(process.thawing, () => !process.frozen || process.dead),
          whileThawed(process, run)
        )
      : run()
  )

const waitIn = (waiting: Waiting, isOver: () => boolean): Effect.Effect<void> =>
  Effect.async((resume) => {
    const done = () => resume(Effect.void)
    if (isOver()) return done()
    waiting.add(done)
    return Effect.sync(() => {
      waiting.delete(done)
    })
  })

const wake = (waiting: Waiting): void => {
  const all = [...waiting]
  waiting.clear()
  for (const resume of all) resume()
}

const error = (
  reason: ProtocolError["reason"],
  detail: string,
  outcome: ProtocolError["outcome"] = "NotDelivered"
): ProtocolError => new ProtocolError({ reason, protocol: "memory", detail, outcome })
