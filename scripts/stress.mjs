// `npm run test:stress -- [--soak] [--seconds 600] [--seed N] [--only NAME] [--write] [files…]`: the tests that scale with
// the time that they are given, one after the other, and with --write the table of docs/reliability.md, where what was not
// run this time stays with the run that it is of. Their whole sizes take an hour.
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { cpus, release, totalmem } from "node:os"
import { join, relative } from "node:path"
import { parseArgs } from "node:util"
import { root } from "./bundle.mjs"

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    // The soak alone, for half an hour.
    soak: { type: "boolean", default: false },
    // Tests whose name matches this pattern.
    only: { type: "string" },
    seconds: { type: "string" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 2 ** 31)) },
    write: { type: "boolean", default: false }
  }
})
const seconds = Number(values.seconds ?? (values.soak ? 1_800 : 600))
const seed = Number(values.seed)
if (!(seconds >= 1) || !Number.isSafeInteger(seed)) {
  console.error("test:stress: --seconds takes a number from 1, --seed an integer")
  process.exit(64)
}

// Those that are as long in either run, by what they show.
const areas = { "test/PidVerifier.test.ts": "4", "test/faults.test.ts": "5" }

const folder = join(root, "test")
const scaling = readdirSync(folder)
  .filter(
    (name) => name.endsWith(".test.ts") && readFileSync(join(folder, name), "utf8").includes('from "./stress.js"')
  )
  .map((name) => `test/${name}`)
const usual = values.soak ? ["test/soak.test.ts"] : [...new Set([...scaling, ...Object.keys(areas)])].sort()
const files = positionals.length > 0 ? positionals : usual
const report = join(root, ".build/stress.jsonl")
const results = join(root, ".build/stress.json")
// The logs of processes whose history contradicts itself; those of the canaries, too.
const logs = join(root, ".build/stress-logs")
mkdirSync(join(root, ".build"), { recursive: true })
for (const path of [report, results, logs]) rmSync(path, { recursive: true, force: true })

console.log(`stress: ${seconds} s, seed ${seed}, ${files.join(" ")}`)
const started = performance.now()
const reporters = ["--reporter=default", "--reporter=json", `--outputFile=${results}`]
const only = values.only === undefined ? [] : ["-t", values.only]
const { status } = spawnSync("npx", ["vitest", "run", "--no-file-parallelism", ...reporters, ...only, ...files], {
  cwd: root,
  stdio: "inherit",
  env: {
    ...process.env,
    STRESS_SECONDS: String(seconds),
    STRESS_SEED: String(seed),
    STRESS_REPORT: report,
    STRESS_LOGS: logs,
    ...(values.soak ? { STRESS_SOAK: "1" } : undefined)
  }
})
const took = Math.round((performance.now() - started) / 1_000)
const rows = existsSync(report)
  ? readFileSync(report, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
  : []

const { testResults = [] } = existsSync(results) ? JSON.parse(readFileSync(results, "utf8")) : {}
for (const { assertionResults, name } of testResults) {
  const file = relative(root, name)
  if (areas[file] === undefined) continue
  const group = ({ ancestorTitles, title }) => ancestorTitles[0] ?? title
  for (const title of new Set(assertionResults.map(group))) {
    const tests = assertionResults.filter((test) => group(test) === title)
    const skipped = tests.filter(({ status }) => status !== "passed" && status !== "failed").length
    rows.push({
      area: areas[file],
      test: title,
      size: `${tests.length} test${tests.length === 1 ? "" : "s"}${skipped === 0 ? "" : `, ${skipped} of them skipped`}`,
      faults: `see ${file}`,
      violations: tests.filter(({ status }) => status === "failed").map(({ title }) => title),
      seconds: Math.round(tests.reduce((sum, { duration = 0 }) => sum + duration, 0) / 1_000)
    })
  }
}
if (rows.length === 0) {
  console.error("test:stress: no test has reported anything")
  process.exit(status || 1)
}

const text = (value) => String(value).replaceAll("|", "\\|").replaceAll("\n", " ")
const tableOf = (rows, runs) => {
  const columns = [
    "area",
    "test",
    "size",
    "faults injected",
    "violations",
    "seconds",
    ...(runs.length > 1 ? ["run"] : [])
  ]
  const lines = rows
    .toSorted((a, b) => a.area.localeCompare(b.area, "en", { numeric: true }) || a.test.localeCompare(b.test))
    .map(({ area, faults, run, seconds, size, test, violations }) => [
      area,
      test,
      size,
      faults,
      violations.length === 0 ? "0" : violations.join("; "),
      seconds,
      ...(runs.length > 1 ? [runs.indexOf(run) + 1] : [])
    ])
  return [columns, columns.map((name) => (name === "seconds" ? "---:" : "---")), ...lines]
    .map((cells) => `| ${cells.map(text).join(" | ")} |`)
    .join("\n")
}
const failed = rows.filter(({ violations }) => violations.length > 0)
console.log(`\n${tableOf(rows, [])}\n\n${rows.length} reports, ${failed.length} with violations, ${took} s`)

if (values.write) {
  const { draw } = await import("../bench/plot.ts")
  const commit = spawnSync("git", ["rev-parse", "--short", "HEAD"], { cwd: root, encoding: "utf8" }).stdout.trim()
  const machine = [
    `${cpus().length} × ${cpus()[0]?.model.trim()}`,
    `${Math.round(totalmem() / 2 ** 30)} GiB`,
    `${process.platform} ${release()} ${process.arch}`,
    `Node ${process.version}`
  ].join(", ")
  const command = [
    "npm run test:stress --",
    values.soak ? "--soak" : "",
    `--seconds ${seconds} --seed ${seed} --write`,
    values.only === undefined ? "" : `--only "${values.only}"`,
    ...positionals
  ]
    .filter(Boolean)
    .join(" ")
  const run = `\`${command}\` on ${new Date().toISOString().slice(0, 10)} (${commit || "no commit"}; ${machine}; ${took} s)`
  const folder = join(root, "docs/reliability")
  mkdirSync(folder, { recursive: true })
  const file = join(folder, "results.json")
  const known = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : []
  const key = ({ area, test }) => `${area} ${test}`
  const renewed = new Set(rows.map(key))
  const all = [...known.filter((row) => !renewed.has(key(row))), ...rows.map((row) => ({ ...row, run }))]
  const runs = [...new Set(all.map(({ run }) => run))]

  const plots = new Map()
  for (const plot of all.flatMap(({ curves = [], run }) => curves.map((curve) => ({ ...curve, run })))) {
    const known = plots.get(plot.file)
    // One axis for all: the longest.
    const x = known === undefined || plot.x.ticks.at(-1) > known.x.ticks.at(-1) ? plot.x : known.x
    plots.set(plot.file, { ...plot, x, series: [...(known?.series ?? []), ...plot.series] })
  }
  for (const plot of plots.values()) {
    writeFileSync(join(folder, `${plot.file}.svg`), draw(plot, plot.run.replaceAll("`", "")))
  }
  writeFileSync(file, `[\n${all.map((row) => JSON.stringify(row)).join(",\n")}\n]\n`)
  writeFileSync(
    join(root, "docs/reliability.md"),
    `# Reliability

Written by ${runs.length > 1 ? "these runs" : "this run"}, not by hand:

${runs.map((run, index) => `${index + 1}. ${run}`).join("\n")}

Each test has a canary beside it, a deliberately broken variant that it must catch, in the same file.

${tableOf(all, runs)}
${[...plots.values()].map(({ file, title }) => `\n![${title}](reliability/${file}.svg)\n`).join("")}`
  )
}
process.exit(status ?? 1)
