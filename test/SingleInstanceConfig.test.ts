import { assert, describe, it } from "@effect/vitest"
import { deepStrictEqual } from "@effect/vitest/utils"
import * as Config from "effect/Config"
import type { ConfigError } from "effect/ConfigError"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import {
  type ConfigOptions,
  config,
  defaults,
  layer,
  layerConfig,
  layerFromEnv,
  make,
  SingleInstanceConfig
} from "effect-single-instance/SingleInstanceConfig"

const built = <E>(layer: Layer.Layer<SingleInstanceConfig, E>) => Effect.provide(SingleInstanceConfig, layer)

const reading = (entries: Record<string, string>, options?: ConfigOptions) =>
  built(layerConfig(options)).pipe(Effect.withConfigProvider(ConfigProvider.fromMap(new Map(Object.entries(entries)))))

const variables = (entries: Record<string, string>): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => Object.assign(process.env, entries)),
    () => Effect.sync(() => Object.keys(entries).forEach((key) => delete process.env[key]))
  )

const problem = (effect: Effect.Effect<unknown, ConfigError>) => Effect.map(Effect.flip(effect), String)

// Each option with a good value as text and as what it is read as.
const values = {
  directory: ["/run/app", "/run/app"],
  trustDirectory: ["true", true],
  version: ["1.2.3", "1.2.3"],
  timeout: ["3 seconds", Duration.seconds(3)],
  helloTimeout: ["250 millis", Duration.millis(250)],
  drain: ["2 minutes", Duration.minutes(2)],
  maxFrameBytes: ["1024", 1024],
  maxConnections: ["1", 1],
  maxInFlight: ["2", 2],
  maxRemembered: ["3", 3],
  encoding: ["msgpack", "msgpack"],
  onUnresponsive: ["terminate", "terminate"]
} as const
const keys = Object.keys(values) as ReadonlyArray<keyof typeof values>
const texts = Object.fromEntries(keys.map((key) => [key, values[key][0]]))
const read = Object.fromEntries(keys.map((key) => [key, values[key][1]])) as unknown as typeof defaults

const names: Record<keyof typeof values, string> = {
  directory: "SINGLE_INSTANCE_DIRECTORY",
  trustDirectory: "SINGLE_INSTANCE_TRUST_DIRECTORY",
  version: "SINGLE_INSTANCE_VERSION",
  timeout: "SINGLE_INSTANCE_TIMEOUT",
  helloTimeout: "SINGLE_INSTANCE_HELLO_TIMEOUT",
  drain: "SINGLE_INSTANCE_DRAIN",
  maxFrameBytes: "SINGLE_INSTANCE_MAX_FRAME_BYTES",
  maxConnections: "SINGLE_INSTANCE_MAX_CONNECTIONS",
  maxInFlight: "SINGLE_INSTANCE_MAX_IN_FLIGHT",
  maxRemembered: "SINGLE_INSTANCE_MAX_REMEMBERED",
  encoding: "SINGLE_INSTANCE_ENCODING",
  onUnresponsive: "SINGLE_INSTANCE_ON_UNRESPONSIVE"
}

// The last good and the first bad values of each limit, and values of a wrong kind.
const good: ReadonlyArray<readonly [keyof typeof values, string]> = [
  ["maxFrameBytes", "1024"],
  ["maxFrameBytes", "2147483647"],
  ["maxConnections", "1000000"],
  ["maxInFlight", "1000000"],
  ["maxRemembered", "10000000"],
  ["version", "v".repeat(256)]
]
const bad: ReadonlyArray<readonly [keyof typeof values, string]> = [
  ["maxFrameBytes", "1023"],
  ["maxFrameBytes", "2147483648"],
  ["maxFrameBytes", "-1"],
  ["maxFrameBytes", "4096.5"],
  ["maxFrameBytes", "many"],
  ["maxConnections", "0"],
  ["maxConnections", "1000001"],
  ["maxInFlight", "0"],
  ["maxInFlight", "1000001"],
  ["maxRemembered", "0"],
  ["maxRemembered", "10000001"],
  ["version", "v".repeat(257)],
  ["trustDirectory", "perhaps"],
  ["timeout", "soon"],
  ["timeout", "20"],
  ["timeout", "0s"],
  ["timeout", "-5s"],
  ["timeout", "-5 seconds"],
  ["timeout", "Infinity"],
  ["timeout", "5 s"],
  ["helloTimeout", ""],
  ["drain", "2 fortnights"],
  ["encoding", "xml"],
  ["onUnresponsive", "steal"]
]

