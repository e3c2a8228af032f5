/**
 * Memory that two processes share. The only file that reaches native code, through `koffi`, which need not be installed:
 * it is loaded when the first connection needs it.
 */
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import { createRequire } from "node:module"
import * as path from "node:path"
import * as errno from "./errno.js"

/** Memory that this process has mapped. Nothing may touch the bytes after `unmap`. */
export interface Segment {
  readonly memory: ArrayBuffer
  readonly unmap: () => void
}

/** A segment and how another process finds it. */
export interface Offer extends Segment {
  /** Printable, without blanks. */
  readonly reference: string
  /** Takes the way to it away: whoever has mapped it keeps it. */
  readonly withdraw: () => void
}

/** What there is on a platform. Whatever cannot be done is thrown, and nothing is left of it. */
export interface Native {
  readonly create: (size: number, directory: string) => Offer
  readonly open: (reference: string, size: number, directory: string) => Segment
  /** Lets another process have this processor. */
  readonly yieldProcessor: () => void
}

type Koffi = typeof import("koffi")

const require = createRequire(import.meta.url)

/** Whether there is a hope that {@link load} will do; costs next to nothing. */
export const isInstalled = (): boolean => {
  try {
    require.resolve("koffi")
    return true
  } catch {
    return false
  }
}

const loaded = new Map<NodeJS.Platform, Native>()

/** Loads it, once. Throws where that cannot be done. */
export const load = (platform: NodeJS.Platform = process.platform): Native => {
  const existing = loaded.get(platform)
  if (existing !== undefined) return existing
  const koffi: Koffi = require("koffi")
  const native = platform === "win32" ? windows(koffi) : platform === "linux" ? linux(koffi) : posix(koffi)
  loaded.set(platform, native)
  return native
}

const refused = (what: string): Error => errno.make("ENOTSUP", what)

// What a peer says that cannot be.
const unknown = (reference: string): Error => refused(`${reference} names no memory here`)

// -------------------------------------------------------------------------------------
// POSIX
// -------------------------------------------------------------------------------------

const mapping = (koffi: Koffi) => {
  const libc = koffi.load(null)
  const mmap = libc.func("void *mmap(void *, size_t, int, int, int, int64_t)")
  const munmap = libc.func("int munmap(void *, size_t)")
  const yieldProcessor: () => void = libc.func("int sched_yield()")
  const readWrite = 3
  const shared = 1
  const mapFailed = BigInt.asUintN(64, -1n)

  const map = (fd: number, size: number): Segment => {
    // Only what is as large as that: a page that the file does not have is a SIGBUS.
    if (fs.fstatSync(fd).size !== size) throw refused("the memory has another size")
    const address = mmap(null, size, readWrite, shared, fd, 0)
    if (address === mapFailed) throw errno.make("ENOMEM", "it cannot be mapped")
    return viewed(koffi, address, size, () => void munmap(address, size))
  }

  const open = (name: string, flags: number, size: number, check?: (fd: number) => void): Segment => {
    const fd = fs.openSync(name, fs.constants.O_RDWR | fs.constants.O_NONBLOCK | flags)
    try {
      if (!fs.fstatSync(fd).isFile()) throw refused("it is no file")
      check?.(fd)
      return map(fd, size)
    } finally {
      fs.closeSync(fd)
    }
  }

  return { libc, map, open, yieldProcessor }
}

/** A memfd: it has no name, so that nothing is left of it, and what is sealed cannot be truncated under the other side. */
const linux = (koffi: Koffi): Native => {
  const { libc, map, open, yieldProcessor } = mapping(koffi)
  const memfdCreate = libc.func("int memfd_create(const char *, unsigned int)")
  const fcntl = libc.func("int fcntl(int, int, ...)")
  const closeOnExec = 1
  const allowSealing = 2
  const addSeals = 1033
  const getSeals = 1034
  // seal, shrink, grow: fcntl(2)
  const seals = 7
  return {
    yieldProcessor,
    create: (size) => {
      const fd: number = memfdCreate("effect-single-instance", closeOnExec | allowSealing)
      if (fd < 0) throw refused("there is no memfd_create(2)")
      const withdraw = once(() => fs.closeSync(fd))
      try {
        fs.ftruncateSync(fd, size)
        if (fcntl(fd, addSeals, "int", seals) !== 0) throw refused("a memfd cannot be sealed")
        return { ...map(fd, size), reference: `memfd:${process.pid}:${fd}`, withdraw }
      } catch (cause) {
        withdraw()
        throw cause
      }
    },
    // Only processes of this user, in this pid namespace, can be asked for theirs (proc(5)).
    open: (reference, size) => {
      const [, pid, fd] = /^memfd:(\d{1,10}):(\d{1,10})$/.exec(reference) ?? []
      if (pid === undefined) throw unknown(reference)
      return open(`/proc/${pid}/fd/${fd}`, 0, size, (opened) => {
        const sealed: number = fcntl(opened, getSeals, "int", 0)
        if (sealed < 0 || (sealed & seals) !== seals) throw refused("it could be truncated")
      })
    }
  }
}

