// SPDX-License-Identifier: GPL-2.0-only
/** Shifts and rotates against a bit-by-bit model of the SDM's pseudo-code. Undefined flags are not compared. */
import { describe, expect, it } from 'vitest';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { bare, DATA, peek, runOn } from './testing/bare.ts';

const WIDTHS = [8, 16, 32, 64] as const;
type Width = (typeof WIDTHS)[number];
const { CF, PF, ZF, SF, OF } = RFLAGS;
const mask = (w: number): bigint => (1n << BigInt(w)) - 1n;
const VALUES = [0n, 1n, 0x8000_0000_0000_0001n, 0x1234_5678_9abc_def0n, 0xffff_ffff_ffff_ffffn, 0x8080_8080n];
const COUNTS = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65];

interface Expected {
  r: bigint;
  cf: number;
  of: number;
}

/** One bit at a time, as the manual's loops do it. */
function model(op: number, w: Width, value: bigint, count: number, carry: number): Expected {
  let r = value & mask(w);
  let cf = carry;
  const top = (): number => Number((r >> BigInt(w - 1)) & 1n);
  const before = top();
  for (let n = 0; n < count; n++) {
    const high = top();
    const low = Number(r & 1n);
    switch (op) {
      case 0:
        r = ((r << 1n) & mask(w)) | BigInt(high);
        cf = high;
        break;
      case 1:
        r = (r >> 1n) | (BigInt(low) << BigInt(w - 1));
        cf = low;
        break;
      case 2:
        r = ((r << 1n) & mask(w)) | BigInt(cf);
        cf = high;
        break;
      case 3:
        r = (r >> 1n) | (BigInt(cf) << BigInt(w - 1));
        cf = low;
        break;
      case 5:
        r >>= 1n;
        cf = low;
        break;
      case 7:
        r = (r >> 1n) | (BigInt(high) << BigInt(w - 1));
        cf = low;
        break;
      default:
        r = (r << 1n) & mask(w);
        cf = high;
    }
  }
  const second = Number((r >> BigInt(w - 2)) & 1n);
  const of = op === 7 ? 0 : op === 5 ? before : op === 1 || op === 3 ? top() ^ second : top() ^ cf;
  return { r, cf, of };
}

const prefix = (w: Width): readonly number[] => (w === 64 ? [0x48] : w === 16 ? [0x66] : []);
const NAMES = ['ROL', 'ROR', 'RCL', 'RCR', 'SHL', 'SHR', 'SAL', 'SAR'];

function check(
  b: ReturnType<typeof bare>,
  op: number,
  w: Width,
  value: bigint,
  count: number,
  carry: number,
): void {
  const masked = count & (w === 64 ? 63 : 31);
  const immediate = [...prefix(w), w === 8 ? 0xc0 : 0xc1, 0xc0 | (op << 3), count];
  const byCl = [...prefix(w), w === 8 ? 0xd2 : 0xd3, 0xc0 | (op << 3)];
  const expected = model(op, w, value, masked, carry);
  const start = carry | OF | ZF;
  for (const code of [immediate, byCl]) {
    const o = runOn(b, code, { regs: { 0: value, 1: BigInt(count) }, rflags: start });
    const note = `${NAMES[op]} ${w} ${value.toString(16)} by ${count} carry ${carry}`;
    const kept = w < 32 ? value & ~mask(w) : 0n;
    expect(o.regs[0], note).toBe(kept | expected.r);
    if (masked === 0) {
      expect(o.rflags & (CF | OF | ZF | SF | PF), note).toBe(start);
      continue;
    }
    const rotate = op < 4;
    if (rotate ? op < 2 || masked % (w + 1) !== 0 : masked <= w)
      expect(o.rflags & CF, note).toBe(expected.cf);
    if (masked === 1) expect((o.rflags & OF) !== 0, note).toBe(expected.of === 1);
    if (rotate) expect(o.rflags & (ZF | SF | PF), note).toBe(ZF);
    else {
      expect((o.rflags & ZF) !== 0, note).toBe(expected.r === 0n);
      expect((o.rflags & SF) !== 0, note).toBe(expected.r >> BigInt(w - 1) === 1n);
    }
  }
}

