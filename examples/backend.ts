/**
 * A backend that must never run twice: an HTTP service whose layers build only in the one primary, and which stamps what
 * it writes with its epoch, so that nothing it does too late counts.
 *
 *   terminal 1   npx tsx examples/backend.ts                    serves; it prints its address
 *   terminal 2   npx tsx examples/backend.ts                    is told who serves, opens nothing, exit code 1
 *   terminal 2   npx tsx examples/backend.ts --standby          waits; stop terminal 1 with Ctrl-C or kill -9
 *   terminal 3   curl -X POST -d '12.50' http://127.0.0.1:…     adds to the ledger
 *   terminal 3   curl http://127.0.0.1:…                        reads it
 */
import { createServer } from "node:http"
import { tmpdir } from "node:os"
import { FileSystem, HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse, Path } from "@effect/platform"
import { NodeContext, NodeHttpServer } from "@effect/platform-node"
import { Console, Context, Effect, Layer } from "effect"
import { SingleInstance } from "effect-single-instance"

/**
 * A ledger that several processes may append to. Being the only one is not enough where a write can be late: a process
 * that was stopped for a minute writes when it wakes, before anything can tell it that it was replaced. So each line
 * carries its writer's epoch, and a line with a lower epoch than one above it does not count. A database does the same
 * with `… WHERE fence <= $epoch`.
 */
class Ledger extends Context.Tag("Ledger")<
  Ledger,
  { readonly add: (amount: number) => Effect.Effect<void>; readonly total: Effect.Effect<number> }
>() {}

const layerLedger = Layer.effect(
  Ledger,
  Effect.gen(function* () {
    const { epoch, took } = yield* SingleInstance.Leadership
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const file = path.join(tmpdir(), "com.example.billing.ledger")
    const append = (amount: number) =>
      Effect.orDie(fs.writeFileString(file, `${epoch} ${amount}\n`, { flag: "a", mode: 0o600 }))
    yield* Console.log(`process ${process.pid} leads with epoch ${epoch} (${took}); its ledger is ${file}`)
    yield* append(0) // From here on lines of earlier epochs do not count.
    return {
      add: append,
      total: Effect.orDie(fs.readFileString(file)).pipe(
        Effect.map((text) => {
          let [fence, total] = [0, 0]
          for (const line of text.trimEnd().split("\n")) {
            const [epoch, amount] = line.split(" ").map(Number)
            if (epoch! < fence) continue
            fence = epoch!
            total += amount!
          }
          return total
        })
      )
    }
  })
)

const routes = HttpRouter.empty.pipe(
  HttpRouter.get(
    "/",
    Effect.gen(function* () {
      const { epoch } = yield* SingleInstance.Leadership
      const ledger = yield* Ledger
      return HttpServerResponse.unsafeJson({ total: yield* ledger.total, pid: process.pid, epoch })
    })
  ),
  HttpRouter.post(
    "/",
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const amount = Number(yield* request.text)
      if (!Number.isFinite(amount)) return HttpServerResponse.text("an amount, please\n", { status: 400 })
      yield* Effect.flatMap(Ledger, (ledger) => ledger.add(amount))
      return HttpServerResponse.empty()
    })
  )
)

const backend = routes.pipe(
  HttpServer.serve(),
  HttpServer.withLogAddress,
  Layer.provide(NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0 })),
  Layer.provide(layerLedger)
)

// Nothing of the backend is built in a process that does not lead. If the lock is lost, the backend is interrupted, and the
// error says why.
SingleInstance.withLeadership(
  {
    id: "com.example.billing",
    wait: process.argv.includes("--standby"),
    onFollow: ({ epoch, pid }) => Console.log(`standing by behind process ${pid} (epoch ${epoch})`)
  },
  Layer.launch(backend)
).pipe(
  Effect.provide(NodeContext.layer),
  Effect.catchTag("LockError", (error) =>
    Effect.zipRight(
      Console.error(error.reason === "AlreadyRunning" ? `process ${error.owner?.pid} serves already` : error.message),
      Effect.sync(() => {
        process.exitCode = 1
      })
    )
  ),
  SingleInstance.runMain
)
