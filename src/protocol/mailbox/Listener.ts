/**
 * The primary's end.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { addFinalizer } from "../../internal/finalizer.js"
import type { Connection, Listener } from "../../Protocol.js"
import type { ProtocolError } from "../../SingleInstanceError.js"
import { error } from "./errors.js"
import { Lane } from "./Lane.js"
import * as life from "./life.js"
import { complete, inOrder, look, type Reading } from "./look.js"
import type { MailFailure, MailFiles, MailFolder } from "./MailFiles.js"
import * as names from "./names.js"
import { makeBackoff, monotonicMillis, patiently, pause } from "./patience.js"
import { clearDrafts, makeLaneSweep } from "./sweep.js"
import * as waker from "./waker.js"

// How long each step of the beginning and the end is tried again.
const listenMillis = 500
const leaveMillis = 1_000
// How often a leading listener looks for what others left, and what part of its time that may take.
const sweepMillis = 3_000
const sweepShare = 0.05

/**
 * @since 0.1.0
 * @category models
 */
export interface ListenOptions {
  /** The folder of all mailboxes of the instance. */
  readonly folder: string
  readonly nonce: string
  readonly maxFrameBytes: number
  readonly maxConnections: number
}

/**
 * @since 0.1.0
 * @category constructors
 */
export const listen = (
  files: MailFiles["Type"],
  options: ListenOptions
): Effect.Effect<Listener, ProtocolError, Scope.Scope> =>
  Effect.gen(function* () {
    const mail = files.at(options.folder)
    const { nonce } = options
    const unavailable = (cause: MailFailure | undefined) =>
      error(
        "Unavailable",
        `mail cannot be kept (${cause?.code ?? "somebody removes its folder"})`,
        "NotDelivered",
        cause
      )
    const origin = yield* Effect.mapError(patiently(files.origin, listenMillis), unavailable)
    const marker = names.marker(nonce, origin, "l")
    yield* patiently(open(mail, nonce, marker), listenMillis, isPassing).pipe(
      Effect.onError(() => Effect.ignore(close(mail, nonce, [marker]))),
      Effect.mapError(unavailable)
    )
    // It goes on for what was accepted when the listener has closed.
    const own = yield* Scope.make()
    const listener = new MailListener(mail, origin, own, yield* Scope.extend(waker.make(mail, nonce), own), options)
    yield* Effect.forkIn(Effect.interruptible(life.beats(mail, marker)), own)
    yield* addFinalizer(() => listener.close)
    const reachable = Effect.match(mail.silence(marker), {
      // What cannot be looked at says nothing.
      onFailure: () => true,
      onSuccess: (silence) => silence !== undefined
    })
    return { address: `file:mail/${nonce}`, accept: listener.accept, reachable }
  }).pipe(Effect.uninterruptible)