describe("SingleInstanceConfig", () => {
  it("has the defaults that its documentation states", () => {
    deepStrictEqual(defaults, {
      directory: null,
      trustDirectory: false,
      version: null,
      timeout: Duration.seconds(20),
      helloTimeout: Duration.seconds(5),
      drain: Duration.seconds(10),
      maxFrameBytes: 16_777_216,
      maxConnections: 1_024,
      maxInFlight: 256,
      maxRemembered: 10_000,
      encoding: "json",
      onUnresponsive: "fail"
    })
    deepStrictEqual(make(), defaults)
    deepStrictEqual(make({ timeout: undefined, directory: undefined, maxInFlight: undefined }), defaults)
    // Every option is among those that the tests below set.
    deepStrictEqual([...keys].sort(), Object.keys(defaults).sort())
  })

  it("puts what is given over the defaults", () => {
    deepStrictEqual(make({ ...read, directory: "/run/app", version: "1.2.3" }), read)
    deepStrictEqual(make({ timeout: "3 seconds" }), { ...defaults, timeout: Duration.seconds(3) })
    deepStrictEqual(make({ timeout: 3_000 }).timeout, Duration.seconds(3))
    // Options of something else may come along.
    deepStrictEqual(make({ id: "app", toString: () => "" } as ConfigOptions), defaults)
  })

  it("names the duration that is none, and what to write", () => {
    for (const key of ["timeout", "helloTimeout", "drain"] as const) {
      for (const given of ["5s", "soon", {}, null]) {
        assert.throws(() => make({ [key]: given }), TypeError, `\`${key}\` is not a duration`)
      }
    }
  })

  it("refuses values out of range and names them", () => {
    for (const [key, value] of bad) {
      const given = key.startsWith("max") ? Number(value) : value
      // A duration as a number is one of milliseconds, and the type refuses any other text.
      if (key === "timeout" || key === "helloTimeout" || key === "drain") continue
      assert.throws(() => make({ [key]: given }), new RegExp(key))
    }
    assert.throws(() => make({ directory: "" }), /directory/)
  })

  it.effect("is a layer", () =>
    Effect.gen(function* () {
      deepStrictEqual(yield* built(layer()), defaults)
      deepStrictEqual(yield* built(layer({ drain: "2 minutes" })), { ...defaults, drain: Duration.minutes(2) })
      const exit = yield* Effect.exit(built(layer({ maxFrameBytes: 1 })))
      assert.isTrue(exit._tag === "Failure" && exit.cause._tag === "Die")
    })
  )

  it.effect("is read from a ConfigProvider", () =>
    Effect.gen(function* () {
      deepStrictEqual(yield* reading({}), defaults)
      deepStrictEqual(yield* reading(texts), read)
      for (const key of keys) deepStrictEqual(yield* reading({ [key]: texts[key]! }), { ...defaults, [key]: read[key] })
      for (const [key, value] of good) assert.strictEqual(String((yield* reading({ [key]: value }))[key]), value)
    })
  )

  it.effect("is read under a prefix", () =>
    Effect.gen(function* () {
      const provider = ConfigProvider.fromMap(new Map([["editor.timeout", "3 seconds"]]))
      const found = yield* Effect.withConfigProvider(Config.nested(config, "editor"), provider)
      deepStrictEqual(make(found), { ...defaults, timeout: Duration.seconds(3) })
    })
  )

  it.effect("prefers what is given as an argument", () =>
    Effect.gen(function* () {
      deepStrictEqual(yield* reading(texts, { timeout: "1 second" }), { ...read, timeout: Duration.seconds(1) })
      deepStrictEqual(yield* reading(texts, { timeout: undefined }), read)
    })
  )

  it.effect("never takes the default for a bad value", () =>
    Effect.gen(function* () {
      for (const [key, value] of bad) assert.include(yield* problem(reading({ [key]: value })), key)
      const both = yield* problem(reading({ timeout: "soon", maxInFlight: "0" }))
      assert.match(both, /timeout.*maxInFlight.*between 1 and 1000000/s)
    })
  )

  it.scoped("is read from the environment", () =>
    Effect.gen(function* () {
      deepStrictEqual(yield* built(layerFromEnv()), defaults)
      yield* variables(Object.fromEntries(keys.map((key) => [names[key], texts[key]!])))
      deepStrictEqual(yield* built(layerFromEnv()), read)
      deepStrictEqual(yield* built(layerFromEnv({ drain: 0, version: undefined })), { ...read, drain: Duration.zero })
    })
  )

  it.effect("names the variable that is bad", () =>
    Effect.forEach(bad, ([key, value]) =>
      Effect.gen(function* () {
        yield* variables({ [names[key]]: value })
        assert.include(yield* problem(built(layerFromEnv())), names[key])
      }).pipe(Effect.scoped)
    )
  )

  it.effect("reads durations as the command line does", () =>
    Effect.gen(function* () {
      const durations: ReadonlyArray<readonly [string, number]> = [
        ["500ms", 500],
        ["5s", 5_000],
        ["1.5s", 1_500],
        ["2m", 120_000],
        ["1h", 3_600_000],
        [" 5s ", 5_000],
        ["5 seconds", 5_000],
        ["2 minutes", 120_000]
      ]
      for (const [text, millis] of durations) {
        for (const key of ["timeout", "helloTimeout", "drain"] as const) {
          yield* Effect.scoped(
            Effect.gen(function* () {
              yield* variables({ [names[key]]: text })
              assert.strictEqual(Duration.toMillis((yield* built(layerFromEnv()))[key]), millis, text)
            })
          )
          assert.strictEqual(Duration.toMillis((yield* reading({ [key]: text }))[key]), millis, text)
        }
      }
      assert.strictEqual(Duration.toMillis((yield* reading({ drain: "0s" })).drain), 0)
    })
  )

  it.scoped("names in the log each variable that is not an option, and nothing else", () =>
    Effect.gen(function* () {
      const said: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => void said.push(`${logLevel.label} ${message}`))
      const read = built(layerFromEnv()).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, logger)))
      yield* variables({
        ...Object.fromEntries(keys.map((key) => [names[key], texts[key]!])),
        SINGLE_INSTANCE_ID: "app",
        SINGLE_INSTANCE_EPOCH: "1",
        SINGLE_INSTANCE_MESSAGE: "2",
        SINGLE_INSTANCE_FROM_PID: "3"
      })
      yield* read
      assert.deepStrictEqual(said, [])
      yield* variables({ SINGLE_INSTANCE_TIMEOUTS: "5s", SINGLE_INSTANCE_IDS: "app" })
      yield* read
      assert.deepStrictEqual(
        said.map((line) => line.split(" is not")[0]).sort(),
        ["IDS", "TIMEOUTS"].map((name) => `WARN the environment variable SINGLE_INSTANCE_${name}`)
      )
      assert.include(said[0], names.timeout)
    })
  )

  it.scoped("leaves the program's own ConfigProvider alone", () =>
    Effect.gen(function* () {
      yield* variables({ SINGLE_INSTANCE_PORT: "1", SINGLE_INSTANCE_VERSION: "1.2.3" })
      const program = Effect.all([Config.string("port"), Effect.map(SingleInstanceConfig, ({ version }) => version)])
      const found = yield* Effect.provide(program, layerFromEnv()).pipe(
        Effect.withConfigProvider(ConfigProvider.fromMap(new Map([["port", "8080"]])))
      )
      deepStrictEqual(found, ["8080", "1.2.3"])
    })
  )
})
