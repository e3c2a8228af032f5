/**
 * Where the lock lives in environments of all kinds: umasks, user namespaces, volumes, groups, a user database that fails,
 * a working directory that is gone. Real users, mounts and namespaces.
 */
import { spawnSync } from "node:child_process"
import { randomUUID } from "node:crypto"
import * as fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import os from "node:os"
import { dirname, join } from "node:path"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema, type Scope } from "effect"
import { FileMailbox, Instance, Message, NodeLockFiles, SingleInstance, UnixSocket } from "effect-single-instance"
import { folderName } from "effect-single-instance/InstanceId"
import { launch as quickLaunch } from "effect-single-instance/launch"
import { LockError } from "effect-single-instance/SingleInstanceError"
import {
  type Arena,
  assertDelivered,
  assertFailed,
  begin,
  type Contender,
  hook,
  itNeeds,
  launch,
  makeArena,
  needs,
  type StartOptions,
  until
} from "./contenders.js"
import { largeIf } from "./size.js"

const uid = 12_345
const stranger = 65_533

/** The words before a program that another user runs. */
const as = (user: number, group = user, ...groups: ReadonlyArray<number>) => [
  "setpriv",
  "--reuid",
  `${user}`,
  "--regid",
  `${group}`,
  ...(groups.length === 0 ? ["--clear-groups"] : ["--groups", groups.join(",")])
]

const inShell = (script: string) => ["sh", "-c", `${script}\nexec "$@"`, "sh"]

const folder = (name: string, mode: number, owner = uid, group = owner) => {
  fs.mkdirSync(name, { recursive: true })
  fs.chownSync(name, owner, group)
  // Last, since chown(2) takes setgid away.
  fs.chmodSync(name, mode)
}

const modeOf = (name: string) => (fs.statSync(name).mode & 0o777).toString(8)

/** An arena whose logs every user can write, and whose directory is the user's. */
const openArena = Effect.tap(makeArena, (arena) =>
  Effect.sync(() => {
    fs.chmodSync(arena.base, 0o755)
    fs.chmodSync(arena.logs, 0o777)
    folder(arena.directory, 0o755)
  })
)

/** How a launch was refused; it must be an error of the lock, and not a defect. */
const refused = (arena: Arena, options: StartOptions, reason: LockError["reason"]) =>
  Effect.gen(function* () {
    const launched = yield* arena.start("launch", options)
    const entry = yield* launched.waitFor("outcome")
    assertFailed(entry, { error: "LockError", reason, outcome: "NotDelivered" })
    yield* launched.ended
    return { path: entry.path as string | undefined, text: String(entry.text) }
  })

// -------------------------------------------------------------------------------------
// umasks
// -------------------------------------------------------------------------------------

