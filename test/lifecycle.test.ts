/**
 * What only real processes can show: they stand still, die, leave zombies, live in other namespaces, and are asked to end.
 */
import { execFile, spawn } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { SingleInstance } from "effect-single-instance"
import { folderName } from "effect-single-instance/InstanceId"
import { defaultDirectory } from "effect-single-instance/lock/NodeLockFiles"
import { parseStat } from "effect-single-instance/pid/LinuxPidVerifier"
import { type Arena, type Contender, itNeeds, makeArena, needs, type StartOptions, until } from "./contenders.js"
import type { Got } from "./fixtures/twice.js"
import { fixture } from "./fixtures.js"

// "At once": less than any time-out of ours, and more than a busy machine needs.
const soonMillis = 10_000

class Observer extends SingleInstance.Tag<Observer>()("observer") {}
const inspect = ({ directory, id }: Arena) =>
  Effect.flatMap(Observer, (observer) => observer.inspect).pipe(
    Effect.provide(Observer.layer({ id, directory })),
    Effect.provide(NodeContext.layer)
  )

const startPrimary = Effect.fnUntraced(function* (arena: Arena, options?: StartOptions) {
  const primary = yield* arena.start("launch", options)
  yield* primary.waitFor("begin")
  return primary
})

/** What a launch was told of its message. */
const startSecondary = Effect.fnUntraced(function* (arena: Arena, options?: StartOptions) {
  const secondary = yield* arena.start("launch", options)
  return yield* secondary.waitFor("outcome")
})

/** Starts a process that is to take over, and answers how it did. */
const takeOver = Effect.fnUntraced(function* (arena: Arena, options?: StartOptions) {
  const next = yield* arena.start("launch", options)
  const begin = yield* next.waitFor("begin")
  const ready = yield* next.waitFor("ready")
  assert.isBelow((begin.at - ready.at) / 1e6, soonMillis)
  return { next, begin }
})

