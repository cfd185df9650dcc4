// SPDX-License-Identifier: GPL-2.0-only
/** KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE before the vendor has its say. Mirrors kvm_arch_vcpu_ioctl() of x86.c, 6.12. */
import { ERRNO, KvmError } from '../../../lib/uapi/errno.ts';
import {
  KVM_NESTED_STATE_SIZE,
  KVM_STATE_NESTED,
  type KvmNestedState,
} from '../../../lib/uapi/nested_state.ts';
import type { Vcpu } from '../kvm_host.ts';

const FLAGS = Object.values(KVM_STATE_NESTED).reduce((all: number, flag) => all | flag, 0);

/** KVM_GET_NESTED_STATE into a buffer of `userSize` bytes. */
export function kvmVcpuIoctlGetNestedState(vcpu: Vcpu, userSize: number): KvmNestedState {
  const { nestedOps } = vcpu.kvm.module.ops;
  if (nestedOps === null)
    throw new KvmError('KVM_GET_NESTED_STATE', ERRNO.EINVAL, 'no nested virtualization');
  const state = nestedOps.getState(vcpu, userSize);
  if (state.size > userSize) {
    const detail = `${state.size} bytes are needed, there are ${userSize}`;
    throw new KvmError('KVM_GET_NESTED_STATE', ERRNO.E2BIG, detail);
  }
  return state;
}

/** KVM_SET_NESTED_STATE; null: the pointer is bad. */
export function kvmVcpuIoctlSetNestedState(vcpu: Vcpu, state: KvmNestedState | null): void {
  const { nestedOps } = vcpu.kvm.module.ops;
  const refuse = (errno: number, detail: string): never => {
    throw new KvmError('KVM_SET_NESTED_STATE', errno, detail);
  };
  if (nestedOps === null) return refuse(ERRNO.EINVAL, 'no nested virtualization');
  if (state === null) return refuse(ERRNO.EFAULT, 'NULL');
  if (state.size < KVM_NESTED_STATE_SIZE) return refuse(ERRNO.EINVAL, `size ${state.size}`);
  if ((state.flags & ~FLAGS) !== 0) return refuse(ERRNO.EINVAL, `flags ${state.flags}`);
  const pending = (state.flags & KVM_STATE_NESTED.RUN_PENDING) !== 0;
  // Only L2 can be about to run.
  if (pending && (state.flags & KVM_STATE_NESTED.GUEST_MODE) === 0)
    return refuse(ERRNO.EINVAL, 'RUN_PENDING without GUEST_MODE');
  const r = nestedOps.setState(vcpu, state);
  if (r !== 0) refuse(-r, 'refused by the vendor module');
}
