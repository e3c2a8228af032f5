/**
 * A line for the shell which gets somebody else's words as its arguments, whatever the line looks like.
 */

/** The line as the shell runs it, or why it cannot tell where the arguments belong. */
export type Line =
  | { readonly _tag: "Line"; readonly script: string }
  | { readonly _tag: "Refused"; readonly detail: string }

/** How a word contains the sender's words: not at all, as a part of one word, or as any number of words. */
type Mention = "none" | "one" | "many"

interface Word {
  readonly text: string
  mention: Mention
}

interface Command {
  /** The operator before it. */
  readonly before: string
  /** Without redirections and their targets. */
  readonly words: Array<Word>
  /** Behind its last word or redirection target. */
  end: number
}

class Flaw {
  constructor(readonly detail: string) {}
}

const example = `write "$@" where the arguments belong, as in 'viewer "$@" | cat'`
const inFile = "write that in a script file and name the file here"

// With these as the command the shell, or one that they start, runs their arguments as text of a script.
const interpreting = new Set(
  "eval . source trap alias function coproc select su ssh rsh watch script parallel".split(" ")
)
const always = new Set("alias function coproc select".split(" "))
// Some shells evaluate the arguments of these, even commands in the subscript of an array, or drop them.
const builtins = new Set(
  (
    "let declare typeset local export readonly read unset mapfile readarray getopts wait jobs fc hash enable complete compgen " +
    "compopt bind set shift return exit break continue shopt unalias umask ulimit times history pushd popd dirs logout " +
    "suspend disown bg fg help caller type kill [["
  ).split(" ")
)
const shells = new Set("sh bash dash ash zsh ksh mksh yash rbash fish csh tcsh busybox".split(" "))
const interpreters = /^(?:python|pypy|perl|ruby|node|nodejs|deno|bun|php|lua|awk|gawk|mawk|tclsh|guile)[\d.]*$/
// They run the command in their arguments; with the options that take no value.
const wrappers = new Map(
  Object.entries({
    exec: "cl",
    command: "p",
    builtin: "",
    time: "p",
    env: "i0",
    nohup: "",
    nice: "",
    ionice: "",
    setsid: "fwc",
    timeout: "",
    stdbuf: "",
    sudo: "EHnb",
    doas: "n",
    xargs: "0rt",
    chroot: "",
    strace: "f",
    unshare: ""
  })
)
const opening = new Set("if then elif else while until do { !".split(" "))
const reserved = new Set([...opening, ..."fi case in esac for done } ]]".split(" ")])

/**
 * The line with `"$@"` in it. Where the line says itself, in quotes, which of its commands get the arguments (`"$@"`,
 * `"$1"`), it stays as it is; else they go behind the words of its last command, before a `;`, a `&` or a comment that
 * follows. In both cases that must be a command whose name is certain and which takes them as arguments: a line in which
 * they could be dropped, split, or run is refused. Reads the grammar of sh(1) as far as this needs it, and refuses what
 * shells read differently; whether the line is otherwise correct is for the shell to say.
 */
export const withArguments = (line: string): Line => {
  try {
    const { commands, mentions } = parse(line)
    if (mentions) {
      checkMentions(line, commands)
      return { _tag: "Line", script: line }
    }
    const at = commands.findLastIndex(({ end }) => end > 0)
    const last = commands[at]
    if (last === undefined) throw new Flaw(`there is no command; ${example}`)
    for (const command of commands) checkAlways(command)
    checkLast(line, last, commands.slice(at + 1))
    return { _tag: "Line", script: `${line.slice(0, last.end)} "$@"${line.slice(last.end)}` }
  } catch (flaw) {
    if (flaw instanceof Flaw) return { _tag: "Refused", detail: flaw.detail }
    throw flaw
  }
}

const isAssignment = ({ text }: Word) => /^[A-Za-z_]\w*(?:\[.*\])?\+?=/.test(text)

/** The words from the command's name on; what precedes them must not have the sender's words in it. */
const simple = (words: ReadonlyArray<Word>): ReadonlyArray<Word> => {
  let at = 0
  while (at < words.length && opening.has(words[at]!.text)) at++
  while (at < words.length && isAssignment(words[at]!)) {
    if (words[at]!.mention !== "none") throw new Flaw(`an assignment has the arguments in it; ${example}`)
    at++
  }
  return words.slice(at)
}

