/**
 * Several layers of this package in one graph: each keeps its own options, and shares what the user gives to it.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { FileSystem } from "@effect/platform"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Context, Deferred, Effect, Exit, Fiber, Layer, Option, Schema } from "effect"
import { FileLock, MemoryLock, NodeLockFiles, SingleInstance, UnixSocket } from "effect-single-instance"
import { InstanceId } from "effect-single-instance/InstanceId"
import { InstanceLock } from "effect-single-instance/InstanceLock"
import { launch } from "effect-single-instance/launch"
import { Protocol } from "effect-single-instance/Protocol"
import * as TestPidVerifier from "effect-single-instance/pid/TestPidVerifier"
import * as SingleInstanceConfig from "effect-single-instance/SingleInstanceConfig"
import { LockError, ProtocolError } from "effect-single-instance/SingleInstanceError"
import { failureOf, temporary } from "./simulation.js"

class One extends SingleInstance.Tag<One>()("test.one", { request: Schema.String }) {}

class Two extends SingleInstance.Tag<Two>()("test.two", { request: Schema.String }) {}

/** Where the two have their locks. */
const locations = Effect.gen(function* () {
  const [one, two] = [yield* One, yield* Two]
  return [one, two].map((instance) => Effect.map(instance.inspect, ({ location }) => path.dirname(location)))
}).pipe(Effect.flatMap(Effect.all))

const directories = Effect.all([temporary, temporary])

describe("several layers in one graph", () => {
  const rest = (directory: string) =>
    Layer.merge(SingleInstance.layerPidVerifier, SingleInstanceConfig.layer({ directory }))

  it.scopedLive("keep their own directories, also beside a layer of leadership", () =>
    Effect.gen(function* () {
      const [one, two] = yield* directories
      const layers = [One.layer({ directory: one }), Two.layer({ directory: two })] as const
      const leadership = SingleInstance.layerPrimary({ id: "test.leadership", directory: yield* temporary })
      const graphs = {
        "beside one another": Layer.mergeAll(...layers),
        "one after the other": Layer.provideMerge(...layers),
        "beside a leadership": Layer.mergeAll(leadership, ...layers)
      }
      for (const [name, graph] of Object.entries(graphs)) {
        const found = yield* Effect.provide(locations, Layer.provide(graph, NodeContext.layer))
        assert.deepStrictEqual(found, [one, two], name)
      }
    })
  )

  it.scopedLive("keep their own options where they are put together from their parts", () =>
    Effect.gen(function* () {
      const [one, two] = yield* directories
      const parts = {
        layerLock: () => SingleInstance.layerLock,
        "FileLock and NodeLockFiles": () => Layer.provide(FileLock.layer, NodeLockFiles.layer)
      }
      for (const [name, lock] of Object.entries(parts)) {
        const configured = (directory: string) => Layer.provideMerge(lock(), rest(directory))
        const graph = Layer.merge(
          Layer.provide(One.layerWithoutDependencies(), configured(one)),
          Layer.provide(Two.layerWithoutDependencies(), configured(two))
        )
        const found = yield* Effect.provide(locations, Layer.provide(graph, NodeContext.layer))
        assert.deepStrictEqual(found, [one, two], name)
      }
    })
  )

  it.scoped("keep their own stores of locks in memory", () =>
    Effect.gen(function* () {
      class Other extends Context.Tag("test/Other")<Other, InstanceLock["Type"]>() {}
      const table = yield* TestPidVerifier.makeTable
      const layerIn = (store: MemoryLock.MemoryStore["Type"]) =>
        MemoryLock.layer.pipe(
          Layer.provide(Layer.succeed(MemoryLock.MemoryStore, store)),
          Layer.provide(TestPidVerifier.layerTable(table))
        )
      const other = Layer.effect(Other, InstanceLock).pipe(Layer.provide(layerIn(MemoryLock.makeStore())))
      const graph = yield* Layer.build(Layer.merge(layerIn(MemoryLock.makeStore()), other))
      const options = { id: InstanceId.make("a"), version: null, listen: () => Effect.succeed([]) }
      for (const lock of [Context.get(graph, InstanceLock), Context.get(graph, Other)]) {
        assert.strictEqual((yield* lock.contend(options))._tag, "Leading")
      }
    })
  )

  it.scopedLive("verify processes with the platform that each of them was given", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const used = new Set<string>()
      const platform = (name: string) =>
        Layer.merge(
          NodeContext.layer,
          Layer.effect(
            FileSystem.FileSystem,
            Effect.map(FileSystem.FileSystem, (own) => ({
              ...own,
              readFileString: (file: string, encoding?: string) => {
                used.add(name)
                return own.readFileString(file, encoding)
              }
            }))
          ).pipe(Layer.provide(NodeContext.layer))
        )
      const graph = Layer.merge(
        Layer.provide(One.layer({ directory }), platform("one")),
        Layer.provide(Two.layer({ directory }), platform("two"))
      )
      yield* Effect.gen(function* () {
        yield* Effect.scoped((yield* One).elect("a"))
        yield* Effect.scoped((yield* Two).elect("a"))
      }).pipe(Effect.provide(graph))
      // Elsewhere commands are run instead.
      if (process.platform === "linux") assert.deepStrictEqual([...used].sort(), ["one", "two"])
    })
  )
})

