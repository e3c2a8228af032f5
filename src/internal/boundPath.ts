/**
 * Names of Unix sockets that fit: an address holds 107 bytes on Linux and 103 on macOS (unix(7), sys/un.h), which an
 * ordinary home directory can exceed, and libuv cuts a longer one silently on Node 20, so that two names become one.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import * as errno from "./errno.js"
import * as linkedSocket from "./linkedSocket.js"

/** A path that means its file until it is closed. */
export interface BoundPath {
  readonly path: string
  readonly close: () => void
}

/** Whether a path is short enough for an address. */
export const fits = (name: string, platform: NodeJS.Platform): boolean =>
  Buffer.byteLength(name) <= (platform === "linux" ? 107 : 103)

/** The error about a name that does not fit. */
export const tooLong = (name: string): NodeJS.ErrnoException =>
  errno.make("ENAMETOOLONG", `the path of a socket is too long: ${name}`)

/**
 * A path of the socket `name` in `directory` to connect with; on Linux one to bind with, too. Creates nothing.
 *
 * On Linux the path leads through a descriptor of the directory, which must not be a symbolic link, and fits however
 * long the directory's name is. Elsewhere it is the plain path, or that to which a link of `linkedSocket` leads.
 *
 * Throws what open(2) says, `ENAMETOOLONG` where the path is too long, `EACCES` where the folder to which a link leads is not
 * ours alone, and perhaps `ENOENT` where there is no such socket.
 */
export const open = (directory: string, name: string, platform: NodeJS.Platform = process.platform): BoundPath => {
  const plain = path.join(directory, name)
  if (platform === "linux") {
    const through = descriptor(directory, name)
    // Without /proc, such as in a chroot, the plain path is left.
    if (fits(through.path, platform) && fs.existsSync(path.dirname(through.path))) return through
    through.close()
    if (!fits(plain, platform)) throw tooLong(plain)
    return { path: plain, close: () => {} }
  }
  const linked = linkedSocket.read(plain)
  if (linked !== undefined) linkedSocket.verify(linked)
  const target = linked ?? plain
  if (!fits(target, platform)) {
    // Nobody listens there if there is not even a file.
    fs.lstatSync(target)
    throw tooLong(target)
  }
  return { path: target, close: () => {} }
}

const descriptor = (directory: string, name: string): BoundPath => {
  const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY } = fs.constants
  const fd = fs.openSync(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
  return { path: `/proc/self/fd/${fd}/${name}`, close: () => fs.closeSync(fd) }
}
