// SPDX-License-Identifier: GPL-2.0-only
/**
 * The shadow VMCS: L1's VMREADs and VMWRITEs of the fields below go to a real VMCS that vmcs01 links to, without an exit.
 * Mirrors vmcs_shadow_fields.h, init_vmcs_shadow_fields(), copy_shadow_to_vmcs12() and copy_vmcs12_to_shadow() of
 * arch/x86/kvm/vmx, 6.12.
 */
import { hpa, PAGE_SIZE, type Hpa } from '../../../../lib/x86/addr.ts';
import { SECONDARY_EXEC } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_ENCODING_LIMIT } from '../../../../lib/x86/vmx/field.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO as I } from '../../../../lib/x86/vmx/vmcs_info.ts';
import type { Host } from '../../../host/host.ts';
import { GFP } from '../../../host/mm/page_alloc.ts';
import type { Cpu } from '../../../machine/cpu/cpu.ts';
import { BugError } from '../../../machine/errors.ts';
import { vmwritePair } from '../../../machine/vmx/vmcs_access.ts';
import { vmclear, vmptrld } from '../../../machine/vmx/vmcs_insns.ts';
import { VMX_RESULT } from '../../../machine/vmx/vmx_unit.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { vmxChangeSecondary } from '../vmx_controls.ts';
import { allocVmcs, freeKernelPage } from '../vmcs_load.ts';
import type { ShadowBitmaps } from '../vmcs01.ts';
import { FieldGroup } from './field_group.ts';

/** SHADOW_FIELD_RO: L1 may read them without an exit. */
const READ_ONLY_FIELDS: readonly number[] = [
  I.GUEST_PHYSICAL_ADDRESS,
  I.VM_EXIT_REASON,
  I.VM_EXIT_INTR_INFO,
  I.VM_EXIT_INSTRUCTION_LEN,
  I.VM_EXIT_INTR_ERROR_CODE,
  I.IDT_VECTORING_INFO_FIELD,
  I.IDT_VECTORING_ERROR_CODE,
  G.CS_AR_BYTES,
  G.SS_AR_BYTES,
  I.EXIT_QUALIFICATION,
  I.GUEST_LINEAR_ADDRESS,
];
/** SHADOW_FIELD_RW: L1 may read and write them without an exit. */
const READ_WRITE_FIELDS: readonly number[] = [
  G.INTR_STATUS,
  G.PML_INDEX,
  H.FS_SELECTOR,
  H.GS_SELECTOR,
  C.CPU_BASED_VM_EXEC_CONTROL,
  C.PIN_BASED_VM_EXEC_CONTROL,
  C.EXCEPTION_BITMAP,
  C.VM_ENTRY_EXCEPTION_ERROR_CODE,
  C.VM_ENTRY_INTR_INFO_FIELD,
  C.VM_ENTRY_INSTRUCTION_LEN,
  C.TPR_THRESHOLD,
  G.INTERRUPTIBILITY_INFO,
  G.VMX_PREEMPTION_TIMER_VALUE,
  G.RIP,
  G.RSP,
  G.CR0,
  G.CR3,
  G.CR4,
  G.RFLAGS,
  C.CR0_GUEST_HOST_MASK,
  C.CR0_READ_SHADOW,
  C.CR4_READ_SHADOW,
  H.FS_BASE,
  H.GS_BASE,
];
/** 0: not shadowed, 1: for reading, 2: for writing too; by encoding. */
const SHADOWED = new Uint8Array(VMCS_ENCODING_LIMIT);
for (const field of READ_ONLY_FIELDS) SHADOWED[field] = 1;
for (const field of READ_WRITE_FIELDS) SHADOWED[field] = 2;
const ALL_FIELDS = [...READ_WRITE_FIELDS, ...READ_ONLY_FIELDS];

/** is_shadow_field_rw(). */
export const isShadowFieldRw = (field: number): boolean => SHADOWED[field] === 2;
/** is_shadow_field_ro(). */
export const isShadowFieldRo = (field: number): boolean => SHADOWED[field] === 1;

