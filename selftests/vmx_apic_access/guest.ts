// SPDX-License-Identifier: GPL-2.0-only
/** L1 and L2 of vmx_apic_access_test. After x86/vmx_apic_access_test.c of the KVM selftests; the exits are added. */
import {
  array,
  at,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_SYNC,
  type GuestCode,
  guestFn,
  guestGlobal,
  type GuestImage,
  guestUnit,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  READ_ONCE,
  u32,
  u64,
  vmcall,
  vmcs_set_bits,
  vmlaunch,
  vmreadz,
  vmresume,
  vmwrite,
  VmxPages,
} from '../../lib/guest/index.ts';
import { APIC_REG } from '../../lib/x86/apic.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../lib/x86/vmx/controls.ts';
import { APIC_ACCESS_QUAL } from '../../lib/x86/vmx/exit_quals.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';

const L2_GUEST_STACK_SIZE = 64;
const UNTOUCHED = 0x5a5a_5a5a;

/** The APIC-access page as L1 and L2 see it: they share their page tables. */
const apic_page = guestGlobal('apic_page', u64);

const l2_guest_code = guestUnit('L2').fn('l2_guest_code', [], (g) => {
  const value = g.local(u32);
  vmcall(g);
  g.set(value, READ_ONCE(at(u32, apic_page.add(APIC_REG.ID))));
  g.set(at(u32, apic_page.add(APIC_REG.TASKPRI)), value);
  vmcall(g);
});

function skipInstruction(g: GuestCode, reason: number): void {
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), reason);
  const length = vmreadz(g, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN);
  vmwrite(g, VMCS_GUEST.RIP, vmreadz(g, VMCS_GUEST.RIP).add(length));
}

/** L2's next exit is an access to the page. */
function expectAccess(g: GuestCode, type: number, offset: number): void {
  GUEST_ASSERT_EQ(g, vmresume(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.EXIT_QUALIFICATION), type | offset);
  skipInstruction(g, EXIT_REASON.APIC_ACCESS);
}

const l1_guest_code = guestFn('l1_guest_code', [ptr(VmxPages), u64], (g, vmx_pages, high_gpa) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  const { APIC_ACCESS_ADDR } = VMCS_CTRL;
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx_pages));
  GUEST_ASSERT(g, load_vmcs(g, vmx_pages));
  prepare_vmcs(g, vmx_pages, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.ACTIVATE_SECONDARY_CONTROLS);
  vmcs_set_bits(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES);
  vmwrite(g, APIC_ACCESS_ADDR, vmx_pages.f.apic_access_gpa);

  g.set(apic_page, vmx_pages.f.apic_access.cast(u64));
  g.set(at(u32, apic_page.add(APIC_REG.TASKPRI)), UNTOUCHED);

  // With memory behind the address.
  GUEST_SYNC(g, vmreadz(g, APIC_ACCESS_ADDR));
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  skipInstruction(g, EXIT_REASON.VMCALL);
  expectAccess(g, APIC_ACCESS_QUAL.TYPE_READ, APIC_REG.ID);
  expectAccess(g, APIC_ACCESS_QUAL.TYPE_WRITE, APIC_REG.TASKPRI);
  GUEST_ASSERT_EQ(g, at(u32, apic_page.add(APIC_REG.TASKPRI)), UNTOUCHED);

  // Without.
  vmwrite(g, APIC_ACCESS_ADDR, high_gpa);
  GUEST_SYNC(g, vmreadz(g, APIC_ACCESS_ADDR));
  GUEST_ASSERT_EQ(g, vmresume(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);
  GUEST_DONE(g);
});

export const linkApicAccess = (): GuestImage => linkGuest(l1_guest_code);
