/**
 * Whether a recorded process still lives, and the evidence.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"

/**
 * A proof of death. `D0`: the record is a tombstone. `D1`: the process is gone, was replaced by another one, or is a
 * zombie. `D2`: its liveness socket refuses. `D3`: its kernel lock is free. `D4`: the machine was started anew since.
 * Age, time-outs, host names and missing endpoints are never proofs.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Proof: Schema.Struct<{
  rule: Schema.Literal<["D0", "D1", "D2", "D3", "D4"]>
  detail: typeof Schema.String
}> = Schema.Struct({
  rule: Schema.Literal("D0", "D1", "D2", "D3", "D4"),
  detail: Schema.String
})

/**
 * @since 0.1.0
 * @category models
 */
export type Proof = typeof Proof.Type

/**
 * @since 0.1.0
 * @category models
 */
export type Liveness = Alive | Dead | Unknown

/**
 * @since 0.1.0
 * @category models
 */
export interface Alive {
  readonly _tag: "Alive"
  readonly evidence: string
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Dead {
  readonly _tag: "Dead"
  readonly proof: Proof
}

/**
 * Neither a proof of death nor a sign of life. `otherHost` says that the owner lives under another kernel.
 *
 * @since 0.1.0
 * @category models
 */
export interface Unknown {
  readonly _tag: "Unknown"
  readonly reason: string
  readonly otherHost: boolean
}

/**
 * @since 0.1.0
 * @category constructors
 */
export const alive = (evidence: string): Liveness => ({ _tag: "Alive", evidence })

/**
 * @since 0.1.0
 * @category constructors
 */
export const dead = (rule: Proof["rule"], detail: string): Dead => ({ _tag: "Dead", proof: { rule, detail } })

/**
 * @since 0.1.0
 * @category constructors
 */
export const unknown = (reason: string, options?: { readonly otherHost?: boolean | undefined }): Liveness => ({
  _tag: "Unknown",
  reason,
  otherHost: options?.otherHost ?? false
})
