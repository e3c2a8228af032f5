import * as fs from "node:fs"
import * as path from "node:path"
import type { CommandExecutor, FileSystem } from "@effect/platform"
import { NodeContext, NodeRuntime } from "@effect/platform-node"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import {
  ConfigProvider,
  Context,
  Deferred,
  Effect,
  Exit,
  Fiber,
  HashMap,
  Layer,
  Logger,
  LogLevel,
  Metric,
  type MetricState,
  Option,
  Schema,
  type Scope,
  Tracer
} from "effect"
import { Instance, Message, type Primary, SingleInstance, TestSingleInstance, UnixSocket } from "effect-single-instance"
import { InstanceId } from "effect-single-instance/InstanceId"
import type { InstanceLock } from "effect-single-instance/InstanceLock"
import { PidVerifier } from "effect-single-instance/PidVerifier"
import { Protocol } from "effect-single-instance/Protocol"
import * as TestPidVerifier from "effect-single-instance/pid/TestPidVerifier"
import * as SingleInstanceConfig from "effect-single-instance/SingleInstanceConfig"
import { LockError, ProtocolError, TimeoutError } from "effect-single-instance/SingleInstanceError"
import {
  failureOf,
  fileWorld,
  isDone,
  type Member,
  type MemberOptions,
  member,
  memoryWorld,
  pass,
  rivalOf,
  settle,
  temporary,
  type World
} from "./simulation.js"

class FileMissing extends Schema.TaggedError<FileMissing>()("FileMissing", { file: Schema.String }) {}

class Editor extends SingleInstance.Tag<Editor>()("test.editor", {
  request: Schema.Struct({ open: Schema.Array(Schema.String), at: Schema.optional(Schema.Date) }),
  reply: Schema.Struct({ windows: Schema.Int }),
  failure: FileMissing
}) {}

class Text extends SingleInstance.Tag<Text>()("test.text", { request: Schema.String, reply: Schema.String }) {}

/** Runs a program as a member, in a fiber that is interrupted with the scope. */
const run = <Self, A, E>(process: Pick<Member<Self, any, any, any>, "context">, program: Effect.Effect<A, E, Self>) =>
  Effect.acquireRelease(
    Effect.forkDaemon(Effect.interruptible(Effect.provide(program, process.context))),
    Fiber.interruptFork
  )

/** A member that leads and serves until it is interrupted. */
const textServer = (
  world: World,
  handler: (text: string, launch: Primary.IncomingLaunch) => Effect.Effect<string, never, Scope.Scope>,
  options?: MemberOptions
) =>
  Effect.gen(function* () {
    const process = yield* world.member(Text, options)
    const ready = yield* Deferred.make<Instance.Primary<string, string, never>>()
    const fiber = yield* run(
      process,
      Text.enforce({
        request: "first",
        primary: (primary) =>
          Effect.gen(function* () {
            yield* primary.serve(handler)
            yield* Deferred.succeed(ready, primary)
            return yield* Effect.never
          })
      })
    )
    return { process, fiber, primary: yield* Deferred.await(ready), stop: Fiber.interrupt(fiber) }
  })

const until = (what: string, condition: () => boolean) =>
  Effect.gen(function* () {
    for (let round = 0; round < 500; round++) {
      if (condition()) return
      yield* Effect.sleep("10 millis")
    }
    assert.fail(`${what} did not come about`)
  })

