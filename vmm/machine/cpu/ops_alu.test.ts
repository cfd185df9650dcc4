// SPDX-License-Identifier: GPL-2.0-only
/**
 * Arithmetic and logic against a model in bigint: carries and signed ranges as the SDM defines the flags, not as the
 * interpreter computes them. Each case runs in the loop and out of line (runOn compares the two).
 */
import { describe, expect, it } from 'vitest';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { bare, DATA, peek, runOn } from './testing/bare.ts';

const WIDTHS = [8, 16, 32, 64] as const;
type Width = (typeof WIDTHS)[number];
const { CF, PF, AF, ZF, SF, OF } = RFLAGS;
const ARITH = CF | PF | AF | ZF | SF | OF;
const JUNK = 0xa5a5_a5a5_a5a5_a5a5n;

const mask = (w: Width): bigint => (1n << BigInt(w)) - 1n;
const corners = (w: Width): readonly bigint[] => {
  const top = 1n << BigInt(w - 1);
  return [0n, 1n, 0xfn, 0x10n, 0x7fn, top - 1n, top, top + 1n, mask(w) - 1n, mask(w)];
};
const signed = (w: Width, v: bigint): bigint => BigInt.asIntN(w, v);
const isEven = (v: bigint): boolean =>
  [0, 1, 2, 3, 4, 5, 6, 7].filter((n) => ((v >> BigInt(n)) & 1n) === 1n).length % 2 === 0;
const resultFlags = (w: Width, r: bigint): number =>
  (r === 0n ? ZF : 0) | (signed(w, r) < 0n ? SF : 0) | (isEven(r) ? PF : 0);

/** Prefixes that select the width, and whether the opcode is the byte form. */
const prefix = (w: Width): readonly number[] => (w === 64 ? [0x48] : w === 16 ? [0x66] : []);
const form = (w: Width): number => (w === 8 ? 0 : 1);
/** What a write of width `w` makes of a register that held JUNK. */
const merged = (w: Width, r: bigint): bigint => (w === 64 ? r : w === 32 ? r : (JUNK & ~mask(w)) | r);

interface Expected {
  readonly r: bigint;
  readonly flags: number;
}

function sum(w: Width, a: bigint, b: bigint, c: bigint): Expected {
  const full = a + b + c;
  const range = signed(w, a) + signed(w, b) + c;
  const r = full & mask(w);
  const half = (a & 0xfn) + (b & 0xfn) + c > 0xfn;
  return {
    r,
    flags:
      resultFlags(w, r) | (full > mask(w) ? CF : 0) | (range !== signed(w, r) ? OF : 0) | (half ? AF : 0),
  };
}

function difference(w: Width, a: bigint, b: bigint, c: bigint): Expected {
  const r = (a - b - c) & mask(w);
  const range = signed(w, a) - signed(w, b) - c;
  const half = (a & 0xfn) < (b & 0xfn) + c;
  return {
    r,
    flags: resultFlags(w, r) | (a < b + c ? CF : 0) | (range !== signed(w, r) ? OF : 0) | (half ? AF : 0),
  };
}

const logic = (w: Width, r: bigint): Expected => ({ r, flags: resultFlags(w, r) });

function model(op: number, w: Width, a: bigint, b: bigint, carry: bigint): Expected {
  switch (op) {
    case 0:
      return sum(w, a, b, 0n);
    case 1:
      return logic(w, a | b);
    case 2:
      return sum(w, a, b, carry);
    case 3:
      return difference(w, a, b, carry);
    case 4:
      return logic(w, a & b);
    case 6:
      return logic(w, a ^ b);
    default:
      return difference(w, a, b, 0n);
  }
}

const NAMES = ['ADD', 'OR', 'ADC', 'SBB', 'AND', 'SUB', 'XOR', 'CMP'];
const CMP = 7;

