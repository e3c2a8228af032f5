/**
 * Runs a program of the system and takes what it prints.
 *
 * @since 0.1.0
 */
import type * as Command from "@effect/platform/Command"
import type * as CommandExecutor from "@effect/platform/CommandExecutor"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { IdentityUnavailable } from "../PidVerifier.js"
import { unavailable } from "./processes.js"
import * as systemProgram from "./systemProgram.js"

/**
 * What the command printed; `null` where there is none, or it failed, was killed or took longer than 5 seconds. Fails where
 * the system can start no program at the moment. On macOS a program that may not be started is tried once in a process.
 *
 * @since 0.1.0
 * @category execution
 */
export const commandOutput = (
  executor: CommandExecutor.CommandExecutor,
  command: Command.Command
): Effect.Effect<string | null, IdentityUnavailable> =>
  Effect.suspend(() => (systemProgram.refused.has(nameOf(command)) ? Effect.succeed(null) : run(executor, command)))

const run = (
  executor: CommandExecutor.CommandExecutor,
  command: Command.Command
): Effect.Effect<string | null, IdentityUnavailable> =>
  Effect.flatMap(executor.start(command), (process) =>
    // Both pipes are emptied, or a program with much to complain about would stand still.
    Effect.all(
      [Stream.mkString(Stream.decodeText(process.stdout)), process.exitCode, Stream.runDrain(process.stderr)],
      { concurrency: "unbounded" }
    )
  ).pipe(
    Effect.scoped,
    Effect.map(([stdout, exitCode]) => (exitCode === 0 ? stdout : null)),
    Effect.catchAllCause((cause) => {
      const failure = Cause.squash(cause)
      systemProgram.note(nameOf(command), failure)
      return unavailable(nameOf(command), failure) ?? Effect.succeed(null)
    }),
    // The end of the scope waits for the program to die, which one that hangs in the kernel does not.
    Effect.disconnect,
    Effect.timeoutTo({ duration: "5 seconds", onSuccess: (output) => output, onTimeout: () => null }),
    // An asker that must not be interrupted would otherwise switch the limit off.
    Effect.interruptible,
    Effect.disconnect
  )

const nameOf = (command: Command.Command): string =>
  command._tag === "StandardCommand" ? command.command : nameOf(command.left)
