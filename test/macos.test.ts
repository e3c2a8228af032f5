/**
 * What is particular to macOS, against a stand-in: short addresses of sockets.
 */
import childProcess, { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { promisify } from "node:util"
import { Command, CommandExecutor, Error as PlatformError } from "@effect/platform"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Schema, Scope } from "effect"
import {
  FileLock,
  InstanceLock,
  NodeLockFiles,
  PidVerifier,
  SingleInstance,
  SingleInstanceConfig,
  UnixSocket
} from "effect-single-instance"
import { folderName, InstanceId } from "effect-single-instance/InstanceId"
import { launch } from "effect-single-instance/launch"
import { type ListenOptions, Protocol } from "effect-single-instance/Protocol"
import * as DarwinPidVerifier from "effect-single-instance/pid/DarwinPidVerifier"
import { bundleBin } from "../scripts/bundle.mjs"
import * as accessList from "../src/internal/accessList.js"
import { commandOutput } from "../src/internal/commandOutput.js"
import * as linkedSocket from "../src/internal/linkedSocket.js"
import * as localSocket from "../src/internal/localSocket.js"
import * as native from "../src/internal/native.js"
import { SharedRings } from "../src/internal/sharedRings.js"
import { hook, itNeeds, makeArena, needs, type StartOptions, until } from "./contenders.js"
import { bytes, echo, nonce, receive, serve, temporary } from "./contract/Protocol.js"
import { pretend, sandbox } from "./standIn.js"

const isLinux = process.platform === "linux"
const getconf = "/usr/bin/getconf DARWIN_USER_TEMP_DIR"
const maxFrameBytes = 1024 * 1024

/** A directory whose name alone is longer than a socket's address may be, and the user's temporary folder. */
const places = Effect.gen(function* () {
  const base = yield* temporary
  const directory = path.join(base, "Library", "d".repeat(100))
  const place = path.join(base, "T")
  fs.mkdirSync(directory, { recursive: true, mode: 0o700 })
  fs.mkdirSync(place, { mode: 0o700 })
  return { base, directory, place }
})

const answering = (place: string) => (line: string) => (line === getconf ? { stdout: `${place}/\n` } : undefined)

const setup = (directory: string, layer: Layer.Layer<Protocol> = UnixSocket.layer) =>
  Effect.gen(function* () {
    const protocol = Context.get(yield* Layer.build(layer), Protocol)
    const options = { id: InstanceId.make("com.example.macos"), directory, maxFrameBytes }
    return {
      listen: (more: Partial<ListenOptions> = {}) =>
        protocol.listen({ ...options, nonce: nonce(), maxConnections: 100, ...more }),
      connect: (address: string) => protocol.connect(address, options)
    }
  })

// The native code is that of this system.
const layerShared = Layer.sync(Protocol, () => {
  const loaded = native.load("linux")
  return {
    name: "shm",
    ...localSocket.local({
      name: "shm",
      letter: "m",
      over: (directory) => (carrier, role) => new SharedRings(carrier, role, { native: () => loaded, directory })
    })
  }
})

const nameOf = (address: string) => address.slice(address.indexOf(":") + 1)
const temporaries = () => fs.readdirSync("/tmp").filter((name) => /^esi-[0-9a-f]{16}$/.test(name))

