/**
 * Posting a message, so that what is told of it is true whatever fails.
 *
 * @since 0.1.0
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import type { ProtocolError } from "../../SingleInstanceError.js"
import type { MailFailure, MailFolder } from "./MailFiles.js"
import * as names from "./names.js"
import { patiently } from "./patience.js"

// How long one step is tried again that settles whether a message was posted.
const settleMillis = 1_000

/**
 * A message was not posted. `outcome` says whether that is certain; `gone` that the folder it was meant for is missing.
 *
 * @since 0.1.0
 * @category errors
 */
export class PostFailure extends Data.TaggedError("PostFailure")<{
  readonly outcome: ProtocolError["outcome"]
  readonly gone: boolean
  readonly cause: MailFailure | undefined
}> {}

/**
 * Writes a message under another name and renames it to where it counts. What cannot be made durable is taken back; a
 * message that somebody took meanwhile was posted.
 *
 * @since 0.1.0
 * @category constructors
 */
export const post = (
  mail: MailFolder,
  origin: string,
  message: { readonly folder: string; readonly name: string; readonly bytes: Uint8Array; readonly durable: boolean }
): Effect.Effect<void, PostFailure> =>
  Effect.gen(function* () {
    const { bytes, durable, folder, name } = message
    const draft = names.draft(folder, origin)
    const written = yield* Effect.either(mail.write(draft, bytes, { durable }))
    if (Either.isLeft(written)) {
      yield* Effect.ignore(mail.unlink(draft))
      return yield* notPosted(written.left)
    }
    if (!written.right) return yield* missing
    const moved = yield* Effect.either(mail.rename(draft, name))
    if (Either.isLeft(moved)) return yield* settle(mail, draft, name, moved.left)
    if (!moved.right) return yield* missing
    if (!durable) return
    const synced = yield* Effect.either(patiently(mail.sync(folder), settleMillis))
    if (Either.isLeft(synced)) yield* takeBack(mail, name, synced.left)
  })

const notPosted = (cause: MailFailure) => new PostFailure({ outcome: "NotDelivered", gone: false, cause })
const unsure = (cause: MailFailure) => new PostFailure({ outcome: "Unknown", gone: false, cause })
const missing = new PostFailure({ outcome: "NotDelivered", gone: true, cause: undefined })

// Some file systems report a failure of what was done all the same.
const settle = (mail: MailFolder, draft: string, name: string, cause: MailFailure): Effect.Effect<void, PostFailure> =>
  Effect.flatMap(Effect.either(mail.unlink(draft)), (removed) => {
    if (Either.isRight(removed)) return removed.right ? notPosted(cause) : takeBack(mail, name, cause)
    return Effect.flatMap(Effect.either(patiently(mail.silence(draft), settleMillis)), (silence) => {
      if (Either.isLeft(silence)) return unsure(cause)
      return silence.right === undefined ? takeBack(mail, name, cause) : notPosted(cause)
    })
  })

const takeBack = (mail: MailFolder, name: string, cause: MailFailure): Effect.Effect<void, PostFailure> =>
  Effect.flatMap(Effect.either(patiently(mail.unlink(name), settleMillis)), (removed) => {
    if (Either.isLeft(removed)) return unsure(cause)
    return removed.right ? notPosted(cause) : Effect.void
  })
