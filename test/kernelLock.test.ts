/**
 * The lock of the kernel and the identity of files, as macOS and Windows have them, against stand-ins.
 */
import fsModule, * as fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import * as path from "node:path"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, FastCheck as fc, Layer, Option, type Scope } from "effect"
import { FileLock, NodeLockFiles, SingleInstance, SingleInstanceConfig } from "effect-single-instance"
import { InstanceId } from "effect-single-instance/InstanceId"
import { InstanceLock } from "effect-single-instance/InstanceLock"
import { Witness } from "effect-single-instance/InstanceRecord"
import { FileFailure, LockFiles } from "effect-single-instance/lock/LockFiles"
import * as fileIdentity from "../src/internal/fileIdentity.js"
import * as fileSystemType from "../src/internal/fileSystemType.js"
import * as kernelLock from "../src/internal/kernelLock.js"
import { temporary } from "./contract/Protocol.js"
import { pretend } from "./standIn.js"

const verifier = Layer.provide(SingleInstance.layerPidVerifier, NodeContext.layer)
const filesLayer = (directory: string) =>
  NodeLockFiles.layer.pipe(Layer.provide(SingleInstanceConfig.layer({ directory })), Layer.provide(verifier))

const { O_EXCL } = fs.constants
const macOS = { exclusive: 0x20, shared: 0x10, nonblock: 0x4 }

/** The locks of macOS by open(2): many may share one, or one has it. Also those who already hold one. */
const locking: Effect.Effect<{ readonly attempts: Array<string> }, never, Scope.Scope> = Effect.gen(function* () {
  yield* pretend()
  const attempts: Array<string> = []
  const held = new Map<string, Array<{ readonly fd: number; readonly isExclusive: boolean }>>()
  const { closeSync, openSync } = fsModule
  yield* Effect.acquireRelease(
    Effect.sync(() => {
      fsModule.openSync = ((file: string, flags: number, mode?: number) => {
        const wants = flags & (macOS.exclusive | macOS.shared)
        if (wants === 0) return openSync(file, flags, mode)
        const isExclusive = (flags & macOS.exclusive) !== 0
        attempts.push(isExclusive ? "exclusive" : "shared")
        const plain = flags & ~(macOS.exclusive | macOS.shared | macOS.nonblock)
        const fd = openSync(file, plain, mode)
        const others = held.get(file) ?? []
        if (others.some((other) => isExclusive || other.isExclusive)) {
          closeSync(fd)
          throw Object.assign(new Error("EAGAIN: resource temporarily unavailable"), { code: "EAGAIN" })
        }
        held.set(file, [...others, { fd, isExclusive }])
        return fd
      }) as typeof openSync
      fsModule.closeSync = (fd: number) => {
        for (const [file, holders] of held) {
          held.set(
            file,
            holders.filter((holder) => holder.fd !== fd)
          )
        }
        closeSync(fd)
      }
      syncBuiltinESMExports()
    }),
    () =>
      Effect.sync(() => {
        Object.assign(fsModule, { closeSync, openSync })
        syncBuiltinESMExports()
      })
  )
  return { attempts }
})

const name = `k.${"a".repeat(32)}`
const LOOK = fs.constants.O_RDONLY | macOS.shared | macOS.nonblock
const HOLD = fs.constants.O_RDWR | macOS.exclusive | macOS.nonblock

const file = Effect.map(temporary, (directory) => path.join(directory, name))

/** Calls another function instead, for as long as the scope is open. */
const patch = <K extends "openSync" | "lstatSync">(
  key: K,
  make: (original: (typeof fsModule)[K]) => (...all: Array<any>) => unknown
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const original = fsModule[key]
      Object.assign(fsModule, { [key]: make(original) })
      syncBuiltinESMExports()
      return original
    }),
    (original) =>
      Effect.sync(() => {
        Object.assign(fsModule, { [key]: original })
        syncBuiltinESMExports()
      })
  ).pipe(Effect.asVoid)

const failing = (code: string) => Object.assign(new Error(`${code}: as the system says`), { code })

