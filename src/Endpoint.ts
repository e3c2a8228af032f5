/**
 * Where a primary listens.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * The wire versions one side speaks, lowest and highest.
 *
 * @since 0.1.0
 * @category schemas
 */
export const WireRange: Schema.Tuple2<typeof Schema.Int, typeof Schema.Int> = Schema.Tuple(Schema.Int, Schema.Int)

/**
 * @since 0.1.0
 * @category models
 */
export type WireRange = typeof WireRange.Type

/**
 * One address of a primary: the protocol that serves it, a URI that this protocol understands, and the wire versions
 * spoken there. A file inside the instance's directory is written as a relative URI (`unix:s.<nonce>`), because the
 * directory may be mounted elsewhere for another reader; anything else is absolute (`tcp://127.0.0.1:4711`).
 *
 * @since 0.1.0
 * @category schemas
 */
export class Endpoint extends Schema.Class<Endpoint>("effect-single-instance/Endpoint")({
  protocol: Schema.NonEmptyString,
  address: Schema.NonEmptyString.pipe(
    Schema.pattern(/^[a-z][a-z0-9+.-]*:\S+$/, { message: () => "an endpoint's address is a URI, such as unix:s.1" })
  ),
  wire: WireRange
}) {}

/**
 * The wire versions that two sides have in common, or `undefined` where there is none.
 *
 * @since 0.1.0
 * @category getters
 */
export const commonWire = (ours: WireRange, theirs: WireRange): number | undefined => {
  const highest = Math.min(ours[1], theirs[1])
  return highest >= Math.max(ours[0], theirs[0]) ? highest : undefined
}
