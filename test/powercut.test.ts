/**
 * The power is cut after any file operation of an election, a new endpoint or a release. What the disk has then is what
 * was synchronised, and any part of the rest: file by file, name by name. The next boot must find a lock that it can take.
 */
import fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import * as net from "node:net"
import { basename, dirname, join } from "node:path"
import { assert, describe } from "@effect/vitest"
import { Context, Effect, Either, Exit, Layer, Scope } from "effect"
import { folderName, InstanceId } from "effect-single-instance/InstanceId"
import { InstanceLock } from "effect-single-instance/InstanceLock"
import * as InstanceRecord from "effect-single-instance/InstanceRecord"
import * as FileLock from "effect-single-instance/lock/FileLock"
import * as NodeLockFiles from "effect-single-instance/lock/NodeLockFiles"
import * as TestPidVerifier from "effect-single-instance/pid/TestPidVerifier"
import * as SingleInstanceConfig from "effect-single-instance/SingleInstanceConfig"
import { failing, itNeeds, needs } from "./contenders.js"
import { temporary } from "./contract/Protocol.js"
import { randomOf, reported, scaled } from "./stress.js"

const id = InstanceId.make("power")
const folder = folderName(id)
const imagesPerCut = scaled(6, 600)

// -------------------------------------------------------------------------------------
// what is on the disk, and what only seems to be
// -------------------------------------------------------------------------------------

/** A file's content, and what of it has reached the disk for certain. */
interface File {
  readonly content: Buffer
  readonly synced: boolean
}
type Names = ReadonlyMap<string, number>
/** What is done to names, which no operation of the lock waits for. */
type Change =
  | { readonly _tag: "Set"; readonly name: string; readonly inode: number; readonly from?: string | undefined }
  | { readonly _tag: "Removed"; readonly name: string }
/** The directory of an instance as the processes see it, after so many operations. */
interface Moment {
  readonly durable: Names
  readonly changes: ReadonlyArray<Change>
  readonly files: ReadonlyMap<number, File>
  readonly sockets: ReadonlyArray<string>
  readonly operation: string
}
/** What the next boot finds. */
interface Image {
  readonly files: ReadonlyMap<string, Buffer>
  readonly sockets: ReadonlyArray<string>
}

const changed = (names: Names, change: Change): Names => {
  const after = new Map(names)
  if (change._tag === "Removed") {
    after.delete(change.name)
  } else {
    after.set(change.name, change.inode)
    if (change.from !== undefined && after.get(change.from) === change.inode) after.delete(change.from)
  }
  return after
}

/** An image with the changes that are chosen; of a file that was not synchronised there is what `part` leaves. */
const imageOf = (moment: Moment, has: (index: number) => boolean, part: () => number): Image => {
  const names = moment.changes.reduce(
    (names, change, index) => (has(index) ? changed(names, change) : names),
    moment.durable
  )
  return {
    files: new Map(
      [...names].map(([name, inode]) => {
        const { content, synced } = moment.files.get(inode)!
        return [name, synced ? content : content.subarray(0, part() * content.length)]
      })
    ),
    sockets: moment.sockets
  }
}

/** All that reached the disk. */
const whole = (moment: Moment): Image =>
  imageOf(
    moment,
    () => true,
    () => 1
  )

/** What may be on the disk after a cut: all there can be, or so many of them that chance chooses. */
const imagesOf = (moment: Moment, random: () => number): ReadonlyArray<Image> => {
  const { length } = moment.changes
  const part = () => Math.floor(random() * 3) / 2
  if (2 ** length <= imagesPerCut) {
    return Array.from({ length: 2 ** length }, (_, set) => imageOf(moment, (index) => ((set >> index) & 1) === 1, part))
  }
  return Array.from({ length: imagesPerCut }, () => {
    // The older a change, the likelier it was written back in the meantime.
    const written = Math.floor(random() * (length + 1))
    const lost = new Set(
      Array.from({ length }, (_, index) => index).filter((index) => index >= written && random() < 0.5)
    )
    return imageOf(moment, (index) => !lost.has(index), part)
  })
}

// -------------------------------------------------------------------------------------
// the system calls of the lock, as they are made
// -------------------------------------------------------------------------------------

