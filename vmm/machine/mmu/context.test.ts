// SPDX-License-Identifier: GPL-2.0-only
/**
 * Contexts: mappings of one {VPID, PCID, EP4TA} are not used in another (SDM, "Creating and Using Cached Translation
 * Information"), and the fast TLB keeps contexts apart without a flush.
 */
import { describe, expect, it } from 'vitest';
import { CR4, EFER, RFLAGS } from '../../../lib/x86/registers.ts';
import { COST } from '../cost/points.ts';
import { S } from '../cpu/state.ts';
import { ACCESS } from './access.ts';
import { auditFastTlb } from './audit.ts';
import { mmuContextChanged } from './context.ts';
import { PagingBox } from './testing/paging_box.ts';

const LIN = 0x40_0000n;
const PAGE = 0x180_0000;

/** A box with two address spaces that map LIN to different pages, and a way to switch. */
function twoSpaces(cr4: number): { box: PagingBox; use: (n: number, pcid: number, vpid?: number) => number } {
  const box = new PagingBox();
  box.cpu.s[S.CR4]! |= cr4;
  box.changed();
  box.map(LIN, PAGE);
  const second = box.hostTable();
  const roots = [box.cr3, second];
  Object.assign(box, { cr3: second });
  box.map(LIN, PAGE + 0x1000);
  return {
    box,
    use: (n, pcid, vpid = 0) => {
      box.cpu.s[S.CR3] = roots[n]! | pcid;
      box.cpu.mmu.vpid = vpid;
      box.changed();
      return box.go(LIN, ACCESS.READ);
    },
  };
}

describe('a switch of address space without a flush', () => {
  it('uses the new tables with another PCID and finds the old mappings on return', () => {
    const { box, use } = twoSpaces(CR4.PCIDE);
    expect([use(0, 1), use(1, 2)]).toEqual([PAGE, PAGE + 0x1000]);
    const walks = box.cpu.counts[COST.TLB_MISS];
    expect([use(0, 1), use(1, 2)]).toEqual([PAGE, PAGE + 0x1000]);
    expect(box.cpu.counts[COST.TLB_MISS]).toBe(walks);
  });

  it('uses the new tables with another VPID', () => {
    const { use } = twoSpaces(0);
    expect([use(0, 0, 1), use(1, 0, 2), use(0, 0, 1)]).toEqual([PAGE, PAGE + 0x1000, PAGE]);
  });

  it('keeps using the old mappings with the same tag', () => {
    const { use } = twoSpaces(CR4.PCIDE);
    expect([use(0, 1), use(1, 1)]).toEqual([PAGE, PAGE]);
  });
});

describe('the fast TLB', () => {
  it('keeps entries across a switch there and back', () => {
    const { box, use } = twoSpaces(CR4.PCIDE);
    use(0, 1);
    expect(box.fastHit(LIN, 0)).toBe(true);
    box.cpu.s[S.CR3] = box.cr3 | 2;
    box.changed();
    expect(box.fastHit(LIN, 0)).toBe(false);
    box.cpu.s[S.CR3] = box.cr3 | 1;
    box.changed();
    expect(box.fastHit(LIN, 0)).toBe(true);
  });

  it('separates what decides about rights', () => {
    const box = new PagingBox();
    box.map(LIN, PAGE);
    box.go(LIN, ACCESS.WRITE);
    const constants = new Set<number>([box.cpu.s[S.CTX]!]);
    const changes: readonly (() => void)[] = [
      () => (box.cpu.s[S.CPL] = 3),
      () => (box.cpu.s[S.CPL] = 0),
      () => (box.cpu.s[S.CR0]! &= ~0x1_0000),
      () => (box.cpu.s[S.CR4]! |= CR4.SMAP),
      () => (box.cpu.s[S.CR4]! |= CR4.SMEP),
      () => (box.cpu.s[S.CR4]! |= CR4.PKE),
      () => (box.cpu.s[S.PKRU] = 4),
      () => (box.cpu.s[S.PKRU] = 8),
      () => (box.cpu.s[S.EFER]! &= ~EFER.NXE),
      () => (box.cpu.mmu.vpid = 5),
    ];
    for (const change of changes) {
      change();
      box.changed();
      constants.add(box.cpu.s[S.CTX]!);
    }
    // CPL back to 0 is the first context again; PKE with PKRU 0 changes nothing.
    expect(constants.size).toBe(changes.length + 1 - 2);
    box.cpu.s[S.RFLAGS_SYS]! |= RFLAGS.AC;
    box.changed();
    expect(constants.has(box.cpu.s[S.CTX]!)).toBe(false);
  });

  it('starts again when context numbers run out, and is still right', () => {
    const box = new PagingBox({ tlb: 'keep-forever' });
    box.cpu.s[S.CR4]! |= CR4.PCIDE;
    box.map(LIN, PAGE);
    for (let round = 0; round < 3; round++) {
      for (let pcid = 0; pcid < 100; pcid++) {
        box.cpu.s[S.CR3] = box.cr3 | pcid;
        mmuContextChanged(box.cpu);
        expect(box.go(LIN, ACCESS.READ)).toBe(PAGE);
        expect(box.fastHit(LIN, 0)).toBe(true);
        expect(auditFastTlb(box.cpu)).toEqual([]);
      }
    }
    expect(box.cpu.counts[COST.TLB_MISS]).toBe(100);
  });

  it('reuses tags that nothing is cached for, and only those', () => {
    const box = new PagingBox();
    box.map(LIN, PAGE);
    box.cpu.mmu.vpid = 1;
    box.changed();
    box.go(LIN, ACCESS.READ);
    for (let vpid = 2; vpid < 3000; vpid++) {
      box.cpu.mmu.vpid = vpid;
      box.changed();
    }
    expect(box.cpu.mmu.spaces.length).toBeLessThan(2000);
    box.cpu.mmu.vpid = 1;
    box.changed();
    const walks = box.cpu.counts[COST.TLB_MISS];
    expect(box.go(LIN, ACCESS.READ)).toBe(PAGE);
    expect(box.cpu.counts[COST.TLB_MISS]).toBe(walks);
  });
});
