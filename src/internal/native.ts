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

/** A way to share memory. Whatever cannot be done is thrown, and nothing is left of it. */
export interface Way {
  readonly create: (size: number, directory: string) => Offer
  /** Answers `undefined` for a reference of another way. */
  readonly open: (reference: string, size: number, directory: string) => Segment | undefined
}

/** What there is on this platform. */
export interface Native {
  /** In order of preference. */
  readonly ways: ReadonlyArray<Way>
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

let loaded: Native | undefined

/** Loads it, once. Throws where that cannot be done. */
export const load = (): Native => {
  if (loaded === undefined) {
    const koffi: Koffi = require("koffi")
    loaded = process.platform === "win32" ? windows(koffi) : posix(koffi)
  }
  return loaded
}

/** An error of this file's own, with the code of a system call's. */
const failure = (code: string, message: string): Error => Object.assign(new Error(message), { code })

const refused = (what: string): Error => failure("ENOTSUP", what)

// -------------------------------------------------------------------------------------
// POSIX: a memfd on Linux, which has no name and cannot be truncated; else, or from another pid namespace, a file
// -------------------------------------------------------------------------------------

const posix = (koffi: Koffi): Native => {
  const libc = koffi.load(null)
  const mmap = libc.func("void *mmap(void *, size_t, int, int, int, int64_t)")
  const munmap = libc.func("int munmap(void *, size_t)")
  const schedYield = libc.func("int sched_yield()")

  const map = (fd: number, size: number): Segment => {
    // Only what is as large as that: a page that the file does not have is a SIGBUS.
    if (fs.fstatSync(fd).size !== size) throw refused("the segment has another size")
    const readWrite = 3
    const shared = 1
    const address = mmap(null, size, readWrite, shared, fd, 0)
    if (BigInt.asIntN(64, koffi.address(address)) === -1n) throw failure("ENOMEM", "it cannot be mapped")
    const unmap = () => void munmap(address, size)
    try {
      return { memory: koffi.view(address, size), unmap }
    } catch (cause) {
      // Electron allows no memory of others.
      unmap()
      throw cause
    }
  }

  const open = (name: string, size: number, check?: (fd: number) => void): Segment => {
    const { O_NOFOLLOW, O_NONBLOCK, O_RDWR } = fs.constants
    // The names below /proc are links.
    const fd = fs.openSync(name, O_RDWR | O_NONBLOCK | (check === undefined ? O_NOFOLLOW : 0))
    try {
      if (!fs.fstatSync(fd).isFile()) throw refused("it is no file")
      check?.(fd)
      return map(fd, size)
    } finally {
      fs.closeSync(fd)
    }
  }

  const memfd = (): Way => {
    const create = libc.func("int memfd_create(const char *, unsigned int)")
    const fcntl = libc.func("int fcntl(int, int, ...)")
    const closeOnExec = 1
    const allowSealing = 2
    const addSeals = 1033
    const getSeals = 1034
    // seal, shrink, grow: fcntl(2)
    const seals = 7
    return {
      create: (size) => {
        const fd = create("effect-single-instance", closeOnExec | allowSealing)
        if (fd < 0) throw refused("there is no memfd_create(2)")
        let isOpen = true
        const withdraw = () => {
          if (isOpen) fs.closeSync(fd)
          isOpen = false
        }
        try {
          fs.ftruncateSync(fd, size)
          if (fcntl(fd, addSeals, "int", seals) !== 0) throw refused("a memfd cannot be sealed")
          return { ...map(fd, size), reference: `memfd:${process.pid}:${fd}`, withdraw }
        } catch (cause) {
          withdraw()
          throw cause
        }
      },
      open: (reference, size) => {
        const [, pid, fd] = /^memfd:(\d{1,10}):(\d{1,10})$/.exec(reference) ?? []
        if (pid === undefined) return undefined
        return open(`/proc/${pid}/fd/${fd}`, size, (opened) => {
          if ((fcntl(opened, getSeals, "int", 0) & seals) !== seals) throw refused("it could be truncated")
        })
      }
    }
  }

  const file: Way = {
    create: (size, directory) => {
      // As all names there: `<letter>.<nonce>`, so that it is collected where both processes die at once.
      const name = `g.${randomBytes(16).toString("hex")}`
      const target = path.join(directory, name)
      const withdraw = () => {
        try {
          fs.unlinkSync(target)
        } catch (cause) {
          if (!errno.isMissing(cause)) throw cause
        }
      }
      const fd = fs.openSync(target, "wx+", 0o600)
      try {
        // A page without room on the disk would be a SIGBUS, too: written, it is an ENOSPC.
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
      return name === undefined ? undefined : open(path.join(directory, name), size)
    }
  }

  return {
    ways: process.platform === "linux" ? [memfd(), file] : [file],
    yieldProcessor: schedYield
  }
}

// -------------------------------------------------------------------------------------
// Windows: a section of the paging file, which is gone with the last process that has it
// -------------------------------------------------------------------------------------

const windows = (koffi: Koffi): Native => {
  const kernel32 = koffi.load("kernel32.dll")
  const createFileMapping = kernel32.func(
    "void *__stdcall CreateFileMappingW(intptr_t, void *, uint32_t, uint32_t, uint32_t, const char16_t *)"
  )
  const openFileMapping = kernel32.func("void *__stdcall OpenFileMappingW(uint32_t, int, const char16_t *)")
  const mapViewOfFile = kernel32.func("void *__stdcall MapViewOfFile(void *, uint32_t, uint32_t, uint32_t, size_t)")
  const unmapViewOfFile = kernel32.func("int __stdcall UnmapViewOfFile(void *)")
  const closeHandle = kernel32.func("int __stdcall CloseHandle(void *)")
  const switchToThread = kernel32.func("int __stdcall SwitchToThread()")
  const getLastError = kernel32.func("uint32_t __stdcall GetLastError()")
  const pageReadWrite = 0x04
  const mapReadWrite = 0x02 | 0x04
  const alreadyExists = 183

  // Fails where the section is smaller: a section never shrinks.
  const map = (handle: unknown, size: number): Segment => {
    const address = mapViewOfFile(handle, mapReadWrite, 0, 0, size)
    if (address === null) throw failure("ENOMEM", "it cannot be mapped")
    const unmap = () => void unmapViewOfFile(address)
    try {
      return { memory: koffi.view(address, size), unmap }
    } catch (cause) {
      unmap()
      throw cause
    }
  }

  const section: Way = {
    create: (size) => {
      const name = `esi-${randomBytes(16).toString("hex")}`
      const handle = createFileMapping(-1, null, pageReadWrite, 0, size, `Local\\${name}`)
      if (handle === null) throw failure("ENOMEM", "there is no memory to share")
      let isOpen = true
      const withdraw = () => {
        if (isOpen) closeHandle(handle)
        isOpen = false
      }
      try {
        if (getLastError() === alreadyExists) throw refused("the name of the segment is taken")
        return { ...map(handle, size), reference: `section:${name}`, withdraw }
      } catch (cause) {
        withdraw()
        throw cause
      }
    },
    open: (reference, size) => {
      const name = /^section:(esi-[0-9a-f]{32})$/.exec(reference)?.[1]
      if (name === undefined) return undefined
      const handle = openFileMapping(mapReadWrite, 0, `Local\\${name}`)
      if (handle === null) throw failure("ENOENT", "there is no such segment")
      try {
        return map(handle, size)
      } finally {
        closeHandle(handle)
      }
    }
  }

  return { ways: [section], yieldProcessor: switchToThread }
}