describe("a umask", () => {
  for (const umask of ["0177", "0777", "0000"]) {
    itNeeds(needs.otherUser)(`of ${umask}: what is created has mode 0700, what was there stays as it is @large`, () =>
      Effect.gen(function* () {
        const arena = yield* openArena
        const directory = join(arena.directory, "deep", "deeper")
        const options: StartOptions = { directory, through: [...as(uid), ...inShell(`umask ${umask}`)] }
        const [one, two] = yield* Effect.all([arena.start("standby", options), arena.start("standby", options)], {
          concurrency: 2
        })
        const leader: Contender = yield* Effect.raceFirst(
          Effect.as(one.waitFor("begin"), one),
          Effect.as(two.waitFor("begin"), two)
        )
        assertDelivered(yield* launch(arena, { directory, through: as(uid) }), leader)
        for (const name of [dirname(directory), directory, join(directory, folderName(arena.id))]) {
          assert.strictEqual(modeOf(name), "700", name)
        }
        assert.strictEqual(modeOf(arena.directory), "755")
        yield* leader.kill
        const next = leader === one ? two : one
        assert.deepInclude({ ...(yield* next.waitFor("begin")) }, { took: "dead" })
        yield* arena.consistent()
      })
    )
  }

  for (const planted of ["the folder", "a parent"] as const) {
    itNeeds(needs.otherUser)(`has left ${planted} unusable for a moment: a launch waits, but not for ever @large`, () =>
      Effect.gen(function* () {
        const arena = yield* openArena
        const through = as(uid)
        const directory = join(arena.directory, "own")
        const home = join(directory, folderName(arena.id))
        const unfinished = planted === "the folder" ? home : directory
        folder(directory, 0o700)
        folder(unfinished, 0o600)
        // The canary: its creator has died, so that it stays as it is.
        const { path, text } = yield* refused(arena, { directory, through }, "DirectoryUnusable")
        assert.strictEqual(path, unfinished)
        assert.include(text, planted === "the folder" ? "its mode is 0600, not 0700" : "permission denied (EACCES)")
        assert.strictEqual(modeOf(unfinished), "600")
        // As the launch looks at it for the first time, and 50 ms later its creator corrects it.
        const correcting = hook(`
          import fs from "node:fs"
          import { syncBuiltinESMExports } from "node:module"
          const { lstatSync } = fs
          let seen = false
          fs.lstatSync = (name, options) => {
            if (String(name).startsWith(${JSON.stringify(home)}) && !seen) {
              seen = true
              setTimeout(() => fs.chmodSync(${JSON.stringify(unfinished)}, 0o700), 50)
            }
            return lstatSync(name, options)
          }
          syncBuiltinESMExports()`)
        yield* begin(arena, { directory, through, ...correcting })
        yield* arena.consistent()
      })
    )
  }
})

// -------------------------------------------------------------------------------------
// user namespaces
// -------------------------------------------------------------------------------------

// /tmp belongs to an unmapped user in a user namespace, and everybody may write to it.
const placeOutsideTmp: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => {
    const place = fs.mkdtempSync("/run/esi-")
    fs.chmodSync(place, 0o755)
    return place
  }),
  (place) => Effect.sync(() => fs.rmSync(place, { recursive: true, force: true }))
)

const userNamespaces = {
  met:
    needs.otherUser.met &&
    spawnSync("setpriv", [...as(uid).slice(1), "unshare", "-U", "--map-current-user", "true"]).status === 0,
  text: "the right to make user namespaces as another user"
}

describe("a user namespace", () => {
  const mapped = [...as(uid), "unshare", "-U", "--map-current-user"]
  const unmapped = [...as(uid), "unshare", "-U"]

  for (const [title, inside] of [
    ["in which root has no number", mapped],
    ["in which nobody has a number", unmapped]
  ] as const) {
    itNeeds(userNamespaces)(`${title}: the lock works, also with those outside @large`, () =>
      Effect.gen(function* () {
        const arena = yield* openArena
        const directory = join(yield* placeOutsideTmp, "own")
        folder(directory, 0o755)
        const primary = yield* begin(arena, { directory, through: inside })
        for (const through of [inside, as(uid)]) {
          assertDelivered(yield* launch(arena, { directory, through }), primary)
        }
        yield* primary.kill
        const outside = yield* begin(arena, { directory, through: as(uid) })
        assertDelivered(yield* launch(arena, { directory, through: inside }), outside)
        yield* arena.consistent()
      })
    )
  }

  itNeeds(userNamespaces)("refuses a parent without a number that others may write to @large", () =>
    Effect.gen(function* () {
      const arena = yield* openArena
      const place = yield* placeOutsideTmp
      for (const mode of [0o777, 0o775, 0o1777]) {
        const directory = join(place, mode.toString(8))
        folder(directory, mode, 0)
        for (const through of [mapped, unmapped]) {
          const { path, text } = yield* refused(arena, { directory, through }, "DirectoryInsecure")
          assert.strictEqual(path, directory, text)
        }
      }
      // The sticky one is as good as /tmp where root is seen as root.
      yield* begin(arena, { directory: join(place, "1777"), through: as(uid) })
    })
  )

  itNeeds(userNamespaces)("refuses the instance's folder where that is another user's without a number @large", () =>
    Effect.gen(function* () {
      const arena = yield* openArena
      const directory = join(yield* placeOutsideTmp, "own")
      folder(directory, 0o755)
      const home = join(directory, folderName(arena.id))
      folder(home, 0o700, stranger)
      assert.strictEqual((yield* refused(arena, { directory, through: mapped }, "DirectoryInsecure")).path, home)
      // Where everybody looks like us, permission decides.
      const nobody = yield* refused(arena, { directory, through: unmapped }, "DirectoryUnusable")
      assert.strictEqual(nobody.path, home)
      assert.deepStrictEqual(fs.readdirSync(home), [])
    })
  )

  // The canary: a number that is not root's must not count as root's.
  itNeeds(userNamespaces)("in which root has its number refuses the parents of those who have none", () =>
    Effect.gen(function* () {
      const arena = yield* openArena
      const directory = join(yield* placeOutsideTmp, "own")
      folder(directory, 0o755, stranger)
      const { path } = yield* refused(
        arena,
        { directory, through: ["unshare", "-U", "--map-root-user"] },
        "DirectoryInsecure"
      )
      assert.strictEqual(path, directory)
    })
  )
})

