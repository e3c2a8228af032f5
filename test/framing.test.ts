import { assert, describe, it } from "@effect/vitest"
import { FastCheck as fc } from "effect"
import * as framing from "../src/internal/framing.js"
import { bytes } from "./contract/Protocol.js"

/** Cuts `stream` at the given places, which are taken modulo its length. */
const cut = (stream: Buffer, places: ReadonlyArray<number>): Array<Buffer> => {
  const sorted = [0, ...places.map((place) => place % (stream.length + 1)), stream.length].sort((a, b) => a - b)
  return sorted.slice(1).map((end, i) => Buffer.from(stream.subarray(sorted[i], end)))
}

const decode = (limit: number, chunks: Iterable<Buffer>): Array<Buffer> => {
  const decoder = new framing.Decoder(limit)
  const frames: Array<Uint8Array> = []
  for (const chunk of chunks) assert.strictEqual(decoder.push(chunk, frames), -1)
  assert.isTrue(decoder.idle)
  assert.strictEqual(decoder.buffered, 0)
  return frames.map((frame) => Buffer.from(frame))
}

const header = (length: number): Buffer => {
  const target = Buffer.alloc(4)
  target.writeUInt32BE(length)
  return target
}

describe("framing", () => {
  it("writes the length in big-endian order before the body", () => {
    assert.deepStrictEqual([...framing.encode(Buffer.from("ab"))], [0, 0, 0, 2, 97, 98])
    assert.deepStrictEqual([...framing.encode(new Uint8Array())], [0, 0, 0, 0])
    const target = Buffer.alloc(6)
    framing.writeHeader(target, 1, 0xfedcba98)
    assert.deepStrictEqual([...target], [0, 0xfe, 0xdc, 0xba, 0x98, 0])
  })

  it("gives any frames back, however they are cut", () => {
    const frames = fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 12 })
    fc.assert(
      fc.property(frames, fc.array(fc.nat(), { maxLength: 30 }), (frames, places) => {
        const stream = Buffer.concat(frames.map(framing.encode))
        const expected = frames.map((frame) => Buffer.from(frame))
        assert.deepStrictEqual(decode(300, cut(stream, places)), expected)
        assert.deepStrictEqual(
          decode(
            300,
            Array.from(stream, (byte) => Buffer.of(byte))
          ),
          expected
        )
        assert.deepStrictEqual(decode(300, [stream]), expected)
      }),
      { numRuns: 300 }
    )
  })

  it("gives a frame above every growth step back", () => {
    const body = Buffer.from(bytes(5_000_000))
    const stream = Buffer.concat([framing.encode(body), framing.encode(Buffer.from("next"))])
    for (const size of [1000, 65_536, 70_001, 4_999_999, 5_000_003]) {
      const chunks = Array.from({ length: Math.ceil(stream.length / size) }, (_, i) =>
        stream.subarray(i * size, (i + 1) * size)
      )
      const [first, second, ...rest] = decode(5_000_000, chunks)
      assert.isTrue(first?.equals(body), `chunks of ${size}`)
      assert.strictEqual(second?.toString(), "next")
      assert.lengthOf(rest, 0)
    }
  })

  it("takes the limit exactly, and refuses one byte more at the header", () => {
    const decoder = new framing.Decoder(1000)
    const frames: Array<Uint8Array> = []
    assert.strictEqual(decoder.push(framing.encode(bytes(1000)), frames), -1)
    assert.lengthOf(frames, 1)
    assert.strictEqual(decoder.push(Buffer.concat([framing.encode(bytes(3)), header(1001)]), frames), 1001)
    assert.deepStrictEqual(
      frames.map((frame) => frame.length),
      [1000, 3]
    )
    assert.strictEqual(new framing.Decoder(0x7fff_ffff).push(header(0xffff_ffff), frames), 0xffff_ffff)
  })

  it("refuses a header that arrives byte by byte with its last byte", () => {
    const decoder = new framing.Decoder(1000)
    const answers = [...header(1001)].map((byte) => decoder.push(Buffer.of(byte), []))
    assert.deepStrictEqual(answers, [-1, -1, -1, 1001])
  })

  it("allocates for what arrived, not for what was announced", () => {
    const decoder = new framing.Decoder(16 * 1024 * 1024)
    decoder.push(header(16 * 1024 * 1024), [])
    assert.strictEqual(decoder.buffered, 0)
    assert.strictEqual(decoder.announced, 16 * 1024 * 1024)
    decoder.push(Buffer.alloc(10), [])
    assert.isAtMost(decoder.buffered, 64 * 1024)
    decoder.push(Buffer.alloc(64 * 1024), [])
    assert.isAtMost(decoder.buffered, 4 * 64 * 1024)
    assert.isFalse(decoder.idle)
  })

  it("uses memory again that is given back, and only for a frame that needs much of it", () => {
    const cutOf = (decoder: framing.Decoder, length: number) => {
      const stream = framing.encode(bytes(length))
      const frames: Array<Uint8Array> = []
      decoder.push(stream.subarray(0, 10), frames)
      decoder.push(Buffer.concat([stream.subarray(10), framing.encode(bytes(3))]), frames)
      assert.deepStrictEqual(
        frames.map((frame) => Buffer.from(frame)),
        [bytes(length), bytes(3)].map((body) => Buffer.from(body))
      )
      const own = decoder.own()
      assert.strictEqual(own, frames[0])
      // Once.
      assert.isUndefined(decoder.own())
      return own!
    }
    const decoders = [new framing.Decoder(1_000_000), new framing.Decoder(1_000_000)] as const
    for (const decoder of decoders) decoder.trusting = true
    const first = cutOf(decoders[0], 900_000)
    framing.reuse(first)
    const small = cutOf(decoders[1], 1_000)
    assert.notStrictEqual(small.buffer, first.buffer)
    const second = cutOf(decoders[1], 800_000)
    assert.strictEqual(second.buffer, first.buffer)
    assert.notStrictEqual(cutOf(decoders[0], 900_000).buffer, first.buffer)
    framing.reuse(second)
    assert.strictEqual(cutOf(decoders[0], 900_000).buffer, first.buffer)
  })

  it("never fails nor holds more than its limit, whatever arrives", () => {
    const garbage = fc.uint8Array({ maxLength: 200 })
    // Headers that are small enough for the decoder to go on, too.
    const plausible = fc.nat({ max: 700 }).map((length) => new Uint8Array(header(length)))
    fc.assert(
      fc.property(fc.array(fc.oneof(garbage, plausible), { maxLength: 40 }), (chunks) => {
        const decoder = new framing.Decoder(600)
        const frames: Array<Uint8Array> = []
        let taken = 0
        for (const chunk of chunks) {
          taken += chunk.length
          const answer = decoder.push(Buffer.from(chunk), frames)
          assert.isAtMost(decoder.buffered, 600)
          if (answer >= 0) {
            assert.isAbove(answer, 600)
            break
          }
        }
        const given = frames.reduce((sum, frame) => sum + frame.length + framing.headerBytes, 0)
        assert.isAtMost(given, taken)
        assert.isTrue(frames.every((frame) => frame.length <= 600))
      }),
      { numRuns: 500 }
    )
  })

  it("is linear in the bytes of a large frame that arrives in small pieces", () => {
    // What it copies is what it costs; time would tell of the machine.
    const copied = (length: number) => {
      const piece = Buffer.alloc(256)
      const decoder = new framing.Decoder(length)
      const frames: Array<Uint8Array> = []
      let bytes = 0
      const { copy, set } = Buffer.prototype
      Buffer.prototype.set = function (from: ArrayLike<number>, at?: number) {
        bytes += from.length
        set.call(this, from, at)
      }
      Buffer.prototype.copy = function (to: Uint8Array, at?: number, start?: number, end?: number) {
        const count = copy.call(this, to, at, start, end)
        bytes += count
        return count
      }
      try {
        decoder.push(header(length), frames)
        for (let sent = 0; sent < length; sent += piece.length) decoder.push(piece, frames)
      } finally {
        Object.assign(Buffer.prototype, { copy, set })
      }
      assert.lengthOf(frames, 1)
      return bytes
    }
    for (const length of [1024 * 1024, 16 * 1024 * 1024]) {
      assert.isAtLeast(copied(length), length)
      assert.isBelow(copied(length), 3 * length)
    }
  })
})
