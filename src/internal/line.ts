/**
 * A socket of this process as frames, for who comes to say a few words and leaves.
 */
import * as net from "node:net"
import * as errno from "./errno.js"
import * as framing from "./framing.js"
import { maxStrangerBytes } from "./wire.js"

export interface Line {
  /** Gives all frames from now on, those that are there already first; the end only once they are taken. */
  readonly listen: (onFrames: (frames: Array<Uint8Array>) => void, onLost: (detail: string) => void) => void
  /** Keeps them until somebody listens again. */
  readonly keep: () => void
  /** The peer has proven who it is: its frames may be large. Not amid a frame. */
  readonly trust: (maxFrameBytes: number) => boolean
  /** Frames of one turn go out together. */
  readonly send: (...messages: ReadonlyArray<object | Uint8Array>) => void
  /** While its taker is busy nothing more is read. */
  readonly pause: (paused: boolean) => void
  /** Sends what is left to send, for half a second at most, then ends the connection. */
  readonly close: () => void
}

const attempts = 7
// A peer that stands still takes nothing, and a pending write keeps this process alive.
const lingerMillis = 500

/**
 * Connects, or throws. A server whose backlog is full lives: it is asked again within about half a second. The signal ends
 * an attempt to connect, and does nothing once the line is open.
 */
export const open = async (target: net.NetConnectOpts, signal: AbortSignal): Promise<Line> => {
  for (let attempt = 1; ; attempt++) {
    try {
      return await connect(target, signal)
    } catch (cause) {
      if (attempt === attempts || signal.aborted || !errno.isBusy(cause)) throw cause
      await new Promise((resume) => setTimeout(resume, 8 * 2 ** (attempt - 1) * (0.8 + 0.4 * Math.random())))
    }
  }
}

const connect = (target: net.NetConnectOpts, signal: AbortSignal): Promise<Line> =>
  new Promise((resolve, reject) => {
    signal.throwIfAborted()
    const socket = net.connect(target)
    const abort = () => socket.destroy(new Error("the attempt to connect was given up"))
    signal.addEventListener("abort", abort, { once: true })
    socket.once("error", reject)
    socket.once("connect", () => {
      signal.removeEventListener("abort", abort)
      socket.off("error", reject)
      resolve(make(socket))
    })
  })

const make = (socket: net.Socket): Line => {
  let decoder = new framing.Decoder(maxStrangerBytes)
  const inbox: Array<Uint8Array> = []
  let unsent = 0
  let closed = false
  const onSent = () => {
    unsent--
    if (closed && unsent === 0) socket.destroy()
  }
  let lost: string | undefined
  let take: ((frames: Array<Uint8Array>) => void) | undefined
  let end: ((detail: string) => void) | undefined
  const lose = (detail: string) => {
    if (lost !== undefined) return
    lost = detail
    socket.destroy()
    end?.(detail)
  }
  socket.on("data", (chunk: Buffer) => {
    const refused = decoder.push(chunk, inbox)
    if (inbox.length > 0 && take !== undefined) take(inbox.splice(0))
    if (refused >= 0)
      lose(`the peer announced a frame of ${refused} bytes, above the limit of ${decoder.maxFrameBytes}`)
  })
  socket.on("end", () => lose(decoder.idle ? "the peer closed the connection" : "the connection ended amid a frame"))
  socket.on("error", (cause) => lose(`the connection broke (${errno.code(cause)})`))
  socket.on("close", () => lose("the connection was closed"))
  return {
    listen: (onFrames, onLost) => {
      take = onFrames
      end = onLost
      if (inbox.length > 0) onFrames(inbox.splice(0))
      if (lost !== undefined) onLost(lost)
    },
    keep: () => {
      take = undefined
      end = undefined
    },
    trust: (maxFrameBytes) => {
      if (!decoder.idle || inbox.length > 0) return false
      decoder = new framing.Decoder(maxFrameBytes)
      return true
    },
    send: (...messages) => {
      if (lost !== undefined || closed) return
      socket.cork()
      for (const message of messages) {
        const frame = message instanceof Uint8Array ? message : Buffer.from(JSON.stringify(message))
        unsent++
        socket.write(framing.encode(frame), onSent)
      }
      socket.uncork()
    },
    pause: (paused) => void (paused ? socket.pause() : socket.resume()),
    close: () => {
      take = () => {}
      end = undefined
      closed = true
      if (unsent === 0) return void socket.destroy()
      socket.unref()
      const timer = setTimeout(() => socket.destroy(), lingerMillis).unref()
      socket.once("close", () => clearTimeout(timer))
    }
  }
}
