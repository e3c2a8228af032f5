// The second half of `npm run check`: examples in the documentation compile, and every export says since when it is there.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join, relative } from "node:path"
import ts from "typescript"
import { root } from "./bundle.mjs"

const folder = join(root, ".build/docs")
const problems = []
const report = (file, line, text) => problems.push(`${relative(root, file)}:${line} - ${text}`)

const filesIn = (name, pattern) =>
  existsSync(join(root, name))
    ? readdirSync(join(root, name), { recursive: true })
        .filter((file) => pattern.test(file))
        .sort()
        .map((file) => join(root, name, file))
    : []
const sources = filesIn("src", /\.ts$/)
const manuals = [...filesIn("docs", /\.md$/), join(root, "README.md")].filter(existsSync)

// Lines of one text that is to be read as Markdown, each with its number in the file.
const linesOf = (text, first, strip) =>
  text.split(/\r?\n/).map((line, index) => ({ text: line.replace(strip, ""), number: first + index }))

const fences = (file, lines) => {
  const found = []
  let open
  for (const line of lines) {
    const fence = /^\s*(`{3,})\s*(.*?)\s*$/.exec(line.text)
    if (open === undefined) {
      if (fence !== null) open = { file, ticks: fence[1].length, info: fence[2], start: line.number, lines: [] }
    } else if (fence !== null && fence[2] === "" && fence[1].length >= open.ticks) {
      if (/^(ts|typescript)(?!.*\bskip\b)(\s|$)/.test(open.info)) found.push(open)
      open = undefined
    } else {
      open.lines.push(line)
    }
  }
  if (open !== undefined) report(file, open.start, "this fence is never closed")
  return found
}

const inComments = (file) => {
  const text = readFileSync(file, "utf8")
  return [...text.matchAll(/\/\*\*[\s\S]*?\*\//g)].flatMap((comment) => {
    const example = comment[0].indexOf("@example")
    if (example < 0) return []
    const before = text.slice(0, comment.index + example).split("\n").length
    return fences(file, linesOf(comment[0].slice(example, -2), before, /^\s*\* ?/))
  })
}

const examples = [
  ...sources.flatMap(inComments),
  ...manuals.flatMap((file) => fences(file, linesOf(readFileSync(file, "utf8"), 1, /^/)))
]

rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })
const origins = new Map()
for (const example of examples) {
  const origin = `${relative(root, example.file)}:${example.start}`
  const path = join(folder, `${origin.replace(/[^A-Za-z0-9]+/g, "-")}.ts`)
  writeFileSync(path, [`// ${origin}`, ...example.lines.map((line) => line.text), ""].join("\n"))
  origins.set(path, example)
}

const config = ts.getParsedCommandLineOfConfigFile(
  join(root, "tsconfig.json"),
  // An example may name a thing only to show it.
  { noUnusedLocals: false, incremental: false, tsBuildInfoFile: undefined },
  { ...ts.sys, onUnRecoverableConfigFileDiagnostic: (diagnostic) => report(root, 0, textOf(diagnostic)) }
)
const program = ts.createProgram([...sources, ...origins.keys()], config.options)
const checker = program.getTypeChecker()

for (const [path, example] of origins) {
  const source = program.getSourceFile(path)
  for (const diagnostic of [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)]) {
    const { line } = source.getLineAndCharacterOfPosition(diagnostic.start ?? 0)
    report(example.file, example.lines[line - 1]?.number ?? example.start, textOf(diagnostic))
  }
}

// Where a symbol has several declarations (a type beside a value, overloads), each kind needs its comment.
const undocumented = (symbol) => {
  const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
  const declarations = (target.declarations ?? []).filter(
    (node) => sources.includes(node.getSourceFile().fileName) && !ts.isSourceFile(node)
  )
  const documented = (node) => ts.getJSDocTags(node).some((tag) => tag.tagName.text === "since")
  const kinds = new Set(declarations.filter(documented).map((node) => node.kind))
  return declarations.filter((node) => !kinds.has(node.kind))
}

const missing = new Set()
for (const file of sources.filter((file) => !/^src\/(internal\/|bin\.ts$)/.test(relative(root, file)))) {
  const module = checker.getSymbolAtLocation(program.getSourceFile(file))
  const exported = module === undefined ? [] : checker.getExportsOfModule(module)
  for (const node of exported.flatMap(undocumented)) missing.add(node)
}
for (const node of missing) {
  const source = node.getSourceFile()
  const { line } = source.getLineAndCharacterOfPosition(node.getStart())
  report(
    source.fileName,
    line + 1,
    `\`${node.name?.getText() ?? node.getText()}\` is exported without a JSDoc that has @since`
  )
}

if (examples.length === 0 && existsSync(join(root, "src/index.ts")))
  report(join(root, "src/index.ts"), 1, "there is no example")
for (const problem of problems) console.error(problem)
console.log(`check-docs: ${examples.length} examples, ${sources.length} modules, ${problems.length} problems`)
process.exitCode = problems.length === 0 ? 0 : 1

function textOf(diagnostic) {
  return ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n")
}
