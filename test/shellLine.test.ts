/**
 * Lines for the shell that get a sender's words: as arguments, whatever the line and whatever the words.
 */
import { spawnSync } from "node:child_process"
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { forCmd, withArguments } from "../src/internal/shellLine.js"
import { makeRandom } from "./random.js"

let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "effect-single-instance-line-"))
  const executable = (name: string, text: string) => {
    writeFileSync(join(folder, name), `#!/bin/sh\n${text}\n`)
    chmodSync(join(folder, name), 0o755)
  }
  executable("rec", `for word; do printf '%s\\0' "$word"; done > '${folder}/words'`)
  executable("evil", `: > '${folder}/evil-ran'`)
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Runs a script with arguments; tells what `rec` got, and whether an argument was run. */
const runs = (script: string, args: ReadonlyArray<string>) => {
  rmSync(join(folder, "words"), { force: true })
  rmSync(join(folder, "evil-ran"), { force: true })
  // What is left in the background has closed its output when this returns.
  const { status } = spawnSync("sh", ["-c", script, "sh", ...args], {
    cwd: folder,
    env: { PATH: `${folder}:${process.env.PATH}`, REC: "rec" },
    timeout: 10_000
  })
  const words = join(folder, "words")
  return {
    status,
    got: existsSync(words) ? readFileSync(words, "utf8").split("\0").slice(0, -1) : undefined,
    evil: existsSync(join(folder, "evil-ran"))
  }
}

const hostile = () => {
  const evil = join(folder, "evil")
  return [
    evil,
    `; ${evil}`,
    `$(${evil})`,
    `\`${evil}\``,
    `'; ${evil} '`,
    `\n${evil}\n`,
    "a b",
    "",
    "-x",
    "*",
    "\\",
    "é"
  ]
}

/** Lines whose last command is `rec`, with what it gets before the sender's words. */
const accepted: ReadonlyArray<readonly [line: string, before?: ReadonlyArray<string>]> = [
  ["rec"],
  ["  rec\t"],
  ["rec -o 'a b' \"c d\"", ["-o", "a b", "c d"]],
  ["rec &"],
  ["rec;"],
  ["rec ;  "],
  ["rec # a note"],
  ['rec a#b # it\'s a "note"', ["a#b"]],
  ["# first\nrec\n\n# last"],
  ["rec\n"],
  ["rec >out 2>&1"],
  ["rec >out&"],
  [">out rec"],
  ["rec 2>out a", ["a"]],
  ["true && rec"],
  ["true | true; rec"],
  ["X=1 Y='2 3' rec"],
  ["cd . && exec rec"],
  ["! rec"],
  ["if true; then true; fi; rec"],
  ["for i in 1 2; do :; done; rec"],
  ["case a in a) true;; esac; rec"],
  ["(cd .; true); rec"],
  ['f() { true "$@"; }; rec'],
  ["rec $(echo 'a)' | cat) `echo b`", ["a)", "b"]],
  // biome-ignore lint/suspicious/noTemplateCurlyInString: for the shell.
  ['rec "$(echo ")")" ${REC:-"}"} $((1 << 2))', [")", "rec", "4"]],
  ["rec \\\n  a", ["a"]],
  ["rec a\\ ", ["a "]],
  ["rec '$@' \\$1", ["$@", "$1"]],
  ["sh -c 'rec \"$@\"' sh"],
  ['"$REC"'],
  ["r$(echo ec)"],
  // Where they say themselves where the arguments belong.
  ['rec "$@" &'],
  ['rec a "$@" | cat', ["a"]],
  ['if true; then rec "$@"; fi'],
  ['(rec "$@")'],
  // biome-ignore lint/suspicious/noTemplateCurlyInString: for the shell.
  ['{ rec "${@}"; }'],
  ['for word in "$@"; do :; done; rec "$@"'],
  ['f() { rec "$@"; }; f "$@"'],
  ['$REC "$@"'],
  ['cat "$@" 2>out <<E; rec "$@"\nit\'s $(true)\nE']
]

const refused = [
  "",
  " \n",
  "# a note",
  "true | rec",
  "false || rec",
  "(true; rec)",
  "(true) > out",
  "{ rec; }",
  "if true; then rec; fi",
  "case x in esac",
  "while false; do rec; done",
  "X=1",
  "X=1 Y=2 >out",
  ">out",
  "!",
  "exec",
  "command",
  "exec >out",
  "command -p",
  "$REC",
  "`echo rec`",
  "$(echo rec) a",
  "eval rec",
  "e\\val rec",
  ". ./rec",
  "trap rec EXIT",
  "rec \\",
  "rec 'a",
  'rec "a',
  "rec $(a",
  "cat <<E\n$1\nE",
  "rec() { true; }"
]

