/**
 * A stand-in for macOS, and for Windows: what asks for the platform at run time is told so, and programs answer as a test says.
 * What a module reads once, when it is loaded, stays that of this system; so does the kernel.
 */
import childProcess from "node:child_process"
import fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import os from "node:os"
import path from "node:path"
import { Effect, type Scope } from "effect"
import * as systemProgram from "../src/internal/systemProgram.js"

/** What a program prints, or the code with which it cannot be started. */
export type Answer = { readonly stdout: string } | { readonly code: string } | undefined

export interface Darwin {
  /** The command lines that were run. */
  readonly programs: Array<string>
  /** The calls that create, change or remove something in the file system, with their first argument. */
  readonly writes: Array<string>
}

const writing = [
  "mkdirSync",
  "mkdtempSync",
  "symlinkSync",
  "linkSync",
  "renameSync",
  "unlinkSync",
  "rmdirSync",
  "rmSync",
  "writeFileSync",
  "chmodSync",
  "utimesSync"
] as const

/** For as long as the scope is open. A program without an answer fails. */
export const pretend = (
  answer: (line: string) => Answer = () => undefined,
  name: "darwin" | "win32" = "darwin"
): Effect.Effect<Darwin, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => {
        const programs: Array<string> = []
        const writes: Array<string> = []
        const { execFile } = childProcess
        const platform = Object.getOwnPropertyDescriptor(process, "platform")!
        Object.defineProperty(process, "platform", { ...platform, value: name })
        const { geteuid } = process
        if (name === "win32") Object.assign(process, { geteuid: undefined })
        const ask = (
          file: string,
          args: ReadonlyArray<string>,
          _options: object,
          done: (...all: Array<any>) => void
        ) => {
          const line = [file, ...args].join(" ")
          programs.push(line)
          const answered = answer(line)
          // As Node does, which reports only some of the codes to the callback.
          if (answered !== undefined && "code" in answered) {
            throw Object.assign(new Error(`spawn ${answered.code}`), { code: answered.code })
          }
          setImmediate(() =>
            answered === undefined ? done(new Error("exit code 1"), "", "") : done(null, answered.stdout, "")
          )
        }
        childProcess.execFile = ask as unknown as typeof execFile
        // The volume of macOS' own data is that of the tests.
        const { statSync } = fs
        Object.assign(fs, {
          statSync: (file: fs.PathLike, options?: object) =>
            statSync(file === "/private/var" && name === "darwin" ? os.tmpdir() : file, options)
        })
        const originals = writing.map((name) => [name, fs[name]] as const)
        for (const [name, original] of originals) {
          Object.assign(fs, {
            [name]: (...args: Array<unknown>) => {
              writes.push(`${name} ${args[0]}`)
              return (original as (...all: Array<unknown>) => unknown)(...args)
            }
          })
        }
        syncBuiltinESMExports()
        const forget = () => {
          systemProgram.refused.clear()
          delete systemProgram.known.temporaryFolder
        }
        forget()
        const restore = () => {
          forget()
          Object.defineProperty(process, "platform", platform)
          Object.assign(process, { geteuid })
          childProcess.execFile = execFile
          Object.assign(fs, { statSync })
          for (const [name, original] of originals) Object.assign(fs, { [name]: original })
          syncBuiltinESMExports()
        }
        return { programs, writes, restore }
      }),
      ({ restore }) => Effect.sync(restore)
    ),
    ({ programs, writes }) => ({ programs, writes })
  )

/** A home, and a sandbox in which its usual folders answer EPERM: Node opens none of them but those in the container. */
export const sandbox = (options: {
  readonly home: string
  readonly id: string | undefined
  readonly denies: boolean
}): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const { denies, home, id } = options
      const { APP_SANDBOX_CONTAINER_ID: before } = process.env
      const { userInfo } = os
      const { opendirSync } = fs
      const set = (value: string | undefined) => {
        if (value === undefined) delete process.env.APP_SANDBOX_CONTAINER_ID
        else process.env.APP_SANDBOX_CONTAINER_ID = value
      }
      set(id)
      os.userInfo = ((...args: Parameters<typeof userInfo>) => ({
        ...userInfo(...args),
        homedir: home
      })) as typeof userInfo
      const refuse = (name: unknown) =>
        denies && String(name).startsWith(home) && !String(name).startsWith(path.join(home, "Library", "Containers"))
      fs.opendirSync = ((name: string) => {
        // The kernel looks a name up before it asks the sandbox.
        if (refuse(name) && fs.existsSync(name)) throw Object.assign(new Error("EPERM: sandbox"), { code: "EPERM" })
        return opendirSync(name)
      }) as typeof opendirSync
      syncBuiltinESMExports()
      return () => {
        set(before)
        os.userInfo = userInfo
        fs.opendirSync = opendirSync
        syncBuiltinESMExports()
      }
    }),
    (restore) => Effect.sync(restore)
  )
