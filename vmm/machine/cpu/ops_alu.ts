// SPDX-License-Identifier: GPL-2.0-only
/**
 * Two-operand arithmetic and logic, and INC, DEC, NEG, NOT, all widths and forms. SDM, "Instruction Set Reference".
 * AF after a logic operation is undefined there; here it is clear, as on real processors.
 */
import { COST } from '../cost/points.ts';
import { spend } from '../cost/ledger.ts';
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { FORM, OP } from './decode/ops.ts';
import { carryFlag, FLAG_OP, setFlagsBits } from './flags.ts';
import { ACCESS } from '../mmu/access.ts';
import { closeRm, openRm, readImmediateOrReg, readReg, signExtend, writeReg } from './operand.ts';
import { DONE } from './op_result.ts';
import { SCRATCH } from './regs.ts';
import { S } from './state.ts';

const { A, B, R } = SCRATCH;

/** s[R] = s[A] + s[B] + carry, sign-extended from `size`. */
export function add(s: Int32Array, size: number, carry: number): void {
  const a = s[A]! >>> 0;
  const sum = a + (s[B]! >>> 0) + carry;
  s[R] = sum;
  s[R + 1] = s[A + 1]! + s[B + 1]! + (sum >= 0x1_0000_0000 ? 1 : 0);
  signExtend(s, R, size);
}

/** s[R] = s[A] - s[B] - borrow, sign-extended from `size`. */
export function subtract(s: Int32Array, size: number, borrow: number): void {
  const difference = (s[A]! >>> 0) - (s[B]! >>> 0) - borrow;
  s[R] = difference;
  s[R + 1] = s[A + 1]! - s[B + 1]! - (difference < 0 ? 1 : 0);
  signExtend(s, R, size);
}

/** Make s[A] op s[B] = s[R] the source of the lazy flags. */
export function setLazy(s: Int32Array, op: number): void {
  s[S.FLAG_OP] = op;
  for (let n = 0; n < 2; n++) {
    s[S.FLAG_A + n] = s[A + n]!;
    s[S.FLAG_B + n] = s[B + n]!;
    s[S.FLAG_R + n] = s[R + n]!;
  }
}

const below = (s: Int32Array, x: number, y: number): boolean => {
  const xh = s[x + 1]! >>> 0;
  const yh = s[y + 1]! >>> 0;
  return xh < yh || (xh === yh && s[x]! >>> 0 < s[y]! >>> 0);
};

const equal = (s: Int32Array, x: number, y: number): boolean => s[x] === s[y] && s[x + 1] === s[y + 1];

function adc(s: Int32Array, size: number): void {
  const carry = carryFlag(s);
  add(s, size, carry);
  const cf = below(s, R, A) || (carry === 1 && equal(s, R, A)) ? 1 : 0;
  const overflow = (s[A + 1]! ^ s[R + 1]!) & (s[B + 1]! ^ s[R + 1]!);
  const af = (s[A]! ^ s[B]! ^ s[R]!) & 0x10;
  setFlagsBits(s, s[R]!, s[R + 1]!, cf | af | ((overflow >>> 31) << 11));
}

function sbb(s: Int32Array, size: number): void {
  const borrow = carryFlag(s);
  subtract(s, size, borrow);
  const cf = below(s, A, B) || (borrow === 1 && equal(s, A, B)) ? 1 : 0;
  const overflow = (s[A + 1]! ^ s[B + 1]!) & (s[A + 1]! ^ s[R + 1]!);
  const af = (s[A]! ^ s[B]! ^ s[R]!) & 0x10;
  setFlagsBits(s, s[R]!, s[R + 1]!, cf | af | ((overflow >>> 31) << 11));
}

function logic(s: Int32Array, lo: number, hi: number): void {
  s[R] = lo;
  s[R + 1] = hi;
  setFlagsBits(s, lo, hi, 0);
}

/** s[R] = s[A] op s[B] with flags. */
export function compute(s: Int32Array, op: number, size: number): void {
  switch (op) {
    case OP.ADD:
      add(s, size, 0);
      setLazy(s, FLAG_OP.ADD);
      return;
    case OP.SUB:
    case OP.CMP:
      subtract(s, size, 0);
      setLazy(s, FLAG_OP.SUB);
      return;
    case OP.ADC:
      adc(s, size);
      return;
    case OP.SBB:
      sbb(s, size);
      return;
    case OP.OR:
      logic(s, s[A]! | s[B]!, s[A + 1]! | s[B + 1]!);
      return;
    case OP.XOR:
      logic(s, s[A]! ^ s[B]!, s[A + 1]! ^ s[B + 1]!);
      return;
    default:
      logic(s, s[A]! & s[B]!, s[A + 1]! & s[B + 1]!);
  }
}

/** The price of a LOCK prefix. */
export function payForLock(cpu: Cpu, x: DecodedInsn): void {
  if (x.lock) spend(cpu, COST.LOCKED);
}

/** ADD OR ADC SBB AND SUB XOR CMP TEST. */
export function aluOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const { size, op } = x;
  if (x.form === FORM.R_RM) {
    if (!openRm(cpu, x, size, B, ACCESS.READ)) return DONE.FAULT;
    readReg(s, x.reg, size, A);
    compute(s, op, size);
    if (op !== OP.CMP) writeReg(s, x.reg, size, s[R]!, s[R + 1]!);
    return DONE.NEXT;
  }
  const readOnly = op === OP.CMP || op === OP.TEST;
  if (!openRm(cpu, x, size, A, readOnly ? ACCESS.READ : ACCESS.WRITE)) return DONE.FAULT;
  readImmediateOrReg(cpu, x, size, B, x.form === FORM.RM_I ? 1 : 0);
  compute(s, op, size);
  if (!readOnly) closeRm(cpu, x, size, s[R]!, s[R + 1]!);
  payForLock(cpu, x);
  return DONE.NEXT;
}

/** INC and DEC: CF stays. */
export function incDecOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!openRm(cpu, x, x.size, A, ACCESS.WRITE)) return DONE.FAULT;
  const carry = carryFlag(s);
  s[B] = 1;
  s[B + 1] = 0;
  if (x.op === OP.INC) add(s, x.size, 0);
  else subtract(s, x.size, 0);
  const [from, to] = x.op === OP.INC ? [s[A + 1]!, s[R + 1]!] : [s[R + 1]!, s[A + 1]!];
  const overflow = (~from & to) >>> 31;
  setFlagsBits(s, s[R]!, s[R + 1]!, carry | ((s[A]! ^ s[R]! ^ 1) & 0x10) | (overflow << 11));
  closeRm(cpu, x, x.size, s[R]!, s[R + 1]!);
  payForLock(cpu, x);
  return DONE.NEXT;
}

/** NEG: 0 - operand. */
export function negOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!openRm(cpu, x, x.size, B, ACCESS.WRITE)) return DONE.FAULT;
  s[A] = 0;
  s[A + 1] = 0;
  subtract(s, x.size, 0);
  setLazy(s, FLAG_OP.SUB);
  closeRm(cpu, x, x.size, s[R]!, s[R + 1]!);
  payForLock(cpu, x);
  return DONE.NEXT;
}

/** NOT: no flags. */
export function notOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!openRm(cpu, x, x.size, A, ACCESS.WRITE)) return DONE.FAULT;
  closeRm(cpu, x, x.size, ~s[A]!, ~s[A + 1]!);
  payForLock(cpu, x);
  return DONE.NEXT;
}
