// SPDX-License-Identifier: GPL-2.0-only
/**
 * Integer arithmetic and logic: the ALU block, test, inc/dec/neg/not, multiply, divide, sign extension of the
 * accumulator. SDM, "Instruction Set Reference". Leaves out the decimal adjusts, which 64-bit mode does not have.
 */
import { family, type Row } from './family.ts';

// The sign-extended bytes come first: of two forms of one length the first is taken, and an imm16 behind an
// operand-size prefix is slow to decode.
// prettier-ignore
const BLOCK = family({ add: 0, or: 1, adc: 2, sbb: 3, and: 4, sub: 5, xor: 6, cmp: 7 }, [
  ['r/m16, imm8sx',  'o16 83 /n ib'],
  ['r/m32, imm8sx',  '83 /n ib'],
  ['r/m64, imm8sx',  'REX.W + 83 /n ib'],
  ['AL, imm8',       '04+8n ib'],
  ['AX, imm16',      'o16 05+8n iw'],
  ['EAX, imm32',     '05+8n id'],
  ['RAX, imm32sx',   'REX.W + 05+8n id'],
  ['r/m8, imm8',     '80 /n ib'],
  ['r/m16, imm16',   'o16 81 /n iw'],
  ['r/m32, imm32',   '81 /n id'],
  ['r/m64, imm32sx', 'REX.W + 81 /n id'],
  ['r/m8, r8',       '00+8n /r'],
  ['r/m16, r16',     'o16 01+8n /r'],
  ['r/m32, r32',     '01+8n /r'],
  ['r/m64, r64',     'REX.W + 01+8n /r'],
  ['r8, r/m8',       '02+8n /r'],
  ['r16, r/m16',     'o16 03+8n /r'],
  ['r32, r/m32',     '03+8n /r'],
  ['r64, r/m64',     'REX.W + 03+8n /r'],
]);

// prettier-ignore
const GROUP_3 = family({ not: 2, neg: 3, mul: 4, imul: 5, div: 6, idiv: 7 }, [
  ['r/m8',  'F6 /n'],
  ['r/m16', 'o16 F7 /n'],
  ['r/m32', 'F7 /n'],
  ['r/m64', 'REX.W + F7 /n'],
]);

// prettier-ignore
const INC_DEC = family({ inc: 0, dec: 1 }, [
  ['r/m8',  'FE /n'],
  ['r/m16', 'o16 FF /n'],
  ['r/m32', 'FF /n'],
  ['r/m64', 'REX.W + FF /n'],
]);

// prettier-ignore
const REST = [
  ['test', 'AL, imm8',       'A8 ib'],
  ['test', 'AX, imm16',      'o16 A9 iw'],
  ['test', 'EAX, imm32',     'A9 id'],
  ['test', 'RAX, imm32sx',   'REX.W + A9 id'],
  ['test', 'r/m8, imm8',     'F6 /0 ib'],
  ['test', 'r/m16, imm16',   'o16 F7 /0 iw'],
  ['test', 'r/m32, imm32',   'F7 /0 id'],
  ['test', 'r/m64, imm32sx', 'REX.W + F7 /0 id'],
  ['test', 'r/m8, r8',       '84 /r'],
  ['test', 'r/m16, r16',     'o16 85 /r'],
  ['test', 'r/m32, r32',     '85 /r'],
  ['test', 'r/m64, r64',     'REX.W + 85 /r'],

  ['imul', 'r16, r/m16',          'o16 0F AF /r'],
  ['imul', 'r32, r/m32',          '0F AF /r'],
  ['imul', 'r64, r/m64',          'REX.W + 0F AF /r'],
  ['imul', 'r16, r/m16, imm8sx',  'o16 6B /r ib'],
  ['imul', 'r32, r/m32, imm8sx',  '6B /r ib'],
  ['imul', 'r64, r/m64, imm8sx',  'REX.W + 6B /r ib'],
  ['imul', 'r16, r/m16, imm16',   'o16 69 /r iw'],
  ['imul', 'r32, r/m32, imm32',   '69 /r id'],
  ['imul', 'r64, r/m64, imm32sx', 'REX.W + 69 /r id'],

  ['cbw',  '', 'o16 98'],
  ['cwde', '', '98'],
  ['cdqe', '', 'REX.W + 98'],
  ['cwd',  '', 'o16 99'],
  ['cdq',  '', '99'],
  ['cqo',  '', 'REX.W + 99'],
] as const satisfies readonly Row[];

/** Rows of integer arithmetic and logic. */
export const ALU = [...BLOCK, ...GROUP_3, ...INC_DEC, ...REST] as const;
