/**
 * Frames as files in the instance's directory: slow, and survives everything.
 *
 * @since 0.1.0
 */
import { createHash, randomBytes } from "node:crypto"
import * as fs from "node:fs"
import { hostname } from "node:os"
import * as path from "node:path"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as errno from "../internal/errno.js"
import { addFinalizer } from "../internal/finalizer.js"
import { whileInUse } from "../internal/inUse.js"
import * as waker from "../internal/waker.js"
import { type Connection, type Listener, maxStrangerBytes, Protocol } from "../Protocol.js"
import { ProtocolError } from "../SingleInstanceError.js"

/**
 * How many messages, and how many bytes of them, wait in a mailbox at most for a primary to take them.
 *
 * @since 0.1.0
 * @category constants
 */
export const spool = { messages: 1_000, bytes: 64 * 1024 * 1024 } as const

/**
 * The protocol `file`, by the rules of Maildir (https://cr.yp.to/proto/maildir.html): a message is written under another
 * name, synced and renamed to where it counts; whoever takes it renames it first, so that exactly one process does. It
 * needs nothing but files, and reaches a primary that is stopped at the moment, or the next one: what no primary has taken
 * can be taken back for certain, what one that went away had not looked at it gave back, and what a dead one had taken is
 * known as such to the next.
 *
 * It listens in the folder `mail` of the instance's directory, which vouches for who writes there, under the address
 * `file:mail/<nonce>`. A message is synced to disk; an answer is not. A sender that dies is noticed by its pid, within
 * about three seconds and only in the same pid namespace; a handler goes on until then.
 *
 * - `listen` fails with `Unavailable` without a directory and where files cannot be written in it.
 * - `connect` fails with `Unreachable` where nobody listens.
 * - `send` fails with `Busy` where {@link spool} is full of what others sent.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as FileMailbox from "effect-single-instance/protocol/FileMailbox"
 * import * as Protocol from "effect-single-instance/Protocol"
 *
 * const program = Effect.map(Protocol.Protocol, (protocol) => protocol.name)
 *
 * export const name = Effect.runSync(Effect.provide(program, FileMailbox.layer)) // "file"
 * ```
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Protocol> = Layer.succeed(Protocol, {
  name: "file",
  listen: ({ directory, maxConnections, maxFrameBytes, nonce }) =>
    directory === null
      ? Effect.fail(error("Unavailable", "this lock has no directory to keep mail in"))
      : listen(path.join(directory, "mail"), nonce, maxFrameBytes, maxConnections),
  connect: (address, { directory, gone, maxFrameBytes }) => {
    const to = /^file:mail\/([0-9a-f]{32})$/.exec(address)?.[1]
    return to === undefined || directory === null
      ? Effect.fail(error("Unreachable", `it cannot be reached under ${address}`))
      : connect(path.join(directory, "mail"), to, maxFrameBytes, gone)
  }
})

// Names of files, each telling all that is decided by them:
//   l.<nonce>.<origin>                    somebody listens; x. as long as only what was accepted goes on
//   n.<nonce>.<lane>.<seq>.<kind><size>   a message to the listener of that nonce, new
//   c.<nonce>.<lane>.<seq>.<kind><size>   taken by the listener of that nonce
//   d.<lane>.<seq>.<kind><size>           an answer
//   r.<lane>.<seq>.<kind><size>           a message given back, which nobody looked at
//   t.<origin>.<random>                   being written
// A lane is a connection: the sender's origin and a random part. An origin is a process: host, boot, pid namespace, pid.
const sender = "[0-9a-f]{8}-[0-9a-f]{8}-\\d{1,20}-\\d{1,10}"
const patterns = {
  marker: new RegExp(`^([lx])\\.([0-9a-f]{32})\\.(${sender})$`),
  mail: new RegExp(`^([nc])\\.([0-9a-f]{32})\\.((${sender})-[0-9a-f]{32})\\.(\\d{16})\\.([ofe])(\\d{1,10})$`),
  answer: new RegExp(`^[dr]\\.((${sender})-[0-9a-f]{32})\\.(\\d{16})\\.([ofe])(\\d{1,10})$`),
  draft: new RegExp(`^t\\.(${sender})\\.[0-9a-f]{32}$`)
}

// A sender waits while so much of what it sent was not taken.
const windowFrames = 128
const windowBytes = 1024 * 1024
// What is kept of the messages taken over one lane, to be known as taken where this process dies.
const keptClaims = 256
// What nobody can tell the sender's life of goes when it is so old.
const unknowableMillis = 24 * 60 * 60 * 1_000

const random = () => randomBytes(16).toString("hex")

// -------------------------------------------------------------------------------------
// processes
// -------------------------------------------------------------------------------------

const attempt = <A>(read: () => A, otherwise: A): A => {
  try {
    return read()
  } catch {
    return otherwise
  }
}

const digest = (text: string) => createHash("sha256").update(text).digest("hex").slice(0, 8)

const here = [
  digest(attempt(() => fs.readFileSync("/etc/machine-id", "utf8"), "") + hostname()),
  digest(attempt(() => fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8"), "")),
  attempt(() => /\d+/.exec(fs.readlinkSync("/proc/self/ns/pid"))![0], "0")
] as const

const origin = (): string => `${here.join("-")}-${process.pid}`

type Life = "alive" | "dead" | "unknown"

// Only what is certain: no such process, or one of before the last start of this very machine.
const lifeOf = (origin: string): Life => {
  const [host, boot, namespace, pid] = origin.split("-")
  if (host !== here[0]) return "unknown"
  if (boot !== here[1]) return "dead"
  if (namespace !== here[2]) return "unknown"
  try {
    process.kill(Number(pid), 0)
    return "alive"
  } catch (cause) {
    return errno.code(cause) === "ESRCH" ? "dead" : "alive"
  }
}

// -------------------------------------------------------------------------------------
// files
// -------------------------------------------------------------------------------------

// The first of a lane says that it is open, the last that it ends.
type Kind = "o" | "f" | "e"

const magic = Buffer.from("ESIM1")
const headerBytes = magic.length + 4
const none = new Uint8Array()

const encode = (introduction: Uint8Array, frame: Uint8Array): Buffer => {
  const header = Buffer.alloc(headerBytes)
  magic.copy(header)
  header.writeUInt32BE(introduction.length, magic.length)
  return Buffer.concat([header, introduction, frame])
}

interface Mail {
  readonly introduction: Uint8Array
  readonly frame: Uint8Array
}

const decode = (bytes: Buffer): Mail | undefined => {
  if (bytes.length < headerBytes || !bytes.subarray(0, magic.length).equals(magic)) return undefined
  const at = headerBytes + bytes.readUInt32BE(magic.length)
  return at > bytes.length ? undefined : { introduction: bytes.subarray(headerBytes, at), frame: bytes.subarray(at) }
}

const io = <A>(run: () => Promise<A>): Effect.Effect<A, unknown> =>
  whileInUse(Effect.tryPromise({ try: run, catch: (cause) => cause }))

const list = (folder: string): Effect.Effect<ReadonlyArray<string>> =>
  Effect.orElseSucceed(
    io(() => fs.promises.readdir(folder)),
    () => []
  )

const remove = (folder: string, name: string): Effect.Effect<void> =>
  Effect.ignore(io(() => fs.promises.unlink(path.join(folder, name))))

/** Whether it was there, and is now under the other name. */
const rename = (folder: string, from: string, to: string): Effect.Effect<boolean, unknown> =>
  io(() => fs.promises.rename(path.join(folder, from), path.join(folder, to))).pipe(
    Effect.as(true),
    Effect.catchIf(errno.isMissing, () => Effect.succeed(false))
  )

