/**
 * Runs one suite, which the bundler puts in the place of `suite`: `node run.mjs <name> <report>`. What became of its
 * tests is written to the report as a whole, or, where this process ends before, not at all.
 */
import * as fs from "node:fs"
import { startTests, type Task, type Test, type VitestRunner } from "@vitest/runner"
import { skips } from "./skips.js"

/** What became of a test: `reason` says why it was skipped, or the errors that it failed with. */
export interface Result {
  readonly suite: string
  readonly name: string
  readonly state: "passed" | "failed" | "skipped"
  readonly reason: string
}

const [suite, report] = process.argv.slice(2) as [string, string]

const testsOf = (tasks: ReadonlyArray<Task>): ReadonlyArray<Test> =>
  tasks.flatMap((task) => (task.type === "test" ? [task] : testsOf(task.tasks)))

const nameOf = ({ name, suite }: Task): string => (suite?.name ? `${nameOf(suite)} > ${name}` : name)

const runner: VitestRunner = {
  config: {
    root: process.cwd(),
    setupFiles: [],
    passWithNoTests: false,
    allowOnly: false,
    sequence: { seed: 0, hooks: "stack", setupFiles: "list" },
    maxConcurrency: 1,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    retry: 0
  },
  // @ts-expect-error: the bundler knows which.
  importFile: () => import("suite"),
  onCollected: (files) => {
    for (const test of testsOf(files)) {
      const skip = skips.find((skip) => skip.suite === suite && skip.test.test(nameOf(test)))
      if (skip !== undefined && test.mode === "run") {
        test.mode = "skip"
        reasons.set(test, skip.reason)
      }
    }
  },
  onBeforeRunTask: (test) => console.log(`${nameOf(test)} ...`),
  onAfterRunTask: (test) => console.log(`... ${test.result?.state} after ${Math.round(test.result?.duration ?? 0)} ms`)
}

const reasons = new Map<Test, string>()
// A test that waits for nothing that Node knows of would end the process instead of failing.
setInterval(() => {}, 60_000)
const files = await startTests([{ filepath: suite, testLocations: undefined }], runner)

const errorsOf = (task: Task): string =>
  (task.result?.errors ?? []).map((error) => error.stack ?? error.message).join("\n")
const results = testsOf(files).map((test): Result => {
  const { mode, result } = test
  const state = result?.state === "pass" ? "passed" : mode === "run" || mode === "queued" ? "failed" : "skipped"
  return {
    suite,
    name: nameOf(test),
    state,
    reason: state === "skipped" ? (reasons.get(test) ?? "the suite itself skips it on Windows") : errorsOf(test)
  }
})
for (const file of files) {
  if (file.result?.errors?.length) results.push({ suite, name: "loads", state: "failed", reason: errorsOf(file) })
}
fs.writeFileSync(report, JSON.stringify(results))
process.exit()
