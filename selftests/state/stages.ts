// SPDX-License-Identifier: GPL-2.0-only
/** Beyond upstream: what the nested state of each stage of state_test must say. KVM's documentation of KVM_GET_NESTED_STATE. */
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import {
  KVM_NESTED_NO_PA,
  KVM_NESTED_STATE_SIZE,
  KVM_STATE_NESTED,
  KVM_STATE_NESTED_VMX_VMCS_SIZE,
  type KvmNestedState,
} from '../../lib/uapi/nested_state.ts';

/** What the vCPU was doing. */
type Where = 'no VMX' | 'VMXON' | 'L1 with a VMCS' | 'L2' | 'L2 with a shadow VMCS';

// prettier-ignore
const STAGES: readonly Where[] = [
  'no VMX', 'no VMX', 'VMXON', 'L1 with a VMCS', 'L1 with a VMCS', 'L2', 'L1 with a VMCS', 'L1 with a VMCS', 'L1 with a VMCS',
  'L2 with a shadow VMCS', 'L2 with a shadow VMCS', 'L2 with a shadow VMCS', 'L1 with a VMCS',
];

// prettier-ignore
const VMCSS: Readonly<Record<Where, number>> = {
  'no VMX': 0, 'VMXON': 0, 'L1 with a VMCS': 1, 'L2': 1, 'L2 with a shadow VMCS': 2,
};

/** Checks the nested state of a stage. */
export function checkNestedState(stage: number, state: KvmNestedState): void {
  const where = STAGES[stage - 1];
  TEST_ASSERT(where !== undefined, () => `there is no stage ${stage}`);
  const what = `Stage ${stage} (${where})`;
  const { vmxon_pa, vmcs12_pa } = state.hdr.vmx;
  TEST_ASSERT_EQ(vmxon_pa === KVM_NESTED_NO_PA, where === 'no VMX', `${what}: no VMXON region`);
  TEST_ASSERT_EQ(vmcs12_pa === KVM_NESTED_NO_PA, VMCSS[where] === 0, `${what}: no current VMCS`);
  const size = KVM_NESTED_STATE_SIZE + VMCSS[where] * KVM_STATE_NESTED_VMX_VMCS_SIZE;
  TEST_ASSERT_EQ(state.size, size, `${what}: size`);
  const inL2 = (state.flags & KVM_STATE_NESTED.GUEST_MODE) !== 0;
  TEST_ASSERT_EQ(inL2, where.startsWith('L2'), `${what}: L2 was running`);
  // Each stage ends in an instruction that has completed.
  TEST_ASSERT_EQ(state.flags & KVM_STATE_NESTED.RUN_PENDING, 0, `${what}: RUN_PENDING`);
}
