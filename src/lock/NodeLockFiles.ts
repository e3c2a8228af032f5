/**
 * The lock's file operations on Node.
 *
 * @since 0.1.0
 */
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { InstanceId } from "../InstanceId.js"
import { Witness } from "../InstanceRecord.js"
import * as accessList from "../internal/accessList.js"
import * as content from "../internal/content.js"
import { type Flaw, verify } from "../internal/directory.js"
import * as errno from "../internal/errno.js"
import * as fileIdentity from "../internal/fileIdentity.js"
import * as fileSystemType from "../internal/fileSystemType.js"
import { acquireRelease, addFinalizer } from "../internal/finalizer.js"
import { whileInUse } from "../internal/inUse.js"
import * as kernelLock from "../internal/kernelLock.js"
import * as linkedSocket from "../internal/linkedSocket.js"
import * as locations from "../internal/location.js"
import * as windowsAccess from "../internal/windowsAccess.js"
import { PidVerifier } from "../PidVerifier.js"
import { SingleInstanceConfig } from "../SingleInstanceConfig.js"
import { LockError } from "../SingleInstanceError.js"
import { FileFailure, identity, type LockDirectory, LockFiles, type Probe } from "./LockFiles.js"

/**
 * The platform's place for the folders of all instances. From the user database, not from HOME, TMPDIR or XDG_*: those
 * differ between cron, sudo, systemd and a desktop session, and would give each its own primary. A program in the App
 * Sandbox of macOS that may not open `~/Library/Application Support` has its place in its container.
 *
 * @since 0.1.0
 * @category constants
 */
export const defaultDirectory: () => string = locations.defaultDirectory

const isLinux = process.platform === "linux"
const noFollow = fs.constants.O_NOFOLLOW ?? 0
const probeMillis = 1_000

