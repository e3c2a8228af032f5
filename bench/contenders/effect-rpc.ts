/**
 * `@effect/rpc` over a Unix socket: a typed request that is echoed, with the schemas that the library has.
 *
 *   effect-rpc <directory> primary | client <ndjson | msgpack>
 *
 * Without spans, as the library's requests have none either, and with the server's default: any number of handlers at once.
 */
import { join } from "node:path"
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import * as Rpc from "@effect/rpc/Rpc"
import * as RpcClient from "@effect/rpc/RpcClient"
import * as RpcGroup from "@effect/rpc/RpcGroup"
import * as RpcSerialization from "@effect/rpc/RpcSerialization"
import * as RpcServer from "@effect/rpc/RpcServer"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { answering, converse, Text } from "../effects.js"
import { answer, micros, tell } from "../jobs.js"

const [directory = "", mode, form] = process.argv.slice(2)
const path = join(directory, "rpc.sock")
const serialization = form === "msgpack" ? RpcSerialization.layerMsgPack : RpcSerialization.layerNdjson

class Echoes extends RpcGroup.make(Rpc.make("echo", { payload: Text, success: Text })) {}

const primary = Layer.effectDiscard(
  Effect.sync(() => {
    answer()
    tell({ event: "primary", at: micros() })
  })
).pipe(
  Layer.provide(RpcServer.layer(Echoes, { disableTracing: true })),
  Layer.provide(Echoes.toLayer({ echo: (message) => Effect.succeed(message) })),
  Layer.provide(RpcServer.layerProtocolSocketServer),
  Layer.provide(NodeSocketServer.layer({ path })),
  Layer.launch
)

const client = Effect.gen(function* () {
  const { echo } = yield* RpcClient.make(Echoes, { disableTracing: true })
  return yield* answering(converse(echo))
}).pipe(
  Effect.scoped,
  Effect.provide(RpcClient.layerProtocolSocket().pipe(Layer.provide(NodeSocket.layerNet({ path }))))
)

const program: Effect.Effect<never, unknown, RpcSerialization.RpcSerialization> = mode === "primary" ? primary : client
Effect.runPromise(Effect.provide(program, serialization)).catch((error) => {
  console.error(error)
  process.exit(1)
})