/** A file in the instance's directory, removed when both have mapped it. */
const posix = (koffi: Koffi): Native => {
  const { map, open, yieldProcessor } = mapping(koffi)
  return {
    yieldProcessor,
    create: (size, directory) => {
      // As all names there: `<letter>.<nonce>`, so that it is collected where both processes die at once.
      const name = `g.${randomBytes(16).toString("hex")}`
      const target = path.join(directory, name)
      const fd = fs.openSync(target, "wx+", 0o600)
      const withdraw = once(() => fs.rmSync(target, { force: true }))
      try {
        // The umask may have taken our own rights.
        fs.fchmodSync(fd, 0o600)
        // A page that the disk has no room for would be a SIGBUS, too; written, it is an ENOSPC.
        const zeros = new Uint8Array(1024 * 1024)
        for (let at = 0; at < size; ) at += fs.writeSync(fd, zeros, 0, Math.min(zeros.length, size - at), at)
        return { ...map(fd, size), reference: `file:${name}`, withdraw }
      } catch (cause) {
        withdraw()
        throw cause
      } finally {
        fs.closeSync(fd)
      }
    },
    open: (reference, size, directory) => {
      const name = /^file:(g\.[0-9a-f]{32})$/.exec(reference)?.[1]
      if (name === undefined) throw unknown(reference)
      return open(path.join(directory, name), fs.constants.O_NOFOLLOW, size)
    }
  }
}

// -------------------------------------------------------------------------------------
// Windows
// -------------------------------------------------------------------------------------

/** A section of the paging file, which is gone with the last process that has it and never shrinks. */
const windows = (koffi: Koffi): Native => {
  const kernel32 = koffi.load("kernel32.dll")
  const createFileMapping = kernel32.func(
    "void *__stdcall CreateFileMappingW(intptr_t, void *, uint32_t, uint32_t, uint32_t, const char16_t *)"
  )
  const openFileMapping = kernel32.func("void *__stdcall OpenFileMappingW(uint32_t, int, const char16_t *)")
  const mapViewOfFile = kernel32.func("void *__stdcall MapViewOfFile(void *, uint32_t, uint32_t, uint32_t, size_t)")
  const unmapViewOfFile = kernel32.func("int __stdcall UnmapViewOfFile(void *)")
  const closeHandle = kernel32.func("int __stdcall CloseHandle(void *)")
  const pageReadWrite = 0x04
  const mapReadWrite = 0x02 | 0x04

  const map = (handle: unknown, size: number): Segment => {
    const address = mapViewOfFile(handle, mapReadWrite, 0, 0, size)
    if (address === null) throw errno.make("ENOMEM", "it cannot be mapped")
    return viewed(koffi, address, size, () => void unmapViewOfFile(address))
  }

  return {
    yieldProcessor: kernel32.func("int __stdcall SwitchToThread()"),
    create: (size) => {
      const name = `esi-${randomBytes(16).toString("hex")}`
      const handle = createFileMapping(-1, null, pageReadWrite, 0, size, `Local\\${name}`)
      if (handle === null) throw errno.make("ENOMEM", "there is no memory to share")
      const withdraw = once(() => closeHandle(handle))
      try {
        return { ...map(handle, size), reference: `section:${name}`, withdraw }
      } catch (cause) {
        withdraw()
        throw cause
      }
    },
    open: (reference, size) => {
      const name = /^section:(esi-[0-9a-f]{32})$/.exec(reference)?.[1]
      if (name === undefined) throw unknown(reference)
      const handle = openFileMapping(mapReadWrite, 0, `Local\\${name}`)
      if (handle === null) throw errno.make("ENOENT", "there is no such section")
      try {
        return map(handle, size)
      } finally {
        closeHandle(handle)
      }
    }
  }
}

const viewed = (koffi: Koffi, address: unknown, size: number, unmap: () => void): Segment => {
  try {
    return { memory: koffi.view(address, size), unmap }
  } catch (cause) {
    // Electron allows no memory that is not its own.
    unmap()
    throw cause
  }
}

const once = (run: () => void): (() => void) => {
  let isDone = false
  return () => {
    if (isDone) return
    isDone = true
    try {
      run()
    } catch {
      // What is left of it is collected later.
    }
  }
}
