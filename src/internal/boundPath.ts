/**
 * Names of Unix sockets that fit: an address holds 107 bytes on Linux and 103 on macOS (unix(7), sys/un.h), which an
 * ordinary home directory can exceed, and libuv cuts a longer one silently on Node 20, so that two names become one.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import * as errno from "./errno.js"

/** A path that means its file until it is closed. */
export interface BoundPath {
  readonly path: string
  readonly close: () => void
}

/**
 * A path of `name` in `directory` to bind or connect a socket with.
 *
 * On Linux the path leads through a descriptor of the directory, which must not be a symbolic link, and fits however
 * long the directory's name is. Elsewhere, where the plain path is too long, it leads through a link in a temporary
 * directory that only we can enter, so that the socket is in its directory there, too.
 *
 * Throws what open(2) or symlink(2) say, and `ENAMETOOLONG` where `name` itself is too long.
 */
export const open = (directory: string, name: string, platform: NodeJS.Platform = process.platform): BoundPath => {
  const fits = (candidate: string) => Buffer.byteLength(candidate) <= (platform === "linux" ? 107 : 103)
  if (platform === "linux") {
    const { close, path: through } = within(descriptor(directory), name)
    // Without /proc, such as in a chroot, the other ways are left.
    if (fits(through) && fs.existsSync(path.dirname(through))) return { path: through, close }
    close()
  }
  const plain = path.join(directory, name)
  if (fits(plain)) return { path: plain, close: () => {} }
  const linked = within(link(directory), name)
  if (fits(linked.path)) return linked
  linked.close()
  throw errno.make("ENAMETOOLONG", `the name of a socket is too long: ${name}`)
}

const within = ({ close, path: directory }: BoundPath, name: string): BoundPath => ({
  path: path.join(directory, name),
  close
})

const descriptor = (directory: string): BoundPath => {
  const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY } = fs.constants
  const fd = fs.openSync(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
  return { path: `/proc/self/fd/${fd}`, close: () => fs.closeSync(fd) }
}

// Not below TMPDIR, which may be long itself.
const link = (directory: string): BoundPath => {
  const temporary = fs.mkdtempSync("/tmp/esi-")
  const close = () => fs.rmSync(temporary, { recursive: true, force: true })
  try {
    const target = path.join(temporary, "d")
    fs.symlinkSync(path.resolve(directory), target)
    return { path: target, close }
  } catch (cause) {
    close()
    throw cause
  }
}
