/**
 * The words of a command line before `@effect/cli` parses them: which are options, which operands, and what is wrong with
 * them.
 */
import * as Options from "@effect/cli/Options"
import type * as Usage from "@effect/cli/Usage"

/** A command and what may stand behind its name. */
export interface Syntax {
  readonly options: { readonly [key: string]: Options.Options<any> }
  /** It takes any words behind `--`, as they are. */
  readonly takesWords: boolean
  /** The values of options that may be written without one. */
  readonly implied?: { readonly [option: string]: string } | undefined
}

export interface Words {
  /** What `@effect/cli` is to parse. */
  readonly own: ReadonlyArray<string>
  /** What stands behind `--`, where the command takes words. */
  readonly rest: ReadonlyArray<string>
  /** What is wrong with them, for a person. */
  readonly flaw?: string | undefined
}

/** Reads the words behind the name of the program. */
export const read = (words: ReadonlyArray<string>, commands: { readonly [name: string]: Syntax }): Words => {
  const at = words.indexOf("--")
  const front = at < 0 ? words : words.slice(0, at)
  const behind = at < 0 ? [] : words.slice(at + 1)
  const position = front.findIndex((word) => Object.hasOwn(commands, word))
  const name = front[position]
  const ahead = position < 0 ? front : front.slice(0, position)
  // Whoever asks for help gets it, and nothing else.
  const question = front.map((word) => parted(word).text).find((text) => questions.includes(text))
  if (question !== undefined) return { own: name === undefined ? [question] : [name, question], rest: [] }
  const flawAhead = flawOf(ahead)
  if (name === undefined || flawAhead !== undefined) return { own: words, rest: [], flaw: flawAhead }
  const { implied = {}, options, takesWords } = commands[name]!
  const completed = front
    .slice(position + 1)
    .map((word) => (Object.hasOwn(implied, word) ? `${word}=${implied[word]}` : word))
  const { flaw, operands, words: own } = scan(name, completed, namesOf(options))
  const before = [...front.slice(0, position + 1), ...own]
  if (takesWords) {
    const [first, second] = behind
    // An id that begins with a hyphen would be an option elsewhere.
    const isId = operands.length === 0 && first?.startsWith("-") === true
    const misplaced = operands[1]
    return {
      own: isId ? [...before, "--", first!] : before,
      rest: isId ? behind.slice(second === "--" ? 2 : 1) : behind,
      flaw: flaw ?? (misplaced === undefined ? undefined : `put "${misplaced}" and what follows behind "--"`)
    }
  }
  const surplus = [...operands, ...behind][1]
  const order = behind.length > 0 ? `; options stand before "--"` : ""
  return {
    own: at < 0 ? before : [...before, "--", ...behind],
    rest: [],
    flaw: flaw ?? (surplus === undefined ? undefined : `"${surplus}" is one word too many: ${name} takes an id${order}`)
  }
}

// The options by each of their names, and whether a value follows.
const namesOf = (options: Syntax["options"]): ReadonlyMap<string, Named> => {
  const found = new Map<string, Named>()
  const collect = (usage: Usage.Usage): void => {
    if (usage._tag === "Optional") collect(usage.usage)
    else if (usage._tag === "Named") {
      const name = usage.names.find((name) => name.startsWith("--"))!
      const named = { name, isValued: usage.acceptedValues._tag === "Some" }
      for (const each of usage.names) found.set(each, named)
    }
  }
  for (const option of Object.values(options)) collect(Options.getUsage(option))
  return found
}

interface Named {
  readonly name: string
  readonly isValued: boolean
}

// Those of `@effect/cli` itself, with their values.
const builtInValues: { readonly [name: string]: ReadonlyArray<string> } = {
  "--log-level": ["all", "trace", "debug", "info", "warning", "error", "fatal", "none"],
  "--completions": ["sh", "bash", "fish", "zsh"]
}
const builtIn: ReadonlyMap<string, Named> = new Map(
  Object.keys(builtInValues).map((name) => [name, { name, isValued: true }])
)
const questions = ["-h", "--help", "--version", "--wizard"]

// What is wrong before the name of the command, where only such options stand.
const flawOf = (words: ReadonlyArray<string>): string | undefined => {
  for (let at = 0; at < words.length && words[at]!.startsWith("-"); at++) {
    const { text, written } = parted(words[at]!)
    const values = Object.hasOwn(builtInValues, text) ? builtInValues[text]! : undefined
    if (values === undefined) return `${text} stands before the command; options stand behind it`
    const value = written ?? words[++at]
    if (value === undefined || !values.includes(value)) return `${text} must be one of ${values.join(", ")}`
  }
  return undefined
}

const scan = (command: string, given: ReadonlyArray<string>, options: ReadonlyMap<string, Named>) => {
  const words: Array<string> = []
  const operands: Array<string> = []
  const seen = new Set<Named>()
  const flaws: Array<string> = []
  const queue = [...given]
  const find = (text: string) => options.get(text) ?? builtIn.get(text)
  for (let word = queue.shift(); word !== undefined; word = queue.shift()) {
    if (!/^-./.test(word)) {
      operands.push(word)
      words.push(word)
      continue
    }
    const letters = clusterOf(word, options)
    if (letters !== undefined) {
      queue.unshift(...letters)
      continue
    }
    const { text, written } = parted(word)
    const option = find(text)
    if (option === undefined) {
      const isId = operands.length === 0 ? `; an id that begins with a hyphen stands behind "--"` : ""
      flaws.push(`${command} has no option "${text}"${isId}`)
      words.push(word)
      continue
    }
    if (seen.has(option)) flaws.push(`${text} is given twice`)
    seen.add(option)
    if (!option.isValued) {
      if (written !== undefined && !/^(true|yes|on|y|1|false|no|off|n|0)$/.test(written)) {
        flaws.push(`${text} takes no value`)
      }
      // `@effect/cli` would take a word that follows, such as "true" or "1", for its value.
      words.push(`${option.name}=${written ?? true}`)
      continue
    }
    // An option of ours is not a value, unless "=" says so.
    const value = written ?? (find(parted(queue[0] ?? "").text) === undefined ? queue.shift() : undefined)
    if (value === undefined) flaws.push(`${text} lacks its value`)
    else if (value.trim() === "") flaws.push(`${text} must not be empty`)
    else if (builtIn.has(text) && !builtInValues[text]!.includes(value)) {
      flaws.push(`${text} must be one of ${builtInValues[text]!.join(", ")}`)
    }
    // `@effect/cli` would take a value such as "--json" for an option, and reads only one line behind "=".
    if (value !== undefined) words.push(...(/^-.*$/.test(value) ? [`${option.name}=${value}`] : [option.name, value]))
  }
  return { words, operands, flaw: flaws[0] }
}

// An option's name, and its value where that is written behind "=".
const parted = (word: string): { readonly text: string; readonly written?: string } => {
  const equals = word.startsWith("--") ? word.indexOf("=") : -1
  return equals < 0 ? { text: word } : { text: word.slice(0, equals), written: word.slice(equals + 1) }
}

// Several letters behind one hyphen, the last of which may have its value there.
const clusterOf = (word: string, options: ReadonlyMap<string, Named>): ReadonlyArray<string> | undefined => {
  if (!/^-[A-Za-z]./.test(word)) return undefined
  const parts: Array<string> = []
  for (let at = 1; at < word.length; at++) {
    const option = options.get(`-${word[at]}`)
    if (option === undefined) return undefined
    parts.push(`-${word[at]}`)
    if (!option.isValued) continue
    if (at + 1 < word.length) parts.push(word.slice(at + 1))
    break
  }
  return parts
}
