/**
 * What the world does to the lock: directories that others could change, full and read-only file systems, damaged
 * records, outsiders who remove or replace files, and no descriptors left. Always a typed error, never two primaries, and
 * nothing of anybody else's touched.
 */
import { spawnSync } from "node:child_process"
import { createHash, randomBytes, randomUUID } from "node:crypto"
import * as fs from "node:fs"
import * as net from "node:net"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { isDeepStrictEqual } from "node:util"
import { assert, describe } from "@effect/vitest"
import { Context, Deferred, Effect, Either, ExecutionStrategy, Exit, Fiber, Layer, Option, Schema, Scope } from "effect"
import {
  FileLock,
  NodeLockFiles,
  Protocol,
  SingleInstance,
  SingleInstanceConfig,
  TestPidVerifier,
  UnixSocket
} from "effect-single-instance"
import { Endpoint } from "effect-single-instance/Endpoint"
import { folderName, InstanceId } from "effect-single-instance/InstanceId"
import { InstanceLock, type Leading } from "effect-single-instance/InstanceLock"
import { decode, encode, InstanceRecord } from "effect-single-instance/InstanceRecord"
import { LockFiles } from "effect-single-instance/lock/LockFiles"
import { LockError, type ProtocolError } from "effect-single-instance/SingleInstanceError"
import { type Arena, type Contender, itNeeds, kindsOfPrimary, makeArena, needs, until } from "./contenders.js"
import { randomOf, reported, seed } from "./stress.js"

// -------------------------------------------------------------------------------------
// places and starters
// -------------------------------------------------------------------------------------

const posix = { met: process.platform !== "win32", text: "a POSIX system" }
const isLinux = process.platform === "linux"
const stranger = 65_534
const witnessKind = isLinux ? "w" : "k"
const serving = ["lock", "t", "e", "s", witnessKind].sort()

interface Place {
  readonly id: InstanceId
  /** All of the test; the option `directory`; the folder in it that is the instance's; and its record. */
  readonly base: string
  readonly directory: string
  readonly home: string
  readonly lock: string
  readonly table: TestPidVerifier.ProcessTable
}

const makePlace = (inside = "directory"): Effect.Effect<Place, never, Scope.Scope> =>
  Effect.gen(function* () {
    const base = yield* Effect.acquireRelease(
      Effect.sync(() => fs.mkdtempSync(join(fs.realpathSync(tmpdir()), "esi-faults-"))),
      (base) => Effect.sync(() => fs.rmSync(base, { recursive: true, force: true }))
    )
    const id = InstanceId.make(`faults ${randomUUID()}`)
    const directory = join(base, inside)
    const home = join(directory, folderName(id))
    return { id, base, directory, home, lock: join(home, "lock"), table: yield* TestPidVerifier.makeTable }
  })

const makeHome = ({ home }: Place): void => {
  fs.mkdirSync(home, { recursive: true, mode: 0o700 })
}

interface StarterOptions {
  /** The nonce that the starter would otherwise draw. */
  readonly nonce?: string | undefined
}

// A process of its own for the lock: it has a pid of the test's table, which is free when its scope closes.
const layer = ({ directory, table }: Place, { nonce }: StarterOptions = {}) => {
  let given = nonce
  const files = Layer.effect(
    LockFiles,
    Effect.map(LockFiles, (files) => ({
      ...files,
      random: (bytes: number) =>
        Effect.suspend(() => {
          if (bytes !== 16 || given === undefined) return files.random(bytes)
          const first = given
          given = undefined
          return Effect.succeed(first)
        })
    }))
  ).pipe(Layer.provide(NodeLockFiles.layer))
  return FileLock.layer.pipe(
    Layer.provide(files),
    Layer.provideMerge(
      Layer.merge(TestPidVerifier.layerTable(table), SingleInstanceConfig.layer({ directory, timeout: "10 seconds" }))
    )
  )
}

/** A starter without a self-check: only what the lock itself does. */
const makeStarter = (place: Place, options?: StarterOptions) =>
  Effect.gen(function* () {
    const scope = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.sequential)
    const lock = Context.get(yield* Layer.buildWithScope(layer(place, options), scope), InstanceLock)
    const protocol = Context.get(yield* Layer.buildWithScope(UnixSocket.layer, scope), Protocol.Protocol)
    const contend = (before: Effect.Effect<void> = Effect.void) =>
      lock.contend({
        id: place.id,
        version: null,
        listen: ({ directory, nonce }) =>
          before.pipe(
            Effect.zipRight(
              protocol.listen({ id: place.id, directory, nonce, maxConnections: 10, maxFrameBytes: 65_536 })
            ),
            Effect.map(({ address }) => [new Endpoint({ protocol: "unix", address, wire: [1, 1] })])
          )
      })
    return {
      inspect: lock.inspect(place.id),
      breakLock: (nonce: string) => lock.breakLock(place.id, nonce),
      /** In a scope of the caller. */
      contend,
      /** Until the starter ends. */
      lead: Effect.filterOrDieMessage(
        Scope.extend(contend(), scope),
        (verdict): verdict is Leading => verdict._tag === "Leading",
        "somebody else leads"
      ),
      end: Scope.close(scope, Exit.void)
    }
  })

type Starter = Effect.Effect.Success<ReturnType<typeof makeStarter>>

/** The record of an owner whose process is gone. */
const deadRecord = (place: Place, fields?: Partial<InstanceRecord>) =>
  Effect.gen(function* () {
    const process = yield* place.table.spawn()
    yield* process.crash
    return new InstanceRecord({
      nonce: randomBytes(16).toString("hex"),
      epoch: 1,
      released: false,
      process: process.identity,
      host: "host",
      uid: 0,
      version: null,
      argv0: "node",
      startedAt: 1,
      sequence: 0,
      witness: null,
      key: randomBytes(32).toString("hex"),
      endpoints: [new Endpoint({ protocol: "unix", address: "unix:s.gone", wire: [1, 1] })],
      ...fields
    })
  })

const plantDead = (place: Place, fields?: Partial<InstanceRecord>) =>
  Effect.map(deadRecord(place, fields), (record) => {
    makeHome(place)
    fs.writeFileSync(place.lock, encode(record), { mode: 0o600 })
    return record
  })

// -------------------------------------------------------------------------------------
// observations
// -------------------------------------------------------------------------------------

