/**
 * The mailbox while the system says no: each kind of file operation fails once, later on, and for a while, with each of the
 * codes that pass. No message is lost, none comes twice, their order is kept, and what is told of them is true.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Scope } from "effect"
import { InstanceId } from "effect-single-instance/InstanceId"
import { type Connection, type Listener, Protocol } from "effect-single-instance/Protocol"
import * as FileMailbox from "effect-single-instance/protocol/FileMailbox"
import { MailFailure, MailFiles, type MailFolder } from "effect-single-instance/protocol/mailbox/MailFiles"
import * as NodeMailFiles from "effect-single-instance/protocol/mailbox/NodeMailFiles"
import { nonce, temporary } from "./contract/Protocol.js"
import { largeIf } from "./size.js"
import { scaled } from "./stress.js"

type Operation = Exclude<keyof MailFolder, "watch" | "lifeOf">
const operations: ReadonlyArray<Operation> = [
  "list",
  "read",
  "write",
  "rename",
  "unlink",
  "sync",
  "makeFolder",
  "removeFolder",
  "silence",
  "touch"
]
const codes = ["EMFILE", "ENOSPC", "EDQUOT", "EIO", "EACCES", "EROFS"]
const modes = ["first", "third", "while"] as const
const whileMillis = 150

/** Which operation fails, and how: the first or the third of its kind, or all of them for a while. */
interface Fault {
  readonly kind: string
  readonly mode: (typeof modes)[number]
  readonly code: string
}

/** The kind of an operation: what it does to which sort of name. */
const kindOf = (operation: string, name: string): string => {
  const sort = (part: string) =>
    /^[0-9a-f]{32}$/.test(part)
      ? "box"
      : /^[0-9a-f]{8}-/.test(part)
        ? "lane"
        : part.replace(/^([a-z])\..*?(?:\.([ofe])\d+)?$/, (_, letter, kind = "") => `${letter}${kind}`)
  return `${operation} ${name.split("/").map(sort).join("/") || "mail"}`
}

/** How an operation that failed is taken for a fact, as a careless mailbox does: by operation. */
type Beliefs = { readonly [O in Operation]?: unknown }

/** File operations of which some fail. `kinds` collects what kinds of them there are. */
const faulty = (fault: Fault | undefined, beliefs: Beliefs, kinds: Set<string>): MailFiles["Type"] => {
  const node = Effect.runSync(Effect.map(Layer.build(NodeMailFiles.layer), Context.get(MailFiles)).pipe(Effect.scoped))
  let calls = 0
  let since: number | undefined
  const isFailing = (kind: string): boolean => {
    kinds.add(kind)
    if (fault === undefined || kind !== fault.kind) return false
    calls++
    since ??= performance.now()
    return fault.mode === "while" ? performance.now() - since < whileMillis : calls === (fault.mode === "first" ? 1 : 3)
  }
  const guard = <A>(
    operation: Operation,
    name: string,
    run: Effect.Effect<A, MailFailure>
  ): Effect.Effect<A, MailFailure> =>
    Effect.suspend(() => {
      if (!isFailing(kindOf(operation, name))) return run
      if (operation in beliefs) return Effect.succeed(beliefs[operation] as A)
      return new MailFailure({ code: fault!.code, operation, name, cause: undefined })
    })
  return {
    origin: node.origin,
    at: (folder) => {
      const mail = node.at(folder)
      const guarded = Object.fromEntries(
        operations.map((operation) => [
          operation,
          (name: string, ...rest: ReadonlyArray<never>) =>
            guard(
              operation,
              name,
              (mail[operation] as (...all: ReadonlyArray<unknown>) => Effect.Effect<any, any>)(name, ...rest)
            )
        ])
      )
      return { ...mail, ...(guarded as Pick<MailFolder, Operation>) }
    }
  }
}

// -------------------------------------------------------------------------------------
// one story
// -------------------------------------------------------------------------------------

const text = (words: string) => Buffer.from(words)
const words = (frames: ReadonlyArray<Uint8Array>) => frames.map((frame) => Buffer.from(frame).toString())

/** What the primaries of a story got, and what is wrong with it. */
interface Story {
  readonly fresh: Array<string>
  readonly recovered: Array<string>
  readonly problems: Array<string>
}