describe.skipIf(process.platform !== "linux")("the lock of the kernel on macOS", () => {
  it.scopedLive("is held from its creation to its end, and the name is taken", () =>
    Effect.gen(function* () {
      const lock = yield* file
      yield* locking
      const fd = kernelLock.create(lock)
      assert.deepStrictEqual(kernelLock.look(lock), { _tag: "Held" })
      assert.throws(() => kernelLock.create(lock), /EEXIST/)
      fs.closeSync(fd)
      const seen = kernelLock.look(lock)
      assert(seen._tag === "Free")
      assert.strictEqual(seen.stat.ino, fs.statSync(lock, { bigint: true }).ino)
      assert.deepStrictEqual(kernelLock.look(`${lock}x`), { _tag: "Unclear", code: "ENOENT" })
    })
  )

  it.scopedLive("is not held by who only looks", () =>
    Effect.gen(function* () {
      const lock = yield* file
      yield* locking
      fs.closeSync(kernelLock.create(lock))
      const other = fs.openSync(lock, LOOK)
      assert.strictEqual(kernelLock.look(lock)._tag, "Free")
      // The canary: who looks by taking the lock takes the other one for its holder.
      assert.throws(() => fs.openSync(lock, HOLD), /EAGAIN/)
      fs.closeSync(other)
    })
  )

  it.scopedLive("leaves no file where the file system has no locks, and says that it cannot hold ours", () =>
    Effect.gen(function* () {
      const lock = yield* file
      const directory = path.dirname(lock)
      // As macOS does, which locks what it has created.
      yield* patch("openSync", (openSync) => (file: string, flags: number, mode?: number) => {
        const fd = openSync(file, flags, mode)
        if ((flags & O_EXCL) === 0 || !path.basename(file).startsWith("k.")) return fd
        fs.closeSync(fd)
        throw failing("ENOTSUP")
      })
      assert.throws(() => kernelLock.create(lock), /ENOTSUP/)
      assert.isFalse(fs.existsSync(lock))
      const unlockable = Layer.map(filesLayer(directory), (context) => {
        const files = Context.get(context, LockFiles)
        const open = (id: InstanceId) =>
          Effect.map(files.open(id), (opened) => ({
            ...opened,
            openWitness: () =>
              Effect.try({
                try: () => kernelLock.create(lock) as never,
                catch: (cause) => new FileFailure({ code: "ENOTSUP", operation: "lock", name, cause })
              })
          }))
        return Context.make(LockFiles, { ...files, open })
      })
      const layer = Layer.provide(FileLock.layer, Layer.merge(unlockable, verifier))
      const lockService = Context.get(yield* Layer.build(layer), InstanceLock)
      const contest = { id: InstanceId.make("com.example.lock"), version: null, listen: () => Effect.succeed([]) }
      const error = yield* Effect.flip(Effect.scoped(lockService.contend(contest)))
      assert.strictEqual(error.reason, "FilesystemUnsupported")
    })
  )
})

describe.skipIf(process.platform !== "linux")("a look at somebody's lock", () => {
  const opened = Effect.gen(function* () {
    const base = yield* temporary
    const files = Context.get(yield* Layer.build(filesLayer(base)), LockFiles)
    const directory = yield* files.open(InstanceId.make("com.example.lock"))
    return { directory, lock: path.join(directory.path, name) }
  })
  const witnessOf = (fd: number) => new Witness({ name, ...fileIdentity.of(fs.fstatSync(fd, { bigint: true })) })

  it.scopedLive("does not believe at once that it is held", () =>
    Effect.gen(function* () {
      const { directory, lock } = yield* opened
      const { attempts } = yield* locking
      const fd = kernelLock.create(lock)
      const witness = witnessOf(fd)
      assert.deepStrictEqual(yield* directory.probe(witness), { _tag: "Answered" })
      fs.closeSync(fd)
      // A virus scanner, until somebody has looked.
      const scanner = fs.openSync(lock, HOLD)
      assert.strictEqual(kernelLock.look(lock)._tag, "Held", "the canary: who looks once believes it")
      attempts.length = 0
      yield* patch("openSync", (openSync) => (...all: Parameters<typeof fs.openSync>) => {
        if (all[0] === lock && attempts.length === 1) fs.closeSync(scanner)
        return openSync(...all)
      })
      assert.deepStrictEqual(yield* directory.probe(witness), { _tag: "Refused", rule: "D3" })
      assert.lengthOf(attempts, 2)
    })
  )

  it.scopedLive("that fails is no sign that it was freed", () =>
    Effect.gen(function* () {
      const { directory, lock } = yield* opened
      yield* locking
      const fd = kernelLock.create(lock)
      const witness = witnessOf(fd)
      let looks = 0
      let isShort = true
      yield* patch("openSync", (openSync) => (...all: Parameters<typeof fs.openSync>) => {
        if (all[0] === lock) {
          looks++
          if (isShort) throw failing("EMFILE")
        }
        return openSync(...all)
      })
      const gone = yield* Effect.fork(directory.hungUp(witness))
      while (looks < 2) yield* Effect.sleep(20)
      assert.isTrue(Option.isNone(yield* gone.poll))
      isShort = false
      fs.closeSync(fd)
      yield* Fiber.join(gone)
    })
  )

  it.scopedLive("on Windows is at the same file, whichever call tells its device", () =>
    Effect.gen(function* () {
      const { directory, lock } = yield* opened
      fs.writeFileSync(lock, "")
      const fd = fs.openSync(lock, "r")
      yield* pretend(undefined, "win32")
      // libuv 1.49 tells more bits for a name than for a descriptor.
      yield* patch("lstatSync", (lstatSync) => (...all: Parameters<typeof fs.lstatSync>) => {
        const stat = lstatSync(...all) as unknown as fs.BigIntStats | undefined
        if (stat !== undefined && typeof stat.dev === "bigint") stat.dev += 7n << 32n
        return stat
      })
      const witness = witnessOf(fd)
      const standing = Option.getOrThrow(yield* directory.stat(name))
      assert.deepStrictEqual([standing.device, standing.inode], [witness.device, witness.inode])
      assert.deepStrictEqual(yield* directory.probe(witness), { _tag: "Refused", rule: "D3" })
      fs.closeSync(fd)
    })
  )
})

