/**
 * A second launch without the library, beside one with it: what the one says of a message the other must not contradict.
 */
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import { join } from "node:path"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { Effect, Either, FastCheck as fc, Layer, Schema, type Scope } from "effect"
import { Endpoint, InstanceRecord, Message, PidVerifier, SingleInstance, Tcp, UnixSocket } from "effect-single-instance"
import { folderName } from "effect-single-instance/InstanceId"
import { type Exit, type LaunchOptions, launch, type Verdict } from "effect-single-instance/launch"
import { bundle, bundleBin, commonJs, root } from "../scripts/bundle.mjs"
import * as answers from "../src/internal/answers.js"
import * as framing from "../src/internal/framing.js"
import { failing, itNeeds, makeArena, needs } from "./contenders.js"
import { samples } from "./contract/hostile.js"
import { temporary } from "./contract/Protocol.js"

class Missing extends Schema.TaggedError<Missing>()("Missing", { path: Schema.String }) {}

class Asked extends SingleInstance.Tag<Asked>()("launch.test", {
  request: Schema.Struct({ what: Schema.Literal("reply", "fail", "die", "interrupt", "never"), text: Schema.String }),
  reply: Schema.Struct({ text: Schema.String, argv: Schema.Array(Schema.String), cwd: Schema.String }),
  failure: Missing
}) {}

type Asking = typeof Asked.Service

const id = "launch.test"
const text = "\0 \n|é👩‍👩‍👧\ud800"
const argv = ["", " a ", "--x", text]
const ask = (what: string, options: Partial<LaunchOptions> = {}): LaunchOptions => ({
  id,
  request: { what, text },
  argv,
  cwd: "/somewhere else",
  timeout: 20_000,
  ...options
})

/** What became of a message, in the words of both. */
interface Told {
  readonly outcome: string
  readonly detail: unknown
}

const ofExit = (exit: Exit): Told => ({
  outcome: "Delivered",
  detail: exit._tag === "Success" ? exit.value : exit._tag === "Failure" ? exit.error : exit._tag
})

const ofVerdict = (verdict: Verdict): Told => {
  if (verdict._tag === "Delivered") return ofExit(verdict.exit)
  return { outcome: verdict._tag, detail: verdict._tag === "Candidate" ? undefined : verdict.reason }
}

const ofLibrary = (instance: Asking, { request, timeout: _, ...given }: LaunchOptions): Effect.Effect<Told> =>
  Effect.match(instance.send(request as any, { launch: { argv: given.argv, cwd: given.cwd } }), {
    onSuccess: ({ reply }) => ({ outcome: "Delivered", detail: reply }),
    onFailure: (error) => {
      if (error._tag === "Missing") return { outcome: "Delivered", detail: Schema.encodeSync(Missing)(error) }
      const { outcome, reason } = error
      const inExit = { HandlerDefect: "Defect", HandlerInterrupted: "Interrupted" }[reason as string]
      return { outcome, detail: inExit ?? reason }
    }
  })

type Launching = (options: LaunchOptions) => Promise<Verdict>

/**
 * Both in the same situation; where one changes it, each in its own. A candidate's message was certainly not handled: the
 * library knows as much, or has it delivered in a later round.
 */
const agree = (instance: Asking, options: LaunchOptions, own: Launching = launch, directory = options.directory) =>
  Effect.gen(function* () {
    const verdict = ofVerdict(yield* Effect.promise(() => own({ ...options, directory })))
    const library = yield* ofLibrary(instance, options)
    if (verdict.outcome === "Candidate") assert.notStrictEqual(library.outcome, "Unknown", JSON.stringify(library))
    else assert.deepStrictEqual(verdict, library)
    return verdict
  })

const layerOf = (directory: string, timeout: number, protocol: typeof Tcp.layer) =>
  Layer.provide(
    Asked.layer({ directory, timeout, helloTimeout: Math.min(timeout, 5_000), protocol, fallback: "none" }),
    NodeContext.layer
  )

const instanceIn = (directory: string, timeout = 20_000, protocol = Tcp.layer) =>
  Effect.map(
    Layer.build(layerOf(directory, timeout, protocol)),
    (context) => context.unsafeMap.get(Asked.key) as Asking
  )

/** A primary of the library, in this process. */
const primaryIn = (directory: string, protocol = UnixSocket.layer, serves = true) =>
  Effect.gen(function* () {
    const instance = yield* instanceIn(directory, 20_000, protocol)
    const primary = yield* instance.elect({ what: "reply", text })
    assert(primary._tag === "Primary")
    if (!serves) return primary
    yield* primary.serve(({ text, what }, { argv, cwd, stderr, stdout }) => {
      switch (what) {
        case "reply":
          return Effect.as(Effect.zip(stdout("one"), Effect.zip(stderr("two"), stdout("three"))), { text, argv, cwd })
        case "fail":
          return new Missing({ path: text })
        case "die":
          return Effect.die(new Error("no"))
        case "interrupt":
          return Effect.interrupt
        case "never":
          return Effect.never
      }
    })
    return primary
  })

/** All there is in a folder, to see that nothing was touched. */
const everything = (directory: string) =>
  fs.existsSync(directory)
    ? fs
        .readdirSync(directory, { recursive: true, encoding: "utf8" })
        .sort()
        .map((name) => {
          const { ino, mtimeMs, size } = fs.lstatSync(join(directory, name))
          return [name, ino, mtimeMs, size]
        })
    : undefined

