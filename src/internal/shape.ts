/**
 * Guards of what was read from JSON, for code that must not load a schema library. Fields that are not named are ignored.
 */

export type Shape<A> = (value: unknown) => value is A

export type TypeOf<S> = S extends Shape<infer A> ? A : never

export const string: Shape<string> = (value): value is string => typeof value === "string"

export const text = (pattern: RegExp): Shape<string> => where(string, (value) => pattern.test(value))

/** JSON has no `undefined`: it is a field that is not there. */
export const anything: Shape<unknown> = (value): value is unknown => value !== undefined

export const int: Shape<number> = (value): value is number => Number.isSafeInteger(value)

export const where =
  <A>(shape: Shape<A>, holds: (value: A) => boolean): Shape<A> =>
  (value): value is A =>
    shape(value) && holds(value)

export const literal =
  <const A extends string | boolean>(...values: ReadonlyArray<A>): Shape<A> =>
  (value): value is A =>
    values.includes(value as A)

export const nullOr =
  <A>(shape: Shape<A>): Shape<A | null> =>
  (value): value is A | null =>
    value === null || shape(value)

export const optional =
  <A>(shape: Shape<A>): Shape<A | undefined> =>
  (value): value is A | undefined =>
    value === undefined || shape(value)

export const arrayOf =
  <A>(shape: Shape<A>): Shape<ReadonlyArray<A>> =>
  (value): value is ReadonlyArray<A> =>
    Array.isArray(value) && value.every(shape)

export const pairOf =
  <A>(shape: Shape<A>): Shape<readonly [A, A]> =>
  (value): value is readonly [A, A] =>
    Array.isArray(value) && value.length === 2 && value.every(shape)

export const struct =
  <const F extends { readonly [key: string]: Shape<any> }>(
    fields: F
  ): Shape<{ readonly [K in keyof F]: TypeOf<F[K]> }> =>
  (value): value is { readonly [K in keyof F]: TypeOf<F[K]> } =>
    typeof value === "object" &&
    value !== null &&
    Object.keys(fields).every((key) => fields[key]!((value as Record<string, unknown>)[key]))
