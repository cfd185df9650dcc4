// SPDX-License-Identifier: GPL-2.0-only
/**
 * Named access to the general-purpose registers and RIP, for API edges and slow paths, and the interpreter's own scratch
 * words behind the architectural state.
 */
import type { Cpu } from './cpu.ts';
import { S } from './state.ts';

/** Words of `cpu.s` that belong to the interpreter; nothing in them outlives one instruction, FX and the MMU context apart. */
// prettier-ignore
export const SCRATCH = {
  TMP:  960, // (2) memory operand of a cracked instruction
  EA:   962, // (2) effective address of a cracked instruction
  A:    964, // (2) first operand
  B:    966, // (2) second operand
  R:    968, // (2) result
  ADDR: 970, // (2) linear address of the memory operand
  HPA:  972, // (2) host physical address of the first part of a prepared operand
  HPA2: 974, // (2) of the second part, if the operand crosses a page
  HEAD: 976, // bytes in the first part
  // What the loop knows about the page that it executes from; see isPageCurrent():
  GENERATION: 977, // generation of the code cache
  EVICTIONS: 978, // evictions of the modelled TLB
  DELTA: 979, // fast TLB's addend
  TABLE: 980, // word index of the page's offset table
  // The MMU's context, for the quick walk; written by mmuContextChanged():
  MODE: 981, GROUP: 982, SPACE: 983, GLOBAL_SPACE: 984,
  KIND: 985, // of the access that missed the fast TLB, at ADDR: ACCESS | (size - 1) << 8
  AT: 986, // record at which a quick run stopped
  FX:   512, // 128 words: the x87 and SSE image of FXSAVE and FXRSTOR
} as const;

/** A general-purpose register as an unsigned 64-bit value. */
export function getReg(cpu: Cpu, n: number): bigint {
  return pair(cpu.s[S.GPR + 2 * n]!, cpu.s[S.GPR + 2 * n + 1]!);
}

/** Set all 64 bits of a general-purpose register. */
export function setReg(cpu: Cpu, n: number, value: bigint): void {
  cpu.s[S.GPR + 2 * n] = Number(BigInt.asIntN(32, value));
  cpu.s[S.GPR + 2 * n + 1] = Number(BigInt.asIntN(32, value >> 32n));
}

/** The low half of a general-purpose register, unsigned. */
export function reg32(cpu: Cpu, n: number): number {
  return cpu.s[S.GPR + 2 * n]! >>> 0;
}

export function getRip(cpu: Cpu): bigint {
  return pair(cpu.s[S.RIP]!, cpu.s[S.RIP + 1]!);
}

export function setRip(cpu: Cpu, value: bigint): void {
  cpu.s[S.RIP] = Number(BigInt.asIntN(32, value));
  cpu.s[S.RIP + 1] = Number(BigInt.asIntN(32, value >> 32n));
}

/** RIP moves past the instruction of `length` bytes that it is at. */
export function advanceRip(cpu: Cpu, length: number): void {
  const s = cpu.s;
  const lo = s[S.RIP]!;
  const sum = (lo + length) | 0;
  s[S.RIP] = sum;
  if (sum >>> 0 < lo >>> 0) s[S.RIP + 1] = s[S.RIP + 1]! + 1;
}

function pair(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}
