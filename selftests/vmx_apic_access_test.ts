// SPDX-License-Identifier: GPL-2.0-only
/**
 * The APIC-access address of L2: a page of L1's memory, and an address without memory, for which KVM gives up with an internal
 * error. After x86/vmx_apic_access_test.c of the KVM selftests. Adds to upstream: L2's accesses to the page cause
 * APIC-access exits with offset and type, and its memory stays as it was.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { vmMaxGfn } from '../lib/kvm_util/guest_modes.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import {
  getUcall,
  reportGuestAssert,
  TEST_ASSERT_KVM_EXIT_REASON,
  vcpuRun,
} from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { kvmCpuHas } from '../lib/kvm_util/x86/cpuid.ts';
import { vcpuArgsSet } from '../lib/kvm_util/x86/processor.ts';
import { prepareVirtualizeApicAccesses, vcpuAllocVmx } from '../lib/kvm_util/x86/vmx.ts';
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../lib/uapi/run.ts';
import { X86_FEATURE } from '../lib/x86/cpuid.ts';
import { linkApicAccess } from './vmx_apic_access/guest.ts';

function* run({ backend, args }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(kvmCpuHas(backend, X86_FEATURE.VMX), 'kvm_cpu_has(X86_FEATURE_VMX)');
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkApicAccess() });
  const highGpa = BigInt(vmMaxGfn(backend) - 1) * 4096n;
  const vmx = vcpuAllocVmx(vm);
  prepareVirtualizeApicAccesses(vm, vmx);
  vcpuArgsSet(vcpu, vmx, highGpa);
  const { run } = vcpu.fd;
  let apicAccessAddr = -1n;
  for (;;) {
    yield* vcpuRun(vcpu);
    if (apicAccessAddr === highGpa) {
      TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT.INTERNAL_ERROR);
      TEST_ASSERT(
        run.internal.suberror === KVM_INTERNAL_ERROR.EMULATION,
        () => `Got internal suberror other than KVM_INTERNAL_ERROR_EMULATION: ${run.internal.suberror}`,
      );
      break;
    }
    TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT.IO);
    const uc = getUcall(vcpu);
    if (uc.cmd === UCALL.ABORT) reportGuestAssert(vcpu, uc);
    TEST_ASSERT_EQ(uc.cmd, UCALL.SYNC, 'ucall');
    apicAccessAddr = uc.args[1]!;
  }
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'vmx_apic_access_test',
  summary: "L2's APIC-access address with and without memory behind it",
  upstream: 'x86/vmx_apic_access_test.c',
  run,
};
