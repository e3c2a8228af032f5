/**
 * A stream of bytes through memory that two processes share: one ring for each direction. The socket beside it sets it up,
 * wakes a side that sleeps, and ends with the peer.
 */
import type * as net from "node:net"
import { Duplex } from "node:stream"
import * as errno from "./errno.js"
import type { Native, Offer, Segment } from "./native.js"

// The bytes of one ring: a power of two, so that positions run on modulo 2^32.
const capacity = 1024 * 1024
// A page: what either side publishes, each word on cache lines of its own.
const controlBytes = 4096
const words = 32
const head = 0
const tail = words
const sleeping = 2 * words
const waiting = 3 * words
const ringWords = 4 * words

/** The size of a segment in bytes. */
export const segmentBytes = controlBytes + 2 * capacity

// What is copied before the other side is told, so that both sides copy at the same time.
const pieceBytes = 128 * 1024

// Looking again costs a turn of the event loop, being woken several; beyond that nobody may burn the processor. Spins that
// found nothing three times in a row are tried again at every 32nd wait only.
const spinMillis = 0.1
const fruitlessSpins = 3
const probeEvery = 32

const greeting = "ESIR1 "
const maxSetup = 255
const bell = Buffer.of(1)
const yes = Buffer.of(2)
const no = Buffer.of(3)

/** What is needed of the native code, when it is needed. */
export interface Options {
  readonly native: () => Native
  /** Of the instance, for segments that are files. */
  readonly directory: string
  /** How long a side that waits looks again before it sleeps, in milliseconds: 0.1 if left out. */
  readonly spinMillis?: number | undefined
}

const corrupted = () => errno.make("EPROTO", "the peer's position in the ring is impossible")

// One direction, as its producer sees it. Only the consumer's position is read from the memory, and not believed blindly.
class Outgoing {
  private position = 0

  constructor(
    private readonly cells: Int32Array,
    private readonly at: number,
    private readonly bytes: Uint8Array
  ) {}

  get room(): number {
    const used = (this.position - Atomics.load(this.cells, this.at + tail)) >>> 0
    if (used > capacity) throw corrupted()
    return capacity - used
  }

  /** Takes as many bytes as there is room for; answers how many. */
  put(chunk: Uint8Array, from: number): number {
    const length = Math.min(this.room, chunk.length - from, pieceBytes)
    const start = this.position & (capacity - 1)
    const first = Math.min(length, capacity - start)
    this.bytes.set(chunk.subarray(from, from + first), start)
    if (first < length) this.bytes.set(chunk.subarray(from + first, from + length), 0)
    this.position = (this.position + length) | 0
    Atomics.store(this.cells, this.at + head, this.position)
    return length
  }

  /** Whether the consumer sleeps and is to be woken; its wish is taken back with that. */
  claimsBell(): boolean {
    return Atomics.exchange(this.cells, this.at + sleeping, 0) === 1
  }

  /** Asks to be woken when there is room. */
  await(wanted: boolean): void {
    Atomics.store(this.cells, this.at + waiting, wanted ? 1 : 0)
  }
}

// One direction, as its consumer sees it.
class Incoming {
  private position = 0
  // It grows with the traffic: many connections may be idle.
  private copied: Buffer = Buffer.alloc(0)

  constructor(
    private readonly cells: Int32Array,
    private readonly at: number,
    private readonly bytes: Uint8Array
  ) {}

  private get available(): number {
    const used = (Atomics.load(this.cells, this.at + head) - this.position) >>> 0
    if (used > capacity) throw corrupted()
    return used
  }

  /** Copies out what is there, up to the next time: what is looked at must not change any more. */
  take(): Buffer | undefined {
    const length = Math.min(this.available, pieceBytes)
    if (length === 0) return undefined
    if (length > this.copied.length) {
      this.copied = Buffer.allocUnsafeSlow(Math.min(pieceBytes, Math.max(length, 4 * this.copied.length)))
    }
    const chunk = this.copied.subarray(0, length)
    const start = this.position & (capacity - 1)
    const first = Math.min(length, capacity - start)
    chunk.set(this.bytes.subarray(start, start + first), 0)
    if (first < length) chunk.set(this.bytes.subarray(0, length - first), first)
    this.position = (this.position + length) | 0
    Atomics.store(this.cells, this.at + tail, this.position)
    return chunk
  }

  /** Whether the producer waits for room and is to be woken, not for a few bytes; its wish is taken back with that. */
  claimsBell(): boolean {
    return (
      Atomics.load(this.cells, this.at + waiting) === 1 &&
      this.available <= capacity / 2 &&
      Atomics.exchange(this.cells, this.at + waiting, 0) === 1
    )
  }

