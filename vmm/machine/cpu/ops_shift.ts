// SPDX-License-Identifier: GPL-2.0-only
/**
 * Shifts and rotates, all widths. SDM, "SAL/SAR/SHL/SHR", "RCL/RCR/ROL/ROR", "SHLD", "SHRD". Undefined flags: OF for
 * counts other than 1 is computed by the formula of count 1, AF is clear after a shift, CF of a shift by more than the
 * operand's width is clear.
 */
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { FORM, OP } from './decode/ops.ts';
import { arithFlags, carryFlag, setArithFlags, setFlagsBits } from './flags.ts';
import { ACCESS } from '../mmu/access.ts';
import { closeRm, openRm, readReg, signExtend } from './operand.ts';
import { DONE } from './op_result.ts';
import { SCRATCH } from './regs.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { S } from './state.ts';
import { shiftLeft, shiftRight } from './wide.ts';

const { A, B, R } = SCRATCH;
const RCX = S.GPR + 2;

function countOf(s: Int32Array, x: DecodedInsn): number {
  const raw = x.form === FORM.RM_CL || x.form === FORM.RM_R_CL ? s[RCX]! : x.immLo;
  return raw & (x.size === 8 ? 63 : 31);
}

/** Bit `n` of the pair at s[at]; 0 beyond bit 63. */
function bitOf(s: Int32Array, at: number, n: number): number {
  return n > 63 ? 0 : (s[at + (n >> 5)]! >>> (n & 31)) & 1;
}

function zeroExtend(s: Int32Array, at: number, size: number): void {
  if (size < 8) s[at + 1] = 0;
  if (size < 4) s[at] = s[at]! & ((1 << (size * 8)) - 1);
}

function setResult(s: Int32Array, [lo, hi]: readonly [number, number], size: number): void {
  s[R] = lo;
  s[R + 1] = hi;
  signExtend(s, R, size);
}

/** s[R] = s[A] shifted by 0 < n; flags. */
function shift(s: Int32Array, op: number, size: number, n: number): void {
  const bits = size * 8;
  let cf: number;
  let of = 0;
  if (op === OP.SAR) {
    cf = bitOf(s, A, n - 1);
    setResult(s, shiftRight(s[A]!, s[A + 1]!, n, s[A + 1]! >> 31), size);
  } else {
    zeroExtend(s, A, size);
    const right = op === OP.SHR;
    cf = right ? bitOf(s, A, n - 1) : n > bits ? 0 : bitOf(s, A, bits - n);
    setResult(s, right ? shiftRight(s[A]!, s[A + 1]!, n, 0) : shiftLeft(s[A]!, s[A + 1]!, n), size);
    of = bitOf(s, R, bits - 1) ^ (right ? bitOf(s, R, bits - 2) : cf);
  }
  setFlagsBits(s, s[R]!, s[R + 1]!, cf | (of << 11));
}

/** s[R] = s[A] rotated left by n mod width. */
function rotateLeft(s: Int32Array, size: number, n: number): void {
  const bits = size * 8;
  const by = n % bits;
  zeroExtend(s, A, size);
  const [ll, lh] = shiftLeft(s[A]!, s[A + 1]!, by);
  const [rl, rh] = by === 0 ? [0, 0] : shiftRight(s[A]!, s[A + 1]!, bits - by, 0);
  setResult(s, [ll | rl, lh | rh], size);
}

/** s[R] = s[A] rotated by one bit at a time through CF; returns the new CF. */
function rotateThroughCarry(s: Int32Array, x: DecodedInsn, n: number): number {
  const bits = x.size * 8;
  let cf = carryFlag(s);
  zeroExtend(s, A, x.size);
  let lo = s[A]!;
  let hi = s[A + 1]!;
  for (let k = 0; k < n; k++) {
    const out = x.op === OP.RCL ? (bits === 64 ? hi >>> 31 : (lo >>> (bits - 1)) & 1) : lo & 1;
    if (x.op === OP.RCL) {
      [lo, hi] = shiftLeft(lo, hi, 1);
      lo |= cf;
    } else {
      [lo, hi] = shiftRight(lo, hi, 1, 0);
      if (bits === 64) hi |= cf << 31;
      else lo |= cf << (bits - 1);
    }
    cf = out;
  }
  setResult(s, [lo, hi], x.size);
  return cf;
}

function setCarryOverflow(s: Int32Array, cf: number, of: number): void {
  setArithFlags(s, (arithFlags(s) & ~(RFLAGS.CF | RFLAGS.OF)) | cf | (of << 11));
}

