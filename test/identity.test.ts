/**
 * Who the process of a record is: zombies, recycled pids, containers that share a directory, clocks that are wrong.
 */
import { spawn } from "node:child_process"
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import {
  assertDelivered,
  assertFailed,
  assertSoon,
  begin,
  begins,
  crossing,
  end,
  failing,
  hook,
  impatient,
  itNeeds,
  launch,
  makeArena,
  makePidNamespace,
  makeWrongClock,
  needs,
  removeWitness,
  type StartOptions,
  stateOf,
  takeOver,
  until
} from "./contenders.js"
import { isStress, reported, scaled } from "./stress.js"

const recycled = scaled(4, 100)
const hour = 3_600
const year = 365 * 24 * hour

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

  itNeeds(needs.pids)(
    "that another process was given does not hold up the next start @large",
    () =>
      reported(
        { area: "4", test: "recycled pids", faults: "the dead primary's pid is a stranger's, or the next start's own" },
        Effect.gen(function* () {
          const arena = yield* makeArena
          // In a namespace of its own, where nobody else takes it.
          const inside = yield* makePidNamespace
          const proofs = new Map<string, number>()
          let previous = yield* begin(arena, { through: inside })
          for (let round = 0; round < recycled; round++) {
            const { pid } = yield* previous.waitFor("ready")
            yield* previous.kill
            const alone = round % 4 < 2
            if (alone) yield* removeWitness(arena)
            const script = `echo ${Number(pid) - 1} > /proc/sys/kernel/ns_last_pid;`
            if (round % 2 === 0) {
              const stranger = [...inside, "sh", "-c", `${script} sleep 600 & echo $!; wait`]
              const { begun, next } = yield* Effect.gen(function* () {
                assert.strictEqual(Number(yield* firstLine(stranger)), pid)
                return yield* takeOver(arena, { through: inside })
              })
              assert.deepInclude(begun, { took: "dead", proof: alone ? "D1" : "D2" })
              if (alone) assert.include(String(begun.evidence), `the pid ${pid} now belongs to another process`)
              previous = next
            } else {
              const through = [...inside, "sh", "-c", `${script} "$@" & wait`, "sh"]
              const { begun, next } = yield* takeOver(arena, { through })
              assert.deepInclude(begun, { pid, took: "dead", proof: alone ? "D1" : "D2" })
              previous = next
            }
            const proof = alone ? "the pid alone" : "its witness"
            proofs.set(proof, (proofs.get(proof) ?? 0) + 1)
          }
          yield* arena.consistent()
          return `${recycled} pids; death proven by ${[...proofs].map(([proof, count]) => `${proof} ${count} ×`).join(", ")}`
        })
      ),
    600_000
  )

  itNeeds(needs.native)("of a leader whose main thread has ended, and others not, is that of the living @large", () =>
    reported(
      { area: "4", test: "zombie leader with threads", faults: "its main thread ends; its witness is removed" },
      Effect.gen(function* () {
        const arena = yield* makeArena
        const exit = process.arch === "arm64" ? 93 : 60
        const primary = yield* begin(
          arena,
          hook(`
            import { createRequire } from "node:module"
            const { load } = createRequire(${JSON.stringify(import.meta.url)})("koffi")
            process.on("SIGUSR2", () => load(null).func("long syscall(long, int)")(${exit}, 0))`)
        )
        const pid = yield* primary.pid
        yield* primary.signal("SIGUSR2")
        yield* until("a zombie", () => stateOf(pid) === "Z")
        for (const witness of ["in place", "removed"]) {
          if (witness === "removed") yield* removeWitness(arena)
          assertFailed(yield* launch(arena, impatient), { outcome: "NotDelivered", pid })
          assert.strictEqual((yield* (yield* arena.instance).inspect).state, "primary", witness)
        }
        assert.deepStrictEqual(yield* begins(arena), [primary.who])
        yield* primary.kill
        assert.deepInclude((yield* takeOver(arena)).begun, { took: "dead", proof: "D1" })
        yield* arena.consistent()
        return "not succeeded, with its witness and without; succeeded when it was killed"
      })
    )
  )

  itNeeds(needs.namespaces)("that is the same in a container's next life does not hold up the next start @large", () =>
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

describe("another pid namespace on a shared directory @large", () => {
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
      // Thawed, it would notice, and leave a tombstone.
      yield* primary.kill
      assertFailed(yield* launch(arena), unverifiable)
      yield* instance.breakLock(before.nonce)
      assert.strictEqual((yield* takeOver(arena)).begun.took, "released")
      yield* arena.consistent({ outsiders: true })
    })
  )
})

