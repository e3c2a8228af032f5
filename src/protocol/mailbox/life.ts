/**
 * Whether somebody lives of whom this system cannot tell: a process of another machine, or of another process table.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type { MailFailure, MailFolder } from "./MailFiles.js"
import { pause } from "./patience.js"

const beatMillis = 60_000

/**
 * How long the sign of life of such a process may be old, in milliseconds of the wall clock: a day.
 *
 * @since 0.1.0
 * @category constants
 */
export const silentMillis: number = 24 * 60 * 60 * 1_000

/**
 * The same where so many of them left something that it must be bounded.
 *
 * @since 0.1.0
 * @category constants
 */
export const crowdedMillis: number = 10 * beatMillis

/**
 * Shows every minute that the owner of a file lives.
 *
 * @since 0.1.0
 * @category combinators
 */
export const beats = (mail: MailFolder, file: string): Effect.Effect<never> =>
  Effect.forever(Effect.zipRight(pause(beatMillis), Effect.ignore(mail.touch(file))))

/**
 * Whether the process of an origin has ended, or has not shown that it lives for so long that it is taken for gone.
 *
 * @since 0.1.0
 * @category getters
 */
export const isGone = (
  mail: MailFolder,
  origin: string,
  signs: ReadonlyArray<string>,
  limitMillis: number = silentMillis
): Effect.Effect<boolean, MailFailure> => {
  const life = mail.lifeOf(origin)
  if (life !== "unknown") return Effect.succeed(life === "dead")
  return Effect.gen(function* () {
    for (const sign of signs) {
      const silence = yield* mail.silence(sign)
      if (silence !== undefined) return silence > limitMillis
    }
    return true
  })
}
