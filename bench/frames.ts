/**
 * The seam below the library's conversation as a contender: frames over a protocol, echoed or counted.
 *
 *   frames <directory> primary | client | both <protocol> [address]
 *
 * `both` is either end in one process, over memory.
 */
import { randomBytes } from "node:crypto"
import * as Effect from "effect/Effect"
import { InstanceId } from "effect-single-instance/InstanceId"
import type { Protocol } from "effect-single-instance/Protocol"
import * as InMemory from "effect-single-instance/protocol/InMemory"
import * as SingleInstance from "effect-single-instance/SingleInstance"
import * as platform from "../src/internal/platform.js"
import { pump } from "../src/internal/pump.js"
import { answering } from "./effects.js"
import { answer, begin, end, going, type Job, makeCounterpart, micros, perFrame, same, tell } from "./jobs.js"

const [directory = "", mode, name, told = ""] = process.argv.slice(2)

const place = { id: InstanceId.make("bench/frames"), directory, maxFrameBytes: 16 * 1024 * 1024 }

const primary = (protocol: Protocol["Type"], onListening: (address: string) => void) =>
  Effect.gen(function* () {
    const nonce = randomBytes(16).toString("hex")
    const listener = yield* protocol.listen({ ...place, nonce, maxConnections: 8 })
    onListening(listener.address)
    const connection = yield* listener.accept
    yield* connection.trust
    const counterpart = makeCounterpart()
    // As a conversation does.
    return yield* pump(connection, (frame) => {
      const answer = counterpart(frame)
      if (answer === undefined || connection.offer?.(answer)) return Effect.void
      // Its memory is another one's from here on.
      return connection.send(Uint8Array.from(answer))
    }).pipe(
      // The client has gone, and the signal to end will come. The scope stays open until then: Effect 3 may lose an
      // interruption that comes between two finalizers.
      Effect.catchIf(
        ({ reason }) => reason === "Disconnected",
        () => Effect.never
      )
    )
  }).pipe(Effect.scoped)

const client = (protocol: Protocol["Type"], address: string) =>
  Effect.gen(function* () {
    const connection = yield* protocol.connect(address, place)
    yield* connection.trust
    const next = Effect.map(connection.receive, (frames) => frames[0]!)
    // A protocol may carry the first frame along with all that follow.
    yield* connection.send(begin)
    yield* connection.send(end)
    yield* next
    const perform = Effect.fnUntraced(function* (job: Job) {
      const frame = new Uint8Array(job.bytes).fill(120)
      const goesOn = going(job)
      const samples: Array<number> = []
      if (job.kind === "round trip") {
        while (goesOn()) {
          const from = micros()
          yield* connection.send(frame)
          const { length } = yield* next
          samples.push(micros() - from)
          same(job.bytes, length)
        }
        return samples
      }
      let sent = 0
      const from = micros()
      yield* connection.send(begin)
      yield* Effect.whileLoop({
        while: () => goesOn() && ++sent > 0,
        body: () => connection.send(frame),
        step: () => {}
      })
      yield* connection.send(end)
      samples.push(perFrame(from, sent, job.bytes, yield* next))
      return samples
    })
    return yield* answering(perform)
  }).pipe(Effect.scoped)

const both = Effect.gen(function* () {
  const { protocol } = yield* Effect.flatMap(InMemory.makeNetwork, (network) => network.host)
  const address = yield* Effect.async<string>((resume) => {
    Effect.runFork(primary(protocol, (address) => resume(Effect.succeed(address))))
  })
  yield* client(protocol, address)
})

const program = Effect.suspend(() => {
  if (mode === "both") return both
  const protocol = platform.protocol(name as platform.ProtocolName)
  if (mode === "client") return client(protocol, told)
  return primary(protocol, (address) => {
    answer()
    tell({ event: "primary", address })
  }).pipe(
    Effect.catchIf(
      ({ reason }) => reason === "Unavailable",
      ({ message }) => Effect.sync(() => tell({ event: "unavailable", message }))
    )
  )
})

SingleInstance.runMain(program)
