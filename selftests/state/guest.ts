// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1 and L2 of state_test: each GUEST_SYNC is a migration. After vmx_l1_guest_code() and vmx_l2_guest_code() of
 * x86/state_test.c of the KVM selftests.
 */
import {
  array,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_ASSERT_NE,
  GUEST_DONE,
  GUEST_SYNC,
  type GuestCode,
  guestFn,
  type GuestImage,
  guestUnit,
  linkGuest,
  load_vmcs,
  type Place,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  type PtrType,
  u64,
  vmcall,
  vmlaunch,
  vmptrld,
  vmptrstz,
  vmreadz,
  vmresume,
  vmwrite,
  VmxPages,
} from '../../lib/guest/index.ts';
import { SECONDARY_EXEC } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';

const L2_GUEST_STACK_SIZE = 256;

type Vmx = Place<PtrType<typeof VmxPages>>;

const l2_guest_code = guestUnit('L2').fn('vmx_l2_guest_code', [], (g) => {
  GUEST_SYNC(g, 6);
  vmcall(g);
  // L1 has set up a shadow VMCS by now.
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.RIP), 0xc0ffee);
  GUEST_SYNC(g, 10);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.RIP), 0xc0ffee);
  GUEST_ASSERT_EQ(g, vmwrite(g, VMCS_GUEST.RIP, 0xc0fffee), 0);
  GUEST_SYNC(g, 11);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.RIP), 0xc0fffee);
  GUEST_ASSERT_EQ(g, vmwrite(g, VMCS_GUEST.RIP, 0xc0ffffeen), 0);
  GUEST_SYNC(g, 12);
  vmcall(g);
});

const expectVmcall = (g: GuestCode): void =>
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);

/** A shadow VMCS can be current, but L2 cannot be entered on it. */
function noEntryOnShadow(g: GuestCode): void {
  GUEST_ASSERT_NE(g, vmlaunch(g), 0);
  GUEST_ASSERT_NE(g, vmresume(g), 0);
}

/** Up to the first VM exit, and the launch state that survives the stages. */
function launch(g: GuestCode, vmx: Vmx): void {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, vmx.f.vmcs_gpa.ne(0));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
  GUEST_SYNC(g, 3);
  GUEST_ASSERT(g, load_vmcs(g, vmx));
  GUEST_ASSERT_EQ(g, vmptrstz(g), vmx.f.vmcs_gpa);
  GUEST_SYNC(g, 4);
  GUEST_ASSERT_EQ(g, vmptrstz(g), vmx.f.vmcs_gpa);
  prepare_vmcs(g, vmx, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  GUEST_SYNC(g, 5);
  GUEST_ASSERT_EQ(g, vmptrstz(g), vmx.f.vmcs_gpa);
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_ASSERT_EQ(g, vmptrstz(g), vmx.f.vmcs_gpa);
  expectVmcall(g);
  GUEST_ASSERT_NE(g, vmlaunch(g), 0);
  GUEST_ASSERT_EQ(g, vmresume(g), 0);
  expectVmcall(g);
  GUEST_SYNC(g, 7);
  expectVmcall(g);
  GUEST_ASSERT_EQ(g, vmresume(g), 0);
  expectVmcall(g);
}

/** L2 on a VMCS that links to a shadow VMCS, which L2 reads and writes. */
function shadow(g: GuestCode, vmx: Vmx): void {
  vmwrite(g, VMCS_GUEST.RIP, vmreadz(g, VMCS_GUEST.RIP).add(3));
  vmwrite(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.SHADOW_VMCS);
  vmwrite(g, VMCS_GUEST.VMCS_LINK_POINTER, vmx.f.shadow_vmcs_gpa);
  GUEST_ASSERT_EQ(g, vmptrld(g, vmx.f.shadow_vmcs_gpa), 0);
  GUEST_ASSERT_NE(g, vmlaunch(g), 0);
  GUEST_SYNC(g, 8);
  noEntryOnShadow(g);
  vmwrite(g, VMCS_GUEST.RIP, 0xc0ffee);
  GUEST_SYNC(g, 9);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.RIP), 0xc0ffee);
  GUEST_ASSERT_EQ(g, vmptrld(g, vmx.f.vmcs_gpa), 0);
  GUEST_ASSERT_EQ(g, vmresume(g), 0);
  expectVmcall(g);
  GUEST_ASSERT_EQ(g, vmptrld(g, vmx.f.shadow_vmcs_gpa), 0);
  for (const stage of [13, undefined]) {
    GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.RIP), 0xc0ffffeen);
    noEntryOnShadow(g);
    if (stage !== undefined) GUEST_SYNC(g, stage);
  }
}

const guest_code = guestFn('guest_code', [ptr(VmxPages)], (g, vmx_pages) => {
  GUEST_SYNC(g, 1);
  GUEST_SYNC(g, 2);
  g.if(vmx_pages.ne(0), () => {
    launch(g, vmx_pages);
    shadow(g, vmx_pages);
  });
  GUEST_DONE(g);
});

export const linkState = (): GuestImage => linkGuest(guest_code);
