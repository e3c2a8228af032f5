/**
 * What the processes of a contender are asked to do, and what they answer, over the channel that `fork` opens.
 */

/** Ends after `count` or after `millis`, whichever comes first: a slow contender gives fewer samples. */
export interface Job {
  readonly kind: "round trip" | "pipelined" | "one way" | "election" | "usage"
  /** The characters of the text, or the bytes of the frame. */
  readonly bytes: number
  readonly count: number
  readonly millis: number
  /** The folder in which it is elected. */
  readonly place?: string
}

/** What the process has cost since it began: all its threads. */
export interface Usage {
  readonly cpuMicros: number
  readonly wakes: number
  /** Bytes; the heap's without its garbage, if the process was started with `--expose-gc`. */
  readonly resident: number
  readonly heap: number
}

/** Microseconds for one message: each round trip's, or the mean of a whole run. */
export type Answer = { readonly ready: true } | { readonly samples: ReadonlyArray<number> } | { readonly usage: Usage }

/** How many requests are unanswered at a time where they are pipelined. */
export const inFlight = 256

export const micros = (): number => Number(process.hrtime.bigint()) / 1_000

export const tell = (line: object): void => {
  process.stdout.write(`${JSON.stringify(line)}\n`)
}

/** Does what it is asked, from now on. Without a parent it ends. */
export const answer = (perform?: (job: Job) => Promise<ReadonlyArray<number>>): void => {
  const send = (message: Answer) => process.send?.(message)
  process.on("message", async (message) => {
    const job = message as Job
    if (job.kind === "usage") {
      const { system, user } = process.cpuUsage()
      globalThis.gc?.()
      const { heapUsed, rss } = process.memoryUsage()
      const wakes = process.resourceUsage().voluntaryContextSwitches
      send({ usage: { cpuMicros: system + user, wakes, resident: rss, heap: heapUsed } })
    } else if (perform === undefined) {
      throw new Error(`nobody here does ${job.kind}`)
    } else {
      send({ samples: await perform(job) })
    }
  })
  process.once("disconnect", () => process.exit())
  send({ ready: true })
}

/** Whether a job goes on. The clock is read at every 16th frame of a one-way run only: some take half a microsecond. */
export const going = ({ count, kind, millis }: Job): (() => boolean) => {
  const until = micros() + millis * 1_000
  const mask = kind === "one way" ? 15 : 0
  let done = 0
  return () => done++ < count && ((done & mask) !== 0 || micros() < until)
}

/** What frames of one byte say; all longer ones are echoed, or counted between the two. */
export const begin = Uint8Array.of(1)
export const end = Uint8Array.of(2)

/** The other end of all that is done with frames: what it answers to one. */
export const makeCounterpart = (): ((frame: Uint8Array) => Uint8Array | undefined) => {
  let counting = false
  let bytes = 0
  return (frame) => {
    if (frame.length > 1) {
      if (!counting) return frame
      bytes += frame.length
      return undefined
    }
    counting = frame[0] === begin[0]
    if (!counting) return Buffer.from(String(bytes))
    bytes = 0
    return undefined
  }
}

/** Of a one-way run: every byte must have arrived. */
export const perFrame = (from: number, frames: number, bytes: number, acknowledged: Uint8Array): number => {
  const took = micros() - from
  const arrived = Number(Buffer.from(acknowledged).toString())
  if (arrived !== frames * bytes) throw new Error(`${arrived} bytes arrived of ${frames} frames of ${bytes}`)
  return took / frames
}

/** Of a round trip: what was sent must come back. */
export const same = (sent: number, received: number | undefined): void => {
  if (sent !== received) throw new Error(`${received} came back of ${sent}`)
}

/** A text on its way, correlated by a number. */
export interface Message {
  readonly id: number
  readonly text: string
}

/** Requests over what only knows messages: what comes back is given to `receive`. */
export const correlate = (write: (message: Message) => void) => {
  const waiting = new Map<number, (text: string) => void>()
  let last = 0
  return {
    receive: ({ id, text }: Message) => {
      const resolve = waiting.get(id)!
      waiting.delete(id)
      resolve(text)
    },
    send: (text: string) =>
      new Promise<string>((resolve) => {
        const id = ++last
        waiting.set(id, resolve)
        write({ id, text })
      })
  }
}

/** What a client does that sends texts and gets the same ones back. */
export const converse =
  (send: (text: string) => Promise<string>) =>
  async (job: Job): Promise<ReadonlyArray<number>> => {
    const text = "x".repeat(job.bytes)
    const goesOn = going(job)
    const samples: Array<number> = []
    if (job.kind === "round trip") {
      while (goesOn()) {
        const from = micros()
        const { length } = await send(text)
        samples.push(micros() - from)
        same(job.bytes, length)
      }
      return samples
    }
    let sent = 0
    const from = micros()
    const worker = async () => {
      while (goesOn()) {
        sent++
        await send(text)
      }
    }
    await Promise.all(Array.from({ length: inFlight }, worker))
    return [(micros() - from) / sent]
  }

/** A contender that is elected under one number after another, and steps down out of the time that is taken. */
export const beElected =
  (elect: (place: string, index: number) => Promise<() => unknown>) =>
  async ({ count, place = "" }: Job): Promise<ReadonlyArray<number>> => {
    const samples: Array<number> = []
    for (let index = 0; index < count; index++) {
      const from = micros()
      const stepDown = await elect(place, index)
      samples.push(micros() - from)
      await stepDown()
    }
    return samples
  }

/** As many parts as are needed, none above `most`, as equal as they can be. */
export const spread = (count: number, most: number): ReadonlyArray<number> => {
  const parts = Math.ceil(count / most)
  return Array.from({ length: parts }, (_, part) => Math.floor((count + part) / parts))
}