/** Notes what is done to the files of a folder while an effect runs, after each of the operations. */
const recording = <A, E, R>(
  place: string,
  effect: Effect.Effect<A, E, R>,
  options: { readonly forgetsFsync: boolean }
): Effect.Effect<ReadonlyArray<Moment>, E, R> =>
  Effect.suspend(() => {
    const original = { ...fs }
    const files = new Map<number, File>()
    const descriptors = new Map<number, number>()
    const changes: Array<Change> = []
    const moments: Array<Moment> = []
    const isSocket = (name: string) => original.lstatSync(join(place, name)).isSocket()
    let names: Names = new Map(
      original
        .readdirSync(place)
        .filter((name) => !isSocket(name))
        .map((name, inode) => {
          files.set(inode, { content: original.readFileSync(join(place, name)), synced: true })
          return [name, inode]
        })
    )
    const durable = names
    const note = (operation: string, ...made: ReadonlyArray<Change>) => {
      for (const change of made) names = changed(names, change)
      changes.push(...made)
      const sockets = original.readdirSync(place).filter(isSocket)
      moments.push({ durable, changes: [...changes], files: new Map(files), sockets, operation })
    }
    const isHere = (path: unknown): path is string => typeof path === "string" && dirname(path) === place
    note("nothing")
    const watching: Partial<typeof fs> = {
      openSync: (path: fs.PathLike, flags: number, mode?: fs.Mode | null) => {
        const fd = original.openSync(path, flags, mode)
        if (isHere(path) && (flags & fs.constants.O_CREAT) !== 0) {
          const inode = files.size
          files.set(inode, { content: Buffer.alloc(0), synced: false })
          descriptors.set(fd, inode)
          note(`create ${basename(path)}`, { _tag: "Set", name: basename(path), inode })
        }
        return fd
      },
      writeSync: (fd: number, bytes: Uint8Array, offset: number) => {
        const written = original.writeSync(fd, bytes, offset)
        const inode = descriptors.get(fd)
        if (inode !== undefined) {
          const content = Buffer.concat([files.get(inode)!.content, bytes.subarray(offset, offset + written)])
          files.set(inode, { content, synced: false })
          note("write")
        }
        return written
      },
      fsyncSync: (fd: number) => {
        const inode = descriptors.get(fd)
        if (inode === undefined || !options.forgetsFsync) original.fsyncSync(fd)
        if (inode === undefined || options.forgetsFsync) return
        files.set(inode, { ...files.get(inode)!, synced: true })
        note("fsync")
      },
      closeSync: (fd: number) => {
        descriptors.delete(fd)
        original.closeSync(fd)
      },
      linkSync: (from: string, to: string) => {
        original.linkSync(from, to)
        if (!isHere(to)) return
        note(`link ${basename(to)}`, { _tag: "Set", name: basename(to), inode: names.get(basename(from))! })
      },
      renameSync: (from: string, to: string) => {
        original.renameSync(from, to)
        // What becomes of the name of a socket is seen in the folder.
        if (!isHere(to) || isSocket(basename(to))) return
        const inode = names.get(basename(from))!
        note(`rename to ${basename(to)}`, { _tag: "Set", name: basename(to), inode, from: basename(from) })
      },
      unlinkSync: (path: string) => {
        original.unlinkSync(path)
        if (isHere(path) && names.has(basename(path))) {
          note(`unlink ${basename(path)}`, { _tag: "Removed", name: basename(path) })
        }
      }
    } as any
    const replace = (calls: Partial<typeof fs>) =>
      Effect.sync(() => {
        for (const name of Object.keys(watching) as Array<keyof typeof fs>) Object.assign(fs, { [name]: calls[name] })
        syncBuiltinESMExports()
      })
    return Effect.acquireUseRelease(
      replace(watching),
      () => Effect.as(effect, moments),
      () => replace(original)
    )
  })

// -------------------------------------------------------------------------------------
// one life after the other
// -------------------------------------------------------------------------------------

/** Puts an image where a process finds it; answers the option `directory`. */
const materialise = ({ files, sockets }: Image) =>
  Effect.gen(function* () {
    const directory = yield* temporary
    const place = join(directory, folder)
    fs.mkdirSync(place, { mode: 0o700 })
    for (const [name, bytes] of files) fs.writeFileSync(join(place, name), bytes, { mode: 0o600 })
    if (sockets.length > 0) {
      // Its name stays, and nobody listens, as after a restart.
      const [bound, dead] = [join(directory, "bound"), join(directory, "dead")]
      const server = net.createServer()
      yield* Effect.async<void>((resume) => void server.listen(bound, () => resume(Effect.void)))
      fs.linkSync(bound, dead)
      yield* Effect.async<void>((resume) => void server.close(() => resume(Effect.void)))
      for (const name of sockets) fs.linkSync(dead, join(place, name))
    }
    return { directory, place }
  })

const lockOf = (process: TestPidVerifier.TestProcess, directory: string) =>
  Effect.map(
    Layer.build(
      FileLock.layer.pipe(
        Layer.provide(NodeLockFiles.layer),
        Layer.provide(Layer.merge(TestPidVerifier.layer(process), SingleInstanceConfig.layer({ directory })))
      )
    ),
    (context) => Context.get(context, InstanceLock)
  )

