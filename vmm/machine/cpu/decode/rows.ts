// SPDX-License-Identifier: GPL-2.0-only
/**
 * The opcode table's row, and its compilation into what the decoder looks up: candidates by opcode byte, tried in order.
 */

/** Row flags. */
// prettier-ignore
export const L = {
  LOCK:     0x01, // LOCK is allowed with a memory destination
  REP:      0x02, // F2 and F3 repeat
  SREG:     0x04, // ModRM.reg is a segment register
  NOT_CS:   0x08, // ... and not CS
  NO_REX_B: 0x10, // the row does not match with REX.B
  FS:       0x20, // operand FS
  GS:       0x40, // operand GS
  CR:       0x80, // ModRM.reg is a control register
  DR:       0x100, // ModRM.reg is a debug register
} as const;

export type OpcodeRow = readonly [
  opcode: string,
  operands: string,
  op: number,
  flags?: number,
  sysop?: number,
];

/** A row, compiled. */
export interface Candidate {
  /** Required mandatory prefix: '' any, 'NP', 'NF' (neither F2 nor F3), '66', 'F3', 'W0', 'W1'. */
  readonly prefix: string;
  /** ModRM.reg, or -1. */
  readonly digit: number;
  /** The whole ModRM byte, or -1. */
  readonly modrm: number;
  readonly operands: readonly string[];
  readonly needsModrm: boolean;
  /** What ModRM.rm may be: 'E' both, 'M' memory, 'R' register, 'X' register whatever mod says, '' no ModRM operand. */
  readonly rmKind: string;
  readonly op: number;
  readonly flags: number;
  readonly sysop: number;
  /** Low bits of the opcode: register or condition. */
  readonly low: number;
}

const PREFIXES = ['NP', 'NF', '66', 'F3', 'W0', 'W1'];

interface ParsedOpcode {
  readonly prefix: string;
  readonly bytes: readonly string[];
  readonly digit: number;
  readonly modrm: number;
  readonly span: number;
}

function parseOpcode(text: string): ParsedOpcode {
  const parts = text.split(' ');
  const prefix = PREFIXES.includes(parts[0]!) && parts.length > 1 ? parts.shift()! : '';
  const last = parts.at(-1)!;
  const digit = last.startsWith('/') ? Number(last.slice(1)) : -1;
  const modrm = last.startsWith(':') ? parseInt(last.slice(1), 16) : -1;
  if (digit >= 0 || modrm >= 0) parts.pop();
  const [code, plus] = parts.pop()!.split('+');
  return { prefix, bytes: [...parts, code!], digit, modrm, span: plus === 'r' ? 8 : plus === 'c' ? 16 : 1 };
}

function rmKindOf(operands: readonly string[]): string {
  for (const token of operands) {
    const kind = token[0]!;
    if (kind === 'E' || kind === 'M' || kind === 'R' || kind === 'X') return kind;
  }
  return '';
}

/** Candidates by opcode byte for each map: '' (one byte), '0f', '0f38'. */
export type OpcodeMaps = ReadonlyMap<string, readonly (readonly Candidate[])[]>;

/** Compile rows; the order of rows is the order of preference. */
export function compileRows(rows: readonly OpcodeRow[]): OpcodeMaps {
  const maps = new Map<string, Candidate[][]>();
  for (const [text, operandText, op, flags, sysop] of rows) {
    const parsed = parseOpcode(text);
    const operands = operandText === '' ? [] : operandText.split(',');
    const rmKind = rmKindOf(operands);
    const name = parsed.bytes.slice(0, -1).join('');
    let map = maps.get(name);
    if (map === undefined) maps.set(name, (map = Array.from({ length: 256 }, () => [])));
    const first = parseInt(parsed.bytes.at(-1)!, 16);
    for (let low = 0; low < parsed.span; low++) {
      map[first + low]!.push({
        prefix: parsed.prefix,
        digit: parsed.digit,
        modrm: parsed.modrm,
        operands,
        rmKind,
        needsModrm: rmKind !== '' || parsed.digit >= 0 || parsed.modrm >= 0,
        op,
        flags: flags ?? 0,
        sysop: sysop ?? 0,
        low,
      });
    }
  }
  return maps;
}
