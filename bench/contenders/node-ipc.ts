/**
 * `node-ipc` over a Unix socket: events of JSON there and back, correlated by a number, as it knows no requests.
 *
 *   node-ipc <directory> primary | client
 *
 * Silent, as what it logs would cost it most of its time; not `sync`, with which it sends one message at a time.
 */
import { join } from "node:path"
import ipc from "node-ipc"
import { answer, converse, correlate, type Message, micros, tell } from "../jobs.js"

const [directory = "", mode] = process.argv.slice(2)
const path = join(directory, "ipc.sock")
ipc.config.silent = true

if (mode === "primary") {
  ipc.serve(path, () => {
    ipc.server.on("echo", (message: Message, socket: unknown) => ipc.server.emit(socket, "echo", message))
    answer()
    tell({ event: "primary", at: micros() })
  })
  ipc.server.start()
} else {
  ipc.connectTo("primary", path, () => {
    const primary = ipc.of.primary
    const { receive, send } = correlate((message) => primary.emit("echo", message))
    primary.on("echo", receive)
    primary.on("connect", () => answer(converse(send)))
  })
}
