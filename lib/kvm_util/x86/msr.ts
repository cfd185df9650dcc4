// SPDX-License-Identifier: GPL-2.0-only
/** vcpu_get_msr(), vcpu_set_msr() and vcpu_clear_cpuid_feature() of tools/testing/selftests/kvm. */
import type { CpuidFeature } from '../../x86/cpuid.ts';
import { hex } from '../../x86/bits.ts';
import type { KvmVcpu } from '../kvm_util.ts';
import { TEST_ASSERT } from '../test_util.ts';

/** Read one MSR; fails the test if KVM refuses. */
export function vcpuGetMsr(vcpu: KvmVcpu, index: number): bigint {
  const [entry] = vcpu.fd.getMsrs([index]);
  TEST_ASSERT(entry !== undefined, () => `KVM_GET_MSRS failed on MSR ${hex(index)}`);
  return entry.data;
}

/** Write one MSR; fails the test if KVM refuses. */
export function vcpuSetMsr(vcpu: KvmVcpu, index: number, data: bigint): void {
  const done = vcpu.fd.setMsrs([{ index, data }]);
  TEST_ASSERT(done === 1, () => `KVM_SET_MSRS failed on MSR ${hex(index)}, value ${hex(data)}`);
}

const OUTPUTS = ['eax', 'ebx', 'ecx', 'edx'] as const;

/** Hide a feature from the guest's CPUID. */
export function vcpuClearCpuidFeature(vcpu: KvmVcpu, [leaf, subleaf, reg, bit]: CpuidFeature): void {
  const entries = vcpu.fd.getCpuid2();
  const entry = entries.find((e) => e.function === leaf && e.index === subleaf);
  TEST_ASSERT(entry !== undefined, () => `the vCPU has no CPUID leaf ${hex(leaf)}.${hex(subleaf)}`);
  const output = OUTPUTS[reg]!;
  entry[output] = (entry[output] & ~(1 << bit)) >>> 0;
  vcpu.fd.setCpuid2(entries);
}
