// SPDX-License-Identifier: GPL-2.0-only
/**
 * Near transfers. SDM, "CALL", "RET", "JMP", "Jcc", "LOOP/LOOPcc". A target that is not canonical raises GP(0) at the
 * branch, before anything is written, as Intel processors do. A 66 prefix on a near branch is ignored, as they do too.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { FORM, OP } from './decode/ops.ts';
import { condition } from './flags.ts';
import { ACCESS } from '../mmu/access.ts';
import { addTo, openRm } from './operand.ts';
import { DONE, raise } from './op_result.ts';
import { peek, pushPair } from './ops_stack.ts';
import { SCRATCH } from './regs.ts';
import { S } from './state.ts';

const { A, B, R } = SCRATCH;
const RSP = S.GPR + 8;
const RCX = S.GPR + 2;

/** Bits above the linear-address width equal its top bit. SDM, "Canonical Addressing". */
function isCanonical(s: Int32Array, hi: number): boolean {
  const shift = (s[S.CR4]! & CR4.LA57) !== 0 ? 7 : 16;
  return (hi << shift) >> shift === hi;
}

function jumpTo(cpu: Cpu, target: number): number {
  const { s } = cpu;
  if (!isCanonical(s, s[target + 1]!)) return raise(cpu, VECTOR.GP, 0);
  s[S.RIP] = s[target]!;
  s[S.RIP + 1] = s[target + 1]!;
  return DONE.JUMP;
}

/** Address of the next instruction to s[out]. */
function nextRip(s: Int32Array, x: DecodedInsn, out: number): void {
  s[out] = s[S.RIP]!;
  s[out + 1] = s[S.RIP + 1]!;
  addTo(s, out, x.length, 0);
}

function relativeTarget(s: Int32Array, x: DecodedInsn): void {
  nextRip(s, x, B);
  addTo(s, B, x.immLo, x.immHi);
}

/** LOOP counts RCX (ECX with 67) down, without flags; whether it is taken. */
function countsDown(s: Int32Array, x: DecodedInsn): boolean {
  if (x.addressSize === 4) s[RCX + 1] = 0;
  if (x.addressSize === 4) s[RCX] = s[RCX]! - 1;
  else addTo(s, RCX, -1, -1);
  if ((s[RCX]! | s[RCX + 1]!) === 0) return false;
  return x.op === OP.LOOP || condition(s, 4) === (x.op === OP.LOOPE);
}

/** JMP, Jcc, JRCXZ and LOOPcc with a displacement. */
export function jumpOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (x.op === OP.JCC && !condition(s, x.cc)) return DONE.NEXT;
  relativeTarget(s, x);
  if (x.op === OP.JCC || x.op === OP.JMP) return jumpTo(cpu, B);
  const lo = s[RCX]!;
  const hi = s[RCX + 1]!;
  if (x.op === OP.JRCXZ) {
    const taken = lo === 0 && (hi === 0 || x.addressSize === 4);
    return taken ? jumpTo(cpu, B) : DONE.NEXT;
  }
  const done = countsDown(s, x) ? jumpTo(cpu, B) : DONE.NEXT;
  if (done === DONE.FAULT) {
    s[RCX] = lo;
    s[RCX + 1] = hi;
  }
  return done;
}

export function jumpIndirectOp(cpu: Cpu, x: DecodedInsn): number {
  return openRm(cpu, x, 8, B, ACCESS.READ) ? jumpTo(cpu, B) : DONE.FAULT;
}

/** CALL, both kinds. */
export function callOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (x.form === FORM.REL) relativeTarget(s, x);
  else if (!openRm(cpu, x, 8, B, ACCESS.READ)) return DONE.FAULT;
  if (!isCanonical(s, s[B + 1]!)) return raise(cpu, VECTOR.GP, 0);
  nextRip(s, x, R);
  return pushPair(cpu, R, 8) ? jumpTo(cpu, B) : DONE.FAULT;
}

/** RET, with or without bytes to release. */
export function retOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!peek(cpu, 8, A)) return DONE.FAULT;
  const done = jumpTo(cpu, A);
  if (done === DONE.JUMP) addTo(s, RSP, 8 + (x.form === FORM.I ? x.immLo : 0), 0);
  return done;
}
