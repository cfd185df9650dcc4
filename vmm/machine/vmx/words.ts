// SPDX-License-Identifier: GPL-2.0-only
/**
 * Words of the VMCS fields that entry, exit and interception use, relative to the VMCS (VmxUnit.base). Constants of
 * their own, not a table, so that optimised code holds plain numbers.
 */
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { vmcsWord } from './vmcs_layout.ts';

export const PIN = vmcsWord(VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL);
export const CPU_BASED = vmcsWord(VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL);
export const SECONDARY = vmcsWord(VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL);
export const EXCEPTION_BITMAP = vmcsWord(VMCS_CTRL.EXCEPTION_BITMAP);
export const PFEC_MASK = vmcsWord(VMCS_CTRL.PAGE_FAULT_ERROR_CODE_MASK);
export const PFEC_MATCH = vmcsWord(VMCS_CTRL.PAGE_FAULT_ERROR_CODE_MATCH);
export const CR3_TARGET_COUNT = vmcsWord(VMCS_CTRL.CR3_TARGET_COUNT);
export const CR3_TARGET_VALUE0 = vmcsWord(VMCS_CTRL.CR3_TARGET_VALUE0);
export const CR0_MASK = vmcsWord(VMCS_CTRL.CR0_GUEST_HOST_MASK);
export const CR4_MASK = vmcsWord(VMCS_CTRL.CR4_GUEST_HOST_MASK);
export const CR0_SHADOW = vmcsWord(VMCS_CTRL.CR0_READ_SHADOW);
export const CR4_SHADOW = vmcsWord(VMCS_CTRL.CR4_READ_SHADOW);
export const IO_BITMAP_A = vmcsWord(VMCS_CTRL.IO_BITMAP_A);
export const IO_BITMAP_B = vmcsWord(VMCS_CTRL.IO_BITMAP_B);
export const MSR_BITMAP = vmcsWord(VMCS_CTRL.MSR_BITMAP);
export const TSC_OFFSET = vmcsWord(VMCS_CTRL.TSC_OFFSET);
export const TSC_MULTIPLIER = vmcsWord(VMCS_CTRL.TSC_MULTIPLIER);
export const PLE_GAP = vmcsWord(VMCS_CTRL.PLE_GAP);
export const PLE_WINDOW = vmcsWord(VMCS_CTRL.PLE_WINDOW);
export const VIRTUAL_APIC = vmcsWord(VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR);
export const TPR_THRESHOLD = vmcsWord(VMCS_CTRL.TPR_THRESHOLD);
export const APIC_ACCESS = vmcsWord(VMCS_CTRL.APIC_ACCESS_ADDR);
export const POSTED_INTR_NV = vmcsWord(VMCS_CTRL.POSTED_INTR_NV);
export const POSTED_INTR_DESC = vmcsWord(VMCS_CTRL.POSTED_INTR_DESC_ADDR);
/** Vectors 63:0, 127:64 and so on. */
export const EOI_EXIT_BITMAPS: readonly number[] = [
  vmcsWord(VMCS_CTRL.EOI_EXIT_BITMAP0),
  vmcsWord(VMCS_CTRL.EOI_EXIT_BITMAP1),
  vmcsWord(VMCS_CTRL.EOI_EXIT_BITMAP2),
  vmcsWord(VMCS_CTRL.EOI_EXIT_BITMAP3),
];
export const VM_FUNCTION_CONTROL = vmcsWord(VMCS_CTRL.VM_FUNCTION_CONTROL);
export const EPTP_LIST = vmcsWord(VMCS_CTRL.EPTP_LIST_ADDRESS);
export const VMREAD_BITMAP = vmcsWord(VMCS_CTRL.VMREAD_BITMAP);
export const VMWRITE_BITMAP = vmcsWord(VMCS_CTRL.VMWRITE_BITMAP);
export const VPID = vmcsWord(VMCS_CTRL.VIRTUAL_PROCESSOR_ID);
export const EPTP = vmcsWord(VMCS_CTRL.EPT_POINTER);
export const PML_ADDRESS = vmcsWord(VMCS_CTRL.PML_ADDRESS);
export const EXIT_CONTROLS = vmcsWord(VMCS_CTRL.VM_EXIT_CONTROLS);
export const EXIT_MSR_STORE_COUNT = vmcsWord(VMCS_CTRL.VM_EXIT_MSR_STORE_COUNT);
export const EXIT_MSR_STORE_ADDR = vmcsWord(VMCS_CTRL.VM_EXIT_MSR_STORE_ADDR);
export const EXIT_MSR_LOAD_COUNT = vmcsWord(VMCS_CTRL.VM_EXIT_MSR_LOAD_COUNT);
export const EXIT_MSR_LOAD_ADDR = vmcsWord(VMCS_CTRL.VM_EXIT_MSR_LOAD_ADDR);
export const ENTRY_CONTROLS = vmcsWord(VMCS_CTRL.VM_ENTRY_CONTROLS);
export const ENTRY_MSR_LOAD_COUNT = vmcsWord(VMCS_CTRL.VM_ENTRY_MSR_LOAD_COUNT);
export const ENTRY_MSR_LOAD_ADDR = vmcsWord(VMCS_CTRL.VM_ENTRY_MSR_LOAD_ADDR);
export const ENTRY_INTR_INFO = vmcsWord(VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD);
export const ENTRY_ERROR_CODE = vmcsWord(VMCS_CTRL.VM_ENTRY_EXCEPTION_ERROR_CODE);
export const ENTRY_INSN_LEN = vmcsWord(VMCS_CTRL.VM_ENTRY_INSTRUCTION_LEN);

