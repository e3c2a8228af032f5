import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process"
import { randomUUID } from "node:crypto"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { hostname, tmpdir } from "node:os"
import { join } from "node:path"
import { Command, CommandExecutor, FileSystem, Error as PlatformError } from "@effect/platform"
import { NodeContext } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Context,
  Effect,
  Exit,
  FastCheck,
  Fiber,
  Layer,
  type Scope,
  Sink,
  Stream,
  TestClock,
  TestServices
} from "effect"
import { ProcessIdentity } from "effect-single-instance/InstanceRecord"
import type { Liveness } from "effect-single-instance/Liveness"
import { PidVerifier } from "effect-single-instance/PidVerifier"
import * as DarwinPidVerifier from "effect-single-instance/pid/DarwinPidVerifier"
import * as LinuxPidVerifier from "effect-single-instance/pid/LinuxPidVerifier"
import * as TestPidVerifier from "effect-single-instance/pid/TestPidVerifier"
import * as WindowsPidVerifier from "effect-single-instance/pid/WindowsPidVerifier"
import { commandOutput } from "../src/internal/commandOutput.js"
import { presence } from "../src/internal/processes.js"
import { contract, Subjects } from "./contract/PidVerifier.js"
import { fixture } from "./fixtures.js"

const linux = process.platform === "linux"
const root = process.getuid?.() === 0
const succeeds = (command: string, ...args: Array<string>) => spawnSync(command, args, { stdio: "ignore" }).status === 0
const namespaces = linux && root && succeeds("unshare", "-p", "-f", "-m", "--mount-proc", "true")
const timeNamespaces = linux && root && succeeds("unshare", "-T", "--boottime", "1000", "-f", "true")
const otherUser = linux && root && succeeds("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "true")
const compiler = linux && succeeds("cc", "--version")

const local = { local: true }
const change = (identity: ProcessIdentity, fields: Partial<ProcessIdentity>) =>
  new ProcessIdentity({ ...identity, ...fields })
const describeVerdict = (verdict: Liveness) => (verdict._tag === "Dead" ? `Dead ${verdict.proof.rule}` : verdict._tag)

// -------------------------------------------------------------------------------------
// processes of the test
// -------------------------------------------------------------------------------------

const ended = (handle: ChildProcess) => handle.exitCode !== null || handle.signalCode !== null
const kill = (handle: ChildProcess) =>
  Effect.async<void>((resume) => {
    if (ended(handle)) return resume(Effect.void)
    handle.once("exit", () => resume(Effect.void))
    handle.kill("SIGKILL")
  })

const startProcess = (command: string, args: ReadonlyArray<string>): Effect.Effect<ChildProcess, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.async<ChildProcess>((resume) => {
      const handle = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] })
      handle.once("spawn", () => resume(Effect.succeed(handle)))
      handle.once("error", (error) => resume(Effect.die(error)))
    }),
    kill
  )

const firstLine = (handle: ChildProcess) =>
  Effect.async<string>((resume) => {
    let text = ""
    handle.stdout!.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk
      if (text.includes("\n")) resume(Effect.succeed(text.slice(0, text.indexOf("\n"))))
    })
    handle.once("close", () => resume(Effect.die(new Error(`it ended without a line: ${JSON.stringify(text)}`))))
  })

// What `test/fixtures/verify-process.ts` prints, started through the given words.
const ask = (words: ReadonlyArray<string>, command: string, given: ReadonlyArray<ProcessIdentity> = []) =>
  Effect.gen(function* () {
    const line = [...words, process.execPath, fixture("verify-process"), command, JSON.stringify(given)]
    return JSON.parse(yield* firstLine(yield* startProcess(line[0]!, line.slice(1))))
  }).pipe(Effect.scoped)

const statOf = (pid: number) => LinuxPidVerifier.parseStat(readFileSync(`/proc/${pid}/stat`, "utf8"))

const temporaryFolder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "esi-pid-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

const awaitTrue = (condition: () => boolean) =>
  Effect.gen(function* () {
    while (!condition()) yield* Effect.sleep("2 millis")
  }).pipe(Effect.timeout("10 seconds"), Effect.orDie)

/** Real processes, whose identity is that of the test but for the pid and the start that `startOf` gives. */
const realSubjects = (startOf: (pid: number) => string): Layer.Layer<Subjects> => {
  const [command, args] =
    process.platform === "win32"
      ? [process.execPath, ["-e", "setInterval(() => {}, 1e6)"]]
      : (["sleep", ["600"]] as const)
  return Layer.succeed(Subjects, {
    start: Effect.gen(function* () {
      const self = yield* Effect.orDie((yield* PidVerifier).self)
      const handle = yield* startProcess(command, args)
      const pid = handle.pid!
      return {
        identity: change(self, { pid, start: startOf(pid) }),
        isAlive: Effect.sync(() => !ended(handle)),
        end: kill(handle),
        freeze: Effect.zipRight(
          Effect.sync(() => process.kill(pid, "SIGSTOP")),
          linux ? awaitTrue(() => statOf(pid)?.state === "T") : Effect.void
        )
      }
    })
  })
}

// -------------------------------------------------------------------------------------
// programs of other systems
// -------------------------------------------------------------------------------------

type Answer =
  | { readonly stdout: string; readonly exitCode?: number }
  | { readonly code: string }
  | "hangs"
  | "missing"
  | "dies"

/** An executor that answers instead of programs, and the command lines that it was given. */
const fakeExecutor = (answer: (line: string, command: Command.StandardCommand) => Answer) => {
  const lines: Array<string> = []
  const failure = (reason: "NotFound" | "Unknown") =>
    new PlatformError.SystemError({ reason, module: "Command", method: "spawn" })
  const executor = CommandExecutor.makeExecutor((command) =>
    Effect.suspend(() => {
      if (command._tag !== "StandardCommand") return Effect.dieMessage("a pipe")
      const line = [command.command, ...command.args].join(" ")
      lines.push(line)
      const answered = answer(line, command)
      if (answered === "missing") return Effect.fail(failure("NotFound"))
      if (typeof answered === "object" && "code" in answered) {
        const cause = Object.assign(new Error(answered.code), { code: answered.code })
        return Effect.fail(
          new PlatformError.SystemError({ reason: "Unknown", module: "Command", method: "spawn", cause })
        )
      }
      const hangs = answered === "hangs"
      const dies = answered === "dies"
      return Effect.succeed({
        [CommandExecutor.ProcessTypeId]: CommandExecutor.ProcessTypeId,
        pid: CommandExecutor.ProcessId(1),
        exitCode: hangs
          ? Effect.never
          : dies
            ? Effect.fail(failure("Unknown"))
            : Effect.succeed(CommandExecutor.ExitCode(answered.exitCode ?? 0)),
        isRunning: Effect.succeed(hangs),
        kill: () => Effect.void,
        stdin: Sink.drain,
        stderr: Stream.empty,
        stdout: hangs || dies ? Stream.empty : Stream.make(new TextEncoder().encode(answered.stdout))
      } as unknown as CommandExecutor.Process)
    })
  )
  return { lines, layer: Layer.succeed(CommandExecutor.CommandExecutor, executor) }
}

const build = <R>(layer: Layer.Layer<PidVerifier, never, R>, needs: Layer.Layer<R>) =>
  Effect.map(Layer.build(Layer.provide(layer, needs)), (context) => Context.get(context, PidVerifier))

// -------------------------------------------------------------------------------------
// the contract, for every layer
// -------------------------------------------------------------------------------------

contract(
  "TestPidVerifier",
  Layer.unwrapEffect(
    Effect.map(TestPidVerifier.makeTable, (table) =>
      Layer.merge(
        TestPidVerifier.layerTable(table),
        Layer.succeed(Subjects, {
          start: Effect.map(table.spawn(), (subject) => ({
            identity: subject.identity,
            isAlive: subject.isAlive,
            end: subject.crash,
            freeze: subject.freeze
          }))
        })
      )
    )
  ),
  { boots: true, freezes: true }
)

