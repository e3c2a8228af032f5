/**
 * Access control lists of Windows, against descriptors of its form and a stand-in for the programs that are asked.
 */
import * as fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import os from "node:os"
import * as path from "node:path"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, FastCheck as fc, Layer, type Scope } from "effect"
import { SingleInstance, Tcp } from "effect-single-instance"
import { launch } from "effect-single-instance/launch"
import { defaultDirectory } from "effect-single-instance/lock/NodeLockFiles"
import { flawOf, parse, verify } from "../src/internal/windowsAccess.js"
import { temporary } from "./contract/Protocol.js"
import { pretend } from "./standIn.js"

const user = "S-1-5-21-1004336348-1177238915-682003330-1001"
const stranger = "S-1-5-21-1004336348-1177238915-682003330-1002"
const installer = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"

const profile = `O:${user}G:${user}D:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;FA;;;${user})`
// As published examples show them.
const programData =
  "O:SYG:SYD:PAI(A;OICIIO;GA;;;CO)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;CI;DCLCRPCR;;;BU)(A;OICI;0x1200a9;;;BU)"
const volume = `O:${installer}G:${installer}D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)(A;;LC;;;AU)(A;OICIIO;SDGXGWGR;;;AU)`
const dataVolume = "O:BAG:SYD:AI(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;OICI;0x1301bf;;;AU)(A;OICI;0x1200a9;;;BU)"

type Kind = Parameters<typeof flawOf>[2]
const judge = (sddl: string, kind: Kind = "own") => {
  const descriptor = parse(sddl)
  assert(descriptor !== undefined, sddl)
  return flawOf(descriptor, user, kind)
}

describe("what a security descriptor allows", () => {
  const own = (list: string, owner = user) => `O:${owner}G:${user}D:${list}`
  const rows: ReadonlyArray<readonly [name: string, sddl: string, kind: Kind, flaw: string | undefined]> = [
    ["a folder in the user's profile", profile, "own", undefined],
    ["one that an elevated process made", own("(A;;FA;;;BA)(A;;FA;;;SY)", "BA"), "own", undefined],
    ["a protected list", own("PAI(A;OICI;FA;;;SY)"), "own", undefined],
    ["a list without entries", own("P"), "own", undefined],
    ["administrators of the domain", own(`(A;;FA;;;DA)(A;;FA;;;S-1-5-21-1-2-3-512)`), "own", undefined],
    ["packages of the user", own("(A;;0x1200a9;;;AC)(A;;FA;;;S-1-15-3-1024-5)"), "own", undefined],
    ["who only passes through", own("(A;;0x1000a0;;;WD)"), "own", undefined],
    ["what is only for files in it", own("(A;OICIIO;GA;;;WD)"), "own", "allows WD"],
    ["what is only for the creators of files in it", own("(A;OICIIO;GA;;;CO)"), "own", undefined],
    ["what is only for files in a parent", own("(A;OICIIO;GA;;;WD)"), "parent", undefined],
    ["what is denied", own("(D;;FA;;;WD)"), "own", undefined],
    ["users who may read", own("AI(A;OICIID;0x1200a9;;;BU)"), "own", "allows BU 0x1"],
    ["users who may read, by a generic right", own("(A;;GR;;;BU)"), "own", "allows BU 0x80000000"],
    ["everybody, by name", own("(A;;FA;;;WD)"), "own", "allows WD"],
    ["another user", own(`(A;;FR;;;${stranger})`), "own", `allows ${stranger}`],
    ["an entry with a condition", own('(XA;;FX;;;SY;(@User.T=="(D:"))(A;;FA;;;AU)'), "own", "allows AU"],
    ["denied to some, allowed to others", own("(D;;FA;;;BU)(A;;FA;;;AU)"), "own", "allows AU"],
    ["no list", `O:${user}G:${user}`, "own", "lets everybody in"],
    ["the list that is none", own("NO_ACCESS_CONTROL"), "own", "lets everybody in"],
    ["an audit list is no access list", `O:${user}G:${user}S:(AU;SAFA;FA;;;WD)`, "own", "lets everybody in"],
    ["another user's folder", own("(A;;FA;;;SY)", stranger), "own", `belongs to ${stranger}`],
    ["ProgramData itself", programData, "own", "allows BU"],
    ["ProgramData above it", programData, "parent", undefined],
    ["the system's volume", volume, "root", undefined],
    ["a volume for data", dataVolume, "root", undefined],
    ["a folder on a volume for data", dataVolume, "parent", "allows AU 0x10000"],
    ["a parent whose children others may delete", own("(A;;DT;;;BU)"), "parent", "allows BU 0x40"],
    ["a parent whose list others may change", own("(A;;WD;;;BU)"), "parent", "allows BU 0x40000"],
    ["the installer's folder", volume, "own", `belongs to ${installer}`]
  ]
  for (const [name, sddl, kind, flaw] of rows) {
    it(`${name}${flaw === undefined ? "" : " is insecure"}`, () => {
      const found = judge(sddl, kind)
      if (flaw === undefined) assert.isUndefined(found)
      else assert.include(found, flaw)
    })
  }

  it("is not told by what is no descriptor", () => {
    for (const text of ["", "?", "D:(A;;FA;;;BU)", "O:BAD:(A;;XX;;;BU)", "O:BAD:(A;;F;;;BU)", "O:BAD:(A)"]) {
      assert.isUndefined(parse(text), text)
    }
  })

  it("is found whatever stands beside it, in any order", () => {
    const harmless = fc.constantFrom("(A;;FA;;;SY)", "(D;;FA;;;BU)", "(A;OICIIO;GA;;;CO)", `(A;ID;FA;;;${user})`)
    const harmful = fc.constantFrom("(A;;0x1;;;BU)", "(A;CI;FW;;;WD)", "(OA;;GA;;;AU)", `(A;ID;2;;;${stranger})`)
    fc.assert(
      fc.property(
        fc.array(harmless),
        harmful,
        fc.array(harmless),
        fc.constantFrom("", "AI", "P", "PAI"),
        (a, bad, b, flags) => {
          assert.isUndefined(judge(`O:${user}G:${user}D:${flags}${[...a, ...b].join("")}S:(ML;;NW;;;LW)`))
          assert.isString(judge(`O:${user}G:${user}D:${flags}${[...a, bad, ...b].join("")}S:(ML;;NW;;;LW)`))
        }
      )
    )
  })

  it("is read from any text without an exception", () => {
    fc.assert(fc.property(fc.string({ unit: fc.constantFrom(..."OGDS:()A;FASYBU0x1-") }), (text) => void parse(text)))
  })
})