// The name under which a message that was new or taken is given back.
const returned = (name: string): string => `r${name.slice("n.".length + 32)}`

/** What lies there for the sender of a lane. */
const isFor = (lane: string) => (name: string) => /^[dr]\./.test(name) && name.startsWith(`${lane}.`, 2)

// Whoever cleans up an empty mailbox may remove the folder at any time.
const write = (folder: string, name: string, bytes: Uint8Array, durable: boolean): Effect.Effect<void, unknown> => {
  const draft = path.join(folder, `t.${origin()}.${random()}`)
  const drafted = io(async () => {
    const file = await fs.promises.open(draft, "wx", 0o600)
    try {
      await file.writeFile(bytes)
      if (durable) await file.sync()
    } finally {
      await file.close()
    }
  })
  const posted = io(() => fs.promises.rename(draft, path.join(folder, name)))
  const kept = io(async () => {
    if (!durable || process.platform === "win32") return
    const directory = await fs.promises.open(folder, "r")
    await directory.sync().finally(() => directory.close())
  })
  return Effect.onError(Effect.zipRight(drafted, Effect.zipRight(posted, kept)), () =>
    remove(folder, path.basename(draft))
  )
}

// An empty mailbox need not stay.
const tidy = (folder: string): Effect.Effect<void> => Effect.ignore(io(() => fs.promises.rmdir(folder)))

const makeFolder = (folder: string): Effect.Effect<void, unknown> =>
  Effect.catchIf(
    io(() => fs.promises.mkdir(folder, { mode: 0o700 })),
    errno.isExisting,
    () => Effect.void
  )

const sizeOf = (name: string): number => Number(name.split(".").at(-1)!.slice(1))