/**
 * Made anew wherever it is provided, because its directory is an option.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<LockFiles, never, SingleInstanceConfig | PidVerifier> = Layer.effect(
  LockFiles,
  Effect.gen(function* () {
    const config = yield* SingleInstanceConfig
    const verifier = yield* PidVerifier
    // Now, so that a change of the current directory does not move the lock.
    const place = locations.resolve(config.directory)
    // For messages; whoever uses it has asked for the directory before.
    const location = (id: InstanceId) => {
      try {
        return locations.of(id, place)
      } catch {
        return locations.folderName(id)
      }
    }

    const locate = (id: InstanceId) =>
      Effect.try({
        try: () => locations.of(id, place),
        catch: (cause) => new LockError({ reason: "DirectoryUnusable", id, detail: (cause as Error).message, cause })
      })

    // The directories whose access control lists were looked at and found in order.
    const listed = new Set<string>()
    const obtain = Effect.fnUntraced(function* (id: InstanceId, create: boolean) {
      const { trustDirectory } = config
      const wrong = locations.flawOfPlace({ directory: place, trustDirectory })
      if (wrong !== undefined) return yield* new LockError({ reason: "DirectoryUnusable", id, detail: wrong })
      const directory = yield* locate(id)
      const exists = yield* Effect.suspend(() => {
        const flaw = verify(directory, { create, trustParents: trustDirectory })
        return typeof flaw === "object" ? Effect.fail(flaw) : Effect.succeed(flaw === undefined)
      }).pipe(
        Effect.retry({ while: ({ passing }) => passing, schedule: Schedule.spaced("20 millis"), times: 10 }),
        Effect.mapError(({ cause, detail, path, reason }) => new LockError({ reason, id, path, detail, cause }))
      )
      if (!exists) return Option.none()
      // Only before a candidature, because it starts a program.
      if (create && !listed.has(directory)) {
        const flaw = yield* accessFlaw(directory, trustDirectory)
        if (flaw !== undefined) {
          const { detail, path, reason } = flaw
          return yield* new LockError({ reason, id, path, detail })
        }
        listed.add(directory)
      }
      return Option.some(
        yield* makeDirectory(
          directory,
          Effect.map(identity(verifier), (self) => self.machine)
        ).pipe(
          Effect.mapError(
            ({ cause, message }) =>
              new LockError({ reason: "DirectoryUnusable", id, path: directory, detail: message, cause })
          )
        )
      )
    })

    return LockFiles.of({
      location,
      find: (id) => obtain(id, false),
      // Somebody may remove the directory between the two looks; then it was unusable.
      open: (id) =>
        Effect.flatMap(obtain(id, true), (directory) =>
          Option.match(directory, {
            onNone: () =>
              new LockError({ reason: "DirectoryUnusable", id, path: location(id), detail: "it was removed at once" }),
            onSome: Effect.succeed
          })
        ),
      random: (bytes) => Effect.sync(() => randomBytes(bytes).toString("hex")),
      ended: {
        has: (nonce) => endedHere().has(`${verifier.pid} ${nonce}`),
        add: (nonce) => endedHere().add(`${verifier.pid} ${nonce}`)
      }
    })
  })
).pipe(Layer.fresh)

// What access control lists give beside mode bits.
const accessFlaw = (directory: string, trustDirectory: boolean): Effect.Effect<Flaw | undefined> => {
  switch (process.platform) {
    case "darwin":
      return accessList.verify(directory, { trustParents: trustDirectory })
    case "win32":
      return trustDirectory ? Effect.succeed(undefined) : windowsAccess.verify(directory)
    default:
      return Effect.succeed(undefined)
  }
}

// Grows only by ends that could not be written down.
const endedHere = (): Set<string> => {
  const shared = globalThis as { [ended]?: Set<string> }
  shared[ended] ??= new Set()
  return shared[ended]
}
const ended: unique symbol = Symbol.for("effect-single-instance/ended")

// Where that pauses, it is as if the process stood still before the operation, which the election permits anywhere.
const attempt = <A>(operation: string, name: string, run: () => A): Effect.Effect<A, FileFailure> =>
  whileInUse(
    Effect.try({ try: run, catch: (cause) => new FileFailure({ code: errno.code(cause), operation, name, cause }) })
  )

const makeDirectory = Effect.fnUntraced(function* (
  directory: string,
  machine: Effect.Effect<string | null, FileFailure>
): Effect.fn.Return<LockDirectory, FileFailure, Scope.Scope> {
  const at = (name: string) => path.join(directory, name)
  const type = yield* attempt("statfs", directory, () => fs.statfsSync(directory).type)
  // A host that shares the directory keeps its own record; a hyphen, as `<letters>.<nonce>` names what is collected.
  const lockName = fileSystemType.isShared(type) ? `lock-${(yield* machine) ?? os.hostname()}` : "lock"
  const local = yield* fileSystemType.isLocal(directory, type)
  // Reached through a descriptor, a socket's name is never longer than the system allows.
  const fd = isLinux
    ? yield* acquireRelease(
        attempt("open", directory, () =>
          fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY | noFollow)
        ),
        (fd) => Effect.sync(() => fs.closeSync(fd))
      )
    : -1
  const socketPath = (name: string) => `/proc/self/fd/${fd}/${name}`

  const standing = (name: string): fs.BigIntStats | undefined =>
    fs.lstatSync(at(name), { bigint: true, throwIfNoEntry: false })
  const isSame = (witness: Witness): boolean => {
    const stat = standing(witness.name)
    return stat !== undefined && fileIdentity.isSame(witness, stat) && stat.isSocket() === isSocket(witness)
  }
  const stands = (witness: Witness): boolean => {
    try {
      return isSame(witness)
    } catch {
      return false
    }
  }

  const { begin, changed, hint } = yield* watch(directory)
  const opened: Opened = new Map()

  return {
    path: directory,
    lockName,
    local,
    read: (name) => attempt("read", name, () => content.read(at(name))),
    write: (name, bytes) => attempt("write", name, () => write(at(name), bytes)),
    link: (from, to) => attempt("link", to, () => fs.linkSync(at(from), at(to))),
    rename: (from, to) => attempt("rename", to, () => fs.renameSync(at(from), at(to))),
    unlink: (name) =>
      attempt("unlink", name, () => {
        // Where a socket's own path was too long, its name is a link to it.
        if (process.platform !== "linux") linkedSocket.removeTarget(at(name))
        unlink(at(name))
      }),
    list: attempt("list", directory, () => fs.readdirSync(directory)),
    stat: (name) =>
      attempt("stat", name, () => {
        const stat = standing(name)
        if (stat === undefined) return Option.none()
        return Option.some({ ...fileIdentity.of(stat), ageMillis: Date.now() - Number(stat.ctimeMs) })
      }),
    openWitness: (nonce) =>
      // Linux closes what a dead process held from the last descriptor to the first, and takes 10 ms for that of a watch:
      // it comes before the witness, so that who waits for our end does not wait for that.
      isLinux
        ? Effect.zipRight(begin, listen(nonce, { socketPath, at, standing, opened, onClose: hint }))
        : holdLock(`k.${nonce}`, at(`k.${nonce}`), opened),
    holds: (witness) => Effect.sync(() => opened.get(witness.name)?.() !== undefined),
    // On Windows a file that a child inherits is not known to keep its lock.
    descriptor: ({ name }) => (process.platform === "win32" ? undefined : opened.get(name)?.()),
    probe: (witness) =>
      Effect.suspend((): Effect.Effect<Probe> => {
        if (!isSame(witness)) return Effect.succeed({ _tag: "Silent", reason: "it is not the file of the record" })
        return isSocket(witness)
          ? Effect.map(knock(socketPath(witness.name)), (answer): Probe => {
              // A full backlog is that of somebody who listens; it may be the backlog of another socket, hence the second look.
              if (answer === "connected" || (errno.isBusy({ code: answer }) && isSame(witness)))
                return { _tag: "Answered" }
              // A regular file refuses, too, hence the second look.
              return answer === "ECONNREFUSED" && isSame(witness)
                ? { _tag: "Refused", rule: "D2" }
                : { _tag: "Silent", reason: `its liveness socket gave ${answer}` }
            })
          : patiently(() => lookAtLock(at(witness.name), witness))
      }).pipe(Effect.catchAllDefect((cause) => Effect.succeed({ _tag: "Silent", reason: errno.code(cause) } as const))),
    hungUp: (witness) => {
      const pause = Effect.flatMap(Random.nextIntBetween(50, 1_000), idle)
      if (!isSocket(witness)) {
        // A lock tells nobody that it was freed, and must not be said to have gone while it is held: conversations end then.
        const mayBeHeld = () => stands(witness) && lookAtLock(at(witness.name), witness)._tag !== "Refused"
        return Effect.asVoid(Effect.repeat(Effect.zipRight(pause, Effect.sync(mayBeHeld)), { while: (held) => held }))
      }
      return Effect.flatMap(hangUp(socketPath(witness.name)), (ended) =>
        // Refused, it went since the look at it, which can be proven: to wait would only be lost.
        ended === "hung up" || (ended === "ECONNREFUSED" && local && stands(witness)) ? Effect.void : pause
      )
    },
    changed
  }
})

const isSocket = ({ name }: Witness): boolean => !name.startsWith("k.")

const write = (name: string, bytes: Uint8Array): void => {
  const { O_CREAT, O_EXCL, O_WRONLY } = fs.constants
  const fd = fs.openSync(name, O_CREAT | O_EXCL | O_WRONLY | noFollow, 0o600)
  try {
    try {
      correctMode(fd)
      for (let written = 0; written < bytes.length; ) written += fs.writeSync(fd, bytes, written)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
  } catch (cause) {
    // A full disk leaves no half of a record behind.
    unlink(name)
    throw cause
  }
}

// The umask may have taken our own rights.
const correctMode = (fd: number): void => {
  if (process.platform !== "win32" && (fs.fstatSync(fd).mode & 0o600) !== 0o600) fs.fchmodSync(fd, 0o600)
}

const unlink = (name: string): void => {
  try {
    fs.unlinkSync(name)
  } catch (cause) {
    if (!errno.isMissing(cause)) throw cause
  }
}

interface Place {
  readonly socketPath: (name: string) => string
  readonly at: (name: string) => string
  readonly standing: (name: string) => fs.BigIntStats | undefined
  readonly opened: Opened
  readonly onClose: () => void
}

/** The witnesses that were opened here, each with its descriptor, or `undefined` where it was closed. */
type Opened = Map<string, () => number | undefined>

