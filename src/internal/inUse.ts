/**
 * Files that somebody has open.
 */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as errno from "./errno.js"

/**
 * Windows replaces, opens or removes no file that somebody else has open at that instant or that is about to go: a launch
 * that reads the record, a scanner, an indexer. There an operation on files that is refused so is tried again, for about
 * two seconds.
 */
export const whileInUse: <A, E>(operation: Effect.Effect<A, E>) => Effect.Effect<A, E> =
  process.platform === "win32"
    ? Effect.retry({ while: errno.isInUse, schedule: Schedule.jittered(Schedule.spaced("10 millis")), times: 200 })
    : (operation) => operation
