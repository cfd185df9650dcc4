// SPDX-License-Identifier: GPL-2.0-only
/**
 * Instruction fetch. The rule, in every mode: each instruction, and each iteration of a string instruction, asks the TLB
 * for its page. That a valid fast entry answers at once is not visible; without one the MMU is asked, which is free if
 * the modelled TLB has the page.
 */
import type { Cpu } from './cpu.ts';
import { FAST_TLB_ENTRIES } from '../layout.ts';
import { ACCESS } from '../mmu/access.ts';
import { translateAccess } from '../mmu/linear.ts';
import { S } from './state.ts';

const PAGE_MASK = -4096;

/** Whether the fast TLB lets the CPU execute at (lo, hi). */
export function isFetchFast(cpu: Cpu, lo: number, hi: number): boolean {
  const i = (lo >>> 12) & (FAST_TLB_ENTRIES - 1);
  return cpu.fast.execTag[i] === (lo & PAGE_MASK) && cpu.fast.hiTag[i] === (hi ^ cpu.s[S.CTX]!);
}

/** Host physical address of the instruction byte at (lo, hi), or -1 with cpu.fault set. */
export function fetchAddress(cpu: Cpu, lo: number, hi: number): number {
  if (isFetchFast(cpu, lo, hi)) return (lo + cpu.fast.addend[(lo >>> 12) & (FAST_TLB_ENTRIES - 1)]!) | 0;
  return translateAccess(cpu, lo, hi, 1, ACCESS.EXEC);
}

/** Ask the TLB again for the instruction at RIP, between two iterations; it lies in one page. False: cpu.fault is set. */
export function refetch(cpu: Cpu): boolean {
  return fetchAddress(cpu, cpu.s[S.RIP]!, cpu.s[S.RIP + 1]!) >= 0;
}