/** Windows, with a home, whose lists are as a test says; `undefined` where PowerShell may not run. */
const windows = (options: {
  readonly home: string | undefined
  readonly lists: ((name: string) => string) | undefined
}): Effect.Effect<
  { readonly programs: ReadonlyArray<string>; readonly protected: Array<string> },
  never,
  Scope.Scope
> =>
  Effect.gen(function* () {
    const made: Array<string> = []
    const answer = (line: string) => {
      if (line.includes("icacls.exe")) {
        made.push(line)
        return { stdout: "" }
      }
      const [, script] = /-EncodedCommand (\S+)$/.exec(line) ?? []
      if (script === undefined || options.lists === undefined) return undefined
      const text = Buffer.from(script, "base64").toString("utf16le")
      const names = [...text.matchAll(/-LiteralPath '((?:[^']|'')*)'/g)].map(([, name]) => name!.replaceAll("''", "'"))
      return { stdout: [user, ...names.map(options.lists), ""].join("\r\n") }
    }
    const { programs } = yield* pretend(answer, "win32")
    const { userInfo } = os
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        os.userInfo = ((...args: Parameters<typeof userInfo>) => {
          // As libuv says where a profile is not loaded.
          if (options.home === undefined)
            throw Object.assign(new Error("uv_os_get_passwd returned ENOENT"), { code: "ENOENT" })
          return { ...userInfo(...args), homedir: options.home }
        }) as typeof userInfo
        syncBuiltinESMExports()
      }),
      () =>
        Effect.sync(() => {
          os.userInfo = userInfo
          syncBuiltinESMExports()
        })
    )
    return { programs, protected: made }
  })

class App extends SingleInstance.Tag<App>()("com.example.windows") {}

/** The reason for which an election fails, or its result. */
const elect = (options: { readonly directory?: string; readonly trustDirectory?: boolean }) =>
  Effect.gen(function* () {
    const layer = App.layer({ ...options, protocol: Tcp.layer, fallback: "none" })
    const instance = Context.get(yield* Layer.build(Layer.provide(layer, NodeContext.layer)), App)
    return yield* Effect.match(instance.elect(undefined), {
      onFailure: ({ message, reason }) => `${reason} ${message}`,
      onSuccess: ({ _tag }) => _tag
    })
  }).pipe(Effect.scoped)

const place = Effect.gen(function* () {
  const home = path.join(yield* temporary, "O'Neil")
  const directory = path.join(home, "locks", "app")
  fs.mkdirSync(directory, { recursive: true })
  return { home, directory }
})

