/**
 * What every protocol over `node:net` shares: a socket as a connection, a server as a listener.
 *
 * @since 0.1.0
 */

import * as fs from "node:fs"
import * as net from "node:net"
import type { Duplex } from "node:stream"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import { type Connection, type Listener, maxStrangerBytes } from "../Protocol.js"
import { ProtocolError } from "../SingleInstanceError.js"
import * as errno from "./errno.js"
import { addFinalizer } from "./finalizer.js"
import * as framing from "./framing.js"

// Undelivered frames above either mark pause the socket until they are taken; from a stranger fewer bytes do.
const inboxBytes = 1024 * 1024
const inboxFrames = 1024

// Frames from this size on are written as they are; smaller ones are copied, those of one turn for one write. What a
// connection keeps for that begins small and grows with its traffic: many may be idle.
const largeFrame = 64 * 1024
const smallSlab = 4 * 1024
const batchBytes = 8 * 1024

// What closing waits for the peer's end, in milliseconds: a primary, and who leaves it.
const primaryMillis = 1_000
const leavingMillis = 500

/**
 * What carries the bytes of a connection: a socket, or a stream beside one. It emits `connect` when it may be used.
 *
 * @since 0.1.0
 * @category models
 */
export interface Channel extends Duplex {
  /** Whether it is too early for an orderly end. */
  readonly connecting: boolean
  /** Gives each chunk to `take`, in memory that is another one's when that has returned, instead of emitting it. */
  readonly lend?: ((take: (chunk: Buffer) => void) => void) | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The protocol's name, for errors. */
  readonly protocol: string
  /** The largest frame, in bytes. */
  readonly maxFrameBytes: number
  /** What carries the bytes instead of the socket, which is this channel's from then on. */
  readonly over?: ((socket: net.Socket, role: "client" | "server") => Channel) | undefined
}

/**
 * What of a connection its side decides.
 *
 * @since 0.1.0
 * @category models
 */
export interface Manner {
  readonly onTrust: () => void
  /** How long closing waits for the peer's end, in milliseconds. */
  readonly lingerMillis: number
  /** It has no orderly end: libuv waits in it until the peer has read everything, which may be never. */
  readonly isPipe: boolean
}

const isPipe = ({ path }: { readonly path?: string | undefined }): boolean =>
  process.platform === "win32" && path !== undefined

/**
 * @since 0.1.0
 * @category models
 */
export interface ServerOptions extends Options {
  /**
   * How many connections may be open at once, those that wait to be accepted included. Above it the oldest one whose peer
   * has not proven who it is makes room, where there is one, so that strangers keep nobody out; else the newcomer is closed.
   */
  readonly maxConnections: number
}

/**
 * What the failure of a system call says about connecting: `Busy` and `Unavailable` do not mean that nobody is there.
 *
 * @since 0.1.0
 * @category errors
 */
export const connectError = (options: Options, cause: unknown): ProtocolError => {
  const reason = errno.isBusy(cause)
    ? "Busy"
    : errno.isUnusable(cause)
      ? "Unavailable"
      : errno.isReset(cause)
        ? "Disconnected"
        : "Unreachable"
  return error(options, reason, "NotDelivered", `connecting failed (${errno.code(cause)})`, cause)
}

/**
 * What the failure of a system call says about listening.
 *
 * @since 0.1.0
 * @category errors
 */
export const listenError = (options: Options, cause: unknown): ProtocolError => {
  const reason = errno.isAddressInUse(cause) ? "EndpointOccupied" : "Unavailable"
  return error(options, reason, "NotDelivered", `listening failed: ${errno.explain(cause)}`, cause)
}

