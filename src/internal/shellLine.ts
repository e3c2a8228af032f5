/**
 * A line for the shell which gets somebody else's words as its arguments, whatever the line looks like.
 */

/** The line as the shell runs it, or why it cannot tell where the arguments belong. */
export type Line =
  | { readonly _tag: "Line"; readonly script: string }
  | { readonly _tag: "Refused"; readonly detail: string }

interface Word {
  readonly text: string
  /** What is left of it where its expansions are empty, without quotes: they do not keep the shell from seeing a builtin. */
  readonly plain: string
  /** Empty expansions make the shell drop a word that has neither a literal character nor a quote. */
  readonly literal: boolean
}

interface Command {
  /** The operator before it. */
  readonly before: string
  /** Without redirections and their targets. */
  readonly words: Array<Word>
  /** Behind its last word or redirection target. */
  end: number
  mentions: boolean
}

interface Parsed {
  readonly commands: ReadonlyArray<Command>
  readonly mentions: boolean
  readonly functions: boolean
}

class Flaw {
  constructor(readonly detail: string) {}
}

const hint = (detail: string) => `${detail}; write "$@" where the arguments belong, as in 'viewer "$@" | cat'`

// With these as the command the shell reads its arguments as something else than arguments.
const interpreting = new Set(["eval", ".", "source", "trap", "alias", "function", "coproc", "select"])
const reserved = new Set("if then elif else fi case in esac for while until do done { } [[ ]]".split(" "))
// What follows one of these is the command.
const prefixes = new Set(["!", "time", "exec", "command", "builtin"])

/**
 * The line with `"$@"` in it: where the line mentions its arguments itself (`"$@"`, `$1`), it stays as it is; else they
 * go behind the words of its last command, before a `;`, a `&` or a comment that follows. A line without such a place is
 * refused: its arguments would be dropped, or run as a command. Reads the grammar of sh(1) as far as this needs it; whether
 * the line is otherwise correct is for the shell to say.
 */
export const withArguments = (line: string): Line => {
  let parsed: Parsed
  try {
    parsed = parse(line)
  } catch (flaw) {
    if (flaw instanceof Flaw) return { _tag: "Refused", detail: flaw.detail }
    throw flaw
  }
  const { commands, functions, mentions } = parsed
  const at = commands.findLastIndex(({ end }) => end > 0)
  const last = commands[at]
  // In a function's body they are those of the function.
  if (functions ? last?.mentions === true : mentions) return { _tag: "Line", script: line }
  const detail = last === undefined ? "there is no command" : flawOf(last, commands.slice(at + 1))
  return detail === undefined
    ? { _tag: "Line", script: `${line.slice(0, last!.end)} "$@"${line.slice(last!.end)}` }
    : { _tag: "Refused", detail: hint(detail) }
}

const flawOf = ({ before, words }: Command, after: ReadonlyArray<Command>): string | undefined => {
  if (before.startsWith("|")) return `it is not clear which of the commands joined by "${before}" gets the arguments`
  const closing = [before, ...after.map((command) => command.before)].find((operator) => /^[()]/.test(operator))
  if (closing !== undefined) return `it is not clear which command around "${closing}" gets the arguments`
  const assignments = words.findIndex(({ text }) => !/^[A-Za-z_]\w*\+?=/.test(text))
  const rest = assignments < 0 ? [] : words.slice(assignments)
  let name = rest.shift()
  while (name !== undefined && prefixes.has(name.plain)) name = rest.shift()
  if (name === undefined || name.text.startsWith("-")) return "its last command does not name a program"
  if (!name.literal) return `${name.text} may be empty, and then the first argument would be run as the command`
  const word = name.plain
  if (reserved.has(word)) return `it is not clear which command within "${word}" gets the arguments`
  if (interpreting.has(word)) return `"${word}" would not take them as arguments`
  return undefined
}

