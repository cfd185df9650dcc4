// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1's x2APIC after L2 ran with all MSRs passed through, once with L2 turning the APIC off: interrupts to itself arrive at L1. After
 * x86/nested_x2apic_test.c of the KVM selftests, its VMX half. Adds to upstream: the state of the APIC that L1 finds after L2.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import type { Backend, Steps } from '../lib/kvm_util/backend.ts';
import { writeGuestGlobal } from '../lib/kvm_util/guest_global.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { UsageError } from '../lib/kvm_util/test_util.ts';
import { vmInstallExceptionHandler } from '../lib/kvm_util/x86/exceptions.ts';
import { runUntilDone, vmCreateWithL1 } from '../lib/kvm_util/x86/nested_vm.ts';
import { guest_irq_handler, inhibit_apicv, linkX2apic, VECTORS } from './nested_x2apic/guest.ts';

/** __test_x2apic_intercepts(). */
function* testX2apicIntercepts(
  backend: Backend,
  inhibit: 'inhibit' | 'keep',
  print: (line: string) => void,
): Steps<void> {
  const [vm, vcpu] = yield* vmCreateWithL1(backend, { image: linkX2apic() });
  for (const vector of VECTORS) vmInstallExceptionHandler(vm, vector, guest_irq_handler.symbol);
  writeGuestGlobal(vm, inhibit_apicv.symbol, inhibit === 'inhibit' ? 1n : 0n);
  yield* runUntilDone(vcpu, print);
  yield* kvmVmFree(vm);
}

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  yield* testX2apicIntercepts(backend, 'inhibit', print);
  yield* testX2apicIntercepts(backend, 'keep', print);
}

export const selftest: Selftest = {
  name: 'nested_x2apic_test',
  summary: "L1's x2APIC after L2 had it in its hands",
  upstream: 'x86/nested_x2apic_test.c',
  run,
};
