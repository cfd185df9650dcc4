// SPDX-License-Identifier: GPL-2.0-only
/**
 * The registers as the System V ABI for x86-64 shares them out, and sets of them as bit masks.
 * rax, rcx and rdx never hold a variable: division and shifts want them.
 */
import type { GpName } from '../ir.ts';

/** A register by its number in the encoding. */
export type RegNum = number;
/** A set of registers. */
export type RegMask = number;

// prettier-ignore
export const REG_NUM: Readonly<Record<GpName | 'rsp', RegNum>> = {
  rax: 0, rcx: 1, rdx: 2, rbx: 3, rsp: 4, rbp: 5, rsi: 6, rdi: 7,
  r8: 8, r9: 9, r10: 10, r11: 11, r12: 12, r13: 13, r14: 14, r15: 15,
};

const nums = (...names: GpName[]): readonly RegNum[] => names.map((name) => REG_NUM[name]);

/** Where the first six arguments are. */
export const ARG_REGS = nums('rdi', 'rsi', 'rdx', 'rcx', 'r8', 'r9');
/** What a callee preserves; the order in which variables take them. */
export const CALLEE_SAVED = nums('rbx', 'r12', 'r13', 'r14', 'r15', 'rbp');
/** What a call destroys; the order in which temporaries take them. */
export const CALLER_SAVED = nums('rax', 'rcx', 'rdx', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11');
/** Caller-saved registers that may hold a variable which no call or inline assembly interrupts. */
export const LEAF_HOMES = nums('r9', 'r8', 'rsi', 'rdi');

/** A set of one. */
export const bitOf = (reg: RegNum): RegMask => 1 << reg;
/** A set of several. */
export const maskOf = (regs: readonly RegNum[]): RegMask => regs.reduce((mask, reg) => mask | bitOf(reg), 0);
/** Whether the set has the register. */
export const has = (mask: RegMask, reg: RegNum): boolean => (mask & bitOf(reg)) !== 0;
/** The set without the register. */
export const without = (mask: RegMask, reg: RegNum): RegMask => mask & ~bitOf(reg);
/** How many registers the set has. */
export function count(mask: RegMask): number {
  let left = mask;
  let n = 0;
  for (; left !== 0; left &= left - 1) n += 1;
  return n;
}

export const CALLER_MASK = maskOf(CALLER_SAVED);
export const CALLEE_MASK = maskOf(CALLEE_SAVED);

/** A register of the set to put a temporary in; undefined if the set is empty. */
export function pick(mask: RegMask): RegNum | undefined {
  // Keep rcx and rdx for last: shifts and divisions ask for them by name.
  const late = maskOf(nums('rcx', 'rdx'));
  return CALLER_SAVED.find((reg) => has(mask & ~late, reg)) ?? CALLER_SAVED.find((reg) => has(mask, reg));
}
