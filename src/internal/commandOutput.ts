/**
 * Runs a program of the system and takes what it prints.
 *
 * @since 0.1.0
 */
import type * as Command from "@effect/platform/Command"
import type * as CommandExecutor from "@effect/platform/CommandExecutor"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"

/**
 * What the command printed; `null` where it cannot be started, failed, was killed, or took longer than 5 seconds.
 *
 * @since 0.1.0
 * @category execution
 */
export const commandOutput = (
  executor: CommandExecutor.CommandExecutor,
  command: Command.Command
): Effect.Effect<string | null> =>
  Effect.flatMap(executor.start(command), (process) =>
    // Both pipes are emptied, or a program with much to complain about would stand still.
    Effect.all(
      [Stream.mkString(Stream.decodeText(process.stdout)), process.exitCode, Stream.runDrain(process.stderr)],
      { concurrency: "unbounded" }
    )
  ).pipe(
    Effect.scoped,
    Effect.map(([stdout, exitCode]) => (exitCode === 0 ? stdout : null)),
    Effect.catchAllCause(() => Effect.succeed(null)),
    // The end of the scope waits for the program to die, which one that hangs in the kernel does not.
    Effect.disconnect,
    Effect.timeoutTo({ duration: "5 seconds", onSuccess: (output) => output, onTimeout: () => null }),
    // An asker that must not be interrupted would otherwise switch the limit off.
    Effect.interruptible,
    Effect.disconnect
  )
