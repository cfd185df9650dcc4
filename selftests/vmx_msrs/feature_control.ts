// SPDX-License-Identifier: GPL-2.0-only
/**
 * IA32_FEATURE_CONTROL: userspace may set every bit that KVM supports, whatever CPUID tells the guest. After
 * ia32_feature_control_msr_test() of x86/vmx_msrs_test.c of the KVM selftests.
 */
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT } from '../../lib/kvm_util/test_util.ts';
import { kvmCpuHas, vcpuClearCpuidFeature, vcpuSetCpuidFeature } from '../../lib/kvm_util/x86/cpuid.ts';
import { _vcpuSetMsr, vcpuGetMsr, vcpuSetMsr } from '../../lib/kvm_util/x86/msr.ts';
import { type CpuidFeature, X86_FEATURE } from '../../lib/x86/cpuid.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { FEAT_CTL } from '../../lib/x86/vmx/capability_msrs.ts';
import { bitsOf } from './save_restore.ts';

const LOCKED = BigInt(FEAT_CTL.LOCKED);
const SUPPORTED = BigInt(Object.values(FEAT_CTL).reduce((all: number, bit) => all | bit, 0));

/** __ia32_feature_control_msr_test(): the bit goes on and off while CPUID has no such feature. */
function oneBit(vcpu: KvmVcpu, msrBit: number, feature: CpuidFeature): void {
  const bit = BigInt(msrBit);
  vcpuClearCpuidFeature(vcpu, feature);
  const value = vcpuGetMsr(vcpu, MSR.IA32_FEAT_CTL);
  for (let turn = 0; turn < 2; turn++) {
    vcpuSetMsr(vcpu, MSR.IA32_FEAT_CTL, value | bit | LOCKED);
    vcpuSetMsr(vcpu, MSR.IA32_FEAT_CTL, (value & ~bit) | LOCKED);
  }
  vcpuSetMsr(vcpu, MSR.IA32_FEAT_CTL, value);
  if (kvmCpuHas(vcpu.vm.backend, feature)) vcpuSetCpuidFeature(vcpu, feature);
}

export function ia32FeatureControlMsrTest(vcpu: KvmVcpu): void {
  oneBit(vcpu, FEAT_CTL.VMX_ENABLED_INSIDE_SMX, X86_FEATURE.SMX);
  oneBit(vcpu, FEAT_CTL.VMX_ENABLED_INSIDE_SMX, X86_FEATURE.VMX);
  oneBit(vcpu, FEAT_CTL.VMX_ENABLED_OUTSIDE_SMX, X86_FEATURE.VMX);
  oneBit(vcpu, FEAT_CTL.SGX_LC_ENABLED, X86_FEATURE.SGX_LC);
  oneBit(vcpu, FEAT_CTL.SGX_LC_ENABLED, X86_FEATURE.SGX);
  oneBit(vcpu, FEAT_CTL.SGX_ENABLED, X86_FEATURE.SGX);
  oneBit(vcpu, FEAT_CTL.LMCE_ENABLED, X86_FEATURE.MCE);
  for (const bit of bitsOf(2n ** 64n - 1n - SUPPORTED)) {
    TEST_ASSERT(
      _vcpuSetMsr(vcpu, MSR.IA32_FEAT_CTL, bit) === 0,
      () => `Setting reserved bit ${bit.toString(2).length - 1} in IA32_FEATURE_CONTROL should fail`,
    );
  }
}
