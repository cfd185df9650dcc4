// SPDX-License-Identifier: GPL-2.0-only
/**
 * What L1 asked for in vmcs12's controls: nested_cpu_has() and its kin of arch/x86/kvm/vmx/nested.h, 6.12. Questions about
 * the current VMCS take it as an argument; those about what L1 was offered take its capability MSRs.
 */
import {
  CPU_BASED,
  PIN_BASED,
  SECONDARY_EXEC,
  VM_ENTRY,
  VM_EXIT,
  VMX_EPTP,
} from '../../../../lib/x86/vmx/controls.ts';
import {
  VMX_MISC,
  VMX_MISC_CR3_TARGET_COUNT_SHIFT,
  VMX_MISC_MSR_LIST_SIZE_SHIFT,
} from '../../../../lib/x86/vmx/capability_msrs.ts';
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import type { NestedVmxMsrs } from './nested_msrs.ts';
import type { Vmcs12 } from './vmcs12.ts';

/** nested_cpu_has(): a primary processor-based control. */
export const nestedCpuHas = (vmcs12: Vmcs12, bit: number): boolean =>
  (vmcs12.lo(VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL) & bit) !== 0;

/** nested_cpu_has2(): a secondary control, if L1 activated them. */
export const nestedCpuHas2 = (vmcs12: Vmcs12, bit: number): boolean =>
  vmcs12.lo(VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL) < 0 &&
  (vmcs12.lo(VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL) & bit) !== 0;

/** A pin-based control. */
export const nestedCpuHasPin = (vmcs12: Vmcs12, bit: number): boolean =>
  (vmcs12.lo(VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL) & bit) !== 0;

/** A VM-exit control. */
export const nestedExitHas = (vmcs12: Vmcs12, bit: number): boolean =>
  (vmcs12.lo(VMCS_CTRL.VM_EXIT_CONTROLS) & bit) !== 0;

/** A VM-entry control. */
export const nestedEntryHas = (vmcs12: Vmcs12, bit: number): boolean =>
  (vmcs12.lo(VMCS_CTRL.VM_ENTRY_CONTROLS) & bit) !== 0;

export const nestedCpuHasPreemptionTimer = (v: Vmcs12): boolean =>
  nestedCpuHasPin(v, PIN_BASED.VMX_PREEMPTION_TIMER);
export const nestedCpuHasSavePreemptionTimer = (v: Vmcs12): boolean =>
  nestedExitHas(v, VM_EXIT.SAVE_VMX_PREEMPTION_TIMER);
export const nestedCpuHasNmiExiting = (v: Vmcs12): boolean => nestedCpuHasPin(v, PIN_BASED.NMI_EXITING);
export const nestedCpuHasPostedIntr = (v: Vmcs12): boolean => nestedCpuHasPin(v, PIN_BASED.POSTED_INTR);
export const nestedCpuHasMtf = (v: Vmcs12): boolean => nestedCpuHas(v, CPU_BASED.MONITOR_TRAP_FLAG);
export const nestedCpuHasEpt = (v: Vmcs12): boolean => nestedCpuHas2(v, SECONDARY_EXEC.ENABLE_EPT);
export const nestedCpuHasVpid = (v: Vmcs12): boolean => nestedCpuHas2(v, SECONDARY_EXEC.ENABLE_VPID);
export const nestedCpuHasPml = (v: Vmcs12): boolean => nestedCpuHas2(v, SECONDARY_EXEC.ENABLE_PML);
export const nestedCpuHasVirtX2apicMode = (v: Vmcs12): boolean =>
  nestedCpuHas2(v, SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE);
export const nestedCpuHasVirtApicAccesses = (v: Vmcs12): boolean =>
  nestedCpuHas2(v, SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES);
export const nestedCpuHasApicRegVirt = (v: Vmcs12): boolean =>
  nestedCpuHas2(v, SECONDARY_EXEC.APIC_REGISTER_VIRT);
export const nestedCpuHasVid = (v: Vmcs12): boolean => nestedCpuHas2(v, SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY);
export const nestedCpuHasUnrestrictedGuest = (v: Vmcs12): boolean =>
  nestedCpuHas2(v, SECONDARY_EXEC.UNRESTRICTED_GUEST);