// What holds in memory and over real files and sockets alike.
const everywhere = (name: string, world: Effect.Effect<World, never, Scope.Scope>) =>
  describe(`an instance ${name}`, () => {
    it.scopedLive("hands over typed requests, replies and failures", () =>
      Effect.gen(function* () {
        const { member } = yield* world
        const primary = yield* member(Editor, { version: "1.2" })
        const opened = yield* Deferred.make<Date | undefined>()
        const ready = yield* Deferred.make<Instance.Primary<any, any, any>>()
        yield* run(
          primary,
          Editor.enforce({
            request: { open: ["first"] },
            primary: (leader) =>
              Effect.gen(function* () {
                assert.deepStrictEqual(leader.request, { open: ["first"] })
                yield* leader.serve(({ at, open }) =>
                  Effect.gen(function* () {
                    if (open.includes("missing")) return yield* new FileMissing({ file: "missing" })
                    if (open.includes("broken")) return yield* Effect.die(new Error("it broke"))
                    if (open.includes("interrupted")) return yield* Effect.interrupt
                    yield* Deferred.succeed(opened, at)
                    return { windows: open.length }
                  })
                )
                yield* Deferred.succeed(ready, leader)
                return yield* Effect.never
              })
          })
        )
        const { endpoints, epoch, pid } = yield* Deferred.await(ready)
        assert.strictEqual(pid, primary.pid)
        const second = yield* member(Editor)
        const enforce = (open: ReadonlyArray<string>, at?: Date) =>
          Editor.enforce({
            request: { open, at },
            primary: () => Effect.dieMessage("there is a primary already"),
            secondary: (delivered) => Effect.succeed(delivered)
          }).pipe(Effect.provide(second.context))
        const at = new Date(0)
        const delivered = yield* enforce(["a", "b"], at)
        assert.deepStrictEqual(delivered.reply, { windows: 2 })
        assert.deepStrictEqual(yield* Deferred.await(opened), at)
        assert.deepStrictEqual(delivered.primary, { pid: primary.pid, epoch, version: "1.2" })
        assert.strictEqual(delivered.address, endpoints[0]?.address)
        assert.strictEqual(delivered.protocol, endpoints[0]?.protocol)
        assert.strictEqual(delivered.attempts, 1)
        assert.match(delivered.message, /^[0-9a-f-]{36}$/)

        const missing = failureOf(yield* Effect.exit(enforce(["missing"])))
        assert(missing instanceof FileMissing)
        assert.strictEqual(missing.file, "missing")
        const died = failureOf(yield* Effect.exit(enforce(["broken"])))
        assert(ProtocolError.is(died))
        assert.deepStrictEqual([died.reason, died.outcome, died.pid], ["HandlerDefect", "Delivered", primary.pid])
        assert.strictEqual((died.cause as Error).message, "it broke")
        const interrupted = failureOf(yield* Effect.exit(enforce(["interrupted"])))
        assert(ProtocolError.is(interrupted))
        assert.deepStrictEqual([interrupted.reason, interrupted.outcome], ["HandlerInterrupted", "Delivered"])
        // A request that does not fit its own schema never leaves.
        const invalid = failureOf(yield* Effect.exit(enforce([42 as any])))
        assert(ProtocolError.is(invalid))
        assert.deepStrictEqual([invalid.reason, invalid.outcome], ["Malformed", "NotDelivered"])
      })
    )

    it.scopedLive("returns what was delivered, where there is nothing else to do with it", () =>
      Effect.gen(function* () {
        const place = yield* world
        yield* textServer(place, (text) => Effect.succeed(`re: ${text}`))
        const second = yield* place.member(Text)
        const delivered = yield* Effect.provide(
          Text.enforce({ request: "a", primary: () => Effect.succeed("leads") }),
          second.context
        )
        assert(typeof delivered === "object")
        assert.deepStrictEqual([delivered._tag, delivered.reply], ["Delivered", "re: a"])
      })
    )

    it.scopedLive("hands over a launch as it is, where there is no contract", () =>
      Effect.gen(function* () {
        const { member } = yield* world
        const launches: Array<Message.Launch> = []
        const ready = yield* Deferred.make<Message.Launch>()
        const primary = yield* member(SingleInstance.SingleInstance)
        yield* run(
          primary,
          SingleInstance.SingleInstance.enforce({
            launch: { argv: ["first"], env: ["ESI_CHOSEN"] },
            primary: (leader) =>
              Effect.gen(function* () {
                yield* leader.serve((request, launch) => {
                  launches.push({ ...request }, { ...launch })
                  return Effect.succeed(request.argv.length)
                })
                assert.strictEqual(leader.request, leader.launch)
                yield* Deferred.succeed(ready, leader.launch)
                return yield* Effect.never
              })
          })
        )
        process.env.ESI_CHOSEN = "yes \0| é\n"
        process.env.ESI_SECRET = "no"
        assert.deepStrictEqual([...(yield* Deferred.await(ready)).argv], ["first"])
        const { instance } = yield* member(SingleInstance.SingleInstance)
        const argv = ["", " leading", "trailing ", "a\nb", "a\0b", "|", "é👩‍👩‍👧", "\ud800", "--flag=x"]
        const stdin = Buffer.from([0, 255, 10, 13])
        const data = { nested: [null, 1.5, "\ud83d", { "": false }] }
        const sent = yield* instance.send(undefined, {
          launch: { argv, cwd: "/some where/é", env: ["ESI_CHOSEN", "ESI_UNSET"], data, stdin }
        })
        assert.strictEqual(sent.reply, argv.length)
        for (const launch of launches.splice(0)) {
          assert.deepStrictEqual([...launch.argv], argv)
          assert.strictEqual(launch.cwd, "/some where/é")
          assert.deepStrictEqual({ ...launch.env }, { ESI_CHOSEN: process.env.ESI_CHOSEN })
          assert.deepStrictEqual(launch.data, data)
          assert.deepStrictEqual(Buffer.from(launch.stdin!), stdin)
        }
        // As a value of one's own, of the class or not.
        for (const launch of [
          new Message.Launch({ argv: ["x"], cwd: "/y", env: {} }),
          { argv: ["x"], cwd: "/y", env: {} }
        ]) {
          yield* instance.send(launch as Message.Launch)
          for (const seen of launches.splice(0)) assert.deepStrictEqual([[...seen.argv], seen.cwd], [["x"], "/y"])
        }
        // Told as it is where nothing is said: no variable is passed on, as they hold secrets.
        yield* instance.send(undefined)
        const [told] = launches.splice(0) as [Message.Launch]
        assert.deepStrictEqual([[...told.argv], told.cwd, { ...told.env }], [process.argv.slice(2), process.cwd(), {}])
        assert.deepStrictEqual([told.data, told.stdin], [undefined, undefined])
      })
    )

    it.scopedLive("shows output in order, both streams, at the pace of who reads it", () =>
      Effect.gen(function* () {
        const place = yield* world
        let written = 0
        yield* textServer(place, (text, { stderr, stdout }) =>
          Effect.gen(function* () {
            for (let i = 0; i < 30; i++) {
              yield* (i % 3 === 0 ? stderr : stdout)(`${text} ${i} ${"x".repeat(100_000)}`)
              written++
            }
            return "end"
          })
        )
        const { instance } = yield* place.member(Text)
        const read: Array<string> = []
        let ahead = 0
        const { reply } = yield* instance.send("line", {
          onOutput: (stream, chunk) =>
            Effect.zipRight(
              read.length < 5 ? Effect.sleep("20 millis") : Effect.void,
              Effect.sync(() => {
                ahead = Math.max(ahead, written - read.length)
                read.push(`${stream} ${Buffer.from(chunk).toString().slice(0, 7).trim()}`)
              })
            )
        })
        assert.strictEqual(reply, "end")
        assert.deepStrictEqual(
          read,
          Array.from({ length: 30 }, (_, i) => `${i % 3 === 0 ? "stderr" : "stdout"} line ${i}`)
        )
        // The handler waited for its reader: what is on the way is bounded.
        assert.isBelow(ahead, 25)
      })
    )

    it.scopedLive("interrupts the handler with its sender, and closes its scope", () =>
      Effect.gen(function* () {
        const place = yield* world
        const events: Array<string> = []
        yield* textServer(place, (text) =>
          Effect.gen(function* () {
            yield* Effect.addFinalizer((exit) =>
              Effect.sync(() => events.push(`${text} closed ${Exit.isInterrupted(exit) ? "interrupted" : exit._tag}`))
            )
            events.push(`${text} began`)
            return yield* Effect.never
          })
        )
        const sender = yield* place.member(Text)
        const enforcing = yield* run(
          sender,
          Text.enforce({ request: "a", primary: () => Effect.dieMessage("there is a primary already") })
        )
        yield* until("the handler's start", () => events.length === 1)
        const exit = yield* Fiber.interrupt(enforcing)
        assert.isTrue(Exit.isInterrupted(exit))
        // It was awaited, not only announced.
        assert.deepStrictEqual(events, ["a began", "a closed interrupted"])
        const client = yield* sender.instance.connect
        const sending = yield* Effect.fork(client.send("b"))
        yield* until("the handler's start", () => events.length === 3)
        yield* Fiber.interrupt(sending)
        assert.deepStrictEqual(events.slice(2), ["b began", "b closed interrupted"])
        const patient = yield* Effect.fork(client.send("c", { replyTimeout: "1 minute" }))
        yield* until("the handler's start", () => events.length === 5)
        yield* Fiber.interrupt(patient)
        assert.deepStrictEqual(events.slice(4), ["c began", "c closed interrupted"])
      })
    )

    for (const way of ["enforce", "elect"] as const) {
      it.scopedLive(`ends in good order also where it is interrupted while it ends: ${way}`, () =>
        Effect.gen(function* () {
          const place = yield* world
          const events: Array<string> = []
          const process = yield* place.member(Text)
          const ends = yield* Deferred.make<void>()
          const goesOn = yield* Deferred.make<void>()
          const note = (event: string) => Effect.sync(() => events.push(event))
          const lead = (primary: Instance.Primary<string, string, never>) =>
            Effect.gen(function* () {
              yield* Effect.addFinalizer(() => note("closed"))
              yield* primary.serve((text) =>
                note(`${text} began`).pipe(
                  Effect.zipRight(Deferred.await(goesOn)),
                  Effect.zipRight(note(`${text} ended`)),
                  Effect.as(`re: ${text}`)
                )
              )
              events.push("leads")
              yield* Deferred.await(ends)
            })
          const elected = Effect.flatMap(process.instance.elect("first"), (verdict) =>
            verdict._tag === "Primary" ? lead(verdict) : Effect.dieMessage("there is a primary already")
          )
          const leading = yield* run(
            process,
            way === "enforce" ? Text.enforce({ request: "first", primary: lead }) : Effect.scoped(elected)
          )
          yield* until("the primary", () => events.length === 1)
          const client = yield* (yield* place.member(Text)).instance.connect
          const sending = yield* Effect.fork(client.send("a"))
          yield* until("the handler's start", () => events.length === 2)
          yield* Deferred.succeed(ends, undefined)
          // It waits for the handler now.
          yield* Effect.sleep("100 millis")
          yield* Fiber.interruptFork(leading)
          yield* Effect.sleep("100 millis")
          yield* Deferred.succeed(goesOn, undefined)
          assert.strictEqual(yield* Fiber.join(sending), "re: a")
          yield* Fiber.await(leading)
          // What is acquired in the very scope of the election closes before it; what `enforce` runs outlives its requests.
          const last = way === "enforce" ? ["a ended", "closed"] : ["closed", "a ended"]
          assert.deepStrictEqual(events, ["leads", "a began", ...last])
        })
      )
    }

    it.scopedLive("sends anew each time that the effect is run", () =>
      Effect.gen(function* () {
        const place = yield* world
        const ids: Array<string> = []
        yield* textServer(place, (text, { message }) =>
          Effect.sync(() => {
            ids.push(message)
            return text
          })
        )
        const client = yield* (yield* place.member(Text)).instance.connect
        yield* Effect.repeatN(client.send("again"), 2)
        assert.lengthOf(new Set(ids), 3)
      })
    )

    it.scopedLive("has requests wait for a handler that is not there yet", () =>
      Effect.gen(function* () {
        const place = yield* world
        const process = yield* place.member(Text)
        const ready = yield* Deferred.make<Instance.Primary<string, string, never>>()
        yield* run(
          process,
          Text.enforce({
            request: "first",
            primary: (primary) => Effect.zipRight(Deferred.succeed(ready, primary), Effect.never)
          })
        )
        const primary = yield* Deferred.await(ready)
        const handled: Array<string> = []
        const { instance } = yield* place.member(Text)
        const waiting = yield* Effect.fork(instance.send("waits"))
        const { instance: hasty } = yield* place.member(Text, { timeout: "300 millis" })
        const error = failureOf(yield* Effect.exit(hasty.send("gives up")))
        assert(TimeoutError.is(error), String(error))
        assert.deepStrictEqual([error.phase, error.outcome, error.pid], ["accept", "NotDelivered", process.pid])
        assert.isFalse(yield* isDone(waiting))
        yield* primary.serve((text) => Effect.sync(() => `${text}: ${handled.push(text)}`))
        assert.strictEqual((yield* Fiber.join(waiting)).reply, "waits: 1")
        yield* instance.send("later")
        // It said NotDelivered, and that stays true.
        assert.deepStrictEqual(handled, ["waits", "later"])
      })
    )

    it.scopedLive("makes who comes while the primary goes away the next one, with its message in hand", () =>
      Effect.gen(function* () {
        const place = yield* world
        const gate = yield* Deferred.make<void>()
        const first = yield* textServer(place, (text) => Effect.as(Deferred.await(gate), `re: ${text}`))
        const accepted = yield* place.member(Text)
        const accepting = yield* Effect.fork(accepted.instance.send("accepted"))
        const client = yield* accepted.instance.connect
        yield* Effect.sleep("50 millis")
        const stopping = yield* Effect.fork(first.stop)
        yield* Effect.sleep("50 millis")
        const second = yield* place.member(Text)
        const next = yield* run(
          second,
          Text.enforce({
            request: "newcomer",
            primary: (primary) => Effect.succeed([primary.request, primary.took, primary.epoch])
          })
        )
        const refused = failureOf(yield* Effect.exit(client.send("over an old connection")))
        assert(ProtocolError.is(refused))
        assert.deepStrictEqual([refused.reason, refused.outcome], ["ShuttingDown", "NotDelivered"])
        yield* Effect.sleep("150 millis")
        // What was accepted drains first.
        assert.isFalse(yield* isDone(next))
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual((yield* Fiber.join(accepting)).reply, "re: accepted")
        yield* Fiber.join(stopping)
        const [request, took, epoch] = (yield* Fiber.join(next)) as [string, string, number]
        assert.deepStrictEqual([request, took], ["newcomer", "released"])
        assert.isAbove(epoch, first.primary.epoch)
      })
    )

    it.scopedLive("refuses what is too large, at either side, and the connection lives on", () =>
      Effect.gen(function* () {
        const place = yield* world
        yield* textServer(place, (text) => Effect.succeed("x".repeat(Number(text.trim()))), { maxFrameBytes: 50_000 })
        for (const maxFrameBytes of [20_000, 100_000]) {
          const { instance } = yield* place.member(Text, { maxFrameBytes })
          const client = yield* instance.connect
          const limit = Math.min(maxFrameBytes, 50_000)
          const large = failureOf(yield* Effect.exit(client.send(" ".repeat(limit))))
          assert(ProtocolError.is(large))
          assert.deepStrictEqual([large.reason, large.outcome], ["TooLarge", "NotDelivered"])
          const reply = failureOf(yield* Effect.exit(client.send(`${limit}`)))
          assert(ProtocolError.is(reply))
          assert.strictEqual(reply.outcome, "Delivered")
          assert.include((reply.cause as Error).message, `the limit is ${limit}`)
          assert.strictEqual(yield* client.send("10"), "x".repeat(10))
          assert.lengthOf(yield* client.send(`${limit - 500}`), limit - 500)
          assert.lengthOf(yield* client.send(`5${" ".repeat(limit - 1_000)}`), 5)
        }
      })
    )

    it.scopedLive("carries a megabyte each way, whole @large", () =>
      Effect.gen(function* () {
        const place = yield* world
        yield* textServer(place, (text) => Effect.succeed(text.split("").reverse().join("")))
        const { instance } = yield* place.member(Text)
        const text = Array.from({ length: 1_000_000 }, (_, i) => String.fromCharCode(0x20 + (i % 0x300))).join("")
        assert.isTrue((yield* instance.send(text)).reply === text.split("").reverse().join(""))
      })
    )

    it.scopedLive("serves many clients with many messages each, every one once @large", () =>
      Effect.gen(function* () {
        const place = yield* world
        const handled: Array<string> = []
        let running = 0
        let most = 0
        yield* textServer(
          place,
          (text) =>
            Effect.acquireUseRelease(
              Effect.sync(() => {
                handled.push(text)
                most = Math.max(most, ++running)
              }),
              () => Effect.as(Effect.sleep(text.endsWith("0") ? "5 millis" : 0), `re: ${text}`),
              () => Effect.sync(() => running--)
            ),
          { maxInFlight: 8 }
        )
        const replies = yield* Effect.forEach(
          Array.from({ length: 10 }, (_, i) => i),
          (i) =>
            Effect.scoped(
              Effect.gen(function* () {
                const { instance } = yield* place.member(Text)
                const client = yield* instance.connect
                return yield* Effect.forEach(
                  Array.from({ length: 100 }, (_, n) => `${i}:${n}`),
                  (text) => client.send(text),
                  { concurrency: "unbounded" }
                )
              })
            ),
          { concurrency: "unbounded" }
        )
        const expected = Array.from({ length: 1_000 }, (_, i) => `${Math.floor(i / 100)}:${i % 100}`)
        assert.deepStrictEqual(
          replies.flat(),
          expected.map((text) => `re: ${text}`)
        )
        assert.sameMembers(handled, expected)
        assert.lengthOf(handled, 1_000)
        assert.isAtMost(most, 80)
      })
    )

    it.scopedLive("elects one of many that start at once, and delivers the messages of the others", () =>
      Effect.gen(function* () {
        const place = yield* world
        const handled: Array<string> = []
        const launches = yield* Effect.forEach(
          Array.from({ length: 16 }, (_, i) => `${i}`),
          (text) =>
            Effect.gen(function* () {
              const process = yield* place.member(Text)
              return yield* run(
                process,
                Text.enforce({
                  request: text,
                  primary: (primary) =>
                    Effect.gen(function* () {
                      yield* Effect.sleep("20 millis")
                      yield* primary.serve((request) => Effect.sync(() => `${text} has ${handled.push(request)}`))
                      handled.push(text)
                      return yield* Effect.never
                    }),
                  secondary: ({ reply }) => Effect.succeed(reply)
                })
              )
            }),
          { concurrency: "unbounded" }
        )
        yield* until("all messages", () => handled.length === 16)
        assert.strictEqual(new Set(handled).size, 16)
        yield* Effect.sleep("50 millis")
        const ended = yield* Effect.filter(launches, isDone)
        assert.lengthOf(ended, 15)
        const replies = yield* Effect.forEach(ended, Fiber.join)
        assert.strictEqual(new Set(replies.map((reply) => `${reply}`.split(" ")[0])).size, 1)
      })
    )

    it.scopedLive("finds nobody to send to, where nobody is", () =>
      Effect.gen(function* () {
        const place = yield* world
        const { instance } = yield* place.member(Text)
        const assertNobody = (error: unknown) => {
          assert(ProtocolError.is(error), String(error))
          assert.deepStrictEqual([error.reason, error.outcome], ["Unreachable", "NotDelivered"])
          assert.include(error.message, Text.key)
        }
        assertNobody(yield* Effect.flip(instance.send("a")))
        assertNobody(yield* Effect.flip(Effect.scoped(instance.connect)))
        // Nor where somebody was.
        const { stop } = yield* textServer(place, Effect.succeed)
        yield* instance.send("a")
        yield* stop
        assertNobody(yield* Effect.flip(instance.send("a")))
        assertNobody(yield* Effect.flip(Effect.scoped(instance.connect)))
      })
    )

    it.scopedLive("tells who is there, and no secret", () =>
      Effect.gen(function* () {
        const place = yield* world
        const { instance } = yield* place.member(Text)
        assert.strictEqual((yield* instance.inspect).state, "free")
        const { primary, process, stop } = yield* textServer(place, Effect.succeed, { version: "3.1" })
        const seen = yield* instance.inspect
        assert.strictEqual(seen.state, "primary")
        assert.isNotEmpty(seen.evidence)
        assert.deepStrictEqual(
          [seen.owner?.pid, seen.owner?.epoch, seen.owner?.version],
          [process.pid, primary.epoch, "3.1"]
        )
        assert.deepStrictEqual([...seen.endpoints], [...primary.endpoints])
        assert.match(seen.nonce ?? "", /^[0-9a-f]{32}$/)
        assert.notMatch(JSON.stringify(seen), /[0-9a-f]{64}/)
        const refused = yield* Effect.flip(instance.breakLock(seen.nonce!))
        assert.strictEqual(refused.reason, "BreakRefused")
        yield* stop
        assert.strictEqual((yield* instance.inspect).state, "released")
      })
    )

    it.scopedLive("lets a standby take its turn", () =>
      Effect.gen(function* () {
        const place = yield* world
        const first = yield* textServer(place, (text) => Effect.succeed(`first: ${text}`))
        const followed: Array<number> = []
        const second = yield* place.member(Text)
        const leading = yield* Deferred.make<Instance.Primary<string, string, never>>()
        const waiting = yield* run(
          second,
          Text.standby({
            request: "second",
            onFollow: ({ pid }) => Effect.sync(() => followed.push(pid)),
            primary: (primary) =>
              Effect.gen(function* () {
                yield* primary.serve((text) => Effect.succeed(`second: ${text}`))
                yield* Deferred.succeed(leading, primary)
                return yield* Effect.never
              })
          })
        )
        yield* until("following", () => followed.length === 1)
        assert.deepStrictEqual(followed, [first.process.pid])
        const { instance } = yield* place.member(Text)
        assert.strictEqual((yield* instance.send("a")).reply, "first: a")
        yield* first.stop
        const primary = yield* Deferred.await(leading)
        assert.deepStrictEqual([primary.request, primary.took, primary.pid], ["second", "released", second.pid])
        assert.isAbove(primary.epoch, first.primary.epoch)
        assert.strictEqual((yield* instance.send("a")).reply, "second: a")
        assert.isFalse(yield* isDone(waiting))
      })
    )

    it.scopedLive("ends with what its primary's effect came to, and releases", () =>
      Effect.gen(function* () {
        const place = yield* world
        const events: Array<string> = []
        const process = yield* place.member(Text)
        const enforce = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) =>
          Text.enforce({ request: "a", primary: () => effect }).pipe(Effect.provide(process.context))
        const result = yield* enforce(
          Effect.as(
            Effect.addFinalizer(() => Effect.sync(() => events.push("closed"))),
            42
          )
        )
        assert.strictEqual(result, 42)
        assert.deepStrictEqual(events, ["closed"])
        assert.strictEqual(failureOf(yield* Effect.exit(enforce(Effect.fail("no")))), "no")
        const died = yield* Effect.exit(enforce(Effect.die("broken")))
        assert.isTrue(Exit.isFailure(died) && died.cause._tag === "Die")
        assert.strictEqual((yield* process.instance.inspect).state, "released")
      })
    )

    it.scopedLive("refuses to lead twice in one process", () =>
      Effect.gen(function* () {
        const place = yield* world
        const { process } = yield* textServer(place, Effect.succeed)
        const error = yield* Effect.flip(Effect.scoped(process.instance.elect("a")))
        assert(LockError.is(error), String(error))
        assert.deepStrictEqual([error.reason, error.owner?.pid], ["AlreadyHeldInProcess", process.pid])
      })
    )

    it.scopedLive("leaves nothing of a launch that is interrupted, whenever that is", () =>
      Effect.gen(function* () {
        const place = yield* world
        const process = yield* place.member(Text)
        for (let turns = 0; turns < 60; turns += 3) {
          const fiber = yield* run(process, Text.enforce({ request: "a", primary: () => Effect.never }))
          yield* Effect.repeatN(Effect.yieldNow(), turns)
          yield* Fiber.interrupt(fiber)
          const { state } = yield* process.instance.inspect
          assert.include(["free", "released"], state, `${turns} turns`)
        }
        yield* textServer(place, Effect.succeed)
      })
    )
  })