// The liveness socket: it serves nothing and keeps nothing alive, but while it listens its process lives. Node removes the
// name that a socket was bound to when its handle closes, also when a worker thread is terminated. The socket is therefore
// renamed after it was bound: the recorded name stays behind and refuses, which proves the end although the process lives.
const listen = (nonce: string, place: Place): Effect.Effect<Witness, FileFailure, Scope.Scope> => {
  const { at, onClose, opened, socketPath, standing } = place
  const [bound, name] = [`b.${nonce}`, `w.${nonce}`]
  return acquireRelease(
    Effect.async<{ server: net.Server; held: Set<net.Socket>; witness: Witness }, FileFailure>((resume) => {
      const held = new Set<net.Socket>()
      const server = net.createServer((socket) => {
        held.add(socket)
        socket.on("error", () => {})
        socket.on("close", () => held.delete(socket))
        socket.unref().resume()
      })
      const fail = (cause: unknown) =>
        resume(new FileFailure({ code: codeOfListening(cause), operation: "listen", name, cause }))
      server.once("error", fail)
      // Not shared with a cluster's parent, which would own the socket and outlive us.
      server.listen({ path: socketPath(bound), exclusive: true, backlog: 4_096 }, () => {
        server.removeListener("error", fail)
        server.on("error", () => {})
        server.unref()
        try {
          // A rename would replace whatever has the name.
          if (standing(name) !== undefined) throw errno.make("EEXIST", `${name} exists already`)
          fs.renameSync(at(bound), at(name))
          const stat = standing(name)!
          // The umask may have taken our own right to connect.
          if ((stat.mode & 0o600n) !== 0o600n) fs.chmodSync(at(name), 0o600)
          const witness = new Witness({ name, ...fileIdentity.of(stat) })
          const { _handle } = server as net.Server & { readonly _handle?: { readonly fd?: number } }
          opened.set(name, () => (server.listening ? _handle?.fd : undefined))
          server.once("close", onClose)
          resume(Effect.succeed({ server, held, witness }))
        } catch (cause) {
          server.close()
          fail(cause)
        }
      })
    }),
    ({ held, server }) =>
      Effect.async<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of held) socket.destroy()
      })
  ).pipe(Effect.map(({ witness }) => witness))
}

