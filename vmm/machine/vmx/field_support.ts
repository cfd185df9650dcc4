// SPDX-License-Identifier: GPL-2.0-only
/**
 * Which control a VMCS field depends on: the SDM's appendix "Field Encoding in VMCS" says in its notes that a field
 * exists only on processors that support the 1-setting of that control. Fields without a note are everywhere.
 */
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VM_ENTRY, VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';

/** The control that a field needs. 'never': of a feature that no profile has. */
export interface FieldNeed {
  readonly of: 'pin' | 'cpuBased' | 'secondary' | 'exit' | 'entry' | 'never';
  readonly bit: number;
}

const never: FieldNeed = { of: 'never', bit: 1 };
const secondary = (bit: number): FieldNeed => ({ of: 'secondary', bit });
const cpuBased = (bit: number): FieldNeed => ({ of: 'cpuBased', bit });
const pin = (bit: number): FieldNeed => ({ of: 'pin', bit });
const exit = (bit: number): FieldNeed => ({ of: 'exit', bit });
const entry = (bit: number): FieldNeed => ({ of: 'entry', bit });

// prettier-ignore
const CONTROL_NEEDS: readonly (readonly [number, FieldNeed])[] = [
  [VMCS_CTRL.VIRTUAL_PROCESSOR_ID, secondary(SECONDARY_EXEC.ENABLE_VPID)],
  [VMCS_CTRL.POSTED_INTR_NV, pin(PIN_BASED.POSTED_INTR)],
  [VMCS_CTRL.EPTP_INDEX, secondary(SECONDARY_EXEC.EPT_VIOLATION_VE)],
  [VMCS_CTRL.HLAT_PREFIX_SIZE, never],
  [VMCS_CTRL.LAST_PID_POINTER_INDEX, never],
  [VMCS_CTRL.MSR_BITMAP, cpuBased(CPU_BASED.USE_MSR_BITMAPS)],
  [VMCS_CTRL.EXECUTIVE_VMCS_POINTER, never], // DEVIATION: no dual-monitor treatment, so the field is left out
  [VMCS_CTRL.PML_ADDRESS, secondary(SECONDARY_EXEC.ENABLE_PML)],
  [VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR, cpuBased(CPU_BASED.TPR_SHADOW)],
  [VMCS_CTRL.APIC_ACCESS_ADDR, secondary(SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES)],
  [VMCS_CTRL.POSTED_INTR_DESC_ADDR, pin(PIN_BASED.POSTED_INTR)],
  [VMCS_CTRL.VM_FUNCTION_CONTROL, secondary(SECONDARY_EXEC.ENABLE_VMFUNC)],
  [VMCS_CTRL.EPT_POINTER, secondary(SECONDARY_EXEC.ENABLE_EPT)],
  [VMCS_CTRL.EOI_EXIT_BITMAP0, secondary(SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY)],
  [VMCS_CTRL.EOI_EXIT_BITMAP1, secondary(SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY)],
  [VMCS_CTRL.EOI_EXIT_BITMAP2, secondary(SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY)],
  [VMCS_CTRL.EOI_EXIT_BITMAP3, secondary(SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY)],
  [VMCS_CTRL.EPTP_LIST_ADDRESS, secondary(SECONDARY_EXEC.ENABLE_VMFUNC)],
  [VMCS_CTRL.VMREAD_BITMAP, secondary(SECONDARY_EXEC.SHADOW_VMCS)],
  [VMCS_CTRL.VMWRITE_BITMAP, secondary(SECONDARY_EXEC.SHADOW_VMCS)],
  [VMCS_CTRL.VE_INFORMATION_ADDRESS, secondary(SECONDARY_EXEC.EPT_VIOLATION_VE)],
  [VMCS_CTRL.XSS_EXIT_BITMAP, secondary(SECONDARY_EXEC.ENABLE_XSAVES)],
  [VMCS_CTRL.ENCLS_EXITING_BITMAP, secondary(SECONDARY_EXEC.ENCLS_EXITING)],
  [VMCS_CTRL.SPP_TABLE_POINTER, secondary(SECONDARY_EXEC.SUB_PAGE_WRITE_PERMISSION)],
  [VMCS_CTRL.TSC_MULTIPLIER, secondary(SECONDARY_EXEC.TSC_SCALING)],
  [VMCS_CTRL.TERTIARY_VM_EXEC_CONTROL, cpuBased(CPU_BASED.ACTIVATE_TERTIARY_CONTROLS)],
  [VMCS_CTRL.ENCLV_EXITING_BITMAP, secondary(SECONDARY_EXEC.ENCLV_EXITING)],
  [VMCS_CTRL.LOW_PASID_DIRECTORY_ADDRESS, secondary(SECONDARY_EXEC.PASID_TRANSLATION)],
  [VMCS_CTRL.HIGH_PASID_DIRECTORY_ADDRESS, secondary(SECONDARY_EXEC.PASID_TRANSLATION)],
  [VMCS_CTRL.SHARED_EPT_POINTER, never],
  [VMCS_CTRL.PCONFIG_EXITING_BITMAP, secondary(SECONDARY_EXEC.ENABLE_PCONFIG)],
  [VMCS_CTRL.HLAT_POINTER, never],
  [VMCS_CTRL.PID_POINTER_TABLE, never],
  [VMCS_CTRL.SECONDARY_VM_EXIT_CONTROLS, exit(VM_EXIT.ACTIVATE_SECONDARY_CONTROLS)],
  [VMCS_CTRL.IA32_SPEC_CTRL_MASK, never],
  [VMCS_CTRL.IA32_SPEC_CTRL_SHADOW, never],
  [VMCS_CTRL.INJECTED_EVENT_DATA, entry(VM_ENTRY.LOAD_FRED)],
  [VMCS_CTRL.TPR_THRESHOLD, cpuBased(CPU_BASED.TPR_SHADOW)],
  [VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, cpuBased(CPU_BASED.ACTIVATE_SECONDARY_CONTROLS)],
  [VMCS_CTRL.PLE_GAP, secondary(SECONDARY_EXEC.PAUSE_LOOP_EXITING)],
  [VMCS_CTRL.PLE_WINDOW, secondary(SECONDARY_EXEC.PAUSE_LOOP_EXITING)],
  [VMCS_CTRL.NOTIFY_WINDOW, secondary(SECONDARY_EXEC.NOTIFY_VM_EXITING)],
];