everywhere("in memory", memoryWorld)

everywhere("over real files and sockets", fileWorld)

describe("a primary that loses the lock", () => {
  it.scopedLive("is interrupted, with Lost as the error, and its handlers at once", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const table = yield* TestPidVerifier.makeTable
      const build = Effect.gen(function* () {
        const simulated = yield* table.spawn()
        const layer = Text.layerWithoutDependencies({ protocol: UnixSocket.layer, fallback: "none" }).pipe(
          Layer.provide(SingleInstance.layerLock),
          Layer.provide(
            Layer.merge(Layer.succeed(PidVerifier, simulated.verifier), SingleInstanceConfig.layer({ directory }))
          )
        )
        return yield* Layer.build(layer)
      })
      const events: Array<string> = []
      const running = yield* Effect.forkDaemon(
        Text.enforce({
          request: "a",
          primary: (primary) =>
            Effect.gen(function* () {
              yield* Effect.addFinalizer(() => Effect.sync(() => events.push("scope closed")))
              yield* primary.serve(() =>
                Effect.onInterrupt(
                  Effect.zipRight(
                    Effect.sync(() => events.push("handling")),
                    Effect.never
                  ),
                  () => Effect.sync(() => events.push("handler interrupted"))
                )
              )
              events.push("leads")
              return yield* Effect.onInterrupt(Effect.never, () => Effect.sync(() => events.push("interrupted")))
            })
        }).pipe(Effect.provide(yield* build))
      )
      yield* until("leading", () => events.length === 1)
      const sender = Context.get(yield* build, Text)
      const sending = yield* Effect.forkDaemon(Effect.exit(sender.send("a")))
      yield* until("handling", () => events.length === 2)
      const folder = path.join(directory, fs.readdirSync(directory)[0]!)
      const started = Date.now()
      fs.unlinkSync(path.join(folder, "lock"))
      const error = failureOf(yield* Fiber.await(running))
      assert(LockError.is(error))
      assert.strictEqual(error.reason, "Lost")
      assert.isBelow(Date.now() - started, 3_000)
      assert.sameMembers(events, ["leads", "handling", "handler interrupted", "interrupted", "scope closed"])
      assert.strictEqual(events.at(-1), "scope closed")
      const told = failureOf(yield* Fiber.join(sending))
      assert(ProtocolError.is(told))
      assert.deepStrictEqual([told.reason, told.outcome], ["HandlerInterrupted", "Delivered"])
      // What it does not own any more it does not write to.
      assert.isFalse(fs.existsSync(path.join(folder, "lock")))
    })
  )
})

