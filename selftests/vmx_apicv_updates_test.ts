// SPDX-License-Identifier: GPL-2.0-only
/**
 * L2 switches the local APIC, which it shares with L1, between xAPIC and x2APIC mode: L1's view follows, interrupts in service
 * survive, and MMIO in x2APIC mode does nothing. After x86/vmx_apicv_updates_test.c of the KVM selftests. With
 * enable_apicv=0 there is nothing to inhibit; the outcome is the same.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { APIC_DEFAULT_GPA } from '../lib/guest/apic.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { getStat } from '../lib/kvm_util/stats.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { runUntilUcall } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { kvmCpuHas } from '../lib/kvm_util/x86/cpuid.ts';
import { vmInstallExceptionHandler } from '../lib/kvm_util/x86/exceptions.ts';
import { virtPgMap } from '../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../lib/kvm_util/x86/processor.ts';
import { prepareVirtualizeApicAccesses, vcpuAllocVmx } from '../lib/kvm_util/x86/vmx.ts';
import { gpa } from '../lib/x86/addr.ts';
import { X86_FEATURE } from '../lib/x86/cpuid.ts';
import {
  bad_ipi_handler,
  BAD_IPI_VECTOR,
  good_ipi_handler,
  GOOD_IPI_VECTOR,
  linkApicvUpdates,
} from './vmx_apicv_updates/guest.ts';

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(kvmCpuHas(backend, X86_FEATURE.VMX), 'kvm_cpu_has(X86_FEATURE_VMX)');
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkApicvUpdates() });
  const vmx = vcpuAllocVmx(vm);
  prepareVirtualizeApicAccesses(vm, vmx);
  vcpuArgsSet(vcpu, vmx);
  virtPgMap(vm, BigInt(APIC_DEFAULT_GPA), gpa(APIC_DEFAULT_GPA));
  vmInstallExceptionHandler(vm, BAD_IPI_VECTOR, bad_ipi_handler.symbol);
  vmInstallExceptionHandler(vm, GOOD_IPI_VECTOR, good_ipi_handler.symbol);
  TEST_ASSERT_EQ((yield* runUntilUcall(vcpu, print)).cmd, UCALL.DONE, 'ucall');
  const injections = getStat(vcpu.fd.statsFd(), 'irq_injections');
  TEST_ASSERT(injections >= 2n, () => `Wanted at least 2 IRQ injections, got ${injections}`);
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'vmx_apicv_updates_test',
  summary: "L2 switches the APIC's mode under L1, with an interrupt in service",
  upstream: 'x86/vmx_apicv_updates_test.c',
  run,
};
