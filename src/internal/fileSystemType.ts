/**
 * What the type that statfs(2) tells says about a file system: its magic numbers.
 */

// ext2/3/4, xfs, btrfs, zfs, f2fs, tmpfs, overlay.
const local = new Set([0xef53, 0x58465342, 0x9123683e, 0x2fc12fc1, 0xf2f52010, 0x01021994, 0x794c7630])
// nfs, smb, cifs, smb2, afs, 9p, ceph, lustre.
const shared = new Set([0x6969, 0x517b, 0xff534d42, 0xfe534d42, 0x5346414f, 0x01021997, 0x00c36400, 0x0bd00bd0])

/** It is known to be this machine's alone. Always so where the type tells nothing, which is everywhere but on Linux. */
export const isLocal = (type: number): boolean => process.platform !== "linux" || local.has(type)

/** It is known to be shared with other machines. */
export const isShared = (type: number): boolean => process.platform === "linux" && shared.has(type)
