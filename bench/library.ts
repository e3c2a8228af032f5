/**
 * The library as a contender: typed requests that are echoed.
 *
 *   library <directory> primary | client | both | standby | launch | crowd <protocol> <count>
 *
 * `both` is primary and client in one process, over memory; `crowd` opens as many connections and says nothing. Modules are imported by their sub-path, and of the platform only
 * what is needed, as an application does that wants to start fast.
 */
import * as NodeCommandExecutor from "@effect/platform-node/NodeCommandExecutor"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Protocol } from "effect-single-instance/Protocol"
import * as SingleInstance from "effect-single-instance/SingleInstance"
import * as platform from "../src/internal/platform.js"
import { answering, converse, Text } from "./effects.js"
import { answer, micros, tell } from "./jobs.js"

class Echo extends SingleInstance.Tag<Echo>()("bench/echo", { request: Text, reply: Text }) {}

const [directory = "", mode = "", protocol = "unix", count = ""] = process.argv.slice(2)
const request = { text: "" }
// Of a crowd.
const maxConnections = 20_000

const client = Effect.gen(function* () {
  const echo = yield* Echo
  const { send } = yield* echo.connect
  return yield* answering(converse(send))
}).pipe(Effect.scoped)

const crowd = Effect.gen(function* () {
  const echo = yield* Echo
  yield* Effect.forEach(Array(Number(count)), () => echo.connect, { concurrency: 32, discard: true })
  answer()
  tell({ event: "connected" })
  return yield* Effect.never
}).pipe(
  // As where a process may not open as many files.
  Effect.tapError(({ message }) => Effect.sync(() => tell({ event: "unavailable", message }))),
  Effect.scoped
)

const lead = <
  P extends {
    readonly serve: (
      handler: (request: { readonly text: string }) => Effect.Effect<{ text: string }>
    ) => Effect.Effect<void>
  }
>(
  primary: P
) =>
  primary
    .serve((request) => Effect.succeed(request))
    .pipe(
      Effect.zipRight(
        Effect.sync(() => {
          if (mode === "primary") answer()
          tell({ event: "primary", at: micros() })
        })
      ),
      Effect.zipRight(Effect.never)
    )

const primary = Echo.enforce({ request, primary: lead })

const onFollow = () =>
  Effect.sync(() => {
    answer()
    tell({ event: "follows" })
  })

const programs: Record<string, Effect.Effect<unknown, unknown, Echo>> = {
  primary,
  client,
  crowd,
  standby: Echo.standby({ request, primary: lead, onFollow }),
  launch: Echo.enforce({ request, primary: () => Effect.dieMessage("there is no primary") })
}

const both = Effect.flatMap(
  // Nobody else is to load it.
  Effect.promise(() => import("effect-single-instance/TestSingleInstance")),
  ({ launch, layer }) => launch(Echo, primary).pipe(Effect.zipRight(client), Effect.scoped, Effect.provide(layer(Echo)))
)

const between = Effect.suspend(() => {
  const carrier = Layer.succeed(Protocol, platform.protocol(protocol as platform.ProtocolName))
  return Effect.provide(programs[mode]!, Echo.layer({ directory, protocol: carrier, fallback: "none", maxConnections }))
}).pipe(Effect.provide(Layer.provideMerge(NodeCommandExecutor.layer, NodeFileSystem.layer)))

const program: Effect.Effect<unknown, unknown> = mode === "both" ? both : between
SingleInstance.runMain(program)