// prettier-ignore
const STATE_NEEDS: readonly (readonly [number, FieldNeed])[] = [
  [VMCS_INFO.GUEST_PHYSICAL_ADDRESS, secondary(SECONDARY_EXEC.ENABLE_EPT)],
  [VMCS_INFO.ORIGINAL_EVENT_DATA, entry(VM_ENTRY.LOAD_FRED)],
  [VMCS_GUEST.INTR_STATUS, secondary(SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY)],
  [VMCS_GUEST.PML_INDEX, secondary(SECONDARY_EXEC.ENABLE_PML)],
  [VMCS_GUEST.UINV, entry(VM_ENTRY.LOAD_UINV)],
  [VMCS_GUEST.IA32_PAT, entry(VM_ENTRY.LOAD_IA32_PAT)],
  [VMCS_GUEST.IA32_EFER, entry(VM_ENTRY.LOAD_IA32_EFER)],
  [VMCS_GUEST.IA32_PERF_GLOBAL_CTRL, entry(VM_ENTRY.LOAD_IA32_PERF_GLOBAL_CTRL)],
  [VMCS_GUEST.PDPTR0, secondary(SECONDARY_EXEC.ENABLE_EPT)],
  [VMCS_GUEST.PDPTR1, secondary(SECONDARY_EXEC.ENABLE_EPT)],
  [VMCS_GUEST.PDPTR2, secondary(SECONDARY_EXEC.ENABLE_EPT)],
  [VMCS_GUEST.PDPTR3, secondary(SECONDARY_EXEC.ENABLE_EPT)],
  [VMCS_GUEST.BNDCFGS, entry(VM_ENTRY.LOAD_BNDCFGS)],
  [VMCS_GUEST.IA32_RTIT_CTL, entry(VM_ENTRY.LOAD_IA32_RTIT_CTL)],
  [VMCS_GUEST.IA32_LBR_CTL, entry(VM_ENTRY.LOAD_IA32_LBR_CTL)],
  [VMCS_GUEST.IA32_PKRS, entry(VM_ENTRY.LOAD_PKRS)],
  [VMCS_GUEST.SMBASE, never], // DEVIATION: no SMM
  [VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE, pin(PIN_BASED.VMX_PREEMPTION_TIMER)],
  [VMCS_GUEST.S_CET, entry(VM_ENTRY.LOAD_CET_STATE)],
  [VMCS_GUEST.SSP, entry(VM_ENTRY.LOAD_CET_STATE)],
  [VMCS_GUEST.INTR_SSP_TABLE, entry(VM_ENTRY.LOAD_CET_STATE)],
  [VMCS_HOST.IA32_PAT, exit(VM_EXIT.LOAD_IA32_PAT)],
  [VMCS_HOST.IA32_EFER, exit(VM_EXIT.LOAD_IA32_EFER)],
  [VMCS_HOST.IA32_PERF_GLOBAL_CTRL, exit(VM_EXIT.LOAD_IA32_PERF_GLOBAL_CTRL)],
  [VMCS_HOST.IA32_PKRS, exit(VM_EXIT.LOAD_PKRS)],
  [VMCS_HOST.S_CET, exit(VM_EXIT.LOAD_CET_STATE)],
  [VMCS_HOST.SSP, exit(VM_EXIT.LOAD_CET_STATE)],
  [VMCS_HOST.INTR_SSP_TABLE, exit(VM_EXIT.LOAD_CET_STATE)],
];

const NEEDS: ReadonlyMap<number, FieldNeed> = new Map([...CONTROL_NEEDS, ...STATE_NEEDS]);

/** FRED's state fields are consecutive in the guest and in the host area. */
const isFred = (field: number): boolean =>
  (field >= VMCS_GUEST.IA32_FRED_CONFIG && field <= VMCS_GUEST.IA32_FRED_SSP3) ||
  (field >= VMCS_HOST.IA32_FRED_CONFIG && field <= VMCS_HOST.IA32_FRED_SSP3);

/** The control whose 1-setting a processor must support to have the field; null: every processor has it. */
export function vmcsFieldNeeds(field: number): FieldNeed | null {
  if (isFred(field)) return entry(VM_ENTRY.LOAD_FRED);
  return NEEDS.get(field) ?? null;
}
