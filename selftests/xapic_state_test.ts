// SPDX-License-Identifier: GPL-2.0-only
/**
 * The local APIC's registers as guest and userspace see them: ICR read-back in both modes, the APIC ID across modes. After
 * x86/xapic_state_test.c of the KVM selftests. Adds to upstream: the local vector table, the IDs that
 * KVM_SET_LAPIC refuses or ignores, and what KVM_CAP_X2APIC_API refuses.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { UsageError } from '../lib/kvm_util/test_util.ts';
import { testIcr } from './xapic_state/icr.ts';
import { testApicId, testLvt, testX2apicApi, testX2apicId } from './xapic_state/ids.ts';

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  print('Testing ICR in x2APIC mode');
  yield* testIcr(backend, 'x2apic');
  print('Testing ICR in xAPIC mode');
  yield* testIcr(backend, 'xapic');
  print('Testing APIC IDs and local vector table');
  yield* testApicId(backend);
  yield* testX2apicId(backend);
  yield* testX2apicApi(backend);
  yield* testLvt(backend);
}

export const selftest: Selftest = {
  name: 'xapic_state_test',
  summary: 'ICR, APIC ID and local vector table in xAPIC and x2APIC mode, by guest and by userspace',
  upstream: 'x86/xapic_state_test.c',
  run,
};
