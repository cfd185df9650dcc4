// SPDX-License-Identifier: GPL-2.0-only
/**
 * The whole instruction set of the assembler: the tables of isa/ put together and indexed by mnemonic, and which
 * mnemonics take lock, rep, repe and repne. SDM, "LOCK" and "REP/REPE/REPZ/REPNE/REPNZ".
 * Leaves out legacy modes, x87, vector and VEX-encoded instructions.
 */
import { type Form, parseForm } from './forms.ts';
import { ALU } from './isa/alu.ts';
import { BITS } from './isa/bits.ts';
import type { Row } from './isa/family.ts';
import { FLOW } from './isa/flow.ts';
import { MOVE } from './isa/move.ts';
import { SYSTEM } from './isa/system.ts';
import { VIRT } from './isa/virt.ts';

const TABLE = [...ALU, ...BITS, ...MOVE, ...FLOW, ...SYSTEM, ...VIRT] as const;

/** A mnemonic without prefix. */
export type Mnemonic = (typeof TABLE)[number][0];

const LOCKABLE = [
  ...(['add', 'or', 'adc', 'sbb', 'and', 'sub', 'xor', 'not', 'neg', 'inc', 'dec'] as const),
  ...(['bts', 'btr', 'btc', 'xchg', 'xadd', 'cmpxchg', 'cmpxchg8b', 'cmpxchg16b'] as const),
] as const satisfies readonly Mnemonic[];

const REPEATABLE = [
  ...(['movsb', 'movsw', 'movsd', 'movsq', 'stosb', 'stosw', 'stosd', 'stosq'] as const),
  ...(['lodsb', 'lodsw', 'lodsd', 'lodsq'] as const),
  ...(['insb', 'insw', 'insd', 'outsb', 'outsw', 'outsd'] as const),
] as const satisfies readonly Mnemonic[];

const REPEATABLE_WHILE = [
  ...(['cmpsb', 'cmpsw', 'cmpsd', 'cmpsq', 'scasb', 'scasw', 'scasd', 'scasq'] as const),
] as const satisfies readonly Mnemonic[];

/** What `emit` takes: a mnemonic, with the prefix that goes with it if one is wanted. */
export type Instruction =
  | Mnemonic
  | `lock ${(typeof LOCKABLE)[number]}`
  | `rep ${(typeof REPEATABLE)[number]}`
  | `${'repe' | 'repz' | 'repne' | 'repnz'} ${(typeof REPEATABLE_WHILE)[number]}`;

const byMnemonic = (rows: readonly Row[]): ReadonlyMap<string, readonly Form[]> => {
  const forms = new Map<string, Form[]>();
  for (const row of rows) {
    const same = forms.get(row[0]);
    if (same) same.push(parseForm(row));
    else forms.set(row[0], [parseForm(row)]);
  }
  return forms;
};

/** The forms of each mnemonic, in the tables' order. */
export const FORMS: ReadonlyMap<string, readonly Form[]> = byMnemonic(TABLE);

/** A prefix word: its byte and the mnemonics that it goes with. */
export interface PrefixWord {
  readonly byte: number;
  readonly mnemonics: ReadonlySet<string>;
}

/** The prefix words. */
export const PREFIX_WORDS: ReadonlyMap<string, PrefixWord> = new Map([
  ['lock', { byte: 0xf0, mnemonics: new Set<string>(LOCKABLE) }],
  ['rep', { byte: 0xf3, mnemonics: new Set<string>(REPEATABLE) }],
  ['repe', { byte: 0xf3, mnemonics: new Set<string>(REPEATABLE_WHILE) }],
  ['repz', { byte: 0xf3, mnemonics: new Set<string>(REPEATABLE_WHILE) }],
  ['repne', { byte: 0xf2, mnemonics: new Set<string>(REPEATABLE_WHILE) }],
  ['repnz', { byte: 0xf2, mnemonics: new Set<string>(REPEATABLE_WHILE) }],
]);
