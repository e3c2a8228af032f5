/**
 * Basic use: the first launch is the editor; every later one hands over its files, waits for the answer and ends.
 *
 *   terminal 1   npx tsx examples/basic.ts README.md
 *   terminal 2   npx tsx examples/basic.ts package.json LICENSE     is answered by terminal 1
 *   terminal 2   npx tsx examples/basic.ts nowhere.txt              gets a typed failure, and exit code 1
 *
 * Ctrl-C in terminal 1 closes the editor, and the next launch is the primary.
 */
import { FileSystem, Path } from "@effect/platform"
import { NodeContext } from "@effect/platform-node"
import { Console, Effect, Schema } from "effect"
import { SingleInstance } from "effect-single-instance"

class FileMissing extends Schema.TaggedError<FileMissing>()("FileMissing", { path: Schema.String }) {
  override get message() {
    return `there is no file ${this.path}`
  }
}

// What a launch may ask of the primary, what it is answered and how that may fail: typed, and checked at both ends.
class Editor extends SingleInstance.Tag<Editor>()("com.example.editor", {
  request: Schema.Struct({ open: Schema.Array(Schema.String) }),
  reply: Schema.Struct({ windows: Schema.Int }),
  failure: FileMissing
}) {}

const makeEditor = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const windows = new Set<string>()
  return {
    // Names are relative to where the launch was made, which is not where the editor was started.
    open: Effect.fnUntraced(function* (names: ReadonlyArray<string>, cwd: string) {
      for (const name of names) {
        const file = path.resolve(cwd, name)
        const exists = yield* Effect.orElseSucceed(fs.exists(file), () => false)
        if (!exists) return yield* new FileMissing({ path: file })
        windows.add(file)
        yield* Console.log(`  opened ${file}`)
      }
      return { windows: windows.size }
    })
  }
})

const program = Editor.enforce({
  request: { open: process.argv.slice(2) },
  primary: (primary) =>
    Effect.gen(function* () {
      const editor = yield* makeEditor // exists only in the primary, so the handler closes over it
      yield* Console.log(`primary ${primary.pid} is ready; launch it again from another terminal`)
      yield* primary.serve((request, launch) => editor.open(request.open, launch.cwd))
      yield* editor.open(primary.request.open, primary.launch.cwd) // the first launch has files, too
      yield* Effect.never
    }),
  secondary: ({ primary, reply }) => Console.log(`opened in process ${primary.pid}, which has ${reply.windows} windows`)
})

program.pipe(
  Effect.tapErrorTag("FileMissing", (error) => Console.error(`not opened: ${error.message}`)),
  Effect.provide(Editor.layer()),
  Effect.provide(NodeContext.layer),
  SingleInstance.runMain({ disableErrorReporting: true })
)
