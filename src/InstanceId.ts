/**
 * The name under which the launches of one application meet.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import * as location from "./internal/location.js"

/**
 * The largest length of an id, in UTF-16 code units (a string's `length`): each hello carries the id.
 *
 * @since 0.1.0
 * @category constants
 */
export const maxLength: number = location.maxIdLength

/**
 * Any string of 1 to 1,024 UTF-16 code units. Two different strings never meet, also where they differ only in case,
 * length or characters that a file system does not tell apart. With any other string, operations fail with the
 * `LockError` `IdInvalid`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const InstanceId: Schema.brand<
  Schema.filter<typeof Schema.NonEmptyString>,
  "InstanceId"
> = Schema.NonEmptyString.pipe(Schema.maxLength(maxLength), Schema.brand("InstanceId"))

/**
 * @since 0.1.0
 * @category models
 */
export type InstanceId = typeof InstanceId.Type

/**
 * An id as it was given, for layers that cannot fail: the lock refuses one that is not valid, with a typed error.
 *
 * @since 0.1.0
 * @category constructors
 */
export const unchecked = (id: string): InstanceId => InstanceId.make(id, { disableValidation: true })

/**
 * The folder that belongs to an id: a readable slug of at most 16 characters of `[a-z0-9-]`, then 32 hexadecimal digits
 * of SHA-256 over the id's UTF-16LE code units. Code units rather than UTF-8, because lone surrogates are legal in a
 * JavaScript string and all become the same replacement character in UTF-8.
 *
 * @since 0.1.0
 * @category getters
 */
export const folderName: (id: string) => string = location.folderName