describe.skipIf(!isLinux)("a socket on macOS whose own path is too long", () => {
  for (const [protocol, layer] of [
    ["unix", UnixSocket.layer],
    ["shm", layerShared]
  ] as const) {
    it.scopedLive(`is in a folder of its own behind a link, and to connect writes nothing (${protocol})`, () =>
      Effect.gen(function* () {
        const { base, directory, place } = yield* places
        const { connect, listen } = yield* setup(directory, layer)
        const darwin = yield* pretend(answering(place))
        const before = temporaries()
        yield* Effect.scoped(
          Effect.gen(function* () {
            const listener = yield* listen()
            yield* serve(listener, echo)
            const name = nameOf(listener.address)
            const target = fs.readlinkSync(path.join(directory, name))
            assert.match(path.relative(place, target), /^esi-[0-9a-f]{16}\/s$/)
            assert.isTrue(fs.lstatSync(target).isSocket())
            assert.strictEqual(fs.statSync(path.dirname(target)).mode & 0o777, 0o700)
            assert.deepStrictEqual(darwin.programs, [getconf])

            darwin.writes.length = 0
            const connection = yield* connect(listener.address)
            yield* connection.send(bytes(4))
            assert.lengthOf(yield* receive(connection, 1), 1)
            assert.deepStrictEqual(darwin.writes, [])
            assert.lengthOf(darwin.programs, 1)
            assert.deepStrictEqual(fs.readdirSync(directory), [name])

            // As versions before this one connect: through a link to the directory.
            fs.symlinkSync(directory, path.join(base, "d"))
            yield* Effect.async<void>((resume) => {
              const socket = net.connect(path.join(base, "d", name), () => resume(Effect.void))
              socket.on("error", (cause) => resume(Effect.die(cause))).on("connect", () => socket.destroy())
            })
          })
        )
        assert.deepStrictEqual(fs.readdirSync(place), [])
        assert.deepStrictEqual(fs.readdirSync(directory), [])
        assert.deepStrictEqual(temporaries(), before)
      })
    )
  }

  it.scopedLive("leaves no folder where somebody has removed the link, and keeps what stands in its place", () =>
    Effect.gen(function* () {
      const { directory, place } = yield* places
      const { listen } = yield* setup(directory)
      yield* pretend(answering(place))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const [first, second] = [yield* listen(), yield* listen()]
          fs.unlinkSync(path.join(directory, nameOf(first.address)))
          fs.unlinkSync(path.join(directory, nameOf(second.address)))
          fs.writeFileSync(path.join(directory, nameOf(second.address)), "somebody's")
        })
      )
      assert.deepStrictEqual(fs.readdirSync(place), [])
      assert.lengthOf(fs.readdirSync(directory), 1)
    })
  )

  it.scopedLive("asks nobody for a place where its own path fits", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const darwin = yield* pretend()
      const { connect, listen } = yield* setup(directory)
      const listener = yield* listen()
      yield* serve(listener, echo)
      assert.isTrue(fs.lstatSync(path.join(directory, nameOf(listener.address))).isSocket())
      yield* connect(listener.address)
      assert.deepStrictEqual(darwin.programs, [])
    })
  )

  it.scopedLive("goes to no place that others may change, or that is too long itself", () =>
    Effect.gen(function* () {
      const { base, directory, place } = yield* places
      const { TMPDIR } = process.env
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          if (TMPDIR === undefined) delete process.env.TMPDIR
          else process.env.TMPDIR = TMPDIR
        })
      )
      const target = (answer: string, variable: string) =>
        Effect.gen(function* () {
          yield* pretend(answering(answer))
          process.env.TMPDIR = variable
          const { listen } = yield* setup(directory)
          return fs.readlinkSync(path.join(directory, nameOf((yield* listen()).address)))
        }).pipe(Effect.scoped)
      const open = path.join(base, "open")
      fs.mkdirSync(open)
      fs.chmodSync(open, 0o777)
      assert.include(yield* target(open, place), `${place}/`)
      assert.include(yield* target("relative", place), `${place}/`)
      assert.include(yield* target(path.join(base, "missing"), place), `${place}/`)
      const last = yield* target(directory, open)
      assert.match(last, /^\/tmp\/esi-[0-9a-f]{16}\/s$/)
      assert.isFalse(fs.existsSync(path.dirname(last)))
      assert.isFalse(fs.existsSync(path.join(base, "missing")))
      assert.deepStrictEqual([fs.readdirSync(open), fs.readdirSync(place)], [[], []])
    })
  )

  it.scopedLive("is missed where a cleaner removed it, or the link to it, and comes back", () =>
    Effect.gen(function* () {
      const { directory, place } = yield* places
      yield* pretend(answering(place))
      const { connect, listen } = yield* setup(directory)
      const own = nonce()
      for (const victim of ["the link", "the socket", "its folder"]) {
        const scope = yield* Scope.make()
        const listener = yield* Scope.extend(listen({ nonce: own }), scope)
        assert.isTrue(yield* listener.reachable!, victim)
        const link = path.join(directory, nameOf(listener.address))
        const target = fs.readlinkSync(link)
        if (victim === "the link") fs.unlinkSync(link)
        else fs.rmSync(victim === "the socket" ? target : path.dirname(target), { recursive: true })
        assert.isFalse(yield* listener.reachable!, victim)
        assert.strictEqual((yield* Effect.flip(Effect.scoped(connect(listener.address)))).reason, "Unreachable")
        yield* Scope.close(scope, Exit.void)
        assert.isFalse(fs.existsSync(link))
      }
      const again = yield* listen({ nonce: own })
      yield* serve(again, echo)
      yield* connect(again.address)
    })
  )

  it.scopedLive("leaves alone what is in the way, and does not enter a folder that is not ours alone", () =>
    Effect.gen(function* () {
      const { directory, place } = yield* places
      yield* pretend(answering(place))
      const { connect, listen } = yield* setup(directory)
      fs.symlinkSync("nowhere", path.join(directory, "s.taken"))
      assert.strictEqual((yield* Effect.flip(listen({ nonce: "taken" }))).reason, "EndpointOccupied")
      assert.strictEqual(fs.readlinkSync(path.join(directory, "s.taken")), "nowhere")
      assert.deepStrictEqual(fs.readdirSync(place), [])

      const folder = path.join(place, "esi-0123456789abcdef")
      fs.mkdirSync(folder)
      const server = net.createServer((socket) => socket.on("error", () => {}))
      yield* Effect.acquireRelease(
        Effect.async<void>((resume) => void server.listen(path.join(folder, "s"), () => resume(Effect.void))),
        () => Effect.sync(() => server.close())
      )
      fs.symlinkSync(path.join(folder, "s"), path.join(directory, "s.open"))
      fs.chmodSync(folder, 0o755)
      const refused = yield* Effect.flip(Effect.scoped(connect("unix:s.open")))
      assert.strictEqual(refused.reason, "Unavailable")
      // The canary: it would be reached.
      fs.chmodSync(folder, 0o700)
      yield* Effect.scoped(connect("unix:s.open"))
      if (process.geteuid?.() === 0) {
        fs.chownSync(folder, 65_534, 65_534)
        assert.strictEqual((yield* Effect.flip(Effect.scoped(connect("unix:s.open")))).reason, "Unavailable")
      }
    })
  )
})