const names = (folder: string): ReadonlyArray<string> => (fs.existsSync(folder) ? fs.readdirSync(folder).sort() : [])
const kinds = (folder: string): ReadonlyArray<string> =>
  names(folder)
    .map((name) => name.replace(/\.[0-9a-f]{32}$/, ""))
    .sort()

/** One name: what it is, whose, since when, and its bytes. A directory's own time tells of anything made and removed. */
const standing = (name: string): string => {
  const stat = fs.lstatSync(name, { bigint: true })
  const content = stat.isSymbolicLink()
    ? fs.readlinkSync(name)
    : stat.isFile() && stat.size <= 1_048_576n
      ? createHash("sha256").update(fs.readFileSync(name)).digest("hex")
      : ""
  return [stat.ino, stat.mode, stat.uid, stat.gid, stat.size, stat.mtimeNs, stat.ctimeNs, content].join(" ")
}

/** Everything below a folder, itself included. */
const snapshot = (folder: string): { readonly [name: string]: string } => ({
  [folder]: standing(folder),
  ...Object.assign(
    {},
    ...fs
      .readdirSync(folder, { withFileTypes: true })
      .map((entry) =>
        entry.isDirectory() ? snapshot(join(folder, entry.name)) : { [entry.name]: standing(join(folder, entry.name)) }
      )
  )
})

/** Its error; what it may have succeeded with is too large for a report. */
const failure = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<E, never, R> =>
  Effect.matchEffect(effect, {
    onFailure: Effect.succeed,
    onSuccess: () => Effect.dieMessage("it succeeded")
  })

/** Fails as it should, soon, with the path in the error and in its message. */
const fails = (attempt: Effect.Effect<unknown, unknown, Scope.Scope>, reason: LockError["reason"], path: string) =>
  Effect.gen(function* () {
    const error = yield* attempt.pipe(
      Effect.scoped,
      Effect.timeoutFail({ duration: "5 seconds", onTimeout: () => "there is no answer" }),
      failure
    )
    if (!LockError.is(error)) return assert.fail(`not typed: ${String(error)}`)
    assert.deepInclude({ reason: error.reason, path: error.path }, { reason, path }, error.message)
    assert.include(error.message, path)
    assert.strictEqual(error.outcome, "NotDelivered")
    return error
  })

/** A launch, a look and a break are refused, and change nothing at all. */
const refusesAll = (place: Place, reason: LockError["reason"], path: string) =>
  Effect.gen(function* () {
    const before = snapshot(place.base)
    const starter = yield* makeStarter(place)
    yield* fails(starter.contend(), reason, path)
    yield* fails(starter.inspect, reason, path)
    yield* fails(starter.breakLock("0".repeat(32)), reason, path)
    assert.deepStrictEqual(snapshot(place.base), before)
  })

/** The next launch leads, and nothing but what belongs to it is there. */
const leads = (place: Place, took: Leading["took"]) =>
  Effect.gen(function* () {
    const starter = yield* makeStarter(place)
    const leading = yield* starter.lead
    assert.strictEqual(leading.took, took)
    assert.deepStrictEqual(kinds(place.home), serving)
    assert.strictEqual(Either.getOrThrow(decode(fs.readFileSync(place.lock))).nonce, leading.record.nonce)
    return { ...starter, leading }
  })

// -------------------------------------------------------------------------------------
// directories
// -------------------------------------------------------------------------------------

const insecure: { readonly [title: string]: (place: Place) => string } = {
  "the folder with mode 0755": (place) => {
    makeHome(place)
    fs.chmodSync(place.home, 0o755)
    return place.home
  },
  "the folder with mode 0701": (place) => {
    makeHome(place)
    fs.chmodSync(place.home, 0o701)
    return place.home
  },
  "a file in place of the folder": (place) => {
    fs.mkdirSync(place.directory, { mode: 0o700 })
    fs.writeFileSync(place.home, "mine")
    return place.home
  },
  "a link of our own in place of the folder": (place) => {
    const target = join(place.base, "target")
    fs.mkdirSync(target, { mode: 0o700 })
    fs.mkdirSync(place.directory, { mode: 0o700 })
    fs.symlinkSync(target, place.home)
    return place.home
  },
  "a link to nothing in place of the folder": (place) => {
    fs.mkdirSync(place.directory, { mode: 0o700 })
    fs.symlinkSync(join(place.base, "nothing"), place.home)
    return place.home
  },
  "a parent with mode 0777": (place) => {
    fs.mkdirSync(place.directory)
    fs.chmodSync(place.directory, 0o777)
    return place.directory
  },
  "a parent with mode 0777 over a folder that is right": (place) => {
    makeHome(place)
    fs.chmodSync(place.directory, 0o777)
    return place.directory
  }
}

const insecureAsRoot: typeof insecure = {
  "the folder of another user": (place) => {
    makeHome(place)
    fs.chownSync(place.home, stranger, stranger)
    return place.home
  },
  "a parent of another user": (place) => {
    fs.mkdirSync(place.directory, { mode: 0o755 })
    fs.chownSync(place.directory, stranger, stranger)
    return place.directory
  },
  "a parent that root's group may write to": (place) => {
    makeHome(place)
    fs.chmodSync(place.directory, 0o770)
    return place.directory
  },
  "a link of another user on the way": (place) => {
    fs.mkdirSync(join(place.base, "real"), { mode: 0o700 })
    fs.symlinkSync(join(place.base, "real"), place.directory)
    fs.lchownSync(place.directory, stranger, stranger)
    return place.directory
  },
  "a link of another user on the way to a folder that is right": (place) => {
    fs.mkdirSync(join(place.base, "real", folderName(place.id)), { recursive: true, mode: 0o700 })
    fs.symlinkSync(join(place.base, "real"), place.directory)
    fs.lchownSync(place.directory, stranger, stranger)
    return place.directory
  }
}

