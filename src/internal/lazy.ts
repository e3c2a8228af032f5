/**
 * Functions that cost something to make, such as those of a schema.
 */

/** One that is made when it is first called. */
export const lazy = <I, A>(make: () => (input: I) => A): ((input: I) => A) => {
  let made: ((input: I) => A) | undefined
  return (input) => {
    made ??= make()
    return made(input)
  }
}
