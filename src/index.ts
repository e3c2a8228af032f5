/**
 * @since 0.1.0
 */

/**
 * The decision: who is primary, for how long, and who comes next.
 *
 * @since 0.1.0
 */
export * as Election from "./Election.js"

/**
 * Where a primary listens.
 *
 * @since 0.1.0
 */
export * as Endpoint from "./Endpoint.js"

/**
 * One launch of one contract.
 *
 * @since 0.1.0
 */
export * as Instance from "./Instance.js"

/**
 * The name under which the launches of one application meet.
 *
 * @since 0.1.0
 */
export * as InstanceId from "./InstanceId.js"

/**
 * The lock that makes one process the primary.
 *
 * @since 0.1.0
 */
export * as InstanceLock from "./InstanceLock.js"

/**
 * The record of an owner.
 *
 * @since 0.1.0
 */
export * as InstanceRecord from "./InstanceRecord.js"

/**
 * Whether a recorded process still lives, and the evidence.
 *
 * @since 0.1.0
 */
export * as Liveness from "./Liveness.js"

/**
 * The lock in a directory of the file system.
 *
 * @since 0.1.0
 */
export * as FileLock from "./lock/FileLock.js"

/**
 * The file operations that the file lock is made of.
 *
 * @since 0.1.0
 */
export * as LockFiles from "./lock/LockFiles.js"

/**
 * The lock in memory.
 *
 * @since 0.1.0
 */
export * as MemoryLock from "./lock/MemoryLock.js"

/**
 * The lock's file operations on Node.
 *
 * @since 0.1.0
 */
export * as NodeLockFiles from "./lock/NodeLockFiles.js"

/**
 * What two sides say to each other.
 *
 * @since 0.1.0
 */
export * as Message from "./Message.js"

/**
 * Who this process is, and whether a recorded one still runs.
 *
 * @since 0.1.0
 */
export * as PidVerifier from "./PidVerifier.js"
/**
 * The primary's side of the conversation.
 *
 * @since 0.1.0
 */
export * as Primary from "./Primary.js"
/**
 * The seam between the conversation and what carries it.
 *
 * @since 0.1.0
 */
export * as Protocol from "./Protocol.js"
/**
 * Processes as macOS shows them.
 *
 * @since 0.1.0
 */
export * as DarwinPidVerifier from "./pid/DarwinPidVerifier.js"
/**
 * Processes as `/proc` shows them.
 *
 * @since 0.1.0
 */
export * as LinuxPidVerifier from "./pid/LinuxPidVerifier.js"
/**
 * Processes that a test controls.
 *
 * @since 0.1.0
 */
export * as TestPidVerifier from "./pid/TestPidVerifier.js"
/**
 * Processes as Windows shows them.
 *
 * @since 0.1.0
 */
export * as WindowsPidVerifier from "./pid/WindowsPidVerifier.js"

/**
 * Frames as files.
 *
 * @since 0.1.0
 */
export * as FileMailbox from "./protocol/FileMailbox.js"

/**
 * Frames in memory.
 *
 * @since 0.1.0
 */
export * as InMemory from "./protocol/InMemory.js"

/**
 * Frames over Windows named pipes.
 *
 * @since 0.1.0
 */
export * as NamedPipe from "./protocol/NamedPipe.js"

/**
 * Frames through shared memory.
 *
 * @since 0.1.0
 */
export * as SharedMemory from "./protocol/SharedMemory.js"

/**
 * Frames over TCP within this machine.
 *
 * @since 0.1.0
 */
export * as Tcp from "./protocol/Tcp.js"

/**
 * Frames over Unix domain sockets.
 *
 * @since 0.1.0
 */
export * as UnixSocket from "./protocol/UnixSocket.js"

/**
 * The secondary's side of the conversation.
 *
 * @since 0.1.0
 */
export * as Secondary from "./Secondary.js"

/**
 * One primary per application, and typed messages to it.
 *
 * @since 0.1.0
 */
export * as SingleInstance from "./SingleInstance.js"

/**
 * The options of an instance and their defaults.
 *
 * @since 0.1.0
 */
export * as SingleInstanceConfig from "./SingleInstanceConfig.js"

/**
 * Everything that can go wrong.
 *
 * @since 0.1.0
 */
export * as SingleInstanceError from "./SingleInstanceError.js"

/**
 * Whole launches in memory, for tests.
 *
 * @since 0.1.0
 */
export * as TestSingleInstance from "./TestSingleInstance.js"