  /** Asks to be woken when something is there. */
  await(wanted: boolean): void {
    Atomics.store(this.cells, this.at + sleeping, wanted ? 1 : 0)
  }
}

interface Rings {
  readonly incoming: Incoming
  readonly outgoing: Outgoing
  readonly unmap: () => void
  readonly yieldProcessor: () => void
}

interface Pending {
  readonly chunk: Uint8Array
  from: number
  readonly done: (cause?: Error | null) => void
}

/**
 * The stream. A client offers memory and emits `connect` when its server has mapped it, or `error` with the code of a system
 * call. Ends and closes as a socket does.
 */
export class SharedRings extends Duplex {
  private rings: Rings | undefined
  // While it is set up: whether the peer is there, what it has said, what it was offered.
  private reached: boolean
  private setup = ""
  private offer: Offer | undefined
  // Whether the stream wants to be given bytes, and what it wants to get rid of.
  private wanted = false
  private pending: Pending | undefined
  private ended = false
  private spinning = false
  private spinUntil = 0
  private fruitless = 0
  private waits = 0
  private sleptAt = 0
  private borrower: ((chunk: Buffer) => void) | undefined
  private lending = false

  constructor(
    private readonly carrier: net.Socket,
    private readonly role: "client" | "server",
    private readonly options: Options
  ) {
    super({ allowHalfOpen: false })
    carrier.on("error", (cause) => (this.reached ? this.leave() : this.destroy(cause)))
    carrier.on("end", () => this.leave())
    carrier.on("close", () => this.leave())
    carrier.on("data", (bytes: Buffer) => this.hear(bytes))
    carrier.resume()
    this.reached = role === "server"
    carrier.once("connect", () => {
      this.reached = true
      this.propose()
    })
  }

  /** Whether it is too early for an orderly end. */
  get connecting(): boolean {
    return this.role === "client" && this.rings === undefined && !this.destroyed
  }

  // -----------------------------------------------------------------------------------
  // setting up
  // -----------------------------------------------------------------------------------

  private propose(): void {
    try {
      this.offer = this.options.native().create(segmentBytes, this.options.directory)
      this.carrier.write(`${greeting}${this.offer.reference}\n`)
    } catch (cause) {
      this.destroy(errno.make("ENOTSUP", `memory cannot be shared: ${errno.describe(cause)}`))
    }
  }

  private settle(): void {
    const { offer } = this
    this.offer = undefined
    if (offer === undefined) return
    offer.withdraw()
    if (this.rings === undefined) offer.unmap()
  }

  private hear(bytes: Buffer): void {
    if (this.destroyed) return
    if (this.rings !== undefined) {
      // Woken so soon, it would have found it by spinning.
      if (performance.now() - this.sleptAt < 2 * spinMillis) this.fruitless = 0
      this.advance()
    } else if (this.role === "client") {
      this.answered(bytes[0]!)
    } else {
      this.offered(bytes)
    }
  }

  private answered(answer: number): void {
    const { offer } = this
    if (offer === undefined) return
    if (answer !== yes[0]) {
      this.destroy(errno.make("ENOTSUP", "the primary cannot map the memory"))
      return
    }
    this.attach(offer, 0)
    this.settle()
    this.emit("connect")
    this.advance()
  }

  private offered(bytes: Buffer): void {
    this.setup += bytes.toString("latin1")
    const end = this.setup.indexOf("\n")
    if (end < 0 && this.setup.length <= maxSetup) return
    if (end < 0 || end > maxSetup || !this.setup.startsWith(greeting)) {
      this.destroy(errno.make("EPROTO", "the peer does not set up shared memory"))
      return
    }
    try {
      const { native, directory } = this.options
      this.attach(native().open(this.setup.slice(greeting.length, end), segmentBytes, directory), 1)
    } catch {
      this.carrier.write(no, () => this.destroy())
      return
    }
    this.carrier.write(yes)
    this.advance()
  }

  // The client writes to the first ring, the server to the second.
  private attach({ memory, unmap }: Segment, writing: 0 | 1): void {
    const cells = new Int32Array(memory, 0, controlBytes / 4)
    const ring = (index: number) =>
      [cells, index * ringWords, new Uint8Array(memory, controlBytes + index * capacity, capacity)] as const
    this.rings = {
      outgoing: new Outgoing(...ring(writing)),
      incoming: new Incoming(...ring(1 - writing)),
      unmap,
      yieldProcessor: this.options.native().yieldProcessor
    }
  }

