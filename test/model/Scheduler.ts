/**
 * Goes through the orders in which simulated processes can take their steps.
 */
import { Contents, Directories } from "./ModelFiles.js"
import { type Actor, Automaton, CheckedActor, LiveActor, type Participant, type Point } from "./Process.js"
import { type Choice, fromWord, type Scenario, toWord, type Violation, World } from "./World.js"

/**
 * A scenario with the tables of its processes, which grow as it is searched.
 */
export class Laboratory {
  readonly contents = new Contents()
  private readonly directories = new Directories()
  private readonly automata: ReadonlyArray<Automaton>

  constructor(readonly scenario: Scenario) {
    this.automata = this.participants.map((participant, index) => new Automaton(() => this.spawn(participant, index)))
  }

  private get participants(): ReadonlyArray<Participant> {
    const { newcomer, participants } = this.scenario
    return newcomer === undefined ? participants : [...participants, newcomer]
  }

  private spawn(participant: Participant, index: number): LiveActor {
    return new LiveActor(index, this.contents, participant)
  }

  private world(actors: ReadonlyArray<Actor>): World {
    return World.make(this.scenario, this.contents, this.directories, actors)
  }

  /** How many different histories of a process the real code went through. */
  get histories(): number {
    return this.automata.reduce((sum, { count }) => sum + count, 0)
  }

  /** The beginning, with processes that can be put back. */
  tabled(): World {
    return this.world(this.automata.map(({ start }): Point => start))
  }

  /** The beginning, with processes whose code runs from the start to the end. */
  live(options?: { readonly newcomer: boolean }): World {
    const participants = options?.newcomer === false ? this.scenario.participants : this.participants
    return this.world(
      participants.map(
        (participant, index) => new CheckedActor(this.spawn(participant, index), this.automata[index]!.start)
      )
    )
  }
}

/**
 * A run that broke a rule: what happened in it, and how to have it again.
 */
export interface Trace {
  readonly violation: Violation
  readonly choices: ReadonlyArray<Choice>
  readonly text: string
}

/**
 * Runs the code of the processes in the order given, from the start.
 */
export const replay = (laboratory: Laboratory, choices: ReadonlyArray<Choice>) => {
  const world = laboratory.live()
  const log: Array<string> = []
  world.log = log
  for (const choice of choices) {
    world.apply(choice)
    if (world.violation !== undefined) break
  }
  if (world.violation === undefined && world.choices().length === 0) world.finish()
  const { violation } = world
  const { name } = laboratory.scenario
  const text = [
    `${name}: ${violation === undefined ? "no rule was broken" : `${violation.kind}: ${violation.detail}`}`,
    ...log.map((line, step) => `  ${String(step + 1).padStart(3)}  ${line}`),
    `  then  ${world.show()}`,
    `  again MODEL_REPLAY=${JSON.stringify(`${name}: ${choices.map(toWord).join(" ")}`)}`
  ].join("\n")
  return { violation, text }
}

export const parseReplay = (text: string): { readonly name: string; readonly choices: ReadonlyArray<Choice> } => {
  const at = text.lastIndexOf(": ")
  return {
    name: text.slice(0, at),
    choices: text
      .slice(at + 2)
      .trim()
      .split(/\s+/)
      .map(fromWord)
  }
}

/**
 * What an exploration or a number of walks came to.
 */
export interface Exploration {
  readonly states: number
  readonly steps: number
  /** Longest run, in steps. */
  readonly depth: number
  /** States in which a run was over. */
  readonly ends: number
  /** Whether everything that can happen was seen. */
  readonly complete: boolean
  readonly trace: Trace | undefined
}

/**
 * Everything that can happen, by breadth first, so that the first violation is a shortest one. A state that was seen
 * before is not gone through again: the future is a function of it.
 */
