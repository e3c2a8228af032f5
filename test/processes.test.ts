/**
 * What only real processes can show: stopped ones, zombies, recycled pids, other namespaces, signals, workers.
 */
import { spawn, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import { NodeLockFiles } from "effect-single-instance"
import { folderName } from "effect-single-instance/InstanceId"
import {
  type Arena,
  type Contender,
  itNeeds,
  kindsOfPrimary,
  makeArena,
  makePidNamespace,
  needs,
  type StartOptions,
  stateOf,
  until
} from "./contenders.js"
import type { Entry } from "./witness.js"

const begin = Effect.fnUntraced(function* (arena: Arena, options?: StartOptions) {
  const primary = yield* arena.start("launch", options)
  yield* primary.waitFor("begin")
  return primary
})

/** Launches, and answers what the launch was told. */
const launch = Effect.fnUntraced(function* (arena: Arena, options?: StartOptions) {
  const launched = yield* arena.start("launch", options)
  return yield* launched.waitFor("outcome")
})

const begins = (arena: Arena) =>
  Effect.map(arena.history, (history) => history.flatMap(({ event, who }) => (event === "begin" ? [who] : [])))

const assertDelivered = (outcome: Entry, primary: Contender) =>
  assert.strictEqual(`${outcome.outcome} by ${outcome.by}`, `Delivered by ${primary.who}`, `${outcome.text}`)

const assertFailed = (outcome: Entry, expected: { readonly [field: string]: unknown }) =>
  assert.deepInclude({ ...outcome }, expected, `${outcome.text}`)

const removeWitness = (arena: Arena) => {
  for (const name of fs.readdirSync(arena.home)) if (name.startsWith("w.")) fs.rmSync(join(arena.home, name))
}

const impatient = { config: { timeout: "1500 millis" } } as const
/** The time limit and what a busy machine may add to it. */
const assertSoon = ({ millis }: Entry) => assert.isBelow(millis as number, 1_500 + 10_000)

describe("a primary that is stopped", () => {
  itNeeds(needs.linux)("is told of with its pid, succeeded by nobody, and serves again", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena)
      const pid = yield* primary.pid
      const standby = yield* arena.start("standby")
      yield* standby.waitFor("follow", { pid })
      yield* primary.freeze
      const denied = yield* launch(arena, impatient)
      assertFailed(denied, { outcome: "NotDelivered", error: "TimeoutError", pid })
      assertSoon(denied)
      yield* primary.thaw
      assertDelivered(yield* launch(arena), primary)
      assert.deepStrictEqual(yield* begins(arena), [primary.who])
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("while it works on a message, leaves its sender with Unknown", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena)
      const sender = yield* arena.start("launch", { ...impatient, message: "long", work: 600_000 })
      yield* primary.waitFor("handled", { message: "long" })
      // Its handler says so before the sender is told of the acceptance.
      yield* Effect.sleep("200 millis")
      yield* primary.freeze
      const outcome = yield* sender.waitFor("outcome")
      assertFailed(outcome, { outcome: "Unknown", error: "TimeoutError", reason: "reply", pid: yield* primary.pid })
      yield* primary.thaw
      yield* primary.waitFor("interrupted", { message: "long" })
      yield* arena.consistent()
    })
  )
})

