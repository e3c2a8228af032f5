/**
 * The bundled bin as its users have it: each test starts real processes, in a directory of its own.
 */
import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process"
import { randomUUID } from "node:crypto"
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeContext } from "@effect/platform-node"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Either, Schema, type Scope } from "effect"
import { Endpoint, InstanceRecord, SingleInstance } from "effect-single-instance"
import { folderName } from "effect-single-instance/InstanceId"
import { bundleBin, root } from "../scripts/bundle.mjs"
import { version } from "../src/Cli.js"
import { largeIf } from "./size.js"

class Refusal extends Schema.TaggedError<Refusal>()("Refusal", {}) {}

/** A primary whose handler may answer anything. */
class Other extends SingleInstance.Tag<Other>()("app", { reply: Schema.Unknown, failure: Refusal }) {}

let folder: string
let bin: string

beforeAll(async () => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), "effect-single-instance-cli-")))
  bin = (await bundleBin(join(folder, "bin"))).file
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

// -------------------------------------------------------------------------------------
// processes
// -------------------------------------------------------------------------------------

interface Started {
  readonly pid: number
  readonly process: ChildProcess
  readonly stdout: () => string
  readonly stderr: () => string
  /** The JSON objects on stdout; other lines are those of a command. */
  readonly events: () => ReadonlyArray<any>
  /** Waits for an event, the nth of its name. */
  readonly event: (name: string, nth?: number) => Effect.Effect<any>
  /** Waits for text on either stream. */
  readonly says: (text: string) => Effect.Effect<void>
  readonly kill: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Its exit code, or the signal that ended it; waits for the end of its output, too. */
  readonly exit: Effect.Effect<number | NodeJS.Signals>
}

interface StartOptions {
  readonly cwd?: string
  readonly env?: NodeJS.ProcessEnv
  /** Left out: nothing. Open as long as `end` is not true. */
  readonly stdin?: string
  readonly open?: boolean
  /** From 3 on. */
  readonly descriptors?: ReadonlyArray<number | "ignore">
}

const until = (what: () => string, condition: () => boolean, seconds = 30) =>
  Effect.gen(function* () {
    for (let round = 0; round < seconds * 50; round++) {
      if (condition()) return
      yield* Effect.sleep("20 millis")
    }
    assert.fail(`in vain: ${what()}`)
  })

const environment = () => {
  const env: NodeJS.ProcessEnv = { ...process.env, NO_COLOR: "" }
  for (const name of Object.keys(env)) if (name.startsWith("SINGLE_INSTANCE_")) delete env[name]
  // The tests themselves may run under nohup.
  delete env._
  return env
}

/** Ends what a test started and is in no group of its any more, such as the command of a wrapper that was killed. */
const killMarked = (mark: string) => {
  for (const pid of existsSync("/proc/self/environ") ? readdirSync("/proc").filter((name) => /^\d+$/.test(name)) : []) {
    try {
      if (readFileSync(`/proc/${pid}/environ`, "latin1").includes(mark)) process.kill(Number(pid), "SIGKILL")
    } catch {
      // It has ended, or is not ours.
    }
  }
}

/** Starts a program in a group of its own, which dies with the test. */
const start = (
  command: string,
  args: ReadonlyArray<string>,
  options: StartOptions = {}
): Effect.Effect<Started, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.async<Started & { readonly mark: string }>((resume) => {
      const mark = randomUUID()
      const child = spawn(command, args, {
        cwd: options.cwd ?? folder,
        env: { ...environment(), TEST_MARK: mark, ...options.env },
        stdio: ["pipe", "pipe", "pipe", ...(options.descriptors ?? [])],
        detached: true
      }) as ChildProcessWithoutNullStreams
      const chunks: { stdout: Array<Buffer>; stderr: Array<Buffer> } = { stdout: [], stderr: [] }
      let closed: number | NodeJS.Signals | undefined
      child.stdout.on("data", (chunk) => chunks.stdout.push(chunk))
      child.stderr.on("data", (chunk) => chunks.stderr.push(chunk))
      child.stdin.on("error", () => {})
      if (options.stdin !== undefined) child.stdin.write(options.stdin)
      if (options.open !== true) child.stdin.end()
      const text = (stream: "stdout" | "stderr") => Buffer.concat(chunks[stream]).toString("utf8")
      const all = () => `${args.slice(1).join(" ")} → ${closed}\n${text("stdout")}${text("stderr")}`
      const events = () =>
        text("stdout")
          .split("\n")
          .flatMap((line) => (line.startsWith('{"event":') ? [JSON.parse(line)] : []))
      const named = (name: string) => events().filter((event) => event.event === name)
      child.once("close", (code, signal) => {
        closed = code ?? signal!
      })
      child.once("error", (error) => resume(Effect.die(error)))
      child.once("spawn", () =>
        resume(
          Effect.succeed({
            mark,
            pid: child.pid!,
            process: child,
            stdout: () => text("stdout"),
            stderr: () => text("stderr"),
            events,
            event: (name, nth = 1) =>
              until(
                () => `event ${name} ${nth} of ${all()}`,
                () => named(name).length >= nth
              ).pipe(Effect.map(() => named(name)[nth - 1])),
            says: (words) =>
              until(
                () => `"${words}" of ${all()}`,
                () => text("stdout").includes(words) || text("stderr").includes(words)
              ),
            kill: (signal) => Effect.sync(() => void child.kill(signal)),
            exit: until(
              () => `the end of ${all()}`,
              () => closed !== undefined
            ).pipe(Effect.map(() => closed!))
          })
        )
      )
    }),
    ({ mark, pid, process: child }) =>
      Effect.async<void>((resume) => {
        const done = () => resume(Effect.void)
        if (child.exitCode !== null || child.signalCode !== null) done()
        else child.once("exit", done)
        try {
          process.kill(-pid, "SIGKILL")
        } catch {
          // The group has ended.
        }
        killMarked(mark)
      })
  )

const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
  } catch {
    return false
  }
  // What nobody waits for any more stays as a zombie where there is no init.
  const stat = `/proc/${pid}/stat`
  return !existsSync(stat) || !/^[ZX]/.test(readFileSync(stat, "utf8").split(") ").at(-1)!)
}

const goesAway = (pid: number) =>
  until(
    () => `the end of process ${pid}`,
    () => !isRunning(pid),
    8
  )

/** A directory, and the bin that works in it. */
const setup = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(folder, "test-"))),
    (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
  ),
  (directory) => {
    const dir = join(directory, "locks")
    const cli = (words: ReadonlyArray<string>, options?: StartOptions) => {
      const at = words.includes("--") ? words.indexOf("--") : words.length
      return start(process.execPath, [bin, ...words.slice(0, at), "--dir", dir, ...words.slice(at)], options)
    }
    return {
      directory,
      dir,
      cli,
      /** Runs it to its end. */
      done: (words: ReadonlyArray<string>, options?: StartOptions) =>
        Effect.flatMap(cli(words, options), (started) => Effect.map(started.exit, (code) => ({ ...started, code }))),
      record: () => join(dir, readdirSync(dir)[0]!, "lock")
    }
  }
)

const node = JSON.stringify(process.execPath)
/** A command for the shell that prints its arguments as JSON. */
const printArguments = `${node} -e 'console.log(JSON.stringify(process.argv.slice(1)))' --`

