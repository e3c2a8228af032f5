/**
 * What a launch that was handed over shows of it.
 */
import * as output from "./output.js"

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
  `Process ${primary.pid} took it by ${escaped(protocol)} and answered ${exitCode}.`

/** A system keeps eight bits of it, and must not make a success of a failure. */
export const exitCodeOf = (reply: number): number => reply & 0xff || (reply === 0 ? 0 : 1)

/** The text with what could steer a terminal as escapes; lines stay lines. */
export const escaped = (text: string): string =>
  text.replace(
    /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`
  )

export const isColourful = (name: output.Name): boolean => output.isTerminal(name) && !process.env.NO_COLOR

export const green = 32

export const coloured = (name: output.Name, colour: number | undefined, text: string): string =>
  colour === undefined || !isColourful(name) ? text : `\u001b[${colour}m${text}\u001b[0m`
