// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1 and L2 of nested_dirty_log_test. L2 touches two pages, with EPT by aliases of their addresses: an identity map could not
 * tell L1's addresses from L2's. After x86/nested_dirty_log_test.c of the KVM selftests.
 */
import {
  array,
  at,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_SYNC,
  guestFn,
  type GuestImage,
  guestUnit,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  READ_ONCE,
  u64,
  vmcall,
  vmlaunch,
  vmreadz,
  VmxPages,
  WRITE_ONCE,
} from '../../lib/guest/index.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';

export const TEST_MEM_SLOT_INDEX = 1;
/** Two pages that L2 uses and their two aliases; each pair tells the page that is touched from the other. */
export const TEST_MEM_PAGES = 4;
export const TEST_MEM_BASE = 0xc000_0000;
export const TEST_MEM_ALIAS_BASE = 0xc000_2000;
export const TEST_GPA = (page: number): number => TEST_MEM_BASE + page * 4096;
export const TEST_ALIAS_GPA = (page: number): number => TEST_MEM_ALIAS_BASE + page * 4096;

/** What the access before a sync was, in the page offset of its address. */
// prettier-ignore
export const TEST_SYNC = {
  READ_FAULT:  0x1,
  WRITE_FAULT: 0x2,
  NO_FAULT:    0x4,
} as const;

const L2_GUEST_STACK_SIZE = 64;
const L2 = guestUnit('L2').fn;

const l2_guest_code = L2('l2_guest_code', [u64], (g, base) => {
  const value = g.local(u64);
  const page = (n: number) => at(u64, base.add(n * 4096));
  const read = (n: number): void => g.set(value, READ_ONCE(page(n)));
  const sync = (n: number, what: number): void => GUEST_SYNC(g, base.add(n * 4096).or(what));

  read(0);
  sync(0, TEST_SYNC.READ_FAULT);
  WRITE_ONCE(g, page(0), 1);
  sync(0, TEST_SYNC.WRITE_FAULT);
  read(0);
  sync(0, TEST_SYNC.NO_FAULT);

  WRITE_ONCE(g, page(1), 1);
  sync(1, TEST_SYNC.WRITE_FAULT);
  WRITE_ONCE(g, page(1), 1);
  sync(1, TEST_SYNC.WRITE_FAULT);
  read(1);
  sync(1, TEST_SYNC.NO_FAULT);

  // Both again: reading the log has write-protected them.
  WRITE_ONCE(g, page(0), 1);
  sync(0, TEST_SYNC.WRITE_FAULT);
  WRITE_ONCE(g, page(1), 1);
  sync(1, TEST_SYNC.WRITE_FAULT);
  vmcall(g);
});

const l2_guest_code_tdp_enabled = L2('l2_guest_code_tdp_enabled', [], (g) => {
  l2_guest_code(g, TEST_MEM_ALIAS_BASE);
});

const l2_guest_code_tdp_disabled = L2('l2_guest_code_tdp_disabled', [], (g) => {
  l2_guest_code(g, TEST_MEM_BASE);
});

const l1_guest_code = guestFn('l1_guest_code', [ptr(VmxPages)], (g, vmx) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  const l2_rip = g.local(ptr());
  GUEST_ASSERT(g, vmx.f.vmcs_gpa.ne(0));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
  GUEST_ASSERT(g, load_vmcs(g, vmx));
  g.if(
    vmx.f.eptp_gpa.ne(0),
    () => g.set(l2_rip, l2_guest_code_tdp_enabled),
    () => g.set(l2_rip, l2_guest_code_tdp_disabled),
  );
  prepare_vmcs(g, vmx, l2_rip, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  GUEST_SYNC(g, TEST_SYNC.NO_FAULT);
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_SYNC(g, TEST_SYNC.NO_FAULT);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);
  GUEST_DONE(g);
});

export const linkNestedDirtyLog = (): GuestImage => linkGuest(l1_guest_code);