/**
 * A connection over a socket of this process. `close` flushes what was sent, sends an end, awaits the peer's end for at
 * most `lingerMillis` and destroys the socket; `leave` does not await it of a peer that has said nothing for so long. A
 * frame of 64 KiB or more is the connection's until its `send` has returned.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  socket: Channel,
  options: Options,
  { isPipe = false, lingerMillis = primaryMillis, onTrust = ignore }: Partial<Manner> = {}
): { readonly connection: Connection; readonly close: Effect.Effect<void>; readonly leave: Effect.Effect<void> } => {
  const decoder = new framing.Decoder(options.maxFrameBytes)
  let inbox: Array<Uint8Array> = []
  let undelivered = 0
  let paused = false
  let trusted = options.maxFrameBytes <= maxStrangerBytes
  let receiver: Resume<ReadonlyArray<Uint8Array>> | undefined
  // While the receiver waits.
  let taker: ((frame: Uint8Array) => boolean) | undefined
  let taking = false
  // Something was taken that the receiver must see to.
  let called = false
  let slab = none
  let start = 0
  let end = 0
  let scheduled = false
  // Senders that found no room, first come, first served. While there are any, whoever comes later queues up behind them.
  const queue: Array<{ resume: Resume<void> | undefined }> = []
  const writing = new Set<Resume<void>>()
  let ending = false
  let silent = true
  let heardAt = 0
  let dropped = 0
  let failure: unknown
  let lost: ProtocolError | undefined

  const lose = (reason: "Disconnected" | "TooLarge", detail: string, cause?: unknown): ProtocolError => {
    if (lost !== undefined) return lost
    lost = error(options, reason, "Unknown", detail, cause)
    const failed = Effect.fail(lost)
    for (const sender of queue) sender.resume?.(failed)
    for (const resume of writing) resume(failed)
    writing.clear()
    wake()
    return lost
  }

  const wake = () => {
    if (receiver === undefined) return
    const resume = receiver
    receiver = undefined
    taker = undefined
    // It is told to look, not handed the frames: one that was interrupted meanwhile has then lost nothing.
    resume(receive)
  }
  const isDue = () => called || inbox.length > 0 || lost !== undefined || isPresuming()
  const wait = (resume: Resume<ReadonlyArray<Uint8Array>>, take?: (frame: Uint8Array) => boolean) => {
    if (isDue()) return resume(receive)
    // A receiver that was interrupted does not hear this, so that waiting needs no finalizer.
    receiver?.(Effect.dieMessage("two fibers receive from one connection"))
    receiver = resume
    taker = take
  }
  const arrival: Connection["receive"] = Effect.async((resume) => wait(resume))
  const receive: Connection["receive"] = Effect.suspend(() => {
    if (inbox.length === 0 && !called) {
      if (lost !== undefined) return Effect.fail(lost)
      if (!isPresuming()) return arrival
      return Effect.fail(refuse(decoder.announced, maxStrangerBytes))
    }
    const frames = inbox
    inbox = []
    undelivered = 0
    called = false
    unpause()
    return Effect.succeed(frames)
  })
  const receiveWith: Connection["receiveWith"] = (take) => {
    const arrival: Connection["receive"] = Effect.async((resume) => {
      wait(resume, take)
      return Effect.sync(() => {
        if (taker === take) taker = undefined
      })
    })
    return Effect.suspend(() => (isDue() ? receive : arrival))
  }
  const unpause = () => {
    if (!paused || isPresuming()) return
    paused = false
    socket.resume()
  }

  // A large frame may follow close upon the one that makes its sender trusted: it is held back until the receiver, having
  // seen all before it, trusts the sender or asks for more without.
  const isPresuming = () => !trusted && decoder.announced > maxStrangerBytes
  const trust = Effect.sync(() => {
    trusted = true
    decoder.trusting = true
    onTrust()
    if (inbox.length === 0) unpause()
  })
  const refuse = (announced: number, limit: number) => {
    finish()
    return lose("TooLarge", `the peer announced a frame of ${announced} bytes, above the limit of ${limit}`)
  }

  const isFull = () => socket.writableLength >= socket.writableHighWaterMark
  // By the end of each write. Node takes a stream for full only when `write` returns (20.20): "drain" does not come for who
  // began to wait within one that was through by then.
  const release = () => {
    if (ending && isPipe && socket.writableLength === 0) socket.destroy()
    const first = queue[0]
    if (first?.resume === undefined || isFull()) return
    const { resume } = first
    // It is the first until it has written.
    first.resume = undefined
    resume(Effect.void)
  }
  const inTurn = (frame: Uint8Array): Effect.Effect<void, ProtocolError> =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        const sender: (typeof queue)[number] = { resume: undefined }
        queue.push(sender)
        return sender
      }),
      (sender) =>
        Effect.zipRight(
          Effect.async<void, ProtocolError>((resume) => {
            if (lost !== undefined) return resume(Effect.fail(lost))
            if (queue[0] === sender && !isFull()) return resume(Effect.void)
            sender.resume = resume
          }),
          Effect.suspend(() => (put(frame) ? Effect.void : sendLarge(frame)))
        ),
      (sender) =>
        Effect.sync(() => {
          queue.splice(queue.indexOf(sender), 1)
          release()
        })
    )
  const flush = () => {
    scheduled = false
    if (start === end) return
    const batch = slab.subarray(start, end)
    start = end
    if (lost === undefined) socket.write(batch, release)
  }
  const sendLarge = (frame: Uint8Array): Effect.Effect<void, ProtocolError> =>
    Effect.async((resume) => {
      if (lost !== undefined) return resume(Effect.fail(lost))
      flush()
      const header = Buffer.allocUnsafe(framing.headerBytes)
      framing.writeHeader(header, 0, frame.length)
      writing.add(resume)
      socket.cork()
      socket.write(header)
      socket.write(frame, (cause) => {
        if (!cause && writing.delete(resume)) resume(Effect.void)
        release()
      })
      socket.uncork()
    })
  const send: Connection["send"] = (frame) =>
    Effect.suspend(() => {
      if (offer(frame)) return Effect.void
      if (frame.length > options.maxFrameBytes) return Effect.fail(tooLarge(options, frame.length))
      if (lost !== undefined) return Effect.fail(lost)
      return isFull() || queue.length > 0 ? inTurn(frame) : sendLarge(frame)
    })
  const offer = (frame: Uint8Array | string): boolean => queue.length === 0 && put(frame)
  const put = (frame: Uint8Array | string): boolean => {
    // A character has three bytes at most.
    const most = typeof frame === "string" ? frame.length * 3 : frame.length
    if (most >= largeFrame || most > options.maxFrameBytes || lost !== undefined || isFull()) return false
    const room = framing.headerBytes + most
    while (end + room > slab.length) {
      const batch = slab.subarray(start, end)
      slab = Buffer.allocUnsafeSlow(Math.max(room, Math.min(largeFrame, slab.length * 2 || smallSlab)))
      start = 0
      end = 0
      // Last: a stream may give what comes while it is written to, and who takes that may offer something, too.
      if (batch.length > 0) socket.write(batch, release)
    }
    const body = end + framing.headerBytes
    const length = typeof frame === "string" ? slab.write(frame, body) : frame.length
    if (typeof frame !== "string") slab.set(frame, body)
    framing.writeHeader(slab, end, length)
    end = body + length
    if (end - start >= batchBytes) {
      flush()
    } else if (!scheduled) {
      scheduled = true
      process.nextTick(flush)
    }
    return true
  }

  // After its end it goes on reading and drops what it reads: a socket that is closed with unread bytes resets the
  // connection, and the peer could lose the last frames that it was sent. A stranger who sends without end is no longer
  // read: he has as long to take his refusal, and takes no time of ours.
  const finish = () => {
    if (ending || socket.destroyed) return
    ending = true
    if (socket.connecting) {
      socket.destroy()
      return
    }
    flush()
    if (!isPipe) socket.end()
    else if (socket.writableLength === 0) socket.destroy()
    socket.resume()
    const timer = setTimeout(() => socket.destroy(), lingerMillis)
    socket.once("close", () => clearTimeout(timer))
  }
  const ended = (event: "close" | "finish"): Effect.Effect<void> =>
    Effect.async((resume) => {
      finish()
      inbox = []
      lose("Disconnected", "this side closed the connection")
      if (socket.closed) return resume(Effect.void)
      socket.once("close", () => resume(Effect.void))
      if (event === "finish") socket.once("finish", () => resume(Effect.void))
    })
  const close = ended("close")
  // Who says nothing, as a primary that stands still, is not waited for: the system has what was sent, and what is left of
  // the socket goes within its time. What it does not take is dropped.
  const leave = Effect.suspend(() => {
    if (!silent && performance.now() - heardAt <= lingerMillis) return close
    if (!silent && socket.writableLength > 0) socket.destroy()
    return ended("finish")
  })

  const hear = (chunk: Buffer) => {
    silent = false
    heardAt = performance.now()
    if (lost !== undefined) {
      dropped += chunk.length
      if (!trusted && dropped > maxStrangerBytes) socket.pause()
      return
    }
    const from = inbox.length
    const refused = decoder.push(chunk, inbox)
    const own = decoder.own()
    for (let index = from; index < inbox.length; index++) undelivered += inbox[index]!.length
    if (refused >= 0) refuse(refused, options.maxFrameBytes)
    // What is taken may be answered at once, and a stream may have more to give while that is written to it.
    if (taking) return
    taking = true
    let taken = 0
    while (taker !== undefined && !called && taken < inbox.length) {
      const frame = inbox[taken++]!
      undelivered -= frame.length
      called = !taker(frame)
      if (frame === own && !called) framing.reuse(own)
    }
    inbox.splice(0, taken)
    taking = false
    if (socket.lend !== undefined) {
      for (const [index, frame] of inbox.entries()) {
        if (frame.buffer === chunk.buffer) inbox[index] = Uint8Array.from(frame)
      }
    }
    const isMuch = undelivered >= (trusted ? inboxBytes : maxStrangerBytes) || inbox.length >= inboxFrames
    if (lost === undefined && (isMuch || isPresuming())) {
      paused = true
      socket.pause()
    }
    if (called || inbox.length > 0 || paused) wake()
  }
  if (socket.lend === undefined) socket.on("data", hear)
  else socket.lend(hear)
  socket.on("end", () => {
    lose("Disconnected", decoder.idle ? "the peer closed the connection" : "the connection ended amid a frame")
  })
  socket.on("error", (cause) => {
    failure = cause
  })
  socket.on("close", () => {
    const detail = failure === undefined ? "the connection was closed" : `the connection broke (${errno.code(failure)})`
    lose("Disconnected", detail, failure)
  })

  return { connection: { send, offer, receive, receiveWith, trust }, close, leave }
}

// What is read goes through one piece of memory for all sockets, which are read one after the other: to get one for each
// read, and a stream's way with it, costs a small answer some microseconds. Windows reads ahead, into memory of each socket.
const lending = (target: net.NetConnectOpts): Channel => {
  if (process.platform === "win32") return net.connect(target)
  let take: (chunk: Buffer) => void = ignore
  const onread: net.OnReadOpts = {
    buffer: lent,
    callback: (length) => {
      take(lent.subarray(0, length))
      return true
    }
  }
  const socket = net.connect({ ...target, onread })
  return Object.assign(socket, {
    lend: (given: typeof take) => {
      take = given
      // By a runtime that knows of no `onread`.
      socket.on("data", given)
    }
  })
}

/**
 * Connects a socket. A server whose backlog is full lives: it is asked again a few times within about half a second, and
 * is `Busy` after that.
 *
 * @since 0.1.0
 * @category constructors
 */
