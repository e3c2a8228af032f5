/**
 * Locks as they are commonly written, and broken, and transports that are: what the witness must be able to catch.
 */
import * as os from "node:os"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import { type Following, InstanceLock, type Leading } from "effect-single-instance/InstanceLock"
import * as InstanceRecord from "effect-single-instance/InstanceRecord"
import { alive } from "effect-single-instance/Liveness"
import { type FileFailure, type LockDirectory, LockFiles } from "effect-single-instance/lock/LockFiles"
import * as Message from "effect-single-instance/Message"
import { PidVerifier } from "effect-single-instance/PidVerifier"
import type { Connection, Protocol } from "effect-single-instance/Protocol"
import { presence } from "../src/internal/processes.js"

/**
 * - `socket`: listen; the address is in use: connect; refused: unlink, listen again.
 * - `pid`: read the pid file; its process is gone: unlink, create.
 * - `bare`: the same, and whoever has the pid is taken for its process.
 * - `age`: the file is renewed now and then; it is old: unlink, create.
 */
export type Naive = "socket" | "pid" | "bare" | "age"

const name = "naive"
const fixed = "0".repeat(32)
const renewalMillis = 500
const oldMillis = 3_000
const fails =
  (...codes: ReadonlyArray<string>) =>
  (failure: FileFailure) =>
    codes.includes(failure.code)
// In microseconds, so that it grows.
const epoch = () => Math.floor((performance.timeOrigin + performance.now()) * 1_000)

export const layer = (kind: Naive): Layer.Layer<InstanceLock, never, LockFiles | PidVerifier> =>
  Layer.effect(
    InstanceLock,
    Effect.gen(function* () {
      const files = yield* LockFiles
      const verifier = yield* PidVerifier

      const recorded = (directory: LockDirectory) =>
        Effect.map(directory.read(name), (content) =>
          content._tag === "Bytes" ? Either.getRight(InstanceRecord.decode(content.bytes)) : Option.none()
        )

      // The file is the lock, as long as its owner is not given up.
      const create = (
        isOver: (record: InstanceRecord.InstanceRecord, directory: LockDirectory) => Effect.Effect<boolean, FileFailure>
      ) =>
        Effect.fnUntraced(function* (directory: LockDirectory, record: InstanceRecord.InstanceRecord) {
          const owner = yield* recorded(directory)
          if (Option.isSome(owner) && !(yield* isOver(owner.value, directory))) return owner.value
          yield* directory.unlink(name)
          return yield* directory.write(name, InstanceRecord.encode(record)).pipe(
            Effect.as("ours" as const),
            Effect.catchIf(fails("EEXIST"), () => Effect.succeed(undefined))
          )
        })

      // One attempt: ours, somebody else's, or to be tried again.
      const attempt = {
        socket: Effect.fnUntraced(function* (directory: LockDirectory, record: InstanceRecord.InstanceRecord) {
          const opened = yield* directory.openWitness(fixed).pipe(
            Effect.as(true),
            // Or the file was unlinked at once.
            Effect.catchIf(fails("EADDRINUSE", "EEXIST", "ENOENT", "UNKNOWN"), () => Effect.succeed(false))
          )
          if (opened) {
            const temporary = `t.${record.nonce}`
            yield* directory.write(temporary, InstanceRecord.encode(record))
            yield* directory.rename(temporary, name)
            return "ours" as const
          }
          const standing = yield* directory.stat(`w.${fixed}`)
          if (Option.isNone(standing)) return undefined
          const witness = new InstanceRecord.Witness({ name: `w.${fixed}`, ...standing.value })
          const probe = yield* directory.probe(witness)
          if (probe._tag === "Refused") yield* directory.unlink(witness.name)
          return probe._tag === "Answered" ? Option.getOrUndefined(yield* recorded(directory)) : undefined
        }),
        pid: create((owner) =>
          Effect.map(verifier.verify(owner.process, { local: true }), ({ _tag }) => _tag === "Dead")
        ),
        bare: create((owner) => Effect.sync(() => presence(owner.process.pid) === "none")),
        age: create((_owner, directory) =>
          Effect.map(directory.stat(name), (seen) => Option.isSome(seen) && seen.value.ageMillis > oldMillis)
        )
      }[kind]

      const renew = (directory: LockDirectory, record: InstanceRecord.InstanceRecord) => {
        const temporary = `t.${record.nonce}`
        return directory
          .write(temporary, InstanceRecord.encode(record))
          .pipe(
            Effect.zipRight(directory.rename(temporary, name)),
            Effect.ignore,
            Effect.delay(renewalMillis),
            Effect.forever,
            Effect.interruptible,
            Effect.forkScoped
          )
      }

      return InstanceLock.of({
        inspect: (id) =>
          Effect.gen(function* () {
            const location = files.location(id)
            const found = yield* files.find(id)
            const owner = Option.isSome(found) ? yield* Effect.orDie(recorded(found.value)) : Option.none()
            return Option.match(owner, {
              onNone: () => ({ _tag: "Free", location }) as const,
              onSome: (record) =>
                ({
                  _tag: "Recorded",
                  location,
                  directory: location,
                  record,
                  liveness: alive("it is recorded")
                }) as const
            })
          }).pipe(Effect.scoped),
        breakLock: () => Effect.dieMessage("a naive lock cannot be broken"),
        contend: Effect.fnUntraced(function* (options) {
          const directory = yield* files.open(options.id)
          const nonce = yield* files.random(16)
          const key = yield* files.random(32)
          const endpoints = yield* options.listen({ nonce, key, directory: directory.path })
          const self = yield* Effect.orDie(verifier.self)
          while (true) {
            const record = new InstanceRecord.InstanceRecord({
              nonce,
              epoch: epoch(),
              released: false,
              process: self,
              host: os.hostname(),
              uid: null,
              version: options.version,
              argv0: process.argv0,
              startedAt: Date.now(),
              sequence: 0,
              witness: null,
              key,
              endpoints
            })
            const seen = yield* Effect.orDie(attempt(directory, record))
            if (seen === "ours") {
              if (kind !== "socket") yield* Effect.addFinalizer(() => Effect.ignore(directory.unlink(name)))
              if (kind === "age") yield* renew(directory, record)
              return {
                _tag: "Leading",
                record: new InstanceRecord.InstanceRecord({ ...record, epoch: epoch() }),
                took: "free",
                proof: undefined,
                directory: directory.path,
                check: Effect.void,
                changed: Effect.never,
                publish: () => Effect.void
              } satisfies Leading
            }
            if (seen !== undefined) {
              return {
                _tag: "Following",
                record: seen,
                evidence: "somebody answers",
                directory: directory.path,
                gone: Effect.sleep("50 millis")
              } satisfies Following
            }
            yield* Effect.sleep(yield* Random.nextIntBetween(1, 10))
          }
        })
      })
    })
  )