describe.skipIf(!isLinux)("what a killed process leaves of such a socket", () => {
  it.scopedLive("is removed at whatever step it was killed, and nothing else is", () =>
    Effect.gen(function* () {
      const { directory, place } = yield* places
      const link = path.join(directory, "s.1")
      let round = 0
      const after = (name: string, prepare: (target: string) => void) => {
        const target = path.join(place, `esi-${String(++round).padStart(16, "0")}`, name)
        fs.rmSync(link, { force: true })
        fs.symlinkSync(target, link)
        prepare(target)
        linkedSocket.removeTarget(link)
        assert.strictEqual(fs.readlinkSync(link), target)
        return fs.existsSync(path.dirname(target))
      }
      const folder = (target: string) => fs.mkdirSync(path.dirname(target), { mode: 0o700 })
      const bind = (target: string) => {
        folder(target)
        // A process that is killed unlinks nothing.
        const script =
          "require('net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))"
        spawnSync(process.execPath, ["-e", script, target])
        assert.isTrue(fs.lstatSync(target).isSocket())
      }
      assert.isFalse(after("s", () => {}))
      assert.isFalse(after("s", folder))
      assert.isFalse(after("s", bind))
      assert.isTrue(after("t", bind), "another form")
      const file = (target: string) => {
        folder(target)
        fs.writeFileSync(target, "mine")
      }
      assert.isTrue(after("s", file), "no socket")
      const more = (target: string) => {
        bind(target)
        fs.writeFileSync(`${target}.more`, "mine")
      }
      assert.isTrue(after("s", more), "more in it")
      const open = (target: string) => {
        bind(target)
        fs.chmodSync(path.dirname(target), 0o755)
      }
      assert.isTrue(after("s", open), "a folder that is not ours alone")
    })
  )
})

