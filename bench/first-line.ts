/**
 * A program whose first line is a launch: `first-line <directory>`.
 */
import { launch } from "effect-single-instance/launch"

launch({ id: "bench/echo", directory: process.argv[2], request: { text: "" } }).then((verdict) =>
  process.exit(verdict._tag === "Delivered" ? 0 : 1)
)
