/**
 * A hot standby: as many processes as you like wait behind one that answers, and one of them takes over within
 * milliseconds when it goes. Nothing polls and nothing beats: the death of a process is proven, never guessed from silence.
 *
 *   terminal 1   npx tsx examples/standby.ts                    leads
 *   terminal 2   npx tsx examples/standby.ts                    stands by
 *   terminal 3   npx tsx examples/standby.ts ask                asks twice a second who leads, and misses nobody
 *
 * Now end the leader, with Ctrl-C or `kill -9`, start it again, end the other one. Stopped with Ctrl-Z it keeps the lead,
 * because it lives; whoever asks is told after three seconds.
 *
 * A backend that takes no messages does this with `SingleInstance.withLeadership`, see backend.ts.
 */
import { NodeContext } from "@effect/platform-node"
import { Console, Effect, Schedule, Schema } from "effect"
import { SingleInstance } from "effect-single-instance"

class Oracle extends SingleInstance.Tag<Oracle>()("com.example.oracle", {
  request: Schema.Literal("who leads?"),
  reply: Schema.Struct({ pid: Schema.Int, epoch: Schema.Int, seconds: Schema.Number })
}) {}

const lead = Oracle.standby({
  request: "who leads?",
  onFollow: ({ epoch, pid }) => Console.log(`${process.pid} stands by behind ${pid} (epoch ${epoch})`),
  primary: (primary) =>
    Effect.gen(function* () {
      const { epoch, pid, proof, took } = primary
      // What proved the death, e.g. "D2: nobody holds its liveness witness".
      const how = took === "dead" ? `its predecessor is dead, ${proof?.rule}: ${proof?.detail}` : `the lock was ${took}`
      yield* Console.log(`${pid} leads with epoch ${epoch}: ${how}`)
      const since = Date.now()
      yield* primary.serve(() => Effect.sync(() => ({ pid, epoch, seconds: (Date.now() - since) / 1000 })))
      yield* Effect.never
    })
})

// `send` hands over only; it never becomes the primary. Between two leaders it finds nobody and tries again, and so it does
// where the leader died over the question: to ask twice does no harm here, so that even `Unknown` may be repeated.
const ask = Effect.gen(function* () {
  const oracle = yield* Oracle
  const { reply } = yield* oracle.send("who leads?").pipe(
    Effect.retry({
      while: (error) => error._tag === "ProtocolError",
      schedule: Schedule.spaced("20 millis"),
      times: 50
    })
  )
  yield* Console.log(`${reply.pid} leads since ${reply.seconds.toFixed(1)} s (epoch ${reply.epoch})`)
}).pipe(Effect.catchAll((error) => Console.log(`nobody answers: ${error.message}`)))

const program = process.argv[2] === "ask" ? Effect.repeat(ask, Schedule.spaced("500 millis")) : lead

program.pipe(
  Effect.provide(Oracle.layer({ timeout: "3 seconds" })),
  Effect.provide(NodeContext.layer),
  SingleInstance.runMain
)
