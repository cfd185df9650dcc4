// SPDX-License-Identifier: GPL-2.0-only
/**
 * Save and restore at any instruction of a guest, and of L2, that takes one page fault after the other: no fault and no CR2 gets
 * lost. After x86/save_restore_pf_stress_test.c of the KVM selftests, its VMX half. Adds to upstream: the number of iterations
 * may be chosen, and the nested state says whether L2 was running.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import type { Backend, Steps } from '../lib/kvm_util/backend.ts';
import { atoiPositive, getopt } from '../lib/kvm_util/getopt.ts';
import { readGuestGlobal } from '../lib/kvm_util/guest_global.ts';
import { kvmVmFree, type KvmVcpu } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, UsageError } from '../lib/kvm_util/test_util.ts';
import {
  errnoText,
  getUcall,
  reportGuestAssert,
  tryVcpuRun,
  unexpectedExit,
} from '../lib/kvm_util/ucall_common.ts';
import { kvmCpuHas } from '../lib/kvm_util/x86/cpuid.ts';
import { vmMigrateWithOneVcpu } from '../lib/kvm_util/x86/migrate.ts';
import { ERRNO } from '../lib/uapi/errno.ts';
import { KVM_STATE_NESTED } from '../lib/uapi/nested_state.ts';
import { X86_FEATURE } from '../lib/x86/cpuid.ts';
import { guest_faults } from './save_restore_pf_stress/guest.ts';
import { createPfStressVm } from './save_restore_pf_stress/vm.ts';

const NR_ITERATIONS = 500;
/** Upstream sends a signal each millisecond; the guest's work in that time is the same for each. */
const SIGNAL_NS = 97_000;

function iterations(args: readonly string[]): number {
  const { options, rest } = getopt(args, 'hn:');
  if (rest.length > 0) throw new UsageError(`unexpected argument '${rest[0]!}'`);
  let n = NR_ITERATIONS;
  for (const { opt, arg } of options) {
    if (opt === 'h') {
      const usage = 'usage: save_restore_pf_stress_test [-h] [-n iterations]';
      throw new UsageError(`${usage}\n -n: saves and restores of each guest (default: ${NR_ITERATIONS})`, {
        help: true,
      });
    }
    n = atoiPositive('Number of iterations', arg);
  }
  return n;
}

/** The guest leaves KVM_RUN for a signal only; anything else is a failed assertion. */
function* runUntilSignal(vcpu: KvmVcpu): Steps<void> {
  const errno = yield* tryVcpuRun(vcpu);
  if (errno === 0) {
    const uc = getUcall(vcpu);
    if (uc.cmd === UCALL.ABORT) reportGuestAssert(vcpu, uc);
    unexpectedExit(vcpu);
  }
  TEST_ASSERT(errno === ERRNO.EINTR, () => `Expected success or a signal, got ${errnoText(errno)}`);
}

/** One thread runs and migrates; `state.running` tells the other when a signal is wanted. */
function* vcpuThread(first: KvmVcpu, n: number, where: 'L1' | 'L2', state: { running: boolean }) {
  let vcpu = first;
  for (let i = 1; i <= n; i++) {
    state.running = true;
    yield* runUntilSignal(vcpu);
    state.running = false;
    const migrated = yield* vmMigrateWithOneVcpu(vcpu);
    vcpu = migrated.vcpu;
    const flags = migrated.state.nested?.flags ?? 0;
    const inL2 = (flags & KVM_STATE_NESTED.GUEST_MODE) !== 0;
    // The first signals may come while L1 is still preparing.
    if (where === 'L1' || i === n) TEST_ASSERT_EQ(inL2, where === 'L2', `iteration ${i}: L2 was running`);
  }
}

function* runTest(
  backend: Backend,
  where: 'L1' | 'L2',
  n: number,
  print: (line: string) => void,
): Steps<void> {
  const { threads } = backend;
  const [vm, vcpu] = yield* createPfStressVm(backend, where);
  const state = { running: false, done: false };
  const thread = threads.spawn('vcpu', function* () {
    try {
      yield* vcpuThread(vcpu, n, where, state);
    } finally {
      state.done = true;
    }
  });
  while (!state.done) {
    yield* threads.sleepNs(SIGNAL_NS);
    if (state.running) threads.kill(thread);
  }
  yield* threads.join(thread);
  print(`Save+restore iterations: ${n}`);
  const faults = readGuestGlobal(vm, guest_faults.symbol);
  TEST_ASSERT(faults > 0n, 'No guest page faults triggered');
  print(`Guest page faults${where === 'L2' ? ' (in L2)' : ''}: ${faults}`);
  yield* kvmVmFree(vm);
}

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  const n = iterations(args);
  print('Running save+restore stress test...');
  yield* runTest(backend, 'L1', n, print);
  if (!kvmCpuHas(backend, X86_FEATURE.VMX)) {
    print('Nested virtualization not supported, skipping nested test');
    return;
  }
  print('Running save+restore stress test with a nested guest...');
  yield* runTest(backend, 'L2', n, print);
}

export const selftest: Selftest = {
  name: 'save_restore_pf_stress_test',
  summary: 'save and restore at any instruction of a guest that takes page faults',
  upstream: 'x86/save_restore_pf_stress_test.c',
  quickArgs: ['-n', '40'],
  checkArgs: iterations,
  timeoutSeconds: 300,
  run,
};