const psDate = (pid: number) => {
  const at = new Date(Date.UTC(2025, 10, 30) + Number(statOf(pid)!.start) * 10).toUTCString()
  const [, weekday, day, month, year, time] = /^(\w+), (\d+) (\w+) (\d+) (\S+)/.exec(at)!
  // Starts of this system differ in hundredths of a second, those of ps in seconds.
  return `${weekday} ${month} ${String(Number(day)).padStart(2)} ${time} ${year}`
}
const uuid = "5D0C3C8E-47D5-4A4B-8F8E-0E1D3F2A6B7C"
const macos = (line: string, command: Command.StandardCommand): Answer => {
  if (line.startsWith("/usr/sbin/sysctl ")) return { stdout: `${uuid}\n` }
  if (line.startsWith("/usr/sbin/ioreg ")) return { stdout: ioreg }
  const pid = /^\/bin\/ps -o stat= -o lstart= -p (\d+)$/.exec(line)![1]!
  const environment = Object.fromEntries(command.env)
  if (environment.LC_ALL !== "C" || environment.TZ !== "UTC") return { stdout: "S    So 30 Nov 00:00:00 2025\n" }
  const stat = existsSync(`/proc/${pid}/stat`) ? statOf(Number(pid)) : null
  return stat === null
    ? { stdout: "", exitCode: 1 }
    : { stdout: `${stat.state.padEnd(4)} ${psDate(Number(pid))}    \n` }
}
const windows = (line: string): Answer => {
  if (line.includes("\\reg.exe ")) return { stdout: machineGuid }
  const pid = /ProcessId=(\d+)'/.exec(line)![1]!
  const stat = existsSync(`/proc/${pid}/stat`) ? statOf(Number(pid)) : null
  return { stdout: stat === null ? "none\r\n" : `cim 1337${stat.start.padStart(14, "0")}\r\n` }
}

if (linux) {
  const startOf = (pid: number) => statOf(pid)!.start
  contract(
    "LinuxPidVerifier",
    Layer.merge(LinuxPidVerifier.layer.pipe(Layer.provide(NodeContext.layer)), realSubjects(startOf)),
    { boots: true, freezes: true }
  )
  contract(
    "DarwinPidVerifier with programs that answer as those of macOS",
    Layer.merge(
      DarwinPidVerifier.layer.pipe(Layer.provide(fakeExecutor(macos).layer)),
      realSubjects((pid) => psDate(pid).replace(/ +/g, "_"))
    ),
    { boots: true, freezes: true }
  )
  contract(
    "WindowsPidVerifier with programs that answer as those of Windows",
    Layer.merge(
      WindowsPidVerifier.layer.pipe(Layer.provide(fakeExecutor(windows).layer)),
      realSubjects((pid) => `1337${startOf(pid).padStart(14, "0")}`)
    ),
    { boots: false, freezes: true }
  )
}
if (process.platform === "darwin") {
  const ps = (pid: number) =>
    execFileSync("/bin/ps", ["-o", "stat=", "-o", "lstart=", "-p", String(pid)], {
      encoding: "utf8",
      env: { LC_ALL: "C", TZ: "UTC" }
    })
  contract(
    "DarwinPidVerifier",
    Layer.merge(
      DarwinPidVerifier.layer.pipe(Layer.provide(NodeContext.layer)),
      realSubjects((pid) => DarwinPidVerifier.parseRow(ps(pid))!.start!)
    ),
    { boots: true, freezes: true }
  )
}
if (process.platform === "win32") {
  const query = (pid: number) =>
    WindowsPidVerifier.parseQuery(
      execFileSync("powershell.exe", ["-NoProfile", "-Command", WindowsPidVerifier.queryScript(pid)], {
        encoding: "utf8"
      })
    )
  contract(
    "WindowsPidVerifier",
    Layer.merge(
      WindowsPidVerifier.layer.pipe(Layer.provide(NodeContext.layer)),
      realSubjects((pid) => {
        const answer = query(pid)
        return answer?._tag === "Started" ? answer.start : "0"
      })
    ),
    { boots: false, freezes: false }
  )
}

// -------------------------------------------------------------------------------------
// Linux, real processes
// -------------------------------------------------------------------------------------

const linuxVerifier = build(LinuxPidVerifier.layer, NodeContext.layer)

// A process that never reaps its child: the shell that started it became another program. The child ends only then, as
// the shell would reap it.
const startZombie = Effect.gen(function* () {
  const parent = yield* startProcess("sh", ["-c", "sleep 600 & echo $!; exec sleep 600"])
  const pid = Number(yield* firstLine(parent))
  yield* awaitTrue(() => readFileSync(`/proc/${parent.pid}/comm`, "utf8") === "sleep\n").pipe(
    Effect.ensuring(Effect.sync(() => process.kill(pid, "SIGKILL")))
  )
  yield* awaitTrue(() => statOf(pid)?.state === "Z")
  return { parent, pid }
})

