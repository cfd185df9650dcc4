// SPDX-License-Identifier: GPL-2.0-only
/** Data movement: MOV, MOVZX, MOVSX, MOVSXD, LEA, CMOVcc, SETcc, XCHG, the sign extensions of RAX, XLAT. No flags. */
import { COST } from '../cost/points.ts';
import { spend } from '../cost/ledger.ts';
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { FORM, OP } from './decode/ops.ts';
import { condition } from './flags.ts';
import { ACCESS } from '../mmu/access.ts';
import {
  addSegmentBase,
  addTo,
  closeRm,
  offsetAddress,
  openRm,
  prepare,
  prepareOperand,
  readImmediateOrReg,
  readPrepared,
  readReg,
  writePrepared,
  writeReg,
} from './operand.ts';
import { DONE } from './op_result.ts';
import { SCRATCH } from './regs.ts';
import { S } from './state.ts';

const { A, B, ADDR } = SCRATCH;
const RAX = 0;
const RDX = 2;

/** MOV and MOVNTI. */
export function movOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const { size } = x;
  if (x.form === FORM.R_RM) {
    if (!openRm(cpu, x, size, A, ACCESS.READ)) return DONE.FAULT;
    writeReg(s, x.reg, size, s[A]!, s[A + 1]!);
    return DONE.NEXT;
  }
  readImmediateOrReg(cpu, x, size, A, x.form === FORM.RM_I ? 1 : 0);
  if (x.rm >= 0) {
    writeReg(s, x.rm, size, s[A]!, s[A + 1]!);
    return DONE.NEXT;
  }
  if (!prepareOperand(cpu, x, size, ACCESS.WRITE)) return DONE.FAULT;
  writePrepared(cpu, size, s[A]!, s[A + 1]!);
  return DONE.NEXT;
}

/** MOVZX, MOVSX, MOVSXD. */
export function extendOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!openRm(cpu, x, x.srcSize, A, ACCESS.READ)) return DONE.FAULT;
  if (x.op === OP.MOVZX) {
    s[A] = s[A]! & ((1 << (x.srcSize * 8)) - 1);
    s[A + 1] = 0;
  }
  writeReg(s, x.reg, x.size, s[A]!, s[A + 1]!);
  return DONE.NEXT;
}

export function leaOp(cpu: Cpu, x: DecodedInsn): number {
  offsetAddress(cpu, x);
  writeReg(cpu.s, x.reg, x.size, cpu.s[ADDR]!, cpu.s[ADDR + 1]!);
  return DONE.NEXT;
}

/** CMOVcc: memory is read, and a 32-bit destination is zero-extended, whatever the condition. */
export function cmovOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!openRm(cpu, x, x.size, A, ACCESS.READ)) return DONE.FAULT;
  if (!condition(s, x.cc)) readReg(s, x.reg, x.size, A);
  writeReg(s, x.reg, x.size, s[A]!, s[A + 1]!);
  return DONE.NEXT;
}

export function setccOp(cpu: Cpu, x: DecodedInsn): number {
  const value = condition(cpu.s, x.cc) ? 1 : 0;
  if (x.rm < 0 && !prepareOperand(cpu, x, 1, ACCESS.WRITE)) return DONE.FAULT;
  closeRm(cpu, x, 1, value, 0);
  return DONE.NEXT;
}

/** XCHG: locked if one operand is memory, with or without the prefix. */
export function xchgOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!openRm(cpu, x, x.size, A, ACCESS.WRITE)) return DONE.FAULT;
  readReg(s, x.reg, x.size, B);
  closeRm(cpu, x, x.size, s[B]!, s[B + 1]!);
  writeReg(s, x.reg, x.size, s[A]!, s[A + 1]!);
  if (x.rm < 0) spend(cpu, COST.LOCKED);
  return DONE.NEXT;
}

/** CBW, CWDE, CDQE. */
export function cbwOp(cpu: Cpu, x: DecodedInsn): number {
  readReg(cpu.s, RAX, x.size >> 1, A);
  writeReg(cpu.s, RAX, x.size, cpu.s[A]!, cpu.s[A + 1]!);
  return DONE.NEXT;
}

/** CWD, CDQ, CQO. */
export function cwdOp(cpu: Cpu, x: DecodedInsn): number {
  readReg(cpu.s, RAX, x.size, A);
  const sign = cpu.s[A + 1]! >> 31;
  writeReg(cpu.s, RDX, x.size, sign, sign);
  return DONE.NEXT;
}

/** XLAT: AL = [RBX + AL]. */
export function xlatOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  s[ADDR] = s[S.GPR + 6]!;
  s[ADDR + 1] = s[S.GPR + 7]!;
  addTo(s, ADDR, s[S.GPR]! & 0xff, 0);
  if (x.addressSize === 4) s[ADDR + 1] = 0;
  addSegmentBase(cpu, ADDR, x.seg);
  if (!prepare(cpu, s[ADDR], s[ADDR + 1]!, 1, ACCESS.READ)) return DONE.FAULT;
  readPrepared(cpu, 1, A);
  writeReg(s, RAX, 1, s[A]!, 0);
  return DONE.NEXT;
}