describe("launch", () => {
  for (const [name, protocol] of Object.entries({ unix: UnixSocket.layer, tcp: Tcp.layer })) {
    describe.skipIf(process.platform === "win32" && name === "unix")(`over ${name}`, () => {
      it.scopedLive("says of each exit what the library says", () =>
        Effect.gen(function* () {
          const directory = join(yield* temporary, "locks")
          const primary = yield* primaryIn(directory, protocol)
          const instance = yield* instanceIn(directory, 20_000, protocol)
          const told: Array<Told> = []
          for (const what of ["reply", "fail", "die", "interrupt", "other"]) {
            told.push(yield* agree(instance, ask(what, { directory })))
          }
          assert.deepStrictEqual(told, [
            { outcome: "Delivered", detail: { text, argv, cwd: "/somewhere else" } },
            { outcome: "Delivered", detail: { _tag: "Missing", path: text } },
            { outcome: "Delivered", detail: "Defect" },
            { outcome: "Delivered", detail: "Interrupted" },
            { outcome: "NotDelivered", detail: "Malformed" }
          ])
          const verdict = yield* Effect.promise(() => launch(ask("reply", { directory })))
          assert(verdict._tag === "Delivered")
          assert.strictEqual(verdict.protocol, name)
          assert.strictEqual(verdict.address, primary.endpoints[0]!.address)
          assert.deepStrictEqual(verdict.primary, { pid: process.pid, epoch: primary.epoch, version: null })
        })
      )
    })
  }

  it.scopedLive("hands on output as it comes, and the primary waits for it", () =>
    Effect.gen(function* () {
      const directory = join(yield* temporary, "locks")
      yield* primaryIn(directory)
      const seen: Array<string> = []
      let busy = 0
      const onOutput = async (stream: string, chunk: Uint8Array) => {
        assert.strictEqual(++busy, 1)
        await new Promise((resume) => setTimeout(resume, 20))
        busy--
        seen.push(`${stream} ${Buffer.from(chunk)}`)
      }
      const verdict = yield* Effect.promise(() => launch(ask("reply", { directory, onOutput })))
      assert.strictEqual(verdict._tag, "Delivered")
      assert.deepStrictEqual(seen, ["stdout one", "stderr two", "stdout three"])

      const broken = yield* Effect.promise(() =>
        launch(
          ask("reply", {
            directory,
            onOutput: () => {
              throw new Error("the caller's own")
            }
          })
        ).catch((error) => error.message)
      )
      assert.strictEqual(broken, "the caller's own")
    })
  )

  it.scopedLive("interrupts the handler, and says so", () =>
    Effect.gen(function* () {
      const directory = join(yield* temporary, "locks")
      yield* primaryIn(directory)
      const verdict = yield* Effect.promise(() => launch(ask("never", { directory, signal: AbortSignal.timeout(200) })))
      assert.deepStrictEqual(ofVerdict(verdict), { outcome: "Delivered", detail: "Interrupted" })
      const early = yield* Effect.promise(() => launch(ask("reply", { directory, signal: AbortSignal.abort() })))
      assert.deepStrictEqual(early, { _tag: "Candidate", reason: early._tag === "Candidate" ? early.reason : "" })
    })
  )

  it.scopedLive("has a message struck off that is not accepted in time", () =>
    Effect.gen(function* () {
      const directory = join(yield* temporary, "locks")
      yield* primaryIn(directory, UnixSocket.layer, false)
      const instance = yield* instanceIn(directory, 1_000, UnixSocket.layer)
      const told = yield* agree(instance, ask("reply", { directory, timeout: 1_000 }))
      assert.deepStrictEqual(told, { outcome: "NotDelivered", detail: "accept" })
    })
  )

  it.scopedLive("waits for a handler that takes longer than the timeout", () =>
    Effect.gen(function* () {
      const directory = join(yield* temporary, "locks")
      yield* primaryIn(directory)
      const started = performance.now()
      const signal = AbortSignal.timeout(2_500)
      const verdict = yield* Effect.promise(() => launch(ask("never", { directory, timeout: 600, signal })))
      assert.deepStrictEqual(ofVerdict(verdict), { outcome: "Delivered", detail: "Interrupted" })
      assert.isAtLeast(performance.now() - started, 2_400)
    })
  )

  it.scopedLive("is a candidate where there is nobody, or nobody that can be told, and touches nothing", () =>
    Effect.gen(function* () {
      const base = yield* temporary
      const found = (name: string, prepare: (home: string, lock: string) => void) =>
        Effect.gen(function* () {
          const directory = join(base, name)
          const home = join(directory, folderName(id))
          fs.mkdirSync(home, { recursive: true, mode: 0o700 })
          prepare(home, join(home, "lock"))
          const before = everything(directory)
          const instance = yield* instanceIn(directory, 500)
          const { outcome } = yield* agree(instance, ask("reply", { directory, timeout: 500 }))
          assert.strictEqual(outcome, "Candidate", name)
          assert.deepStrictEqual(everything(directory), before, name)
        })
      const real = yield* Effect.scoped(
        Effect.gen(function* () {
          const directory = join(base, "a primary that was")
          yield* primaryIn(directory)
          return fs.readFileSync(join(directory, folderName(id), "lock"))
        })
      )
      const flipped = Buffer.from(real)
      flipped[flipped.length - 3]! ^= 1
      yield* found("nothing", (home) => fs.rmdirSync(home))
      yield* found("no record", () => {})
      yield* found("an empty record", (_, lock) => fs.writeFileSync(lock, ""))
      yield* found("garbage", (_, lock) => fs.writeFileSync(lock, "ESI1 garbage\n"))
      yield* found("half a record", (_, lock) => fs.writeFileSync(lock, real.subarray(0, real.length / 2)))
      yield* found("a flipped bit", (_, lock) => fs.writeFileSync(lock, flipped))
      yield* found("a huge record", (_, lock) => fs.writeFileSync(lock, Buffer.alloc(70_000, 0x20)))
      yield* found("a later version", (_, lock) => fs.writeFileSync(lock, "ESI2 whatever\n{}"))
      yield* found("a directory", (_, lock) => fs.mkdirSync(lock))
      yield* found("a dangling link", (_, lock) => fs.symlinkSync("nowhere", lock))
      yield* found("somebody's socket", (_, lock) => fs.writeFileSync(lock, real))
      if (process.platform !== "win32") yield* found("a folder for all", (home) => fs.chmodSync(home, 0o755))
      const primary = join(base, "a primary that was")
      const instance = yield* instanceIn(primary)
      assert.strictEqual((yield* agree(instance, ask("reply", { directory: primary }))).outcome, "Candidate")
    })
  )

  itNeeds(needs.root)("is a candidate in a folder of somebody else's", () =>
    Effect.gen(function* () {
      const directory = join(yield* temporary, "locks")
      yield* primaryIn(directory)
      fs.chownSync(join(directory, folderName(id)), 65_534, 65_534)
      const instance = yield* instanceIn(directory, 500)
      assert.strictEqual((yield* agree(instance, ask("reply", { directory }))).outcome, "Candidate")
    })
  )
})