/** ROL and ROR; only CF and OF change. */
function rotate(s: Int32Array, x: DecodedInsn, n: number): void {
  const bits = x.size * 8;
  rotateLeft(s, x.size, x.op === OP.ROL ? n : bits - (n % bits));
  const top = bitOf(s, R, bits - 1);
  if (x.op === OP.ROL) setCarryOverflow(s, s[R]! & 1, top ^ (s[R]! & 1));
  else setCarryOverflow(s, top, top ^ bitOf(s, R, bits - 2));
}

/** RCL and RCR; only CF and OF change. The width is one bit more: 8- and 16-bit counts are taken modulo 9 and 17. */
function rotateCarry(s: Int32Array, x: DecodedInsn, n: number): void {
  const bits = x.size * 8;
  const cf = rotateThroughCarry(s, x, x.size < 4 ? n % (bits + 1) : n);
  const top = bitOf(s, R, bits - 1);
  setCarryOverflow(s, cf, top ^ (x.op === OP.RCL ? cf : bitOf(s, R, bits - 2)));
}

/** ROL ROR RCL RCR SHL SHR SAR. */
export function shiftOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const n = countOf(s, x);
  if (!openRm(cpu, x, x.size, A, ACCESS.WRITE)) return DONE.FAULT;
  if (n === 0 || (x.size < 4 && (x.op === OP.RCL || x.op === OP.RCR) && n % (x.size * 8 + 1) === 0)) {
    closeRm(cpu, x, x.size, s[A]!, s[A + 1]!);
    return DONE.NEXT;
  }
  if (x.op === OP.ROL || x.op === OP.ROR) rotate(s, x, n);
  else if (x.op === OP.RCL || x.op === OP.RCR) rotateCarry(s, x, n);
  else shift(s, x.op, x.size, n);
  closeRm(cpu, x, x.size, s[R]!, s[R + 1]!);
  return DONE.NEXT;
}

/** SHLD: s[A] moves left, s[B] comes in. For 16 bits and counts above 16 the bits of s[A] come in again. */
function doubleLeft(s: Int32Array, size: number, n: number): number {
  const bits = size * 8;
  if (size === 2) {
    const both = (s[A]! << 16) | (s[B]! & 0xffff);
    const again = n > 16 ? s[A]! << (n - 16) : 0;
    setResult(s, [((both << n) | again) >>> 16, 0], size);
    return (both >>> (32 - n)) & 1;
  }
  const cf = bitOf(s, A, bits - n);
  zeroExtend(s, B, size);
  const [al, ah] = shiftLeft(s[A]!, s[A + 1]!, n);
  const [bl, bh] = shiftRight(s[B]!, s[B + 1]!, bits - n, 0);
  setResult(s, [al | bl, ah | bh], size);
  return cf;
}

/** SHRD: s[A] moves right, s[B] comes in from above. */
function doubleRight(s: Int32Array, size: number, n: number): number {
  const bits = size * 8;
  if (size === 2) {
    const both = (s[B]! << 16) | (s[A]! & 0xffff);
    const again = n > 16 ? s[A]! << (32 - n) : 0;
    setResult(s, [(both >>> n) | again, 0], size);
    return n > 16 ? (s[B]! >>> (n - 17)) & 1 : (s[A]! >>> (n - 1)) & 1;
  }
  zeroExtend(s, A, size);
  const cf = bitOf(s, A, n - 1);
  const [al, ah] = shiftRight(s[A]!, s[A + 1]!, n, 0);
  const [bl, bh] = shiftLeft(s[B]!, s[B + 1]!, bits - n);
  setResult(s, [al | bl, ah | bh], size);
  return cf;
}

/** SHLD and SHRD. */
export function doubleShiftOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const bits = x.size * 8;
  const n = countOf(s, x);
  if (!openRm(cpu, x, x.size, A, ACCESS.WRITE)) return DONE.FAULT;
  if (n === 0) {
    closeRm(cpu, x, x.size, s[A]!, s[A + 1]!);
    return DONE.NEXT;
  }
  const before = bitOf(s, A, bits - 1);
  readReg(s, x.reg, x.size, B);
  const cf = x.op === OP.SHLD ? doubleLeft(s, x.size, n) : doubleRight(s, x.size, n);
  const of = before ^ bitOf(s, R, bits - 1);
  setFlagsBits(s, s[R]!, s[R + 1]!, cf | (of << 11));
  closeRm(cpu, x, x.size, s[R]!, s[R + 1]!);
  return DONE.NEXT;
}
