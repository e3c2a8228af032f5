/**
 * Pipes, commands and the events of a console on Windows, against stand-ins.
 */
import type { ChildProcess } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { Duplex } from "node:stream"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { PidVerifier, SingleInstance, SingleInstanceConfig, UnixSocket } from "effect-single-instance"
import { foreground, Signals } from "../src/internal/children.js"
import { make } from "../src/internal/forwarding.js"
import * as nodeSocket from "../src/internal/nodeSocket.js"
import { temporary } from "./contract/Protocol.js"
import { pretend } from "./standIn.js"

/** A pipe whose reader stands still: what is written waits, and an orderly end waits for it. */
class Pipe extends Duplex {
  readonly connecting = false
  ends = 0
  private waiting: Array<() => void> = []
  override _read(): void {}
  override _write(_chunk: Uint8Array, _encoding: string, done: () => void): void {
    this.waiting.push(done)
  }
  override end(): this {
    this.ends++
    return this
  }
  /** The reader takes everything. */
  readAll(): void {
    for (const done of this.waiting.splice(0)) done()
  }
}

const closing = (pipe: Pipe, manner: Parameters<typeof nodeSocket.make>[2]) =>
  Effect.gen(function* () {
    const { close, connection } = nodeSocket.make(pipe, { protocol: "pipe", maxFrameBytes: 1_024 }, manner)
    yield* connection.send(Buffer.from("the last word"))
    // It is written at the end of this turn.
    yield* Effect.sleep(1)
    return yield* Effect.fork(close)
  })

describe("a pipe of Windows", () => {
  it.live("is closed when all is written, and is never asked for an orderly end", () =>
    Effect.gen(function* () {
      const pipe = new Pipe()
      const closed = yield* closing(pipe, { isPipe: true, lingerMillis: 60_000 })
      yield* Effect.sleep(50)
      assert.isFalse(pipe.destroyed)
      pipe.readAll()
      yield* Fiber.join(closed)
      assert.isTrue(pipe.destroyed)
      assert.strictEqual(pipe.ends, 0)
    })
  )

  it.live("is closed at once where nothing waits", () =>
    Effect.gen(function* () {
      const pipe = new Pipe()
      yield* nodeSocket.make(pipe, { protocol: "pipe", maxFrameBytes: 1_024 }, { isPipe: true, lingerMillis: 60_000 })
        .close
      assert.isTrue(pipe.destroyed)
    })
  )

  it.live("holds nobody whose peer stands still", () =>
    Effect.gen(function* () {
      const pipe = new Pipe()
      yield* Fiber.join(yield* closing(pipe, { isPipe: true, lingerMillis: 50 }))
      assert.isTrue(pipe.destroyed)
      assert.strictEqual(pipe.ends, 0)
    })
  )

  it.live("the canary: as a socket it waits for its end", () =>
    Effect.gen(function* () {
      const pipe = new Pipe()
      yield* Fiber.join(yield* closing(pipe, { isPipe: false, lingerMillis: 50 }))
      assert.strictEqual(pipe.ends, 1)
    })
  )
})

describe.skipIf(process.platform === "win32")("the events of a console on Windows", () => {
  it.scopedLive("reach the command by themselves, and are not passed on", () =>
    Effect.gen(function* () {
      const killed: Array<unknown> = []
      const kill = (signal: unknown) => killed.push(signal)
      const command = { pid: process.pid, exitCode: null, signalCode: null, kill } as unknown as ChildProcess
      const forwarding = (signals: ReadonlyArray<NodeJS.Signals>) =>
        Effect.gen(function* () {
          const forwarder = make(command, false)
          for (const signal of signals) forwarder.forward(signal)
          // Equal signals are gathered for 50 ms, and somebody beside the command is asked about them.
          yield* Effect.sleep(1_000)
          forwarder.close()
          return killed.splice(0)
        })
      assert.deepStrictEqual(yield* forwarding(["SIGINT"]), ["SIGINT"], "the canary: elsewhere it is passed on")
      yield* pretend(undefined, "win32")
      assert.deepStrictEqual(yield* forwarding(["SIGINT", "SIGBREAK", "SIGHUP"]), [])
    })
  )
})

