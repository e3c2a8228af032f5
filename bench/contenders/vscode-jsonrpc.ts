/**
 * `vscode-jsonrpc`, with which VS Code speaks to its language servers, over a Unix socket.
 *
 *   vscode-jsonrpc <directory> primary | client
 */
import { connect, createServer, type Socket } from "node:net"
import { join } from "node:path"
import { createMessageConnection, RequestType, SocketMessageReader, SocketMessageWriter } from "vscode-jsonrpc/node"
import { answer, converse, micros, tell } from "../jobs.js"

interface Message {
  readonly text: string
}

const [directory = "", mode] = process.argv.slice(2)
const path = join(directory, "jsonrpc.sock")
const echo = new RequestType<Message, Message, void>("echo")

const connection = (socket: Socket) => {
  const made = createMessageConnection(new SocketMessageReader(socket), new SocketMessageWriter(socket))
  made.onRequest(echo, (message) => message)
  made.listen()
  return made
}

if (mode === "primary") {
  createServer(connection).listen(path, () => {
    answer()
    tell({ event: "primary", at: micros() })
  })
} else {
  const socket = connect(path, () => {
    const { sendRequest } = connection(socket)
    answer(converse(async (text) => (await sendRequest(echo, { text })).text))
  })
}
