// SPDX-License-Identifier: GPL-2.0-only
/**
 * Feature MSRs: what /dev/kvm itself says of a future guest's capability MSRs. KVM_GET_MSRS and KVM_GET_MSR_FEATURE_INDEX_LIST on
 * the device. Mirrors kvm_get_msr_feature() of x86.c, 6.12. Left out: microcode revision, ARCH_CAPABILITIES.
 */
import { VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import type { KvmModule } from '../module.ts';

/** KVM_FIRST_EMULATED_VMX_MSR and KVM_LAST_EMULATED_VMX_MSR. */
const VMX_MSRS = Object.values(VMX_MSR).filter(
  (n) => n >= VMX_MSR.IA32_VMX_BASIC && n <= VMX_MSR.IA32_VMX_VMFUNC,
);

/** A feature MSR; undefined if there is none of that number. */
export function kvmGetFeatureMsr(module: KvmModule, index: number): bigint | undefined {
  const entry = { index, data: 0n };
  return module.ops.getMsrFeature(entry) === 0 ? entry.data : undefined;
}

/** KVM_GET_MSR_FEATURE_INDEX_LIST. */
export const kvmGetMsrFeatureIndexList = (module: KvmModule): number[] =>
  VMX_MSRS.filter((index) => kvmGetFeatureMsr(module, index) !== undefined);
