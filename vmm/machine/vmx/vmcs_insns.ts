// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST as functions of their physical-address operand. SDM, the VMX instruction
 * reference. Checks that end in UD or GP belong to the guest instruction (guest_insns.ts); L0 breaking one is a bug.
 */
import { MSR } from '../../../lib/x86/msr.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import { hex } from '../../../lib/x86/bits.ts';
import { pfn } from '../../../lib/x86/addr.ts';
import { VMXERR } from '../../../lib/x86/vmx/insn_errors.ts';
import { spend } from '../cost/ledger.ts';
import { COST } from '../cost/points.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { BugError, SanitizerError } from '../errors.ts';
import { VMCS_STATE, VMCS_WORD } from './vmcs_layout.ts';
import { vmFail } from './vmx_result.ts';
import { VMX_RESULT } from './vmx_unit.ts';

/** 4-KByte aligned and within the physical-address width. */
function isValidPointer(cpu: Cpu, pa: number): boolean {
  return pa >= 0 && pa % 4096 === 0 && pa < 2 ** cpu.vmx.caps.maxPhyAddr;
}

/** The first word of a region; ones where there is no memory. */
function revisionAt(cpu: Cpu, pa: number): number {
  return pa < cpu.mem.size ? cpu.mem.i32[pa >>> 2]! : -1;
}

/** L0 executes a VMX instruction: it must be in VMX root operation. */
function assertRoot(cpu: Cpu, name: string): void {
  if (!cpu.vmx.vmxon || cpu.vmx.nonRoot)
    throw new SanitizerError(`CPU ${cpu.id}: ${name} outside of VMX root operation`);
}

/** VMXON. FAIL_INVALID: bad address or revision. In VMX root operation already: error 15. */
export function vmxon(cpu: Cpu, pa: number): number {
  spend(cpu, COST.VMXON);
  const { vmx } = cpu;
  if (vmx.nonRoot) throw new BugError('VMXON in VMX non-root operation must exit');
  if (vmx.vmxon) return vmFail(cpu, VMXERR.VMXON_IN_VMX_ROOT_OPERATION);
  if ((cpu.s[S.CR4]! & CR4.VMXE) === 0) throw new SanitizerError(`CPU ${cpu.id}: VMXON with CR4.VMXE clear`);
  if (!isValidPointer(cpu, pa) || revisionAt(cpu, pa) !== vmx.caps.revision) return VMX_RESULT.FAIL_INVALID;
  vmx.vmxon = true;
  vmx.vmxonPtr = pa;
  vmx.currentVmcs = -1;
  vmx.stateWord = cpu.s.byteOffset >>> 2;
  vmx.debugctl = cpu.sys.msrs.cell(MSR.IA32_DEBUGCTL);
  vmx.pat = cpu.sys.msrs.cell(MSR.IA32_CR_PAT);
  return VMX_RESULT.SUCCEED;
}

/** VMXOFF. */
export function vmxoff(cpu: Cpu): number {
  assertRoot(cpu, 'VMXOFF');
  const { vmx } = cpu;
  vmx.vmxon = false;
  vmx.vmxonPtr = -1;
  vmx.currentVmcs = -1;
  return VMX_RESULT.SUCCEED;
}

/** VMCLEAR: the VMCS's launch state is clear, and it is no longer current if it was. */
export function vmclear(cpu: Cpu, pa: number): number {
  assertRoot(cpu, 'VMCLEAR');
  spend(cpu, COST.VMCLEAR);
  const { vmx } = cpu;
  if (!isValidPointer(cpu, pa)) return vmFail(cpu, VMXERR.VMCLEAR_INVALID_ADDRESS);
  if (pa === vmx.vmxonPtr) return vmFail(cpu, VMXERR.VMCLEAR_VMXON_POINTER);
  if (pa < cpu.mem.size) {
    const base = pa >>> 2;
    checkActive(cpu, base, 'VMCLEAR');
    cpu.mem.i32[base + VMCS_WORD.STATE] = VMCS_STATE.MAGIC;
    cpu.mem.i32[base + VMCS_WORD.ACTIVE] = 0;
  }
  if (pa === vmx.currentVmcs) vmx.currentVmcs = -1;
  return VMX_RESULT.SUCCEED;
}

/** VMPTRLD: the VMCS at `pa` becomes current and active. */
export function vmptrld(cpu: Cpu, pa: number): number {
  assertRoot(cpu, 'VMPTRLD');
  spend(cpu, COST.VMPTRLD);
  const { vmx } = cpu;
  if (!isValidPointer(cpu, pa)) return vmFail(cpu, VMXERR.VMPTRLD_INVALID_ADDRESS);
  if (pa === vmx.vmxonPtr) return vmFail(cpu, VMXERR.VMPTRLD_VMXON_POINTER);
  // Bit 31 would ask for a shadow VMCS, which the processor does not have.
  if (revisionAt(cpu, pa) !== vmx.caps.revision)
    return vmFail(cpu, VMXERR.VMPTRLD_INCORRECT_VMCS_REVISION_ID);
  const base = pa >>> 2;
  checkActive(cpu, base, 'VMPTRLD');
  const { i32 } = cpu.mem;
  if ((i32[base + VMCS_WORD.STATE]! & VMCS_STATE.MAGIC_MASK) !== VMCS_STATE.MAGIC) {
    // Nobody has cleared it: the SDM leaves the launch state undefined, ours is clear with nothing checked.
    i32[base + VMCS_WORD.STATE] = VMCS_STATE.MAGIC;
  }
  i32[base + VMCS_WORD.ACTIVE] = cpu.id + 1;
  vmx.currentVmcs = pa;
  vmx.base = base;
  vmx.vmcsEpoch = cpu.frames.epoch[pa >>> 12]!;
  return VMX_RESULT.SUCCEED;
}

/** A VMCS must not be active on two processors. SDM, "Software Use of the VMCS Region and Related Structures". */
function checkActive(cpu: Cpu, base: number, insn: string): void {
  const { i32 } = cpu.mem;
  const active = i32[base + VMCS_WORD.ACTIVE]!;
  if (active === 0 || active === cpu.id + 1 || active > 32 || active < 0) return;
  if ((i32[base + VMCS_WORD.STATE]! & VMCS_STATE.MAGIC_MASK) !== VMCS_STATE.MAGIC) return;
  const story = cpu.frames.story(pfn(base >>> 10));
  throw new SanitizerError(
    `CPU ${cpu.id}: ${insn} of the VMCS at ${hex(base * 4)}, which is active on CPU ${active - 1} (${story})`,
  );
}

/** VMPTRST: the current-VMCS pointer, -1 if there is none (all 64 bits ones). */
export function vmptrst(cpu: Cpu): number {
  assertRoot(cpu, 'VMPTRST');
  return cpu.vmx.currentVmcs;
}
