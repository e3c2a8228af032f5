/**
 * What the suites import as `vitest` where vitest itself does not start: its own runner, and its assertions.
 */
export * from "@vitest/runner"
export { assert, expect } from "chai"
export { expectTypeOf } from "expect-type"
