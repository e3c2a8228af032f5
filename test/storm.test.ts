/**
 * 20 launches at once, round after round: one becomes the primary, and the messages of the 19 others arrive once each. Then
 * 200 launches, 20 at a time, that one primary serves. Over the platform's chain, and over each protocol that crosses
 * processes alone.
 */
import * as fs from "node:fs"
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import {
  type Arena,
  type Contender,
  crossing,
  failing,
  itNeeds,
  kindsOfPrimary,
  kindsOver,
  makeArena,
  needs,
  type StartOptions,
  until
} from "./contenders.js"
import { largeIf } from "./size.js"
import { isStress, isWhole, reported, scaled } from "./stress.js"
import { history, programOf, type Version } from "./versions.js"
import type { Entry } from "./witness.js"

const size = 20
// A crowd: processes and rounds.
interface Crowd {
  readonly size: number
  readonly rounds: number
}
// Processes that have still to start take the longest; those that wait for the word meet in a smaller space of time.
const rounds = { fresh: scaled(3, 20), waiting: scaled(6, 20) }
const secondaries = 200
const config = { timeout: "60 seconds", helloTimeout: "30 seconds" } as const

/** How all processes of a test are started, and what the primary's folder shows then. */
interface Setting {
  readonly over: string
  readonly options: StartOptions
  readonly kinds: ReadonlyArray<string>
  /** The same of an older version that may lead as well. */
  readonly older?: ReadonlyArray<string>
  /** What contenders are started with in turn; left out: this version's. */
  readonly programs?: ReadonlyArray<string | undefined> | undefined
}

const chain: Setting = { over: "the chain", options: { config }, kinds: kindsOfPrimary }
const alone = crossing.map(
  (name): Setting => ({ over: name, options: { config, protocol: name }, kinds: kindsOver(name) })
)

type Start = "empty" | "remains"

/** Each message is handled once, by this one, which its sender knows. */
const assertHandled = (history: ReadonlyArray<Entry>, messages: ReadonlyArray<string>, primary: string) => {
  for (const { event, outcome, text } of history) {
    if (event === "outcome") assert.strictEqual(outcome, "Delivered", `${text}`)
  }
  const told = (event: string, by: (entry: Entry) => unknown) =>
    history.flatMap((entry) => (entry.event === event ? [`${entry.message} by ${by(entry)}`] : [])).sort()
  assert.deepStrictEqual(
    told("handled", ({ who }) => who),
    messages.map((message) => `${message} by ${primary}`).sort()
  )
  const sent = messages.filter((message) =>
    history.some((entry) => entry.message === message && entry.event === "handled" && entry.from !== undefined)
  )
  assert.deepStrictEqual(
    told("outcome", ({ by }) => by),
    sent.map((message) => `${message} by ${primary}`).sort()
  )
}

/** Waits until each process knows what became of its message, judges the round, and answers who is the primary. */
const judge = Effect.fnUntraced(function* (
  arena: Arena,
  { kinds, older = kinds }: Setting,
  start: Start,
  contenders: ReadonlyMap<string, Contender>
) {
  const isOwn = (entry: Entry) => entry.event === "handled" && entry.from === undefined
  const isDecided = ([message, { entries }]: readonly [string, Contender]) =>
    entries.some((entry) => entry.message === message && (entry.event === "outcome" || isOwn(entry)))
  yield* until(
    "a decision in each process",
    () => [...contenders].every(isDecided),
    () => [...contenders].filter((one) => !isDecided(one)).map(([message, { entries }]) => ({ message, entries }))
  )
  yield* arena.consistent()
  const round = (yield* arena.history).filter((entry) => contenders.has(entry.message as string))
  const [own, ...others] = round.filter(isOwn)
  assert.deepStrictEqual(others, [], "one primary")
  assertHandled(round, [...contenders.keys()], own!.who)
  const primary = contenders.get(own!.message as string)!
  const took = primary.entries.filter((entry) => entry.event === "begin").at(-1)!.took
  assert.strictEqual(took, start === "empty" ? "free" : "dead")
  // Nothing is left of what the losers opened, nor of the dead.
  assert.deepInclude([kinds, older], yield* arena.kinds)
  return primary
})

const leaveRemains = Effect.fnUntraced(function* (arena: Arena, { options }: Setting) {
  const first = yield* arena.start("launch", options)
  yield* first.waitFor("begin")
  yield* first.kill
})

