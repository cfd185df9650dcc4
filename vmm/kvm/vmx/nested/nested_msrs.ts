// SPDX-License-Identifier: GPL-2.0-only
/**
 * struct nested_vmx_msrs, the VMX capability MSRs that L1 sees: nested_vmx_setup_ctls_msrs() and vmx_get_vmx_msr() of
 * arch/x86/kvm/vmx/nested.c, 6.12. For each group of controls `low` are the bits that must be 1 and `high` those that may
 * be. What L0 can do for L2 without the processor's help is offered anyway; SGX, MPX and UMIP are left out.
 */
import { CR0, CR4 } from '../../../../lib/x86/registers.ts';
import {
  VMX_BASIC_HI,
  VMX_BASIC_HI_MEM_TYPE_SHIFT,
  VMX_EPT_CAP,
  VMX_MISC,
  VMX_MSR,
  VMX_VPID_CAP_HI,
} from '../../../../lib/x86/vmx/capability_msrs.ts';
import {
  CPU_BASED,
  PIN_BASED,
  SECONDARY_EXEC,
  VM_ENTRY,
  VM_EXIT,
  VMX_VMFUNC,
} from '../../../../lib/x86/vmx/controls.ts';
import { vmcsFieldIndex } from '../../../../lib/x86/vmx/field.ts';
import type { VmxCaps } from '../../../machine/vmx/caps.ts';
import type { KvmParams } from '../../params.ts';
import { VMCS12_FIELDS, VMCS12_REVISION, VMCS12_SIZE } from './vmcs12_layout.ts';

/** Bits that must be 1 (low) and that may be 1 (high), unsigned. */
export interface NestedControlCaps {
  low: number;
  high: number;
}

/** Words are unsigned; pairs are [bits 31:0, bits 63:32]. */
export interface NestedVmxMsrs {
  /** True MSRs: the default1 bits that KVM lets L1 clear are clear in `low`. */
  procbased: NestedControlCaps;
  secondary: NestedControlCaps;
  pinbased: NestedControlCaps;
  exit: NestedControlCaps;
  entry: NestedControlCaps;
  misc: [number, number];
  eptCaps: number;
  vpidCaps: number;
  basic: [number, number];
  cr0Fixed0: [number, number];
  cr0Fixed1: [number, number];
  cr4Fixed0: [number, number];
  cr4Fixed1: [number, number];
  vmcsEnum: [number, number];
  /** Of 64 bits only bits 31:0 are in use. */
  vmfuncControls: number;
}

/** A copy for one vCPU: userspace may restrict it. */
export const copyNestedVmxMsrs = (msrs: NestedVmxMsrs): NestedVmxMsrs => structuredClone(msrs);

/** *_ALWAYSON_WITHOUT_TRUE_MSR: SDM, "Reserved Controls and Default Settings". */
// prettier-ignore
const DEFAULT1 = { PIN: 0x0000_0016, CPU: 0x0401_e172, EXIT: 0x0003_6dff, ENTRY: 0x0000_11ff } as const;
/** VMX_MISC_EMULATED_PREEMPTION_TIMER_RATE: L2's timer counts once in 32 cycles of L1's TSC, whatever the processor has. */
export const VMX_MISC_EMULATED_PREEMPTION_TIMER_RATE = 5;
const MEM_TYPE_WB = 6;

const controls = (low: number, high: number): NestedControlCaps => ({ low: low >>> 0, high: high >>> 0 });

/** nested_vmx_setup_pinbased_ctls(): the preemption timer is a timer of L0's. */
function setupPinbased(caps: VmxCaps, params: KvmParams): NestedControlCaps {
  const offered =
    PIN_BASED.EXT_INTR_MASK |
    PIN_BASED.NMI_EXITING |
    PIN_BASED.VIRTUAL_NMIS |
    (params['kvm_intel.enable_apicv'] !== 0 ? PIN_BASED.POSTED_INTR : 0);
  return controls(DEFAULT1.PIN, (caps.pin.may1 & offered) | DEFAULT1.PIN | PIN_BASED.VMX_PREEMPTION_TIMER);
}