// -------------------------------------------------------------------------------------
// processes
// -------------------------------------------------------------------------------------

describe("launch, between processes", () => {
  itNeeds(needs.linux)("leaves a primary that is stopped to the application, and reaches it when it goes on", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* arena.start("launch", { protocol: "unix" })
      yield* primary.waitFor("begin")
      const { directory, id } = arena
      const request = (message: string) => ({ id, directory, request: { message, work: 0 } })
      yield* primary.freeze
      const verdict = yield* Effect.promise(() => launch(request("frozen")))
      assert.strictEqual(verdict._tag, "Candidate")
      yield* primary.thaw
      const told = yield* Effect.promise(() => launch(request("thawed")))
      assert.deepStrictEqual(ofVerdict(told), { outcome: "Delivered", detail: { by: primary.who } })
      yield* primary.waitFor("handled", { message: "thawed" })
      const handled = primary.entries.filter(({ event }) => event === "handled").map(({ message }) => message)
      assert.deepStrictEqual(handled, [primary.who, "thawed"])
    })
  )

  itNeeds(needs.linux)(
    "does not know what became of a message whose primary died of it, nor that it was dead before @large",
    () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* arena.start("launch", { protocol: "unix" })
        yield* primary.waitFor("begin")
        const { directory, id } = arena
        const request = (message: string) => ({ id, directory, request: { message, work: 60_000 } })
        const pending = launch(request("a"))
        yield* primary.waitFor("handled", { message: "a" })
        yield* primary.kill
        const verdict = yield* Effect.promise(() => pending)
        assert.deepStrictEqual(ofVerdict(verdict), { outcome: "Unknown", detail: "Disconnected" })
        assert.strictEqual((yield* Effect.promise(() => launch(request("b"))))._tag, "Candidate")
      })
  )
})

// -------------------------------------------------------------------------------------
// what a primary may say
// -------------------------------------------------------------------------------------

interface Puppet {
  readonly directory: string
  readonly connections: () => number
}

interface Strings {
  readonly say: (...messages: ReadonlyArray<object | Uint8Array>) => void
  readonly drop: () => void
  readonly end: () => void
  /** Reads nothing more, as a process that was stopped. */
  readonly pause: () => void
  /** Whoever comes later finds nobody. */
  readonly vanish: () => void
}

interface Script {
  /** Instead of a proper Welcome. */
  readonly welcome?: (welcome: object, strings: Strings) => void
  /** What it answers behind the greeting; connections are counted from 1. */
  readonly heard: { readonly [tag: string]: (strings: Strings, id: string, connection: number) => unknown }
}

const none = () => {}
const success = { _tag: "Success", value: { text: "", argv: [], cwd: "" } }

