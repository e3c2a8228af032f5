/**
 * The checker of histories must be able to find what it is there for.
 */
import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { contradiction, type Entry, leading, now, openLog, readHistory } from "./witness.js"

type Line = readonly [who: string, event: string, fields?: { readonly [field: string]: unknown }]

const history = (...lines: ReadonlyArray<Line>): ReadonlyArray<Entry> =>
  lines.map(([who, event, fields], index) => ({ at: index * 1e6, who, event, ...fields }))
const finds = (expected: RegExp | undefined, ...lines: ReadonlyArray<Line>) => {
  const found = contradiction(history(...lines))
  if (expected === undefined) assert.isUndefined(found)
  else assert.match(String(found), expected)
}

const delivered = { message: "m", outcome: "Delivered" }
const notDelivered = { message: "m", outcome: "NotDelivered" }
const handled: Line = ["a", "handled", { message: "m" }]
const begins = (who: string, epoch: number): Line => [who, "begin", { epoch }]

describe("a history", () => {
  it("of primaries that follow one another has no contradiction", () => {
    finds(
      undefined,
      begins("a", 1),
      handled,
      ["b", "outcome", delivered],
      ["a", "end"],
      begins("b", 2),
      ["driver", "kill", { target: "b" }],
      begins("c", 3),
      // The kernel was a moment late, or the log was.
      ["c", "clash"],
      ["b", "handled", { message: "late" }],
      ["driver", "gone", { target: "b" }],
      ["b", "outcome", { message: "x", outcome: "NotDelivered" }],
      ["c", "end"],
      ["driver", "gone", { target: "c" }]
    )
  })

  it("in which two lead at once has one", () => {
    finds(/after 1 ms: two primaries at once: a .* and so does b/, begins("a", 1), begins("b", 2))
    // One that is killed does lead until then.
    finds(/two primaries/, begins("a", 1), begins("b", 2), ["driver", "kill", { target: "a" }])
    finds(/two primaries.*the kernel/, begins("a", 1), ["a", "clash"])
    finds(/two primaries.*the kernel/, begins("a", 1), ["driver", "kill", { target: "a" }], ["a", "clash"])
    finds(/two primaries.*the kernel/, begins("a", 1), ["driver", "kill", { target: "a" }], begins("b", 2), [
      "b",
      "clash",
      { final: true }
    ])
    finds(
      /two primaries.*the kernel/,
      begins("a", 1),
      ["driver", "kill", { target: "a" }],
      ["driver", "gone", { target: "a" }],
      begins("b", 2),
      ["b", "clash"]
    )
  })

  it("in which the epoch does not grow has one", () => {
    finds(/epoch did not grow/, begins("a", 2), ["a", "end"], begins("b", 2))
    finds(/epoch did not grow/, begins("a", 2), ["a", "end"], begins("b", 1))
  })

  it("in which a primary loses the lock or ends by itself has one", () => {
    finds(/a lost the lock: gone/, begins("a", 1), ["a", "lost", { detail: "gone" }])
    assert.isUndefined(contradiction(history(begins("a", 1), ["a", "lost"]), { outsiders: true }))
    finds(/ended as the primary/, begins("a", 1), ["driver", "gone", { target: "a" }])
  })

  it("that tells a message's fate wrongly has one", () => {
    finds(/m was handled twice, by a and by a/, begins("a", 1), handled, handled)
    finds(/in nobody's log/, begins("a", 1), ["b", "outcome", delivered], handled)
    finds(/m is NotDelivered to b, and was handled by a/, begins("a", 1), handled, ["b", "outcome", notDelivered])
    finds(/after its sender was told NotDelivered/, begins("a", 1), ["b", "outcome", notDelivered], handled)
    finds(/which does not lead/, handled)
    finds(/which does not lead/, begins("a", 1), ["a", "end"], handled)
  })
})

it.scopedLive.skipIf(process.platform === "darwin")("the kernel gives the name to one at a time", () =>
  Effect.gen(function* () {
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => fs.mkdtempSync(join(tmpdir(), "esi-witness-"))),
      (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
    )
    const [a, b] = [openLog(folder, "a"), openLog(folder, "b")]
    yield* Effect.scoped(leading(a, folder, { epoch: 1 }))
    yield* leading(a, folder, { epoch: 2 })
    const written: Array<[Entry, number]> = []
    const noting = {
      ...b,
      append: (...entry: Parameters<typeof b.append>) => {
        const before = now()
        const appended = b.append(...entry)
        written.push([appended, before])
        return appended
      }
    }
    yield* leading(noting, folder, { epoch: 3 }).pipe(Effect.scoped, Effect.timeoutOption("100 millis"))
    // It tells when it asked, which is before it knows the answer.
    const clashes = written.filter(([{ event }]) => event === "clash")
    assert.isAbove(clashes.length, 1)
    for (const [{ at }, before] of clashes) assert.isBelow(at, before)
    fs.appendFileSync(join(folder, "b.log"), '{"torn')
    const events = readHistory(folder).map(({ event, who }) => `${who} ${event}`)
    assert.deepStrictEqual(events.slice(0, 5), ["a begin", "a end", "a begin", "b begin", "b clash"])
    assert.strictEqual(events.at(-1), "b end")
  })
)
