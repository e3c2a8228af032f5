/**
 * The few file operations that the file lock is made of. They are a service so that the very code that runs in
 * production can also be run by a scheduler that tries every order and every crash.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { InstanceId } from "../InstanceId.js"
import type { ProcessIdentity, Witness } from "../InstanceRecord.js"
import type * as content from "../internal/content.js"
import * as errno from "../internal/errno.js"
import type { PidVerifier } from "../PidVerifier.js"
import type { LockError } from "../SingleInstanceError.js"

/**
 * A file operation failed. `code` is the system's own, such as `EEXIST`.
 *
 * @since 0.1.0
 * @category errors
 */
export class FileFailure extends Data.TaggedError("FileFailure")<{
  readonly code: string
  readonly operation: string
  readonly name: string
  readonly cause: unknown
}> {
  /**
   * @since 0.1.0
   */
  override get message(): string {
    return `${this.operation} of ${this.name} failed: ${errno.explain(this.code)}`
  }
}

/**
 * Who this process is; what the system cannot tell at the moment is a failure like that of a file.
 *
 * @since 0.1.0
 * @category operations
 */
export const identity = (verifier: PidVerifier["Type"]): Effect.Effect<ProcessIdentity, FileFailure> =>
  Effect.mapError(
    verifier.self,
    ({ cause, code, source }) =>
      new FileFailure({ code, operation: "read", name: `the identity of this process (${source})`, cause })
  )

/**
 * What stands under a name. `Special` is anything but a regular file; `identity` then tells it from any other.
 *
 * @since 0.1.0
 * @category models
 */
export type Content = content.Content

/**
 * What a look at a witness showed. Only `Refused` proves anything: nobody listens on that very socket, or holds the
 * kernel's lock on that very file.
 *
 * @since 0.1.0
 * @category models
 */
export type Probe =
  | { readonly _tag: "Answered" }
  | { readonly _tag: "Refused"; readonly rule: "D2" | "D3" }
  | { readonly _tag: "Silent"; readonly reason: string }

/**
 * The verified directory of one instance. Names are relative to it. Operations that change names take effect at once and
 * in one step; none of them can be left half done by an interruption.
 *
 * @since 0.1.0
 * @category models
 */
export interface LockDirectory {
  /** For people and for protocols that open files of their own there. */
  readonly path: string
  /** The name of the record: `lock`, or with the machine's id on a file system that several machines share. */
  readonly lockName: string
  /** Whether the file system is known to be local, so that a socket in it belongs to this kernel. */
  readonly local: boolean
  /** Never follows a link, never blocks, reads at most what a record may have. */
  readonly read: (name: string) => Effect.Effect<Content, FileFailure>
  /** Creates the file, which must not exist (`EEXIST`), with mode 0600, and has it on the disk before it returns. */
  readonly write: (name: string, bytes: Uint8Array) => Effect.Effect<void, FileFailure>
  /** Fails with `EEXIST` where `to` exists, `ENOENT` where `from` does not. */
  readonly link: (from: string, to: string) => Effect.Effect<void, FileFailure>
  /** Replaces `to`; fails with `ENOENT` where `from` does not exist. */
  readonly rename: (from: string, to: string) => Effect.Effect<void, FileFailure>
  /** A missing file is no failure. */
  readonly unlink: (name: string) => Effect.Effect<void, FileFailure>
  /** All names. */
  readonly list: Effect.Effect<ReadonlyArray<string>, FileFailure>
  /** The identity of a file and its age in milliseconds. */
  readonly stat: (name: string) => Effect.Effect<Option.Option<Standing>, FileFailure>
  /**
   * Opens the liveness witness of a candidate. The scope, the end of its thread or the kernel closes it. Its name stays
   * behind in each case, so that others can prove the end by it; the owner removes it when there is nothing to prove.
   */
  readonly openWitness: (nonce: string) => Effect.Effect<Witness, FileFailure, Scope.Scope>
  /** Whether a witness that was opened here is still open: somebody else in the process may have closed its handle. */
  readonly holds: (witness: Witness) => Effect.Effect<boolean>
  /** The file descriptor behind a witness that this process has opened and not yet closed. */
  readonly descriptor?: ((witness: Witness) => number | undefined) | undefined
  /** Looks whether somebody lives behind a witness; at most a second. Changes nothing. */
  readonly probe: (witness: Witness) => Effect.Effect<Probe>
  /** Completes when the process behind a witness may have gone. Keeps no process alive. */
  readonly hungUp: (witness: Witness) => Effect.Effect<void>
  /** Completes at the next change in the directory. Keeps no process alive. */
  readonly changed: Effect.Effect<void>
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Standing {
  readonly device: string
  readonly inode: string
  readonly ageMillis: number
}

/**
 * @since 0.1.0
 * @category context
 */
export class LockFiles extends Context.Tag("effect-single-instance/LockFiles")<
  LockFiles,
  {
    /** Where the instance's directory is or would be. */
    readonly location: (id: InstanceId) => string
    /** The directory, verified, if it exists; creates nothing. */
    readonly find: (id: InstanceId) => Effect.Effect<Option.Option<LockDirectory>, LockError, Scope.Scope>
    /** The directory, created where it is missing, and verified. */
    readonly open: (id: InstanceId) => Effect.Effect<LockDirectory, LockError, Scope.Scope>
    /** So many random bytes in hexadecimal digits. */
    readonly random: (bytes: number) => Effect.Effect<string>
    /**
     * Nonces of leaderships that ended in this process although `lock` may still name them. Shared by all layers and all
     * copies of this package in one thread.
     */
    readonly ended: { readonly add: (nonce: string) => void; readonly has: (nonce: string) => boolean }
  }
>() {}