describe("the directory", () => {
  const refuses = (need: typeof posix, title: string, prepare: (place: Place) => string) =>
    itNeeds(need)(`refuses ${title}, and creates nothing`, () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* refusesAll(place, "DirectoryInsecure", prepare(place))
      })
    )
  for (const [title, prepare] of Object.entries(insecure)) refuses(posix, title, prepare)
  for (const [title, prepare] of Object.entries(insecureAsRoot)) refuses(needs.root, title, prepare)

  itNeeds(posix)("says so where there is a file on the way, or a link to nothing", () =>
    Effect.gen(function* () {
      for (const plant of [
        (name: string) => fs.writeFileSync(name, "mine"),
        (name: string) => fs.symlinkSync(`${name}.nothing`, name)
      ]) {
        const place = yield* makePlace()
        plant(place.directory)
        yield* refusesAll(place, "DirectoryUnusable", place.directory)
      }
    })
  )

  itNeeds(posix)("accepts a sticky parent and a link of our own on the way, and lets nobody else in", () =>
    Effect.gen(function* () {
      const place = yield* makePlace(join("link", "sticky", "deep", "deeper"))
      fs.mkdirSync(join(place.base, "real", "sticky"), { recursive: true })
      fs.chmodSync(join(place.base, "real", "sticky"), 0o1777)
      fs.symlinkSync(join(place.base, "real"), join(place.base, "link"))
      yield* Effect.acquireRelease(
        Effect.sync(() => process.umask(0)),
        (umask) => Effect.sync(() => process.umask(umask))
      )
      yield* leads(place, "free")
      for (const folder of [dirname(place.directory), place.directory, place.home]) {
        assert.strictEqual(fs.statSync(folder).mode & 0o777, 0o700, folder)
      }
      assert.strictEqual(fs.statSync(place.lock).mode & 0o777, 0o600)
    })
  )
})

// -------------------------------------------------------------------------------------
// another user's process
// -------------------------------------------------------------------------------------

/** How a real launch ended that is no primary. */
const outcome = (contender: Contender) =>
  Effect.gen(function* () {
    const entry = yield* contender.waitFor("outcome")
    yield* contender.ended
    assert.isUndefined(contender.entries.find(({ event }) => event === "begin" || event === "crashed"))
    const { error, path, reason } = entry
    return { error, path, reason }
  })

describe("without permission @large", () => {
  const through = ["setpriv", "--reuid", `${stranger}`, "--regid", `${stranger}`, "--clear-groups"]
  const arenaOfStranger = Effect.tap(makeArena, (arena) =>
    Effect.sync(() => {
      fs.chmodSync(dirname(arena.logs), 0o755)
      fs.chmodSync(arena.logs, 0o777)
      fs.mkdirSync(arena.directory, { mode: 0o755 })
      fs.mkdirSync(arena.home, { mode: 0o700 })
      fs.chownSync(arena.directory, stranger, stranger)
      fs.chownSync(arena.home, stranger, stranger)
    })
  )

  itNeeds(needs.otherUser)("says so", () =>
    Effect.gen(function* () {
      const mode = (name: "directory" | "home", mode: number) => (arena: { directory: string; home: string }) =>
        fs.chmodSync(arena[name], mode)
      const cases = {
        "a folder that is root's": [(arena) => fs.chownSync(arena.home, 0, 0), "DirectoryInsecure"],
        "a folder behind root's": [
          (arena) => {
            fs.chownSync(arena.directory, 0, 0)
            fs.chmodSync(arena.directory, 0o700)
          },
          "DirectoryUnusable",
          "directory"
        ],
        "no folder, and none may be made": [
          (arena) => {
            fs.rmdirSync(arena.home)
            fs.chmodSync(arena.directory, 0o500)
          },
          "DirectoryUnusable",
          "directory"
        ],
        "a folder that may not be written": [mode("home", 0o500), "DirectoryUnusable"],
        "a folder that may not be entered": [mode("home", 0o600), "DirectoryUnusable"],
        "a folder that may not be read": [mode("home", 0o000), "DirectoryUnusable"],
        "a record that may not be read": [
          (arena) => fs.writeFileSync(join(arena.home, "lock"), "mine", { mode: 0o600 }),
          "DirectoryUnusable"
        ]
      } satisfies {
        // At the end what is refused; the instance's folder if left out.
        [title: string]: [
          prepare: (arena: { directory: string; home: string }) => void,
          reason: LockError["reason"],
          refused?: "directory"
        ]
      }
      for (const [title, [prepare, reason, refused = "home"]] of Object.entries(cases)) {
        yield* Effect.gen(function* () {
          const arena = yield* arenaOfStranger
          prepare(arena)
          const before = snapshot(arena.directory)
          const seen = yield* outcome(yield* arena.start("launch", { through }))
          assert.deepStrictEqual(seen, { error: "LockError", reason, path: arena[refused] }, title)
          assert.deepStrictEqual(snapshot(arena.directory), before, title)
        }).pipe(Effect.scoped)
      }
      // The same, permitted: what failed was the permission.
      const arena = yield* arenaOfStranger
      yield* (yield* arena.start("launch", { through })).waitFor("begin")
      assert.strictEqual(fs.lstatSync(join(arena.home, "lock")).uid, stranger)
    })
  )
})

// -------------------------------------------------------------------------------------
// file systems that take no more
// -------------------------------------------------------------------------------------

