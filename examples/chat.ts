/**
 * A chat in which the first to start is the host and everybody else is a guest. When the host goes, one of the guests is
 * the next host, and the others find it.
 *
 *   terminal 1   npx tsx examples/chat.ts ana
 *   terminal 2   npx tsx examples/chat.ts ben
 *   terminal 3   npx tsx examples/chat.ts cleo
 *
 * Type lines; Ctrl-C leaves. End the host, with Ctrl-C or `kill -9`, and go on typing.
 *
 * A guest holds one connection. One long request on it, `Listen`, stays open: its handler in the host writes what others
 * say through `launch.stdout`. What the guest says itself are short requests beside it.
 */
import { createInterface } from "node:readline"
import { NodeContext } from "@effect/platform-node"
import { Console, Deferred, Effect, PubSub, Queue, Schema, Stream } from "effect"
import { SingleInstance } from "effect-single-instance"

class Enter extends Schema.TaggedClass<Enter>()("Enter", { name: Schema.String }) {}
class Listen extends Schema.TaggedClass<Listen>()("Listen", { name: Schema.String }) {}
class Say extends Schema.TaggedClass<Say>()("Say", { name: Schema.String, text: Schema.String }) {}

class Chat extends SingleInstance.Tag<Chat>()("com.example.chat", { request: Schema.Union(Enter, Listen, Say) }) {}

const name = process.argv[2] ?? `guest-${process.pid}`

const program = Effect.gen(function* () {
  // Outlives every host: what is typed while there is none waits for the next one.
  const typed = yield* Queue.unbounded<string>()
  const input = yield* Effect.acquireRelease(
    Effect.sync(() => createInterface({ input: process.stdin })),
    (input) => Effect.sync(() => input.close())
  )
  input.on("line", (line) => Queue.unsafeOffer(typed, line))
  const ended = Effect.async<void>((resume) => void input.once("close", () => resume(Effect.void)))
  const eachLine = <E, R>(say: (text: string) => Effect.Effect<unknown, E, R>) =>
    Effect.forever(Effect.flatMap(Queue.take(typed), say))

  const chatting = Chat.enforce({
    request: new Enter({ name }),

    primary: (primary) =>
      Effect.gen(function* () {
        yield* Console.log(`(you are the host, process ${primary.pid})`)
        // Who reads too slowly misses the oldest lines, and holds up nobody.
        const hub = yield* PubSub.sliding<{ readonly from: number; readonly line: string }>(256)
        const tell = (from: number, line: string) => PubSub.publish(hub, { from, line: `${line}\n` })
        const over = yield* Deferred.make<void>()
        const heardBy = (pid: number) =>
          Stream.fromPubSub(hub).pipe(
            Stream.filter(({ from }) => from !== pid),
            Stream.interruptWhenDeferred(over)
          )

        yield* primary.serve((request, { from: { pid }, stdout }) => {
          switch (request._tag) {
            case "Enter":
              return Effect.asVoid(tell(pid, `(${request.name} enters)`))
            case "Say":
              return Effect.asVoid(tell(pid, `${request.name}: ${request.text}`))
            case "Listen":
              return heardBy(pid).pipe(
                Stream.runForEach(({ line }) => stdout(line)),
                Effect.ensuring(tell(pid, `(${request.name} leaves)`))
              )
          }
        })
        yield* Effect.raceFirst(
          Stream.runForEach(heardBy(primary.pid), ({ line }) => Effect.sync(() => process.stdout.write(line))),
          eachLine((text) => tell(primary.pid, `${name}: ${text}`))
        ).pipe(
          // Ends all that listen; a primary that goes away would otherwise wait for them, for as long as `drain`.
          Effect.ensuring(Deferred.succeed(over, undefined))
        )
      }),

    secondary: () =>
      Effect.gen(function* () {
        const chat = yield* Chat
        const { primary, send } = yield* chat.connect
        yield* Console.log(`(you are a guest, the host is process ${primary.pid})`)
        const listen = send(new Listen({ name }), {
          onOutput: (_, chunk) => Effect.sync(() => process.stdout.write(chunk))
        })
        // What is known of a line decides: only one that certainly nobody got may be said again.
        const say = (text: string) =>
          send(new Say({ name, text })).pipe(
            Effect.tapError(({ outcome }) =>
              outcome === "NotDelivered" ? Queue.offer(typed, text) : Console.log(`(perhaps nobody heard: ${text})`)
            ),
            Effect.uninterruptible
          )
        yield* Effect.raceFirst(listen, eachLine(say))
      }).pipe(Effect.scoped)
  }).pipe(
    // The host left, politely or not. Who comes first is the next one.
    Effect.catchIf(
      (error) =>
        error._tag === "ProtocolError" && ["Disconnected", "Unreachable", "ShuttingDown"].includes(error.reason),
      () => Effect.void
    ),
    Effect.forever
  )
  yield* Effect.raceFirst(chatting, ended)
})

program.pipe(Effect.scoped, Effect.provide(Chat.layer()), Effect.provide(NodeContext.layer), SingleInstance.runMain)
