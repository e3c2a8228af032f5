import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, ExecutionStrategy, Exit, Scope } from "effect"
import * as lazyScope from "../src/internal/lazyScope.js"

/** What happens to a scope, and what it then told. */
const play = (scope: Scope.CloseableScope, when: "never" | "before" | "after") =>
  Effect.gen(function* () {
    const told: Array<string> = []
    const note = (what: string) => (exit: Exit.Exit<unknown, unknown>) =>
      Effect.sync(() => {
        told.push(`${what} ${Exit.isSuccess(exit) ? "succeeded" : Cause.pretty(exit.cause)}`)
      })
    const use = Effect.gen(function* () {
      yield* Scope.addFinalizerExit(scope, note("first"))
      const child = yield* Scope.fork(scope, ExecutionStrategy.sequential)
      yield* Scope.addFinalizerExit(child, note("child"))
      yield* Effect.addFinalizer(note("service")).pipe(Effect.provideService(Scope.Scope, scope))
      yield* Scope.addFinalizerExit(scope, () => Effect.die("a finalizer that dies"))
    })
    const close = Effect.exit(Scope.close(scope, Exit.fail("its end")))
    if (when === "before") yield* use
    const closed = yield* close
    if (when === "after") told.push(String(yield* Effect.exit(use)))
    // Its end is that of the first time.
    const again = yield* Effect.exit(Scope.close(scope, Exit.succeed("another")))
    if (when !== "after") yield* Scope.addFinalizerExit(scope, note("late"))
    return [...told, String(closed), String(again)]
  })

describe("a scope that is made when it is used", () => {
  for (const when of ["never", "before", "after"] as const) {
    it.effect(`does what any other does: used ${when} its end`, () =>
      Effect.gen(function* () {
        const expected = yield* play(yield* Scope.make(), when)
        assert.deepStrictEqual(yield* play(lazyScope.make(), when), expected)
      })
    )
  }

  it.effect("the canary: one that forgets its end is told apart", () =>
    Effect.gen(function* () {
      const forgetful = lazyScope.make()
      Object.assign(forgetful, { close: () => Effect.void })
      assert.notDeepEqual(yield* play(forgetful, "before"), yield* play(yield* Scope.make(), "before"))
    })
  )
})
