import { spawn } from "node:child_process"
import nodeFs, * as fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import { tmpdir } from "node:os"
import * as path from "node:path"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Layer, Scope } from "effect"
import { InstanceId } from "effect-single-instance/InstanceId"
import { type Connection, type Listener, Protocol } from "effect-single-instance/Protocol"
import * as FileMailbox from "effect-single-instance/protocol/FileMailbox"
import { vi } from "vitest"
import { bundleBin } from "../scripts/bundle.mjs"
import { bytes, child, isSame, nonce, pair, receive, temporary } from "./contract/Protocol.js"

const id = InstanceId.make("com.example.mail")
const maxFrameBytes = 1024 * 1024

const setup = Effect.gen(function* () {
  const directory = yield* temporary
  const protocol = Context.get(yield* Layer.build(FileMailbox.layer), Protocol)
  const place = { id, directory, maxFrameBytes }
  return {
    mail: path.join(directory, "mail"),
    directory,
    listen: (name = nonce()) => protocol.listen({ ...place, nonce: name, maxConnections: 100 }),
    connect: (address: string, gone?: Effect.Effect<void>) => protocol.connect(address, { ...place, gone })
  }
})

const until = (what: string, condition: () => boolean) =>
  Effect.gen(function* () {
    for (let round = 0; round < 1_000; round++) {
      if (condition()) return
      yield* Effect.sleep("20 millis")
    }
    assert.fail(`${what} did not come about`)
  })

const words = (connection: Connection) =>
  Effect.map(connection.receive, (frames) => frames.map((frame) => Buffer.from(frame).toString()))

/** The next connection that is opened by a frame, and the frames that are there. */
const accept = (listener: Listener) =>
  Effect.gen(function* () {
    const connection = yield* listener.accept
    yield* connection.trust
    return { connection, frames: yield* words(connection) }
  })

// No process has this pid: it is above what any system gives.
const deadPid = 2 ** 30

/** The same origin, of a process that is no more. */
const buried = (origin: string) => origin.replace(/-\d+-(\d+)$/, `-${deadPid}-$1`)

/** The mailbox of a listener. */
const boxOf = (mail: string, address: string) => path.join(mail, address.split("/")[1]!)

/** What a primary leaves that was killed: its marker, and what it had taken, of a process that is no more. */
const bury = (mail: string, address: string) => {
  const box = boxOf(mail, address)
  for (const file of fs.readdirSync(box)) {
    if (/^[lx]\./.test(file)) fs.renameSync(path.join(box, file), path.join(box, buried(file)))
  }
}

/** The names of all files of all mailboxes. */
const filesIn = (mail: string): ReadonlyArray<string> =>
  fs.existsSync(mail)
    ? fs
        .readdirSync(mail, { recursive: true, withFileTypes: true })
        .flatMap((entry) => (entry.isDirectory() ? [] : [entry.name]))
    : []

/** The origin of this process, as a listener tells it. */
const originIn = (box: string): string =>
  fs
    .readdirSync(box)
    .find((name) => name.startsWith("l."))!
    .slice("l.".length)

const text = (words: string) => Buffer.from(words)