/**
 * What becomes of the first request that arrives at a primary, and of every third one behind it.
 *
 * - `twice`: it arrives once more, under another id, as a primary would know the same one again.
 * - `lost`: it does not arrive, and nobody says so.
 *
 * And what is accepted:
 *
 * - `patient`: nobody else until the one before has said something.
 *
 * And what is sent, by either side:
 *
 * - `greedy`: whatever there is; what the other side does not take yet is kept, without a bound.
 */
export type Unreliable = "twice" | "lost" | "patient" | "greedy"

/** A transport that is not to be relied on. */
export const unreliable = (kind: Unreliable, protocol: Protocol["Type"]): Protocol["Type"] => {
  if (kind === "greedy") return greedy(protocol)
  let requests = 0
  const garble = (frame: Uint8Array): ReadonlyArray<Uint8Array> => {
    if (kind === "patient") return [frame]
    const message = Either.getOrThrow(Message.decode(frame))
    if (message._tag !== "Request" || requests++ % 3 !== 0) return [frame]
    return kind === "lost" ? [] : [frame, Message.encode({ ...message, id: `${message.id} again` })]
  }
  return {
    ...protocol,
    listen: (options) =>
      Effect.map(protocol.listen(options), (listener) => ({
        ...listener,
        accept: Effect.flatMap(listener.accept, (connection) => {
          const receive = Effect.repeat(
            Effect.map(connection.receive, (frames) => frames.flatMap(garble)),
            { until: (frames) => frames.length > 0 }
          )
          if (kind !== "patient") return Effect.succeed({ ...connection, receiveWith: undefined, receive })
          return Effect.map(Effect.exit(receive), (first) => {
            let next: typeof receive = Effect.suspend(() => first)
            return {
              ...connection,
              receiveWith: undefined,
              receive: Effect.suspend(() => {
                const now = next
                next = receive
                return now
              })
            }
          })
        })
      }))
  }
}

const greedy = (protocol: Protocol["Type"]): Protocol["Type"] => {
  const hoarding = (connection: Connection): Effect.Effect<Connection, never, Scope.Scope> =>
    Effect.gen(function* () {
      const hoard = yield* Queue.unbounded<Uint8Array>()
      yield* Effect.forkScoped(Effect.forever(Effect.flatMap(Queue.take(hoard), connection.send)))
      return { ...connection, offer: undefined, send: (frame) => Effect.asVoid(Queue.offer(hoard, frame)) }
    })
  return {
    ...protocol,
    connect: (address, options) => Effect.flatMap(protocol.connect(address, options), hoarding),
    listen: (options) =>
      Effect.map(protocol.listen(options), (listener) => ({
        ...listener,
        accept: Effect.flatMap(listener.accept, hoarding)
      }))
  }
}
