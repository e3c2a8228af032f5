import { spawn as spawnProcess } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Option, Scope } from "effect"
import * as Election from "effect-single-instance/Election"
import { InstanceLock } from "effect-single-instance/InstanceLock"
import { encode, type InstanceRecord, update, Witness } from "effect-single-instance/InstanceRecord"
import * as FileLock from "effect-single-instance/lock/FileLock"
import { FileFailure, type LockDirectory, LockFiles } from "effect-single-instance/lock/LockFiles"
import * as MemoryLock from "effect-single-instance/lock/MemoryLock"
import * as NodeLockFiles from "effect-single-instance/lock/NodeLockFiles"
import * as TestPidVerifier from "effect-single-instance/pid/TestPidVerifier"
import * as SingleInstanceConfig from "effect-single-instance/SingleInstanceConfig"
import { LockError } from "effect-single-instance/SingleInstanceError"
import { type Contender, endpoints, follow, id, lead, suite, type World } from "./contract/InstanceLock.js"
import { largeIf } from "./size.js"

/** Runs before each operation of a process on files; may interrupt it, or fail in its place. */
type Tap = (operation: string, name: string) => Effect.Effect<void, FileFailure>

/** The servers that an effect begins to listen on. */
const listening = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      const servers: Array<net.Server> = []
      const { listen } = net.Server.prototype
      net.Server.prototype.listen = function (this: net.Server, ...options: Array<any>) {
        servers.push(this)
        return listen.apply(this, options as any)
      }
      return { listen, servers }
    }),
    ({ servers }) => Effect.map(effect, (value) => [value, servers] as const),
    ({ listen }) =>
      Effect.sync(() => {
        net.Server.prototype.listen = listen
      })
  )

/**
 * A process's operations on files. Once it is dead they do nothing. Its liveness witness is the kernel's business: a
 * crash closes it and leaves its name, as a real one does.
 */
const mortal = (files: LockFiles["Type"], tap: Tap) => {
  let dead = false
  const kernel: Array<() => Promise<void>> = []
  const wrap = (directory: LockDirectory): LockDirectory => {
    const unlessDead = <A, E, R>(operation: string, name: string, effect: Effect.Effect<A, E, R>, otherwise: A) =>
      Effect.zipRight(
        tap(operation, name),
        Effect.suspend(() => (dead ? Effect.succeed(otherwise) : effect))
      )
    return {
      ...directory,
      read: (name) => Effect.zipRight(tap("read", name), directory.read(name)),
      write: (name, bytes) => unlessDead("write", name, directory.write(name, bytes), undefined),
      link: (from, to) => unlessDead("link", to, directory.link(from, to), undefined),
      rename: (from, to) => unlessDead("rename", to, directory.rename(from, to), undefined),
      unlink: (name) => unlessDead("unlink", name, directory.unlink(name), undefined),
      openWitness: (nonce) =>
        Effect.uninterruptible(
          Effect.gen(function* () {
            yield* tap("openWitness", nonce)
            const own = yield* Scope.make()
            const witness = yield* Effect.onError(Scope.extend(directory.openWitness(nonce), own), (cause) =>
              Scope.close(own, Exit.failCause(cause))
            )
            const name = path.join(directory.path, witness.name)
            kernel.push(async () => {
              if (fs.existsSync(name)) await Effect.runPromise(Scope.close(own, Exit.void))
            })
            yield* Effect.addFinalizer((exit) => (dead ? Effect.void : Scope.close(own, exit)))
            return witness
          })
        )
    }
  }
  return {
    files: LockFiles.of({
      ...files,
      find: (id) => Effect.map(files.find(id), Option.map(wrap)),
      open: (id) => Effect.map(files.open(id), wrap)
    }),
    crash: Effect.promise(async () => {
      dead = true
      for (const close of kernel.splice(0)) await close()
    })
  }
}

const temporary = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "esi-lock-"))),
  (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true, force: true }))
)

interface FileWorld extends Omit<World, "spawn"> {
  readonly folder: () => string
  readonly spawn: (options?: TestPidVerifier.SpawnOptions, tap?: Tap) => Effect.Effect<Contender, never, Scope.Scope>
}

