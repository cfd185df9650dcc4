// SPDX-License-Identifier: GPL-2.0-only
/** L1, L2 and the interrupt handlers of vmx_apicv_updates_test. After x86/vmx_apicv_updates_test.c of the KVM selftests. */
import {
  array,
  ExRegs,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_ASSERT_NE,
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
  rdmsr,
  sti_nop,
  u32,
  u64,
  vmcall,
  vmcs_set_bits,
  vmlaunch,
  vmreadz,
  vmresume,
  vmwrite,
  VmxPages,
  x2apic_enable,
  x2apic_read_reg,
  x2apic_write_reg,
  xapic_enable,
  xapic_read_reg,
  xapic_write_reg,
} from '../../lib/guest/index.ts';
import { APIC_DEST, APIC_DM, APIC_REG, APICBASE } from '../../lib/x86/apic.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { CPU_BASED } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';

export const GOOD_IPI_VECTOR = 0xe0;
export const BAD_IPI_VECTOR = 0xf0;

const L2_GUEST_STACK_SIZE = 64;
const MODIFIED_APIC_ID = 1 << 24;
/** The in-service register and bit of the good vector. */
const GOOD_ISR = APIC_REG.ISR + ((GOOD_IPI_VECTOR >> 5) << 4);
const GOOD_BIT = 1 << (GOOD_IPI_VECTOR & 31);

const good_ipis_received = guestGlobal('good_ipis_received', u32);

export const good_ipi_handler = guestFn('good_ipi_handler', [ptr(ExRegs)], (g) => {
  g.inc(good_ipis_received);
});

export const bad_ipi_handler = guestFn('bad_ipi_handler', [ptr(ExRegs)], (g) => {
  GUEST_FAIL(g, 'Received "bad" IPI; ICR MMIO write should have been ignored');
});

const l2_guest_code = guestUnit('L2').fn('l2_guest_code', [], (g) => {
  x2apic_enable(g);
  vmcall(g);
  xapic_enable(g);
  xapic_write_reg(g, APIC_REG.ID, MODIFIED_APIC_ID);
  vmcall(g);
});

const selfIpi = (g: GuestCode, vector: number): void =>
  xapic_write_reg(g, APIC_REG.ICR, APIC_DEST.SELF | APIC_DM.FIXED | vector);

const expectVmcall = (g: GuestCode): void =>
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);

/** An interrupt is received and stays in service, since nobody writes EOI. */
function receiveWithoutEoi(g: GuestCode): void {
  // The APIC ID that is not the vCPU's own would inhibit APICv.
  xapic_enable(g);
  xapic_write_reg(g, APIC_REG.ID, MODIFIED_APIC_ID);
  selfIpi(g, GOOD_IPI_VECTOR);
  GUEST_ASSERT_EQ(g, xapic_read_reg(g, APIC_REG.ID), MODIFIED_APIC_ID);
  sti_nop(g);
  GUEST_ASSERT_EQ(g, good_ipis_received, 1);
}

/** After L2 has turned x2APIC mode on: the page is no APIC any more, and the interrupt is still in service. */
function inX2apicMode(g: GuestCode): void {
  GUEST_ASSERT_NE(g, rdmsr(g, MSR.IA32_APICBASE).and(APICBASE.EXTD), 0);
  xapic_write_reg(g, APIC_REG.ICR2, 0xdead_beef);
  selfIpi(g, BAD_IPI_VECTOR);
  GUEST_ASSERT_EQ(g, x2apic_read_reg(g, GOOD_ISR), GOOD_BIT);
  x2apic_write_reg(g, APIC_REG.EOI, 0);
  GUEST_ASSERT_EQ(g, x2apic_read_reg(g, GOOD_ISR), 0);
}

/** After L2 has turned xAPIC mode on again. */
function inXapicMode(g: GuestCode): void {
  GUEST_ASSERT_EQ(g, rdmsr(g, MSR.IA32_APICBASE).and(APICBASE.EXTD), 0);
  selfIpi(g, GOOD_IPI_VECTOR);
  // The VM exit has cleared RFLAGS.IF.
  sti_nop(g);
  GUEST_ASSERT_EQ(g, good_ipis_received, 2);
  GUEST_ASSERT_EQ(g, xapic_read_reg(g, GOOD_ISR), GOOD_BIT);
  xapic_write_reg(g, APIC_REG.EOI, 0);
  GUEST_ASSERT_EQ(g, xapic_read_reg(g, GOOD_ISR), 0);
}

const l1_guest_code = guestFn('l1_guest_code', [ptr(VmxPages)], (g, vmx_pages) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx_pages));
  GUEST_ASSERT(g, load_vmcs(g, vmx_pages));
  prepare_vmcs(g, vmx_pages, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.USE_MSR_BITMAPS);
  receiveWithoutEoi(g);
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  expectVmcall(g);
  vmwrite(g, VMCS_GUEST.RIP, vmreadz(g, VMCS_GUEST.RIP).add(vmreadz(g, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN)));
  inX2apicMode(g);
  GUEST_ASSERT_EQ(g, vmresume(g), 0);
  expectVmcall(g);
  inXapicMode(g);
  GUEST_DONE(g);
});

export const linkApicvUpdates = (): GuestImage => linkGuest(l1_guest_code, good_ipi_handler, bad_ipi_handler);
