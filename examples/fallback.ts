/**
 * Advanced use: a chain of protocols, options from the environment, time limits, progress while a handler works, and
 * every error matched by its reason.
 *
 *   terminal 1   npx tsx examples/fallback.ts                   becomes the renderer
 *   terminal 2   npx tsx examples/fallback.ts 3                 three seconds of work, with progress; try Ctrl-C, too
 *   terminal 2   npx tsx examples/fallback.ts 60                more than the 5 seconds that this launch will wait
 *   terminal 2   npx tsx examples/fallback.ts -1                is refused by the renderer, with a typed failure
 *
 * More to see: stop terminal 1 with Ctrl-Z (then `fg`); start with `--only pipe`, which does not work on Linux and macOS;
 * set SINGLE_INSTANCE_TIMEOUT="3 seconds" or, for an error that names it, SINGLE_INSTANCE_TIMEOUT=soon.
 */
import { NodeContext } from "@effect/platform-node"
import { Console, Effect, Layer, Schema } from "effect"
import { NamedPipe, SingleInstance, SingleInstanceConfig, UnixSocket } from "effect-single-instance"

class Impossible extends Schema.TaggedError<Impossible>()("Impossible", { why: Schema.String }) {}

class Renderer extends SingleInstance.Tag<Renderer>()("com.example.renderer", {
  request: Schema.Struct({ seconds: Schema.Int }),
  reply: Schema.Struct({ frames: Schema.Int }),
  failure: Impossible
}) {}

// The primary listens on all that work here; a secondary tries those that the primary recorded, in this order. Others
// join the list when they are wanted: a protocol is a layer, and knows nothing of the election.
const chains = {
  all: Renderer.layerWithoutDependencies({ protocol: UnixSocket.layer, fallback: [NamedPipe.layer] }),
  unix: Renderer.layerWithoutDependencies({ protocol: UnixSocket.layer, fallback: "none" }),
  pipe: Renderer.layerWithoutDependencies({ protocol: NamedPipe.layer, fallback: "none" })
}

const only = process.argv.includes("--only") ? process.argv[process.argv.indexOf("--only") + 1] : undefined

// `Renderer.layer({ protocol, fallback, timeout })` is the short form of this. Here the options come from the environment
// (SINGLE_INSTANCE_TIMEOUT, …), with two of our own that it cannot change.
const layer = chains[only === "unix" || only === "pipe" ? only : "all"].pipe(
  Layer.provide(SingleInstance.layerLock),
  Layer.provide(SingleInstance.layerPidVerifier),
  Layer.provide(SingleInstanceConfig.layerFromEnv({ helloTimeout: "2 seconds", drain: "3 seconds" })),
  Layer.provide(NodeContext.layer)
)

const seconds = Number(process.argv.slice(2).find((arg) => /^-?\d+$/.test(arg)) ?? 0)

const program = Renderer.enforce({
  request: { seconds },
  replyTimeout: "5 seconds",
  onOutput: (_, chunk) => Effect.sync(() => process.stdout.write(chunk)),
  primary: (primary) =>
    Effect.gen(function* () {
      yield* primary.serve(({ seconds }, launch) =>
        Effect.gen(function* () {
          if (seconds < 0) return yield* new Impossible({ why: "time does not run backwards" })
          yield* Console.log(`rendering ${seconds} s for process ${launch.from.pid}, over ${launch.protocol}`)
          for (let second = 1; second <= seconds; second++) {
            yield* Effect.sleep("1 second")
            yield* launch.stdout(`  second ${second} of ${seconds}\n`)
          }
          return { frames: seconds * 24 }
        }).pipe(
          // The sender's Ctrl-C, its end and its time limit all arrive here.
          Effect.onInterrupt(() => Console.log(`process ${launch.from.pid} wants it no more`))
        )
      )
      const names = primary.endpoints.map((endpoint) => endpoint.protocol).join(", ")
      yield* Console.log(`renderer ${primary.pid} listens (${names})`)
      yield* Effect.never
    }),
  secondary: ({ attempts, protocol, reply }) =>
    Console.log(`${reply.frames} frames, over ${protocol}, after ${attempts} attempt(s)`)
})

const giveUp = (message: string) =>
  Effect.zipRight(
    Console.error(message),
    Effect.sync(() => {
      process.exitCode = 1
    })
  )

// Nothing is thrown, and every reason is a literal. What can be done about a failure depends on it, and on what is known
// of the message: only after `Unknown` may the renderer have begun.
program.pipe(
  Effect.provide(layer),
  Effect.catchTags({
    Impossible: ({ why }) => giveUp(`the renderer declines: ${why}`),
    TimeoutError: ({ outcome, phase, pid }) =>
      giveUp(
        phase === "reply"
          ? `process ${pid} takes too long; the message: ${outcome}`
          : `process ${pid} keeps silent (${phase}); the message: ${outcome}`
      ),
    LockError: (error) => {
      switch (error.reason) {
        case "Lost":
          return giveUp("somebody took the lock away, so this renderer stopped")
        case "OwnerUnverifiable":
        case "OwnerOnOtherHost":
        case "RecordUnreadable":
          return giveUp(`a person has to look: ${error.message}`)
        default:
          return giveUp(error.message)
      }
    },
    ProtocolError: (error) =>
      error.reason === "AllFailed"
        ? giveUp(["none served:", ...error.attempts.map((tried) => `  ${tried.protocol}: ${tried.detail}`)].join("\n"))
        : giveUp(`${error.message} (${error.reason}, ${error.outcome})`)
  }),
  SingleInstance.runMain
)
