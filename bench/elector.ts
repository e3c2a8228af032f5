/**
 * The library as a contender in elections.
 *
 *   elector <place> lock | unix | all elect <free | dead>
 *   elector <place> lock | unix | all leave <count>
 *
 * `lock` opens no endpoint, `unix` one, `all` those of the platform's chain. `elect` is elected as often as it is asked, in
 * places where nobody was or where a dead one was; `leave` leads under as many ids at once, until it is killed.
 */
import * as NodeCommandExecutor from "@effect/platform-node/NodeCommandExecutor"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Runtime from "effect/Runtime"
import * as Scope from "effect/Scope"
import * as Election from "effect-single-instance/Election"
import { InstanceId } from "effect-single-instance/InstanceId"
import type { InstanceLock } from "effect-single-instance/InstanceLock"
import type { PidVerifier } from "effect-single-instance/PidVerifier"
import * as UnixSocket from "effect-single-instance/protocol/UnixSocket"
import * as SingleInstance from "effect-single-instance/SingleInstance"
import * as SingleInstanceConfig from "effect-single-instance/SingleInstanceConfig"
import { Text } from "./effects.js"
import { answer, beElected, tell } from "./jobs.js"

class Echo extends SingleInstance.Tag<Echo>()("bench/elections", { request: Text, reply: Text }) {}

const [directory = "", endpoints = "", mode = "", rest = ""] = process.argv.slice(2)

type Base = InstanceLock | PidVerifier | SingleInstanceConfig.SingleInstanceConfig

/** Leads until the scope closes, and answers how it came by that. */
const lead = (index: number): Effect.Effect<string, unknown, Base | Scope.Scope> => {
  const id = `bench/elections-${index}`
  if (endpoints === "lock") {
    return Effect.map(
      Election.contend({ id: InstanceId.make(id), version: null, listen: () => Effect.succeed([]) }),
      (verdict) => (verdict._tag === "Leading" ? verdict.took : verdict._tag)
    )
  }
  const layer =
    endpoints === "all"
      ? Echo.layerWithoutDependencies({ id })
      : Echo.layerWithoutDependencies({ id, protocol: UnixSocket.layer, fallback: "none" })
  return Layer.build(layer).pipe(
    Effect.flatMap((context) => Context.get(context, Echo).elect({ text: "" })),
    Effect.map((verdict) => (verdict._tag === "Primary" ? verdict.took : verdict._tag))
  )
}

const program = Effect.gen(function* () {
  const verifier = yield* Layer.build(SingleInstance.layerPidVerifier)
  const base = Effect.fnUntraced(function* (directory: string) {
    const config = SingleInstanceConfig.layer({ directory })
    return Context.merge(
      verifier,
      yield* Layer.build(
        Layer.provideMerge(SingleInstance.layerLock, Layer.merge(config, Layer.succeedContext(verifier)))
      )
    )
  })

  if (mode === "leave") {
    const context = yield* base(directory)
    yield* Effect.forEach(Array(Number(rest)).keys(), lead, { concurrency: 16, discard: true }).pipe(
      Effect.provide(context)
    )
    tell({ event: "leads" })
    return yield* Effect.never
  }

  const run = Runtime.runPromise(yield* Effect.runtime<Scope.Scope>())
  answer(async (job) => {
    const context = await run(base(job.place!))
    const elect = beElected(async (_, index) => {
      const scope = Effect.runSync(Scope.make())
      const took = await run(lead(index).pipe(Effect.provide(context), Scope.extend(scope)))
      if (took !== rest) throw new Error(`${took}, where it was to be ${rest}`)
      return () => run(Scope.close(scope, Exit.void))
    })
    return elect(job)
  })
  tell({ event: "elects" })
  return yield* Effect.never
}).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(NodeCommandExecutor.layer, NodeFileSystem.layer)))

SingleInstance.runMain(program)