describe.runIf(linux)("LinuxPidVerifier, real processes", () => {
  it.scopedLive("reads the identity where the kernel has it", () =>
    Effect.gen(function* () {
      const self = yield* (yield* linuxVerifier).self
      assert.strictEqual(self.pid, process.pid)
      assert.strictEqual(self.boot, readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim())
      const link = execFileSync("readlink", [`/proc/${process.pid}/ns/pid`], { encoding: "utf8" })
      assert.strictEqual(link.trim(), `pid:[${self.pidNamespace}]`)
      assert.strictEqual(self.start, readFileSync("/proc/self/stat", "utf8").split(") ").at(-1)!.split(" ")[19])
    })
  )

  it.scopedLive("a process sees itself as others see it", () =>
    Effect.gen(function* () {
      const verifier = yield* linuxVerifier
      const handle = yield* startProcess(process.execPath, [fixture("verify-process"), "stay"])
      const identity = new ProcessIdentity(JSON.parse(yield* firstLine(handle)))
      assert.strictEqual(identity.pid, handle.pid)
      assert.strictEqual(describeVerdict(yield* verifier.verify(identity, local)), "Alive")
      yield* kill(handle)
      assert.strictEqual(describeVerdict(yield* verifier.verify(identity, local)), "Dead D1")
    })
  )

  it.scopedLive("a zombie is dead, and so is whoever had its pid before", () =>
    Effect.gen(function* () {
      const verifier = yield* linuxVerifier
      const { parent, pid } = yield* startZombie
      const self = yield* verifier.self
      const recorded = change(self, { pid, start: statOf(pid)!.start })
      const verdict = yield* verifier.verify(recorded, local)
      assert.strictEqual(describeVerdict(verdict), "Dead D1")
      assert.include(JSON.stringify(verdict), "zombie")
      for (const fields of [{ start: null }, { start: "1" }, { timeNamespace: null }]) {
        const other = yield* verifier.verify(change(recorded, fields), local)
        assert.strictEqual(describeVerdict(other), "Dead D1", JSON.stringify(fields))
      }
      assert.isFalse(yield* verifier.signal(recorded, "SIGKILL"))
      assert.isFalse(ended(parent))
    })
  )

  it.scopedLive.skipIf(!compiler)("a zombie leader whose threads live is alive (needs a C compiler) @large", () =>
    Effect.gen(function* () {
      const verifier = yield* linuxVerifier
      const folder = yield* temporaryFolder
      const source = `
        #include <pthread.h>
        #include <unistd.h>
        static void *stay(void *_) { sleep(600); return 0; }
        int main(void) { pthread_t t; pthread_create(&t, 0, stay, 0); pthread_exit(0); }`
      writeFileSync(join(folder, "leader.c"), source)
      execFileSync("cc", ["-pthread", "-o", join(folder, "leader"), join(folder, "leader.c")])
      const handle = yield* startProcess(join(folder, "leader"), [])
      const pid = handle.pid!
      yield* awaitTrue(() => statOf(pid)?.state === "Z")
      assert.strictEqual(statOf(pid)!.threads, 2)
      const recorded = change(yield* verifier.self, { pid, start: statOf(pid)!.start })
      assert.strictEqual(describeVerdict(yield* verifier.verify(recorded, local)), "Alive")
      assert.strictEqual(describeVerdict(yield* verifier.verify(change(recorded, { start: "1" }), local)), "Dead D1")
      assert.isTrue(yield* verifier.signal(recorded, "SIGKILL"))
      yield* kill(handle)
      assert.strictEqual(describeVerdict(yield* verifier.verify(recorded, local)), "Dead D1")
    })
  )

  it.scopedLive.skipIf(!otherUser)("a process of another user is alive and is not signalled (needs root) @large", () =>
    Effect.gen(function* () {
      const nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
      const self = yield* (yield* linuxVerifier).self
      const handle = yield* startProcess("sleep", ["600"])
      const recorded = change(self, { pid: handle.pid!, start: statOf(handle.pid!)!.start })
      const verdicts = yield* ask(nobody, "verify", [recorded, change(recorded, { start: "1" })])
      assert.deepStrictEqual(verdicts.map(describeVerdict), ["Alive", "Dead D1"])
      assert.isFalse(yield* ask(nobody, "signal", [recorded]))
      assert.isFalse(ended(handle))
    })
  )

  it.scopedLive.skipIf(!otherUser || !namespaces)(
    "what hidepid hides is alive if signal 0 answers EPERM, and dead if nobody has the pid (needs root) @large",
    () =>
      Effect.gen(function* () {
        const self = yield* (yield* linuxVerifier).self
        const handle = yield* startProcess("sleep", ["600"])
        const recorded = change(self, { pid: handle.pid!, start: statOf(handle.pid!)!.start })
        const gone = yield* Effect.scoped(Effect.map(startProcess("true", []), (short) => short.pid!))
        for (const hidepid of [1, 2]) {
          const mount =
            `mount -t proc -o hidepid=${hidepid} proc /proc && ` +
            'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'
          const words = ["unshare", "-m", "sh", "-c", mount, "sh"]
          // EPERM may come from anybody, which is why nobody is signalled on its account.
          const verdicts = yield* ask(words, "verify", [
            recorded,
            change(recorded, { start: "1" }),
            change(recorded, { pid: gone })
          ])
          assert.deepStrictEqual(verdicts.map(describeVerdict), ["Alive", "Alive", "Dead D1"], `hidepid=${hidepid}`)
          assert.include(verdicts[0].evidence, "EPERM")
          assert.isFalse(yield* ask(words, "signal", [recorded]))
        }
        assert.isFalse(ended(handle))
      })
  )

  it.live.skipIf(!namespaces)(
    "a pid that was given out anew is dead, and its new owner is spared (needs root) @large",
    () =>
      Effect.gen(function* () {
        const seen = yield* ask(["unshare", "-p", "-f", "-m", "--mount-proc", "--kill-child"], "recycle")
        assert.isTrue(seen.samePid)
        assert.strictEqual(describeVerdict(seen.running), "Alive")
        assert.strictEqual(describeVerdict(seen.ended), "Dead D1")
        assert.strictEqual(describeVerdict(seen.recycled), "Dead D1")
        assert.include(seen.recycled.proof.detail, "another process")
        assert.isFalse(seen.signalled)
        assert.isTrue(seen.survived)
      })
  )

  it.scopedLive.skipIf(!namespaces)("a process in another pid namespace cannot be told (needs root) @large", () =>
    Effect.gen(function* () {
      const verifier = yield* linuxVerifier
      const self = yield* verifier.self
      const words = ["unshare", "-p", "-f", "-m", "--mount-proc", "--kill-child"]
      const inner = yield* startProcess(words[0]!, [
        ...words.slice(1),
        process.execPath,
        fixture("verify-process"),
        "stay"
      ])
      const identity = new ProcessIdentity(JSON.parse(yield* firstLine(inner)))
      assert.strictEqual(identity.pid, 1)
      assert.isNotNull(identity.start)
      assert.strictEqual(identity.boot, self.boot)
      assert.notStrictEqual(identity.pidNamespace, self.pidNamespace)
      const verdict = yield* verifier.verify(identity, local)
      assert.strictEqual(describeVerdict(verdict), "Unknown")
      assert.include(JSON.stringify(verdict), "pid namespace")
      const [outer] = yield* ask(words, "verify", [self])
      assert.strictEqual(describeVerdict(outer), "Unknown")
      assert.isFalse(yield* verifier.signal(identity, "SIGKILL"))
    })
  )

  it.live.skipIf(!namespaces)(
    "after a restart of a container pid 1 is not taken for the former pid 1 (needs root) @large",
    () =>
      Effect.gen(function* () {
        const words = ["unshare", "-p", "-f", "-m", "--mount-proc", "--kill-child"]
        const former = new ProcessIdentity(yield* ask(words, "identity"))
        assert.strictEqual(former.pid, 1)
        // The kernel may number the next namespace as it numbered the last one; then the starts tell them apart.
        const same = change(former, { start: "1" })
        const [first, second] = yield* ask(words, "verify", [former, same])
        assert.include(["Dead D1", "Unknown"], describeVerdict(first))
        assert.include(["Dead D1", "Unknown"], describeVerdict(second))
      })
  )

  it.live.skipIf(!namespaces)("a /proc of another pid namespace is not trusted (needs root) @large", () =>
    Effect.gen(function* () {
      const own = yield* Effect.scoped(Effect.flatMap(linuxVerifier, (verifier) => verifier.self))
      const words = ["unshare", "-p", "-f", "--kill-child"]
      const inner = new ProcessIdentity(yield* ask(words, "identity"))
      assert.deepStrictEqual({ ...inner }, { ...own, pid: 1, start: null, pidNamespace: null, timeNamespace: null })
      const verdicts = yield* ask(words, "verify", [own, inner, change(own, { pid: 0x7fffffff })])
      assert.deepStrictEqual(verdicts.map(describeVerdict), ["Unknown", "Unknown", "Unknown"])
    })
  )

  it.scopedLive.skipIf(!timeNamespaces)("a start of another time namespace is not compared (needs root) @large", () =>
    Effect.gen(function* () {
      const self = yield* (yield* linuxVerifier).self
      const words = ["unshare", "-T", "--boottime", "100000", "-f", "--kill-child"]
      const inner = new ProcessIdentity(yield* ask(words, "identity"))
      assert.strictEqual(inner.pidNamespace, self.pidNamespace)
      assert.notStrictEqual(inner.timeNamespace, self.timeNamespace)
      const gone = yield* Effect.scoped(Effect.map(startProcess("true", []), (short) => short.pid!))
      const { pid: zombie } = yield* startZombie
      const verdicts = yield* ask(words, "verify", [self, change(self, { pid: gone }), change(self, { pid: zombie })])
      assert.deepStrictEqual(verdicts.map(describeVerdict), ["Unknown", "Dead D1", "Dead D1"])
    })
  )

  it.scopedLive.skipIf(!namespaces)("a boot id of a container's own is no boot of its host (needs root) @large", () =>
    Effect.gen(function* () {
      const own = yield* Effect.scoped(Effect.flatMap(linuxVerifier, (verifier) => verifier.self))
      const folder = yield* temporaryFolder
      const words = ["unshare", "-m", "sh", "-c"]
      const mount = (name: string) => {
        writeFileSync(join(folder, name), `${randomUUID()}\n`)
        return [...words, `mount --bind ${join(folder, name)} /proc/sys/kernel/random/boot_id && exec "$@"`, "sh"]
      }
      const first = new ProcessIdentity(yield* ask(mount("first"), "identity"))
      assert.strictEqual(first.machine, `${own.machine}@${hostname()}`)
      assert.notStrictEqual(first.boot, own.boot)
      // The host lives; the container itself was started anew.
      const [host, former] = yield* ask(mount("second"), "verify", [own, first])
      assert.strictEqual(describeVerdict(host), "Unknown")
      assert.isTrue(host.otherHost)
      assert.strictEqual(describeVerdict(former), "Dead D4")
    })
  )
})

// -------------------------------------------------------------------------------------
// Linux, a /proc that says what the test wants
// -------------------------------------------------------------------------------------

const failure = (reason: PlatformError.SystemErrorReason, code: string) =>
  new PlatformError.SystemError({
    reason,
    module: "FileSystem",
    method: "readFile",
    cause: Object.assign(new Error(code), { code })
  })
type Files = Record<string, string | PlatformError.PlatformError | (() => string)>

