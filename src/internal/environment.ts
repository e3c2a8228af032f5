/**
 * The environment variables that begin with `SINGLE_INSTANCE_`.
 */

/** The variable of an option, such as `SINGLE_INSTANCE_MAX_FRAME_BYTES` for `maxFrameBytes`. */
export const nameOf = (key: string): string => `SINGLE_INSTANCE_${key.replace(/[A-Z]/g, "_$&").toUpperCase()}`

/** Whether a variable may be an option: it is not one of those that tell a command about its primary. */
export const isOption = (name: string): boolean => /^SINGLE_INSTANCE_(?!(ID|EPOCH|MESSAGE|FROM_PID|DEPTH)$)/i.test(name)
