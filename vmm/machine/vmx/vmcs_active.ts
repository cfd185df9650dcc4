// SPDX-License-Identifier: GPL-2.0-only
/**
 * Active VMCSs and their type. SDM, "Overview" of "Virtual Machine Control Structures", "VMCS Types: Ordinary and
 * Shadow", "Software Use of the VMCS and Related Structures".
 */
import { pfn } from '../../../lib/x86/addr.ts';
import { hex } from '../../../lib/x86/bits.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { SanitizerError } from '../errors.ts';
import { VMCS_REVISION, VMCS_STATE, VMCS_WORD } from './vmcs_layout.ts';
import * as W from './words.ts';

/** The VMCS at this word of the memory is a shadow VMCS. */
export function isShadowVmcs(cpu: Cpu, base: number): boolean {
  return (cpu.mem.i32[base + VMCS_WORD.REVISION]! & VMCS_REVISION.SHADOW) !== 0;
}

/** Word of the VMCS that the current VMCS's link pointer references; -1 if it is all ones. VM entry has checked it. */
export function linkedVmcs(cpu: Cpu): number {
  const {
    mem: { i32 },
    vmx: { base },
  } = cpu;
  const lo = i32[base + W.GUEST_LINK_POINTER]!;
  return (lo & i32[base + W.GUEST_LINK_POINTER + 1]!) === -1 ? -1 : lo >>> 2;
}

/** `what` makes the VMCS active on this CPU. */
export function activateVmcs(cpu: Cpu, base: number, what: string): void {
  checkActive(cpu, base, what);
  const { i32 } = cpu.mem;
  if ((i32[base + VMCS_WORD.STATE]! & VMCS_STATE.MAGIC_MASK) !== VMCS_STATE.MAGIC) {
    // Nobody has cleared it: the SDM leaves the launch state undefined, ours is clear with nothing checked.
    i32[base + VMCS_WORD.STATE] = VMCS_STATE.MAGIC;
  }
  i32[base + VMCS_WORD.ACTIVE] = cpu.id + 1;
}

/** A VMCS must not be active on two processors. */
export function checkActive(cpu: Cpu, base: number, what: string): void {
  const { i32 } = cpu.mem;
  const active = i32[base + VMCS_WORD.ACTIVE]!;
  if (active === 0 || active === cpu.id + 1 || active > 32 || active < 0) return;
  if ((i32[base + VMCS_WORD.STATE]! & VMCS_STATE.MAGIC_MASK) !== VMCS_STATE.MAGIC) return;
  const story = cpu.frames.story(pfn(base >>> 10));
  throw new SanitizerError(
    `CPU ${cpu.id}: ${what} of the VMCS at ${hex(base * 4)}, which is active on CPU ${active - 1} (${story})`,
  );
}