/** The real files, but for those that are given. */
const linuxWith = (files: Files) => {
  const read = (path: string, otherwise: Effect.Effect<string, PlatformError.PlatformError>) => {
    const file = files[path]
    if (file === undefined) return otherwise
    if (typeof file === "function") return Effect.sync(file)
    return typeof file === "string" ? Effect.succeed(file) : Effect.fail(file)
  }
  const fs = Layer.effect(
    FileSystem.FileSystem,
    Effect.map(FileSystem.FileSystem, (real) => ({
      ...real,
      readFileString: (path: string, encoding?: string) =>
        Effect.suspend(() => read(path, real.readFileString(path, encoding))),
      readLink: (path: string) => Effect.suspend(() => read(path, real.readLink(path)))
    }))
  )
  return build(LinuxPidVerifier.layer, Layer.provide(fs, NodeContext.layer))
}

const statLine = (fields: { pid?: number; comm?: string; state?: string; threads?: number | string; start?: string }) =>
  `${fields.pid ?? 42} (${fields.comm ?? "node"}) ${fields.state ?? "S"} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 ` +
  `${fields.threads ?? 1} 0 ${fields.start ?? "777"} 3133440 388 18446744073709551615\n`

// A clock on which every pause is over at once.
const hurried: Clock.Clock = Object.assign(Object.create(Clock.make()), { sleep: () => Effect.yieldNow() })

describe.runIf(linux)("LinuxPidVerifier, made-up files", () => {
  const missing = failure("NotFound", "ENOENT")
  const other = "f".repeat(32)

  const machines: ReadonlyArray<readonly [string, Files, string | null]> = [
    ["/etc/machine-id", { "/etc/machine-id": `${other}\n` }, other],
    ["the one of D-Bus", { "/etc/machine-id": missing, "/var/lib/dbus/machine-id": `${other}\n` }, other],
    ["a first boot", { "/etc/machine-id": "uninitialized\n", "/var/lib/dbus/machine-id": missing }, null],
    ["an empty file", { "/etc/machine-id": "", "/var/lib/dbus/machine-id": "\n" }, null],
    ["an id of zeros", { "/etc/machine-id": "0".repeat(32), "/var/lib/dbus/machine-id": missing }, null],
    ["no file", { "/etc/machine-id": missing, "/var/lib/dbus/machine-id": missing }, null]
  ]
  for (const [name, files, expected] of machines) {
    it.scopedLive(`the machine id: ${name}`, () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* (yield* linuxWith(files)).self).machine, expected)
      })
    )
  }

  it.scopedLive("without a boot id nothing is told, and other machines still are other hosts", () =>
    Effect.gen(function* () {
      const real = yield* (yield* linuxVerifier).self
      const verifier = yield* linuxWith({ "/proc/sys/kernel/random/boot_id": missing })
      assert.isNull((yield* verifier.self).boot)
      const records = [real, change(real, { pid: 0x7fffffff }), change(real, { machine: other })]
      const verdicts = yield* Effect.forEach(records, (record) => verifier.verify(record, local))
      assert.deepStrictEqual(
        verdicts.map((verdict) => [verdict._tag, verdict._tag === "Unknown" && verdict.otherHost]),
        [
          ["Unknown", false],
          ["Unknown", false],
          ["Unknown", true]
        ]
      )
    })
  )

  it.scopedLive("a kernel without time namespaces has one; links that cannot be read are none", () =>
    Effect.gen(function* () {
      const old = yield* linuxWith({ "/proc/self/ns/time": missing })
      const self = yield* old.self
      assert.strictEqual(self.timeNamespace, "none")
      assert.strictEqual(describeVerdict(yield* old.verify(self, local)), "Alive")
      assert.strictEqual(describeVerdict(yield* old.verify(change(self, { start: "1" }), local)), "Dead D1")

      const denied = yield* linuxWith({ "/proc/self/ns/time": failure("PermissionDenied", "EACCES") })
      assert.isNull((yield* denied.self).timeNamespace)
      const verdict = yield* denied.verify(change(self, { start: "1", timeNamespace: null }), local)
      assert.strictEqual(describeVerdict(verdict), "Unknown")

      const none = yield* (yield* linuxWith({ "/proc/self/ns/pid": missing })).self
      assert.isNull(none.pidNamespace)
      assert.isNull(none.timeNamespace)
    })
  )

  it.scopedLive("what cannot be read, understood or seen is not dead while the pid is taken", () =>
    Effect.gen(function* () {
      const self = yield* (yield* linuxVerifier).self
      const handle = yield* startProcess("sleep", ["600"])
      const recorded = change(self, { pid: handle.pid!, start: statOf(handle.pid!)!.start })
      const path = `/proc/${handle.pid}/stat`
      const cases: Array<string | PlatformError.PlatformError> = [
        failure("PermissionDenied", "EACCES"),
        failure("Unknown", "EMFILE"),
        missing,
        failure("Unknown", "ESRCH"),
        "",
        "nonsense",
        statLine({ threads: "x" }),
        // Torn in the middle of the start.
        statLine({}).slice(0, statLine({}).indexOf("777") + 2),
        statLine({ state: "Z", threads: 0 }),
        statLine({ state: "X", threads: 0 })
      ]
      for (const content of cases) {
        const verifier = yield* linuxWith({ [path]: content })
        const verdict = yield* verifier.verify(recorded, local)
        assert.strictEqual(describeVerdict(verdict), "Unknown", String(content))
        assert.isFalse(yield* verifier.signal(recorded, "SIGKILL"))
      }
      assert.isFalse(ended(handle))
      // A process that is neither there nor gone is looked at again.
      let reads = 0
      const settles = yield* linuxWith({
        [path]: () => (reads++ === 0 ? statLine({ state: "Z", threads: 0 }) : statLine({ start: recorded.start! }))
      })
      assert.strictEqual(describeVerdict(yield* settles.verify(recorded, local)), "Alive")
      assert.strictEqual(reads, 2)
      // ESRCH from the read and ESRCH from signal 0 are two witnesses.
      yield* kill(handle)
      const vanished = yield* linuxWith({ [path]: failure("Unknown", "ESRCH") })
      assert.strictEqual(describeVerdict(yield* vanished.verify(recorded, local)), "Dead D1")
      const denied = yield* linuxWith({ [path]: failure("PermissionDenied", "EACCES") })
      assert.strictEqual(describeVerdict(yield* denied.verify(recorded, local)), "Unknown")
    })
  )

  it.scopedLive("an identity that cannot be read at the moment is a failure, and is read whole later", () =>
    Effect.gen(function* () {
      const real = yield* (yield* linuxVerifier).self
      for (const code of ["EMFILE", "ENFILE", "ENOMEM", "EIO", "EINTR"]) {
        for (const path of [
          "/proc/self/status",
          "/proc/self/stat",
          "/proc/self/ns/pid",
          "/proc/self/ns/time",
          "/proc/sys/kernel/random/boot_id",
          "/etc/machine-id"
        ]) {
          const files: Files = { [path]: failure("Unknown", code) }
          const verifier = yield* linuxWith(files)
          const failed = yield* Effect.flip(verifier.self)
          assert.deepStrictEqual([failed._tag, failed.code, failed.source], ["IdentityUnavailable", code, path])
          assert.strictEqual(describeVerdict(yield* verifier.verify(real, local)), "Unknown")
          delete files[path]
          assert.deepStrictEqual({ ...(yield* verifier.self) }, { ...real })
          assert.strictEqual(describeVerdict(yield* verifier.verify(real, local)), "Alive")
        }
      }
    }).pipe(Effect.withClock(hurried))
  )

  it.scopedLive("a /proc that shows another process as self is not trusted, with the same number either", () =>
    Effect.gen(function* () {
      const self = yield* (yield* linuxVerifier).self
      for (const status of ["", `Pid:\t${process.pid + 1}\n`, `Pid:\t${process.pid}\nNSpid:\t${process.pid}\t7\n`]) {
        const verifier = yield* linuxWith({ "/proc/self/status": status })
        const { boot, machine, pidNamespace, start } = yield* verifier.self
        assert.deepStrictEqual([start, pidNamespace, boot, machine], [null, null, self.boot, self.machine])
        // Two that do not know their namespace are not known to be in the same one.
        for (const recorded of [self, yield* verifier.self]) {
          const verdict = yield* verifier.verify(change(recorded, { pid: 0x7fffffff }), local)
          assert.strictEqual(describeVerdict(verdict), "Unknown")
        }
      }
    })
  )

  it.scopedLive("the identity is read when it is needed, once, and not spoiled by who was interrupted", () =>
    Effect.gen(function* () {
      let reads = 0
      const line = readFileSync("/proc/self/status", "utf8")
      const verifier = yield* linuxWith({
        "/proc/self/status": () => {
          reads++
          return line
        }
      })
      assert.strictEqual(reads, 0)
      const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.fork(verifier.self))
      yield* Effect.yieldNow()
      yield* Fiber.interrupt(fibers[0]!)
      const self = yield* Fiber.join(fibers[1]!)
      assert.isNotNull(self.start)
      assert.strictEqual(yield* verifier.self, self)
      assert.strictEqual(yield* Fiber.join(fibers[2]!), self)
      const before = reads
      yield* verifier.verify(self, local)
      assert.strictEqual(reads, before)
      assert.isAtMost(reads, 2)
    })
  )
})

