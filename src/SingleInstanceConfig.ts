/**
 * The options of an instance and their defaults, in one place.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as durationText from "./internal/durationText.js"
import * as environment from "./internal/environment.js"
import * as location from "./internal/location.js"

const limits = {
  maxFrameBytes: [1024, 0x7fff_ffff],
  maxConnections: [1, 1_000_000],
  maxInFlight: [1, 1_000_000],
  maxRemembered: [1, 10_000_000]
} as const
const limit = (key: keyof typeof limits) => Schema.Int.pipe(Schema.between(limits[key][0], limits[key][1]))
// It goes into the record, which has a largest size.
const maxVersion = 256
const version = Schema.String.pipe(Schema.maxLength(maxVersion))

/**
 * @since 0.1.0
 * @category schemas
 */
export const Options: Schema.Struct<{
  directory: Schema.NullOr<typeof Schema.NonEmptyString>
  trustDirectory: typeof Schema.Boolean
  version: Schema.NullOr<Schema.filter<typeof Schema.String>>
  timeout: typeof Schema.DurationFromSelf
  helloTimeout: typeof Schema.DurationFromSelf
  drain: typeof Schema.DurationFromSelf
  maxFrameBytes: Schema.filter<typeof Schema.Int>
  maxConnections: Schema.filter<typeof Schema.Int>
  maxInFlight: Schema.filter<typeof Schema.Int>
  maxRemembered: Schema.filter<typeof Schema.Int>
  encoding: Schema.Literal<["json", "msgpack"]>
  onUnresponsive: Schema.Literal<["fail", "terminate"]>
}> = Schema.Struct({
  directory: Schema.NullOr(Schema.NonEmptyString),
  trustDirectory: Schema.Boolean,
  version: Schema.NullOr(version),
  timeout: Schema.DurationFromSelf,
  helloTimeout: Schema.DurationFromSelf,
  drain: Schema.DurationFromSelf,
  maxFrameBytes: limit("maxFrameBytes"),
  maxConnections: limit("maxConnections"),
  maxInFlight: limit("maxInFlight"),
  maxRemembered: limit("maxRemembered"),
  encoding: Schema.Literal("json", "msgpack"),
  onUnresponsive: Schema.Literal("fail", "terminate")
})

/**
 * The options of an instance:
 *
 * - `directory`: the folder that holds the folders of all instances; `null` is the platform's place, derived from the
 *   user database and never from environment variables, which differ between launches. A relative one is resolved when the
 *   layer is built, and stays what it was then when the process changes its current directory.
 * - `trustDirectory`: you vouch for the given `directory` and its parents, whose owners and modes are then not verified:
 *   for a volume whose mode is not yours to choose, such as a Kubernetes `emptyDir` (0777) or one with an `fsGroup`
 *   (2775). Whoever may write to them can rename the instance's folder, and so have a second primary. The instance's
 *   own folder in it must still belong to the effective user, with mode 0700. All launches should say the same. Only
 *   with `directory`; alone, every operation fails with `DirectoryUnusable`. `false`.
 * - `version`: the application's own version, shown to others; at most 256 characters.
 * - `timeout`: how long a launch waits for a decision and for the primary's acceptance of its message; and how long an
 *   accepting primary may keep silent. A handler that works is not silent: its primary answers pings. 20 seconds.
 * - `helloTimeout`: how long either side waits for the other's part of the hello, at each endpoint; all of them together
 *   get no more than `timeout`. 5 seconds.
 * - `drain`: how long a primary that goes away lets accepted requests end. 10 seconds.
 * - `maxFrameBytes`: the largest message, encoded, in bytes. 16 MiB.
 * - `maxConnections`: how many connections a primary serves at once. Above it the oldest one whose peer has not proven
 *   who it is makes room; where all have, the surplus is closed and tries again. 1,024.
 * - `maxInFlight`: how many requests a connection may have unanswered; a sender waits below it. 256.
 * - `maxRemembered`: how many ended requests a primary can still tell the outcome of. 10,000.
 * - `encoding`: how a secondary would like messages to be written, `"json"` or `"msgpack"`. JSON is the faster one in Node,
 *   MessagePack the smaller one for numbers; a primary that cannot write it answers in JSON.
 * - `onUnresponsive`: `"fail"` never touches a primary that keeps silent; `"terminate"` ends it, if directly before each
 *   signal it still owns the lock and is still the recorded process, and contends. Time in which the launch itself stood
 *   still (stopped, suspended, a blocked event loop) is not the primary's silence, here and in all limits.
 *
 * @since 0.1.0
 * @category context
 */
export class SingleInstanceConfig extends Context.Tag("effect-single-instance/SingleInstanceConfig")<
  SingleInstanceConfig,
  typeof Options.Type
>() {}

/**
 * @since 0.1.0
 * @category models
 */
export interface ConfigOptions {
  readonly directory?: string | undefined
  readonly trustDirectory?: boolean | undefined
  readonly version?: string | undefined
  readonly timeout?: Duration.DurationInput | undefined
  readonly helloTimeout?: Duration.DurationInput | undefined
  readonly drain?: Duration.DurationInput | undefined
  readonly maxFrameBytes?: number | undefined
  readonly maxConnections?: number | undefined
  readonly maxInFlight?: number | undefined
  readonly maxRemembered?: number | undefined
  readonly encoding?: "json" | "msgpack" | undefined
  readonly onUnresponsive?: "fail" | "terminate" | undefined
}

