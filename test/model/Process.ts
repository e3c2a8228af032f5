/**
 * A simulated process: the real code on the services of the model, run up to the operation that it wants to do next.
 */
import { Cause, Effect, Exit, type Fiber, Random } from "effect"
import { globalValue } from "effect/GlobalValue"
import { Endpoint } from "effect-single-instance/Endpoint"
import { InstanceId } from "effect-single-instance/InstanceId"
import type { InstanceLock, Verdict } from "effect-single-instance/InstanceLock"
import { type LockDirectory, LockFiles } from "effect-single-instance/lock/LockFiles"
import { PidVerifier } from "effect-single-instance/PidVerifier"
import * as Model from "./ModelFiles.js"

/**
 * What a process runs, and what it does once it leads: `stays` for good, `releases`, or `works` (checks, publishes,
 * checks) and then releases. What happens to a witness happens to the one that it leads with: an outsider removes it and
 * the next check sees that (`loses`) or the process releases before that (`swept`), or somebody in the process closes its
 * handle when the work is done (`closed`).
 */
export interface Participant {
  readonly lock: Effect.Effect<InstanceLock["Type"], never, LockFiles | PidVerifier>
  readonly leads: "stays" | "releases" | "works" | "loses" | "swept" | "closed"
  /** It is a standby's first run. */
  readonly rehearses?: boolean
  /** Instead of contending it breaks the lock of the owner with this nonce. */
  readonly breaks?: string
  /** A sabotage of the file operations, for the canaries. */
  readonly wrap?: (directory: LockDirectory, port: Model.Port) => LockDirectory
}

/**
 * A process between two operations.
 */
export interface Actor {
  /** Tells this point of this process from any other that it can be at. */
  readonly number: number
  /** The operations that it waits for; more than one only where its code runs several fibers. */
  readonly parked: ReadonlyArray<Model.Operation>
  /** How it ended. */
  readonly end: string | undefined
  /** The nonce under which it takes itself for the primary. */
  readonly leading: string | undefined
  /** The process after the result of a parked operation. */
  readonly feed: (index: number, result: string) => Actor
}

const roots = globalValue(Symbol.for("effect/FiberScope/Global"), () => ({
  roots: new Set<Fiber.RuntimeFiber<unknown, unknown>>()
})).roots

const id = InstanceId.make("model")

/**
 * A process whose code really runs. To crash it is to forget it: nothing of it runs any more, no finalizer either.
 */
export class LiveActor implements Actor, Model.Port {
  readonly number = -1
  parked: Array<Model.Operation> = []
  private resumes: Array<(result: string) => void> = []
  private readonly tasks: Array<() => void> = []
  end: string | undefined
  leading: string | undefined
  retiring = false
  readonly closed = new Set<string>()
  readonly ended = new Set<string>()
  randoms = 0
  inodes = 0
  /** Who was found dead or alive before it listened, which it may remember. */
  readonly judged: Array<string> = []
  listened = false
  /** Where the script says that nothing of its past matters beyond this text. */
  checkpoint: string | undefined

  constructor(
    readonly index: number,
    readonly contents: Model.Contents,
    participant: Participant
  ) {
    const fiber = Effect.runFork(
      script(this, participant).pipe(
        Effect.provideService(LockFiles, Model.makeLockFiles(this, participant.wrap ?? ((directory) => directory))),
        Effect.provideService(PidVerifier, Model.makePidVerifier(this)),
        Effect.withClock(Model.makeClock(this)),
        Effect.withRandom(Random.fixed([7]))
      ),
      // Everything up to the next parked operation happens before `feed` returns.
      { scheduler: { shouldYield: () => false, scheduleTask: (task) => this.tasks.push(task) } }
    )
    fiber.addObserver((exit) => {
      this.end = Exit.isSuccess(exit) ? exit.value : `died: ${Cause.pretty(exit.cause)}`
    })
    // Abandoned fibers would otherwise be kept for ever.
    roots.delete(fiber)
    this.drain()
  }

  readonly perform = (operation: Model.Operation): Effect.Effect<string> =>
    Effect.async<string>((resume) => {
      const done = (result: string) => resume(Effect.succeed(result))
      this.parked.push(operation)
      this.resumes.push(done)
      return Effect.sync(() => {
        const index = this.resumes.indexOf(done)
        if (index >= 0) {
          this.parked.splice(index, 1)
          this.resumes.splice(index, 1)
        }
      })
    })

  feed(index: number, result: string): this {
    this.checkpoint = undefined
    const { _tag, ...about } = this.parked[index]!
    if (!this.listened && (_tag === "probe" || _tag === "verify")) this.judged.push(JSON.stringify([about, result]))
    const [resume] = this.resumes.splice(index, 1)
    this.parked.splice(index, 1)
    resume!(result)
    this.drain()
    return this
  }

  private drain(): void {
    for (let task = this.tasks.shift(); task !== undefined; task = this.tasks.shift()) task()
  }
}

