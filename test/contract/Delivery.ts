/**
 * What a sender is told of a message, held against what the handler saw.
 */
import { assert } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { type Instance, type Primary, SingleInstance } from "effect-single-instance"
import { Protocol } from "effect-single-instance/Protocol"
import { isSingleInstanceError, ProtocolError, TimeoutError } from "effect-single-instance/SingleInstanceError"
import {
  type Cut,
  cutting,
  elapse,
  isDone,
  type Member,
  type MemberOptions,
  settle,
  type Traffic,
  type World
} from "../simulation.js"

export class Refusal extends Schema.TaggedError<Refusal>()("Refusal", { why: Schema.String }) {}

export class Work extends SingleInstance.Tag<Work>()("test.delivery", {
  request: Schema.String,
  reply: Schema.String,
  failure: Refusal
}) {}

export type WorkMember = Member<Work, string, string, Refusal>

/** What a handler did with a request: began it, and ended it or was interrupted. */
export interface Log {
  readonly began: Array<string>
  readonly ended: Array<string>
  readonly interrupted: Array<string>
}

/** The kinds of conversation that are cut. */
export const kinds: Record<
  string,
  (request: string, launch: Primary.IncomingLaunch) => Effect.Effect<string, Refusal>
> = {
  "answers at once": (request) => Effect.succeed(`re: ${request}`),
  "answers later": (request) => Effect.as(Effect.sleep("20 millis"), `re: ${request}`),
  "shows output": (request, launch) =>
    launch
      .stdout("one")
      .pipe(
        Effect.zipRight(Effect.sleep("20 millis")),
        Effect.zipRight(launch.stderr("two")),
        Effect.as(`re: ${request}`)
      ),
  fails: () => Effect.zipRight(Effect.sleep("20 millis"), new Refusal({ why: "no" })),
  "answers with more than is remembered": (request) => Effect.as(Effect.sleep("20 millis"), request.repeat(5_000))
}

export const serving = (process: WorkMember, kind: string) =>
  Effect.gen(function* () {
    const log: Log = { began: [], ended: [], interrupted: [] }
    const ready = yield* Deferred.make<Instance.Primary<string, string, Refusal>>()
    yield* Effect.acquireRelease(
      Work.enforce({
        request: "",
        primary: (primary) =>
          Effect.gen(function* () {
            yield* primary.serve((request, launch) =>
              Effect.suspend(() => {
                log.began.push(request)
                return Effect.onExit(kinds[kind]!(request, launch), (exit) =>
                  Effect.sync(() => (Exit.isInterrupted(exit) ? log.interrupted : log.ended).push(request))
                )
              })
            )
            yield* Deferred.succeed(ready, primary)
            return yield* Effect.never
          })
      }).pipe(Effect.provide(process.context), Effect.interruptible, Effect.forkDaemon),
      Fiber.interruptFork
    )
    return { log, primary: yield* Deferred.await(ready) }
  })

/** A sender whose connections are cut. */
export const sender = (world: World, cuts: ReadonlyArray<Cut>, options?: MemberOptions) =>
  Effect.gen(function* () {
    const traffic: Traffic = { frames: [], cuts: 0 }
    const process = yield* world.member(Work, {
      timeout: "4 seconds",
      protocols: (own) => [Layer.succeed(Protocol, cutting(own, cuts, traffic))],
      ...options
    })
    return { traffic, instance: process.instance }
  })

/** Lets the time pass that an effect needs: that of the test, or the real one. */
export type Running = <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<Exit.Exit<A, E>>

export const simulatedTime: Running = (effect) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.fork(effect)
    for (let passed = 0; passed < 30_000; passed += 50) {
      yield* settle
      if (yield* isDone(fiber)) return yield* Fiber.await(fiber)
      yield* elapse("50 millis")
    }
    return yield* Effect.dieMessage("it never ended")
  })

export const realTime: Running = Effect.exit

/** Whether what a sender was told of one message is true. */
export const judge = (exit: Exit.Exit<unknown, unknown>, log: Log, message: string, where: string) => {
  const began = log.began.filter((request) => request === message).length
  assert.isAtMost(began, 1, `${where}: handled ${began} times`)
  const error = Exit.match(exit, {
    onSuccess: () => undefined,
    onFailure: (cause) => (cause._tag === "Fail" ? cause.error : assert.fail(`${where}: ${cause}`))
  })
  const outcome = error === undefined || !isSingleInstanceError(error) ? "Delivered" : error.outcome
  switch (outcome) {
    case "Delivered":
      assert.strictEqual(began, 1, where)
      if (ProtocolError.is(error)) {
        assert.strictEqual(error.reason, "HandlerInterrupted", where)
        assert.include(log.interrupted, message, where)
      } else {
        assert.include(log.ended, message, where)
      }
      break
    case "NotDelivered":
      assert.strictEqual(began, 0, where)
      break
    case "Unknown":
      assert(ProtocolError.is(error) || TimeoutError.is(error), where)
      assert.isDefined(error.pid, where)
  }
  return outcome
}

/** Every place at which one conversation can be cut, and what is told for each. */
export const cutEverywhere = (
  world: World,
  running: Running,
  kind: string,
  process: WorkMember,
  options?: MemberOptions
) =>
  Effect.gen(function* () {
    const { log } = yield* serving(process, kind)
    const outcomes: Array<string> = []
    const undelivered: Array<string> = []
    let reached = true
    for (let at = 1; reached && at < 40; at++) {
      for (const side of ["before", "behind", "late"] as const) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const message = `${at} ${side}`
            const { instance, traffic } = yield* sender(world, [{ at, side }], options)
            const exit = yield* running(
              Effect.scoped(
                Effect.flatMap(instance.connect, (client) => client.send(message, { onOutput: () => Effect.void }))
              )
            )
            const where = `${kind}, cut ${side} frame ${at}: ${traffic.frames}`
            const outcome = judge(exit, log, message, where)
            outcomes.push(outcome)
            if (outcome === "NotDelivered") undelivered.push(message)
            reached = traffic.cuts > 0
            // The primary lives and can be asked; it only keeps no large exits.
            if (kind !== "answers with more than is remembered") assert.notStrictEqual(outcome, "Unknown", where)
            if (traffic.cuts === 0) assert.strictEqual(outcome, "Delivered", where)
          })
        )
      }
    }
    assert.isFalse(reached, "the conversation has no end")
    // What was not delivered then is not delivered later either.
    yield* running(Effect.sleep("300 millis"))
    for (const message of undelivered) assert.notInclude(log.began, message)
    assert.strictEqual(new Set(log.began).size, log.began.length)
    return outcomes
  })
