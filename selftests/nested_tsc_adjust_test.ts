// SPDX-License-Identifier: GPL-2.0-only
/**
 * IA32_TSC_ADJUST follows writes to IA32_TSC, those of an L2 too whose writes L1 does not intercept: they change L1's TSC, not
 * L2's offset. After x86/nested_tsc_adjust_test.c of the KVM selftests, its VMX half. Adds to upstream: the adjustment is what was
 * written, to within the cycles between, and L1 and L2 agree on it.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import {
  array,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_SYNC,
  guestFn,
  guestUnit,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  rdmsr,
  rdtsc,
  s64,
  u64,
  vmcall,
  vmcs_set_bits,
  vmlaunch,
  vmreadz,
  vmwrite,
  VmxPages,
  wrmsr,
} from '../lib/guest/index.ts';
import type { Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, UsageError } from '../lib/kvm_util/test_util.ts';
import { runUntilDone, vmCreateWithL1 } from '../lib/kvm_util/x86/nested_vm.ts';
import { MSR } from '../lib/x86/msr.ts';
import { CPU_BASED } from '../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_INFO } from '../lib/x86/vmx/vmcs_info.ts';

const TSC_ADJUST_VALUE = 1n << 32n;
const TSC_OFFSET_VALUE = -(1n << 48n);
const L2_GUEST_STACK_SIZE = 64;
/** Cycles that may pass between RDTSC and WRMSR of the guest. */
const SLACK = 1_000_000n;

const check_ia32_tsc_adjust = guestFn('check_ia32_tsc_adjust', [s64], (g, max) => {
  const adjust = g.local(s64, rdmsr(g, MSR.IA32_TSC_ADJUST).cast(s64));
  GUEST_SYNC(g, adjust.cast(u64));
  GUEST_ASSERT(g, adjust.le(max));
});

const l2_guest_code = guestUnit('L2').fn('l2_guest_code', [], (g) => {
  const l1_tsc = g.local(u64, rdtsc(g).sub(TSC_OFFSET_VALUE).cast(u64));
  wrmsr(g, MSR.IA32_TSC, l1_tsc.sub(TSC_ADJUST_VALUE));
  check_ia32_tsc_adjust(g, -2n * TSC_ADJUST_VALUE);
  vmcall(g);
});

const l1_guest_code = guestFn('l1_guest_code', [ptr(VmxPages)], (g, vmx_pages) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, rdtsc(g).lt(TSC_ADJUST_VALUE));
  wrmsr(g, MSR.IA32_TSC, rdtsc(g).sub(TSC_ADJUST_VALUE));
  check_ia32_tsc_adjust(g, -TSC_ADJUST_VALUE);

  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx_pages));
  GUEST_ASSERT(g, load_vmcs(g, vmx_pages));
  prepare_vmcs(g, vmx_pages, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  const controls = CPU_BASED.USE_MSR_BITMAPS | CPU_BASED.USE_TSC_OFFSETTING;
  vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, controls);
  vmwrite(g, VMCS_CTRL.TSC_OFFSET, TSC_OFFSET_VALUE);
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);

  check_ia32_tsc_adjust(g, -2n * TSC_ADJUST_VALUE);
  GUEST_DONE(g);
});

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  const [vm, vcpu] = yield* vmCreateWithL1(backend, { image: linkGuest(l1_guest_code) });
  const seen: bigint[] = [];
  yield* runUntilDone(vcpu, print, (uc) => {
    const adjust = BigInt.asIntN(64, uc.args[1]!);
    const parts = `${adjust / TSC_ADJUST_VALUE} * TSC_ADJUST_VALUE + ${adjust % TSC_ADJUST_VALUE}`;
    print(`IA32_TSC_ADJUST is ${adjust} (${parts}).`);
    seen.push(adjust);
  });
  TEST_ASSERT_EQ(seen.length, 3, 'values of IA32_TSC_ADJUST');
  const [first = 0n, second = 0n, third = 0n] = seen;
  TEST_ASSERT(first > -TSC_ADJUST_VALUE - SLACK, () => `L1's write adjusted by ${first}`);
  TEST_ASSERT(second > -2n * TSC_ADJUST_VALUE - 2n * SLACK, () => `L2's write adjusted by ${second}`);
  TEST_ASSERT_EQ(third, second, 'IA32_TSC_ADJUST in L1 after L2');
  yield* kvmVmFree(vm);
}

export const selftest: Selftest = {
  name: 'nested_tsc_adjust_test',
  summary: "IA32_TSC_ADJUST follows L2's writes to IA32_TSC",
  upstream: 'x86/nested_tsc_adjust_test.c',
  run,
};
