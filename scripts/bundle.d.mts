import type { BuildOptions, Metafile } from "esbuild"

interface Bundled {
  readonly text: string
  readonly metafile: Metafile
}

export declare const root: string
export declare const small: BuildOptions
export declare const bundle: (entry: string, options?: BuildOptions) => Promise<Bundled>
export declare const bundleEach: (
  entries: Array<string>
) => Promise<ReadonlyArray<{ readonly name: string; readonly text: string }>>
export declare const commonJs: (entry: string, options?: BuildOptions) => Promise<Bundled>
export declare const bundleBin: (
  folder: string,
  options?: BuildOptions
) => Promise<{ readonly file: string; readonly metafile: Metafile }>