describe.skipIf(process.platform === "win32")("a directory on Windows", () => {
  it.scopedLive("is looked at once, and again where another one has its name", () =>
    Effect.gen(function* () {
      const { directory, home } = yield* place
      const { programs } = yield* windows({ home, lists: () => profile })
      assert.isUndefined(yield* verify(directory))
      assert.isUndefined(yield* verify(directory))
      assert.lengthOf(programs, 1)
      fs.renameSync(directory, `${directory}.before`)
      fs.mkdirSync(directory)
      assert.isUndefined(yield* verify(directory))
      assert.lengthOf(programs, 2)
    })
  )

  it.scopedLive("is refused where others may read it, each time", () =>
    Effect.gen(function* () {
      const { directory, home } = yield* place
      fs.writeFileSync(path.join(directory, "lock"), "")
      const { protected: made } = yield* windows({
        home,
        lists: (name) => (name === directory ? `${profile}(A;OICIID;0x1200a9;;;BU)` : profile)
      })
      for (let look = 0; look < 2; look++) {
        const flaw = yield* verify(directory)
        assert.deepInclude(flaw, { reason: "DirectoryInsecure", path: directory })
        assert.include(flaw?.detail, "allows BU 0x1; give access to the user, administrators and the system alone")
      }
      assert.deepStrictEqual(made, [])
      assert.deepStrictEqual(fs.readdirSync(directory), ["lock"])
    })
  )

  it.scopedLive("is refused for a parent that others may replace", () =>
    Effect.gen(function* () {
      const { directory, home } = yield* place
      const parent = path.dirname(directory)
      yield* windows({ home, lists: (name) => (name === parent ? dataVolume : profile) })
      assert.deepInclude(yield* verify(directory), { reason: "DirectoryInsecure", path: parent })
    })
  )

  it.scopedLive("that is new and inherits too much gets a list of its own", () =>
    Effect.gen(function* () {
      const { directory, home } = yield* place
      const seen: { protected: ReadonlyArray<string> } = yield* windows({
        home,
        lists: (name) => (name === directory && seen.protected.length === 0 ? `${profile}(A;OICIID;FA;;;WD)` : profile)
      })
      assert.isUndefined(yield* verify(directory))
      const grants = [user, "S-1-5-18", "S-1-5-32-544"].map((sid) => `*${sid}:(OI)(CI)F`).join(" ")
      assert.lengthOf(seen.protected, 1)
      assert.match(seen.protected[0]!, /^C:\\Windows\\System32\\icacls\.exe /)
      assert.isTrue(seen.protected[0]!.endsWith(`${directory} /inheritance:r /grant:r ${grants}`))
    })
  )

  it.scopedLive("of somebody else is not touched, though it is empty", () =>
    Effect.gen(function* () {
      const { directory, home } = yield* place
      const { protected: made } = yield* windows({
        home,
        lists: (name) => (name === directory ? profile.replace(user, stranger) : profile)
      })
      assert.include((yield* verify(directory))?.detail, `belongs to ${stranger}`)
      assert.deepStrictEqual(made, [])
    })
  )

  it.scopedLive("whose list cannot be read is believed in the profile only", () =>
    Effect.gen(function* () {
      const { directory, home } = yield* place
      yield* windows({ home, lists: undefined })
      assert.isUndefined(yield* verify(directory))
      const elsewhere = path.join(yield* temporary, "app")
      fs.mkdirSync(elsewhere)
      assert.include((yield* verify(elsewhere))?.detail, "cannot be read")
    })
  )

  it.scopedLive(
    "makes the candidature fail with DirectoryInsecure, unless it is vouched for; who hands over asks nobody",
    () =>
      Effect.gen(function* () {
        const { directory, home } = yield* place
        const { programs } = yield* windows({ home, lists: () => `${profile}(A;;FA;;;WD)` })
        assert.match(yield* elect({ directory }), /^DirectoryInsecure .*allows WD/)
        const looks = () => programs.filter((line) => line.includes("powershell")).length
        const before = looks()
        assert.isAbove(before, 0)
        assert.strictEqual(yield* elect({ directory, trustDirectory: true }), "Primary")
        yield* Effect.promise(() => launch({ id: App.key, directory, timeout: 500 }))
        assert.strictEqual(looks(), before)
      })
  )
})

describe.skipIf(process.platform === "win32")("a user without a profile on Windows", () => {
  it.scopedLive("has no default directory, and is told to give one", () =>
    Effect.gen(function* () {
      yield* windows({ home: undefined, lists: () => profile })
      const told =
        "this user has no profile folder, as in an application pool without a loaded profile; give a `directory`"
      assert.throws(defaultDirectory, told)
      assert.match(yield* elect({}), new RegExp(`^DirectoryUnusable .*${told}`))
      const verdict = yield* Effect.promise(() => launch({ id: App.key }))
      assert.deepStrictEqual(verdict, { _tag: "Candidate", reason: told })
      const { directory } = yield* place
      assert.strictEqual(yield* elect({ directory, trustDirectory: true }), "Primary")
    })
  )
})
