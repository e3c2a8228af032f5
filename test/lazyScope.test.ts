import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, ExecutionStrategy, Exit, Scheduler, Scope } from "effect"
import * as lazyScope from "../src/internal/lazyScope.js"

/** What happens to a scope, and what it then told. */
const play = (
  scope: Scope.CloseableScope,
  when: "never" | "before" | "after",
  end = (exit: Exit.Exit<unknown, unknown>) => Scope.close(scope, exit)
) =>
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
    const close = Effect.exit(Effect.suspend(() => end(Exit.fail("its end"))))
    if (when === "before") yield* use
    const closed = yield* close
    if (when === "after") told.push(String(yield* Effect.exit(use)))
    // Its end is that of the first time.
    const again = yield* Effect.exit(end(Exit.succeed("another")))
    if (when !== "after") yield* Scope.addFinalizerExit(scope, note("late"))
    return [...told, String(closed), String(again)]
  })

describe("a scope that is made when it is used", () => {
  for (const when of ["never", "before", "after"] as const) {
    it.effect(`does what any other does: used ${when} its end`, () =>
      Effect.gen(function* () {
        const expected = yield* play(yield* Scope.make(), when)
        assert.deepStrictEqual(yield* play(lazyScope.make(), when), expected)
        const scope = lazyScope.make()
        const end = (exit: Exit.Exit<unknown, unknown>) => lazyScope.close(scope, exit) ?? Effect.void
        assert.deepStrictEqual(yield* play(scope, when, end), expected)
      })
    )
  }

  it.effect("keeps what two fibers add to it at the same time", () =>
    Effect.gen(function* () {
      // After how many steps each gives way, once.
      for (let steps = 1; steps <= 40; steps++) {
        const scope = lazyScope.make()
        let ran = 0
        const add = Scope.addFinalizer(
          scope,
          Effect.sync(() => ran++)
        )
        const yielded = new Set<unknown>()
        const scheduler = Scheduler.make(
          (task) => queueMicrotask(task),
          (fiber) => (fiber.currentOpCount < steps || yielded.has(fiber) ? false : yielded.add(fiber) && 0)
        )
        yield* Effect.all([add, add], { concurrency: 2 }).pipe(Effect.withScheduler(scheduler))
        yield* lazyScope.close(scope, Exit.void) ?? Effect.void
        assert.strictEqual(ran, 2, `${steps}`)
      }
    })
  )

  it.effect("the canary: one that forgets its end is told apart", () =>
    Effect.gen(function* () {
      const forgetful = lazyScope.make()
      Object.assign(forgetful, { close: () => Effect.void })
      assert.notDeepEqual(yield* play(forgetful, "before"), yield* play(yield* Scope.make(), "before"))
    })
  )
})