const mounted = (options: string) =>
  Effect.gen(function* () {
    const place = yield* makePlace("mount")
    fs.mkdirSync(place.directory, { mode: 0o700 })
    const run = (command: string, ...args: ReadonlyArray<string>) => {
      const { status, stderr } = spawnSync(command, args, { encoding: "utf8" })
      if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${stderr}`)
    }
    yield* Effect.acquireRelease(
      Effect.sync(() => run("mount", "-t", "tmpfs", "-o", `mode=0700,${options}`, "esi-faults", place.directory)),
      () => Effect.sync(() => run("umount", place.directory)).pipe(Effect.retry({ times: 20 }))
    )
    return { ...place, remount: (how: "ro" | "rw") => run("mount", "-o", `remount,${how}`, place.directory) }
  })

/** Takes all the space but so many pages. */
const fill = ({ directory }: Place, pages: number): void => {
  const fd = fs.openSync(join(directory, "ballast"), "w")
  const page = Buffer.alloc(4_096, 1)
  let written = 0
  try {
    for (;;) written += fs.writeSync(fd, page)
  } catch (cause) {
    assert.strictEqual((cause as NodeJS.ErrnoException).code, "ENOSPC")
  } finally {
    fs.ftruncateSync(fd, written - pages * 4_096)
    fs.closeSync(fd)
  }
}
const empty = ({ directory }: Place): void => fs.rmSync(join(directory, "ballast"))

describe("a file system @large", () => {
  itNeeds(needs.mounts)("that is full: says so, and leaves no half of a record", () =>
    Effect.gen(function* () {
      const place = yield* mounted("size=64k")
      makeHome(place)
      fill(place, 0)
      const starter = yield* makeStarter(place)
      const error = yield* fails(starter.contend(), "DirectoryUnusable", place.home)
      assert.include(error.detail, "ENOSPC")
      assert.deepStrictEqual(names(place.home), [])

      empty(place)
      const leader = yield* leads(place, "free")
      const record = fs.readFileSync(place.lock)

      // No room for anything: its tombstone is there already.
      fill(place, 0)
      yield* leader.end
      assert.deepStrictEqual(names(place.home), ["lock"])
      const released = fs.readFileSync(place.lock)
      assert.notDeepEqual(released, record)
      yield* fails(starter.contend(), "DirectoryUnusable", place.home)
      assert.deepStrictEqual(names(place.home), ["lock"])
      assert.deepStrictEqual(fs.readFileSync(place.lock), released)

      empty(place)
      yield* leads(place, "released")
    })
  )

  itNeeds(needs.mounts)("that is full when the epoch must grow: the same", () =>
    Effect.gen(function* () {
      const place = yield* mounted("size=64k")
      // A page for the candidate's record, none for the one with the higher epoch.
      yield* plantDead(place, { epoch: Date.now() + 1_000_000 })
      fill(place, 1)
      const before = standing(place.lock)
      const starter = yield* makeStarter(place)
      const error = yield* fails(starter.contend(), "DirectoryUnusable", place.home)
      assert.include(error.detail, "ENOSPC")
      assert.deepStrictEqual(names(place.home), ["lock"])
      assert.strictEqual(standing(place.lock), before)
      empty(place)
      yield* leads(place, "dead")
    })
  )

  for (const start of ["without a record", "over the record of a dead owner"] as const) {
    itNeeds(needs.mounts)(`without inodes, ${start}: says so at each step, and leaves nothing`, () =>
      Effect.gen(function* () {
        const total = 24
        const place = yield* mounted(`size=1m,nr_inodes=${total}`)
        if (start !== "without a record") yield* plantDead(place)
        const before = names(place.home)
        const record = before.length === 0 ? "" : standing(place.lock)
        const starter = yield* makeStarter(place)
        const said: Array<string> = []
        for (let free = 0; ; free++) {
          assert.isBelow(free, total / 2, "it never leads")
          const ballast: Array<string> = []
          for (let index = 0; fs.statfsSync(place.directory).ffree > free; index++) {
            ballast.push(join(place.directory, `ballast.${index}`))
            fs.writeFileSync(ballast.at(-1)!, "")
          }
          const verdict = yield* Effect.either(Effect.scoped(starter.contend()))
          for (const name of ballast) fs.rmSync(name)
          if (Either.isRight(verdict)) break
          const { left: error } = verdict as { readonly left: LockError | ProtocolError }
          assert.include(["DirectoryUnusable", "Unavailable"], error.reason, error.message)
          assert.include(error.message, "ENOSPC")
          said.push(error.detail)
          assert.deepStrictEqual(names(place.home), before, error.detail)
          if (record !== "") assert.strictEqual(standing(place.lock), record)
        }
        // The witness, the endpoint, the candidate's record and its tombstone each had none left once.
        assert.isAtLeast(new Set(said.map((text) => text.replace(/[0-9a-f]{32}/g, ""))).size, 4, said.join("\n"))
        yield* leads(place, "released")
      })
    )
  }

  itNeeds(needs.mounts)("that is read-only: says so, and still serves those who need not write", () =>
    Effect.gen(function* () {
      const place = yield* mounted("size=1m")
      place.remount("ro")
      const starter = yield* makeStarter(place)
      const refused = yield* fails(starter.contend(), "DirectoryUnusable", place.directory)
      assert.include(refused.detail, "the file system is read-only (EROFS)")

      place.remount("rw")
      yield* plantDead(place)
      const before = snapshot(place.home)
      place.remount("ro")
      assert.include((yield* fails(starter.contend(), "DirectoryUnusable", place.home)).detail, "EROFS")
      assert.deepStrictEqual(snapshot(place.home), before)

      place.remount("rw")
      const leader = yield* leads(place, "dead")
      place.remount("ro")
      const verdict = yield* Effect.scoped(starter.contend())
      assert.strictEqual(verdict._tag, "Following")
      yield* leader.leading.check
      place.remount("rw")
    })
  )
})

// -------------------------------------------------------------------------------------
// damaged records
// -------------------------------------------------------------------------------------

interface Damage {
  readonly plant: (place: Place, bytes: Uint8Array) => void | Effect.Effect<void>
  /** What no rename can replace stays. */
  readonly heals?: false
  readonly need?: typeof posix
}

const write = (make: (bytes: Uint8Array) => Uint8Array | string): Damage => ({
  plant: ({ lock }, bytes) => fs.writeFileSync(lock, make(bytes), { mode: 0o600 })
})

const damages: { readonly [title: string]: Damage } = {
  "no bytes": write(() => ""),
  "the text of somebody else": write(() => "4711\n"),
  "zeros, as after a power failure": write((bytes) => new Uint8Array(bytes.length)),
  "a record and one byte more": write((bytes) => Buffer.concat([bytes, Buffer.from("\n")])),
  "a record behind a byte order mark": write((bytes) => Buffer.concat([Buffer.from("\ufeff"), bytes])),
  "a record and 64 KiB of blanks": write((bytes) => Buffer.concat([bytes, Buffer.alloc(65_536, " ")])),
  "a record and a hole of 100 MiB": {
    plant: ({ lock }, bytes) => {
      fs.writeFileSync(lock, bytes, { mode: 0o600 })
      fs.truncateSync(lock, 100 * 1_048_576)
    }
  },
  "a FIFO": {
    need: posix,
    plant: ({ lock }) => {
      assert.strictEqual(spawnSync("mkfifo", ["-m", "600", lock]).status, 0)
    }
  },
  "a directory": { plant: ({ lock }) => fs.mkdirSync(lock, { mode: 0o700 }), heals: false },
  "a link to the record of a dead owner": {
    need: posix,
    plant: ({ base, lock }, bytes) => {
      fs.writeFileSync(join(base, "target"), bytes, { mode: 0o600 })
      fs.symlinkSync(join(base, "target"), lock)
    }
  },
  "a link to nothing": { need: posix, plant: ({ base, lock }) => fs.symlinkSync(join(base, "nothing"), lock) },
  "a socket": {
    need: posix,
    // Closing it removes the name that it was bound to.
    plant: ({ home, lock }) =>
      Effect.async<void>((resume) => {
        const bound = join(home, "b")
        const server = net.createServer().listen(bound, () => {
          fs.renameSync(bound, lock)
          server.close(() => resume(Effect.void))
        })
      })
  }
}

const plantIt = (damage: Damage, place: Place, bytes: Uint8Array) =>
  Effect.suspend(() => damage.plant(place, bytes) ?? Effect.void)

const nonceOf = (starter: Starter) =>
  Effect.map(starter.inspect, (seen) => {
    if (seen._tag !== "Unreadable" && seen._tag !== "Newer") return assert.fail(`it is ${seen._tag}`)
    return seen.nonce
  })

describe("in place of the record", () => {
  for (const [title, damage] of Object.entries(damages)) {
    itNeeds(damage.need ?? posix)(
      `${title}: typed, untouched, and ${damage.heals === false ? "not to be broken" : "healed by a break"}`,
      () =>
        Effect.gen(function* () {
          const place = yield* makePlace()
          makeHome(place)
          yield* plantIt(damage, place, encode(yield* deadRecord(place)))
          const before = snapshot(place.base)
          const starter = yield* makeStarter(place)
          yield* fails(starter.contend(), "RecordUnreadable", place.lock)
          const nonce = yield* nonceOf(starter)
          yield* fails(starter.breakLock("0".repeat(32)), "BreakRefused", place.home)
          assert.deepStrictEqual(snapshot(place.base), before)

          const target = join(place.base, "target")
          const beside = fs.existsSync(target) ? standing(target) : ""
          const broken = starter.breakLock(nonce)
          if (damage.heals === false) {
            const there = standing(place.lock)
            yield* fails(broken, "DirectoryUnusable", place.home)
            yield* fails(starter.contend(), "RecordUnreadable", place.lock)
            assert.deepStrictEqual(names(place.home), ["lock"])
            assert.strictEqual(standing(place.lock), there)
            return
          }
          yield* broken
          assert.deepStrictEqual(names(place.home), ["lock"])
          yield* fails(starter.breakLock(nonce), "BreakRefused", place.home)
          yield* leads(place, "released")
          assert.strictEqual(fs.existsSync(target) ? standing(target) : "", beside)
          assert.isFalse(fs.existsSync(join(place.base, "nothing")))
        })
    )

    itNeeds(damage.need ?? posix)(`${title}, between the first look and the lock: typed, untouched, no litter`, () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const bytes = encode(yield* deadRecord(place))
        const starter = yield* makeStarter(place)
        let there = ""
        const planted = Effect.map(plantIt(damage, place, bytes), () => {
          there = standing(place.lock)
        })
        yield* fails(starter.contend(planted), "RecordUnreadable", place.lock)
        assert.deepStrictEqual(names(place.home), ["lock"])
        assert.strictEqual(standing(place.lock), there)
      })
    )
  }

  itNeeds(needs.linux)("a FIFO does not hold up a real launch @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      fs.mkdirSync(arena.home, { recursive: true, mode: 0o700 })
      const lock = join(arena.home, "lock")
      assert.strictEqual(spawnSync("mkfifo", [lock]).status, 0)
      const seen = yield* outcome(yield* arena.start("launch"))
      assert.deepStrictEqual(seen, { error: "LockError", reason: "RecordUnreadable", path: lock })
      assert.deepStrictEqual(names(arena.home), ["lock"])
      assert.isTrue(fs.lstatSync(lock).isFIFO())
    })
  )

  itNeeds(posix)("each beginning of a record: typed and untouched", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      makeHome(place)
      const bytes = encode(yield* deadRecord(place))
      const starter = yield* makeStarter(place)
      for (let length = 0; length < bytes.length; length++) {
        fs.writeFileSync(place.lock, bytes.subarray(0, length), { mode: 0o600 })
        const before = snapshot(place.home)
        yield* fails(starter.contend(), "RecordUnreadable", place.lock)
        assert.deepStrictEqual(snapshot(place.home), before, `${length} bytes`)
      }
      // The whole of it is a dead owner's.
      fs.writeFileSync(place.lock, bytes, { mode: 0o600 })
      yield* leads(place, "dead")
    })
  )

  itNeeds(posix)("a record with any bit changed: typed and untouched @large", () =>
    Effect.gen(function* () {
      const random = randomOf("changed bits")
      const place = yield* makePlace()
      makeHome(place)
      const bytes = encode(yield* deadRecord(place))
      const starter = yield* makeStarter(place)
      for (let round = 0; round < 1_000; round++) {
        const bit = Math.floor(random() * bytes.length * 8)
        const changed = Uint8Array.from(bytes)
        changed[bit >> 3]! ^= 1 << (bit & 7)
        fs.writeFileSync(place.lock, changed, { mode: 0o600 })
        const before = snapshot(place.home)
        // Another digit behind ESI is another version.
        const isNewer = bit >> 3 === 3 && /\d/.test(String.fromCharCode(changed[3]!))
        yield* fails(starter.contend(), isNewer ? "RecordNewer" : "RecordUnreadable", place.lock).pipe(
          Effect.tapErrorCause(() => Effect.log(`seed ${seed}, round ${round}, bit ${bit}`))
        )
        assert.deepStrictEqual(snapshot(place.home), before, `seed ${seed}, bit ${bit}`)
      }
      fs.writeFileSync(place.lock, bytes, { mode: 0o600 })
      yield* leads(place, "dead")
      console.log(`1,000 changed bits: STRESS_SEED=${seed}`)
    })
  )

  itNeeds(posix)("a later version's record: typed and untouched, until a person says that nobody lives", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      makeHome(place)
      for (const text of ["ESI2 ", "ESI2 what a later version writes\n{}", "ESI10 0\n", `ESI2 ${"x".repeat(60_000)}`]) {
        fs.writeFileSync(place.lock, text, { mode: 0o600 })
        const before = snapshot(place.home)
        const starter = yield* makeStarter(place)
        yield* fails(starter.contend(), "RecordNewer", place.lock)
        assert.strictEqual((yield* starter.inspect)._tag, "Newer")
        assert.deepStrictEqual(snapshot(place.home), before)
      }
      const starter = yield* makeStarter(place)
      yield* starter.breakLock(yield* nonceOf(starter))
      yield* leads(place, "released")
    })
  )

  itNeeds(posix)("garbage in the slot of a dead owner: typed, with its path, and untouched", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const { nonce } = yield* plantDead(place)
      const slot = join(place.home, `slot.${nonce}`)
      fs.writeFileSync(slot, "garbage", { mode: 0o600 })
      const [lockBefore, slotBefore] = [standing(place.lock), standing(slot)]
      const starter = yield* makeStarter(place)
      yield* fails(starter.contend(), "RecordUnreadable", slot)
      assert.deepStrictEqual(names(place.home), ["lock", `slot.${nonce}`])
      assert.deepStrictEqual([standing(place.lock), standing(slot)], [lockBefore, slotBefore])
      fs.rmSync(slot)
      yield* leads(place, "dead")
    })
  )

  itNeeds(posix)("garbage over a live owner is not broken while its witness answers", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const leader = yield* leads(place, "free")
      fs.writeFileSync(place.lock, "garbage")
      const starter = yield* makeStarter(place)
      const nonce = yield* nonceOf(starter)
      const before = snapshot(place.home)
      const error = yield* fails(starter.breakLock(nonce), "BreakRefused", place.home)
      assert.include(error.detail, `${witnessKind}.${leader.leading.record.nonce}`)
      yield* fails(starter.contend(), "RecordUnreadable", place.lock)
      assert.deepStrictEqual(snapshot(place.home), before)
      // Its end writes nothing over what is not its own.
      yield* leader.end
      assert.strictEqual(fs.readFileSync(place.lock, "utf8"), "garbage")
      assert.deepStrictEqual(names(place.home), ["lock"])
      yield* starter.breakLock(nonce)
      yield* leads(place, "released")
    })
  )

  itNeeds(posix)("a live owner's record is not broken", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const { leading } = yield* leads(place, "free")
      const before = snapshot(place.home)
      const starter = yield* makeStarter(place)
      const error = yield* failure(starter.breakLock(leading.record.nonce))
      assert.strictEqual(error.reason, "BreakRefused")
      assert.deepStrictEqual(snapshot(place.home), before)
    })
  )
})

// -------------------------------------------------------------------------------------
// outsiders
// -------------------------------------------------------------------------------------

class Work extends SingleInstance.Tag<Work>()("faults", { request: Schema.String, reply: Schema.String }) {}

const application = (place: Place, options?: StarterOptions) =>
  Work.layerWithoutDependencies({ id: place.id, protocol: UnixSocket.layer, fallback: "none" }).pipe(
    Layer.provide(layer(place, options))
  )

/** A primary that serves under its name until it is stopped or loses the lock, and then is slow to close. */
const makePrimary = (place: Place, name: string) =>
  Effect.gen(function* () {
    const led = yield* Deferred.make<Leading["took"]>()
    const interrupted = yield* Deferred.make<void>()
    const mayClose = yield* Deferred.make<void>()
    const fiber = yield* Work.enforce({
      request: name,
      primary: (primary) =>
        Effect.gen(function* () {
          yield* Effect.addFinalizer(() => Deferred.await(mayClose))
          yield* primary.serve(() => Effect.succeed(name))
          yield* Deferred.succeed(led, primary.took)
          return yield* Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined))
        })
    }).pipe(Effect.provide(application(place)), Effect.forkScoped)
    yield* Effect.addFinalizer(() => Deferred.succeed(mayClose, undefined))
    const exited = Effect.zipRight(Fiber.await(fiber), Effect.dieMessage(`${name} ended`))
    return {
      fiber,
      mayClose: Deferred.succeed(mayClose, undefined),
      isLeading: Deferred.isDone(led),
      leading: Effect.raceFirst(Deferred.await(led), exited),
      interrupted: Effect.raceFirst(Deferred.await(interrupted), exited)
    }
  })

/** Who answers. */
const send = (place: Place) =>
  Effect.flatMap(Work, (work) => work.send("hello")).pipe(
    Effect.map(({ reply }) => reply),
    Effect.provide(application(place))
  )

const within = (millis: number, what: string) =>
  Effect.timeoutFail({ duration: millis, onTimeout: () => `waited ${millis} ms in vain: ${what}` })

const ownNames = (place: Place, nonce: string) =>
  ["lock", ...["t", "e", "s", witnessKind].map((kind) => `${kind}.${nonce}`)].map((name) => join(place.home, name))

interface Outsider {
  readonly act: (place: Place, nonce: string) => Effect.Effect<void>
  readonly detail: RegExp
  /** Whom the next launch finds, while the old one still closes. */
  readonly next: "leads at once" | "waits for its end" | "needs a break"
  /** How it came by the lock: a primary that lost it tells its end where `lock` still holds its record. */
  readonly took: Leading["took"]
}

const outsiders: { readonly [title: string]: Outsider } = {
  "removes the record": {
    act: ({ lock }) => Effect.sync(() => fs.rmSync(lock)),
    detail: /removed/,
    next: "leads at once",
    took: "free"
  },
  "removes the directory": {
    act: ({ directory }) => Effect.sync(() => fs.rmSync(directory, { recursive: true })),
    detail: /removed/,
    next: "leads at once",
    took: "free"
  },
  "renames the directory": {
    act: ({ base, directory }) => Effect.sync(() => fs.renameSync(directory, join(base, "elsewhere"))),
    detail: /removed/,
    next: "leads at once",
    took: "free"
  },
  "puts a dead owner's record there": {
    act: (place) =>
      Effect.map(deadRecord(place), (record) => {
        fs.writeFileSync(join(place.base, "other"), encode(record), { mode: 0o600 })
        fs.renameSync(join(place.base, "other"), place.lock)
      }),
    detail: /replaced/,
    next: "leads at once",
    took: "dead"
  },
  "writes garbage over the record": {
    act: ({ lock }) => Effect.sync(() => fs.writeFileSync(lock, "garbage")),
    detail: /overwritten/,
    next: "needs a break",
    took: "released"
  },
  "truncates the record": {
    act: ({ lock }) => Effect.sync(() => fs.truncateSync(lock, 0)),
    detail: /overwritten/,
    next: "needs a break",
    took: "released"
  },
  "removes the witness": {
    act: ({ home }, nonce) => Effect.sync(() => fs.rmSync(join(home, `${witnessKind}.${nonce}`))),
    detail: /witness/,
    next: "waits for its end",
    took: "released"
  },
  "puts a file where the witness was": {
    act: ({ home }, nonce) =>
      Effect.sync(() => {
        const witness = join(home, `${witnessKind}.${nonce}`)
        fs.writeFileSync(`${witness}~`, "mine")
        fs.renameSync(`${witness}~`, witness)
      }),
    detail: /witness/,
    next: "waits for its end",
    took: "released"
  }
}

describe("an outsider under a live primary", () => {
  for (const [title, { act, detail, next, took }] of Object.entries(outsiders)) {
    itNeeds(posix)(`${title}: it is lost, and its late close harms no successor`, () =>
      reported(
        { area: "5", test: "files under a live primary", faults: `an outsider ${title}` },
        Effect.gen(function* () {
          const place = yield* makePlace()
          const old = yield* makePrimary(place, "old")
          yield* old.leading
          const { nonce } = Either.getOrThrow(decode(fs.readFileSync(place.lock)))
          assert.strictEqual(yield* send(place), "old")

          yield* act(place, nonce)
          const started = performance.now()
          // Due within 5 s; noticed by the directory's change at once, or else by the self-check.
          yield* old.interrupted.pipe(within(20_000, "the old one is interrupted"))
          const millis = Math.round(performance.now() - started)

          let successor = yield* makePrimary(place, "new")
          if (next === "leads at once") {
            yield* successor.leading.pipe(within(20_000, "the next one leads"))
          } else if (next === "needs a break") {
            const starter = yield* makeStarter(place)
            const unreadable = yield* nonceOf(starter)
            assert.strictEqual((yield* failure(Fiber.join(successor.fiber))).reason, "RecordUnreadable")
            yield* fails(starter.breakLock(unreadable), "BreakRefused", place.home)
            yield* old.mayClose
            yield* Fiber.await(old.fiber)
            yield* starter.breakLock(unreadable)
            successor = yield* makePrimary(place, "new")
            yield* successor.leading.pipe(within(20_000, "the next one leads"))
          } else {
            // Its work has not ended, and nothing proves the contrary.
            yield* Effect.sleep("500 millis")
            assert.isFalse(yield* successor.isLeading)
            yield* old.mayClose
            yield* successor.leading.pipe(within(20_000, "the next one leads"))
          }

          assert.strictEqual(yield* successor.leading, took)
          const record = Either.getOrThrow(decode(fs.readFileSync(place.lock)))
          assert.notStrictEqual(record.nonce, nonce)
          const own = ownNames(place, record.nonce)
          const before = own.map(standing)
          assert.strictEqual(yield* send(place), "new")

          yield* old.mayClose
          const error = yield* failure(Fiber.join(old.fiber))
          if (!LockError.is(error)) return assert.fail(String(error))
          assert.strictEqual(error.reason, "Lost")
          assert.match(error.detail, detail)
          // Time for a self-check of the successor.
          yield* Effect.sleep("600 millis")
          assert.deepStrictEqual(own.map(standing), before)
          assert.strictEqual(yield* send(place), "new")
          assert.deepStrictEqual(
            names(place.home).filter((name) => !name.endsWith(nonce)),
            own.map((name) => name.slice(place.home.length + 1)).sort()
          )
          yield* successor.mayClose
          return `lost after ${millis} ms`
        })
      )
    )
  }

  itNeeds(posix)("removes the socket: it is not lost, and listens anew", () =>
    reported(
      { area: "5", test: "files under a live primary", faults: "an outsider removes the socket" },
      Effect.gen(function* () {
        const place = yield* makePlace()
        const primary = yield* makePrimary(place, "old")
        yield* primary.leading
        const { endpoints, nonce } = Either.getOrThrow(decode(fs.readFileSync(place.lock)))
        fs.rmSync(join(place.home, endpoints[0]!.address.slice("unix:".length)))
        const started = performance.now()
        assert.strictEqual(yield* send(place), "old")
        const millis = Math.round(performance.now() - started)
        assert.strictEqual(Either.getOrThrow(decode(fs.readFileSync(place.lock))).nonce, nonce)
        assert.isTrue(Option.isNone(yield* Fiber.poll(primary.fiber)))
        yield* primary.mayClose
        return `a launch is served after ${millis} ms`
      })
    )
  )

  for (const title of ["removes the record", "removes the directory", "puts a dead owner's record there"] as const) {
    itNeeds(posix)(`${title}, and the old one closes before it sees that: the same`, () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const old = yield* leads(place, "free")
        const { nonce } = old.leading.record
        yield* outsiders[title]!.act(place, nonce)
        const successor = yield* makePrimary(place, "new")
        yield* successor.leading.pipe(within(20_000, "the next one leads"))
        const record = Either.getOrThrow(decode(fs.readFileSync(place.lock)))
        const own = ownNames(place, record.nonce)
        const before = own.map(standing)
        yield* old.end
        assert.deepStrictEqual(own.map(standing), before)
        assert.deepStrictEqual(kinds(place.home), serving)
        assert.strictEqual(yield* send(place), "new")
        yield* successor.mayClose
      })
    )
  }
})

// -------------------------------------------------------------------------------------
// names that are taken
// -------------------------------------------------------------------------------------

const occupants: { readonly [title: string]: (name: string) => void } = {
  "a regular file": (name) => fs.writeFileSync(name, "mine"),
  "a directory": (name) => fs.mkdirSync(name),
  "a FIFO": (name) => assert.strictEqual(spawnSync("mkfifo", [name]).status, 0),
  "a link to nothing": (name) => fs.symlinkSync(`${name}~`, name)
}

describe("in place of a file that a starter is about to make @large", () => {
  for (const [title, plant] of Object.entries(occupants)) {
    itNeeds(needs.linux)(`${title}: typed, and not deleted`, () =>
      Effect.gen(function* () {
        for (const kind of ["w", "s"] as const) {
          const place = yield* makePlace()
          makeHome(place)
          const nonce = randomBytes(16).toString("hex")
          const name = join(place.home, `${kind}.${nonce}`)
          plant(name)
          const before = standing(name)
          const error = yield* Effect.flatMap(Work, (work) => work.elect("hello")).pipe(
            Effect.scoped,
            Effect.provide(application(place, { nonce })),
            within(20_000, "an election that fails"),
            failure
          )
          if (typeof error === "string") return assert.fail(error)
          if (kind === "w") {
            assert.deepInclude({ ...error }, { _tag: "LockError", reason: "DirectoryUnusable" })
            assert.include(error.message, `w.${nonce}`)
          } else {
            assert.deepInclude({ ...error }, { _tag: "ProtocolError", reason: "AllFailed" })
            assert.deepStrictEqual(
              error.attempts.map(({ protocol, reason }) => [protocol, reason]),
              [["unix", "EndpointOccupied"]]
            )
          }
          assert.deepStrictEqual(names(place.home), [`${kind}.${nonce}`])
          assert.strictEqual(standing(name), before)
          // Nobody else is held up by it.
          const starter = yield* makeStarter(place)
          yield* starter.lead
          assert.strictEqual(standing(name), before)
        }
      })
    )
  }
})

// -------------------------------------------------------------------------------------
// descriptors
// -------------------------------------------------------------------------------------

const limited = (arena: Arena, limit: number) =>
  Effect.gen(function* () {
    const through = ["sh", "-c", `ulimit -n ${limit}; exec "$@"`, "sh"]
    const contender = yield* arena.start("launch", { through })
    const end = yield* Effect.raceFirst(
      Effect.as(contender.waitFor("begin"), "leads"),
      Effect.map(contender.ended, ({ code, signal }) => `code ${code}, signal ${signal}`)
    )
    const crash = contender.entries.find(({ event }) => event === "crashed")
    assert.isUndefined(crash, `limit ${limit}: ${crash?.text}`)
    // With still fewer, Node itself does not come up.
    if (contender.entries.length === 0) return "nothing"
    const entry = contender.entries.find(({ event }) => event === "outcome")
    if (end === "leads" || entry?.outcome === "Delivered") return "served"
    assert.isDefined(entry, `limit ${limit}: ${end}`)
    return `${entry.error} ${entry.reason}: ${entry.text}`
  })

/** Launches with more and more descriptors, until two in a row have enough; what they said. */
const withMore = (attempt: (limit: number) => Effect.Effect<string>) =>
  Effect.gen(function* () {
    const said: Array<string> = []
    for (let limit = 20; said.at(-1) !== "served" || said.at(-2) !== "served"; limit++) {
      assert.isBelow(limit, 64, said.join("\n"))
      said.push(yield* attempt(limit))
    }
    assert.isTrue(
      said.some((text) => /LockError|ProtocolError|TimeoutError/.test(text)),
      said.join("\n")
    )
    return said
  })

describe("with few descriptors @large", () => {
  itNeeds(needs.linux)("a launch leads, or says so and leaves nothing behind", () =>
    withMore((limit) =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const said = yield* limited(arena, limit)
        // Where one protocol could not listen, the other did.
        if (said === "served") assert.includeMembers([...kindsOfPrimary], [...kinds(arena.home)], `limit ${limit}`)
        else assert.deepStrictEqual(kinds(arena.home), [], `limit ${limit}: ${said}`)
        return said
      }).pipe(Effect.scoped)
    )
  )

  itNeeds(needs.linux)("a launch is served by the primary, or says so; it never takes over", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* arena.start("launch")
      yield* primary.waitFor("begin")
      // Over the mailbox a launch has a folder of its own there for a while; the primary removes that of one that died.
      const seen = () => ({ ...snapshot(arena.home), [join(arena.home, "mail")]: "" })
      const before = seen()
      yield* withMore((limit) => Effect.scoped(limited(arena, limit)))
      yield* until("what was there before", () => isDeepStrictEqual(seen(), before), seen)
      yield* arena.consistent()
    })
  )
})

// -------------------------------------------------------------------------------------
// litter
// -------------------------------------------------------------------------------------

describe("a new leader", () => {
  itNeeds(posix)("removes what the dead left, and nothing else", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* plantDead(place)
      const random = () => randomBytes(16).toString("hex")
      const plant = (name: string, bytes: Uint8Array | string) =>
        fs.writeFileSync(join(place.home, name), bytes, { mode: 0o600 })
      const dead = yield* deadRecord(place)
      plant(`slot.${random()}`, encode(dead))
      plant(`slot.${random()}`, "garbage")
      plant(`t.${dead.nonce}`, encode(dead))
      plant(`s.${dead.nonce}`, "")
      const living = new InstanceRecord({ ...dead, nonce: random(), process: (yield* place.table.spawn()).identity })
      const kept = {
        [`t.${living.nonce}`]: encode(living),
        [`s.${living.nonce}`]: "",
        // It may belong to a starter that has still to write its record.
        [`w.${random()}`]: "",
        "notes.txt": "mine",
        "slot.txt": "mine"
      }
      for (const [name, bytes] of Object.entries(kept)) plant(name, bytes)
      const before = Object.keys(kept).map((name) => standing(join(place.home, name)))
      const starter = yield* makeStarter(place)
      const { record } = yield* starter.lead
      const own = ownNames(place, record.nonce).map((name) => name.slice(place.home.length + 1))
      assert.deepStrictEqual(names(place.home), [...own, ...Object.keys(kept)].sort())
      assert.deepStrictEqual(
        Object.keys(kept).map((name) => standing(join(place.home, name))),
        before
      )
    })
  )
})

describe("20 contenders @large", () => {
  for (const start of ["over nothing", "over a dead owner"] as const) {
    itNeeds(posix)(`${start}: one leads, and the others leave nothing behind`, () =>
      Effect.gen(function* () {
        for (let round = 0; round < 3; round++) {
          const place = yield* makePlace()
          if (start === "over a dead owner") yield* plantDead(place)
          const starters = yield* Effect.replicateEffect(makeStarter(place), 20)
          const verdicts = yield* Effect.forEach(starters, (starter) => starter.contend(), { concurrency: "unbounded" })
          const leaders = verdicts.filter(({ _tag }) => _tag === "Leading")
          assert.lengthOf(leaders, 1)
          assert.deepStrictEqual(
            names(place.home),
            ownNames(place, leaders[0]!.record.nonce)
              .map((name) => name.slice(place.home.length + 1))
              .sort()
          )
          assert.isTrue(verdicts.every(({ record }) => record.nonce === leaders[0]!.record.nonce))
        }
      })
    )

    itNeeds(posix)(`${start}, interrupted at any time: all that is left is a record`, () =>
      Effect.gen(function* () {
        const random = randomOf(`interrupted ${start}`)
        for (let round = 0; round < 5; round++) {
          const place = yield* makePlace()
          if (start === "over a dead owner") yield* plantDead(place)
          else makeHome(place)
          const starters = yield* Effect.replicateEffect(makeStarter(place), 20)
          yield* Effect.forEach(
            starters,
            (starter) => Effect.scoped(starter.contend()).pipe(Effect.timeoutOption(random() * 30)),
            { concurrency: "unbounded" }
          )
          const left = names(place.home)
          assert.includeDeepMembers([[], ["lock"]], [left], `seed ${seed}, round ${round}`)
          yield* makeStarter(place).pipe(Effect.flatMap((starter) => starter.lead))
          assert.deepStrictEqual(kinds(place.home), serving)
        }
      })
    )
  }
})
