/**
 * Processes as Windows PowerShell shows them.
 *
 * @since 0.1.0
 */
import { hostname } from "node:os"
import * as Command from "@effect/platform/Command"
import * as CommandExecutor from "@effect/platform/CommandExecutor"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ProcessIdentity } from "../InstanceRecord.js"
import { commandOutput } from "../internal/commandOutput.js"
import {
  absent,
  isKnown,
  judgeStart,
  makeVerifier,
  once,
  persistently,
  presence,
  type Sighting,
  unreadable
} from "../internal/processes.js"
import { type Liveness, unknown } from "../Liveness.js"
import { type IdentityUnavailable, PidVerifier } from "../PidVerifier.js"

/**
 * What the query of a process answered. `start` is a file time, in units of 100 ns since 1601; `source` says who told it,
 * as CIM cuts it to microseconds and `Get-Process` does not.
 *
 * @since 0.1.0
 * @category models
 */
export type Query =
  | { readonly _tag: "None" }
  | { readonly _tag: "Started"; readonly source: "cim" | "process"; readonly start: string }

/**
 * The PowerShell script that tells when a process was started: `none`, `cim <file time>`, `process <file time>` or
 * `unknown`. `Get-Process` is asked where CIM is missing or broken.
 *
 * @since 0.1.0
 * @category queries
 */
export const queryScript = (pid: number): string =>
  [
    "$ErrorActionPreference = 'Stop'",
    "$ProgressPreference = 'SilentlyContinue'",
    `try { $p = Get-CimInstance -ClassName Win32_Process -Filter 'ProcessId=${Math.trunc(pid)}'; ` +
      "if ($null -eq $p) { 'none' } else { 'cim ' + $p.CreationDate.ToFileTimeUtc() } }",
    `catch { try { 'process ' + (Get-Process -Id ${Math.trunc(pid)}).StartTime.ToFileTimeUtc() } catch { 'unknown' } }`
  ].join("\n")

/**
 * Reads the answer of `queryScript`; `null` where it tells nothing.
 *
 * @since 0.1.0
 * @category decoding
 */
export const parseQuery = (output: string): Query | null => {
  const match = /^\s*(?:(none)|(cim|process) (\d{1,19}))\s*$/.exec(output)
  if (match === null) return null
  return match[1] === "none"
    ? { _tag: "None" }
    : { _tag: "Started", source: match[2] as "cim" | "process", start: match[3]! }
}

/**
 * The `MachineGuid` in what `reg query` prints.
 *
 * @since 0.1.0
 * @category decoding
 */
export const parseMachineGuid = (output: string): string | null =>
  /^\s*MachineGuid\s+REG_SZ\s+([0-9A-Fa-f-]{36})\s*$/m.exec(output)?.[1]?.toLowerCase() ?? null

/**
 * Asks `powershell.exe` and `reg.exe`, each when its answer is first needed and for at most 5 seconds. There is no boot
 * id; `timeNamespace` says who told the start, as starts of different sources cannot be compared.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: Effect.Effect<PidVerifier["Type"], never, CommandExecutor.CommandExecutor> = Effect.gen(
  function* () {
    const executor = yield* CommandExecutor.CommandExecutor

    // Absolute paths: Windows would also look in the working directory, and take a program that somebody put there.
    const system = `${process.env.SystemRoot ?? "C:\\Windows"}\\System32`
    const query = (pid: number) =>
      Effect.map(
        commandOutput(
          executor,
          Command.make(
            `${system}\\WindowsPowerShell\\v1.0\\powershell.exe`,
            "-NoProfile",
            "-NonInteractive",
            "-Command",
            queryScript(pid)
          )
        ),
        (output) => parseQuery(output ?? "")
      )
    const machine = once(
      Effect.map(
        commandOutput(
          executor,
          Command.make(
            `${system}\\reg.exe`,
            "query",
            "HKLM\\SOFTWARE\\Microsoft\\Cryptography",
            "/v",
            "MachineGuid",
            // A 32-bit Node would be shown another part of the registry.
            "/reg:64"
          )
        ),
        (output) => parseMachineGuid(output ?? "")
      ),
      isKnown
    )
    const self = once(
      Effect.map(
        persistently(Effect.all({ started: query(process.pid), machine }, { concurrency: "unbounded" })),
        (found) => {
          const started = found.started?._tag === "Started" ? found.started : undefined
          return new ProcessIdentity({
            pid: process.pid,
            start: started?.start ?? null,
            // Nothing names a boot: LastBootUpTime is the clock less the uptime and moves with every correction of the clock,
            // so that one boot would look like two. It is not needed either: a start is a point in time and not a distance
            // from the boot, so that the same machine, pid and start mean the same process, over any number of boots.
            boot: null,
            pidNamespace: pidNamespace(),
            timeNamespace: started?.source ?? null,
            machine: found.machine
          })
        }
      )
    )

    const look = Effect.fnUntraced(function* (pid: number): Effect.fn.Return<Sighting, IdentityUnavailable> {
      if (presence(pid) === "none") return absent(pid)
      const answer = yield* query(pid)
      if (answer?._tag === "Started") {
        return { _tag: "Process", start: answer.start, timeNamespace: answer.source }
      }
      const seen = presence(pid)
      return seen === "none" ? absent(pid) : unreadable(pid, seen, `nothing is told about the process ${pid}`)
    })

    return makeVerifier({
      self,
      where: (recorded) => Effect.map(machine, (own) => judgeMachine(recorded, own)),
      look,
      judge: (recorded, seen) => {
        const verdict = judgeStart(recorded, seen)
        return verdict._tag === "Dead" && isZoneShift(recorded.start, seen.start)
          ? unknown(`the start of the process ${recorded.pid} differs from the recorded one as time zones do`)
          : verdict
      }
    })
  }
)

/**
 * The verifier of Windows.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<PidVerifier, never, CommandExecutor.CommandExecutor> = Layer.effect(PidVerifier, make)

// -------------------------------------------------------------------------------------
// internals
// -------------------------------------------------------------------------------------

// Containers see processes of their own, and may have the machine id of the image that they were made from; their host
// names differ. A name that changes costs a verdict, never the lock.
let namespace: string | undefined
const pidNamespace = (): string => {
  namespace ??= `windows:${hostname()
    .replace(/[^A-Za-z0-9.-]/g, "_")
    .slice(0, 100)}`
  return namespace
}

const judgeMachine = (recorded: ProcessIdentity, own: string | null): Liveness | undefined => {
  if (own === null) return unknown("this system does not tell its machine id")
  if (recorded.machine === null) return unknown("the record does not say on which machine it was written")
  if (recorded.machine !== own) return unknown("it was recorded on another machine", { otherHost: true })
  if (recorded.pidNamespace !== pidNamespace()) {
    return unknown(`its pid counts elsewhere (${recorded.pidNamespace ?? "unknown"}, here ${pidNamespace()})`)
  }
  return undefined
}

// CIM carries local times. Should a conversion ever miss a change of the zone, the same start would come out shifted by
// quarters of an hour to the last digit; two processes do not meet that.
const isZoneShift = (one: string | null, other: string | null): boolean => {
  if (one === null || other === null || !/^\d{1,19}$/.test(one) || !/^\d{1,19}$/.test(other)) return false
  const quarter = 9_000_000_000n
  const distance = BigInt(one) - BigInt(other)
  return distance % quarter === 0n && distance <= 104n * quarter && distance >= -104n * quarter
}
