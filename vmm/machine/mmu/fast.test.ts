// SPDX-License-Identifier: GPL-2.0-only
/** The inclusion of the fast TLB in the modelled one, and the audit that watches over it. */
import { describe, expect, it } from 'vitest';
import { S } from '../cpu/state.ts';
import { ENTRY, PERM } from '../tlb/entry.ts';
import { ACCESS } from './access.ts';
import { auditFastTlb } from './audit.ts';
import { dropAllFast, dropFastFrame, dropFastSlot, dropWriteTags, fastFrameOf } from './fast.ts';
import { invlpg } from './invalidate.ts';
import { G0, LEAF, PagingBox } from './testing/paging_box.ts';

const LIN = 0x40_0000n;
const PAGE = 0x180_0000;
const SLOT = 0;

function filled(): PagingBox {
  const box = new PagingBox();
  box.map(LIN, PAGE);
  box.go(LIN, ACCESS.WRITE);
  return box;
}

const record = (box: PagingBox): number => box.cpu.mmu.tlb.fastRecord[SLOT]!;

describe('the audit of the fast TLB', () => {
  it('finds nothing after a fill, a drop and an eviction', () => {
    const box = filled();
    expect(auditFastTlb(box.cpu)).toEqual([]);
    invlpg(box.cpu, box.lo(LIN), 0);
    expect([box.fastHit(LIN, 0), box.fastHit(LIN, 1), box.fastHit(LIN, 2)]).toEqual([false, false, false]);
    expect(auditFastTlb(box.cpu)).toEqual([]);
    for (let n = 0n; n < 64n; n++) {
      box.map(LIN + (n << 24n), PAGE);
      box.go(LIN + (n << 24n), ACCESS.READ);
    }
    expect(box.cpu.mmu.tlb.evictions).toBe(64 - 12);
    expect(auditFastTlb(box.cpu)).toEqual([]);
  });

  it('finds a drop that forgets the fast entry', () => {
    const box = filled();
    box.cpu.mmu.tlb.onDropFast = () => {};
    invlpg(box.cpu, box.lo(LIN), 0);
    expect(auditFastTlb(box.cpu)).toEqual([
      'CPU 0, fast TLB slot 0: allows page 0x400000 by a record that is free',
    ]);
  });

  const damages: readonly (readonly [string, (box: PagingBox) => void, RegExp])[] = [
    ['no record', (b) => (b.cpu.mmu.tlb.fastRecord[SLOT] = -1), /without a record/],
    ['another page', (b) => (b.cpu.mmu.tlb.i[record(b)] = 0x7000), /not the record's/],
    ['another context', (b) => (b.cpu.fast.hiTag[SLOT] = 0x7e00_0000), /context constant 0x7e000000/],
    ['another frame', (b) => (b.cpu.fast.addend[SLOT]! += 0x1000), /frame .* not the record's/],
    ['a clean page', (b) => (b.cpu.mmu.tlb.i[record(b) + ENTRY.PERM]! &= ~PERM.D), /stores to a clean page/],
    ['decoded code', (b) => Object.assign(b.cpu, { code: { hasCode: () => true } }), /decoded code/],
  ];
  for (const [name, damage, message] of damages) {
    it(`finds ${name}`, () => {
      const box = filled();
      damage(box);
      const found = auditFastTlb(box.cpu);
      expect(found).toHaveLength(1);
      expect(found[0]).toMatch(message);
    });
  }

  it('knows the tag of a context', () => {
    const box = filled();
    box.cpu.mmu.vpid = 9;
    box.changed();
    box.cpu.fast.hiTag[SLOT] = box.cpu.s[S.CTX]!;
    expect(auditFastTlb(box.cpu)).toHaveLength(1);
  });
});

describe('fast entries', () => {
  it('are dropped by frame, by slot and all together', () => {
    const box = filled();
    expect(fastFrameOf(box.cpu, SLOT)).toBe(PAGE >>> 12);
    dropFastFrame(box.cpu, (PAGE >>> 12) + 1);
    expect(box.fastHit(LIN, 1)).toBe(true);
    dropFastFrame(box.cpu, PAGE >>> 12);
    expect([box.fastHit(LIN, 1), fastFrameOf(box.cpu, SLOT)]).toEqual([false, -1]);
    box.go(LIN, ACCESS.READ);
    dropFastSlot(box.cpu, SLOT);
    expect(box.fastHit(LIN, 0)).toBe(false);
    box.go(LIN, ACCESS.READ);
    dropAllFast(box.cpu);
    expect(box.fastHit(LIN, 0)).toBe(false);
  });

  it('lose the store when code is decoded from the frame, and do not get it back', () => {
    const box = filled();
    Object.assign(box.cpu, { code: { hasCode: () => true, noteStore: () => {} } });
    dropWriteTags(box.cpu, PAGE >>> 12);
    expect([box.fastHit(LIN, 0), box.fastHit(LIN, 1), box.fastHit(LIN, 2)]).toEqual([true, false, true]);
    expect(box.go(LIN, ACCESS.WRITE)).toBe(PAGE);
    expect(box.fastHit(LIN, 1)).toBe(false);
  });

  it('of a large page are filled piece by piece and dropped together', () => {
    const box = new PagingBox();
    box.map(0x4000_0000n, PAGE, LEAF, 2);
    for (const n of [0n, 5n, 511n])
      expect(box.go(0x4000_0000n + n * 0x1000n, ACCESS.WRITE)).toBe(PAGE + Number(n) * 4096);
    expect(box.fastHit(0x4000_5000n, 1)).toBe(true);
    expect(auditFastTlb(box.cpu)).toEqual([]);
    invlpg(box.cpu, 0x4000_3000, 0);
    expect([0n, 5n, 511n].map((n) => box.fastHit(0x4000_0000n + n * 0x1000n, 1))).toEqual([
      false,
      false,
      false,
    ]);
  });

  it('follow the rights that EPT leaves', () => {
    const box = new PagingBox().withEpt();
    box.mapEpt(0x100_0000, G0, 0x31);
    box.map(LIN, 0x100_0000);
    expect(box.go(LIN, ACCESS.READ)).toBe(G0);
    expect([box.fastHit(LIN, 0), box.fastHit(LIN, 1), box.fastHit(LIN, 2)]).toEqual([true, false, false]);
  });
});
