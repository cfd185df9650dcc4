// SPDX-License-Identifier: GPL-2.0-only
/** Multiplication and division against bigint arithmetic. SDM, "MUL", "IMUL", "DIV", "IDIV". */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { COST } from '../cost/points.ts';
import { RUN } from './state.ts';
import { bare, CODE, DATA, runOn } from './testing/bare.ts';

const WIDTHS = [8, 16, 32, 64] as const;
type Width = (typeof WIDTHS)[number];
const CF_OF = RFLAGS.CF | RFLAGS.OF;
const VALUES = [
  0n,
  1n,
  2n,
  3n,
  0x7fn,
  0x80n,
  0xffn,
  0x1_0000n,
  0x8000_0000n,
  0xffff_ffffn,
  0x7fff_ffff_ffff_ffffn,
  0x8000_0000_0000_0000n,
  0xffff_ffff_ffff_ffffn,
];
const mask = (w: number): bigint => (1n << BigInt(w)) - 1n;
const prefix = (w: Width): readonly number[] => (w === 64 ? [0x48] : w === 16 ? [0x66] : []);
/** F6/F7 /digit with RBX. */
const group = (w: Width, digit: number): readonly number[] => [
  ...prefix(w),
  w === 8 ? 0xf6 : 0xf7,
  0xc3 | (digit << 3),
];

/** The two halves as DX:AX, or AX for bytes. */
function product(w: Width, rax: bigint, rdx: bigint): bigint {
  return w === 8 ? rax & 0xffffn : ((rdx & mask(w)) << BigInt(w)) | (rax & mask(w));
}

describe('multiplication', () => {
  const b = bare([]);

  it('MUL and IMUL give the whole product, CF and OF tell whether the upper half matters', () => {
    for (const w of WIDTHS) {
      for (const x of VALUES) {
        for (const y of VALUES) {
          const u = runOn(b, group(w, 4), { regs: { 0: x, 2: 0x77n, 3: y } });
          const expected = (x & mask(w)) * (y & mask(w));
          expect(product(w, u.regs[0]!, u.regs[2]!)).toBe(expected);
          expect(u.rflags & CF_OF).toBe(expected > mask(w) ? CF_OF : 0);
          const i = runOn(b, group(w, 5), { regs: { 0: x, 2: 0x77n, 3: y } });
          const signed = BigInt.asIntN(w, x) * BigInt.asIntN(w, y);
          expect(product(w, i.regs[0]!, i.regs[2]!)).toBe(BigInt.asUintN(2 * w, signed));
          expect(i.rflags & CF_OF).toBe(BigInt.asIntN(w, signed) === signed ? 0 : CF_OF);
        }
      }
    }
  });

  it('IMUL r, r/m and IMUL r, r/m, imm truncate and report it', () => {
    for (const w of [16, 32, 64] as const) {
      for (const x of VALUES) {
        for (const y of VALUES) {
          const two = runOn(b, [...prefix(w), 0x0f, 0xaf, 0xc3], { regs: { 0: x, 3: y } });
          const signed = BigInt.asIntN(w, x) * BigInt.asIntN(w, y);
          expect(two.regs[0]! & mask(w)).toBe(BigInt.asUintN(w, signed));
          expect(two.rflags & CF_OF, `${w} ${x} ${y}`).toBe(BigInt.asIntN(w, signed) === signed ? 0 : CF_OF);
        }
        const three = runOn(b, [...prefix(w), 0x6b, 0xc3, 0xfd], { regs: { 3: x } });
        const signed = BigInt.asIntN(w, x) * -3n;
        expect(three.regs[0]! & mask(w)).toBe(BigInt.asUintN(w, signed));
        expect(three.rflags & CF_OF).toBe(BigInt.asIntN(w, signed) === signed ? 0 : CF_OF);
        const memory = runOn(b, [...prefix(w), 0x6b, 0x07, 0xfd], { regs: { 7: DATA }, data: [x] });
        expect(memory.regs[0]! & mask(w)).toBe(BigInt.asUintN(w, signed));
      }
    }
  });
});

describe('division', () => {
  const b = bare([]);

  /** Registers for a dividend of 2w bits. */
  const split = (w: Width, v: bigint): { readonly 0: bigint; readonly 2: bigint } =>
    w === 8 ? { 0: v & 0xffffn, 2: 0n } : { 0: v & mask(w), 2: (v >> BigInt(w)) & mask(w) };

  function check(w: Width, signedDivide: boolean, dividend: bigint, divisor: bigint): void {
    const regs = { ...split(w, BigInt.asUintN(2 * w, dividend)), 3: divisor & mask(w) };
    const o = runOn(b, group(w, signedDivide ? 7 : 6), { regs });
    const n = signedDivide ? BigInt.asIntN(2 * w, dividend) : BigInt.asUintN(2 * w, dividend);
    const d = signedDivide ? BigInt.asIntN(w, divisor) : divisor & mask(w);
    const q = d === 0n ? 0n : n / d;
    const fits = d !== 0n && (signedDivide ? BigInt.asIntN(w, q) === q : q <= mask(w));
    const note = `${w} ${n} / ${d}`;
    if (!fits) {
      expect(o.result, note).toBe(RUN.FAULT);
      expect(b.cpu.fault.vector).toBe(VECTOR.DE);
      expect(o.rip).toBe(CODE);
      expect(o.regs[0]).toBe(regs[0]);
      expect(o.regs[2]).toBe(regs[2]);
      return;
    }
    const r = n % d;
    expect(o.result, note).toBe(RUN.SYS);
    expect(o.regs[0]! & mask(w), note).toBe(BigInt.asUintN(w, q));
    const remainder = w === 8 ? (o.regs[0]! >> 8n) & 0xffn : o.regs[2]! & mask(w);
    expect(remainder, note).toBe(BigInt.asUintN(w, r));
  }

  it('DIV and IDIV give quotient and remainder, and DE if the quotient does not fit', () => {
    for (const w of WIDTHS) {
      const top = 1n << BigInt(w - 1);
      for (const n of [0n, 1n, 99n, 100n, top, top << 1n, mask(w), mask(w) * 3n, -1n, -100n, -top]) {
        for (const d of [0n, 1n, 3n, 7n, top, mask(w), -5n]) {
          check(w, false, n, d);
          check(w, true, n, d);
        }
      }
    }
  });

  it('charges a division more than an addition', () => {
    const before = b.cpu.counts[COST.DIV]!;
    runOn(b, group(64, 6), { regs: { 0: 100n, 3: 7n } });
    expect(b.cpu.counts[COST.DIV]! - before).toBe(2);
  });
});
