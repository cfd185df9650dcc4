// SPDX-License-Identifier: GPL-2.0-only
/**
 * KVM_CAP_SYNC_REGS: register sets in kvm_run, asked for by kvm_valid_regs and taken over by kvm_dirty_regs. After
 * x86/sync_regs_test.c of the KVM selftests. Adds to upstream: SREGS and events are compared field by field, refused sets
 * change nothing, and before upstream's racing threads come their writes in single steps between KVM_RUNs.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { KVM_SYNC_X86 } from '../lib/uapi/run.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree, type KvmVcpu } from '../lib/kvm_util/kvm_util.ts';
import { TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { linkSyncRegs } from './sync_regs/guest.ts';
import { raceCr4, raceExc, raceInjPen } from './sync_regs/races.ts';
import {
  clearKvmDirtyRegsBits,
  clearKvmValidAndDirtyRegs,
  clearKvmValidRegsBits,
  readInvalid,
  reqAndVerifyAllValid,
  refusedChangesNothing,
  setAndVerifyVarious,
  setInvalid,
} from './sync_regs/sets.ts';

const INVALID_SYNC_FIELD = 0x8000_0000;
const TEST_SYNC_FIELDS = KVM_SYNC_X86.REGS | KVM_SYNC_X86.SREGS | KVM_SYNC_X86.EVENTS;

type Subtest = (vcpu: KvmVcpu) => Steps<void>;

/** KVM_ONE_VCPU_TEST_SUITE(sync_regs_test): each on a VM of its own. */
const SUBTESTS: readonly (readonly [name: string, body: Subtest])[] = [
  ['read_invalid', readInvalid],
  ['set_invalid', setInvalid],
  ['req_and_verify_all_valid', reqAndVerifyAllValid],
  ['set_and_verify_various', setAndVerifyVarious],
  ['clear_kvm_dirty_regs_bits', clearKvmDirtyRegsBits],
  ['clear_kvm_valid_and_dirty_regs', clearKvmValidAndDirtyRegs],
  ['clear_kvm_valid_regs_bits', clearKvmValidRegsBits],
  ['race_cr4', raceCr4],
  ['race_exc', raceExc],
  ['race_inj_pen', raceInjPen],
  ['refused_changes_nothing', refusedChangesNothing],
];

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  const cap = backend.kvm.checkExtension(KVM_CAP.SYNC_REGS);
  TEST_REQUIRE((cap & TEST_SYNC_FIELDS) === TEST_SYNC_FIELDS, '(cap & TEST_SYNC_FIELDS) == TEST_SYNC_FIELDS');
  TEST_REQUIRE((cap & INVALID_SYNC_FIELD) === 0, '!(cap & INVALID_SYNC_FIELD)');
  for (const [name, body] of SUBTESTS) {
    const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkSyncRegs() });
    yield* body(vcpu);
    yield* kvmVmFree(vm);
    print(`ok sync_regs_test.${name}`);
  }
}

export const selftest: Selftest = {
  name: 'sync_regs_test',
  summary: 'registers in kvm_run: kvm_valid_regs, kvm_dirty_regs and their refusals',
  upstream: 'x86/sync_regs_test.c',
  run,
};
