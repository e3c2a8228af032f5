/**
 * Sockets whose own path would be too long for an address: the socket is in a folder of its own in a short place, and under
 * its name in the instance's directory there is a symbolic link to it. Whoever connects or clears away reads the link.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import * as errno from "./errno.js"

// Nothing else that a link leads to is ever entered or removed.
const form = /^\/(?:[^\0]*\/)?esi-[0-9a-f]{16}\/s$/

/** The path of a socket in a place, with 16 hex digits that nobody can guess. */
export const targetIn = (place: string, digits: string): string => path.join(place, `esi-${digits}`, "s")

/** Where a link to such a socket leads; `undefined` where there is no link, or another one. */
export const read = (link: string): string | undefined => {
  try {
    const target = fs.readlinkSync(link)
    return form.test(target) ? target : undefined
  } catch {
    return undefined
  }
}

/** Throws where the folder of a socket is gone, or is not one that only we can enter. */
export const verify = (target: string): void => {
  const folder = path.dirname(target)
  const stat = fs.lstatSync(folder)
  if (!stat.isDirectory() || stat.uid !== process.geteuid?.() || (stat.mode & 0o077) !== 0) {
    throw errno.make("EACCES", `${folder} is not a folder that only we can enter`)
  }
}

/** Removes what a link leads to, as `remove` does. */
export const removeTarget = (link: string): void => {
  const target = read(link)
  if (target !== undefined) remove(target)
}

/** Removes a socket, as far as it is ours, and its folder if nothing else is in it. */
export const remove = (target: string): void => {
  try {
    verify(target)
    if (fs.lstatSync(target, { throwIfNoEntry: false })?.isSocket()) fs.unlinkSync(target)
    fs.rmdirSync(path.dirname(target))
  } catch {
    // It was removed, or it is not ours to remove: the link goes in any case.
  }
}