describe("a starter that is stopped", () => {
  const overRemains = Effect.gen(function* () {
    const arena = yield* makeArena
    const first = yield* begin(arena)
    yield* first.kill
    return arena
  })
  const late = [
    ["link", "lock", makeArena],
    ["link", "slot", overRemains],
    ["openWitness", "", overRemains]
  ] as const
  for (const [operation, name, place] of late) {
    itNeeds(needs.linux)(`before ${operation} ${name} finds another primary when it goes on, and sends to it`, () =>
      Effect.gen(function* () {
        const arena = yield* place
        const slow = yield* arena.start("launch", { freeze: { operation, name } })
        yield* slow.frozen
        const primary = yield* begin(arena)
        yield* slow.thaw
        assertDelivered(yield* slow.waitFor("outcome"), primary)
        assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
        yield* arena.consistent()
      })
    )
  }

  itNeeds(needs.linux)("before it takes a slot does not succeed the owner that was succeeded meanwhile", () =>
    Effect.gen(function* () {
      const arena = yield* overRemains
      const slow = yield* arena.start("launch", { freeze: { operation: "link", name: "slot" } })
      yield* slow.frozen
      const other = yield* begin(arena)
      yield* other.signal("SIGTERM")
      yield* other.ended
      yield* slow.thaw
      assert.strictEqual((yield* slow.waitFor("begin")).took, "released")
      yield* arena.consistent()
    })
  )

  const committing = { operation: "rename", name: "lock" } as const
  itNeeds(needs.linux)("with the slot in hand is waited for, not passed by", () =>
    Effect.gen(function* () {
      const arena = yield* overRemains
      const slow = yield* arena.start("launch", { freeze: committing })
      yield* slow.frozen
      const denied = yield* launch(arena, impatient)
      assertFailed(denied, { outcome: "NotDelivered", error: "TimeoutError", reason: "acquire" })
      assertSoon(denied)
      yield* slow.thaw
      assert.strictEqual((yield* slow.waitFor("begin")).took, "dead")
      assertDelivered(yield* launch(arena), slow)
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("with the slot in hand, and killed, is succeeded at once", () =>
    Effect.gen(function* () {
      const arena = yield* overRemains
      const slow = yield* arena.start("launch", { freeze: committing })
      yield* slow.frozen
      yield* slow.kill
      const next = yield* begin(arena)
      assert.strictEqual((yield* next.waitFor("begin")).took, "dead")
      assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("right after its commit is the primary", () =>
    Effect.gen(function* () {
      const arena = yield* overRemains
      const slow = yield* arena.start("launch", { freeze: { ...committing, after: true } })
      yield* slow.frozen
      assertFailed(yield* launch(arena, impatient), {
        outcome: "NotDelivered",
        error: "TimeoutError",
        pid: yield* slow.pid
      })
      yield* slow.thaw
      yield* slow.waitFor("begin")
      assertDelivered(yield* launch(arena), slow)
      yield* arena.consistent()
    })
  )
})

describe("a release that is stopped", () => {
  const tombstone = { operation: "rename", name: "lock" } as const
  itNeeds(needs.linux)("before its tombstone still holds the lock", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena, { freeze: tombstone })
      yield* primary.signal("SIGTERM")
      yield* primary.frozen
      const denied = yield* launch(arena, impatient)
      assertFailed(denied, { outcome: "NotDelivered", pid: yield* primary.pid })
      assertSoon(denied)
      assert.deepStrictEqual(yield* begins(arena), [primary.who])
      yield* primary.thaw
      assert.strictEqual((yield* primary.ended).code, 143)
      const next = yield* begin(arena)
      assert.strictEqual((yield* next.waitFor("begin")).took, "released")
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("behind its tombstone holds nothing, and harms no successor when it goes on", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena, { freeze: { ...tombstone, after: true } })
      yield* primary.signal("SIGTERM")
      yield* primary.frozen
      const next = yield* begin(arena)
      assert.strictEqual((yield* next.waitFor("begin")).took, "released")
      yield* primary.thaw
      assert.strictEqual((yield* primary.ended).code, 143)
      assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
      assertDelivered(yield* launch(arena), next)
      yield* arena.consistent()
    })
  )
})

describe("a pid", () => {
  for (const witness of ["in place", "removed"]) {
    itNeeds(needs.linux)(`of a zombie, the witness ${witness}, does not hold up the next start`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        // Its parent becomes a program that waits for nobody.
        const primary = yield* begin(arena, { through: ["sh", "-c", '"$@" & exec sleep 600', "sh"] })
        const pid = yield* primary.pid
        yield* primary.shoot()
        yield* until("a zombie", () => stateOf(pid) === "Z")
        if (witness === "removed") removeWitness(arena)
        const next = yield* begin(arena)
        const { proof, took } = yield* next.waitFor("begin")
        assert.deepStrictEqual({ proof, took }, { proof: witness === "removed" ? "D1" : "D2", took: "dead" })
        assert.strictEqual(stateOf(pid), "Z")
        yield* arena.consistent()
      })
    )
  }

  itNeeds(needs.pids)("that another process was given does not hold up the next start", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      // In a namespace of its own, where nobody else takes it.
      const inside = yield* makePidNamespace
      const first = yield* begin(arena, { through: inside })
      const { pid } = yield* first.waitFor("ready")
      yield* first.kill
      removeWitness(arena)
      const script = `echo ${Number(pid) - 1} > /proc/sys/kernel/ns_last_pid; sleep 600 & echo $!; wait`
      const recycled = yield* firstLine([...inside, "sh", "-c", script])
      assert.strictEqual(Number(recycled), pid)
      const next = yield* begin(arena, { through: inside })
      const begun = yield* next.waitFor("begin")
      assert.deepInclude({ ...begun }, { took: "dead", proof: "D1" })
      assert.include(String(begun.evidence), "now belongs to another process")
      yield* arena.consistent()
    })
  )

  itNeeds(needs.namespaces)("that is the same in a container's next life does not hold up the next start", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const container = ["unshare", "-p", "-f", "-m", "--mount-proc", "--kill-child"]
      const first = yield* begin(arena, { through: container })
      assert.strictEqual((yield* first.waitFor("ready")).pid, 1)
      // Another container at the same time has such a process, too.
      const other = yield* arena.start("launch", { through: container })
      assertDelivered(yield* other.waitFor("outcome"), first)
      assert.strictEqual((yield* other.waitFor("ready")).pid, 1)
      yield* first.kill
      const next = yield* begin(arena, { through: container })
      assert.strictEqual((yield* next.waitFor("ready")).pid, 1)
      assert.deepInclude({ ...(yield* next.waitFor("begin")) }, { took: "dead", proof: "D2" })
      yield* arena.consistent()
    })
  )
})