const fresh = (setting: Setting, start: Start) =>
  Effect.gen(function* () {
    const arena = yield* makeArena
    if (start === "remains") yield* leaveRemains(arena, setting)
    for (let round = 0; round < rounds.fresh; round++) {
      yield* Effect.gen(function* () {
        const contenders = new Map<string, Contender>()
        for (let index = 0; index < size; index++) {
          const message = `${round}.${index}`
          contenders.set(message, yield* arena.start("launch", { ...setting.options, message }))
        }
        const primary = yield* judge(arena, setting, start, contenders)
        if (start === "empty") {
          yield* primary.signal("SIGTERM")
          yield* primary.ended
          fs.rmSync(arena.directory, { recursive: true })
        } else {
          yield* primary.kill
        }
        for (const contender of contenders.values()) {
          const { code } = yield* contender.ended
          if (contender !== primary) assert.strictEqual(code, 0)
        }
      }).pipe(Effect.scoped)
    }
  })

const waiting = (setting: Setting, start: Start, crowd: Crowd = { size, rounds: rounds.waiting }) =>
  Effect.gen(function* () {
    const arena = yield* makeArena
    if (start === "remains") yield* leaveRemains(arena, setting)
    const { options, programs = [undefined] } = setting
    const ready: Array<Contender> = []
    const led = programs.map(() => 0)
    for (let round = 0; round < crowd.rounds; round++) {
      for (let index = 0; index < crowd.size; index++) {
        if (ready[index]?.isRunning()) continue
        ready[index] = yield* arena.start("rounds", { ...options, program: programs[index % programs.length] })
      }
      yield* Effect.forEach(ready, (contender) => contender.waitFor("ready"))
      const contenders = new Map(ready.map((contender, index) => [`${round}.${index}`, contender]))
      for (const [message, contender] of contenders) yield* contender.say(JSON.stringify({ message }))
      const primary = yield* judge(arena, setting, start, contenders)
      led[ready.indexOf(primary) % programs.length]!++
      if (start === "empty") {
        yield* primary.say("stop")
        yield* until("its release", () => primary.entries.at(-1)!.event === "round")
        fs.rmSync(arena.directory, { recursive: true })
      } else {
        yield* primary.kill
      }
    }
    return led
  })

/** A launch each, or one after the other by processes that are there already; no more than `size` at any time. */
const served = (setting: Setting, by: "processes" | "waiting processes") =>
  Effect.gen(function* () {
    const arena = yield* makeArena
    const primary = yield* arena.start("launch", { ...setting.options, message: "own" })
    yield* primary.waitFor("begin")
    const messages = Array.from({ length: secondaries }, (_, index) => `${index}`)
    if (by === "processes") {
      const launch = (message: string) =>
        Effect.gen(function* () {
          const secondary = yield* arena.start("launch", { ...setting.options, message })
          yield* secondary.waitFor("outcome")
          assert.strictEqual((yield* secondary.ended).code, 0)
        }).pipe(Effect.scoped)
      yield* Effect.forEach(messages, launch, { concurrency: size })
    } else {
      const ready = yield* Effect.replicateEffect(arena.start("rounds", setting.options), size)
      yield* Effect.forEach(ready, (secondary) => secondary.waitFor("ready"))
      const launches = (secondary: Contender, index: number) =>
        Effect.forEach(
          messages.filter((message) => Number(message) % size === index),
          (message) =>
            Effect.zipRight(secondary.say(JSON.stringify({ message })), secondary.waitFor("outcome", { message }))
        )
      yield* Effect.forEach(ready, launches, { concurrency: "unbounded" })
    }
    yield* arena.consistent()
    const history = yield* arena.history
    assertHandled(history, ["own", ...messages], primary.who)
    assert.lengthOf(
      history.filter(({ event }) => event === "begin"),
      1
    )
    assert.deepStrictEqual(yield* arena.kinds, setting.kinds)
  })