/** nested_vmx_setup_exit_ctls(). */
function setupExit(caps: VmxCaps): NestedControlCaps {
  const offered = VM_EXIT.HOST_ADDR_SPACE_SIZE | VM_EXIT.LOAD_IA32_PAT | VM_EXIT.SAVE_IA32_PAT;
  const emulated =
    VM_EXIT.LOAD_IA32_EFER |
    VM_EXIT.SAVE_IA32_EFER |
    VM_EXIT.SAVE_VMX_PREEMPTION_TIMER |
    VM_EXIT.ACK_INTR_ON_EXIT |
    VM_EXIT.LOAD_IA32_PERF_GLOBAL_CTRL;
  const high = (caps.exit.may1 & offered) | DEFAULT1.EXIT | emulated;
  return controls(DEFAULT1.EXIT & ~VM_EXIT.SAVE_DEBUG_CONTROLS, high);
}

/** nested_vmx_setup_entry_ctls(). */
function setupEntry(caps: VmxCaps): NestedControlCaps {
  const offered = VM_ENTRY.IA32E_MODE | VM_ENTRY.LOAD_IA32_PAT;
  const emulated = VM_ENTRY.LOAD_IA32_EFER | VM_ENTRY.LOAD_IA32_PERF_GLOBAL_CTRL;
  const high = (caps.entry.may1 & offered) | DEFAULT1.ENTRY | emulated;
  return controls(DEFAULT1.ENTRY & ~VM_ENTRY.LOAD_DEBUG_CONTROLS, high);
}

/** nested_vmx_setup_cpubased_ctls(). */
function setupProcbased(caps: VmxCaps): NestedControlCaps {
  const offered =
    CPU_BASED.INTR_WINDOW_EXITING |
    CPU_BASED.NMI_WINDOW_EXITING |
    CPU_BASED.USE_TSC_OFFSETTING |
    CPU_BASED.HLT_EXITING |
    CPU_BASED.INVLPG_EXITING |
    CPU_BASED.MWAIT_EXITING |
    CPU_BASED.CR3_LOAD_EXITING |
    CPU_BASED.CR3_STORE_EXITING |
    CPU_BASED.CR8_LOAD_EXITING |
    CPU_BASED.CR8_STORE_EXITING |
    CPU_BASED.MOV_DR_EXITING |
    CPU_BASED.UNCOND_IO_EXITING |
    CPU_BASED.USE_IO_BITMAPS |
    CPU_BASED.MONITOR_TRAP_FLAG |
    CPU_BASED.MONITOR_EXITING |
    CPU_BASED.RDPMC_EXITING |
    CPU_BASED.RDTSC_EXITING |
    CPU_BASED.PAUSE_EXITING |
    CPU_BASED.TPR_SHADOW |
    CPU_BASED.ACTIVATE_SECONDARY_CONTROLS;
  const high = (caps.cpuBased.may1 & offered) | DEFAULT1.CPU | CPU_BASED.USE_MSR_BITMAPS;
  return controls(DEFAULT1.CPU & ~(CPU_BASED.CR3_LOAD_EXITING | CPU_BASED.CR3_STORE_EXITING), high);
}

