/**
 * The reading side of a conversation.
 */
import * as Effect from "effect/Effect"
import type { Connection } from "../Protocol.js"
import type { ProtocolError } from "../SingleInstanceError.js"

/**
 * Hands over each frame that arrives, in order, until the connection or `handle` fails. Where `handle` has nothing left to
 * do it answers `Effect.void`, and the next frame follows at once: most then need no fiber to be woken.
 */
export const pump = <E>(
  connection: Connection,
  handle: (frame: Uint8Array) => Effect.Effect<void, E>
): Effect.Effect<never, E | ProtocolError> => {
  let rest: Effect.Effect<void, E> = Effect.void
  const take = (frame: Uint8Array): boolean => {
    try {
      rest = handle(frame)
    } catch (defect) {
      rest = Effect.die(defect)
    }
    return rest === Effect.void
  }
  const receive = connection.receiveWith?.(take) ?? connection.receive
  return Effect.gen(function* () {
    while (true) {
      const frames = yield* receive
      const left = rest
      rest = Effect.void
      if (left !== Effect.void) yield* left
      for (const frame of frames) {
        const doing = handle(frame)
        if (doing !== Effect.void) yield* doing
      }
    }
  })
}
