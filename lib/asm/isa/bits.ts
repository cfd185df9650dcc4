// SPDX-License-Identifier: GPL-2.0-only
/**
 * Shifts, rotates, bit tests, bit scans and counts, byte swap. SDM, "Instruction Set Reference".
 * Leaves out the VEX-encoded BMI instructions.
 */
import { family, type Row } from './family.ts';

// prettier-ignore
const SHIFT = family({ rol: 0, ror: 1, rcl: 2, rcr: 3, shl: 4, sal: 4, shr: 5, sar: 7 }, [
  ['r/m8, 1',     'D0 /n'],
  ['r/m8, CL',    'D2 /n'],
  ['r/m8, imm8',  'C0 /n ib'],
  ['r/m16, 1',    'o16 D1 /n'],
  ['r/m16, CL',   'o16 D3 /n'],
  ['r/m16, imm8', 'o16 C1 /n ib'],
  ['r/m32, 1',    'D1 /n'],
  ['r/m32, CL',   'D3 /n'],
  ['r/m32, imm8', 'C1 /n ib'],
  ['r/m64, 1',    'REX.W + D1 /n'],
  ['r/m64, CL',   'REX.W + D3 /n'],
  ['r/m64, imm8', 'REX.W + C1 /n ib'],
]);

// prettier-ignore
const DOUBLE_SHIFT = family({ shld: 0, shrd: 1 }, [
  ['r/m16, r16, imm8', 'o16 0F A4+8n /r ib'],
  ['r/m32, r32, imm8', '0F A4+8n /r ib'],
  ['r/m64, r64, imm8', 'REX.W + 0F A4+8n /r ib'],
  ['r/m16, r16, CL',   'o16 0F A5+8n /r'],
  ['r/m32, r32, CL',   '0F A5+8n /r'],
  ['r/m64, r64, CL',   'REX.W + 0F A5+8n /r'],
]);

// The register forms lie eight opcodes apart from A3; the immediate forms are digits 4 to 7 of BA.
// prettier-ignore
const BIT_TEST_REGISTER = family({ bt: 0, bts: 1, btr: 2, btc: 3 }, [
  ['r/m16, r16', 'o16 0F A3+8n /r'],
  ['r/m32, r32', '0F A3+8n /r'],
  ['r/m64, r64', 'REX.W + 0F A3+8n /r'],
]);

// prettier-ignore
const BIT_TEST_IMMEDIATE = family({ bt: 4, bts: 5, btr: 6, btc: 7 }, [
  ['r/m16, imm8', 'o16 0F BA /n ib'],
  ['r/m32, imm8', '0F BA /n ib'],
  ['r/m64, imm8', 'REX.W + 0F BA /n ib'],
]);

// prettier-ignore
const REST = [
  ['bsf',    'r16, r/m16', 'o16 0F BC /r'],
  ['bsf',    'r32, r/m32', '0F BC /r'],
  ['bsf',    'r64, r/m64', 'REX.W + 0F BC /r'],
  ['bsr',    'r16, r/m16', 'o16 0F BD /r'],
  ['bsr',    'r32, r/m32', '0F BD /r'],
  ['bsr',    'r64, r/m64', 'REX.W + 0F BD /r'],
  ['popcnt', 'r16, r/m16', 'o16 F3 0F B8 /r'],
  ['popcnt', 'r32, r/m32', 'F3 0F B8 /r'],
  ['popcnt', 'r64, r/m64', 'F3 REX.W + 0F B8 /r'],
  ['tzcnt',  'r16, r/m16', 'o16 F3 0F BC /r'],
  ['tzcnt',  'r32, r/m32', 'F3 0F BC /r'],
  ['tzcnt',  'r64, r/m64', 'F3 REX.W + 0F BC /r'],
  ['lzcnt',  'r16, r/m16', 'o16 F3 0F BD /r'],
  ['lzcnt',  'r32, r/m32', 'F3 0F BD /r'],
  ['lzcnt',  'r64, r/m64', 'F3 REX.W + 0F BD /r'],
  ['bswap',  'r32',        '0F C8+rd'],
  ['bswap',  'r64',        'REX.W + 0F C8+ro'],
] as const satisfies readonly Row[];

/** Rows of shifts and bit operations. */
export const BITS = [
  ...SHIFT,
  ...DOUBLE_SHIFT,
  ...BIT_TEST_REGISTER,
  ...BIT_TEST_IMMEDIATE,
  ...REST,
] as const;
