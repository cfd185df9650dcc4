// SPDX-License-Identifier: GPL-2.0-only
/** PUSH, POP, ENTER, LEAVE. SDM, under those names. RSP changes only after every access has succeeded. */
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { FORM } from './decode/ops.ts';
import { ACCESS } from '../mmu/access.ts';
import { addTo, openRm, prepare, prepareOperand, readPrepared, writePrepared, writeReg } from './operand.ts';
import { DONE } from './op_result.ts';
import { SCRATCH } from './regs.ts';
import { S } from './state.ts';

const { A, B, ADDR } = SCRATCH;
const RSP = S.GPR + 8;
const RBP = S.GPR + 10;

function copyPair(s: Int32Array, to: number, from: number): void {
  s[to] = s[from]!;
  s[to + 1] = s[from + 1]!;
}

/** Push s[value] and move RSP. */
export function pushPair(cpu: Cpu, value: number, size: number): boolean {
  const { s } = cpu;
  copyPair(s, ADDR, RSP);
  addTo(s, ADDR, -size, -1);
  const lo = s[value]!;
  const hi = s[value + 1]!;
  if (!prepare(cpu, s[ADDR]!, s[ADDR + 1]!, size, ACCESS.WRITE | ACCESS.STACK)) return false;
  writePrepared(cpu, size, lo, hi);
  copyPair(s, RSP, ADDR);
  return true;
}

/** Load from the top of the stack to s[out]; RSP stays. */
export function peek(cpu: Cpu, size: number, out: number): boolean {
  const { s } = cpu;
  if (!prepare(cpu, s[RSP]!, s[RSP + 1]!, size, ACCESS.READ | ACCESS.STACK)) return false;
  readPrepared(cpu, size, out);
  return true;
}

export function pushOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (x.form === FORM.I) {
    s[A] = x.immLo;
    s[A + 1] = x.immHi;
  } else if (!openRm(cpu, x, x.size, A, ACCESS.READ)) {
    return DONE.FAULT;
  }
  return pushPair(cpu, A, x.size) ? DONE.NEXT : DONE.FAULT;
}

/** POP: an RSP-based destination address is computed after RSP has moved; POP RSP leaves the popped value. */
export function popOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!peek(cpu, x.size, A)) return DONE.FAULT;
  addTo(s, RSP, x.size, 0);
  if (x.rm >= 0) {
    writeReg(s, x.rm, x.size, s[A]!, s[A + 1]!);
    return DONE.NEXT;
  }
  if (!prepareOperand(cpu, x, x.size, ACCESS.WRITE)) {
    addTo(s, RSP, -x.size, -1);
    return DONE.FAULT;
  }
  writePrepared(cpu, x.size, s[A]!, s[A + 1]!);
  return DONE.NEXT;
}

export function leaveOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!prepare(cpu, s[RBP]!, s[RBP + 1]!, x.size, ACCESS.READ | ACCESS.STACK)) return DONE.FAULT;
  readPrepared(cpu, x.size, A);
  copyPair(s, RSP, RBP);
  addTo(s, RSP, x.size, 0);
  writeReg(s, 5, x.size, s[A]!, s[A + 1]!);
  return DONE.NEXT;
}

/** The frame pointers that ENTER of nesting level > 0 copies, and the new one. */
function copyFramePointers(cpu: Cpu, size: number, level: number): boolean {
  const { s } = cpu;
  const frameLo = s[RSP]!;
  const frameHi = s[RSP + 1]!;
  for (let n = 1; n < level; n++) {
    copyPair(s, B, RBP);
    addTo(s, B, -size * n, -1);
    if (!prepare(cpu, s[B]!, s[B + 1]!, size, ACCESS.READ | ACCESS.STACK)) return false;
    readPrepared(cpu, size, A);
    if (!pushPair(cpu, A, size)) return false;
  }
  s[A] = frameLo;
  s[A + 1] = frameHi;
  return level === 0 || pushPair(cpu, A, size);
}

/** ENTER: RSP and RBP come back if a later push faults. The final stack pointer is checked for writing. */
export function enterOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const rspLo = s[RSP]!;
  const rspHi = s[RSP + 1]!;
  const ok = pushPair(cpu, RBP, x.size) && enterFrame(cpu, x);
  if (ok) return DONE.NEXT;
  s[RSP] = rspLo;
  s[RSP + 1] = rspHi;
  return DONE.FAULT;
}

function enterFrame(cpu: Cpu, x: DecodedInsn): boolean {
  const { s } = cpu;
  const frameLo = s[RSP]!;
  const frameHi = s[RSP + 1]!;
  if (!copyFramePointers(cpu, x.size, x.immHi & 31)) return false;
  copyPair(s, ADDR, RSP);
  addTo(s, ADDR, -x.immLo, x.immLo === 0 ? 0 : -1);
  if (!prepare(cpu, s[ADDR]!, s[ADDR + 1]!, x.size, ACCESS.WRITE | ACCESS.STACK)) return false;
  copyPair(s, RSP, ADDR);
  writeReg(s, 5, x.size, frameLo, frameHi);
  return true;
}