/** init_vmcs_shadow_fields(): a set bit makes an access exit. */
export function allocShadowBitmaps(host: Host): ShadowBitmaps {
  const { u8 } = host.machine.mem;
  const page = (name: string): Hpa => {
    const frame = host.pages.allocPage(host.pages.owner(name), GFP.ZERO);
    if (frame < 0) throw new BugError(`no memory for the ${name}`);
    const at = hpa(frame * PAGE_SIZE);
    u8.fill(0xff, at, at + PAGE_SIZE);
    return at;
  };
  const bitmaps = { vmread: page('VMREAD bitmap'), vmwrite: page('VMWRITE bitmap') };
  const clear = (bitmap: Hpa, field: number): void => {
    // The upper half of a 64-bit field has a bit of its own.
    for (const f of (field & 0x6000) === 0x2000 ? [field, field + 1] : [field])
      u8[bitmap + (f >> 3)] = u8[bitmap + (f >> 3)]! & ~(1 << (f & 7));
  };
  for (const field of ALL_FIELDS) clear(bitmaps.vmread, field);
  for (const field of READ_WRITE_FIELDS) clear(bitmaps.vmwrite, field);
  return bitmaps;
}

function must(result: number, what: string): void {
  if (result !== VMX_RESULT.SUCCEED) throw new BugError(`${what} of the shadow VMCS failed`);
}

/** alloc_shadow_vmcs(): cleared, for vmcs01; false: out of memory. */
export function allocShadowVmcs(vcpu: Vcpu): boolean {
  const { host } = vcpu.kvm;
  const { vmcs01 } = toVmx(vcpu);
  const page = allocVmcs(host, host.sched.cpu, `shadow VMCS of ${vcpu.name}`);
  if (page < 0) return false;
  vmcs01.shadowVmcs = hpa(page);
  const { i32 } = host.machine.mem;
  i32[page >>> 2] = i32[page >>> 2]! | 0x8000_0000;
  must(vmclear(vmxCpu(vcpu), page), 'VMCLEAR');
  return true;
}

/** vmcs_clear() and free_vmcs(); vmcs01 is current and no longer links to it. */
export function freeShadowVmcs(vcpu: Vcpu): void {
  const { vmcs01 } = toVmx(vcpu);
  if (vmcs01.shadowVmcs < 0) return;
  must(vmclear(vmxCpu(vcpu), vmcs01.shadowVmcs), 'VMCLEAR');
  freeKernelPage(vcpu.kvm.host, vmcs01.shadowVmcs, `free_nested of ${vcpu.name}`);
  vmcs01.shadowVmcs = -1 as Hpa;
}

/** vmx_disable_shadow_vmcs(): L1's accesses exit. */
export function vmxDisableShadowVmcs(vcpu: Vcpu): void {
  vmxChangeSecondary(vcpu, 0, SECONDARY_EXEC.SHADOW_VMCS);
  vmwritePair(vmxCpu(vcpu), G.VMCS_LINK_POINTER, -1, -1);
  toVmx(vcpu).nested.needVmcs12ToShadowSync = false;
}

const READ_WRITE = new FieldGroup(READ_WRITE_FIELDS);
const ALL = new FieldGroup(ALL_FIELDS);

/** The shadow VMCS becomes current for a while. */
function loadShadow(vcpu: Vcpu): Cpu {
  const cpu = vmxCpu(vcpu);
  must(vmptrld(cpu, toVmx(vcpu).vmcs01.shadowVmcs), 'VMPTRLD');
  return cpu;
}

/** It must be clear for the processor to use it as a shadow; the VMCS before is current again. */
function unloadShadow(cpu: Cpu, vcpu: Vcpu): void {
  const vmx = toVmx(vcpu);
  must(vmclear(cpu, vmx.vmcs01.shadowVmcs), 'VMCLEAR');
  must(vmptrld(cpu, vmx.loadedVmcs.vmcs), 'VMPTRLD after the end of use');
}

/** copy_shadow_to_vmcs12(): what L1 wrote without an exit. */
export function copyShadowToVmcs12(vcpu: Vcpu): void {
  const cpu = loadShadow(vcpu);
  READ_WRITE.toVmcs12(cpu, toVmx(vcpu).nested.cachedVmcs12);
  unloadShadow(cpu, vcpu);
}

/** copy_vmcs12_to_shadow(): what L1 will read without an exit. */
function copyVmcs12ToShadow(vcpu: Vcpu): void {
  const cpu = loadShadow(vcpu);
  ALL.toVmcs(cpu, toVmx(vcpu).nested.cachedVmcs12);
  unloadShadow(cpu, vcpu);
}

/** L1 wrote a field that it may read, but not write, without an exit. */
export function writeShadowField(vcpu: Vcpu, field: number, lo: number, hi: number): void {
  const cpu = loadShadow(vcpu);
  vmwritePair(cpu, field, lo, hi);
  unloadShadow(cpu, vcpu);
}

/** nested_sync_vmcs12_to_shadow(): before L1 runs again. */
export function nestedSyncVmcs12ToShadow(vcpu: Vcpu): void {
  copyVmcs12ToShadow(vcpu);
  toVmx(vcpu).nested.needVmcs12ToShadowSync = false;
}