const plainOf = (piece: string): string => {
  if (/^[$`]/.test(piece)) return ""
  const expansion = /\$\{[^}]*\}|\$\([^)]*\)|\$\w+|`[^`]*`/g
  return (piece.startsWith('"') ? piece.replace(expansion, "") : piece).replace(/["'\\]/g, "")
}

const operator = /^(?:&&|\|\||;;|[;&|()\n])/
const redirection = /^(?:<<<|<<-?|[<>]&|<>|>>|>\||[<>])/
const argument = /^\$(?:[@*1-9]|\{(?:[@*]|[1-9]\d*))/
const variable = /^\$(?:[A-Za-z_]\w*|[?$!#0-9@*-])?/

const parse = (line: string): Parsed => {
  let command: Command = { before: "", words: [], end: 0, mentions: false }
  const commands = [command]
  let mentions = false
  let functions = false
  let word: { readonly start: number; literal: boolean; plain: string } | undefined
  let target = false
  let at = 0

  const mention = () => {
    mentions = true
    command.mentions = true
  }
  const endWord = () => {
    if (word === undefined) return
    command.end = at
    if (!target) {
      const { literal, plain, start } = word
      command.words.push({ text: line.slice(start, at), plain, literal })
    }
    target = false
    word = undefined
  }
  const next = (found: string) => {
    endWord()
    if (found === ")" && command.before === "(" && command.end === 0) functions = true
    command = { before: found, words: [], end: 0, mentions: false }
    commands.push(command)
    at += found.length
  }
  const redirect = (found: string) => {
    // A number directly before it belongs to it.
    const isNumber = word !== undefined && /^\d+$/.test(line.slice(word.start, at))
    if (isNumber) word = undefined
    endWord()
    if (found === "<<" || found === "<<-") {
      if (!mentions)
        throw new Flaw(hint("it has a here-document, so the place of the arguments must be written before it"))
      at = line.length
      return
    }
    target = true
    at += found.length
  }

  while (at < line.length) {
    const rest = line.slice(at)
    const operation = operator.exec(rest)?.[0]
    const redirecting = redirection.exec(rest)?.[0]
    if (rest.startsWith("\\\n")) at += 2
    else if (operation !== undefined) next(operation)
    else if (redirecting !== undefined) redirect(redirecting)
    else if (/^[ \t]/.test(rest)) {
      endWord()
      at++
    } else if (rest.startsWith("#") && word === undefined) {
      const newline = line.indexOf("\n", at)
      at = newline < 0 ? line.length : newline
    } else {
      word ??= { start: at, literal: false, plain: "" }
      word.literal ||= !/^[$`]/.test(rest)
      const end = skip(line, at, mention)
      word.plain += plainOf(line.slice(at, end))
      at = end
    }
  }
  endWord()
  return { commands, mentions, functions }
}

// Behind the character, quotation or expansion at a place.
const skip = (line: string, at: number, mention: () => void): number => {
  switch (line[at]) {
    case "\\":
      if (at + 1 === line.length) throw new Flaw("it ends in a backslash")
      return at + 2
    case "'": {
      const end = line.indexOf("'", at + 1)
      if (end < 0) throw new Flaw("a quotation has no end")
      return end + 1
    }
    case '"':
      return skipUntil(line, at + 1, '"', mention)
    case "`":
      return skipUntil(line, at + 1, "`", mention)
    case "$": {
      const rest = line.slice(at)
      if (argument.test(rest)) mention()
      if (rest.startsWith("$(")) return skipUntil(line, at + 2, ")", mention)
      if (rest.startsWith("${")) return skipUntil(line, at + 2, "}", mention)
      return at + variable.exec(rest)![0].length
    }
    default:
      return at + 1
  }
}

const skipUntil = (line: string, from: number, closing: string, mention: () => void): number => {
  let at = from
  while (at < line.length) {
    const character = line[at]!
    if (character === closing) return at + 1
    // Within double quotes an apostrophe is one.
    if (closing === '"' && character === "'") at++
    else if (closing === ")" && character === "(") at = skipUntil(line, at + 1, ")", mention)
    else at = skip(line, at, mention)
  }
  throw new Flaw("a quotation or an expansion has no end")
}

/**
 * The same for cmd.exe, with the arguments quoted in it: in the place of `%*`, or at the end of a line that has no
 * operator. In quotation marks cmd.exe would read their escapes as text.
 */
export const forCmd = (line: string, args: ReadonlyArray<string>): Line => {
  const refused = (detail: string): Line => ({
    _tag: "Refused",
    detail: `${detail}; write %* where the arguments belong, as in 'viewer %* & echo done'`
  })
  const outside = line.split('"').filter((_, index) => index % 2 === 0)
  if (line.split('"').length % 2 === 0) return { _tag: "Refused", detail: "a quotation has no end" }
  if (/[\r\n]/.test(line)) return { _tag: "Refused", detail: "cmd.exe reads one line only" }
  const words = args.map(quoteForCmd).join(" ")
  const places = outside.join("").split("%*").length - 1
  if (line.split("%*").length - 1 > places) return { _tag: "Refused", detail: "%* must not be within quotation marks" }
  if (places > 0) return { _tag: "Line", script: line.replaceAll("%*", () => words) }
  if (outside.some((text) => /[&|<>()^]/.test(text))) return refused("it has an operator of cmd.exe")
  if (/^[\s@]*(?:rem\b|::?|if\b|for\b|goto\b|%)/i.test(line))
    return refused("its command would not get them as arguments")
  if (line.trim() === "") return refused("there is no command")
  return { _tag: "Line", script: words === "" ? line : `${line} ${words}` }
}

// First as the C runtime reads it, where backslashes count only before a quote; then each character that cmd would read.
const quoteForCmd = (arg: string): string =>
  `"${arg.replace(/(\\*)"/g, '$1$1\\"').replace(/(\\*)$/, "$1$1")}"`.replace(/[()\][%!^"`<>&|;, *?]/g, "^$&")
