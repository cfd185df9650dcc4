// SPDX-License-Identifier: GPL-2.0-only
/**
 * The text of a macro's arguments, as the C preprocessor's # operator gives it: read from the TypeScript source at the
 * line that uses the macro. Where the source is not at hand the macro falls back to a fixed text.
 */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { SrcLoc } from './dsl/srcloc.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const OPEN = '([{';
const CLOSE = ')]}';
const QUOTES = '\'"`';

interface Scan {
  readonly args: string[];
  current: string;
  depth: number;
  quote: string;
}

/** One character; true when the argument list is complete. */
function step(scan: Scan, char: string, before: string): boolean {
  if (scan.quote !== '') {
    if (char === scan.quote && before !== '\\') scan.quote = '';
  } else if (QUOTES.includes(char)) {
    scan.quote = char;
  } else if (OPEN.includes(char)) {
    scan.depth += 1;
    if (scan.depth === 1) return false;
  } else if (CLOSE.includes(char)) {
    scan.depth -= 1;
    if (scan.depth === 0) return true;
  } else if (char === ',' && scan.depth === 1) {
    scan.args.push(scan.current);
    scan.current = '';
    return false;
  }
  scan.current += char;
  return false;
}

/** The arguments of the first call of `macro` in `source` at or after `line`; undefined if it is not on that line. */
export function argumentTexts(source: string, line: number, macro: string): readonly string[] | undefined {
  const lines = source.split('\n');
  const column = lines[line - 1]?.indexOf(`${macro}(`) ?? -1;
  if (column < 0) return undefined;
  const rest = [lines[line - 1]!.slice(column + macro.length), ...lines.slice(line, line + 40)].join('\n');
  const scan: Scan = { args: [], current: '', depth: 0, quote: '' };
  for (let i = 0; i < rest.length; i++) {
    if (!step(scan, rest[i]!, rest[i - 1] ?? '')) continue;
    scan.args.push(scan.current);
    return scan.args.map((text) => text.replace(/\s+/g, ' ').trim()).filter((text) => text !== '');
  }
  return undefined;
}

/** The texts of the arguments of a macro used at `loc`, without the leading `g`. */
export function macroArguments(loc: SrcLoc, macro: string): readonly string[] {
  const path = loc.file.startsWith('/') ? loc.file : ROOT + loc.file;
  if (!existsSync(path)) return [];
  return argumentTexts(readFileSync(path, 'utf8'), loc.line, macro)?.slice(1) ?? [];
}