describe("time-outs", () => {
  const assertTimeout = (error: unknown, phase: TimeoutError["phase"], outcome: TimeoutError["outcome"]) => {
    assert(TimeoutError.is(error), String(error))
    assert.deepStrictEqual([error.phase, error.outcome], [phase, outcome])
    return error
  }
  const failing = <A, E>(effect: Effect.Effect<A, E>, seconds: number) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(Effect.exit(effect))
      yield* pass(seconds - 1)
      assert.isFalse(yield* isDone(fiber), "too early")
      yield* pass(2)
      assert.isTrue(yield* isDone(fiber), "too late")
      return failureOf(yield* Fiber.join(fiber))
    })

  it.scoped("acquire: the election takes too long", () =>
    Effect.gen(function* () {
      const process = yield* member(Text, {
        timeout: "5 seconds",
        protocols: (own) => [Layer.succeed(Protocol, { ...own, listen: () => Effect.never })]
      })
      const error = assertTimeout(
        yield* failing(Effect.scoped(process.instance.elect("a")), 5),
        "acquire",
        "NotDelivered"
      )
      assert.strictEqual(error.millis, 5_000)
      assert.strictEqual((yield* process.instance.inspect).state, "free")
    }).pipe(Effect.provide(TestSingleInstance.layerMachine()))
  )

  it.scoped("connect: an endpoint that never answers", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      const { process } = yield* textServer(world, Effect.succeed)
      const { instance } = yield* world.member(Text, {
        timeout: "8 seconds",
        protocols: (own) => [Layer.succeed(Protocol, { ...own, connect: () => Effect.never })]
      })
      const error = assertTimeout(yield* failing(instance.send("a"), 8), "connect", "NotDelivered")
      assert.strictEqual(error.pid, process.pid)
      assert.deepStrictEqual(
        error.attempts.map(({ protocol, reason }) => [protocol, reason]),
        [["memory", "connect"]]
      )
    })
  )

  it.scoped("hello, accept and reply: a primary that stands still at each", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      const { process } = yield* textServer(world, () => Effect.never)
      const { instance } = yield* world.member(Text, { timeout: "10 seconds" })
      const waiting = yield* Effect.fork(Effect.exit(instance.send("is running")))
      const client = yield* instance.connect
      yield* settle
      yield* process.freeze
      const hello = yield* Effect.fork(Effect.exit(instance.send("comes later")))
      const accept = yield* Effect.fork(Effect.exit(client.send("is sent later")))
      yield* pass(9)
      for (const fiber of [waiting, hello, accept]) assert.isFalse(yield* isDone(fiber as Fiber.RuntimeFiber<unknown>))
      yield* pass(3)
      for (const [fiber, phase, outcome] of [
        [waiting, "reply", "Unknown"],
        [hello, "hello", "NotDelivered"],
        [accept, "accept", "Unknown"]
      ] as const) {
        const error = assertTimeout(
          failureOf(yield* Fiber.join(fiber as Fiber.Fiber<Exit.Exit<unknown, unknown>>)),
          phase,
          outcome
        )
        assert.strictEqual(error.pid, process.pid)
        assert.include(error.message, `process ${process.pid} did not answer`)
      }
      yield* process.crash
    })
  )

  it.scoped("a busy handler is no silent primary", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      yield* textServer(world, (text) => Effect.as(Effect.sleep("1 minute"), `re: ${text}`))
      const { instance } = yield* world.member(Text, { timeout: "5 seconds" })
      const sending = yield* Effect.fork(instance.send("a"))
      yield* pass(59)
      assert.isFalse(yield* isDone(sending))
      yield* pass(2)
      assert.strictEqual((yield* Fiber.join(sending)).reply, "re: a")
    })
  )
})

