import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { CommandExecutor, FileSystem } from "@effect/platform"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Logger, Option, Schedule } from "effect"
import { SingleInstance } from "effect-single-instance"
import { LockError, TimeoutError } from "effect-single-instance/SingleInstanceError"
import { fixture } from "./fixtures.js"
import { failureOf, isDone, rivalOf, temporary } from "./simulation.js"
import { largeIf } from "./size.js"

const id = "test.leadership"

const lockOf = (directory: string) => path.join(directory, fs.readdirSync(directory)[0]!, "lock")

/** An outsider takes the lock away, and the leader notices at its next look. */
const lose = (directory: string) => Effect.sync(() => fs.unlinkSync(lockOf(directory)))

const layerIn = (directory: string, options: Partial<SingleInstance.LeadershipLayerOptions> = {}) =>
  Layer.provide(SingleInstance.layerPrimary({ id, directory, ...options }), NodeContext.layer)

const leading = <A, E, R>(directory: string, effect: Effect.Effect<A, E, R>) =>
  Effect.provide(SingleInstance.withLeadership({ id, directory }, effect), NodeContext.layer)

const quiet = Logger.remove(Logger.defaultLogger)

const isLost = (error: unknown) => LockError.is(error) && error.reason === "Lost"

describe.skipIf(process.platform === "win32")("withLeadership", () => {
  it.live("gives the leadership, and releases the lock after the effect's scope has closed", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const reasons: Array<string> = []
      const contend = Effect.map(Effect.exit(Effect.scoped(Layer.build(layerIn(directory)))), (exit) =>
        reasons.push(Exit.isSuccess(exit) ? "free" : (failureOf(exit) as LockError).reason)
      )
      const first = yield* leading(
        directory,
        Effect.gen(function* () {
          yield* Effect.addFinalizer(() => contend)
          return yield* SingleInstance.Leadership
        })
      )
      assert.deepStrictEqual([first.took, first.pid, `${first.id}`], ["free", process.pid, id])
      yield* contend
      assert.deepStrictEqual(reasons, ["AlreadyHeldInProcess", "free"])
      // The effect's own failure is the result, and the lock is released as well.
      const failed = yield* Effect.exit(leading(directory, Effect.fail("own failure")))
      assert.strictEqual(failureOf(failed), "own failure")
      const last = yield* leading(directory, SingleInstance.Leadership)
      assert.strictEqual(last.took, "released")
      assert.isAbove(last.epoch, first.epoch)
    }).pipe(Effect.scoped)
  )

  it.scopedLive("fails where another process leads, or waits for its turn", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { record, release } = yield* rivalOf(id, directory)
      const error = failureOf(yield* Effect.exit(leading(directory, Effect.die("it must not run"))))
      assert(LockError.is(error))
      assert.deepStrictEqual([error.reason, error.owner?.pid], ["AlreadyRunning", record.process.pid])
      const following = yield* Deferred.make<number>()
      const waiting = yield* SingleInstance.withLeadership(
        { id, directory, wait: true, onFollow: ({ pid }) => Deferred.succeed(following, pid) },
        SingleInstance.Leadership
      ).pipe(Effect.provide(NodeContext.layer), Effect.fork)
      assert.strictEqual(yield* Deferred.await(following), record.process.pid)
      assert.isFalse(yield* isDone(waiting))
      yield* release
      assert.strictEqual((yield* Fiber.join(waiting)).took, "released")
    })
  )

  for (const [name, region] of Object.entries({
    "an interruptible region": Effect.interruptible,
    "an uninterruptible region": Effect.uninterruptible
  })) {
    it.scopedLive(`interrupts the effect when the lock is lost, and fails with Lost: in ${name}`, () =>
      Effect.gen(function* () {
        const directory = yield* temporary
        const began = yield* Deferred.make<void>()
        const events: Array<string> = []
        const effect = Effect.gen(function* () {
          yield* Effect.addFinalizer(() => Effect.sync(() => events.push("scope closed")))
          yield* Deferred.succeed(began, undefined)
          return yield* Effect.onInterrupt(Effect.never, () => Effect.sync(() => events.push("interrupted")))
        })
        const running = yield* Effect.fork(Effect.exit(region(leading(directory, effect))))
        yield* Deferred.await(began)
        yield* lose(directory)
        const error = failureOf(yield* Fiber.join(running))
        assert(isLost(error), String(error))
        assert.deepStrictEqual(events, ["interrupted", "scope closed"])
      })
    )
  }

  it.scopedLive("says what went wrong while the effect ended, beside Lost", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const began = yield* Deferred.make<void>()
      const running = yield* Deferred.succeed(began, undefined).pipe(
        Effect.zipRight(Effect.never),
        Effect.ensuring(Effect.die("cannot clean up")),
        (effect) => leading(directory, effect),
        Effect.exit,
        Effect.fork
      )
      yield* Deferred.await(began)
      yield* lose(directory)
      const exit = yield* Fiber.join(running)
      assert(Exit.isFailure(exit))
      assert(isLost(Option.getOrUndefined(Cause.failureOption(exit.cause))))
      assert.deepStrictEqual([...Cause.defects(exit.cause)], ["cannot clean up"])
    })
  )

  it.scopedLive("ends the effect with the fiber that runs it", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const began = yield* Deferred.make<void>()
      const ended = yield* Deferred.make<void>()
      const running = yield* Deferred.succeed(began, undefined).pipe(
        Effect.zipRight(Effect.never),
        Effect.ensuring(Deferred.succeed(ended, undefined)),
        (effect) => leading(directory, effect),
        Effect.fork
      )
      yield* Deferred.await(began)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(running)))
      assert.isTrue(yield* Deferred.isDone(ended))
      assert.strictEqual((yield* leading(directory, SingleInstance.Leadership)).took, "released")
    })
  )
})

