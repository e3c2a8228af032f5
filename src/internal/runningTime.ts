/**
 * The time in which this process ran, for every limit on how long another process may keep silent.
 *
 * It is measured on a monotonic clock, which nobody can set. Time in which this process itself stood still (Ctrl-Z, a
 * suspended machine, a blocked event loop) does not count: it could not have taken an answer then.
 */

/** A stopwatch that its owner ticks in short steps. */
export interface RunningTime {
  /** How many milliseconds this process has run since the start. */
  readonly now: () => number
  /**
   * To be called when a timer of `due` milliseconds, set after the last call, has fired. Answers whether it fired late: an
   * answer may then have arrived that nobody has read yet, so let the event loop turn once before you judge a limit.
   */
  readonly tick: (due: number) => boolean
}

// Timers of a healthy process are late by a millisecond or two.
const slackMillis = 5

/** How far apart the ticks for a limit should be, in milliseconds: a sixteenth of the limit, from 10 ms to a second. */
export const tickMillis = (limitMillis: number): number => Math.max(10, Math.min(1_000, limitMillis / 16))

/** Starts it. `clock` tells milliseconds of a monotonic clock. */
export const start = (clock: () => number, stepMillis: number): RunningTime => {
  let age = 0
  let ticked = clock()
  const passed = () => Math.max(0, clock() - ticked)
  return {
    now: () => age + Math.min(passed(), stepMillis),
    tick: (due) => {
      const elapsed = passed()
      const isLate = elapsed > due + slackMillis
      age += isLate ? due : elapsed
      ticked = clock()
      return isLate
    }
  }
}

/** The monotonic clock of Node, in milliseconds. */
export const nodeClock = (): number => performance.now()

/**
 * Calls `onOver` once this process has run for `millis` and the event loop has read what arrived until then. Answers how
 * to call that off.
 */
export const limit = (millis: number, onOver: () => void): (() => void) => {
  const step = tickMillis(millis)
  const time = start(nodeClock, step)
  let timer: NodeJS.Timeout | undefined
  let turn: NodeJS.Immediate | undefined
  const wait = () => {
    const due = Math.max(1, Math.min(step, millis - time.now()))
    timer = setTimeout(() => {
      const isLate = time.tick(due)
      if (time.now() < millis) wait()
      else if (isLate) turn = setImmediate(onOver)
      else onOver()
    }, due)
  }
  wait()
  return () => {
    clearTimeout(timer)
    clearImmediate(turn)
  }
}
