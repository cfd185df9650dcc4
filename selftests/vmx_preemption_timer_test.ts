// SPDX-License-Identifier: GPL-2.0-only
/**
 * The VMX-preemption timer of L2 across a migration: it goes on where it was, instead of beginning anew. After
 * x86/vmx_preemption_timer_test.c of the KVM selftests. Adds to upstream: the timer value may be chosen, the saved nested state
 * holds the deadline, and the VM-exit saves what is left of the timer.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { atoiPositive, getopt } from '../lib/kvm_util/getopt.ts';
import { kvmVmFree, type KvmVcpu } from '../lib/kvm_util/kvm_util.ts';
import {
  TEST_ASSERT,
  TEST_ASSERT_EQ,
  TEST_FAIL,
  TEST_REQUIRE,
  UsageError,
} from '../lib/kvm_util/test_util.ts';
import { runUntilUcall, type UcallView } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { kvmCpuHas } from '../lib/kvm_util/x86/cpuid.ts';
import { vmMigrateWithOneVcpu } from '../lib/kvm_util/x86/migrate.ts';
import { vcpuArgsSet } from '../lib/kvm_util/x86/processor.ts';
import { vcpuAllocVmx } from '../lib/kvm_util/x86/vmx.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { KVM_STATE_NESTED, KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE } from '../lib/uapi/nested_state.ts';
import { X86_FEATURE } from '../lib/x86/cpuid.ts';
import { linkPreemptionTimer } from './vmx_preemption_timer/guest.ts';

const PREEMPTION_TIMER_VALUE = 100_000_000;

function timerValue(args: readonly string[]): number {
  const { options, rest } = getopt(args, 'hp:');
  if (rest.length > 0) throw new UsageError(`unexpected argument '${rest[0]!}'`);
  let value = PREEMPTION_TIMER_VALUE;
  for (const { opt, arg } of options) {
    if (opt === 'h')
      throw new UsageError(
        [
          'usage: vmx_preemption_timer_test [-h] [-p value]',
          ` -p: preemption timer value (default: ${PREEMPTION_TIMER_VALUE})`,
        ].join('\n'),
        { help: true },
      );
    value = atoiPositive('Preemption timer value', arg);
  }
  return value;
}

/** L1 must not see the timer expire early, nor L2 late. */
function checkDeadlines(uc: UcallView, print: (line: string) => void): void {
  const [, , l1Finish = 0n, l1Deadline = 0n, l2Finish = 0n, l2Deadline = 0n] = uc.args;
  print(`Stage 2: L1 PT expiry TSC (${l1Finish}) , L1 TSC deadline (${l1Deadline})`);
  print(`Stage 2: L2 PT expiry TSC (${l2Finish}) , L2 TSC deadline (${l2Deadline})`);
  TEST_ASSERT(
    l1Finish >= l1Deadline,
    () => `Stage 2: L1 PT expiry TSC (${l1Finish}) < L1 TSC deadline (${l1Deadline})`,
  );
  TEST_ASSERT(
    l2Finish < l2Deadline,
    () => `Stage 2: L2 PT expiry TSC (${l2Finish}) > L2 TSC deadline (${l2Deadline})`,
  );
}

/** At stage 1 L2 runs with the timer on. */
function* migrate(old: KvmVcpu, stage: number): Steps<KvmVcpu> {
  const { vcpu, state } = yield* vmMigrateWithOneVcpu(old);
  const { nested } = state;
  if (nested === undefined) TEST_FAIL('no nested state');
  const inL2 = stage === 1;
  TEST_ASSERT_EQ((nested.flags & KVM_STATE_NESTED.GUEST_MODE) !== 0, inL2, `Stage ${stage}: L2 was running`);
  const deadline = (nested.hdr.vmx.flags & KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE) !== 0;
  TEST_ASSERT_EQ(deadline, inL2, `Stage ${stage}: the nested state holds a preemption timer deadline`);
  return vcpu;
}

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  const value = timerValue(args);
  TEST_REQUIRE(kvmCpuHas(backend, X86_FEATURE.VMX), 'kvm_cpu_has(X86_FEATURE_VMX)');
  TEST_REQUIRE(backend.kvm.checkExtension(KVM_CAP.NESTED_STATE) > 0, 'kvm_has_cap(KVM_CAP_NESTED_STATE)');
  const [vm, first] = yield* vmCreateWithOneVcpu(backend, { image: linkPreemptionTimer(value) });
  let vcpu = first;
  vcpuArgsSet(vcpu, vcpuAllocVmx(vm));
  for (let stage = 1; ; stage++) {
    const uc = yield* runUntilUcall(vcpu, print);
    if (uc.cmd === UCALL.DONE) break;
    TEST_ASSERT(uc.cmd === UCALL.SYNC, () => `Unknown ucall ${uc.cmd}`);
    TEST_ASSERT(
      uc.args[1] === BigInt(stage),
      () => `Stage ${stage}: Unexpected register values vmexit, got ${uc.args[1]!.toString(16)}`,
    );
    if (stage === 2) checkDeadlines(uc, print);
    vcpu = yield* migrate(vcpu, stage);
  }
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'vmx_preemption_timer_test',
  summary: "L2's VMX-preemption timer goes on across a migration",
  upstream: 'x86/vmx_preemption_timer_test.c',
  quickArgs: ['-p', '20000'],
  checkArgs: timerValue,
  timeoutSeconds: 300,
  run,
};
