/**
 * Schedules of the real code of the file lock, each executed from its start to its end, in orders and with crashes that
 * a seed chooses. `MODEL_SCHEDULES` is how many (50,000), `MODEL_SEED` the seed (1).
 */
import { assert, describe, it } from "@effect/vitest"
import { walked } from "./model/Scenarios.js"
import { Laboratory, walk } from "./model/Scheduler.js"

const schedules = Number(process.env.MODEL_SCHEDULES ?? 50_000)
const seed = Number(process.env.MODEL_SEED ?? 1)
const timeout = 600_000 + schedules * 10

describe(`the file lock holds in schedules of seed ${seed} @large`, () => {
  const start = performance.now()
  let executed = 0
  let different = 0
  let steps = 0
  let crashes = 0

  walked.forEach((scenario, index) => {
    it(scenario.name, { timeout }, async () => {
      const seen = new Set<string>()
      const left = walked.length - index
      const share = Math.ceil((schedules - different) / left)
      const laboratory = new Laboratory(scenario)
      // Chance repeats itself. Where there are few orders, the scenarios behind this one take over.
      let tries = left === 1 ? 10 * share : Math.ceil(1.3 * share)
      for (let round = 0; seen.size < share && tries > 0; round++) {
        const count = Math.min(share - seen.size, tries)
        const result = await walk(laboratory, {
          count,
          seed: seed * 1_000_003 + index * 1_009 + round,
          newcomer: true,
          onExecuted: (schedule) => seen.add(schedule)
        })
        if (result.trace !== undefined) assert.fail(result.trace.text)
        tries -= count
        executed += result.executed
        steps += result.steps
        crashes += result.crashes
      }
      different += seen.size
    })
  })

  it(`${schedules} of them`, () => {
    const seconds = Math.round((performance.now() - start) / 1_000)
    console.log(
      `executed ${executed} schedules to their end, ${different} different ones, ` +
        `with ${steps} operations and ${crashes} crashes, in ${seconds} s`
    )
    assert.isAtLeast(different, schedules)
  })
})
