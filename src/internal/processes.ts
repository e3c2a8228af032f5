/**
 * What the verifiers of the platforms have in common.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { ProcessIdentity } from "../InstanceRecord.js"
import { alive, dead, type Liveness, unknown } from "../Liveness.js"
import { IdentityUnavailable, type PidVerifier } from "../PidVerifier.js"
import * as errno from "./errno.js"

/**
 * What signal 0 says about a pid: `refused` is `EPERM`, so that some process has it; `none` is `ESRCH`; `unsure` is
 * anything else.
 *
 * @since 0.1.0
 * @category models
 */
export type Presence = "exists" | "refused" | "none" | "unsure"

/**
 * Sends signal 0. Never throws, never asks about a group.
 *
 * @since 0.1.0
 * @category getters
 */
export const presence = (pid: number): Presence => {
  if (!Number.isSafeInteger(pid) || pid < 1) return "unsure"
  // Such a pid is given out by no kernel (`pid_t` is an `int`) and known to no Node, whose own pid is an `int` on Windows,
  // too; `process.kill` throws a type error.
  if (pid > 0x7fffffff) return "none"
  try {
    process.kill(pid, 0)
    return "exists"
  } catch (error) {
    const code = errno.code(error)
    return code === "ESRCH" ? "none" : code === "EPERM" ? "refused" : "unsure"
  }
}

// A pid below 1 would mean a group of processes.
const sendSignal = (pid: number, signal: "SIGTERM" | "SIGKILL"): boolean => {
  if (!Number.isSafeInteger(pid) || pid < 1) return false
  try {
    return process.kill(pid, signal)
  } catch {
    return false
  }
}

/**
 * The verdict about a pid that nobody has.
 *
 * @since 0.1.0
 * @category constructors
 */
export const absent = (pid: number): Liveness => dead("D1", `no process has the pid ${pid}`)

/**
 * The verdict about a process whose data cannot be had, after what signal 0 said about its pid.
 *
 * @since 0.1.0
 * @category constructors
 */
export const unreadable = (pid: number, seen: Presence, reason: string): Liveness =>
  seen === "refused" ? alive(`the pid ${pid} belongs to a process of another user (EPERM)`) : unknown(reason)

/**
 * What boot ids and namespaces alone decide; `undefined` where the recorded pid means the same process table as ours, so
 * that a look at the process is worth something.
 *
 * @since 0.1.0
 * @category guards
 */
export const judgeWhere = (
  recorded: ProcessIdentity,
  self: Pick<ProcessIdentity, "boot" | "pidNamespace" | "machine">,
  options: { readonly local: boolean }
): Liveness | undefined => {
  const otherHost = recorded.machine !== null && self.machine !== null && recorded.machine !== self.machine
  if (recorded.boot === null) return unknown("the record does not say under which boot it was written", { otherHost })
  if (self.boot === null) return unknown("this system does not tell its boot id", { otherHost })
  if (recorded.boot !== self.boot) {
    if (otherHost) return unknown("it was recorded on another machine", { otherHost })
    if (recorded.machine === null || self.machine === null) {
      return unknown("it was recorded under another boot id, and whether on this machine cannot be told")
    }
    return options.local
      ? dead("D4", `this machine was started anew since (boot ${recorded.boot}, now ${self.boot})`)
      : unknown("it was recorded under another boot id, on a file system that other machines may share")
  }
  if (self.pidNamespace === null || recorded.pidNamespace === null) {
    return unknown("whether its pid counts in the pid namespace of this process cannot be told")
  }
  if (recorded.pidNamespace !== self.pidNamespace) {
    return unknown(`its pid counts in another pid namespace (${recorded.pidNamespace}, here ${self.pidNamespace})`)
  }
  return undefined
}

/**
 * What a look at a pid showed: a verdict where nothing more can be known, or a process and when it was started. Starts
 * are comparable only where `timeNamespace` is the same.
 *
 * @since 0.1.0
 * @category models
 */
export type Sighting =
  | Liveness
  | { readonly _tag: "Process"; readonly start: string | null; readonly timeNamespace: string | null }

/**
 * Whether the process that has the recorded pid now is the recorded one.
 *
 * @since 0.1.0
 * @category guards
 */