export const EXIT_REASON = vmcsWord(VMCS_INFO.VM_EXIT_REASON);
export const EXIT_QUALIFICATION = vmcsWord(VMCS_INFO.EXIT_QUALIFICATION);
export const EXIT_INTR_INFO = vmcsWord(VMCS_INFO.VM_EXIT_INTR_INFO);
export const EXIT_INTR_ERROR_CODE = vmcsWord(VMCS_INFO.VM_EXIT_INTR_ERROR_CODE);
export const IDT_VECTORING_INFO = vmcsWord(VMCS_INFO.IDT_VECTORING_INFO_FIELD);
export const IDT_VECTORING_ERROR_CODE = vmcsWord(VMCS_INFO.IDT_VECTORING_ERROR_CODE);
export const EXIT_INSN_LEN = vmcsWord(VMCS_INFO.VM_EXIT_INSTRUCTION_LEN);
export const EXIT_INSN_INFO = vmcsWord(VMCS_INFO.VMX_INSTRUCTION_INFO);
export const GUEST_LINEAR_ADDRESS = vmcsWord(VMCS_INFO.GUEST_LINEAR_ADDRESS);
export const GUEST_PHYSICAL_ADDRESS = vmcsWord(VMCS_INFO.GUEST_PHYSICAL_ADDRESS);
export const IO_RCX = vmcsWord(VMCS_INFO.IO_RCX);
export const IO_RSI = vmcsWord(VMCS_INFO.IO_RSI);
export const IO_RDI = vmcsWord(VMCS_INFO.IO_RDI);
export const IO_RIP = vmcsWord(VMCS_INFO.IO_RIP);