// The path of the socket leads through /proc; libuv calls it EACCES where that is missing.
const codeOfListening = (cause: unknown): string => (fs.existsSync("/proc/self/fd") ? errno.code(cause) : "ENOPROC")

const holdLock = (name: string, file: string, opened: Opened): Effect.Effect<Witness, FileFailure, Scope.Scope> =>
  acquireRelease(
    attempt("lock", name, () => {
      const fd = kernelLock.create(file)
      correctMode(fd)
      const identity = fileIdentity.of(fs.fstatSync(fd, { bigint: true }))
      opened.set(name, () => (isOpenOn(fd, identity) ? fd : undefined))
      return { fd, witness: new Witness({ name, ...identity }) }
    }),
    ({ fd }) => Effect.ignoreLogged(Effect.sync(() => fs.closeSync(fd)))
  ).pipe(Effect.map(({ witness }) => witness))

// Whether a descriptor is still that of the file.
const isOpenOn = (fd: number, identity: fileIdentity.FileIdentity): boolean => {
  try {
    return fileIdentity.isSame(identity, fs.fstatSync(fd, { bigint: true }))
  } catch {
    return false
  }
}

const lookAtLock = (file: string, witness: Witness): Probe => {
  const seen = kernelLock.look(file)
  switch (seen._tag) {
    case "Held":
      return { _tag: "Answered" }
    case "Free":
      return fileIdentity.isSame(witness, seen.stat)
        ? { _tag: "Refused", rule: "D3" }
        : { _tag: "Silent", reason: "it is not the file of the record" }
    case "Unclear":
      return { _tag: "Silent", reason: `its lock file gave ${seen.code}` }
  }
}