// -------------------------------------------------------------------------------------
// volumes whose mode is not ours to choose
// -------------------------------------------------------------------------------------

describe("a volume", () => {
  const config = { trustDirectory: true }
  for (const mode of [0o777, 0o2775]) {
    itNeeds(needs.otherUser)(
      `with mode ${mode.toString(8)} is used where trustDirectory says so, and only there${largeIf(mode !== 0o777)}`,
      () =>
        Effect.gen(function* () {
          const arena = yield* openArena
          const directory = join(arena.base, "volume")
          folder(directory, mode, 0, 4_321)
          const through = as(uid, uid, 4_321)
          const given: StartOptions = { directory, through }
          const { path, text } = yield* refused(arena, given, "DirectoryInsecure")
          assert.strictEqual(path, directory)
          assert.include(text, "trustDirectory")
          assert.deepStrictEqual(fs.readdirSync(directory), [])

          const primary = yield* begin(arena, { ...given, config })
          assertDelivered(yield* launch(arena, { ...given, config }), primary)
          const home = join(directory, folderName(arena.id))
          assert.strictEqual(modeOf(home), "700")
          assert.strictEqual(fs.statSync(home).uid, uid)
          // Missing parents are created in it.
          const deeper = { ...given, directory: join(directory, "deep", "deeper"), id: `${arena.id} 2`, config }
          yield* begin(arena, { ...deeper, kernel: deeper.id })
          assert.strictEqual(modeOf(join(directory, "deep")), "700")
        })
    )
  }

  itNeeds(needs.otherUser)("does not make the instance's own folder anybody else's @large", () =>
    Effect.gen(function* () {
      const arena = yield* openArena
      const directory = join(arena.base, "volume")
      folder(directory, 0o777, 0)
      const home = join(directory, folderName(arena.id))
      const plants = [
        () => folder(home, 0o700, stranger),
        () => folder(home, 0o755),
        () => folder(home, 0o2770),
        () => {
          folder(join(directory, "target"), 0o700)
          fs.symlinkSync("target", home)
          fs.lchownSync(home, uid, uid)
        }
      ]
      for (const plant of plants) {
        plant()
        const { path } = yield* refused(arena, { directory, through: as(uid), config }, "DirectoryInsecure")
        assert.strictEqual(path, home)
        fs.rmSync(home, { recursive: true })
      }
    })
  )

  it.scopedLive("must be named: trustDirectory alone is a typed error", () =>
    Effect.gen(function* () {
      const instance = yield* instanceOf({ id: `alone ${randomUUID()}`, trustDirectory: true })
      const error = yield* Effect.flip(instance.inspect)
      assert.strictEqual(error.reason, "DirectoryUnusable")
      assert.include(error.message, "`trustDirectory` is given without a `directory`")
      const refused = yield* Effect.flip(Effect.tryPromise(() => quickLaunch({ id: "alone", trustDirectory: true })))
      assert.include(String(refused.error), "`trustDirectory` is given without a `directory`")
    })
  )

  itNeeds(needs.root)("is used by a launch without the library, too @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const directory = join(arena.base, "volume")
      folder(directory, 0o777, stranger)
      const primary = yield* begin(arena, { directory, config })
      const request = { message: "quick", work: 0 }
      const untrusting = yield* Effect.promise(() => quickLaunch({ id: arena.id, directory, request }))
      assert.deepInclude(untrusting, { _tag: "Candidate" })
      assert.include("reason" in untrusting ? untrusting.reason : "", directory)
      const verdict = yield* Effect.promise(() =>
        quickLaunch({ id: arena.id, directory, trustDirectory: true, request })
      )
      assert.deepInclude(verdict, { exit: { _tag: "Success", value: { by: primary.who } } }, JSON.stringify(verdict))
    })
  )
})

