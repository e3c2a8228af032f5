/**
 * 20 launches at once, round after round: one becomes the primary, and the messages of the 19 others arrive once each.
 */
import * as fs from "node:fs"
import { assert, describe } from "@effect/vitest"
import { Effect } from "effect"
import { type Arena, type Contender, itNeeds, kindsOfPrimary, makeArena, needs, until } from "./contenders.js"
import type { Entry } from "./witness.js"

const size = 20
// Processes that have still to start take the longest; those that wait for the word meet in a smaller space of time.
const rounds = { fresh: process.env.STRESS === "1" ? 20 : 5, waiting: 20 }
const config = { timeout: "60 seconds", helloTimeout: "30 seconds" } as const

type Start = "empty" | "remains"

/** Waits until each process knows what became of its message, judges the round, and answers who is the primary. */
const judge = Effect.fnUntraced(function* (arena: Arena, start: Start, contenders: ReadonlyMap<string, Contender>) {
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
  const handled = round.filter((entry) => entry.event === "handled")
  const [own, ...others] = handled.filter(isOwn)
  assert.deepStrictEqual(others, [], "one primary")
  assert.deepStrictEqual(
    handled.map((entry) => `${entry.message} by ${entry.who}`).sort(),
    [...contenders.keys()].map((message) => `${message} by ${own!.who}`).sort()
  )
  assert.deepStrictEqual(
    round.flatMap((entry) => (entry.event === "outcome" ? [`${entry.outcome} by ${entry.by}`] : [])),
    new Array(size - 1).fill(`Delivered by ${own!.who}`)
  )
  const primary = contenders.get(own!.message as string)!
  const took = primary.entries.filter((entry) => entry.event === "begin").at(-1)!.took
  assert.strictEqual(took, start === "empty" ? "free" : "dead")
  // Nothing is left of what the losers opened, nor of the dead.
  assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
  return primary
})

const leaveRemains = Effect.fnUntraced(function* (arena: Arena) {
  const first = yield* arena.start("launch")
  yield* first.waitFor("begin")
  yield* first.kill
})

const fresh = (start: Start) =>
  Effect.gen(function* () {
    const arena = yield* makeArena
    if (start === "remains") yield* leaveRemains(arena)
    for (let round = 0; round < rounds.fresh; round++) {
      yield* Effect.gen(function* () {
        const contenders = new Map<string, Contender>()
        for (let index = 0; index < size; index++) {
          const message = `${round}.${index}`
          contenders.set(message, yield* arena.start("launch", { message, config }))
        }
        const primary = yield* judge(arena, start, contenders)
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

const waiting = (start: Start) =>
  Effect.gen(function* () {
    const arena = yield* makeArena
    if (start === "remains") yield* leaveRemains(arena)
    const ready: Array<Contender> = []
    for (let round = 0; round < rounds.waiting; round++) {
      while (ready.length < size) ready.push(yield* arena.start("rounds", { config }))
      yield* Effect.forEach(ready, (contender) => contender.waitFor("ready"))
      const contenders = new Map(ready.map((contender, index) => [`${round}.${index}`, contender]))
      for (const [message, contender] of contenders) yield* contender.say(JSON.stringify({ message }))
      const primary = yield* judge(arena, start, contenders)
      if (start === "empty") {
        yield* primary.say("stop")
        yield* until("its release", () => primary.entries.at(-1)!.event === "round")
        fs.rmSync(arena.directory, { recursive: true })
      } else {
        yield* primary.kill
        ready.splice(ready.indexOf(primary), 1)
      }
    }
  })

describe(`${size} launches at once`, () => {
  const limit = 600_000
  itNeeds(needs.posix)(
    `that wait for the word, over an empty directory, ${rounds.waiting} times`,
    () => waiting("empty"),
    limit
  )
  itNeeds(needs.posix)(
    `that wait for the word, over the remains of the killed, ${rounds.waiting} times`,
    () => waiting("remains"),
    limit
  )
  itNeeds(needs.posix)(`that start, over an empty directory, ${rounds.fresh} times`, () => fresh("empty"), limit)
  itNeeds(needs.posix)(
    `that start, over the remains of the killed, ${rounds.fresh} times`,
    () => fresh("remains"),
    limit
  )
})
