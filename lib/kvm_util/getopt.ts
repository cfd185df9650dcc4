// SPDX-License-Identifier: GPL-2.0-only
/** Option parsing as getopt(3) does it, so that ported tests keep upstream's option strings. */
import { UsageError } from './test_util.ts';

export interface ParsedOption {
  readonly opt: string;
  /** Empty for an option without argument. */
  readonly arg: string;
}

export interface ParsedOptions {
  readonly options: readonly ParsedOption[];
  readonly rest: readonly string[];
}

/** Parse one argument vector after a getopt string such as `hvds:f:`; the first non-option ends the options. */
export function getopt(argv: readonly string[], optstring: string): ParsedOptions {
  const options: ParsedOption[] = [];
  let i = 0;
  while (i < argv.length) {
    const word = argv[i]!;
    if (word === '--') return { options, rest: argv.slice(i + 1) };
    if (!word.startsWith('-') || word === '-') break;
    i++;
    for (let c = 1; c < word.length; c++) {
      const opt = word[c]!;
      const at = opt === ':' ? -1 : optstring.indexOf(opt);
      if (at < 0) throw new UsageError(`invalid option -- '${opt}'`);
      if (optstring[at + 1] !== ':') {
        options.push({ opt, arg: '' });
        continue;
      }
      const arg = c + 1 < word.length ? word.slice(c + 1) : argv[i++];
      if (arg === undefined) throw new UsageError(`option requires an argument -- '${opt}'`);
      options.push({ opt, arg });
      break;
    }
  }
  return { options, rest: argv.slice(i) };
}

/** atoi_paranoid(): the whole string is a number that fits an int, or the option is refused. */
export function atoiParanoid(text: string): number {
  const value = /^[+-]?(0[xX][0-9a-fA-F]+|\d+)$/.test(text) ? parseInteger(text) : Number.NaN;
  if (Number.isNaN(value)) throw new UsageError(`strtol("${text}") failed: not a number`);
  if (value < -0x8000_0000 || value > 0x7fff_ffff) throw new UsageError(`${text} not in range of integer`);
  return value;
}

function parseInteger(text: string): number {
  const negative = text.startsWith('-');
  const magnitude = Number(text.replace(/^[+-]/, ''));
  return negative ? -magnitude : magnitude;
}

/** atoi_positive(): as atoiParanoid(), and greater than zero. */
export function atoiPositive(name: string, text: string): number {
  const value = atoiParanoid(text);
  if (value <= 0) throw new UsageError(`${name} must be greater than 0, got '${text}'`);
  return value;
}

/** atoi_non_negative(): as atoiParanoid(), and not negative. */
export function atoiNonNegative(name: string, text: string): number {
  const value = atoiParanoid(text);
  if (value < 0) throw new UsageError(`${name} must be non-negative, got '${text}'`);
  return value;
}

/** parse_size(): a number of bytes, with suffix K, M or G. */
export function parseSize(text: string): number {
  const match = /^(0[xX][0-9a-fA-F]+|\d+)([kKmMgG]?)$/.exec(text);
  const size =
    match === null ? 0 : Number(match[1]!) * 1024 ** ' KMG'.indexOf((match[2]! || ' ').toUpperCase());
  if (size <= 0 || !Number.isSafeInteger(size)) throw new UsageError(`size '${text}' invalid`);
  return size;
}
