// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the lines are for the shell.
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
    env: { PATH: `${folder}:${process.env.PATH}`, REC: "rec", HERE: folder },
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
  ["rec $(echo 'a)' | cat) `echo b`", ["a)", "b"]],
  ['rec "$(echo ")")" ${REC:-"}"} $((1 << 2))', [")", "rec", "4"]],
  ["rec \\\n  a", ["a"]],
  ["rec a\\ ", ["a "]],
  ["rec '$@' \\$1", ["$@", "$1"]],
  ["sh -c 'rec \"$@\"' sh"],
  ['"$REC"'],
  ['"${NONE:-rec}"'],
  ['"$HERE/rec"'],
  ["$HERE/rec a", ["a"]],
  ["nice -n 5 rec a", ["a"]],
  ["env A=1 rec"],
  ["sh ./rec a", ["a"]],
  ["rec -- ", ["--"]],
  ["rec <<E\n$(true) it's\nE"],
  ['eval "$(echo true)"; rec'],
  // Where they say themselves where the arguments belong.
  ['rec "$@" &'],
  ['rec a "$@" | cat', ["a"]],
  ['if true; then rec "$@"; fi'],
  ['(rec "$@")'],
  ['{ rec "${@}"; }'],
  ['for word in "$@"; do :; done; rec "$@"'],
  ['"$REC" "$@"'],
  ['"$HERE/rec" "$@" &'],
  ['if [ -n "$1" ]; then rec "$@"; fi'],
  ['[ $# -gt 0 ] && [ "$1" = "$1" ] && rec "$@"'],
  ['case "$1" in *.txt) true;; *) rec "$@";; esac'],
  ['sh -ec \'rec "$@"\' sh "$@"'],
  ['exec nohup rec "$@" 2>out'],
  ['printf "%s" "$(basename "$1")" | cat; rec "$@"'],
  ['trap true EXIT; rec "$@"'],
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
  "rec() { true; }",
  // The words would be run, in sh or where sh is bash.
  "FO\\\nO=1",
  "FO\\\nO=1 rec",
  'eval rec "$@"',
  'eval "rec $*"',
  'exec eval "$@"',
  'command eval "$@"',
  'trap "$1" EXIT',
  '. "$1"',
  "sh",
  "sh -c",
  "/bin/sh -c",
  "bash -c",
  "nice sh -c",
  'sh -c "rec $1"',
  'sh -c "$1"',
  "xterm -e sh -c",
  'echo "$1" | sh',
  'echo "$1" | $SH',
  "env",
  "nohup",
  "nice -n 5",
  "env -u X",
  "sudo -u root",
  "xargs -I x",
  'env "$@"',
  "python3 -c",
  "node",
  "node --",
  "node -e 1",
  "node -e --",
  "perl -u -e 1 --",
  'perl -e 1 "$@"',
  "su -c",
  '"$@"',
  '$REC "$@"',
  '"$1" a',
  'X=1 "$@"',
  'for f in "$@"; do "$f"; done',
  'for f in "$@"; do eval "$f"; done',
  'for f; do "$f"; done',
  'rec $(for f; do eval "$f"; done)',
  'rec "$(eval "$1")"',
  "rec `eval \\$1`",
  'X="$1"; eval "$X"; rec "$@"',
  'rec "$@"; eval "$_"',
  'rec "$@"; "$_"',
  "alias v='eval '\nv",
  ...[
    '"${X:-eval}"',
    '${X:-eval}""',
    '"e${Z}val"',
    '"e${Z:-${Z}}val"',
    "e`true`val",
    "{,}",
    "{eval,}",
    "{eval,} rec",
    "$'\\x65val'",
    '$"eval"',
    'rec "${1@P}"',
    'rec "${!1}"',
    'rec "${1:-$(eval "$1")}"',
    '"${X:=$1}"'
  ],
  "r$(echo ec)",
  "jobs -x",
  ...["let", "test", "[", "read", "declare", "typeset", "printf", "printf -v", "unset", "export", "exit", "wait"],
  'test "$@"',
  '[ "$@" ]',
  '[ -v "$1" ] && rec "$@"',
  '[ "$1" -eq 1 ] && rec "$@"',
  '[[ -n "$1" ]] && rec "$@"',
  'printf "%d" "$1"',
  'printf "$1"',
  "rec $(($1))",
  'rec "$[$1]"',
  '(( "$1" ))',
  // They would be lost, or split.
  "sh -c 'rec \"$@\"'",
  'sh -c \'rec "$@"\' "$@"',
  "bash -c 'rec \"$@\"' &",
  "sh -c rec sh",
  "xterm -e sh -c 'rec \"$@\"'",
  'f() { rec "$1"; }; f',
  'f() { rec "$@"; }; f "$@"',
  "f() { rec; }; f",
  'function f { rec "$1"; }; f',
  "rec |& cat",
  'rec "$@" |& cat',
  "X=(a b)",
  "X[1]=",
  "rec $@",
  "rec $*",
  "rec $1",
  "rec $(echo $1)",
  'rec $(echo "$1")',
  'for f in "$@"; do rec $f; done',
  'for f in $@; do rec "$f"; done',
  'for f in "$@"; do rec; done',
  '[ -n "$1" ] && rec',
  'rec >"$1"',
  'X="$1" rec',
  "cat <<E | rec\n$1\nE",
  "cat <<E\n"
]

