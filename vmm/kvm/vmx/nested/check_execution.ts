// SPDX-License-Identifier: GPL-2.0-only
/**
 * Checks on vmcs12's VM-execution control fields: nested_check_vm_execution_controls() and what it calls in
 * arch/x86/kvm/vmx/nested.c, 6.12. Each function is 0 or -EINVAL. What 6.12 leaves to the processor (the TPR threshold,
 * CR3-target values and so on) is not here: it meets the copy in vmcs02 at the entry.
 */
import { CPU_BASED, SECONDARY_EXEC, VMX_EPTP } from '../../../../lib/x86/vmx/controls.ts';
import { VMX_EPT_CAP } from '../../../../lib/x86/vmx/capability_msrs.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { toVmx } from '../vcpu_vmx.ts';
import {
  cc,
  CHECK_FAILED,
  kvmVcpuIsLegalGpa,
  legalAlignedGpa,
  pageAddressValid,
  vmxControlVerify,
} from './check_util.ts';
import {
  nestedCpuHas,
  nestedCpuHas2,
  nestedCpuHasApicRegVirt,
  nestedCpuHasEpt,
  nestedCpuHasEptpSwitching,
  nestedCpuHasNmiExiting,
  nestedCpuHasPml,
  nestedCpuHasPostedIntr,
  nestedCpuHasPreemptionTimer,
  nestedCpuHasSavePreemptionTimer,
  nestedCpuHasShadowVmcs,
  nestedCpuHasUnrestrictedGuest,
  nestedCpuHasVid,
  nestedCpuHasVirtApicAccesses,
  nestedCpuHasVirtX2apicMode,
  nestedCpuHasVirtualNmis,
  nestedCpuHasVmfunc,
  nestedCpuHasVpid,
  nestedCpuVmxMiscCr3Count,
  nestedExitIntrAckSet,
  nestedExitOnIntr,
} from './vmcs12_controls.ts';
import type { Vmcs12 } from './vmcs12.ts';

/** nested_vmx_check_io_bitmap_controls(). */
function checkIoBitmaps(vcpu: Vcpu, vmcs12: Vmcs12): number {
  if (!nestedCpuHas(vmcs12, CPU_BASED.USE_IO_BITMAPS)) return 0;
  return cc(vcpu, !pageAddressValid(vcpu, vmcs12, C.IO_BITMAP_A), 'I/O bitmap A: page address') ||
    cc(vcpu, !pageAddressValid(vcpu, vmcs12, C.IO_BITMAP_B), 'I/O bitmap B: page address')
    ? CHECK_FAILED
    : 0;
}

/** nested_vmx_check_msr_bitmap_controls(). */
function checkMsrBitmap(vcpu: Vcpu, vmcs12: Vmcs12): number {
  if (!nestedCpuHas(vmcs12, CPU_BASED.USE_MSR_BITMAPS)) return 0;
  return cc(vcpu, !pageAddressValid(vcpu, vmcs12, C.MSR_BITMAP), 'MSR bitmap: page address')
    ? CHECK_FAILED
    : 0;
}

/** nested_vmx_check_tpr_shadow_controls(). */
function checkTprShadow(vcpu: Vcpu, vmcs12: Vmcs12): number {
  if (!nestedCpuHas(vmcs12, CPU_BASED.TPR_SHADOW)) return 0;
  const bad = !pageAddressValid(vcpu, vmcs12, C.VIRTUAL_APIC_PAGE_ADDR);
  return cc(vcpu, bad, 'virtual-APIC page: page address') ? CHECK_FAILED : 0;
}

/** nested_vmx_check_apic_access_controls(). */
function checkApicAccess(vcpu: Vcpu, vmcs12: Vmcs12): number {
  if (!nestedCpuHasVirtApicAccesses(vmcs12)) return 0;
  const bad = !pageAddressValid(vcpu, vmcs12, C.APIC_ACCESS_ADDR);
  return cc(vcpu, bad, 'APIC-access page: page address') ? CHECK_FAILED : 0;
}

/** nested_vmx_check_apicv_controls(). */
function checkApicv(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const x2apic = nestedCpuHasVirtX2apicMode(vmcs12);
  const vid = nestedCpuHasVid(vmcs12);
  const posted = nestedCpuHasPostedIntr(vmcs12);
  if (!x2apic && !nestedCpuHasApicRegVirt(vmcs12) && !vid && !posted) return 0;
  const failed =
    cc(
      vcpu,
      x2apic && nestedCpuHasVirtApicAccesses(vmcs12),
      'virtualize x2APIC mode with virtualize APIC accesses',
    ) ||
    cc(
      vcpu,
      vid && !nestedExitOnIntr(vmcs12),
      'virtual-interrupt delivery without external-interrupt exiting',
    ) ||
    (posted && checkPostedInterrupts(vcpu, vmcs12) !== 0) ||
    cc(vcpu, !nestedCpuHas(vmcs12, CPU_BASED.TPR_SHADOW), 'APIC virtualization without TPR shadow');
  return failed ? CHECK_FAILED : 0;
}