describe("the chain of protocols", () => {
  const failed = (name: string, reason: ProtocolError["reason"], detail = `${name} says ${reason}`) =>
    new ProtocolError({ reason, protocol: name, detail, outcome: "NotDelivered" })

  /** A protocol of another name that does what `own` does, but for what is changed. */
  const variant = (name: string, own: Protocol["Type"], changes: Partial<Protocol["Type"]> = {}) =>
    Layer.succeed(Protocol, { ...own, name, ...changes })

  const refused = (name: string, reason: ProtocolError["reason"]) => () => Effect.fail(failed(name, reason))

  /** Listens twice on one network: the second name is another's. */
  const twice = (own: Protocol["Type"], changes: Partial<Protocol["Type"]> = {}) => [
    variant("one", own, changes),
    variant("two", own, {
      listen: (options) => own.listen({ ...options, nonce: `${options.nonce.slice(1)}f` })
    })
  ]

  const server = (world: World, protocols: NonNullable<MemberOptions["protocols"]>) =>
    textServer(world, (text, { protocol }) => Effect.succeed(`${text} over ${protocol}`), { protocols })

  it.scoped("listens on all that work here, and records those in order of preference", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      const { primary } = yield* server(world, (own) => [
        variant("broken", own, { listen: refused("broken", "Unavailable") }),
        Layer.fail(failed("unbuilt", "Unavailable")),
        ...twice(own)
      ])
      assert.deepStrictEqual(
        primary.endpoints.map(({ protocol }) => protocol),
        ["one", "two"]
      )
      for (const only of [0, 1]) {
        const { instance } = yield* world.member(Text, { protocols: (own) => [twice(own)[only]!] })
        assert.strictEqual((yield* instance.send("a")).reply, `a over ${["one", "two"][only]}`)
      }
      const { instance } = yield* world.member(Text, { protocols: (own) => twice(own).reverse() })
      // The record's order counts, not the sender's.
      assert.strictEqual((yield* instance.send("a")).reply, "a over one")
    })
  )

  for (const reason of ["Unavailable", "Unreachable", "EndpointOccupied", "Disconnected"] as const) {
    it.scoped(`goes on where an endpoint is ${reason}`, () =>
      Effect.gen(function* () {
        const world = yield* memoryWorld
        yield* server(world, twice)
        const { instance } = yield* world.member(Text, {
          protocols: (own) => twice(own, { connect: refused("one", reason) })
        })
        const sent = yield* instance.send("a")
        assert.deepStrictEqual([sent.reply, sent.protocol, sent.attempts], ["a over two", "two", 1])
      })
    )
  }

  it.scoped("shares its time limit among endpoints that keep silent", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      const { primary } = yield* server(world, twice)
      const { instance } = yield* world.member(Text, {
        protocols: (own) => ["one", "two"].map((name) => variant(name, own, { connect: () => Effect.never })),
        timeout: "3 seconds",
        helloTimeout: "2 seconds"
      })
      const sending = yield* Effect.fork(instance.send("a"))
      yield* pass(2)
      assert.isFalse(yield* isDone(sending))
      // Less than two seconds for each of them.
      yield* pass(2)
      assert.isTrue(yield* isDone(sending))
      const error = yield* Effect.flip(Fiber.join(sending))
      assert(TimeoutError.is(error), String(error))
      assert.deepInclude({ ...error }, { phase: "connect", millis: 3_000, pid: primary.pid, outcome: "NotDelivered" })
    })
  )

  it.scoped("goes on where an endpoint keeps silent", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      yield* server(world, twice)
      const { instance } = yield* world.member(Text, {
        protocols: (own) => twice(own, { connect: () => Effect.never })
      })
      const sending = yield* Effect.fork(instance.send("a"))
      yield* pass(6)
      assert.strictEqual((yield* Fiber.join(sending)).reply, "a over two")
    })
  )

  for (const reason of ["Forbidden", "Incompatible", "Malformed", "TooLarge"] as const) {
    it.scoped(`stops where the primary itself refuses: ${reason}`, () =>
      Effect.gen(function* () {
        const world = yield* memoryWorld
        yield* server(world, twice)
        let tried = 0
        const { instance } = yield* world.member(Text, {
          protocols: (own) => [
            variant("one", own, { connect: refused("one", reason) }),
            variant("two", own, {
              connect: (address, options) => {
                tried++
                return own.connect(address, options)
              }
            })
          ]
        })
        const error = yield* Effect.flip(instance.send("a"))
        assert(ProtocolError.is(error))
        assert.deepStrictEqual([error.reason, error.protocol], [reason, "one"])
        assert.strictEqual(tried, 0)
      })
    )
  }

  it.scoped("closes all of a failed attempt before the next, and with the caller's scope what served", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      yield* server(world, twice)
      const events: Array<string> = []
      const noted = (name: string, outcome: Effect.Effect<void, ProtocolError>) => (own: Protocol["Type"]) =>
        variant(name, own, {
          connect: (address, options) =>
            Effect.gen(function* () {
              yield* Effect.acquireRelease(
                Effect.sync(() => events.push(`${name} opened`)),
                () => Effect.sync(() => events.push(`${name} closed`))
              )
              yield* outcome
              return yield* own.connect(address, options)
            })
        })
      const { instance } = yield* world.member(Text, {
        protocols: (own) => [
          noted("one", Effect.fail(failed("one", "Unreachable")))(own),
          noted("two", Effect.void)(own)
        ]
      })
      yield* Effect.scoped(Effect.flatMap(instance.connect, (client) => client.send("a")))
      assert.deepStrictEqual(events, ["one opened", "one closed", "two opened", "two closed"])
    })
  )

  it.scoped("carries every attempt and its reason where all fail", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      const { primary, process } = yield* server(world, twice)
      const { instance } = yield* world.member(Text, {
        timeout: "2 seconds",
        protocols: (own) => twice(own, { connect: refused("one", "Unreachable") }).slice(0, 1)
      })
      const sending = yield* Effect.fork(Effect.flip(instance.send("a")))
      yield* pass(4)
      const error = yield* Fiber.join(sending)
      assert(ProtocolError.is(error))
      assert.deepStrictEqual([error.reason, error.outcome, error.pid], ["AllFailed", "NotDelivered", process.pid])
      assert.deepStrictEqual(
        error.attempts.map(({ address, protocol, reason }) => [protocol, address, reason]),
        [
          ["one", primary.endpoints[0]!.address, "Unreachable"],
          ["two", primary.endpoints[1]!.address, "Unavailable"]
        ]
      )
      for (const { detail } of error.attempts) assert.include(error.message, detail)
    })
  )

  it.scoped("does not lead where nothing can listen, and says why for each", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      const { instance } = yield* world.member(Text, {
        protocols: (own) => [
          variant("one", own, { listen: refused("one", "Unavailable") }),
          Layer.fail(failed("two", "Unavailable")),
          variant("three", own, { listen: refused("three", "EndpointOccupied") })
        ]
      })
      const error = yield* Effect.flip(Effect.scoped(instance.elect("a")))
      assert(ProtocolError.is(error))
      assert.strictEqual(error.reason, "AllFailed")
      assert.sameDeepMembers(
        error.attempts.map(({ protocol, reason }) => [protocol, reason]),
        [
          ["one", "Unavailable"],
          ["two", "Unavailable"],
          ["three", "EndpointOccupied"]
        ]
      )
      assert.strictEqual((yield* instance.inspect).state, "free")
    })
  )

  it.scoped("closes what a protocol that cannot be built had opened", () =>
    Effect.gen(function* () {
      const events: Array<string> = []
      const half = Layer.scoped(
        Protocol,
        Effect.zipRight(
          Effect.acquireRelease(
            Effect.sync(() => events.push("opened")),
            () => Effect.sync(() => events.push("closed"))
          ),
          Effect.fail(failed("half", "Unavailable"))
        )
      )
      const { instance } = yield* (yield* memoryWorld).member(Text, {
        protocols: (own) => [half, Layer.succeed(Protocol, own)]
      })
      assert.deepStrictEqual(events, ["opened", "closed"])
      yield* Effect.scoped(instance.elect("a"))
    })
  )

  it.live("is the platform's own behind what is given, unless that is switched off", () =>
    Effect.gen(function* () {
      const own = process.platform === "win32" ? "pipe" : "unix"
      const endpoints = (options: object) =>
        Effect.gen(function* () {
          const directory = yield* temporary
          const layer = Text.layer as (options: object) => Layer.Layer<Text, never, SingleInstance.Platform>
          return yield* Effect.gen(function* () {
            const verdict = yield* (yield* Text).elect("a")
            assert(verdict._tag === "Primary")
            return verdict.endpoints.map(({ protocol }) => protocol)
          }).pipe(Effect.scoped, Effect.provide(layer({ directory, ...options })))
        }).pipe(Effect.scoped, Effect.provide(NodeContext.layer))
      const other = Layer.scoped(
        Protocol,
        Effect.map(Layer.build(UnixSocket.layer), (context): Protocol["Type"] => ({
          ...Context.get(context, Protocol),
          name: "other",
          listen: (options) =>
            Context.get(context, Protocol).listen({ ...options, nonce: `${options.nonce.slice(1)}f` })
        }))
      )
      assert.deepStrictEqual(yield* endpoints({}), [own, "file", "shm"])
      assert.deepStrictEqual(yield* endpoints({ fallback: "none" }), [own])
      assert.deepStrictEqual(yield* endpoints({ protocol: other }), ["other", own, "file", "shm"])
      assert.deepStrictEqual(yield* endpoints({ protocol: other, fallback: "none" }), ["other"])
      assert.deepStrictEqual(yield* endpoints({ protocol: other, fallback: [UnixSocket.layer] }), ["other", "unix"])
      assert.deepStrictEqual(yield* endpoints({ fallback: [other] }), [own, "file", "shm", "other"])
      assert.deepStrictEqual(yield* endpoints({ protocol: UnixSocket.layer }), ["unix", "file", "shm"])
    })
  )
})

