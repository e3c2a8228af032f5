/**
 * What an operator wants to see of an instance.
 */
import * as Metric from "effect/Metric"
import * as MetricBoundaries from "effect/MetricBoundaries"

/** Launches, tagged with what became of them: `primary`, `delivered` or `failed`. */
export const launches = Metric.counter("single_instance_launches", {
  description: "launches, by role",
  incremental: true
})

/** Messages that this process sent, tagged with their outcome. */
export const outcomes = Metric.counter("single_instance_outcomes", {
  description: "messages sent, by outcome",
  incremental: true
})

/** From the start of a launch to the exit of the primary's handler. */
export const handOff = Metric.histogram(
  "single_instance_hand_off_millis",
  MetricBoundaries.exponential({ start: 1, factor: 2, count: 16 }),
  "from a launch's start to its reply, in milliseconds"
)

/** Locks taken over, tagged with how: `free`, `released` or `dead`. */
export const takeovers = Metric.counter("single_instance_takeovers", {
  description: "leaderships begun, by how the lock was come by",
  incremental: true
})
