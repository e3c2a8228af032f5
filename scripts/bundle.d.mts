import type { BuildOptions, Metafile } from "esbuild"

export declare const root: string
export declare const bundle: (
  entry: string,
  options?: BuildOptions
) => Promise<{ readonly text: string; readonly metafile: Metafile }>
