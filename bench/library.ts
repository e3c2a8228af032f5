/**
 * The library as a contender: typed requests that are echoed.
 *
 *   library <directory> primary | client | standby | launch
 *
 * Modules are imported by their sub-path, as an application does that wants to start fast.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as UnixSocket from "effect-single-instance/protocol/UnixSocket"
import * as SingleInstance from "effect-single-instance/SingleInstance"
import { type Answer, inFlight, type Job, micros } from "./jobs.js"

const Text = Schema.Struct({ text: Schema.String })

class Echo extends SingleInstance.Tag<Echo>()("bench/echo", { request: Text, reply: Text }) {}

const [directory = "", mode] = process.argv.slice(2)
const request = { text: "" }

const tell = (line: object) => Effect.sync(() => process.stdout.write(`${JSON.stringify(line)}\n`))
const answer = (message: Answer) => Effect.sync(() => process.send?.(message))
const nextJob = Effect.async<Job>((resume) => {
  process.once("message", (job) => resume(Effect.succeed(job as Job)))
})

const client = Effect.gen(function* () {
  const echo = yield* Echo
  const { send } = yield* echo.connect
  yield* answer({ ready: true })
  while (true) {
    const { bytes, count, kind } = yield* nextJob
    const message = { text: "x".repeat(bytes) }
    const samples: Array<number> = []
    if (kind === "round trip") {
      for (let done = 0; done < count; done++) {
        const from = micros()
        yield* send(message)
        samples.push(micros() - from)
      }
    } else {
      const from = micros()
      let left = count
      const sending = Effect.whileLoop({ while: () => left-- > 0, body: () => send(message), step: () => {} })
      yield* Effect.forEach(Array(inFlight), () => sending, { concurrency: "unbounded", discard: true })
      samples.push(micros() - from)
    }
    yield* answer({ samples })
  }
}).pipe(Effect.scoped)

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
      Effect.zipRight(Effect.suspend(() => tell({ event: "primary", at: micros() }))),
      Effect.zipRight(Effect.never)
    )

const programs: Record<string, Effect.Effect<unknown, unknown, Echo>> = {
  primary: Echo.enforce({ request, primary: lead }),
  standby: Echo.standby({ request, primary: lead, onFollow: () => tell({ event: "follows" }) }),
  launch: Echo.enforce({ request, primary: () => Effect.dieMessage("there is no primary") }),
  client
}

programs[mode!]!.pipe(
  Effect.provide(Echo.layer({ directory, protocol: UnixSocket.layer, fallback: "none" })),
  Effect.provide(NodeContext.layer),
  SingleInstance.runMain
)