const puppet = (script: Script, elsewhere?: string): Effect.Effect<Puppet, never, Scope.Scope> =>
  Effect.gen(function* () {
    const directory = join(yield* temporary, "locks")
    const home = join(directory, folderName(id))
    fs.mkdirSync(home, { recursive: true, mode: 0o700 })
    const context = yield* Layer.build(Layer.provide(SingleInstance.layerPidVerifier, NodeContext.layer))
    const verifier = context.unsafeMap.get(PidVerifier.PidVerifier.key) as PidVerifier.PidVerifier["Type"]
    const self = yield* Effect.orDie(verifier.self)
    const nonce = "a".repeat(32)
    const key = "b".repeat(64)
    let address = ""
    let connections = 0
    const open = new Set<net.Socket>()
    const server = net.createServer((socket) => {
      const connection = ++connections
      open.add(socket)
      socket.on("error", none)
      const decoder = new framing.Decoder(1 << 20)
      const strings: Strings = {
        // A byte at a time in front, and the rest at once: frames come in any pieces.
        say: (...messages) => {
          const bytes = Buffer.concat(
            messages.map((message) =>
              message instanceof Uint8Array ? message : framing.encode(Buffer.from(JSON.stringify(message)))
            )
          )
          for (let at = 0; at < Math.min(9, bytes.length); at++) socket.write(bytes.subarray(at, at + 1))
          socket.write(bytes.subarray(9))
        },
        drop: () => socket.destroy(),
        end: () => socket.end(),
        pause: () => socket.pause(),
        vanish: () => {
          server.close()
          for (const each of open) each.destroy()
        }
      }
      const onMessage = (message: any) => {
        if (message._tag === "Hello") {
          const serverNonce = "c".repeat(32)
          const range = [1, 1] as const
          const mac = Message.mac(key, "server", {
            recordNonce: nonce,
            clientNonce: message.nonce,
            serverNonce,
            clientWire: message.wire,
            serverWire: range,
            address
          })
          const limits = { maxInFlight: 8, maxFrameBytes: 1 << 20 }
          const who = { pid: process.pid, version: null, epoch: 1 }
          const welcome = { _tag: "Welcome", wire: 1, range, nonce: serverNonce, mac, ...who, ...limits }
          return script.welcome === undefined ? strings.say(welcome) : script.welcome(welcome, strings)
        }
        script.heard[message._tag]?.(strings, message.id, connection)
      }
      socket.on("data", (chunk) => {
        const frames: Array<Uint8Array> = []
        decoder.push(chunk, frames)
        for (const frame of frames) onMessage(JSON.parse(Buffer.from(frame).toString()))
      })
    })
    yield* Effect.acquireRelease(
      Effect.async<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void))),
      () =>
        Effect.sync(() => {
          server.close()
          for (const socket of open) socket.destroy()
        })
    )
    address = elsewhere ?? `tcp://127.0.0.1:${(server.address() as net.AddressInfo).port}`
    const record = new InstanceRecord.InstanceRecord({
      nonce,
      epoch: 1,
      released: false,
      process: self,
      host: "",
      uid: null,
      version: null,
      argv0: "",
      startedAt: 0,
      sequence: 0,
      witness: null,
      key,
      endpoints: [new Endpoint.Endpoint({ protocol: "tcp", address, wire: [1, 1] })]
    })
    fs.writeFileSync(join(home, "lock"), InstanceRecord.encode(record), { mode: 0o600 })
    return { directory, connections: () => connections }
  })

const refusing = (reason: string) => (strings: Strings, id: string) => strings.say({ _tag: "Refused", reason, id })
const state =
  (state: string, more: object = {}) =>
  (strings: Strings, id: string) =>
    strings.say({ _tag: "State", id, state, ...more })
const dropping = ({ drop }: Strings) => drop()
const large = Buffer.of(0x7f, 0xff, 0xff, 0xff)

const served: Script["heard"] = { Request: (s, id) => s.say({ _tag: "Exit", id, exit: success }) }
const atFirst =
  (act: Script["heard"][string]): Script["heard"][string] =>
  (strings, id, connection) =>
    (connection === 1 ? act : served.Request!)(strings, id, connection)

