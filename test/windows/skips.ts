/**
 * What cannot be shown under Wine, and why.
 */
export const skips: ReadonlyArray<{ readonly suite: string; readonly test: RegExp; readonly reason: string }> = [
  {
    suite: "witness",
    test: /^the kernel gives the name to one at a time$/,
    reason: "under Wine a pipe that is in use can be listened on once more"
  },
  {
    suite: "PidVerifier",
    test: /^PidVerifier contract: WindowsPidVerifier > (knows itself|a process that runs|the pid of another|a signal|SIGTERM)/,
    reason: "Wine has no PowerShell, which tells when a process was started"
  }
]