export const connect = (
  target: net.NetConnectOpts,
  options: Options
): Effect.Effect<Connection, ProtocolError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const connected = yield* Deferred.make<void, ProtocolError>()
      const socket: Channel = yield* Effect.try({
        try: () => {
          return options.over?.(net.connect(target), "client") ?? lending(target)
        },
        catch: (cause) => connectError(options, cause)
      })
      const settle = (exit: Effect.Effect<void, ProtocolError>) => Deferred.unsafeDone(connected, exit)
      socket.once("connect", () => settle(Effect.void))
      socket.once("error", (cause) => settle(Effect.fail(connectError(options, cause))))
      socket.once("close", () => settle(Effect.fail(error(options, "Unreachable", "NotDelivered", "it was closed"))))
      const { close, connection, leave } = make(socket, options, {
        lingerMillis: leavingMillis,
        isPipe: isPipe(target as net.IpcNetConnectOpts)
      })
      yield* addFinalizer(() => leave)
      yield* restore(Deferred.await(connected)).pipe(Effect.onError(() => close))
      return connection
    })
  ).pipe(
    Effect.retry({
      while: (failed) => failed.reason === "Busy",
      times: 6,
      schedule: Schedule.jittered(Schedule.exponential("8 millis"))
    })
  )

// The umask may have taken our own right to connect.
const permitted = (options: Options, { path }: { readonly path?: string | undefined }) =>
  path === undefined || process.platform === "win32"
    ? Effect.void
    : Effect.try({
        try: () => {
          if ((fs.statSync(path).mode & 0o600) !== 0o600) fs.chmodSync(path, 0o600)
        },
        catch: (cause) => listenError(options, cause)
      })

