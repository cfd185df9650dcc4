// SPDX-License-Identifier: GPL-2.0-only
/** L1, L2 and the interrupt handler of nested_x2apic_test. After x86/nested_x2apic_test.c of the KVM selftests. */
import {
  array,
  ExRegs,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
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
  select,
  sti_nop,
  u32,
  u64,
  vmcs_set_bits,
  vmlaunch,
  vmreadz,
  VmxPages,
  wrmsr,
  x2apic_enable,
  x2apic_write_reg,
} from '../../lib/guest/index.ts';
import { APIC_DEST, APIC_ICR, APIC_REG, APICBASE } from '../../lib/x86/apic.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { CPU_BASED } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';

/** Linux's vectors of posted interrupts: those that a KVM with a bug would send to the host. */
export const VECTORS = [0xf2, 0xf1, 0xf0] as const;

const L2_GUEST_STACK_SIZE = 64;
/** GENMASK(11, 0) of IA32_APICBASE: neither the enable bits' upper neighbours nor the address. */
const LOW_BITS = 0xfff;

export const inhibit_apicv = guestGlobal('inhibit_apicv', u64);
const nr_irqs = guestGlobal('nr_irqs', u32);

export const guest_irq_handler = guestFn('guest_irq_handler', [ptr(ExRegs)], (g) => {
  g.inc(nr_irqs);
  x2apic_write_reg(g, APIC_REG.EOI, 0);
});

const l2_guest_code = guestUnit('L2').fn('l2_guest_code', [], (g) => {
  g.if(inhibit_apicv.ne(0), () => wrmsr(g, MSR.IA32_APICBASE, rdmsr(g, MSR.IA32_APICBASE).and(LOW_BITS)));
  g.asm({ clobbers: ['rax', 'rbx', 'rcx', 'rdx'], emit: (a) => a.emit('cpuid') });
});

const l1_vmx_code = guestFn('l1_vmx_code', [ptr(VmxPages)], (g, vmx) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
  GUEST_ASSERT(g, load_vmcs(g, vmx));
  prepare_vmcs(g, vmx, l2_guest_code, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  const controls = vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.USE_MSR_BITMAPS);
  GUEST_ASSERT_EQ(g, controls, 0);
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.CPUID);
});

const l1_guest_code = guestFn('l1_guest_code', [ptr(VmxPages)], (g, vmx) => {
  x2apic_enable(g);
  const before = rdmsr(g, MSR.IA32_APICBASE);
  l1_vmx_code(g, vmx);
  // Both bits of the mode are above bit 9: the mask keeps them, and moves the page to address 0.
  const expected = g.let(select(inhibit_apicv.ne(0), before.and(LOW_BITS), before));
  GUEST_ASSERT_EQ(g, rdmsr(g, MSR.IA32_APICBASE), expected);
  GUEST_ASSERT_EQ(g, expected.and(APICBASE.EXTD), APICBASE.EXTD);
  sti_nop(g);
  for (const vector of VECTORS) {
    x2apic_write_reg(g, APIC_REG.ICR, APIC_DEST.SELF | APIC_ICR.LEVEL_ASSERT | vector);
  }
  GUEST_ASSERT_EQ(g, nr_irqs, VECTORS.length);
  GUEST_DONE(g);
});

export const linkX2apic = (): GuestImage => linkGuest(l1_guest_code, guest_irq_handler, inhibit_apicv);