describe.skipIf(process.platform === "win32")("a command on Windows", () => {
  const signals = Signals.of({ redirect: () => {}, descriptors: [], ignoresHangup: false })
  const options = { env: {}, lock: undefined, started: Effect.void, onSignal: () => {} }

  /** What cmd.exe is started with instead of `command`; that it is no Windows is seen by nobody. */
  const run = (command: string, args: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const file = (name: string, text: string) => fs.writeFileSync(path.join(directory, name), text, { mode: 0o755 })
      file("cmd", `#!/bin/sh\nprintf '%s\\n' "$@" > '${directory}/told'\nexit 7\n`)
      file("npm.CMD", "")
      fs.symlinkSync("/bin/sh", path.join(directory, "tool.exe"))
      yield* pretend(undefined, "win32")
      const before = { ...process.env }
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          Object.assign(process.env, {
            PATH: directory,
            PATHEXT: ".COM;.exe;.CMD",
            comspec: path.join(directory, "cmd")
          })
        }),
        () =>
          Effect.sync(() => {
            for (const name of ["PATHEXT", "comspec"]) delete process.env[name]
            Object.assign(process.env, before)
          })
      )
      const status = yield* foreground(command, args, options).pipe(
        Effect.provideService(Signals, signals),
        Effect.catchAll((error) => Effect.succeed(error.message))
      )
      const told = path.join(directory, "told")
      return [status, fs.existsSync(told) ? fs.readFileSync(told, "utf8").trim().split("\n") : []]
    }).pipe(Effect.scoped)

  it.live("that is a script runs in cmd.exe, with its arguments as they are", () =>
    Effect.gen(function* () {
      const line = `"npm ^"run^" ^"a^ b^&c^" ^"100^%^" ^"x^"^"^&y^""`
      assert.deepStrictEqual(yield* run("npm", ["run", "a b&c", "100%", 'x"&y']), [7, ["/d", "/s", "/c", line]])
      const [why] = yield* run("npm", ["two\nlines"])
      assert.strictEqual(why, "npm: it cannot be started (EINVAL)")
    })
  )

  it.live("that is a program runs without it", () =>
    Effect.gen(function* () {
      const [status, told] = yield* run("tool.exe", ["-c", 'exit "$#"', "a b&c", "100%", "x"])
      assert.deepStrictEqual([status, told], [2, []])
    })
  )

  it.live("that there is not is said to be missing", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* run("nothing-like-it", []), ["nothing-like-it: there is no such command", []])
    })
  )
})

describe.skipIf(process.platform === "win32")("who leads on Windows", () => {
  class App extends SingleInstance.Tag<App>()("com.example.windows") {}

  it.scopedLive("is told by the lock alone, and no program is started to look at the process", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const platform = yield* Layer.build(Layer.provide(SingleInstance.layerPidVerifier, NodeContext.layer))
      const verifier = Context.get(platform, PidVerifier.PidVerifier)
      let looks = 0
      const counted = Layer.succeed(PidVerifier.PidVerifier, {
        ...verifier,
        verify: (...all) => {
          looks++
          return verifier.verify(...all)
        }
      })
      const layer = App.layerWithoutDependencies({ protocol: UnixSocket.layer, fallback: [] }).pipe(
        Layer.provide(SingleInstance.layerLock),
        Layer.provide(SingleInstanceConfig.layer({ directory })),
        Layer.provide(counted)
      )
      const leader = Context.get(yield* Layer.build(layer), App)
      assert.strictEqual((yield* leader.elect(undefined))._tag, "Primary")
      const scope = yield* Scope.make()
      yield* Scope.extend(pretend(undefined, "win32"), scope)
      assert.strictEqual((yield* leader.inspect).state, "primary")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(looks, 0)
      yield* leader.inspect
      assert.isAbove(looks, 0, "the canary: elsewhere a command may have inherited the lock")
    })
  )
})