// -------------------------------------------------------------------------------------
// the user database
// -------------------------------------------------------------------------------------

/** The words before a program that sees other users and groups. */
const withDatabase = (
  arena: Arena,
  files: { readonly passwd: string; readonly group?: string; readonly mode?: number }
) => {
  const mounts = (["passwd", "group"] as const).flatMap((name) => {
    const text = files[name]
    if (text === undefined) return []
    const file = join(arena.base, `${name}.${randomUUID()}`)
    fs.writeFileSync(file, text)
    fs.chmodSync(file, files.mode ?? 0o644)
    return [`mount --bind '${file}' /etc/${name} || exit 99`]
  })
  return ["unshare", "-m", ...inShell(mounts.join("\n"))]
}

const mountsAndUsers = {
  met: needs.mounts.met && needs.otherUser.met,
  text: `${needs.mounts.text} and ${needs.otherUser.text}`
}

describe("a parent that the group may write to", () => {
  const gid = 23_456
  const passwd = `root:x:0:0::/root:/bin/sh\nana:x:${uid}:${gid}::/home/ana:/bin/sh\nbob:x:12346:12346::/home/bob:/bin/sh\n`
  const same = passwd.replace(`${gid}`, `${uid}`)
  const cases: {
    readonly [title: string]: { readonly passwd?: string; readonly group: string; readonly gid?: number }
  } = {
    // Its number is that of the user, which is not enough.
    "that has another member": { passwd: same, group: `ana:x:${uid}:bob\n`, gid: uid },
    "that is another user's primary one": {
      passwd: `${same}eve:x:12347:${uid}::/:\n`,
      group: `ana:x:${uid}:\n`,
      gid: uid
    },
    "that carries another name": { group: `staff:x:${gid}:\n` },
    "that is not the primary one": { group: `users:x:${gid}:\nana:x:34567:\n`, gid: 34_567 },
    "that has the user's number, but is not the primary one": { group: `ana:x:${uid}:\n`, gid: uid },
    "that the group file does not have": { group: "root:x:0:\n" },
    "of a user whom the user file does not have": { passwd: "root:x:0:0::/root:/bin/sh\n", group: `ana:x:${gid}:\n` }
  }
  for (const [title, files] of Object.entries(cases)) {
    itNeeds(mountsAndUsers)(`${title} is refused @large`, () =>
      Effect.gen(function* () {
        const arena = yield* openArena
        const group = files.gid ?? gid
        folder(arena.directory, 0o775, uid, group)
        const through = [...withDatabase(arena, { passwd, ...files }), ...as(uid, group)]
        const { path, text } = yield* refused(arena, { through }, "DirectoryInsecure")
        assert.strictEqual(path, arena.directory)
        assert.include(text, `group ${group} may write to it`)
      })
    )
  }

  itNeeds(mountsAndUsers)("that is the user's private one is accepted, whatever its number @large", () =>
    Effect.gen(function* () {
      const arena = yield* openArena
      folder(arena.directory, 0o775, uid, gid)
      const group = `root:x:0:\nana:x:${gid}:ana\nstaff:x:50:ana,bob\n`
      yield* begin(arena, { through: [...withDatabase(arena, { passwd, group }), ...as(uid, gid)] })
      yield* arena.consistent()
    })
  )
})