/** What an owner reads where the words would not arrive. */
const advised: ReadonlyArray<readonly [line: string, advice: RegExp]> = [
  ["sh -c 'viewer \"$@\"'", /write the command itself: viewer "\$@"/],
  ['eval viewer "$@"', /write the command itself: viewer "\$@"/],
  ["sh -c", /script file/],
  ["viewer $@", /write "\$@" with the quotes/],
  ["viewer $1 &", /write "\$1" with the quotes/],
  ["$EDITOR", /write "\$EDITOR" with the quotes/],
  ["viewer | cat", /write "\$@" where the arguments belong/]
]

/** Lines that people write; all can be given. */
const usual = [
  "viewer",
  "viewer &",
  "cd /tmp && viewer # note",
  "true; viewer",
  "viewer >>log 2>&1",
  "nvim --server /tmp/S --remote",
  'notify-send "opened" "$@"',
  'if [ -n "$1" ]; then viewer "$@"; fi',
  'for f in "$@"; do viewer "$f"; done',
  'viewer "$@" | tee log',
  "VAR=1 viewer",
  '"$HOME/bin/viewer" "$@"',
  "~/bin/viewer",
  "xdg-open",
  "./viewer.sh --flag=1",
  "node ./open.js",
  "python3 open.py",
  "python3 -c 'import sys; print(sys.argv)'",
  "node -e 'console.log(process.argv)' --",
  "sh open.sh",
  "exec viewer",
  "setsid -f viewer",
  "nohup viewer >/dev/null 2>&1 &",
  'viewer "$1"',
  'notify-send "opened $*"',
  'printf "%s\\n" "$@" >>log',
  "echo"
]

describe.skipIf(process.platform === "win32")("a line for the shell", () => {
  it("gets the sender's words as arguments wherever its last command stands @large", () => {
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

  it("is refused with advice that fits", () => {
    for (const [line, advice] of advised) {
      const read = withArguments(line)
      assert(read._tag === "Refused", line)
      assert.match(read.detail, advice, line)
    }
  })

  it("can be what people usually write", () => {
    for (const line of usual) {
      const { _tag, ...read } = withArguments(line)
      assert.strictEqual(_tag, "Line", `${line}: ${JSON.stringify(read)}`)
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
    assert.isTrue(runs('FO\\\nO=1 "$@"', words).evil)
    assert.isTrue(runs('echo "$1" | sh', words).evil)
    assert.deepStrictEqual(runs('sh -c \'rec "$@"\' "$@"', ["a", "b"]).got, ["b"])
  })

  it("never runs them as a command, whatever it is made of @large", () => {
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

  // As cmd.exe reads a line: an operator counts outside of quotes and without a caret before it.
  const readByCmd = (line: string): { readonly text: string; readonly operators: string } => {
    let text = ""
    let operators = ""
    let quoted = false
    for (let at = 0; at < line.length; at++) {
      if (line[at] === "^" && !quoted) {
        text += line[++at] ?? ""
        continue
      }
      if (line[at] === '"') quoted = !quoted
      if (!quoted && /[&|<>]/.test(line[at]!)) operators += line[at]
      text += line[at]
    }
    return { text, operators }
  }

  it("may run a batch file, whose %* is read once more, and none of them is run there", () => {
    for (const arg of ["a b", 'x" & calc & "', '"&calc', 'q\\"&z', "a&b|c<d>e", "^", '"', "trail\\"]) {
      const first = readByCmd(script("viewer", arg, "last"))
      assert.strictEqual(first.operators, "", arg)
      assert.strictEqual(readByCmd(first.text).operators, "", arg)
    }
    // The canary: as a program reads a quote.
    assert.strictEqual(readByCmd(readByCmd('viewer ^"\\^"^&calc^"').text).operators, "&")
    assert.strictEqual(forCmd("viewer", ["two\nlines"])._tag, "Refused")
  })

  it("gets them quoted at its end, or in the place of %*", () => {
    assert.strictEqual(script("viewer"), "viewer")
    assert.strictEqual(script("viewer /x", "a b", 'c"d'), 'viewer /x ^"a^ b^" ^"c^"^"d^"')
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