describe.skipIf(process.platform === "win32")("a backend that only has to be alone", () => {
  const backend = (directory: string, options: Partial<SingleInstance.LeadershipLayerOptions> = {}) =>
    Layer.provide(SingleInstance.layerPrimary({ id: "test.backend", directory, ...options }), NodeContext.layer)

  const lockOf = (directory: string) => path.join(directory, fs.readdirSync(directory)[0]!, "lock")

  const rival = (directory: string) => rivalOf("test.backend", directory)

  it.scopedLive("builds in the one primary, and gives the fencing token", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const program = Effect.gen(function* () {
        const { epoch, id, pid, proof, took } = yield* SingleInstance.Leadership
        assert.deepStrictEqual([id, pid, proof], [InstanceId.make("test.backend"), process.pid, proof])
        const again = yield* Effect.flip(Effect.scoped(Layer.build(backend(directory))))
        assert.strictEqual(again.reason, "AlreadyHeldInProcess")
        return { epoch, took }
      })
      const first = yield* Effect.provide(program, backend(directory))
      assert.strictEqual(first.took, "free")
      const second = yield* Effect.provide(program, backend(directory))
      assert.strictEqual(second.took, "released")
      assert.isAbove(second.epoch, first.epoch)
    })
  )

  it.scopedLive("otherwise fails as AlreadyRunning, and says who runs", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { record, release } = yield* rival(directory)
      const error = yield* Effect.flip(Effect.scoped(Layer.build(backend(directory))))
      assert(LockError.is(error))
      assert.strictEqual(error.reason, "AlreadyRunning")
      assert.deepStrictEqual([error.owner?.pid, error.owner?.epoch], [4_000_000_000, record.epoch])
      assert.include(error.message, "4000000000")
      yield* release
      yield* Effect.scoped(Layer.build(backend(directory)))
    })
  )

  it.scopedLive("waits for its turn as a standby", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const { record, release } = yield* rival(directory)
      const followed: Array<number> = []
      const standby = SingleInstance.layerStandby({
        id: "test.backend",
        directory,
        onFollow: ({ pid }) => Effect.sync(() => followed.push(pid))
      })
      const waiting = yield* Effect.fork(
        Effect.provide(SingleInstance.Leadership, Layer.provide(standby, NodeContext.layer))
      )
      yield* until("following", () => followed.length === 1)
      yield* Effect.sleep("100 millis")
      assert.isFalse(yield* isDone(waiting))
      yield* release
      const { epoch, took } = yield* Fiber.join(waiting)
      assert.strictEqual(took, "released")
      assert.isAbove(epoch, record.epoch)
      assert.deepStrictEqual(followed, [4_000_000_000])
      // Interrupted while it waits, it leaves nothing.
      const { release: releaseAgain } = yield* rival(directory)
      const again = yield* Effect.fork(
        Effect.provide(SingleInstance.Leadership, Layer.provide(standby, NodeContext.layer))
      )
      yield* until("following again", () => followed.length === 2)
      yield* Fiber.interrupt(again)
      yield* releaseAgain
      assert.deepStrictEqual(fs.readdirSync(path.dirname(lockOf(directory))), ["lock"])
    })
  )

  const programs: Record<string, (directory: string, events: Array<string>) => Fiber.RuntimeFiber<unknown, unknown>> = {
    "an effect that it is provided to": (directory, events) =>
      Effect.runFork(
        Effect.acquireUseRelease(
          Effect.sync(() => events.push("began")),
          () => Effect.never,
          () => Effect.sync(() => events.push("ended"))
        ).pipe(Effect.provide(backend(directory)))
      ),
    "a layer that is launched": (directory, events) =>
      Effect.runFork(
        Layer.launch(
          Layer.scopedDiscard(
            Effect.acquireRelease(
              Effect.sync(() => events.push("began")),
              () => Effect.sync(() => events.push("ended"))
            )
          ).pipe(Layer.provide(backend(directory)))
        )
      ),
    "a program with layers beside it and fibers below it": (directory, events) =>
      Effect.runFork(
        Effect.acquireUseRelease(
          Effect.sync(() => events.push("began")),
          () => Effect.all([Effect.never, Effect.sleep("1 hour")], { concurrency: "unbounded" }),
          () => Effect.sync(() => events.push("ended"))
        ).pipe(
          Effect.provide(
            Layer.mergeAll(
              Layer.scopedDiscard(SingleInstance.Leadership).pipe(
                Layer.provide(Layer.merge(backend(directory), Layer.effectDiscard(Effect.sleep("5 millis"))))
              ),
              Layer.effectDiscard(Effect.sleep("10 millis"))
            )
          )
        )
      ),
    "a program in a fiber of a larger one": (directory, events) =>
      Effect.runFork(
        Effect.flatMap(
          Effect.fork(
            Effect.acquireUseRelease(
              Effect.sync(() => events.push("began")),
              () => Effect.never,
              () => Effect.sync(() => events.push("ended"))
            ).pipe(Effect.provide(backend(directory)))
          ),
          () => Effect.never
        )
      )
  }
  for (const [name, launch] of Object.entries(programs)) {
    it.scopedLive(`interrupts what it runs, having lost the lock: ${name}`, () =>
      Effect.gen(function* () {
        const directory = yield* temporary
        const events: Array<string> = []
        const fiber = launch(directory, events)
        yield* until("start", () => events.length === 1)
        yield* Effect.sleep("50 millis")
        fs.unlinkSync(lockOf(directory))
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isInterrupted(exit), String(exit))
        assert.deepStrictEqual(events, ["began", "ended"])
      })
    )
  }

  it.scopedLive("rejects the promise of a program that lost the lock", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      let began = false
      const promise = Effect.runPromise(
        Effect.zipRight(
          Effect.sync(() => {
            began = true
          }),
          Effect.never
        ).pipe(Effect.provide(backend(directory)))
      ).then(
        () => "resolved",
        (error) => String(error)
      )
      yield* until("start", () => began)
      yield* Effect.sleep("50 millis")
      fs.unlinkSync(lockOf(directory))
      assert.include(yield* Effect.promise(() => promise), "interrupted")
    })
  )

  it.scopedLive("does what it is told instead, having lost the lock", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const lost = yield* Deferred.make<LockError>()
      const fiber = yield* Effect.forkDaemon(
        Effect.flatMap(SingleInstance.Leadership, ({ lost }) => Effect.zipRight(Effect.flip(lost), Effect.never)).pipe(
          Effect.provide(backend(directory, { onLost: (error) => Deferred.succeed(lost, error) }))
        )
      )
      yield* until("start", () => fs.readdirSync(directory).length > 0 && fs.existsSync(lockOf(directory)))
      yield* Effect.sleep("50 millis")
      fs.unlinkSync(lockOf(directory))
      assert.strictEqual((yield* Deferred.await(lost)).reason, "Lost")
      yield* Effect.sleep("50 millis")
      assert.isFalse(yield* isDone(fiber))
      yield* Fiber.interrupt(fiber)
    })
  )
})

