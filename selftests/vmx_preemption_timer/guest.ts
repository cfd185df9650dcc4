// SPDX-License-Identifier: GPL-2.0-only
/** L1 and L2 of vmx_preemption_timer_test. After x86/vmx_preemption_timer_test.c of the KVM selftests. */
import {
  array,
  type Expr,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  type GuestCode,
  guestFn,
  guestGlobal,
  type GuestImage,
  guestUnit,
  lit,
  linkGuest,
  load_vmcs,
  type Operand,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  rdmsr,
  rdtsc,
  u32,
  u64,
  vmcall,
  vmcs_set_bits,
  vmlaunch,
  vmptrstz,
  vmreadz,
  vmresume,
  vmwrite,
  VmxPages,
} from '../../lib/guest/index.ts';
import { VMX_MISC, VMX_MSR } from '../../lib/x86/vmx/capability_msrs.ts';
import { PIN_BASED, VM_EXIT } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';

const L2_GUEST_STACK_SIZE = 64;

const vmx_pt_rate = guestGlobal('vmx_pt_rate', u32);
const l2_save_restore_done = guestGlobal('l2_save_restore_done', u32);
const l2_vmx_pt_start = guestGlobal('l2_vmx_pt_start', u64);
const l2_vmx_pt_finish = guestGlobal('l2_vmx_pt_finish', u64);

/** The TSC at the last tick of the timer. */
const tscOfTick = (g: GuestCode): Expr => rdtsc(g).shr(vmx_pt_rate).shl(vmx_pt_rate);

/** L2 spins to 80 % of the timer's value, is migrated, and spins until the timer ends it. */
const l2GuestCode = (threshold: bigint) =>
  guestUnit('L2').fn('l2_guest_code', [], (g) => {
    vmcall(g);
    g.set(l2_vmx_pt_start, tscOfTick(g));
    g.doWhile(
      () => g.set(l2_vmx_pt_finish, rdtsc(g)),
      () => l2_vmx_pt_finish.sub(l2_vmx_pt_start).shr(vmx_pt_rate).lt(threshold),
    );
    GUEST_SYNC(g, 1);
    g.set(l2_save_restore_done, 1);
    g.loop(() => g.set(l2_vmx_pt_finish, rdtsc(g)));
  });

/** Without both controls there is no test: L1 returns. */
function requireTimer(g: GuestCode): void {
  const may1 = (msr: number): Expr => rdmsr(g, msr).shr(32);
  const pin = may1(VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS).and(PIN_BASED.VMX_PREEMPTION_TIMER);
  g.if(pin.eq(0), () => g.return());
  const exit = may1(VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS).and(VM_EXIT.SAVE_VMX_PREEMPTION_TIMER);
  g.if(exit.eq(0), () => g.return());
}

const deadline = (start: Operand, value: bigint): Expr =>
  lit(start).add(lit(value).cast(u64).shl(vmx_pt_rate));

function startTimer(g: GuestCode, value: bigint): void {
  const pin = vmcs_set_bits(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.VMX_PREEMPTION_TIMER);
  GUEST_ASSERT_EQ(g, pin, 0);
  vmcs_set_bits(g, VMCS_CTRL.VM_EXIT_CONTROLS, VM_EXIT.SAVE_VMX_PREEMPTION_TIMER);
  GUEST_ASSERT_EQ(g, vmwrite(g, VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE, value), 0);
  g.set(vmx_pt_rate, rdmsr(g, VMX_MSR.IA32_VMX_MISC).and(VMX_MISC.PREEMPTION_TIMER_RATE_MASK).cast(u32));
  g.set(l2_save_restore_done, 0);
}

/** L1: L2 up to its VMCALL, then under the timer. */
const l1GuestCode = (value: bigint, l2: ReturnType<typeof l2GuestCode>) =>
  guestFn('l1_guest_code', [ptr(VmxPages)], (g, vmx_pages) => {
    const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
    GUEST_ASSERT(g, vmx_pages.f.vmcs_gpa.ne(0));
    GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx_pages));
    GUEST_ASSERT(g, load_vmcs(g, vmx_pages));
    GUEST_ASSERT_EQ(g, vmptrstz(g), vmx_pages.f.vmcs_gpa);
    prepare_vmcs(g, vmx_pages, l2, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
    requireTimer(g);
    GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
    GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);
    const length = vmreadz(g, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN);
    vmwrite(g, VMCS_GUEST.RIP, vmreadz(g, VMCS_GUEST.RIP).add(length));
    startTimer(g, value);
    const l1_vmx_pt_start = g.local(u64, tscOfTick(g));
    GUEST_ASSERT_EQ(g, vmresume(g), 0);
    const l1_vmx_pt_finish = rdtsc(g);
    GUEST_ASSERT(g, l2_save_restore_done.ne(0));
    GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.PREEMPTION_TIMER);
    // The exit saves what is left.
    GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE), 0);
    GUEST_SYNC_ARGS(
      g,
      2,
      l1_vmx_pt_finish,
      deadline(l1_vmx_pt_start, value),
      l2_vmx_pt_finish,
      deadline(l2_vmx_pt_start, value),
    );
  });

/** The image for a timer value. */
export function linkPreemptionTimer(value: number): GuestImage {
  const l2 = l2GuestCode(BigInt(Math.floor(value * 0.8)));
  const l1 = l1GuestCode(BigInt(value), l2);
  const guest_code = guestFn('guest_code', [ptr(VmxPages)], (g, vmx_pages) => {
    g.if(vmx_pages.ne(0), () => l1(g, vmx_pages));
    GUEST_DONE(g);
  });
  return linkGuest(guest_code);
}
