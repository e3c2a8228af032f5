/**
 * The primary is killed: what becomes of the messages underway, who comes next, and how soon.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { type Contender, crossing, failing, itNeeds, makeArena, needs, type StartOptions, until } from "./contenders.js"
import { largeIf } from "./size.js"
import { isStress, reported, scaled } from "./stress.js"

const senders = 20
const kills = scaled(6, 40)
const config = { timeout: "60 seconds", helloTimeout: "30 seconds" } as const

const isLeading = ({ entries }: Contender) => entries.some((entry) => entry.event === "begin")
const delivered = (contenders: ReadonlyArray<Contender>) =>
  contenders.reduce((sum, { entries }) => sum + entries.filter((entry) => entry.outcome === "Delivered").length, 0)
const report = (what: string, nanos: ReadonlyArray<number>) => {
  const millis = nanos.map((time) => Math.round(time / 1e5) / 10).sort((a, b) => a - b)
  console.log(`${what}: median ${millis[millis.length >> 1]} ms of ${millis.join(", ")}`)
}

// A descriptor that was there a moment ago may be closed.
const targetOf = (link: string): string => {
  try {
    return fs.readlinkSync(link)
  } catch {
    return ""
  }
}

/** The numbers of a process' descriptors of inotify, and that of its liveness witness, which the kernel lists as it was bound. */
const descriptorsOf = (pid: number) => {
  const sockets = fs.readFileSync("/proc/net/unix", "utf8").split("\n")
  const folder = `/proc/${pid}/fd`
  const watches: Array<number> = []
  let witness = Number.NaN
  for (const fd of fs.readdirSync(folder)) {
    const target = targetOf(path.join(folder, fd))
    if (target === "anon_inode:inotify") watches.push(Number(fd))
    const [, inode] = /^socket:\[(\d+)\]$/.exec(target) ?? []
    const isWitness = sockets.some((line) => line.includes(` ${inode} `) && /\/b\.[0-9a-f]{32}$/.test(line))
    if (inode !== undefined && isWitness) witness = Number(fd)
  }
  assert.isNotEmpty(watches)
  assert.isNotNaN(witness)
  return { watches, witness }
}

const lateWatch = `
  require("node:net").createServer().listen(process.argv[1] + "/b.${"0".repeat(32)}", () => {
    require("node:fs").watch(process.argv[1])
    console.log("listens")
  })
`

/** The primary is killed again and again, while all others send; answers how long each time took, and what they were told. */
const whileSending = (options: StartOptions, kills: number) =>
  Effect.gen(function* () {
    const arena = yield* makeArena
    const times: Array<number> = []
    let primary = yield* arena.start("launch", options)
    yield* primary.waitFor("begin")
    const others: Array<Contender> = []
    const join = Effect.map(arena.start("send", { work: 5, ...options }), (sender) => others.push(sender))
    while (others.length < senders) yield* join
    others.push(yield* arena.start("standby", options))
    yield* Effect.forEach(others, (other) => other.waitFor("ready"))
    for (let kill = 0; kill < kills; kill++) {
      const before = delivered(others)
      yield* until("messages that are delivered", () => delivered(others) >= before + senders)
      yield* primary.kill
      primary = yield* until("the next primary", () => others.find(isLeading))
      others.splice(others.indexOf(primary), 1)
      yield* primary.who.startsWith("standby")
        ? arena.start("standby", options).pipe(Effect.map((next) => others.push(next)))
        : join
      const killed = (yield* arena.history).filter((entry) => entry.event === "kill").at(-1)!
      times.push((yield* primary.waitFor("begin")).at - killed.at)
    }
    // All of them, also one whose message was lost: that takes until its sender is told.
    const last = primary.who
    const isServed = ({ entries, who }: Contender) =>
      who.startsWith("standby") || entries.some(({ by, outcome }) => outcome === "Delivered" && by === last)
    yield* until(
      "a message of each that the last primary handles",
      () => others.every(isServed),
      () => others.flatMap((other) => (isServed(other) ? [] : [{ who: other.who, entries: other.entries.slice(-2) }]))
    )
    const history = yield* arena.history
    const outcomes = new Map<unknown, number>()
    for (const { event, outcome, reason } of history) {
      if (event !== "outcome") continue
      const told = `${outcome}${reason === undefined ? "" : ` ${reason}`}`
      outcomes.set(told, (outcomes.get(told) ?? 0) + 1)
    }
    yield* arena.consistent()
    assert.strictEqual(history.filter((entry) => entry.event === "begin").length, kills + 1)
    assert.deepStrictEqual(
      history.filter((entry) => entry.event === "crashed"),
      []
    )
    // Only what was underway when its primary was killed is not known.
    for (const { outcome, reason, text } of history.filter((entry) => entry.event === "outcome")) {
      if (outcome !== "Delivered") assert.strictEqual(`${outcome} ${reason}`, "Unknown Disconnected", `${text}`)
    }
    return { times, outcomes }
  })