describe.skipIf(process.platform === "win32")("a protocol that the user gives", () => {
  /** A protocol over Unix sockets that notes when it is built and closed. */
  const noted = (name: string, events: Array<string>) =>
    Layer.scoped(
      Protocol,
      Effect.gen(function* () {
        yield* Effect.acquireRelease(
          Effect.sync(() => events.push(`${name} built`)),
          () => Effect.sync(() => events.push(`${name} closed`))
        )
        const own = yield* Protocol
        const listen: Protocol["Type"]["listen"] = (options) =>
          own.listen({ ...options, nonce: `${name}${options.nonce.slice(name.length)}` })
        return { ...own, name, listen }
      })
    ).pipe(Layer.provide(UnixSocket.layer))

  class Watcher extends Context.Tag("test/Watcher")<Watcher, string>() {}

  it.scopedLive("is one with that of the rest of the graph, and closed with it", () =>
    Effect.gen(function* () {
      const [one, two] = yield* directories
      const events: Array<string> = []
      const [first, second] = [noted("aa", events), noted("bb", events)]
      const graph = Layer.mergeAll(
        One.layer({ directory: one, protocol: first, fallback: [second] }),
        Two.layer({ directory: two, protocol: second, fallback: [first] }),
        Layer.effect(
          Watcher,
          Effect.map(Protocol, ({ name }) => name)
        ).pipe(Layer.provide(first))
      )
      const names = yield* Effect.gen(function* () {
        const [a, b] = [yield* (yield* One).elect("a"), yield* (yield* Two).elect("b")]
        assert(a._tag === "Primary" && b._tag === "Primary")
        assert.deepStrictEqual([...events].sort(), ["aa built", "bb built"])
        return [...a.endpoints, ...b.endpoints].map(({ protocol }) => protocol)
      }).pipe(Effect.scoped, Effect.provide(Layer.provide(graph, NodeContext.layer)))
      // Neither hides the other, although both have the same tag.
      assert.deepStrictEqual(names, ["aa", "bb", "bb", "aa"])
      assert.deepStrictEqual([...events].sort(), ["aa built", "aa closed", "bb built", "bb closed"])
    })
  )

  it.scopedLive("shares what it is made of with the rest of the graph", () =>
    Effect.gen(function* () {
      class Settings extends Context.Tag("test/Settings")<Settings, number>() {}
      let built = 0
      const settings = Layer.sync(Settings, () => ++built)
      const protocol = Layer.merge(Layer.effectDiscard(Settings), UnixSocket.layer).pipe(Layer.provide(settings))
      const graph = Layer.merge(One.layer({ directory: yield* temporary, protocol, fallback: "none" }), settings)
      yield* Effect.gen(function* () {
        yield* Settings
        yield* Effect.scoped((yield* One).elect("a"))
      }).pipe(Effect.provide(Layer.provideMerge(graph, NodeContext.layer)))
      assert.strictEqual(built, 1)
    })
  )

  it.scopedLive("is only unavailable where it cannot be built, for all who were given it, and others take over", () =>
    Effect.gen(function* () {
      const [one, two] = yield* directories
      let tried = 0
      const unavailable = new ProtocolError({
        reason: "Unavailable",
        protocol: "broken",
        detail: "not here",
        outcome: "NotDelivered"
      })
      const broken = Layer.effect(
        Protocol,
        Effect.suspend(() => {
          tried++
          return Effect.fail(unavailable)
        })
      )
      const graph = Layer.mergeAll(
        One.layer({ directory: one, protocol: broken, fallback: [UnixSocket.layer] }),
        Two.layer({ directory: two, protocol: broken, fallback: "none" })
      )
      yield* Effect.gen(function* () {
        const verdict = yield* (yield* One).elect("a")
        assert(verdict._tag === "Primary")
        assert.deepStrictEqual(
          verdict.endpoints.map(({ protocol }) => protocol),
          ["unix"]
        )
        const error = failureOf(yield* Effect.exit((yield* Two).elect("b")))
        assert(ProtocolError.is(error))
        assert.deepStrictEqual([error.reason, error.attempts.map(({ detail }) => detail)], ["AllFailed", ["not here"]])
      }).pipe(Effect.scoped, Effect.provide(Layer.provide(graph, NodeContext.layer)))
      assert.strictEqual(tried, 1)
    })
  )
})

