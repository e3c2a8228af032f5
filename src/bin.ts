#!/usr/bin/env node
import * as module from "node:module"
import * as directory from "./internal/directory.js"
import * as location from "./internal/location.js"
import * as output from "./internal/output.js"
import { handOver } from "./internal/quick.js"
import { inheritedDescriptors } from "./internal/startup.js"

// Before this process opens any of its own.
const descriptors = process.argv.includes("run") ? inheritedDescriptors() : []

// Compiled code is kept where only we can write: in a folder for all, somebody else's could be waiting.
const load = () => {
  const { enableCompileCache } = module as { readonly enableCompileCache?: (directory: string) => unknown }
  const place = enableCompileCache && privatePlace()
  if (place !== undefined) enableCompileCache?.(`${place}/compile-cache`)
  return import("./Cli.js")
}

output.guard()
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
  if (!done) (await load()).main(process.argv, descriptors)
})
