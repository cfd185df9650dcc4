// SPDX-License-Identifier: GPL-2.0-only
/**
 * The storage of cached mappings against a plain model of it (a list searched from the newest), plus what replacement
 * must and must not do: FIFO per set, and no state that changes on hits.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ENTRY, PAGE_CODE } from './entry.ts';
import { recordHpa, setRecordHpa, TlbArray, type TlbShape } from './tlb_array.ts';

const FOREVER: TlbShape = { sets: 0, ways: 1 };
const SMALL: TlbShape = { sets: 4, ways: 2 };
const NOTHING: TlbShape = { sets: 1, ways: 0 };

const page = (n: number): number => n << 12;
const add = (tlb: TlbArray, n: number, space = 0): number => tlb.insert(page(n), 0, PAGE_CODE.S4K, 0, space);
const find = (tlb: TlbArray, n: number, space = 0, global = -9): number =>
  tlb.lookup(page(n), 0, 0, space, global);

describe('a TLB of real size', () => {
  it('evicts the record of the set that was filled first', () => {
    const tlb = new TlbArray(SMALL);
    for (const n of [1, 5, 2]) add(tlb, n);
    add(tlb, 9); // set 1: 1, 5, 9
    expect([1, 5, 9, 2].map((n) => find(tlb, n) >= 0)).toEqual([false, true, true, true]);
    add(tlb, 13);
    expect([5, 9, 13].map((n) => find(tlb, n) >= 0)).toEqual([false, true, true]);
    expect([tlb.used, tlb.evictions]).toEqual([3, 2]);
  });

  it('does not change its mind because of hits', () => {
    const tlb = new TlbArray(SMALL);
    for (const n of [1, 5]) add(tlb, n);
    for (let k = 0; k < 10; k++) find(tlb, 1);
    add(tlb, 9);
    expect([1, 5, 9].map((n) => find(tlb, n) >= 0)).toEqual([false, true, true]);
  });

  it('fills a free way before it evicts', () => {
    const tlb = new TlbArray(SMALL);
    add(tlb, 1);
    add(tlb, 5);
    tlb.remove(find(tlb, 5));
    add(tlb, 9);
    expect([1, 9].map((n) => find(tlb, n) >= 0)).toEqual([true, true]);
    expect(tlb.evictions).toBe(0);
  });
});

describe('a TLB that keeps forever', () => {
  it('grows and forgets nothing', () => {
    const tlb = new TlbArray(FOREVER);
    for (let n = 0; n < 5000; n++) add(tlb, n, n % 100);
    expect([tlb.used, tlb.evictions]).toEqual([5000, 0]);
    for (let n = 0; n < 5000; n++) expect(tlb.i[find(tlb, n, n % 100)]).toBe(page(n));
    expect(tlb.dropSpace(42)).toBe(50);
    expect([tlb.used, tlb.countOf(42), tlb.firstOf(42)]).toEqual([4950, 0, -1]);
    const reused = add(tlb, 42, 7);
    expect(reused).toBeLessThan(5000 * 100);
    expect(tlb.countOf(7)).toBe(51);
  });
});

describe('a TLB that keeps nothing', () => {
  it('says so, and finds nothing', () => {
    const tlb = new TlbArray(NOTHING);
    expect([tlb.keeps, find(tlb, 1), tlb.countOf(0), tlb.firstOf(500)]).toEqual([false, -1, 0, -1]);
  });
});

describe('a lookup', () => {
  it('finds large pages by any address in them, and small pages first', () => {
    const tlb = new TlbArray(FOREVER);
    const big = tlb.insert(0x4012_3000, 0, PAGE_CODE.S2M, 0, 0);
    const huge = tlb.insert(0x8012_3000 | 0, 1, PAGE_CODE.S1G, 0, 0);
    const small = tlb.insert(0x4012_3000, 0, PAGE_CODE.S4K, 0, 0);
    expect(tlb.lookup(0x4012_3fff, 0, 0, 0, -9)).toBe(small);
    expect(tlb.lookup(0x4000_0000, 0, 0, 0, -9)).toBe(big);
    expect(tlb.lookup(0xbfff_ffff | 0, 1, 0, 0, -9)).toBe(huge);
    expect(tlb.lookup(0xbfff_ffff | 0, 2, 0, 0, -9)).toBe(-1);
    setRecordHpa(tlb, huge, 0x1_4000_0000, 0x7000_0000);
    expect(recordHpa(tlb, huge, 0x8012_3456 | 0)).toBe(0x1_4012_3456);
    expect(tlb.dropAddress(0x4012_3000, 0, 0, 0)).toBe(2);
    expect(tlb.usedLarge).toBe(1);
  });

  it('takes the space or its global twin, of the group only', () => {
    const tlb = new TlbArray(FOREVER);
    const b = tlb.insert(page(1), 0, PAGE_CODE.S4K, 3, 11);
    expect(tlb.lookup(page(1), 0, 3, 10, 11)).toBe(b);
    expect(tlb.lookup(page(1), 0, 3, 11, 10)).toBe(b);
    expect(tlb.lookup(page(1), 0, 3, 10, 12)).toBe(-1);
  });
});

describe('the fast TLB behind it', () => {
  it('is told of each record that goes, by slot', () => {
    const tlb = new TlbArray(SMALL);
    const told: number[] = [];
    tlb.onDropFast = (slot) => {
      told.push(slot);
      tlb.fastRecord[slot] = -1;
    };
    tlb.fastRecord[1] = add(tlb, 1);
    add(tlb, 5);
    expect(told).toEqual([]);
    add(tlb, 9);
    expect(told).toEqual([1]);
    const large = tlb.insert(0x4000_0000, 0, PAGE_CODE.S2M, 0, 0);
    tlb.fastRecord[7] = large;
    tlb.fastRecord[300] = large;
    tlb.remove(large);
    expect(told).toEqual([1, 7, 300]);
  });
});

interface Model {
  readonly page: number;
  readonly space: number;
}

const command = fc.oneof(
  { weight: 6, arbitrary: fc.record({ op: fc.constant('add' as const), n: fc.nat(40), space: fc.nat(5) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('drop' as const), n: fc.nat(40), space: fc.nat(5) }) },
  {
    weight: 1,
    arbitrary: fc.record({ op: fc.constant('flush' as const), n: fc.constant(0), space: fc.nat(5) }),
  },
);

describe('any sequence of operations', () => {
  for (const [name, shape] of [
    ['keep forever', FOREVER],
    ['sets and ways', SMALL],
  ] as const) {
    it(`leaves what a plain list would have (${name})`, () => {
      fc.assert(
        fc.property(fc.array(command, { maxLength: 200 }), (commands) => {
          const tlb = new TlbArray(shape);
          let model: Model[] = [];
          for (const { op, n, space } of commands) {
            const has = model.some((m) => m.page === n && m.space === space);
            if (op === 'flush') {
              expect(tlb.dropSpace(space)).toBe(model.filter((m) => m.space === space).length);
              model = model.filter((m) => m.space !== space);
            } else if (op === 'drop') {
              expect(tlb.dropAddress(page(n), 0, 0, space)).toBe(has ? 1 : 0);
              model = model.filter((m) => m.page !== n || m.space !== space);
            } else if (!has) {
              add(tlb, n, space);
              model.push({ page: n, space });
              if (shape.sets > 0) model = model.filter((m) => find(tlb, m.page, m.space) >= 0);
              expect(model.filter((m) => m.page === n && m.space === space)).toHaveLength(1);
            }
          }
          for (let n = 0; n <= 40; n++) {
            for (let space = 0; space <= 5; space++) {
              const b = find(tlb, n, space);
              expect(b >= 0).toBe(model.some((m) => m.page === n && m.space === space));
              if (b >= 0) expect(tlb.i[b + ENTRY.SPACE]).toBe(space);
            }
          }
          expect(tlb.used).toBe(model.length);
        }),
        { numRuns: 60, seed: 7 },
      );
    });
  }
});