describe("what an operator sees", () => {
  const counted = (name: string, tag: string, value: string) =>
    Effect.map(Metric.snapshot, (pairs) =>
      pairs
        .filter(({ metricKey }) => metricKey.name === name)
        .filter(({ metricKey }) => metricKey.tags.some((label) => label.key === tag && label.value === value))
        .reduce(
          (sum, { metricState }) => sum + ((metricState as MetricState.MetricState.Counter<number>).count ?? 0),
          0
        )
    )

  it.scoped("counts launches, outcomes and takeovers, and measures hand-overs", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      const all = Effect.all({
        primary: counted("single_instance_launches", "role", "primary"),
        delivered: counted("single_instance_launches", "role", "delivered"),
        failed: counted("single_instance_launches", "role", "failed"),
        Delivered: counted("single_instance_outcomes", "outcome", "Delivered"),
        NotDelivered: counted("single_instance_outcomes", "outcome", "NotDelivered"),
        free: counted("single_instance_takeovers", "took", "free"),
        released: counted("single_instance_takeovers", "took", "released"),
        dead: counted("single_instance_takeovers", "took", "dead"),
        handOffs: Effect.map(Metric.snapshot, (pairs) =>
          pairs
            .filter(({ metricKey }) => metricKey.name === "single_instance_hand_off_millis")
            .reduce((sum, { metricState }) => sum + (metricState as MetricState.MetricState.Histogram).count, 0)
        )
      })
      const before = yield* all
      const first = yield* textServer(world, Effect.succeed)
      const { instance } = yield* world.member(Text)
      yield* instance.send("a")
      yield* Effect.scoped(instance.elect("b"))
      yield* first.stop
      const second = yield* textServer(world, Effect.succeed)
      yield* second.process.crash
      yield* Effect.flip(instance.send("c"))
      yield* textServer(world, Effect.succeed)
      const after = yield* all
      const grown = Object.fromEntries(
        Object.entries(after).map(([name, count]) => [name, count - before[name as keyof typeof before]])
      )
      assert.deepStrictEqual(grown, {
        primary: 3,
        delivered: 2,
        failed: 1,
        Delivered: 2,
        NotDelivered: 1,
        free: 1,
        released: 1,
        dead: 1,
        handOffs: 2
      })
    })
  )

  it.scoped("traces a request across the wire, from the sender's span to the handler's", () =>
    Effect.gen(function* () {
      const spans: Array<Tracer.Span> = []
      const native = yield* Effect.tracer
      const tracer = Tracer.make({
        span: (...args) => {
          const span = native.span(...args)
          spans.push(span)
          return span
        },
        context: native.context
      })
      const named = (name: string) => spans.filter((span) => span.name === name)
      const world = yield* memoryWorld
      yield* Effect.withTracer(
        textServer(world, (text) => Effect.withSpan(Effect.succeed(text), "the application's own")),
        tracer
      )
      const { instance } = yield* world.member(Text)
      const { message } = yield* instance.send("a").pipe(Effect.withSpan("a launch"), Effect.withTracer(tracer))
      const [launch] = named("a launch")
      const [send] = named("SingleInstance.send")
      const [handle] = named("SingleInstance.handle")
      const [inner] = named("the application's own")
      assert.strictEqual(send?.attributes.get("id"), Text.key)
      assert.strictEqual(Option.getOrUndefined(send!.parent)?.spanId, launch?.spanId)
      const parent = Option.getOrUndefined(handle!.parent)
      assert.deepStrictEqual([parent?._tag, parent?.spanId], ["ExternalSpan", send?.spanId])
      assert.strictEqual(handle?.traceId, launch?.traceId)
      assert.strictEqual(handle?.kind, "server")
      assert.deepStrictEqual(
        [handle?.attributes.get("message"), handle?.attributes.get("protocol")],
        [message, "memory"]
      )
      assert.strictEqual(Option.getOrUndefined(inner!.parent)?.spanId, handle?.spanId)
      assert.lengthOf(named("SingleInstance.elect"), 1)
      assert.strictEqual(handle?.status._tag, "Ended")
      // No span where nobody follows one.
      const client = yield* instance.connect
      yield* client.send("b")
      assert.lengthOf(named("SingleInstance.handle"), 1)
      yield* client.send("c").pipe(Effect.withSpan("in a session"), Effect.withTracer(tracer))
      assert.strictEqual(
        Option.getOrUndefined(named("SingleInstance.handle")[1]!.parent)?.spanId,
        named("in a session")[0]?.spanId
      )
    })
  )

  it.scoped("annotates what is logged", () =>
    Effect.gen(function* () {
      const logged: Array<Record<string, unknown>> = []
      const logger = Logger.make(({ annotations }) => {
        logged.push(Object.fromEntries(HashMap.toEntries(annotations)))
      })
      const { instance } = yield* (yield* memoryWorld).member(Text)
      yield* Effect.scoped(instance.elect("a")).pipe(
        Effect.provide(
          Layer.merge(Logger.replace(Logger.defaultLogger, logger), Logger.minimumLogLevel(LogLevel.Debug))
        )
      )
      assert.deepInclude(logged, { module: "effect-single-instance", id: Text.key })
    })
  )

  it.scopedLive("reads options from a ConfigProvider", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const provider = ConfigProvider.fromMap(
        new Map([
          ["directory", directory],
          ["timeout", "3 seconds"],
          ["maxFrameBytes", "2048"],
          ["version", "4.5"]
        ])
      )
      const layer = Text.layerWithoutDependencies({ fallback: "none" }).pipe(
        Layer.provide(SingleInstance.layerLock),
        Layer.provide(SingleInstance.layerPidVerifier),
        Layer.provide(SingleInstanceConfig.layerConfig()),
        Layer.provide(NodeContext.layer),
        Layer.provide(Layer.setConfigProvider(provider))
      )
      yield* Effect.gen(function* () {
        const instance = yield* Text
        const verdict = yield* instance.elect("a")
        assert(verdict._tag === "Primary")
        const seen = yield* instance.inspect
        assert.strictEqual(seen.owner?.version, "4.5")
        assert.isTrue(seen.location.startsWith(directory))
      }).pipe(Effect.scoped, Effect.provide(layer))
    })
  )
})

// -------------------------------------------------------------------------------------
// types
// -------------------------------------------------------------------------------------

type Errors = LockError | TimeoutError | ProtocolError

class Koffi extends Context.Tag("test/Koffi")<Koffi, { readonly mmap: () => void }>() {}

// In the place of protocols that are still to come, each with needs of its own.
const FileMailbox: { readonly layer: Layer.Layer<Protocol, ProtocolError, FileSystem.FileSystem> } = UnixSocket
const SharedMemory: { readonly layer: Layer.Layer<Protocol, ProtocolError, Koffi> } = UnixSocket

