// SPDX-License-Identifier: GPL-2.0-only
/**
 * Multiplication and division. SDM, "MUL", "IMUL", "DIV", "IDIV". Undefined flags: after a multiplication SF, ZF and PF
 * are those of the low half and AF is clear; a division leaves all flags as they were.
 */
import { COST } from '../cost/points.ts';
import { spend } from '../cost/ledger.ts';
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { FORM, OP } from './decode/ops.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { setFlagsBits } from './flags.ts';
import { ACCESS } from '../mmu/access.ts';
import { openRm, readReg, writeReg } from './operand.ts';
import { DONE, raise } from './op_result.ts';
import { SCRATCH } from './regs.ts';
import { S } from './state.ts';
import { highWord, lowWord, multiply, toBig } from './wide.ts';

const { A, B } = SCRATCH;
const RAX = 0;
const RDX = 2;
const AH = 16;
const CF_OF = 0x801;

/** The high half of a product of `size` up to 8 bytes, given the unsigned 128-bit product; signed if asked. */
function signedHigh(s: Int32Array, w2: number, w3: number): readonly [number, number] {
  let high = toBig(w2, w3);
  if (s[A + 1]! < 0) high -= toBig(s[B]!, s[B + 1]!);
  if (s[B + 1]! < 0) high -= toBig(s[A]!, s[A + 1]!);
  return [lowWord(high), highWord(high)];
}

function multiply64(cpu: Cpu, signed: boolean): void {
  const { s } = cpu;
  const [w0, w1, u2, u3] = multiply(s[A]!, s[A + 1]!, s[B]!, s[B + 1]!);
  const [w2, w3] = signed ? signedHigh(s, u2, u3) : [u2, u3];
  writeReg(s, RAX, 8, w0, w1);
  writeReg(s, RDX, 8, w2, w3);
  const fill = signed ? w1 >> 31 : 0;
  setFlagsBits(s, w0, w1, w2 === fill && w3 === fill ? 0 : CF_OF);
}

function unsignedOperand(s: Int32Array, at: number, size: number): void {
  s[at + 1] = 0;
  if (size < 4) s[at] = s[at]! & ((1 << (size * 8)) - 1);
}

/** MUL and IMUL with one operand. */
export function mulOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const { size } = x;
  const signed = x.op === OP.IMUL;
  if (!openRm(cpu, x, size, B, ACCESS.READ)) return DONE.FAULT;
  readReg(s, RAX, size, A);
  if (size === 8) {
    multiply64(cpu, signed);
    return DONE.NEXT;
  }
  if (!signed) {
    unsignedOperand(s, A, size);
    unsignedOperand(s, B, size);
  }
  const [lo, hi] = multiply(s[A]!, s[A + 1]!, s[B]!, s[B + 1]!);
  storeNarrowProduct(s, size, lo, hi);
  const shift = 32 - size * 8;
  const low = (lo << shift) >> shift;
  const fits = signed ? low === lo && low >> 31 === hi : size === 4 ? hi === 0 : lo >>> (size * 8) === 0;
  setFlagsBits(s, low, low >> 31, fits ? 0 : CF_OF);
  return DONE.NEXT;
}

function storeNarrowProduct(s: Int32Array, size: number, lo: number, hi: number): void {
  if (size === 1) {
    writeReg(s, RAX, 2, lo, 0);
  } else if (size === 2) {
    writeReg(s, RAX, 2, lo, 0);
    writeReg(s, RDX, 2, lo >>> 16, 0);
  } else {
    writeReg(s, RAX, 4, lo, 0);
    writeReg(s, RDX, 4, hi, 0);
  }
}

/** IMUL with two or three operands. */
export function imulRegOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const { size } = x;
  if (!openRm(cpu, x, size, B, ACCESS.READ)) return DONE.FAULT;
  if (x.form === FORM.R_RM_I) {
    s[A] = x.immLo;
    s[A + 1] = x.immHi;
  } else {
    readReg(s, x.reg, size, A);
  }
  const [w0, w1, u2, u3] = multiply(s[A]!, s[A + 1]!, s[B]!, s[B + 1]!);
  const shift = size < 4 ? 32 - size * 8 : 0;
  const lo = (w0 << shift) >> shift;
  const hi = size === 8 ? w1 : lo >> 31;
  const [w2, w3] = signedHigh(s, u2, u3);
  const fits = lo === w0 && hi === w1 && w2 === hi >> 31 && w3 === hi >> 31;
  writeReg(s, x.reg, size, lo, hi);
  setFlagsBits(s, lo, hi, fits ? 0 : CF_OF);
  return DONE.NEXT;
}

interface Dividend {
  readonly value: bigint;
  readonly divisor: bigint;
}

/** The operands as unsigned values, or signed ones for IDIV. */
function divisionOperands(s: Int32Array, x: DecodedInsn): Dividend {
  const bits = x.size * 8;
  const mask = (1n << BigInt(bits)) - 1n;
  let divisor = toBig(s[B]!, s[B + 1]!) & mask;
  const rax = toBig(s[S.GPR]!, s[S.GPR + 1]!);
  const rdx = toBig(s[S.GPR + 4]!, s[S.GPR + 5]!);
  let value = x.size === 1 ? rax & 0xffffn : ((rdx & mask) << BigInt(bits)) | (rax & mask);
  if (x.op === OP.IDIV) {
    divisor = BigInt.asIntN(bits, divisor);
    value = BigInt.asIntN(bits * 2, value);
  }
  return { value, divisor };
}

function storeQuotient(s: Int32Array, size: number, quotient: bigint, remainder: bigint): void {
  writeReg(s, RAX, size, lowWord(quotient), highWord(quotient));
  writeReg(s, size === 1 ? AH : RDX, size, lowWord(remainder), highWord(remainder));
}

/** Division of unsigned operands that fit in 32 bits, without BigInt. */
function divideSmall(s: Int32Array, x: DecodedInsn): boolean {
  const isSmall =
    s[S.GPR + 4] === 0 && (x.size === 4 || (s[S.GPR + 5] === 0 && s[S.GPR + 1] === 0 && s[B + 1] === 0));
  if (x.size < 4 || !isSmall || s[B] === 0) return false;
  const a = s[S.GPR]!;
  const b = s[B]!;
  if (x.op === OP.IDIV && (a < 0 || b < 0)) return false;
  writeReg(s, RAX, x.size, (a >>> 0) / (b >>> 0), 0);
  writeReg(s, RDX, x.size, (a >>> 0) % (b >>> 0), 0);
  return true;
}

/** DIV and IDIV: DE if the divisor is zero or the quotient does not fit. */
export function divOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!openRm(cpu, x, x.size, B, ACCESS.READ)) return DONE.FAULT;
  if (!divideSmall(s, x)) {
    const { value, divisor } = divisionOperands(s, x);
    if (divisor === 0n) return raise(cpu, VECTOR.DE, 0);
    const quotient = value / divisor;
    const bits = x.size * 8;
    const fits = x.op === OP.IDIV ? BigInt.asIntN(bits, quotient) : BigInt.asUintN(bits, quotient);
    if (fits !== quotient) return raise(cpu, VECTOR.DE, 0);
    storeQuotient(s, x.size, quotient, value % divisor);
  }
  spend(cpu, COST.DIV);
  return DONE.NEXT;
}
