/**
 * Names of Unix sockets that fit, for as long as a scope is open.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as boundPath from "./boundPath.js"
import { acquireRelease } from "./finalizer.js"

/**
 * A path of `name` in `directory` to bind or connect a socket with. It means that very file while the scope is open, and
 * nothing afterwards: a server must be closed first, because libuv unlinks the path that it bound.
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
  Effect.map(
    acquireRelease(
      Effect.try({
        try: () => boundPath.open(directory, name, platform),
        catch: (cause) => cause as NodeJS.ErrnoException
      }),
      ({ close }) => Effect.sync(close)
    ),
    ({ path }) => path
  )
