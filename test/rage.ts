/**
 * Processes that elect, serve, send, wait and release without end, at any moment stalled, stopped or killed.
 */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import type { Arena, Contender } from "./contenders.js"
import type { Naive } from "./naive.js"
import { makeRandom } from "./random.js"
import { seed } from "./stress.js"
import type { Entry } from "./witness.js"

/** Lets the storm rage for so long, or until `enough`; afterwards all of its processes are dead. */
export const rage = Effect.fnUntraced(function* (
  arena: Arena,
  options: {
    readonly workers: number
    readonly seconds: number
    readonly lock?: Naive
    readonly enough?: () => boolean
    /** Happens at each turn, too. */
    readonly also?: (random: () => number) => Effect.Effect<void>
  }
) {
  const { also = () => Effect.void, workers } = options
  const random = makeRandom(seed)
  const between = (from: number, to: number) => from + random() * (to - from)
  const begin = Effect.suspend(() =>
    arena.start("storm", {
      seed: Math.floor(random() * 2 ** 31),
      hold: 100,
      fate: { stall: 0.1, millis: 30, kill: 0.003 },
      config: { timeout: "5 seconds", helloTimeout: "2 seconds", drain: "500 millis" },
      lock: options.lock,
      // Some put the mailbox first, whose messages outlive a primary.
      ...(random() < 0.3 ? { protocol: "file" as const, fallback: "unix" as const } : undefined)
    })
  )
  const present: Array<Contender> = []
  const ends = performance.now() + options.seconds * 1_000
  while (performance.now() < ends && !options.enough?.()) {
    for (let index = 0; index < workers; index++) {
      const worker = present[index]
      if (worker?.isRunning()) continue
      assert.isTrue(worker === undefined || (yield* worker.ended).signal === "SIGKILL", lastWords(worker))
      present[index] = yield* begin
    }
    yield* Effect.sleep(between(50, 350))
    yield* also(random)
    const leader = random() < 0.6 ? present.find(isLeading) : undefined
    const victim = leader ?? present[Math.floor(random() * workers)]!
    if (random() < (leader === undefined ? 0.3 : 0.7)) {
      yield* victim.kill
    } else {
      yield* victim.signal("SIGSTOP")
      yield* Effect.forkScoped(Effect.delay(victim.signal("SIGCONT"), between(1, 250)))
    }
  }
  for (const worker of present) yield* worker.kill
})

const isLeading = ({ entries }: Contender) =>
  entries.findLast((entry) => entry.event === "begin" || entry.event === "end")?.event === "begin"
const lastWords = (worker: Contender | undefined) =>
  `${worker?.who} ended by itself: ${JSON.stringify(worker?.entries.slice(-3))}`

/** What it came to. */
export const summary = (history: ReadonlyArray<Entry>) => {
  const count = (event: string, outcome?: string) =>
    history.filter((entry) => entry.event === event && (outcome === undefined || entry.outcome === outcome)).length
  return {
    // From where one contends, or sends, until it has ended in whatever way.
    lives: count("life"),
    kills: count("kill"),
    leaderships: count("begin"),
    handled: count("handled"),
    delivered: count("outcome", "Delivered"),
    notDelivered: count("outcome", "NotDelivered"),
    unknown: count("outcome", "Unknown"),
    clashes: count("clash")
  }
}