/**
 * @since 0.1.0
 * @category defaults
 */
export const defaults: SingleInstanceConfig["Type"] = {
  directory: null,
  trustDirectory: false,
  version: null,
  timeout: Duration.seconds(20),
  helloTimeout: Duration.seconds(5),
  drain: Duration.seconds(10),
  maxFrameBytes: 16 * 1024 * 1024,
  maxConnections: 1_024,
  maxInFlight: 256,
  maxRemembered: 10_000,
  encoding: "json",
  onUnresponsive: "fail"
}

/**
 * The defaults with what is given put over them. Dies of values out of range, which only a program can give.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (options?: ConfigOptions): SingleInstanceConfig["Type"] => {
  const { drain, helloTimeout, timeout, ...rest } = { ...defaults, ...given(options) }
  const valid = Schema.validateSync(Options)({
    ...rest,
    timeout: durationText.decode("timeout", timeout),
    helloTimeout: durationText.decode("helloTimeout", helloTimeout),
    drain: durationText.decode("drain", drain)
  })
  return { ...valid, directory: location.resolve(valid.directory) }
}

/**
 * @since 0.1.0
 * @category layers
 */
export const layer = (options?: ConfigOptions): Layer.Layer<SingleInstanceConfig> =>
  Layer.sync(SingleInstanceConfig, () => make(options))

/**
 * The same options as `Config`, so that any `ConfigProvider` can set them. Keys are those of the options. Durations are
 * written `"500ms"`, `"5s"`, `"2m"`, `"1h"` or as Effect does, `"5 seconds"`. Values that are malformed or out of range
 * are errors that name their key; none of them falls back to a default.
 *
 * @since 0.1.0
 * @category config
 */
export const config: Config.Config<ConfigOptions> = read((key) => key)

/**
 * Reads the options from the current `ConfigProvider`; what is given as an argument wins.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfig = (options?: ConfigOptions): Layer.Layer<SingleInstanceConfig, ConfigError.ConfigError> =>
  Layer.effect(
    SingleInstanceConfig,
    Effect.map(config, (found) => make({ ...found, ...given(options) }))
  )

/**
 * Reads the options from environment variables such as `SINGLE_INSTANCE_TIMEOUT=5s` or
 * `SINGLE_INSTANCE_MAX_FRAME_BYTES=65536`; what is given as an argument wins. A variable with this prefix that is not an
 * option is named in a warning in the log, and otherwise ignored; it may be misspelled, or belong to the application.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerFromEnv = (options?: ConfigOptions): Layer.Layer<SingleInstanceConfig, ConfigError.ConfigError> =>
  Layer.effect(
    SingleInstanceConfig,
    // `Layer.setConfigProvider` would also replace the provider of the program that this layer is provided to.
    read(environment.nameOf).pipe(
      Effect.map((found) => make({ ...found, ...given(options) })),
      Effect.withConfigProvider(ConfigProvider.fromEnv()),
      Effect.zipLeft(warnOfUnknown)
    )
  )

const warnOfUnknown = Effect.suspend(() => {
  const options = Object.keys(defaults).map(environment.nameOf)
  const unknown = Object.keys(process.env).filter(
    (name) => environment.isOption(name) && !options.includes(process.platform === "win32" ? name.toUpperCase() : name)
  )
  return Effect.forEach(
    unknown,
    (name) => Effect.logWarning(`the environment variable ${name} is not an option; there are ${options.join(", ")}`),
    { discard: true }
  )
})

// The key is spelled as the person wrote it, because errors quote it.
function read(name: (key: keyof ConfigOptions) => string): Config.Config<ConfigOptions> {
  const optional = <A>(config: Config.Config<A>) => Config.map(Config.option(config), Option.getOrUndefined)
  const integer = (key: keyof typeof limits) => {
    const [minimum, maximum] = limits[key]
    const message = `Expected an integer between ${minimum} and ${maximum}`
    return Config.integer(name(key)).pipe(Config.validate({ message, validation: Schema.is(limit(key)) }), optional)
  }
  const duration = (key: "timeout" | "helloTimeout" | "drain") =>
    optional(
      Config.mapOrFail(Config.string(name(key)), (text) => {
        const found = durationText.read(text, { zero: key === "drain" })
        return found === undefined
          ? Either.left(
              ConfigError.InvalidData([name(key)], `Expected ${durationText.expected}, but received "${text}"`)
            )
          : Either.right(found)
      })
    )
  return Config.all({
    directory: optional(Config.nonEmptyString(name("directory"))),
    trustDirectory: optional(Config.boolean(name("trustDirectory"))),
    version: Config.string(name("version")).pipe(
      Config.validate({ message: `Expected at most ${maxVersion} characters`, validation: Schema.is(version) }),
      optional
    ),
    timeout: duration("timeout"),
    helloTimeout: duration("helloTimeout"),
    drain: duration("drain"),
    maxFrameBytes: integer("maxFrameBytes"),
    maxConnections: integer("maxConnections"),
    maxInFlight: integer("maxInFlight"),
    maxRemembered: integer("maxRemembered"),
    encoding: optional(Config.literal("json", "msgpack")(name("encoding"))),
    onUnresponsive: optional(Config.literal("fail", "terminate")(name("onUnresponsive")))
  })
}

// An option that is `undefined` is not given, and so does not hide what was read.
function given(options: ConfigOptions = {}): { [K in keyof ConfigOptions]?: Exclude<ConfigOptions[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
}