/** Runs a statement in the contender when it starts. */
const hook = (statement: string): StartOptions => ({
  env: { ...process.env, NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(statement)}` }
})
/** Says that a signal has arrived; whatever the contender does about it has begun by then. */
const confessing = (signal: NodeJS.Signals) =>
  hook(`process.on("${signal}", () => console.log(JSON.stringify({ event: "asked" })))`)

/** SIGKILL is told to the check, for which every other end without a release is a contradiction. */
const end = (contender: Contender, signal: NodeJS.Signals) =>
  signal === "SIGKILL" ? contender.kill : Effect.zipRight(contender.signal(signal), contender.ended)

const removeWitness = (arena: Arena) =>
  Effect.sync(() => {
    const witnesses = fs.readdirSync(arena.home).filter((name) => name.startsWith("w."))
    assert.lengthOf(witnesses, 1)
    fs.unlinkSync(join(arena.home, witnesses[0]!))
  })

const stat = (pid: number) => parseStat(fs.readFileSync(`/proc/${pid}/stat`, "utf8"))!

const linux = itNeeds(needs.linux)

// -------------------------------------------------------------------------------------
// standing still
// -------------------------------------------------------------------------------------

describe("a primary that stands still", () => {
  linux("is named to senders within their deadline, is not succeeded, and serves again", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* startPrimary(arena)
      const pid = yield* primary.pid
      const standby = yield* arena.start("standby")
      yield* standby.waitFor("follow", { pid })
      yield* primary.freeze
      const { nonce } = yield* arena.record

      const config = { timeout: "1500 millis" } as const
      const late = yield* arena.start("standby")
      const told = yield* Effect.all([startSecondary(arena, { config }), startSecondary(arena, { config })], {
        concurrency: "unbounded"
      })
      for (const outcome of told) {
        assert.deepInclude(outcome, { error: "TimeoutError", outcome: "NotDelivered", pid })
        assert.include(outcome.text as string, String(pid))
        assert.isAtLeast(outcome.millis as number, 1_400)
        assert.isBelow(outcome.millis as number, soonMillis)
      }
      yield* late.waitFor("follow", { pid })
      assert.strictEqual((yield* arena.record).nonce, nonce)
      assert.strictEqual((yield* inspect(arena)).state, "primary")
      assert.deepStrictEqual(
        (yield* arena.history).filter(({ event }) => event === "begin").map(({ who }) => who),
        [primary.who]
      )

      yield* primary.thaw
      assert.deepInclude(yield* startSecondary(arena), { outcome: "Delivered", by: primary.who })
      // What it was not to have, it does not get later: the check knows of the messages that were denied.
      yield* arena.consistent()

      // Both could have: now that it is dead, one of them does, also while it stands still.
      yield* primary.freeze
      yield* primary.kill
      const begin = yield* until("a standby that takes over", () =>
        [standby, late].flatMap(({ entries }) => entries).find(({ event }) => event === "begin")
      )
      assert.strictEqual(begin.took, "dead")
      yield* arena.consistent()
    })
  )

  linux("becomes ready for a sender that waits when it goes on in time", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* startPrimary(arena)
      yield* primary.freeze
      const sender = yield* arena.start("launch", { message: "patient", config: { helloTimeout: "200 millis" } })
      yield* sender.waitFor("ready")
      yield* Effect.sleep("1 second")
      assert.isUndefined(sender.entries.find(({ event }) => event === "outcome"))
      yield* primary.thaw
      assert.deepInclude(yield* sender.waitFor("outcome"), { outcome: "Delivered", by: primary.who })
      yield* arena.consistent()
    })
  )
})

// -------------------------------------------------------------------------------------
// death
// -------------------------------------------------------------------------------------

describe("a primary that died", () => {
  // Its parent becomes a program that never reaps.
  const neglected: StartOptions = { through: ["sh", "-c", '"$@" & exec sleep 600', "sh"] }

  for (const [proof, prepare] of [
    ["D2", () => Effect.void],
    ["D1", removeWitness]
  ] as const) {
    linux(`and is left a zombie is succeeded at once (${proof})`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* startPrimary(arena, neglected)
        const pid = yield* primary.pid
        yield* primary.signal("SIGKILL")
        yield* until("a zombie", () => stat(pid).state === "Z")
        yield* prepare(arena)
        const { begin } = yield* takeOver(arena)
        assert.deepInclude(begin, { took: "dead", proof })
        if (proof === "D1") assert.include(begin.evidence as string, "zombie")
        assert.strictEqual(stat(pid).state, "Z")
      })
    )
  }

  itNeeds(needs.pids)("is succeeded at once though a stranger has its pid (D1 alone)", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const inside = yield* makeNamespace
      const primary = yield* startPrimary(arena, { through: inside })
      yield* primary.kill
      yield* removeWitness(arena)
      const { pid } = (yield* arena.record).process
      // In a namespace of its own nobody else takes the pid.
      const script = 'echo $(($1 - 1)) > /proc/sys/kernel/ns_last_pid; sleep 600 & echo "$!"'
      const stranger = yield* run("the stranger", [...inside, "sh", "-c", script, "sh", String(pid)])
      assert.strictEqual(Number(stranger), pid)

      const { begin } = yield* takeOver(arena, { through: inside })
      assert.deepInclude(begin, { took: "dead", proof: "D1" })
      assert.include(begin.evidence as string, `the pid ${pid} now belongs to another process`)
      assert.include(yield* run("the stranger's name", [...inside, "cat", `/proc/${pid}/comm`]), "sleep")
    })
  )

  itNeeds(needs.pids)("is succeeded at once by a process that has its pid (D1 alone)", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const inside = yield* makeNamespace
      const primary = yield* startPrimary(arena, { through: inside })
      yield* primary.kill
      yield* removeWitness(arena)
      const { pid } = (yield* arena.record).process
      const script = 'echo $(($0 - 1)) > /proc/sys/kernel/ns_last_pid; "$@" & wait'
      const { begin } = yield* takeOver(arena, { through: [...inside, "sh", "-c", script, String(pid)] })
      assert.deepInclude(begin, { pid, took: "dead", proof: "D1" })
    })
  )

  const ends = [
    ["SIGKILL", {}, "SIGKILL", { code: null, signal: "SIGKILL" }],
    ["process.exit", hook('process.on("SIGUSR2", () => process.exit(3))'), "SIGUSR2", { code: 3, signal: null }],
    [
      "an uncaught exception",
      {
        ...hook('process.on("SIGUSR2", () => { throw new Error("on purpose") })'),
        through: ["sh", "-c", 'exec "$@" 2> /dev/null', "sh"]
      },
      "SIGUSR2",
      { code: 1, signal: null }
    ],
    [
      "an unhandled rejection",
      {
        ...hook('process.on("SIGUSR2", () => { Promise.reject(new Error("on purpose")) })'),
        through: ["sh", "-c", 'exec "$@" 2> /dev/null', "sh"]
      },
      "SIGUSR2",
      { code: 1, signal: null }
    ]
  ] as const
  for (const [name, options, signal, expected] of ends) {
    linux(`of ${name}, without a release, is succeeded at once`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* startPrimary(arena, options)
        yield* end(primary, signal)
        assert.deepStrictEqual(yield* primary.ended, expected)
        assert.strictEqual((yield* inspect(arena)).state, "dead")
        const { begin } = yield* takeOver(arena)
        // Its witness still stands, so that other containers could tell, too.
        assert.deepInclude(begin, { took: "dead", proof: "D2" })
        assert.deepStrictEqual(yield* arena.kinds, ["lock", "m", "mail", "s", "w"])
      })
    )
  }

  linux("again and again leaves greater epochs, whatever the clock says", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const epochs: Array<number> = []
      for (const [signal, ahead] of [
        ["SIGKILL", 0],
        ["SIGTERM", 3_600_000],
        ["SIGKILL", -3_600_000],
        ["SIGTERM", 0],
        ["SIGKILL", -7_200_000]
      ] as const) {
        const primary = yield* arena.start("launch", { ahead })
        epochs.push((yield* primary.waitFor("begin")).epoch as number)
        yield* end(primary, signal)
      }
      assert.deepStrictEqual(
        epochs,
        [...new Set(epochs)].sort((a, b) => a - b)
      )
      yield* arena.consistent()
    })
  )
})

// -------------------------------------------------------------------------------------
// namespaces
// -------------------------------------------------------------------------------------

const container: StartOptions = { through: ["unshare", "-p", "-f", "-m", "--mount-proc", "--kill-child"] }

/** Runs a command and answers what it prints. */
const run = (what: string, [command, ...args]: ReadonlyArray<string>) =>
  Effect.async<string>((resume) => {
    const child = spawn(command!, args, { stdio: ["ignore", "pipe", "inherit"] })
    let text = ""
    child.stdout.setEncoding("utf8").on("data", (chunk) => (text += chunk))
    // Not "close": what it leaves behind may keep its output open.
    child.once("exit", (code) =>
      setImmediate(() => resume(code === 0 ? Effect.succeed(text) : Effect.dieMessage(`${what}: exit code ${code}`)))
    )
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** A pid namespace that lives as long as the scope, as the words that run a command in it. */
const makeNamespace: Effect.Effect<ReadonlyArray<string>, never, Scope.Scope> = Effect.gen(function* () {
  const [command, ...args] = [...container.through!, "sleep", "600"]
  const holder = yield* Effect.acquireRelease(
    Effect.sync(() => spawn(command!, args, { stdio: "ignore" })),
    (holder) => Effect.sync(() => holder.kill("SIGKILL"))
  )
  const first = yield* until("the first process of a namespace", () => {
    const [pid] = fs.readFileSync(`/proc/${holder.pid}/task/${holder.pid}/children`, "utf8").split(" ")
    return pid !== undefined && pid !== "" && fs.readFileSync(`/proc/${pid}/comm`, "utf8") === "sleep\n" && pid
  })
  return ["nsenter", "-t", first, "-m", "-p"]
})

describe("containers that share a directory", () => {
  const isolated = itNeeds(needs.namespaces)

  isolated("deliver to each other, and take over from one that was killed (D2)", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* startPrimary(arena, container)
      assert.strictEqual((yield* arena.record).process.pid, 1)
      assert.deepInclude(yield* startSecondary(arena), { outcome: "Delivered", by: primary.who, pid: 1 })
      // The same pid in a container of its own: neither itself nor dead.
      assert.deepInclude(yield* startSecondary(arena, container), { outcome: "Delivered", by: primary.who, pid: 1 })
      assert.strictEqual((yield* inspect(arena)).state, "primary")
      const standby = yield* arena.start("standby", container)
      yield* standby.waitFor("follow", { pid: 1 })

      yield* primary.kill
      assert.deepInclude(yield* standby.waitFor("begin"), { took: "dead", proof: "D2" })
      yield* standby.kill
      const { begin } = yield* takeOver(arena)
      assert.deepInclude(begin, { took: "dead", proof: "D2" })
      yield* arena.consistent()
    })
  )

  isolated("may be started anew with the pid of the record", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      let previous = yield* startPrimary(arena, container)
      for (const signal of ["SIGKILL", "SIGKILL", "SIGTERM"] as const) {
        assert.strictEqual((yield* arena.record).process.pid, 1)
        yield* end(previous, signal)
        const { begin, next } = yield* takeOver(arena, container)
        assert.deepInclude(begin, { pid: 1, took: signal === "SIGKILL" ? "dead" : "released" })
        previous = next
      }
      yield* arena.consistent()
    })
  )

  isolated("take nothing over from one of which nothing can be told", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* startPrimary(arena, container)
      const before = yield* arena.record
      // It would notice at once, and give up.
      yield* primary.freeze
      yield* removeWitness(arena)
      for (const options of [{}, container]) {
        const told = yield* startSecondary(arena, options)
        assert.deepInclude(told, { error: "LockError", reason: "OwnerUnverifiable", outcome: "NotDelivered", pid: 1 })
      }
      assert.strictEqual((yield* inspect(arena)).state, "unverifiable")
      assert.deepStrictEqual(yield* arena.record, before)
      assert.deepStrictEqual(yield* arena.kinds, ["lock", "m", "mail", "s"])

      yield* primary.thaw
      yield* primary.waitFor("lost")
      yield* primary.ended
      yield* arena.consistent({ outsiders: true })
    })
  )
})

// -------------------------------------------------------------------------------------
// the end of a primary
// -------------------------------------------------------------------------------------

describe("a primary that is asked to end", () => {
  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129]
  ] as const) {
    linux(`by ${signal} releases the lock and exits with ${code}`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* startPrimary(arena)
        const { epoch, nonce } = yield* arena.record
        assert.deepStrictEqual(yield* arena.kinds, ["lock", "m", "mail", "s", "w"])
        yield* primary.signal(signal)
        assert.deepStrictEqual(yield* primary.ended, { code, signal: null })
        yield* primary.waitFor("end")
        assert.strictEqual((yield* inspect(arena)).state, "released")
        const tombstone = yield* arena.record
        assert.deepInclude(tombstone, { epoch, key: "", released: true })
        assert.notStrictEqual(tombstone.nonce, nonce)
        assert.deepStrictEqual(yield* arena.kinds, ["lock"])

        const { begin } = yield* takeOver(arena)
        assert.deepInclude(begin, { took: "released", proof: "D0" })
        assert.isAbove(begin.epoch as number, epoch)
        yield* arena.consistent()
      })
    )
  }

  linux("and drains is waited for by a launch, which then leads; the slow request is answered", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* startPrimary(arena, confessing("SIGTERM"))
      const newcomer = yield* arena.start("rounds")
      yield* newcomer.waitFor("ready")
      const slow = yield* arena.start("launch", { message: "slow", work: 1_500 })
      yield* primary.waitFor("handled", { message: "slow" })
      yield* primary.signal("SIGTERM")
      yield* primary.waitFor("asked")
      yield* newcomer.say(JSON.stringify({ message: "during the shutdown" }))

      assert.deepInclude(yield* slow.waitFor("outcome"), { outcome: "Delivered", by: primary.who })
      assert.deepStrictEqual(yield* primary.ended, { code: 143, signal: null })
      const begin = yield* newcomer.waitFor("begin")
      assert.deepInclude(begin, { took: "released" })
      const handled = yield* newcomer.waitFor("handled")
      assert.strictEqual(handled.message, "during the shutdown")
      assert.deepInclude(yield* startSecondary(arena), { outcome: "Delivered", by: newcomer.who })
      yield* arena.consistent()
    })
  )

  linux("loses no message of launches that come all the while", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const sender = yield* arena.start("send")
      yield* sender.waitFor("begin")
      // The sender is the primary; a second one sends without end, and takes over when the first one goes.
      const other = yield* arena.start("send")
      yield* other.waitFor("outcome", { outcome: "Delivered" })
      yield* sender.signal("SIGTERM")
      assert.deepStrictEqual(yield* sender.ended, { code: 143, signal: null })
      yield* other.waitFor("begin", { took: "released" })
      assert.deepStrictEqual(
        other.entries.filter(({ event, outcome }) => event === "outcome" && outcome !== "Delivered"),
        []
      )
      // The last one is its own.
      const messages = other.entries.flatMap(({ event, message }) =>
        event === "outcome" || event === "handled" ? [Number(String(message).split(".").at(-1))] : []
      )
      assert.deepStrictEqual(
        messages,
        messages.map((_, index) => index)
      )
      yield* arena.consistent()
    })
  )

  linux("a second time waits for nobody; the sender learns that nothing is known", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* startPrimary(arena, confessing("SIGINT"))
      const slow = yield* arena.start("launch", { message: "slow", work: 60_000 })
      yield* primary.waitFor("handled", { message: "slow" })
      const started = performance.now()
      yield* primary.signal("SIGINT")
      yield* primary.waitFor("asked")
      assert.isTrue(primary.isRunning())
      yield* primary.signal("SIGINT")
      assert.deepStrictEqual(yield* primary.ended, { code: 130, signal: null })
      // It would have drained for 10 seconds.
      assert.isBelow(performance.now() - started, 8_000)
      assert.deepInclude(yield* slow.waitFor("outcome"), { outcome: "Unknown", pid: yield* primary.pid })
      assert.strictEqual((yield* takeOver(arena)).begin.took, "dead")
    })
  )
})

// -------------------------------------------------------------------------------------
// other processes
// -------------------------------------------------------------------------------------

describe("a secondary", () => {
  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGKILL", null]
  ] as const) {
    linux(`that ends by ${signal} interrupts its handler in the primary, and nothing else`, () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        const primary = yield* startPrimary(arena)
        const [victim, other] = yield* Effect.all([
          arena.start("launch", { message: "victim", work: 60_000 }),
          arena.start("launch", { message: "other", work: 3_000 })
        ])
        yield* primary.waitFor("handled", { message: "victim" })
        yield* primary.waitFor("handled", { message: "other" })
        yield* victim.signal(signal)
        yield* primary.waitFor("interrupted", { message: "victim" })
        assert.strictEqual((yield* victim.ended).code, code)
        assert.deepInclude(yield* other.waitFor("outcome"), { outcome: "Delivered", by: primary.who })
        assert.isUndefined(primary.entries.find((entry) => entry.event === "interrupted" && entry.message === "other"))
      })
    )
  }
})

describe("a standby", () => {
  linux("keeps no process alive that has nothing else to do", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const primary = yield* startPrimary(arena)
      const idle = yield* arena.start("idle")
      yield* idle.waitFor("follow", { pid: yield* primary.pid })
      assert.deepStrictEqual(yield* idle.ended, { code: 0, signal: null })
      assert.isTrue(primary.isRunning())
    })
  )
})

describe("one id", () => {
  linux("is one primary whatever HOME, TMPDIR and XDG_* say", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const home = join(defaultDirectory(), folderName(arena.id))
      yield* Effect.addFinalizer(() => Effect.sync(() => fs.rmSync(home, { recursive: true, force: true })))
      const names = ["HOME", "TMPDIR", "TMP", "TEMP", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"]
      const places: Array<string> = []
      const elsewhere = (name: string): StartOptions => {
        const place = join(arena.logs, "..", name)
        fs.mkdirSync(place, { mode: 0o700 })
        places.push(place)
        return {
          directory: undefined,
          env: { ...process.env, ...Object.fromEntries(names.map((name) => [name, place])) }
        }
      }
      const nowhere: StartOptions = {
        directory: undefined,
        env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !names.includes(name)))
      }
      const primary = yield* startPrimary(arena, elsewhere("one"))
      assert.isTrue(fs.existsSync(join(home, "lock")))
      for (const options of [elsewhere("two"), nowhere, { directory: undefined }]) {
        assert.deepInclude(yield* startSecondary(arena, options), { outcome: "Delivered", by: primary.who })
      }
      for (const place of places) assert.deepStrictEqual(fs.readdirSync(place), [])
      yield* arena.consistent()
    })
  )

  linux("does not meet another one that differs only in case", () =>
    Effect.gen(function* () {
      const arena = yield* makeArena
      const [lower, upper] = [arena.id.toLowerCase(), arena.id.toUpperCase()]
      const start = (id: string) => startPrimary(arena, { id, kernel: id })
      const [one, two]: [Contender, Contender] = [yield* start(lower), yield* start(upper)]
      assert.deepInclude(yield* startSecondary(arena, { id: lower }), { outcome: "Delivered", by: one.who })
      assert.deepInclude(yield* startSecondary(arena, { id: upper }), { outcome: "Delivered", by: two.who })
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

  it.scopedLive("is held once in a process: by a worker thread, and not by the main one", () =>
    Effect.gen(function* () {
      const { got, pid } = yield* twice("thread")
      assert.deepStrictEqual(got, [
        { who: "the main thread", ...held, pid },
        { who: "afterwards", verdict: "Primary" }
      ])
    })
  )
})
