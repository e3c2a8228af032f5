/**
 * Processes that elect, serve, send, wait and release without end, at any moment stalled, stopped or killed; and locks
 * that do not survive that.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { itNeeds, kindsOfPrimary, makeArena, needs } from "./contenders.js"
import { rage, summary } from "./rage.js"
import { isStress, reported, scaled, seed } from "./stress.js"
import { contradiction } from "./witness.js"

const seconds = scaled(20, 450)
const workers = isStress ? 12 : 7

describe("a storm of SIGKILL and SIGSTOP @large", () => {
  itNeeds(needs.posix)(
    `shows one primary at a time, and the truth about each message, for ${seconds} s`,
    () =>
      reported(
        { area: "2", test: "kill storm", faults: "SIGKILL, SIGSTOP, stalls of the lock's operations" },
        Effect.gen(function* () {
          const arena = yield* makeArena
          yield* Effect.scoped(rage(arena, { workers, seconds }))
          const history = yield* arena.history
          const result = summary(history)
          console.log(`storm with STRESS_SEED=${seed}: ${JSON.stringify(result)}`)
          yield* arena.consistent()
          assert.deepStrictEqual(
            history.filter((entry) => entry.event === "crashed"),
            []
          )
          // It did rage.
          assert.isAbove(result.lives, 100)
          assert.isAbove(result.kills, 10)
          assert.isAbove(result.leaderships, 10)
          assert.isAbove(result.delivered, 3)

          // The next start is not held up by what lies there, and clears it away as soon as it may.
          const next = yield* arena.start("launch", { ahead: 120_000 })
          const ready = yield* next.waitFor("ready")
          const begun = yield* next.waitFor("begin")
          console.log(`the next start leads after ${Math.round((begun.at - ready.at) / 1e6)} ms`)
          assert.isBelow(begun.at - ready.at, 5e9)
          assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
          const other = yield* arena.start("launch", { ahead: 120_000 })
          yield* other.waitFor("outcome", { outcome: "Delivered", by: next.who })
          yield* arena.consistent()
          const { delivered, kills, leaderships, lives, notDelivered, unknown } = result
          return `${workers} workers, ${lives} lives: ${kills} kills, ${leaderships} leaderships; Delivered ${delivered}, NotDelivered ${notDelivered}, Unknown ${unknown}`
        })
      ),
    seconds * 1_000 + 120_000
  )

  it.scopedLive(
    "may strike before any operation of the lock: the next start leads",
    () =>
      Effect.gen(function* () {
        const arena = yield* makeArena
        let deaths = 0
        for (let survived = false; !survived; ) {
          // Over what the one before left: an owner that was killed, or that released.
          const victim = yield* arena.start("launch", { hold: 0, dies: deaths + 1 })
          survived = (yield* victim.ended).code === 0
          if (survived) break
          deaths++
          const next = yield* arena.start("launch", { hold: 0 })
          const ready = yield* next.waitFor("ready")
          const begun = yield* next.waitFor("begin")
          assert.isBelow(begun.at - ready.at, 5e9)
          if (deaths % 2 === 0) yield* next.ended
          else yield* next.kill
        }
        console.log(`killed before each of ${deaths} operations`)
        // At least the steps 2 to 9 and the release.
        assert.isAbove(deaths, 12)
        const last = yield* arena.start("launch", { ahead: 120_000 })
        yield* last.waitFor("begin")
        assert.deepStrictEqual(yield* arena.kinds, kindsOfPrimary)
        yield* arena.consistent()
      }),
    300_000
  )

  for (const lock of ["socket", "pid"] as const) {
    itNeeds(needs.posix)(
      `catches a lock as it is commonly written: ${lock}`,
      () =>
        Effect.gen(function* () {
          const arena = yield* makeArena
          let found: string | undefined
          const watching = Effect.gen(function* () {
            while (found === undefined) {
              yield* Effect.sleep("500 millis")
              found = contradiction(yield* arena.history)
            }
          })
          yield* Effect.scoped(
            Effect.zipRight(
              Effect.forkScoped(watching),
              rage(arena, { workers, seconds: Math.max(90, seconds), lock, enough: () => found !== undefined })
            )
          )
          found = contradiction(yield* arena.history)
          console.log(`caught with STRESS_SEED=${seed}: ${found}`)
          return String(found)
        }).pipe(
          Effect.scoped,
          // The first thing that is wrong may be an epoch that did not grow, with both of them gone by then: once more.
          Effect.repeat({ times: 4, while: (found) => found.includes("the epoch did not grow") }),
          Effect.map((found) => assert.match(found, /two primaries at once/))
        ),
      300_000
    )
  }
})
