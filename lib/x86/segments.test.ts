// SPDX-License-Identifier: GPL-2.0-only
/** Descriptor formats. Expected words: SDM, "Segment Descriptors", and the flat descriptors of Linux's GDT. */
import { describe, expect, it } from 'vitest';
import {
  AR,
  descriptorAr,
  descriptorBase,
  descriptorLimit,
  encodeDescriptor,
  encodeGate64,
  SYS_TYPE,
} from './segments.ts';

describe('Segment descriptors', () => {
  it('encode the flat segments of the Linux kernel', () => {
    const code = encodeDescriptor(0, 0xffff_ffff, AR.P | AR.S | 0xb | AR.L);
    const data = encodeDescriptor(0, 0xffff_ffff, AR.P | AR.S | 0x3 | AR.DB);
    expect(code.map((word) => word >>> 0)).toEqual([0x0000_ffff, 0x00af_9b00]);
    expect(data.map((word) => word >>> 0)).toEqual([0x0000_ffff, 0x00cf_9300]);
  });

  it('give base, limit and rights back', () => {
    const [lo, hi] = encodeDescriptor(0x8765_4321, 0x1234, AR.P | AR.AVL | 0x9);
    expect(descriptorBase(lo, hi) >>> 0).toBe(0x8765_4321);
    expect(descriptorLimit(lo, hi)).toBe(0x1234);
    expect(descriptorAr(hi)).toBe(AR.P | AR.AVL | 0x9);
    const big = encodeDescriptor(0, 0x12_3456, AR.P);
    expect(descriptorLimit(...big)).toBe(0x12_3fff);
    expect(descriptorAr(big[1])).toBe(AR.P | AR.G);
  });
});

describe('64-bit gates', () => {
  it('split the offset in three and carry selector, type, DPL and IST', () => {
    const gate = encodeGate64(SYS_TYPE.TRAP_GATE64, 0x10, 0xffff_8765_4321_abcdn, 3, 5);
    expect(gate.map((word) => word >>> 0)).toEqual([0x0010_abcd, 0x4321_ef05, 0xffff_8765, 0]);
  });
});
