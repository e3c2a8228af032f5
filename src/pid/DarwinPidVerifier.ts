/**
 * Processes as `ps` of macOS shows them.
 *
 * @since 0.1.0
 */
import * as Command from "@effect/platform/Command"
import * as CommandExecutor from "@effect/platform/CommandExecutor"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ProcessIdentity } from "../InstanceRecord.js"
import { commandOutput } from "../internal/commandOutput.js"
import {
  absent,
  isKnown,
  judgeWhere,
  makeVerifier,
  once,
  persistently,
  presence,
  type Sighting,
  unreadable
} from "../internal/processes.js"
import { refused } from "../internal/systemProgram.js"
import { dead } from "../Liveness.js"
import { type IdentityUnavailable, PidVerifier } from "../PidVerifier.js"

/**
 * One line of `ps -o stat= -o lstart=`. `start` is `null` where it is not the date that the C locale writes, as two forms
 * of one date would look like two processes.
 *
 * @since 0.1.0
 * @category models
 */
export interface Row {
  readonly zombie: boolean
  readonly start: string | null
}

/**
 * Reads what `ps -o stat= -o lstart= -p PID` prints under `LC_ALL=C` and `TZ=UTC`, and joins the words of the date with
 * `_`. `null` where that is not one line about one process.
 *
 * @since 0.1.0
 * @category decoding
 */
export const parseRow = (output: string): Row | null => {
  const match = /^\s*([A-Z?]\S*)[ \t]+(\S[^\n]*?)\s*$/.exec(output)
  if (match === null) return null
  const date = match[2]!
  return {
    zombie: match[1]!.startsWith("Z"),
    start: /^[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d{2}:\d{2}:\d{2} \d{4}$/.test(date) ? date.replace(/ +/g, "_") : null
  }
}

/**
 * The `IOPlatformUUID` in what `ioreg -rd1 -c IOPlatformExpertDevice` prints.
 *
 * @since 0.1.0
 * @category decoding
 */
export const parsePlatformUuid = (output: string): string | null =>
  /"IOPlatformUUID"\s*=\s*"([0-9A-Fa-f-]{36})"/.exec(output)?.[1] ?? null

// Absolute paths: a start from the desktop or from cron need not have /usr/sbin in its PATH.
const psFile = "/bin/ps"

/**
 * Asks `ps`, `sysctl` (`kern.bootsessionuuid`) and `ioreg`, each when its answer is first needed and for at most 5
 * seconds. Starts have a resolution of a second. There are no namespaces: the word `darwin` stands for the only one.
 * A program that may not be started (EPERM), as `ps` in the App Sandbox, is tried once in a process; what it would tell is
 * unknown.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: Effect.Effect<PidVerifier["Type"], never, CommandExecutor.CommandExecutor> = Effect.gen(
  function* () {
    const executor = yield* CommandExecutor.CommandExecutor

    const ps = (pid: number) =>
      commandOutput(
        executor,
        Command.make(psFile, "-o", "stat=", "-o", "lstart=", "-p", String(pid)).pipe(
          Command.env({ LC_ALL: "C", TZ: "UTC" })
        )
      )
    const boot = once(
      Effect.map(
        commandOutput(executor, Command.make("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")),
        (output) => /^[0-9A-Fa-f-]{36}$/.exec(output?.trim() ?? "")?.[0] ?? null
      ),
      isKnown
    )
    const machine = once(
      Effect.map(
        commandOutput(executor, Command.make("/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice")),
        (output) => parsePlatformUuid(output ?? "")
      ),
      isKnown
    )
    const self = once(
      Effect.map(
        persistently(Effect.all({ row: ps(process.pid), boot, machine }, { concurrency: "unbounded" })),
        (found) =>
          new ProcessIdentity({
            pid: process.pid,
            start: parseRow(found.row ?? "")?.start ?? null,
            boot: found.boot,
            pidNamespace: "darwin",
            timeNamespace: "darwin",
            machine: found.machine
          })
      )
    )

    const look = Effect.fnUntraced(function* (pid: number): Effect.fn.Return<Sighting, IdentityUnavailable> {
      // Signal 0 succeeds on a zombie, too, so that ESRCH says all.
      if (presence(pid) === "none") return absent(pid)
      const output = yield* ps(pid)
      const row = parseRow(output ?? "")
      if (row === null) {
        const seen = presence(pid)
        if (seen === "none") return absent(pid)
        // The sandbox that refuses ps also answers EPERM to signals, whoever's the process is.
        return unreadable(pid, refused.has(psFile) ? "unsure" : seen, `ps tells nothing about the process ${pid}`)
      }
      if (row.zombie) return dead("D1", `the process with the pid ${pid} is a zombie`)
      return { _tag: "Process", start: row.start, timeNamespace: "darwin" }
    })

    return makeVerifier({
      self,
      where: Effect.fnUntraced(function* (recorded, options) {
        const ownBoot = yield* boot
        const known = recorded.boot !== null && recorded.boot === ownBoot
        return judgeWhere(
          recorded,
          // The machine is told slowly, and does not matter under the same boot.
          { boot: ownBoot, pidNamespace: "darwin", machine: known ? null : yield* machine },
          options
        )
      }),
      look
    })
  }
)

/**
 * The verifier of macOS.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<PidVerifier, never, CommandExecutor.CommandExecutor> = Layer.effect(PidVerifier, make)
