// SPDX-License-Identifier: GPL-2.0-only
/**
 * Guest state that no VM entry takes, with and without an exception that waits to be injected: KVM tells userspace that it cannot
 * emulate, every time. Needs kvm_intel.unrestricted_guest=0, where KVM emulates until the state is valid. After
 * x86/vmx_exception_with_invalid_guest_state.c of the KVM selftests. The timer's signal is a second thread's here. Adds to upstream:
 * once the state is valid again, the guest goes on.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { ExRegs, guestFn, guestGlobal, linkGuest, ptr, u64, ud2 } from '../lib/guest/index.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { readGuestGlobal } from '../lib/kvm_util/guest_global.ts';
import { kvmVmFree, type KvmVcpu } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { errnoText, TEST_ASSERT_KVM_EXIT_REASON, tryVcpuRun } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { vmInstallExceptionHandler } from '../lib/kvm_util/x86/exceptions.ts';
import { ERRNO } from '../lib/uapi/errno.ts';
import type { KvmSregs } from '../lib/uapi/regs.ts';
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../lib/uapi/run.ts';
import { VECTOR } from '../lib/x86/exceptions.ts';

const TIMER_NS = 200_000;
/** Far more ticks than it takes until one finds an exception pending. */
const MAX_TICKS = 5000;

const exceptions = guestGlobal('exceptions', u64);

/** Returns to the UD2: the guest loops until its state is made invalid. */
const guest_ud_handler = guestFn('guest_ud_handler', [ptr(ExRegs)], (g) => {
  g.inc(exceptions);
});

const guest_code = guestFn('guest_code', [], (g) => {
  ud2(g);
});

/** __run_vcpu_with_invalid_state(). */
function* runOnceWithInvalidState(vcpu: KvmVcpu): Steps<void> {
  const errno = yield* tryVcpuRun(vcpu);
  TEST_ASSERT(errno === 0, () => `KVM_RUN failed: ${errnoText(errno)}`);
  TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT.INTERNAL_ERROR);
  const { suberror } = vcpu.fd.run.emulation_failure;
  TEST_ASSERT(suberror === KVM_INTERNAL_ERROR.EMULATION, () => `Expected emulation failure, got ${suberror}`);
}

/** run_vcpu_with_invalid_state(): twice, for userspace may ignore the first error. */
function* runWithInvalidState(vcpu: KvmVcpu): Steps<void> {
  yield* runOnceWithInvalidState(vcpu);
  yield* runOnceWithInvalidState(vcpu);
}

/** set_or_clear_invalid_guest_state(): an unusable TR. */
const setInvalid = (vcpu: KvmVcpu, sregs: KvmSregs): void =>
  vcpu.fd.setSregs({ ...sregs, tr: { ...sregs.tr, unusable: 1 } });

/** The vCPU's thread: run until a signal finds an exception pending, and make the state invalid then. */
function* runUntilPending(vcpu: KvmVcpu, sregs: KvmSregs): Steps<void> {
  for (;;) {
    const errno = yield* tryVcpuRun(vcpu);
    TEST_ASSERT(errno === ERRNO.EINTR, () => `KVM_RUN should be interrupted, got ${errnoText(errno)}`);
    if (vcpu.fd.getVcpuEvents().exception.pending !== 0) break;
  }
  setInvalid(vcpu, sregs);
  yield* runWithInvalidState(vcpu);
}

function* interruptUntilPending(vcpu: KvmVcpu, sregs: KvmSregs): Steps<void> {
  const { threads } = vcpu.vm.backend;
  const state = { done: false };
  const thread = threads.spawn('vcpu', function* () {
    try {
      yield* runUntilPending(vcpu, sregs);
    } finally {
      state.done = true;
    }
  });
  let ticks = 0;
  for (; !state.done && ticks < MAX_TICKS; ticks++) {
    yield* threads.sleepNs(TIMER_NS);
    threads.kill(thread);
  }
  TEST_ASSERT(state.done, () => `no signal of ${ticks} found an exception pending`);
  yield* threads.join(thread);
}

/** With a valid state the exception is injected after all, and UD2 goes on raising UD. */
function* goesOn(vcpu: KvmVcpu, sregs: KvmSregs): Steps<void> {
  const { vm } = vcpu;
  vcpu.fd.setSregs(sregs);
  const before = readGuestGlobal(vm, exceptions.symbol);
  const { threads } = vm.backend;
  const thread = threads.spawn('vcpu', function* () {
    TEST_ASSERT_EQ(yield* tryVcpuRun(vcpu), ERRNO.EINTR, 'KVM_RUN with valid state');
  });
  yield* threads.sleepNs(TIMER_NS);
  threads.kill(thread);
  yield* threads.join(thread);
  TEST_ASSERT(readGuestGlobal(vm, exceptions.symbol) > before, 'the guest does not go on with valid state');
}

function* run({ backend, args }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(
    backend.moduleParam('kvm_intel.unrestricted_guest') === 'N',
    '!kvm_is_unrestricted_guest_enabled()',
  );
  const image = linkGuest(guest_code, guest_ud_handler);
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image });
  vmInstallExceptionHandler(vm, VECTOR.UD, guest_ud_handler.symbol);
  const sregs = vcpu.fd.getSregs();
  setInvalid(vcpu, sregs);
  yield* runWithInvalidState(vcpu);
  vcpu.fd.setSregs(sregs);
  yield* interruptUntilPending(vcpu, sregs);
  yield* goesOn(vcpu, sregs);
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'vmx_exception_with_invalid_guest_state',
  summary: 'invalid guest state, with an exception pending, is an emulation failure every time',
  upstream: 'x86/vmx_exception_with_invalid_guest_state.c',
  params: ['kvm_intel.unrestricted_guest=0'],
  run,
};