const situations: { readonly [name: string]: Script & { readonly expected: string } } = {
  "the exit in pieces": {
    expected: "Delivered",
    heard: { Request: (s, id) => s.say({ _tag: "Exit", id, exit: success }) }
  },
  "all at once": {
    expected: "Delivered",
    heard: {
      Request: (s, id) => {
        const output = { _tag: "Output", id, stream: "stdout", chunk: "YQ==" }
        s.say(
          { _tag: "Starting", id },
          { _tag: "Accepted", id },
          output,
          { _tag: "Later" },
          { _tag: "Exit", id, exit: success }
        )
      }
    }
  },
  "an exit of somebody else's before ours": {
    expected: "Delivered",
    heard: {
      Request: (s, id) => s.say({ _tag: "Exit", id: "x", exit: 1 }, { _tag: "Exit", id, exit: success })
    }
  },
  "a proof of another key": {
    expected: "Candidate",
    welcome: (welcome, s) => s.say({ ...welcome, mac: "0".repeat(64) }),
    heard: {}
  },
  "another wire": { expected: "Candidate", welcome: (welcome, s) => s.say({ ...welcome, wire: 2 }), heard: {} },
  "no wire in common": {
    expected: "Candidate",
    welcome: (_, s) => s.say({ _tag: "Refused", reason: "Incompatible" }),
    heard: {}
  },
  "a greeting that is none": { expected: "Candidate", welcome: (_, s) => s.say({ _tag: "Pong" }), heard: {} },
  "garbage for a greeting": { expected: "Candidate", welcome: (_, s) => s.say(framing.encode(large)), heard: {} },
  "a greeting without end": { expected: "Candidate", welcome: (_, s) => s.say(large), heard: {} },
  "no greeting": { expected: "Candidate", welcome: none, heard: {} },
  "a hang-up for a greeting": { expected: "Candidate", welcome: (_, s) => s.drop(), heard: {} },
  "a farewell behind the greeting": {
    expected: "Candidate",
    welcome: (welcome, s) => s.say(welcome, { _tag: "Refused", reason: "ShuttingDown" }),
    heard: {}
  },
  "a farewell to the proof": {
    expected: "Candidate",
    heard: {
      Proof: (s, _, connection) => connection === 1 && s.say({ _tag: "Refused", reason: "ShuttingDown" }),
      ...served
    }
  },
  "no belief in our proof": {
    expected: "NotDelivered Forbidden",
    heard: { Proof: (s) => s.say({ _tag: "Refused", reason: "Forbidden" }) }
  },
  ...Object.fromEntries(
    ["ShuttingDown", "Busy", "NotPrimary"].map((reason) => [
      `refused as ${reason}`,
      { expected: "Candidate", heard: { Request: atFirst(refusing(reason)) } }
    ])
  ),
  ...Object.fromEntries(
    ["Expired", "Malformed", "Forbidden"].map((reason) => [
      `refused as ${reason}`,
      { expected: `NotDelivered ${reason}`, heard: { Request: refusing(reason) } }
    ])
  ),
  "no such message": {
    expected: "NotDelivered Unsupported",
    heard: { Request: (s, id) => s.say({ _tag: "Unsupported", tag: "Request", id }) }
  },
  "never accepted, struck off": {
    expected: "NotDelivered accept",
    heard: { Request: none, Status: state("struck") }
  },
  "never accepted, and silence": { expected: "Unknown accept", heard: {} },
  "accepted, and silence": {
    expected: "Unknown reply",
    heard: { Request: (s, id) => s.say({ _tag: "Accepted", id }) }
  },
  "lost, never started": { expected: "Candidate", heard: { Request: atFirst(dropping), Status: state("struck") } },
  "lost, and it had ended": {
    expected: "Delivered",
    heard: { Request: dropping, Status: state("done", { exit: success }) }
  },
  "lost, and it runs": {
    expected: "Delivered",
    heard: {
      Request: dropping,
      Status: (s, id) => s.say({ _tag: "State", id, state: "running" }, { _tag: "Exit", id, exit: success })
    }
  },
  "lost, and its exit is not kept": {
    expected: "Unknown Disconnected",
    heard: { Request: dropping, Status: state("done") }
  },
  "an exit that is not kept, and then never started": {
    expected: "Unknown Disconnected",
    heard: { Request: state("done"), Status: state("struck") }
  },
  ...Object.fromEntries(
    ["Busy", "Expired", "Malformed"].map((reason) => [
      `lost, and the question is refused as ${reason}`,
      { expected: "Unknown Disconnected", heard: { Request: dropping, Status: refusing(reason) } }
    ])
  ),
  "lost, and the question is answered as if it were the message": {
    expected: "Unknown Disconnected",
    heard: { Request: dropping, Status: (s, id) => s.say({ _tag: "Unsupported", tag: "Request", id }) }
  },
  "lost, and nobody can tell": {
    expected: "Unknown Disconnected",
    heard: { Request: dropping, Status: state("unknown") }
  },
  "lost, and lost again": { expected: "Unknown Disconnected", heard: { Request: dropping, Status: dropping } },
  "lost, and nobody there": { expected: "Unknown Disconnected", heard: { Request: (s) => s.vanish() } },
  "garbage for an answer": {
    expected: "Unknown Malformed",
    heard: { Request: (s) => s.say(framing.encode(large)), Status: state("unknown") }
  },
  "an answer that lacks something": {
    expected: "Unknown Malformed",
    heard: { Request: (s) => s.say({ _tag: "Exit" }), Status: state("unknown") }
  },
  "a stumble over it": {
    expected: "Unknown Malformed",
    heard: { Request: (s) => s.say({ _tag: "Refused", reason: "Malformed" }), Status: state("unknown") }
  },
  "a farewell amid it": {
    expected: "Unknown ShuttingDown",
    heard: {
      Request: (s, id) => s.say({ _tag: "Accepted", id }, { _tag: "Refused", reason: "ShuttingDown" }),
      Status: state("unknown")
    }
  }
}

// What may not be believed, once the primary has accepted the message.
const denials: { readonly [name: string]: (id: string) => object } = {
  ...Object.fromEntries(
    ["ShuttingDown", "Busy", "NotPrimary", "Expired", "Malformed", "Forbidden", "Incompatible"].map((reason) => [
      reason,
      (id: string) => ({ _tag: "Refused", reason, id })
    ])
  ),
  Unsupported: (id) => ({ _tag: "Unsupported", tag: "Request", id }),
  Disconnected: (id) => ({ _tag: "State", id, state: "struck" })
}

const beginnings: { readonly [name: string]: (id: string) => object } = {
  accepted: (id) => ({ _tag: "Accepted", id }),
  "with output": (id) => ({ _tag: "Output", id, stream: "stdout", chunk: "YQ==" }),
  "said to run": (id) => ({ _tag: "State", id, state: "running" })
}

