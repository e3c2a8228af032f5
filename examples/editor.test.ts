/**
 * How to test an application: its program stays as it is, and `TestSingleInstance.layer(Editor)` takes the place of
 * `Editor.layer()`. Launches are then processes of a simulated machine, which a test crashes and freezes at will: no file,
 * no socket, no real process, and no waiting, as time is that of `TestClock`.
 *
 *   npx vitest run examples/editor.test.ts
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schema, type Scope, TestClock } from "effect"
import { SingleInstance, TestSingleInstance } from "effect-single-instance"

// The application, as it would be in its own module.

class FileMissing extends Schema.TaggedError<FileMissing>()("FileMissing", { path: Schema.String }) {}

class Editor extends SingleInstance.Tag<Editor>()("com.example.editor", {
  request: Schema.Struct({ open: Schema.Array(Schema.String) }),
  reply: Schema.Struct({ windows: Schema.Int }),
  failure: FileMissing
}) {}

const launchEditor = (...open: ReadonlyArray<string>) =>
  Editor.enforce({
    request: { open },
    primary: (primary) =>
      Effect.gen(function* () {
        const windows = new Set(primary.request.open)
        yield* primary.serve(({ open }) =>
          Effect.gen(function* () {
            if (open.includes("huge.bin")) yield* Effect.sleep("1 minute")
            for (const path of open) {
              if (path.startsWith("missing")) return yield* new FileMissing({ path })
              windows.add(path)
            }
            return { windows: windows.size }
          })
        )
        return yield* Effect.never
      })
  })

// Its tests. An editor that runs as another process, and is the primary by now:

const startEditor = (...open: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const started = yield* TestSingleInstance.launch(Editor, launchEditor(...open))
    const { inspect } = yield* Editor
    yield* Effect.repeat(inspect, { until: ({ owner, state }) => state === "primary" && owner?.pid === started.pid })
    return started
  })

const test = <A, E>(
  name: string,
  effect: () => Effect.Effect<A, E, Editor | TestSingleInstance.TestMachine | Scope.Scope>
) => it.scoped(name, () => Effect.provide(effect(), TestSingleInstance.layer(Editor, { timeout: "5 seconds" })))

describe("the editor", () => {
  test("opens the files of later launches in the first one", () =>
    Effect.gen(function* () {
      const first = yield* startEditor("a.txt")
      const second = yield* launchEditor("b.txt", "c.txt")
      assert.strictEqual(second.primary.pid, first.pid)
      assert.deepStrictEqual(second.reply, { windows: 3 })
    }))

  test("says which file is missing", () =>
    Effect.gen(function* () {
      yield* startEditor()
      const error = yield* Effect.flip(launchEditor("missing.txt"))
      assert(error._tag === "FileMissing")
      assert.strictEqual(error.path, "missing.txt")
    }))

  test("starts anew after a crash, also when its pid was given to somebody else", () =>
    Effect.gen(function* () {
      const first = yield* startEditor("a.txt")
      yield* first.reusePid
      const next = yield* startEditor("b.txt")
      const { primary, reply } = yield* launchEditor("c.txt")
      assert.strictEqual(primary.pid, next.pid)
      assert.deepStrictEqual(reply, { windows: 2 }) // b and c: the windows of the first are gone
    }))

  test("knows that it does not know, when the editor crashes over a file", () =>
    Effect.gen(function* () {
      const first = yield* startEditor()
      const second = yield* Effect.fork(launchEditor("huge.bin"))
      yield* TestClock.adjust("30 seconds") // It was accepted, and the editor answers pings: no time-out.
      yield* first.crash
      const error = yield* Effect.flip(Fiber.join(second))
      assert(error._tag === "ProtocolError")
      assert.strictEqual(error.outcome, "Unknown")
    }))

  test("does not wait for ever on an editor that hangs, and leaves it alone", () =>
    Effect.gen(function* () {
      const first = yield* startEditor("a.txt")
      yield* first.freeze
      const second = yield* Effect.fork(Effect.flip(launchEditor("b.txt")))
      yield* TestClock.adjust("10 seconds")
      const error = yield* Fiber.join(second)
      assert(error._tag === "TimeoutError")
      assert.deepStrictEqual([error.pid, error.outcome], [first.pid, "NotDelivered"])

      yield* first.thaw
      const { reply } = yield* launchEditor("c.txt")
      assert.deepStrictEqual(reply, { windows: 2 })
    }))
})