/** Leads at once, or dies of what it was told. */
const lead = (lock: InstanceLock["Type"]) =>
  lock.contend({ id, version: null, listen: () => Effect.succeed([]) }).pipe(
    Effect.catchAll(({ message, reason }) => Effect.dieMessage(`${reason}: ${message}`)),
    Effect.flatMap((verdict) =>
      verdict._tag === "Leading" ? Effect.succeed(verdict) : Effect.dieMessage(`it follows: ${verdict.evidence}`)
    )
  )

/** A life from an image: it leads, tells of another endpoint, releases; what the disk may have at each moment. */
const lifeFrom = (table: TestPidVerifier.ProcessTable, start: Image, options: { readonly forgetsFsync: boolean }) =>
  Effect.gen(function* () {
    const { directory, place } = yield* materialise(start)
    const process = yield* table.spawn()
    const lock = yield* lockOf(process, directory)
    const life = Effect.gen(function* () {
      const own = yield* Scope.make()
      const leading = yield* Scope.extend(lead(lock), own)
      yield* Effect.orDie(leading.publish([{ protocol: "unix", address: "unix:s", wire: [1, 1] }]))
      yield* Scope.close(own, Exit.void)
    })
    const moments = yield* recording(place, life, options)
    yield* process.crash
    return moments
  }).pipe(Effect.scoped)

/** The next boot finds this: it must lead at once, without a person's help, and be able to release. */
const survive = (table: TestPidVerifier.ProcessTable, image: Image) =>
  Effect.gen(function* () {
    const { directory, place } = yield* materialise(image)
    const lock = yield* lockOf(yield* table.spawn(), directory)
    const read = () => Either.getOrThrow(InstanceRecord.decode(fs.readFileSync(join(place, "lock"))))
    const seen = image.files.get("lock")
    const before = seen === undefined ? undefined : Either.getOrUndefined(InstanceRecord.decode(seen))
    const { record, took } = yield* Effect.scoped(
      Effect.tap(lead(lock), ({ record }) => assert.strictEqual(read().nonce, record.nonce))
    )
    assert.strictEqual(took, before === undefined ? "free" : before.released ? "released" : "dead")
    if (before !== undefined) assert.isAbove(record.epoch, before.epoch)
    assert.isTrue(read().released)
    return took
  }).pipe(Effect.scoped)

/** What a process that died there left, with all its changes on the disk. */
const leftAt = (moments: ReadonlyArray<Moment>, at: number): Image => whole(moments.at(at)!)

/** A life from every start there is, cut off at each of its moments; answers how many cuts and images there were. */
const cuts = (name: string, options: { readonly forgetsFsync: boolean }) =>
  Effect.gen(function* () {
    const random = randomOf(name)
    const table = yield* TestPidVerifier.makeTable
    const live = (image: Image) => lifeFrom(table, image, options)
    const first = yield* live({ files: new Map(), sockets: [] })
    const remains = leftAt(first, first.findLastIndex(({ operation }) => operation.startsWith("create")) - 1)
    const second = yield* live(remains)
    const lives = [
      first,
      second,
      // A taker died with the slot in hand.
      yield* live(leftAt(second, second.findIndex(({ operation }) => operation === "rename to lock") - 1)),
      yield* live(leftAt(second, -1))
    ]
    yield* table.reboot()
    const moments = lives.flat()
    const took = new Map<string, number>()
    for (const moment of moments) {
      for (const image of imagesOf(moment, random)) {
        const how = yield* survive(table, image).pipe(
          Effect.catchAllDefect((cause) => Effect.dieMessage(`cut behind "${moment.operation}": ${cause}`))
        )
        took.set(how, (took.get(how) ?? 0) + 1)
      }
    }
    const images = [...took.values()].reduce((sum, count) => sum + count, 0)
    return { moments, took, text: `${moments.length} cuts in ${lives.length} lives, ${images} states of the disk` }
  })

describe("after a power cut", () => {
  itNeeds(needs.linux)(
    "behind any operation of the lock, whatever of it was lost, the next start leads at once @large",
    () =>
      reported(
        {
          area: "9",
          test: "power cut",
          faults: "any set of file names, and of bytes that were not synchronised, is lost"
        },
        Effect.gen(function* () {
          const { moments, text, took } = yield* cuts("power cut", { forgetsFsync: false })
          // What was looked for was there to be found.
          assert.isTrue(moments.some(({ files }) => [...files.values()].some(({ synced }) => !synced)))
          assert.hasAllKeys(took, ["free", "released", "dead"])
          return text
        })
      ),
    600_000
  )
})

describe("the canary", () => {
  itNeeds(needs.linux)("a record that is not synchronised before it gets its name is found torn", () =>
    Effect.map(failing(cuts("canary", { forgetsFsync: true })), (why) => assert.include(why, "RecordUnreadable"))
  )
})
