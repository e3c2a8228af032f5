import { assert, describe, it } from "@effect/vitest"
import { deepStrictEqual } from "@effect/vitest/utils"
import * as Either from "effect/Either"
import * as FastCheck from "effect/FastCheck"
import * as Schema from "effect/Schema"
import { commonWire, Endpoint } from "effect-single-instance/Endpoint"

const decode = Schema.decodeUnknownEither(Endpoint)
const at = (address: unknown) => decode({ protocol: "p", address, wire: [1, 1] })

describe("Endpoint", () => {
  it.prop("decodes what it encodes, through JSON", [Endpoint], ([endpoint]) => {
    const encoded = JSON.parse(JSON.stringify(Schema.encodeSync(Endpoint)(endpoint)))
    deepStrictEqual(Schema.decodeUnknownSync(Endpoint)(encoded), endpoint)
  })

  it("has a URI for an address", () => {
    const addresses = [
      "unix:s.00112233445566778899aabbccddeeff",
      "unix:///run/user/1000/x.sock",
      "pipe://./pipe/effect-single-instance-0011",
      "file:mail",
      "shm:///dev/shm/x",
      "tcp://127.0.0.1:4711",
      "tcp://[::1]:4711",
      "in-memory://id",
      "a+b.c-1:x"
    ]
    for (const address of addresses) {
      deepStrictEqual(at(address), Either.right(new Endpoint({ protocol: "p", address, wire: [1, 1] })))
    }
  })

  it("has no other address", () => {
    for (const address of [
      "",
      "unix",
      "unix:",
      ":x",
      "/run/x.sock",
      "C:\\x",
      "1x:y",
      "Unix:x",
      "unix:a b",
      "unix:x\n",
      1,
      null
    ]) {
      const decoded = at(address)
      assert.isTrue(Either.isLeft(decoded), String(address))
      if (typeof address === "string" && address !== "" && Either.isLeft(decoded)) {
        assert.include(decoded.left.message, "is a URI, such as unix:s.1")
      }
    }
    assert.isTrue(Either.isLeft(decode({ protocol: "", address: "unix:x", wire: [1, 1] })))
    for (const wire of [[1], [1.5, 2], ["1", 1], null]) {
      assert.isTrue(Either.isLeft(decode({ protocol: "p", address: "unix:x", wire })))
    }
  })

  it("ignores the fields of later versions", () => {
    const { right } = Either.mapLeft(
      decode({ protocol: "unix", address: "unix:x", wire: [1, 2], compressed: true }),
      () => undefined
    ) as Either.Right<undefined, Endpoint>
    deepStrictEqual(right, new Endpoint({ protocol: "unix", address: "unix:x", wire: [1, 2] }))
  })

  const range = FastCheck.tuple(FastCheck.integer({ min: -2, max: 6 }), FastCheck.integer({ min: -2, max: 6 }))
  it.prop("speaks the highest wire version that both sides know", [range, range], ([ours, theirs]) => {
    const known = [...Array(9).keys()].map((index) => index - 2)
    const both = known.filter((wire) => [ours, theirs].every(([lowest, highest]) => lowest <= wire && wire <= highest))
    assert.strictEqual(commonWire(ours, theirs), both.at(-1))
    assert.strictEqual(commonWire(theirs, ours), both.at(-1))
  })
})
