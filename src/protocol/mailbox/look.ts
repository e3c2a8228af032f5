/**
 * Reading a folder so that the order of what lies in it is known.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type { MailFailure, MailFolder } from "./MailFiles.js"
import type { Incoming } from "./names.js"

/**
 * What two readings of a folder, one after the other, showed.
 *
 * @since 0.1.0
 * @category models
 */
export interface Reading {
  readonly isThere: boolean
  readonly names: ReadonlyArray<string>
  /** The names that the first reading showed, too. */
  readonly seen: ReadonlySet<string>
}

const nothing: Reading = { isThere: false, names: [], seen: new Set() }

/**
 * A folder that is read twice misses nothing that was there before what the first reading saw.
 *
 * @since 0.1.0
 * @category constructors
 */
export const look = (mail: MailFolder, folder: string): Effect.Effect<Reading, MailFailure> =>
  Effect.flatMap(mail.list(folder), (first) =>
    first === undefined
      ? Effect.succeed(nothing)
      : Effect.map(mail.list(folder), (second) =>
          second === undefined
            ? nothing
            : { isThere: true, names: second, seen: new Set(first.map((name) => `${folder}/${name}`)) }
        )
  )

/**
 * @since 0.1.0
 * @category combinators
 */
export const inOrder = (mails: ReadonlyArray<Incoming>): ReadonlyArray<Incoming> =>
  [...mails].sort((a, b) => (a.order < b.order ? -1 : a.order > b.order ? 1 : 0))

/**
 * Of one lane what is certainly complete, in order: up to the last one that the first reading saw.
 *
 * @since 0.1.0
 * @category combinators
 */
export const complete = (mails: ReadonlyArray<Incoming>, { seen }: Reading): ReadonlyArray<Incoming> => {
  const all = inOrder(mails)
  return all.slice(0, all.findLastIndex(({ name }) => seen.has(name)) + 1)
}
