/**
 * Names of Unix sockets that fit, for as long as a scope is open.
 *
 * @since 0.1.0
 */
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as boundPath from "./boundPath.js"
import * as directories from "./directory.js"
import * as errno from "./errno.js"
import { acquireRelease } from "./finalizer.js"
import * as linkedSocket from "./linkedSocket.js"
import * as systemProgram from "./systemProgram.js"

type Path = Effect.Effect<string, NodeJS.ErrnoException, Scope.Scope>

/**
 * A path of `name` in `directory` to connect a socket with. It means that very file while the scope is open. Creates
 * nothing. Fails as `boundPath.open` throws.
 *
 * @since 0.1.0
 * @category constructors
 */
export const toConnect = (directory: string, name: string, platform: NodeJS.Platform = process.platform): Path =>
  Effect.map(
    acquireRelease(
      attempt(() => boundPath.open(directory, name, platform)),
      ({ close }) => Effect.sync(close)
    ),
    ({ path }) => path
  )

/**
 * A path to bind the socket `name` of `directory` with. A server must be closed before the scope, because libuv unlinks the
 * path that it bound.
 *
 * Where there is no /proc and the plain path is too long, the socket gets a folder of its own in the first of these places
 * that nobody else controls and that is short enough: the user's temporary folder of macOS, TMPDIR, /tmp. A symbolic link
 * stands for it in `directory`. The link comes first, so that whoever clears the names of a killed process finds all that
 * it made.
 *
 * Fails with what the system says, with `EADDRINUSE` where the name is taken, and with `ENAMETOOLONG` where no path fits.
 *
 * @since 0.1.0
 * @category constructors
 */
export const toListen = (directory: string, name: string, platform: NodeJS.Platform = process.platform): Path =>
  Effect.suspend(() => {
    const plain = path.join(directory, name)
    if (platform === "linux") return toConnect(directory, name, platform)
    if (boundPath.fits(plain, platform)) return Effect.succeed(plain)
    return Effect.flatMap(choosePlace(platform), (place) =>
      place === undefined ? Effect.fail(boundPath.tooLong(plain)) : link(plain, place)
    )
  })

const attempt = <A>(run: () => A): Effect.Effect<A, NodeJS.ErrnoException> =>
  Effect.try({ try: run, catch: (cause) => cause as NodeJS.ErrnoException })

const randomTarget = (place: string): string => linkedSocket.targetIn(place, randomBytes(8).toString("hex"))

const choosePlace = (platform: NodeJS.Platform): Effect.Effect<string | undefined> =>
  Effect.gen(function* () {
    const isUsable = (place: string) => {
      const target = randomTarget(place)
      return (
        path.isAbsolute(place) &&
        boundPath.fits(target, platform) &&
        fs.existsSync(place) &&
        directories.verify(path.dirname(target), { create: false }) === "missing"
      )
    }
    // Of the user database, so that it outlives a TMPDIR that a shell or a job has to itself.
    const own = yield* systemProgram.temporaryFolder
    return [own ?? "", process.env.TMPDIR ?? "", "/tmp"].find(isUsable)
  })

const link = (name: string, place: string): Path =>
  acquireRelease(
    attempt(() => {
      const target = randomTarget(place)
      try {
        fs.symlinkSync(target, name)
      } catch (cause) {
        throw errno.isExisting(cause) ? errno.make("EADDRINUSE", `${name} exists already`) : cause
      }
      const flaw = directories.verify(path.dirname(target), { create: true })
      if (flaw === undefined) return target
      linkedSocket.removeTarget(name)
      fs.unlinkSync(name)
      const { cause, detail } = flaw as directories.Flaw
      throw errno.make(errno.code(cause), detail)
    }),
    (target) =>
      Effect.sync(() => {
        // Somebody may have removed the link, or put something else there.
        const isOurs = linkedSocket.read(name) === target
        linkedSocket.remove(target)
        if (isOurs) fs.rmSync(name, { force: true })
      })
  )