function checkPostedInterrupts(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const failed =
    cc(vcpu, !nestedCpuHasVid(vmcs12), 'posted interrupts without virtual-interrupt delivery') ||
    cc(vcpu, !nestedExitIntrAckSet(vmcs12), 'posted interrupts without acknowledge interrupt on exit') ||
    cc(
      vcpu,
      (vmcs12.lo(C.POSTED_INTR_NV) & 0xff00) !== 0,
      'posted-interrupt notification vector: bits 15:8',
    ) ||
    cc(
      vcpu,
      !legalAlignedGpa(vcpu, vmcs12, C.POSTED_INTR_DESC_ADDR, 64),
      'posted-interrupt descriptor: address',
    );
  return failed ? CHECK_FAILED : 0;
}

/** nested_vmx_check_nmi_controls(). */
function checkNmi(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const virtual = nestedCpuHasVirtualNmis(vmcs12);
  const window = nestedCpuHas(vmcs12, CPU_BASED.NMI_WINDOW_EXITING);
  return cc(vcpu, virtual && !nestedCpuHasNmiExiting(vmcs12), 'virtual NMIs without NMI exiting') ||
    cc(vcpu, window && !virtual, 'NMI-window exiting without virtual NMIs')
    ? CHECK_FAILED
    : 0;
}

/** nested_vmx_check_pml_controls(). */
function checkPml(vcpu: Vcpu, vmcs12: Vmcs12): number {
  if (!nestedCpuHasPml(vmcs12)) return 0;
  return cc(vcpu, !nestedCpuHasEpt(vmcs12), 'PML without EPT') ||
    cc(vcpu, !pageAddressValid(vcpu, vmcs12, C.PML_ADDRESS), 'PML buffer: page address')
    ? CHECK_FAILED
    : 0;
}

/** nested_vmx_check_unrestricted_guest_controls() and nested_vmx_check_mode_based_ept_exec_controls(). */
function checkNeedsEpt(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const ept = nestedCpuHasEpt(vmcs12);
  const modeBased = nestedCpuHas2(vmcs12, SECONDARY_EXEC.MODE_BASED_EPT_EXEC);
  return cc(vcpu, nestedCpuHasUnrestrictedGuest(vmcs12) && !ept, 'unrestricted guest without EPT') ||
    cc(vcpu, modeBased && !ept, 'mode-based execute control without EPT')
    ? CHECK_FAILED
    : 0;
}

/** nested_vmx_check_shadow_vmcs_controls(). */
function checkShadowVmcs(vcpu: Vcpu, vmcs12: Vmcs12): number {
  if (!nestedCpuHasShadowVmcs(vmcs12)) return 0;
  return cc(vcpu, !pageAddressValid(vcpu, vmcs12, C.VMREAD_BITMAP), 'VMREAD bitmap: page address') ||
    cc(vcpu, !pageAddressValid(vcpu, vmcs12, C.VMWRITE_BITMAP), 'VMWRITE bitmap: page address')
    ? CHECK_FAILED
    : 0;
}

/** nested_vmx_check_eptp(): an EPT pointer, from vmcs12 or from an EPTP list, in words. */
export function nestedVmxCheckEptp(vcpu: Vcpu, lo: number, hi: number): boolean {
  const caps = toVmx(vcpu).nested.msrs.eptCaps;
  const type = lo & VMX_EPTP.MT_MASK;
  const typeOk =
    (type === VMX_EPTP.MT_WB && (caps & VMX_EPT_CAP.WB_BIT) !== 0) ||
    (type === VMX_EPTP.MT_UC && (caps & VMX_EPT_CAP.UC_BIT) !== 0);
  if (cc(vcpu, !typeOk, 'EPTP: memory type')) return false;
  const walk = lo & VMX_EPTP.PWL_MASK;
  const walkOk =
    (walk === VMX_EPTP.PWL_4 && (caps & VMX_EPT_CAP.PAGE_WALK_4_BIT) !== 0) ||
    (walk === VMX_EPTP.PWL_5 && (caps & VMX_EPT_CAP.PAGE_WALK_5_BIT) !== 0);
  if (cc(vcpu, !walkOk, 'EPTP: page-walk length')) return false;
  const reserved = (lo & (VMX_EPTP.SSS_BIT | VMX_EPTP.RESERVED)) !== 0;
  if (cc(vcpu, reserved || !kvmVcpuIsLegalGpa(vcpu, lo, hi), 'EPTP: reserved bits')) return false;
  const ad = (lo & VMX_EPTP.AD_ENABLE_BIT) !== 0;
  return !cc(vcpu, ad && (caps & VMX_EPT_CAP.AD_BIT) === 0, 'EPTP: accessed and dirty flags');
}

