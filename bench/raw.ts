/**
 * What a programmer writes without a library: lines of JSON over a Unix socket, correlated by a number, one write per
 * message. No schemas, no lock, no authentication, no limits.
 *
 *   raw <directory> primary | client | standby
 */
import { connect, createServer, type Socket } from "node:net"
import { join } from "node:path"
import { type Answer, inFlight, type Job, micros } from "./jobs.js"

const [directory = "", mode] = process.argv.slice(2)
const path = join(directory, "raw.sock")

const onMessage = (socket: Socket, use: (message: { readonly id: number; readonly text: string }) => void) => {
  let rest = ""
  socket.setEncoding("utf8")
  socket.on("data", (chunk: string) => {
    const lines = (rest + chunk).split("\n")
    rest = lines.pop()!
    for (const line of lines) use(JSON.parse(line))
  })
}

const tell = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`)
const answer = (message: Answer) => process.send?.(message)

if (mode === "primary") {
  createServer((socket) => {
    socket.on("error", () => {})
    onMessage(socket, ({ id, text }) => socket.write(`${JSON.stringify({ id, text })}\n`))
  }).listen(path, () => tell({ event: "primary", at: micros() }))
}

// No takeover: only that the other end is gone.
if (mode === "standby") {
  const socket = connect(path, () => tell({ event: "follows" }))
  socket.on("error", () => {})
  socket.on("close", () => tell({ event: "primary", at: micros() })).resume()
}

if (mode === "client") {
  const waiting = new Map<number, (text: string) => void>()
  let last = 0
  const socket = connect(path, () => answer({ ready: true }))
  onMessage(socket, ({ id, text }) => {
    const resolve = waiting.get(id)!
    waiting.delete(id)
    resolve(text)
  })
  const send = (text: string) =>
    new Promise<string>((resolve) => {
      const id = ++last
      waiting.set(id, resolve)
      socket.write(`${JSON.stringify({ id, text })}\n`)
    })
  const run = async ({ bytes, count, kind }: Job): Promise<ReadonlyArray<number>> => {
    const text = "x".repeat(bytes)
    const samples: Array<number> = []
    if (kind === "round trip") {
      for (let done = 0; done < count; done++) {
        const from = micros()
        await send(text)
        samples.push(micros() - from)
      }
      return samples
    }
    const from = micros()
    let left = count
    const worker = async () => {
      while (left-- > 0) await send(text)
    }
    await Promise.all(Array.from({ length: inFlight }, worker))
    return [micros() - from]
  }
  process.on("message", (job) => void run(job as Job).then((samples) => answer({ samples })))
}
