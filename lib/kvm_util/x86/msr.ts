// SPDX-License-Identifier: GPL-2.0-only
/** vcpu_get_msr() and vcpu_set_msr() of tools/testing/selftests/kvm. */
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

/** _vcpu_set_msr(): how many MSRs were set, 0 or 1. */
export const _vcpuSetMsr = (vcpu: KvmVcpu, index: number, data: bigint): number =>
  vcpu.fd.setMsrs([{ index, data }]);
