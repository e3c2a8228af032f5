/**
 * What a contender's client is asked to do, and what it answers, over the channel that `fork` opens.
 */
export interface Job {
  readonly kind: "round trip" | "pipelined"
  /** The characters of the text that is echoed. */
  readonly bytes: number
  readonly count: number
}

/** Each round trip in microseconds, or how long the whole pipeline took. */
export type Answer = { readonly ready: true } | { readonly samples: ReadonlyArray<number> }

/** How many requests are unanswered at a time where they are pipelined. */
export const inFlight = 256

export const micros = (): number => Number(process.hrtime.bigint()) / 1_000