const script = (port: LiveActor, participant: Participant) =>
  Effect.gen(function* () {
    const lock = yield* participant.lock
    if (participant.breaks !== undefined) {
      yield* lock.breakLock(id, participant.breaks)
      return "broke the lock"
    }
    const verdict: Verdict = yield* lock.contend({
      id,
      version: null,
      rehearse: participant.rehearses,
      listen: ({ nonce }) =>
        Effect.suspend(() => {
          port.listened = true
          port.checkpoint = `listens ${nonce} ${port.judged}`
          return Effect.as(Model.openEndpoint(port, nonce), [
            new Endpoint({ protocol: "model", address: `unix:s.${nonce}`, wire: [1, 1] })
          ])
        })
    })
    if (verdict._tag === "Following") return `following ${verdict.record.nonce}`
    if (verdict._tag !== "Leading") return `failed with verdict ${(verdict as Verdict)._tag}`
    port.leading = verdict.record.nonce
    port.checkpoint = `leads ${JSON.stringify([verdict.record, verdict.took, verdict.proof])}`
    yield* port.perform({ _tag: "lead", stays: participant.leads === "stays" })
    if (participant.leads === "works") {
      yield* verdict.check
      yield* verdict.publish([])
      yield* verdict.check
    }
    const witness = verdict.record.witness!
    if (participant.leads === "loses" || participant.leads === "swept") {
      yield* port.perform({ _tag: "unlink", name: witness.name })
    }
    if (participant.leads === "loses") {
      yield* Effect.catchAll(verdict.check, () => Effect.void)
    }
    port.leading = undefined
    if (participant.leads === "loses" || participant.leads === "swept" || participant.leads === "closed") {
      yield* port.perform({ _tag: "stop" })
    }
    if (participant.leads === "closed") {
      port.closed.add(witness.name)
      yield* port.perform({ _tag: "close", ...witness })
    }
    port.retiring = true
    return "released"
  }).pipe(
    Effect.scoped,
    Effect.catchAll((error) => {
      port.leading = undefined
      return Effect.succeed(`failed ${"reason" in error ? error.reason : error}`)
    })
  )

/**
 * The same process as a table that the real code fills in: a process is a function of the results of its operations,
 * so its code runs once for every history, and a search can go back to any point without running it again. Histories
 * that lead to the same end, or to the same checkpoint of the script, are one point.
 */
export class Automaton {
  count = 0
  readonly start: Point
  private readonly checkpoints = new Map<string, Point>()

  constructor(readonly spawn: () => LiveActor) {
    this.start = new Point(this, undefined, 0, "", spawn())
  }

  point(before: Point, index: number, result: string, live: LiveActor): Point {
    const { checkpoint, end, inodes, randoms } = live
    const key = end ?? (checkpoint === undefined ? undefined : `${checkpoint} ${inodes} ${randoms}`)
    const same = key === undefined ? undefined : this.checkpoints.get(key)
    if (same !== undefined) return same
    const point = new Point(this, before, index, result, live)
    if (key !== undefined) this.checkpoints.set(key, point)
    return point
  }
}

export class Point implements Actor {
  readonly number: number
  readonly parked: ReadonlyArray<Model.Operation>
  readonly end: string | undefined
  readonly leading: string | undefined
  private readonly next = new Map<string, Point>()

  constructor(
    private readonly automaton: Automaton,
    private readonly before: Point | undefined,
    private readonly index: number,
    private readonly result: string,
    private live: LiveActor | undefined
  ) {
    this.number = ++automaton.count
    this.parked = [...live!.parked]
    this.end = live!.end
    this.leading = live!.leading
    if (this.end !== undefined) this.live = undefined
  }

  /** The point after this result, if the code was ever there. */
  known(index: number, result: string): Point | undefined {
    return this.next.get(`${index} ${result}`)
  }

  feed(index: number, result: string): Point {
    let point = this.known(index, result)
    if (point === undefined) {
      const live = this.live ?? this.run()
      this.live = undefined
      point = this.automaton.point(this, index, result, live.feed(index, result))
      this.next.set(`${index} ${result}`, point)
    }
    return point
  }

  // Brings a new process to this point.
  private run(): LiveActor {
    const path: Array<Point> = []
    for (let point: Point = this; point.before !== undefined; point = point.before) path.push(point)
    let live = this.automaton.spawn()
    for (const point of path.reverse()) live = live.feed(point.index, point.result)
    return live
  }
}

/**
 * A process whose code really runs, next to its table: they must want the same operation.
 */
export class CheckedActor implements Actor {
  constructor(
    private readonly live: LiveActor,
    private point: Point | undefined
  ) {}

  get number(): number {
    return this.point?.number ?? -1
  }

  get parked(): ReadonlyArray<Model.Operation> {
    return this.live.parked
  }

  get end(): string | undefined {
    return this.live.end
  }

  get leading(): string | undefined {
    return this.live.leading
  }

  feed(index: number, result: string): this {
    this.live.feed(index, result)
    this.point = this.point?.known(index, result)
    if (this.point !== undefined && JSON.stringify(this.point.parked) !== JSON.stringify(this.live.parked)) {
      throw new Error(
        `process ${this.live.index} is no function of its results: ` +
          `${JSON.stringify(this.point.parked)} before, ${JSON.stringify(this.live.parked)} now`
      )
    }
    return this
  }
}
