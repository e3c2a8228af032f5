/**
 * A process table in memory: processes that crash, freeze and are taken for others, without any process.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberId from "effect/FiberId"
import * as Layer from "effect/Layer"
import { ProcessIdentity } from "../InstanceRecord.js"
import { absent, judgeWhere, makeVerifier, type Sighting } from "../internal/processes.js"
import { dead } from "../Liveness.js"
import { PidVerifier } from "../PidVerifier.js"

/**
 * What a simulated process does: it runs, stands still (SIGSTOP, a blocked event loop), is dead but not yet reaped, or is
 * gone.
 *
 * @since 0.1.0
 * @category models
 */
export type State = "running" | "frozen" | "zombie" | "gone"

/**
 * Where a process is spawned. A machine has one boot at a time; `boot` puts the process under another kernel run, or
 * processes of different machine ids under one (containers). Without `pid` the next free one is taken.
 *
 * @since 0.1.0
 * @category models
 */
export interface SpawnOptions {
  readonly pid?: number | undefined
  readonly machine?: string | undefined
  readonly boot?: string | undefined
  readonly pidNamespace?: string | undefined
  readonly timeNamespace?: string | undefined
}

/**
 * A simulated process. What was done to it takes effect at once; what cannot be done to a process in its state (thawing a
 * dead one) does nothing.
 *
 * @since 0.1.0
 * @category models
 */
export interface TestProcess {
  readonly identity: ProcessIdentity
  /** What this process sees of the others. */
  readonly verifier: PidVerifier["Type"]
  readonly state: Effect.Effect<State>
  /** Neither gone nor a zombie; a frozen process is alive. */
  readonly isAlive: Effect.Effect<boolean>
  readonly isFrozen: Effect.Effect<boolean>
  /** Ends the process, as SIGKILL and an exit do. Its pid is free. */
  readonly crash: Effect.Effect<void>
  readonly freeze: Effect.Effect<void>
  /** Lets a frozen process go on; a SIGTERM that came meanwhile ends it. */
  readonly thaw: Effect.Effect<void>
  /** Ends the process and leaves its pid taken until it crashes, that is, until it is reaped. */
  readonly becomeZombie: Effect.Effect<void>
  /** Ends the process and gives its pid to an unrelated one, which is returned. */
  readonly reincarnate: Effect.Effect<TestProcess>
  /** Completes when the process is dead, a zombie included. */
  readonly awaitDeath: Effect.Effect<void>
  /** Completes at once while the process runs, and else when it is thawed; never, once it is dead. */
  readonly awaitRunning: Effect.Effect<void>
}

/**
 * The processes of one test, on as many machines as it likes. Deterministic: pids are counted up from 1000, starts and
 * boots from 1.
 *
 * @since 0.1.0
 * @category models
 */
export interface ProcessTable {
  /** A new process. Dies (a defect) where the pid that was asked for is taken. */
  readonly spawn: (options?: SpawnOptions) => Effect.Effect<TestProcess>
  /** Ends every process of the machine's present boot, and gives the machine a new boot id. */
  readonly reboot: (machine?: string) => Effect.Effect<void>
  /** The processes that are not gone, in the order in which they were spawned. */
  readonly processes: Effect.Effect<ReadonlyArray<TestProcess>>
}

