/**
 * What a sender learns is true: connections cut at every frame of a conversation, in both directions, and primaries that
 * crash there; what the sender was told is held against what the handler saw. Over the other protocols and in the other
 * encoding it is part of their suite.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Either, Exit, Layer, Scope } from "effect"
import { TestSingleInstance } from "effect-single-instance"
import { Protocol } from "effect-single-instance/Protocol"
import { cutEverywhere, judge, kinds, realTime, sender, serving, simulatedTime, Work } from "./contract/Delivery.js"
import { cutting, fileWorld, member, memoryWorld, type Traffic } from "./simulation.js"
import { largeIf } from "./size.js"

describe("one connection cut at any frame, in memory", () => {
  for (const kind of Object.keys(kinds)) {
    it.scoped(`a handler that ${kind}${largeIf(kind !== "answers at once")}`, () =>
      Effect.gen(function* () {
        const world = yield* memoryWorld
        const outcomes = yield* cutEverywhere(world, simulatedTime, kind, yield* world.member(Work))
        assert.includeMembers(outcomes, ["Delivered", "NotDelivered"])
        if (kind === "answers with more than is remembered") assert.include(outcomes, "Unknown")
      })
    )
  }
})

describe("the question after a loss cut as well @large", () => {
  it.scoped("is Unknown at worst, and never wrong", () =>
    Effect.gen(function* () {
      const world = yield* memoryWorld
      const { log } = yield* serving(yield* world.member(Work), "answers later")
      const outcomes = new Set<string>()
      for (let first = 3; first <= 7; first++) {
        for (let second = first + 1; second <= first + 8; second++) {
          for (const side of ["before", "behind"] as const) {
            yield* Effect.scoped(
              Effect.gen(function* () {
                const message = `${first} ${second} ${side}`
                const cuts = [
                  { at: first, side },
                  { at: second, side }
                ]
                const { instance, traffic } = yield* sender(world, cuts)
                const exit = yield* simulatedTime(
                  Effect.scoped(Effect.flatMap(instance.connect, (client) => client.send(message)))
                )
                outcomes.add(judge(exit, log, message, `cut ${message}: ${traffic.frames}`))
              })
            )
          }
        }
      }
      assert.deepStrictEqual([...outcomes].sort(), ["Delivered", "NotDelivered", "Unknown"])
      yield* simulatedTime(Effect.sleep("1 seconds"))
      assert.strictEqual(new Set(log.began).size, log.began.length)
    })
  )
})

describe("a sender that tries again @large", () => {
  for (const [name, world, running] of [
    ["in memory", memoryWorld, simulatedTime],
    ["over real sockets", fileWorld, realTime]
  ] as const) {
    const size = largeIf(name !== "in memory")
    it[name === "in memory" ? "scoped" : "scopedLive"](`delivers once, wherever it was cut: ${name}${size}`, () =>
      Effect.gen(function* () {
        const place = yield* world
        const { log } = yield* serving(yield* place.member(Work), "answers later")
        for (let at = 1; at <= 12; at++) {
          for (const side of ["before", "behind", "late"] as const) {
            yield* Effect.scoped(
              Effect.gen(function* () {
                const message = `${at} ${side}`
                const { instance, traffic } = yield* sender(place, [{ at, side }])
                const exit = yield* running(instance.send(message))
                const where = `cut ${message}: ${traffic.frames}`
                judge(exit, log, message, where)
                // Either it was answered, or the loss of its connection interrupted its handler.
                if (Exit.isFailure(exit)) assert.include(log.interrupted, message, where)
                else assert.strictEqual(exit.value.reply, `re: ${message}`)
              })
            )
          }
        }
      })
    )
  }
})

describe("a primary that crashes at any frame", () => {
  it.scoped("never has handled what its sender takes into its own hands", () =>
    Effect.gen(function* () {
      const outcomes = new Set<string>()
      for (let at = 1; at <= 9; at++) {
        for (const side of ["before", "behind"] as const) {
          for (const kind of ["answers at once", "answers later"]) {
            yield* Effect.gen(function* () {
              const first = yield* member(Work)
              const { log } = yield* serving(first, kind)
              const message = `${at} ${side}`
              const where = `${kind}, crash ${side} frame ${at}`
              const traffic: Traffic = { frames: [], cuts: 0 }
              const second = yield* member(Work, {
                protocols: (own) => [Layer.succeed(Protocol, cutting(own, [{ at, side }], traffic, first.crash))]
              })
              const exit = yield* simulatedTime(
                Effect.scoped(
                  Effect.map(second.instance.elect(message), (verdict) => {
                    if (verdict._tag === "Delivered") return "Delivered"
                    assert.strictEqual(verdict.request, message)
                    assert.strictEqual(verdict.took, "dead")
                    return "Primary"
                  })
                )
              )
              if (Exit.isSuccess(exit) && exit.value === "Primary") {
                assert.deepStrictEqual(log.began, [], where)
                outcomes.add("Primary")
              } else {
                outcomes.add(judge(exit, log, message, `${where}: ${traffic.frames}`))
              }
            }).pipe(Effect.scoped, Effect.provide(TestSingleInstance.layerMachine()))
          }
        }
      }
      assert.deepStrictEqual([...outcomes].sort(), ["Delivered", "Primary", "Unknown"])
    })
  )

  it.scoped("and is never told as NotDelivered for what it began", () =>
    Effect.gen(function* () {
      for (let at = 4; at <= 9; at++) {
        for (const side of ["before", "behind"] as const) {
          yield* Effect.gen(function* () {
            const first = yield* member(Work)
            const { log } = yield* serving(first, "shows output")
            const traffic: Traffic = { frames: [], cuts: 0 }
            const second = yield* member(Work, {
              protocols: (own) => [Layer.succeed(Protocol, cutting(own, [{ at, side }], traffic, first.crash))]
            })
            const exit = yield* simulatedTime(
              Effect.scoped(Effect.flatMap(second.instance.connect, (client) => client.send("a")))
            )
            judge(exit, log, "a", `crash ${side} frame ${at}: ${traffic.frames}`)
          }).pipe(Effect.scoped, Effect.provide(TestSingleInstance.layerMachine()))
        }
      }
    })
  )
})

describe("a primary that goes away at any frame", () => {
  it.scoped("has handled the message, or leaves it to its sender", () =>
    Effect.gen(function* () {
      const outcomes = new Set<string>()
      for (let at = 1; at <= 8; at++) {
        for (const kind of ["answers at once", "answers later"]) {
          yield* Effect.gen(function* () {
            const first = yield* member(Work)
            const ending = yield* Scope.make()
            const { log } = yield* Scope.extend(serving(first, kind), ending)
            const message = `${at}`
            const traffic: Traffic = { frames: [], cuts: 0 }
            // Nothing is cut: at this frame the primary's program is interrupted.
            const second = yield* member(Work, {
              protocols: (own) => {
                const { connect, ...rest } = cutting(own, [], traffic)
                return [
                  Layer.succeed(Protocol, {
                    ...rest,
                    connect: (address, options) =>
                      Effect.map(connect(address, options), (connection) => {
                        const tap = <A, E>(effect: Effect.Effect<A, E>) =>
                          Effect.tap(effect, () =>
                            traffic.frames.length === at && traffic.cuts++ === 0
                              ? Scope.close(ending, Exit.void)
                              : Effect.void
                          )
                        return {
                          ...connection,
                          send: (frame) => tap(connection.send(frame)),
                          receiveWith: undefined,
                          receive: tap(connection.receive)
                        }
                      })
                  })
                ]
              }
            })
            const exit = yield* simulatedTime(
              Effect.scoped(
                Effect.map(second.instance.elect(message), (verdict) => {
                  if (verdict._tag === "Primary") {
                    assert.strictEqual(verdict.request, message)
                    assert.strictEqual(verdict.took, "released")
                  }
                  return verdict._tag
                })
              )
            )
            const where = `${kind}, ending at frame ${at}: ${traffic.frames}`
            assert(Exit.isSuccess(exit), `${where}: ${exit}`)
            assert.lengthOf(log.began, exit.value === "Primary" ? 0 : 1, where)
            assert.lengthOf(log.interrupted, 0, where)
            outcomes.add(exit.value)
          }).pipe(Effect.scoped, Effect.provide(TestSingleInstance.layerMachine()))
        }
      }
      assert.deepStrictEqual([...outcomes].sort(), ["Delivered", "Primary"])
    })
  )
})

describe("many senders", () => {
  for (const [name, world] of [
    ["in memory", memoryWorld],
    ["over real sockets", fileWorld]
  ] as const) {
    const size = largeIf(name !== "in memory")
    it.scopedLive(`are each told the truth, while connections are cut at random: ${name}${size}`, () =>
      Effect.gen(function* () {
        const place = yield* world
        const { log } = yield* serving(yield* place.member(Work), "answers later")
        let seed = 42
        const random = (below: number) => {
          seed = (seed * 1_103_515_245 + 12_345) & 0x7fff_ffff
          return seed % below
        }
        const results = yield* Effect.forEach(
          Array.from({ length: 60 }, (_, i) => i),
          (i) =>
            Effect.scoped(
              Effect.gen(function* () {
                const cuts = Array.from({ length: random(3) }, () => ({ at: 1 + random(16), side: "behind" as const }))
                const { instance } = yield* sender(place, cuts)
                const client = yield* Effect.either(instance.connect)
                if (Either.isLeft(client)) return []
                return yield* Effect.forEach(
                  [0, 1, 2, 3],
                  (n) =>
                    Effect.map(Effect.exit(client.right.send(`${i} ${n}`)), (exit) => [`${i} ${n}`, exit] as const),
                  { concurrency: "unbounded" }
                )
              })
            ),
          { concurrency: 20 }
        )
        yield* Effect.sleep("100 millis")
        const outcomes = results.flat().map(([message, exit]) => judge(exit, log, message, message))
        assert.isAbove(outcomes.filter((outcome) => outcome === "Delivered").length, 60)
        assert.strictEqual(new Set(log.began).size, log.began.length)
      })
    )
  }
})