export const GUEST_CR0 = vmcsWord(VMCS_GUEST.CR0);
export const GUEST_CR3 = vmcsWord(VMCS_GUEST.CR3);
export const GUEST_CR4 = vmcsWord(VMCS_GUEST.CR4);
export const GUEST_DR7 = vmcsWord(VMCS_GUEST.DR7);
export const GUEST_RSP = vmcsWord(VMCS_GUEST.RSP);
export const GUEST_RIP = vmcsWord(VMCS_GUEST.RIP);
export const GUEST_RFLAGS = vmcsWord(VMCS_GUEST.RFLAGS);
export const GUEST_GDTR_BASE = vmcsWord(VMCS_GUEST.GDTR_BASE);
export const GUEST_GDTR_LIMIT = vmcsWord(VMCS_GUEST.GDTR_LIMIT);
export const GUEST_IDTR_BASE = vmcsWord(VMCS_GUEST.IDTR_BASE);
export const GUEST_IDTR_LIMIT = vmcsWord(VMCS_GUEST.IDTR_LIMIT);
export const GUEST_SYSENTER_CS = vmcsWord(VMCS_GUEST.SYSENTER_CS);
export const GUEST_SYSENTER_ESP = vmcsWord(VMCS_GUEST.SYSENTER_ESP);
export const GUEST_SYSENTER_EIP = vmcsWord(VMCS_GUEST.SYSENTER_EIP);
export const GUEST_DEBUGCTL = vmcsWord(VMCS_GUEST.IA32_DEBUGCTL);
export const GUEST_PAT = vmcsWord(VMCS_GUEST.IA32_PAT);
export const GUEST_EFER = vmcsWord(VMCS_GUEST.IA32_EFER);
export const GUEST_INTERRUPTIBILITY = vmcsWord(VMCS_GUEST.INTERRUPTIBILITY_INFO);
export const GUEST_ACTIVITY = vmcsWord(VMCS_GUEST.ACTIVITY_STATE);
export const GUEST_PENDING_DBG = vmcsWord(VMCS_GUEST.PENDING_DBG_EXCEPTIONS);
export const GUEST_TIMER = vmcsWord(VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE);
export const GUEST_INTR_STATUS = vmcsWord(VMCS_GUEST.INTR_STATUS);
export const GUEST_PML_INDEX = vmcsWord(VMCS_GUEST.PML_INDEX);
export const GUEST_LINK_POINTER = vmcsWord(VMCS_GUEST.VMCS_LINK_POINTER);

export const HOST_CR0 = vmcsWord(VMCS_HOST.CR0);
export const HOST_CR3 = vmcsWord(VMCS_HOST.CR3);
export const HOST_CR4 = vmcsWord(VMCS_HOST.CR4);
export const HOST_RSP = vmcsWord(VMCS_HOST.RSP);
export const HOST_RIP = vmcsWord(VMCS_HOST.RIP);
export const HOST_ES_SELECTOR = vmcsWord(VMCS_HOST.ES_SELECTOR);
export const HOST_CS_SELECTOR = vmcsWord(VMCS_HOST.CS_SELECTOR);
export const HOST_SS_SELECTOR = vmcsWord(VMCS_HOST.SS_SELECTOR);
export const HOST_TR_SELECTOR = vmcsWord(VMCS_HOST.TR_SELECTOR);
export const HOST_FS_BASE = vmcsWord(VMCS_HOST.FS_BASE);
export const HOST_GS_BASE = vmcsWord(VMCS_HOST.GS_BASE);
export const HOST_TR_BASE = vmcsWord(VMCS_HOST.TR_BASE);
export const HOST_GDTR_BASE = vmcsWord(VMCS_HOST.GDTR_BASE);
export const HOST_IDTR_BASE = vmcsWord(VMCS_HOST.IDTR_BASE);
export const HOST_SYSENTER_CS = vmcsWord(VMCS_HOST.IA32_SYSENTER_CS);
export const HOST_SYSENTER_ESP = vmcsWord(VMCS_HOST.IA32_SYSENTER_ESP);
export const HOST_SYSENTER_EIP = vmcsWord(VMCS_HOST.IA32_SYSENTER_EIP);
export const HOST_PAT = vmcsWord(VMCS_HOST.IA32_PAT);
export const HOST_EFER = vmcsWord(VMCS_HOST.IA32_EFER);
