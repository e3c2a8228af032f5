/**
 * One end of a connection.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { type Connection, maxStrangerBytes } from "../../Protocol.js"
import type { ProtocolError } from "../../SingleInstanceError.js"
import * as content from "./content.js"
import { error } from "./errors.js"
import type { MailFailure, MailFolder } from "./MailFiles.js"
import * as names from "./names.js"
import { makeBackoff, monotonicMillis, patiently, pause } from "./patience.js"
import { type PostFailure, post } from "./post.js"

// A sender waits while so much of what it sent was not taken.
const windowFrames = 128
const windowBytes = 1024 * 1024
// How often it looks meanwhile whether something was.
const windowMillis = 20
// What is kept of the messages taken over one lane, to be known as taken where this process dies.
const keptClaims = 256
// How long a message, or an answer, is tried again that cannot be written.
const sendMillis = 2_000
const answerMillis = 30_000
// How long each step of an end is tried again.
const leaveMillis = 1_000
// After so long a message that this process took and cannot read becomes one again that nobody took.
const readMillis = 5_000

const none = new Uint8Array()

/**
 * What the ends of a connection do differently.
 *
 * @since 0.1.0
 * @category models
 */
export interface LaneOptions {
  /** The origin of this process. */
  readonly origin: string
  readonly maxFrameBytes: number
  /** The folder that what it sends goes to. */
  readonly outbox: string
  /** The next name for what it sends. */
  readonly nameOf: (kind: names.Kind, size: number) => string
  /** The folder in which messages that were not taken lie, and whence they are given back; `undefined` of the sender's end. */
  readonly inbox: string | undefined
  /** All of it is there from the beginning. */
  readonly whole: boolean
  /** Whether others have filled the mailbox. */
  readonly room: (names: ReadonlyArray<string>) => Effect.Effect<void, ProtocolError>
  /** Takes a message: the name under which it can be read, `undefined` where it was withdrawn. */
  readonly take: (incoming: names.Incoming) => Effect.Effect<string | undefined, MailFailure>
}

/**
 * One end of a connection: of the sender's end `options.inbox` is `undefined`.
 *
 * @since 0.1.0
 * @category models
 */
export class Lane {
  /** What is there and was not taken, in order. */
  incoming: ReadonlyArray<names.Incoming> = []
  /** Why nothing more comes. */
  lost: ProtocolError | undefined
  /** What opened it, as this side sent it. */
  opened: string | undefined
  /** What says that this side ended it. */
  farewell: string | undefined
  private inbox: Array<Uint8Array> = []
  // What was taken: a folder that was read before may show it still.
  private readonly done: Set<string> = new Set()
  // What was taken and not read yet, and since when that is tried.
  private claimed: { readonly next: names.Incoming; readonly name: string; readonly since: number } | undefined
  // What the inbox holds, under this name.
  private held: string | undefined
  // Files of messages that were taken and read.
  private readonly claims: Set<string> = new Set()
  // One of both has said that it ends.
  private over = false
  private introduced = false
  private trusted = false
  private introduction: Uint8Array | undefined
  // What was sent and is still there, as far as is known, with its size.
  private readonly outgoing: Map<string, number> = new Map()
  private readonly posted: WeakMap<Uint8Array, string> = new WeakMap()
  private readonly withdrawn: WeakSet<Uint8Array> = new WeakSet()
  private readonly waiting: Set<() => void> = new Set()
  private readonly turns: Array<() => void> = []
  private isSending = false
  // It takes nothing more.
  private declined = false
  private readonly backoff = makeBackoff(500)
  // One at a time: posting, taking, giving back, leaving.
  private readonly lock = Effect.unsafeMakeSemaphore(1)

  constructor(
    readonly mail: MailFolder,
    readonly lane: string,
    private readonly options: LaneOptions
  ) {}

  private get isSender(): boolean {
    return this.options.inbox === undefined
  }

  private readonly exclusively = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    this.lock.withPermits(1)(Effect.uninterruptible(effect))