// -------------------------------------------------------------------------------------
// launches and processes
// -------------------------------------------------------------------------------------

class Asked extends SingleInstance.Tag<Asked>()("macos.test", { request: Schema.String, reply: Schema.String }) {}
const id = "macos.test"

const primaryIn = (directory: string) =>
  Effect.gen(function* () {
    const layer = Layer.provide(Asked.layer({ directory }), NodeContext.layer)
    const instance = Context.get(yield* Layer.build(layer), Asked)
    const primary = yield* instance.elect("first")
    assert(primary._tag === "Primary")
    yield* primary.serve((request) => Effect.succeed(`got ${request}`))
    return instance
  })

describe.skipIf(!isLinux)("launch on macOS", () => {
  it.scopedLive("hands over to a primary in a long directory, writes nothing and starts no program", () =>
    Effect.gen(function* () {
      const { directory, place } = yield* places
      const darwin = yield* pretend(answering(place))
      yield* primaryIn(directory)
      darwin.writes.length = 0
      darwin.programs.length = 0
      const verdict = yield* Effect.promise(() => launch({ id, directory, request: "quick" }))
      assert(verdict._tag === "Delivered", JSON.stringify(verdict))
      assert.strictEqual(verdict.protocol, "unix")
      assert.deepStrictEqual(verdict.exit, { _tag: "Success", value: "got quick" })
      // The primary's own upkeep is in this process, too.
      assert.deepStrictEqual(
        darwin.writes.filter((write) => /esi-|\/s\./.test(write.replace(place, ""))),
        []
      )
      assert.deepStrictEqual(darwin.programs, [])
    })
  )

  it.scopedLive(
    "is a candidate where an older primary's socket has a path that is too long; the library uses files",
    () =>
      Effect.gen(function* () {
        const { directory, place } = yield* places
        // Bound as this system can, without a link.
        const instance = yield* primaryIn(directory)
        const home = path.join(directory, folderName(id))
        const [name] = fs.readdirSync(home).filter((name) => name.startsWith("s."))
        assert.isTrue(fs.lstatSync(path.join(home, name!)).isSocket())
        const darwin = yield* pretend(answering(place))
        const verdict = yield* Effect.promise(() => launch({ id, directory, request: "quick" }))
        assert(verdict._tag === "Candidate", JSON.stringify(verdict))
        assert.include(verdict.reason, "too long")
        assert.deepStrictEqual(darwin.writes, [])
        const { protocol, reply } = yield* instance.send("slow")
        assert.deepStrictEqual({ protocol, reply }, { protocol: "file", reply: "got slow" })
      })
  )

  itNeeds(needs.linux)("so the command line hands over to an older primary by files @large", () =>
    Effect.gen(function* () {
      const { base, directory } = yield* places
      const layer = Layer.provide(SingleInstance.SingleInstance.layer({ id, directory }), NodeContext.layer)
      const instance = Context.get(yield* Layer.build(layer), SingleInstance.SingleInstance)
      const primary = yield* instance.elect({ argv: [], cwd: "/", env: {} })
      assert(primary._tag === "Primary")
      yield* primary.serve(() => Effect.succeed(0))
      const { file } = yield* Effect.promise(() => bundleBin(path.join(base, "bin")))
      // Sockets cannot be reached through /proc, as on macOS; the lock can, which is that of this system.
      const { env } = hook(`
        import fs from "node:fs"
        import { syncBuiltinESMExports } from "node:module"
        const { existsSync } = fs
        fs.existsSync = (name) => !/^.proc.self.fd.\\d+$/.test(name) && existsSync(name)
        syncBuiltinESMExports()`)
      const send = (env: NodeJS.ProcessEnv | undefined) =>
        Effect.promise(() => {
          const words = [file, "send", id, "--json", "--dir", directory, "--", "a.txt"]
          return promisify(childProcess.execFile)(process.execPath, words, { env: env ?? process.env })
        }).pipe(Effect.map(({ stdout }) => JSON.parse(stdout).protocol))
      assert.strictEqual(yield* send(env), "file")
      // The canary: without that it uses the socket.
      assert.strictEqual(yield* send(process.env), "unix")
    })
  )

  // The host's name is asked for after the lock was opened, which is that of this system, and before a socket is bound.
  const pretending = (place: string): StartOptions => ({
    ...hook(`
      import os from "node:os"
      import childProcess from "node:child_process"
      import { syncBuiltinESMExports } from "node:module"
      const { hostname } = os
      os.hostname = () => {
        Object.defineProperty(process, "platform", { value: "darwin" })
        return hostname()
      }
      childProcess.execFile = (file, args, options, done) => setImmediate(() => done(null, ${JSON.stringify(place)} + "\\n", ""))
      syncBuiltinESMExports()`)
  })

  itNeeds(needs.linux)("a killed primary's socket is cleared by the next one, and nothing else is", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const { place } = yield* places
      const directory = path.join(arena.directory, "d".repeat(100))
      const options = { ...pretending(place), directory }
      const before = temporaries()
      const keep = path.join(place, "esi-fedcba9876543210")
      fs.mkdirSync(keep)
      const first = yield* arena.start("launch", options)
      yield* first.waitFor("begin")
      const home = path.join(directory, folderName(arena.id))
      const sockets = () => fs.readdirSync(home).filter((name) => /^[sm]\./.test(name))
      const left = sockets().map((name) => path.dirname(fs.readlinkSync(path.join(home, name))))
      assert.isNotEmpty(left)
      yield* first.kill
      // The canary: all of it stays behind.
      assert.sameMembers(
        fs.readdirSync(place),
        [keep, ...left].map((name) => path.basename(name))
      )
      const second = yield* arena.start("launch", options)
      yield* second.waitFor("begin")
      yield* until("the first one's folders are gone", () => left.every((name) => !fs.existsSync(name)))
      const own = sockets().map((name) => path.dirname(fs.readlinkSync(path.join(home, name))))
      assert.sameMembers(
        fs.readdirSync(place),
        [keep, ...own].map((name) => path.basename(name))
      )
      yield* second.signal("SIGTERM")
      yield* second.ended
      assert.deepStrictEqual(fs.readdirSync(place), [path.basename(keep)])
      assert.deepStrictEqual(sockets(), [])
      assert.deepStrictEqual(temporaries(), before)
    })
  )
})

