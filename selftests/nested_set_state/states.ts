// SPDX-License-Identifier: GPL-2.0-only
/** Nested states to begin with, and what must become of them. After x86/nested_set_state_test.c of the KVM selftests. */
import { TEST_ASSERT } from '../../lib/kvm_util/test_util.ts';
import { errnoText } from '../../lib/kvm_util/ucall_common.ts';
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { __vcpuNestedStateSet } from '../../lib/kvm_util/x86/nested_state.ts';
import { ERRNO } from '../../lib/uapi/errno.ts';
import {
  KVM_NESTED_STATE_SIZE,
  KVM_STATE_NESTED_VMX_VMCS_SIZE,
  type KvmNestedState,
  kvmNestedState,
} from '../../lib/uapi/nested_state.ts';

/** VMCS12_REVISION of arch/x86/kvm/vmx/vmcs12.h. */
export const VMCS12_REVISION = 0x11e5_7ed0;
/** A header and a page for vmcs12. */
export const STATE_SIZE = KVM_NESTED_STATE_SIZE + KVM_STATE_NESTED_VMX_VMCS_SIZE;

/** set_default_vmx_state(): VMXON at 0x1000, a VMCS of the right revision at 0x2000. `change` is made to it. */
export function vmxState(change: (state: KvmNestedState) => void = () => undefined): KvmNestedState {
  const state = kvmNestedState(STATE_SIZE);
  state.hdr.vmx.vmxon_pa = 0x1000n;
  state.hdr.vmx.vmcs12_pa = 0x2000n;
  new DataView(state.data.vmx.vmcs12.buffer).setUint32(0, VMCS12_REVISION, true);
  change(state);
  return state;
}

/** test_nested_state(). */
export function expectTaken(vcpu: KvmVcpu, state: KvmNestedState, what: string): void {
  const errno = __vcpuNestedStateSet(vcpu, state);
  TEST_ASSERT(errno === 0, () => `${what}: KVM_SET_NESTED_STATE should succeed, got ${errnoText(errno)}`);
}

/** test_nested_state_expect_errno(). */
export function expectErrno(
  vcpu: KvmVcpu,
  state: KvmNestedState | null,
  expected: 'EINVAL' | 'EFAULT',
  what: string,
): void {
  const errno = __vcpuNestedStateSet(vcpu, state);
  TEST_ASSERT(
    errno === ERRNO[expected],
    () => `${what}: Expected ${expected} from vcpu_nested_state_set but got ${errnoText(errno)}`,
  );
}

/** test_nested_state_expect_einval(). */
export const expectEinval = (vcpu: KvmVcpu, state: KvmNestedState, what: string): void =>
  expectErrno(vcpu, state, 'EINVAL', what);
