// SPDX-License-Identifier: GPL-2.0-only
/** What KVM refuses before it looks at the vendor's part of the state. After x86/nested_set_state_test.c of the KVM selftests. */
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { KVM_STATE_NESTED, type KvmNestedState, kvmNestedState } from '../../lib/uapi/nested_state.ts';
import { expectEinval, expectErrno } from './states.ts';

const { GUEST_MODE, RUN_PENDING } = KVM_STATE_NESTED;

/** set_default_state(). */
function defaultState(change: Partial<KvmNestedState>): KvmNestedState {
  return { ...kvmNestedState(), flags: RUN_PENDING | GUEST_MODE, ...change };
}

export function testCommon(vcpu: KvmVcpu): void {
  expectErrno(vcpu, null, 'EFAULT', 'a NULL state');
  expectEinval(vcpu, defaultState({ size: 0 }), 'a size below sizeof(kvm_nested_state)');
  expectEinval(vcpu, defaultState({ flags: 0xf }), 'flags 0xf');
  expectEinval(vcpu, defaultState({ flags: 1 << 15 }), 'a flag that does not exist');
  expectEinval(vcpu, defaultState({ flags: RUN_PENDING }), 'RUN_PENDING without GUEST_MODE');
}
