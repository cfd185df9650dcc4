// SPDX-License-Identifier: GPL-2.0-only
/** Segments that a VM entry without unrestricted guest takes. Expected: SDM, "Checks on Guest Segment Registers", as far as KVM checks. */
import { describe, expect, it } from 'vitest';
import { type KvmSegment, kvmSegment } from '../../../lib/uapi/regs.ts';
import { SEGN } from '../../machine/cpu/state.ts';
import { segmentsValid } from './guest_state_valid.ts';

const usable = { ...kvmSegment(), present: 1, s: 1, g: 1, limit: 0xffff_ffff };
const data = { ...usable, selector: 0x10, type: 3 };
const VALID: Readonly<Record<number, KvmSegment>> = {
  [SEGN.CS]: { ...usable, selector: 8, type: 0xb, l: 1 },
  [SEGN.SS]: data,
  [SEGN.DS]: data,
  [SEGN.ES]: data,
  [SEGN.FS]: { ...kvmSegment(), unusable: 1 },
  [SEGN.GS]: data,
  [SEGN.TR]: { ...kvmSegment(), present: 1, selector: 0x18, type: 0xb, limit: 0x67 },
  [SEGN.LDTR]: { ...kvmSegment(), unusable: 1 },
};

const valid = (seg: number, change: Partial<KvmSegment>): boolean =>
  segmentsValid((n) => (n === seg ? { ...VALID[n]!, ...change } : VALID[n]!));

describe('guest state without unrestricted guest', () => {
  it('is valid with flat segments, a busy TSS and no LDT', () => {
    expect(valid(SEGN.CS, {})).toBe(true);
  });

  it.each([
    ['CS unusable', SEGN.CS, { unusable: 1 }],
    ['CS not present', SEGN.CS, { present: 0 }],
    ['CS a system segment', SEGN.CS, { s: 0 }],
    ['CS not accessed', SEGN.CS, { type: 0xa }],
    ['CS a data segment', SEGN.CS, { type: 3 }],
    ['CS with an RPL of its own', SEGN.CS, { selector: 0xb }],
    ['CS non-conforming with another DPL', SEGN.CS, { type: 9, dpl: 3 }],
    ['SS read-only', SEGN.SS, { type: 1 }],
    ['SS with another DPL', SEGN.SS, { dpl: 3 }],
    ['SS not present', SEGN.SS, { present: 0 }],
    ['DS a system segment', SEGN.DS, { s: 0 }],
    ['ES not present', SEGN.ES, { present: 0 }],
    ['GS with DPL below RPL', SEGN.GS, { selector: 0x13 }],
    ['TR unusable', SEGN.TR, { unusable: 1 }],
    ['TR in the LDT', SEGN.TR, { selector: 0x1c }],
    ['TR an available TSS', SEGN.TR, { type: 9 }],
    ['TR not present', SEGN.TR, { present: 0 }],
    ['LDTR of a wrong type', SEGN.LDTR, { unusable: 0, present: 1, type: 3 }],
    ['LDTR not present', SEGN.LDTR, { unusable: 0, present: 0, type: 2 }],
    ['LDTR in the LDT', SEGN.LDTR, { unusable: 0, present: 1, type: 2, selector: 4 }],
  ] as const)('is invalid with %s', (_what, seg, change) => {
    expect(valid(seg, change)).toBe(false);
  });

  it.each([
    ['SS unusable', SEGN.SS, { unusable: 1 }],
    ['SS expand-down', SEGN.SS, { type: 7 }],
    ['DS unusable', SEGN.DS, { unusable: 1 }],
    ['a 16-bit busy TSS', SEGN.TR, { type: 3 }],
    ['an LDT', SEGN.LDTR, { unusable: 0, present: 1, type: 2, selector: 0x20 }],
  ] as const)('is valid with %s', (_what, seg, change) => {
    expect(valid(seg, change)).toBe(true);
  });
});