describe.skipIf(process.platform === "win32")("a leadership", () => {
  it.scopedLive("has a tag for each id: none hides another", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const layerOf = <const Id extends string>(id: Id) => SingleInstance.layerPrimary({ id, directory })
      const ids = Effect.gen(function* () {
        const [one, two] = [yield* SingleInstance.LeadershipOf("one"), yield* SingleInstance.LeadershipOf("two")]
        return [one.id, two.id] as ReadonlyArray<string>
      })
      const merged = Layer.merge(layerOf("one"), layerOf("two"))
      assert.deepStrictEqual(yield* Effect.provide(ids, Layer.provide(merged, NodeContext.layer)), ["one", "two"])
      const nested = SingleInstance.withLeadership(
        { id: "one", directory },
        SingleInstance.withLeadership({ id: "two", directory }, ids)
      )
      assert.deepStrictEqual(yield* Effect.provide(nested, NodeContext.layer), ["one", "two"])
    })
  )

  it.scopedLive("is one in a process, however often its layer is provided", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const layer = layerIn(directory)
      const twice = SingleInstance.Leadership.pipe(Effect.provide(layer), Effect.provide(layer))
      const beside = Effect.provide(SingleInstance.Leadership, Layer.merge(layer, layerIn(directory)))
      for (const program of [twice, beside]) {
        const error = failureOf(yield* Effect.exit(program))
        assert(LockError.is(error))
        assert.strictEqual(error.reason, "AlreadyHeldInProcess")
      }
      // The same value twice in one graph is one layer.
      yield* Effect.provide(SingleInstance.Leadership, Layer.merge(layer, layer))
    })
  )

  const stuck = Layer.merge(
    Layer.succeed(FileSystem.FileSystem, FileSystem.makeNoop({ readFileString: () => Effect.never })),
    Layer.succeed(CommandExecutor.CommandExecutor, {
      ...CommandExecutor.makeExecutor(() => Effect.never),
      string: () => Effect.never
    })
  )

  for (const [name, region] of Object.entries({
    "an interruptible region": Effect.interruptible,
    "an uninterruptible region": Effect.uninterruptible
  })) {
    it.scopedLive(`fails in time where there is no decision: in ${name}`, () =>
      Effect.gen(function* () {
        const directory = yield* temporary
        const options = { id, directory, timeout: "50 millis" } as const
        for (const effect of [
          Effect.scoped(Layer.build(SingleInstance.layerPrimary(options))),
          Effect.scoped(Layer.build(SingleInstance.layerStandby(options))),
          SingleInstance.withLeadership(options, Effect.void)
        ]) {
          const error = failureOf(yield* Effect.exit(region(Effect.provide(effect, stuck))))
          assert(TimeoutError.is(error), String(error))
          assert.deepStrictEqual([error.phase, error.millis], ["acquire", 50])
        }
      })
    )
  }

  it.scopedLive("waits no longer than it may for its turn", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      yield* rivalOf(id, directory)
      const standby = SingleInstance.layerStandby({ id, directory, timeout: "100 millis" })
      const error = yield* Effect.flip(Effect.scoped(Layer.build(Layer.provide(standby, NodeContext.layer))))
      assert(TimeoutError.is(error), String(error))
      assert.strictEqual(error.phase, "acquire")
    })
  )
})

