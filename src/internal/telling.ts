/**
 * What a launch that was handed over shows of it.
 */

export interface DeliveredEvent {
  readonly event: "delivered"
  readonly message: string
  readonly protocol: string
  readonly exitCode: number
  readonly primary: { readonly pid: number }
}

export const deliveredEvent = (message: string, protocol: string, exitCode: number, pid: number): DeliveredEvent => ({
  event: "delivered",
  message,
  protocol,
  exitCode,
  primary: { pid }
})

export const deliveredSentence = ({ exitCode, primary, protocol }: DeliveredEvent): string =>
  `Process ${primary.pid} took it by ${protocol} and answered ${exitCode}.`

/** A system keeps eight bits of it, and must not make a success of a failure. */
export const exitCodeOf = (reply: number): number => reply & 0xff || (reply === 0 ? 0 : 1)

export const isColourful = (stream: NodeJS.WriteStream): boolean => stream.isTTY === true && !process.env.NO_COLOR

export const green = 32

export const coloured = (stream: NodeJS.WriteStream, colour: number | undefined, text: string): string =>
  colour === undefined || !isColourful(stream) ? text : `\u001b[${colour}m${text}\u001b[0m`
