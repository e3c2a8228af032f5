/**
 * The end of a title that is only sometimes that of a large test: `` it(`over ${name}${largeIf(name !== "unix")}`, …) ``.
 * What large tests are, `vitest.config.ts` says.
 */
export const largeIf = (isLarge: boolean): string => (isLarge ? " @large" : "")
