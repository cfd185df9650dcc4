// SPDX-License-Identifier: GPL-2.0-only
/** The local APIC as the guest library drives it. Expected: SDM, "Advanced Programmable Interrupt Controller (APIC)". */
import { describe, expect, it } from 'vitest';
import {
  APIC_DEFAULT_GPA,
  apic_disable,
  at,
  get_bsp_flag,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  guestFn,
  rdmsr,
  u32,
  u64,
  x2apic_enable,
  x2apic_read_reg,
  x2apic_write_reg,
  x2apic_write_reg_safe,
  xapic_enable,
  xapic_read_reg,
  xapic_write_reg,
} from '../../lib/guest/index.ts';
import { APIC_REG, APICBASE } from '../../lib/x86/apic.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { run } from './library_box.ts';

describe('the local APIC', () => {
  it('is enabled in xAPIC mode', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      xapic_enable(g);
      xapic_write_reg(g, APIC_REG.TASKPRI, 0x40);
      GUEST_ASSERT_EQ(g, at(u32, APIC_DEFAULT_GPA + APIC_REG.TASKPRI), 0x40);
      GUEST_ASSERT(g, get_bsp_flag(g));
      g.return(xapic_read_reg(g, APIC_REG.SPIV).cast(u64));
    });
    const { result, box } = run(fn);
    expect(box.ucalls.map(({ buffer }) => buffer)).toEqual([]);
    expect(result & 0x100n).toBe(0x100n);
  });

  it('is enabled in x2APIC mode, and comes back through the disabled state', () => {
    const fn = guestFn('guest_code', [], u64, (g) => {
      x2apic_enable(g);
      x2apic_write_reg(g, APIC_REG.TASKPRI, 0x30);
      GUEST_ASSERT_EQ(g, x2apic_read_reg(g, APIC_REG.TASKPRI), 0x30);
      GUEST_ASSERT_EQ(g, x2apic_write_reg_safe(g, APIC_REG.TASKPRI, 1n << 40n), VECTOR.GP);
      xapic_enable(g);
      const mode = rdmsr(g, MSR.IA32_APICBASE).and(APICBASE.ENABLE | APICBASE.EXTD);
      GUEST_ASSERT_EQ(g, mode, APICBASE.ENABLE);
      apic_disable(g);
      g.return(rdmsr(g, MSR.IA32_APICBASE).and(APICBASE.ENABLE));
    });
    const { result, box } = run(fn);
    expect(box.ucalls.map(({ buffer }) => buffer)).toEqual([]);
    expect(result).toBe(0n);
  });
});