describe("the user database", () => {
  itNeeds(mountsAndUsers)("that cannot be read is a typed error, and not another directory @large", () =>
    Effect.gen(function* () {
      const arena = yield* openArena
      const other = `/tmp/effect-single-instance-${uid}`
      assert.isFalse(fs.existsSync(other))
      yield* Effect.addFinalizer(() => Effect.sync(() => fs.rmSync(other, { recursive: true, force: true })))
      // To the C library that is the same as no entry.
      const through = [...withDatabase(arena, { passwd: "", mode: 0o600 }), ...as(uid)]
      const { path, text } = yield* refused(arena, { directory: undefined, through }, "DirectoryUnusable")
      assert.isUndefined(path)
      assert.include(text, "the user database cannot be read: permission denied (EACCES)")
      assert.isFalse(fs.existsSync(other))
      // The canary: it is used where the database says that there is no such user.
      const known = withDatabase(arena, { passwd: "root:x:0:0::/root:/bin/sh\n" })
      yield* begin(arena, { directory: undefined, through: [...known, ...as(uid)] })
      assert.isTrue(fs.existsSync(other))
    })
  )

  const systemError = (code: string) =>
    Object.assign(new Error(`A system error occurred: uv_os_get_passwd returned ${code}`), {
      code: "ERR_SYSTEM_ERROR",
      info: { code, syscall: "uv_os_get_passwd" }
    })
  const withUserInfo = (userInfo: () => unknown) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        const before = os.userInfo
        os.userInfo = userInfo as typeof os.userInfo
        syncBuiltinESMExports()
        return before
      }),
      (before) =>
        Effect.sync(() => {
          os.userInfo = before
          syncBuiltinESMExports()
        })
    )

  // The last one is what the C library says of a moment in which it could not open the file: the user has an entry.
  for (const code of ["EMFILE", "EIO", "ENOMEM", "ENOENT"]) {
    itNeeds(needs.home)(`that fails with ${code} for a moment is a typed error everywhere`, () =>
      Effect.gen(function* () {
        yield* withUserInfo(() => {
          throw systemError(code)
        })
        const id = `failing ${randomUUID()}`
        const instance = yield* instanceOf({ id })
        const operations = [
          Effect.scoped(instance.elect(undefined)),
          Effect.scoped(instance.standby()),
          instance.send(undefined),
          instance.inspect,
          instance.breakLock("0".repeat(32))
        ]
        for (const operation of operations) {
          const error = yield* Effect.flip(operation as Effect.Effect<unknown, unknown>)
          assert.isTrue(LockError.is(error), String(error))
          assert.deepInclude({ ...(error as LockError) }, { reason: "DirectoryUnusable" })
          assert.include(String(error), "the user database cannot be read")
        }
        const verdict = yield* Effect.promise(() => quickLaunch({ id }))
        assert.strictEqual(verdict._tag, "Candidate")
        assert.include("reason" in verdict ? verdict.reason : "", "the user database cannot be read")
      })
    )
  }

  for (const homedir of ["", "relative"]) {
    itNeeds(needs.linux)(`that names the home directory "${homedir}" gives the same place in each directory`, () =>
      Effect.gen(function* () {
        yield* withUserInfo(() => ({ homedir }))
        assert.strictEqual(NodeLockFiles.defaultDirectory(), `/tmp/effect-single-instance-${process.geteuid!()}`)
      })
    )
  }
})

