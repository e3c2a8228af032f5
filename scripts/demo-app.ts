/**
 * The application that the demo launches: an editor that tells of everything it does, one JSON document per line.
 *
 *   demo-app <directory> open <file…>      the first launch stays, later ones hand over
 *   demo-app <directory> standby           waits for its turn
 */
import { NodeContext } from "@effect/platform-node"
import { Effect, Schema } from "effect"
import { type Instance, SingleInstance } from "effect-single-instance"

class FileMissing extends Schema.TaggedError<FileMissing>()("FileMissing", { path: Schema.String }) {}

class Editor extends SingleInstance.Tag<Editor>()("effect-single-instance/demo", {
  request: Schema.Struct({ open: Schema.Array(Schema.String) }),
  reply: Schema.Struct({ windows: Schema.Int }),
  failure: FileMissing
}) {}

const [directory = "", mode, ...files] = process.argv.slice(2)

const tell = (event: string, what: object) =>
  Effect.sync(() =>
    process.stdout.write(`${JSON.stringify({ event, at: performance.timeOrigin + performance.now(), ...what })}\n`)
  )

const edit = (
  primary: Instance.Primary<{ readonly open: ReadonlyArray<string> }, { readonly windows: number }, FileMissing>
) =>
  Effect.gen(function* () {
    let windows = primary.request.open.length
    yield* primary.serve(({ open }, { argv, cwd, from, message, protocol, stdout }) =>
      Effect.gen(function* () {
        yield* tell("launch", { open, argv, cwd, from: from.pid, message, protocol })
        for (const path of open) {
          if (path === "missing.txt") return yield* new FileMissing({ path })
          if (path === "endless.mov") yield* Effect.never
          if (path === "long.mov") {
            for (const percent of [25, 50, 75, 100]) {
              yield* Effect.sleep("150 millis")
              yield* stdout(`${path}: ${percent} %`)
            }
          }
          windows++
        }
        return { windows }
      })
    )
    const { epoch, pid, proof, took } = primary
    yield* tell("primary", { pid, epoch, took, proof, addresses: primary.endpoints.map(({ address }) => address) })
    yield* Effect.never
  }).pipe(Effect.onInterrupt(() => tell("stopping", {})))

const request = { open: files }
const program =
  mode === "standby"
    ? Editor.standby({ request, onFollow: ({ pid }) => tell("follows", { pid }), primary: edit })
    : Editor.enforce({
        request,
        primary: edit,
        secondary: ({ message, primary, reply }) => tell("reply", { ...reply, message, primary: primary.pid }),
        onOutput: (_, chunk) => tell("output", { text: Buffer.from(chunk).toString() })
      })

program.pipe(
  Effect.tapError((error) => tell("failed", { ...error, error: error._tag, message: error.message })),
  Effect.provide(Editor.layer({ directory, timeout: "10 seconds" })),
  Effect.provide(NodeContext.layer),
  SingleInstance.runMain({ disableErrorReporting: true })
)
