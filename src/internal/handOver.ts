/**
 * The secondary's side of one message, without a library: finds the primary, hands over, and learns what became of it.
 * Until the first byte of the request goes out, all that is in the way makes a candidate, which is for the election to
 * judge; from then on the truth is told, as by `Secondary.ts`.
 */
import { randomBytes, randomUUID } from "node:crypto"
import type { NetConnectOpts } from "node:net"
import * as path from "node:path"
import * as addresses from "./addresses.js"
import * as answers from "./answers.js"
import * as boundPath from "./boundPath.js"
import * as content from "./content.js"
import * as directories from "./directory.js"
import * as line from "./line.js"
import * as location from "./location.js"
import * as runningTime from "./runningTime.js"
import * as wire from "./wire.js"

export interface Options {
  readonly id: string
  readonly directory: string | null
  /** The user vouches for the given directory and its parents. */
  readonly trustDirectory: boolean
  readonly payload: unknown
  readonly launch: {
    readonly argv: ReadonlyArray<string>
    readonly cwd: string
    readonly env: { readonly [name: string]: string }
    readonly data?: unknown
  }
  readonly timeoutMillis: number
  readonly onOutput?: ((stream: "stdout" | "stderr", chunk: Uint8Array) => void | Promise<void>) | undefined
  readonly signal?: AbortSignal | undefined
}

export interface Candidate {
  readonly _tag: "Candidate"
  readonly reason: string
}

/** Who got the message, and under which id. */
export interface Receipt {
  readonly message: string
  readonly protocol: string
  readonly address: string
  readonly primary: { readonly pid: number; readonly epoch: number; readonly version: string | null }
}

/** The handler's exit, as it came. */
export interface Answered extends Receipt {
  readonly _tag: "Answered"
  readonly exit: unknown
}

export interface Failed extends Receipt {
  readonly _tag: "NotDelivered" | "Unknown"
  /** A time limit's phase, `Interrupted`, or the reason of a `ProtocolError`. */
  readonly reason: string
  readonly detail: string
}

export type Ending = Candidate | Answered | Failed

// A primary that keeps silent for longer is left to the application, which has more patience.
const helloMillis = 1_000
const interruptMillis = 1_000
const maxFrameBytes = 16 * 1024 * 1024

export const handOver = async (options: Options): Promise<Ending> => {
  const candidate = (reason: string): Candidate => ({ _tag: "Candidate", reason })
  const wrong = location.flawOfId(options.id) ?? location.flawOfPlace(options)
  if (wrong !== undefined) return candidate(wrong)
  let directory: string
  let owner: answers.Owner | string
  try {
    directory = location.of(options.id, location.resolve(options.directory))
    owner = find(directory, options.trustDirectory)
  } catch (cause) {
    return candidate(cause instanceof Error ? cause.message : String(cause))
  }
  if (typeof owner === "string") return candidate(owner)
  const session = await greet(options, directory, owner)
  if (typeof session === "string") return candidate(session)
  const message = randomUUID()
  const { launch, payload, signal, timeoutMillis } = options
  let request: Uint8Array
  try {
    const deadline = Number.isFinite(timeoutMillis) ? { deadline: Date.now() + timeoutMillis } : undefined
    request = Buffer.from(JSON.stringify({ _tag: "Request", id: message, payload, ...deadline, launch }))
  } catch (cause) {
    session.line.close()
    return candidate(`the request cannot be written as JSON: ${String(cause)}`)
  }
  const reason =
    request.length > Math.min(maxFrameBytes, session.welcome.maxFrameBytes)
      ? `the request has ${request.length} bytes, which is too much`
      : signal?.aborted === true
        ? "it was interrupted"
        : undefined
  if (reason !== undefined) {
    session.line.close()
    return candidate(reason)
  }
  const progress: Progress = { started: false }
  const ending = await talk(options, session, message, progress, request)
  // Where the connection was lost the same primary is asked what became of it.
  if (ending._tag !== "Unknown" || !isLoss(ending.reason) || signal?.aborted === true) return settled(ending)
  const again = await greet(options, directory, owner)
  if (typeof again === "string") return ending
  const told = await talk(options, again, message, progress)
  return told._tag === "Unknown" ? ending : settled(told)
}

