/**
 * The secondary's end.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { addFinalizer } from "../../internal/finalizer.js"
import type { Connection } from "../../Protocol.js"
import type { ProtocolError } from "../../SingleInstanceError.js"
import { error } from "./errors.js"
import { Lane } from "./Lane.js"
import { beats } from "./life.js"
import { complete, look } from "./look.js"
import type { MailFailure, MailFiles, MailFolder } from "./MailFiles.js"
import * as names from "./names.js"
import { patiently } from "./patience.js"
import { clearLane } from "./sweep.js"
import * as waker from "./waker.js"

// How long each step of the beginning and the end is tried again.
const connectMillis = 500
const leaveMillis = 1_000

/**
 * @since 0.1.0
 * @category models
 */
export interface ConnectOptions {
  /** The folder of all mailboxes of the instance. */
  readonly folder: string
  /** The nonce of the listener. */
  readonly to: string
  readonly maxFrameBytes: number
  readonly gone: Effect.Effect<void> | undefined
  readonly spool: { readonly messages: number; readonly bytes: number }
}

/**
 * @since 0.1.0
 * @category constructors
 */
export const connect = (
  files: MailFiles["Type"],
  options: ConnectOptions
): Effect.Effect<Connection, ProtocolError, Scope.Scope> =>
  Effect.gen(function* () {
    const { gone, to } = options
    const mail = files.at(options.folder)
    const origin = yield* orUnavailable(patiently(files.origin, connectMillis))
    const listener = yield* find(mail, to)
    const lane = `${origin}-${names.random()}`
    yield* addFinalizer(() => clear(mail, lane, to))
    yield* settleIn(mail, lane)
    const side = makeLane(mail, lane, origin, options)
    const wakes = yield* waker.make(mail, lane)
    const look = makeLook(mail, side, { listener, to })
    yield* Effect.mapError(
      patiently(side.open, connectMillis, ({ gone }) => !gone),
      (failure) => (failure.gone ? nobody : unavailable(failure.cause))
    )
    yield* addFinalizer(() => side.leave)
    yield* Effect.forkScoped(Effect.interruptible(wakes.run(look)))
    yield* Effect.forkScoped(Effect.interruptible(beats(mail, names.lifeSign(lane))))
    if (gone !== undefined) {
      yield* gone.pipe(
        // What it answered until then is there by now.
        Effect.zipRight(Effect.repeat(look, { until: (seen) => seen !== "failed", times: 100 })),
        Effect.zipRight(Effect.sync(() => side.lose(error("Disconnected", "the primary may be gone", "Unknown")))),
        Effect.interruptible,
        Effect.forkScoped
      )
    }
    return { ...side.connection, withdraw: side.withdraw }
  }).pipe(Effect.uninterruptible)

const nobody = error("Unreachable", "nobody listens to this mailbox")

const unavailable = (cause: MailFailure | undefined) =>
  error(
    "Unavailable",
    `the mailbox cannot be used now (${cause?.operation} failed with ${cause?.code})`,
    "NotDelivered",
    cause
  )

const orUnavailable = <A>(effect: Effect.Effect<A, MailFailure>) => Effect.mapError(effect, unavailable)

/** The origin of a listener that lives and takes newcomers. */
const find = (mail: MailFolder, to: string): Effect.Effect<string, ProtocolError> =>
  Effect.flatMap(orUnavailable(patiently(mail.list(to), connectMillis)), (there = []) => {
    for (const name of there) {
      const marker = names.parseMarker(name)
      if (marker?.state === "l" && mail.lifeOf(marker.origin) !== "dead") return Effect.succeed(marker.origin)
    }
    return Effect.fail(nobody)
  })

const settleIn = (mail: MailFolder, lane: string): Effect.Effect<void, ProtocolError> =>
  orUnavailable(
    patiently(
      Effect.zipRight(
        mail.makeFolder(lane),
        mail.write(names.lifeSign(lane), new Uint8Array(), { durable: false })
      ).pipe(
        Effect.catchIf(
          ({ code }) => code === "EEXIST",
          () => Effect.succeed(true)
        )
      ),
      connectMillis
    )
  ).pipe(Effect.flatMap((isThere) => (isThere ? Effect.void : Effect.fail(nobody))))

const makeLane = (mail: MailFolder, lane: string, origin: string, options: ConnectOptions): Lane => {
  const { maxFrameBytes, spool, to } = options
  let sequence = 0
  return new Lane(mail, lane, {
    origin,
    maxFrameBytes,
    outbox: to,
    nameOf: (kind, size) => names.message(to, lane, names.sequence(sequence++), kind, size),
    inbox: undefined,
    whole: false,
    room: (there) => {
      let messages = 0
      let bytes = 0
      for (const name of there) {
        const message = names.parseMessage(to, name)
        if (message?.state !== "n") continue
        messages++
        bytes += message.size
      }
      return messages >= spool.messages || bytes >= spool.bytes
        ? Effect.fail(error("Busy", `the mailbox is full: ${messages} messages, ${bytes} bytes`))
        : Effect.void
    },
    take: ({ name }) => Effect.succeed(name)
  })
}

/** Looks for answers and, where there are none, whether the listener is still there. */
const makeLook = (
  mail: MailFolder,
  side: Lane,
  { listener, to }: { readonly listener: string; readonly to: string }
): Effect.Effect<waker.Look> => {
  const turn = Effect.unsafeMakeSemaphore(1)
  const isThere = (name: string) => Effect.map(mail.silence(name), (silence) => silence !== undefined)
  const hasNews = Effect.map(look(mail, side.lane), (reading) => {
    const incoming = reading.names.flatMap((name) => names.parseAnswer(side.lane, name) ?? [])
    if (!reading.isThere) side.lose(error("Disconnected", "somebody removed the folder of its answers", "Unknown"))
    return side.see(complete(incoming, reading))
  })
  const isGone = Effect.gen(function* () {
    if (mail.lifeOf(listener) === "dead") return true
    if (yield* isThere(names.marker(to, listener, "l"))) return false
    // It becomes the other one, never the other way round.
    if (!(yield* isThere(names.marker(to, listener, "x")))) return true
    // What opens the lane is taken when somebody accepts.
    return side.opened !== undefined && (yield* isThere(side.opened))
  })
  return Effect.gen(function* () {
    if (yield* hasNews) return "found"
    if (side.incoming.length > 0 || side.lost !== undefined || !(yield* isGone)) return "nothing"
    // What it answered before it went is there by now.
    if (yield* hasNews) return "found"
    side.lose(error("Disconnected", "the primary is gone", "Unknown"))
    return "nothing"
  }).pipe(
    // What cannot be looked at says nothing.
    Effect.orElseSucceed((): waker.Look => "failed"),
    turn.withPermits(1)
  )
}

/** Removes what lies there for this sender and, where its mailbox has no listener, what it left there itself. */
const clear = (mail: MailFolder, lane: string, to: string): Effect.Effect<void> =>
  Effect.gen(function* () {
    yield* Effect.ignore(patiently(clearLane(mail, lane), leaveMillis))
    const there = yield* mail.list(to)
    if (there?.some((name) => names.parseMarker(name) !== undefined) === false) {
      for (const name of there) {
        const message = names.parseMessage(to, name)
        // A message that nobody took may still be for the next primary.
        if (message?.lane === lane && message.kind !== "f") yield* mail.unlink(message.name)
      }
      yield* mail.removeFolder(names.takenFolder(to))
      yield* mail.removeFolder(to)
    }
    // An empty mailbox need not stay.
    yield* mail.removeFolder("")
  }).pipe(
    // The next primary clears away what is left.
    Effect.ignore
  )
