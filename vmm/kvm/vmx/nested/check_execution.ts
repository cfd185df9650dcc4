// SPDX-License-Identifier: GPL-2.0-only
/**
 * Checks on vmcs12's VM-execution control fields: nested_check_vm_execution_controls() and what it calls in
 * arch/x86/kvm/vmx/nested.c, 6.12. Each function is 0 or -EINVAL. What 6.12 leaves to the processor (the TPR threshold,
 * CR3-target values and so on) is not here: it meets the copy in vmcs02 at the entry.
 */
import {
  CPU_BASED,
  PIN_BASED,
  SECONDARY_EXEC,
  VMX_EPTP,
  VMX_VMFUNC,
} from '../../../../lib/x86/vmx/controls.ts';
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
  nestedCpuHasSavePreemptionTimer,
  nestedCpuVmxMiscCr3Count,
  nestedExitIntrAckSet,
} from './vmcs12_controls.ts';
import type { Vmcs12 } from './vmcs12.ts';

const E = SECONDARY_EXEC;
const APICV = E.VIRTUALIZE_X2APIC_MODE | E.APIC_REGISTER_VIRT | E.VIRTUAL_INTR_DELIVERY;

// The functions below are called where their controls are in use; true is a rule that is broken. `pin`, `cpu` and `second`
// are the control words in force: an entry makes all these checks, so they are read once.

const badPage = (vcpu: Vcpu, v: Vmcs12, field: number, rule: string): boolean =>
  cc(vcpu, !pageAddressValid(vcpu, v, field), rule);

/** nested_vmx_check_io_bitmap_controls() and nested_vmx_check_msr_bitmap_controls(). */
const badBitmaps = (vcpu: Vcpu, v: Vmcs12, cpu: number): boolean =>
  ((cpu & CPU_BASED.USE_IO_BITMAPS) !== 0 &&
    (badPage(vcpu, v, C.IO_BITMAP_A, 'I/O bitmap A: page address') ||
      badPage(vcpu, v, C.IO_BITMAP_B, 'I/O bitmap B: page address'))) ||
  ((cpu & CPU_BASED.USE_MSR_BITMAPS) !== 0 && badPage(vcpu, v, C.MSR_BITMAP, 'MSR bitmap: page address'));

/** nested_vmx_check_tpr_shadow_controls() and nested_vmx_check_apic_access_controls(). */
const badApicPages = (vcpu: Vcpu, v: Vmcs12, cpu: number, second: number): boolean =>
  ((cpu & CPU_BASED.TPR_SHADOW) !== 0 &&
    badPage(vcpu, v, C.VIRTUAL_APIC_PAGE_ADDR, 'virtual-APIC page: page address')) ||
  ((second & E.VIRTUALIZE_APIC_ACCESSES) !== 0 &&
    badPage(vcpu, v, C.APIC_ACCESS_ADDR, 'APIC-access page: page address'));

/** nested_vmx_check_apicv_controls(). */
function badApicv(vcpu: Vcpu, v: Vmcs12, pin: number, second: number): boolean {
  const both = E.VIRTUALIZE_X2APIC_MODE | E.VIRTUALIZE_APIC_ACCESSES;
  const vid = (second & E.VIRTUAL_INTR_DELIVERY) !== 0;
  return (
    cc(vcpu, (second & both) === both, 'virtualize x2APIC mode with virtualize APIC accesses') ||
    cc(
      vcpu,
      vid && (pin & PIN_BASED.EXT_INTR_MASK) === 0,
      'virtual-interrupt delivery without external-interrupt exiting',
    ) ||
    ((pin & PIN_BASED.POSTED_INTR) !== 0 && badPostedInterrupts(vcpu, v, second)) ||
    cc(vcpu, !nestedCpuHas(v, CPU_BASED.TPR_SHADOW), 'APIC virtualization without TPR shadow')
  );
}

const badPostedInterrupts = (vcpu: Vcpu, v: Vmcs12, second: number): boolean =>
  cc(
    vcpu,
    (second & E.VIRTUAL_INTR_DELIVERY) === 0,
    'posted interrupts without virtual-interrupt delivery',
  ) ||
  cc(vcpu, !nestedExitIntrAckSet(v), 'posted interrupts without acknowledge interrupt on exit') ||
  cc(vcpu, (v.lo(C.POSTED_INTR_NV) & 0xff00) !== 0, 'posted-interrupt notification vector: bits 15:8') ||
  cc(vcpu, !legalAlignedGpa(vcpu, v, C.POSTED_INTR_DESC_ADDR, 64), 'posted-interrupt descriptor: address');

/** nested_vmx_check_nmi_controls(). */
function badNmi(vcpu: Vcpu, pin: number, cpu: number): boolean {
  const virtual = (pin & PIN_BASED.VIRTUAL_NMIS) !== 0;
  const window = (cpu & CPU_BASED.NMI_WINDOW_EXITING) !== 0;
  return (
    cc(vcpu, virtual && (pin & PIN_BASED.NMI_EXITING) === 0, 'virtual NMIs without NMI exiting') ||
    cc(vcpu, window && !virtual, 'NMI-window exiting without virtual NMIs')
  );
}