const contradictions: typeof situations = Object.fromEntries(
  Object.entries(beginnings).flatMap(([how, begin]) =>
    Object.entries(denials).flatMap(([reason, deny]) => {
      const says = (message: (id: string) => object) => (s: Strings, id: string) => s.say(message(id))
      const request = (s: Strings, id: string) => s.say(begin(id), deny(id))
      const losing = (s: Strings, id: string) => {
        s.say(begin(id))
        s.end()
      }
      return [
        [
          `${how}, then denied as ${reason}`,
          { expected: `Unknown ${reason}`, heard: { Request: request, Status: state("unknown") } }
        ],
        [
          `${how}, lost, then denied as ${reason}`,
          { expected: "Unknown Disconnected", heard: { Request: losing, Status: says(deny) } }
        ]
      ]
    })
  )
)

const inSituation = ({ expected, ...script }: (typeof situations)[string], own?: Launching) =>
  Effect.gen(function* () {
    const [ours, theirs] = yield* Effect.all([puppet(script), puppet(script)])
    const instance = yield* instanceIn(theirs.directory, 2_000)
    const before = everything(ours.directory)
    const options = ask("reply", { directory: theirs.directory, timeout: 2_000 })
    const { detail, outcome } = yield* agree(instance, options, own, ours.directory)
    assert.strictEqual(typeof detail === "string" ? `${outcome} ${detail}` : outcome, expected)
    assert.deepStrictEqual(everything(ours.directory), before)
    assert.isAbove(ours.connections(), 0)
    assert.isAbove(theirs.connections(), 0)
  })

describe.concurrent("launch and the library agree on", () => {
  for (const [name, situation] of Object.entries({ ...situations, ...contradictions })) {
    it.scopedLive(name, () => inSituation(situation))
  }

  it.live("the canary: not with one that takes a lost message for one that was not delivered", () =>
    Effect.gen(function* () {
      const careless: Launching = async (options) => {
        const verdict = await launch(options)
        return verdict._tag === "Unknown" ? { _tag: "Candidate", reason: verdict.detail } : verdict
      }
      const why = yield* failing(inSituation(situations["lost, and nobody there"]!, careless))
      assert.include(why, "to not equal 'Unknown'")
    })
  )
})

// -------------------------------------------------------------------------------------
// the end of the process
// -------------------------------------------------------------------------------------

/** Starts a process, and answers the first that it says and how long it then took to end. */
const ending = (words: ReadonlyArray<string>, stdin?: string) =>
  Effect.gen(function* () {
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => spawn(process.execPath, words, { stdio: ["pipe", "pipe", "inherit"] })),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    child.stdin.on("error", none).end(stdin)
    const told = yield* Effect.async<string>((resume) => {
      child.stdout.once("data", (chunk) => resume(Effect.succeed(String(chunk))))
    })
    const since = performance.now()
    const ended = Effect.async<void>((resume) => {
      if (child.exitCode !== null) resume(Effect.void)
      child.once("exit", () => resume(Effect.void))
    })
    const within = yield* Effect.timeoutOption(ended, "10 seconds")
    return { told, millis: within._tag === "None" ? Number.POSITIVE_INFINITY : performance.now() - since }
  })

const launching = (directory: string, options: string) =>
  Effect.gen(function* () {
    const place = yield* temporary
    const { text } = yield* Effect.promise(() => commonJs("src/launch.ts"))
    fs.writeFileSync(join(place, "launch.cjs"), text)
    fs.writeFileSync(
      join(place, "main.cjs"),
      `const controller = new AbortController()
      const options = { id: ${JSON.stringify(id)}, directory: ${JSON.stringify(directory)}, ${options} }
      require("./launch.cjs").launch(options).then(({ _tag }) => _tag, ({ message }) => message).then((told) => {
        require("node:fs").writeSync(1, told)
      })`
    )
    return yield* ending([join(place, "main.cjs")])
  })

// More than the system's buffers between two sockets hold.
const much = "request: 'x'.repeat(12 * 1024 * 1024)"
const stops: Script = {
  welcome: (welcome, s) => {
    s.say({ ...welcome, maxFrameBytes: 16 * 1024 * 1024 })
    s.pause()
  },
  heard: {}
}