  private wake(): void {
    const all = [...this.waiting]
    this.waiting.clear()
    for (const resume of all) resume()
  }

  lose(failure: ProtocolError): void {
    this.lost ??= failure
    this.wake()
  }

  /** What the folder holds for it now; answers whether something of it is new. */
  see(there: ReadonlyArray<names.Incoming>): boolean {
    const all = new Set(there.map(({ name }) => name))
    for (const name of this.done) if (!all.has(name)) this.done.delete(name)
    const known = new Set(this.incoming.map(({ name }) => name))
    this.incoming = this.over || this.declined ? [] : there.filter(({ name }) => !this.done.has(name))
    const isNew = this.incoming.some(({ name }) => !known.has(name))
    if (isNew) this.wake()
    return isNew
  }

  private readonly until = (isOver: () => boolean): Effect.Effect<void> =>
    Effect.async((resume) => {
      const done = () => resume(Effect.void)
      if (isOver()) return done()
      this.waiting.add(done)
      return Effect.sync(() => this.waiting.delete(done))
    })

  // -----------------------------------------------------------------------------------
  // sending
  // -----------------------------------------------------------------------------------

  private isFull(): boolean {
    let bytes = 0
    for (const size of this.outgoing.values()) bytes += size
    return this.outgoing.size >= windowFrames || bytes >= windowBytes
  }

  // Waits while the other side takes nothing. What cannot be looked at now is looked at again.
  private readonly makeRoom: Effect.Effect<void> = Effect.suspend(() =>
    !this.isFull() || this.lost !== undefined
      ? Effect.void
      : Effect.match(this.mail.list(this.options.outbox), {
          onFailure: () => {},
          onSuccess: (there = []) => {
            const left = new Set(there.map((name) => `${this.options.outbox}/${name}`))
            for (const name of this.outgoing.keys()) if (!left.has(name)) this.outgoing.delete(name)
          }
        }).pipe(
          Effect.flatMap(() => (this.isFull() ? Effect.zipRight(pause(windowMillis), this.makeRoom) : Effect.void))
        )
  )

  // Others may have filled the mailbox.
  private readonly checkSpool: Effect.Effect<void, MailFailure | ProtocolError> = Effect.suspend(() =>
    this.isSender
      ? Effect.flatMap(this.mail.list(this.options.outbox), (there = []) => this.options.room(there))
      : Effect.void
  )

  private readonly post = (kind: names.Kind, frame: Uint8Array): Effect.Effect<string, PostFailure> =>
    Effect.suspend(() => {
      const bytes = content.encode(kind === "f" ? (this.introduction ?? none) : none, frame)
      const name = this.options.nameOf(kind, bytes.length)
      this.posted.set(frame, name)
      const durable = this.isSender && kind === "f"
      return post(this.mail, this.options.origin, { folder: this.options.outbox, name, bytes, durable }).pipe(
        Effect.tapBoth({
          onSuccess: () => Effect.sync(() => this.outgoing.set(name, bytes.length)),
          onFailure: ({ outcome }) =>
            Effect.sync(() => {
              if (outcome === "NotDelivered") this.posted.delete(frame)
            })
        }),
        Effect.as(name)
      )
    })

  /** Opens the lane. */
  readonly open: Effect.Effect<void, PostFailure> = Effect.suspend(() =>
    Effect.map(this.exclusively(this.post("o", none)), (name) => {
      this.opened = name
    })
  )

  readonly send = (frame: Uint8Array): Effect.Effect<void, ProtocolError> =>
    Effect.suspend(() => {
      const { maxFrameBytes } = this.options
      if (frame.length > maxFrameBytes) {
        return error("TooLarge", `a frame of ${frame.length} bytes is above the limit of ${maxFrameBytes}`)
      }
      if (this.lost !== undefined) return this.lost
      const attempt = this.exclusively(
        Effect.suspend(() => {
          if (this.withdrawn.has(frame)) return Effect.void
          // It may have ended while this one waited for its turn.
          return this.lost ?? Effect.zipRight(this.checkSpool, this.post("f", frame))
        })
      )
      const patience = this.isSender ? sendMillis : answerMillis
      return Effect.zipRight(this.makeRoom, patiently(attempt, patience, isWorthRetrying)).pipe(
        this.inTurn,
        Effect.tap(() => {
          // A sender introduces itself with its first frame.
          if (this.isSender) this.introduction ??= Uint8Array.from(frame)
        }),
        Effect.catchAll((failure) => this.notSent(failure))
      )
    })

