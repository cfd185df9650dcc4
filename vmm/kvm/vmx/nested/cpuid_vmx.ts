// SPDX-License-Identifier: GPL-2.0-only
/**
 * What of VMX follows from the vCPU's CPUID: whether the guest may use VMX, the bits of IA32_FEATURE_CONTROL that it may
 * set, and CR4_FIXED1. Mirrors vmx_vcpu_after_set_cpuid() and nested_vmx_cr_fixed1_bits_update() of
 * arch/x86/kvm/vmx/vmx.c, 6.12.
 */
import { X86_FEATURE as F, type CpuidFeature } from '../../../../lib/x86/cpuid.ts';
import { CR4 } from '../../../../lib/x86/registers.ts';
import { FEAT_CTL } from '../../../../lib/x86/vmx/capability_msrs.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { guestHas } from '../../x86/cpuid_entry.ts';
import { toVmx } from '../vcpu_vmx.ts';

/** CR4 bits by the CPUID feature that brings them. */
const CR4_FEATURES: readonly (readonly [number, CpuidFeature])[] = [
  [CR4.VME | CR4.PVI, F.VME],
  [CR4.TSD, F.TSC],
  [CR4.DE, F.DE],
  [CR4.PSE, F.PSE],
  [CR4.PAE, F.PAE],
  [CR4.MCE, F.MCE],
  [CR4.PGE, F.PGE],
  [CR4.OSFXSR, F.FXSR],
  [CR4.OSXMMEXCPT, F.XMM],
  [CR4.VMXE, F.VMX],
  [CR4.SMXE, F.SMX],
  [CR4.PCIDE, F.PCID],
  [CR4.OSXSAVE, F.XSAVE],
  [CR4.FSGSBASE, F.FSGSBASE],
  [CR4.SMEP, F.SMEP],
  [CR4.SMAP, F.SMAP],
  [CR4.PKE, F.PKU],
  [CR4.UMIP, F.UMIP],
  [CR4.LA57, F.LA57],
];

/** nested_vmx_cr_fixed1_bits_update(). */
function nestedVmxCrFixed1BitsUpdate(vcpu: Vcpu): void {
  const { msrs } = toVmx(vcpu).nested;
  let cr4: number = CR4.PCE;
  for (const [bits, feature] of CR4_FEATURES) if (guestHas(vcpu, feature)) cr4 |= bits;
  msrs.cr0Fixed1 = [0xffff_ffff, 0];
  msrs.cr4Fixed1 = [cr4 >>> 0, 0];
}

/** vmx_vcpu_after_set_cpuid(), the part of nested VMX. */
export function nestedVmxAfterSetCpuid(vcpu: Vcpu): void {
  const vmx = toVmx(vcpu);
  vmx.guestCanUseVmx = vcpu.kvm.module.params['kvm_intel.nested'] !== 0 && guestHas(vcpu, F.VMX);
  const vmxBits = FEAT_CTL.VMX_ENABLED_INSIDE_SMX | FEAT_CTL.VMX_ENABLED_OUTSIDE_SMX;
  vmx.featureControlValidBits = FEAT_CTL.LOCKED | (vmx.guestCanUseVmx ? vmxBits : 0);
  if (vmx.guestCanUseVmx) nestedVmxCrFixed1BitsUpdate(vcpu);
}