describe("the process of a launch ends after the verdict @large", () => {
  const endings: ReadonlyArray<readonly [name: string, script: Script, options: string, told: string]> = [
    ["of a primary that has stopped amid the request", stops, `${much}, timeout: 500`, "Unknown"],
    [
      "of an interruption meanwhile",
      stops,
      `${much}, signal: (setTimeout(() => controller.abort(), 300), controller.signal)`,
      "Unknown"
    ],
    [
      "of a caller that fails over the output",
      {
        heard: {
          Request: (s, id) => {
            s.say({ _tag: "Output", id, stream: "stdout", chunk: "YQ==" })
            s.pause()
          }
        }
      },
      "onOutput: () => { throw new Error('the disk is full') }",
      "the disk is full"
    ],
    ["of a primary that never greets", { welcome: none, heard: {} }, "timeout: 500", "Candidate"]
  ]
  for (const [name, script, options, told] of endings) {
    it.scopedLive(name, () =>
      Effect.gen(function* () {
        const { directory } = yield* puppet(script)
        const ended = yield* launching(directory, options)
        assert.strictEqual(ended.told, told)
        assert.isBelow(ended.millis, 10_000)
      })
    )
  }

  it.scopedLive("of a primary that has stopped amid the request of the library", () =>
    Effect.gen(function* () {
      const { directory } = yield* puppet(stops)
      const { file } = yield* Effect.flatMap(temporary, (place) => Effect.promise(() => bundleBin(join(place, "bin"))))
      const words = ["run", id, "--stdin", "--json", "--protocol", "tcp", "--timeout", "1s", "--dir", directory]
      const ended = yield* ending([file, ...words, "--", "x"], "x".repeat(8 * 1024 * 1024))
      assert.deepInclude(JSON.parse(ended.told), { error: "TimeoutError", reason: "accept", outcome: "Unknown" })
      assert.isBelow(ended.millis, 10_000)
    })
  )

  itNeeds(needs.linux)("of a primary that takes no connection", () =>
    Effect.gen(function* () {
      // A stopped process whose backlog is full: the system repeats the attempt to connect for two minutes.
      const stopped = yield* Effect.acquireRelease(
        Effect.sync(() =>
          spawn(
            process.execPath,
            [
              "-e",
              `const server = require("node:net").createServer().listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => {
                require("node:fs").writeSync(1, String(server.address().port))
                process.kill(process.pid, "SIGSTOP")
              })`
            ],
            { stdio: ["ignore", "pipe", "inherit"] }
          )
        ),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )
      const port = yield* Effect.async<number>((resume) => {
        stopped.stdout.once("data", (chunk) => resume(Effect.succeed(Number(chunk))))
      })
      yield* Effect.acquireRelease(
        Effect.sync(() => Array.from({ length: 8 }, () => net.connect(port, "127.0.0.1").on("error", none).unref())),
        (sockets) => Effect.sync(() => sockets.forEach((socket) => void socket.destroy()))
      )
      yield* Effect.sleep("500 millis")
      const { directory } = yield* puppet({ heard: {} }, `tcp://127.0.0.1:${port}`)
      const ended = yield* launching(directory, "timeout: 500")
      assert.strictEqual(ended.told, "Candidate")
      assert.isBelow(ended.millis, 10_000)
    })
  )
})

describe("launch refuses", () => {
  const bad: ReadonlyArray<readonly [options: unknown, said: string]> = [
    [undefined, "the options are missing"],
    [{}, "`id` must be a string, not undefined"],
    [{ id: 1 }, "`id` must be a string, not 1"],
    [{ id: "" }, "the id must not be empty"],
    [{ id: "x".repeat(1_025) }, "the id has 1025 characters"],
    [{ id, timeout: 0 }, "`timeout` must be a number of milliseconds greater than 0, not 0"],
    [{ id, timeout: -1 }, "`timeout` must be"],
    [{ id, timeout: Number.NaN }, "`timeout` must be"],
    [{ id, timeout: "5s" }, "`timeout` must be a number of milliseconds greater than 0, not '5s'"],
    [{ id, timeout: null }, "`timeout` must be"],
    [{ id, directory: "" }, "`directory` is empty"],
    [{ id, directory: "/tmp/a\0b" }, "`directory` has a NUL character"],
    [{ id, directory: 5 }, "`directory` must be a string, not 5"],
    [{ id, trustDirectory: true }, "`trustDirectory` is given without a `directory`"],
    [{ id, trustDirectory: "yes" }, "`trustDirectory` must be true or false"],
    [{ id, argv: "a b" }, "`argv` must be an array of strings"],
    [{ id, argv: [1] }, "`argv` must be an array of strings"],
    [{ id, argv: new Array(2) }, "`argv` must be an array of strings"],
    [{ id, signal: { addEventListener: none } }, "`signal` must be an AbortSignal"],
    [{ id, cwd: null }, "`cwd` must be a string"],
    [{ id, env: "PATH" }, "`env` must be an array of names"],
    [{ id, onOutput: true }, "`onOutput` must be a function"],
    [{ id, signal: {} }, "`signal` must be an AbortSignal"]
  ]
  for (const [options, said] of bad) {
    it.live(said, () =>
      Effect.gen(function* () {
        const refused = yield* Effect.flip(Effect.tryPromise(() => launch(options as LaunchOptions)))
        assert.instanceOf(refused.error, TypeError)
        assert.include((refused.error as TypeError).message, `launch: ${said}`)
      })
    )
  }

  it.scopedLive("nothing that is usual: no limit, and variables that there are not", () =>
    Effect.gen(function* () {
      const directory = join(yield* temporary, "locks")
      const env = ["__proto__", "toString", "constructor", "no such variable"]
      const verdict = yield* Effect.promise(() => launch({ id, directory, timeout: Number.POSITIVE_INFINITY, env }))
      assert.deepStrictEqual(verdict, { _tag: "Candidate", reason: "nobody was ever the primary" })
    })
  )
})

// -------------------------------------------------------------------------------------
// what is read, and what is loaded
// -------------------------------------------------------------------------------------

const json = fc.oneof(
  fc.jsonValue(),
  fc.constantFrom<unknown>(1, 0, -1, 1.5, "", "x", null, [1, 1], [1, 2, 3], "0".repeat(32), "0".repeat(64), "json")
)

