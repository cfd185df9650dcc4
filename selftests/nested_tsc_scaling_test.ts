// SPDX-License-Identifier: GPL-2.0-only
/**
 * TSC scaling at both levels: L1 is scaled down by userspace, L2 up by L1. After x86/nested_tsc_scaling_test.c of the KVM
 * selftests, its VMX half. A test that draws numbers could not be repeated: instead of one random factor for L1 there are
 * three. Adds to upstream: RDTSC counts at the same rate as RDMSR of IA32_TSC.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import {
  array,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  type GuestCode,
  guestFn,
  guestUnit,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  rdmsr,
  rdtsc,
  u64,
  UCALL,
  ucall,
  vmcall,
  vmcs_set_bits,
  vmlaunch,
  vmreadz,
  vmwrite,
  VmxPages,
} from '../lib/guest/index.ts';
import type { Backend, Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { runUntilUcall } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithL1 } from '../lib/kvm_util/x86/nested_vm.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { MSR } from '../lib/x86/msr.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_INFO } from '../lib/x86/vmx/vmcs_info.ts';

/** L2's factor, as L1 sees it. */
const L2_SCALE_FACTOR = 4n;
/** Upstream draws one from 2 to 10. */
const L1_SCALE_FACTORS = [2n, 7n, 10n] as const;
const TSC_OFFSET_L2 = -33_125_236_320_908n;
const TSC_MULTIPLIER_L2 = L2_SCALE_FACTOR << 48n;
const L2_GUEST_STACK_SIZE = 64;
const SECOND_NS = 1_000_000_000;

const STAGE = { USLEEP: 0, UCHECK_L1: 1, UCHECK_L2: 2 } as const;

/** check_tsc_freq(): how far the TSC counts in a second of userspace's time, by RDMSR and by RDTSC. */
function checkTscFreq(g: GuestCode, level: number): void {
  const byMsr = rdmsr(g, MSR.IA32_TSC);
  const byInsn = rdtsc(g);
  ucall(g, UCALL.SYNC, STAGE.USLEEP, 1);
  const freq = g.let(rdmsr(g, MSR.IA32_TSC).sub(byMsr));
  ucall(g, UCALL.SYNC, level, freq, rdtsc(g).sub(byInsn));
}

const l2_guest_code = guestUnit('L2').fn('l2_guest_code', [], (g) => {
  checkTscFreq(g, STAGE.UCHECK_L2);
  vmcall(g);
});

const l1_vmx_code = guestFn('l1_vmx_code', [ptr(VmxPages)], (g, vmx_pages) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  checkTscFreq(g, STAGE.UCHECK_L1);
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx_pages));
  GUEST_ASSERT(g, load_vmcs(g, vmx_pages));
  prepare_vmcs(g, vmx_pages, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  const controls = CPU_BASED.USE_MSR_BITMAPS | CPU_BASED.USE_TSC_OFFSETTING;
  vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, controls);
  vmcs_set_bits(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.TSC_SCALING);
  vmwrite(g, VMCS_CTRL.TSC_OFFSET, TSC_OFFSET_L2);
  vmwrite(g, VMCS_CTRL.TSC_MULTIPLIER, TSC_MULTIPLIER_L2);
  // The high half has an encoding of its own.
  vmwrite(g, VMCS_CTRL.TSC_MULTIPLIER + 1, TSC_MULTIPLIER_L2 >> 32n);
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);
  checkTscFreq(g, STAGE.UCHECK_L1);
  GUEST_DONE(g);
});

/** compare_tsc_freq(): to within 1 %. */
function compareTscFreq(actual: bigint, expected: bigint, what: string): void {
  const tolerance = expected / 100n;
  TEST_ASSERT(
    actual > expected - tolerance && actual < expected + tolerance,
    () => `${what}: TSC freq is expected to be ${expected} to within 1 % but it actually is ${actual}`,
  );
}

function* testFactor(backend: Backend, factor: bigint, print: (line: string) => void): Steps<void> {
  print(`L1's scale down factor is: ${factor}`);
  print(`L2's scale up factor is: ${L2_SCALE_FACTOR}`);
  const [vm, vcpu] = yield* vmCreateWithL1(backend, { image: linkGuest(l1_vmx_code) });
  const khz = BigInt(vcpu.fd.getTscKhz());
  print(`real TSC frequency is: ${khz * 1000n}`);
  vcpu.fd.setTscKhz(Number(khz / factor));
  let l1 = 0n;
  for (;;) {
    const uc = yield* runUntilUcall(vcpu, print);
    if (uc.cmd === UCALL.DONE) break;
    TEST_ASSERT(uc.cmd === UCALL.SYNC, () => `Unknown ucall ${uc.cmd}`);
    const [stage = 0n, freq = 0n, byInsn = 0n] = uc.args;
    if (Number(stage) === STAGE.USLEEP) {
      yield* backend.threads.sleepNs(Number(freq) * SECOND_NS);
      continue;
    }
    const level = Number(stage) === STAGE.UCHECK_L1 ? 'L1' : 'L2';
    print(`${level}'s TSC frequency is around: ${freq}`);
    if (level === 'L1') l1 = freq;
    compareTscFreq(freq, level === 'L1' ? (khz * 1000n) / factor : l1 * L2_SCALE_FACTOR, level);
    compareTscFreq(byInsn, freq, `${level} by RDTSC`);
  }
  yield* kvmVmFree(vm);
}

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(backend.kvm.checkExtension(KVM_CAP.TSC_CONTROL) > 0, 'kvm_has_cap(KVM_CAP_TSC_CONTROL)');
  for (const factor of L1_SCALE_FACTORS) yield* testFactor(backend, factor, print);
}

export const selftest: Selftest = {
  name: 'nested_tsc_scaling_test',
  summary: 'TSC scaling of L1 by userspace and of L2 by L1',
  upstream: 'x86/nested_tsc_scaling_test.c',
  run,
};