const fileWorld: Effect.Effect<FileWorld, never, Scope.Scope> = Effect.gen(function* () {
  const directory = yield* temporary
  const table = yield* TestPidVerifier.makeTable
  const build = (process: TestPidVerifier.TestProcess, tap: Tap) =>
    Effect.gen(function* () {
      const verifier = TestPidVerifier.layer(process)
      const files = NodeLockFiles.layer.pipe(
        Layer.provide(Layer.merge(verifier, SingleInstanceConfig.layer({ directory })))
      )
      const mortality = mortal(Context.get(yield* Layer.build(files), LockFiles), tap)
      const lock = FileLock.layer.pipe(Layer.provide(Layer.merge(verifier, Layer.succeed(LockFiles, mortality.files))))
      return { lock: Context.get(yield* Layer.build(lock), InstanceLock), crash: mortality.crash }
    })
  // There is one instance in each world but for the test about several, which counts nothing.
  const folder = () =>
    path.join(directory, fs.readdirSync(directory).find((name) => name.startsWith("com-example-lock")) ?? "missing")
  const standing = () => (fs.existsSync(folder()) ? fs.readdirSync(folder()) : [])
  return {
    folder,
    spawn: (options, tap = () => Effect.void) =>
      Effect.gen(function* () {
        const process = yield* table.spawn(options)
        const own = yield* build(process, tap)
        return {
          process,
          lock: own.lock,
          copy: Effect.map(build(process, tap), ({ lock }) => lock),
          crash: Effect.zipRight(own.crash, process.crash)
        }
      }),
    remove: Effect.sync(() => fs.unlinkSync(path.join(folder(), "lock"))),
    sweep: Effect.sync(() => {
      for (const name of standing()) if (/^[wk]\./.test(name)) fs.unlinkSync(path.join(folder(), name))
    }),
    standing: Effect.sync(standing)
  }
})

const memoryWorld: Effect.Effect<World, never, Scope.Scope> = Effect.gen(function* () {
  const store = MemoryLock.makeStore()
  const table = yield* TestPidVerifier.makeTable
  const build = (process: TestPidVerifier.TestProcess) =>
    Effect.map(
      Layer.build(
        MemoryLock.layer.pipe(
          Layer.provide(Layer.merge(Layer.succeed(MemoryLock.MemoryStore, store), TestPidVerifier.layer(process)))
        )
      ),
      Context.get(InstanceLock)
    )
  return {
    spawn: (options) =>
      Effect.gen(function* () {
        const process = yield* table.spawn(options)
        return {
          process,
          lock: yield* build(process),
          copy: build(process),
          crash: Effect.zipRight(process.crash, Effect.sync(store.wake))
        }
      }),
    remove: Effect.sync(() => store.set(id, undefined)),
    sweep: Effect.void,
    standing: Effect.sync(() => (store.get(id) === undefined ? [] : ["lock"]))
  }
})

suite("MemoryLock", memoryWorld)

suite("FileLock", fileWorld)

/** What stands in the folder while an owner leads: its record, under two names, its tombstone and its witness. */
const namesOf = ({ nonce, witness }: InstanceRecord): Array<string> => [
  "lock",
  `t.${nonce}`,
  `e.${nonce}`,
  witness!.name
]

