/**
 * Ids that are no ids.
 */
import * as Effect from "effect/Effect"
import type { InstanceLock } from "../InstanceLock.js"
import { LockError } from "../SingleInstanceError.js"
import { flawOfId } from "./location.js"

/** The lock, whose operations fail with `IdInvalid` where the id is empty or too long. */
export const only = (lock: InstanceLock["Type"]): InstanceLock["Type"] => {
  const check = (id: string) =>
    Effect.suspend(() => {
      const detail = flawOfId(id)
      return detail === undefined ? Effect.void : new LockError({ reason: "IdInvalid", id, detail })
    })
  return {
    inspect: (id) => Effect.zipRight(check(id), lock.inspect(id)),
    contend: (options) => Effect.zipRight(check(options.id), lock.contend(options)),
    breakLock: (id, nonce) => Effect.zipRight(check(id), lock.breakLock(id, nonce))
  }
}