// -------------------------------------------------------------------------------------
// a process that changes
// -------------------------------------------------------------------------------------

describe("a process", () => {
  itNeeds(needs.otherUser)(
    "that gives up its privileges after its imports uses the lock as the user that it becomes @large",
    () =>
      Effect.gen(function* () {
        const arena = yield* openArena
        const drop = `process.setgroups([]); process.setgid(${uid}); process.setuid(${uid})`
        const daemon = yield* arena.start("rounds", hook(`process.on("SIGUSR2", () => { ${drop} })`))
        yield* daemon.waitFor("ready")
        yield* daemon.signal("SIGUSR2")
        const status = `/proc/${yield* daemon.pid}/status`
        yield* until("another user", () => fs.readFileSync(status, "utf8").includes(`Uid:\t${uid}\t${uid}`))
        yield* daemon.say("{}")
        yield* daemon.waitFor("begin")
        assert.strictEqual(fs.statSync(join(arena.home, "lock")).uid, uid)
        assertDelivered(yield* launch(arena, { through: as(uid) }), daemon)
        yield* arena.consistent()
      })
  )

  const goneDirectory = inShell("mkdir -p gone && cd gone && rmdir ../gone")
  itNeeds(needs.linux)("whose working directory is gone leads and hands over @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const inGone: StartOptions = { through: goneDirectory, cwd: arena.base }
      const primary = yield* begin(arena, inGone)
      assertDelivered(yield* launch(arena, inGone), primary)
      const relative = yield* refused(arena, { ...inGone, directory: "locks" }, "DirectoryUnusable")
      assert.include(relative.text, `"locks" is relative, and the current working directory no longer exists`)
    })
  )

  const inherited = ["constructor", "toString", "__proto__", "hasOwnProperty", "valueOf"]
  it.scopedLive("passes on variables by their own names only, also such as every object has", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(Instance.currentLaunch({ env: [...inherited, "ESI_MISSING"] }).env, {})
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          for (const name of inherited) process.env[name] = `the value of ${name}`
        }),
        () =>
          Effect.sync(() => {
            for (const name of inherited) delete process.env[name]
          })
      )
      const expected = inherited.map((name) => [name, `the value of ${name}`])
      const launched = Instance.currentLaunch({ env: inherited })
      assert.deepStrictEqual(Object.entries(launched.env), expected)
      const read = Schema.decodeUnknownSync(Message.Launch)(
        JSON.parse(JSON.stringify(Schema.encodeSync(Message.Launch)(launched)))
      )
      assert.deepStrictEqual(Object.entries(read.env), expected)

      for (const encoding of ["json", "msgpack"] as const) {
        for (const protocol of [UnixSocket.layer, FileMailbox.layer]) {
          const arena = yield* makeArena
          const { directory, id } = arena
          const make = instanceOf({ id, directory, protocol, fallback: "none", encoding })
          const seen: Array<unknown> = []
          const primary = yield* (yield* make).elect(undefined)
          if (primary._tag !== "Primary") return assert.fail("it does not lead")
          yield* primary.serve((_, { env }) => {
            seen.push(...Object.entries(env))
            return Effect.succeed(0)
          })
          yield* (yield* make).send(undefined, { launch: { env: inherited } })
          assert.deepStrictEqual(seen, expected)
          seen.length = 0
          if (protocol !== UnixSocket.layer) continue
          yield* Effect.promise(() => quickLaunch({ id, directory, env: inherited }))
          assert.deepStrictEqual(seen, expected)
        }
      }
    })
  )
})

/** The library's service with all it is made of, in the scope of the test. */
const instanceOf = (options: Parameters<typeof SingleInstance.SingleInstance.layer>[0]) =>
  Effect.map(
    Layer.build(Layer.provide(SingleInstance.SingleInstance.layer(options), NodeContext.layer)),
    (context) =>
      context.unsafeMap.get(SingleInstance.SingleInstance.key) as typeof SingleInstance.SingleInstance.Service
  )

