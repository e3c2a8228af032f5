/**
 * `@grpc/grpc-js` over a Unix socket: one unary method, its messages those of protocol buffers.
 *
 *   grpc <directory> primary | client
 */
import { join } from "node:path"
import { credentials, loadPackageDefinition, Server, ServerCredentials } from "@grpc/grpc-js"
import { fromJSON } from "@grpc/proto-loader"
import { answer, converse, micros, tell } from "../jobs.js"

const [directory = "", mode] = process.argv.slice(2)
const address = `unix:${join(directory, "grpc.sock")}`

const { bench } = loadPackageDefinition(
  fromJSON({
    nested: {
      bench: {
        nested: {
          Text: { fields: { text: { type: "string", id: 1 } } },
          Echoes: { methods: { echo: { requestType: "Text", responseType: "Text", comment: "" } } }
        }
      }
    }
  })
) as any

if (mode === "primary") {
  const server = new Server()
  server.addService(bench.Echoes.service, { echo: ({ request }: any, done: any) => done(null, request) })
  server.bindAsync(address, ServerCredentials.createInsecure(), (error) => {
    if (error) throw error
    answer()
    tell({ event: "primary", at: micros() })
  })
} else {
  const client = new bench.Echoes(address, credentials.createInsecure())
  client.waitForReady(Date.now() + 30_000, (error?: Error) => {
    if (error) throw error
    answer(
      converse(
        (text) =>
          new Promise((resolve, reject) => {
            client.echo({ text }, (error: Error | null, reply: any) => (error ? reject(error) : resolve(reply.text)))
          })
      )
    )
  })
}
