/**
 * What a programmer writes without a library over `node:net`, one write per message: lines of JSON correlated by a number,
 * or frames behind their length; and what it writes to be the only one. No schemas, no lock, no authentication, no limits.
 *
 *   raw <directory> primary | client | standby | elected [unix | tcp] [lines | frames] [address]
 */
import { closeSync, openSync, rmSync, writeSync } from "node:fs"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { join } from "node:path"
import {
  answer,
  beElected,
  begin,
  converse,
  correlate,
  end,
  going,
  type Job,
  type Message,
  makeCounterpart,
  micros,
  perFrame,
  same,
  tell
} from "./jobs.js"

const [directory = "", mode, transport = "unix", form = "lines", address = "0"] = process.argv.slice(2)
const path = join(directory, "raw.sock")
const target = transport === "tcp" ? { host: "127.0.0.1", port: Number(address) } : { path }

// -------------------------------------------------------------------------------------
// lines
// -------------------------------------------------------------------------------------

const onMessage = (socket: Socket, use: (message: Message) => void) => {
  let pieces: Array<string> = []
  socket.setEncoding("utf8")
  socket.on("data", (chunk: string) => {
    const [first, ...lines] = chunk.split("\n")
    pieces.push(first!)
    for (const line of lines) {
      use(JSON.parse(pieces.join("")))
      pieces = [line]
    }
  })
}

const write = (socket: Socket, message: Message) => socket.write(`${JSON.stringify(message)}\n`)

const serveLines = (socket: Socket) => onMessage(socket, (message) => write(socket, message))

const speakLines = (socket: Socket) => {
  const { receive, send } = correlate((message) => write(socket, message))
  onMessage(socket, receive)
  return converse(send)
}

// -------------------------------------------------------------------------------------
// frames
// -------------------------------------------------------------------------------------

const large = 64 * 1024

const writeFrame = (socket: Socket, body: Uint8Array): boolean => {
  const isLarge = body.length >= large
  const frame = Buffer.allocUnsafe(isLarge ? 4 : 4 + body.length)
  frame.writeUInt32BE(body.length)
  if (!isLarge) {
    frame.set(body, 4)
    return socket.write(frame)
  }
  socket.cork()
  socket.write(frame)
  const isTaken = socket.write(body)
  socket.uncork()
  return isTaken
}

// A frame that lies in one chunk is a view of it; any other is copied once.
const onFrame = (socket: Socket, use: (frame: Uint8Array) => void) => {
  const header = Buffer.alloc(4)
  let headerLength = 0
  let body: Buffer | undefined
  let length = 0
  socket.on("data", (chunk: Buffer) => {
    let at = 0
    while (at < chunk.length) {
      if (body !== undefined) {
        const taken = chunk.copy(body, length, at)
        at += taken
        length += taken
        if (length < body.length) return
        const frame = body
        body = undefined
        use(frame)
        continue
      }
      const taken = chunk.copy(header, headerLength, at)
      at += taken
      headerLength += taken
      if (headerLength < 4) return
      headerLength = 0
      const due = header.readUInt32BE()
      if (at + due <= chunk.length) {
        use(chunk.subarray(at, at + due))
        at += due
      } else {
        body = Buffer.allocUnsafe(due)
        length = 0
      }
    }
  })
}

const serveFrames = (socket: Socket) => {
  const counterpart = makeCounterpart()
  onFrame(socket, (frame) => {
    const answer = counterpart(frame)
    if (answer !== undefined) writeFrame(socket, answer)
  })
}

const speakFrames = (socket: Socket) => {
  let resolve = (_: Uint8Array) => {}
  onFrame(socket, (frame) => resolve(frame))
  const exchange = (frame: Uint8Array) =>
    new Promise<Uint8Array>((done) => {
      resolve = done
      writeFrame(socket, frame)
    })
  let drained = () => {}
  socket.on("drain", () => drained())
  const drain = () =>
    new Promise<void>((done) => {
      drained = done
    })
  return async (job: Job): Promise<ReadonlyArray<number>> => {
    const frame = new Uint8Array(job.bytes).fill(120)
    const goesOn = going(job)
    const samples: Array<number> = []
    if (job.kind === "round trip") {
      while (goesOn()) {
        const from = micros()
        const { length } = await exchange(frame)
        samples.push(micros() - from)
        same(job.bytes, length)
      }
      return samples
    }
    let sent = 0
    const from = micros()
    writeFrame(socket, begin)
    while (goesOn()) {
      sent++
      if (!writeFrame(socket, frame)) await drain()
    }
    samples.push(perFrame(from, sent, job.bytes, await exchange(end)))
    return samples
  }
}

// -------------------------------------------------------------------------------------
// processes
// -------------------------------------------------------------------------------------

if (mode === "primary") {
  const server = createServer({ noDelay: true }, (socket) => {
    socket.on("error", () => {})
    if (form === "lines") serveLines(socket)
    else serveFrames(socket)
  })
  server.listen(target, () => {
    answer()
    const bound = server.address() as AddressInfo | string
    tell({ event: "primary", at: micros(), address: typeof bound === "string" ? bound : String(bound.port) })
  })
}

// No takeover: only that the other end is gone.
if (mode === "standby") {
  const socket = connect({ ...target }, () => tell({ event: "follows" }))
  socket.on("error", () => {})
  socket.on("close", () => tell({ event: "primary", at: micros() })).resume()
}

if (mode === "client") {
  const socket = connect({ ...target, noDelay: true }, () =>
    answer(form === "lines" ? speakLines(socket) : speakFrames(socket))
  )
}

// A file that only one can make, and a socket. Whoever dies leaves both behind, for ever.
if (mode === "elected") {
  answer(
    beElected(async (place, index) => {
      const file = join(place, `${index}.lock`)
      const descriptor = openSync(file, "wx")
      writeSync(descriptor, `${process.pid}\n`)
      closeSync(descriptor)
      const server = createServer()
      await new Promise<void>((resolve) => server.listen(join(place, `${index}.sock`), resolve))
      return () => {
        server.close()
        rmSync(file)
      }
    })
  )
  tell({ event: "elects" })
}
