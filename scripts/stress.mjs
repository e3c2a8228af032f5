// `npm run test:stress -- [--soak] [--seconds 600] [--seed N] [--write] [files…]`: the tests that scale with the time that they are
// given, one after the other, and with --write the table of docs/reliability.md.
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { cpus, release, totalmem } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { root } from "./bundle.mjs"

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    // The soak alone, for half an hour.
    soak: { type: "boolean", default: false },
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

const folder = join(root, "test")
const scaling = readdirSync(folder)
  .filter(
    (name) => name.endsWith(".test.ts") && readFileSync(join(folder, name), "utf8").includes('from "./stress.js"')
  )
  .map((name) => `test/${name}`)
const files = positionals.length > 0 ? positionals : values.soak ? ["test/soak.test.ts"] : scaling
const report = join(root, ".build/stress.jsonl")
mkdirSync(join(root, ".build"), { recursive: true })
rmSync(report, { force: true })

console.log(`stress: ${seconds} s, seed ${seed}, ${files.join(" ")}`)
const started = performance.now()
const { status } = spawnSync("npx", ["vitest", "run", "--no-file-parallelism", ...files], {
  cwd: root,
  stdio: "inherit",
  env: {
    ...process.env,
    STRESS_SECONDS: String(seconds),
    STRESS_SEED: String(seed),
    STRESS_REPORT: report,
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
if (rows.length === 0) {
  console.error("test:stress: no test has reported anything")
  process.exit(status || 1)
}

const text = (value) => String(value).replaceAll("|", "\\|").replaceAll("\n", " ")
const table = [
  "| area | test | size | faults injected | violations | seconds |",
  "| --- | --- | --- | --- | --- | ---: |",
  ...rows
    .sort((a, b) => a.area.localeCompare(b.area, "en", { numeric: true }) || a.test.localeCompare(b.test))
    .map(
      ({ area, faults, seconds, size, test, violations }) =>
        `| ${[area, test, size, faults, violations.length === 0 ? "0" : violations.join("; "), seconds].map(text).join(" | ")} |`
    )
].join("\n")
console.log(
  `\n${table}\n\n${rows.length} reports, ${rows.filter(({ violations }) => violations.length > 0).length} with violations, ${took} s`
)

if (values.write) {
  const { draw } = await import("../bench/plot.ts")
  const commit = spawnSync("git", ["rev-parse", "--short", "HEAD"], { cwd: root, encoding: "utf8" }).stdout.trim()
  const machine = [
    `${cpus().length} × ${cpus()[0]?.model.trim()}`,
    `${Math.round(totalmem() / 2 ** 30)} GiB`,
    `${process.platform} ${release()} ${process.arch}`,
    `Node ${process.version}`
  ].join(", ")
  const plots = new Map()
  for (const plot of rows.flatMap(({ curves = [] }) => curves)) {
    const known = plots.get(plot.file)
    // One axis for all: the longest.
    const x = known === undefined || plot.x.ticks.at(-1) > known.x.ticks.at(-1) ? plot.x : known.x
    plots.set(plot.file, { ...plot, x, series: [...(known?.series ?? []), ...plot.series] })
  }
  const folder = join(root, "docs/reliability")
  mkdirSync(folder, { recursive: true })
  const subtitle = `${new Date().toISOString().slice(0, 10)} · ${machine} · npm run test:stress -- --seconds ${seconds}`
  for (const plot of plots.values()) writeFileSync(join(folder, `${plot.file}.svg`), draw(plot, subtitle))
  const images = [...plots.values()].map(({ file, title }) => `\n![${title}](reliability/${file}.svg)\n`)
  writeFileSync(
    join(root, "docs/reliability.md"),
    `# Reliability

Written by \`npm run test:stress -- --seconds ${seconds} --seed ${seed} --write\` on ${new Date().toISOString().slice(0, 10)}
(${commit || "no commit"}; ${machine}; ${took} s); not by hand. Each test has a canary beside it, a deliberately broken variant
that it must catch, in the same file.

${table}
${images.join("")}`
  )
}
process.exit(status ?? 1)
