// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1 and L2 of nested_exceptions_test: L2 has an empty IDT and asks userspace for SS; L1 intercepts less and less of what follows.
 * After x86/nested_exceptions_test.c of the KVM selftests.
 */
import {
  array,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_SYNC,
  type GuestCode,
  guestFn,
  type GuestImage,
  guestUnit,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  u64,
  vmlaunch,
  vmreadz,
  vmresume,
  vmwrite,
  VmxPages,
} from '../../lib/guest/index.ts';
import type { FnLinkable } from '../../lib/guest/index.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';

/** No vector of this test: stands for the triple fault. */
export const FAKE_TRIPLE_FAULT_VECTOR = 0xaa;
/** What userspace gives with SS; a processor has no error code with bits above 15. */
export const SS_ERROR_CODE = 0xdead_beef;

const L2_GUEST_STACK_SIZE = 256;
/** EXT and IDT: during the delivery of SS, whose gate is beyond the IDT's limit. SDM, "Error Code". */
const GP_ERROR_CODE = (VECTOR.SS * 8) | 0x2 | 0x1;
const DF_ERROR_CODE = 0;

const INTERCEPT_SS = 1 << VECTOR.SS;
const INTERCEPT_SS_DF = INTERCEPT_SS | (1 << VECTOR.DF);
const INTERCEPT_SS_GP_DF = INTERCEPT_SS_DF | (1 << VECTOR.GP);

const l2Asks = (name: string, vector: number) => guestUnit('L2').fn(name, [], (g) => GUEST_SYNC(g, vector));

const l2_ss_pending_test = l2Asks('l2_ss_pending_test', VECTOR.SS);
const l2_ss_injected_gp_test = l2Asks('l2_ss_injected_gp_test', VECTOR.GP);
const l2_ss_injected_df_test = l2Asks('l2_ss_injected_df_test', VECTOR.DF);
const l2_ss_injected_tf_test = l2Asks('l2_ss_injected_tf_test', FAKE_TRIPLE_FAULT_VECTOR);

/** vmx_run_l2(): the code's SYNC, and then the exit that must follow. */
function runL2(g: GuestCode, code: FnLinkable, vector: number, errorCode: number): void {
  GUEST_ASSERT_EQ(g, vmwrite(g, VMCS_GUEST.RIP, code), 0);
  GUEST_ASSERT_EQ(g, vector === VECTOR.SS ? vmlaunch(g) : vmresume(g), 0);
  if (vector === FAKE_TRIPLE_FAULT_VECTOR) return;
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.EXCEPTION_NMI);
  const info = vmreadz(g, VMCS_INFO.VM_EXIT_INTR_INFO);
  GUEST_ASSERT_EQ(g, info.and(INTR_INFO.VECTOR_MASK), vector);
  GUEST_ASSERT_EQ(g, info.and(INTR_INFO.INTR_TYPE_MASK), INTR_TYPE.HARD_EXCEPTION);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_INTR_ERROR_CODE), errorCode);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.INTERRUPTIBILITY_INFO), 0);
}

const intercept = (g: GuestCode, bitmap: number): void =>
  GUEST_ASSERT_EQ(g, vmwrite(g, VMCS_CTRL.EXCEPTION_BITMAP, bitmap), 0);

const l1_vmx_code = guestFn('l1_vmx_code', [ptr(VmxPages)], (g, vmx) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
  GUEST_ASSERT(g, load_vmcs(g, vmx));
  prepare_vmcs(g, vmx, 0, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  GUEST_ASSERT_EQ(g, vmwrite(g, VMCS_GUEST.IDTR_LIMIT, 0), 0);

  intercept(g, INTERCEPT_SS_GP_DF);
  runL2(g, l2_ss_pending_test, VECTOR.SS, SS_ERROR_CODE & 0xffff);
  runL2(g, l2_ss_injected_gp_test, VECTOR.GP, GP_ERROR_CODE);
  intercept(g, INTERCEPT_SS_DF);
  runL2(g, l2_ss_injected_df_test, VECTOR.DF, DF_ERROR_CODE);
  intercept(g, INTERCEPT_SS);
  runL2(g, l2_ss_injected_tf_test, FAKE_TRIPLE_FAULT_VECTOR, 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.TRIPLE_FAULT);
  GUEST_DONE(g);
});

export const linkExceptions = (): GuestImage => linkGuest(l1_vmx_code);