describe.skipIf(process.platform === "win32")("a program whose layer loses the lock", () => {
  type Program = (layer: ReturnType<typeof layerIn>) => Effect.Effect<unknown, unknown>

  // The layer is built in a fiber that has ended when the lock is lost, or beside others.
  const programs: Record<string, Program> = {
    "built within a time limit": (layer) =>
      Effect.scoped(Effect.zipRight(Effect.timeout(Layer.build(layer), "1 minute"), Effect.never)),
    "built in a race": (layer) =>
      Effect.scoped(Effect.zipRight(Effect.race(Layer.toRuntime(layer), Effect.never), Effect.never)),
    "built with retries": (layer) => Effect.provide(Effect.never, Layer.retry(layer, Schedule.recurs(3))),
    "built beside another effect": (layer) =>
      Effect.scoped(
        Effect.zipRight(Effect.all([Layer.build(layer), Effect.sleep(10)], { concurrency: "unbounded" }), Effect.never)
      ),
    "built in a fiber that others wait for": (layer) =>
      Effect.scoped(Effect.zipRight(Effect.flatMap(Effect.fork(Layer.build(layer)), Fiber.join), Effect.never)),
    "built where what it forks belongs to nobody": (layer) =>
      Effect.daemonChildren(Effect.provide(Effect.never, layer)),
    "built in an uninterruptible region": (layer) =>
      Effect.scoped(Effect.zipRight(Effect.uninterruptible(Layer.build(layer)), Effect.never)),
    "whose later layers are still being built": (layer) =>
      Layer.launch(Layer.provide(Layer.effectDiscard(Effect.never), layer))
  }
  for (const [name, program] of Object.entries(programs)) {
    it.scopedLive(`is interrupted: ${name}`, () =>
      Effect.gen(function* () {
        const directory = yield* temporary
        const built = yield* Deferred.make<void>()
        const layer = Layer.tap(layerIn(directory), () => Deferred.succeed(built, undefined))
        const running = yield* Effect.forkDaemon(Effect.provide(program(layer), quiet))
        yield* Deferred.await(built)
        yield* Effect.sleep("20 millis")
        assert.isFalse(yield* isDone(running))
        yield* lose(directory)
        assert.isTrue(Exit.isInterrupted(yield* Fiber.await(running)))
      })
    )
  }

  it.scopedLive("ends as it would without the layer: built in an uninterruptible region", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      yield* Effect.uninterruptible(Effect.scoped(Layer.build(layerIn(directory))))
      const acquired = Effect.acquireRelease(
        Effect.flatMap(Effect.scope, (scope) => Layer.buildWithScope(layerIn(directory), scope)),
        () => Effect.void
      )
      const running = yield* Effect.forkDaemon(Effect.scoped(acquired))
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(running)))
    })
  )

  /** The exit code of a process that leads in this way and lost the lock; `undefined` if it goes on for so many turns. */
  const codeOf = (way: string, directory: string, turns = Number.POSITIVE_INFINITY) =>
    Effect.acquireUseRelease(
      Effect.sync(() => spawn(process.execPath, [fixture("leadership"), way, directory])),
      (child) =>
        Effect.async<{ readonly code: number | null | undefined; readonly stderr: string }>((resume) => {
          let [stdout, stderr, goneOn] = ["", "", 0]
          child.stderr.on("data", (chunk) => {
            stderr += chunk
          })
          child.stdout.on("data", (chunk) => {
            const began = stdout === ""
            stdout += chunk
            if (began) fs.unlinkSync(lockOf(directory))
            else if (++goneOn > turns) resume(Effect.succeed({ code: undefined, stderr }))
          })
          child.on("close", (code) => resume(Effect.succeed({ code, stderr })))
        }),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )

  for (const way of [
    "in a ManagedRuntime",
    "in a ManagedRuntime, and onLost dies",
    "built by a fiber that has ended",
    "where it cannot be interrupted",
    "with an effect that cannot be interrupted"
  ]) {
    it.scopedLive(
      `says why and ends with 1 where nothing can be interrupted: ${way}${largeIf(way !== "in a ManagedRuntime")}`,
      () =>
        Effect.gen(function* () {
          const { code, stderr } = yield* codeOf(way, yield* temporary)
          assert.strictEqual(code, 1, stderr)
          assert.include(stderr, `"${id}" at `)
          assert.include(stderr, "the lock file was removed")
        })
    )
  }

  // Shows that the tests above notice a process that goes on.
  it.scopedLive("goes on where it is told to: in a ManagedRuntime, and onLost does nothing", () =>
    Effect.gen(function* () {
      const { code } = yield* codeOf("in a ManagedRuntime, and onLost does nothing", yield* temporary, 30)
      assert.isUndefined(code)
    })
  )
})
