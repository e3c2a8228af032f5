/**
 * What this platform uses by default, each module loaded when it is first needed.
 */
import * as fs from "node:fs"
import type * as CommandExecutor from "@effect/platform/CommandExecutor"
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { InstanceLock } from "../InstanceLock.js"
import * as FileLock from "../lock/FileLock.js"
import * as NodeLockFiles from "../lock/NodeLockFiles.js"
import type { PidVerifier } from "../PidVerifier.js"
import { Protocol } from "../Protocol.js"
import * as SingleInstanceConfig from "../SingleInstanceConfig.js"

type Platform = FileSystem.FileSystem | CommandExecutor.CommandExecutor

// One value is used in many places of a graph of layers, with other dependencies in each. Fresh, because layers are
// memoised by reference: the first place would decide for all.

/** The verifier of this platform's processes. */
export const layerPidVerifier: Layer.Layer<PidVerifier, never, Platform> = Layer.fresh(
  Layer.unwrapEffect(
    Effect.promise(async (): Promise<Layer.Layer<PidVerifier, never, Platform>> => {
      switch (process.platform) {
        case "win32":
          return (await import("../pid/WindowsPidVerifier.js")).layer
        case "darwin":
          return (await import("../pid/DarwinPidVerifier.js")).layer
        default:
          return (await import("../pid/LinuxPidVerifier.js")).layer
      }
    })
  )
)

/** The lock in the file system. */
export const layerLock: Layer.Layer<InstanceLock, never, SingleInstanceConfig.SingleInstanceConfig | PidVerifier> =
  Layer.fresh(Layer.provide(FileLock.layer, NodeLockFiles.layer))

/** What the lock needs. */
export const layerConfigured = (
  options: SingleInstanceConfig.ConfigOptions
): Layer.Layer<PidVerifier | SingleInstanceConfig.SingleInstanceConfig, never, Platform> =>
  Layer.merge(layerPidVerifier, SingleInstanceConfig.layer(options))

/** Says why on stderr, and ends the process whatever it does. */
export const exit = (code: number, why: string): never => {
  try {
    fs.writeSync(2, `${why}\n`)
  } catch {
    // Nobody reads it.
  }
  return process.exit(code)
}

const loaders = {
  unix: () => import("../protocol/UnixSocket.js"),
  pipe: () => import("../protocol/NamedPipe.js"),
  file: () => import("../protocol/FileMailbox.js"),
  shm: () => import("../protocol/SharedMemory.js"),
  tcp: () => import("../protocol/Tcp.js")
}

/** What a person calls a protocol between processes. */
export type ProtocolName = keyof typeof loaders

export const protocolNames = Object.keys(loaders) as ReadonlyArray<ProtocolName>

/** A protocol by its name. */
export const protocol = (name: ProtocolName): Protocol["Type"] => {
  const load: () => Promise<{ readonly layer: Layer.Layer<Protocol> }> = loaders[name]
  const loaded = Effect.promise(load).pipe(
    Effect.flatMap(({ layer }) => Layer.build(layer)),
    Effect.map(Context.get(Protocol))
  )
  return {
    name,
    listen: (options) => Effect.flatMap(loaded, (protocol) => protocol.listen(options)),
    connect: (address, options) => Effect.flatMap(loaded, (protocol) => protocol.connect(address, options))
  }
}

/** The default chain, in order of preference. */
export const protocols = (): ReadonlyArray<Protocol["Type"]> =>
  (process.platform === "win32" ? (["pipe", "file", "shm"] as const) : (["unix", "file", "shm"] as const)).map(protocol)
