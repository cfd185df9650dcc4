// SPDX-License-Identifier: GPL-2.0-only
/**
 * The local APIC from the guest's side, after lib/x86_64/apic.c and include/x86_64/apic.h of tools/testing/selftests/kvm. The host
 * half maps the xAPIC page at its own address first.
 */
import { APIC_BASE_MSR, APIC_REG, APIC_SPIV, APICBASE } from '../x86/apic.ts';
import { MSR } from '../x86/msr.ts';
import type { GuestCode } from './dsl/builder.ts';
import { at, type Expr, lit, type Place } from './dsl/expr.ts';
import { guestFn } from './dsl/function.ts';
import type { Operand } from './dsl/rvalue.ts';
import { type IntType, u32, u64 } from './dsl/types.ts';
import { wrmsr_safe } from './exceptions.ts';
import { rdmsr, wrmsr } from './processor.ts';

/** Where the xAPIC page is after reset, and in the guest's address space. */
export const APIC_DEFAULT_GPA = 0xfee0_0000;
/** A register of the xAPIC page as a place. */
const xapicReg = (reg: Operand): Place<IntType> => at(u32, lit(reg).cast(u64).add(APIC_DEFAULT_GPA));

/** Reads an xAPIC register now. */
export const xapic_read_reg = (g: GuestCode, reg: Operand): Place<IntType> => g.let(xapicReg(reg));

/** Writes an xAPIC register. */
export const xapic_write_reg = (g: GuestCode, reg: Operand, value: Operand): void => {
  g.set(xapicReg(reg), lit(value).cast(u32));
};

const x2apicMsr = (reg: Operand): Expr => lit(reg).cast(u32).shr(4).add(APIC_BASE_MSR);

/** Reads an x2APIC register. */
export const x2apic_read_reg = (g: GuestCode, reg: Operand): Place<IntType> => rdmsr(g, x2apicMsr(reg));

/** Writes an x2APIC register. */
export const x2apic_write_reg = (g: GuestCode, reg: Operand, value: Operand): void => {
  wrmsr(g, x2apicMsr(reg), value);
};

/** Writes an x2APIC register; gives the vector of the fault, or 0. */
export const x2apic_write_reg_safe = (g: GuestCode, reg: Operand, value: Operand): Expr<IntType> =>
  wrmsr_safe(g, x2apicMsr(reg), value);

/** Turns the APIC off altogether. */
export const apic_disable = guestFn('apic_disable', [], (g) => {
  const keep = ~BigInt(APICBASE.ENABLE | APICBASE.EXTD);
  wrmsr(g, MSR.IA32_APICBASE, rdmsr(g, MSR.IA32_APICBASE).and(keep));
});

/** Turns the APIC on in xAPIC mode. */
export const xapic_enable = guestFn('xapic_enable', [], (g) => {
  const { ENABLE, EXTD } = APICBASE;
  const base = rdmsr(g, MSR.IA32_APICBASE);
  // From x2APIC mode there is a way back only through the disabled state.
  g.if(base.and(EXTD), () => apic_disable(g));
  g.if(base.and(EXTD | ENABLE).ne(ENABLE), () =>
    wrmsr(g, MSR.IA32_APICBASE, rdmsr(g, MSR.IA32_APICBASE).or(ENABLE)),
  );
  // Reset clears the software enable bit; it is wanted besides that of the MSR.
  xapic_write_reg(g, APIC_REG.SPIV, xapic_read_reg(g, APIC_REG.SPIV).or(APIC_SPIV.APIC_ENABLED));
});

/** Turns the APIC on in x2APIC mode. */
export const x2apic_enable = guestFn('x2apic_enable', [], (g) => {
  const { ENABLE, EXTD } = APICBASE;
  wrmsr(g, MSR.IA32_APICBASE, rdmsr(g, MSR.IA32_APICBASE).or(ENABLE | EXTD));
  x2apic_write_reg(g, APIC_REG.SPIV, x2apic_read_reg(g, APIC_REG.SPIV).or(APIC_SPIV.APIC_ENABLED));
});

/** Whether this is the bootstrap processor. */
export const get_bsp_flag = (g: GuestCode): Expr<IntType> =>
  rdmsr(g, MSR.IA32_APICBASE).and(APICBASE.BSP).ne(0);
