/**
 * The access control lists of macOS, which give rights beside the mode bits. Node cannot read them, so `ls` is asked.
 */
import * as os from "node:os"
import * as path from "node:path"
import * as Effect from "effect/Effect"
import { ancestors, type Flaw, wayTo } from "./directory.js"
import * as systemProgram from "./systemProgram.js"

/** What an entry allows to whom: `user:alice`, `group:staff`. */
export interface Entry {
  readonly principal: string
  readonly rights: ReadonlyArray<string>
}

/**
 * The entries that allow something in a directory itself, for each of the directories whose names `ls -lde` was given.
 * Directories without such entries are left out.
 */
export const parse = (output: string, names: ReadonlyArray<string>): ReadonlyMap<string, ReadonlyArray<Entry>> => {
  const found = new Map<string, Array<Entry>>()
  let current: string | undefined
  for (const line of output.split("\n")) {
    const entry = /^ +\d+: (.+?)(?: inherited)? (allow|deny) (\S*)$/.exec(line)
    if (entry === null) {
      // The longest, as one name may end with another one. Of a link its target follows.
      const shown = names.filter((name) => line.endsWith(` ${name}`) || line.includes(` ${name} -> `))
      current = shown.sort((a, b) => b.length - a.length)[0]
      continue
    }
    const [, principal = "", kind, list = ""] = entry
    const rights = list.split(",")
    // An entry that is only for what is made in the directory is seen there, as an inherited one.
    if (current === undefined || kind !== "allow" || rights.includes("only_inherit")) continue
    found.set(current, [...(found.get(current) ?? []), { principal, rights }])
  }
  return found
}

// With these somebody can put another directory in the place of ours, or give themselves the right to.
const dangerous = new Set(["add_file", "add_subdirectory", "delete_child", "delete", "writesecurity", "chown"])

/**
 * What is wrong with the lists of a directory and, unless the user vouches for those, of its parents: one lets somebody
 * besides us and root use the directory at all, or replace what is in a parent. Starts a program, so a launch that only
 * hands over does not ask. Where `ls` cannot be run the mode bits alone count.
 */
export const verify = (
  directory: string,
  { trustParents }: { readonly trustParents: boolean }
): Effect.Effect<Flaw | undefined> =>
  Effect.gen(function* () {
    const own = path.resolve(directory)
    const names = trustParents
      ? [own]
      : yield* Effect.orElseSucceed(
          Effect.try(() => wayTo(own)),
          () => ancestors(own)
        )
    const lists = parse((yield* systemProgram.ask("/bin/ls", "-lde", ...names)) ?? "", names)
    const trusted = new Set(["user:root", ...ourName()])
    for (const [name, entries] of lists) {
      const isOwn = name === own
      for (const { principal, rights } of entries) {
        const given = rights.filter((right) => isOwn || dangerous.has(right))
        if (trusted.has(principal) || given.length === 0) continue
        const detail = `its access control list allows ${principal} ${given.join(",")}; \`chmod -N\` removes the list`
        return {
          reason: "DirectoryInsecure",
          path: name,
          detail: isOwn ? detail : `${detail}, and \`trustDirectory\` would accept it`,
          passing: false
        } as const
      }
    }
    return undefined
  })

const ourName = (): ReadonlyArray<string> => {
  try {
    return [`user:${os.userInfo().username}`]
  } catch {
    return []
  }
}
