/**
 * Who the process of a record is: zombies, recycled pids, containers that share a directory, clocks that are wrong.
 */
import { spawn } from "node:child_process"
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import {
  assertDelivered,
  assertFailed,
  begin,
  begins,
  end,
  impatient,
  itNeeds,
  launch,
  makeArena,
  makePidNamespace,
  needs,
  removeWitness,
  type StartOptions,
  stateOf,
  takeOver,
  until
} from "./contenders.js"

const container: StartOptions = { through: ["unshare", "-p", "-f", "-m", "--mount-proc", "--kill-child"] }

describe("a pid", () => {
  // Its parent becomes a program that waits for nobody.
  const neglected: StartOptions = { through: ["sh", "-c", '"$@" & exec sleep 600', "sh"] }
  for (const witness of ["in place", "removed"]) {
    itNeeds(needs.linux)(`of a zombie, the witness ${witness}, does not hold up the next start`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* begin(arena, neglected)
        const pid = yield* primary.pid
        yield* primary.shoot()
        yield* until("a zombie", () => stateOf(pid) === "Z")
        if (witness === "removed") yield* removeWitness(arena)
        const { begun } = yield* takeOver(arena)
        assert.deepInclude(begun, { took: "dead", proof: witness === "removed" ? "D1" : "D2" })
        if (witness === "removed") assert.include(String(begun.evidence), "zombie")
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
      yield* removeWitness(arena)
      const script = `echo ${Number(pid) - 1} > /proc/sys/kernel/ns_last_pid; sleep 600 & echo $!; wait`
      const recycled = yield* firstLine([...inside, "sh", "-c", script])
      assert.strictEqual(Number(recycled), pid)
      const { begun } = yield* takeOver(arena, { through: inside })
      assert.deepInclude(begun, { took: "dead", proof: "D1" })
      assert.include(String(begun.evidence), `the pid ${pid} now belongs to another process`)
      yield* arena.consistent()
    })
  )

  itNeeds(needs.pids)("that the next start itself was given does not hold it up", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const inside = yield* makePidNamespace
      const first = yield* begin(arena, { through: inside })
      const { pid } = yield* first.waitFor("ready")
      yield* first.kill
      yield* removeWitness(arena)
      const script = `echo ${Number(pid) - 1} > /proc/sys/kernel/ns_last_pid; "$@" & wait`
      const { begun } = yield* takeOver(arena, { through: [...inside, "sh", "-c", script, "sh"] })
      assert.deepInclude(begun, { pid, took: "dead", proof: "D1" })
      yield* arena.consistent()
    })
  )

  itNeeds(needs.namespaces)("that is the same in a container's next life does not hold up the next start", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      let previous = yield* begin(arena, container)
      for (const signal of ["SIGKILL", "SIGKILL", "SIGTERM"] as const) {
        assert.strictEqual((yield* arena.record).process.pid, 1)
        // Another container at the same time has such a process, too.
        const other = yield* arena.start("launch", container)
        assertDelivered(yield* other.waitFor("outcome"), previous)
        assert.strictEqual((yield* other.waitFor("ready")).pid, 1)
        yield* end(previous, signal)
        const { begun, next } = yield* takeOver(arena, container)
        const expected = signal === "SIGKILL" ? { took: "dead", proof: "D2" } : { took: "released", proof: "D0" }
        assert.deepInclude(begun, { pid: 1, ...expected })
        previous = next
      }
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
        const standby = yield* arena.start("standby", from)
        yield* standby.waitFor("follow", { pid: (yield* primary.waitFor("ready")).pid })
        yield* primary.kill
        assert.deepInclude({ ...(yield* standby.waitFor("begin")) }, { took: "dead", proof: "D2" })
        yield* standby.kill
        assert.deepInclude((yield* takeOver(arena, from)).begun, { took: "dead", proof: "D2" })
        yield* arena.consistent()
      })
    )
  }

  itNeeds(needs.namespaces)("without a witness cannot tell, until a person breaks the lock", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const inside = { through: yield* makePidNamespace }
      const primary = yield* begin(arena, inside)
      const before = yield* arena.record
      // It would notice at once, and give up.
      yield* primary.freeze
      yield* removeWitness(arena)
      const unverifiable = { outcome: "NotDelivered", error: "LockError", reason: "OwnerUnverifiable" }
      for (const from of [{}, container]) assertFailed(yield* launch(arena, from), unverifiable)
      const instance = yield* arena.instance
      assert.strictEqual((yield* instance.inspect).state, "unverifiable")
      assert.deepStrictEqual(yield* arena.record, before)
      yield* primary.thaw
      yield* primary.waitFor("lost")
      yield* primary.ended
      assertFailed(yield* launch(arena), unverifiable)
      yield* instance.breakLock(before.nonce)
      assert.strictEqual((yield* takeOver(arena)).begun.took, "released")
      yield* arena.consistent({ outsiders: true })
    })
  )
})

describe("a clock", () => {
  itNeeds(needs.posix)("that is wrong by a day gives nobody the lock, and keeps it from nobody", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const day = 86_400_000
      // The epoch grows nevertheless, or the history is not consistent.
      for (const [signal, ahead] of [
        ["SIGKILL", 0],
        ["SIGTERM", day],
        ["SIGKILL", -day],
        ["SIGTERM", 0],
        ["SIGKILL", -2 * day]
      ] as const) {
        const { next: primary } = yield* takeOver(arena, { ahead })
        for (const later of [ahead, ahead + day]) assertDelivered(yield* launch(arena, { ahead: later }), primary)
        yield* end(primary, signal)
      }
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