describe("another mount namespace @large", () => {
  itNeeds(needs.mounts)("in which the directory has another name is the same place", () =>
    reported(
      { area: "4", test: "mount namespaces", faults: "the directory is mounted elsewhere" },
      Effect.gen(function* () {
        const arena = yield* makeArena
        const elsewhere: StartOptions = {
          directory: "/mnt",
          through: ["unshare", "-m", "sh", "-c", `mount --bind '${arena.directory}' /mnt && exec "$@"`, "sh"]
        }
        let primary = yield* begin(arena)
        for (const here of [elsewhere, {}]) {
          assertDelivered(yield* launch(arena, here), primary)
          yield* primary.kill
          const { begun, next } = yield* takeOver(arena, here)
          assert.deepInclude(begun, { took: "dead", proof: "D2" })
          primary = next
          for (const options of [elsewhere, {}]) assertDelivered(yield* launch(arena, options), primary)
        }
        yield* arena.consistent()
        return "delivered and taken over in both directions"
      })
    )
  )
})

describe("another network namespace @large", () => {
  const apart = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
  for (const inner of ["primary", "launch"] as const) {
    itNeeds(needs.network)(
      `that the ${inner} is in: files and sockets in them meet, TCP does not, nobody takes over`,
      () =>
        reported(
          { area: "4", test: `network namespaces, the ${inner} apart`, faults: "TCP leads nowhere" },
          Effect.gen(function* () {
            const inside: StartOptions = { through: apart }
            const [of, from]: [StartOptions, StartOptions] = inner === "primary" ? [inside, {}] : [{}, inside]
            const protocols = [...crossing.filter((name) => name !== "pipe" && name !== "tcp")]
            for (const protocol of protocols) {
              const arena = yield* makeArena
              // Whoever comes from another network falls back to what is behind TCP.
              const primary = yield* begin(arena, { ...of, protocol: "tcp", fallback: protocol })
              const outcome = yield* launch(arena, { ...from, protocol: "tcp", fallback: protocol })
              assertDelivered(outcome, primary)
              assert.strictEqual(outcome.protocol, protocol)
              yield* arena.consistent()
            }
            const arena = yield* makeArena
            const primary = yield* begin(arena, { ...of, protocol: "tcp" })
            const only: StartOptions = { protocol: "tcp", ...impatient }
            const denied = yield* launch(arena, { ...from, ...only })
            assertFailed(denied, { outcome: "NotDelivered", pid: (yield* primary.waitFor("ready")).pid })
            assertSoon(denied)
            assert.deepStrictEqual(yield* begins(arena), [primary.who])
            yield* primary.kill
            assert.deepInclude((yield* takeOver(arena, { ...from, protocol: "tcp" })).begun, {
              took: "dead",
              proof: "D2"
            })
            yield* arena.consistent()
            return `fell back from TCP to ${protocols.join(", ")}; ${denied.error} ${denied.reason} where there is nothing else`
          })
        )
    )
  }
})

describe("another time namespace @large", () => {
  // In which processes were started at another time since the boot.
  const apart: StartOptions = { through: ["unshare", "-T", "--boottime", "1000000", "-f", "--kill-child"] }
  for (const inner of ["primary", "launch"] as const) {
    itNeeds(needs.time)(`that the ${inner} is in: the living is not declared dead, the killed is`, () =>
      reported(
        {
          area: "4",
          test: `time namespaces, the ${inner} apart`,
          faults: "starts are told by other clocks; no witness"
        },
        Effect.gen(function* () {
          const [of, from]: [StartOptions, StartOptions] = inner === "primary" ? [apart, {}] : [{}, apart]
          const arena = yield* makeArena
          const primary = yield* begin(arena, of)
          assertDelivered(yield* launch(arena, from), primary)
          yield* primary.freeze
          yield* removeWitness(arena)
          const denied = yield* launch(arena, { ...from, ...impatient })
          assertFailed(denied, { outcome: "NotDelivered", error: "LockError", reason: "OwnerUnverifiable" })
          assert.deepStrictEqual(yield* begins(arena), [primary.who])
          yield* primary.kill
          // Nobody has its pid: for that no clock is needed.
          assert.deepInclude((yield* takeOver(arena, from)).begun, { took: "dead", proof: "D1" })
          yield* arena.consistent()
          return "delivered; without a witness not verifiable; succeeded when it was killed"
        })
      )
    )
  }
})

