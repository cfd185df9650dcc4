// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1 cannot enter L2 with an invalid CR3, and can with a valid one. After x86/nested_invalid_cr3_test.c of the KVM selftests. Adds to
 * upstream: the exit qualification of the failed entry, that VMLAUNCH is still what must be used after it, and an invalid host
 * CR3, which is no failed entry but VMfailValid.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import {
  array,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  guestFn,
  guestUnit,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  u64,
  vm_instruction_error,
  vmcall,
  vmlaunch,
  vmreadz,
  vmresume,
  vmwrite,
  VMX_STATUS,
  VmxPages,
} from '../lib/guest/index.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { UsageError } from '../lib/kvm_util/test_util.ts';
import { runUntilDone, vmCreateWithL1 } from '../lib/kvm_util/x86/nested_vm.ts';
import { EXIT_REASON, VMX_EXIT_REASONS } from '../lib/x86/vmx/exit_reasons.ts';
import { VMXERR } from '../lib/x86/vmx/insn_errors.ts';
import { VMCS_GUEST } from '../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../lib/x86/vmx/vmcs_info.ts';

const L2_GUEST_STACK_SIZE = 64;
const ALL_ONES = 2n ** 64n - 1n;

const l2_guest_code = guestUnit('L2').fn('l2_guest_code', [], (g) => vmcall(g));

const l1_vmx_code = guestFn('l1_vmx_code', [ptr(VmxPages)], (g, vmx_pages) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx_pages));
  GUEST_ASSERT(g, load_vmcs(g, vmx_pages));
  prepare_vmcs(g, vmx_pages, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());

  const cr3 = vmreadz(g, VMCS_GUEST.CR3);
  vmwrite(g, VMCS_HOST.CR3, ALL_ONES);
  GUEST_ASSERT_EQ(g, vmlaunch(g), VMX_STATUS.FAIL_VALID);
  GUEST_ASSERT_EQ(g, vm_instruction_error(g), VMXERR.ENTRY_INVALID_HOST_STATE_FIELD);
  vmwrite(g, VMCS_HOST.CR3, cr3);

  vmwrite(g, VMCS_GUEST.CR3, ALL_ONES);
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  const failed = (VMX_EXIT_REASONS.FAILED_VMENTRY | EXIT_REASON.INVALID_STATE) >>> 0;
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), failed);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.EXIT_QUALIFICATION), 0);
  GUEST_ASSERT_EQ(g, vmresume(g), VMX_STATUS.FAIL_VALID);
  GUEST_ASSERT_EQ(g, vm_instruction_error(g), VMXERR.VMRESUME_NONLAUNCHED_VMCS);

  vmwrite(g, VMCS_GUEST.CR3, cr3);
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);
  GUEST_DONE(g);
});

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  const [vm, vcpu] = yield* vmCreateWithL1(backend, { image: linkGuest(l1_vmx_code) });
  yield* runUntilDone(vcpu, print);
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'nested_invalid_cr3_test',
  summary: 'L2 is not entered with an invalid CR3',
  upstream: 'x86/nested_invalid_cr3_test.c',
  run,
};