/** nested_vmx_setup_secondary_ctls(): the controls; VMCS shadowing and PML are L0's work. */
function setupSecondary(caps: VmxCaps, params: KvmParams): NestedControlCaps {
  const offered =
    SECONDARY_EXEC.DESC |
    SECONDARY_EXEC.ENABLE_RDTSCP |
    SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE |
    SECONDARY_EXEC.WBINVD_EXITING |
    SECONDARY_EXEC.APIC_REGISTER_VIRT |
    SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY |
    SECONDARY_EXEC.RDRAND_EXITING |
    SECONDARY_EXEC.ENABLE_INVPCID |
    SECONDARY_EXEC.ENABLE_VMFUNC |
    SECONDARY_EXEC.RDSEED_EXITING |
    SECONDARY_EXEC.ENABLE_XSAVES |
    SECONDARY_EXEC.TSC_SCALING |
    SECONDARY_EXEC.ENABLE_USR_WAIT_PAUSE;
  let high = (caps.secondary.may1 & offered) | SECONDARY_EXEC.SHADOW_VMCS;
  if (params['kvm_intel.ept'] !== 0) high |= SECONDARY_EXEC.ENABLE_EPT;
  if (eptAd(caps, params)) high |= SECONDARY_EXEC.ENABLE_PML;
  if (params['kvm_intel.vpid'] !== 0) high |= SECONDARY_EXEC.ENABLE_VPID;
  if (params['kvm_intel.unrestricted_guest'] !== 0) high |= SECONDARY_EXEC.UNRESTRICTED_GUEST;
  if (params['kvm_intel.flexpriority'] !== 0) high |= SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES;
  return controls(0, high);
}

/** enable_ept_ad_bits. */
const eptAd = (caps: VmxCaps, params: KvmParams): boolean =>
  params['kvm_intel.ept'] !== 0 &&
  params['kvm_intel.eptad'] !== 0 &&
  (caps.eptCap & VMX_EPT_CAP.AD_BIT) !== 0;

function setupEptCaps(caps: VmxCaps, params: KvmParams): number {
  if (params['kvm_intel.ept'] === 0) return 0;
  const offered =
    VMX_EPT_CAP.PAGE_WALK_4_BIT |
    VMX_EPT_CAP.PAGE_WALK_5_BIT |
    VMX_EPT_CAP.WB_BIT |
    VMX_EPT_CAP.INVEPT_BIT |
    VMX_EPT_CAP.EXECUTE_ONLY_BIT;
  const emulated =
    VMX_EPT_CAP.EXTENT_GLOBAL_BIT |
    VMX_EPT_CAP.EXTENT_CONTEXT_BIT |
    VMX_EPT_CAP.PAGE_2MB_BIT |
    VMX_EPT_CAP.PAGE_1GB_BIT |
    (eptAd(caps, params) ? VMX_EPT_CAP.AD_BIT : 0);
  return ((caps.eptCap & offered) | emulated) >>> 0;
}

/** Every type of INVVPID is offered, though some are executed as coarser ones. */
const VPID_CAPS =
  VMX_VPID_CAP_HI.INVVPID_BIT |
  VMX_VPID_CAP_HI.EXTENT_INDIVIDUAL_ADDR_BIT |
  VMX_VPID_CAP_HI.EXTENT_SINGLE_CONTEXT_BIT |
  VMX_VPID_CAP_HI.EXTENT_GLOBAL_CONTEXT_BIT |
  VMX_VPID_CAP_HI.EXTENT_SINGLE_NON_GLOBAL_BIT;

/** nested_vmx_setup_basic(). */
function setupBasic(caps: VmxCaps): [number, number] {
  const hardware = caps.msrs.get(VMX_MSR.IA32_VMX_BASIC)![1];
  const hi =
    VMCS12_SIZE |
    (MEM_TYPE_WB << VMX_BASIC_HI_MEM_TYPE_SHIFT) |
    VMX_BASIC_HI.TRUE_CTLS |
    (hardware & VMX_BASIC_HI.INOUT);
  return [VMCS12_REVISION, hi >>> 0];
}

/** nested_vmx_calc_vmcs_enum_msr(): the highest index of a field of struct vmcs12. */
const calcVmcsEnum = (): number => Math.max(...VMCS12_FIELDS.map(vmcsFieldIndex)) << 1;

