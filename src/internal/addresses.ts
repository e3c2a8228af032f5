/**
 * What the addresses of sockets mean; `undefined` where one means none of this machine's.
 */
import * as path from "node:path"

/** What the names of pipes begin with. */
export const pipePrefix = "\\\\.\\pipe\\"

/** The file of `<protocol>:<name in the directory>` or `<protocol>:///<path>`. */
export const unix = (protocol: string, address: string, directory: string | null): string | undefined => {
  const pattern = new RegExp(`^${protocol}:(?://(/[^\\0]*[^/\\0])|([^/\\0]+))$`)
  const [, absolute, relative] = pattern.exec(decode(address)) ?? []
  if (absolute !== undefined) return absolute
  return relative === undefined || relative === ".." || relative === "." || directory === null
    ? undefined
    : path.join(directory, relative)
}

/** The pipe of `<protocol>://./pipe/<name>`. */
export const pipe = (protocol: string, address: string): string | undefined => {
  const name = new RegExp(`^${protocol}://\\./pipe/([\\w.-]+)$`).exec(address)?.[1]
  return name && pipePrefix + name
}

/** The port of a loopback address. */
export const tcp = (address: string): { readonly host: string; readonly port: number } | undefined => {
  const [, ipv4, ipv6, port] = /^tcp:\/\/(?:(127\.0\.0\.1)|\[(::1)\]):([1-9]\d{0,4})$/.exec(address) ?? []
  const host = ipv4 ?? ipv6
  return host === undefined || Number(port) > 65_535 ? undefined : { host, port: Number(port) }
}

const decode = (address: string): string => {
  try {
    return decodeURIComponent(address)
  } catch {
    return ""
  }
}
