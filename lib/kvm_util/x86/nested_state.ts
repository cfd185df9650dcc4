// SPDX-License-Identifier: GPL-2.0-only
/** vcpu_nested_state_get(), vcpu_nested_state_set() and __vcpu_nested_state_set() of include/kvm_util.h in the selftests. */
import { KVM_CAP } from '../../uapi/capabilities.ts';
import { KVM_NESTED_STATE_MAX_SIZE, type KvmNestedState } from '../../uapi/nested_state.ts';
import { plainIoctlErrno } from '../ioctl_errno.ts';
import type { KvmVcpu } from '../kvm_util.ts';

/** vcpu_nested_state_get() with a buffer of `size` bytes. */
export const vcpuNestedStateGet = (vcpu: KvmVcpu, size: number = KVM_NESTED_STATE_MAX_SIZE): KvmNestedState =>
  vcpu.fd.getNestedState(size);

/** vcpu_nested_state_set(). */
export const vcpuNestedStateSet = (vcpu: KvmVcpu, state: KvmNestedState): void =>
  vcpu.fd.setNestedState(state);

/** __vcpu_nested_state_set(): 0, or the errno with which KVM refused it. */
export const __vcpuNestedStateSet = (vcpu: KvmVcpu, state: KvmNestedState | null): number =>
  plainIoctlErrno(() => vcpu.fd.setNestedState(state));

/** kvm_check_cap(KVM_CAP_NESTED_STATE): the largest size of a state; 0: there is none. */
export const nestedStateSize = (vcpu: KvmVcpu): number =>
  vcpu.vm.backend.kvm.checkExtension(KVM_CAP.NESTED_STATE);
