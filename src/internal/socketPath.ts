/**
 * Names of Unix sockets that fit: an address holds 107 bytes on Linux and 103 on macOS (unix(7), sys/un.h), which an
 * ordinary home directory can exceed, and libuv cuts a longer one silently on Node 20, so that two names become one.
 *
 * @since 0.1.0
 */

import * as fs from "node:fs"
import * as path from "node:path"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as errno from "./errno.js"

/**
 * A path of `name` in `directory` to bind or connect a socket with. It means that very file while the scope is open, and
 * nothing afterwards: a server must be closed first, because libuv unlinks the path that it bound.
 *
 * On Linux the path leads through a descriptor of the directory, which must not be a symbolic link, and fits however
 * long the directory's name is. Elsewhere, where the plain path is too long, it leads through a link in a temporary
 * directory that only we can enter, so that the socket is in its directory there, too.
 *
 * Fails with what open(2) or symlink(2) say, and with `ENAMETOOLONG` where `name` itself is too long.
 *
 * @since 0.1.0
 * @category constructors
 */
export const shortPath = (
  directory: string,
  name: string,
  platform: NodeJS.Platform = process.platform
): Effect.Effect<string, NodeJS.ErrnoException, Scope.Scope> =>
  Effect.gen(function* () {
    const fits = (candidate: string) => Buffer.byteLength(candidate) <= (platform === "linux" ? 107 : 103)
    if (platform === "linux") {
      const through = path.join(yield* descriptor(directory), name)
      // Without /proc, such as in a chroot, the other ways are left.
      if (fits(through) && fs.existsSync(path.dirname(through))) return through
    }
    const plain = path.join(directory, name)
    if (fits(plain)) return plain
    const linked = path.join(yield* link(directory), name)
    if (fits(linked)) return linked
    return yield* Effect.fail(errno.make("ENAMETOOLONG", `the name of a socket is too long: ${name}`))
  })

const descriptor = (directory: string): Effect.Effect<string, NodeJS.ErrnoException, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      attempt(() => fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY | fs.constants.O_NOFOLLOW)),
      (fd) => Effect.sync(() => fs.closeSync(fd))
    ),
    (fd) => `/proc/self/fd/${fd}`
  )

// Not below TMPDIR, which may be long itself.
const link = (directory: string): Effect.Effect<string, NodeJS.ErrnoException, Scope.Scope> =>
  Effect.flatMap(
    Effect.acquireRelease(
      attempt(() => fs.mkdtempSync("/tmp/esi-")),
      (temporary) => Effect.sync(() => fs.rmSync(temporary, { recursive: true, force: true }))
    ),
    (temporary) =>
      attempt(() => {
        const target = path.join(temporary, "d")
        fs.symlinkSync(path.resolve(directory), target)
        return target
      })
  )

const attempt = <A>(run: () => A): Effect.Effect<A, NodeJS.ErrnoException> =>
  Effect.try({ try: run, catch: (cause) => cause as NodeJS.ErrnoException })
