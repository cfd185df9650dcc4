// SPDX-License-Identifier: GPL-2.0-only
/**
 * Userspace gives L2, which runs without unrestricted guest, a state that no VM entry takes: L1 sees a triple fault, since KVM
 * emulates invalid guest state for L1 only. After x86/vmx_invalid_nested_guest_state.c of the KVM selftests. Adds to upstream:
 * kvm_run says that L2 was running, and the state that L1 reads after the exit is the invalid one.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import {
  array,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_ASSERT_NE,
  GUEST_DONE,
  guestFn,
  type GuestImage,
  guestUnit,
  inb,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  u64,
  vmlaunch,
  vmreadz,
  VmxPages,
} from '../lib/guest/index.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { runUntilUcall, TEST_ASSERT_KVM_EXIT_REASON, vcpuRun } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { kvmCpuHas } from '../lib/kvm_util/x86/cpuid.ts';
import { vcpuArgsSet } from '../lib/kvm_util/x86/processor.ts';
import { vcpuAllocVmx } from '../lib/kvm_util/x86/vmx.ts';
import { KVM_EXIT, KVM_RUN_X86 } from '../lib/uapi/run.ts';
import { X86_FEATURE } from '../lib/x86/cpuid.ts';
import { SECONDARY_EXEC } from '../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../lib/x86/vmx/exit_reasons.ts';
import { VMX_AR } from '../lib/x86/vmx/guest_state.ts';
import { VMCS_CTRL } from '../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../lib/x86/vmx/vmcs_info.ts';

const ARBITRARY_IO_PORT = 0x2000;
const L2_GUEST_STACK_SIZE = 64;

const l2_guest_code = guestUnit('L2').fn('l2_guest_code', [], (g) => {
  inb(g, ARBITRARY_IO_PORT);
});

const l1_guest_code = guestFn('l1_guest_code', [ptr(VmxPages)], (g, vmx_pages) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx_pages));
  GUEST_ASSERT(g, load_vmcs(g, vmx_pages));
  prepare_vmcs(g, vmx_pages, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  // With unrestricted guest more states would be valid.
  const secondary = vmreadz(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL);
  GUEST_ASSERT_EQ(g, secondary.and(SECONDARY_EXEC.UNRESTRICTED_GUEST), 0);
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.TRIPLE_FAULT);
  GUEST_ASSERT_NE(g, vmreadz(g, VMCS_GUEST.TR_AR_BYTES).and(VMX_AR.UNUSABLE_MASK), 0);
  GUEST_DONE(g);
});

const image = (): GuestImage => linkGuest(l1_guest_code);

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(kvmCpuHas(backend, X86_FEATURE.VMX), 'kvm_cpu_has(X86_FEATURE_VMX)');
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: image() });
  vcpuArgsSet(vcpu, vcpuAllocVmx(vm));
  yield* vcpuRun(vcpu);
  TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT.IO);
  const { run } = vcpu.fd;
  TEST_ASSERT(
    run.io.port === ARBITRARY_IO_PORT,
    () => `Expected IN from port ${ARBITRARY_IO_PORT} from L2, got port ${run.io.port}`,
  );
  TEST_ASSERT((run.flags & KVM_RUN_X86.GUEST_MODE) !== 0, 'kvm_run.flags does not say that L2 was running');
  const sregs = vcpu.fd.getSregs();
  vcpu.fd.setSregs({ ...sregs, tr: { ...sregs.tr, unusable: 1 } });
  TEST_ASSERT_EQ((yield* runUntilUcall(vcpu, print)).cmd, UCALL.DONE, 'ucall');
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'vmx_invalid_nested_guest_state',
  summary: 'invalid state that userspace gives L2 is a triple fault for L1',
  upstream: 'x86/vmx_invalid_nested_guest_state.c',
  run,
};