describe("a relative directory", () => {
  /** Runs an effect in a current directory of its own; `move` changes it. */
  const inDirectory = <A, E, R>(use: (base: string, move: Effect.Effect<void>) => Effect.Effect<A, E, R>) =>
    Effect.gen(function* () {
      const base = fs.realpathSync(yield* temporary)
      fs.mkdirSync(path.join(base, "other"))
      return yield* Effect.acquireUseRelease(
        Effect.sync(() => {
          const before = process.cwd()
          process.chdir(base)
          return before
        }),
        () =>
          use(
            base,
            Effect.sync(() => process.chdir(path.join(base, "other")))
          ),
        (before) => Effect.sync(() => process.chdir(before))
      )
    })

  const without = (config: Layer.Layer<SingleInstanceConfig.SingleInstanceConfig, unknown>) =>
    One.layerWithoutDependencies().pipe(
      Layer.provide(SingleInstance.layerLock),
      Layer.provide(SingleInstance.layerPidVerifier),
      Layer.provide(config)
    )

  const SINGLE_INSTANCE_DIRECTORY = "run"
  const environment = Effect.acquireRelease(
    Effect.sync(() => Object.assign(process.env, { SINGLE_INSTANCE_DIRECTORY })),
    () =>
      Effect.sync(() => {
        delete process.env.SINGLE_INSTANCE_DIRECTORY
      })
  )

  const layers: Record<string, Layer.Layer<One, unknown, SingleInstance.Platform>> = {
    "of a tag's layer": One.layer({ directory: "run" }),
    "in a layer of options": without(SingleInstanceConfig.layer({ directory: "run" })),
    "from a ConfigProvider": without(SingleInstanceConfig.layerConfig()).pipe(
      Layer.provide(Layer.setConfigProvider(ConfigProvider.fromMap(new Map([["directory", "run"]]))))
    ),
    "from the environment": without(
      Layer.unwrapScoped(Effect.map(environment, () => SingleInstanceConfig.layerFromEnv()))
    ),
    "in options that the user made": without(
      Layer.succeed(SingleInstanceConfig.SingleInstanceConfig, { ...SingleInstanceConfig.defaults, directory: "run" })
    )
  }
  for (const [name, layer] of Object.entries(layers)) {
    it.scopedLive(`is where it was when the layer was built: ${name}`, () =>
      inDirectory((base, move) =>
        Effect.gen(function* () {
          const context = yield* Layer.build(Layer.provide(layer, NodeContext.layer))
          yield* move
          const instance = Context.get(context, One)
          assert.strictEqual(path.dirname((yield* instance.inspect).location), path.join(base, "run"))
          const verdict = yield* instance.elect("a")
          assert.strictEqual(verdict._tag, "Primary")
          assert.deepStrictEqual(fs.readdirSync(base).sort(), ["other", "run"])
          assert.deepStrictEqual(fs.readdirSync(path.join(base, "other")), [])
        })
      )
    )
  }

  it.scopedLive("is where it was when the leadership began", () =>
    inDirectory((base, move) =>
      Effect.gen(function* () {
        const options = { id: "test.one", directory: "run" } as const
        yield* SingleInstance.withLeadership(
          options,
          Effect.gen(function* () {
            yield* move
            // It looks after its lock where that is, and keeps it.
            const { lost } = yield* SingleInstance.Leadership
            fs.writeFileSync(path.join(base, "run", fs.readdirSync(path.join(base, "run"))[0]!, "unknown"), "")
            yield* Effect.timeoutOption(lost, "500 millis")
          })
        ).pipe(Effect.provide(NodeContext.layer))
        assert.deepStrictEqual(fs.readdirSync(path.join(base, "other")), [])
      })
    )
  )

  it.scopedLive.skipIf(process.platform === "win32")("is where it was when `launch` was called", () =>
    inDirectory((_, move) =>
      Effect.gen(function* () {
        const ready = yield* Deferred.make<void>()
        const running = yield* One.enforce({
          request: "a",
          primary: (primary) =>
            primary
              .serve(() => Effect.void)
              .pipe(Effect.zipRight(Deferred.succeed(ready, undefined)), Effect.zipRight(Effect.never))
        }).pipe(Effect.provide(One.layer({ directory: "run" })), Effect.provide(NodeContext.layer), Effect.fork)
        yield* Deferred.await(ready)
        const launched = launch({ id: "test.one", directory: "run", request: "b" })
        yield* move
        assert.strictEqual((yield* Effect.promise(() => launched))._tag, "Delivered")
        yield* Fiber.interrupt(running)
      })
    )
  )

  it.scopedLive.skipIf(process.platform === "win32")("is a typed failure where there is no current directory", () =>
    inDirectory((base, move) =>
      Effect.gen(function* () {
        yield* move
        fs.rmdirSync(path.join(base, "other"))
        const contend = Effect.flatMap(One, (instance) => instance.inspect).pipe(
          Effect.provide(One.layer({ directory: "run" })),
          Effect.provide(NodeContext.layer)
        )
        const leadership = SingleInstance.withLeadership({ id: "test.one", directory: "run" }, Effect.void).pipe(
          Effect.provide(NodeContext.layer)
        )
        for (const program of [contend, leadership]) {
          const exit = yield* Effect.exit<unknown, unknown, never>(program)
          const error = Exit.isFailure(exit)
            ? Option.getOrElse(Cause.failureOption(exit.cause), () => exit.cause)
            : exit
          assert(LockError.is(error), String(error))
          assert.strictEqual(error.reason, "DirectoryUnusable")
        }
      })
    )
  )
})