// -------------------------------------------------------------------------------------
// the App Sandbox
// -------------------------------------------------------------------------------------

describe.skipIf(!isLinux)("the App Sandbox", () => {
  const bundle = "com.example.editor"
  const usual = (home: string) => path.join(home, "Library", "Application Support")
  const container = (home: string) =>
    path.join(home, "Library", "Containers", bundle, "Data", "Library", "Application Support")

  it.scopedLive("uses the container's folder only where the usual one is refused to a program that has one", () =>
    Effect.gen(function* () {
      const home = yield* temporary
      fs.mkdirSync(usual(home), { recursive: true })
      yield* pretend()
      const place = (id: string | undefined, denies: boolean) =>
        Effect.as(sandbox({ home, id, denies }), undefined).pipe(
          Effect.map(() => path.dirname(NodeLockFiles.defaultDirectory())),
          Effect.scoped
        )
      assert.strictEqual(yield* place(bundle, true), container(home))
      // The variable alone, which an environment may have by chance, does not split one application in two.
      assert.strictEqual(yield* place(bundle, false), usual(home))
      assert.strictEqual(yield* place(undefined, true), usual(home))
      for (const id of ["../../elsewhere", "", "a/b", ".."]) assert.strictEqual(yield* place(id, true), usual(home), id)
      // That somebody makes our folder meanwhile does not change the decision, nor that the usual one is not there yet.
      fs.mkdirSync(path.join(usual(home), "effect-single-instance"))
      assert.strictEqual(yield* place(bundle, true), container(home))
      fs.rmSync(usual(home), { recursive: true })
      assert.strictEqual(yield* place(bundle, true), container(home))
      assert.strictEqual(yield* place(bundle, false), usual(home))
    })
  )

  it.scopedLive("a primary and a launch meet there, as the user database tells the real home", () =>
    Effect.gen(function* () {
      const home = yield* temporary
      const { place } = yield* places
      fs.mkdirSync(usual(home), { recursive: true })
      yield* pretend(answering(place))
      yield* sandbox({ home, id: bundle, denies: true })
      const layer = Layer.provide(Asked.layer(), NodeContext.layer)
      const primary = yield* Context.get(yield* Layer.build(layer), Asked).elect("first")
      assert(primary._tag === "Primary")
      yield* primary.serve((request) => Effect.succeed(`got ${request}`))
      const verdict = yield* Effect.promise(() => launch({ id, request: "quick" }))
      assert.strictEqual(verdict._tag, "Delivered", JSON.stringify(verdict))
      assert.isTrue(fs.existsSync(path.join(container(home), "effect-single-instance", folderName(id), "lock")))
      assert.deepStrictEqual(fs.readdirSync(usual(home)), [])
    })
  )

  for (const wrapped of [false, true]) {
    it.scopedLive(`tries ps once, and the liveness witness decides (${wrapped ? "wrapped" : "thrown by Node"})`, () =>
      Effect.gen(function* () {
        const directory = path.join(yield* temporary, "locks")
        const started: Array<string> = []
        const executor = CommandExecutor.makeExecutor((command) =>
          Effect.suspend(() => {
            if (command._tag !== "StandardCommand") return Effect.dieMessage("a pipe")
            started.push(command.command)
            const cause = Object.assign(new Error("spawn EPERM"), { code: "EPERM" })
            return wrapped
              ? new PlatformError.SystemError({ reason: "Unknown", module: "Command", method: "spawn", cause })
              : Effect.die(cause)
          })
        )
        yield* pretend()
        const contender = Layer.provide(
          Layer.merge(FileLock.layer, DarwinPidVerifier.layer),
          Layer.mergeAll(
            Layer.provide(
              NodeLockFiles.layer,
              Layer.merge(DarwinPidVerifier.layer, SingleInstanceConfig.layer({ directory }))
            ),
            DarwinPidVerifier.layer
          )
        ).pipe(Layer.provide(Layer.succeed(CommandExecutor.CommandExecutor, executor)))
        const verifier = Context.get(yield* Layer.build(contender), PidVerifier.PidVerifier)
        const self = yield* verifier.self
        assert.deepStrictEqual([self.start, self.pid], [null, process.pid])
        assert.strictEqual((yield* verifier.verify(self, { local: true }))._tag, "Unknown")
        assert.isFalse(yield* verifier.signal(self, "SIGTERM"))
        const { kill } = process
        yield* Effect.acquireUseRelease(
          Effect.sync(() => {
            process.kill = () => {
              throw Object.assign(new Error("kill EPERM"), { code: "EPERM" })
            }
          }),
          () => Effect.map(verifier.verify(self, { local: true }), ({ _tag }) => assert.strictEqual(_tag, "Unknown")),
          () =>
            Effect.sync(() => {
              process.kill = kill
            })
        )
        const lock = Context.get(yield* Layer.build(contender), InstanceLock.InstanceLock)
        const contend = lock.contend({
          id: InstanceId.make(id),
          version: null,
          listen: () => Effect.succeed([])
        })
        for (let round = 0; round < 2; round++) {
          const leading = yield* Effect.scoped(Effect.map(contend, ({ _tag }) => _tag))
          assert.strictEqual(leading, "Leading")
        }
        assert.deepStrictEqual(
          started.filter((program) => program === "/bin/ps"),
          ["/bin/ps"]
        )
        assert.lengthOf(started, new Set(started).size)
      })
    )
  }

  it.scopedLive("a program that Node refuses to start is not tried again, on macOS only", () =>
    Effect.gen(function* () {
      const { spawn } = childProcess
      let tries = 0
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          childProcess.spawn = (() => {
            tries++
            throw Object.assign(new Error("spawn EPERM"), { code: "EPERM" })
          }) as unknown as typeof spawn
          syncBuiltinESMExports()
        }),
        () =>
          Effect.sync(() => {
            childProcess.spawn = spawn
            syncBuiltinESMExports()
          })
      )
      const context = yield* Layer.build(NodeContext.layer)
      const executor = Context.get(context, CommandExecutor.CommandExecutor)
      const ask = commandOutput(executor, Command.make("/bin/ps"))
      assert.isNull(yield* ask)
      assert.isNull(yield* ask)
      assert.strictEqual(tries, 2)
      yield* pretend()
      assert.isNull(yield* ask)
      assert.isNull(yield* ask)
      assert.strictEqual(tries, 3)
    })
  )
})

