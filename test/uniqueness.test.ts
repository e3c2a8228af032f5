/**
 * What counts as one: an id, whatever the environment says; a process, whatever threads, copies, workers and children it has.
 */
import { execFile, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { NodeLockFiles } from "effect-single-instance"
import { folderName } from "effect-single-instance/InstanceId"
import {
  assertDelivered,
  begin,
  type Contender,
  itNeeds,
  kindsOfPrimary,
  launch,
  makeArena,
  needs,
  type StartOptions,
  stateOf
} from "./contenders.js"
import type { Got } from "./fixtures/twice.js"
import { fixture } from "./fixtures.js"

describe("one process @large", () => {
  itNeeds(needs.linux)("that is a worker of a cluster leads for itself, and its parent keeps nothing of it", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* arena.start("cluster")
      const { pid } = yield* primary.waitFor("begin")
      assert.notStrictEqual(pid, primary.handle.pid)
      const other = yield* arena.start("cluster")
      assertDelivered(yield* other.waitFor("outcome"), primary)
      yield* primary.shoot(pid as number)
      const next = yield* begin(arena)
      assert.deepInclude({ ...(yield* next.waitFor("begin")) }, { took: "dead", proof: "D2" })
      assert.isTrue(primary.isRunning())
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("that was killed leaves nothing of the lock to a child that lives on", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena, { child: true })
      const child = Number((yield* primary.waitFor("child")).pid)
      yield* Effect.addFinalizer(() => Effect.sync(() => spawnSync("kill", ["-9", String(child)], { stdio: "ignore" })))
      yield* primary.kill
      const next = yield* begin(arena)
      assert.deepInclude({ ...(yield* next.waitFor("begin")) }, { took: "dead", proof: "D2" })
      assert.isDefined(stateOf(child))
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("that has nothing to do but to stand by ends by itself", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena)
      const idle = yield* arena.start("idle")
      yield* idle.waitFor("follow", { pid: yield* primary.pid })
      assert.deepStrictEqual(yield* idle.ended, { code: 0, signal: null })
      assert.isTrue(primary.isRunning())
      assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
      yield* arena.consistent()
    })
  )
})

describe("one id", () => {
  itNeeds(needs.home)("is one primary whatever HOME, TMPDIR and XDG_* say @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const places = NodeLockFiles.defaultDirectory()
      const home = join(places, folderName(arena.id))
      const present = fs.existsSync(places)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          fs.rmSync(home, { recursive: true, force: true })
          // It is somebody else's, too, where it is not empty.
          if (!present) spawnSync("rmdir", [places], { stdio: "ignore" })
        })
      )
      const names = ["HOME", "TMPDIR", "TMP", "TEMP", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"]
      const untouched: Array<string> = []
      const elsewhere = (name: string): StartOptions => {
        const place = join(arena.base, name)
        fs.mkdirSync(place, { mode: 0o700 })
        untouched.push(place)
        return {
          directory: undefined,
          env: { ...process.env, ...Object.fromEntries(names.map((name) => [name, place])) }
        }
      }
      const nowhere: StartOptions = {
        directory: undefined,
        env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !names.includes(name)))
      }
      const primary = yield* begin(arena, elsewhere("one"))
      assert.isTrue(fs.existsSync(join(home, "lock")))
      for (const options of [elsewhere("two"), nowhere, { directory: undefined }]) {
        assertDelivered(yield* launch(arena, options), primary)
      }
      for (const place of untouched) assert.deepStrictEqual(fs.readdirSync(place), [])
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("does not meet another one that differs only in case @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const [lower, upper] = [arena.id.toLowerCase(), arena.id.toUpperCase()]
      const start = (id: string) => begin(arena, { id, kernel: id })
      const [one, two]: [Contender, Contender] = [yield* start(lower), yield* start(upper)]
      assertDelivered(yield* launch(arena, { id: lower }), one)
      assertDelivered(yield* launch(arena, { id: upper }), two)
      const folders = fs.readdirSync(arena.directory).map((name) => name.toLowerCase())
      assert.lengthOf(new Set(folders), 2)
    })
  )

  const twice = Effect.fnUntraced(function* (leader: "main" | "thread") {
    const { directory, id } = yield* makeArena
    return yield* Effect.async<{ readonly pid: number; readonly got: ReadonlyArray<Got> }>((resume) => {
      const args = [fixture("twice"), leader, id, directory]
      const child = execFile(process.execPath, args, { timeout: 60_000, killSignal: "SIGKILL" }, (error, stdout) =>
        resume(error === null ? Effect.succeed({ pid: child.pid!, got: JSON.parse(stdout) }) : Effect.die(error))
      )
      return Effect.sync(() => child.kill("SIGKILL"))
    })
  })
  const held = { verdict: "LockError", reason: "AlreadyHeldInProcess" }

  it.scopedLive("is held once in a process: not by another layer, copy or thread", () =>
    Effect.gen(function* () {
      const { got, pid } = yield* twice("main")
      assert.deepStrictEqual(got, [
        { who: "the same layer", ...held, pid },
        { who: "another layer", ...held, pid },
        { who: "a second copy of the package", ...held, pid },
        { who: "a worker thread", ...held, pid },
        { who: "afterwards", verdict: "Primary" }
      ])
    })
  )

  it.scopedLive("is held once in a process: by a worker thread, and not by the main one @large", () =>
    Effect.gen(function* () {
      const { got, pid } = yield* twice("thread")
      assert.deepStrictEqual(got, [
        { who: "the main thread", ...held, pid },
        { who: "afterwards", verdict: "Primary" }
      ])
    })
  )
})