describe("takeover after SIGKILL", () => {
  // Over the platform's chain, and over each protocol between processes alone.
  for (const [over, kills, options] of [
    ["the chain", scaled(6, 40), { config }],
    ...crossing.map((protocol) => [protocol, scaled(3, 20), { config, protocol }] as const)
  ] as const) {
    it.scopedLive(
      `while ${senders} send over ${over}: no message is handled twice, lost in silence or denied in error @large`,
      () =>
        reported(
          {
            area: "2",
            test: `primary killed under ${senders} senders, over ${over}`,
            faults: "SIGKILL of each primary"
          },
          Effect.map(whileSending(options, kills), ({ outcomes, times }) => {
            report(`from SIGKILL to the next primary, while ${senders} send over ${over}`, times)
            const told = [...outcomes].map(([outcome, count]) => `${outcome} ${count}`).join(", ")
            console.log(`outcomes: ${told}`)
            return `${kills} kills; ${told}`
          })
        ),
      300_000
    )
  }

  // None of this depends on the protocol.
  for (const [transport, what, because] of [
    ["twice", "passes a request on twice is", /was handled twice/],
    ["lost", "loses a request is", /NotDelivered/]
  ] as const) {
    itNeeds(needs.posix)(
      `where a transport ${what} caught @large`,
      () =>
        Effect.gen(function* () {
          const options = { config: { timeout: "4 seconds" }, protocol: "tcp", transport } as const
          assert.match(yield* failing(whileSending(options, 1)), because)
        }),
      300_000
    )
  }

  itNeeds(needs.posix)(
    `while ${senders} send, by a primary that goes in peace: every message arrives @large`,
    () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        let primary = yield* arena.start("launch", { config })
        yield* primary.waitFor("begin")
        const others: Array<Contender> = []
        const join = Effect.map(arena.start("send", { work: 5, config }), (sender) => others.push(sender))
        while (others.length < senders) yield* join
        yield* Effect.forEach(others, (other) => other.waitFor("ready"))
        for (let round = 0; round < kills; round++) {
          const before = delivered(others)
          yield* until("messages that are delivered", () => delivered(others) >= before + senders)
          yield* primary.signal("SIGTERM")
          assert.strictEqual((yield* primary.ended).code, 143)
          primary = yield* until("the next primary", () => others.find(isLeading))
          assert.strictEqual((yield* primary.waitFor("begin")).took, "released")
          others.splice(others.indexOf(primary), 1)
          yield* join
        }
        yield* arena.consistent()
        const history = yield* arena.history
        assert.strictEqual(history.filter((entry) => entry.event === "begin").length, kills + 1)
        for (const { event, outcome, text } of history)
          if (event === "outcome") assert.strictEqual(outcome, "Delivered", `${text}`)
      }),
    300_000
  )

  // The kernel closes what a dead process held from the last descriptor to the first (task_work_run, since 4.3), and waits
  // for a grace period of its own where it closes one of inotify: whoever waits for the witness must not wait for that.
  it.scopedLive.skipIf(process.platform !== "linux")(
    "with a witness that is closed before what takes long @large",
    () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        for (const mode of ["launch", "standby"] as const) {
          const primary = yield* arena.start(mode)
          yield* primary.waitFor("begin")
          const { watches, witness } = descriptorsOf(yield* primary.pid)
          assert.isAbove(witness, Math.max(...watches), mode)
          yield* primary.kill
        }
        const late = yield* Effect.acquireRelease(
          Effect.sync(() =>
            spawn(process.execPath, ["-e", lateWatch, arena.directory], { stdio: ["ignore", "pipe", "inherit"] })
          ),
          (child) => Effect.sync(() => child.kill("SIGKILL"))
        )
        yield* Effect.promise(() => once(late.stdout, "data"))
        const { watches, witness } = descriptorsOf(late.pid!)
        assert.isBelow(witness, Math.min(...watches), "the canary: a watch that begins behind the witness")
      })
  )

  for (const kills of isStress ? [scaled(10, 50)] : [3, 10]) {
    it.scopedLive(
      `by a standby that waits, ${kills} times${largeIf(kills !== 3)}`,
      () =>
        Effect.gen(function* () {
          const arena = yield* makeArena
          const times: Array<number> = []
          let primary = yield* arena.start("standby")
          yield* primary.waitFor("begin")
          for (let kill = 0; kill < kills; kill++) {
            const standby = yield* arena.start("standby")
            yield* standby.waitFor("follow", { pid: yield* primary.pid })
            yield* primary.kill
            const killed = (yield* arena.history).filter((entry) => entry.event === "kill").at(-1)!
            const begun = yield* standby.waitFor("begin")
            assert.strictEqual(begun.took, "dead")
            times.push(begun.at - killed.at)
            primary = standby
          }
          report("from SIGKILL to a standby being the primary", times)
          yield* arena.consistent()
        }),
      300_000
    )
  }
})