const read = (folder: string, name: string): Effect.Effect<Mail | undefined> =>
  io(async () => {
    const { O_NOFOLLOW = 0, O_NONBLOCK = 0, O_RDONLY } = fs.constants
    const file = await fs.promises.open(path.join(folder, name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    try {
      const stat = await file.stat()
      // The name said how large it is, and was checked.
      return stat.isFile() && stat.size === sizeOf(name) ? decode(await file.readFile()) : undefined
    } finally {
      await file.close()
    }
  }).pipe(Effect.orElseSucceed(() => undefined))

// -------------------------------------------------------------------------------------
// one end of a connection
// -------------------------------------------------------------------------------------

interface Incoming {
  readonly name: string
  readonly order: string
  readonly kind: Kind
  readonly size: number
}

// Both who answer over one lane, what a dead primary took of it and what it did not, do so in one order: its sender looks
// only at what is behind the last one that it took.
interface Numbering {
  readonly lock: Effect.Semaphore
  sequence: number
}

const makeNumbering = (sequence: number): Numbering => ({ lock: Effect.unsafeMakeSemaphore(1), sequence })

class Side {
  // What is there and was not taken, in order.
  incoming: ReadonlyArray<Incoming> = []
  inbox: Array<Uint8Array> = []
  // That of the last one taken: a folder that was read before may show it still.
  last = ""
  // One of both has said that it ends.
  over = false
  lost: ProtocolError | undefined
  introduced = false
  trusted = false
  introduction: Uint8Array | undefined
  // What was sent and is still there, as far as is known.
  readonly outgoing: Map<string, { readonly size: number; written: boolean; missing: boolean }> = new Map()
  readonly names: WeakMap<Uint8Array, string> = new WeakMap()
  readonly withdrawn: WeakSet<Uint8Array> = new WeakSet()
  readonly waiting: Set<() => void> = new Set()
  private readonly turns: Array<() => void> = []
  private isSending = false
  // This side ended it, and said so: what the other has not taken yet is still for it.
  private failed = false
  // What the inbox holds, under this name.
  private held: string | undefined
  // It takes nothing more.
  private declined = false

  constructor(
    readonly folder: string,
    readonly lane: string,
    readonly maxFrameBytes: number,
    readonly options: {
      /** What names of what it sends begin with. */
      readonly prefix: string
      readonly durable: boolean
      readonly numbering: Numbering
      /** All of it is there from the beginning. */
      readonly whole: boolean
      /** Takes a message: the name under which it can be read, `undefined` where it is not there any more. */
      readonly take: (incoming: Incoming) => Effect.Effect<string | undefined, unknown>
      /** What becomes of it when it was read. */
      readonly taken: (name: string) => Effect.Effect<void>
    }
  ) {}

  wake(): void {
    const all = [...this.waiting]
    this.waiting.clear()
    for (const resume of all) resume()
  }

  lose(failure: ProtocolError): void {
    this.lost ??= failure
    this.wake()
  }

  /** What the folder holds for it now. */
  see(there: ReadonlyArray<Incoming>, names: ReadonlySet<string>): boolean {
    const incoming = this.over || this.declined ? [] : there.filter(({ order }) => order > this.last)
    const known = new Set(this.incoming.map(({ name }) => name))
    const isNew = incoming.some(({ name }) => !known.has(name))
    this.incoming = incoming
    let isMoving = isNew
    for (const [name, state] of this.outgoing) {
      if (names.has(name) || !state.written) continue
      isMoving = true
      // It may have come after the folder was read: what is missing twice is gone.
      if (state.missing) this.outgoing.delete(name)
      state.missing = true
    }
    if (isMoving) this.wake()
    return isMoving
  }

  private readonly pause = (isOver: () => boolean): Effect.Effect<void> =>
    Effect.async((resume) => {
      const done = () => resume(Effect.void)
      if (isOver()) return done()
      this.waiting.add(done)
      return Effect.sync(() => this.waiting.delete(done))
    })

  private isFull(): boolean {
    let bytes = 0
    for (const { size } of this.outgoing.values()) bytes += size
    return this.outgoing.size >= windowFrames || bytes >= windowBytes
  }

  readonly post = (kind: Kind, frame: Uint8Array): Effect.Effect<void, unknown> =>
    Effect.suspend(() => {
      const bytes = encode(kind === "f" ? (this.introduction ?? none) : none, frame)
      const name = `${this.options.prefix}.${String(this.options.numbering.sequence++).padStart(16, "0")}.${kind}${bytes.length}`
      const state = { size: bytes.length, written: false, missing: false }
      this.outgoing.set(name, state)
      this.names.set(frame, name)
      const durable = this.options.durable && kind === "f"
      return Effect.onExit(write(this.folder, name, bytes, durable), (exit) =>
        Effect.sync(() => {
          state.written = true
          if (Exit.isFailure(exit)) this.outgoing.delete(name)
        })
      )
    })

  readonly send = (frame: Uint8Array): Effect.Effect<void, ProtocolError> =>
    Effect.suspend(() => {
      if (frame.length > this.maxFrameBytes) {
        return error("TooLarge", `a frame of ${frame.length} bytes is above the limit of ${this.maxFrameBytes}`)
      }
      if (this.lost !== undefined) return this.lost
      const posting = Effect.suspend(() => {
        if (this.withdrawn.has(frame)) return Effect.void
        // It may have ended while this one waited for its turn.
        return this.lost ?? Effect.zipRight(this.room, this.post("f", frame))
      })
      return this.pause(() => !this.isFull() || this.lost !== undefined).pipe(
        Effect.zipRight(this.options.numbering.lock.withPermits(1)(Effect.uninterruptible(posting))),
        this.inTurn,
        Effect.tap(() => {
          // A sender introduces itself with its first frame.
          if (this.options.durable) this.introduction ??= Uint8Array.from(frame)
        }),
        Effect.mapError((cause) =>
          cause instanceof ProtocolError
            ? cause
            : error("Disconnected", `the mail cannot be written (${errno.code(cause)})`, "NotDelivered", cause)
        )
      )
    })

  // Frames go out in the order in which they were given. A semaphore would not do: it wakes all who wait for it, and lets
  // newcomers pass them.
  private readonly inTurn = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.zipRight(restore(this.turn), Effect.ensuring(restore(effect), Effect.sync(this.pass)))
    )

  private readonly turn: Effect.Effect<void> = Effect.async((resume) => {
    const go = () => resume(Effect.void)
    if (this.isSending) this.turns.push(go)
    else go()
    this.isSending = true
    return Effect.sync(() => {
      const at = this.turns.indexOf(go)
      // Who is interrupted after its turn had come passes it on.
      if (at < 0) this.pass()
      else this.turns.splice(at, 1)
    })
  })

  private readonly pass = (): void => {
    const next = this.turns.shift()
    this.isSending = next !== undefined
    next?.()
  }

  // Others may have filled the mailbox.
  private readonly room: Effect.Effect<void, ProtocolError> = Effect.suspend(() =>
    this.options.durable
      ? Effect.flatMap(list(this.folder), (names) => {
          let messages = 0
          let bytes = 0
          for (const name of names) {
            if (patterns.mail.exec(name)?.[1] !== "n") continue
            messages++
            bytes += sizeOf(name)
          }
          return messages >= spool.messages || bytes >= spool.bytes
            ? Effect.fail(error("Busy", `the mailbox is full: ${messages} messages, ${bytes} bytes`))
            : Effect.void
        })
      : Effect.void
  )

  readonly withdraw = (frame: Uint8Array): Effect.Effect<boolean> =>
    this.options.numbering.lock
      .withPermits(1)(
        Effect.suspend(() => {
          this.withdrawn.add(frame)
          const name = this.names.get(frame)
          if (name === undefined) return Effect.succeed(true)
          const draft = `t.${origin()}.${random()}`
          const take = (from: string) => Effect.orElseSucceed(rename(this.folder, from, draft), () => false)
          const taken = Effect.if(take(name), {
            onTrue: () => Effect.succeed(true),
            onFalse: () => take(returned(name))
          })
          return Effect.zipLeft(taken, remove(this.folder, draft))
        })
      )
      .pipe(Effect.uninterruptible)

  // What was read stays in the inbox until it is handed over: who is interrupted meanwhile loses nothing.
  readonly receive: Connection["receive"] = Effect.suspend(() => {
    if (this.inbox.length > 0) {
      this.held = undefined
      return Effect.succeed(this.inbox.splice(0))
    }
    if (this.incoming.length > 0) {
      return Effect.zipRight(
        this.options.numbering.lock.withPermits(1)(Effect.uninterruptible(this.takeNext)),
        Effect.suspend(() => this.receive)
      )
    }
    if (this.lost !== undefined) return Effect.fail(this.lost)
    if (this.options.whole) return Effect.fail(error("Disconnected", "nothing more comes", "Unknown"))
    return Effect.zipRight(
      this.pause(() => this.incoming.length > 0 || this.lost !== undefined),
      Effect.suspend(() => this.receive)
    )
  })

  // One at a time: what was not asked for yet can be withdrawn, and is still for the next primary.
  private readonly takeNext: Effect.Effect<void> = Effect.gen(this, function* () {
    while (this.incoming.length > 0 && this.inbox.length === 0) {
      const next = this.incoming[0]!
      const limit = this.trusted ? this.maxFrameBytes : Math.min(this.maxFrameBytes, maxStrangerBytes)
      const tooLarge = (size: number) =>
        this.fail(error("TooLarge", `the peer sent a frame of ${size} bytes, above the limit of ${limit}`, "Unknown"))
      const name = yield* this.take
      // What introduces it is as large as a stranger's frame at most.
      if (next.size > limit + maxStrangerBytes + headerBytes) {
        if (name !== undefined) yield* this.options.taken(name)
        return yield* tooLarge(next.size)
      }
      if (name === undefined) continue
      const mail = yield* read(this.folder, name)
      yield* this.options.taken(name)
      if (mail === undefined) return yield* this.fail(error("Malformed", `${next.name} holds no message`, "Unknown"))
      if (next.kind === "e") {
        this.over = true
        return this.lose(error("Disconnected", "the peer closed the connection", "Unknown"))
      }
      if (next.kind === "o") continue
      this.held = name
      if (!this.introduced && mail.introduction.length > 0) this.inbox.push(mail.introduction)
      this.introduced = true
      if (mail.frame.length > limit) return yield* tooLarge(mail.frame.length)
      this.inbox.push(mail.frame)
    }
  })

  private readonly take: Effect.Effect<string | undefined> = Effect.suspend(() => {
    const [next, ...rest] = this.incoming
    this.incoming = rest
    this.last = next!.order
    return Effect.orElseSucceed(this.options.take(next!), () => undefined)
  })

  /** Takes what opens the lane, and nothing else: its sender sees so that it is accepted. */
  readonly accept: Effect.Effect<void> = Effect.suspend(() =>
    this.incoming[0]?.kind === "o"
      ? Effect.flatMap(this.take, (name) => (name === undefined ? Effect.void : this.options.taken(name)))
      : Effect.void
  )

  private readonly fail = (failure: ProtocolError): Effect.Effect<void> =>
    Effect.suspend(() => {
      this.incoming = []
      this.over = true
      this.failed = true
      this.lose(failure)
      return Effect.ignore(this.post("e", none))
    })

  // Takes nothing more. What a sender was answered is no one else's, and what a dead primary had taken it may have looked at.
  private readonly decline: Effect.Effect<void> = Effect.suspend(() => {
    const { held } = this
    this.declined = true
    this.held = undefined
    this.inbox = []
    this.incoming = []
    if (this.options.durable || this.options.whole) return Effect.void
    return Effect.flatMap(list(this.folder), (names) =>
      Effect.forEach(
        names.filter((name) => {
          const [, state, , lane, , , kind] = patterns.mail.exec(name) ?? []
          return name === held || (state === "n" && lane === this.lane && kind === "f")
        }),
        (name) => Effect.ignore(rename(this.folder, name, returned(name))),
        { discard: true }
      )
    )
  })

  readonly giveBack: Effect.Effect<void> = Effect.suspend(() =>
    this.options.numbering.lock.withPermits(1)(Effect.uninterruptible(this.decline))
  )

  get connection(): Connection {
    return {
      vouched: true,
      send: this.send,
      receive: this.receive,
      trust: Effect.sync(() => {
        this.trusted = true
      })
    }
  }

  /** Says that nothing more comes. */
  readonly leave: Effect.Effect<void> = Effect.suspend(() =>
    this.options.numbering.lock.withPermits(1)(
      Effect.suspend(() => {
        const closed = error("Disconnected", "this side closed the connection", "Unknown")
        if (!this.over && this.lost === undefined) return Effect.zipRight(this.decline, this.fail(closed))
        this.inbox = []
        if (this.failed) return Effect.void
        // Nobody will take it.
        const leaving = Effect.forEach(this.outgoing.keys(), (name) => remove(this.folder, name), { discard: true })
        // Whoever is primary by now is told, for what it may have answered, or may still be about to.
        return !this.over && this.options.durable ? Effect.zipRight(leaving, this.fail(closed)) : leaving
      })
    )
  )
}

// -------------------------------------------------------------------------------------
// the primary's end
// -------------------------------------------------------------------------------------

// A folder that is read twice misses nothing that was there before what the first reading saw: the second tells the order.
const look = (
  folder: string
): Effect.Effect<{ readonly seen: ReadonlySet<string>; readonly names: ReadonlyArray<string> }> =>
  Effect.zipWith(list(folder), list(folder), (first, second) => ({ seen: new Set(first), names: second }))

const inOrder = (mails: Array<Incoming>): Array<Incoming> =>
  mails.sort((a, b) => (a.order < b.order ? -1 : a.order > b.order ? 1 : 0))

// Of each lane what is certainly complete: up to the last one that the first reading saw.
const complete = (mails: ReadonlyArray<Incoming>, seen: ReadonlySet<string>): ReadonlyArray<Incoming> => {
  const last = mails.findLastIndex(({ name }) => seen.has(name))
  return mails.slice(0, last + 1)
}

// A connection on its way to being accepted, and behind that.
interface Lane {
  readonly side: Side
  readonly recovered: boolean
  readonly close: Effect.Effect<void>
}

const listen = (
  folder: string,
  nonce: string,
  maxFrameBytes: number,
  maxConnections: number
): Effect.Effect<Listener, ProtocolError, Scope.Scope> =>
  Effect.gen(function* () {
    const marker = `l.${nonce}.${origin()}`
    const closing = `x.${nonce}.${origin()}`
    yield* Effect.zipRight(makeFolder(folder), write(folder, marker, none, false)).pipe(
      // Whoever tidied up may have come between.
      Effect.retry({ times: 5, while: errno.isMissing }),
      Effect.onError(() => tidy(folder)),
      Effect.mapError((cause) =>
        error("Unavailable", `mail cannot be kept (${errno.code(cause)})`, "NotDelivered", cause)
      )
    )
    // It goes on for what was accepted when the listener has closed.
    const own = yield* Scope.make()
    const wakes = yield* Scope.extend(waker.make(folder), own)
    const lanes = new Map<string, Lane>()
    const queue: Array<Lane> = []
    const acceptors = new Set<() => void>()
    // Lanes that ended here: what comes of them is not for a conversation any more. With the last scan begun before the end
    // was said.
    const ended = new Map<string, number>()
    let scans = 0
    let open = true
    // Who only contends takes nothing that was meant for another one.
    let leading = false

    const claimOf = (name: string) => `c.${nonce}${name.slice(2 + nonce.length)}`

    const enter = (lane: string, recovered: boolean): Lane => {
      const claims: Array<string> = []
      const side = new Side(folder, lane, maxFrameBytes, {
        prefix: `d.${lane}`,
        durable: false,
        // Above all that an earlier primary answered.
        numbering:
          lanes.get(recovered ? lane : `${lane} recovered`)?.side.options.numbering ??
          makeNumbering(Date.now() * 1_000),
        whole: recovered,
        take: ({ name }) => {
          if (name.startsWith("c.")) return Effect.succeed(name)
          const claim = claimOf(name)
          return Effect.map(rename(folder, name, claim), (done) => (done ? claim : undefined))
        },
        taken: (name) => {
          claims.push(name)
          return claims.length > keptClaims ? remove(folder, claims.shift()!) : Effect.void
        }
      })
      const key = recovered ? `${lane} recovered` : lane
      const close = Effect.suspend(() => {
        lanes.delete(key)
        if (recovered) side.lose(error("Disconnected", "this side closed the connection", "Unknown"))
        else ended.set(lane, Number.POSITIVE_INFINITY)
        // The lane itself goes on, perhaps.
        return Effect.zipRight(
          recovered
            ? Effect.void
            : Effect.zipLeft(
                side.leave,
                Effect.sync(() => ended.set(lane, scans))
              ),
          Effect.forEach(claims, (name) => remove(folder, name), { discard: true })
        ).pipe(Effect.zipRight(Effect.suspend(() => finish())))
      })
      const entered = { side, recovered, close }
      lanes.set(key, entered)
      return entered
    }

    const adopted = (names: ReadonlyArray<string>) => {
      const living = new Set<string>()
      for (const name of names) {
        const [, , by, from] = patterns.marker.exec(name) ?? []
        if (by !== undefined && lifeOf(from!) !== "dead") living.add(by)
      }
      return (to: string) => to === nonce || (leading && !living.has(to))
    }

    const scan: Effect.Effect<boolean> = Effect.gen(function* () {
      const scan = ++scans
      const { names, seen } = yield* look(folder)
      const isOurs = adopted(names)
      const there = new Map<string, Array<Incoming>>()
      const over = new Set<string>()
      // Who has not heard of the end yet may still send. As the first reading saw it: what was sent before it was heard of
      // is there for the second.
      for (const name of seen) {
        const [, lane, , , kind] = patterns.answer.exec(name) ?? []
        if (kind !== "e" || !ended.has(lane!)) continue
        if (lifeOf(originOf(lane!)) === "dead") yield* remove(folder, name)
        else over.add(lane!)
      }
      for (const name of names) {
        const [, state, to, lane, , order, kind, size] = patterns.mail.exec(name) ?? []
        if (leading && isLeft(name)) yield* remove(folder, name)
        if (state !== "n" || !isOurs(to!)) continue
        if (ended.has(lane!)) {
          over.add(lane!)
          if (lifeOf(originOf(lane!)) === "dead") yield* remove(folder, name)
          continue
        }
        const mails = there.get(lane!)
        const mail = { name, order: order!, kind: kind as Kind, size: Number(size) }
        if (mails === undefined) there.set(lane!, [mail])
        else mails.push(mail)
      }
      for (const [lane, before] of ended) if (scan > before && !over.has(lane)) ended.delete(lane)
      let found = false
      const all = new Set(names)
      for (const [lane, mails] of there) {
        const incoming = complete(inOrder(mails), seen)
        if (incoming.length === 0 || lanes.has(lane) || !open) continue
        if (incoming[0]!.kind === "e") {
          // Both sides ended it at the same time, or its sender left when an earlier primary had died.
          lanes.get(`${lane} recovered`)?.side.lose(error("Disconnected", "the peer closed the connection", "Unknown"))
          for (const name of [incoming[0]!.name, ...names.filter(isFor(lane))]) yield* remove(folder, name)
          continue
        }
        const entered = enter(lane, false)
        if (lanes.size > maxConnections) yield* entered.close
        else queue.push(entered)
        found = true
      }
      for (const { recovered, side } of lanes.values()) {
        if (recovered) {
          side.see(side.incoming, all)
          continue
        }
        const incoming = complete(inOrder(there.get(side.lane) ?? []), seen)
        found = side.see(incoming, all) || found
        if (incoming.length === 0 && lifeOf(originOf(side.lane)) === "dead") {
          side.lose(error("Disconnected", "its process is gone", "Unknown"))
        }
      }
      if (queue.length > 0) for (const resume of [...acceptors]) resume()
      return found
    })

    // What a dead primary had taken, and what nobody will ever ask for.
    const recover = Effect.gen(function* () {
      const names = yield* list(folder)
      const isOurs = adopted(names)
      const claimed = new Map<string, Array<Incoming>>()
      for (const name of names) {
        const [, state, by, lane, from, order, kind, size] = patterns.mail.exec(name) ?? []
        if (state === "c" && by !== nonce && isOurs(by!)) {
          const claim = claimOf(name)
          if (!(yield* Effect.orElseSucceed(rename(folder, name, claim), () => false))) continue
          const mails = claimed.get(lane!) ?? []
          claimed.set(lane!, mails)
          mails.push({ name: claim, order: order!, kind: kind as Kind, size: Number(size) })
          continue
        }
        const at = from ?? patterns.answer.exec(name)?.[2] ?? patterns.draft.exec(name)?.[1]
        const dead = patterns.marker.exec(name)?.[3]
        if (dead !== undefined ? lifeOf(dead) === "dead" : at !== undefined && state !== "n" && lifeOf(at) === "dead") {
          yield* remove(folder, name)
        } else if (lifeOf(at ?? dead ?? origin()) === "unknown") {
          const stat = yield* Effect.option(io(() => fs.promises.lstat(path.join(folder, name))))
          if (stat._tag === "Some" && Date.now() - stat.value.mtimeMs > unknowableMillis) yield* remove(folder, name)
        }
      }
      for (const [lane, mails] of claimed) {
        const entered = enter(lane, true)
        entered.side.incoming = inOrder(mails)
        queue.push(entered)
      }
    })
    const lead = Effect.suspend(() => {
      if (leading) return Effect.void
      leading = true
      return Effect.zipRight(recover, Effect.forkIn(Effect.interruptible(wakes.run(scan)), own))
    })

    // With the last of the listener and what it accepted, an empty mailbox goes.
    let finished = false
    const finish = () => {
      if (open || lanes.size > 0 || finished) return Effect.void
      finished = true
      return Effect.gen(function* () {
        yield* Scope.close(own, Exit.void)
        // First: who leaves after that cleans up behind itself.
        yield* remove(folder, closing)
        const names = yield* list(folder)
        // Whose senders left as well.
        const over = new Set(
          names.flatMap((name) => {
            const [, , to, lane, , , kind] = patterns.mail.exec(name) ?? []
            return to === nonce && kind === "e" ? [lane] : []
          })
        )
        for (const name of names) {
          const [, , to, lane] = patterns.mail.exec(name) ?? []
          const answered = patterns.answer.exec(name)?.[1]
          if ((to === nonce && over.has(lane!)) || over.has(answered)) yield* remove(folder, name)
        }
        yield* tidy(folder)
      })
    }
    yield* addFinalizer(() =>
      Effect.gen(function* () {
        yield* Effect.ignore(rename(folder, marker, closing))
        // Those that came until now are told.
        yield* scan
        open = false
        for (const { close } of queue.splice(0)) yield* close
        for (const resume of [...acceptors]) resume()
        yield* finish()
      })
    )

    const accept: Listener["accept"] = Effect.uninterruptibleMask((restore) => {
      const next: Listener["accept"] = Effect.suspend(() => {
        const first = queue.shift()
        if (first === undefined) {
          if (!open) return error("Disconnected", "the listener is closed")
          const arrival = Effect.async<void>((resume) => {
            const done = () => {
              acceptors.delete(done)
              resume(Effect.void)
            }
            acceptors.add(done)
            return Effect.sync(() => acceptors.delete(done))
          })
          return Effect.zipRight(restore(arrival), next)
        }
        const { close, recovered, side } = first
        return side.accept.pipe(
          Effect.zipRight(addFinalizer(() => close)),
          Effect.as({ ...side.connection, giveBack: side.giveBack, recovered })
        )
      })
      return Effect.zipRight(lead, next)
    })
    const reachable = Effect.match(
      io(() => fs.promises.lstat(path.join(folder, marker))),
      { onFailure: (cause) => !errno.isMissing(cause), onSuccess: () => true }
    )
    return { address: `file:mail/${nonce}`, accept, reachable }
  }).pipe(Effect.uninterruptible)

// What a process was writing that was killed, and answers that nobody waits for any more: a primary may live for long.
const isLeft = (name: string): boolean => {
  const from = patterns.answer.exec(name)?.[2] ?? patterns.draft.exec(name)?.[1]
  return from !== undefined && lifeOf(from) === "dead"
}

const originOf = (lane: string): string => lane.slice(0, lane.lastIndexOf("-"))

// -------------------------------------------------------------------------------------
// the secondary's end
// -------------------------------------------------------------------------------------

const connect = (
  folder: string,
  to: string,
  maxFrameBytes: number,
  gone: Effect.Effect<void> | undefined
): Effect.Effect<Connection, ProtocolError, Scope.Scope> =>
  Effect.gen(function* () {
    const listenerIn = (names: ReadonlyArray<string>) => {
      for (const name of names) {
        const [, kind, nonce, from] = patterns.marker.exec(name) ?? []
        if (nonce === to) return { from: from!, isOpen: kind === "l" }
      }
      return undefined
    }
    const listener = listenerIn(yield* list(folder))
    if (listener === undefined || !listener.isOpen || lifeOf(listener.from) === "dead") {
      return yield* error("Unreachable", "nobody listens to this mailbox")
    }
    const lane = `${origin()}-${random()}`
    const side = new Side(folder, lane, maxFrameBytes, {
      prefix: `n.${to}.${lane}`,
      durable: true,
      numbering: makeNumbering(0),
      whole: false,
      take: ({ name }) => Effect.succeed(name),
      taken: (name) => remove(folder, name)
    })
    const wakes = yield* waker.make(folder)
    const scan = Effect.gen(function* () {
      const { names, seen } = yield* look(folder)
      const mails: Array<Incoming> = []
      let isAccepted = true
      for (const name of names) {
        const [, of, , order, kind, size] = patterns.answer.exec(name) ?? []
        if (of === lane && name.startsWith("d."))
          mails.push({ name, order: order!, kind: kind as Kind, size: Number(size) })
        // The first one is claimed when somebody accepts.
        if (name.startsWith(`n.${to}.${lane}.${"0".repeat(16)}.`)) isAccepted = false
      }
      const incoming = complete(inOrder(mails), seen)
      const found = side.see(incoming, new Set(names))
      if (incoming.length === 0 && !found) {
        const now = listenerIn(names)
        if (lifeOf(listener.from) === "dead" || (now?.isOpen !== true && !isAccepted)) {
          side.lose(error("Disconnected", "the primary is gone", "Unknown"))
        }
      }
      return found
    })
    yield* addFinalizer(() =>
      Effect.gen(function* () {
        yield* side.leave
        const names = yield* list(folder)
        const isAlone = listenerIn(names) === undefined
        for (const name of names) {
          const [, , , of, , , kind] = patterns.mail.exec(name) ?? []
          // A message that nobody took may still be for the next primary.
          const isLeft = isFor(lane)(name) || (isAlone && of === lane && kind !== "f")
          if (isLeft) yield* remove(folder, name)
        }
        yield* tidy(folder)
      })
    )
    yield* Effect.mapError(side.post("o", none), (cause) =>
      error("Unreachable", `the mailbox cannot be written to (${errno.code(cause)})`, "NotDelivered", cause)
    )
    yield* Effect.forkScoped(Effect.interruptible(wakes.run(scan)))
    if (gone !== undefined) {
      yield* gone.pipe(
        // What it answered until then is there by now.
        Effect.zipRight(scan),
        Effect.zipRight(Effect.sync(() => side.lose(error("Disconnected", "the primary may be gone", "Unknown")))),
        Effect.interruptible,
        Effect.forkScoped
      )
    }
    return { ...side.connection, withdraw: side.withdraw }
  }).pipe(Effect.uninterruptible)

const error = (
  reason: ProtocolError["reason"],
  detail: string,
  outcome: ProtocolError["outcome"] = "NotDelivered",
  cause?: unknown
): ProtocolError =>
  new ProtocolError({ reason, protocol: "file", detail, outcome, ...(cause === undefined ? undefined : { cause }) })