  private readonly notSent = (
    failure: PostFailure | MailFailure | ProtocolError
  ): Effect.Effect<never, ProtocolError> => {
    if (failure._tag === "ProtocolError") return Effect.fail(failure)
    if (failure._tag === "PostFailure" && failure.gone) {
      const detail = this.isSender ? "the mailbox of the primary is gone" : "its sender has left"
      this.lose(error("Disconnected", detail, "Unknown"))
      return error("Disconnected", detail)
    }
    const [cause, outcome] =
      failure._tag === "PostFailure" ? [failure.cause, failure.outcome] : [failure, "NotDelivered" as const]
    const sending = error("Disconnected", `the mail cannot be written (${cause?.code})`, outcome, cause)
    // A sender whose answer is missing must not wait for it.
    return this.isSender ? sending : Effect.zipRight(this.exclusively(this.fail(sending)), sending)
  }

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
      // If a waiter is interrupted after its turn had come, pass the turn on.
      if (at < 0) this.pass()
      else this.turns.splice(at, 1)
    })
  })

  private readonly pass = (): void => {
    const next = this.turns.shift()
    this.isSending = next !== undefined
    next?.()
  }

  readonly withdraw = (frame: Uint8Array): Effect.Effect<boolean> =>
    this.exclusively(
      Effect.suspend(() => {
        this.withdrawn.add(frame)
        const name = this.posted.get(frame)
        if (name === undefined) return Effect.succeed(true)
        // Either it is removed here or somebody renames it, never both.
        const remove = (name: string) => patiently(this.mail.unlink(name), leaveMillis)
        return Effect.if(remove(name), {
          onTrue: () => Effect.succeed(true),
          onFalse: () => remove(names.returned(this.lane, name))
        }).pipe(
          // Where it cannot be told, a primary may have it.
          Effect.orElseSucceed(() => false)
        )
      })
    )

  // -----------------------------------------------------------------------------------
  // receiving
  // -----------------------------------------------------------------------------------

  // What was read stays in the inbox until it is handed over: who is interrupted meanwhile loses nothing.
  readonly receive: Connection["receive"] = Effect.suspend(() => {
    if (this.inbox.length > 0) {
      this.held = undefined
      return Effect.succeed(this.inbox.splice(0))
    }
    if (this.claimed !== undefined || this.incoming.length > 0) {
      return Effect.zipRight(
        Effect.matchEffect(this.exclusively(this.takeNext), {
          onFailure: () => this.backoff.pause,
          onSuccess: () => Effect.sync(this.backoff.reset)
        }),
        Effect.suspend(() => this.receive)
      )
    }
    if (this.lost !== undefined) return Effect.fail(this.lost)
    if (this.options.whole) return Effect.fail(error("Disconnected", "nothing more comes", "Unknown"))
    return Effect.zipRight(
      this.until(() => this.incoming.length > 0 || this.lost !== undefined),
      Effect.suspend(() => this.receive)
    )
  })

  // One at a time: what was not asked for yet can be withdrawn, and is still for the next primary. After a failure nothing is
  // decided, and the same message comes next.
  private readonly takeNext: Effect.Effect<void, MailFailure> = Effect.gen(this, function* () {
    while (this.inbox.length === 0 && !this.hasEnded) {
      if (this.claimed === undefined) {
        const next = this.incoming[0]
        if (next === undefined) return
        const name = yield* this.take(next)
        if (name === undefined) continue
        this.claimed = { next, name, since: monotonicMillis() }
      }
      yield* this.read(this.claimed)
    }
  })

  private get hasEnded(): boolean {
    return this.over || this.declined
  }

  private readonly take = (next: names.Incoming): Effect.Effect<string | undefined, MailFailure> =>
    Effect.tap(this.options.take(next), () => {
      this.incoming = this.incoming.filter(({ name }) => name !== next.name)
      this.done.add(next.name)
    })

  private readonly read = ({ name, next, since }: NonNullable<Lane["claimed"]>): Effect.Effect<void, MailFailure> =>
    Effect.gen(this, function* () {
      const { maxFrameBytes } = this.options
      const limit = this.trusted ? maxFrameBytes : Math.min(maxFrameBytes, maxStrangerBytes)
      const tooLarge = (size: number) =>
        error("TooLarge", `the peer sent a frame of ${size} bytes, above the limit of ${limit}`, "Unknown")
      // What introduces it is as large as a stranger's frame at most.
      if (next.size > limit + maxStrangerBytes + content.headerBytes) {
        return yield* this.finish(name, tooLarge(next.size))
      }
      const found = yield* Effect.either(this.mail.read(name, next.size))
      if (Either.isLeft(found)) {
        const isOld = monotonicMillis() - since > readMillis
        return yield* isOld && !this.options.whole ? this.giveUp(name, found.left) : Effect.fail(found.left)
      }
      if (found.right._tag === "Missing") {
        return yield* this.finish(name, error("Disconnected", `somebody removed ${name}`, "Unknown"))
      }
      const mail = found.right._tag === "Odd" ? undefined : content.decode(found.right.bytes)
      if (mail === undefined) {
        return yield* this.finish(name, error("Malformed", `${next.name} holds no message`, "Unknown"))
      }
      if (next.kind === "e") {
        this.over = true
        this.incoming = []
        this.lose(error("Disconnected", "the peer closed the connection", "Unknown"))
      }
      yield* this.finish(name)
      if (next.kind !== "f") return
      this.held = name
      if (!this.introduced && mail.introduction.length > 0) this.inbox.push(mail.introduction)
      this.introduced = true
      if (mail.frame.length > limit) return yield* this.fail(tooLarge(mail.frame.length))
      this.inbox.push(mail.frame)
    })

  // A message that was read, or is none. An answer is removed; a message of the sender is kept for a while.
  private readonly finish = (name: string, failure?: ProtocolError): Effect.Effect<void> =>
    Effect.suspend(() => {
      this.claimed = undefined
      this.claims.add(name)
      const [oldest] = this.claims
      const isOld = this.isSender || this.claims.size > keptClaims
      return Effect.zipRight(
        isOld ? Effect.ignore(this.removeClaim(oldest!)) : Effect.void,
        failure === undefined ? Effect.void : this.fail(failure)
      )
    })

  private readonly removeClaim = (name: string): Effect.Effect<void, MailFailure> =>
    Effect.map(this.mail.unlink(name), () => {
      this.claims.delete(name)
    })

  // Nobody looked at it: its sender may withdraw it, and the next primary gets it, in its place.
  private readonly giveUp = (name: string, cause: MailFailure): Effect.Effect<void, MailFailure> =>
    Effect.gen(this, function* () {
      const { inbox } = this.options
      if (inbox === undefined) return yield* Effect.fail(cause)
      const isNew = yield* this.mail.rename(name, names.untaken(inbox, name))
      // The mailbox may have been removed meanwhile.
      if (!isNew) yield* this.mail.rename(name, names.returned(this.lane, name))
      this.claimed = undefined
      this.declined = true
      yield* this.fail(error("Disconnected", `a message cannot be read (${cause.code})`, "Unknown", cause))
    })

  /** Takes what opens the lane, and nothing else: its sender sees so that it is accepted. */
  readonly accept: Effect.Effect<void> = Effect.suspend(() =>
    this.exclusively(
      Effect.suspend(() => {
        const first = this.incoming[0]
        if (first?.kind !== "o") return Effect.void
        return Effect.flatMap(this.take(first), (name) => (name === undefined ? Effect.void : this.finish(name)))
      })
    )
  ).pipe(
    // It is taken with the first message then.
    Effect.ignore
  )

  // -----------------------------------------------------------------------------------
  // ending
  // -----------------------------------------------------------------------------------

  private readonly fail = (failure: ProtocolError): Effect.Effect<void> =>
    Effect.suspend(() => {
      this.incoming = []
      this.over = true
      this.lose(failure)
      if (this.farewell !== undefined) return Effect.void
      return patiently(this.post("e", none), leaveMillis, isWorthRetrying).pipe(
        Effect.tap((name) => {
          this.farewell = name
        }),
        Effect.ignore
      )
    })

  // Takes nothing more. What a sender was answered is no one else's, and what a dead primary had taken it may have looked at.
  private readonly decline: Effect.Effect<void> = Effect.gen(this, function* () {
    const unread = [this.held, this.claimed?.name].flatMap((name) => name ?? [])
    this.declined = true
    this.held = undefined
    this.claimed = undefined
    this.inbox = []
    this.incoming = []
    const { inbox, whole } = this.options
    if (inbox === undefined || whole) return
    // What is not given back stays for the next primary.
    for (const name of unread) this.claims.delete(name)
    const there = yield* Effect.orElseSucceed(patiently(this.mail.list(inbox), leaveMillis), () => undefined)
    const left = (there ?? []).flatMap((name) => {
      const message = names.parseMessage(inbox, name)
      return message?.state === "n" && message.lane === this.lane && message.kind === "f" ? [message.name] : []
    })
    yield* Effect.ignore(
      eachPatiently([...unread, ...left], (name) => this.mail.rename(name, names.returned(this.lane, name)))
    )
  })

  readonly giveBack: Effect.Effect<void> = Effect.suspend(() => this.exclusively(this.decline))

  /** Says that nothing more comes. */
  readonly leave: Effect.Effect<void> = Effect.suspend(() =>
    this.exclusively(
      Effect.suspend(() => {
        const closed = error("Disconnected", "this side closed the connection", "Unknown")
        if (!this.over && this.lost === undefined) return Effect.zipRight(this.decline, this.fail(closed))
        this.inbox = []
        if (this.farewell !== undefined || !this.isSender) return Effect.void
        // Nobody will take it. Whoever is primary by now is told, for what it may have answered, or may still be about to.
        return Effect.zipRight(this.removeOutgoing, this.over ? Effect.void : this.fail(closed))
      })
    )
  )

  private readonly removeOutgoing: Effect.Effect<void> = Effect.suspend(() =>
    Effect.ignore(eachPatiently([...this.outgoing.keys()], this.mail.unlink))
  )

  /** Removes what is kept of the messages taken: they were answered. */
  readonly forget: Effect.Effect<void> = Effect.suspend(() =>
    Effect.ignore(eachPatiently([...this.claims], this.removeClaim))
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
}

// All have one limit together, and one that fails holds up no other.
const eachPatiently = (
  all: ReadonlyArray<string>,
  operation: (name: string) => Effect.Effect<unknown, MailFailure>
): Effect.Effect<unknown, MailFailure> => {
  let left = all
  const attempt = Effect.flatMap(
    Effect.suspend(() =>
      Effect.forEach(left, (name) => Effect.map(Effect.either(operation(name)), (result) => ({ name, result })))
    ),
    (results) => {
      const failed = results.flatMap(({ name, result }) =>
        Either.isLeft(result) ? [{ name, cause: result.left }] : []
      )
      left = failed.map(({ name }) => name)
      return failed[0] === undefined ? Effect.void : Effect.fail(failed[0].cause)
    }
  )
  return patiently(attempt, leaveMillis)
}

const isWorthRetrying = (failure: PostFailure | MailFailure | ProtocolError): boolean =>
  failure._tag === "MailFailure" ||
  (failure._tag === "PostFailure" && !failure.gone && failure.outcome === "NotDelivered")
