import * as fs from "node:fs"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"

const read = (name: string) => fs.readFileSync(fileURLToPath(new URL(name, import.meta.url)), "utf8")

const rows = read("../docs/scenarios.md")
  .split("\n")
  .flatMap((line) => {
    const [, number, , file, test] = line.split("|").map((cell) => cell.trim())
    return /^\d+$/.test(number ?? "") ? [{ number: Number(number), file: file!, test: test! }] : []
  })

// The titles of a file: a test is what begins with one of these.
const titles = (file: string) =>
  [
    ...read(file).matchAll(/(?:\bdescribe|\bit|\bitNeeds)[\w.]*(?:\((?:[^()"`]|\([^()]*\))*\))?\(\s*["`]([^"`]*)["`]/g)
  ].map(([, title]) => title!)

describe("each scenario", () => {
  it("is in the list, once", () => {
    assert.deepStrictEqual(
      rows.map(({ number }) => number),
      Array.from({ length: 49 }, (_, index) => index + 1)
    )
  })

  for (const { file, number, test } of rows) {
    it(`${number} has its test: ${test}`, () => {
      assert.isTrue(
        titles(`./${file}`).some((title) => title.includes(test)),
        `${file} has no such test`
      )
    })
  }
})