/** nested_vmx_setup_ctls_msrs(): what the processor has and L0 passes on, and what L0 emulates. */
export function nestedVmxSetupCtlsMsrs(caps: VmxCaps, params: KvmParams): NestedVmxMsrs {
  const misc =
    (caps.misc & VMX_MISC.SAVE_EFER_LMA) |
    VMX_MISC.VMWRITE_SHADOW_RO_FIELDS |
    VMX_MISC_EMULATED_PREEMPTION_TIMER_RATE |
    VMX_MISC.ACTIVITY_HLT |
    VMX_MISC.ACTIVITY_WAIT_SIPI;
  const vmfunc = params['kvm_intel.ept'] !== 0 && (caps.secondary.may1 & SECONDARY_EXEC.ENABLE_VMFUNC) !== 0;
  return {
    procbased: setupProcbased(caps),
    secondary: setupSecondary(caps, params),
    pinbased: setupPinbased(caps, params),
    exit: setupExit(caps),
    entry: setupEntry(caps),
    misc: [misc, 0],
    eptCaps: setupEptCaps(caps, params),
    vpidCaps: params['kvm_intel.vpid'] !== 0 ? VPID_CAPS : 0,
    basic: setupBasic(caps),
    cr0Fixed0: [(CR0.PE | CR0.PG | CR0.NE) >>> 0, 0],
    cr0Fixed1: [caps.cr0Fixed1 >>> 0, 0],
    cr4Fixed0: [CR4.VMXE, 0],
    cr4Fixed1: [caps.cr4Fixed1 >>> 0, 0],
    vmcsEnum: [calcVmcsEnum(), 0],
    vmfuncControls: vmfunc ? VMX_VMFUNC.EPTP_SWITCHING : 0,
  };
}

/** A control MSR without TRUE in its name: the default1 bits are all 1. */
const withDefault1 = ({ low, high }: NestedControlCaps, default1: number): [number, number] => [
  (low | default1) >>> 0,
  high,
];

/** vmx_get_vmx_msr(): an MSR's words, or undefined if there is none of that number. */
export function vmxGetVmxMsr(msrs: NestedVmxMsrs, index: number): readonly [number, number] | undefined {
  switch (index) {
    case VMX_MSR.IA32_VMX_BASIC:
      return msrs.basic;
    case VMX_MSR.IA32_VMX_PINBASED_CTLS:
      return withDefault1(msrs.pinbased, DEFAULT1.PIN);
    case VMX_MSR.IA32_VMX_PROCBASED_CTLS:
      return withDefault1(msrs.procbased, DEFAULT1.CPU);
    case VMX_MSR.IA32_VMX_EXIT_CTLS:
      return withDefault1(msrs.exit, DEFAULT1.EXIT);
    case VMX_MSR.IA32_VMX_ENTRY_CTLS:
      return withDefault1(msrs.entry, DEFAULT1.ENTRY);
    case VMX_MSR.IA32_VMX_MISC:
      return msrs.misc;
    case VMX_MSR.IA32_VMX_CR0_FIXED0:
      return msrs.cr0Fixed0;
    case VMX_MSR.IA32_VMX_CR0_FIXED1:
      return msrs.cr0Fixed1;
    case VMX_MSR.IA32_VMX_CR4_FIXED0:
      return msrs.cr4Fixed0;
    case VMX_MSR.IA32_VMX_CR4_FIXED1:
      return msrs.cr4Fixed1;
    case VMX_MSR.IA32_VMX_VMCS_ENUM:
      return msrs.vmcsEnum;
    case VMX_MSR.IA32_VMX_EPT_VPID_CAP:
      return [msrs.eptCaps, msrs.vpidCaps];
    case VMX_MSR.IA32_VMX_VMFUNC:
      return [msrs.vmfuncControls, 0];
    default: {
      const group = vmxControlMsr(msrs, index);
      return group === undefined ? undefined : [group.low, group.high];
    }
  }
}

/** vmx_get_control_msr(): the group of controls that a TRUE MSR, or that of the secondary controls, describes. */
export function vmxControlMsr(msrs: NestedVmxMsrs, index: number): NestedControlCaps | undefined {
  switch (index) {
    case VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS:
      return msrs.pinbased;
    case VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS:
      return msrs.procbased;
    case VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS:
      return msrs.exit;
    case VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS:
      return msrs.entry;
    case VMX_MSR.IA32_VMX_PROCBASED_CTLS2:
      return msrs.secondary;
    default:
      return undefined;
  }
}
