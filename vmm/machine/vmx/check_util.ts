// SPDX-License-Identifier: GPL-2.0-only
/**
 * What the checks of VM entry share. A check returns the rule that is broken, as text, or null; the processor itself
 * only knows that some check failed, but a person wants to know which. SDM, "VM Entries".
 */
import type { Cpu } from '../cpu/cpu.ts';

/** The rule that is broken, or null. */
export type Broken = string | null;

/** Bits 63:47 are equal: a canonical address on a processor with 48 linear-address bits. */
export function isCanonical48(hi: number): boolean {
  const top = hi >> 15;
  return top === 0 || top === -1;
}

/** Aligned as `alignMask` says and within the physical-address width. */
export function isPhysAddr(cpu: Cpu, lo: number, hi: number, alignMask: number): boolean {
  return (lo & alignMask) === 0 && hi >>> (cpu.vmx.caps.maxPhyAddr - 32) === 0;
}

/** Each byte is one of the memory types 0, 1, 4, 5, 6, 7. SDM, "IA32_PAT MSR". */
export function isPat(lo: number, hi: number): boolean {
  return isPatHalf(lo) && isPatHalf(hi);
}

function isPatHalf(word: number): boolean {
  // Types 2 and 3 have bit 1 without bit 2.
  return (word & 0xf8f8_f8f8) === 0 && (((word & 0x0202_0202) << 1) & ~word) === 0;
}

/** Whether the control word obeys its capability MSR. */
export function controlsAllowed(
  value: number,
  caps: { readonly must1: number; readonly may1: number },
): boolean {
  return (value & caps.must1) === caps.must1 && (value & ~caps.may1) === 0;
}

/** The physical address in a VMCS field's two words; exact, for it has passed the width check. */
export function addressIn(cpu: Cpu, word: number): number {
  const { i32 } = cpu.mem;
  const at = cpu.vmx.base + word;
  return i32[at + 1]! * 0x1_0000_0000 + (i32[at]! >>> 0);
}
