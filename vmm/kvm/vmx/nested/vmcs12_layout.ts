// SPDX-License-Identifier: GPL-2.0-only
/**
 * Where each field lies in struct vmcs12: the VMCS that L1 keeps for L2, as L0 lays it out in L1's memory. The layout is
 * ABI (live migration), so the offsets are those that vmx_check_vmcs12_offsets() of arch/x86/kvm/vmx/vmcs12.h fixes.
 */
import { VMCS_ACCESS_HIGH, VMCS_ENCODING_LIMIT } from '../../../../lib/x86/vmx/field.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO as I } from '../../../../lib/x86/vmx/vmcs_info.ts';

/** Bytes of struct vmcs12 that L1 must provide. */
export const VMCS12_SIZE = 0x1000;
/** The revision identifier that MSR_IA32_VMX_BASIC gives L1. */
export const VMCS12_REVISION = 0x11e5_7ed0;

/** Byte offsets of what is not a field. */
export const VMCS12_REVISION_OFFSET = 0;
export const VMCS12_ABORT_OFFSET = 4;
export const VMCS12_LAUNCH_STATE_OFFSET = 8;

/** Fields of 64 bits that lie side by side from `offset` on. */
// prettier-ignore
const U64_FIELDS: readonly number[] = [
  C.IO_BITMAP_A, C.IO_BITMAP_B, C.MSR_BITMAP, C.VM_EXIT_MSR_STORE_ADDR, C.VM_EXIT_MSR_LOAD_ADDR, C.VM_ENTRY_MSR_LOAD_ADDR,
  C.TSC_OFFSET, C.VIRTUAL_APIC_PAGE_ADDR, C.APIC_ACCESS_ADDR, C.POSTED_INTR_DESC_ADDR, C.EPT_POINTER,
  C.EOI_EXIT_BITMAP0, C.EOI_EXIT_BITMAP1, C.EOI_EXIT_BITMAP2, C.EOI_EXIT_BITMAP3, C.XSS_EXIT_BITMAP,
  I.GUEST_PHYSICAL_ADDRESS, G.VMCS_LINK_POINTER, G.IA32_DEBUGCTL, G.IA32_PAT, G.IA32_EFER, G.IA32_PERF_GLOBAL_CTRL,
  G.PDPTR0, G.PDPTR1, G.PDPTR2, G.PDPTR3, G.BNDCFGS, H.IA32_PAT, H.IA32_EFER, H.IA32_PERF_GLOBAL_CTRL,
  C.VMREAD_BITMAP, C.VMWRITE_BITMAP, C.VM_FUNCTION_CONTROL, C.EPTP_LIST_ADDRESS, C.PML_ADDRESS, C.ENCLS_EXITING_BITMAP,
  C.TSC_MULTIPLIER,
];
// prettier-ignore
const NATURAL_FIELDS: readonly number[] = [
  C.CR0_GUEST_HOST_MASK, C.CR4_GUEST_HOST_MASK, C.CR0_READ_SHADOW, C.CR4_READ_SHADOW,
  C.CR3_TARGET_VALUE0, C.CR3_TARGET_VALUE1, C.CR3_TARGET_VALUE2, C.CR3_TARGET_VALUE3,
  I.EXIT_QUALIFICATION, I.GUEST_LINEAR_ADDRESS, G.CR0, G.CR3, G.CR4,
  G.ES_BASE, G.CS_BASE, G.SS_BASE, G.DS_BASE, G.FS_BASE, G.GS_BASE, G.LDTR_BASE, G.TR_BASE, G.GDTR_BASE, G.IDTR_BASE,
  G.DR7, G.RSP, G.RIP, G.RFLAGS, G.PENDING_DBG_EXCEPTIONS, G.SYSENTER_ESP, G.SYSENTER_EIP,
  H.CR0, H.CR3, H.CR4, H.FS_BASE, H.GS_BASE, H.TR_BASE, H.GDTR_BASE, H.IDTR_BASE,
  H.IA32_SYSENTER_ESP, H.IA32_SYSENTER_EIP, H.RSP, H.RIP,
];
// prettier-ignore
const U32_FIELDS: readonly number[] = [
  C.PIN_BASED_VM_EXEC_CONTROL, C.CPU_BASED_VM_EXEC_CONTROL, C.EXCEPTION_BITMAP,
  C.PAGE_FAULT_ERROR_CODE_MASK, C.PAGE_FAULT_ERROR_CODE_MATCH, C.CR3_TARGET_COUNT,
  C.VM_EXIT_CONTROLS, C.VM_EXIT_MSR_STORE_COUNT, C.VM_EXIT_MSR_LOAD_COUNT,
  C.VM_ENTRY_CONTROLS, C.VM_ENTRY_MSR_LOAD_COUNT, C.VM_ENTRY_INTR_INFO_FIELD,
  C.VM_ENTRY_EXCEPTION_ERROR_CODE, C.VM_ENTRY_INSTRUCTION_LEN, C.TPR_THRESHOLD, C.SECONDARY_VM_EXEC_CONTROL,
  I.VM_INSTRUCTION_ERROR, I.VM_EXIT_REASON, I.VM_EXIT_INTR_INFO, I.VM_EXIT_INTR_ERROR_CODE,
  I.IDT_VECTORING_INFO_FIELD, I.IDT_VECTORING_ERROR_CODE, I.VM_EXIT_INSTRUCTION_LEN, I.VMX_INSTRUCTION_INFO,
  G.ES_LIMIT, G.CS_LIMIT, G.SS_LIMIT, G.DS_LIMIT, G.FS_LIMIT, G.GS_LIMIT, G.LDTR_LIMIT, G.TR_LIMIT,
  G.GDTR_LIMIT, G.IDTR_LIMIT, G.ES_AR_BYTES, G.CS_AR_BYTES, G.SS_AR_BYTES, G.DS_AR_BYTES, G.FS_AR_BYTES,
  G.GS_AR_BYTES, G.LDTR_AR_BYTES, G.TR_AR_BYTES, G.INTERRUPTIBILITY_INFO, G.ACTIVITY_STATE, G.SYSENTER_CS,
  H.IA32_SYSENTER_CS, G.VMX_PREEMPTION_TIMER_VALUE,
];
// prettier-ignore
const U16_FIELDS: readonly number[] = [
  C.VIRTUAL_PROCESSOR_ID, C.POSTED_INTR_NV, G.ES_SELECTOR, G.CS_SELECTOR, G.SS_SELECTOR, G.DS_SELECTOR, G.FS_SELECTOR,
  G.GS_SELECTOR, G.LDTR_SELECTOR, G.TR_SELECTOR, G.INTR_STATUS, H.ES_SELECTOR, H.CS_SELECTOR, H.SS_SELECTOR,
  H.DS_SELECTOR, H.FS_SELECTOR, H.GS_SELECTOR, H.TR_SELECTOR, G.PML_INDEX,
];
/** Each run of fields: where it begins, bytes of a field. Between the runs is padding for later fields. */
const RUNS: readonly (readonly [number, number, readonly number[]])[] = [
  [40, 8, U64_FIELDS],
  [344, 8, NATURAL_FIELDS],
  [744, 4, U32_FIELDS],
  [960, 2, U16_FIELDS],
];

function computeOffsets(): Int16Array {
  const offsets = new Int16Array(VMCS_ENCODING_LIMIT).fill(-1);
  for (const [first, bytes, fields] of RUNS)
    for (const [i, field] of fields.entries()) offsets[field] = first + i * bytes;
  return offsets;
}

const OFFSETS = computeOffsets();

/** Byte offset of a field in struct vmcs12, or -1: there is no such field. Bits 63:32 of a field have no entry of their own. */
export const vmcs12Offset = (field: number): number => OFFSETS[field] ?? -1;

/** Whether an encoding, its access type ignored, names a field of struct vmcs12: vmcs_field_to_offset(). */
export const vmcs12HasField = (field: number): boolean => vmcs12Offset(field & ~VMCS_ACCESS_HIGH) !== -1;

/** Every field of struct vmcs12 in the order of its layout. */
export const VMCS12_FIELDS: readonly number[] = RUNS.flatMap(([, , fields]) => [...fields]);
