import { assert, describe, it } from "@effect/vitest"
import { beElected, begin, converse, end, makeCounterpart, micros, perFrame, spread } from "../bench/jobs.js"
import { draw } from "../bench/plot.js"
import { interval, quantile, ratio } from "../bench/statistics.js"

describe("bench", () => {
  it("takes quantiles by size, not by digits", () => {
    assert.strictEqual(quantile([10, 9, 100, 1, 2], 0.5), 9)
    assert.strictEqual(quantile([10, 9, 100, 1, 2], 0.99), 100)
  })

  it("says between which samples the median lies, and how surely", () => {
    const upTo = (count: number) => interval(Array.from({ length: count }, (_, index) => count - index))
    assert.deepStrictEqual(upTo(3), { low: 1, high: 3, confidence: 0.75 })
    assert.deepStrictEqual(upTo(6), { low: 1, high: 6, confidence: 1 - 2 / 64 })
    assert.deepStrictEqual(upTo(10), { low: 2, high: 9, confidence: 1 - 22 / 1024 })
    assert.deepStrictEqual(upTo(12), { low: 3, high: 10, confidence: 1 - 158 / 4096 })
  })

  it("compares within rounds, so that what slows both says nothing", () => {
    const slowness = [1, 7, 2, 30, 1, 4]
    const { confidence: _, ...found } = ratio(
      slowness.map((times) => times * 3),
      slowness.map((times) => times * 2)
    )
    assert.deepStrictEqual(found, { value: 1.5, low: 1.5, high: 1.5 })
  })

  it("notices a frame that did not arrive", () => {
    const acknowledged = (frames: number) => {
      const counterpart = makeCounterpart()
      counterpart(begin)
      for (let sent = 0; sent < frames; sent++) assert.strictEqual(counterpart(new Uint8Array(64)), undefined)
      return counterpart(end)!
    }
    assert.isAbove(perFrame(micros(), 20, 64, acknowledged(20)), 0)
    assert.throws(() => perFrame(micros(), 20, 64, acknowledged(19)), "1216 bytes arrived of 20 frames of 64")
  })

  it("notices an answer that is not what was sent", async () => {
    const roundTrips = { kind: "round trip", bytes: 64, count: 5, millis: 60_000 } as const
    assert.strictEqual((await converse(async (text) => text)(roundTrips)).length, 5)
    const shortened = await converse(async (text) => text.slice(1))(roundTrips).catch(({ message }) => message)
    assert.strictEqual(shortened, "63 came back of 64")
  })

  it("steps down before the next election, and takes no time for that", async () => {
    const log: Array<string> = []
    const elections = beElected(async (place, index) => {
      log.push(`${place}/${index}`)
      return async () => {
        await new Promise((resolve) => setTimeout(resolve, 300))
        log.push("down")
      }
    })
    const samples = await elections({ kind: "election", bytes: 0, count: 3, millis: 0, place: "here" })
    assert.deepStrictEqual(log, ["here/0", "down", "here/1", "down", "here/2", "down"])
    assert.strictEqual(samples.length, 3)
    // Of three, one may be delayed by the machine.
    assert.isBelow(quantile(samples, 0), 300_000)
  })

  it("spreads connections evenly", () => {
    assert.deepStrictEqual(spread(0, 3), [])
    assert.deepStrictEqual(spread(3, 3), [3])
    assert.deepStrictEqual(spread(10, 3), [2, 2, 3, 3])
  })

  it("draws every contender in every panel, and says what, when and where", () => {
    const plot = (values: ReadonlyArray<number>) =>
      draw(
        {
          file: "plot",
          title: "How long?",
          note: "raw: bare",
          x: { name: "bytes", ticks: [64, 1024], label: (bytes) => `${bytes} B` },
          panels: [{ name: "µs, p50" }, { name: "µs, p99" }],
          series: ["unix", "raw unix"].map((name) => ({
            name,
            isReference: name === "raw unix",
            points: [64, 1024].map((x) => ({ x, values }))
          }))
        },
        "today, here"
      )
    const svg = plot([20, 300])
    for (const text of ["How long?", "today, here", "raw: bare", "bytes", "µs, p50", "µs, p99", "64 B", "1024 B"]) {
      assert.include(svg, `>${text}</text>`)
    }
    assert.include(svg, ">raw unix</text>")
    assert.notStrictEqual(svg, plot([20, 400]))
  })

  it("draws a bar for every value that there is", () => {
    const plot = (values: ReadonlyArray<number | undefined>) =>
      draw(
        {
          file: "plot",
          title: "How long?",
          note: "Grey: bare",
          panels: [{ name: "ms, p50" }, { name: "ms, p99" }],
          bars: [
            { name: "library", isReference: false, values },
            { name: "bare", isReference: true, values: [2, 3] }
          ]
        },
        "today, here"
      )
    const svg = plot([41, 57])
    for (const text of ["Grey: bare", "ms, p50", "ms, p99", "library", "bare", "41", "57"]) {
      assert.include(svg, `>${text}</text>`)
    }
    const half = plot([41, undefined])
    assert.include(half, ">41</text>")
    assert.notInclude(half, "NaN")
  })
})