/**
 * nested_vmx_check_pml_controls(), nested_vmx_check_unrestricted_guest_controls() and
 * nested_vmx_check_mode_based_ept_exec_controls().
 */
function badWithoutEpt(vcpu: Vcpu, v: Vmcs12, second: number): boolean {
  const ept = (second & E.ENABLE_EPT) !== 0;
  const pml = (second & E.ENABLE_PML) !== 0;
  return (
    cc(vcpu, pml && !ept, 'PML without EPT') ||
    (pml && badPage(vcpu, v, C.PML_ADDRESS, 'PML buffer: page address')) ||
    cc(vcpu, (second & E.UNRESTRICTED_GUEST) !== 0 && !ept, 'unrestricted guest without EPT') ||
    cc(vcpu, (second & E.MODE_BASED_EPT_EXEC) !== 0 && !ept, 'mode-based execute control without EPT')
  );
}

/** nested_vmx_check_shadow_vmcs_controls(). */
const badShadowVmcs = (vcpu: Vcpu, v: Vmcs12): boolean =>
  badPage(vcpu, v, C.VMREAD_BITMAP, 'VMREAD bitmap: page address') ||
  badPage(vcpu, v, C.VMWRITE_BITMAP, 'VMWRITE bitmap: page address');

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

function badVmfunc(vcpu: Vcpu, v: Vmcs12, second: number): boolean {
  const offered = toVmx(vcpu).nested.msrs.vmfuncControls;
  const functions = v.lo(C.VM_FUNCTION_CONTROL);
  const unknown = (functions & ~offered) | v.hi(C.VM_FUNCTION_CONTROL);
  if (cc(vcpu, unknown !== 0, 'VM-function controls')) return true;
  if ((functions & VMX_VMFUNC.EPTP_SWITCHING) === 0) return false;
  return (
    cc(vcpu, (second & E.ENABLE_EPT) === 0, 'EPTP switching without EPT') ||
    badPage(vcpu, v, C.EPTP_LIST_ADDRESS, 'EPTP list: page address')
  );
}

/** The control words against the capability MSRs that L1 sees. */
function badWords(vcpu: Vcpu, v: Vmcs12, pin: number, cpu: number, second: number): boolean {
  const { msrs } = toVmx(vcpu).nested;
  return (
    cc(vcpu, !vmxControlVerify(pin, msrs.pinbased), 'pin-based controls') ||
    cc(vcpu, !vmxControlVerify(cpu, msrs.procbased), 'primary processor-based controls') ||
    cc(vcpu, cpu < 0 && !vmxControlVerify(second, msrs.secondary), 'secondary processor-based controls') ||
    cc(vcpu, v.u32(C.CR3_TARGET_COUNT) > nestedCpuVmxMiscCr3Count(msrs), 'CR3-target count')
  );
}

/** Features of their own, after those that every hypervisor uses. */
function badFeatures(vcpu: Vcpu, v: Vmcs12, pin: number, second: number): boolean {
  const noTimer = (pin & PIN_BASED.VMX_PREEMPTION_TIMER) === 0;
  return (
    ((second & E.SHADOW_VMCS) !== 0 && badShadowVmcs(vcpu, v)) ||
    ((second & E.ENABLE_VPID) !== 0 && cc(vcpu, v.lo(C.VIRTUAL_PROCESSOR_ID) === 0, 'VPID is 0')) ||
    cc(vcpu, noTimer && nestedCpuHasSavePreemptionTimer(v), 'save VMX-preemption timer without the timer') ||
    ((second & E.ENABLE_EPT) !== 0 && !nestedVmxCheckEptp(vcpu, v.lo(C.EPT_POINTER), v.hi(C.EPT_POINTER))) ||
    ((second & E.ENABLE_VMFUNC) !== 0 && badVmfunc(vcpu, v, second))
  );
}

/** nested_check_vm_execution_controls(). */
export function nestedCheckVmExecutionControls(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const pin = vmcs12.lo(C.PIN_BASED_VM_EXEC_CONTROL);
  const cpu = vmcs12.lo(C.CPU_BASED_VM_EXEC_CONTROL);
  const second = cpu < 0 ? vmcs12.lo(C.SECONDARY_VM_EXEC_CONTROL) : 0;
  const apicv = ((second & APICV) | (pin & PIN_BASED.POSTED_INTR)) !== 0;
  const failed =
    badWords(vcpu, vmcs12, pin, cpu, second) ||
    badBitmaps(vcpu, vmcs12, cpu) ||
    badApicPages(vcpu, vmcs12, cpu, second) ||
    (apicv && badApicv(vcpu, vmcs12, pin, second)) ||
    badNmi(vcpu, pin, cpu) ||
    (second !== 0 && badWithoutEpt(vcpu, vmcs12, second)) ||
    badFeatures(vcpu, vmcs12, pin, second);
  return failed ? CHECK_FAILED : 0;
}
