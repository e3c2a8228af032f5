#!/usr/bin/env node
import * as module from "node:module"
import * as directory from "./internal/directory.js"
import * as location from "./internal/location.js"
import { handOver } from "./internal/quick.js"

// Compiled code is kept where only we can write: in a folder for all, somebody else's could be waiting.
const load = () => {
  const { enableCompileCache } = module as { readonly enableCompileCache?: (directory: string) => unknown }
  const place = enableCompileCache && privatePlace()
  if (place !== undefined) enableCompileCache?.(`${place}/compile-cache`)
  return import("./Cli.js")
}

const privatePlace = (): string | undefined => {
  try {
    const place = location.defaultDirectory()
    return directory.verify(place, { create: false }) === undefined ? place : undefined
  } catch {
    // The command itself says why there is none.
    return undefined
  }
}

void handOver(process.argv, async (options) => (await load()).conclude(options)).then(async (done) => {
  if (!done) (await load()).main(process.argv)
})