export const judgeStart = (
  recorded: ProcessIdentity,
  { start, timeNamespace }: { readonly start: string | null; readonly timeNamespace: string | null }
): Liveness => {
  const unclear = (why: string) => unknown(`a process has the pid ${recorded.pid}, but ${why}`)
  if (recorded.start === null) return unclear("the record does not say when its own was started")
  if (start === null) return unclear("when it was started cannot be told")
  if (timeNamespace === null || recorded.timeNamespace !== timeNamespace) {
    return unclear("its start and the recorded one are not told by the same clock")
  }
  return recorded.start === start
    ? alive(`the process ${recorded.pid} that was started at ${start} runs`)
    : dead("D1", `the pid ${recorded.pid} now belongs to another process (start ${start}, recorded ${recorded.start})`)
}

/**
 * A verifier from its parts: who we are, whether the recorded pid counts here, and a look at a pid.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeVerifier = (parts: {
  readonly pid?: number | undefined
  readonly self: Effect.Effect<ProcessIdentity, IdentityUnavailable>
  readonly where: (
    recorded: ProcessIdentity,
    options: { readonly local: boolean }
  ) => Effect.Effect<Liveness | undefined, IdentityUnavailable>
  readonly look: (pid: number) => Effect.Effect<Sighting, IdentityUnavailable>
  readonly judge?: typeof judgeStart | undefined
  readonly send?: typeof sendSignal | undefined
}): PidVerifier["Type"] => {
  const { judge = judgeStart, look, pid = process.pid, self, send = sendSignal, where } = parts
  const sight = (recorded: ProcessIdentity, options: { readonly local: boolean }): Effect.Effect<Sighting> =>
    Effect.flatMap(where(recorded, options), (verdict) =>
      verdict === undefined ? look(recorded.pid) : Effect.succeed(verdict)
    ).pipe(Effect.catchAll((error) => Effect.succeed(unknown(error.message))))
  return {
    pid,
    self,
    verify: (recorded, options) =>
      Effect.map(sight(recorded, options), (seen) => (seen._tag === "Process" ? judge(recorded, seen) : seen)),
    // Of the verdicts only a start that was compared will do: a pid that answers EPERM lives, but may be anybody's.
    signal: (recorded, signal) =>
      Effect.map(
        sight(recorded, { local: false }),
        (seen) => seen._tag === "Process" && judge(recorded, seen)._tag === "Alive" && send(recorded.pid, signal)
      )
  }
}

/**
 * The failure of a file or program that was asked for a part of the identity, if it may pass; else `undefined`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const unavailable = (source: string, cause: unknown): IdentityUnavailable | undefined => {
  // The platform wraps the error of the system call.
  const inner = [cause, typeof cause === "object" && cause !== null && "cause" in cause ? cause.cause : undefined]
  const passing = inner.find(errno.isPassing)
  return passing === undefined ? undefined : new IdentityUnavailable({ code: errno.code(passing), source, cause })
}

/**
 * Tries a few times within a tenth of a second: descriptors are often short only for a moment.
 *
 * @since 0.1.0
 * @category combinators
 */
export const persistently: <A>(effect: Effect.Effect<A, IdentityUnavailable>) => Effect.Effect<A, IdentityUnavailable> =
  Effect.retry({ times: 4, schedule: Schedule.spaced("25 millis") })

/**
 * Computes a value when it is first asked for, and once; one that `keep` rejects is computed anew, and so is one that could
 * not be had. Unlike with `Effect.cached`, an asker that is interrupted meanwhile does not leave its interruption to all
 * later ones.
 *
 * @since 0.1.0
 * @category combinators
 */
export const once = <A, E>(
  effect: Effect.Effect<A, E>,
  keep: (value: A) => boolean = () => true
): Effect.Effect<A, E> => {
  let known: { readonly value: A } | undefined
  const turn = Effect.unsafeMakeSemaphore(1)
  const get = Effect.suspend(() =>
    known !== undefined
      ? Effect.succeed(known.value)
      : Effect.tap(effect, (value) => {
          if (keep(value)) known = { value }
        })
  )
  return Effect.suspend(() => (known !== undefined ? Effect.succeed(known.value) : turn.withPermits(1)(get)))
}

/**
 * Whether a value is there.
 *
 * @since 0.1.0
 * @category guards
 */
export const isKnown = (value: unknown): boolean => value !== null