/** A process of the story, and how it tries until it may. */
const makeWorld = (protocol: Protocol["Type"], directory: string, story: Story, patience: number) => {
  const place = { id: InstanceId.make("com.example.faults"), directory, maxFrameBytes: 65_536 }
  const insist = <A>(
    what: string,
    effect: Effect.Effect<A, { readonly reason: string; readonly outcome: string }, Scope.Scope>
  ) =>
    effect.pipe(
      Effect.tapError(({ outcome, reason }) =>
        Effect.sync(() => {
          if (reason !== "Unavailable" || outcome !== "NotDelivered")
            story.problems.push(`${what}: ${reason}, ${outcome}`)
        })
      ),
      Effect.retry({ times: 50, while: () => Effect.as(Effect.sleep("20 millis"), true) }),
      Effect.orDie
    )
  const until = (what: string, condition: () => boolean) =>
    Effect.gen(function* () {
      for (const end = performance.now() + patience; performance.now() < end; yield* Effect.sleep("10 millis")) {
        if (condition()) return
      }
      story.problems.push(`${what} did not come about`)
    })
  /** Takes so many messages, and answers them. */
  const serve = (listener: Listener, scope: Scope.Scope, limit: number) =>
    Effect.gen(function* () {
      let left = limit
      const converse = (connection: Connection) =>
        Effect.gen(function* () {
          yield* connection.trust
          while (left > 0) {
            const got = words(yield* connection.receive)
            left -= got.length
            for (const word of got) {
              if (connection.recovered === true) story.recovered.push(word)
              else if (word !== "hello" || !story.fresh.includes("hello")) story.fresh.push(word)
              yield* connection.send(text(`re: ${word}`))
            }
          }
          yield* Effect.never
        })
      const next = Effect.flatMap(Scope.extend(listener.accept, scope), (connection) =>
        Effect.forkIn(Effect.interruptible(Effect.ignore(converse(connection))), scope)
      )
      yield* Effect.forkIn(Effect.interruptible(Effect.ignore(Effect.forever(next))), scope)
    })
  return {
    until,
    serve,
    listen: Effect.suspend(() => insist("listen", protocol.listen({ ...place, nonce: nonce(), maxConnections: 10 }))),
    connect: (address: string) => insist("connect", protocol.connect(address, place)),
    /** Sends a message until it is sent. */
    send: (connection: Connection, word: string) =>
      connection.send(text(word)).pipe(
        Effect.tapError(({ outcome }) =>
          Effect.sync(() => {
            if (outcome === "NotDelivered" && story.fresh.includes(word)) story.problems.push(`${word} was delivered`)
          })
        ),
        Effect.retry({ times: 20, while: ({ outcome }) => outcome === "NotDelivered" }),
        Effect.catchAll(({ message }) => Effect.sync(() => story.problems.push(`send of ${word}: ${message}`)))
      ),
    /** Collects what a sender is answered. */
    listenTo: (connection: Connection, heard: Array<string>) =>
      connection.receive.pipe(
        Effect.tap((frames) => heard.push(...words(frames))),
        Effect.forever,
        Effect.ignore,
        Effect.interruptible,
        Effect.forkScoped
      )
  }
}

const filesIn = (mail: string): ReadonlyArray<string> =>
  fs.existsSync(mail)
    ? fs
        .readdirSync(mail, { recursive: true, withFileTypes: true })
        .flatMap((entry) => (entry.isDirectory() ? [] : [entry.name]))
    : []

const scopeOfItsOwn = Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))

/** A primary takes four messages and answers them; one is withdrawn, one given back. Answers what is withdrawn. */
const giveBack = (world: ReturnType<typeof makeWorld>, story: Story) =>
  Effect.gen(function* () {
    const own = yield* scopeOfItsOwn
    const listener = yield* Scope.extend(world.listen, own)
    yield* world.serve(listener, own, 4)
    const connection = yield* world.connect(listener.address)
    const heard: Array<string> = []
    yield* world.listenTo(connection, heard)
    for (const word of ["hello", "a", "b", "c"]) yield* world.send(connection, word)
    yield* world.until("the answers", () => heard.length === 4)
    if (!(yield* listener.reachable!)) story.problems.push("it is said to listen nowhere")
    const frames = ["d", "e"].map(text)
    for (const frame of frames) {
      yield* connection.send(frame).pipe(Effect.retry({ times: 20 }), Effect.orDie)
    }
    if (!(yield* connection.withdraw!(frames[1]!))) story.problems.push("e cannot be withdrawn")
    yield* Scope.close(own, Exit.void)
    yield* Effect.ignore(connection.receive)
    if (!(yield* connection.withdraw!(frames[0]!))) story.problems.push("d was not given back")
  }).pipe(Effect.scoped)

/** A primary dies that had taken some messages and not others; the next one gets them all. */
const succeed = (world: ReturnType<typeof makeWorld>, mail: string, story: Story) =>
  Effect.gen(function* () {
    const listener = yield* world.listen
    const scope = yield* Effect.scope
    yield* world.serve(listener, scope, 2)
    const connection = yield* world.connect(listener.address)
    const heard: Array<string> = []
    yield* world.listenTo(connection, heard)
    for (const word of ["hello", "x"]) yield* world.send(connection, word)
    yield* world.until("the answers of the first primary", () => heard.length === 2)
    for (const word of ["y", "z"]) yield* world.send(connection, word)
    const box = path.join(mail, listener.address.split("/")[1]!)
    for (const name of fs.readdirSync(box)) {
      // No process has this pid.
      const dead = name.replace(/-\d+-(\d+)$/, `-${2 ** 30}-$1`)
      if (name.startsWith("l.")) fs.renameSync(path.join(box, name), path.join(box, dead))
    }
    const next = yield* world.listen
    yield* world.serve(next, scope, 100)
    yield* world.until("what was left", () => story.fresh.includes("z") && story.recovered.includes("x"))
  }).pipe(Effect.scoped)

