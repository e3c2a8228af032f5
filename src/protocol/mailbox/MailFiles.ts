/**
 * The few file operations that the mailbox is made of. They are a service so that the very code that runs in production
 * can also be run while any of them fails.
 *
 * Each answers what a missing file means, since that is a fact about the message. Everything else that the system says is
 * a {@link MailFailure}, which decides nothing: whoever gets one tries again, or gives back what it holds.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Effect from "effect/Effect"

/**
 * A file operation failed for another reason than a missing file. `code` is the system's own, such as `EMFILE`.
 *
 * @since 0.1.0
 * @category errors
 */
export class MailFailure extends Data.TaggedError("MailFailure")<{
  readonly code: string
  readonly operation: string
  readonly name: string
  readonly cause: unknown
}> {
  /**
   * @since 0.1.0
   */
  override get message(): string {
    return `${this.operation} of ${this.name} failed with ${this.code}`
  }
}

/**
 * What stands under a name. `Odd` is anything but a regular file of the expected size.
 *
 * @since 0.1.0
 * @category models
 */
export type Content =
  | { readonly _tag: "Missing" }
  | { readonly _tag: "Odd" }
  | { readonly _tag: "Bytes"; readonly bytes: Buffer }

/**
 * Whether a process lives; `unknown` is one of another machine or another process table.
 *
 * @since 0.1.0
 * @category models
 */
export type Life = "alive" | "dead" | "unknown"

/**
 * The folder that holds the mailboxes of one instance. Names are relative to it; the empty name is the folder itself.
 * None of the operations follows a link at the end of a name.
 *
 * @since 0.1.0
 * @category models
 */
export interface MailFolder {
  /** The names in a folder; `undefined` where there is no such folder. */
  readonly list: (name: string) => Effect.Effect<ReadonlyArray<string> | undefined, MailFailure>
  /** The content of a regular file of that many bytes. */
  readonly read: (name: string, size: number) => Effect.Effect<Content, MailFailure>
  /** Creates a file with mode 0600, on the disk when it returns if it is `durable`; `false` where its folder is missing. */
  readonly write: (
    name: string,
    bytes: Uint8Array,
    options: { readonly durable: boolean }
  ) => Effect.Effect<boolean, MailFailure>
  /** Replaces `to`; `false` where `from` or the folder of `to` is missing. */
  readonly rename: (from: string, to: string) => Effect.Effect<boolean, MailFailure>
  /** `false` where it was missing already. */
  readonly unlink: (name: string) => Effect.Effect<boolean, MailFailure>
  /** Has the names in a folder on the disk, where the system can do that. */
  readonly sync: (name: string) => Effect.Effect<void, MailFailure>
  /** Creates a folder with mode 0700, or leaves it as it is; `false` where the folder that is to hold it is missing. */
  readonly makeFolder: (name: string) => Effect.Effect<boolean, MailFailure>
  /** Removes an empty folder; `false` where something is in it. */
  readonly removeFolder: (name: string) => Effect.Effect<boolean, MailFailure>
  /** How many milliseconds ago a file was written or touched; `undefined` where it is missing. */
  readonly silence: (name: string) => Effect.Effect<number | undefined, MailFailure>
  /** Says that its owner lives; `false` where it is missing. */
  readonly touch: (name: string) => Effect.Effect<boolean, MailFailure>
  /** Calls `onChange` upon changes in a folder, until the returned function is called or it `onEnd`s; `undefined` where that fails. */
  readonly watch: (name: string, onChange: () => void, onEnd: () => void) => (() => void) | undefined
  /** Whether the process of an origin lives, as far as this process can tell. */
  readonly lifeOf: (origin: string) => Life
}

/**
 * @since 0.1.0
 * @category context
 */
export class MailFiles extends Context.Tag("effect-single-instance/MailFiles")<
  MailFiles,
  {
    /** The origin of this process: its host, boot, process table, pid and start, as names of files tell them. */
    readonly origin: Effect.Effect<string, MailFailure>
    /** A folder by its path; it need not exist. */
    readonly at: (path: string) => MailFolder
  }
>() {}