describe("FileLock", () => {
  it.scopedLive("keeps its record and its witness in a folder that nobody else may enter", () =>
    Effect.gen(function* () {
      const { folder, spawn, standing } = yield* fileWorld
      const { record, release } = yield* lead(yield* spawn())
      // Windows has no such bits; there the profile that the folder is in belongs to the user.
      if (process.platform !== "win32") {
        assert.strictEqual(fs.statSync(folder()).mode & 0o777, 0o700)
        assert.strictEqual(fs.statSync(path.join(folder(), "lock")).mode & 0o777, 0o600)
      }
      assert.sameMembers([...(yield* standing)], namesOf(record))
      yield* release
      assert.deepStrictEqual(yield* standing, ["lock"])
    })
  )

  for (const before of ["released", "dead"] as const) {
    it.scopedLive(`changes hands while somebody has the record open: ${before} before`, () =>
      Effect.gen(function* () {
        const { folder, spawn } = yield* fileWorld
        const former = yield* spawn()
        const leading = yield* lead(former)
        // Windows replaces no file that is open; whoever reads the record has it open for less than this.
        const holding = Effect.acquireUseRelease(
          Effect.sync(() => fs.openSync(path.join(folder(), "lock"), "r")),
          () => Effect.sleep("500 millis"),
          (fd) => Effect.sync(() => fs.closeSync(fd))
        )
        const reader = yield* Effect.fork(holding)
        yield* Effect.yieldNow()
        yield* before === "released" ? leading.release : former.crash
        yield* Fiber.join(reader)
        const again = yield* Effect.fork(holding)
        yield* Effect.yieldNow()
        const successor = yield* lead(yield* spawn())
        yield* Fiber.join(again)
        assert.strictEqual(successor.took, before)
        const seen = yield* former.lock.inspect(id)
        assert(seen._tag === "Recorded")
        assert.strictEqual(seen.record.nonce, successor.record.nonce)
      })
    )
  }

  // On Linux a liveness socket counts under the same boot only.
  it.scopedLive.skipIf(process.platform === "linux")("asks who follows for no more than its pid", () =>
    Effect.gen(function* () {
      const { spawn } = yield* fileWorld
      const { record } = yield* lead(yield* spawn())
      const follower = yield* spawn()
      Object.assign(follower.process.verifier, { self: Effect.die("its identity was asked for") })
      assert.strictEqual((yield* follow(follower)).record.nonce, record.nonce)
    })
  )

  interface End {
    /** What happens to the files of the owner before it ends. */
    readonly before?: (folder: string, record: InstanceRecord) => void
    /** Which operations of its end fail. */
    readonly fails?: (operation: string, name: string) => string | undefined
    readonly took: "released" | "dead"
  }
  const noDescriptor = (operation: string) => (["read", "write", "list"].includes(operation) ? "EMFILE" : undefined)
  const noRename = (code: string, times: number) => {
    let left = times
    return (operation: string, name: string) =>
      operation === "rename" && name === "lock" && left-- > 0 ? code : undefined
  }
  const removes =
    (...kinds: ReadonlyArray<string>) =>
    (folder: string, record: InstanceRecord) => {
      for (const kind of kinds) fs.rmSync(path.join(folder, `${kind}.${record.nonce}`), { force: true })
    }
  const witnessKind = process.platform === "linux" ? "w" : "k"
  const endings: Record<string, End> = {
    "no descriptor is left": { fails: noDescriptor, took: "released" },
    "nothing can be created": {
      fails: (operation) => (operation === "write" ? "ENOSPC" : undefined),
      took: "released"
    },
    "the rename fails for a while": { fails: noRename("EDQUOT", 3), took: "released" },
    "the rename fails for good": { fails: noRename("EROFS", Infinity), took: "dead" },
    "its witness was removed": { before: removes(witnessKind), took: "released" },
    "its witness was removed and no descriptor is left": {
      before: removes(witnessKind),
      fails: noDescriptor,
      took: "released"
    },
    "its tombstone was removed": { before: removes("e"), took: "released" },
    "all but its record was removed": { before: removes("e", "t", witnessKind), took: "released" }
  }
  // Windows removes no file that is open.
  const isImpossible = (what: string) => process.platform === "win32" && /witness was|all but/.test(what)
  for (const [what, { before, fails, took }] of Object.entries(endings)) {
    it.scopedLive.skipIf(isImpossible(what))(
      `is free for others after an end in a process that lives on: ${what}${largeIf(what === "the rename fails for good")}`,
      () =>
        Effect.gen(function* () {
          const { folder, spawn, standing } = yield* fileWorld
          let ending = false
          const owner = yield* spawn(undefined, (operation, name) => {
            const code = ending ? fails?.(operation, name) : undefined
            return code === undefined ? Effect.void : new FileFailure({ code, operation, name, cause: undefined })
          })
          const { record, release } = yield* lead(owner)
          before?.(folder(), record)
          ending = true
          yield* release
          ending = false
          const own = yield* Effect.scoped(lead(owner))
          assert.include(["released", "dead"], own.took)
          yield* own.release
          // The same without what the process knows of itself.
          const second = yield* lead(owner)
          before?.(folder(), second.record)
          ending = true
          yield* second.release
          const successor = yield* lead(yield* spawn())
          assert.strictEqual(successor.took, took)
          assert.isAbove(successor.record.epoch, second.record.epoch)
          assert.sameMembers([...(yield* standing)], namesOf(successor.record))
        })
    )
  }

  for (const code of ["EMFILE", "ENOSPC", "EIO"]) {
    it.scopedLive(`is waited for also where the system says ${code} at the takeover, but not at the first look`, () =>
      Effect.gen(function* () {
        const { spawn } = yield* fileWorld
        const owner = yield* spawn()
        yield* lead(owner)
        let refuses = true
        let refused = 0
        const waiter = yield* spawn(undefined, (operation, name) => {
          if (!refuses || !(operation === "read" || operation === "write")) return Effect.void
          refused++
          return new FileFailure({ code, operation, name, cause: undefined })
        })
        const contest = { id, version: null, listen: () => Effect.succeed([]) }
        const waits = (onFollow: Effect.Effect<void>) =>
          Effect.provideService(Election.standby(contest, { onFollow: () => onFollow }), InstanceLock, waiter.lock)
        assert.strictEqual((yield* Effect.flip(waits(Effect.void))).reason, "DirectoryUnusable")
        refuses = false
        const following = yield* Deferred.make<void>()
        const standby = yield* Effect.fork(waits(Effect.asVoid(Deferred.succeed(following, undefined))))
        yield* Deferred.await(following)
        refuses = true
        refused = 0
        yield* owner.crash
        yield* Effect.repeat(Effect.sleep("10 millis"), { until: () => refused > 0 })
        yield* Effect.sleep("100 millis")
        assert.isNull(standby.unsafePoll())
        refuses = false
        assert.strictEqual((yield* Fiber.join(standby)).took, "dead")
      })
    )
  }

  for (const how of ["terminate", "exit"]) {
    it.scopedLive.skipIf(process.platform !== "linux")(
      `passes on from a worker thread that ended: ${how}${largeIf(how === "exit")}`,
      () =>
        Effect.gen(function* () {
          const directory = yield* temporary
          const file = fileURLToPath(new URL("../.build/fixtures/worker-leader.mjs", import.meta.url))
          const start = Effect.acquireRelease(
            Effect.sync(() =>
              spawnProcess(process.execPath, [file, directory, how], { stdio: ["pipe", "pipe", "inherit"] })
            ),
            (child) => Effect.sync(() => child.kill("SIGKILL"))
          )
          const next = (child: Effect.Effect.Success<typeof start>) =>
            Effect.promise(
              () => new Promise<string>((resolve) => child.stdout.once("data", (text) => resolve(`${text}`)))
            )
          const first = yield* start
          assert.strictEqual(yield* next(first), "ended\n")
          // A worker of another process leads although the first process lives, and ends in the same way.
          const second = yield* start
          assert.strictEqual(yield* next(second), "ended\n")
          for (const [child, took] of [
            [first, "dead D2\n"],
            [second, "released D0\n"]
          ] as const) {
            child.stdin.write("\n")
            assert.strictEqual(yield* next(child), took)
          }
        })
    )
  }

  it.scopedLive.skipIf(process.platform !== "linux")("is proven to be over where the witness's handle was closed", () =>
    Effect.gen(function* () {
      const { spawn, standing } = yield* fileWorld
      const [leading, servers] = yield* listening(lead(yield* spawn()))
      assert.lengthOf(servers, 1)
      const hint = yield* Effect.fork(leading.changed)
      servers[0]!.close()
      yield* Fiber.join(hint)
      assert.match((yield* Effect.flip(leading.check)).detail, /closed/)
      const successor = yield* lead(yield* spawn())
      assert.deepStrictEqual([successor.took, successor.proof?.rule], ["dead", "D2"])
      yield* leading.release
      yield* successor.check
      assert.sameMembers([...(yield* standing)], namesOf(successor.record))
    })
  )

  it.scopedLive.skipIf(process.platform !== "linux")(
    "is held by whoever has a full backlog, whatever its process",
    () =>
      Effect.gen(function* () {
        const { folder, spawn } = yield* fileWorld
        const foreign = yield* spawn({ pidNamespace: "pid-2" })
        const { record } = yield* lead(foreign)
        yield* foreign.crash
        // Another socket in its place, on which nobody accepts: as the one that a child inherited.
        const name = path.join(folder(), record.witness!.name)
        fs.unlinkSync(name)
        const program = `
        require("node:net").createServer().listen({ path: process.argv[1], backlog: 1 }, () => {
          require("node:fs").writeSync(1, "listens")
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
        })`
        const child = spawnProcess(process.execPath, ["-e", program, name], { stdio: ["ignore", "pipe", "inherit"] })
        yield* Effect.addFinalizer(() => Effect.sync(() => child.kill("SIGKILL")))
        yield* Effect.promise(() => new Promise((resolve) => child.stdout.once("data", resolve)))
        const knocks = yield* Effect.replicateEffect(
          Effect.async<string>((resume) => {
            const socket = net.connect(name)
            socket.once("connect", () => resume(Effect.succeed("connected")))
            socket.on("error", (cause: NodeJS.ErrnoException) => resume(Effect.succeed(String(cause.code))))
            socket.unref()
          }),
          5
        )
        assert.strictEqual(knocks.at(-1), "EAGAIN")
        const { dev, ino } = fs.lstatSync(name, { bigint: true })
        const moved = update(record, {
          witness: new Witness({ name: record.witness!.name, device: String(dev), inode: String(ino) })
        })
        fs.writeFileSync(path.join(folder(), "other"), encode(moved), { mode: 0o600 })
        fs.renameSync(path.join(folder(), "other"), path.join(folder(), "lock"))
        const other = yield* spawn()
        assert.strictEqual((yield* follow(other)).record.nonce, record.nonce)
        const refused = yield* Effect.flip(other.lock.breakLock(id, record.nonce))
        assert.strictEqual(refused.reason, "BreakRefused")
      })
  )

  it.scopedLive("who rehearses goes all the way, leaves nothing behind, and follows", () =>
    Effect.gen(function* () {
      const { spawn, standing } = yield* fileWorld
      const leader = yield* spawn()
      const leading = yield* lead(leader)
      const before = yield* standing
      const operations: Array<string> = []
      const standby = yield* spawn(undefined, (operation) => Effect.sync(() => operations.push(operation)))
      const contend = (listen: ReturnType<typeof endpoints>["listen"] | (() => Effect.Effect<never, LockError>)) =>
        standby.lock.contend({ id, version: null, listen, rehearse: true })
      const { listen, open, opened } = endpoints()
      const verdict = yield* contend(listen)
      assert(verdict._tag === "Following")
      assert.strictEqual(verdict.record.nonce, leading.record.nonce)
      assert.deepStrictEqual([opened(), open.size], [1, 0])
      assert.includeMembers(operations, ["openWitness", "write"])
      assert.deepStrictEqual(yield* standing, before)
      // A failure is not what it is about.
      const failing = yield* contend(() => new LockError({ reason: "DirectoryUnusable", id, detail: "no room" }))
      assert.strictEqual(failing._tag, "Following")
      assert.deepStrictEqual(yield* standing, before)
      yield* leader.crash
      assert.strictEqual((yield* Effect.scoped(contend(listen)))._tag, "Leading")
    })
  )

  it.scopedLive("collects what the dead left behind, and nothing of the living", () =>
    Effect.gen(function* () {
      const { folder, spawn, standing } = yield* fileWorld
      const dead = yield* spawn()
      const former = yield* lead(dead, ({ directory, nonce }) =>
        Effect.sync(() => {
          fs.writeFileSync(path.join(directory!, `s.${nonce}`), "")
          return []
        })
      )
      yield* dead.crash
      assert.includeMembers([...(yield* standing)], [former.record.witness!.name, `s.${former.record.nonce}`])
      // Something that is not ours.
      fs.writeFileSync(path.join(folder(), "notes.txt"), "")
      const { record } = yield* lead(yield* spawn())
      assert.sameMembers([...(yield* standing)], [...namesOf(record), "notes.txt"])
    })
  )

  for (const before of ["nothing", "released", "dead"] as const) {
    it.scopedLive(`leaves neither a lock nor litter where it is interrupted at any operation: ${before} before`, () =>
      Effect.gen(function* () {
        let at = 0
        let reached = true
        for (; reached; at++) {
          const { spawn, standing } = yield* fileWorld
          const left: Array<string> = []
          if (before !== "nothing") {
            const former = yield* spawn()
            const leading = yield* lead(former)
            yield* before === "dead" ? former.crash : leading.release
            // Whoever takes over collects it; after a minute, where that one was interrupted before it could.
            if (before === "dead") left.push(...namesOf(leading.record))
          }
          let operations = 0
          let fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined
          const interrupted = yield* spawn(undefined, () =>
            Effect.sync(() => {
              if (operations++ === at) fiber?.unsafeInterruptAsFork(fiber.id())
            })
          )
          const { listen, open } = endpoints()
          fiber = yield* Effect.fork(
            Effect.scoped(Effect.zipRight(interrupted.lock.contend({ id, version: null, listen }), Effect.never))
          )
          yield* Effect.yieldNow()
          while (operations <= at && fiber.unsafePoll() === null && operations < 100) {
            const seen = operations
            yield* Effect.sleep("5 millis")
            if (operations === seen && open.size === 1) break
          }
          reached = operations > at
          yield* Fiber.interrupt(fiber)
          assert.strictEqual(open.size, 0)
          const other = yield* spawn()
          const seen = yield* other.lock.inspect(id)
          const isHeld = seen._tag === "Recorded" && seen.liveness._tag === "Alive"
          assert.isFalse(isHeld, `operation ${at}`)
          const names = yield* standing
          assert.deepStrictEqual(
            names.filter((name) => /^(t|e|slot)\./.test(name) && !left.includes(name)),
            [],
            `operation ${at}`
          )
          const successor = yield* lead(other)
          assert.sameMembers(
            (yield* standing).filter((name) => name === "lock" || !left.includes(name)),
            namesOf(successor.record),
            `operation ${at}`
          )
        }
        // All of them were tried, and the last time nothing was.
        assert.isAbove(at, 5)
      })
    )
  }
})
