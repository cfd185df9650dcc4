// SPDX-License-Identifier: GPL-2.0-only
/**
 * The MSR areas of VM entry and VM exit: lists of 16-byte entries {index, reserved, data}. SDM, "Loading MSRs" (of VM
 * entry), "Saving MSRs" and "Loading MSRs" (of VM exits).
 */
import { MSR } from '../../../lib/x86/msr.ts';
import type { Cpu } from '../cpu/cpu.ts';

/** Words of an entry. */
const ENTRY_WORDS = 4;
/** IA32_SMM_MONITOR_CTL and IA32_SMBASE can be reached in SMM only; microcode updates do not go through lists. */
const NEVER_IN_LISTS: readonly number[] = [0x9b, 0x9e, MSR.IA32_UCODE_WRITE];

/** Indices that no list may hold: the x2APIC range, SMM's registers. */
const isForbidden = (index: number): boolean => index >>> 8 === 8 || NEVER_IN_LISTS.includes(index);

/** Load `count` MSRs from the list at word `at`. 0, or the number of the first entry that failed, from 1. */
export function loadMsrArea(cpu: Cpu, at: number, count: number): number {
  const { i32 } = cpu.mem;
  for (let n = 0; n < count; n++) {
    const word = at + n * ENTRY_WORDS;
    const index = i32[word] ?? -1;
    const bad =
      index === (MSR.FS_BASE | 0) || index === (MSR.GS_BASE | 0) || isForbidden(index) || i32[word + 1] !== 0;
    if (bad || !cpu.sys.msrs.write(cpu, index, i32[word + 2]!, i32[word + 3]!)) return n + 1;
  }
  return 0;
}

/** Store `count` MSRs into the list at word `at`. 0, or the number of the first entry that failed, from 1. */
export function storeMsrArea(cpu: Cpu, at: number, count: number): number {
  const { i32 } = cpu.mem;
  const { scratch } = cpu.vmx;
  for (let n = 0; n < count; n++) {
    const word = at + n * ENTRY_WORDS;
    const index = i32[word] ?? -1;
    if (isForbidden(index) || i32[word + 1] !== 0 || !cpu.sys.msrs.read(cpu, index, scratch)) return n + 1;
    i32[word + 2] = scratch[0]!;
    i32[word + 3] = scratch[1]!;
  }
  return 0;
}
