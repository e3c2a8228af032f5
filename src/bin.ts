#!/usr/bin/env node
import * as module from "node:module"
import * as directory from "./internal/directory.js"
import * as location from "./internal/location.js"
import { handOver } from "./internal/quick.js"

// Compiled code is kept where only we can write: in a folder for all, somebody else's could be waiting.
const load = () => {
  const place = location.defaultDirectory()
  const { enableCompileCache } = module as { readonly enableCompileCache?: (directory: string) => unknown }
  if (enableCompileCache !== undefined && directory.verify(place, { create: false }) === undefined) {
    enableCompileCache(`${place}/compile-cache`)
  }
  return import("./Cli.js")
}

void handOver(process.argv, async (options) => (await load()).conclude(options)).then(async (done) => {
  if (!done) (await load()).main(process.argv)
})
