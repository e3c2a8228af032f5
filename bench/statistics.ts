/**
 * What is said of samples. Nothing here assumes how they are distributed.
 */

/** The sample below which the share `q` lies. */
export const quantile = (samples: ReadonlyArray<number>, q: number): number => {
  const sorted = [...samples].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))]!
}

export const median = (samples: ReadonlyArray<number>): number => quantile(samples, 0.5)

export interface Interval {
  readonly low: number
  readonly high: number
  /** The probability that the median of what the samples come from lies between the two. */
  readonly confidence: number
}

/**
 * Two of the samples that hold the true median with at least 95 %, by the order statistics; with fewer than six samples the
 * least and the greatest, which hold it less surely.
 */
export const interval = (samples: ReadonlyArray<number>): Interval => {
  const sorted = [...samples].sort((a, b) => a - b)
  const count = sorted.length
  // That at most `rank` of them lie below the median: each does with one half.
  let probability = 0.5 ** count
  let below = probability
  let rank = 0
  while (true) {
    probability *= (count - rank) / (rank + 1)
    if (1 - 2 * (below + probability) < 0.95) break
    below += probability
    rank++
  }
  return { low: sorted[rank]!, high: sorted[count - 1 - rank]!, confidence: Math.max(0, 1 - 2 * below) }
}

export interface Ratio extends Interval {
  readonly value: number
}

/** How two contenders compare: of each round its own ratio, so that what slows the machine slows both. */
export const ratio = (ours: ReadonlyArray<number>, theirs: ReadonlyArray<number>): Ratio => {
  const ratios = ours.map((value, round) => value / theirs[round]!)
  return { value: median(ratios), ...interval(ratios) }
}

export const number = (value: number): string =>
  value >= 1_000 ? Math.round(value).toLocaleString("en") : value >= 100 ? value.toFixed(0) : value.toPrecision(3)

/** A ratio as it stands in a table. */
export const times = ({ high, low, value }: Ratio): string => `**${number(value)}** (${number(low)} – ${number(high)})`

export const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string =>
  [head, head.map((_, column) => (column === 0 ? "---" : "---:")), ...rows]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n")