describe("the identity of a file", () => {
  const stat = (dev: bigint, ino = 1n) => ({ dev, ino })
  const number = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })

  it.scopedLive("on Windows has the lower half of a volume's number", () =>
    Effect.gen(function* () {
      yield* pretend(undefined, "win32")
      fc.assert(
        fc.property(number, number, number, (device, upper, inode) => {
          // Not told at all.
          fc.pre(BigInt.asUintN(32, device) > 1n)
          const other = (BigInt.asUintN(32, upper) << 32n) | BigInt.asUintN(32, device)
          assert.deepStrictEqual(fileIdentity.of(stat(device, inode)), fileIdentity.of(stat(other, inode)))
          assert.isTrue(fileIdentity.isSame({ device: String(other), inode: String(inode) }, stat(device, inode)))
          assert.isFalse(fileIdentity.isSame({ device: String(other), inode: String(inode) }, stat(device ^ 1n, inode)))
          assert.isFalse(fileIdentity.isSame({ device: String(other), inode: String(inode) }, stat(device, inode ^ 1n)))
        })
      )
      assert.isFalse(fileIdentity.isSame({ device: "what another version wrote", inode: "1" }, stat(1n)))
      assert.isTrue(
        fileIdentity.isSame({ device: "5", inode: "1" }, stat(0n)),
        "some versions tell no device for a name"
      )
      assert.isFalse(fileIdentity.isSame({ device: "5", inode: "1" }, stat(0n, 2n)))
    })
  )

  it("elsewhere has all of it", () => {
    assert.isFalse(fileIdentity.isSame(fileIdentity.of(stat(1n)), stat((1n << 32n) | 1n)))
  })
})

describe.skipIf(process.platform !== "linux")("whether a directory is this machine's alone", () => {
  const mounts = `/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse, protect, root data)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
server:/export/jo on /System/Volumes/Data/home/jo (nfs, nodev, nosuid, automounted, nobrowse)
//jo@server/My on Disk on /Volumes/My on Disk (smbfs, nodev, nosuid, mounted by jo)
/dev/disk5s1 on /Volumes/Stick (1) (msdos, local, nodev, nosuid, noowners, noatime)
`

  it("is told by the longest mount point above it", () => {
    const isLocal = (name: string) => fileSystemType.optionsOf(mounts, name).includes("local")
    assert.deepStrictEqual(
      ["/Users/jo", "/Volumes", "/System/Volumes/Data/home/jo/x", "/Volumes/My on Disk/x", "/Volumes/Stick (1)/x"].map(
        isLocal
      ),
      [true, true, false, false, true]
    )
    assert.isFalse(fileSystemType.optionsOf("", "/Users/jo").includes("local"))
  })

  const isLocal = (directory: string, output: string | undefined) =>
    Effect.scoped(
      Effect.gen(function* () {
        const { programs } = yield* pretend((line) =>
          line === "/sbin/mount" && output !== undefined ? { stdout: output } : undefined
        )
        return [yield* fileSystemType.isLocal(directory, 0), programs.length]
      })
    )

  it.scopedLive("is asked on macOS, but of the system's own volume", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* isLocal(yield* temporary, undefined), [true, 0])
      // A directory on another volume.
      assert.deepStrictEqual(yield* isLocal("/proc", "/dev/disk9 on /proc (hfs, local)\n"), [true, 1])
      assert.deepStrictEqual(yield* isLocal("/proc", "server:/x on /proc (nfs)\n/dev/disk9 on / (apfs, local)\n"), [
        false,
        1
      ])
      assert.deepStrictEqual(yield* isLocal("/proc", undefined), [false, 1])
    })
  )

  it.scopedLive("is seen on Windows by what a path leads to", () =>
    Effect.gen(function* () {
      yield* pretend(undefined, "win32")
      const { native } = fsModule.realpathSync
      for (const [leadsTo, expected] of [
        ["C:\\Users\\jo\\locks", true],
        ["\\\\?\\C:\\locks", true],
        ["\\\\server\\homes\\jo", false]
      ] as const) {
        fsModule.realpathSync.native = (() => leadsTo) as unknown as typeof native
        try {
          assert.strictEqual(yield* fileSystemType.isLocal("H:\\locks", 0), expected, leadsTo)
        } finally {
          fsModule.realpathSync.native = native
        }
      }
    })
  )
})
