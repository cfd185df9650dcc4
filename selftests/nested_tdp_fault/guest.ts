// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1 and L2 of nested_tdp_fault_test. L2 makes one access, by OUTS or INS, which L0 emulates, or by MOV, which the processor
 * carries out; L1 checks the EPT violation. After x86/nested_tdp_fault_test.c of the KVM selftests.
 */
import {
  __GUEST_ASSERT,
  array,
  at,
  fixed,
  fnPtr,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_FAIL,
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
  u64,
  u8,
  vmlaunch,
  vmreadz,
  VmxPages,
  WRITE_ONCE,
} from '../../lib/guest/index.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';

export const TEST_IO_PORT = 0x80;
const L2_GUEST_STACK_SIZE = 64;
const L2 = guestUnit('L2').fn;

export const l2_test_page = guestGlobal('l2_test_page', u64);
export const l2_entry = guestGlobal('l2_entry', fnPtr([]));

const notReached = (g: GuestCode): void => GUEST_FAIL(g, 'L2 should not reach here');

export const l2_guest_code_outs = L2('l2_guest_code_outs', [], (g) => {
  g.asm({
    in: { page: fixed('rsi', l2_test_page), port: fixed('rdx', TEST_IO_PORT) },
    clobbers: ['rsi'],
    emit: (a) => a.emit('outsb'),
  });
  notReached(g);
});

export const l2_guest_code_ins = L2('l2_guest_code_ins', [], (g) => {
  g.asm({
    in: { page: fixed('rdi', l2_test_page), port: fixed('rdx', TEST_IO_PORT) },
    clobbers: ['rdi'],
    emit: (a) => a.emit('insb'),
  });
  notReached(g);
});

export const l2_guest_code_load = L2('l2_guest_code_load', [], (g) => {
  g.local(u8, READ_ONCE(at(u8, l2_test_page)));
  const value = g.local(u8, READ_ONCE(at(u8, l2_test_page)));
  GUEST_FAIL(g, 'L2 should not have read 0x%x', value);
});

export const l2_guest_code_store = L2('l2_guest_code_store', [], (g) => {
  WRITE_ONCE(g, at(u8, l2_test_page), 1);
  notReached(g);
});

const l1_vmx_code = guestFn('l1_vmx_code', [ptr(VmxPages), u64, u64], (g, vmx, fault_gpa, qualification) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, vmx.f.vmcs_gpa.ne(0));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
  GUEST_ASSERT(g, load_vmcs(g, vmx));
  prepare_vmcs(g, vmx, l2_entry, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.EPT_VIOLATION);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.GUEST_PHYSICAL_ADDRESS), fault_gpa);
  const got = vmreadz(g, VMCS_INFO.EXIT_QUALIFICATION);
  const format = "Wanted EXIT_QUAL '0x%lx', got '0x%lx'";
  __GUEST_ASSERT(g, got.eq(qualification), format, qualification, got);
  GUEST_DONE(g);
});

const ENTRIES = [l2_guest_code_outs, l2_guest_code_ins, l2_guest_code_load, l2_guest_code_store] as const;

export const linkTdpFault = (): GuestImage => linkGuest(l1_vmx_code, ...ENTRIES, l2_test_page);