/** A message in which some fields are gone and others have another value. */
const nearly = (whole: { readonly [field: string]: unknown }) =>
  fc
    .record({
      gone: fc.subarray(Object.keys(whole), { maxLength: 1 }),
      other: fc.dictionary(fc.constantFrom(...Object.keys(whole)), json, { maxKeys: 2 })
    })
    .map(({ gone, other }) => {
      const message = { ...whole, ...other }
      return Object.fromEntries(Object.entries(message).filter(([field]) => field === "_tag" || !gone.includes(field)))
    })

describe("what launch reads", () => {
  const messages = Object.entries(samples("m")).map(([_tag, fields]) => nearly({ _tag, ...fields }))

  const isSubset = (read: (frame: Uint8Array) => unknown) => {
    let accepted = 0
    fc.assert(
      fc.property(fc.oneof(...messages), (message) => {
        const frame = Buffer.from(JSON.stringify(message))
        const answer = read(frame)
        if (answer === undefined || typeof answer === "string") return
        accepted++
        const decoded = Message.decode(frame)
        assert(Either.isRight(decoded), `accepted: ${frame}`)
        assert.deepStrictEqual(answer, decoded.right)
      }),
      { numRuns: 5_000 }
    )
    assert.isAbove(accepted, 500)
  }

  it("is what the schemas of messages accept", () => isSubset(answers.read))

  it("the canary: what a reader accepts that only looks at the tag", () =>
    assert.throws(
      () =>
        isSubset((frame) => {
          const message = JSON.parse(String(frame))
          return message._tag in samples("m") ? message : undefined
        }),
      /accepted/
    ))

  it("says what is wrong with a frame as the library does, and leaves alone what it does not know", () => {
    for (const frame of ["", "{", "null", "[]", "{}", '{"_tag":1}', '{"_tag":"Exit"}', "\ud800"]) {
      const bytes = frame === "\ud800" ? Buffer.of(0x7b, 0xff) : Buffer.from(frame)
      assert.deepStrictEqual(Either.left(answers.read(bytes)), Message.decode(bytes) as any)
    }
    for (const tag of ["Later", "toString", "__proto__", "Pong"]) {
      assert.isUndefined(answers.read(Buffer.from(JSON.stringify({ _tag: tag }))))
    }
  })

  it.scopedLive("is what the schema of records accepts", () =>
    Effect.gen(function* () {
      const directory = join(yield* temporary, "locks")
      yield* primaryIn(directory)
      const bytes = fs.readFileSync(join(directory, folderName(id), "lock"))
      const record = Either.getOrThrow(InstanceRecord.decode(bytes))
      const { endpoints, key, nonce } = record
      assert.deepStrictEqual(answers.readRecord(bytes), JSON.parse(JSON.stringify({ nonce, key, endpoints })))
      const [header = "", body = ""] = bytes.toString().split("\n")
      const { createHash } = yield* Effect.promise(() => import("node:crypto"))
      const line = header.slice(0, -33)
      let accepted = 0
      fc.assert(
        fc.property(nearly(JSON.parse(body)), (changed) => {
          const text = JSON.stringify(changed)
          const check = createHash("sha256").update(`${line}\n${text}`).digest("hex").slice(0, 32)
          const bytes = Buffer.from(`${line} ${check}\n${text}`)
          const answer = answers.readRecord(bytes)
          if (typeof answer === "string") return
          accepted++
          const decoded = InstanceRecord.decode(bytes)
          assert(Either.isRight(decoded), `accepted: ${text}`)
          const { endpoints, key, nonce } = decoded.right
          assert.deepStrictEqual(answer, JSON.parse(JSON.stringify({ nonce, key, endpoints })))
        }),
        { numRuns: 3_000 }
      )
      assert.isAbove(accepted, 100)
    })
  )
})

describe("what launch loads", () => {
  // Bounded, so that nobody puts into it what only an application needs. Stated in the README.
  const maxBytes = 27 * 1024

  it.live("is a few files of ours and what Node has", () =>
    Effect.gen(function* () {
      const made = yield* Effect.promise(() => commonJs("src/launch.ts"))
      for (const input of Object.keys(made.metafile.inputs)) assert.match(input, /^src\/(launch|internal\/\w+)\.ts$/)
      for (const { external, path } of Object.values(made.metafile.outputs).flatMap(({ imports }) => imports)) {
        assert.isTrue(external)
        assert.match(path, /^node:/)
      }
      assert.isBelow(made.text.length, maxBytes)
      assert.isTrue(fs.existsSync(join(root, "src/launch.ts")))
    })
  )

  it.live("the canary: another module of the library would be seen", () =>
    Effect.gen(function* () {
      const made = yield* Effect.promise(() => bundle("src/InstanceId.ts"))
      assert.isTrue(Object.keys(made.metafile.inputs).some((input) => input.includes("node_modules/effect/")))
    })
  )
})

describe("the types of launch", () => {
  it("tell all verdicts apart", () => {
    expectTypeOf(launch).parameters.toEqualTypeOf<[LaunchOptions]>()
    expectTypeOf<Verdict["_tag"]>().toEqualTypeOf<"Candidate" | "Delivered" | "NotDelivered" | "Unknown">()
    expectTypeOf<Extract<Verdict, { readonly _tag: "Delivered" }>["exit"]>().toEqualTypeOf<Exit>()
    expectTypeOf<Extract<Verdict, { readonly _tag: "Candidate" }>>().not.toHaveProperty("message")
    // @ts-expect-error an application has an id
    void (() => launch({}))
  })
})
