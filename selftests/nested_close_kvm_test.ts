// SPDX-License-Identifier: GPL-2.0-only
/**
 * File descriptors that are closed, or left open at the end of the process, while L2 runs. After x86/nested_close_kvm_test.c of the
 * KVM selftests, its VMX half. Adds to upstream: kvm_run says that L2 was running, the VM is also closed by hand, and a
 * VM made after that comes just as far.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import {
  array,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  guestFn,
  guestUnit,
  inb,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  u64,
  vmlaunch,
  VmxPages,
} from '../lib/guest/index.ts';
import type { Backend, Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree, type KvmVm } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_FAIL, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import {
  getUcall,
  reportGuestAssert,
  TEST_ASSERT_KVM_EXIT_REASON,
  vcpuRun,
} from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { kvmCpuHas } from '../lib/kvm_util/x86/cpuid.ts';
import { vcpuArgsSet } from '../lib/kvm_util/x86/processor.ts';
import { vcpuAllocVmx } from '../lib/kvm_util/x86/vmx.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import { KVM_EXIT, KVM_RUN_X86 } from '../lib/uapi/run.ts';
import { X86_FEATURE } from '../lib/x86/cpuid.ts';

const PORT_L0_EXIT = 0x2000;
const L2_GUEST_STACK_SIZE = 64;

const l2_guest_code = guestUnit('L2').fn('l2_guest_code', [], (g) => {
  inb(g, PORT_L0_EXIT);
});

const l1_guest_code = guestFn('l1_guest_code', [ptr(VmxPages)], (g, vmx_pages) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx_pages));
  GUEST_ASSERT(g, load_vmcs(g, vmx_pages));
  prepare_vmcs(g, vmx_pages, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_ASSERT(g, 0);
});

/** A VM that has left L2 for userspace. */
function* runToL2(backend: Backend): Steps<KvmVm> {
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkGuest(l1_guest_code) });
  vcpuArgsSet(vcpu, vcpuAllocVmx(vm));
  yield* vcpuRun(vcpu);
  TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT.IO);
  const { run } = vcpu.fd;
  if (run.io.port !== PORT_L0_EXIT) {
    const uc = getUcall(vcpu);
    if (uc.cmd === UCALL.ABORT) reportGuestAssert(vcpu, uc);
    TEST_FAIL(`Unknown ucall ${uc.cmd}`);
  }
  TEST_ASSERT((run.flags & KVM_RUN_X86.GUEST_MODE) !== 0, 'kvm_run.flags does not say that L2 was running');
  return vm;
}

function* run({ backend, args }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(kvmCpuHas(backend, X86_FEATURE.VMX), 'kvm_cpu_has(X86_FEATURE_VMX)');
  yield* kvmVmFree(yield* runToL2(backend));
  // The process ends with this one open.
  yield* runToL2(backend);
}

export const selftest: Selftest = {
  name: 'nested_close_kvm_test',
  summary: 'a VM is closed, or its process ends, while L2 runs',
  upstream: 'x86/nested_close_kvm_test.c',
  run,
};