describe('two-operand arithmetic', () => {
  const b = bare([]);
  for (const [op, name] of NAMES.entries()) {
    it(`${name} r, r gives the result and the flags of every corner at every width`, () => {
      for (const w of WIDTHS) {
        const code = [...prefix(w), op * 8 + form(w), 0xd8]; // op rax, rbx
        for (const x of corners(w)) {
          for (const y of corners(w)) {
            for (const carry of [0n, 1n]) {
              const expected = model(op, w, x, y, carry);
              const o = runOn(b, code, { regs: { 0: (JUNK & ~mask(w)) | x, 3: y }, rflags: Number(carry) });
              expect(o.rflags & ARITH, `${w} ${x} ${y} ${carry}`).toBe(expected.flags);
              expect(o.regs[0]).toBe(op === CMP ? (JUNK & ~mask(w)) | x : merged(w, expected.r));
            }
          }
        }
      }
    });

    it(`${name} with memory and with immediates agrees with the model`, () => {
      for (const w of WIDTHS) {
        const y = w === 8 ? 0x81n : 0x7fn;
        for (const x of corners(w)) {
          const expected = model(
            op,
            w,
            x,
            op === CMP || w === 8 ? BigInt.asUintN(w, BigInt.asIntN(8, y)) : y,
            1n,
          );
          const immediate =
            w === 8 ? [0x80, 0x07 | (op << 3), 0x81] : [...prefix(w), 0x83, 0x07 | (op << 3), 0x7f];
          const o = runOn(b, immediate, { regs: { 7: DATA }, rflags: CF, data: [(JUNK & ~mask(w)) | x] });
          expect(o.rflags & ARITH).toBe(expected.flags);
          expect(peek(b, DATA)).toBe((JUNK & ~mask(w)) | (op === CMP ? x : expected.r));
          const load = runOn(b, [...prefix(w), op * 8 + 2 + form(w), 0x1f], {
            regs: { 7: DATA, 3: x },
            rflags: CF,
            data: [y],
          });
          expect(load.rflags & ARITH).toBe(model(op, w, x, y & mask(w), 1n).flags);
        }
      }
    });
  }

  it('TEST sets the flags of AND and writes nothing', () => {
    for (const w of WIDTHS) {
      for (const x of corners(w)) {
        const o = runOn(b, [...prefix(w), 0x84 + form(w), 0xd8], { regs: { 0: x, 3: 0x91n }, rflags: ARITH });
        expect(o.rflags & ARITH).toBe(logic(w, x & 0x91n & mask(w)).flags);
        expect(o.regs[0]).toBe(x);
      }
    }
  });
});

describe('one-operand arithmetic', () => {
  const b = bare([]);
  const group = (w: Width, digit: number): readonly number[] => [
    ...prefix(w),
    digit < 2 ? 0xfe + form(w) : 0xf6 + form(w),
    0xc0 | (digit << 3),
  ];

  it('INC and DEC keep CF and set the rest as ADD and SUB of 1 do', () => {
    for (const w of WIDTHS) {
      for (const x of corners(w)) {
        for (const carry of [0, CF]) {
          const inc = runOn(b, group(w, 0), { regs: { 0: x }, rflags: carry });
          expect(inc.rflags & ARITH).toBe((sum(w, x, 1n, 0n).flags & ~CF) | carry);
          expect(inc.regs[0]! & mask(w)).toBe((x + 1n) & mask(w));
          const dec = runOn(b, group(w, 1), { regs: { 0: x }, rflags: carry });
          expect(dec.rflags & ARITH).toBe((difference(w, x, 1n, 0n).flags & ~CF) | carry);
          expect(dec.regs[0]! & mask(w)).toBe((x - 1n) & mask(w));
        }
      }
    }
  });

  it('NEG is a subtraction from zero, NOT leaves the flags', () => {
    for (const w of WIDTHS) {
      for (const x of corners(w)) {
        const neg = runOn(b, group(w, 3), { regs: { 0: x } });
        expect(neg.rflags & ARITH).toBe(difference(w, 0n, x, 0n).flags);
        expect(neg.regs[0]! & mask(w)).toBe(-x & mask(w));
        const not = runOn(b, group(w, 2), { regs: { 0: x }, rflags: ARITH });
        expect(not.rflags & ARITH).toBe(ARITH);
        expect(not.regs[0]! & mask(w)).toBe(~x & mask(w));
      }
    }
  });

  it('LOCK read-modify-write forms cost more and do the same', () => {
    const plain = runOn(b, [0x48, 0x01, 0x07], { regs: { 0: 5n, 7: DATA }, data: [7n] });
    const before = b.cpu.clock[0]!;
    const locked = runOn(b, [0xf0, 0x48, 0x01, 0x07], { regs: { 0: 5n, 7: DATA }, data: [7n] });
    expect(peek(b, DATA)).toBe(12n);
    expect(locked.rflags).toBe(plain.rflags);
    expect(b.cpu.clock[0]! - before).toBeGreaterThan(2);
    for (const code of [
      [0xf0, 0x48, 0xff, 0x07],
      [0xf0, 0xf7, 0x1f],
      [0xf0, 0xf7, 0x17],
    ]) {
      expect(runOn(b, code, { regs: { 7: DATA }, data: [7n] }).result).toBe(2);
    }
  });
});