export const explore = async (
  laboratory: Laboratory,
  options: { readonly maxStates: number; readonly merge?: boolean }
): Promise<Exploration> => {
  const due = breather()
  const seen = new Set<string>()
  const parents: Array<number> = [-1]
  const choices: Array<Choice | undefined> = [undefined]
  const start = laboratory.tabled()
  seen.add(start.key())
  let level: Array<{ readonly world: World; readonly number: number }> = [{ world: start, number: 0 }]
  let steps = 0
  let depth = 0
  let ends = 0
  const result = (complete: boolean, trace?: Trace): Exploration => ({
    states: parents.length,
    steps,
    depth,
    ends,
    complete,
    trace
  })
  const traced = (world: World, number: number): Trace => {
    const path: Array<Choice> = []
    for (let at = number; at > 0; at = parents[at]!) path.push(choices[at]!)
    path.reverse()
    const again = replay(laboratory, path)
    if (again.violation?.kind !== world.violation!.kind) {
      throw new Error(`the table found ${world.violation!.kind}, the code that runs did not:\n${again.text}`)
    }
    return { violation: again.violation, choices: path, text: again.text }
  }
  while (level.length > 0) {
    const next: typeof level = []
    for (const { number, world } of level) {
      if (due()) await breathe()
      const possible = world.choices()
      if (possible.length === 0) {
        ends += 1
        world.finish()
        if (world.violation !== undefined) return result(false, traced(world, number))
      }
      for (const choice of possible) {
        const after = world.clone()
        after.apply(choice)
        steps += 1
        const key = after.key()
        if (after.violation === undefined && options.merge !== false) {
          if (seen.has(key)) continue
          seen.add(key)
        }
        parents.push(number)
        choices.push(choice)
        if (after.violation !== undefined) return result(false, traced(after, parents.length - 1))
        next.push({ world: after, number: parents.length - 1 })
      }
      if (parents.length > options.maxStates) return result(false)
    }
    if (next.length > 0) depth += 1
    level = next
  }
  return result(true)
}

/**
 * A sequence of numbers in [0, 1) that is the same for the same seed.
 */
export const numbers = (seed: number): (() => number) => {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

/**
 * What a number of schedules came to that were executed from the start to the end.
 */
export interface Walks {
  readonly executed: number
  readonly steps: number
  readonly crashes: number
  readonly trace: Trace | undefined
}

/**
 * Executes schedules from the start to the end, each chosen by the seed: some let a process run for long before another
 * one goes on, as stalls of real processes are, others choose anew at almost every step.
 */
export const walk = async (
  laboratory: Laboratory,
  options: {
    readonly count: number
    readonly seed: number
    /** Whether the newcomer of the scenario takes part. */
    readonly newcomer: boolean
    /** Takes the words of every schedule that was executed. */
    readonly onExecuted?: (schedule: string) => void
  }
): Promise<Walks> => {
  const due = breather()
  const next = numbers(options.seed)
  let executed = 0
  let steps = 0
  let crashes = 0
  while (executed < options.count) {
    if (due()) await breathe()
    const world = laboratory.live(options)
    const choices: Array<Choice> = []
    const patience = next() * 0.8
    const crashing = next() < 0.5 ? 0 : next() * 0.1
    let last = -1
    while (world.violation === undefined) {
      const possible = world.choices()
      if (possible.length === 0) {
        world.finish()
        break
      }
      const going = possible.filter(({ kind }) => kind !== "crash")
      const falling = possible.filter(({ kind }) => kind === "crash")
      const same = going.filter(({ process }) => process === last)
      const from =
        falling.length > 0 && next() < crashing ? falling : same.length > 0 && next() < patience ? same : going
      const choice = from[Math.floor(next() * from.length)]!
      if (choice.kind === "crash") crashes += 1
      last = choice.process
      choices.push(choice)
      world.apply(choice)
      steps += 1
    }
    executed += 1
    options.onExecuted?.(choices.map(toWord).join(" "))
    const { violation } = world
    if (violation !== undefined) {
      const { text } = replay(laboratory, choices)
      return { executed, steps, crashes, trace: { violation, choices, text } }
    }
  }
  return { executed, steps, crashes, trace: undefined }
}

// Lets timers and messages of the test runner through now and then.
const breathe = () => new Promise((resume) => setImmediate(resume))
const breather = () => {
  let last = performance.now()
  return () => {
    const now = performance.now()
    if (now - last < 100) return false
    last = now
    return true
  }
}