describe("LinuxPidVerifier.parseStat", () => {
  const name = FastCheck.string({ unit: FastCheck.constantFrom(..."ab() \n\t0179Z-é日"), maxLength: 64 })
  const fields = FastCheck.record({
    pid: FastCheck.integer({ min: 1, max: 0x7fffffff }),
    comm: FastCheck.oneof(name, FastCheck.string({ unit: "binary", maxLength: 20 })),
    state: FastCheck.constantFrom("R", "S", "D", "Z", "T", "t", "X", "x", "I"),
    threads: FastCheck.integer({ min: 0, max: 100_000 }),
    start: FastCheck.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(String)
  })

  it.prop("reads any name of a program", [fields], ([given]) => {
    const { start, state, threads } = given
    assert.deepStrictEqual(LinuxPidVerifier.parseStat(statLine(given)), { start, state, threads })
  })

  it.prop("takes no start from a line that was cut short", [fields, FastCheck.nat()], ([given, cut]) => {
    const line = statLine(given)
    const parsed = LinuxPidVerifier.parseStat(line.slice(0, cut % line.length))
    if (parsed !== null) assert.strictEqual(parsed.start, given.start)
  })

  it.prop("never throws", [FastCheck.string({ unit: "binary" })], ([text]) => {
    assert.isNull(LinuxPidVerifier.parseStat(text))
  })

  it("reads a name that looks like the rest of the line", () => {
    const comm = "a) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 1 0 1 2"
    assert.deepStrictEqual(LinuxPidVerifier.parseStat(statLine({ comm })), { state: "S", threads: 1, start: "777" })
  })
})

it("LinuxPidVerifier.isOwnStatus", () => {
  const own = (status: string) => LinuxPidVerifier.isOwnStatus(status, 12)
  assert.isTrue(own("Name:\tnode\nTgid:\t12\nPid:\t12\nPPid:\t1\nNSpid:\t12\n"))
  assert.isTrue(own("Name:\tnode\nPid:\t12\n"), "before Linux 4.1")
  assert.isFalse(own("Pid:\t12\nNSpid:\t12\t1\n"), "of an outer namespace, and the same by chance")
  assert.isFalse(own("Pid:\t4711\nNSpid:\t4711\t12\n"))
  assert.isFalse(own("PPid:\t12\nPid:\t3\n"))
  assert.isFalse(own(""))
})

// -------------------------------------------------------------------------------------
// programs
// -------------------------------------------------------------------------------------

describe.runIf(process.platform !== "win32")("commandOutput, real programs", () => {
  const run = (...args: readonly [string, ...Array<string>]) =>
    Effect.flatMap(CommandExecutor.CommandExecutor, (executor) => commandOutput(executor, Command.make(...args))).pipe(
      Effect.provide(NodeContext.layer)
    )

  it.live("gives what a program printed, if it ended well", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* run("printf", "one\\ntwo"), "one\ntwo")
      assert.strictEqual(yield* run("sh", "-c", "echo half; exit 3"), null)
      assert.strictEqual(yield* run("sh", "-c", "echo half; kill -9 $$"), null)
      assert.strictEqual(yield* run("/nonexistent/program"), null)
      // More than a pipe holds.
      assert.strictEqual(yield* run("sh", "-c", "head -c 300000 /dev/zero >&2; echo heard"), "heard\n")
    })
  )

  it.effect("ends a program that takes too long", () =>
    Effect.gen(function* () {
      const real = yield* CommandExecutor.CommandExecutor
      let pid = 0
      const executor = CommandExecutor.makeExecutor((command) =>
        Effect.tap(real.start(command), (process) => {
          pid = process.pid
        })
      )
      const fiber = yield* Effect.fork(commandOutput(executor, Command.make("sleep", "600")))
      yield* TestServices.provideLive(awaitTrue(() => pid > 0))
      assert.strictEqual(presence(pid), "exists")
      yield* TestClock.adjust("5 seconds")
      assert.isNull(yield* Fiber.join(fiber))
      yield* TestServices.provideLive(awaitTrue(() => presence(pid) === "none"))
    }).pipe(Effect.provide(NodeContext.layer))
  )
})

// -------------------------------------------------------------------------------------
// macOS
// -------------------------------------------------------------------------------------

const ioreg = `+-o J293AP  <class IOPlatformExpertDevice, id 0x100000227, registered, matched, active, busy 0 (9218 ms)>
    {
      "IOPolledInterface" = "AppleARMWatchdogTimerHibernateHandler is not serializable"
      "IOPlatformSerialNumber" = "C02XXXXXQ05D"
      "IOPlatformUUID" = "564D7B1C-6E0B-5F3E-A0F4-3C2E8B1D9A77"
      "manufacturer" = <"Apple Inc.">
    }

`

