// SPDX-License-Identifier: GPL-2.0-only
/**
 * A vCPU's state saved and loaded into a new VM after each stage, with L1 and L2 at all points of a nested guest's life. After
 * x86/state_test.c of the KVM selftests, its VMX half. Left out: XSAVE state, which L0 does not have. Adds to upstream: the
 * state that the new vCPU gives is the one that was loaded, and what each stage's nested state must say.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree, type KvmVcpu } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, UsageError } from '../lib/kvm_util/test_util.ts';
import { runUntilUcall } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { kvmCpuHas } from '../lib/kvm_util/x86/cpuid.ts';
import { assertSameState, vmMigrateWithOneVcpu } from '../lib/kvm_util/x86/migrate.ts';
import { nestedStateSize } from '../lib/kvm_util/x86/nested_state.ts';
import { vcpuArgsSet } from '../lib/kvm_util/x86/processor.ts';
import { vcpuSaveState } from '../lib/kvm_util/x86/state.ts';
import { vcpuAllocVmx } from '../lib/kvm_util/x86/vmx.ts';
import { X86_FEATURE } from '../lib/x86/cpuid.ts';
import { linkState } from './state/guest.ts';
import { checkNestedState } from './state/stages.ts';

function* migrate(old: KvmVcpu, stage: number): Steps<KvmVcpu> {
  const { vcpu, state } = yield* vmMigrateWithOneVcpu(old);
  if (state.nested !== undefined) checkNestedState(stage, state.nested);
  assertSameState(yield* vcpuSaveState(vcpu), state, `Stage ${stage}: saved again`);
  return vcpu;
}

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  const [vm, first] = yield* vmCreateWithOneVcpu(backend, { image: linkState() });
  let vcpu = first;
  const nested = nestedStateSize(vcpu) > 0 && kvmCpuHas(backend, X86_FEATURE.VMX);
  if (!nested) print('will skip nested state checks');
  vcpuArgsSet(vcpu, nested ? vcpuAllocVmx(vm) : 0n);
  for (let stage = 1; ; stage++) {
    const uc = yield* runUntilUcall(vcpu, print);
    if (uc.cmd === UCALL.DONE) break;
    TEST_ASSERT(uc.cmd === UCALL.SYNC, () => `Unknown ucall ${uc.cmd}`);
    TEST_ASSERT(
      uc.args[1] === BigInt(stage),
      () => `Stage ${stage}: Unexpected register values vmexit, got ${uc.args[1]!.toString(16)}`,
    );
    vcpu = yield* migrate(vcpu, stage);
  }
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'state_test',
  summary: "a vCPU's state, nested state included, goes to a new VM after each stage",
  upstream: 'x86/state_test.c',
  run,
};
