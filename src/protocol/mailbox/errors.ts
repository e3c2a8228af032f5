/**
 * Errors of the protocol `file`.
 *
 * @since 0.1.0
 */
import { ProtocolError } from "../../SingleInstanceError.js"

/**
 * @since 0.1.0
 * @category constructors
 */
export const error = (
  reason: ProtocolError["reason"],
  detail: string,
  outcome: ProtocolError["outcome"] = "NotDelivered",
  cause?: unknown
): ProtocolError =>
  new ProtocolError({ reason, protocol: "file", detail, outcome, ...(cause === undefined ? undefined : { cause }) })
