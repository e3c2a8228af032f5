import { assert, describe, it } from "@effect/vitest"
import * as Either from "effect/Either"
import * as FastCheck from "effect/FastCheck"
import * as Schema from "effect/Schema"
import { folderName, InstanceId, maxLength } from "effect-single-instance/InstanceId"

const legal = /^[a-z0-9-]{1,49}$/

// Any code units, so also halves of surrogate pairs.
const id = FastCheck.array(FastCheck.integer({ min: 0, max: 0xffff }), { minLength: 1, maxLength: 60 }).map((units) =>
  String.fromCharCode(...units)
)
const ascii = FastCheck.string({ minLength: 1, unit: FastCheck.constantFrom("a", "A", "b", "-", ".", " ", "/", "_") })
const any = FastCheck.oneof(id, ascii, FastCheck.string({ minLength: 1, unit: "grapheme" }))

// SHA-256 over UTF-16LE by Python: hashlib.sha256(s.encode("utf-16le", "surrogatepass")).hexdigest()[:32]
const vectors: ReadonlyArray<readonly [string, string]> = [
  ["com.example.editor", "com-example-edit-b518534844326b50408118d8986dd2a1"],
  ["a", "a-ffe9aaeaa2a2d5048174df0b80599ef0"],
  ["A", "a-e61c21ca716b3b1aefb7d1198f83679c"],
  ["con", "con-dad45e82eb69ae12b189b7e78b85465e"],
  ["nul.txt", "nul-txt-0334b712f3971f4590ae2ba4d3ccf93f"],
  ["日本語", "7999f45aba62c81764b530f21d639a68"],
  ["\ud800", "205022e3428b7c8276cf247b36e4e512"],
  ["\udfff", "a8a5f90979d76e4fc63744c5592e5f6c"],
  ["🙂", "f0a763c3a3285128de06f8570d3ddf12"],
  ["-", "24ea1ebd0bafd39482db46ec2d8959e6"],
  ["--a--", "a-f8dc11c246545b87581448cd61a09236"],
  ["..", "c7d10ceafb0974092160e3ed2f2c029a"],
  ["/etc/passwd", "etc-passwd-c93e5506efe89f9e4893a00fdbe09450"],
  ["a\0b", "a-b-d06c13d806836ab3011b178376b23276"],
  ["ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnop-8c3bbefbf4450eeece8bf9126acc7f9a"],
  ["my app (v2)!", "my-app-v2-aa8f0f241427372d7d0c2d4842cdeafc"],
  ["0123456789abcde-x", "0123456789abcde-65cb517798f06a9983b2fae035ada3d9"],
  ["K".repeat(10_000), "kkkkkkkkkkkkkkkk-7cb8c0a5a4a38be894033ca6039cc3e9"],
  [" ", "869f1dfb999a452f497a4cf7f44db2d6"],
  // The Kelvin sign is a "k" in lower case, and no "K".
  ["\u212a", "k-14da0a4e24c2d317d2136e3eb06ecc58"],
  ["\u00e9", "63e3c807f93f669a2625f37ee673726c"],
  ["e\u0301", "e-0daf794b411b8bce66b31dc3737050ca"]
]

describe("InstanceId", () => {
  it("is any string of 1 to 1,024 UTF-16 code units", () => {
    const decode = Schema.decodeUnknownEither(InstanceId)
    const longest = ["x", "\ud800", "\0", "é"].map((unit) => unit.repeat(maxLength))
    const right = [...vectors.map(([text]) => text).filter(({ length }) => length <= 1_024), ...longest]
    for (const text of right) assert.deepStrictEqual(decode(text), Either.right(InstanceId.make(text)))
    for (const wrong of ["", `x${longest[0]}`, `🙂${longest[3]!.slice(1)}`, 1, null, undefined]) {
      assert.isTrue(Either.isLeft(decode(wrong)))
    }
  })

  it("has folders that no version may rename", () => {
    for (const [text, folder] of vectors) assert.strictEqual(folderName(text), folder)
  })

  it.prop("has folders that every file system allows", [any], ([text]) => {
    assert.match(folderName(text), legal)
  })

  it.prop("has a folder of its own for every id", [any, any], ([one, other]) => {
    assert.strictEqual(folderName(one) === folderName(other), one === other)
  })

  it.prop("tells apart what file systems do not", [any], ([text]) => {
    const similar = new Set([
      text,
      text.toLowerCase(),
      text.toUpperCase(),
      text.normalize("NFC"),
      text.normalize("NFD"),
      text.normalize("NFKC"),
      text.replace(/[\ud800-\udfff]/g, "\ufffd"),
      `${text} `,
      `${text}.`,
      `${text}\0`,
      ` ${text}`,
      text.slice(0, -1) || "x",
      text + text
    ])
    assert.strictEqual(new Set([...similar].map(folderName)).size, similar.size)
  })

  it("tells long ids apart by their last character", () => {
    const long = "x".repeat(9_999)
    const ids = ["", "x", "y", "\ud83d", "\ud83e"].map((last) => long + last)
    for (const one of ids) assert.match(folderName(one), legal)
    assert.strictEqual(new Set(ids.map(folderName)).size, ids.length)
  })

  it("never makes a name that a system reserves", () => {
    const devices = ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
    const numbered = ["com", "lpt"].flatMap((port) => [...Array(10).keys()].map((digit) => port + digit))
    for (const reserved of [...devices, ...numbered, ".", "..", "~", "$mft", "desktop.ini", ".ds_store"]) {
      for (const spelling of [reserved, reserved.toUpperCase(), `${reserved}.txt`, `${reserved} `]) {
        const name = folderName(spelling)
        assert.match(name, legal)
        assert.match(name, /(^|-)[0-9a-f]{32}$/)
        assert.notMatch(name, /^-|--/)
      }
    }
  })
})
