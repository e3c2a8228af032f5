/**
 * The contender as other versions of the package have it: the first one, from the repository's history, and what later ones
 * may be.
 */
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import { Effect, type Scope } from "effect"
import { bundle, root } from "../scripts/bundle.mjs"

/**
 * - `first`: as it was at the first commit.
 * - `later`: speaks one more wire version, and says more in its record and in each message.
 * - `far`: speaks only that wire version; a canary, which does not meet with this one.
 */
export type Version = "first" | "later" | "far"

const git = (...args: ReadonlyArray<string>) => spawnSync("git", args, { cwd: root, encoding: "utf8" }).stdout?.trim()

const first =
  git("rev-parse", "--is-shallow-repository") === "false"
    ? git("rev-list", "--max-parents=0", "HEAD")?.split("\n").at(-1)
    : undefined

/** Whether the first version can be had here. */
export const history: { readonly met: boolean; readonly text: string } = {
  met: process.platform !== "win32" && first !== undefined && first !== "",
  text: "the whole history of the repository, and POSIX"
}

const says = 'colour: "blue"'
const range = "export const range: readonly [number, number] = [1, 1]"
const more = [
  [
    "Message.ts",
    "msgPack.encode(message)) || textOf(message)",
    `msgPack.encode(message)) || JSON.stringify({ ...message, ${says} })`
  ],
  [
    "InstanceRecord.ts",
    "encodeBody({ ...rest, machine })",
    `JSON.stringify({ ...JSON.parse(encodeBody({ ...rest, machine })), ${says} })`
  ]
] as const
const changes = {
  later: [...more, ["wire.ts", range, range.replace("[1, 1]", "[1, 2]")]],
  far: [...more, ["wire.ts", range, range.replace("[1, 1]", "[2, 2]")]]
} as const

/** The contender's bundle with other text in some files of src, which must be there to be replaced. */
const changed = async (version: keyof typeof changes): Promise<string> => {
  const left = new Set<readonly [string, string, string]>(changes[version])
  const { text } = await bundle(join(root, "test/fixtures/contender.ts"), {
    plugins: [
      {
        name: version,
        setup: ({ onLoad }) =>
          onLoad({ filter: /[/\\]src[/\\](Message|InstanceRecord|internal[/\\]wire)\.ts$/ }, ({ path }) => {
            let contents = fs.readFileSync(path, "utf8")
            for (const change of left) {
              const [file, from, to] = change
              if (!path.endsWith(file) || !contents.includes(from)) continue
              contents = contents.replace(from, () => to)
              left.delete(change)
            }
            return { contents, loader: "ts" }
          })
      }
    ]
  })
  if (left.size > 0) throw new Error(`nothing to replace: ${[...left].map(([, from]) => from)}`)
  return text
}

const checkedOut = async (commit: string, folder: string): Promise<string> => {
  const archive = execFileSync("git", ["archive", commit], { cwd: root, maxBuffer: 2 ** 28 })
  execFileSync("tar", ["-x", "-C", folder], { input: archive })
  return (await bundle(join(folder, "test/fixtures/contender.ts"), { absWorkingDir: folder })).text
}

/** The program of a version's contender, to be started with `process.execPath`; removed with the scope. */
export const programOf = (version: Version): Effect.Effect<string, never, Scope.Scope> =>
  Effect.gen(function* () {
    // In the project, so that native packages are found from there.
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => fs.mkdtempSync(join(root, `.build/${version}-`))),
      (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
    )
    const program = join(folder, "contender.mjs")
    const text = yield* Effect.promise(() => (version === "first" ? checkedOut(first!, folder) : changed(version)))
    fs.writeFileSync(program, text)
    return program
  })