const isLoss = (reason: string): boolean => !["accept", "reply", "Interrupted"].includes(reason)

// What was certainly not handled, and what another primary may take, the application may as well contend with.
const settled = (ending: Answered | Failed): Ending =>
  ending._tag === "NotDelivered" && wire.passing.has(ending.reason)
    ? { _tag: "Candidate", reason: ending.detail }
    : ending

const find = (directory: string, trustParents: boolean): answers.Owner | string => {
  const flaw = directories.verify(directory, { create: false, trustParents })
  if (flaw !== undefined) return flaw === "missing" ? "nobody was ever the primary" : `${flaw.path}: ${flaw.detail}`
  const found = content.read(path.join(directory, "lock"))
  return found._tag === "Bytes" ? answers.readRecord(found.bytes) : `there is no record (${found._tag})`
}

interface Session {
  readonly line: line.Line
  readonly welcome: answers.Welcome
  readonly receipt: Omit<Receipt, "message">
  /** Goes out with the first message: one packet less. */
  readonly proof: object
}

// The first endpoint that is a socket and whose owner proves itself.
const greet = async (options: Options, directory: string, owner: answers.Owner): Promise<Session | string> => {
  const reasons: Array<string> = []
  for (const endpoint of owner.endpoints) {
    try {
      return await greetAt(options, directory, owner, endpoint)
    } catch (cause) {
      reasons.push(`${endpoint.protocol}: ${cause instanceof Error ? cause.message : cause}`)
    }
  }
  return reasons.join("; ") || "the primary takes no messages: it has no endpoint"
}

const greetAt = async (
  { id, signal, timeoutMillis }: Options,
  directory: string,
  owner: answers.Owner,
  { address, protocol }: answers.Owner["endpoints"][number]
): Promise<Session> => {
  const clientNonce = randomBytes(16).toString("hex")
  let opened: line.Line | undefined
  const connecting = new AbortController()
  let giveUp = () => {}
  const late = new Promise<never>((_, reject) => {
    giveUp = () => reject(new Error(signal?.aborted === true ? "it was interrupted" : "no answer in time"))
  })
  if (signal?.aborted === true) giveUp()
  signal?.addEventListener("abort", giveUp, { once: true })
  const stop = runningTime.limit(Math.min(helloMillis, timeoutMillis / 2), giveUp)
  const greeting = async (): Promise<Session> => {
    const current = await dial(protocol, address, directory, connecting.signal)
    opened = current
    current.send({ _tag: "Hello", wire: wire.range, id, nonce: clientNonce })
    const frames = await new Promise<ReadonlyArray<Uint8Array>>((resolve, reject) =>
      current.listen(
        (frames) => {
          current.keep()
          resolve(frames)
        },
        (detail) => reject(new Error(detail))
      )
    )
    const welcome = frames.length === 1 ? answers.read(frames[0]!) : "more came than a greeting"
    if (typeof welcome !== "object") throw new Error(welcome ?? "that is no greeting")
    if (welcome._tag !== "Welcome")
      throw new Error("reason" in welcome ? welcome.reason : `${welcome._tag} is no greeting`)
    const [lowest, highest] = wire.range
    if (welcome.wire < lowest || welcome.wire > highest) throw new Error(`the primary chose wire ${welcome.wire}`)
    const transcript: wire.Transcript = {
      recordNonce: owner.nonce,
      clientNonce,
      serverNonce: welcome.nonce,
      clientWire: wire.range,
      serverWire: welcome.range,
      address
    }
    if (!wire.isSameMac(welcome.mac, wire.mac(owner.key, "server", transcript))) {
      throw new Error("whoever listens there is not the process of the record")
    }
    if (!current.trust(maxFrameBytes)) throw new Error("more came than a greeting")
    const { epoch, pid, version } = welcome
    return {
      line: current,
      welcome,
      receipt: { protocol, address, primary: { pid, epoch, version } },
      proof: {
        _tag: "Proof",
        mac: wire.mac(owner.key, "client", transcript),
        pid: process.pid,
        version: null,
        maxFrameBytes
      }
    }
  }
  const greeted = greeting()
  try {
    return await Promise.race([greeted, late])
  } catch (cause) {
    connecting.abort()
    opened?.close()
    // Who is given up may be about to end the greeting.
    greeted.then(
      ({ line }) => line.close(),
      () => opened?.close()
    )
    throw cause
  } finally {
    stop()
    signal?.removeEventListener("abort", giveUp)
  }
}