describe("FileMailbox", () => {
  it.scopedLive("keeps what no primary took for the next one, which gets it once, introduced", () =>
    Effect.gen(function* () {
      const { connect, listen, mail } = yield* setup
      const first = yield* child
      const { address } = yield* Scope.extend(listen(), first)
      const connection = yield* connect(address)
      for (const words of ["hello", "a", "b"]) yield* connection.send(text(words))
      bury(mail, address)
      const next = yield* listen()
      const { connection: far, frames } = yield* accept(next)
      while (frames.length < 3) frames.push(...(yield* words(far)))
      assert.deepStrictEqual(frames, ["hello", "a", "b"])
      assert.isFalse(far.recovered === true)
    })
  )

  it.scopedLive("introduces the sender again to a primary that takes only the rest", () =>
    Effect.gen(function* () {
      // Whatever the primaries of this test do, they do within one and the same millisecond.
      const { now } = Date
      const instant = now()
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          Date.now = () => instant
        }),
        () =>
          Effect.sync(() => {
            Date.now = now
          })
      )
      const { connect, listen, mail } = yield* setup
      const first = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))
      const listener = yield* Scope.extend(listen(), first)
      const connection = yield* connect(listener.address)
      yield* connection.send(text("hello"))
      yield* connection.send(text("taken"))
      const early = yield* Scope.extend(accept(listener), first)
      while (early.frames.length < 2) early.frames.push(...(yield* words(early.connection)))
      assert.deepStrictEqual(early.frames, ["hello", "taken"])
      // Another message comes, and before that one is taken the primary dies.
      yield* connection.send(text("left"))
      bury(mail, listener.address)
      const next = yield* listen()
      const conversations = [yield* accept(next), yield* accept(next)]
      const recovered = conversations.find(({ connection }) => connection.recovered === true)
      const fresh = conversations.find(({ connection }) => connection.recovered !== true)
      recovered!.frames.push(...(yield* words(recovered!.connection)))
      assert.deepStrictEqual(recovered!.frames, ["hello", "taken"])
      assert.deepStrictEqual(fresh?.frames, ["hello", "left"])
      // Whatever answers, the sender hears it.
      yield* recovered!.connection.send(text("unknown"))
      yield* fresh!.connection.send(text("done"))
      const heard: Array<string> = []
      // It has seen that its primary is gone, and still hears what comes.
      const hearing = Effect.retry(words(connection), {
        times: 500,
        while: () => Effect.as(Effect.sleep("20 millis"), true)
      })
      while (heard.length < 2) heard.push(...(yield* hearing))
      assert.sameMembers(heard, ["unknown", "done"])
    })
  )

  // Whoever withdraws and whoever takes never both have it.
  const race = (withdrawing: (connection: Connection, frame: Uint8Array, mail: string) => Effect.Effect<boolean>) =>
    Effect.gen(function* () {
      const { connect, listen, mail } = yield* setup
      const listener = yield* listen()
      const { far, near } = yield* pair(listener, connect(listener.address))
      yield* near.send(text("hello"))
      yield* receive(far, 1)
      const taken = new Set<number>()
      yield* Effect.forkScoped(
        far.receive.pipe(
          Effect.tap((frames) => frames.map((frame) => taken.add(frame.length))),
          // Pauses of many lengths: else this side would be first each time on some machines.
          Effect.zipLeft(Effect.suspend(() => Effect.sleep((taken.size % 5) * 2))),
          Effect.forever,
          Effect.ignore
        )
      )
      const withdrawn = new Set<number>()
      for (let round = 1; round <= 200; round++) {
        const frame = bytes(round)
        yield* near.send(frame)
        // Anywhere between at once and too late.
        if (round % 4 > 0) yield* Effect.sleep(`${(round % 7) * 300} micros`)
        if (yield* withdrawing(near, frame, mail)) withdrawn.add(round)
      }
      yield* until("the rest", () => !filesIn(mail).some((name) => name.startsWith("n.")))
      yield* Effect.sleep("100 millis")
      const both = [...withdrawn].filter((round) => taken.has(round)).length
      return { both, neither: 200 - taken.size - withdrawn.size + both, withdrawn: withdrawn.size, taken: taken.size }
    })

  it.scopedLive("either takes back or was taken, never both and never neither @large", () =>
    Effect.gen(function* () {
      // On a busy machine one side may be first 200 times.
      const { taken, withdrawn } = yield* Effect.scoped(race((connection, frame) => connection.withdraw!(frame))).pipe(
        Effect.tap(({ both, neither }) => assert.deepStrictEqual({ both, neither }, { both: 0, neither: 0 })),
        Effect.repeat({ times: 9, until: ({ taken, withdrawn }) => taken > 0 && withdrawn > 0 })
      )
      assert.isAbove(taken, 0)
      assert.isAbove(withdrawn, 0)
    })
  )

  it.scopedLive("would not where taking back looked first (the canary) @large", () =>
    Effect.gen(function* () {
      const looking = race((_, frame, mail) =>
        Effect.gen(function* () {
          const name = fs
            .readdirSync(mail, { recursive: true, encoding: "utf8" })
            .find((file) => /(^|\/)n\./.test(file) && file.endsWith(`.f${9 + 5 + frame.length}`))
          if (name === undefined) return false
          // Time for the other side to take it in between.
          for (let millis = 0; millis < 200 && fs.existsSync(path.join(mail, name)); millis++)
            yield* Effect.sleep("1 millis")
          fs.rmSync(path.join(mail, name), { force: true })
          return true
        })
      )
      const found = yield* Effect.repeat(Effect.scoped(looking), { times: 9, until: ({ both }) => both > 0 })
      assert.isAbove(found.both, 0)
    })
  )

  it.scopedLive("has taken only what was asked for: the rest can be taken back", () =>
    Effect.gen(function* () {
      const { connect, listen, mail } = yield* setup
      const listener = yield* listen()
      const connection = yield* connect(listener.address)
      const [hello, ...rest] = ["hello", "a", "b"].map(text)
      for (const frame of [hello!, ...rest]) yield* connection.send(frame)
      const far = yield* listener.accept
      assert.deepStrictEqual(yield* words(far), ["hello"])
      assert.isFalse(yield* connection.withdraw!(hello!))
      assert.deepStrictEqual(filesIn(mail).filter((name) => /^n\./.test(name)).length, 2)
      for (const frame of rest) assert.isTrue(yield* connection.withdraw!(frame))
    })
  )

  it.scopedLive("gives back what nobody looked at, and the next one never has it", () =>
    Effect.gen(function* () {
      const { connect, listen, mail } = yield* setup
      const own = yield* child
      const first = yield* Scope.extend(listen(), own)
      const connection = yield* connect(first.address)
      const frames = ["hello", "looked at", "a", "b"].map(text)
      for (const frame of frames) yield* connection.send(frame)
      const far = yield* Scope.extend(first.accept, own)
      assert.deepStrictEqual(yield* words(far), ["hello"])
      assert.deepStrictEqual(yield* words(far), ["looked at"])
      yield* Scope.close(own, Exit.void)
      assert.strictEqual((yield* Effect.flip(connection.receive)).reason, "Disconnected")
      const next = yield* listen()
      const got = yield* Effect.fork(accept(next))
      yield* Effect.sleep("500 millis")
      assert.isNull(got.unsafePoll())
      assert.deepStrictEqual(yield* Effect.forEach(frames, (frame) => connection.withdraw!(frame)), [
        false,
        false,
        true,
        true
      ])
      assert.deepStrictEqual(
        filesIn(mail).filter((name) => /^[ncr]\./.test(name)),
        []
      )
    })
  )

  it.scopedLive("says that the mailbox is full, and has sent nothing", () =>
    Effect.gen(function* () {
      const { connect, listen, mail } = yield* setup
      const { address } = yield* listen()
      const connection = yield* connect(address)
      const box = boxOf(mail, address)
      const elsewhere = `n.${originIn(box)}-${"e".repeat(32)}`
      for (let n = 0; n < FileMailbox.spool.messages; n++) {
        fs.writeFileSync(path.join(box, `${elsewhere}.${String(n).padStart(16, "0")}.f9`), "")
      }
      const full = yield* Effect.flip(connection.send(text("hello")))
      assert.deepStrictEqual([full.reason, full.outcome], ["Busy", "NotDelivered"])
    })
  )

  it.scopedLive("is harmed by nothing that lies there, and removes none of it", () =>
    Effect.gen(function* () {
      const { connect, listen, mail } = yield* setup
      const listener = yield* listen()
      const box = boxOf(mail, listener.address)
      const lane = (digit: string) => `${originIn(box)}-${digit.repeat(32)}`
      const first = "0".repeat(16)
      const odd = [
        "n",
        "n.",
        "l.x",
        `n.${lane("a")}.1.f9`,
        `n.${lane("a")}.${first}.z9`,
        `n...${first}.f9`,
        "emoji 🙂",
        " ",
        "d.x",
        "c.",
        "t.x"
      ]
      for (const folder of [mail, box]) for (const file of odd) fs.writeFileSync(path.join(folder, file), "garbage")
      fs.mkdirSync(path.join(box, `n.${lane("b")}.${first}.o9`))
      // Windows permits links to few, and Wine makes none.
      const links = process.platform === "win32" ? 0 : 1
      if (links > 0) fs.symlinkSync("/etc/passwd", path.join(box, `n.${lane("c")}.${first}.f9`))
      fs.writeFileSync(path.join(box, `n.${lane("d")}.${first}.f9`), "too short")
      fs.writeFileSync(path.join(box, `n.${lane("e")}.${first}.f12`), "ESIM1\u00ff\u00ff\u00ff\u00ff\u00ff")
      fs.writeFileSync(path.join(box, `n.${lane("f")}.${first}.f999999999`), "")
      const reasons: Array<string> = []
      for (let n = 0; n < 4 + links; n++) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* listener.accept
            reasons.push((yield* Effect.flip(Effect.timeout(connection.receive, "5 seconds")))._tag)
          })
        )
      }
      assert.lengthOf(reasons, 4 + links)
      assert.isTrue(reasons.every((tag) => tag === "ProtocolError" || tag === "TimeoutException"))
      const { far, near } = yield* pair(listener, connect(listener.address))
      yield* near.send(text("hello"))
      assert.isTrue(isSame((yield* receive(far, 1))[0], text("hello")))
      for (const folder of [mail, box]) {
        for (const file of odd) assert.strictEqual(fs.readFileSync(path.join(folder, file), "utf8"), "garbage")
      }
      if (links > 0) assert.isTrue(fs.existsSync("/etc/passwd"))
    })
  )

  it.scopedLive("keeps nothing of what a dead primary had taken, once that is answered", () =>
    Effect.gen(function* () {
      const { connect, listen, mail } = yield* setup
      const listener = yield* Scope.extend(listen(), yield* child)
      const sender = yield* child
      const gone = yield* Deferred.make<void>()
      const connecting = connect(listener.address, Deferred.await(gone))
      const { far, near } = yield* pair(listener, Scope.extend(connecting, sender))
      yield* near.send(text("hello"))
      yield* near.send(text("taken"))
      yield* receive(far, 2)
      bury(mail, listener.address)
      yield* Deferred.succeed(gone, undefined)
      assert.strictEqual((yield* Effect.flip(near.receive)).reason, "Disconnected")
      // Its process lives on, and is not there any more.
      yield* Scope.close(sender, Exit.void)
      const next = yield* listen()
      const own = yield* child
      const { connection, frames } = yield* Scope.extend(accept(next), own)
      assert.deepStrictEqual([connection.recovered, frames], [true, ["hello"]])
      assert.deepStrictEqual(yield* words(connection), ["taken"])
      assert.strictEqual((yield* Effect.flip(connection.receive)).reason, "Disconnected")
      yield* Effect.ignore(connection.send(text("unknown")))
      yield* Scope.close(own, Exit.void)
      yield* until("order", () => filesIn(mail).every((name) => name.startsWith("l.")))
      yield* until("one mailbox", () => fs.readdirSync(mail).length === 1)
      assert.deepStrictEqual(fs.readdirSync(mail), [path.basename(boxOf(mail, next.address))])
    })
  )

  it.scopedLive("clears away what senders left that were killed, and nothing of the living", () =>
    Effect.gen(function* () {
      const { connect, listen, mail } = yield* setup
      const listener = yield* listen()
      const { far, near } = yield* pair(listener, connect(listener.address))
      yield* near.send(text("hello"))
      yield* receive(far, 1)
      const living = originIn(boxOf(mail, listener.address))
      const dead = buried(living)
      const leave = (origin: string) => {
        const lane = path.join(mail, `${origin}-${nonce()}`)
        fs.mkdirSync(lane)
        const left = [
          path.join(boxOf(mail, listener.address), `t.${origin}.${nonce()}`),
          path.join(lane, `d.${"1".repeat(16)}.${nonce()}.f9`),
          path.join(lane, "l")
        ]
        for (const file of left) fs.writeFileSync(file, "")
        return [...left, lane]
      }
      const [ours, theirs] = [leave(living), leave(dead)]
      yield* until("order", () => !theirs.some((file) => fs.existsSync(file)))
      assert.isTrue(ours.every((file) => fs.existsSync(file)))
    })
  )

  it.scopedLive("takes over from a process whose pid is another one's by now", () =>
    Effect.gen(function* () {
      // Elsewhere a process is known by its pid alone.
      if (process.platform !== "linux") return
      const { connect, listen, mail } = yield* setup
      const first = yield* Scope.extend(listen(), yield* child)
      const connection = yield* connect(first.address)
      for (const words of ["hello", "a"]) yield* connection.send(text(words))
      const box = boxOf(mail, first.address)
      const origin = originIn(box)
      // This very process has the pid, and was started at another time.
      const other = origin.replace(/\d+$/, (start) => String(Number(start) - 1))
      fs.renameSync(path.join(box, `l.${origin}`), path.join(box, `l.${other}`))
      assert.strictEqual((yield* Effect.flip(connect(first.address))).reason, "Unreachable")
      const { frames } = yield* accept(yield* listen())
      assert.deepStrictEqual(frames.slice(0, 1), ["hello"])
    })
  )

  it("asks again for its own start where the system refused to tell it", async () => {
    if (process.platform !== "linux") return
    vi.resetModules()
    const { self } = await import("effect-single-instance/protocol/mailbox/origins")
    const { readFileSync } = nodeFs
    for (const refused of ["/etc/machine-id", "/proc/self/status", "/proc/self/stat"]) {
      nodeFs.readFileSync = ((file: string, ...rest: ReadonlyArray<never>) => {
        if (file === refused) throw Object.assign(new Error("EMFILE"), { code: "EMFILE" })
        return readFileSync(file, ...rest)
      }) as typeof readFileSync
      syncBuiltinESMExports()
      try {
        assert.throws(self, /EMFILE/, refused)
      } finally {
        nodeFs.readFileSync = readFileSync
        syncBuiltinESMExports()
      }
    }
    assert.match(self(), new RegExp(`-${process.pid}-[1-9]\\d*$`))
  })

  /** What senders of another host left: a folder each, with an answer that nobody took, and a sign of life so old. */
  const leaveElsewhere = (mail: string, count: number, millis: number): ReadonlyArray<string> =>
    Array.from({ length: count }, (_, n) => {
      const lane = path.join(mail, `deadbeef-deadbeef-deadbeef-${n + 1}-1-${nonce()}`)
      fs.mkdirSync(lane, { recursive: true })
      fs.writeFileSync(path.join(lane, `d.${"1".repeat(16)}.${nonce()}.f9`), "")
      fs.writeFileSync(path.join(lane, "l"), "")
      age(path.join(lane, "l"), millis)
      return lane
    })
  const age = (file: string, millis: number) => {
    const then = new Date(Date.now() - millis)
    fs.utimesSync(file, then, then)
  }
  const hour = 60 * 60 * 1_000

  it.scopedLive("takes as long for a message whatever lies there, and bounds that while it leads @large", () =>
    Effect.gen(function* () {
      const trips = Effect.gen(function* () {
        const { connect, listen, mail } = yield* setup
        const listener = yield* listen()
        const { far, near } = yield* pair(listener, connect(listener.address))
        const trip = near
          .send(text("there"))
          .pipe(
            Effect.zipRight(receive(far, 1)),
            Effect.zipRight(far.send(text("back"))),
            Effect.zipRight(receive(near, 1))
          )
        yield* near.send(text("hello"))
        yield* receive(far, 1)
        return { mail, trip }
      })
      const [empty, full] = [yield* trips, yield* trips]
      const lanes = leaveElsewhere(full.mail, 1_050, 0)
      // A listener of another host, which may live, with what others sent it.
      const box = path.join(full.mail, nonce())
      fs.mkdirSync(box)
      fs.writeFileSync(path.join(box, `l.deadbeef-deadbeef-deadbeef-1-1`), "")
      for (const lane of lanes.slice(0, 300)) {
        fs.writeFileSync(path.join(box, `n.${path.basename(lane)}.${"0".repeat(16)}.f9`), "")
      }
      const best = { empty: Number.POSITIVE_INFINITY, full: Number.POSITIVE_INFINITY }
      for (let round = 0; round < 5; round++) {
        for (const [name, { trip }] of Object.entries({ empty, full }) as ReadonlyArray<
          ["empty" | "full", typeof empty]
        >) {
          const began = performance.now()
          yield* Effect.repeatN(trip, 4)
          best[name] = Math.min(best[name], performance.now() - began)
        }
      }
      assert.isBelow(best.full / best.empty, 3)
      const here = () => fs.readdirSync(full.mail).length
      const before = here()
      assert.isAbove(before, lanes.length)
      // So many of them are cleared when they are silent for minutes.
      for (const lane of lanes) age(path.join(lane, "l"), hour)
      yield* until("order", () => here() < before)
      assert.isTrue(fs.existsSync(box))
    })
  )

  it.scopedLive(
    "clears what a sender of another host left that is silent for a day, and hands over its message @large",
    () =>
      Effect.gen(function* () {
        const { connect, listen, mail } = yield* setup
        const listener = yield* listen()
        const near = yield* connect(listener.address)
        yield* near.send(text("hello"))
        yield* accept(listener)
        const [living, silent] = [leaveElsewhere(mail, 1, 23 * hour)[0]!, leaveElsewhere(mail, 1, 25 * hour)[0]!]
        // It had sent to a listener of its own host that is silent as well.
        const box = path.join(mail, nonce())
        const marker = path.join(box, `l.deadbeef-deadbeef-deadbeef-7-1`)
        fs.mkdirSync(box)
        const header = Buffer.concat([text("ESIM1"), Buffer.from([0, 0, 0, 0])])
        fs.writeFileSync(
          path.join(box, `n.${path.basename(silent)}.${"0".repeat(16)}.f13`),
          Buffer.concat([header, text("late")])
        )
        fs.writeFileSync(marker, "")
        age(marker, 25 * hour)
        assert.deepStrictEqual((yield* accept(listener)).frames, ["late"])
        yield* until("order", () => !fs.existsSync(silent) && !fs.existsSync(box))
        assert.isTrue(fs.existsSync(living))
      })
  )

  it.scopedLive("sees that the other side has gone: by a hint, by its process", () =>
    Effect.gen(function* () {
      const { connect, listen, mail } = yield* setup
      const listener = yield* listen()
      const gone = yield* Deferred.make<void>()
      const { far, near } = yield* pair(listener, connect(listener.address, Deferred.await(gone)))
      yield* near.send(text("hello"))
      yield* receive(far, 1)
      yield* far.send(text("last words"))
      yield* Deferred.succeed(gone, undefined)
      assert.isTrue(isSame((yield* receive(near, 1))[0], text("last words")))
      assert.strictEqual((yield* Effect.flip(near.receive)).reason, "Disconnected")

      const other = yield* connect(listener.address)
      yield* other.send(text("hello"))
      bury(mail, listener.address)
      assert.strictEqual((yield* Effect.flip(connect(listener.address))).reason, "Unreachable")
    })
  )
})

