/**
 * A contract's schemas as functions: the hot path runs them for every message. Each is made when it is first called, as
 * most launches call two.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as known from "./known.js"
import { lazy } from "./lazy.js"

/** What a launch may ask, what it is answered and how that may fail. */
export interface Contract<Request, Reply, Failure, Broadcast> {
  readonly request?: Schema.Schema<Request, any> | undefined
  readonly reply?: Schema.Schema<Reply, any> | undefined
  readonly failure?: Schema.Schema<Failure, any> | undefined
  /** What the primary may say to all who stay connected. */
  readonly broadcast?: Schema.Schema<Broadcast, any> | undefined
}

type Encoded = Schema.ExitEncoded<unknown, unknown, unknown>

/**
 * Errors are sentences for a person, also where a schema throws over what the other side said. One that throws while it
 * encodes is a defect of the effect, not of who makes it.
 */
export interface Codec<Request, Reply, Failure, Broadcast> {
  /** `undefined` where the launch itself is the request. */
  readonly encodeRequest: ((request: Request) => Effect.Effect<unknown, string>) | undefined
  readonly decodeRequest: (payload: unknown) => Effect.Effect<Request, string>
  readonly encodeExit: (exit: Exit.Exit<Reply, Failure>) => Effect.Effect<Encoded>
  readonly decodeReply: (value: unknown) => Effect.Effect<Reply, string>
  readonly decodeExit: (encoded: Encoded) => Effect.Effect<Exit.Exit<Reply, Failure>, string>
  readonly encodeBroadcast: (message: Broadcast) => Effect.Effect<unknown, string>
  readonly decodeBroadcast: (payload: unknown) => Effect.Effect<Broadcast, string>
}

export const make = <Request, Reply, Failure, Broadcast>(
  contract: Contract<Request, Reply, Failure, Broadcast>
): Codec<Request, Reply, Failure, Broadcast> => {
  const reply: Schema.Schema<Reply, any> = contract.reply ?? (Schema.Void as any)
  const failure: Schema.Schema<Failure, any> = contract.failure ?? (Schema.Never as any)
  const broadcast: Schema.Schema<Broadcast, any> = contract.broadcast ?? (Schema.Never as any)
  const exit = () => Schema.Exit({ success: reply, failure, defect: Schema.Defect })
  const encodeReply = lazy(() => ParseResult.encode(reply))
  const encodeSuccess = (value: Reply) => ParseResult.map(encodeReply(value), success)
  const decodeReply = lazy(() => ParseResult.decodeUnknown(reply))
  const encodeWhole = lazy(() => ParseResult.encode(exit()))
  const decodeWhole = lazy(() => ParseResult.decodeUnknown(exit()))
  const { request } = contract
  const encodeRequest = request && lazy(() => ParseResult.encode(request))
  const decodeRequest = request && lazy(() => ParseResult.decodeUnknown(request))
  const encodeBroadcast = lazy(() => ParseResult.encode(broadcast))
  const decodeBroadcast = lazy(() => ParseResult.decodeUnknown(broadcast))

  return {
    encodeRequest: encodeRequest && ((request) => asked(encodeRequest, request)),
    decodeRequest: (payload) =>
      decodeRequest === undefined
        ? Effect.fail("this contract takes the launch itself")
        : asked(decodeRequest, payload),
    encodeExit: (exit) =>
      known.match(Exit.isSuccess(exit) ? asked(encodeSuccess, exit.value) : asked(encodeWhole, exit), {
        onFailure: unfit,
        onSuccess: Either.right
      }),
    decodeReply: (value) => asked(decodeReply, value),
    decodeExit: (encoded) => asked(decodeWhole, encoded),
    encodeBroadcast: (message) => asked(encodeBroadcast, message),
    decodeBroadcast: (payload) => asked(decodeBroadcast, payload)
  }
}

/** What a handler's exit is to who sent the message. */
export const conclude = <Request, Reply, Failure, Broadcast, E>(
  codec: Codec<Request, Reply, Failure, Broadcast>,
  encoded: Encoded,
  failed: (reason: "Malformed" | "HandlerDefect" | "HandlerInterrupted", detail: string, cause?: unknown) => E
): Effect.Effect<Reply, Failure | E> => {
  // By far the most are such, and need no exit of their own.
  const reply = isSuccess(encoded) ? codec.decodeReply(encoded.value) : undefined
  if (reply !== undefined && known.isRight(reply)) return Exit.succeed(reply.right)
  const onFailure = (detail: string) => Effect.fail(failed("Malformed", detail))
  if (reply !== undefined) return known.match(reply, { onFailure, onSuccess: Effect.succeed })
  return known.match(codec.decodeExit(encoded), {
    onFailure,
    onSuccess: (exit): Effect.Effect<Reply, Failure | E> => {
      if (Exit.isSuccess(exit)) return exit
      const error = Cause.failureOption(exit.cause)
      if (Option.isSome(error)) return Effect.fail(error.value)
      const defect = Cause.dieOption(exit.cause)
      return Effect.fail(
        Option.isSome(defect)
          ? failed("HandlerDefect", "the primary's handler died", defect.value)
          : failed("HandlerInterrupted", "the primary's handler was interrupted")
      )
    }
  })
}

const isSuccess = (encoded: unknown): encoded is { readonly value: unknown } =>
  typeof encoded === "object" && encoded !== null && "_tag" in encoded && encoded._tag === "Success"

const success = (value: unknown): Encoded => ({ _tag: "Success", value })

const unfit = (why: string): Effect.Effect<Encoded> =>
  Either.right({
    _tag: "Failure",
    cause: { _tag: "Die", defect: { name: "Error", message: `the reply does not fit its schema: ${why}` } }
  })

const explain = (issue: ParseResult.ParseIssue): string => ParseResult.TreeFormatter.formatIssueSync(issue)

// Most schemas answer at once, with an Either, and no effect is made of that. What the other side said is not to blame the
// caller for: also where a schema throws, or what it was given is nested so deeply that the stack does not hold it.
const asked = <I, A>(
  ask: (input: I) => Effect.Effect<A, ParseResult.ParseIssue>,
  input: I
): Effect.Effect<A, string> => {
  try {
    const answer = ask(input)
    if (Either.isEither(answer)) {
      const either = answer as Either.Either<A, ParseResult.ParseIssue>
      return Either.isRight(either) ? (either as Either.Either<A>) : Either.left(explain(either.left))
    }
    return Effect.catchAllCause(answer, (cause) =>
      Effect.fail(Option.match(Cause.failureOption(cause), { onNone: () => Cause.pretty(cause), onSome: explain }))
    )
  } catch (defect) {
    return Either.left(String(defect))
  }
}