/** What goes wrong in the story where this fault comes, and the kinds of operations that it is made of. */
const tell = (fault: Fault | undefined, beliefs: Beliefs = {}, patience = 60_000) =>
  Effect.gen(function* () {
    const directory = yield* temporary
    const mail = path.join(directory, "mail")
    const kinds = new Set<string>()
    const files = Layer.succeed(MailFiles, faulty(fault, beliefs, kinds))
    const protocol = Context.get(yield* Layer.build(Layer.provide(FileMailbox.layerFiles, files)), Protocol)
    const story: Story = { fresh: [], recovered: [], problems: [] }
    const world = makeWorld(protocol, directory, story, patience)
    const finished = yield* Effect.exit(
      Effect.zipRight(giveBack(world, story), succeed(world, mail, story)).pipe(Effect.timeout(3 * patience))
    )
    if (Exit.isFailure(finished)) story.problems.push(`${finished.cause}`)
    const expected = [
      ["hello", "a", "b", "c", "x", "y", "z"],
      ["hello", "x"]
    ]
    const got = [story.fresh, story.recovered]
    if (JSON.stringify(got) !== JSON.stringify(expected))
      story.problems.push(`the primaries got ${JSON.stringify(got)}`)
    const left = filesIn(mail).filter((name) => /^[nrc]\./.test(name))
    if (fault === undefined && left.length > 0) story.problems.push(`${left} are left`)
    return { kinds: [...kinds].sort(), problems: story.problems }
  }).pipe(Effect.scoped)

// -------------------------------------------------------------------------------------

const faultsOf = (kinds: ReadonlyArray<string>): ReadonlyArray<Fault> =>
  kinds.flatMap((kind, at) =>
    modes.flatMap((mode, turn) =>
      (scaled(1, 6) === 1 ? [codes[(at + turn) % codes.length]!] : codes).map((code) => ({ kind, mode, code }))
    )
  )

describe.concurrent("the mailbox while the system says no", () => {
  const main = ["rename box/nf", "read box/taken/cf", "list mail", "sync box", "unlink box/nf", "read lane/df"]
  for (const [which, isMain] of [
    ["a main", true],
    ["any", false]
  ] as const) {
    it.scopedLive(
      `loses no message, hands none over twice, keeps their order and tells the truth, whatever way ${which} operation fails${largeIf(!isMain)}`,
      () =>
        Effect.gen(function* () {
          const { kinds, problems } = yield* tell(undefined)
          assert.deepStrictEqual(problems, [])
          for (const kind of main) assert.include(kinds, kind)
          const found = yield* Effect.forEach(
            faultsOf(isMain ? main : kinds),
            (fault) =>
              Effect.map(tell(fault), ({ problems }) =>
                problems.map((problem) => `${fault.kind} ${fault.mode} ${fault.code}: ${problem}`)
              ),
            { concurrency: 8 }
          )
          assert.deepStrictEqual(found.flat(), [])
        }),
      600_000
    )
  }

  const canaries: Record<string, { readonly beliefs: Beliefs; readonly kinds: ReadonlyArray<string> }> = {
    "takes a message that it cannot rename for withdrawn": { beliefs: { rename: false }, kinds: ["rename box/nf"] },
    "takes a message that it cannot read for none": {
      beliefs: { read: { _tag: "Odd" } },
      kinds: ["read box/taken/cf"]
    },
    "takes an answer that it cannot read for none": { beliefs: { read: { _tag: "Missing" } }, kinds: ["read lane/df"] },
    "takes a folder that it cannot read for empty": { beliefs: { list: undefined }, kinds: ["list box"] },
    "takes a marker that it cannot look at for gone": { beliefs: { silence: undefined }, kinds: ["silence box/l"] }
  }
  for (const [name, { beliefs, kinds }] of Object.entries(canaries)) {
    it.scopedLive(
      `would do so where it ${name} (the canary)`,
      () =>
        Effect.gen(function* () {
          for (const kind of kinds) {
            for (const mode of modes) {
              const { problems } = yield* tell({ kind, mode, code: "EMFILE" }, beliefs, 3_000)
              if (problems.length > 0) return
            }
          }
          assert.fail("nothing was found")
        }),
      60_000
    )
  }
})