function checkEpt(vcpu: Vcpu, vmcs12: Vmcs12): number {
  if (!nestedCpuHasEpt(vmcs12)) return 0;
  return nestedVmxCheckEptp(vcpu, vmcs12.lo(C.EPT_POINTER), vmcs12.hi(C.EPT_POINTER)) ? 0 : CHECK_FAILED;
}

function checkVmfunc(vcpu: Vcpu, vmcs12: Vmcs12): number {
  if (!nestedCpuHasVmfunc(vmcs12)) return 0;
  const offered = toVmx(vcpu).nested.msrs.vmfuncControls;
  const unknown = (vmcs12.lo(C.VM_FUNCTION_CONTROL) & ~offered) | vmcs12.hi(C.VM_FUNCTION_CONTROL);
  if (cc(vcpu, unknown !== 0, 'VM-function controls')) return CHECK_FAILED;
  if (!nestedCpuHasEptpSwitching(vmcs12)) return 0;
  return cc(vcpu, !nestedCpuHasEpt(vmcs12), 'EPTP switching without EPT') ||
    cc(vcpu, !pageAddressValid(vcpu, vmcs12, C.EPTP_LIST_ADDRESS), 'EPTP list: page address')
    ? CHECK_FAILED
    : 0;
}

/** The control words against the capability MSRs that L1 sees. */
function checkWords(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const { msrs } = toVmx(vcpu).nested;
  const secondary = nestedCpuHas(vmcs12, CPU_BASED.ACTIVATE_SECONDARY_CONTROLS);
  const failed =
    cc(
      vcpu,
      !vmxControlVerify(vmcs12.lo(C.PIN_BASED_VM_EXEC_CONTROL), msrs.pinbased),
      'pin-based controls',
    ) ||
    cc(
      vcpu,
      !vmxControlVerify(vmcs12.lo(C.CPU_BASED_VM_EXEC_CONTROL), msrs.procbased),
      'primary processor-based controls',
    ) ||
    cc(
      vcpu,
      secondary && !vmxControlVerify(vmcs12.lo(C.SECONDARY_VM_EXEC_CONTROL), msrs.secondary),
      'secondary processor-based controls',
    ) ||
    cc(vcpu, vmcs12.u32(C.CR3_TARGET_COUNT) > nestedCpuVmxMiscCr3Count(msrs), 'CR3-target count');
  return failed ? CHECK_FAILED : 0;
}

/** nested_check_vm_execution_controls(). */
export function nestedCheckVmExecutionControls(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const noVpid = nestedCpuHasVpid(vmcs12) && vmcs12.lo(C.VIRTUAL_PROCESSOR_ID) === 0;
  const failed =
    checkWords(vcpu, vmcs12) !== 0 ||
    checkIoBitmaps(vcpu, vmcs12) !== 0 ||
    checkMsrBitmap(vcpu, vmcs12) !== 0 ||
    checkTprShadow(vcpu, vmcs12) !== 0 ||
    checkApicAccess(vcpu, vmcs12) !== 0 ||
    checkApicv(vcpu, vmcs12) !== 0 ||
    checkNmi(vcpu, vmcs12) !== 0 ||
    checkPml(vcpu, vmcs12) !== 0 ||
    checkNeedsEpt(vcpu, vmcs12) !== 0 ||
    checkShadowVmcs(vcpu, vmcs12) !== 0 ||
    cc(vcpu, noVpid, 'VPID is 0') ||
    cc(
      vcpu,
      nestedCpuHasSavePreemptionTimer(vmcs12) && !nestedCpuHasPreemptionTimer(vmcs12),
      'save VMX-preemption timer without the timer',
    ) ||
    checkEpt(vcpu, vmcs12) !== 0 ||
    checkVmfunc(vcpu, vmcs12) !== 0;
  return failed ? CHECK_FAILED : 0;
}