describe("another pid namespace on a shared directory", () => {
  for (const inner of ["primary", "launch"] as const) {
    itNeeds(needs.namespaces)(`that the ${inner} is in: the living is not declared dead, the killed is`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const inside = { through: yield* makePidNamespace }
        const [of, from] = inner === "primary" ? [inside, {}] : [{}, inside]
        const primary = yield* begin(arena, of)
        assertDelivered(yield* launch(arena, from), primary)
        yield* primary.freeze
        assertFailed(yield* launch(arena, { ...from, ...impatient }), {
          outcome: "NotDelivered",
          error: "TimeoutError"
        })
        assert.deepStrictEqual(yield* begins(arena), [primary.who])
        yield* primary.thaw
        assertDelivered(yield* launch(arena, from), primary)
        yield* primary.kill
        const next = yield* begin(arena, from)
        assert.deepInclude({ ...(yield* next.waitFor("begin")) }, { took: "dead", proof: "D2" })
        yield* arena.consistent()
      })
    )
  }

  itNeeds(needs.namespaces)("without a witness cannot tell, until a person breaks the lock", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const inside = { through: yield* makePidNamespace }
      const primary = yield* begin(arena, inside)
      yield* primary.freeze
      removeWitness(arena)
      const unverifiable = { outcome: "NotDelivered", error: "LockError", reason: "OwnerUnverifiable" }
      assertFailed(yield* launch(arena), unverifiable)
      yield* primary.kill
      assertFailed(yield* launch(arena), unverifiable)
      const instance = yield* arena.instance
      const { nonce, state } = yield* instance.inspect
      assert.strictEqual(state, "unverifiable")
      yield* instance.breakLock(nonce!)
      const next = yield* begin(arena)
      assert.strictEqual((yield* next.waitFor("begin")).took, "released")
      yield* arena.consistent()
    })
  )
})