describe("a clock", () => {
  for (const ahead of isStress ? [hour, -hour, year, -year] : [-hour, year]) {
    const wrong = `${Math.abs(ahead) === hour ? "an hour" : "a year"} ${ahead > 0 ? "ahead" : "behind"}`
    itNeeds(needs.faketime)(`${wrong} of the others' gives nobody the lock, and keeps it from nobody @large`, () =>
      reported(
        { area: "4", test: `a clock ${wrong}`, faults: "libfaketime in one process" },
        Effect.gen(function* () {
          const arena = yield* makeArena
          const { options } = yield* makeWrongClock(arena, ahead)
          // The epoch grows nevertheless, or the history is not consistent.
          let primary = { ahead, ...(yield* takeOver(arena, options)) }
          for (const [signal, next] of [
            ["SIGKILL", 0],
            ["SIGTERM", ahead],
            ["SIGTERM", 0],
            ["SIGKILL", ahead]
          ] as const) {
            for (const own of [ahead, 0]) {
              const told = yield* launch(arena, own === 0 ? {} : options)
              // A sender that is behind names a deadline that the primary takes for past.
              if (own >= primary.ahead) assertDelivered(told, primary.next)
              else assertFailed(told, { outcome: "NotDelivered", reason: "Expired" })
            }
            yield* end(primary.next, signal)
            primary = { ahead: next, ...(yield* takeOver(arena, next === 0 ? {} : options)) }
            assert.strictEqual(primary.begun.took, signal === "SIGKILL" ? "dead" : "released")
          }
          yield* arena.consistent()
          return "5 primaries, by turns right and wrong"
        })
      )
    )

    itNeeds(needs.faketime)(`that jumps to ${wrong} moves no deadline, and is not taken for death @large`, () =>
      reported(
        { area: "4", test: `the clock jumps to ${wrong}`, faults: "libfaketime in all processes" },
        Effect.gen(function* () {
          const arena = yield* makeArena
          const clock = yield* makeWrongClock(arena, 0)
          const primary = yield* begin(arena, clock.options)
          const pid = yield* primary.pid
          const standby = yield* arena.start("standby", clock.options)
          yield* standby.waitFor("follow", { pid })
          const slow = yield* arena.start("launch", { ...clock.options, message: "slow", work: 1_500 })
          yield* primary.waitFor("handled", { message: "slow" })
          yield* clock.set(ahead)
          assertDelivered(yield* slow.waitFor("outcome"), primary)
          assertDelivered(yield* launch(arena, clock.options), primary)
          // And back, while a sender waits for a primary that stands still.
          yield* primary.freeze
          const late = yield* arena.start("launch", { ...clock.options, ...impatient })
          const patient = yield* arena.start("launch", clock.options)
          yield* late.waitFor("ready")
          yield* patient.waitFor("ready")
          yield* clock.set(0)
          const denied = yield* late.waitFor("outcome")
          assertFailed(denied, { outcome: "NotDelivered", error: "TimeoutError", pid })
          assert.isAtLeast(denied.millis as number, 1_400)
          assertSoon(denied)
          yield* clock.set(ahead)
          yield* primary.thaw
          assertDelivered(yield* patient.waitFor("outcome"), primary)
          assert.deepStrictEqual(yield* begins(arena), [primary.who])
          yield* clock.set(0)
          yield* primary.kill
          assert.deepInclude({ ...(yield* standby.waitFor("begin")) }, { took: "dead", proof: "D2" })
          yield* arena.consistent()
          return "4 jumps: while a request is worked on, while senders wait, while it leads, before a takeover"
        })
      )
    )
  }

  itNeeds(needs.posix)("that is wrong by a day gives nobody the lock, and keeps it from nobody @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const day = 86_400_000
      // The epoch grows nevertheless, or the history is not consistent.
      for (const [signal, ahead] of [
        ["SIGKILL", 0],
        ["SIGTERM", day],
        ["SIGKILL", -day]
      ] as const) {
        const { next: primary } = yield* takeOver(arena, { ahead })
        for (const later of [ahead, ahead + day]) assertDelivered(yield* launch(arena, { ahead: later }), primary)
        yield* end(primary, signal)
      }
      yield* arena.consistent()
    })
  )
})

describe("the canaries", () => {
  itNeeds(needs.pids)("whoever takes any process with the pid for the owner is held up @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const inside = yield* makePidNamespace
      const bare: StartOptions = { lock: "bare", through: inside, ...impatient }
      const first = yield* begin(arena, bare)
      const { pid } = yield* first.waitFor("ready")
      yield* first.kill
      const script = `echo ${Number(pid) - 1} > /proc/sys/kernel/ns_last_pid; sleep 600 & echo $!; wait`
      assert.strictEqual(Number(yield* firstLine([...inside, "sh", "-c", script])), pid)
      assertFailed(yield* launch(arena, bare), { outcome: "NotDelivered" })
      assert.deepStrictEqual(yield* begins(arena), [first.who])
    })
  )

  itNeeds(needs.pids)("whoever looks for the pid in another namespace has two primaries @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      // A pid that nobody has in a container with a few processes.
      const script = 'echo 29999 > /proc/sys/kernel/ns_last_pid; "$@" & wait'
      yield* begin(arena, { lock: "bare", through: [...(yield* makePidNamespace), "sh", "-c", script, "sh"] })
      yield* begin(arena, { lock: "bare", ...container })
      assert.include(yield* failing(arena.consistent()), "two primaries at once")
    })
  )

  itNeeds(needs.posix)("whoever goes by the clock has two primaries @large", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      yield* begin(arena, { lock: "age" })
      yield* begin(arena, { lock: "age", ahead: hour * 1_000 })
      assert.include(yield* failing(arena.consistent()), "two primaries at once")
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
