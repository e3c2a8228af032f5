/**
 * Who this process is, and whether a recorded one still runs.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"
import type { ProcessIdentity } from "./InstanceRecord.js"
import type { Liveness } from "./Liveness.js"

/**
 * The identity of this process cannot be read at the moment: no descriptor or memory is left, say. `code` is the system's
 * own, such as `EMFILE`. Nothing of it is remembered: ask again later.
 *
 * @since 0.1.0
 * @category errors
 */
export class IdentityUnavailable extends Data.TaggedError("IdentityUnavailable")<{
  readonly code: string
  /** The file or program that was asked. */
  readonly source: string
  readonly cause: unknown
}> {
  /**
   * @since 0.1.0
   */
  override get message(): string {
    return `the identity of this process cannot be read at the moment: ${this.source} failed with ${this.code}`
  }
}

/**
 * Verifies recorded processes. What cannot be read is `Unknown`, never `Dead`.
 *
 * @since 0.1.0
 * @category context
 */
export class PidVerifier extends Context.Tag("effect-single-instance/PidVerifier")<
  PidVerifier,
  {
    /** The pid of this process. */
    readonly pid: number

    /**
     * The identity of this process; what the platform does not tell is `null`. Computed once, when it is first needed:
     * macOS and Windows run programs for it. Fails where the system cannot answer at the moment; asked again, it is read
     * again, so that it is never half known for a passing reason.
     */
    readonly self: Effect.Effect<ProcessIdentity, IdentityUnavailable>

    /**
     * Whether the recorded process lives. `D1` where it was recorded under the same boot and pid namespace; `D4` where it
     * was recorded under an earlier boot of the same machine (the caller says whether the file system is local, as a
     * shared one may carry records of other machines).
     */
    readonly verify: (recorded: ProcessIdentity, options: { readonly local: boolean }) => Effect.Effect<Liveness>

    /**
     * Sends a signal to the recorded process, after its identity (start time included) was verified once more; `false`
     * where it is not that process any more, or cannot be told to be.
     */
    readonly signal: (recorded: ProcessIdentity, signal: "SIGTERM" | "SIGKILL") => Effect.Effect<boolean>
  }
>() {}