describe("DarwinPidVerifier", () => {
  it("reads rows of ps", () => {
    const row = DarwinPidVerifier.parseRow
    assert.deepStrictEqual(row("S    Sat Nov  1 08:05:09 2025    \n"), {
      zombie: false,
      start: "Sat_Nov_1_08:05:09_2025"
    })
    assert.deepStrictEqual(row("Ss+  Sun Nov 23 07:12:00 2025\n"), { zombie: false, start: "Sun_Nov_23_07:12:00_2025" })
    assert.deepStrictEqual(row("T    Sun Nov 23 07:12:00 2025\n"), { zombie: false, start: "Sun_Nov_23_07:12:00_2025" })
    assert.deepStrictEqual(row("Z+   Sun Nov 23 07:12:00 2025\n"), { zombie: true, start: "Sun_Nov_23_07:12:00_2025" })
    // Other languages write other dates for the same start.
    assert.deepStrictEqual(row("S    So 23 Nov 07:12:00 2025\n"), { zombie: false, start: null })
    assert.deepStrictEqual(row("Z    -\n"), { zombie: true, start: null })
    for (const nothing of ["", "\n", "S\n", "ps: illegal option -- o\n"]) assert.isNull(row(nothing), nothing)
    assert.isNull(row("S    Sun Nov 23 07:12:00 2025\nS    Sun Nov 23 07:12:01 2025\n"))
  })

  it.prop("one date is one start, and fits the header", [FastCheck.date({ noInvalidDate: true })], ([date]) => {
    const [, weekday, day, month, year, time] = /^(\w+), (\d+) (\w+) (-?\d+) (\S+)/.exec(date.toUTCString())!
    FastCheck.pre(/^\d{4}$/.test(year!))
    const text = (width: number) => `S  ${weekday} ${month} ${String(Number(day)).padStart(width)} ${time} ${year} \n`
    const { start } = DarwinPidVerifier.parseRow(text(2))!
    assert.match(start!, /^[!-,.-~][!-~]{0,127}$/)
    assert.strictEqual(DarwinPidVerifier.parseRow(text(1))!.start, start)
  })

  it("reads the platform's UUID", () => {
    assert.strictEqual(DarwinPidVerifier.parsePlatformUuid(ioreg), "564D7B1C-6E0B-5F3E-A0F4-3C2E8B1D9A77")
    for (const text of ["", '"IOPlatformUUID" = ""', ioreg.replace("IOPlatformUUID", "IOPlatformUUIDs")]) {
      assert.isNull(DarwinPidVerifier.parsePlatformUuid(text))
    }
  })

  it.live.skipIf(!linux || !succeeds("ps", "--version"))("understands the real ps of this system (needs ps)", () =>
    Effect.sync(() => {
      const output = execFileSync("ps", ["-o", "stat=", "-o", "lstart=", "-p", String(process.pid)], {
        encoding: "utf8",
        env: { ...process.env, LC_ALL: "C", TZ: "UTC" }
      })
      const row = DarwinPidVerifier.parseRow(output)
      assert.isFalse(row?.zombie)
      assert.match(row?.start ?? "", /^[A-Z][a-z]{2}_[A-Z][a-z]{2}_\d+_\d\d:\d\d:\d\d_\d{4}$/)
    })
  )

  const living = process.pid
  const recorded = (fields?: Partial<ProcessIdentity>) =>
    new ProcessIdentity({
      pid: living,
      start: "Sun_Nov_23_07:12:00_2025",
      boot: uuid,
      pidNamespace: "darwin",
      timeNamespace: "darwin",
      machine: "564D7B1C-6E0B-5F3E-A0F4-3C2E8B1D9A77",
      ...fields
    })
  const withPs = (ps: Answer) =>
    fakeExecutor((line) =>
      line.startsWith("/bin/ps ") ? ps : { stdout: line.startsWith("/usr/sbin/sysctl ") ? `${uuid}\n` : ioreg }
    )

  it.scoped("asks no program before it must, and none that it need not", () =>
    Effect.gen(function* () {
      const fake = withPs({ stdout: "S    Sun Nov 23 07:12:00 2025    \n" })
      const verifier = yield* build(DarwinPidVerifier.layer, fake.layer)
      assert.deepStrictEqual(fake.lines, [])
      assert.strictEqual(describeVerdict(yield* verifier.verify(recorded(), local)), "Alive")
      assert.deepStrictEqual(fake.lines, [
        "/usr/sbin/sysctl -n kern.bootsessionuuid",
        `/bin/ps -o stat= -o lstart= -p ${living}`
      ])
      // ESRCH says all.
      assert.strictEqual(describeVerdict(yield* verifier.verify(recorded({ pid: 0x7fffffff }), local)), "Dead D1")
      assert.lengthOf(fake.lines, 2)
      assert.strictEqual(describeVerdict(yield* verifier.verify(recorded({ boot: "other" }), local)), "Dead D4")
      assert.strictEqual(describeVerdict(yield* verifier.verify(recorded({ boot: "other" }), local)), "Dead D4")
      assert.lengthOf(fake.lines, 3)
      yield* verifier.self
      yield* verifier.self
      assert.lengthOf(fake.lines, 4)
    })
  )

  it.scoped("a zombie is dead; what ps does not tell is not", () =>
    Effect.gen(function* () {
      const cases: Array<readonly [Answer, string]> = [
        [{ stdout: "Z+   Sun Nov 23 07:12:00 2025\n" }, "Dead D1"],
        [{ stdout: "S    Sun Nov 23 07:12:01 2025\n" }, "Dead D1"],
        [{ stdout: "S    So 23 Nov 07:12:01 2025\n" }, "Unknown"],
        [{ stdout: "S    Sun Nov 23 07:12:01 2025\n", exitCode: 1 }, "Unknown"],
        [{ stdout: "", exitCode: 1 }, "Unknown"],
        ["missing", "Unknown"],
        ["dies", "Unknown"]
      ]
      for (const [answer, expected] of cases) {
        const verifier = yield* build(DarwinPidVerifier.layer, withPs(answer).layer)
        const verdict = yield* verifier.verify(recorded(), local)
        assert.strictEqual(describeVerdict(verdict), expected, JSON.stringify(answer))
        assert.isFalse(yield* verifier.signal(recorded(), "SIGTERM"))
      }
    })
  )

  it.scoped("no program answers: everything is unknown, and asked anew", () =>
    Effect.gen(function* () {
      let broken = true
      const fake = fakeExecutor((line) =>
        broken ? "missing" : { stdout: line.startsWith("/bin/ps ") ? "S Sun Nov 23 07:12:00 2025\n" : `${uuid}\n` }
      )
      const verifier = yield* build(DarwinPidVerifier.layer, fake.layer)
      const self = yield* verifier.self
      assert.deepStrictEqual([self.start, self.boot, self.machine], [null, null, null])
      assert.strictEqual(describeVerdict(yield* verifier.verify(recorded(), local)), "Unknown")
      broken = false
      assert.strictEqual(describeVerdict(yield* verifier.verify(recorded(), local)), "Alive")
      assert.strictEqual(yield* verifier.self, self)
    })
  )

  it.scopedLive(
    "where no program can be started at the moment the identity is a failure, and is read whole later",
    () =>
      Effect.gen(function* () {
        for (const code of ["EMFILE", "ENFILE", "EAGAIN", "ENOMEM"]) {
          let short = true
          const { layer } = fakeExecutor((line, command) => (short ? { code } : macos(line, command)))
          const verifier = yield* build(DarwinPidVerifier.layer, layer)
          const failed = yield* Effect.flip(verifier.self)
          assert.deepStrictEqual([failed._tag, failed.code], ["IdentityUnavailable", code])
          short = false
          const self = yield* verifier.self
          assert.isTrue(self.start !== null && self.boot !== null && self.machine !== null)
        }
      })
  )

  it.scoped("a program that hangs is given up after 5 seconds, in an uninterruptible region, too", () =>
    Effect.gen(function* () {
      const verifier = yield* build(DarwinPidVerifier.layer, withPs("hangs").layer)
      for (const ask of [
        verifier.verify(recorded(), local),
        Effect.uninterruptible(verifier.verify(recorded(), local))
      ]) {
        const fiber = yield* Effect.fork(ask)
        yield* TestClock.adjust("4900 millis")
        assert.isTrue((yield* Fiber.poll(fiber))._tag === "None")
        yield* TestClock.adjust("200 millis")
        assert.strictEqual(describeVerdict(yield* Fiber.join(fiber)), "Unknown")
      }
    })
  )

  it.scoped("who is interrupted meanwhile ends at once", () =>
    Effect.gen(function* () {
      const verifier = yield* build(DarwinPidVerifier.layer, withPs("hangs").layer)
      const fiber = yield* Effect.fork(verifier.verify(recorded(), local))
      yield* TestClock.adjust("1 second")
      const exit = yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.isInterruptedOnly(exit.cause))
    })
  )
})

// -------------------------------------------------------------------------------------
// Windows
// -------------------------------------------------------------------------------------

const machineGuid =
  "\r\nHKEY_LOCAL_MACHINE\\SOFTWARE\\Microsoft\\Cryptography\r\n" +
  "    MachineGuid    REG_SZ    1F3C9A52-0b7e-4c55-9d0e-6b1f7a2d8e34\r\n\r\n"