// -------------------------------------------------------------------------------------
// access control lists
// -------------------------------------------------------------------------------------

describe("access control lists", () => {
  it("are read as ls prints them", () => {
    const names = ["/Users/jo", "/Users/jo/Library", "/Users/jo/Library/Application Support", "/Users", "/var", "/"]
    const output = `drwxr-xr-x   20 root  wheel   640 Nov 15 09:01 /
drwxr-xr-x    6 root  admin   192 Nov 20 10:02 /Users
drwxr-x---+  60 jo    staff  1920 Dec  1 08:00 /Users/jo
 0: group:everyone deny delete
drwx------@ 101 jo    staff  3232 Dec  1 08:00 /Users/jo/Library
 0: group:everyone deny delete
 1: user:ann lee allow list,search
 2: user:_www inherited allow add_file,delete_child,only_inherit
drwx------+  88 jo    staff  2816 Dec  1 08:00 /Users/jo/Library/Application Support
 0: 8A2B6C1E-1111-2222-3333-444455556666 inherited allow add_file
lrwxr-xr-x@   1 root  wheel    11 Nov 15 09:01 /var -> private/var
 0: group:staff allow chown
`
    assert.deepStrictEqual(
      [...accessList.parse(output, names)],
      [
        ["/Users/jo/Library", [{ principal: "user:ann lee", rights: ["list", "search"] }]],
        [
          "/Users/jo/Library/Application Support",
          [{ principal: "8A2B6C1E-1111-2222-3333-444455556666", rights: ["add_file"] }]
        ],
        ["/var", [{ principal: "group:staff", rights: ["chown"] }]]
      ]
    )
    for (const other of ["", "\n", "ls: /x: No such file or directory\n 0: user:a allow list\n"]) {
      assert.strictEqual(accessList.parse(other, names).size, 0)
    }
  })

  const asked = (line: string) => line.startsWith("/bin/ls -lde ")
  /** Answers as `ls -lde`, with entries for some of the directories. */
  const lists = (entries: { readonly [name: string]: ReadonlyArray<string> }) => (line: string) =>
    asked(line)
      ? {
          stdout: line
            .slice("/bin/ls -lde ".length)
            .split(" ")
            .flatMap((name) => [
              `drwx------+ 3 jo  staff  96 Dec  1 08:00 ${name}`,
              ...(entries[name] ?? []).map((entry, index) => ` ${index}: ${entry}`)
            ])
            .join("\n")
        }
      : undefined

  it.scopedLive.skipIf(!isLinux)(
    "make a directory insecure that others may use, and a parent that they may change",
    () =>
      Effect.gen(function* () {
        const directory = yield* temporary
        const home = path.join(directory, folderName(id))
        const elect = (entries: Parameters<typeof lists>[0], trustDirectory = false) =>
          Effect.gen(function* () {
            yield* pretend(lists(entries))
            const layer = Layer.provide(Asked.layer({ directory, trustDirectory }), NodeContext.layer)
            const instance = Context.get(yield* Layer.build(layer), Asked)
            return yield* Effect.match(instance.elect("first"), {
              onFailure: (error) => `${error.reason} ${"path" in error ? error.path : ""}`,
              onSuccess: ({ _tag }) => _tag
            })
          }).pipe(Effect.scoped)
        const us = os.userInfo().username
        const insecure = (name: string) => `DirectoryInsecure ${name}`
        const refused: ReadonlyArray<readonly [string, string]> = [
          [home, "user:ann allow list,search"],
          [home, "group:staff inherited allow readattr"],
          [directory, "group:staff allow list,delete_child"],
          [directory, "user:ann inherited allow add_subdirectory"],
          [path.dirname(directory), "user:ann allow writesecurity"]
        ]
        for (const [name, entry] of refused) {
          assert.strictEqual(yield* elect({ [name]: [`user:${us} allow list`, entry] }), insecure(name), entry)
        }
        const accepted: ReadonlyArray<readonly [string, string]> = [
          [home, "group:everyone deny delete"],
          [home, `user:${us} allow list,add_file`],
          [home, "user:ann allow list,search,only_inherit,directory_inherit"],
          [directory, "user:root allow delete_child"],
          [directory, "user:ann allow list,search,readattr"]
        ]
        for (const [name, entry] of accepted) assert.strictEqual(yield* elect({ [name]: [entry] }), "Primary", entry)
        // The user vouches for the parents, and not for the folder.
        assert.strictEqual(yield* elect({ [directory]: ["user:ann allow add_file"] }, true), "Primary")
        assert.strictEqual(yield* elect({ [home]: ["user:ann allow list"] }, true), insecure(home))
      })
  )

  it.scopedLive.skipIf(!isLinux)("are looked at once, before a candidature, and by no launch that hands over", () =>
    Effect.gen(function* () {
      const directory = path.join(yield* temporary, "locks")
      const darwin = yield* pretend(lists({}))
      const instance = yield* primaryIn(directory)
      assert.lengthOf(darwin.programs.filter(asked), 1)
      yield* instance.send("again")
      const verdict = yield* Effect.promise(() => launch({ id, directory, request: "quick" }))
      assert.strictEqual(verdict._tag, "Delivered")
      assert.lengthOf(darwin.programs.filter(asked), 1)
    })
  )

  it.scopedLive.skipIf(!isLinux)("are left out where ls may not be run, which is tried once", () =>
    Effect.gen(function* () {
      const directory = path.join(yield* temporary, "locks")
      const darwin = yield* pretend(() => ({ code: "EPERM" }))
      for (let round = 0; round < 2; round++) yield* Effect.scoped(primaryIn(directory))
      assert.lengthOf(darwin.programs.filter(asked), 1)
    })
  )
})
