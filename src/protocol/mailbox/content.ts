/**
 * What a file of the mailbox holds: a mark, the length of the introduction, the introduction, the frame.
 *
 * @since 0.1.0
 */
const magic = Buffer.from("ESIM1")

/**
 * How many bytes come before the introduction.
 *
 * @since 0.1.0
 * @category constants
 */
export const headerBytes: number = magic.length + 4

/**
 * @since 0.1.0
 * @category models
 */
export interface Mail {
  readonly introduction: Uint8Array
  readonly frame: Uint8Array
}

/**
 * @since 0.1.0
 * @category encoding
 */
export const encode = (introduction: Uint8Array, frame: Uint8Array): Buffer => {
  const header = Buffer.alloc(headerBytes)
  magic.copy(header)
  header.writeUInt32BE(introduction.length, magic.length)
  return Buffer.concat([header, introduction, frame])
}

/**
 * `undefined` where the bytes are not those of a message.
 *
 * @since 0.1.0
 * @category decoding
 */
export const decode = (bytes: Buffer): Mail | undefined => {
  if (bytes.length < headerBytes || !bytes.subarray(0, magic.length).equals(magic)) return undefined
  const at = headerBytes + bytes.readUInt32BE(magic.length)
  return at > bytes.length ? undefined : { introduction: bytes.subarray(headerBytes, at), frame: bytes.subarray(at) }
}
