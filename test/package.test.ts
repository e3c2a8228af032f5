/**
 * What a user installs: packs the package, unpacks it in a folder outside of this one, and uses it there.
 */
import { execFile, execFileSync } from "node:child_process"
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { builtinModules } from "node:module"
import { tmpdir } from "node:os"
import { dirname, join, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import ts from "typescript"

const root = fileURLToPath(new URL("..", import.meta.url))
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))

let folder: string
let installed: string
let tarball: string
let packed: ReadonlyArray<string>

const modules = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" }).flatMap((file) =>
  file.endsWith(".ts") ? [file.slice(0, -3).replaceAll("\\", "/")] : []
)
// The commands are there as the bin only.
const isPublic = (module: string) => !["bin", "Cli"].includes(module) && !module.startsWith("internal/")
const isIn = (...suffixes: ReadonlyArray<string>) =>
  readdirSync(join(installed, "dist"), { recursive: true, encoding: "utf8" }).flatMap((file) =>
    suffixes.some((suffix) => file.endsWith(suffix)) ? [join(installed, "dist", file)] : []
  )

const options = (command: string, cwd: string) => ({
  cwd,
  encoding: "utf8" as const,
  shell: process.platform === "win32" && command === "npm",
  env: { ...process.env, npm_config_update_notifier: "false", npm_config_loglevel: "error" }
})
const run = (command: string, args: ReadonlyArray<string>, cwd: string): string =>
  execFileSync(command, args, { ...options(command, cwd), stdio: ["ignore", "pipe", "inherit"] })

/** The same for what takes long: vitest gives a worker up that is blocked for a minute. */
const runSlowly = async (command: string, args: ReadonlyArray<string>, cwd: string): Promise<string> =>
  (await promisify(execFile)(command, args, options(command, cwd))).stdout

/** The code of the error with which importing fails, outside of the repository, or `undefined`. */
const importing = (specifier: string): string | undefined => {
  const script = `import(${JSON.stringify(specifier)}).then(() => {}, (error) => console.log(error.code ?? error))`
  const out = run(process.execPath, ["--input-type=module", "-e", script], join(folder, "app")).trim()
  return out === "" ? undefined : out
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "effect-single-instance-package-"))
  const pkg = join(folder, "pkg")
  // Not in the repository itself: its dist may be in use. `test` and `scripts` must stay out of what is packed.
  for (const name of ["package.json", "src", "test", "scripts", "README.md", "LICENSE", "CHANGELOG.md", "biome.json"]) {
    cpSync(join(root, name), join(pkg, name), { recursive: true })
  }
  await runSlowly(process.execPath, [join(root, "scripts/build.mjs"), "--out", join(pkg, "dist")], root)
  const [{ files, filename }] = JSON.parse(
    await runSlowly("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", folder], pkg)
  )
  packed = files.map((file: { readonly path: string }) => file.path)
  tarball = join(folder, filename)
  installed = join(folder, "app/node_modules/effect-single-instance")
  mkdirSync(installed, { recursive: true })
  run("tar", ["-xzf", tarball, "-C", installed, "--strip-components=1"], folder)
  for (const name of ["effect", "@effect/platform", "@types/node", "undici-types"]) {
    const link = join(folder, "app/node_modules", name)
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(join(root, "node_modules", name), link, "junction")
  }
}, 180_000)

afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe("the package @large", () => {
  it("holds dist, src and the papers, and nothing else", () => {
    const papers = ["package.json", "README.md", "LICENSE", "CHANGELOG.md"]
    assert.deepStrictEqual(
      packed.filter((path) => !path.startsWith("dist/") && !path.startsWith("src/")).sort(),
      papers.sort()
    )
    for (const module of modules) assert.include(packed, `src/${module}.ts`)
  })

  it("has the files that `exports` and `bin` name", () => {
    for (const [key, target] of Object.entries<any>(manifest.exports)) {
      if (target === null || typeof target === "string") continue
      for (const { require, ...conditions } of [target, ...(target.require === undefined ? [] : [target.require])]) {
        assert.deepStrictEqual(Object.keys(conditions), ["types", "default"], key)
        for (const path of Object.values<string>(conditions)) {
          const names = path.includes("*") ? modules.filter(isPublic) : [""]
          for (const name of names) assert.isTrue(existsSync(join(installed, path.replace("*", name))), path)
        }
      }
    }
    for (const path of Object.values<string>(manifest.bin)) {
      assert.match(readFileSync(join(installed, path), "utf8"), /^#!\/usr\/bin\/env node\n/)
      if (process.platform !== "win32") assert.strictEqual(statSync(join(installed, path)).mode & 0o111, 0o111)
      assert.match(run(process.execPath, [join(installed, path), "--help"], folder), /single-instance/)
    }
  })

  it("is found from outside, but for what is internal", () => {
    assert.isUndefined(importing("effect-single-instance"))
    assert.isUndefined(importing("effect-single-instance/InstanceRecord"))
    assert.isUndefined(importing("effect-single-instance/launch"))
    const required = `console.log(typeof require("effect-single-instance/launch").launch)`
    assert.strictEqual(run(process.execPath, ["-e", required], join(folder, "app")), "function\n")

    const hidden = modules.filter((module) => !isPublic(module))
    for (const module of [...hidden, "internal/anything"]) {
      assert.strictEqual(importing(`effect-single-instance/${module}`), "ERR_PACKAGE_PATH_NOT_EXPORTED", module)
    }
  })

  it("imports nothing that it does not declare", () => {
    const declared = ["dependencies", "peerDependencies", "optionalDependencies"].flatMap((key) =>
      Object.keys(manifest[key] ?? {})
    )
    for (const file of isIn(".js", ".cjs", ".mjs", ".d.ts", ".d.cts")) {
      for (const { fileName: name } of ts.preProcessFile(readFileSync(file, "utf8")).importedFiles) {
        if (name.startsWith(".")) {
          assert.isTrue(existsSync(resolve(dirname(file), name)), `${file} imports ${name}`)
        } else if (/\/dist\/(bin\.cjs|Cli\.mjs|launch\.c?js)$/.test(file.replaceAll("\\", "/"))) {
          // Bundled: only what is native is left outside.
          assert.isTrue(isBuiltin(name) || name === "koffi", `${file} imports ${name}`)
        } else {
          const known = isBuiltin(name) || declared.some((one) => name === one || name.startsWith(`${one}/`))
          assert.isTrue(known, `${file} imports ${name}`)
        }
      }
    }
  })

  it("has declarations that compile on their own", () => {
    const files = isIn(".d.ts", ".d.cts")
    const program = ts.createProgram(files, {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      lib: ["lib.es2023.d.ts"],
      types: ["node"],
      typeRoots: [join(folder, "app/node_modules/@types")],
      strict: true,
      exactOptionalPropertyTypes: true,
      noEmit: true
    })
    const problems = files.flatMap((file) => program.getSemanticDiagnostics(program.getSourceFile(file)))
    assert.deepStrictEqual(
      problems.map(
        (problem) => `${problem.file?.fileName}: ${ts.flattenDiagnosticMessageText(problem.messageText, " ")}`
      ),
      []
    )
  })

  it("installs with the line that the README begins with, and runs", async ({ skip }) => {
    const readme = readFileSync(join(root, "README.md"), "utf8")
    const [, line] = /^```sh\nnpm i (effect-single-instance .*)\n/m.exec(readme) ?? []
    assert.isDefined(line, "the README has no such line")
    const [, ...others] = line!.split(" ")
    try {
      await runSlowly("npm", ["view", others[0]!, "version"], folder)
    } catch {
      skip("the registry does not answer")
    }
    const app = join(folder, "installed")
    mkdirSync(app)
    writeFileSync(join(app, "package.json"), JSON.stringify({ private: true, type: "module" }))
    // As published: npm must find nothing in conflict with its peer dependencies.
    await runSlowly("npm", ["install", "--strict-peer-deps", "--no-audit", "--no-fund", tarball, ...others], app)
    writeFileSync(join(app, "program.js"), program)
    assert.strictEqual(await runSlowly(process.execPath, ["program.js", join(folder, "state")], app), "leads with a\n")
    const bin = join(app, "node_modules/effect-single-instance", manifest.bin["single-instance"])
    assert.isTrue(existsSync(join(app, "node_modules/.bin/single-instance")))
    const command = ["run", "com.example.installed", "--dir", join(folder, "state"), "--"]
    const said = await runSlowly(process.execPath, [bin, ...command, process.execPath, "-p", "1 + 1"], app)
    assert.strictEqual(said, "2\n")
  }, 300_000)
})

const program = `
import { NodeContext } from "@effect/platform-node"
import { Effect, Schema } from "effect"
import { SingleInstance } from "effect-single-instance"

class App extends SingleInstance.Tag()("com.example.installed", { request: Schema.String }) {}

App.enforce({
  request: "a",
  primary: (primary) => Effect.sync(() => console.log("leads with " + primary.request))
}).pipe(
  Effect.provide(App.layer({ directory: process.argv[2] })),
  Effect.provide(NodeContext.layer),
  SingleInstance.runMain
)
`

function isBuiltin(name: string): boolean {
  return name.startsWith("node:") || builtinModules.includes(name)
}
