// SPDX-License-Identifier: GPL-2.0-only
/**
 * Lazy arithmetic flags. An instruction records what it did (FLAG_OP) with its operands and result; the six flags are
 * computed when somebody asks. Operands and results of 8, 16 and 32 bits are kept sign-extended to 64: signed and
 * unsigned order survive sign extension, so one set of formulas serves all widths. SDM, "EFLAGS Register".
 *
 * Flags that the SDM leaves undefined are here:
 *   AND OR XOR TEST            AF 0
 *   SHL SHR SAR                AF 0; OF by the formula for count 1; CF 0 if SHL shifts by more than the width
 *   ROL ROR RCL RCR            OF by the formula for count 1
 *   SHLD SHRD                  AF 0; OF: the sign changed; 16 bits by more than 16: the destination comes in again
 *   MUL IMUL                   SF ZF PF of the low half, AF 0
 *   DIV IDIV                   unchanged
 *   BT BTS BTR BTC             unchanged, but for CF
 *   BSF BSR LZCNT TZCNT POPCNT 0, but for ZF and CF where defined; BSF and BSR of zero leave the destination
 */
import { RFLAGS } from '../../../lib/x86/registers.ts';
import type { Cpu } from './cpu.ts';
import { S } from './state.ts';
import { toBig } from './wide.ts';

/** Values of S.FLAG_OP. */
// prettier-ignore
export const FLAG_OP = {
  BITS: 0, // ZF SF PF from R; CF AF OF as RFLAGS bits in FLAG_B
  ADD:  1, // R = A + B
  SUB:  2, // R = A - B
  RAW:  3, // all six as RFLAGS bits in FLAG_A
  MUL:  4, // R = A * B, signed: CF and OF tell whether R is the whole product
} as const;

/** CF PF AF ZF SF OF. */
export const ARITH_FLAGS = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF;

/** PF: bit n is set if the nibble n has an even number of ones. */
const EVEN_PARITY = 0x9669;

/** ZF, SF and PF of a sign-extended result. */
export function resultFlags(lo: number, hi: number): number {
  const nibbles = lo ^ (lo >> 4);
  const pf = ((EVEN_PARITY >> (nibbles & 0xf)) & 1) << 2;
  return pf | ((lo | hi) === 0 ? RFLAGS.ZF : 0) | ((hi >>> 31) << 7);
}

/** CF of the lazy state in `s`: 0 or 1. */
export function carryFlag(s: Int32Array): number {
  const op = s[S.FLAG_OP]!;
  if (op === FLAG_OP.BITS) return s[S.FLAG_B]! & 1;
  if (op === FLAG_OP.RAW) return s[S.FLAG_A]! & 1;
  if (op === FLAG_OP.MUL) return productOverflows(s) ? 1 : 0;
  const ah = s[S.FLAG_A + 1]! >>> 0;
  const al = s[S.FLAG_A]! >>> 0;
  if (op === FLAG_OP.ADD) {
    const rh = s[S.FLAG_R + 1]! >>> 0;
    return rh < ah || (rh === ah && s[S.FLAG_R]! >>> 0 < al) ? 1 : 0;
  }
  const bh = s[S.FLAG_B + 1]! >>> 0;
  return ah < bh || (ah === bh && al < s[S.FLAG_B]! >>> 0) ? 1 : 0;
}

/** Whether the signed product of A and B is more than R. */
function productOverflows(s: Int32Array): boolean {
  const signed = (at: number): bigint => BigInt.asIntN(64, toBig(s[at]!, s[at + 1]!));
  return signed(S.FLAG_A) * signed(S.FLAG_B) !== signed(S.FLAG_R);
}

/** The six arithmetic flags of the lazy state in `s`, as RFLAGS bits. */
export function arithFlags(s: Int32Array): number {
  const op = s[S.FLAG_OP]!;
  if (op === FLAG_OP.RAW) return s[S.FLAG_A]!;
  const rl = s[S.FLAG_R]!;
  const rh = s[S.FLAG_R + 1]!;
  const flags = resultFlags(rl, rh);
  if (op === FLAG_OP.BITS) return flags | s[S.FLAG_B]!;
  if (op === FLAG_OP.MUL) return flags | (productOverflows(s) ? RFLAGS.CF | RFLAGS.OF : 0);
  const ah = s[S.FLAG_A + 1]!;
  const bh = s[S.FLAG_B + 1]!;
  const af = (s[S.FLAG_A]! ^ s[S.FLAG_B]! ^ rl) & RFLAGS.AF;
  const overflow = op === FLAG_OP.ADD ? (ah ^ rh) & (bh ^ rh) : (ah ^ bh) & (ah ^ rh);
  return flags | af | carryFlag(s) | ((overflow >>> 31) << 11);
}

/** Record R with explicit CF, AF and OF bits. */
export function setFlagsBits(s: Int32Array, lo: number, hi: number, bits: number): void {
  s[S.FLAG_OP] = FLAG_OP.BITS;
  s[S.FLAG_R] = lo;
  s[S.FLAG_R + 1] = hi;
  s[S.FLAG_B] = bits;
}

/** Set all six arithmetic flags. */
export function setArithFlags(s: Int32Array, bits: number): void {
  s[S.FLAG_OP] = FLAG_OP.RAW;
  s[S.FLAG_A] = bits & ARITH_FLAGS;
}

/** Bits 21:0 of RFLAGS; the others are zero. */
export function getRflags(cpu: Cpu): number {
  return arithFlags(cpu.s) | (cpu.s[S.RFLAGS_SYS]! & ~ARITH_FLAGS) | RFLAGS.FIXED;
}

/** Load RFLAGS as it is; the caller has applied the masks that its instruction asks for. */
export function setRflags(cpu: Cpu, value: number): void {
  setArithFlags(cpu.s, value);
  cpu.s[S.RFLAGS_SYS] = (value & ~ARITH_FLAGS) | RFLAGS.FIXED;
}

/** Condition `cc` of Jcc, SETcc and CMOVcc by its encoding. SDM, "EFLAGS Condition Codes". */
export function condition(s: Int32Array, cc: number): boolean {
  const flags = arithFlags(s);
  return conditionOf(flags, cc >> 1) === ((cc & 1) === 0);
}

function conditionOf(flags: number, pair: number): boolean {
  const less = ((flags >> 7) ^ (flags >> 11)) & 1;
  switch (pair) {
    case 0:
      return (flags & RFLAGS.OF) !== 0;
    case 1:
      return (flags & RFLAGS.CF) !== 0;
    case 2:
      return (flags & RFLAGS.ZF) !== 0;
    case 3:
      return (flags & (RFLAGS.CF | RFLAGS.ZF)) !== 0;
    case 4:
      return (flags & RFLAGS.SF) !== 0;
    case 5:
      return (flags & RFLAGS.PF) !== 0;
    case 6:
      return less !== 0;
    default:
      return less !== 0 || (flags & RFLAGS.ZF) !== 0;
  }
}
