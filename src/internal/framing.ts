/**
 * Frames on a stream of bytes: 4 bytes of big-endian length, then the body. A frame may be empty.
 *
 * @since 0.1.0
 */

/**
 * The bytes before each body.
 *
 * @since 0.1.0
 * @category constants
 */
export const headerBytes = 4

// What a header may claim of memory before the bytes that it announces arrive.
const trusted = 64 * 1024

/**
 * Writes the header of a body of `length` bytes.
 *
 * @since 0.1.0
 * @category encoding
 */
export const writeHeader = (target: Uint8Array, offset: number, length: number): void => {
  target[offset] = length >>> 24
  target[offset + 1] = length >>> 16
  target[offset + 2] = length >>> 8
  target[offset + 3] = length
}

/**
 * One frame with its header, copied.
 *
 * @since 0.1.0
 * @category encoding
 */
export const encode = (body: Uint8Array): Buffer => {
  const frame = Buffer.allocUnsafe(headerBytes + body.length)
  writeHeader(frame, 0, body.length)
  frame.set(body, headerBytes)
  return frame
}

/**
 * Cuts a stream of bytes into frames, however it was split on the way. Only the frame that is incomplete is kept, in at
 * most 64 KiB or four times the bytes that arrived of it, and never more than `maxFrameBytes`; of a peer that is trusted in
 * as many bytes as it announced. A frame that lies in one chunk is a view of it.
 *
 * @since 0.1.0
 * @category decoding
 */
export class Decoder {
  /**
   * Whether the peer may claim memory before what it announces has arrived: large frames are copied once less.
   *
   * @since 0.1.0
   */
  trusting = false
  private header = 0
  private headerLength = 0
  // The length of the body that is due; -1 while its header is incomplete.
  private due = -1
  private body: Buffer = empty
  private length = 0
  private whole: Buffer | undefined

  /**
   * @param maxFrameBytes the largest body that is accepted, in bytes.
   *
   * @since 0.1.0
   */
  constructor(readonly maxFrameBytes: number) {}

  /**
   * The memory that the incomplete frame holds, in bytes.
   *
   * @since 0.1.0
   */
  get buffered(): number {
    return this.body.length
  }

  /**
   * The length that the header of the incomplete frame announced, in bytes; 0 where there is none.
   *
   * @since 0.1.0
   */
  get announced(): number {
    return Math.max(this.due, 0)
  }

  /**
   * Whether the stream may end here: no frame has begun.
   *
   * @since 0.1.0
   */
  get idle(): boolean {
    return this.due < 0 && this.headerLength === 0
  }

  /**
   * Appends the bodies of the frames that `chunk` completes to `frames`; the chunk is the decoder's from then on. Answers
   * the length that a header announced where it is above the limit, and -1 otherwise. The stream cannot be read on after
   * a refusal.
   *
   * @since 0.1.0
   */
  push(chunk: Uint8Array, frames: Array<Uint8Array>): number {
    let offset = 0
    while (true) {
      if (this.due < 0) {
        if (offset === chunk.length) return -1
        this.header = this.header * 256 + chunk[offset++]!
        if (++this.headerLength < headerBytes) continue
        const announced = this.header
        this.header = 0
        this.headerLength = 0
        if (announced > this.maxFrameBytes) return announced
        this.due = announced
      }
      const end = offset + this.due - this.length
      if (end > chunk.length) {
        this.keep(chunk, offset)
        return -1
      }
      if (this.length === 0) {
        frames.push(chunk.subarray(offset, end))
      } else {
        this.grow(this.due)
        this.body.set(chunk.subarray(offset, end), this.length)
        frames.push(this.body)
        this.whole = this.body
        this.body = empty
        this.length = 0
      }
      this.due = -1
      offset = end
    }
  }

  /**
   * The last frame, where it has memory of its own; once, so that it is not kept.
   *
   * @since 0.1.0
   */
  own(): Buffer | undefined {
    const { whole } = this
    this.whole = undefined
    return whole
  }

  private keep(chunk: Uint8Array, offset: number): void {
    const length = this.length + chunk.length - offset
    if (length === this.length) return
    if (length > this.body.length) {
      this.grow(this.trusting ? this.due : Math.min(this.due, Math.max(trusted, length, this.body.length * 4)))
    }
    this.body.set(chunk.subarray(offset), this.length)
    this.length = length
  }

  private grow(size: number): void {
    if (size === this.body.length) return
    // Not from Buffer's pool: a frame that is kept must not keep its neighbours.
    const fits = size <= spare.length && size >= spare.length / 2
    const body = fits ? spare.subarray(0, size) : Buffer.allocUnsafeSlow(size)
    if (fits) spare = empty
    this.body.copy(body, 0, 0, this.length)
    this.body = body
  }
}

const empty = Buffer.alloc(0)

// What all decoders keep together of memory that is used no more: a new piece costs more than to fill it.
const spareBytes = 1024 * 1024
let spare: Buffer = empty

/**
 * Takes the memory of a frame that a decoder says is its own, and that nobody uses any more.
 *
 * @since 0.1.0
 * @category decoding
 */
export const reuse = (own: Buffer): void => {
  if (own.buffer.byteLength > spare.length && own.buffer.byteLength <= spareBytes) spare = Buffer.from(own.buffer)
}
