// SPDX-License-Identifier: GPL-2.0-only
/**
 * From a table row to a form the encoder can use. The opcode column is the SDM's "Opcode Column in the Instruction
 * Summary Table": `REX.W`, `/r`, `/0`..`/7`, `ib iw id io`, `cb cd`, `+rb +rw +rd +ro`; `o16` and `a32` name the
 * operand-size and address-size prefixes, and 66, F2, F3 before the opcode are mandatory prefixes.
 */
import { AsmError } from './errors.ts';
import type { Row } from './isa/family.ts';
import { OPERAND_KINDS, type OperandKind } from './kinds.ts';

/** Where an operand goes: a ModRM field, the low opcode bits, after the opcode, or nowhere. */
export type Place = 'rm' | 'reg' | 'opcode' | 'imm' | 'rel' | 'implied';

/** An operand of a form: what it accepts and where it is encoded. */
export interface Slot {
  readonly kind: OperandKind;
  readonly place: Place;
}

/** One encoding of one mnemonic: a row of the tables, taken apart. */
export interface Form {
  readonly row: Row;
  readonly slots: readonly Slot[];
  /** Prefix bytes before REX: operand size, address size, mandatory. */
  readonly prefixes: readonly number[];
  readonly rexW: boolean;
  readonly opcode: readonly number[];
  /** The digit of `/digit`, 'r' for `/r`, none without ModRM. */
  readonly modrm: number | 'r' | 'none';
  /** What a sign-extended immediate is extended to, in bits. */
  readonly operandSize: number;
}

const NAMED_PREFIX: Readonly<Record<string, number>> = { o16: 0x66, a32: 0x67 };
const HEX_BYTE = /^([0-9A-F]{2})(\+r[bwdo])?$/;
const IMMEDIATE = /^(i[bwdo]|c[bd])$/;

interface OpcodeColumn {
  prefixes: number[];
  rexW: boolean;
  opcode: number[];
  modrm: number | 'r' | 'none';
  plusR: boolean;
}

const opcodeByte = (word: string, column: OpcodeColumn): void => {
  const match = HEX_BYTE.exec(word);
  if (!match) throw new AsmError(word, 'not a word of the opcode column');
  const value = parseInt(match[1]!, 16);
  const isPrefix = value === 0x66 || value === 0xf2 || value === 0xf3;
  (isPrefix && column.opcode.length === 0 ? column.prefixes : column.opcode).push(value);
  column.plusR ||= match[2] !== undefined;
};

const parseOpcode = (text: string): OpcodeColumn => {
  const column: OpcodeColumn = { prefixes: [], rexW: false, opcode: [], modrm: 'none', plusR: false };
  for (const word of text.split(' ')) {
    const prefix = NAMED_PREFIX[word];
    if (prefix !== undefined) column.prefixes.push(prefix);
    else if (word === 'REX.W') column.rexW = true;
    else if (word === '/r') column.modrm = 'r';
    else if (/^\/[0-7]$/.test(word)) column.modrm = Number(word[1]);
    else if (word !== '+' && !IMMEDIATE.test(word)) opcodeByte(word, column);
  }
  return column;
};

const parseOperands = (text: string): readonly OperandKind[] =>
  text === ''
    ? []
    : text.split(', ').map((word) => {
        const kind = OPERAND_KINDS.get(word);
        if (!kind) throw new AsmError(word, 'not a word of the operand column');
        return kind;
      });

/** The ModRM.rm operand of a `/r` form: the one that may be memory, else the general register beside CR, DR, Sreg. */
const rmIndex = (kinds: readonly OperandKind[]): number => {
  const memory = kinds.findIndex((kind) => kind.mem !== undefined);
  return memory >= 0 ? memory : kinds.findIndex((kind) => kind.reg?.cls === 'gp');
};

const placeOf = (kind: OperandKind, index: number, rm: number, { modrm, plusR }: OpcodeColumn): Place => {
  if (kind.implied || kind.one) return 'implied';
  if (kind.imm) return 'imm';
  if (kind.rel) return 'rel';
  if (plusR) return 'opcode';
  return modrm !== 'r' || index === rm ? 'rm' : 'reg';
};

const operandSizeOf = (kinds: readonly OperandKind[]): number => {
  const sized = kinds.find((kind) => kind.reg !== undefined || kind.mem !== undefined);
  return sized?.reg?.size ?? sized?.mem ?? 64;
};

/** Takes a row apart. */
export const parseForm = (row: Row): Form => {
  const kinds = parseOperands(row[1]);
  const column = parseOpcode(row[2]);
  const rm = rmIndex(kinds);
  const { prefixes, rexW, opcode, modrm } = column;
  const slots = kinds.map((kind, i): Slot => ({ kind, place: placeOf(kind, i, rm, column) }));
  return { row, slots, prefixes, rexW, opcode, modrm, operandSize: operandSizeOf(kinds) };
};