describe("a conversation by mail, between processes", () => {
  let folder: string
  let bin: string

  beforeAll(async () => {
    folder = fs.mkdtempSync(path.join(tmpdir(), "esi-mail-"))
    bin = (await bundleBin(folder)).file
  })
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

  /** The command, with `--protocol file`; it dies with the test. */
  const start = (directory: string, command: string, ...words: ReadonlyArray<string>) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        const args = [bin, command, "app", "--json", "--dir", directory, "--protocol", "file", ...words]
        const process_ = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] })
        let out = ""
        process_.stdout.on("data", (chunk) => (out += chunk))
        const events = (): ReadonlyArray<any> =>
          out.split("\n").flatMap((line) => (line.startsWith("{") ? [JSON.parse(line)] : []))
        const exit = until(`the end of ${command}`, () => process_.exitCode !== null).pipe(
          Effect.map(() => process_.exitCode)
        )
        return {
          process: process_,
          events: (name: string) => events().filter(({ event }) => event === name),
          exit
        }
      }),
      ({ process }) =>
        Effect.sync(() => {
          process.kill("SIGKILL")
        })
    )

  const messages = (directory: string): ReadonlyArray<string> =>
    fs
      .readdirSync(directory, { recursive: true, encoding: "utf8" })
      .filter((name) => /\/n\..*\.f\d+$/.test(name))
      .filter((name) => fs.readFileSync(path.join(directory, name), "utf8").includes('"Request"'))

  /** A primary that is stopped, and a way to see that something waits for it. */
  const stopped = Effect.gen(function* () {
    const directory = path.join(yield* temporary, "locks")
    const primary = yield* start(directory, "listen")
    yield* until("a primary", () => primary.events("primary").length === 1)
    primary.process.kill("SIGSTOP")
    return { directory, primary, waiting: until("mail", () => messages(directory).length === 1) }
  })

  it.scopedLive("waits for a primary that is stopped, and is handled once @large", () =>
    Effect.gen(function* () {
      const { directory, primary, waiting } = yield* stopped
      const sender = yield* start(directory, "send", "--timeout", "50s", "--", "x")
      yield* waiting
      primary.process.kill("SIGCONT")
      assert.strictEqual(yield* sender.exit, 0)
      assert.strictEqual(sender.events("delivered")[0].protocol, "file")
      yield* Effect.sleep("1 second")
      assert.deepStrictEqual(
        primary.events("launch").map(({ argv }) => argv),
        [["x"]]
      )
    })
  )

  it.scopedLive("is taken back when the time is up, and never handled @large", () =>
    Effect.gen(function* () {
      const { directory, primary } = yield* stopped
      const sender = yield* start(directory, "send", "--timeout", "3s", "--", "x")
      assert.strictEqual(yield* sender.exit, 75)
      assert.deepInclude(sender.events("error")[0], { error: "TimeoutError", outcome: "NotDelivered" })
      primary.process.kill("SIGCONT")
      const later = yield* start(directory, "send", "--timeout", "50s", "--", "y")
      assert.strictEqual(yield* later.exit, 0)
      assert.deepStrictEqual(
        primary.events("launch").map(({ argv }) => argv),
        [["y"]]
      )
    })
  )

  it.scopedLive("is taken back where the primary dies, and its sender is the next one @large", () =>
    Effect.gen(function* () {
      const { directory, primary, waiting } = yield* stopped
      const next = yield* start(directory, "run", "--timeout", "50s", "--", "true")
      yield* waiting
      primary.process.kill("SIGKILL")
      assert.strictEqual(yield* next.exit, 0)
      assert.strictEqual(next.events("primary")[0].took, "dead")
      assert.lengthOf(primary.events("launch"), 0)
      assert.deepStrictEqual(messages(directory), [])
    })
  )
})
