// SPDX-License-Identifier: GPL-2.0-only
/**
 * What KVM can give a guest, and what one vCPU is told: kvm_cpu_has(), kvm_get_feature_msr(), kvm_cpu_has_ept() and
 * vcpu_set_cpuid_feature() of lib/x86/processor.c and lib/x86/vmx.c in tools/testing/selftests/kvm.
 */
import { KVM_MAX_CPUID_ENTRIES, type KvmCpuidEntry2 } from '../../uapi/cpuid_msr.ts';
import { hex } from '../../x86/bits.ts';
import { type CpuidFeature, X86_FEATURE } from '../../x86/cpuid.ts';
import { VMX_MSR } from '../../x86/vmx/capability_msrs.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../x86/vmx/controls.ts';
import type { Backend } from '../backend.ts';
import type { KvmVcpu } from '../kvm_util.ts';
import { TEST_ASSERT } from '../test_util.ts';

const OUTPUTS = ['eax', 'ebx', 'ecx', 'edx'] as const;

/** kvm_cpuid_has(). */
export function kvmCpuidHas(
  entries: readonly KvmCpuidEntry2[],
  [leaf, subleaf, reg, bit]: CpuidFeature,
): boolean {
  const entry = entries.find((e) => e.function === leaf && e.index === subleaf);
  return entry !== undefined && ((entry[OUTPUTS[reg]!] >>> bit) & 1) !== 0;
}

/** kvm_cpu_has(): whether KVM supports the feature for guests. */
export const kvmCpuHas = (backend: Backend, feature: CpuidFeature): boolean =>
  kvmCpuidHas(backend.kvm.getSupportedCpuid(), feature);

/** kvm_get_feature_msr(); fails the test if KVM has none of that number. */
export function kvmGetFeatureMsr(backend: Backend, index: number): bigint {
  const [entry] = backend.kvm.getMsrs([index]);
  TEST_ASSERT(entry !== undefined, () => `KVM_GET_MSRS failed on feature MSR ${hex(index)}`);
  return entry.data;
}

/** The controls that a capability MSR allows to be 1. */
const allowed1 = (backend: Backend, index: number): number => Number(kvmGetFeatureMsr(backend, index) >> 32n);

/** kvm_cpu_has_ept(): whether L1 may give L2 an EPT. */
export function kvmCpuHasEpt(backend: Backend): boolean {
  if (!kvmCpuHas(backend, X86_FEATURE.VMX)) return false;
  const primary = allowed1(backend, VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS);
  if ((primary & CPU_BASED.ACTIVATE_SECONDARY_CONTROLS) === 0) return false;
  return (allowed1(backend, VMX_MSR.IA32_VMX_PROCBASED_CTLS2) & SECONDARY_EXEC.ENABLE_EPT) !== 0;
}

/** kvm_cpu_has_tdp(). */
export const kvmCpuHasTdp = kvmCpuHasEpt;

/** vcpu_set_or_clear_cpuid_feature(). */
export function vcpuSetOrClearCpuidFeature(
  vcpu: KvmVcpu,
  [leaf, subleaf, reg, bit]: CpuidFeature,
  to: 'set' | 'clear',
): void {
  const entries = vcpu.fd.getCpuid2();
  const entry = entries.find((e) => e.function === leaf && e.index === subleaf);
  TEST_ASSERT(entry !== undefined, () => `the vCPU has no CPUID leaf ${hex(leaf)}.${hex(subleaf)}`);
  TEST_ASSERT(entries.length <= KVM_MAX_CPUID_ENTRIES, 'too many CPUID entries');
  const output = OUTPUTS[reg]!;
  const mask = 1 << bit;
  entry[output] = (to === 'set' ? entry[output] | mask : entry[output] & ~mask) >>> 0;
  vcpu.fd.setCpuid2(entries);
}

/** vcpu_set_cpuid_feature(). */
export const vcpuSetCpuidFeature = (vcpu: KvmVcpu, feature: CpuidFeature): void =>
  vcpuSetOrClearCpuidFeature(vcpu, feature, 'set');

/** vcpu_clear_cpuid_feature(): hide a feature from the guest's CPUID. */
export const vcpuClearCpuidFeature = (vcpu: KvmVcpu, feature: CpuidFeature): void =>
  vcpuSetOrClearCpuidFeature(vcpu, feature, 'clear');