describe("types", () => {
  it("come out as ARCHITECTURE.md says, from its example unchanged", () => {
    interface EditorWindow {
      readonly open: (
        files: ReadonlyArray<string>,
        cwd: string
      ) => Effect.Effect<{ readonly windows: number }, FileMissing>
      readonly closed: Effect.Effect<void>
    }
    class Display extends Context.Tag("test/Display")<Display, EditorWindow>() {}
    const makeEditor: Effect.Effect<EditorWindow, "no display", Display | Scope.Scope> = Effect.map(
      Display,
      (display) => display
    )

    // What a launch may ask of the primary, what it answers and how it may fail: typed, and checked at both ends.
    class Editor extends SingleInstance.Tag<Editor>()("com.example.editor", {
      request: Schema.Struct({ open: Schema.Array(Schema.String) }),
      reply: Schema.Struct({ windows: Schema.Int }), // Schema.Void if left out
      failure: FileMissing // Schema.Never if left out
    }) {}

    const program = Editor.enforce({
      request: { open: process.argv.slice(2) },
      primary: (primary) =>
        Effect.gen(function* () {
          const editor = yield* makeEditor // exists only in the primary, so the handler closes over it
          yield* primary.serve((request, launch) => editor.open(request.open, launch.cwd))
          yield* editor.open(primary.request.open, primary.launch.cwd) // the first launch has files, too
          yield* editor.closed
        }),
      secondary: ({ reply, primary }) => Effect.log(`opened in ${primary.pid}, now ${reply.windows} windows`)
    })
    expectTypeOf(program).toEqualTypeOf<Effect.Effect<void, Errors | FileMissing | "no display", Editor | Display>>()

    const layer = Editor.layer({
      protocol: UnixSocket.layer,
      fallback: [FileMailbox.layer, SharedMemory.layer],
      timeout: "5 seconds"
    })
    expectTypeOf(layer).toEqualTypeOf<
      Layer.Layer<Editor, never, FileSystem.FileSystem | CommandExecutor.CommandExecutor | Koffi>
    >()
    const runnable = program.pipe(
      Effect.provide(layer),
      Effect.provide(NodeContext.layer),
      Effect.provideService(Koffi, { mmap: () => {} }),
      Effect.provideService(Display, { open: () => Effect.succeed({ windows: 1 }), closed: Effect.void })
    )
    expectTypeOf(runnable).toEqualTypeOf<Effect.Effect<void, Errors | FileMissing | "no display">>()
    expectTypeOf(NodeRuntime.runMain).toBeCallableWith(runnable)
    expectTypeOf(SingleInstance.runMain).toBeCallableWith(runnable)
  })

  it("enforce", () => {
    class Silent extends SingleInstance.Tag<Silent>()("test.silent", { request: Schema.NumberFromString }) {}
    // Without `secondary`: what was delivered; the reply is void, there is no failure.
    const bare = Silent.enforce({ request: 1, primary: () => Effect.succeed("led" as const) })
    expectTypeOf(bare).toEqualTypeOf<Effect.Effect<"led" | Instance.Delivered<void>, Errors, Silent>>()
    // Both halves' own errors and requirements, none of them a scope.
    class A extends Context.Tag("test/A")<A, "a">() {}
    class B extends Context.Tag("test/B")<B, "b">() {}
    const both = Editor.enforce({
      request: { open: [] },
      primary: (primary) => {
        expectTypeOf(primary).toEqualTypeOf<
          Instance.Primary<
            { readonly open: ReadonlyArray<string>; readonly at?: Date | undefined },
            { readonly windows: number },
            FileMissing
          >
        >()
        return Effect.zipRight(
          Effect.scope,
          Effect.flatMap(A, (a) => (a === "a" ? Effect.succeed(1) : Effect.fail("e1" as const)))
        )
      },
      secondary: ({ reply }) =>
        Effect.zipRight(
          Effect.scope,
          Effect.flatMap(B, () => (reply.windows > 0 ? Effect.succeed(true) : Effect.fail("e2" as const)))
        )
    })
    expectTypeOf(both).toEqualTypeOf<
      Effect.Effect<number | boolean, Errors | FileMissing | "e1" | "e2", Editor | A | B>
    >()
    // @ts-expect-error a contract's request cannot be left out
    Editor.enforce({ primary: () => Effect.void })
    // @ts-expect-error nor be another
    Editor.enforce({ request: { open: [1] }, primary: () => Effect.void })
    Editor.enforce({
      request: { open: [] },
      // @ts-expect-error a handler cannot fail with what the contract does not name
      primary: (primary) => primary.serve(() => Effect.fail("undeclared"))
    })
    Editor.enforce({
      request: { open: [] },
      // @ts-expect-error nor answer something else
      primary: (primary) => primary.serve(() => Effect.succeed({ windows: "many" }))
    })
    // One that only looks like a launch, or a part of one, is not a launch.
    class Argv extends SingleInstance.Tag<Argv>()("test.argv", {
      request: Schema.Struct({ argv: Schema.Array(Schema.String) })
    }) {}
    // @ts-expect-error a part of a launch cannot be left out
    Argv.enforce({ primary: () => Effect.void })
    // @ts-expect-error nor where it waits
    Argv.standby({ primary: () => Effect.void })
    class Whole extends SingleInstance.Tag<Whole>()("test.whole", { request: Message.Launch }) {}
    // @ts-expect-error nor a launch that the contract names
    Whole.enforce({ primary: () => Effect.void })
    class Anything extends SingleInstance.Tag<Anything>()("test.anything", { request: Schema.Any }) {}
    // @ts-expect-error nor what can be anything
    Anything.enforce({ primary: () => Effect.void })
    class Unknown extends SingleInstance.Tag<Unknown>()("test.unknown", { request: Schema.Unknown }) {}
    // @ts-expect-error or is not known
    Unknown.enforce({ primary: () => Effect.void })
    // The launch is the request where there is no contract, and may be left out.
    const launch = SingleInstance.SingleInstance.enforce({ primary: ({ request }) => Effect.succeed(request.argv) })
    expectTypeOf(launch).toEqualTypeOf<
      Effect.Effect<ReadonlyArray<string> | Instance.Delivered<number>, Errors, SingleInstance.SingleInstance>
    >()
  })

  it("serve takes the handler's own scope from its requirements", () => {
    class A extends Context.Tag("test/A")<A, "a">() {}
    const check = (primary: Instance.Primary<string, string, never>) => {
      expectTypeOf(primary.serve((text) => Effect.succeed(text))).toEqualTypeOf<Effect.Effect<void>>()
      expectTypeOf(
        primary.serve((text, launch) => {
          expectTypeOf(launch).toEqualTypeOf<Primary.IncomingLaunch>()
          return Effect.zipRight(
            Effect.addFinalizer(() => Effect.void),
            Effect.as(A, text)
          )
        })
      ).toEqualTypeOf<Effect.Effect<void, never, A>>()
    }
    assert.isFunction(check)
  })

  it("standby, the service and the layers", () => {
    const standby = Text.standby({
      request: "a",
      primary: ({ epoch }) => Effect.zipRight(Effect.scope, Effect.succeed(epoch))
    })
    expectTypeOf(standby).toEqualTypeOf<Effect.Effect<number, LockError | ProtocolError, Text>>()
    const named = (instance: Context.Tag.Service<Text>, client: Instance.Client<string, string, never>) => {
      // @ts-expect-error the service does not take the launch for the contract's request
      void instance.send(undefined)
      // @ts-expect-error
      void instance.elect(undefined)
      // @ts-expect-error
      void instance.standby()
      // @ts-expect-error
      void instance.standby({ request: undefined })
      // @ts-expect-error nor does a conversation
      void client.send(undefined)
      return [instance.send("a"), instance.elect("a"), instance.standby({ request: "a" }), client.send("a")]
    }
    const launched = (instance: Context.Tag.Service<SingleInstance.SingleInstance>) => {
      const launch: Message.Launch = Instance.currentLaunch()
      return [instance.send(undefined), instance.elect(launch), instance.standby(), instance.standby({ launch: {} })]
    }
    assert.isFunction(named)
    assert.isFunction(launched)
    expectTypeOf<Context.Tag.Service<Text>>().toEqualTypeOf<Instance.Instance<string, string, never>>()
    expectTypeOf<Instance.Instance<string, number, FileMissing>["send"]>().returns.toEqualTypeOf<
      Effect.Effect<Instance.Delivered<number>, Errors | FileMissing>
    >()
    expectTypeOf<Instance.Client<string, number, FileMissing>["send"]>().returns.toEqualTypeOf<
      Effect.Effect<number, TimeoutError | ProtocolError | FileMissing>
    >()
    expectTypeOf(Text.layer()).toEqualTypeOf<Layer.Layer<Text, never, SingleInstance.Platform>>()
    expectTypeOf(Text.layer({ fallback: "none" })).toEqualTypeOf<Layer.Layer<Text, never, SingleInstance.Platform>>()
    expectTypeOf(Text.layer({ protocol: UnixSocket.layer, fallback: [] })).toEqualTypeOf<
      Layer.Layer<Text, never, SingleInstance.Platform>
    >()
    expectTypeOf(Text.layer({ fallback: [SharedMemory.layer] })).toEqualTypeOf<
      Layer.Layer<Text, never, SingleInstance.Platform | Koffi>
    >()
    expectTypeOf(Text.layerWithoutDependencies({ protocol: SharedMemory.layer, fallback: "none" })).toEqualTypeOf<
      Layer.Layer<Text, never, InstanceLock | PidVerifier | SingleInstanceConfig.SingleInstanceConfig | Koffi>
    >()
    // Two applications never meet by accident.
    // @ts-expect-error the default tag's layer needs an id
    SingleInstance.SingleInstance.layer({})
    expectTypeOf(SingleInstance.SingleInstance.layer({ id: "mine" })).toEqualTypeOf<
      Layer.Layer<SingleInstance.SingleInstance, never, SingleInstance.Platform>
    >()
    expectTypeOf(SingleInstance.layerPrimary({ id: "a" })).toEqualTypeOf<
      Layer.Layer<
        SingleInstance.Leadership | SingleInstance.LeadershipOf<"a">,
        LockError | TimeoutError,
        SingleInstance.Platform
      >
    >()
    expectTypeOf(SingleInstance.layerStandby({ id: "a" })).toEqualTypeOf<
      Layer.Layer<
        SingleInstance.Leadership | SingleInstance.LeadershipOf<"a">,
        LockError | TimeoutError,
        SingleInstance.Platform
      >
    >()
  })

  it("leadership", () => {
    class A extends Context.Tag("test/A")<A, "a">() {}
    const leading = SingleInstance.withLeadership(
      { id: "a", wait: true, onFollow: () => Effect.void },
      Effect.gen(function* () {
        yield* Effect.scope
        yield* A
        const { epoch } = yield* SingleInstance.Leadership
        const own = yield* SingleInstance.LeadershipOf("a")
        const other = yield* SingleInstance.LeadershipOf("b")
        return epoch > 0 ? own.epoch + other.epoch : yield* Effect.fail("e" as const)
      })
    )
    expectTypeOf(leading).toEqualTypeOf<
      Effect.Effect<
        number,
        LockError | TimeoutError | "e",
        SingleInstance.Platform | A | SingleInstance.LeadershipOf<"b">
      >
    >()
    // @ts-expect-error there are no messages
    SingleInstance.layerPrimary({ id: "a", encoding: "json" })
    // @ts-expect-error
    SingleInstance.layerStandby({ id: "a", onUnresponsive: "terminate" })
    // @ts-expect-error the error says that it was lost
    SingleInstance.withLeadership({ id: "a", onLost: () => Effect.void }, Effect.void)
  })
})
