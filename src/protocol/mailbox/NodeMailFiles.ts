/**
 * The file operations of the mailbox over `node:fs`.
 *
 * @since 0.1.0
 */
import * as fs from "node:fs"
import * as path from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as errno from "../../internal/errno.js"
import * as fileSystemType from "../../internal/fileSystemType.js"
import { whileInUse } from "../../internal/inUse.js"
import { type Content, MailFailure, MailFiles, type MailFolder } from "./MailFiles.js"
import * as origins from "./origins.js"

const failure = (operation: string, name: string, cause: unknown): MailFailure =>
  new MailFailure({ code: errno.code(cause), operation, name, cause })

const io = <A>(operation: string, name: string, run: () => Promise<A>): Effect.Effect<A, MailFailure> =>
  whileInUse(Effect.tryPromise({ try: run, catch: (cause) => failure(operation, name, cause) }))

/** The same, where a missing file or folder means something. */
const ioOr = <A, B>(
  operation: string,
  name: string,
  missing: B,
  run: () => Promise<A>
): Effect.Effect<A | B, MailFailure> =>
  Effect.catchIf(io(operation, name, run), errno.isMissing, () => Effect.succeed(missing))

// Where other machines may share the folder, another boot of the same name proves nothing. What cannot be told is asked
// for again.
const isLocal = (folder: string): boolean => {
  try {
    return fileSystemType.isSurelyLocal(folder, fs.statfsSync(folder).type)
  } catch {
    return false
  }
}

const { O_NOFOLLOW = 0, O_NONBLOCK = 0, O_RDONLY } = fs.constants

const readFile = async (file: string, size: number): Promise<Content> => {
  const opened = await fs.promises.open(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  try {
    const stat = await opened.stat()
    return stat.isFile() && stat.size === size ? { _tag: "Bytes", bytes: await opened.readFile() } : { _tag: "Odd" }
  } finally {
    await opened.close()
  }
}

const writeFile = async (file: string, bytes: Uint8Array, durable: boolean): Promise<true> => {
  const opened = await fs.promises.open(file, "wx", 0o600)
  try {
    await opened.writeFile(bytes)
    if (durable) await opened.sync()
  } finally {
    await opened.close()
  }
  return true
}

const makeFolder = async (folder: string): Promise<true> => {
  try {
    await fs.promises.mkdir(folder, { mode: 0o700 })
    // Whatever the umask is.
    if (process.platform !== "win32") await fs.promises.chmod(folder, 0o700)
  } catch (cause) {
    if (!errno.isExisting(cause)) throw cause
  }
  return true
}

const removeFolder = async (folder: string): Promise<boolean> => {
  try {
    await fs.promises.rmdir(folder)
    return true
  } catch (cause) {
    if (["ENOTEMPTY", "EEXIST", "ENOTDIR"].includes(errno.code(cause))) return false
    throw cause
  }
}

const at = (root: string): MailFolder => {
  const to = (name: string) => (name === "" ? root : path.join(root, name))
  return {
    list: (name) =>
      Effect.catchIf(
        ioOr("list", name, undefined, () => fs.promises.readdir(to(name))),
        // A file that lies where a mailbox would be.
        ({ code }) => code === "ENOTDIR",
        () => Effect.succeed(undefined)
      ),
    read: (name, size) =>
      Effect.catchIf(
        ioOr("read", name, { _tag: "Missing" } as const, () => readFile(to(name), size)),
        // A link, or a socket.
        ({ code }) => code === "ELOOP" || code === "ENXIO",
        () => Effect.succeed({ _tag: "Odd" } as const)
      ),
    write: (name, bytes, { durable }) => ioOr("write", name, false, () => writeFile(to(name), bytes, durable)),
    rename: (from, target) =>
      ioOr("rename", from, false, async () => {
        await fs.promises.rename(to(from), to(target))
        return true
      }),
    unlink: (name) =>
      ioOr("unlink", name, false, async () => {
        await fs.promises.unlink(to(name))
        return true
      }),
    sync: (name) =>
      io("sync", name, async () => {
        if (process.platform === "win32") return
        const folder = await fs.promises.open(to(name), "r")
        await folder.sync().finally(() => folder.close())
      }),
    makeFolder: (name) => ioOr("makeFolder", name, false, () => makeFolder(to(name))),
    removeFolder: (name) => ioOr("removeFolder", name, true, () => removeFolder(to(name))),
    silence: (name) =>
      ioOr("silence", name, undefined, async () => {
        const stat = await fs.promises.lstat(to(name))
        return Date.now() - stat.mtimeMs
      }),
    touch: (name) =>
      ioOr("touch", name, false, async () => {
        const now = new Date()
        await fs.promises.lutimes(to(name), now, now)
        return true
      }),
    watch: (name, onChange, onEnd) => {
      try {
        const watcher = fs.watch(to(name), onChange).on("error", onEnd)
        return () => watcher.close()
      } catch {
        return undefined
      }
    },
    lifeOf: (origin) => origins.lifeOf(origin, () => isLocal(root))
  }
}

/**
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<MailFiles> = Layer.succeed(MailFiles, {
  origin: Effect.try({ try: origins.self, catch: (cause) => failure("read", "/proc/self", cause) }),
  at
})