// -------------------------------------------------------------------------------------
// ids
// -------------------------------------------------------------------------------------

describe("an id", () => {
  const wrong = { "": "must not be empty", ["x".repeat(1_025)]: "1025", ["\ud800".repeat(70_000)]: "70000" }
  for (const [id, detail] of Object.entries(wrong)) {
    it.scopedLive(`of ${id.length} characters is a typed error of every operation`, () =>
      Effect.gen(function* () {
        const { directory } = yield* makeArena
        const instance = yield* instanceOf({ id, directory })
        const operations = [
          Effect.scoped(instance.elect(undefined)),
          Effect.scoped(instance.standby()),
          instance.send(undefined),
          Effect.scoped(instance.connect),
          instance.inspect,
          instance.breakLock("0".repeat(32)),
          Effect.provide(
            SingleInstance.Leadership,
            Layer.provide(SingleInstance.layerPrimary({ id, directory }), NodeContext.layer)
          )
        ]
        for (const operation of operations) {
          const error = yield* Effect.flip(operation as Effect.Effect<unknown, unknown>)
          assert.isTrue(LockError.is(error), String(error))
          assert.strictEqual((error as LockError).reason, "IdInvalid")
          assert.include((error as LockError).message, detail)
          assert.isBelow((error as LockError).message.length, 2_000)
        }
        const refused = yield* Effect.flip(Effect.tryPromise(() => quickLaunch({ id, directory })))
        assert.include(String(refused.error), detail)
        assert.isFalse(fs.existsSync(directory))
      })
    )
  }

  const right = { "lone surrogates": "\ud800", NUL: "\0", "letters of three bytes": "語", quotes: '"' }
  for (const [title, unit] of Object.entries(right)) {
    it.scopedLive(`of 1,024 ${title} works${largeIf(title !== "NUL")}`, () =>
      Effect.gen(function* () {
        for (const protocol of [UnixSocket.layer, FileMailbox.layer]) {
          const { directory } = yield* makeArena
          const id = unit.repeat(1_024)
          const make = instanceOf({ id, directory, protocol, fallback: "none", encoding: "msgpack" })
          const primary = yield* (yield* make).elect(undefined)
          if (primary._tag !== "Primary") return assert.fail("it does not lead")
          yield* primary.serve(() => Effect.succeed(7))
          assert.strictEqual((yield* (yield* make).send(undefined)).reply, 7)
          if (protocol !== UnixSocket.layer) continue
          const verdict = yield* Effect.promise(() => quickLaunch({ id, directory }))
          assert.deepInclude(verdict, { exit: { _tag: "Success", value: 7 } }, JSON.stringify(verdict))
        }
      })
    )
  }
})

// -------------------------------------------------------------------------------------
// what the system lacks
// -------------------------------------------------------------------------------------

describe("a system", () => {
  itNeeds(needs.mounts)("without /proc: a launch says so @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const through = ["unshare", "-m", ...inShell("mount -t tmpfs none /proc || exit 99")]
      const { text } = yield* refused(arena, { through }, "SystemUnsupported")
      assert.include(text, "/proc is not mounted")
    })
  )

  itNeeds(needs.linux)("without Unix sockets: a launch says so @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const without = hook(`
        import net from "node:net"
        net.Server.prototype.listen = function () {
          const error = Object.assign(new Error("listen EAFNOSUPPORT"), { code: "EAFNOSUPPORT" })
          process.nextTick(() => this.emit("error", error))
          return this
        }`)
      const { text } = yield* refused(arena, without, "SystemUnsupported")
      assert.include(text, "Unix sockets (AF_UNIX) cannot be used here (EAFNOSUPPORT)")
    })
  )
})