  // -----------------------------------------------------------------------------------
  // the stream
  // -----------------------------------------------------------------------------------

  /** Gives each chunk to `take`, in memory that is another one's when that has returned, instead of emitting it. */
  lend(take: (chunk: Buffer) => void): void {
    this.borrower = take
    this.resume()
  }

  override resume(): this {
    super.resume()
    // The stream itself asks only once, as nothing is pushed.
    process.nextTick(() => this._read())
    return this
  }

  override _read(): void {
    this.wanted = true
    this.advance()
  }

  override _write(chunk: Uint8Array, _encoding: string, done: Pending["done"]): void {
    this.pending = { chunk, from: 0, done }
    this.advance()
  }

  override _final(done: (cause?: Error | null) => void): void {
    this.carrier.end()
    done()
  }

  override _destroy(cause: Error | null, done: (cause?: Error | null) => void): void {
    const { carrier, rings } = this
    // Nothing may touch the memory from here on.
    this.rings = undefined
    rings?.unmap()
    this.settle()
    carrier.destroy()
    if (carrier.closed) done(cause)
    else carrier.once("close", () => done(cause))
  }

  // The peer is gone; what it has written is still to be read.
  private leave(): void {
    if (this.ended || this.destroyed) return
    this.ended = true
    if (this.rings === undefined) this.destroy(errno.make("ECONNRESET", "the peer left while memory was set up"))
    else this.advance()
  }

  // -----------------------------------------------------------------------------------
  // moving bytes, and waiting for them
  // -----------------------------------------------------------------------------------

  // Called whenever something may have changed.
  private advance(): void {
    try {
      this.move()
      if (this.spinning || !this.isAwaiting) return
      if (this.fruitless < fruitlessSpins || ++this.waits % probeEvery === 0) {
        this.spinning = true
        this.spinUntil = performance.now() + (this.options.spinMillis ?? spinMillis)
        setImmediate(this.spin)
      } else {
        this.sleep()
      }
    } catch (cause) {
      this.destroy(cause as Error)
    }
  }

  private get isAwaiting(): boolean {
    return this.rings !== undefined && !this.ended && (this.wanted || this.pending !== undefined)
  }

  private readonly spin = (): void => {
    try {
      this.rings?.yieldProcessor()
      if (this.move()) {
        this.fruitless = 0
        this.spinning = false
        this.advance()
      } else if (this.isAwaiting && performance.now() < this.spinUntil) {
        setImmediate(this.spin)
      } else {
        this.fruitless++
        this.spinning = false
        this.sleep()
      }
    } catch (cause) {
      this.destroy(cause as Error)
    }
  }

  // What comes after the last look and before the peer knows is looked for once more.
  private sleep(): void {
    this.sleptAt = performance.now()
    while (this.isAwaiting) {
      this.await(true)
      if (!this.move()) return
      this.await(false)
    }
  }

  private await(wanted: boolean): void {
    this.rings?.incoming.await(wanted && this.wanted)
    this.rings?.outgoing.await(wanted && this.pending !== undefined)
  }

  /** Whether anything could be moved. */
  private move(): boolean {
    const received = this.receive()
    return this.transmit() || received
  }

  private receive(): boolean {
    let moved = false
    // Who is lent a chunk may have something to write.
    while (this.wanted && !this.lending && this.borrower !== undefined && this.rings !== undefined) {
      const chunk = this.rings.incoming.take()
      if (chunk === undefined) break
      moved = true
      if (this.rings.incoming.claimsBell()) this.ring()
      this.lending = true
      try {
        this.borrower(chunk)
      } finally {
        this.lending = false
      }
      this.wanted = !this.isPaused()
    }
    if (this.wanted && this.ended && this.rings !== undefined) {
      this.wanted = false
      this.push(null)
    }
    return moved
  }

  private transmit(): boolean {
    const { pending } = this
    let moved = false
    while (this.pending !== undefined && this.pending === pending && this.rings !== undefined) {
      const { chunk, done } = this.pending
      // Nobody reads it any more; what became of a message is asked elsewhere.
      const length = this.ended ? chunk.length : this.rings.outgoing.put(chunk, this.pending.from)
      if (length === 0 && chunk.length > 0) break
      moved = true
      if (this.rings.outgoing.claimsBell()) this.ring()
      this.pending.from += length
      if (this.pending.from < chunk.length) continue
      this.pending = undefined
      done()
    }
    return moved
  }

  // At most one waits to go out, however often the peer asks: whoever hears it looks at all that is there by then.
  private ring(): void {
    if (!this.ended && this.carrier.writable && this.carrier.writableLength === 0) this.carrier.write(bell)
  }
}