const limit = 600_000
// What a run of ten minutes would only repeat, as large as in the usual one.
const isRepeated = isStress && !isWhole
for (const setting of isRepeated ? [chain] : [chain, ...alone]) {
  const { over } = setting
  describe(`${size} launches at once over ${over}`, () => {
    const ofAll = [
      ["empty", "an empty directory"],
      ["remains", "the remains of the killed"]
    ] as const
    for (const [start, where] of ofAll) {
      const few = { size: 8, rounds: 2 }
      const crowds = [
        ...(setting === chain && start === "remains" && !isStress ? [few] : []),
        { size, rounds: rounds.waiting },
        ...(isStress && setting === chain
          ? [
              { size: 50, rounds: scaled(5, 40) },
              { size: 100, rounds: scaled(1, 5) }
            ]
          : [])
      ]
      for (const crowd of crowds) {
        const isLarge = largeIf(crowd !== few)
        itNeeds(needs.posix)(
          `that wait for the word, over ${where}, ${crowd.rounds} times${crowd.size === size ? "" : `, ${crowd.size}`}${isLarge}`,
          () =>
            reported(
              {
                area: "1",
                test: `start storm over ${where}, ${setting.over}`,
                faults: start === "empty" ? "none" : "SIGKILL of each primary"
              },
              Effect.as(waiting(setting, start, crowd), `${crowd.size} processes × ${crowd.rounds} rounds`)
            ),
          limit
        )
      }
      // The start of a process costs the same over each.
      if (isRepeated || (setting !== chain && !isWhole)) continue
      itNeeds(needs.posix)(
        `that start, over ${where}, ${rounds.fresh} times @large`,
        () =>
          reported(
            {
              area: "1",
              test: `processes that start, over ${where}, ${over}`,
              faults: start === "empty" ? "none" : "SIGKILL of each primary"
            },
            Effect.as(fresh(setting, start), `${size} processes × ${rounds.fresh} rounds`)
          ),
        limit
      )
    }
  })
}

for (const setting of isRepeated ? [] : alone) {
  const by = isWhole ? "processes" : "waiting processes"
  itNeeds(needs.posix)(
    `one primary serves ${secondaries} launches, ${size} at a time, over ${setting.over} @large`,
    () =>
      reported(
        { area: "8", test: `one primary serves launches over ${setting.over}`, faults: "none" },
        Effect.as(served(setting, by), `${secondaries} launches, ${size} at a time`)
      ),
    limit
  )
}

/**
 * Half of the launches of each version; the first one knew Unix sockets only, and kept neither a second name of its record
 * nor a tombstone.
 */
const mixed = (version: Version, { kinds, options }: Setting) =>
  Effect.map(
    programOf(version),
    (program): Setting => ({
      over: `this version and ${version}`,
      options,
      kinds,
      ...(version === "first" ? { older: kinds.filter((kind) => kind !== "e" && kind !== "t") } : undefined),
      programs: [undefined, program]
    })
  )
const unix = alone.find(({ over }) => over === "unix")!

describe("two versions of the package @large", () => {
  for (const [version, need, setting] of [
    ["first", history, unix],
    ["later", needs.posix, chain]
  ] as const) {
    for (const start of ["empty", "remains"] as const) {
      const crowd = { size, rounds: scaled(6, 40) }
      itNeeds(need)(
        `have one primary, this one and the ${version}: ${size} launches, ${start}, ${crowd.rounds} times`,
        () =>
          reported(
            {
              area: "1",
              test: `start storm of this version and the ${version}, ${start}`,
              faults: start === "empty" ? "none" : "SIGKILL of each primary"
            },
            Effect.flatMap(mixed(version, setting), (both) => waiting(both, start, crowd)).pipe(
              Effect.map(
                ([ours, theirs]) =>
                  `${size} processes × ${crowd.rounds} rounds; ${ours} led by this one, ${theirs} by the ${version}`
              )
            )
          ),
        limit
      )
    }
  }
})

describe("the canary", () => {
  itNeeds(needs.posix)("two versions that have no wire version in common do not meet @large", () =>
    Effect.flatMap(mixed("far", chain), (both) => failing(waiting(both, "empty"))).pipe(
      Effect.map((why) => assert.match(why, /NotDelivered/))
    )
  )

  // None of this depends on the protocol.
  const broken = (options: StartOptions, kinds = kindsOver("tcp")): Setting => ({
    over: "tcp",
    options: { config: { timeout: "4 seconds" }, protocol: "tcp", ...options },
    kinds
  })

  itNeeds(needs.posix)("a lock as it is commonly written has two primaries @large", () =>
    Effect.map(failing(waiting(broken({ lock: "pid" }, ["naive"]), "empty")), (why) =>
      assert.match(why, /two primaries at once|one primary/)
    )
  )
  itNeeds(needs.posix)("a transport that loses a request has it not delivered @large", () =>
    Effect.map(failing(waiting(broken({ transport: "lost" }), "empty")), (why) => assert.match(why, /NotDelivered/))
  )
  itNeeds(needs.posix)("a transport that passes a request on twice has it handled twice @large", () =>
    Effect.map(failing(served(broken({ transport: "twice" }), "waiting processes")), (why) =>
      assert.match(why, /was handled twice/)
    )
  )
})