/**
 * Listens; `address` says under which URI, once it is known to what the server is bound.
 *
 * @since 0.1.0
 * @category constructors
 */
export const listen = (
  target: net.ListenOptions,
  options: ServerOptions,
  address: (bound: net.AddressInfo | string | null) => string
): Effect.Effect<Listener, ProtocolError, Scope.Scope> =>
  Effect.uninterruptible(
    Effect.gen(function* () {
      const open = new Set<Channel>()
      const strangers = new Set<Channel>()
      const queue = new Set<Channel>()
      const forget = (channel: Channel) => {
        for (const set of [open, strangers, queue]) set.delete(channel)
      }
      const waiting = new Set<Resume<void, never>>()
      let closed = false
      const wake = () => {
        const acceptors = [...waiting]
        waiting.clear()
        for (const resume of acceptors) resume(Effect.void)
      }

      // What is paused until it is accepted is read by nobody else, and buffers nothing in this process.
      const server = net.createServer({ pauseOnConnect: true, noDelay: true })
      server.on("connection", (socket) => {
        const channel = options.over?.(socket, "server") ?? socket
        channel.on("error", ignore)
        channel.once("close", () => forget(channel))
        for (const set of [open, strangers, queue]) set.add(channel)
        if (open.size > options.maxConnections) {
          const [oldest = channel] = strangers
          forget(oldest)
          oldest.destroy()
        }
        wake()
      })
      yield* addFinalizer(() =>
        Effect.sync(() => {
          closed = true
          // Its callback would wait for the connections, which are closed by the scopes that accepted them.
          server.close()
          for (const channel of queue) channel.destroy()
          wake()
        })
      )
      yield* Effect.async<void, ProtocolError>((resume) => {
        server.once("listening", () => resume(permitted(options, target)))
        // Later ones, such as no descriptors left to accept with (accept(2)), do not end a listener.
        server.on("error", (cause) => resume(Effect.fail(listenError(options, cause))))
        // In a worker of `node:cluster` the parent would own the socket otherwise.
        server.listen({ ...target, exclusive: true })
      })

      const arrival: Effect.Effect<void> = Effect.async((resume) => {
        if (queue.size > 0 || closed) return resume(Effect.void)
        waiting.add(resume)
        return Effect.sync(() => waiting.delete(resume))
      })
      const accept: Listener["accept"] = Effect.uninterruptibleMask((restore) => {
        const take: Listener["accept"] = Effect.suspend(() => {
          if (closed) return Effect.fail(error(options, "Disconnected", "NotDelivered", "the listener is closed"))
          const [channel] = queue
          if (channel === undefined) return Effect.zipRight(restore(arrival), take)
          queue.delete(channel)
          // It may have come to nothing before it could be used.
          if (channel.destroyed) return take
          const { close, connection } = make(channel, options, {
            onTrust: () => strangers.delete(channel),
            isPipe: isPipe(target)
          })
          channel.resume()
          return Effect.as(
            addFinalizer(() => close),
            connection
          )
        })
        return take
      })
      // Only what is certainly gone: a file of somebody else's is not replaced.
      const file = process.platform === "win32" ? undefined : target.path
      const reachable: Effect.Effect<boolean> = Effect.async((resume) => {
        if (file === undefined) return resume(Effect.succeed(true))
        fs.lstat(file, (cause) => resume(Effect.succeed(!errno.isMissing(cause))))
      })
      return { address: address(server.address()), accept, reachable }
    })
  )

type Resume<A, E = ProtocolError> = (effect: Effect.Effect<A, E>) => void

const none = Buffer.alloc(0)

const lent = Buffer.allocUnsafeSlow(64 * 1024)

const ignore = () => {}

const error = (
  options: Options,
  reason: ProtocolError["reason"],
  outcome: ProtocolError["outcome"],
  detail: string,
  cause?: unknown
): ProtocolError =>
  new ProtocolError({
    reason,
    protocol: options.protocol,
    detail,
    outcome,
    ...(cause === undefined ? {} : { cause })
  })

const tooLarge = (options: Options, length: number): ProtocolError =>
  error(
    options,
    "TooLarge",
    "NotDelivered",
    `a frame of ${length} bytes is above the limit of ${options.maxFrameBytes}`
  )
