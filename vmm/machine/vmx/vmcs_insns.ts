// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST as functions of their physical-address operand. SDM, the VMX instruction
 * reference. Checks that end in UD or GP belong to the guest instruction (guest_insns.ts); L0 breaking one is a bug.
 */
import { MSR } from '../../../lib/x86/msr.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { VMXERR } from '../../../lib/x86/vmx/insn_errors.ts';
import { spend } from '../cost/ledger.ts';
import { COST } from '../cost/points.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { BugError, SanitizerError } from '../errors.ts';
import { RAM_BASE } from '../layout.ts';
import { activateVmcs, checkActive } from './vmcs_active.ts';
import { VMCS_REVISION, VMCS_STATE, VMCS_WORD } from './vmcs_layout.ts';
import { vmFail } from './vmx_result.ts';
import { VMX_RESULT } from './vmx_unit.ts';

/** 4-KByte aligned and within the physical-address width. */
function isValidPointer(cpu: Cpu, pa: number): boolean {
  return pa >= 0 && (pa & 0xfff) === 0 && pa < cpu.vmx.caps.physEnd;
}

/** The machine keeps its own state below RAM. */
const isMemory = (cpu: Cpu, pa: number): boolean => pa >= RAM_BASE && pa < cpu.mem.size;

/** The first word of a region; ones where there is no memory. */
function revisionAt(cpu: Cpu, pa: number): number {
  return isMemory(cpu, pa) ? cpu.mem.i32[pa >>> 2]! : -1;
}

/** L0 executes a VMX instruction: it must be in VMX root operation. */
function assertRoot(cpu: Cpu, name: string): void {
  if (!cpu.vmx.vmxon || cpu.vmx.nonRoot)
    throw new SanitizerError(`CPU ${cpu.id}: ${name} outside of VMX root operation`);
}

/** VMXON. FAIL_INVALID: bad address, or not the revision with bit 31 clear. In VMX root operation already: error 15. */
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
  if (isMemory(cpu, pa)) {
    const base = pa >>> 2;
    checkActive(cpu, base, 'VMCLEAR');
    cpu.mem.i32[base + VMCS_WORD.STATE] = VMCS_STATE.MAGIC;
    cpu.mem.i32[base + VMCS_WORD.ACTIVE] = 0;
  }
  if (pa === vmx.currentVmcs) vmx.currentVmcs = -1;
  return VMX_RESULT.SUCCEED;
}

/** The processor has shadow VMCSs. */
function hasShadowing({ vmx }: Cpu): boolean {
  return (vmx.caps.secondary.may1 & SECONDARY_EXEC.SHADOW_VMCS) !== 0;
}

/** VMPTRLD: the VMCS at `pa`, ordinary or shadow, becomes current and active. */
export function vmptrld(cpu: Cpu, pa: number): number {
  assertRoot(cpu, 'VMPTRLD');
  spend(cpu, COST.VMPTRLD);
  const { vmx } = cpu;
  if (!isValidPointer(cpu, pa)) return vmFail(cpu, VMXERR.VMPTRLD_INVALID_ADDRESS);
  if (pa === vmx.vmxonPtr) return vmFail(cpu, VMXERR.VMPTRLD_VMXON_POINTER);
  const revision = revisionAt(cpu, pa);
  const typeOk = (revision & VMCS_REVISION.SHADOW) === 0 || hasShadowing(cpu);
  if ((revision & VMCS_REVISION.ID_MASK) !== vmx.caps.revision || !typeOk)
    return vmFail(cpu, VMXERR.VMPTRLD_INCORRECT_VMCS_REVISION_ID);
  const base = pa >>> 2;
  activateVmcs(cpu, base, 'VMPTRLD');
  vmx.currentVmcs = pa;
  vmx.base = base;
  vmx.vmcsEpoch = cpu.frames.epoch[pa >>> 12]!;
  return VMX_RESULT.SUCCEED;
}

/** VMPTRST: the current-VMCS pointer, -1 if there is none (all 64 bits ones). */
export function vmptrst(cpu: Cpu): number {
  assertRoot(cpu, 'VMPTRST');
  return cpu.vmx.currentVmcs;
}