const checkAlways = ({ words }: Command) => {
  const name = simple(words)[0]
  if (name !== undefined && always.has(plainOf(name.text))) throw new Flaw(`it has "${name.text}"; ${inFile}`)
}

const checkLast = (line: string, { before, words }: Command, after: ReadonlyArray<Command>) => {
  if (before.startsWith("|"))
    throw new Flaw(`it is not clear which of the commands joined by "${before}" gets the arguments; ${example}`)
  const closing = [before, ...after.map((command) => command.before)].find((operator) => /^[()]/.test(operator))
  if (closing !== undefined)
    throw new Flaw(`it is not clear which command around "${closing}" gets the arguments; ${example}`)
  const word = words.find(({ text }) => text !== "!")?.text ?? ""
  if (reserved.has(word))
    throw new Flaw(`it is not clear which command within "${word}" gets the arguments; ${example}`)
  const rest = simple(words)
  if (/^(?:-[cex]|--exec|--command)$/.test(plainOf(rest.at(-1)?.text ?? "")))
    throw new Flaw(`the first argument would be the command of "${rest.at(-1)!.text}"; ${inFile}`)
  checkCommand(line, [...rest, { text: '"$@"', mention: "many" }])
}

const checkMentions = (line: string, commands: ReadonlyArray<Command>) => {
  let delivered = false
  for (const { before, words } of commands) {
    const rest = simple(words)
    const mentioned = rest.some(({ mention }) => mention !== "none")
    const name = rest[0]?.text
    if (name === "for" || name === "case") {
      if (rest[1]?.mention !== "none" && name === "for") throw new Flaw(`"for" needs a name; ${example}`)
      continue
    }
    if (rest.length === 0) continue
    if (mentioned) {
      checkCommand(line, rest)
      if (!/^(?:\[|test)$/.test(plainOf(name!))) delivered = true
    } else checkBeside(line, before, rest)
  }
  if (!delivered) throw new Flaw(`no command gets them as arguments; ${example}`)
}

/** A command that does not mention the arguments, in a line that does: it must not run them from elsewhere. */
const checkBeside = (line: string, before: string, words: ReadonlyArray<Word>) => {
  const name = plainOf(words[0]!.text)
  if (before === "|" && /[$`{*?]/.test(name)) throw new Flaw(`${name} could run the arguments; write the name itself`)
  if (always.has(name)) throw new Flaw(`it has "${name}"; ${inFile}`)
  const isRunning =
    interpreting.has(name) || wrappers.has(name) || shells.has(baseOf(name)) || interpreters.test(baseOf(name))
  if (!isRunning) return
  if (words.some(({ text }) => /[$`]/.test(text))) throw new Flaw(`"${name}" could run the arguments; ${inFile}`)
  if (!interpreting.has(name) && words.length > 1 && !/^exec$/.test(name)) checkCommand(line, words)
  if (words.length === 1 && name !== "exec") throw new Flaw(`"${name}" could run the arguments; ${inFile}`)
}

