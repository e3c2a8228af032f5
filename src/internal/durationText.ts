/**
 * The one reader of durations that people write: for options of the command line and for configuration.
 */
import { inspect } from "node:util"
import * as Duration from "effect/Duration"
import { shortMillis } from "./durations.js"

/**
 * Reads `"500ms"`, `"5s"`, `"2m"`, `"1h"`, and what Effect reads, such as `"5 seconds"`; `undefined` for any other text.
 * It is finite, and longer than nothing unless `zero` permits that.
 */
export const read = (
  text: string,
  { zero = false }: { readonly zero?: boolean } = {}
): Duration.Duration | undefined => {
  const trimmed = text.trim()
  const decoded = Duration.decodeUnknown(shortMillis(trimmed) ?? trimmed)
  if (decoded._tag === "None" || trimmed.startsWith("-") || !Duration.isFinite(decoded.value)) return undefined
  return zero || Duration.toMillis(decoded.value) > 0 ? decoded.value : undefined
}

/** What to write instead. */
export const expected = `a duration such as "500ms", "5s" or "2 minutes"`

/** A duration that a program gives as an option. Throws a `TypeError` that names the option where it is none. */
export const decode = (option: string, given: Duration.DurationInput): Duration.Duration => {
  const decoded = Duration.decodeUnknown(given)
  if (decoded._tag === "Some") return decoded.value
  throw new TypeError(`\`${option}\` is not a duration: ${inspect(given)}; use for example "5 seconds" or 5000`)
}