export const nestedCpuHasShadowVmcs = (v: Vmcs12): boolean => nestedCpuHas2(v, SECONDARY_EXEC.SHADOW_VMCS);
export const nestedCpuHasVmfunc = (v: Vmcs12): boolean => nestedCpuHas2(v, SECONDARY_EXEC.ENABLE_VMFUNC);
export const nestedCpuHasTscScaling = (v: Vmcs12): boolean =>
  nestedCpuHas(v, CPU_BASED.USE_TSC_OFFSETTING) && nestedCpuHas2(v, SECONDARY_EXEC.TSC_SCALING);

/** nested_exit_on_intr(): external interrupts leave L2 for L1. */
export const nestedExitOnIntr = (v: Vmcs12): boolean => nestedCpuHasPin(v, PIN_BASED.EXT_INTR_MASK);
/** nested_exit_on_nmi(). */
export const nestedExitOnNmi = (v: Vmcs12): boolean => nestedCpuHasNmiExiting(v);
/** nested_exit_intr_ack_set(): an exit to L1 for an interrupt acknowledges it. */
export const nestedExitIntrAckSet = (v: Vmcs12): boolean => nestedExitHas(v, VM_EXIT.ACK_INTR_ON_EXIT);
/** L2 is to run in IA-32e mode. */
export const nestedGuestIa32e = (v: Vmcs12): boolean => nestedEntryHas(v, VM_ENTRY.IA32E_MODE);
/** L1 goes on in IA-32e mode after the exit. */
export const nestedHostIa32e = (v: Vmcs12): boolean => nestedExitHas(v, VM_EXIT.HOST_ADDR_SPACE_SIZE);
/** nested_ept_ad_enabled(). */
export const nestedEptAdEnabled = (v: Vmcs12): boolean =>
  (v.lo(VMCS_CTRL.EPT_POINTER) & VMX_EPTP.AD_ENABLE_BIT) !== 0;

/** nested_read_cr0(): CR0 as L2 reads it. Unsigned; bits 63:32 are zero in a valid vmcs12. */
export function nestedReadCr0(v: Vmcs12): number {
  const mask = v.lo(VMCS_CTRL.CR0_GUEST_HOST_MASK);
  return ((v.lo(VMCS_GUEST.CR0) & ~mask) | (v.lo(VMCS_CTRL.CR0_READ_SHADOW) & mask)) >>> 0;
}

/** nested_read_cr4(): CR4 as L2 reads it. */
export function nestedReadCr4(v: Vmcs12): number {
  const mask = v.lo(VMCS_CTRL.CR4_GUEST_HOST_MASK);
  return ((v.lo(VMCS_GUEST.CR4) & ~mask) | (v.lo(VMCS_CTRL.CR4_READ_SHADOW) & mask)) >>> 0;
}

/** nested_cpu_vmx_misc_cr3_count(): CR3-target values that L1 was offered. */
export const nestedCpuVmxMiscCr3Count = (msrs: NestedVmxMsrs): number =>
  (msrs.misc[0] & VMX_MISC.CR3_TARGET_COUNT_MASK) >>> VMX_MISC_CR3_TARGET_COUNT_SHIFT;

/** nested_cpu_has_vmwrite_any_field(): VMWRITE may write the VM-exit information fields. */
export const nestedCpuHasVmwriteAnyField = (msrs: NestedVmxMsrs): boolean =>
  (msrs.misc[0] & VMX_MISC.VMWRITE_SHADOW_RO_FIELDS) !== 0;

/** nested_cpu_has_zero_length_injection(). */
export const nestedCpuHasZeroLengthInjection = (msrs: NestedVmxMsrs): boolean =>
  (msrs.misc[0] & VMX_MISC.ZERO_LEN_INS) !== 0;

/** nested_cpu_supports_monitor_trap_flag(). */
export const nestedCpuSupportsMonitorTrapFlag = (msrs: NestedVmxMsrs): boolean =>
  (msrs.procbased.high & CPU_BASED.MONITOR_TRAP_FLAG) !== 0;

/** nested_vmx_max_atomic_switch_msrs(): entries of an MSR area. */
export const nestedVmxMaxAtomicSwitchMsrs = (msrs: NestedVmxMsrs): number =>
  512 * (((msrs.misc[0] & VMX_MISC.MSR_LIST_SIZE_MASK) >>> VMX_MISC_MSR_LIST_SIZE_SHIFT) + 1);
