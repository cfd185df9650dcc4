// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest halves of xapic_state_test: write the ICR value that the host has put into the IRR. After
 * x86/xapic_state_test.c of the KVM selftests; the local vector table is added.
 */
import { APIC_REG, X2APIC_ICR_RSVD } from '../../lib/x86/apic.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import {
  cli,
  guestFn,
  GUEST_ASSERT_EQ,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  imm,
  linkGuest,
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

export const xapic_guest_code = guestFn('xapic_guest_code', [], (g) => {
  const val = g.local(u64);
  cli(g);
  xapic_enable(g);
  g.loop(() => {
    const low = xapic_read_reg(g, APIC_REG.IRR);
    const high = xapic_read_reg(g, APIC_REG.IRR + 0x10);
    g.set(val, low.cast(u64).or(high.cast(u64).shl(32)));
    xapic_write_reg(g, APIC_REG.ICR2, val.shr(32));
    xapic_write_reg(g, APIC_REG.ICR, val);
    GUEST_SYNC(g, val);
  });
});

export const x2apic_guest_code = guestFn('x2apic_guest_code', [], (g) => {
  const val = g.local(u64);
  cli(g);
  x2apic_enable(g);
  g.loop(() => {
    const low = x2apic_read_reg(g, APIC_REG.IRR);
    g.set(val, low.or(x2apic_read_reg(g, APIC_REG.IRR + 0x10).shl(32)));
    g.if(
      val.and(imm(u64, X2APIC_ICR_RSVD)).ne(0),
      () => GUEST_ASSERT_EQ(g, x2apic_write_reg_safe(g, APIC_REG.ICR, val), VECTOR.GP),
      () => {
        x2apic_write_reg(g, APIC_REG.ICR, val);
        GUEST_ASSERT_EQ(g, x2apic_read_reg(g, APIC_REG.ICR), val);
      },
    );
    GUEST_SYNC(g, val);
  });
});

/** Entries of the local vector table that every local APIC has had since the Pentium 4, but the timer's. */
export const LVT = ['LVTTHMR', 'LVTPC', 'LVT0', 'LVT1', 'LVTERR'] as const;

/** All bits but delivery status and remote IRR, which are read-only for software and not for KVM. */
export const LVT_PATTERN = 0xffff_afff;

/** Writes the pattern to each entry, reports what is read back, and turns the APIC off by software. */
export const lvt_guest_code = guestFn('lvt_guest_code', [], (g) => {
  cli(g);
  xapic_enable(g);
  for (const name of LVT) {
    xapic_write_reg(g, APIC_REG[name], LVT_PATTERN);
    const set = xapic_read_reg(g, APIC_REG[name]);
    xapic_write_reg(g, APIC_REG[name], 0);
    GUEST_SYNC_ARGS(g, 0, set, xapic_read_reg(g, APIC_REG[name]), 0, 0);
  }
  xapic_write_reg(g, APIC_REG.SPIV, imm(u32, 0xff));
  for (const name of LVT) {
    const off = xapic_read_reg(g, APIC_REG[name]);
    xapic_write_reg(g, APIC_REG[name], 0x30);
    GUEST_SYNC_ARGS(g, 1, off, xapic_read_reg(g, APIC_REG[name]), 0, 0);
  }
});

export const linkXapicState = () => linkGuest(xapic_guest_code, x2apic_guest_code, lvt_guest_code);
