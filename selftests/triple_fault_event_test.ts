// SPDX-License-Identifier: GPL-2.0-only
/**
 * A triple fault that userspace makes pending while L2 runs is L1's VM exit. After x86/triple_fault_event_test.c of the KVM
 * selftests, its VMX half. Adds to upstream: the event is gone after it was delivered, and without the capability the flag is
 * refused.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import {
  array,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
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
  vmreadz,
  VmxPages,
} from '../lib/guest/index.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { plainIoctlErrno, TEST_ASSERT_ERRNO } from '../lib/kvm_util/ioctl_errno.ts';
import { kvmVmFree, type KvmVcpu } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { TEST_ASSERT_KVM_EXIT_REASON, vcpuRun, vcpuRunCompleteIo } from '../lib/kvm_util/ucall_common.ts';
import { runUntilDone, vmCreateWithL1 } from '../lib/kvm_util/x86/nested_vm.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { KVM_EXIT } from '../lib/uapi/run.ts';
import { KVM_VCPUEVENT_VALID } from '../lib/uapi/vcpu_state.ts';
import { EXIT_REASON } from '../lib/x86/vmx/exit_reasons.ts';
import { VMCS_INFO } from '../lib/x86/vmx/vmcs_info.ts';

const ARBITRARY_IO_PORT = 0x2000;
const L2_GUEST_STACK_SIZE = 64;

const l2_guest_code = guestUnit('L2').fn('l2_guest_code', [], (g) => {
  inb(g, ARBITRARY_IO_PORT);
});

const l1_guest_code = guestFn('l1_guest_code', [ptr(VmxPages)], (g, vmx) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, vmx.f.vmcs_gpa.ne(0));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
  GUEST_ASSERT(g, load_vmcs(g, vmx));
  prepare_vmcs(g, vmx, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.TRIPLE_FAULT);
  GUEST_DONE(g);
});

/** KVM_SET_VCPU_EVENTS with a pending triple fault. */
function setTripleFault(vcpu: KvmVcpu): void {
  const events = vcpu.fd.getVcpuEvents();
  events.flags |= KVM_VCPUEVENT_VALID.TRIPLE_FAULT;
  events.triple_fault.pending = 1;
  vcpu.fd.setVcpuEvents(events);
}

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(
    backend.kvm.checkExtension(KVM_CAP.X86_TRIPLE_FAULT_EVENT) > 0,
    'kvm_has_cap(KVM_CAP_X86_TRIPLE_FAULT_EVENT)',
  );
  const [vm, vcpu] = yield* vmCreateWithL1(backend, { image: linkGuest(l1_guest_code) });
  TEST_ASSERT_ERRNO(
    plainIoctlErrno(() => setTripleFault(vcpu)),
    'EINVAL',
    'KVM_SET_VCPU_EVENTS without KVM_CAP_X86_TRIPLE_FAULT_EVENT',
  );
  yield* vm.fd.enableCap({ cap: KVM_CAP.X86_TRIPLE_FAULT_EVENT, flags: 0, args: [1n] });

  yield* vcpuRun(vcpu);
  TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT.IO);
  TEST_ASSERT_EQ(vcpu.fd.run.io.port, ARBITRARY_IO_PORT, 'port of the IN from L2');
  setTripleFault(vcpu);
  yield* vcpuRunCompleteIo(vcpu);
  const events = vcpu.fd.getVcpuEvents();
  TEST_ASSERT((events.flags & KVM_VCPUEVENT_VALID.TRIPLE_FAULT) !== 0, 'Triple fault event invalid');
  TEST_ASSERT(events.triple_fault.pending !== 0, 'No triple fault pending');
  yield* runUntilDone(vcpu, print);
  TEST_ASSERT_EQ(vcpu.fd.getVcpuEvents().triple_fault.pending, 0, 'triple_fault.pending after its delivery');
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'triple_fault_event_test',
  summary: 'a pending triple fault of L2 becomes a VM exit of L1',
  upstream: 'x86/triple_fault_event_test.c',
  run,
};
