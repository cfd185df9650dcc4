// SPDX-License-Identifier: GPL-2.0-only
/**
 * Instructions of L2 that L0 emulates, by the forced emulation prefix: L1's interceptions apply, with the instruction's own RIP and
 * length. After x86/nested_emulation_test.c of the KVM selftests, its VMX half. Adds to upstream: without interception PAUSE is
 * carried out and L2 goes on.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { runUntilDone, vmCreateWithL1 } from '../lib/kvm_util/x86/nested_vm.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { linkEmulation } from './nested_emulation/guest.ts';

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(backend.moduleParam('kvm.force_emulation_prefix') === '1', 'is_forced_emulation_enabled');
  const [vm, vcpu] = yield* vmCreateWithL1(backend, { image: linkEmulation() });
  yield* vm.fd.enableCap({ cap: KVM_CAP.EXCEPTION_PAYLOAD, flags: 0, args: [2n ** 64n - 2n] });
  yield* runUntilDone(vcpu, print);
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'nested_emulation_test',
  summary: "L1's interceptions of L2's instructions that L0 emulates",
  upstream: 'x86/nested_emulation_test.c',
  params: ['kvm.force_emulation_prefix=1'],
  run,
};