// These are not over in a moment, and another protocol can do without files.
const isPassing = (cause: MailFailure | undefined) =>
  !["EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "ENOTDIR"].includes(cause?.code ?? "")

const open = (mail: MailFolder, nonce: string, marker: string): Effect.Effect<void, MailFailure | undefined> =>
  Effect.gen(function* () {
    // Whoever tidies up an empty mailbox may come between.
    const isThere =
      (yield* mail.makeFolder("")) &&
      (yield* mail.makeFolder(nonce)) &&
      (yield* mail.makeFolder(names.takenFolder(nonce))) &&
      (yield* Effect.catchIf(
        mail.write(marker, new Uint8Array(), { durable: false }),
        ({ code }) => code === "EEXIST",
        () => Effect.succeed(true)
      ))
    if (!isThere) return yield* Effect.fail(undefined)
    // A message that is synced to the disk must be found there.
    yield* mail.sync(nonce)
    yield* mail.sync("")
  })

const close = (mail: MailFolder, nonce: string, markers: ReadonlyArray<string>): Effect.Effect<void, MailFailure> =>
  Effect.gen(function* () {
    for (const marker of markers) yield* mail.unlink(marker)
    yield* mail.removeFolder(names.takenFolder(nonce))
    yield* mail.removeFolder(nonce)
    // An empty mailbox need not stay.
    yield* mail.removeFolder("")
  })

// A connection on its way to being accepted, and behind that.
interface Entry {
  readonly side: Lane
  /** The mailbox that its sender sends to. */
  readonly home: string
  readonly recovered: boolean
  readonly close: Effect.Effect<void>
}

interface Ended {
  /** What told its sender. */
  readonly farewell: string | undefined
  /** The last scan that was begun before. */
  readonly scan: number
}

class MailListener {
  private readonly lanes: Map<string, Entry> = new Map()
  private readonly queue: Array<Entry> = []
  private readonly acceptors: Set<() => void> = new Set()
  // Lanes that ended here: what comes of them is not for a conversation any more.
  private readonly ended: Map<string, Ended> = new Map()
  // Mailboxes of listeners that are gone, with messages in them.
  private readonly inherited: Set<string> = new Set()
  // What such a listener had taken, by lane, until all of a lane is here.
  private readonly recovering: Map<string, Map<string, names.Incoming>> = new Map()
  private readonly turn = Effect.unsafeMakeSemaphore(1)
  private readonly sweepLanes: (there: ReadonlyArray<string>) => Effect.Effect<boolean>
  private readonly take: ReturnType<typeof makeTake>
  // Above all that an earlier primary answered, as far as the clock tells: answers of several come in order then.
  private sequence = Date.now() * 1_000
  private recoveries = 0
  private scans = 0
  private isOpen = true
  private isFinished = false
  // Who only contends takes nothing that was meant for another one.
  private isLeading = false

  constructor(
    private readonly mail: MailFolder,
    private readonly origin: string,
    private readonly own: Scope.CloseableScope,
    private readonly wakes: waker.Waker,
    private readonly options: ListenOptions
  ) {
    this.sweepLanes = makeLaneSweep(mail)
    this.take = makeTake(mail, options.nonce)
  }

  private readonly enter = (lane: string, home: string, recovered: boolean): Entry => {
    const { maxFrameBytes, nonce } = this.options
    const side = new Lane(this.mail, lane, {
      origin: this.origin,
      maxFrameBytes,
      outbox: lane,
      nameOf: (kind, size) => names.answer(lane, names.sequence(this.sequence++), nonce, kind, size),
      inbox: home,
      whole: recovered,
      room: () => Effect.void,
      take: recovered ? ({ name }) => Effect.succeed(name) : this.take
    })
    const key = recovered ? `${lane} recovered ${this.recoveries++}` : lane
    const leave = Effect.zipLeft(
      side.leave,
      Effect.sync(() => this.ended.set(lane, { farewell: side.farewell, scan: this.scans }))
    )
    const close = Effect.suspend(() => {
      this.lanes.delete(key)
      if (recovered) side.lose(error("Disconnected", "this side closed the connection", "Unknown"))
      else this.ended.set(lane, { farewell: undefined, scan: Number.POSITIVE_INFINITY })
      // The lane itself goes on, perhaps, where it was recovered.
      return (recovered ? Effect.void : leave).pipe(
        Effect.zipRight(side.forget),
        Effect.zipRight(Effect.suspend(() => this.finish))
      )
    })
    const entry = { side, home, recovered, close }
    this.lanes.set(key, entry)
    return entry
  }

  private admit(entry: Entry): void {
    this.queue.push(entry)
    for (const resume of [...this.acceptors]) resume()
  }

  // -----------------------------------------------------------------------------------
  // what comes
  // -----------------------------------------------------------------------------------

  private readonly scan: Effect.Effect<waker.Look> = Effect.suspend(() => this.turn.withPermits(1)(this.lookAtAll))

  private readonly lookAtAll: Effect.Effect<waker.Look> = Effect.gen(this, function* () {
    const scan = ++this.scans
    // Before the mailboxes are read: what was sent by who has heard of the end is there then.
    const over = yield* this.unheard
    let found = false
    let isWell = true
    for (const home of [this.options.nonce, ...this.inherited]) {
      const news = yield* Effect.either(
        Effect.flatMap(look(this.mail, home), (reading) => this.sort(home, reading, over))
      )
      if (Either.isLeft(news)) isWell = false
      else if (news.right) found = true
    }
    for (const [lane, ended] of this.ended) {
      if (isWell && scan > ended.scan && !over.has(lane)) this.ended.delete(lane)
    }
    return found ? "found" : isWell ? "nothing" : "failed"
  })

  // Whoever has not heard of the end yet may still send.
  private readonly unheard: Effect.Effect<Set<string>> = Effect.gen(this, function* () {
    const over = new Set<string>()
    for (const [lane, { farewell }] of this.ended) {
      if (farewell === undefined) continue
      const silence = yield* Effect.either(this.mail.silence(farewell))
      if (Either.isLeft(silence) || silence.right !== undefined) over.add(lane)
    }
    return over
  })

  private readonly sort = (home: string, reading: Reading, over: Set<string>) =>
    Effect.gen(this, function* () {
      const there = new Map<string, Array<names.Incoming>>()
      for (const name of reading.names) {
        const message = names.parseMessage(home, name)
        if (message?.state !== "n") continue
        const { lane } = message
        if (this.ended.has(lane)) {
          over.add(lane)
          if (this.mail.lifeOf(names.originOf(lane)!) === "dead") yield* this.mail.unlink(message.name)
          continue
        }
        const mails = there.get(lane)
        if (mails === undefined) there.set(lane, [message])
        else mails.push(message)
      }
      let found = false
      for (const [lane, mails] of there) {
        const [first] = complete(mails, reading)
        if (first === undefined || this.lanes.has(lane) || !this.isOpen) continue
        if (first.kind === "e") {
          yield* this.endUnopened(lane, first)
          continue
        }
        const entry = this.enter(lane, home, false)
        if (this.lanes.size > this.options.maxConnections) yield* entry.close
        else this.admit(entry)
        found = true
      }
      for (const entry of this.lanes.values()) {
        if (entry.recovered || entry.home !== home) continue
        found = entry.side.see(complete(there.get(entry.side.lane) ?? [], reading)) || found
      }
      return found
    })

  // Both sides ended it at the same time, or its sender left when an earlier primary had died.
  private readonly endUnopened = (lane: string, first: names.Incoming): Effect.Effect<unknown, MailFailure> =>
    Effect.suspend(() => {
      for (const { recovered, side } of this.lanes.values()) {
        if (recovered && side.lane === lane)
          side.lose(error("Disconnected", "the peer closed the connection", "Unknown"))
      }
      return this.mail.unlink(first.name)
    })

  // -----------------------------------------------------------------------------------
  // leading
  // -----------------------------------------------------------------------------------

  private readonly lead: Effect.Effect<void> = Effect.suspend(() => {
    if (this.isLeading) return Effect.void
    this.isLeading = true
    const loops = [this.wakes.run(this.scan), this.watchSenders, this.sweeps]
    return Effect.zipRight(
      // What fails of it is tried again for as long as this listener leads.
      this.takeOver,
      Effect.forEach(loops, (loop) => Effect.forkIn(Effect.interruptible(loop), this.own), { discard: true })
    )
  })

  // A sender that died has said no end.
  private readonly watchSenders: Effect.Effect<never> = Effect.gen(this, function* () {
    yield* pause(sweepMillis)
    const gone: Array<Lane> = []
    for (const { recovered, side } of [...this.lanes.values()]) {
      if (recovered || side.incoming.length > 0 || side.lost !== undefined) continue
      const isGone = yield* Effect.either(this.hasLeft(side.lane))
      if (Either.isRight(isGone) && isGone.right) gone.push(side)
    }
    // What it sent before is there by now.
    if (gone.length === 0 || (yield* this.scan) === "failed") return
    for (const side of gone) {
      if (side.incoming.length === 0) side.lose(error("Disconnected", "its process is gone", "Unknown"))
    }
  }).pipe(Effect.forever)

  private readonly hasLeft = (lane: string): Effect.Effect<boolean, MailFailure> =>
    Effect.gen(this, function* () {
      if ((yield* this.mail.silence(lane)) === undefined) return true
      return yield* life.isGone(this.mail, names.originOf(lane)!, [names.lifeSign(lane), lane])
    })

  private readonly sweeps: Effect.Effect<never> = Effect.suspend(() => {
    const backoff = makeBackoff(sweepMillis)
    return Effect.gen(this, function* () {
      const began = monotonicMillis()
      const isWell = (yield* this.takeOver) && (yield* this.tidy)
      const cost = (monotonicMillis() - began) / sweepShare
      if (isWell) backoff.reset()
      yield* pause(Math.max(cost, isWell ? sweepMillis : backoff.next()))
    }).pipe(Effect.forever)
  })

  private readonly tidy: Effect.Effect<boolean> = Effect.gen(this, function* () {
    const { nonce } = this.options
    yield* clearDrafts(this.mail, nonce, (yield* this.mail.list(nonce)) ?? [])
    return yield* this.sweepLanes((yield* this.mail.list("")) ?? [])
  }).pipe(Effect.orElseSucceed(() => false))

  /** What listeners that are gone had taken, and what nobody took of theirs. Answers whether nothing failed. */
  private readonly takeOver: Effect.Effect<boolean> = Effect.gen(this, function* () {
    const there = yield* this.mail.list("")
    const unsettled = new Set<string>()
    let isWell = true
    for (const nonce of there ?? []) {
      if (!names.isNonce(nonce) || nonce === this.options.nonce) continue
      const done = yield* Effect.either(this.inherit(nonce, unsettled))
      if (Either.isLeft(done)) isWell = false
    }
    for (const [lane, mails] of this.recovering) {
      if (unsettled.has(lane)) continue
      this.recovering.delete(lane)
      const entry = this.enter(lane, this.options.nonce, true)
      entry.side.incoming = inOrder([...mails.values()])
      this.admit(entry)
    }
    return isWell && unsettled.size === 0
  }).pipe(Effect.orElseSucceed(() => false))

  private readonly inherit = (nonce: string, unsettled: Set<string>): Effect.Effect<void, MailFailure> =>
    Effect.gen(this, function* () {
      const there = (yield* this.mail.list(nonce)) ?? []
      const markers: Array<string> = []
      for (const name of there) {
        const marker = names.parseMarker(name)
        if (marker === undefined) continue
        const file = `${nonce}/${name}`
        if (!(yield* life.isGone(this.mail, marker.origin, [file]))) return
        markers.push(file)
      }
      if (there.some((name) => names.parseMessage(nonce, name)?.state === "n")) this.inherited.add(nonce)
      else this.inherited.delete(nonce)
      for (const name of (yield* this.mail.list(names.takenFolder(nonce))) ?? []) {
        const message = names.parseMessage(names.takenFolder(nonce), name)
        if (message?.state === "c") yield* this.recover(message, unsettled)
      }
      if (this.inherited.has(nonce) || unsettled.size > 0) return
      yield* clearDrafts(this.mail, nonce, there)
      yield* close(this.mail, nonce, markers)
    })

  private readonly recover = (
    message: names.Incoming & { readonly lane: string },
    unsettled: Set<string>
  ): Effect.Effect<void> =>
    Effect.gen(this, function* () {
      const { lane } = message
      const taken = yield* Effect.either(this.take(message))
      if (Either.isLeft(taken)) unsettled.add(lane)
      if (Either.isLeft(taken) || taken.right === undefined) return
      const name = taken.right
      const mails = this.recovering.get(lane) ?? new Map<string, names.Incoming>()
      this.recovering.set(lane, mails)
      mails.set(name, { ...message, name })
    })

  // -----------------------------------------------------------------------------------
  // the listener
  // -----------------------------------------------------------------------------------

  readonly accept: Listener["accept"] = Effect.uninterruptibleMask((restore) => {
    const arrival = Effect.async<void>((resume) => {
      const done = () => {
        this.acceptors.delete(done)
        resume(Effect.void)
      }
      this.acceptors.add(done)
      return Effect.sync(() => this.acceptors.delete(done))
    })
    const next: Effect.Effect<Connection, ProtocolError, Scope.Scope> = Effect.suspend(() => {
      const first = this.queue.shift()
      if (first === undefined) {
        return this.isOpen
          ? Effect.zipRight(restore(arrival), next)
          : Effect.fail(error("Disconnected", "the listener is closed"))
      }
      const { close, recovered, side } = first
      return side.accept.pipe(
        Effect.zipRight(addFinalizer(() => close)),
        Effect.as({ ...side.connection, giveBack: side.giveBack, recovered })
      )
    })
    return Effect.zipRight(this.lead, next)
  })

  readonly close: Effect.Effect<void> = Effect.gen(this, function* () {
    const { nonce } = this.options
    const closing = this.mail.rename(names.marker(nonce, this.origin, "l"), names.marker(nonce, this.origin, "x"))
    yield* Effect.ignore(patiently(closing, leaveMillis))
    // Those that came until now are told.
    const scanned = Effect.filterOrFail(this.scan, (seen) => seen !== "failed")
    yield* Effect.ignore(patiently(scanned, leaveMillis))
    this.isOpen = false
    yield* Effect.forEach(this.queue.splice(0), (entry) => entry.close, { concurrency: "unbounded", discard: true })
    for (const resume of [...this.acceptors]) resume()
    yield* this.finish
  })

  // With the last of the listener and what it accepted, an empty mailbox goes.
  private readonly finish: Effect.Effect<void> = Effect.suspend(() => {
    if (this.isOpen || this.lanes.size > 0 || this.isFinished) return Effect.void
    this.isFinished = true
    return Effect.zipRight(
      Scope.close(this.own, Exit.void),
      Effect.ignore(
        patiently(
          Effect.suspend(() => this.dissolve),
          leaveMillis
        )
      )
    )
  })

  private readonly dissolve: Effect.Effect<void, MailFailure> = Effect.gen(this, function* () {
    const { nonce } = this.options
    // First: who leaves after that cleans up behind itself.
    for (const state of ["x", "l"] as const) yield* this.mail.unlink(names.marker(nonce, this.origin, state))
    const there = (yield* this.mail.list(nonce)) ?? []
    const messages = there.flatMap((name) => names.parseMessage(nonce, name) ?? [])
    // Whose senders left as well.
    const over = new Set(messages.flatMap(({ kind, lane }) => (kind === "e" ? [lane] : [])))
    for (const { lane, name } of messages) if (over.has(lane)) yield* this.mail.unlink(name)
    yield* close(this.mail, nonce, [])
  })
}

// After a failure the file may have been taken all the same: some file systems report one of what was done.
const makeTake = (mail: MailFolder, nonce: string) => {
  const doubtful = new Set<string>()
  return ({ name }: names.Incoming): Effect.Effect<string | undefined, MailFailure> => {
    const claim = names.taken(nonce, name)
    return Effect.gen(function* () {
      const done = yield* Effect.tapError(mail.rename(name, claim), () => Effect.sync(() => doubtful.add(name)))
      const isOurs = done || (doubtful.has(name) && (yield* mail.silence(claim)) !== undefined)
      doubtful.delete(name)
      return isOurs ? claim : undefined
    })
  }
}
