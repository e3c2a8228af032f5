/**
 * `npm run bench`: the library against what one writes without it, in one run, in alternating order, each contender in
 * processes of its own. Prints tables; with `--write` also writes docs/bench/results.json and the plots beside it.
 * `--only <question>`, which may be repeated, asks not all of them; `--quick` takes few samples; `--node <command>` has
 * second launches made by another version of Node as well.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { root } from "../scripts/bundle.mjs"
import { elections } from "./elections.js"
import { machine, options, type Section } from "./harness.js"
import { connections, idle } from "./idle.js"
import { launches, takeovers } from "./launches.js"
import { messaging, protocols } from "./protocols.js"

const questions: Record<string, () => Promise<Section>> = {
  protocols,
  messaging,
  elections,
  idle,
  connections,
  launches,
  takeovers
}

const asked = options.only.length === 0 ? Object.keys(questions) : options.only
for (const name of asked) {
  if (questions[name] !== undefined) continue
  console.error(`${name} is no question: ${Object.keys(questions).join(", ")}`)
  process.exit(2)
}

const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
const command = ["npm run bench --", ...process.argv.slice(2)].join(" ").replace(/ --$/, "")
const where = { version, ...machine() }
const date = new Date().toISOString()

const sections: Record<string, Section> = {}
for (const name of asked) {
  const section = await questions[name]!()
  sections[name] = section
  console.log(`\n## ${name}\n\n${section.markdown}`)
}
console.log(
  "\nIn brackets what holds the median with at least 95 % (of fewer than six rounds: the least and the greatest)."
)
console.log([`${date} · ${command}`, ...Object.entries(where).map(([key, value]) => `${key}: ${value}`)].join(" · "))

const rounded = (_: string, value: unknown) =>
  typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value

if (options.write) {
  const { draw } = await import("./plot.js")
  const folder = join(root, "docs/bench")
  mkdirSync(folder, { recursive: true })
  const file = join(folder, "results.json")
  // What was not asked this time stays, with its own date.
  const results = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {}
  for (const [name, { data, plots = [] }] of Object.entries(sections)) {
    results[name] = { date, command, machine: where, data }
    for (const plot of plots) {
      const subtitle = `${date.slice(0, 10)} · ${where.cpu} · ${where.system} · Node ${where.node} · ${command}`
      writeFileSync(join(folder, `${plot.file}.svg`), draw(plot, subtitle))
    }
  }
  writeFileSync(file, `${JSON.stringify(results, rounded, 2)}\n`)
  console.log(`written: ${folder}`)
}
process.exit(0)
