/**
 * Reads the error codes of system calls: the one place that knows what "not found" or "refused" is called.
 *
 * @since 0.1.0
 */
/**
 * The code of an error of Node, such as `ENOENT`; `UNKNOWN` where it has none.
 *
 * @since 0.1.0
 * @category getters
 */
export const code = (cause: unknown): string => {
  if (typeof cause !== "object" || cause === null || !("code" in cause) || typeof cause.code !== "string") {
    return "UNKNOWN"
  }
  // A `SystemError`, as of `os.userInfo`, has the system's own code one level below.
  return cause.code === "ERR_SYSTEM_ERROR" && "info" in cause ? code(cause.info) : cause.code
}

const meanings: { readonly [code: string]: string } = {
  EACCES: "permission denied",
  EPERM: "it is not permitted",
  EROFS: "the file system is read-only",
  ENOSPC: "there is no space left",
  EDQUOT: "the disk quota is used up",
  EIO: "the device failed",
  ENOENT: "there is no such file or directory",
  ENOTDIR: "it is not a directory",
  ELOOP: "there are too many symbolic links",
  ENAMETOOLONG: "the name is too long",
  EMFILE: "this process has no file descriptors left",
  ENFILE: "the system has no file descriptors left",
  ENOMEM: "there is no memory left",
  ESTALE: "the network file system lost it",
  EAFNOSUPPORT: "Unix sockets (AF_UNIX) cannot be used here",
  ENOPROC: "/proc is not mounted"
}

/**
 * The cause in words, with its code in parentheses.
 *
 * @since 0.1.0
 * @category getters
 */
export const explain = (cause: unknown): string => {
  const name = typeof cause === "string" ? cause : code(cause)
  const meaning = meanings[name] ?? (cause instanceof Error ? cause.message : "it failed")
  return `${meaning} (${name})`
}

/**
 * An error of our own with the code of a system call's, for who reads it by that.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (code: string, message: string): NodeJS.ErrnoException =>
  Object.assign(new Error(message), { code })

/**
 * An error in a few words.
 *
 * @since 0.1.0
 * @category getters
 */
export const describe = (cause: unknown): string =>
  cause instanceof Error ? (code(cause) === "UNKNOWN" ? cause.message : `${code(cause)}: ${cause.message}`) : `${cause}`

const is =
  (...codes: ReadonlyArray<string>) =>
  (cause: unknown): boolean =>
    codes.includes(code(cause))

/**
 * There is nothing of that name.
 *
 * @since 0.1.0
 * @category guards
 */
export const isMissing: (cause: unknown) => boolean = is("ENOENT")

/**
 * The name is taken.
 *
 * @since 0.1.0
 * @category guards
 */
export const isExisting: (cause: unknown) => boolean = is("EEXIST")

/**
 * Nobody reads any more what is written.
 *
 * @since 0.1.0
 * @category guards
 */
export const isBrokenPipe: (cause: unknown) => boolean = is("EPIPE")

/**
 * An address to listen on is taken, by whatever it may be.
 *
 * @since 0.1.0
 * @category guards
 */
export const isAddressInUse: (cause: unknown) => boolean = is("EADDRINUSE")

/**
 * The other side lives and cannot take more at the moment: a full backlog (connect(2)), a busy pipe, a held lock.
 *
 * @since 0.1.0
 * @category guards
 */
export const isBusy: (cause: unknown) => boolean = is("EAGAIN", "EWOULDBLOCK", "EBUSY")

/**
 * What Windows says of a file that somebody has open in a way that excludes the operation, or that is about to go. The
 * same codes mean that it is not permitted at all.
 *
 * @since 0.1.0
 * @category guards
 */
export const isInUse: (cause: unknown) => boolean = is("EBUSY", "EPERM", "EACCES")

/**
 * The other side was there, and left before anything was said.
 *
 * @since 0.1.0
 * @category guards
 */
export const isReset: (cause: unknown) => boolean = is("ECONNRESET")

/**
 * The system could not answer at the moment, for want of descriptors or memory or by a disturbance: it says nothing about
 * what was asked, and the same question may be answered later.
 *
 * @since 0.1.0
 * @category guards
 */
export const isPassing: (cause: unknown) => boolean = is(
  "EMFILE",
  "ENFILE",
  "ENOMEM",
  "ENOBUFS",
  "EAGAIN",
  "EWOULDBLOCK",
  "EBUSY",
  "EINTR",
  "EIO"
)

/**
 * There is no room for another file or more bytes at the moment.
 *
 * @since 0.1.0
 * @category guards
 */
export const isFull: (cause: unknown) => boolean = is("ENOSPC", "EDQUOT")

/**
 * This process may not do it, cannot do it now, or the system has no such thing; it says nothing about the other side.
 *
 * @since 0.1.0
 * @category guards
 */
export const isUnusable: (cause: unknown) => boolean = is(
  "EACCES",
  "EPERM",
  "EROFS",
  "ENOTSUP",
  "EOPNOTSUPP",
  "ENOSYS",
  "EAFNOSUPPORT",
  "EPROTONOSUPPORT",
  "ENAMETOOLONG",
  "EMFILE",
  "ENFILE",
  "ENOMEM",
  "ENOBUFS"
)