/** That a command with the sender's words in it takes them as arguments. */
const checkCommand = (line: string, words: ReadonlyArray<Word>) => {
  const [first, ...rest] = words
  if (first === undefined || first.mention !== "none" || first.text.startsWith("-"))
    throw new Flaw(`the first argument would be run as the command; ${example}`)
  const name = nameOf(line, first.text)
  const base = baseOf(name)
  if (reserved.has(name))
    throw new Flaw(`it is not clear which command within "${name}" gets the arguments; ${example}`)
  if (interpreting.has(base)) throw new Flaw(`"${name}" would run the arguments; write the command itself: viewer "$@"`)
  if (builtins.has(name)) throw new Flaw(`"${name}" would not take them as arguments; ${example}`)
  const wrapper = wrappers.get(base)
  if (wrapper !== undefined) return checkCommand(line, wrapped(name, wrapper, rest))
  if (shells.has(base)) return checkShell(name, rest)
  // As in xterm -e sh -c '...'.
  const shell = rest.findIndex(
    ({ text }, at) => shells.has(baseOf(plainOf(text))) && /^-\w*c$/.test(plainOf(rest[at + 1]?.text ?? ""))
  )
  if (shell >= 0) return checkShell(plainOf(rest[shell]!.text), rest.slice(shell + 1))
  if (interpreters.test(base)) return checkInterpreter(name, rest)
  if (name === "[" || base === "test") return checkTest(name, rest)
  if (base === "printf" && (rest[0]?.mention !== "none" || /^["'\\]*-|[$`]|%(?![sbcq%])/.test(rest[0].text)))
    throw new Flaw(`"printf" needs a format for texts; write printf '%s\\n' "$@"`)
}

const wrapped = (name: string, flags: string, words: ReadonlyArray<Word>): ReadonlyArray<Word> => {
  const isFlag = new RegExp(`^-[${flags}]+$`)
  for (let at = 0; at < words.length; at++) {
    const { mention, text } = words[at]!
    if (mention !== "none") break
    const number = /^\d+(?:\.\d+)?[smhd]?$/
    if (isAssignment(words[at]!) || number.test(text) || /^-\d+$|^--?$|^--[\w-]+=[\w.-]*$/.test(text)) continue
    if (flags !== "" && isFlag.test(text)) continue
    if (/^-/.test(plainOf(text)) && number.test(words[at + 1]?.text ?? "")) continue
    if (/^-/.test(plainOf(text))) throw new Flaw(`it is not clear which command "${name} ${text}" runs; ${inFile}`)
    return words.slice(at)
  }
  throw new Flaw(`"${name}" would run the first argument as a command; ${example}`)
}

// Either a script file, or -c with a script that says where the arguments belong, and the word for its $0.
const checkShell = (name: string, words: ReadonlyArray<Word>) => {
  let at = 0
  let isText = false
  while (/^-[euxc]+$/.test(words[at]?.text ?? "")) isText = words[at++]!.text.includes("c") || isText
  const script = words[at]
  if (script === undefined || script.mention !== "none" || /^["'\\]*[-+]/.test(script.text) || name.endsWith("busybox"))
    throw new Flaw(`"${name}" would run the arguments as a script; ${inFile}`)
  if (!isText) {
    if (/[$`]|^\/dev\//.test(plainOf(script.text)))
      throw new Flaw(`it is not clear which script "${name}" runs; ${inFile}`)
    return
  }
  const text =
    /^'([^']*)'$/.exec(script.text)?.[1] ?? /^"([^"$`\\]*)"$|^([\w./-]+)$/.exec(script.text)?.slice(1).join("")
  const inner = text === undefined ? undefined : withArguments(text)
  if (inner?._tag !== "Line") throw new Flaw(`it is not clear what "${name} -c" does with the arguments; ${inFile}`)
  const zero = words[at + 1]
  if (inner.script !== text || zero === undefined || zero.mention !== "none" || /^[^'"\w]/.test(zero.text))
    throw new Flaw(`"${name} -c" would lose the first argument; write the command itself: ${inner.script}`)
}

const isPlainText = (word: Word | undefined) => /^(?:'[^']*'|"[^"$`\\]*"|[\w./+-]+)$/.test(word?.text ?? "")

// A script file, or the text of a script and a -- that keeps arguments from being options. For python -c ends the options.
const checkInterpreter = (name: string, [first, text, end]: ReadonlyArray<Word>) => {
  const option = first === undefined || first.mention !== "none" ? "" : first.text
  if (/^-[cerp]$/.test(option) && isPlainText(text)) {
    if (end?.text === "--" || (option === "-c" && /^(?:python|pypy)/.test(baseOf(name)))) return
    throw new Flaw(`"${name}" could take the arguments for its options; write -- behind the script`)
  }
  if (option === "" || plainOf(option).startsWith("-") || /[$`]|^\/dev\//.test(plainOf(option)))
    throw new Flaw(`"${name}" could run the arguments; ${inFile}`)
}

// The forms in which no argument can be taken for an operator, and no operator evaluates an argument.
const checkTest = (name: string, words: ReadonlyArray<Word>) => {
  const inside = words.filter(({ text }) => text !== "]" && text !== "!")
  const texts = inside.map((word) => (word.mention === "none" ? word.text : "word"))
  const isKnown =
    texts.length === 1 ||
    (texts.length === 2 && /^-[nzefdrwxsLhSpbc]$/.test(texts[0]!)) ||
    (texts.length === 3 && /^!?=$/.test(texts[1]!))
  if (!isKnown || inside.some(({ mention }) => mention === "many"))
    throw new Flaw(`"${name}" could take the arguments for its operators; write one test for each, as in [ -n "$1" ]`)
}

const baseOf = (name: string) => name.slice(name.lastIndexOf("/") + 1)

const plainOf = (text: string) => text.replace(/["'\\]/g, "")

/** The name of a command, without its quotes; of variables only the owner's, and only where it cannot vanish. */
const nameOf = (line: string, text: string): string => {
  const plain = plainOf(text)
  if (/^(?:[\p{L}\p{N}_./+:@~-]|\\[\p{L}\p{N}_./+:@ -]|'[^'\n]*'|"[^"$`\\\n]*"|\[$)+$/u.test(text)) {
    if (plain === "" || /[={}*?$`]/.test(plain))
      throw new Flaw(`${text} is not plainly the name of a command; ${example}`)
    return plain
  }
  const path = /^"?\$(?:(\w+)|\{(\w+)\})"?((?:\/[\w.+@-]+)*)"?$/.exec(text)
  const otherwise = /^"\$\{([A-Za-z]\w*):-([\w./+-]+)\}"$/.exec(text)
  const variable = path?.[1] ?? path?.[2] ?? otherwise?.[1]
  // One that the line sets may have the sender's words.
  const others = line.match(new RegExp(`(?:\\$\\{?)?\\b${variable}\\b(?::?=)?`, "g")) ?? []
  const isOwn =
    variable !== undefined && /^[A-Za-z]/.test(variable) && others.every((found) => /^\$.*[^=]$/.test(found))
  if (isOwn && path !== null && (text.startsWith('"') || path[3] !== "")) return plain
  if (isOwn && otherwise !== null) return otherwise[2]!
  throw new Flaw(
    isOwn && path !== null
      ? `${text} may be empty, and then the first argument would be run as the command; write "${text}" with the quotes`
      : `${text} is not plainly the name of a command; write the name itself`
  )
}

const operator = /^(?:&&|\|\||\|&|;;|[;&|()\n])/
const redirection = /^(?:<<<|<<-?|[<>]&|<>|>>|>\||[<>])/
const variable = /^\$(?:[A-Za-z_]\w*|[?$!#0-9@*-])?/

interface Parsed {
  readonly commands: ReadonlyArray<Command>
  readonly mentions: boolean
}

interface Reader {
  /** Names of loops over the sender's words: they have one of them. */
  readonly names: Set<string>
  mention: (mention: Mention, text: string, quoted: boolean) => void
}

/** Whether the command starts a loop without a list, which is over the sender's words; keeps the name of one over them. */
const startsLoop = ({ words }: Command, names: Set<string>): boolean => {
  const [name, variable, ...list] = simple(words)
  if (name?.text !== "for" || variable === undefined) return false
  if (list[0]?.text === "do") throw new Flaw(`write the loop as in 'for f in "$@"; do viewer "$f"; done'`)
  if (list.length === 0 || list.some(({ mention }) => mention !== "none")) names.add(variable.text)
  return list.length === 0
}

const checkOperator = (text: string, { words }: Command, isAdjacent: boolean) => {
  if (text.startsWith("|&")) throw new Flaw('shells read "|&" differently; write "2>&1 |"')
  if (text.startsWith("((")) throw new Flaw('shells read "((" differently; write "( ("')
  const last = words.at(-1)?.text
  if (text.startsWith("(") && last !== undefined && (isAdjacent || !reserved.has(last)))
    throw new Flaw(`it defines a function or an array; ${inFile}`)
}

const parse = (line: string, names: Set<string> = new Set()): Parsed => {
  let command: Command = { before: "", words: [], end: 0 }
  const commands = [command]
  let mentions = false
  let word: { readonly start: number; mention: Mention } | undefined
  let target = false
  let at = 0
  const documents: Array<{ readonly strip: boolean; readonly delimiter: string }> = []
  let document: string | undefined

  const reader: Reader = {
    names,
    mention: (mention, text, quoted) => {
      if (target) throw new Flaw(`a redirection has the arguments in it; ${example}`)
      if (!quoted) throw new Flaw(`the shell would split ${text} without quotes; write "${text}" with the quotes`)
      mentions = true
      if (word!.mention !== "many") word!.mention = mention
    }
  }
  const endWord = () => {
    if (word === undefined) return
    command.end = at
    const text = line.slice(word.start, at)
    if (!target) command.words.push({ text, mention: word.mention })
    else if (document !== undefined) documents.push({ strip: document === "<<-", delimiter: text })
    document = undefined
    target = false
    word = undefined
  }
  const next = (found: string) => {
    const isAdjacent = word !== undefined
    endWord()
    if (target) throw new Flaw(`a redirection before "${found}" has no target`)
    checkOperator(found + (line[at + 1] ?? ""), command, isAdjacent)
    if (startsLoop(command, names)) mentions = true
    command = { before: found, words: [], end: 0 }
    commands.push(command)
    at += found.length
    if (found !== "\n") return
    for (const { delimiter, strip } of documents.splice(0)) at = behindDocument(line, at, delimiter, strip, names)
  }
  const redirect = (found: string) => {
    // A number directly before it belongs to it.
    if (word !== undefined && /^\d+$/.test(line.slice(word.start, at))) word = undefined
    endWord()
    if (target) throw new Flaw(`a redirection before "${found}" has no target`)
    target = true
    document = found === "<<" || found === "<<-" ? found : undefined
    at += found.length
  }

  while (at < line.length) {
    const rest = line.slice(at)
    const operation = operator.exec(rest)?.[0]
    const redirecting = redirection.exec(rest)?.[0]
    if (rest.startsWith("\\\n")) {
      if (target || !/(?:^|[ \t\n])$/.test(line.slice(0, at)))
        throw new Flaw("it goes on in the next line within a word; put a space before the backslash, or join the lines")
      at += 2
    } else if (operation !== undefined) next(operation)
    else if (redirecting !== undefined) redirect(redirecting)
    else if (/^[ \t]/.test(rest)) {
      endWord()
      at++
    } else if (rest.startsWith("#") && word === undefined) {
      const newline = line.indexOf("\n", at)
      at = newline < 0 ? line.length : newline
    } else {
      word ??= { start: at, mention: "none" }
      at = skip(line, at, reader, false)
    }
  }
  endWord()
  if (target) throw new Flaw("a redirection has no target")
  if (documents.length > 0) throw new Flaw("a here-document has no end")
  if (startsLoop(command, names)) mentions = true
  return { commands, mentions }
}

const behindDocument = (line: string, from: number, quoted: string, strip: boolean, names: Set<string>): number => {
  const delimiter = plainOf(quoted)
  const lines = line.slice(from).split("\n")
  const end = lines.findIndex((text) => (strip ? text.replace(/^\t+/, "") : text) === delimiter)
  if (end < 0) throw new Flaw("a here-document has no end")
  const body = lines.slice(0, end).join("\n")
  if (quoted === delimiter) {
    if (/\\\n/.test(body)) throw new Flaw(`a here-document goes on in the next line; ${inFile}`)
    const mention = () => {
      throw new Flaw(`a here-document has the arguments in it; ${example}`)
    }
    for (let at = 0; at < body.length; )
      at = /[\\$`]/.test(body[at]!) ? skip(body, at, { names, mention }, true) : at + 1
  }
  return Math.min(from + lines.slice(0, end + 1).join("\n").length, line.length)
}

// Behind the character, quotation or expansion at a place.
const skip = (line: string, at: number, reader: Reader, quoted: boolean): number => {
  switch (line[at]) {
    case "\\":
      if (at + 1 === line.length) throw new Flaw("it ends in a backslash")
      if (line[at + 1] === "\n") throw new Flaw("it goes on in the next line within a word; join the lines")
      return at + 2
    case "'": {
      const end = line.indexOf("'", at + 1)
      if (end < 0) throw new Flaw("a quotation has no end")
      return end + 1
    }
    case '"':
      return skipUntil(line, at + 1, '"', reader, true)
    case "`": {
      const end = skipUntil(line, at + 1, "`", reader, false)
      if (line.slice(at, end).includes("$"))
        throw new Flaw("it has an expansion within backquotes; write $(...) instead")
      return end
    }
    case "$":
      return skipExpansion(line, at, reader, quoted)
    default:
      return at + 1
  }
}

const skipExpansion = (line: string, at: number, reader: Reader, quoted: boolean): number => {
  const rest = line.slice(at)
  if (rest.startsWith("$[") || (!quoted && /^\$['"]/.test(rest)))
    throw new Flaw(`shells read ${rest.slice(0, 2)} differently; write it without the dollar sign`)
  if (rest.startsWith("$(")) return skipSubstitution(line, at, reader, quoted)
  if (rest.startsWith("${")) {
    const inner = {
      names: reader.names,
      mention: () => {
        throw new Flaw(`an expansion has the arguments in it; ${example}`)
      }
    }
    const end = skipUntil(line, at + 2, "}", inner, quoted)
    const text = line.slice(at, end)
    if (/^\$\{!|'/.test(text) || (quoted && text.includes('"')))
      throw new Flaw(`shells read ${text} differently; ${inFile}`)
    const parameter = /^\$\{([@*]|[1-9]\d*|[A-Za-z_]\w*)/.exec(text)?.[1]
    const mention = parameter === undefined ? "none" : mentionOf(parameter, reader.names)
    if (mention === "none") return end
    if (!/^\$\{(?:[@*]|\w+)(?:(?::?[-+?]|[#%/])[^$`@\\"]*|:\d+(?::\d+)?)?\}$/.test(text))
      throw new Flaw(`it is not clear what ${text} makes of the arguments; ${inFile}`)
    reader.mention(mention, text, quoted)
    return end
  }
  const text = variable.exec(rest)![0]
  const parameter = /^\$\d/.test(text) ? text[1]! : text.slice(1)
  const mention = mentionOf(parameter, reader.names)
  if (mention !== "none") reader.mention(mention, text, quoted)
  return at + text.length
}

const mentionOf = (parameter: string, names: ReadonlySet<string>): Mention => {
  if (parameter === "_") throw new Flaw(`"$_" could be one of the arguments; ${inFile}`)
  if (parameter === "@") return "many"
  return /^(?:\*|[1-9]\d*)$/.test(parameter) || names.has(parameter) ? "one" : "none"
}

const skipSubstitution = (line: string, at: number, reader: Reader, quoted: boolean): number => {
  let isMentioned = false
  const mention = () => {
    isMentioned = true
  }
  const end = skipUntil(line, at + 2, ")", { names: reader.names, mention }, false)
  const inner = line.slice(at + 2, end - 1)
  if (inner.startsWith("(")) {
    if (isMentioned || !/^[\w\s+*/%<>&|^()~!=?:,$-]*$/.test(inner))
      throw new Flaw(`it is not clear what is calculated in $(${inner}); ${inFile}`)
    return end
  }
  // Where these have parentheses in them, the end is another one.
  if (/\bcase\b|(?:^|[\s;&|()])#|<</.test(inner)) throw new Flaw(`it is not clear where $(${inner}) ends; ${inFile}`)
  const { commands, mentions } = parse(inner, new Set(reader.names))
  if (!mentions) return end
  checkMentions(inner, commands)
  reader.mention("one", line.slice(at, end), quoted)
  return end
}

const skipUntil = (line: string, from: number, closing: string, reader: Reader, quoted: boolean): number => {
  let at = from
  while (at < line.length) {
    const character = line[at]!
    if (character === closing) return at + 1
    // Within double quotes an apostrophe is one.
    if (closing === '"' && character === "'") at++
    else if (closing === ")" && character === "(") at = skipUntil(line, at + 1, ")", reader, false)
    else at = skip(line, at, reader, quoted)
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
  if (args.some(hasLineBreak))
    return { _tag: "Refused", detail: "cmd.exe cannot be given an argument with a line break" }
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

/**
 * A word as cmd.exe takes it for one argument. Backslashes count only before a quote, and `""` is one within quotes, as the C
 * runtime reads them. With `\"` cmd.exe would take the quote for the end: a batch file hands its arguments on in a line that
 * is read once more, without these carets then, and what follows the quote could be run.
 */
export const quoteForCmd = (arg: string): string =>
  `"${arg.replace(/(\\*)"/g, '$1$1""').replace(/(\\*)$/, "$1$1")}"`.replace(/[()\][%!^"`<>&|;, *?]/g, "^$&")

/** cmd.exe ends its line there, and would lose the rest without a word. */
export const hasLineBreak = (arg: string): boolean => /[\r\n]/.test(arg)