describe.skipIf(process.platform === "win32")("single-instance", () => {
  describe("run", () => {
    it.scopedLive("runs the command with our input, output and exit code", () =>
      Effect.gen(function* () {
        const { done } = yield* setup
        const ran = yield* done(["run", "app", "--", "sh", "-c", 'read line; echo "got $line"; echo no >&2; exit 3'], {
          stdin: "a line\n"
        })
        assert.strictEqual(ran.stdout(), "got a line\n")
        assert.strictEqual(ran.stderr(), "no\n")
        assert.strictEqual(ran.code, 3)
      })
    )

    it.scopedLive("hands over to the first, without a handler to 0", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli(["run", "app", "--json", "--", "sleep", "60"])
        const primary = yield* first.event("primary")
        assert.hasAllKeys(primary, ["event", "id", "pid", "epoch", "took", "endpoints"])
        assert.strictEqual(primary.id, "app")
        assert.strictEqual(primary.pid, first.pid)
        assert.strictEqual(primary.took, "free")
        assert.isAbove(primary.epoch, 0)
        assert.strictEqual(primary.endpoints[0].protocol, "unix")

        const second = yield* done(["run", "app", "--json", "--", "sleep", "60"])
        assert.strictEqual(second.code, 0)
        const delivered = yield* second.event("delivered")
        assert.hasAllKeys(delivered, ["event", "message", "protocol", "exitCode", "primary"])
        assert.strictEqual(delivered.exitCode, 0)
        assert.strictEqual(delivered.protocol, "unix")
        assert.deepStrictEqual(delivered.primary, { pid: first.pid })

        const launch = yield* first.event("launch")
        assert.deepStrictEqual(launch, {
          event: "launch",
          message: delivered.message,
          argv: ["60"],
          cwd: folder,
          protocol: "unix",
          from: { pid: second.pid }
        })
      })
    )

    it.scopedLive("shows what --on-launch prints and ends with its exit code", () =>
      Effect.gen(function* () {
        const { cli, directory, done } = yield* setup
        const script = join(directory, "on launch.sh")
        writeFileSync(script, 'echo "out of $PWD"; echo "err" >&2; env | grep ^SINGLE_INSTANCE_ | sort; cat; exit 7')
        const first = yield* cli(["run", "app", "--json", "--on-launch", `sh '${script}'`, "--", "sleep", "60"])
        const { epoch } = yield* first.event("primary")
        const second = yield* done(["run", "app", "--stdin", "--", "x"], { cwd: directory, stdin: "this\nand that" })
        const { message } = yield* first.event("launch")
        assert.strictEqual(
          second.stdout(),
          [
            `out of ${directory}`,
            "SINGLE_INSTANCE_DEPTH=1",
            `SINGLE_INSTANCE_EPOCH=${epoch}`,
            `SINGLE_INSTANCE_FROM_PID=${second.pid}`,
            "SINGLE_INSTANCE_ID=app",
            `SINGLE_INSTANCE_MESSAGE=${message}`,
            "this\nand that"
          ].join("\n")
        )
        assert.strictEqual(second.stderr(), "err\n")
        assert.strictEqual(second.code, 7)

        // Without --stdin it has none, and none of the primary's.
        const third = yield* done(["run", "app", "--json", "--", "x"], { stdin: "ours" })
        assert.notInclude(third.stdout(), "ours")
        assert.strictEqual((yield* third.event("delivered")).exitCode, 7)
        assert.strictEqual(third.code, 7)
      })
    )

    it.scopedLive("gives --on-launch the arguments byte for byte @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli(["run", "app", "--json", "--on-launch", printArguments, "--", "sleep", "60"])
        yield* first.event("primary")
        const rows = [
          ["plain"],
          ["", " leading", "trailing ", "  ", "\t"],
          ["two\nlines", "\n", "a\r\nb"],
          ["--help", "-h", "--version", "--json", "--dir", "/nowhere", "-x", "--", "-"],
          ["$HOME", "`id`", "$(id)", "a;b", "a|b", "a&b", "'", '"', "\\", "*", "~", "!!", "%PATH%", "#x"],
          ["👩‍👩‍👧 家", "é", "é", "\u202e", "\u0001\u001b[31m\u007f"],
          ["x".repeat(100_000)]
        ]
        for (const [index, argv] of rows.entries()) {
          const sent = yield* done(["run", "app", "--", "x", ...argv])
          assert.strictEqual(sent.code, 0, sent.stderr())
          assert.deepStrictEqual(JSON.parse(sent.stdout()), argv)
          assert.deepStrictEqual((yield* first.event("launch", index + 1)).argv, argv)
        }
      })
    )

    it.scopedLive("shows output as it comes, and waits for who reads it @large", () =>
      Effect.gen(function* () {
        const { cli } = yield* setup
        const gate = join(folder, `gate-${process.pid}`)
        const script = `echo first; while [ ! -e '${gate}' ]; do sleep 0.05; done; head -c 3000000 /dev/zero | tr '\\0' x; echo last; :`
        const first = yield* cli(["run", "app", "--json", "--on-launch", script, "--", "sleep", "60"])
        yield* first.event("primary")
        const second = yield* cli(["run", "app", "--timeout", "2s", "--", "x"])
        yield* second.says("first\n")
        second.process.stdout!.pause()
        writeFileSync(gate, "")
        // Longer than the timeout: a sender whose reader is slow is not a silent primary.
        yield* Effect.sleep("4 seconds")
        assert.isNull(second.process.exitCode)
        second.process.stdout!.resume()
        assert.strictEqual(yield* second.exit, 0)
        assert.strictEqual(second.stderr(), "")
        assert.strictEqual(second.stdout().length, "first\nlast\n".length + 3_000_000)
        rmSync(gate)
      })
    )

    it.scopedLive("hands over the arguments without the program, or all of them with --exec @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const words = ["-x", "a b", "; echo evil", "$(echo evil)", ""]
        const exec = ["--exec", `${printArguments} "$@"; sleep 60`]
        const first = yield* cli(["run", "app", "--json", "--on-launch", printArguments, ...exec, "--", ...words])
        yield* first.event("primary")
        yield* first.says(`${JSON.stringify(words)}\n`)
        // With and without all of the command line.
        const long = ["--protocol", "unix"]
        const rows: ReadonlyArray<readonly [sent: ReadonlyArray<string>, expected: ReadonlyArray<string>]> = [
          [["run", "app", "--", "program", ...words], words],
          [["run", "app", ...long, "--", "program", ...words], words],
          [["run", "app", "--", "program"], []],
          [["run", "app", "--exec", "program -o", "--", ...words], words],
          [["run", "app", ...long, "--exec", "program -o", "--", ...words], words],
          [["run", "app", "--exec", "program -o"], []],
          [["send", "app", "--", ...words], words],
          [["send", "app", ...long, "--", ...words], words]
        ]
        for (const [index, [sent, expected]] of rows.entries()) {
          const { code, stderr, stdout } = yield* done(sent)
          assert.strictEqual(code, 0, stderr())
          assert.strictEqual(stdout(), `${JSON.stringify(expected)}\n`, sent.join(" "))
          assert.deepStrictEqual((yield* first.event("launch", index + 1)).argv, expected)
        }
      })
    )

    it.scopedLive("never runs a sender's words, also with a handler in the background or a note behind it @large", () =>
      Effect.gen(function* () {
        const { cli, directory, done } = yield* setup
        const evil = join(directory, "evil")
        for (const [index, line] of [
          `${printArguments} &`,
          `${printArguments};`,
          `${printArguments} # a note`
        ].entries()) {
          const first = yield* cli(["run", `app${index}`, "--json", "--on-launch", line, "--", "sleep", "60"])
          yield* first.event("primary")
          const words = ["touch", evil, `; touch '${evil}'`]
          const second = yield* done(["run", `app${index}`, "--", "touch", ...words])
          assert.strictEqual(second.code, 0, second.stderr())
          if (!line.endsWith("&")) assert.deepStrictEqual(JSON.parse(second.stdout()), words)
        }
        assert.isFalse(existsSync(evil))
      })
    )

    it.scopedLive("gives --on-launch streams that it can open by their names @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const script =
          "for n in 0 1 2; do test -p /dev/fd/$n && echo $n >&2; done; cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr; exit 3; :"
        const first = yield* cli(["run", "app", "--json", "--on-launch", script, "--", "sleep", "60"])
        yield* first.event("primary")
        const input = "x".repeat(300_000)
        const second = yield* done(["run", "app", "--stdin", "--", "x"], { stdin: `${input}\n` })
        assert.strictEqual(second.stderr(), "0\n1\n2\nerr\n")
        assert.strictEqual(second.stdout(), `${input}\nout\n`)
        assert.strictEqual(second.code, 3)
        // Canary: with what Node gives a child as pipes the same does not work.
        if (process.platform === "linux") {
          assert.notStrictEqual(spawnSync("sh", ["-c", "cat /dev/stdin"], { input: "x" }).status, 0)
        }
        // Without input it is empty.
        const third = yield* done(["send", "app"])
        assert.strictEqual(third.stderr(), "1\n2\nerr\n")
        assert.strictEqual(third.stdout(), "out\n")
      })
    )

    it.scopedLive("holds nobody for what --on-launch leaves running, which goes on without readers @large", () =>
      Effect.gen(function* () {
        const { cli, directory, done } = yield* setup
        const log = join(directory, "log")
        const said = (word: string) =>
          until(
            () => `"${word}" in the log`,
            () => existsSync(log) && readFileSync(log, "utf8").includes(`${word}\n`)
          )
        const gate = (name: string) => join(directory, name)
        // Silent first; then it writes more than a pipe holds, once while its primary lives and once after that.
        const viewer = [
          `while [ ! -e '${gate("one")}' ]; do sleep 0.05; done`,
          `head -c 300000 /dev/zero && head -c 300000 /dev/zero >&2 && echo one >> '${log}'`,
          `while [ ! -e '${gate("two")}' ]; do sleep 0.05; done`,
          `head -c 300000 /dev/zero && head -c 300000 /dev/zero >&2 && echo two >> '${log}'`
        ].join("; ")
        const script = `(${viewer}) & echo $!; echo early; :`
        const first = yield* cli(["run", "app", "--json", "--on-launch", script, "--", "sleep", "60"])
        yield* first.event("primary")
        const second = yield* done(["run", "app", "--", "x"])
        assert.strictEqual(second.code, 0)
        assert.match(second.stdout(), /^\d+\nearly\n$/)
        const pid = Number.parseInt(second.stdout(), 10)
        // The primary keeps no end of a pipe.
        if (process.platform === "linux") {
          const open = readdirSync(`/proc/${first.pid}/fd`).flatMap((fd) => {
            try {
              return [readlinkSync(`/proc/${first.pid}/fd/${fd}`)]
            } catch {
              return []
            }
          })
          assert.deepStrictEqual(
            open.filter((name) => /\/(out|err) \(deleted\)$/.test(name)),
            []
          )
        }
        writeFileSync(gate("one"), "")
        yield* said("one")
        yield* first.kill("SIGTERM")
        yield* first.exit
        writeFileSync(gate("two"), "")
        yield* said("two")
        yield* goesAway(pid)

        // Canary: it does not come that far where the readers of its output are closed.
        rmSync(log)
        const closed = spawn("sh", ["-c", viewer], { stdio: ["ignore", "pipe", "pipe"] })
        closed.stdout.destroy()
        closed.stderr.destroy()
        yield* until(
          () => "the end of what writes without readers",
          () => closed.exitCode !== null || closed.signalCode !== null
        )
        assert.isFalse(existsSync(log) && readFileSync(log, "utf8").includes("two"))
      })
    )

    it.scopedLive("does not wait for what writes without end in the background @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli(["run", "app", "--json", "--on-launch", "yes & echo $! >&2; :", "--", "sleep", "60"])
        yield* first.event("primary")
        const second = yield* done(["run", "app", "--", "x"])
        assert.strictEqual(second.code, 0)
        const pid = Number(second.stderr())
        assert.isTrue(isRunning(pid))
        process.kill(pid, "SIGKILL")
      })
    )

    it.scopedLive("lets an interrupted --on-launch clean up, and shows what it says until its end @large", () =>
      Effect.gen(function* () {
        const { cli, directory } = yield* setup
        const cleaned = join(directory, "cleaned")
        const file = join(directory, "handler.sh")
        // More than a pipe holds: where nobody reads any more, it would not come to its end.
        writeFileSync(
          file,
          `trap "echo cleaning; head -c 200000 /dev/zero; sleep 0.3; echo cleaned >&2; echo done > '${cleaned}'; exit 9" TERM\necho ready; while :; do sleep 0.05; done\n`
        )
        const rows: ReadonlyArray<readonly [script: string, senders: ReadonlyArray<ReadonlyArray<string>>]> = [
          [`sh '${file}'`, [[], ["--stdin"]]],
          [`sh '${file}'; :`, [["--protocol", "unix"]]]
        ]
        for (const [index, [script, senders]] of rows.entries()) {
          const first = yield* cli(["run", `app${index}`, "--json", "--on-launch", script, "--", "sleep", "60"])
          yield* first.event("primary")
          for (const words of senders) {
            rmSync(cleaned, { force: true })
            const second = yield* cli(["run", `app${index}`, ...words, "--", "x"], { stdin: "some" })
            yield* second.says("ready\n")
            yield* second.kill("SIGINT")
            assert.strictEqual(yield* second.exit, 130)
            assert.include(second.stdout(), "cleaning\n")
            yield* until(
              () => "the end of its cleaning",
              () => existsSync(cleaned)
            )
          }
        }
      })
    )

    it.scopedLive("shows what --on-launch says to its end when the first one ends @large", () =>
      Effect.gen(function* () {
        const { cli } = yield* setup
        const env = { SINGLE_INSTANCE_DRAIN: "100 millis" }
        const script = `trap "sleep 0.5; echo cleaned; exit 9" TERM; echo ready; while :; do sleep 0.05; done; :`
        const first = yield* cli(["run", "app", "--json", "--on-launch", script, "--", "sleep", "60"], { env })
        yield* first.event("primary")
        const second = yield* cli(["run", "app", "--", "x"])
        yield* second.says("ready\n")
        yield* first.kill("SIGTERM")
        assert.strictEqual(yield* second.exit, 76)
        assert.strictEqual(second.stdout(), "ready\ncleaned\n")
        yield* first.exit
      })
    )

    it.scopedLive("passes on the variables that both sides name with --env @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const print = `${node} -e 'console.log(JSON.stringify(["A", "B", "C", "__proto__"].map((name) => Object.hasOwn(process.env, name) ? process.env[name] : null)))' --`
        const names = ["--env", "A,B,__proto__"]
        const first = yield* cli(["run", "app", "--json", ...names, "--on-launch", print, "--", "sleep", "60"], {
          env: { A: "old a", B: "old b", C: "old c" }
        })
        yield* first.event("primary")
        const env = JSON.parse('{"A":"new a=é","C":"new c","__proto__":"p"}')
        for (const [words, expected] of [
          [
            ["run", "app", ...names, "--", "x"],
            ["new a=é", null, "old c", "p"]
          ],
          [
            ["send", "app", ...names],
            ["new a=é", null, "old c", "p"]
          ],
          // Who passes on nothing leaves all as it is; what the first does not name, nobody can set.
          [
            ["run", "app", "--", "x"],
            ["old a", "old b", "old c", null]
          ],
          [
            ["run", "app", "--env", "C", "--", "x"],
            ["old a", "old b", "old c", null]
          ],
          [
            ["run", "app", "--env", "C,A", "--protocol", "unix", "--", "x"],
            ["new a=é", null, "old c", null]
          ]
        ] as const) {
          const sent = yield* done(words, { env })
          assert.deepStrictEqual(JSON.parse(sent.stdout()), expected, words.join(" "))
        }
      })
    )

    it.scopedLive("ends a chain of handlers that start each other, and says what it is @large", () =>
      Effect.gen(function* () {
        const { cli, dir, directory, done } = yield* setup
        const log = join(directory, "log")
        const again = (id: string, words: string) =>
          `echo "$1" >> '${log}'; exec ${node} '${bin}' ${words} ${id} --dir '${dir}' -- x a`
        for (const [a, b, words] of [
          ["same", "same", "run"],
          ["one", "other", "send"]
        ] as const) {
          rmSync(log, { force: true })
          const ids =
            a === b
              ? [[a, b]]
              : [
                  [a, b],
                  [b, a]
                ]
          for (const [id, next] of ids) {
            const first = yield* cli(["run", id!, "--json", "--on-launch", again(next!, words), "--", "sleep", "60"])
            yield* first.event("primary")
          }
          const second = yield* done(["run", a, "--", "x", "a"])
          assert.strictEqual(second.code, 64)
          assert.include(second.stderr(), "started each other")
          assert.strictEqual(readFileSync(log, "utf8").split("\n").length - 1, 8)
        }
      })
    )

    // Only Linux has file names and arguments that are not UTF-8 in all places.
    it.scopedLive.skipIf(process.platform !== "linux")("refuses what is not UTF-8, and says which it is @large", () =>
      Effect.gen(function* () {
        const { cli, dir, directory, done } = yield* setup
        const first = yield* cli(["run", "app", "--json", "--env", "V", "--on-launch", "cat", "--", "sleep", "60"])
        yield* first.event("primary")
        const shell = (script: string) =>
          Effect.flatMap(
            start("sh", ["-c", `cd "$3"; node=$1 bin=$2 dir=$3; ${script}`, "sh", process.execPath, bin, directory]),
            (started) => Effect.map(started.exit, (code) => ({ ...started, code }))
          )
        const single = `"$node" "$bin"`
        const bytes = `"$(printf 'caf\\351.txt')"`
        const at = `--dir '${dir}'`
        for (const [script, which] of [
          [`${single} run new ${at} -- cat ${bytes}`, "argument 7, caf\\xe9.txt"],
          [`${single} run app ${at} -- cat ${bytes}`, "argument 7, caf\\xe9.txt"],
          [`${single} send app ${at} -- ${bytes}`, "argument 6, caf\\xe9.txt"],
          [`${single} status ${bytes} ${at}`, "argument 2, caf\\xe9.txt"],
          [`V=${bytes} ${single} run new ${at} -- true`, "variable V"],
          [`V=${bytes} ${single} run app ${at} --env V -- x`, "variable V"],
          [`V=${bytes} ${single} send app ${at} --env V`, "variable V"],
          [`SINGLE_INSTANCE_DIRECTORY=${bytes} ${single} status app`, "variable SINGLE_INSTANCE_DIRECTORY"],
          [`mkdir d${bytes}; cd d${bytes}; ${single} run new ${at} -- true`, "directory"],
          [`cd d${bytes}; ${single} run app ${at} -- x`, "directory"],
          [`cd d${bytes}; ${single} send app ${at}`, "directory"]
        ] as const) {
          const { code, stderr, stdout } = yield* shell(script)
          assert.strictEqual(code, 64, script)
          assert.include(stderr(), which, script)
          assert.include(stderr(), "UTF-8", script)
          assert.strictEqual(stdout(), "", script)
        }
        // The character that takes its place elsewhere is one like any other here, and what is not passed on does not matter.
        const marked = join(directory, "caf\uFFFD.txt")
        writeFileSync(marked, "content")
        assert.strictEqual((yield* done(["run", "app", "--", "x", marked])).stdout(), "content")
        assert.strictEqual((yield* done(["run", "other", "--", "cat", marked], { cwd: directory })).stdout(), "content")
        assert.strictEqual((yield* shell(`V=${bytes} ${single} run app ${at} -- x`)).code, 0)
      })
    )

    it.scopedLive("answers when the command ended, though a daemon of it holds the output @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli([
          "run",
          "app",
          "--json",
          "--on-launch",
          "sleep 300 & echo $! ; :",
          "--",
          "sleep",
          "60"
        ])
        yield* first.event("primary")
        const second = yield* done(["run", "app", "--", "x"])
        assert.strictEqual(second.code, 0)
        const pid = Number(second.stdout())
        assert.isTrue(isRunning(pid), "it was left running on purpose")
        process.kill(pid, "SIGKILL")
      })
    )

    it.scopedLive("ends --on-launch and all that it started with Ctrl-C of the later one @large", () =>
      Effect.gen(function* () {
        const { cli } = yield* setup
        const first = yield* cli([
          "run",
          "app",
          "--json",
          "--on-launch",
          "sleep 300 & echo $$ $!; wait; :",
          "--",
          "sleep",
          "60"
        ])
        yield* first.event("primary")
        for (const [signal, code] of [
          ["SIGINT", 130],
          ["SIGTERM", 143],
          ["SIGHUP", 129]
        ] as const) {
          const second = yield* cli(["run", "app", "--", "x"])
          yield* second.says("\n")
          const pids = second.stdout().trim().split(" ").map(Number)
          assert.isTrue(pids.every(isRunning))
          yield* second.kill(signal)
          assert.strictEqual(yield* second.exit, code)
          for (const pid of pids) yield* goesAway(pid)
        }
        // The loss of the later one does the same.
        const second = yield* cli(["run", "app", "--", "x"])
        yield* second.says("\n")
        const pids = second.stdout().trim().split(" ").map(Number)
        yield* second.kill("SIGKILL")
        for (const pid of pids) yield* goesAway(pid)
        assert.isTrue(isRunning(first.pid))
      })
    )

    it.scopedLive("ends --on-launch that does not listen to SIGTERM @large", () =>
      Effect.gen(function* () {
        const { cli } = yield* setup
        const script = `trap "" TERM; echo $$; while :; do sleep 1; done; :`
        const first = yield* cli(["run", "app", "--json", "--on-launch", script, "--", "sleep", "60"])
        yield* first.event("primary")
        const second = yield* cli(["run", "app", "--", "x"])
        yield* second.says("\n")
        const pid = Number(second.stdout())
        yield* second.kill("SIGINT")
        assert.strictEqual(yield* second.exit, 130)
        yield* goesAway(pid)
      })
    )

    it.scopedLive("lets accepted launches end when the command has ended, but not for ever @large", () =>
      Effect.gen(function* () {
        const { cli, dir, done } = yield* setup
        const env = { SINGLE_INSTANCE_DRAIN: "1 seconds" }
        const script = "echo $$; sleep 300; :"
        const first = yield* cli(["run", "app", "--json", "--on-launch", script, "--", "sh", "-c", "read x; exit 4"], {
          env,
          open: true
        })
        yield* first.event("primary")
        const second = yield* cli(["run", "app", "--json", "--", "x"])
        const { text } = yield* second.event("output")
        first.process.stdin!.end("\n")
        yield* Effect.sleep("500 millis")
        const newcomer = yield* done(["send", "app"])
        assert.strictEqual(newcomer.code, 69)
        assert.strictEqual(yield* first.exit, 4)
        assert.strictEqual(yield* second.exit, 76)
        assert.deepInclude(second.events().at(-1), { error: "ProtocolError", reason: "HandlerInterrupted" })
        yield* goesAway(Number(text))
        assert.isTrue(existsSync(dir))
      })
    )

    it.scopedLive("gives exit codes as a shell does @large", () =>
      Effect.gen(function* () {
        const { cli, directory, done } = yield* setup
        assert.strictEqual((yield* done(["run", "a", "--", "sh", "-c", "kill -KILL $$"])).code, 137)
        assert.strictEqual((yield* done(["run", "a", "--", "sh", "-c", "kill -TERM $$"])).code, 143)
        const missing = yield* done(["run", "a", "--json", "--", "/no/such/command"])
        assert.strictEqual(missing.code, 127)
        assert.deepInclude(missing.events().at(-1), { event: "error", error: "CommandError", reason: "NotFound" })
        writeFileSync(join(directory, "data"), "no program")
        const data = yield* done(["run", "a", "--", join(directory, "data")])
        assert.strictEqual(data.code, 126)
        assert.include(data.stderr(), join(directory, "data"))

        const first = yield* cli(["run", "app", "--json", "--on-launch", "/no/such/program", "--", "sleep", "60"])
        yield* first.event("primary")
        const unknown = yield* done(["run", "app", "--", "x"])
        assert.strictEqual(unknown.code, 127)
        assert.include(unknown.stderr(), "/no/such/program")
        const gone = mkdtempSync(join(directory, "gone-"))
        const homeless = yield* done(["run", "app", "--", "x"], { cwd: gone })
        assert.strictEqual(homeless.code, 127)

        const killed = yield* cli(["run", "dies", "--json", "--on-launch", "kill -KILL $$; :", "--", "sleep", "60"])
        yield* killed.event("primary")
        assert.strictEqual((yield* done(["run", "dies", "--", "x"])).code, 137)
      })
    )

    it.scopedLive("passes signals on, ends when the command ends, and releases the lock after that", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const command = [
          "sh",
          "-c",
          'for s in INT TERM HUP QUIT USR1 USR2; do trap "echo got $s" $s; done; trap "echo bye; exit 9" TERM; echo ready; while :; do sleep 0.1; done'
        ]
        const first = yield* cli(["run", "app", "--", ...command])
        yield* first.says("ready")
        for (const signal of ["SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const) {
          yield* first.kill(signal)
          yield* first.says(`got ${signal.slice(3)}\n`)
        }
        yield* first.kill("SIGINT")
        yield* Effect.sleep("300 millis")
        assert.strictEqual((yield* done(["status", "app"])).code, 0)
        yield* first.kill("SIGTERM")
        assert.strictEqual(yield* first.exit, 9)
        assert.strictEqual(first.stdout().match(/got INT/g)!.length, 2)
        const status = yield* done(["status", "app", "--json"])
        assert.strictEqual(status.events()[0].state, "released")
      })
    )

    it.scopedLive("ends the command and with 73 when it is the primary no more @large", () =>
      Effect.gen(function* () {
        const { cli, record } = yield* setup
        const first = yield* cli([
          "run",
          "app",
          "--json",
          "--",
          "sh",
          "-c",
          'trap "echo told; exit 0" TERM; echo ready; while :; do sleep 0.1; done'
        ])
        yield* first.says("ready")
        rmSync(record())
        const lost = yield* first.event("lost")
        assert.hasAllKeys(lost, ["event", "reason"])
        assert.include(lost.reason, "removed")
        assert.strictEqual(yield* first.exit, 73)
        assert.include(first.stdout(), "told")
        assert.strictEqual(first.events().filter(({ event }) => event === "lost" || event === "error").length, 1)
      })
    )

    it.scopedLive("leaves the input to the first one's command, also with --stdin @large", () =>
      Effect.gen(function* () {
        const { cli } = yield* setup
        const first = yield* cli(["run", "app", "--stdin", "--", "head", "-n", "1"], { stdin: "one\n", open: true })
        assert.strictEqual(yield* first.exit, 0)
        assert.strictEqual(first.stdout(), "one\n")
      })
    )

    it.scopedLive("becomes the first with what it has read when the primary goes meanwhile @large", () =>
      Effect.gen(function* () {
        const { cli } = yield* setup
        const first = yield* cli(["run", "app", "--json", "--", "sleep", "60"])
        yield* first.event("primary")
        const second = yield* cli(["run", "app", "--json", "--stdin", "--", "cat"], { stdin: "kept ", open: true })
        yield* Effect.sleep("2 seconds")
        yield* first.kill("SIGTERM")
        assert.strictEqual(yield* first.exit, 143)
        second.process.stdin!.end("whole")
        assert.strictEqual(yield* second.exit, 0)
        assert.include(second.stdout(), "kept whole")
        assert.deepInclude(second.events()[0], { event: "primary", took: "released" })
      })
    )

    it.scopedLive("refuses input above the limit before it is sent @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli(["run", "app", "--json", "--", "sleep", "60"])
        yield* first.event("primary")
        const second = yield* done(["run", "app", "--json", "--stdin", "--", "x"], {
          stdin: "x".repeat(100_000),
          open: true,
          env: { SINGLE_INSTANCE_MAX_FRAME_BYTES: "65536" }
        })
        assert.strictEqual(second.code, 76)
        assert.deepInclude(second.events()[0], { error: "ProtocolError", reason: "TooLarge", outcome: "NotDelivered" })
      })
    )

    it.scopedLive("gives up on a primary that keeps silent, with 75 @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli(["run", "app", "--json", "--", "sleep", "60"])
        yield* first.event("primary")
        yield* first.kill("SIGSTOP")
        const second = yield* done(["run", "app", "--json", "--timeout", "1500ms", "--", "x"])
        assert.strictEqual(second.code, 75)
        // Not what was left of it for the last attempt.
        const [, millis] = /within (\d+) ms/.exec(second.events()[0].message) ?? []
        assert.isAtLeast(Number(millis), 1_200)
        assert.isAtMost(Number(millis), 1_500)
        assert.deepInclude(second.events()[0], {
          event: "error",
          error: "TimeoutError",
          outcome: "NotDelivered",
          primary: { pid: first.pid }
        })
        // And is interrupted while it waits.
        const third = yield* cli(["run", "app", "--", "x"])
        yield* Effect.sleep("1 seconds")
        yield* third.kill("SIGINT")
        assert.strictEqual(yield* third.exit, 130)
        yield* first.kill("SIGCONT")
      })
    )
  })

  describe("run as a parent", () => {
    /** A command that says its pid, then runs on. */
    const lasting = ["sh", "-c", 'echo "pid=$$"; exec sleep 60']
    const pidOf = (started: Started) =>
      Effect.map(started.says("pid="), () => Number(/pid=(\d+)/.exec(started.stdout())![1]))
    const killWrapper = (wrapper: Started) =>
      Effect.zipRight(
        wrapper.kill("SIGKILL"),
        until(
          () => `the end of ${wrapper.pid}`,
          () => !isRunning(wrapper.pid)
        )
      )

    it.scopedLive("keeps the lock while the command lives, also when the wrapper is killed", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli(["run", "app", "--", ...lasting])
        const pid = yield* pidOf(first)
        yield* killWrapper(first)
        assert.isTrue(isRunning(pid))
        const second = yield* done(["run", "app", "--json", "--", "echo", "SECOND"])
        assert.strictEqual(second.code, 73)
        const error = second.events()[0]
        assert.deepStrictEqual([error.error, error.reason, error.outcome], ["LockError", "OwnerEnded", "NotDelivered"])
        assert.include(error.message, `process ${first.pid} has ended, but a command that it started still runs`)
        assert.notInclude(second.stdout(), "SECOND")
        const sent = yield* done(["send", "app", "--", "x"])
        assert.strictEqual(sent.code, 73)
        assert.include(sent.stderr(), "nobody takes messages")

        const status = yield* done(["status", "app", "--json"])
        assert.deepStrictEqual([status.code, status.events()[0].state, status.events()[0].alive], [73, "held", false])
        assert.include((yield* done(["status", "app"])).stdout(), `process ${first.pid} has ended`)
        assert.strictEqual((yield* done(["break", "app", "--yes"])).code, 73)

        const waiting = yield* cli(["run", "app", "--wait", "--json", "--", "echo", "THIRD"])
        yield* waiting.event("standby")
        assert.notInclude(waiting.stdout(), "THIRD")
        process.kill(pid, "SIGKILL")
        assert.strictEqual(yield* waiting.exit, 0)
        assert.include(waiting.stdout(), "THIRD")
      })
    )

    it.scopedLive("frees the lock with the wrapper under --close, so that two commands run @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli(["run", "app", "--close", "--", ...lasting])
        const pid = yield* pidOf(first)
        yield* killWrapper(first)
        assert.strictEqual((yield* done(["run", "app", "--", "echo", "SECOND"])).stdout(), "SECOND\n")
        assert.isTrue(isRunning(pid))
      })
    )

    it.scopedLive("frees the lock at the end of the command, though a child of that still runs @large", () =>
      Effect.gen(function* () {
        const { done } = yield* setup
        const script = "sleep 60 > /dev/null 2>&1 & echo $!"
        const first = yield* done(["run", "app", "--", "sh", "-c", script])
        assert.isTrue(isRunning(Number(first.stdout())))
        const second = yield* done(["run", "app", "--nonblock", "--", "echo", "SECOND"])
        assert.deepStrictEqual([second.code, second.stdout()], [0, "SECOND\n"])
      })
    )

    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      it.scopedLive(
        `takes no launch after ${signal}: that one waits for the end and runs its own command${largeIf(signal !== "SIGTERM")}`,
        () =>
          Effect.gen(function* () {
            const { cli, directory, done } = yield* setup
            const gate = join(directory, "gate")
            const trap = `while [ ! -e "${gate}" ]; do sleep 0.02; done; exit`
            const script = `trap 'echo stopping; ${trap}' ${signal.slice(3)}; echo up; while :; do sleep 0.02; done`
            const first = yield* cli(["run", "app", "--json", "--", "sh", "-c", script])
            yield* first.says("up")
            // What a launch is told before that.
            assert.strictEqual((yield* done(["run", "app", "--", "echo", "EARLY"])).stdout(), "")
            yield* first.kill(signal)
            yield* first.says("stopping")
            const second = yield* cli(["run", "app", "--", "echo", "SECOND"])
            yield* Effect.sleep("700 millis")
            assert.isNull(second.process.exitCode)
            assert.strictEqual(second.stdout(), "")
            writeFileSync(gate, "")
            assert.strictEqual(yield* second.exit, 0)
            assert.strictEqual(second.stdout(), "SECOND\n")
            assert.lengthOf(
              first.events().filter(({ event }) => event === "launch"),
              1
            )
          })
      )
    }

    it.scopedLive("takes launches again where the command did not end by SIGHUP @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const script = "trap 'echo again' HUP; echo up; while :; do sleep 0.05; done"
        const first = yield* cli(["run", "app", "--on-launch", "echo taken", "--", "sh", "-c", script])
        yield* first.says("up")
        yield* first.kill("SIGHUP")
        yield* first.says("again")
        const second = yield* done(["run", "app", "--", "echo", "SECOND"])
        assert.strictEqual(second.code, 0)
        assert.match(second.stdout(), /^taken/)
      })
    )

    // Says each signal that it gets.
    const listening = (names: ReadonlyArray<string>) =>
      `for (const name of ${JSON.stringify(names)}) process.on(name, () => console.log("got " + name + ";")); console.log("pgid=" + require("fs").readFileSync("/proc/self/stat", "latin1").split(") ").at(-1).split(" ")[2] + ";"); setInterval(() => {}, 1000)`
    const times = (started: Started, name: string) => started.stdout().split(`got ${name};`).length - 1
    const allSignals: ReadonlyArray<NodeJS.Signals> = [
      ...(["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF"] as const),
      ...(["SIGABRT", "SIGTRAP", "SIGSYS", "SIGXCPU", "SIGXFSZ", "SIGIO", "SIGPWR", "SIGSTKFLT"] as const),
      ...(["SIGURG", "SIGWINCH", "SIGCONT", "SIGTSTP"] as const)
    ]
    /** Sends each signal to the wrapper alone, then to its group, and answers how often the command got each. */
    const deliveries = Effect.fnUntraced(function* (started: Started, names: ReadonlyArray<NodeJS.Signals>) {
      for (const name of names) {
        for (const [count, pid] of [
          [1, started.pid],
          [2, -started.pid]
        ] as const) {
          process.kill(pid, name)
          yield* until(
            () => `${count} times ${name} in ${started.stdout()}`,
            () => times(started, name) >= count
          )
        }
      }
      yield* Effect.sleep("300 millis")
      return Object.fromEntries(names.map((name) => [name, times(started, name)]))
    })
    const twice = (names: ReadonlyArray<string>) => Object.fromEntries(names.map((name) => [name, 2]))
    const isLinux = process.platform === "linux"

    it.skipIf(!isLinux)("gives each signal to the command once, whether sent to it alone or to the group @large", () =>
      Effect.gen(function* () {
        const { cli } = yield* setup
        const first = yield* cli(["run", "app", "--", process.execPath, "-e", listening(allSignals)])
        yield* first.says("pgid=")
        assert.notInclude(first.stdout(), `pgid=${first.pid};`)
        assert.deepStrictEqual(yield* deliveries(first, allSignals), twice(allSignals))
      }).pipe(Effect.scoped, Effect.runPromise)
    )

    it.skipIf(!isLinux)(
      "gives the group only what was for the group, also of two signals that come together @large",
      () =>
        Effect.gen(function* () {
          const { cli } = yield* setup
          const names = ["SIGUSR1", "SIGTERM"]
          const script = `if (process.argv[1] === "inner") { ${listening(names)} } else { for (const name of ${JSON.stringify(names)}) process.on(name, () => {}); child_process.spawn(process.execPath, ["-e", process.env.SCRIPT, "inner"], { stdio: "inherit" }) }`
          const first = yield* cli(["run", "app", "--", process.execPath, "-e", script], { env: { SCRIPT: script } })
          yield* first.says("pgid=")
          process.kill(first.pid, "SIGUSR1")
          process.kill(-first.pid, "SIGTERM")
          yield* first.says("got SIGTERM;")
          yield* Effect.sleep("200 millis")
          assert.deepStrictEqual([times(first, "SIGUSR1"), times(first, "SIGTERM")], [0, 1])
        }).pipe(Effect.scoped, Effect.runPromise)
    )

    it.skipIf(!isLinux)(
      "would be seen to give a signal twice: a parent that passes all on within its group @large",
      () =>
        Effect.gen(function* () {
          const naive = `const child = require("child_process").spawn(process.execPath, ["-e", ${JSON.stringify(listening(["SIGTERM"]))}], { stdio: "inherit" }); process.on("SIGTERM", () => child.kill("SIGTERM"))`
          const first = yield* start(process.execPath, ["-e", naive])
          yield* first.says("pgid=")
          // Those that come at the same time may count as one.
          for (let sent = 1; times(first, "SIGTERM") < sent; sent++) {
            assert.isBelow(sent, 50)
            process.kill(-first.pid, "SIGTERM")
            yield* Effect.sleep("200 millis")
          }
        }).pipe(Effect.scoped, Effect.runPromise)
    )

    it.scopedLive("takes a signal to the process and its group for one, as timeout(1) sends it", () =>
      Effect.gen(function* () {
        const { cli } = yield* setup
        // No long child: one that its shell has just forked may lose the signal, and would hold the output open.
        const script = `trap 'echo TERM; exit 3' TERM; echo "pid=$$;"; while :; do sleep 0.1; done`
        const first = yield* cli(["run", "app", "--", "sh", "-c", script])
        const child = yield* pidOf(first)
        // Both are there when it goes on, however busy this machine is.
        process.kill(first.pid, "SIGSTOP")
        process.kill(first.pid, "SIGTERM")
        process.kill(-first.pid, "SIGTERM")
        process.kill(first.pid, "SIGCONT")
        assert.strictEqual(yield* first.exit, 3)
        assert.strictEqual(first.stdout().split("TERM").length - 1, 1)
        yield* goesAway(child)
      })
    )

    it.skipIf(!isLinux)("stops the command with SIGTSTP and continues it @large", () =>
      Effect.gen(function* () {
        const { cli } = yield* setup
        const first = yield* cli(["run", "app", "--", ...lasting])
        const pid = yield* pidOf(first)
        const state = (expected: string) =>
          until(
            () => `state ${expected}`,
            () => readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)!.startsWith(expected)
          )
        yield* first.kill("SIGTSTP")
        yield* state("T")
        yield* first.kill("SIGCONT")
        yield* state("S")
      }).pipe(Effect.scoped, Effect.runPromise)
    )

    const bash = spawnSync("bash", ["--version"]).status === 0
    it.skipIf(!bash || !isLinux)("goes on after SIGHUP under nohup, and so does the command @large", () =>
      Effect.gen(function* () {
        const { dir } = yield* setup
        const words = `${process.execPath} ${bin} run app --dir ${dir} -- sh -c 'echo "pid=$$"; sleep 2; echo finished'`
        for (const script of [`nohup ${words}; :`, `trap "" HUP; ${words}; :`]) {
          const started = yield* start("bash", ["-c", script])
          const pid = yield* pidOf(started)
          process.kill(pid, "SIGHUP")
          process.kill(-started.pid, "SIGHUP")
          yield* started.says("finished")
        }
        // Without it.
        const started = yield* start("bash", ["-c", `${words}; echo "code=$?"`])
        process.kill(yield* pidOf(started), "SIGHUP")
        yield* started.says("code=129")
      }).pipe(Effect.scoped, Effect.runPromise)
    )

    it.skipIf(!isLinux)("gives the command the descriptors that were open at the start, under their numbers", () =>
      Effect.gen(function* () {
        const { dir, directory } = yield* setup
        const open = [3, 4, 6, 9].map((fd) => [fd, openSync(join(directory, `of ${fd}`), "w+")] as const)
        const descriptors = Array.from({ length: 7 }, (_, at) => open.find(([fd]) => fd === at + 3)?.[1] ?? "ignore")
        const script =
          'for fd in 3 4 6 9; do echo "got $fd" >&$fd; done; [ "$LISTEN_PID" = $$ ] && echo "ours $LISTEN_FDS"; [ -e /proc/self/fd/5 ] || echo none'
        const words = [process.execPath, bin, "run", "app", "--dir", dir, "--", "sh", "-c", script]
        const started = yield* start("sh", ["-c", 'LISTEN_FDS=2 LISTEN_PID=$$ exec "$@"', "sh", ...words], {
          descriptors
        })
        assert.strictEqual(yield* started.exit, 0, started.stderr())
        assert.strictEqual(started.stdout(), "ours 2\nnone\n")
        for (const [fd, own] of open) {
          closeSync(own)
          assert.strictEqual(readFileSync(join(directory, `of ${fd}`), "utf8"), `got ${fd}\n`)
        }
      }).pipe(Effect.scoped, Effect.runPromise)
    )

    it.skipIf(!bash || !isLinux)(
      "gives the command pipes and /dev/null that were open at the start, but none of Node's @large",
      () =>
        Effect.gen(function* () {
          const { dir, directory } = yield* setup
          const words = (script: string) => `${process.execPath} ${bin} run app --dir ${dir} -- sh -c '${script}'`
          const lines = [
            `${words("cat <&5")} 5< <(echo hi5)`,
            `${words("cat <&9 && echo hi9")} 9</dev/null`,
            `${words("echo hi8 >&8")} 8> >(cat >${directory}/of8)`,
            `exec {fd}< <(echo hi$fd-auto); ${process.execPath} ${bin} run app --dir ${dir} -- bash -c "cat <&$fd"; exec {fd}<&-`,
            `echo hi0 | { exec 7<&0 0</dev/null; ${words("cat <&7")}; }`,
            `until [ -s ${directory}/of8 ]; do sleep 0.02; done; cat ${directory}/of8`
          ]
          const started = yield* start("bash", ["-c", lines.join("\n")])
          assert.strictEqual(yield* started.exit, 0, started.stderr())
          assert.match(started.stdout(), /^hi5\nhi9\nhi\d*-auto\nhi0\nhi8\n$/)

          // Nothing that Node opens itself: a process of Node has some of each kind.
          const kinds = /anon_inode:\[eventpoll\]|anon_inode:\[eventfd\]|pipe:/g
          const shown = (command: string) =>
            Effect.gen(function* () {
              const listed = yield* start("bash", ["-c", `for fd in {3..255}; do eval "exec $fd>&-"; done; ${command}`])
              assert.strictEqual(yield* listed.exit, 0, listed.stderr())
              const lines = listed
                .stdout()
                .split("\n")
                .filter((line) => !/ [012] -> /.test(line))
              return new Set(lines.join("\n").match(kinds) ?? [])
            })
          const canary = `${process.execPath} -e 'child_process.spawnSync("ls", ["-l", "/proc/" + process.pid + "/fd"], { stdio: "inherit" })'`
          assert.strictEqual((yield* shown(canary)).size, 3)
          assert.strictEqual((yield* shown(words("ls -l /proc/self/fd"))).size, 0)
        }).pipe(Effect.scoped, Effect.runPromise)
    )

    it.skipIf(!isLinux)("leaves its output blocking for those who share it @large", () =>
      Effect.gen(function* () {
        const { cli, dir } = yield* setup
        const script = "echo some; echo >&2 more; sleep 1; :"
        const first = yield* cli(["run", "app", "--json", "--on-launch", script, "--", "sleep", "60"])
        yield* first.event("primary")
        const isBlocking = (pid: number) =>
          [1, 2].map((fd) => (Number.parseInt(/flags:\s*(\d+)/.exec(flagsOf(pid, fd))![1]!, 8) & 0o4000) === 0)
        const flagsOf = (pid: number, fd: number) => readFileSync(`/proc/${pid}/fdinfo/${fd}`, "latin1")
        const quoted = (words: ReadonlyArray<string>) => words.map((word) => `'${word}'`).join(" ")
        // A pipe, which can be opened again, and a socket, which cannot.
        for (const [how, command] of [
          ["pipe", (words: string) => `{ exec 2>&1; echo "pid=$$"; exec ${words}; } | cat`],
          ["socket", (words: string) => `echo "pid=$$"; exec ${words}`]
        ] as const) {
          for (const words of [
            ["send", "app", "--dir", dir],
            ["run", "app", "--json", "--dir", dir, "--", "x"],
            ["send", "app", "--dir", dir, "--protocol", "unix"]
          ]) {
            const line = command(quoted([process.execPath, bin, ...words])).replaceAll("$$", "$(sh -c 'echo $PPID')")
            const sender = yield* start("sh", ["-c", line])
            const pid = yield* pidOf(sender)
            yield* sender.says("some")
            yield* sender.says("more")
            assert.deepStrictEqual(isBlocking(pid), [true, true], `${how} of ${words.join(" ")}`)
            assert.strictEqual(
              yield* sender.exit,
              0,
              `${how} of ${words.join(" ")}: ${sender.stdout()}${sender.stderr()}`
            )
          }
        }
        yield* first.kill("SIGTERM")
        // To look at an output of Node is enough.
        const looker = yield* start(process.execPath, [
          "-e",
          'process.stdout; console.log("up"); setTimeout(() => {}, 5000)'
        ])
        yield* looker.says("up")
        assert.isFalse(isBlocking(looker.pid)[0])
      }).pipe(Effect.scoped, Effect.runPromise)
    )

    it.scopedLive("says where nobody takes launches that one runs already", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli(["run", "app", "--", ...lasting])
        yield* pidOf(first)
        const second = yield* done(["run", "app", "--", "echo", "SECOND"])
        assert.deepStrictEqual([second.code, second.stdout()], [0, ""])
        assert.strictEqual(second.stderr(), `single-instance: already running as process ${first.pid}\n`)
      })
    )

    it.scopedLive("waits, or does not, in flock's words @large", () =>
      Effect.gen(function* () {
        const { cli, directory, done } = yield* setup
        const first = yield* cli(["run", "app", "--json", "--", ...lasting])
        const pid = yield* pidOf(first)
        for (const [words, code] of [
          [["--nonblock"], 1],
          [["-n", "-E", "0"], 0],
          [["--nonblock", "--conflict-exit-code", "42"], 42],
          [["--wait=0"], 1],
          [["--wait=0.2"], 1],
          [["--wait=200ms", "--conflict-exit-code=9"], 9]
        ] as const) {
          const refused = yield* done(["run", "app", ...words, "--", "echo", "SECOND"])
          assert.deepStrictEqual([refused.code, refused.stdout(), refused.stderr()], [code, "", ""], words.join(" "))
        }
        const told = yield* done(["run", "--nonblock", "app", "--json", "--", "echo", "SECOND"])
        assert.strictEqual(told.code, 1)
        assert.deepStrictEqual(
          told.events().map(({ event, primary, reason }) => [event, reason, primary.pid]),
          [["error", "AlreadyRunning", first.pid]]
        )
        const order = join(directory, "order")
        const waiting = yield* cli([
          "run",
          "--wait",
          "app",
          "--json",
          "--",
          "sh",
          "-c",
          `echo ran >> "${order}"; exit 5`
        ])
        yield* waiting.event("standby")
        assert.isFalse(existsSync(order))
        process.kill(pid, "SIGTERM")
        assert.strictEqual(yield* waiting.exit, 5)
        assert.strictEqual(readFileSync(order, "utf8"), "ran\n")
        assert.lengthOf(
          first.events().filter(({ event }) => event === "launch"),
          0
        )
        for (const words of [["--nonblock"], ["--wait=0"], ["--wait=5s"]]) {
          assert.strictEqual((yield* done(["run", "free", ...words, "--", "echo", "RAN"])).stdout(), "RAN\n")
        }
      })
    )

    it.scopedLive("refuses options that contradict each other @large", () =>
      Effect.gen(function* () {
        const { done } = yield* setup
        for (const [words, text] of [
          [["--wait", "--nonblock"], "--wait and --nonblock exclude each other"],
          [["--nonblock", "--stdin"], "--stdin and --nonblock"],
          [["--wait=5s", "--stdin"], "--stdin and --wait"],
          [["--conflict-exit-code", "3"], "--conflict-exit-code needs --nonblock"],
          [["--wait", "-E", "3"], "--conflict-exit-code needs --nonblock"],
          [["--nonblock", "-E", "256"], "from 0 to 255"],
          [["--wait=soon"], "soon"]
        ] as const) {
          const refused = yield* done(["run", "app", ...words, "--", "echo", "RAN"])
          assert.deepStrictEqual([refused.code, refused.stdout()], [64, ""], words.join(" "))
          assert.include(refused.stderr(), text)
        }
      })
    )
  })

  describe("listen", () => {
    it.scopedLive("prints a line per event until it is stopped", () =>
      Effect.gen(function* () {
        const { cli, directory, done } = yield* setup
        for (const [signal, code] of [
          ["SIGINT", 130],
          ["SIGTERM", 143],
          ["SIGHUP", 129]
        ] as const) {
          const listener = yield* cli(["listen", "app", "--json"])
          const primary = yield* listener.event("primary")
          assert.strictEqual(primary.pid, listener.pid)
          const sent = yield* done(["send", "app", "--json", "--", "a b", "--help", ""], { cwd: directory })
          assert.strictEqual(sent.code, 0)
          const launch = yield* listener.event("launch")
          assert.hasAllKeys(launch, ["event", "message", "argv", "cwd", "protocol", "from"])
          assert.deepStrictEqual(launch.argv, ["a b", "--help", ""])
          assert.strictEqual(launch.cwd, directory)
          assert.strictEqual(sent.events().length, 1)
          assert.strictEqual(sent.events()[0].message, launch.message)
          assert.deepStrictEqual(sent.events()[0].primary, { pid: listener.pid })
          yield* listener.kill(signal)
          assert.strictEqual(yield* listener.exit, code)
          assert.deepStrictEqual(
            listener.events().map(({ event }) => event),
            ["primary", "launch", "stopped"]
          )
          assert.strictEqual(listener.stdout().trim().split("\n").length, 3)
        }
      })
    )

    it.scopedLive("says a sentence per event for people, without colours into a pipe @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const listener = yield* cli(["listen", "my app"])
        yield* listener.says("is the primary")
        yield* done(["send", "my app", "--", "plain", "two words", "\u001b[31mred"])
        yield* listener.says("two words")
        yield* listener.kill("SIGTERM")
        yield* listener.exit
        const lines = listener.stdout().trim().split("\n")
        assert.strictEqual(lines.length, 3)
        assert.include(lines[0], `${listener.pid}`)
        assert.include(lines[1], 'plain "two words" "\\u001b[31mred"')
        assert.notInclude(listener.stdout(), "\u001b")
      })
    )

    it.scopedLive("ends with 73 and says who is the primary @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli(["listen", "app", "--json"])
        yield* first.event("primary")
        const second = yield* done(["listen", "app", "--json"])
        assert.strictEqual(second.code, 73)
        assert.strictEqual(second.events().length, 1)
        assert.deepInclude(second.events()[0], {
          event: "error",
          error: "LockError",
          reason: "AlreadyRunning",
          outcome: "NotDelivered",
          primary: { pid: first.pid }
        })
        const third = yield* done(["listen", "app"])
        assert.strictEqual(third.code, 73)
        assert.strictEqual(third.stdout(), "")
        assert.include(third.stderr(), `${first.pid}`)
      })
    )

    it.scopedLive("takes over as a standby after SIGKILL and after a clean end @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const first = yield* cli(["listen", "app", "--json"])
        const { epoch } = yield* first.event("primary")
        const second = yield* cli(["listen", "app", "--json", "--standby"])
        assert.deepStrictEqual(yield* second.event("standby"), { event: "standby", primary: { pid: first.pid } })
        yield* first.kill("SIGKILL")
        const heir = yield* second.event("primary")
        assert.strictEqual(heir.took, "dead")
        assert.isAbove(heir.epoch, epoch)
        assert.strictEqual((yield* done(["send", "app", "--", "x"])).code, 0)
        assert.deepStrictEqual((yield* second.event("launch")).argv, ["x"])

        const third = yield* cli(["listen", "app", "--json", "--standby"])
        yield* third.event("standby")
        const fourth = yield* cli(["listen", "app", "--json", "--standby"])
        yield* fourth.event("standby")
        yield* fourth.kill("SIGTERM")
        assert.strictEqual(yield* fourth.exit, 143)
        assert.deepStrictEqual(fourth.events().at(-1), { event: "stopped" })
        yield* second.kill("SIGTERM")
        assert.strictEqual(yield* second.exit, 143)
        assert.strictEqual((yield* third.event("primary")).took, "released")
      })
    )

    it.scopedLive("tells that it is the primary no more, and ends with 73 @large", () =>
      Effect.gen(function* () {
        const { cli, record } = yield* setup
        const listener = yield* cli(["listen", "app", "--json"])
        yield* listener.event("primary")
        writeFileSync(record(), "something else")
        assert.strictEqual(yield* listener.exit, 73)
        assert.deepStrictEqual(
          listener.events().map(({ event }) => event),
          ["primary", "lost"]
        )
        assert.include(listener.events()[1].reason, "overwritten")
      })
    )

    it.scopedLive("ends quietly when nobody reads any more @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const listener = yield* cli(["listen", "app", "--json"])
        yield* listener.event("primary")
        listener.process.stdout!.destroy()
        yield* done(["send", "app", "--", "x"])
        assert.strictEqual(yield* listener.exit, 141)
        assert.strictEqual(listener.stderr(), "")
        assert.strictEqual((yield* done(["status", "app"])).code, 69)
      })
    )

    it.scopedLive("receives each of 20 launches at once exactly once @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const listener = yield* cli(["listen", "app", "--json"])
        yield* listener.event("primary")
        const numbers = Array.from({ length: 20 }, (_, index) => String(index))
        const sent = yield* Effect.forEach(numbers, (number) => done(["send", "app", "--json", "--", number]), {
          concurrency: "unbounded"
        })
        for (const { code, stderr } of sent) assert.strictEqual(code, 0, stderr())
        yield* listener.event("launch", 20)
        const launches = listener.events().filter(({ event }) => event === "launch")
        assert.deepStrictEqual(launches.flatMap(({ argv }) => argv).sort(), [...numbers].sort())
        assert.strictEqual(new Set(launches.map(({ message }) => message)).size, 20)
      })
    )
  })

  describe("send", () => {
    it.scopedLive("fails with 69 where nobody is there, and creates nothing", () =>
      Effect.gen(function* () {
        const { dir, done } = yield* setup
        const sent = yield* done(["send", "app", "--json", "--", "x"])
        assert.strictEqual(sent.code, 69)
        assert.strictEqual(sent.events().length, 1)
        const { message, ...event } = sent.events()[0]
        assert.deepStrictEqual(event, {
          event: "error",
          error: "ProtocolError",
          reason: "Unreachable",
          outcome: "NotDelivered"
        })
        assert.match(message, /nobody/i)
        assert.isFalse(existsSync(dir))
      })
    )

    it.scopedLive("says of every ending the same without the rest of the command line as with it @large", () =>
      Effect.gen(function* () {
        const { dir, done } = yield* setup
        const other = yield* Other.pipe(
          Effect.provide(Other.layer({ directory: dir })),
          Effect.provide(NodeContext.layer)
        )
        const primary = yield* other.elect(undefined)
        assert(primary._tag === "Primary")
        yield* primary.serve(({ argv: [what] }): Effect.Effect<any, Refusal> => {
          switch (what) {
            case "fail":
              return new Refusal()
            case "die":
              return Effect.die(new Error("no"))
            case "interrupt":
              return Effect.interrupt
            default:
              return Effect.succeed(JSON.parse(what!))
          }
        })
        for (const [what, code] of [
          ["0", 0],
          ["3", 3],
          ["256", 1],
          ["1.5", 76],
          ['"text"', 76],
          ["fail", 76],
          ["die", 76],
          ["interrupt", 76]
        ] as const) {
          for (const json of [[], ["--json"]]) {
            const said = yield* Effect.forEach([[], ["--protocol", "unix"]], (protocol) =>
              Effect.map(done(["send", "app", ...json, ...protocol, "--", what]), (sent) => ({
                code: sent.code,
                stdout: sent.stdout().replace(/"message":"[0-9a-f-]{36}"/, ""),
                stderr: sent.stderr()
              }))
            )
            assert.deepStrictEqual(said[0], said[1], what)
            assert.strictEqual(said[0]!.code, code, what)
          }
        }
      })
    )

    it.scopedLive("loads nothing else where it hands over, and all of it where it does not @large", () =>
      Effect.gen(function* () {
        const { cli, dir, directory, record } = yield* setup
        const alone = join(directory, "bin.cjs")
        copyFileSync(bin, alone)
        const first = yield* cli(["listen", "app", "--json"])
        yield* first.event("primary")
        assert.isTrue(existsSync(record()))
        const words = ["app", "--json", "--dir", dir]
        const exits = yield* Effect.forEach(
          [
            ["send", ...words, "--", "x"],
            ["run", ...words, "--", "x"],
            ["send", ...words, "--protocol", "unix", "--", "x"],
            ["status", ...words]
          ],
          (words) => Effect.flatMap(start(process.execPath, [alone, ...words]), ({ exit }) => exit)
        )
        assert.deepStrictEqual(exits, [0, 0, 1, 1])
      })
    )

    it.scopedLive("shows what the handler prints, and under --json the events", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const script = "printf 'h\\303'; sleep 0.3; printf '\\251'; echo err >&2; exit 5; :"
        const first = yield* cli(["run", "app", "--json", "--on-launch", script, "--", "sleep", "60"])
        yield* first.event("primary")
        const plain = yield* done(["send", "app", "--", "x"])
        assert.strictEqual(plain.code, 5)
        assert.strictEqual(plain.stdout(), "hé")
        assert.strictEqual(plain.stderr(), "err\n")
        const json = yield* done(["send", "app", "--json", "--", "x"])
        assert.strictEqual(json.code, 5)
        assert.strictEqual(json.stderr(), "")
        const text = (stream: string) =>
          json
            .events()
            .filter((event) => event.event === "output" && event.stream === stream)
            .map((event) => event.text)
            .join("")
        assert.strictEqual(text("stdout"), "hé")
        assert.strictEqual(text("stderr"), "err\n")
        assert.strictEqual(json.events().at(-1).exitCode, 5)
      })
    )

    it.scopedLive("stops when nobody reads what the handler prints @large", () =>
      Effect.gen(function* () {
        const { cli } = yield* setup
        const first = yield* cli(["run", "app", "--json", "--on-launch", "echo $$; yes; :", "--", "sleep", "60"])
        yield* first.event("primary")
        const sent = yield* cli(["send", "app", "--", "x"])
        yield* sent.says("\n")
        const pid = Number.parseInt(sent.stdout(), 10)
        sent.process.stdout!.destroy()
        assert.strictEqual(yield* sent.exit, 141)
        assert.strictEqual(sent.stderr(), "")
        yield* goesAway(pid)

        const full = yield* start("sh", ["-c", '"$@" > /dev/full', "sh", process.execPath, bin, "--version"])
        assert.strictEqual(yield* full.exit, existsSync("/dev/full") ? 74 : 0)
      })
    )

    it.scopedLive("fails with 76 where the protocols do not meet @large", () =>
      Effect.gen(function* () {
        const { cli, done } = yield* setup
        const listener = yield* cli(["listen", "app", "--json", "--protocol", "unix,pipe"])
        const { endpoints } = yield* listener.event("primary")
        assert.deepStrictEqual(
          endpoints.map(({ protocol }: { readonly protocol: string }) => protocol),
          ["unix"]
        )
        const sent = yield* done(["send", "app", "--json", "--protocol", "pipe", "--", "x"])
        assert.strictEqual(sent.code, 76)
        assert.deepInclude(sent.events()[0], { error: "ProtocolError", reason: "AllFailed", outcome: "NotDelivered" })
        const deaf = yield* done(["listen", "other", "--json", "--protocol", "pipe"])
        assert.strictEqual(deaf.code, 76)
      })
    )
  })

  describe("status", () => {
    it.scopedLive("says nothing that steers a terminal, whatever the record says", () =>
      Effect.gen(function* () {
        const { cli, dir, done } = yield* setup
        const listener = yield* cli(["listen", "app", "--json"])
        yield* listener.event("primary")
        yield* listener.kill("SIGKILL")
        yield* listener.exit
        const record = join(dir, folderName("app"), "lock")
        const found = Either.getOrThrow(InstanceRecord.decode(readFileSync(record)))
        const evil = "\u001b[2J\u009b31m\u202e\rforged"
        writeFileSync(
          record,
          InstanceRecord.encode(
            new InstanceRecord.InstanceRecord({
              ...found,
              host: `${evil}\n  because  it lives`,
              startedAt: 9e15,
              version: evil,
              endpoints: found.endpoints.map(
                (endpoint) => new Endpoint.Endpoint({ ...endpoint, address: "x:\u001b[2J" })
              )
            })
          )
        )
        const { stdout } = yield* done(["status", "app"])
        assert.notMatch(stdout(), /\n {2}since/)
        assert.match(stdout(), /\n {2}host {5}\\u001b\[2J\\u009b31m\\u202e\\u000dforged\\n {2}because/)
        assert.match(stdout(), /\n {2}version {2}\\u001b/)
        assert.match(stdout(), /\n {2}listens {2}x:\\u001b/)
        assert.notMatch(stdout(), /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/)
      })
    )

    it.scopedLive("tells who is there before, during and after, and changes nothing", () =>
      Effect.gen(function* () {
        const { cli, dir, done } = yield* setup
        const status = Effect.map(done(["status", "app", "--json"]), ({ code, events }) => ({ code, ...events()[0] }))

        const before = yield* status
        assert.deepInclude(before, { code: 69, event: "status", id: "app", state: "free", pid: null, alive: false })
        assert.isFalse(existsSync(dir))

        const listener = yield* cli(["listen", "app", "--json"])
        const { endpoints, epoch } = yield* listener.event("primary")
        const during = yield* status
        assert.deepInclude(during, { code: 0, state: "primary", pid: listener.pid, epoch, alive: true })
        assert.deepStrictEqual(during.endpoints, endpoints)
        assert.approximately(Date.parse(during.since), Date.now(), 60_000)
        assert.isString(during.evidence)
        const text = yield* done(["status", "app"])
        assert.strictEqual(text.code, 0)
        assert.include(text.stdout(), `Process ${listener.pid} is the primary`)
        assert.notInclude(text.stdout(), "\u001b")

        yield* listener.kill("SIGKILL")
        yield* listener.exit
        const files = readdirSync(dir, { recursive: true }).sort()
        assert.deepInclude(yield* status, { code: 69, state: "dead", pid: listener.pid, alive: false })
        assert.deepStrictEqual(readdirSync(dir, { recursive: true }).sort(), files)

        yield* done(["run", "app", "--", "true"])
        assert.deepInclude(yield* status, { code: 69, state: "released", alive: false })
      })
    )

    it.scopedLive("ends with 73 where it cannot be told @large", () =>
      Effect.gen(function* () {
        const { done, record } = yield* setup
        yield* done(["run", "app", "--", "true"])
        writeFileSync(record(), "garbage")
        const status = yield* done(["status", "app", "--json"])
        assert.strictEqual(status.code, 73)
        assert.deepInclude(status.events()[0], { state: "unreadable", alive: null, pid: null })
        writeFileSync(record(), "ESI9 of a later version\n")
        assert.strictEqual((yield* done(["status", "app", "--json"])).events()[0].state, "newer")
      })
    )
  })

  describe("break", () => {
    it.scopedLive("replaces a corrupt record, with --yes or not at all", () =>
      Effect.gen(function* () {
        const { done, record } = yield* setup
        yield* done(["run", "app", "--", "true"])
        writeFileSync(record(), "garbage")
        const start = yield* done(["run", "app", "--json", "--", "true"])
        assert.strictEqual(start.code, 73)
        assert.deepInclude(start.events()[0], { error: "LockError", reason: "RecordUnreadable" })

        const asked = yield* done(["break", "app"])
        assert.strictEqual(asked.code, 64)
        assert.include(asked.stdout(), "cannot be read")
        assert.include(asked.stderr(), "--yes")
        assert.strictEqual(readFileSync(record(), "utf8"), "garbage")

        const broken = yield* done(["break", "app", "--yes", "--json"])
        assert.strictEqual(broken.code, 0)
        assert.deepStrictEqual(
          broken.events().map(({ event }) => event),
          ["status", "broken"]
        )
        assert.strictEqual((yield* done(["run", "app", "--", "true"])).code, 0)
        const nothing = yield* done(["break", "app", "--yes"])
        assert.strictEqual(nothing.code, 0)
        assert.include(nothing.stdout(), "Nobody is the primary")
      })
    )

    it.scopedLive("refuses while the owner or any witness lives @large", () =>
      Effect.gen(function* () {
        const { cli, done, record } = yield* setup
        const listener = yield* cli(["listen", "app", "--json"])
        yield* listener.event("primary")
        yield* listener.kill("SIGSTOP")
        const refused = yield* done(["break", "app", "--yes", "--json"])
        assert.strictEqual(refused.code, 73)
        assert.deepInclude(refused.events().at(-1), {
          error: "LockError",
          reason: "BreakRefused",
          primary: { pid: listener.pid }
        })
        const whole = readFileSync(record())
        writeFileSync(record(), "garbage")
        const still = yield* done(["break", "app", "--yes", "--json"])
        assert.strictEqual(still.code, 73)
        assert.deepInclude(still.events().at(-1), { error: "LockError", reason: "BreakRefused" })
        assert.strictEqual(readFileSync(record(), "utf8"), "garbage")
        writeFileSync(record(), whole)
      })
    )
  })

  describe("the command line", () => {
    it.scopedLive("ends with 64 and says what is wrong @large", () =>
      Effect.gen(function* () {
        const rows: ReadonlyArray<readonly [ReadonlyArray<string>, string]> = [
          [[], "COMMANDS"],
          [["dance"], "'run', 'listen', 'send', 'status', 'break'"],
          [["run"], "<id>"],
          [["status"], "<id>"],
          [["status", ""], "must not be empty"],
          [["status", "x".repeat(1_025)], "more than 1024"],
          [["status", "app", "--frobnicate"], "--frobnicate"],
          [["status", "app", "other"], "other"],
          [["run", "app"], "--"],
          [["run", "app", "--"], "--"],
          [["run", "app", "sleep", "60"], "sleep"],
          [["send", "app", "word"], "word"],
          [["send", "app", "--timeout", "soon", "--", "x"], "soon"],
          [["send", "app", "--timeout", "-5s", "--", "x"], "-5s"],
          [["send", "app", "--timeout", "Infinity", "--", "x"], "Infinity"],
          [["send", "app", "--protocol", "unix,telepathy", "--", "x"], "unix, pipe"],
          [["send", "app", "--protocol", "", "--", "x"], "--protocol"],
          [["run", "app", "--on-launch", " ", "--", "x"], "--on-launch"],
          [["run", "app", "--on-launch", "true | viewer", "--", "x"], '"$@"'],
          [["run", "app", "--on-launch", "if", "--", "x"], "--on-launch"],
          [["run", "app", "--on-launch", 'viewer "$@" )', "--", "x"], "yntax error"],
          [["run", "app", "--on-launch", "viewer 'a", "--", "x"], "no end"],
          [["run", "app", "--exec", "nvim |", "--", "x"], "--exec"],
          [["run", "app", "--env", "A=b", "--", "x"], "A=b"],
          [["run", "app", "--env", "SINGLE_INSTANCE_ID", "--", "x"], "SINGLE_INSTANCE_ID"],
          [["status", "app", "--dir", ""], "--dir"],
          [["status", "app", "--dir"], "--dir lacks its value"],
          [["run", "app", "--exec=--json", "--json=x", "--", "x"], "--json takes no value"],
          [["status", "app", "--dir", "--json=no"], "--dir lacks its value"],
          [["status", "--dir", "--json", "app"], "--dir lacks its value"],
          [["status", "app", "--json=maybe"], "--json takes no value"],
          [["send", "app", "--timeout", "5s", "--timeout=6s", "--", "x"], "--timeout is given twice"],
          [["send", "app", "--josn", "--", "x"], 'send has no option "--josn"'],
          [["send", "app", "--env=", "--", "x"], "--env must not be empty"],
          [["run", "app", "-n", "--nonblock", "--", "x"], "--nonblock is given twice"],
          [["run", "app", "-nq", "--", "x"], 'run has no option "-nq"'],
          [
            ["send", "--nope", "--", "x"],
            'send has no option "--nope"; an id that begins with a hyphen stands behind "--"'
          ],
          [["--dir", "x", "status", "app"], "--dir stands before the command"],
          [["--dance"], "--dance stands before the command"],
          [["--completions", "fishy"], "--completions must be one of sh, bash"],
          [["status", "app", "--log-level", "bad"], "--log-level must be one of all, trace"],
          [["status", "--", "-x", "--dir", "x"], 'options stand before "--"'],
          [["run", "--", "sleep", "60"], "<id>"]
        ]
        yield* Effect.forEach(
          rows,
          ([words, expected]) =>
            Effect.gen(function* () {
              const started = yield* start(process.execPath, [bin, ...words])
              assert.strictEqual(yield* started.exit, 64, words.join(" "))
              assert.include(started.stdout() + started.stderr(), expected, words.join(" "))
              assert.notInclude(started.stderr(), "\u001b")
              const lines = started
                .stderr()
                .split("\n")
                .filter((line) => line !== "")
              assert.strictEqual(new Set(lines).size, lines.length, "told once")
            }),
          { concurrency: 4 }
        )
        const json = yield* start(process.execPath, [bin, "send", "app", "--json", "--timeout", "soon", "--", "x"])
        assert.strictEqual(yield* json.exit, 64)
        assert.deepInclude(json.events()[0], { event: "error", error: "UsageError", outcome: "NotDelivered" })
        assert.include(json.events()[0].message, "soon")
        assert.strictEqual(json.stderr(), "")
      })
    )

    it.scopedLive("has help, version and completions @large", () =>
      Effect.gen(function* () {
        const shows = (...words: ReadonlyArray<string>) =>
          Effect.gen(function* () {
            const started = yield* start(process.execPath, [bin, ...words])
            assert.strictEqual(yield* started.exit, 0, words.join(" "))
            assert.strictEqual(started.stderr(), "")
            assert.notInclude(started.stdout(), "\u001b")
            return started.stdout()
          })
        assert.include(yield* shows("--help"), "single-instance")
        for (const command of ["run", "listen", "send", "status", "break"]) {
          const help = yield* shows(command, "--help")
          assert.include(help, "--json")
          assert.include(help, "--dir")
          assert.include(help, "--trust-directory")
        }
        // Whatever stands beside the question, nothing is done.
        const place = join(folder, "nothing is done here")
        for (const words of [
          ["run", "--nope", "--help", "--dir", place, "--", "echo", "done"],
          ["run", "--bogus", "-h", "--dir", place, "--", "echo", "done"],
          ["send", "--nope", "--help=true"],
          ["status", "app", "--help", "--json"]
        ]) {
          const help = yield* shows(...words)
          assert.include(help, "--trust-directory")
          assert.notMatch(help, /^done$/m)
        }
        assert.isFalse(existsSync(place))
        assert.strictEqual((yield* shows("--version")).trim(), version)
        assert.strictEqual(version, JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version)
        for (const shell of ["bash", "zsh", "fish"])
          assert.include(yield* shows("--completions", shell), "single-instance")
      })
    )

    it.scopedLive("completes in bash the commands and the options of each", () =>
      Effect.gen(function* () {
        const script = yield* start(process.execPath, [bin, "--completions", "bash"])
        assert.strictEqual(yield* script.exit, 0)
        const complete = (...words: ReadonlyArray<string>) => {
          const line = ["single-instance", ...words]
          const call = `COMP_WORDS=(${line.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length}
            _single-instance_bash_completions single-instance; echo "\${COMPREPLY[@]}"`
          const { status, stderr, stdout } = spawnSync("bash", ["-c", `${script.stdout()}\n${call}`], {
            encoding: "utf8"
          })
          assert.deepStrictEqual([status, stderr], [0, ""])
          return stdout.trim().split(" ")
        }
        assert.deepStrictEqual(complete("li"), ["listen"])
        assert.deepStrictEqual(complete("run", "--on"), ["--on-launch"])
        assert.deepStrictEqual(complete("run", "app", "--on"), ["--on-launch"])
        assert.deepStrictEqual(complete("status", "app", "--tr"), ["--trust-directory"])
        assert.deepStrictEqual(complete("break", "app", "--y"), ["--yes"])
        assert.match(script.stdout(), /^complete .* -o nosort .* \|\| complete .* single-instance$/m)
      })
    )

    it.scopedLive("takes options before and after the id, and an id that looks like one @large", () =>
      Effect.gen(function* () {
        const { cli, dir, done } = yield* setup
        for (const words of [
          ["status", "--json", "app"],
          ["status", "app", "--json"]
        ]) {
          assert.strictEqual((yield* done(words)).events()[0].id, "app")
        }
        const hyphen = yield* start(process.execPath, [bin, "status", "--json", "--dir", dir, "--", "--help"])
        assert.strictEqual(yield* hyphen.exit, 69)
        assert.strictEqual(hyphen.events()[0].id, "--help")
        // What else would be the value of an option.
        const truth = yield* done(["status", "--json", "true"])
        assert.deepInclude(truth.events()[0], { id: "true", state: "free" })
        const dashed = yield* start(process.execPath, [bin, "listen", "--json", "--dir", dir, "--", "-x"])
        yield* dashed.event("primary")
        for (const [words, argv] of [
          [["--", "-x"], []],
          [["--", "-x", "--"], []],
          [
            ["--", "-x", "--", "--json", "--"],
            ["--json", "--"]
          ],
          [
            ["--", "-x", "word", "--"],
            ["word", "--"]
          ]
        ] as const) {
          const sent = yield* start(process.execPath, [bin, "send", "--dir", dir, ...words])
          assert.strictEqual(yield* sent.exit, 0, words.join(" "))
          const launches = dashed.events().filter(({ event }) => event === "launch")
          assert.deepStrictEqual(launches.at(-1).argv, argv)
        }
        const run = yield* start(process.execPath, [bin, "run", "--dir", dir, "--", "-x", "--", "true", "word"])
        assert.strictEqual(yield* run.exit, 0)
        assert.deepStrictEqual((yield* dashed.event("launch", 5)).argv, ["word"])
        const named = yield* cli(["listen", "run", "--json"])
        assert.strictEqual((yield* named.event("primary")).id, "run")
        const blank = yield* done(["status", " run ", "--json"])
        assert.deepInclude(blank.events()[0], { id: " run ", state: "free" })
      })
    )

    it.scopedLive("reads options from the environment, where the command line does not say otherwise @large", () =>
      Effect.gen(function* () {
        const { directory, dir, done } = yield* setup
        const other = join(directory, "other")
        const env = { SINGLE_INSTANCE_DIRECTORY: other }
        const listener = yield* start(process.execPath, [bin, "listen", "app", "--json"], { env })
        yield* listener.event("primary")
        assert.isTrue(existsSync(other))
        const sent = yield* start(process.execPath, [bin, "send", "app", "--", "x"], { env })
        assert.strictEqual(yield* sent.exit, 0)
        assert.strictEqual((yield* done(["send", "app", "--", "x"], { env })).code, 69)
        assert.isFalse(existsSync(dir))

        const wrong = yield* done(["send", "app", "--json", "--", "x"], { env: { SINGLE_INSTANCE_TIMEOUT: "soon" } })
        assert.strictEqual(wrong.code, 64)
        assert.deepInclude(wrong.events()[0], { event: "error", error: "ConfigError" })
        assert.include(wrong.events()[0].message, "SINGLE_INSTANCE_TIMEOUT")
      })
    )

    it.scopedLive(
      "reads SINGLE_INSTANCE_TIMEOUT as it reads --timeout, and names a variable that is misspelled @large",
      () =>
        Effect.gen(function* () {
          const { done } = yield* setup
          for (const text of ["5s", "5 seconds"]) {
            const env = { SINGLE_INSTANCE_TIMEOUT: text }
            const read = yield* done(["run", "app", "--", "true"], { env })
            assert.deepStrictEqual([read.code, read.stderr()], [0, ""], text)
            assert.strictEqual((yield* done(["run", "app", "--timeout", text, "--", "true"])).code, 0, text)
          }
          const misspelled = yield* done(["run", "app", "--", "true"], { env: { SINGLE_INSTANCE_TIMOUT: "5s" } })
          assert.strictEqual(misspelled.code, 0)
          assert.include(misspelled.stderr(), "SINGLE_INSTANCE_TIMOUT is not an option")
          // What a command is told of its primary is not an option of the next one.
          const nested = yield* done(["run", "app", "--", process.execPath, bin, "status", "other", "--json"])
          assert.strictEqual(nested.code, 69)
          assert.strictEqual(nested.stderr(), "")
        })
    )

    it.scopedLive("runs and hands over from a working directory that is gone @large", () =>
      Effect.gen(function* () {
        const { cli, dir, directory } = yield* setup
        const gone = ["-c", 'mkdir -p gone && cd gone && rmdir ../gone && exec "$@"', "sh", process.execPath, bin]
        const inGone = (...words: ReadonlyArray<string>) => start("sh", [...gone, ...words], { cwd: directory })
        const first = yield* inGone("run", "app", "--dir", dir, "--", "echo", "ran")
        assert.deepStrictEqual([yield* first.exit, first.stdout()], [0, "ran\n"], first.stderr())
        const listener = yield* cli(["listen", "app", "--json"])
        yield* listener.event("primary")
        for (const [index, words] of [[], ["--protocol", "unix"]].entries()) {
          const sent = yield* inGone("send", "app", "--dir", dir, ...words, "--", "x")
          assert.strictEqual(yield* sent.exit, 0, sent.stderr())
          const { cwd } = yield* listener.event("launch", index + 1)
          assert.isFalse(existsSync(cwd))
          if (process.platform === "linux")
            assert.strictEqual(cwd, `${join(realpathSync(directory), "gone")} (deleted)`)
        }
        const relative = yield* inGone("run", "app", "--dir", "locks", "--", "true")
        assert.strictEqual(yield* relative.exit, 73)
        assert.include(relative.stderr(), "the current working directory no longer exists")
      })
    )

    it.scopedLive("ends with 73 where the lock cannot live @large", () =>
      Effect.gen(function* () {
        const { dir, done } = yield* setup
        mkdirSync(dir, { mode: 0o777 })
        spawnSync("chmod", ["0777", dir])
        const insecure = yield* done(["run", "app", "--json", "--", "true"])
        assert.strictEqual(insecure.code, 73)
        assert.deepInclude(insecure.events()[0], { error: "LockError", reason: "DirectoryInsecure" })
        assert.deepStrictEqual(readdirSync(dir), [])
        // In the words of the command line.
        const { message } = insecure.events()[0]
        assert.include(message, dir)
        assert.include(message, "--dir")
        assert.include(message, "--trust-directory")
        assert.notInclude(message, "`")
      })
    )

    it.scopedLive("uses a volume that others may write to where --trust-directory says so @large", () =>
      Effect.gen(function* () {
        const { cli, dir, done } = yield* setup
        mkdirSync(dir)
        spawnSync("chmod", ["2777", dir])
        const listener = yield* cli(["listen", "app", "--json", "--trust-directory"])
        yield* listener.event("primary")
        // Without the rest of the command line, with it, and from the environment.
        for (const words of [["--trust-directory"], ["--trust-directory", "--protocol", "unix"]]) {
          assert.strictEqual((yield* done(["send", "app", ...words, "--", "x"])).code, 0)
        }
        const env = { SINGLE_INSTANCE_TRUST_DIRECTORY: "true" }
        assert.strictEqual((yield* done(["send", "app", "--", "x"], { env })).code, 0)
        assert.strictEqual((yield* done(["status", "app", "--trust-directory"])).code, 0)
        assert.strictEqual((yield* done(["status", "app"])).code, 73)

        const alone = yield* start(process.execPath, [bin, "status", "app", "--trust-directory"])
        assert.strictEqual(yield* alone.exit, 73)
        assert.include(alone.stderr(), "--trust-directory is given without a --dir")
      })
    )
  })

  // script(1) of util-linux gives a process a terminal. Its shell must not stay: some shells end by a Ctrl-C themselves.
  const terminals = spawnSync("script", ["--version"]).stdout?.includes("util-linux") === true
  const quote = (word: string) => `'${word.replaceAll("'", "'\\''")}'`
  const onTerminal = (words: ReadonlyArray<string>, options?: StartOptions) =>
    start("script", ["-qefc", `exec ${[process.execPath, bin, ...words].map(quote).join(" ")}`, "/dev/null"], {
      open: true,
      ...options
    })

  describe.skipIf(!terminals)("on a terminal @large", () => {
    it.scopedLive("asks before it breaks", () =>
      Effect.gen(function* () {
        const { dir, done, record } = yield* setup
        yield* done(["run", "app", "--", "true"])
        writeFileSync(record(), "garbage")
        for (const [key, code] of [
          ["n", 73],
          ["\u0003", 130],
          ["y", 0]
        ] as const) {
          const asked = yield* onTerminal(["break", "app", "--dir", dir])
          yield* asked.says("Free the lock?")
          assert.strictEqual(readFileSync(record(), "utf8"), "garbage")
          asked.process.stdin!.write(key)
          assert.strictEqual(yield* asked.exit, code)
        }
        assert.strictEqual((yield* done(["status", "app", "--json"])).events()[0].state, "released")
      })
    )

    it.scopedLive("sends the command one SIGINT for one Ctrl-C", () =>
      Effect.gen(function* () {
        const { dir } = yield* setup
        const script =
          'let n = 0; process.on("SIGINT", () => { n++; setTimeout(() => { console.log("n=" + n); process.exit(6) }, 500) }); console.log("ready"); setInterval(() => {}, 1000)'
        const first = yield* onTerminal(["run", "app", "--dir", dir, "--", process.execPath, "-e", script])
        yield* first.says("ready")
        first.process.stdin!.write("\u0003")
        yield* first.says("n=")
        assert.include(first.stdout(), "n=1")
        assert.strictEqual(yield* first.exit, 6)
      })
    )

    it.scopedLive(
      "sends the command each signal once on a terminal, whether it is for the wrapper or for the group",
      () =>
        Effect.gen(function* () {
          const { dir } = yield* setup
          const script =
            'for (const name of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1"]) process.on(name, () => console.log("got " + name + ";")); console.log("wrapper=" + process.ppid + ";"); setInterval(() => {}, 1000)'
          const first = yield* onTerminal(["run", "app", "--dir", dir, "--", process.execPath, "-e", script])
          yield* first.says("wrapper=")
          const wrapper = Number(/wrapper=(\d+)/.exec(first.stdout())![1])
          const times = (name: string) => first.stdout().split(`got ${name};`).length - 1
          for (const name of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1"] as const) {
            for (const [count, pid] of [
              [1, wrapper],
              [2, -wrapper]
            ] as const) {
              process.kill(pid, name)
              yield* until(
                () => `${count} ${name} in ${first.stdout()}`,
                () => times(name) >= count
              )
              yield* Effect.sleep("80 millis")
              assert.strictEqual(times(name), count, name)
            }
          }
          first.process.stdin!.write("\u0003")
          yield* until(
            () => "the Ctrl-C",
            () => times("SIGINT") >= 3
          )
          yield* Effect.sleep("80 millis")
          assert.strictEqual(times("SIGINT"), 3)
        })
    )

    it.scopedLive("sends the command each of several signals that come together on a terminal", () =>
      Effect.gen(function* () {
        const { dir } = yield* setup
        const names = ["SIGINT", "SIGTERM", "SIGUSR1", "SIGWINCH", "SIGCONT"] as const
        const script = `for (const name of ${JSON.stringify(names)}) process.on(name, () => console.log("got " + name + ";")); console.log("wrapper=" + process.ppid + ";"); setInterval(() => {}, 1000)`
        const first = yield* onTerminal(["run", "app", "--dir", dir, "--", process.execPath, "-e", script])
        yield* first.says("wrapper=")
        const wrapper = Number(/wrapper=(\d+)/.exec(first.stdout())![1])
        const times = (name: string) => first.stdout().split(`got ${name};`).length - 1
        const counts = () => names.map(times)
        const becomes = (expected: ReadonlyArray<number>) =>
          Effect.gen(function* () {
            yield* until(
              () => `${expected} of ${names} in ${first.stdout()}`,
              () => counts().every((count, at) => count >= expected[at]!)
            )
            yield* Effect.sleep("150 millis")
            assert.deepStrictEqual(counts(), expected)
          })
        // Let the bystander of the wrapper be there.
        yield* Effect.sleep("300 millis")
        process.kill(wrapper, "SIGTERM")
        process.kill(-wrapper, "SIGINT")
        yield* becomes([1, 1, 0, 0, 0])
        process.kill(wrapper, "SIGUSR1")
        process.kill(-wrapper, "SIGTERM")
        yield* becomes([1, 2, 1, 0, 0])
        process.kill(wrapper, "SIGWINCH")
        process.kill(wrapper, "SIGCONT")
        yield* becomes([1, 2, 1, 1, 1])
        process.kill(-wrapper, "SIGWINCH")
        process.kill(-wrapper, "SIGCONT")
        yield* becomes([1, 2, 1, 2, 2])
        // What reaches the bystander alone, or ends it, says nothing of a later signal.
        const bystander = () =>
          readdirSync("/proc").find((pid) => {
            try {
              const parent = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)!.split(" ")[1]
              return (
                parent === String(wrapper) && readFileSync(`/proc/${pid}/cmdline`, "latin1").includes("ulimit -c 0")
              )
            } catch {
              return false
            }
          })
        for (const [round, signal] of (["SIGTERM", "SIGKILL", "SIGSTOP"] as const).entries()) {
          yield* until(
            () => "a bystander",
            () => bystander() !== undefined
          )
          process.kill(Number(bystander()), signal)
          yield* Effect.sleep("500 millis")
          process.kill(wrapper, "SIGTERM")
          yield* becomes([1, 3 + round, 1, 2, 2])
        }
        process.kill(-wrapper, "SIGTERM")
        yield* becomes([1, 6, 1, 2, 2])
      })
    )

    it.scopedLive("says sentences in colour, unless NO_COLOR is set", () =>
      Effect.gen(function* () {
        const { dir } = yield* setup
        const first = yield* onTerminal(["run", "app", "--dir", dir, "--", "sleep", "60"])
        yield* first.says("is the primary")
        assert.include(first.stdout(), "\u001b[32m")
        const second = yield* onTerminal(["run", "app", "--dir", dir, "--", "x"], { env: { NO_COLOR: "1" } })
        assert.strictEqual(yield* second.exit, 0)
        assert.include(second.stdout(), "answered 0")
        assert.notInclude(second.stdout(), "\u001b")
        first.process.stdin!.write("\u0003")
        assert.strictEqual(yield* first.exit, 130)
      })
    )
  })
})