// A virus scanner, or an earlier version that looks, holds a lock for a moment as well.
const patiently = (look: () => Probe): Effect.Effect<Probe> =>
  Effect.gen(function* () {
    for (let looks = 1; ; looks++) {
      const seen = look()
      if (seen._tag !== "Answered" || looks === maxLooks) return seen
      yield* Effect.sleep(yield* Random.nextIntBetween(5, 20))
    }
  })
const maxLooks = 4

const knock = (socketPath: string): Effect.Effect<string> =>
  Effect.async<string>((resume) => {
    const socket = net.connect(socketPath)
    socket.once("connect", () => {
      socket.destroy()
      resume(Effect.succeed("connected"))
    })
    socket.once("error", (cause) => resume(Effect.succeed(errno.code(cause))))
    return Effect.sync(() => socket.on("error", () => {}).destroy())
  }).pipe(
    Effect.timeoutTo({ duration: probeMillis, onSuccess: (answer) => answer, onTimeout: () => "no answer in time" })
  )

// Sleeps, and keeps no process alive.
const idle = (millis: number): Effect.Effect<void> =>
  Effect.async((resume) => {
    const timer = setTimeout(() => resume(Effect.void), millis).unref()
    return Effect.sync(() => clearTimeout(timer))
  })

// Holds a connection until the other side closes it, or answers why there is none.
const hangUp = (socketPath: string): Effect.Effect<string> =>
  Effect.async<string>((resume) => {
    const socket = net.connect(socketPath)
    let ended = "UNKNOWN"
    socket.unref()
    socket.once("connect", () => {
      ended = "hung up"
      socket.resume()
    })
    socket.on("error", (cause) => {
      if (ended !== "hung up") ended = errno.code(cause)
    })
    socket.once("close", () => resume(Effect.succeed(ended)))
    return Effect.sync(() => socket.destroy())
  })

interface Watch {
  readonly begin: Effect.Effect<void>
  readonly changed: Effect.Effect<void>
  /** Says that something changed of which the system tells nothing. */
  readonly hint: () => void
}

// Opened at the first use, unless it has begun before, and closed with the directory; its events are no more than hints.
const watch = (directory: string): Effect.Effect<Watch, never, Scope.Scope> =>
  Effect.gen(function* () {
    let watcher: fs.FSWatcher | undefined
    let dirty = false
    let waiting: (() => void) | undefined
    const hint = () => {
      dirty = true
      waiting?.()
    }
    const open = () => {
      if (watcher !== undefined) return
      try {
        watcher = fs.watch(directory, { persistent: false }, hint)
        watcher.on("error", () => {})
      } catch {
        // Too many watches: the periodic check does without.
      }
    }
    yield* addFinalizer(() => Effect.sync(() => watcher?.close()))
    const changed = Effect.async<void>((resume) => {
      open()
      waiting = () => {
        waiting = undefined
        dirty = false
        resume(Effect.void)
      }
      if (dirty) waiting()
      return Effect.sync(() => {
        waiting = undefined
      })
    })
    return { begin: Effect.sync(open), changed, hint }
  })
