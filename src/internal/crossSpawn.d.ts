declare module "cross-spawn" {
  import type { SpawnOptions } from "node:child_process"

  /** How a command is run on Windows; `file` is what was found for it, if anything. */
  const _parse: (
    command: string,
    args: ReadonlyArray<string>,
    options: SpawnOptions
  ) => {
    readonly command: string
    readonly args: ReadonlyArray<string>
    readonly options: SpawnOptions
    readonly file?: string | null | undefined
  }
  const crossSpawn: { readonly _parse: typeof _parse }
  export default crossSpawn
}
