// SPDX-License-Identifier: GPL-2.0-only
/**
 * What KVM_SET_NESTED_STATE takes and refuses. After x86/nested_set_state_test.c of the KVM selftests, its VMX half without
 * enlightened VMCSs. Adds to upstream: a state that was taken reads back as it was set, a buffer that is too small is E2BIG,
 * a refused header changes nothing, and a state of L2 running that cannot be entered is refused and leaves the vCPU in L1.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { guestFn, linkGuest } from '../lib/guest/index.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { kvmCpuHas, vcpuClearCpuidFeature } from '../lib/kvm_util/x86/cpuid.ts';
import { nestedStateSize } from '../lib/kvm_util/x86/nested_state.ts';
import { X86_FEATURE } from '../lib/x86/cpuid.ts';
import { testCommon } from './nested_set_state/common.ts';
import { testReadBack } from './nested_set_state/read_back.ts';
import { testVmxNestedState } from './nested_set_state/vmx.ts';

const guest_code = guestFn('guest_code', [], () => undefined);

function* run({ backend, args }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(kvmCpuHas(backend, X86_FEATURE.VMX), 'kvm_cpu_has(X86_FEATURE_VMX)');
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkGuest(guest_code) });
  TEST_REQUIRE(nestedStateSize(vcpu) > 0, 'kvm_has_cap(KVM_CAP_NESTED_STATE)');
  // The first checks are made without VMX; testVmxNestedState() turns it on again.
  vcpuClearCpuidFeature(vcpu, X86_FEATURE.VMX);
  testCommon(vcpu);
  testVmxNestedState(vcpu);
  testReadBack(vcpu);
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'nested_set_state_test',
  summary: 'what KVM_SET_NESTED_STATE takes and refuses',
  upstream: 'x86/nested_set_state_test.c',
  run,
};