describe("a signal", () => {
  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129]
  ] as const) {
    itNeeds(needs.linux)(`${signal} releases the lock and ends with ${code}`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* begin(arena)
        yield* primary.signal(signal)
        assert.deepStrictEqual(yield* primary.ended, { code, signal: null })
        assert.deepStrictEqual(yield* arena.kinds, ["lock"])
        assert.isTrue((yield* arena.record).released)
        const next = yield* begin(arena)
        assert.deepInclude({ ...(yield* next.waitFor("begin")) }, { took: "released", proof: "D0" })
        yield* arena.consistent()
      })
    )
  }

  itNeeds(needs.linux)("lets accepted messages end; a launch meanwhile becomes the next primary with its own", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena)
      const sender = yield* arena.start("launch", { message: "slow", work: 2_000 })
      yield* primary.waitFor("handled", { message: "slow" })
      yield* primary.signal("SIGTERM")
      const next = yield* arena.start("launch", { message: "late" })
      assertDelivered(yield* sender.waitFor("outcome"), primary)
      yield* next.waitFor("handled", { message: "late" })
      assert.strictEqual((yield* next.waitFor("begin")).took, "released")
      assert.strictEqual((yield* primary.ended).code, 143)
      yield* arena.consistent()
    })
  )

  itNeeds(needs.linux)("does not wait for ever for accepted messages", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* begin(arena, { config: { drain: "300 millis" } })
      const sender = yield* arena.start("launch", { message: "endless", work: 600_000 })
      yield* primary.waitFor("handled", { message: "endless" })
      yield* primary.signal("SIGTERM")
      assertFailed(yield* sender.waitFor("outcome"), { outcome: "Delivered", reason: "HandlerInterrupted" })
      yield* primary.waitFor("interrupted", { message: "endless" })
      assert.strictEqual((yield* primary.ended).code, 143)
      assert.isTrue((yield* arena.record).released)
      yield* arena.consistent()
    })
  )

  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    itNeeds(needs.linux)(`${signal} to a sender interrupts its handler, and nothing else`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* begin(arena)
        const sender = yield* arena.start("launch", { message: "endless", work: 600_000 })
        const other = yield* arena.start("launch", { message: "slow", work: 1_500 })
        yield* primary.waitFor("handled", { message: "endless" })
        yield* primary.waitFor("handled", { message: "slow" })
        yield* sender.signal(signal)
        yield* primary.waitFor("interrupted", { message: "endless" })
        if (signal === "SIGINT") assert.strictEqual((yield* sender.ended).code, 130)
        assertDelivered(yield* other.waitFor("outcome"), primary)
        yield* arena.consistent()
      })
    )
  }
})

describe("one process", () => {
  itNeeds(needs.linux)("that is the primary is told so in a worker thread and through a second copy", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* arena.start("thread")
      for (const who of [`${primary.who}.thread`, `${primary.who}.copy`]) {
        const outcome = yield* primary.waitFor("outcome", { who })
        assertFailed(outcome, { outcome: "NotDelivered", error: "LockError", reason: "AlreadyHeldInProcess" })
      }
      assertDelivered(yield* launch(arena), primary)
      yield* arena.consistent()
    })
  )

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

describe("a clock", () => {
  itNeeds(needs.posix)("that is wrong by a day gives nobody the lock, and keeps it from nobody", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const day = 86_400_000
      const early = yield* begin(arena, { ahead: day })
      yield* early.kill
      // The epoch grows nevertheless, or the history is not consistent.
      const behind = yield* begin(arena, { ahead: -day })
      assertDelivered(yield* launch(arena), behind)
      assertDelivered(yield* launch(arena, { ahead: day }), behind)
      yield* behind.signal("SIGTERM")
      yield* behind.ended
      yield* begin(arena)
      yield* arena.consistent()
    })
  )
})

describe("the directory", () => {
  itNeeds(needs.home)("is the same whatever HOME, TMPDIR and XDG_* say", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const places = NodeLockFiles.defaultDirectory()
      const present = fs.existsSync(places)
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          fs.rmSync(join(places, folderName(arena.id)), { recursive: true, force: true })
          // It is somebody else's, too, where it is not empty.
          if (!present) spawnSync("rmdir", [places], { stdio: "ignore" })
        })
      )
      const { HOME, TMPDIR, XDG_RUNTIME_DIR, XDG_STATE_HOME, ...bare } = process.env
      const other = join(arena.directory, "elsewhere")
      const elsewhere = { HOME: other, TMPDIR: other, XDG_RUNTIME_DIR: other, XDG_STATE_HOME: other }
      const primary = yield* begin(arena, { directory: undefined, env: { ...process.env, HOME: homedir() } })
      assertDelivered(yield* launch(arena, { directory: undefined, env: { ...bare, ...elsewhere } }), primary)
      assertDelivered(yield* launch(arena, { directory: undefined, env: bare }), primary)
      yield* arena.consistent()
    })
  )
})

/** What a program prints first; it is killed with the scope. */
const firstLine = (words: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    let text = ""
    const handle = yield* Effect.acquireRelease(
      Effect.sync(() => spawn(words[0]!, words.slice(1), { stdio: ["ignore", "pipe", "inherit"] })),
      (handle) => Effect.sync(() => handle.kill("SIGKILL"))
    )
    handle.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk
    })
    return yield* until(`a line of ${words.join(" ")}`, () => text.includes("\n") && text.split("\n")[0])
  })
