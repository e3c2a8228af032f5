/**
 * The real code of the file lock, run by a scheduler that takes every order of its operations and crashes it before any
 * of them. `MODEL_REPLAY="<scenario>: <choices>"` shows a run again; `MODEL_DEEP=1` lifts the bounds on three processes.
 */
import { assert, describe, it } from "@effect/vitest"
import { canaries, counting, sound } from "./model/Canaries.js"
import { deep, ordinary, walked } from "./model/Scenarios.js"
import { explore, Laboratory, parseReplay, replay, walk } from "./model/Scheduler.js"
import { largeIf } from "./size.js"

const timeout = 600_000
const maxStates = process.env.MODEL_DEEP ? 16_000_000 : 2_000_000

describe("the search itself", () => {
  const orders = async (steps: number, crashes: number) => {
    const { ends } = await explore(new Laboratory(counting(steps, crashes)), { maxStates, merge: false })
    return ends
  }
  // n over k
  const choose = (n: number, k: number): number => (k === 0 ? 1 : (choose(n - 1, k - 1) * n) / k)

  it("takes every order of two processes", async () => {
    for (const steps of [1, 2, 3, 4]) assert.strictEqual(await orders(steps, 0), choose(2 * steps, steps))
  })

  it("crashes either before each of its operations, in every order", async () => {
    for (const steps of [1, 2, 3, 4]) {
      let expected = choose(2 * steps, steps)
      // One takes `done` steps and crashes, which is an event like another; the other one takes all of its steps.
      for (let done = 0; done < steps; done++) expected += 2 * choose(steps + done + 1, steps)
      assert.strictEqual(await orders(steps, 1), expected)
    }
  })

  it("comes to the same ends where it does not go through a state again", async () => {
    const laboratory = new Laboratory(counting(4, 0))
    const { ends, states } = await explore(laboratory, { maxStates })
    assert.deepStrictEqual({ ends, states }, { ends: 1, states: 25 })
  })

  it("finds nothing where nothing is wrong", async () => {
    const { complete, trace } = await explore(new Laboratory(sound), { maxStates })
    assert.strictEqual(trace?.text, undefined)
    assert.isTrue(complete)
  })
})

describe("the search finds two primaries in", () => {
  for (const scenario of canaries) {
    it(scenario.name, { timeout }, async () => {
      const { states, steps, trace } = await explore(new Laboratory(scenario), { maxStates })
      if (trace === undefined) return assert.fail("the search did not find it")
      assert.strictEqual(trace.violation.kind, "TwoPrimaries")
      console.log(`found after ${states} states and ${steps} steps; a shortest trace:\n${trace.text}`)
    })

    it(`${scenario.name}, by chance @large`, { timeout }, async () => {
      const { executed, trace } = await walk(new Laboratory(scenario), { count: 2_000, seed: 1, newcomer: true })
      assert.strictEqual(trace?.violation.kind, "TwoPrimaries")
      console.log(`found in schedule ${executed}`)
    })
  }
})

describe("the file lock holds in every order", () => {
  // Those that are searched in a second or two.
  const small = /^two, (no directory|empty|release under way|one loses|one swept|one closed), both proofs$/
  let states = 0
  let steps = 0
  for (const scenario of process.env.MODEL_DEEP ? [...ordinary, ...deep] : ordinary) {
    const size = largeIf(!small.test(scenario.name))
    it(`${scenario.name}${size}`, { timeout: process.env.MODEL_DEEP ? 6 * timeout : timeout }, async () => {
      const laboratory = new Laboratory(scenario)
      const start = performance.now()
      const result = await explore(laboratory, { maxStates })
      if (result.trace !== undefined) assert.fail(result.trace.text)
      assert.isTrue(result.complete, `there are more than ${result.states} states`)
      // The search goes back to a point of a process by its table: what really runs must do as the table says.
      const walks = await walk(laboratory, { count: 50, seed: 1, newcomer: true })
      if (walks.trace !== undefined) assert.fail(walks.trace.text)
      states += result.states
      steps += result.steps
      console.log(
        `${scenario.name}: ${result.states} states, ${result.steps} steps, runs of up to ${result.depth} steps, ` +
          `${laboratory.histories} points of the code, ${Math.round(performance.now() - start)} ms; ` +
          `so far ${states} states and ${steps} steps`
      )
    })
  }
})

it.skipIf(!process.env.MODEL_REPLAY)("replay", () => {
  const { choices, name } = parseReplay(process.env.MODEL_REPLAY!)
  const scenario = [...ordinary, ...deep, ...walked, ...canaries].find((candidate) => candidate.name === name)
  if (scenario === undefined) return assert.fail(`there is no scenario "${name}"`)
  console.log(replay(new Laboratory(scenario), choices).text)
})