describe('shifts and rotates', () => {
  const b = bare([]);
  for (const [op, name] of NAMES.entries()) {
    it(`${name} follows the manual bit by bit, counts masked`, () => {
      for (const w of WIDTHS) {
        for (const value of VALUES) for (const count of COUNTS) check(b, op, w, value, count, count & 1);
      }
    });
  }

  it('shift memory in place', () => {
    runOn(b, [0x48, 0xc1, 0x27, 0x04], { regs: { 7: DATA }, data: [0x123n] });
    expect(peek(b, DATA)).toBe(0x1230n);
    runOn(b, [0xd1, 0x2f], { regs: { 7: DATA }, data: [0xffff_ffff_0000_0003n] });
    expect(peek(b, DATA)).toBe(0xffff_ffff_0000_0001n);
  });
});

describe('double shifts', () => {
  const b = bare([]);

  /** SHLD: the high half of (a:b) << n; SHRD: the low half of (b:a) >> n. */
  function checkDouble(left: boolean, w: 16 | 32 | 64, a: bigint, from: bigint, n: number): void {
    const bits = BigInt(w);
    const code = [...prefix(w), 0x0f, left ? 0xa4 : 0xac, 0xd8, n];
    const o = runOn(b, code, { regs: { 0: a, 3: from } });
    const both = left
      ? ((a & mask(w)) << bits) | (from & mask(w))
      : ((from & mask(w)) << bits) | (a & mask(w));
    const r = left ? ((both << BigInt(n)) >> bits) & mask(w) : (both >> BigInt(n)) & mask(w);
    const cf = left ? (a >> BigInt(w - n)) & 1n : (a >> BigInt(n - 1)) & 1n;
    expect(o.regs[0]! & mask(w), `${w} ${a} ${from} ${n}`).toBe(r);
    expect(o.rflags & CF).toBe(Number(cf));
    expect((o.rflags & ZF) !== 0).toBe(r === 0n);
  }

  it('SHLD and SHRD take bits from the second operand', () => {
    for (const w of [16, 32, 64] as const) {
      for (const n of [1, 4, 8, 15, 16, 31, 32, 63].filter((c) => c <= w && (w === 64 || c < 32))) {
        for (const value of VALUES) {
          checkDouble(true, w, value, 0x0f0f_1234_8765_00ffn, n);
          checkDouble(false, w, value, 0x0f0f_1234_8765_00ffn, n);
        }
      }
    }
  });

  it('a count of zero changes nothing, and CL counts too', () => {
    const zero = runOn(b, [0x48, 0x0f, 0xa5, 0xd8], { regs: { 0: 5n, 3: 9n, 1: 64n }, rflags: CF | ZF });
    expect(zero.regs[0]).toBe(5n);
    expect(zero.rflags & (CF | ZF)).toBe(CF | ZF);
    const one = runOn(b, [0x48, 0x0f, 0xad, 0xd8], { regs: { 0: 5n, 3: 1n, 1: 1n } });
    expect(one.regs[0]).toBe(0x8000_0000_0000_0002n);
    expect(one.rflags & OF).toBe(OF);
  });

  it('16-bit counts above 16 rotate the destination in, as processors do', () => {
    // Undefined in the manual; recorded here so that a change is noticed.
    const o = runOn(b, [0x66, 0x0f, 0xa4, 0xd8, 20], { regs: { 0: 0x1234n, 3: 0xabcdn } });
    expect(o.regs[0]).toBe(0xbcd1n);
    const back = runOn(b, [0x66, 0x0f, 0xac, 0xd8, 20], { regs: { 0: 0x1234n, 3: 0xabcdn } });
    expect(back.regs[0]).toBe(0x4abcn);
  });
});
