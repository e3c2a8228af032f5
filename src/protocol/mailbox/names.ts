/**
 * The layout of the mailboxes. Each name tells all that is decided by it, and each folder holds only what one process looks
 * for, so that a look costs the same whatever lies in the others.
 *
 * ```
 * <nonce>/                                 the mailbox of a listener
 *   l.<origin>                             its marker: it listens; x. as long as only what was accepted goes on
 *   n.<lane>.<sequence>.<kind><size>       a message, new
 *   t.<origin>.<random>                    being written
 *   taken/c.<lane>.<sequence>.<kind><size> a message that this listener took
 * <lane>/                                  the folder of a sender
 *   l                                      touched by it while it lives
 *   d.<sequence>.<nonce>.<kind><size>      an answer of the listener of that nonce
 *   r.<sequence>.<kind><size>              a message given back, which nobody looked at
 *   t.<origin>.<random>                    being written
 * ```
 *
 * A lane is a connection: the origin of its sender and a random part. An origin is a process (`origins.ts`).
 *
 * @since 0.1.0
 */
import { randomBytes } from "node:crypto"

/**
 * The first message of a lane opens it (`o`), the last one ends it (`e`); between them are frames (`f`).
 *
 * @since 0.1.0
 * @category models
 */
export type Kind = "o" | "f" | "e"

/**
 * A message or an answer that waits to be taken, by its name.
 *
 * @since 0.1.0
 * @category models
 */
export interface Incoming {
  readonly name: string
  readonly order: string
  readonly kind: Kind
  readonly size: number
}

const origin = "[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}-\\d{1,10}-\\d{1,20}"
const end = "\\.([ofe])(\\d{1,10})$"
const patterns = {
  nonce: /^[0-9a-f]{32}$/,
  lane: new RegExp(`^(${origin})-[0-9a-f]{32}$`),
  marker: new RegExp(`^([lx])\\.(${origin})$`),
  message: new RegExp(`^([nc])\\.(${origin}-[0-9a-f]{32})\\.(\\d{16})${end}`),
  answer: new RegExp(`^d\\.(\\d{16}\\.[0-9a-f]{32})${end}`),
  returned: new RegExp(`^r\\.\\d{16}${end}`),
  draft: new RegExp(`^t\\.(${origin})\\.[0-9a-f]{32}$`)
}

const join = (folder: string, name: string) => `${folder}/${name}`
const base = (name: string) => name.slice(name.lastIndexOf("/") + 1)

/**
 * @since 0.1.0
 * @category constructors
 */
export const random = (): string => randomBytes(16).toString("hex")

/**
 * @since 0.1.0
 * @category constructors
 */
export const sequence = (n: number): string => String(n).padStart(16, "0")

/**
 * The name of a listener's marker, open or closing.
 *
 * @since 0.1.0
 * @category constructors
 */
export const marker = (nonce: string, origin: string, state: "l" | "x"): string => join(nonce, `${state}.${origin}`)

/**
 * The folder of what a listener took.
 *
 * @since 0.1.0
 * @category constructors
 */
export const takenFolder = (nonce: string): string => join(nonce, "taken")

/**
 * The file by whose age a sender is known to live.
 *
 * @since 0.1.0
 * @category constructors
 */
export const lifeSign = (lane: string): string => join(lane, "l")

/**
 * @since 0.1.0
 * @category constructors
 */
export const draft = (folder: string, origin: string): string => join(folder, `t.${origin}.${random()}`)

/**
 * @since 0.1.0
 * @category constructors
 */
export const message = (nonce: string, lane: string, order: string, kind: Kind, size: number): string =>
  join(nonce, `n.${lane}.${order}.${kind}${size}`)

/**
 * @since 0.1.0
 * @category constructors
 */
export const answer = (lane: string, order: string, nonce: string, kind: Kind, size: number): string =>
  join(lane, `d.${order}.${nonce}.${kind}${size}`)

/**
 * The name of a message that this listener took, whosever it was.
 *
 * @since 0.1.0
 * @category constructors
 */
export const taken = (nonce: string, name: string): string => join(takenFolder(nonce), `c${base(name).slice(1)}`)

/**
 * The name under which a message, new or taken, is given back to its sender.
 *
 * @since 0.1.0
 * @category constructors
 */
export const returned = (lane: string, name: string): string => join(lane, `r${base(name).slice(`n.${lane}`.length)}`)

/**
 * The name of a message that was taken, where it is one again that nobody took.
 *
 * @since 0.1.0
 * @category constructors
 */
export const untaken = (nonce: string, name: string): string => join(nonce, `n${base(name).slice(1)}`)

/**
 * @since 0.1.0
 * @category decoding
 */
export const isNonce = (name: string): boolean => patterns.nonce.test(name)

/**
 * The origin of the sender of a lane; `undefined` where it is none.
 *
 * @since 0.1.0
 * @category decoding
 */
export const originOf = (lane: string): string | undefined => patterns.lane.exec(lane)?.[1]

/**
 * @since 0.1.0
 * @category decoding
 */
export const parseMarker = (name: string): { readonly state: "l" | "x"; readonly origin: string } | undefined => {
  const [, state, origin] = patterns.marker.exec(name) ?? []
  return origin === undefined ? undefined : { state: state as "l" | "x", origin }
}

/**
 * The origin of who writes a draft; `undefined` where it is none.
 *
 * @since 0.1.0
 * @category decoding
 */
export const parseDraft = (name: string): string | undefined => patterns.draft.exec(name)?.[1]

/**
 * A message in a folder, new (`n`) or taken (`c`).
 *
 * @since 0.1.0
 * @category decoding
 */
export const parseMessage = (
  folder: string,
  name: string
): (Incoming & { readonly state: "n" | "c"; readonly lane: string }) | undefined => {
  const [, state, lane, order, kind, size] = patterns.message.exec(name) ?? []
  return state === undefined
    ? undefined
    : {
        name: join(folder, name),
        state: state as "n" | "c",
        lane: lane!,
        order: order!,
        kind: kind as Kind,
        size: Number(size)
      }
}

/**
 * An answer in the folder of a lane.
 *
 * @since 0.1.0
 * @category decoding
 */
export const parseAnswer = (lane: string, name: string): Incoming | undefined => {
  const [, order, kind, size] = patterns.answer.exec(name) ?? []
  return order === undefined ? undefined : { name: join(lane, name), order, kind: kind as Kind, size: Number(size) }
}

/**
 * Whether a name in the folder of a lane is one that is written there.
 *
 * @since 0.1.0
 * @category decoding
 */
export const isOfLane = (name: string): boolean =>
  name === "l" || patterns.answer.test(name) || patterns.returned.test(name) || patterns.draft.test(name)
