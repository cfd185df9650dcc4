// SPDX-License-Identifier: GPL-2.0-only
/**
 * Userspace restores or restricts what L1 sees of VMX: vmx_set_vmx_msr() and the vmx_restore_*() functions of
 * arch/x86/kvm/vmx/nested.c, 6.12. Never more than nested_vmx_setup_ctls_msrs() gave, and never less of what must be.
 */
import { ERRNO } from '../../../../lib/uapi/errno.ts';
import { VMX_BASIC_HI, VMX_MISC, VMX_MSR } from '../../../../lib/x86/vmx/capability_msrs.ts';
import { PIN_BASED } from '../../../../lib/x86/vmx/controls.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { vmxControlMsr } from './nested_msrs.ts';
import type { NestedVmx } from './nested_vmx.ts';

/** is_bitwise_subset() of one word under `mask`. */
const isSubset = (superset: number, subset: number, mask = -1): boolean => (subset & mask & ~superset) === 0;

const REFUSED = -ERRNO.EINVAL;

/** vmx_restore_vmx_basic(). Bits 63:56, 47:45 and 31 are reserved. */
function restoreBasic(nested: NestedVmx, lo: number, hi: number): number {
  const [offeredLo, offeredHi] = nested.offered.basic;
  const features = VMX_BASIC_HI.DUAL_MONITOR | VMX_BASIC_HI.INOUT | VMX_BASIC_HI.TRUE_CTLS;
  const reserved = 0xff00_e000;
  if (!isSubset(offeredHi, hi, features | reserved) || lo < 0) return REFUSED;
  // An "anti-feature": L0 has no structures that are restricted to 32-bit addresses.
  if ((hi & VMX_BASIC_HI.PHYS_ADDR_32BIT) !== 0) return REFUSED;
  if (lo !== offeredLo) return REFUSED;
  if ((offeredHi & VMX_BASIC_HI.VMCS_SIZE_MASK) > (hi & VMX_BASIC_HI.VMCS_SIZE_MASK)) return REFUSED;
  nested.msrs.basic = [lo >>> 0, hi >>> 0];
  return 0;
}

/** vmx_restore_control_msr(): bits that must be 1 still are, bits that may not be still may not. */
function restoreControls(nested: NestedVmx, index: number, lo: number, hi: number): number {
  const offered = vmxControlMsr(nested.offered, index)!;
  if (!isSubset(lo, offered.low) || !isSubset(offered.high, hi)) return REFUSED;
  const group = vmxControlMsr(nested.msrs, index)!;
  group.low = lo >>> 0;
  group.high = hi >>> 0;
  return 0;
}

/** vmx_restore_vmx_misc(). Bits 13:9 and 31 are reserved; bits 63:32 are the MSEG revision. */
function restoreMisc(nested: NestedVmx, lo: number, hi: number): number {
  const [offeredLo, offeredHi] = nested.offered.misc;
  const features =
    VMX_MISC.SAVE_EFER_LMA |
    VMX_MISC.ACTIVITY_HLT |
    VMX_MISC.ACTIVITY_SHUTDOWN |
    VMX_MISC.ACTIVITY_WAIT_SIPI |
    VMX_MISC.INTEL_PT |
    VMX_MISC.RDMSR_IN_SMM |
    VMX_MISC.VMWRITE_SHADOW_RO_FIELDS |
    VMX_MISC.SMI_BLOCKING |
    VMX_MISC.ZERO_LEN_INS;
  const reserved = 0x8000_3e00;
  if (!isSubset(offeredLo, lo, features | reserved)) return REFUSED;
  const timer = (nested.msrs.pinbased.high & PIN_BASED.VMX_PREEMPTION_TIMER) !== 0;
  const rate = VMX_MISC.PREEMPTION_TIMER_RATE_MASK;
  if (timer && (lo & rate) !== (offeredLo & rate)) return REFUSED;
  for (const count of [VMX_MISC.CR3_TARGET_COUNT_MASK, VMX_MISC.MSR_LIST_SIZE_MASK])
    if ((lo & count) > (offeredLo & count)) return REFUSED;
  if (hi >>> 0 !== offeredHi) return REFUSED;
  nested.msrs.misc = [lo >>> 0, hi >>> 0];
  return 0;
}

/** vmx_restore_vmx_ept_vpid_cap(). */
function restoreEptVpidCap(nested: NestedVmx, lo: number, hi: number): number {
  const { eptCaps, vpidCaps } = nested.offered;
  if (!isSubset(eptCaps, lo) || !isSubset(vpidCaps, hi)) return REFUSED;
  nested.msrs.eptCaps = lo >>> 0;
  nested.msrs.vpidCaps = hi >>> 0;
  return 0;
}

/** vmx_restore_fixed0_msr(): bits that must be 1 still are. */
function restoreFixed0(
  nested: NestedVmx,
  register: 'cr0Fixed0' | 'cr4Fixed0',
  lo: number,
  hi: number,
): number {
  const [offeredLo, offeredHi] = nested.offered[register];
  if (!isSubset(lo, offeredLo) || !isSubset(hi, offeredHi)) return REFUSED;
  nested.msrs[register] = [lo >>> 0, hi >>> 0];
  return 0;
}

/** vmx_set_vmx_msr(): 0 or -errno. The MSRs that follow from others (no TRUE in the name, CRx_FIXED1) are refused. */
export function vmxSetVmxMsr(vcpu: Vcpu, index: number, lo: number, hi: number): number {
  const { nested } = toVmx(vcpu);
  // L1 relies on them while it is in VMX operation.
  if (nested.vmxon) return -ERRNO.EBUSY;
  switch (index) {
    case VMX_MSR.IA32_VMX_BASIC:
      return restoreBasic(nested, lo, hi);
    case VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS:
    case VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS:
    case VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS:
    case VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS:
    case VMX_MSR.IA32_VMX_PROCBASED_CTLS2:
      return restoreControls(nested, index, lo, hi);
    case VMX_MSR.IA32_VMX_MISC:
      return restoreMisc(nested, lo, hi);
    case VMX_MSR.IA32_VMX_CR0_FIXED0:
      return restoreFixed0(nested, 'cr0Fixed0', lo, hi);
    case VMX_MSR.IA32_VMX_CR4_FIXED0:
      return restoreFixed0(nested, 'cr4Fixed0', lo, hi);
    case VMX_MSR.IA32_VMX_EPT_VPID_CAP:
      return restoreEptVpidCap(nested, lo, hi);
    case VMX_MSR.IA32_VMX_VMCS_ENUM:
      nested.msrs.vmcsEnum = [lo >>> 0, hi >>> 0];
      return 0;
    case VMX_MSR.IA32_VMX_VMFUNC:
      if ((lo & ~nested.offered.vmfuncControls) !== 0 || hi !== 0) return REFUSED;
      nested.msrs.vmfuncControls = lo >>> 0;
      return 0;
    default:
      return REFUSED;
  }
}
