/**
 * Durations as people write them, on the command line and in environment variables.
 */

const units: { readonly [unit: string]: number } = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }

/** The milliseconds of `"500ms"`, `"5s"`, `"2m"` or `"1h"`; `undefined` for any other text. */
export const shortMillis = (text: string): number | undefined => {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text) ?? []
  return amount === undefined ? undefined : Number(amount) * units[unit!]!
}
