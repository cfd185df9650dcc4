// SPDX-License-Identifier: GPL-2.0-only
/**
 * The VMX capability MSRs and IA32_FEATURE_CONTROL as userspace may restrict them. After x86/vmx_msrs_test.c of the KVM
 * selftests. Adds to upstream: what KVM does not support cannot be turned on, the MSRs derived from others and those that are
 * fixed, what the guest reads, and that the guest cannot write.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { kvmCpuHas } from '../lib/kvm_util/x86/cpuid.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { X86_FEATURE } from '../lib/x86/cpuid.ts';
import { ia32FeatureControlMsrTest } from './vmx_msrs/feature_control.ts';
import { guestMsrTest, linkVmxMsrs } from './vmx_msrs/guest.ts';
import { unsupportedBitsTest, vmxSaveRestoreMsrsTest } from './vmx_msrs/save_restore.ts';

function* run({ backend, args }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(
    backend.kvm.checkExtension(KVM_CAP.DISABLE_QUIRKS2) > 0,
    'kvm_has_cap(KVM_CAP_DISABLE_QUIRKS2)',
  );
  TEST_REQUIRE(kvmCpuHas(backend, X86_FEATURE.VMX), 'kvm_cpu_has(X86_FEATURE_VMX)');
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkVmxMsrs() });
  vmxSaveRestoreMsrsTest(vcpu);
  unsupportedBitsTest(vcpu);
  ia32FeatureControlMsrTest(vcpu);
  yield* guestMsrTest(vcpu);
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'vmx_msrs_test',
  summary: 'VMX capability MSRs and IA32_FEATURE_CONTROL: what userspace may change, what the guest sees',
  upstream: 'x86/vmx_msrs_test.c',
  run,
};