const dial = async (protocol: string, address: string, directory: string, signal: AbortSignal): Promise<line.Line> => {
  const isWindows = process.platform === "win32"
  const target = ((): (NetConnectOpts & { readonly close?: () => void }) | undefined => {
    if (protocol === "tcp") {
      const port = addresses.tcp(address)
      return port && { ...port, noDelay: true }
    }
    if (protocol === "pipe" && isWindows) {
      const pipe = addresses.pipe(protocol, address)
      return pipe === undefined ? undefined : { path: pipe }
    }
    const file = protocol === "unix" && !isWindows ? addresses.unix(protocol, address, directory) : undefined
    return file === undefined ? undefined : boundPath.open(path.dirname(file), path.basename(file))
  })()
  if (target === undefined) throw new Error(`${address} is no socket here`)
  try {
    return await line.open(target, signal)
  } finally {
    target.close?.()
  }
}

/** What the primary has said about the message, on any connection. */
interface Progress {
  started: boolean
}

// Sends the request, or without one asks what became of it and has it struck off.
const talk = (
  { onOutput, signal, timeoutMillis: millis }: Options,
  { line, proof, receipt }: Session,
  message: string,
  progress: Progress,
  request?: Uint8Array | undefined
): Promise<Answered | Failed> =>
  new Promise((resolve, reject) => {
    const tickMillis = runningTime.tickMillis(millis)
    const strikeMillis = millis - Math.min(1_000, millis / 4)
    const ran = runningTime.start(runningTime.nodeClock, tickMillis)
    const { now } = ran
    let heard = 0
    let accepted = request === undefined
    let asked = false
    let consuming = false
    let pinged = false
    // What is asked about was handed over on another connection.
    let handed = request === undefined
    let lost: string | undefined
    let over = false
    const inbox: Array<Uint8Array> = []

    const close = () => {
      over = true
      clearInterval(timer)
      clearImmediate(turn)
      grace?.()
      signal?.removeEventListener("abort", onAbort)
      line.close()
    }
    const finish = (ending: Pick<Answered, "_tag" | "exit"> | Pick<Failed, "_tag" | "reason" | "detail">) => {
      if (over) return
      close()
      resolve({ ...ending, ...receipt, message } as Answered | Failed)
    }
    const failed = (_tag: Failed["_tag"], reason: string, detail: string) => finish({ _tag, reason, detail })
    const start = () => {
      accepted = true
      progress.started = true
    }
    // A primary that had accepted it contradicts itself: then nothing is certain.
    const declined = (reason: string, detail: string) =>
      progress.started
        ? failed("Unknown", reason, `the primary had accepted the message, and now says: ${detail}`)
        : failed("NotDelivered", reason, detail)
    const timedOut = (_tag: Failed["_tag"], phase: "accept" | "reply") =>
      failed(_tag, phase, `process ${receipt.primary.pid} did not answer within ${millis} ms`)

    const onAnswer = (answer: answers.Answer) => {
      if (answer._tag === "Welcome") return
      if (answer._tag === "Refused" && answer.id === undefined) {
        // The connection as a whole: what is not accepted was not looked at, unless the primary stumbled over it.
        const isCertain = !accepted && answer.reason !== "Malformed"
        return failed(isCertain ? "NotDelivered" : "Unknown", answer.reason, answer.detail ?? answer.reason)
      }
      if (answer.id !== message) return
      switch (answer._tag) {
        case "Exit":
          return finish({ _tag: "Answered", exit: answer.exit })
        case "Accepted":
          return start()
        case "Output":
          start()
          return onOutput?.(answer.stream, Buffer.from(answer.chunk, "base64"))
        case "Refused":
          // The question was declined, which says nothing of the message.
          if (request === undefined) return failed("Unknown", answer.reason, answer.detail ?? answer.reason)
          return declined(answer.reason, answer.detail ?? "the primary declined the message")
        case "Unsupported":
          if (answer.tag === "Request" && request !== undefined)
            declined("Unsupported", "the primary does not know Request")
          else if (answer.tag === "Status" && request === undefined) {
            failed("Unknown", "Unsupported", "the primary does not know Status")
          }
          return
        case "State":
          return onState(answer)
      }
    }
    const onState = ({ exit, state }: Extract<answers.Answer, { readonly _tag: "State" }>) => {
      if (state === "running") start()
      else if (state === "struck") {
        if (asked && !progress.started) timedOut("NotDelivered", "accept")
        else declined("Disconnected", "the primary never started it, and will not")
      } else if (state === "done") {
        start()
        if (exit !== undefined) finish({ _tag: "Answered", exit })
        else failed("Unknown", "Disconnected", "its handler ended, but the primary keeps its exit no more")
      } else if (state === "unknown" && request === undefined) {
        failed("Unknown", "Disconnected", "the primary cannot tell what became of it")
      }
    }

    const drain = () => {
      while (!consuming && !over && inbox.length > 0) {
        const answer = answers.read(inbox.shift()!)
        heard = now()
        pinged = false
        if (typeof answer === "string") return failed(handed ? "Unknown" : "NotDelivered", "Malformed", answer)
        if (answer === undefined) continue
        try {
          const busy = onAnswer(answer)
          if (busy !== undefined) consume(Promise.resolve(busy))
        } catch (cause) {
          giveUp(cause)
        }
      }
      if (lost !== undefined && !consuming) failed(handed ? "Unknown" : "NotDelivered", "Disconnected", lost)
    }
    // The primary waits while the caller takes its time.
    const consume = (busy: Promise<void>) => {
      consuming = true
      line.pause(true)
      busy.then(() => {
        consuming = false
        heard = now()
        if (over) return
        line.pause(false)
        drain()
      }, giveUp)
    }
    // The caller's own defect ends the caller's request.
    const giveUp = (cause: unknown) => {
      if (over) return
      line.send({ _tag: "Interrupt", id: message })
      close()
      reject(cause)
    }

    let grace: (() => void) | undefined
    const onAbort = () => {
      line.send({ _tag: "Interrupt", id: message })
      grace = runningTime.limit(interruptMillis, () => failed("Unknown", "Interrupted", "its sender was interrupted"))
    }
    signal?.addEventListener("abort", onAbort, { once: true })

    const since = 0
    const judge = () => {
      const age = now()
      if (over || consuming) return
      if (age - heard >= millis / 4 && !pinged) {
        pinged = true
        line.send({ _tag: "Ping" })
      }
      if (accepted) {
        if (age - heard >= millis) timedOut("Unknown", "reply")
      } else if (age - since >= millis) {
        timedOut("Unknown", "accept")
      } else if (age - since >= strikeMillis && !asked) {
        asked = true
        line.send({ _tag: "Status", id: message, strike: true })
      }
    }
    let turn: NodeJS.Immediate | undefined
    const timer = setInterval(() => {
      // After a standstill what has arrived is read first.
      if (ran.tick(tickMillis)) turn = setImmediate(judge)
      else judge()
    }, tickMillis)

    line.listen(
      (frames) => {
        inbox.push(...frames)
        drain()
      },
      (detail) => {
        lost = detail
        drain()
      }
    )
    if (over) return
    // From here on the primary may have it.
    handed = true
    line.send(proof, request ?? { _tag: "Status", id: message, strike: true })
  })
