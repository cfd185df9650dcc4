// SPDX-License-Identifier: GPL-2.0-only
/** What an out-of-line operation reports, and how it raises an exception. */
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { FAULT } from './state.ts';

// prettier-ignore
export const DONE = {
  NEXT:  0, // RIP is to be moved past the instruction
  FAULT: 1, // cpu.fault is set, nothing was written
  SYS:   2, // cpu.insn is set
  JUMP:  3, // RIP has been set
  REP:   4, // as NEXT, and the operation has spent COST.INSN for its iterations
  AGAIN: 5, // RIP stays; iterations have been spent
} as const;

/** An operation: RIP is at the instruction and stays there; `deadline` is for string instructions. */
export type Operation = (cpu: Cpu, insn: DecodedInsn, deadline: number) => number;

/** Fill in an exception; returns DONE.FAULT. */
export function raise(cpu: Cpu, vector: number, errorCode: number): number {
  const { fault } = cpu;
  fault.kind = FAULT.EXCEPTION;
  fault.vector = vector;
  fault.errorCode = errorCode;
  fault.qualification = 0;
  return DONE.FAULT;
}
