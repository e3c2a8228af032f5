/**
 * Clearing away what others left: while a primary leads, a bounded part at a time.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as life from "./life.js"
import type { MailFailure, MailFolder } from "./MailFiles.js"
import * as names from "./names.js"

// How many folders of senders are looked at, and how many are cleared, at most in one go.
const batch = 200
// With more folders of senders whose life nobody can tell, the silent ones are cleared much earlier.
const crowd = 1_000

/**
 * Removes the folder of a sender. Answers whether it is gone: what nobody writes there stays.
 *
 * @since 0.1.0
 * @category combinators
 */
export const clearLane = (mail: MailFolder, lane: string): Effect.Effect<boolean, MailFailure> =>
  Effect.gen(function* () {
    // Somebody may be writing an answer.
    for (let round = 0; round < 5; round++) {
      const there = yield* mail.list(lane)
      if (there === undefined) return true
      for (const name of there) if (names.isOfLane(name)) yield* mail.unlink(`${lane}/${name}`)
      if (yield* mail.removeFolder(lane)) return true
    }
    return false
  })

/**
 * Removes drafts in a folder whose writers are gone.
 *
 * @since 0.1.0
 * @category combinators
 */
export const clearDrafts = (
  mail: MailFolder,
  folder: string,
  there: ReadonlyArray<string>
): Effect.Effect<void, MailFailure> =>
  Effect.gen(function* () {
    for (const name of there) {
      const origin = names.parseDraft(name)
      const file = `${folder}/${name}`
      if (origin !== undefined && (yield* life.isGone(mail, origin, [file]))) yield* mail.unlink(file)
    }
  })

/**
 * Clears the folders of senders that are gone, some of them each time it runs. What cannot be judged or removed now is left
 * for the next time, which is what it answers: whether nothing failed.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeLaneSweep = (mail: MailFolder): ((there: ReadonlyArray<string>) => Effect.Effect<boolean>) => {
  // Where the last run stopped.
  let last = ""
  return (there) =>
    Effect.gen(function* () {
      const lanes = there.filter((name) => names.originOf(name) !== undefined).sort()
      const unknown = lanes.filter((lane) => mail.lifeOf(names.originOf(lane)!) === "unknown").length
      const limit = unknown > crowd ? life.crowdedMillis : life.silentMillis
      const from = lanes.findIndex((lane) => lane > last)
      const next = [...lanes.slice(Math.max(0, from)), ...lanes.slice(0, Math.max(0, from))].slice(0, batch)
      last = next.at(-1) ?? ""
      let isWell = true
      for (const lane of next) {
        const done = yield* Effect.either(
          Effect.flatMap(life.isGone(mail, names.originOf(lane)!, [names.lifeSign(lane), lane], limit), (gone) =>
            gone ? Effect.asVoid(clearLane(mail, lane)) : Effect.void
          )
        )
        if (done._tag === "Left") isWell = false
      }
      return isWell
    })
}
