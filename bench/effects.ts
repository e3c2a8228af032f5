/**
 * What contenders that are written with Effect have in common.
 */
import * as Effect from "effect/Effect"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"
import { answer, going, inFlight, type Job, micros, same } from "./jobs.js"

export const Text = Schema.Struct({ text: Schema.String })

/** A client that sends texts and gets the same ones back, for as long as it is asked to. */
export const converse = <E>(send: (message: typeof Text.Type) => Effect.Effect<typeof Text.Type, E>) =>
  Effect.fnUntraced(function* (job: Job) {
    const message = { text: "x".repeat(job.bytes) }
    const goesOn = going(job)
    const samples: Array<number> = []
    if (job.kind === "round trip") {
      while (goesOn()) {
        const from = micros()
        const { text } = yield* send(message)
        samples.push(micros() - from)
        same(job.bytes, text.length)
      }
      return samples
    }
    let sent = 0
    const from = micros()
    const sending = Effect.whileLoop({ while: () => goesOn() && ++sent > 0, body: () => send(message), step: () => {} })
    yield* Effect.forEach(Array(inFlight), () => sending, { concurrency: "unbounded", discard: true })
    samples.push((micros() - from) / sent)
    return samples
  })

/** Does its jobs until it is ended. */
export const answering = <E>(perform: (job: Job) => Effect.Effect<ReadonlyArray<number>, E>): Effect.Effect<never> =>
  Effect.flatMap(Effect.runtime<never>(), (runtime) => {
    const run = Runtime.runPromise(runtime)
    answer((job) => run(perform(job)))
    return Effect.never
  })
