// SPDX-License-Identifier: GPL-2.0-only
/**
 * What L2's TSC is made of. Expected: SDM, "Time-Stamp Counter Offset and Multiplier" applied twice, once for L1 and once
 * for L2: L2's TSC is L1's TSC, scaled and moved by vmcs12.
 */
import { describe, expect, it } from 'vitest';
import {
  kvmCalcNestedTscMultiplier,
  kvmCalcNestedTscOffset,
  KVM_DEFAULT_TSC_SCALING_RATIO as ONE,
  kvmScaleTsc,
} from './tsc.ts';

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);
const guestTsc = (tsc: bigint, ratio: bigint, offset: bigint): bigint =>
  u64(kvmScaleTsc(tsc, ratio) + offset);

describe('kvm_scale_tsc()', () => {
  it('multiplies by a fixed-point number with 48 fractional bits', () => {
    expect(kvmScaleTsc(12_345n, ONE)).toBe(12_345n);
    expect(kvmScaleTsc(12_345n, ONE / 2n)).toBe(6_172n);
    expect(kvmScaleTsc(1n << 40n, (1n << 64n) - 1n)).toBe((1n << 56n) - 1n);
    expect(kvmScaleTsc(1n << 62n, ONE * 8n)).toBe(0n);
  });
});

describe("L2's TSC", () => {
  const ratios = [ONE, ONE / 2n, ONE * 3n, ONE / 10n];
  const offsets = [0n, 1_000_000n, -1_000_000n, -(1n << 40n)];
  const tsc = 50_000_000_000n;

  it('is the TSC of L1, scaled and moved by vmcs12, up to rounding', () => {
    for (const l1 of ratios)
      for (const l1Offset of offsets)
        for (const l2 of ratios)
          for (const l2Offset of offsets) {
            // L1's TSC has to be positive: a wrapped one is not what a multiplier is for.
            const base = tsc + (l1Offset < 0n ? 1n << 44n : 0n);
            const once = guestTsc(guestTsc(base, l1, l1Offset), l2, l2Offset);
            const merged = guestTsc(
              base,
              kvmCalcNestedTscMultiplier(l1, l2),
              kvmCalcNestedTscOffset(l1Offset, u64(l2Offset), l2),
            );
            const off = BigInt.asIntN(64, once - merged);
            expect(off >= -2n && off <= 2n, `${l1} ${l1Offset} ${l2} ${l2Offset}: ${off}`).toBe(true);
          }
  });

  it('keeps the sign of an offset that is scaled', () => {
    expect(kvmCalcNestedTscOffset(-3n, 0n, ONE / 2n)).toBe(-1n);
    expect(kvmCalcNestedTscOffset(3n, 0n, ONE / 2n)).toBe(1n);
    expect(kvmCalcNestedTscOffset(u64(-10n), u64(-1n), ONE)).toBe(-11n);
  });
});
