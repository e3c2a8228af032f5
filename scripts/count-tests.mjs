// The end of `.ci/run`: `node scripts/count-tests.mjs LIST REPORT…` checks that each test of a list (`vitest list --json`)
// was run, and run once, by the runs that wrote the reports (`--reporter=json`), and prints how many passed and failed.
import { existsSync, readFileSync } from "node:fs"

const problems = new Set()
let passed = 0
let failed = 0

const read = (file, otherwise) => {
  if (existsSync(file)) return JSON.parse(readFileSync(file, "utf8"))
  problems.add(`${file} was not written`)
  return otherwise
}
const [listFile, ...reportFiles] = process.argv.slice(2)
const list = read(listFile, [])
const reports = reportFiles.map((file) => read(file, { testResults: [] }))

// Two tests of a file may have the same name, so they are counted. The two formats join titles in different ways.
const runs = new Map()
const count = (file, name, change) => {
  const key = `${file}: ${name.replaceAll(" > ", " ")}`
  runs.set(key, (runs.get(key) ?? 0) + change)
}

for (const { file, name } of list) count(file, name, -1)
for (const { testResults } of reports) {
  for (const { assertionResults, message, name: file, status } of testResults) {
    if (status === "failed" && assertionResults.length === 0) problems.add(`${file} does not load: ${message}`)
    for (const { duration, fullName, status } of assertionResults) {
      if (status === "passed") passed++
      if (status === "failed") failed++
      // A test that skips itself has begun. One that is not of this size, or that needs what is not there, has not.
      if (duration !== undefined) count(file, fullName, 1)
    }
  }
}
for (const [test, difference] of runs) {
  if (difference < 0) problems.add(`${test}: was not run`)
  if (difference > 0) problems.add(`${test}: was run twice`)
}

for (const problem of problems) console.error(problem)
console.log(`${passed} passed, ${failed + problems.size} failed`)
process.exitCode = passed > 0 && failed + problems.size === 0 ? 0 : 1