describe("WindowsPidVerifier", () => {
  const guid = "1f3c9a52-0b7e-4c55-9d0e-6b1f7a2d8e34"

  it("reads answers of PowerShell", () => {
    const query = WindowsPidVerifier.parseQuery
    assert.deepStrictEqual(query("none\r\n"), { _tag: "None" })
    assert.deepStrictEqual(query("cim 133765432109876540\r\n"), {
      _tag: "Started",
      source: "cim",
      start: "133765432109876540"
    })
    assert.deepStrictEqual(query("process 133765432109876543\n"), {
      _tag: "Started",
      source: "process",
      start: "133765432109876543"
    })
    for (const text of ["", "unknown\r\n", "cim \r\n", "cim 1\r\ncim 2\r\n", "process -1", "cim 1,5E+17", "nonesuch"]) {
      assert.isNull(query(text), text)
    }
  })

  it("reads the machine's GUID", () => {
    assert.strictEqual(WindowsPidVerifier.parseMachineGuid(machineGuid), guid)
    for (const text of ["", "ERROR: The system was unable to find the specified registry key or value.\r\n"]) {
      assert.isNull(WindowsPidVerifier.parseMachineGuid(text))
    }
  })

  it("asks about a number and nothing else", () => {
    const script = WindowsPidVerifier.queryScript(4711)
    assert.include(script, "'ProcessId=4711'")
    assert.include(script, "Get-Process -Id 4711")
    // Quotation marks are what command lines on Windows stumble over.
    assert.notInclude(script, '"')
  })

  const start = "133765432109876540"
  const withQuery = (answer: Answer) =>
    fakeExecutor((line) => (line.includes("\\reg.exe ") ? { stdout: machineGuid } : answer))
  const started = withQuery({ stdout: `cim ${start}\r\n` })

  it.scoped("knows itself without a boot id", () =>
    Effect.gen(function* () {
      const verifier = yield* build(WindowsPidVerifier.layer, started.layer)
      assert.deepStrictEqual(
        { ...(yield* verifier.self) },
        {
          pid: process.pid,
          start,
          boot: null,
          pidNamespace: `windows:${hostname().replace(/[^A-Za-z0-9.-]/g, "_")}`,
          timeNamespace: "cim",
          machine: guid
        }
      )
      assert.match(started.lines[0]!, /^[^ ]+\\System32\\WindowsPowerShell\\v1\.0\\powershell\.exe -NoProfile /)
    })
  )

  it.scoped("ESRCH needs no query", () =>
    Effect.gen(function* () {
      const fake = withQuery("missing")
      const self = yield* (yield* build(WindowsPidVerifier.layer, started.layer)).self
      const verifier = yield* build(WindowsPidVerifier.layer, fake.layer)
      assert.strictEqual(describeVerdict(yield* verifier.verify(change(self, { pid: 0x7fffffff }), local)), "Dead D1")
      assert.isFalse(fake.lines.some((line) => line.includes("powershell")))
    })
  )

  it.scoped("another start is another process, unless it only is told by another clock", () =>
    Effect.gen(function* () {
      const self = yield* (yield* build(WindowsPidVerifier.layer, started.layer)).self
      const hour = 36_000_000_000n
      const cases: Array<readonly [Answer, string]> = [
        [{ stdout: `cim ${start}\r\n` }, "Alive"],
        [{ stdout: `cim ${BigInt(start) + 10n}\r\n` }, "Dead D1"],
        [{ stdout: `cim ${BigInt(start) - 10n}\r\n` }, "Dead D1"],
        [{ stdout: `cim ${BigInt(start) + hour + 10n}\r\n` }, "Dead D1"],
        [{ stdout: `cim ${BigInt(start) + 27n * hour}\r\n` }, "Dead D1"],
        // A change of daylight saving time, a journey, a zone of 45 minutes.
        [{ stdout: `cim ${BigInt(start) + hour}\r\n` }, "Unknown"],
        [{ stdout: `cim ${BigInt(start) - 13n * hour}\r\n` }, "Unknown"],
        [{ stdout: `cim ${BigInt(start) + (5n * hour + (hour * 3n) / 4n)}\r\n` }, "Unknown"],
        [{ stdout: `process ${BigInt(start) + 3n}\r\n` }, "Unknown"],
        [{ stdout: "none\r\n" }, "Unknown"],
        [{ stdout: "unknown\r\n" }, "Unknown"],
        [{ stdout: `cim ${BigInt(start) + 10n}\r\n`, exitCode: 1 }, "Unknown"],
        ["missing", "Unknown"],
        ["dies", "Unknown"]
      ]
      for (const [answer, expected] of cases) {
        const verifier = yield* build(WindowsPidVerifier.layer, withQuery(answer).layer)
        const verdict = yield* verifier.verify(self, local)
        assert.strictEqual(describeVerdict(verdict), expected, JSON.stringify(answer))
        if (expected !== "Alive") assert.isFalse(yield* verifier.signal(self, "SIGTERM"))
      }
    })
  )

  it.scoped("a start that is no number is compared without an error", () =>
    Effect.gen(function* () {
      const verifier = yield* build(WindowsPidVerifier.layer, started.layer)
      const verdict = yield* verifier.verify(change(yield* verifier.self, { start: "nonsense" }), local)
      assert.strictEqual(describeVerdict(verdict), "Dead D1")
    })
  )

  it.scoped("a machine that does not tell its id tells nothing", () =>
    Effect.gen(function* () {
      const self = yield* (yield* build(WindowsPidVerifier.layer, started.layer)).self
      const fake = fakeExecutor((line) => (line.includes("\\reg.exe ") ? "missing" : { stdout: "none\r\n" }))
      const verifier = yield* build(WindowsPidVerifier.layer, fake.layer)
      const verdict = yield* verifier.verify(change(self, { pid: 0x7fffffff }), local)
      assert.isTrue(verdict._tag === "Unknown" && !verdict.otherHost, JSON.stringify(verdict))
    })
  )

  it.scoped("a PowerShell that hangs is given up after 5 seconds", () =>
    Effect.gen(function* () {
      const self = yield* (yield* build(WindowsPidVerifier.layer, started.layer)).self
      const verifier = yield* build(WindowsPidVerifier.layer, withQuery("hangs").layer)
      const fiber = yield* Effect.fork(verifier.verify(self, local))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(describeVerdict(yield* Fiber.join(fiber)), "Unknown")
    })
  )
})

// -------------------------------------------------------------------------------------
// in memory
// -------------------------------------------------------------------------------------

