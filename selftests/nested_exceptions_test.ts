// SPDX-License-Identifier: GPL-2.0-only
/**
 * Exceptions that userspace makes pending in L2, or injects: L1's interceptions apply to the pending ones and to what the delivery
 * of an injected one leads to, up to double and triple fault. After x86/nested_exceptions_test.c of the KVM selftests, its VMX
 * half. Adds to upstream: the type in the interruption information.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree, type KvmVcpu } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { runUntilUcall, vcpuRunCompleteIo } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithL1 } from '../lib/kvm_util/x86/nested_vm.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { KVM_VCPUEVENT_VALID } from '../lib/uapi/vcpu_state.ts';
import { VECTOR } from '../lib/x86/exceptions.ts';
import { FAKE_TRIPLE_FAULT_VECTOR, linkExceptions, SS_ERROR_CODE } from './nested_exceptions/guest.ts';

/** assert_ucall_vector(): the vector that L2 asks for, or 'done'. */
function* runAndExpect(vcpu: KvmVcpu, vector: number | 'done'): Steps<void> {
  const uc = yield* runUntilUcall(vcpu);
  if (vector === 'done') TEST_ASSERT_EQ(uc.cmd, UCALL.DONE, 'ucall');
  else {
    TEST_ASSERT(uc.cmd === UCALL.SYNC, () => `Expected L2 to ask for ${vector}, got ucall ${uc.cmd}`);
    TEST_ASSERT_EQ(uc.args[1]!, BigInt(vector), 'the vector that L2 asks for');
  }
}

/** queue_ss_exception(). */
function queueSs(vcpu: KvmVcpu, how: 'pending' | 'injected'): void {
  const events = vcpu.fd.getVcpuEvents();
  const { exception } = events;
  TEST_ASSERT(exception.pending === 0, () => `Vector ${exception.nr} unexpectedly pending`);
  TEST_ASSERT(exception.injected === 0, () => `Vector ${exception.nr} unexpectedly injected`);
  events.flags = KVM_VCPUEVENT_VALID.PAYLOAD;
  exception.pending = how === 'pending' ? 1 : 0;
  exception.injected = how === 'injected' ? 1 : 0;
  exception.nr = VECTOR.SS;
  exception.has_error_code = 1;
  exception.error_code = SS_ERROR_CODE;
  vcpu.fd.setVcpuEvents(events);
}

/** The pending SS comes back as it went in, after the I/O was completed too. */
function* pendAndReadBack(vcpu: KvmVcpu): Steps<void> {
  queueSs(vcpu, 'pending');
  yield* vcpuRunCompleteIo(vcpu);
  const { flags, exception } = vcpu.fd.getVcpuEvents();
  TEST_ASSERT((flags & KVM_VCPUEVENT_VALID.PAYLOAD) !== 0, 'KVM_VCPUEVENT_VALID_PAYLOAD');
  TEST_ASSERT_EQ(exception.pending, 1, 'exception.pending');
  TEST_ASSERT_EQ(exception.nr, VECTOR.SS, 'exception.nr');
  TEST_ASSERT_EQ(exception.has_error_code, 1, 'exception.has_error_code');
  TEST_ASSERT_EQ(exception.error_code, SS_ERROR_CODE, 'exception.error_code');
}

function* run({ backend, args }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(
    backend.kvm.checkExtension(KVM_CAP.EXCEPTION_PAYLOAD) > 0,
    'kvm_has_cap(KVM_CAP_EXCEPTION_PAYLOAD)',
  );
  const [vm, vcpu] = yield* vmCreateWithL1(backend, { image: linkExceptions() });
  yield* vm.fd.enableCap({ cap: KVM_CAP.EXCEPTION_PAYLOAD, flags: 0, args: [2n ** 64n - 2n] });
  yield* runAndExpect(vcpu, VECTOR.SS);
  // L1 intercepts the pending SS.
  yield* pendAndReadBack(vcpu);
  yield* runAndExpect(vcpu, VECTOR.GP);
  // An injected SS is not intercepted; its delivery raises GP, then DF, then there is nothing left.
  queueSs(vcpu, 'injected');
  yield* runAndExpect(vcpu, VECTOR.DF);
  queueSs(vcpu, 'injected');
  yield* runAndExpect(vcpu, FAKE_TRIPLE_FAULT_VECTOR);
  queueSs(vcpu, 'injected');
  yield* runAndExpect(vcpu, 'done');
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'nested_exceptions_test',
  summary: 'exceptions that userspace makes pending in L2 or injects, under L1 interception',
  upstream: 'x86/nested_exceptions_test.c',
  run,
};