describe.skipIf(process.platform === "win32")("a line for the shell", () => {
  it("gets the sender's words as arguments wherever its last command stands", () => {
    const words = hostile()
    for (const [line, before = []] of accepted) {
      const read = withArguments(line)
      assert(read._tag === "Line", `${line}: ${JSON.stringify(read)}`)
      const { evil, got } = runs(read.script, words)
      assert.deepStrictEqual(got, [...before, ...words], read.script)
      assert.isFalse(evil, read.script)
    }
  })

  it("is refused, with a word on where the arguments belong, if no command would get them", () => {
    for (const line of refused) {
      const read = withArguments(line)
      assert(read._tag === "Refused", `${line}: ${JSON.stringify(read)}`)
      assert.isAbove(read.detail.length, 10)
    }
  })

  // With the words at the end of the line instead, the same tables find what goes wrong.
  it("would run them as a command, or drop them, with the words at its end", () => {
    const words = hostile()
    for (const line of ["rec &", "rec;", "rec # a note", "rec\n", "rec >out&"]) {
      const { evil, got } = runs(`${line} "$@"`, words)
      assert.isTrue(evil || got?.length === 0, line)
    }
    assert.isTrue(runs('exec "$@"', words).evil)
    assert.isTrue(runs('X=1 "$@"', words).evil)
    assert.isTrue(runs('eval rec "$@"', words).evil)
  })

  it("never runs them as a command, whatever it is made of", () => {
    const words = hostile()
    const pieces = [
      ...'rec|true|rec|a|;|&|&&|\\||\n|#|>out|2>&1|X=1|\'a b\'|"a"|$REC|$NONE|"$NONE"|$(true)|`true`|\\|!|exec|command'.split(
        /(?<!\\)\|/
      ),
      ..."eval|.|time|{|}|(|)|if|then|fi|case|in|esac|while|do|done|for|'|\"|trap|\\'|$|nohup".split("|")
    ].map((piece) => (piece === "\\|" ? "|" : piece))
    let ran = 0
    for (let seed = 1; ran < 100 && seed < 20_000; seed++) {
      const next = makeRandom(seed)
      const pick = () => pieces[Math.floor(next() * pieces.length)]!
      const line = Array.from({ length: 1 + Math.floor(next() * 6) }, pick).join(next() < 0.8 ? " " : "")
      const read = withArguments(line)
      // Programs that run their arguments may do so.
      if (read._tag === "Refused" || /nohup|time/.test(line)) continue
      ran++
      const { evil, status } = runs(read.script, words)
      assert.isNotNull(status, read.script)
      assert.isFalse(evil, JSON.stringify({ seed, line, script: read.script }))
    }
    assert.isAtLeast(ran, 100)
  })
})

describe("a line for cmd.exe", () => {
  const script = (line: string, ...args: ReadonlyArray<string>) => {
    const read = forCmd(line, args)
    assert(read._tag === "Line", JSON.stringify(read))
    return read.script
  }

  it("gets them quoted at its end, or in the place of %*", () => {
    assert.strictEqual(script("viewer"), "viewer")
    assert.strictEqual(script("viewer /x", "a b", 'c"d'), 'viewer /x ^"a^ b^" ^"c\\^"d^"')
    assert.strictEqual(script("viewer %* & echo done", "&evil", "$&"), 'viewer ^"^&evil^" ^"$^&^" & echo done')
    assert.strictEqual(
      script('"C:\\Program Files\\v.exe" -o "a & b"', "%PATH%"),
      '"C:\\Program Files\\v.exe" -o "a & b" ^"^%PATH^%^"'
    )
  })

  it("is refused where they would be dropped, or run as a command", () => {
    for (const line of [
      "",
      "viewer &",
      "viewer & echo done",
      "viewer | more",
      "viewer > out",
      "(viewer)",
      "viewer ^",
      "rem viewer",
      ":: viewer",
      "%VIEWER%",
      'viewer "a',
      'viewer "%*"',
      "viewer\nmore"
    ]) {
      assert.strictEqual(forCmd(line, ["x"])._tag, "Refused", line)
    }
  })
})