describe("TestPidVerifier", () => {
  const setting = Effect.gen(function* () {
    const table = yield* TestPidVerifier.makeTable
    const observer = yield* table.spawn()
    const judge = (process: TestPidVerifier.TestProcess, options = local) =>
      Effect.map(observer.verifier.verify(process.identity, options), describeVerdict)
    return { table, observer, judge }
  })

  it.effect("is deterministic", () =>
    Effect.gen(function* () {
      const run = Effect.flatMap(TestPidVerifier.makeTable, (table) =>
        Effect.gen(function* () {
          yield* table.spawn({ pid: 1001 })
          yield* table.reboot()
          const made = yield* Effect.all([table.spawn(), table.spawn({ pid: 1001 }), table.spawn(), table.spawn()])
          return made.map(({ identity }) => ({ ...identity }))
        })
      )
      const first = yield* run
      assert.deepStrictEqual(
        first.map(({ pid }) => pid),
        [1000, 1001, 1002, 1003]
      )
      assert.deepStrictEqual(yield* run, first)
    })
  )

  it.effect("crash, freeze, thaw, zombie", () =>
    Effect.gen(function* () {
      const { judge, table } = yield* setting
      const process = yield* table.spawn()
      const states: Array<unknown> = []
      const note = Effect.flatMap(
        Effect.all([process.state, process.isAlive, process.isFrozen, judge(process)]),
        (state) => Effect.sync(() => states.push(state))
      )
      yield* note
      yield* process.freeze
      yield* process.freeze
      yield* note
      yield* process.thaw
      yield* process.thaw
      yield* note
      yield* process.becomeZombie
      yield* process.freeze
      yield* process.thaw
      yield* note
      yield* process.crash
      yield* process.becomeZombie
      yield* process.thaw
      yield* note
      assert.deepStrictEqual(states, [
        ["running", true, false, "Alive"],
        ["frozen", true, true, "Alive"],
        ["running", true, false, "Alive"],
        ["zombie", false, false, "Dead D1"],
        ["gone", false, false, "Dead D1"]
      ])
    })
  )

  it.effect("a pid that was reused is dead, and its new owner lives", () =>
    Effect.gen(function* () {
      const { judge, observer, table } = yield* setting
      const process = yield* table.spawn()
      const stranger = yield* process.reincarnate
      assert.strictEqual(stranger.identity.pid, process.identity.pid)
      assert.strictEqual(stranger.identity.pidNamespace, process.identity.pidNamespace)
      assert.strictEqual(yield* judge(process), "Dead D1")
      assert.strictEqual(yield* judge(stranger), "Alive")
      assert.isFalse(yield* observer.verifier.signal(process.identity, "SIGKILL"))
      assert.isTrue(yield* stranger.isAlive)
      assert.isFalse(yield* process.isAlive)
      // What is done to the former process does not touch the one that has its pid now.
      yield* process.crash
      assert.strictEqual(yield* judge(stranger), "Alive")
      // A pid is not free while a zombie has it.
      yield* stranger.becomeZombie
      assert.isTrue(Exit.isFailure(yield* Effect.exit(table.spawn({ pid: stranger.identity.pid }))))
      yield* stranger.crash
      assert.strictEqual((yield* table.spawn({ pid: stranger.identity.pid })).identity.pid, stranger.identity.pid)
    })
  )

  it.effect("a reboot ends the machine's processes and no others", () =>
    Effect.gen(function* () {
      const { observer, table } = yield* setting
      const process = yield* table.spawn()
      const elsewhere = yield* table.spawn({ machine: "elsewhere" })
      const container = yield* table.spawn({ pidNamespace: "pid-2" })
      const dying = yield* Effect.fork(process.awaitDeath)
      yield* table.reboot()
      yield* Fiber.join(dying)
      assert.deepStrictEqual(yield* table.processes, [elsewhere])
      for (const gone of [observer, process, container]) assert.isFalse(yield* gone.isAlive)
      const next = yield* table.spawn({ pid: process.identity.pid })
      const judge = (recorded: TestPidVerifier.TestProcess, options: { readonly local: boolean }) =>
        Effect.map(next.verifier.verify(recorded.identity, options), describeVerdict)
      assert.strictEqual(yield* judge(process, local), "Dead D4")
      assert.strictEqual(yield* judge(container, local), "Dead D4")
      assert.strictEqual(yield* judge(process, { local: false }), "Unknown")
      assert.strictEqual(yield* judge(elsewhere, local), "Unknown")
    })
  )

  it.effect("machines, boots and namespaces are as real ones", () =>
    Effect.gen(function* () {
      const { judge, observer, table } = yield* setting
      const sibling = yield* table.spawn({ machine: "container", boot: observer.identity.boot! })
      const stranger = yield* table.spawn({ machine: "elsewhere", pid: observer.identity.pid })
      const inner = yield* table.spawn({ pidNamespace: "pid-2", pid: observer.identity.pid })
      const otherClock = yield* table.spawn({ timeNamespace: "time-2" })
      assert.strictEqual(yield* judge(sibling), "Alive")
      assert.strictEqual(yield* judge(inner), "Unknown")
      assert.strictEqual(yield* judge(otherClock), "Unknown")
      const verdict = yield* observer.verifier.verify(stranger.identity, local)
      assert.isTrue(verdict._tag === "Unknown" && verdict.otherHost)
      for (const process of [sibling, inner, otherClock]) yield* process.crash
      assert.deepStrictEqual(yield* Effect.forEach([sibling, inner, otherClock], (process) => judge(process)), [
        "Dead D1",
        "Unknown",
        "Dead D1"
      ])
    })
  )

  it.effect("signals: SIGKILL ends at once, SIGTERM when the process goes on", () =>
    Effect.gen(function* () {
      const { observer, table } = yield* setting
      const frozen = yield* table.spawn()
      yield* frozen.freeze
      assert.isTrue(yield* observer.verifier.signal(frozen.identity, "SIGTERM"))
      assert.isTrue(yield* frozen.isAlive)
      yield* frozen.thaw
      assert.strictEqual(yield* frozen.state, "gone")
      const other = yield* table.spawn()
      yield* other.freeze
      assert.isTrue(yield* observer.verifier.signal(other.identity, "SIGKILL"))
      assert.strictEqual(yield* other.state, "gone")
      const zombie = yield* table.spawn()
      yield* zombie.becomeZombie
      assert.isFalse(yield* observer.verifier.signal(zombie.identity, "SIGKILL"))
      assert.strictEqual(yield* zombie.state, "zombie")
    })
  )

  it.effect("awaitDeath and awaitRunning", () =>
    Effect.gen(function* () {
      const { table } = yield* setting
      const process = yield* table.spawn()
      yield* process.awaitRunning
      const isDone = (fiber: Fiber.Fiber<void>) => Effect.map(Fiber.poll(fiber), (exit) => exit._tag === "Some")
      const settle = Effect.repeatN(Effect.yieldNow(), 20)
      yield* process.freeze
      const running = yield* Effect.fork(process.awaitRunning)
      const death = yield* Effect.fork(process.awaitDeath)
      yield* settle
      assert.isFalse(yield* isDone(running))
      yield* process.thaw
      yield* Fiber.join(running)
      assert.isFalse(yield* isDone(death))
      yield* process.freeze
      const never = yield* Effect.fork(process.awaitRunning)
      yield* settle
      yield* process.becomeZombie
      yield* Fiber.join(death)
      yield* process.awaitDeath
      yield* process.crash
      yield* settle
      assert.isFalse(yield* isDone(never))
      const late = yield* Effect.fork(process.awaitRunning)
      yield* settle
      assert.isFalse(yield* isDone(late))
      yield* Fiber.interruptAll([never, late])
    })
  )

  it.effect("two builds of layerTable are two processes, which end with their scopes", () =>
    Effect.gen(function* () {
      const table = yield* TestPidVerifier.makeTable
      const self = Effect.flatMap(PidVerifier, (verifier) => verifier.self)
      const layer = TestPidVerifier.layerTable(table, { machine: "here" })
      const [one, two] = yield* Effect.all([
        Effect.provide(
          Effect.tap(self, () => Effect.map(table.processes, (all) => assert.lengthOf(all, 1))),
          layer
        ),
        Effect.provide(self, layer)
      ])
      assert.notStrictEqual(one.pid, two.pid)
      assert.strictEqual(one.machine, "here")
      assert.deepStrictEqual(yield* table.processes, [])
      const process = yield* table.spawn()
      assert.strictEqual(yield* Effect.provide(self, TestPidVerifier.layer(process)), process.identity)
      assert.isTrue(yield* process.isAlive)
    })
  )

  it.prop(
    "dead is dead, alive is alive, whatever happened",
    [
      FastCheck.array(
        FastCheck.record({
          act: FastCheck.constantFrom(
            "spawn",
            "crash",
            "freeze",
            "thaw",
            "zombie",
            "reincarnate",
            "reboot",
            "kill",
            "term"
          ),
          which: FastCheck.nat(20),
          machine: FastCheck.constantFrom("machine", "elsewhere"),
          pidNamespace: FastCheck.constantFrom("pid-1", "pid-2")
        }),
        { maxLength: 30 }
      )
    ],
    ([steps]) =>
      Effect.runSync(
        Effect.gen(function* () {
          const table = yield* TestPidVerifier.makeTable
          const all = [yield* table.spawn()]
          for (const { act, machine, pidNamespace, which } of steps) {
            const subject = all[which % all.length]!
            if (act === "spawn") all.push(yield* table.spawn({ machine, pidNamespace }))
            else if (act === "reincarnate" && (yield* subject.isAlive)) all.push(yield* subject.reincarnate)
            else if (act === "reboot") yield* table.reboot(machine)
            else if (act === "zombie") yield* subject.becomeZombie
            else if (act === "kill") yield* all[0]!.verifier.signal(subject.identity, "SIGKILL")
            else if (act === "term") yield* all[0]!.verifier.signal(subject.identity, "SIGTERM")
            else if (act === "crash" || act === "freeze" || act === "thaw") yield* subject[act]
          }
          const observer = yield* table.spawn()
          for (const subject of all) {
            const lives = yield* subject.isAlive
            for (const options of [local, { local: false }]) {
              const verdict = yield* observer.verifier.verify(subject.identity, options)
              if (verdict._tag === "Dead") assert.isFalse(lives)
              if (verdict._tag === "Alive") assert.isTrue(lives)
              // In the same place there is always an answer.
              const { boot, pidNamespace } = observer.identity
              if (subject.identity.boot === boot && subject.identity.pidNamespace === pidNamespace) {
                assert.notStrictEqual(verdict._tag, "Unknown")
              }
            }
          }
        })
      )
  )
})