/**
 * An empty process table.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as TestPidVerifier from "effect-single-instance/pid/TestPidVerifier"
 *
 * const program = Effect.gen(function* () {
 *   const table = yield* TestPidVerifier.makeTable
 *   const primary = yield* table.spawn()
 *   const secondary = yield* table.spawn()
 *   yield* primary.crash
 *   return yield* secondary.verifier.verify(primary.identity, { local: true }) // Dead, D1
 * })
 * ```
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeTable: Effect.Effect<ProcessTable> = Effect.sync(() => {
  // Those that are not gone; the pid is taken under one boot and in one namespace.
  const cells = new Map<string, Cell>()
  const boots = new Map<string, string>()
  let [lastBoot, lastStart, lastPid] = [0, 0, 999]

  const newBoot = (machine: string): string => {
    const boot = `boot-${++lastBoot}`
    boots.set(machine, boot)
    return boot
  }

  const end = (cell: Cell, state: "zombie" | "gone"): void => {
    if (cell.state === "gone") return
    cell.state = state
    if (state === "gone") cells.delete(keyOf(cell.process.identity))
    Deferred.unsafeDone(cell.death, Effect.void)
  }

  const look = (at: Pick<ProcessIdentity, "boot" | "pidNamespace" | "timeNamespace" | "pid">): Sighting => {
    const cell = cells.get(keyOf(at))
    if (cell === undefined) return absent(at.pid)
    if (cell.state === "zombie") return dead("D1", `the process with the pid ${at.pid} is a zombie`)
    // As with /proc, the reader's time namespace is the one in which a start is told.
    return { _tag: "Process", start: cell.process.identity.start, timeNamespace: at.timeNamespace }
  }

  const kill = (cell: Cell | undefined, signal: "SIGTERM" | "SIGKILL"): boolean => {
    if (cell === undefined) return false
    // A stopped process gets SIGTERM when it goes on.
    if (signal === "SIGTERM" && cell.state === "frozen") cell.terminating = true
    else end(cell, "gone")
    return true
  }

  const spawn = (options?: SpawnOptions): TestProcess => {
    const machine = options?.machine ?? defaultMachine
    const place = {
      boot: options?.boot ?? boots.get(machine) ?? newBoot(machine),
      pidNamespace: options?.pidNamespace ?? "pid-1",
      timeNamespace: options?.timeNamespace ?? "time-1",
      machine
    }
    let pid = options?.pid
    if (pid === undefined) {
      do pid = ++lastPid
      while (cells.has(keyOf({ ...place, pid })))
    } else if (cells.has(keyOf({ ...place, pid }))) {
      throw new Error(`TestPidVerifier: the pid ${pid} is taken`)
    }
    const identity = new ProcessIdentity({ ...place, pid, start: String(++lastStart) })
    const death = Deferred.unsafeMake<void>(FiberId.none)
    const cell: Cell = {
      state: "running",
      terminating: false,
      death,
      thawed: Deferred.unsafeMake(FiberId.none),
      process: {
        identity,
        verifier: makeVerifier({
          pid: identity.pid,
          self: Effect.succeed(identity),
          where: (recorded, options) => Effect.sync(() => judgeWhere(recorded, identity, options)),
          look: (pid) => Effect.sync(() => look({ ...place, pid })),
          send: (pid, signal) => kill(cells.get(keyOf({ ...place, pid })), signal)
        }),
        state: Effect.sync(() => cell.state),
        isAlive: Effect.sync(() => isAlive(cell)),
        isFrozen: Effect.sync(() => cell.state === "frozen"),
        crash: Effect.sync(() => end(cell, "gone")),
        freeze: Effect.sync(() => {
          if (cell.state !== "running") return
          cell.state = "frozen"
          cell.thawed = Deferred.unsafeMake(FiberId.none)
        }),
        thaw: Effect.sync(() => {
          if (cell.state !== "frozen") return
          if (cell.terminating) return end(cell, "gone")
          cell.state = "running"
          Deferred.unsafeDone(cell.thawed, Effect.void)
        }),
        becomeZombie: Effect.sync(() => end(cell, "zombie")),
        reincarnate: Effect.sync(() => {
          end(cell, "gone")
          return spawn({ ...place, pid: identity.pid })
        }),
        awaitDeath: Deferred.await(death),
        awaitRunning: Effect.suspend(() =>
          cell.state === "running" ? Effect.void : isAlive(cell) ? Deferred.await(cell.thawed) : Effect.never
        )
      }
    }
    cells.set(keyOf(identity), cell)
    return cell.process
  }

  return {
    spawn: (options) => Effect.sync(() => spawn(options)),
    reboot: (machine = defaultMachine) =>
      Effect.sync(() => {
        const boot = boots.get(machine)
        for (const cell of [...cells.values()]) {
          if (cell.process.identity.boot === boot) end(cell, "gone")
        }
        newBoot(machine)
      }),
    processes: Effect.sync(() => Array.from(cells.values(), (cell) => cell.process))
  }
})

/**
 * The verifier of this process.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (process: TestProcess): Layer.Layer<PidVerifier> => Layer.succeed(PidVerifier, process.verifier)

/**
 * The verifier of a process of its own, which is spawned when the layer is built and ends with its scope. Two builds are
 * two processes.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerTable = (table: ProcessTable, options?: SpawnOptions): Layer.Layer<PidVerifier> =>
  Layer.scoped(
    PidVerifier,
    Effect.map(
      Effect.acquireRelease(table.spawn(options), (process) => process.crash),
      (process) => process.verifier
    )
  )

// -------------------------------------------------------------------------------------
// internals
// -------------------------------------------------------------------------------------

const defaultMachine = "machine"

interface Cell {
  state: State
  terminating: boolean
  thawed: Deferred.Deferred<void>
  readonly death: Deferred.Deferred<void>
  readonly process: TestProcess
}

const keyOf = (at: Pick<ProcessIdentity, "boot" | "pidNamespace" | "pid">): string =>
  JSON.stringify([at.boot, at.pidNamespace, at.pid])

const isAlive = (cell: Cell): boolean => cell.state === "running" || cell.state === "frozen"
