// SPDX-License-Identifier: GPL-2.0-only
/** CMPXCHG, CMPXCHG8B, CMPXCHG16B, XADD. SDM, under those names. One CPU runs at a time, so every one is atomic. */
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { OP } from './decode/ops.ts';
import { arithFlags, FLAG_OP, setArithFlags } from './flags.ts';
import { ACCESS } from '../mmu/access.ts';
import { add, payForLock, setLazy, subtract } from './ops_alu.ts';
import {
  closeRm,
  effectiveAddress,
  openRm,
  prepareOperand,
  readPrepared,
  readReg,
  writePrepared,
  writeReg,
} from './operand.ts';
import { DONE, raise } from './op_result.ts';
import { SCRATCH } from './regs.ts';
import { S } from './state.ts';

const { A, B, R, HPA, ADDR } = SCRATCH;
const RAX = S.GPR;
const RCX = S.GPR + 2;
const RDX = S.GPR + 4;
const RBX = S.GPR + 6;

/** CMPXCHG: the destination is written in any case if it is memory. */
export function cmpxchgOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const { size } = x;
  if (!openRm(cpu, x, size, B, ACCESS.WRITE)) return DONE.FAULT;
  readReg(s, 0, size, A);
  subtract(s, size, 0);
  setLazy(s, FLAG_OP.SUB);
  const lo = s[B]!;
  const hi = s[B + 1]!;
  if ((s[R]! | s[R + 1]!) === 0) {
    readReg(s, x.reg, size, A);
    closeRm(cpu, x, size, s[A]!, s[A + 1]!);
  } else {
    if (x.rm < 0) closeRm(cpu, x, size, lo, hi);
    writeReg(s, 0, size, lo, hi);
  }
  payForLock(cpu, x);
  return DONE.NEXT;
}

function setZero(s: Int32Array, equal: boolean): void {
  setArithFlags(s, (arithFlags(s) & ~RFLAGS.ZF) | (equal ? RFLAGS.ZF : 0));
}

/** CMPXCHG8B. */
export function cmpxchg8bOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!prepareOperand(cpu, x, 8, ACCESS.WRITE)) return DONE.FAULT;
  readPrepared(cpu, 8, A);
  const equal = s[A] === s[RAX] && s[A + 1] === s[RDX];
  if (equal) {
    writePrepared(cpu, 8, s[RBX]!, s[RCX]!);
  } else {
    writePrepared(cpu, 8, s[A]!, s[A + 1]!);
    writeReg(s, 0, 4, s[A]!, 0);
    writeReg(s, 2, 4, s[A + 1]!, 0);
  }
  setZero(s, equal);
  payForLock(cpu, x);
  return DONE.NEXT;
}

/** CMPXCHG16B: GP(0) unless the operand is aligned to 16 bytes. */
export function cmpxchg16bOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  effectiveAddress(cpu, x);
  if ((s[ADDR]! & 15) !== 0) return raise(cpu, VECTOR.GP, 0);
  if (!prepareOperand(cpu, x, 8, ACCESS.WRITE)) return DONE.FAULT;
  readPrepared(cpu, 8, A);
  const low = s[HPA]!;
  s[HPA] = low + 8;
  readPrepared(cpu, 8, B);
  const equal = s[A] === s[RAX] && s[A + 1] === s[RAX + 1] && s[B] === s[RDX] && s[B + 1] === s[RDX + 1];
  const from = equal ? [RBX, RCX] : [A, B];
  writePrepared(cpu, 8, s[from[1]!]!, s[from[1]! + 1]!);
  s[HPA] = low;
  writePrepared(cpu, 8, s[from[0]!]!, s[from[0]! + 1]!);
  if (!equal) {
    writeReg(s, 0, 8, s[A]!, s[A + 1]!);
    writeReg(s, 2, 8, s[B]!, s[B + 1]!);
  }
  setZero(s, equal);
  payForLock(cpu, x);
  return DONE.NEXT;
}

/** XADD: the sum goes to the destination last, so XADD of a register with itself doubles it. */
export function xaddOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!openRm(cpu, x, x.size, A, ACCESS.WRITE)) return DONE.FAULT;
  readReg(s, x.reg, x.size, B);
  add(s, x.size, 0);
  setLazy(s, FLAG_OP.ADD);
  writeReg(s, x.reg, x.size, s[A]!, s[A + 1]!);
  closeRm(cpu, x, x.size, s[R]!, s[R + 1]!);
  payForLock(cpu, x);
  return DONE.NEXT;
}

/** CMPXCHG8B and CMPXCHG16B share an opcode. */
export function cmpxchgPairOp(cpu: Cpu, x: DecodedInsn): number {
  return x.op === OP.CMPXCHG16B ? cmpxchg16bOp(cpu, x) : cmpxchg8bOp(cpu, x);
}
