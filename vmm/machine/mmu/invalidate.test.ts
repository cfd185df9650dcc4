// SPDX-License-Identifier: GPL-2.0-only
/**
 * The scope of each invalidation: a grid of mappings over VPID, PCID, EP4TA, page and globality is filled, one
 * invalidation is done, and what survives is compared with the SDM's text: "Operations that Invalidate TLBs and
 * Paging-Structure Caches", "Operations that Invalidate Cached Mappings", INVPCID, INVVPID, INVEPT.
 */
import { describe, expect, it } from 'vitest';
import { CR4 } from '../../../lib/x86/registers.ts';
import { COST } from '../cost/points.ts';
import { S } from '../cpu/state.ts';
import { FLUSH } from '../tlb/flush_ledger.ts';
import { ACCESS } from './access.ts';
import { auditFastTlb } from './audit.ts';
import {
  flushAll,
  flushOnCr4Change,
  flushOnPagingOff,
  invept,
  invlpg,
  invpcid,
  invvpid,
  movCr3Flush,
  vmxTransitionFlush,
} from './invalidate.ts';
import { PagingBox } from './testing/paging_box.ts';
import { guestPhysToHost } from './translate.ts';

interface Tag {
  readonly vpid: number;
  readonly pcid: number;
  /** 0: EPT off; 1 or 2: one of two EPTPs. */
  readonly ept: number;
  readonly page: 'plain' | 'other' | 'global';
}

const LIN = { plain: 0x40_0000n, other: 0x80_1000n, global: 0xffff_8000_0000_0000n } as const;
const GPA = 0x192_3000;
const VPIDS = [0, 1, 2];
const PCIDS = [0, 3];
const EPTS = [0, 1, 2];
const PAGES = ['plain', 'other', 'global'] as const;

const allTags: readonly Tag[] = VPIDS.flatMap((vpid) =>
  PCIDS.flatMap((pcid) => EPTS.flatMap((ept) => PAGES.map((page): Tag => ({ vpid, pcid, ept, page })))),
);

/** Two EPTPs with the same tables below different roots, so that every tag leads to the same memory. */
class Grid {
  readonly box = new PagingBox({ tlb: 'keep-forever' });
  readonly eptps: readonly number[];

  constructor() {
    const { box } = this;
    box.cpu.s[S.CR4]! |= CR4.PCIDE;
    for (const page of PAGES) box.map(LIN[page], GPA, page === 'global' ? 0x167 : 0x67);
    const second = box.hostTable();
    box.mapEpt(0, 0, 0x3b7, 3);
    box.write(second, box.read(box.ept));
    this.eptps = [0, box.ept | 0x1e, second | 0x1e];
    for (const tag of allTags) this.touch(tag);
    for (const ept of [1, 2]) this.touchPhysical(ept);
  }

  enter(tag: Omit<Tag, 'page'>): void {
    const { mmu, s } = this.box.cpu;
    mmu.vpid = tag.vpid;
    mmu.eptp = this.eptps[tag.ept]!;
    s[S.CR3] = (s[S.CR3]! & ~0xfff) | tag.pcid;
    this.box.changed();
  }

  /** Whether the access is a hit. */
  touch(tag: Tag): boolean {
    this.enter(tag);
    const { counts } = this.box.cpu;
    const before = counts[COST.TLB_MISS]!;
    expect(this.box.go(LIN[tag.page], ACCESS.READ)).toBe(GPA);
    return counts[COST.TLB_MISS] === before;
  }

  touchPhysical(ept: number): boolean {
    this.enter({ vpid: 1, pcid: 0, ept });
    const { counts } = this.box.cpu;
    const before = counts[COST.TLB_MISS]!;
    guestPhysToHost(this.box.cpu, GPA, ACCESS.READ);
    return counts[COST.TLB_MISS] === before;
  }
}

/** Fill, do it from `from`, and compare what is left with `drops`. */
function expectDrops(
  from: Omit<Tag, 'page'>,
  act: (grid: Grid) => void,
  drops: (tag: Tag) => boolean,
  dropsPhysical: (ept: number) => boolean = () => false,
): void {
  const grid = new Grid();
  grid.enter(from);
  act(grid);
  expect(auditFastTlb(grid.box.cpu)).toEqual([]);
  const physical = [1, 2].map((ept) => ({ ept, hit: hasPhysical(grid, ept) }));
  expect(physical).toEqual([1, 2].map((ept) => ({ ept, hit: !dropsPhysical(ept) })));
  // A global translation is one for all PCIDs of a VPID and EP4TA: ask for each only once.
  const asked = allTags.filter((tag) => tag.page !== 'global' || tag.pcid === 0);
  const found = asked.map((tag) => ({ ...tag, hit: has(grid, tag) }));
  expect(found).toEqual(asked.map((tag) => ({ ...tag, hit: !drops(tag) })));
}

/** Look without filling. */
function has(grid: Grid, tag: Tag): boolean {
  grid.enter(tag);
  const { mmu } = grid.box.cpu;
  const lin = LIN[tag.page];
  return mmu.tlb.lookup(grid.box.lo(lin), grid.box.hi(lin), mmu.group, mmu.space, mmu.globalSpace) >= 0;
}

function hasPhysical(grid: Grid, ept: number): boolean {
  grid.enter({ vpid: 1, pcid: 0, ept });
  const { mmu } = grid.box.cpu;
  return mmu.gp.lookup(GPA, 0, mmu.gpGroup, mmu.gpSpace, mmu.gpSpace) >= 0;
}

const guest = { vpid: 1, pcid: 3, ept: 1 } as const;
const LO = Number(LIN.plain);
const GLO = [0, -0x8000] as const;

describe('INVLPG', () => {
  it('drops the page in the current VPID and PCID, under every EP4TA', () => {
    expectDrops(
      guest,
      (g) => invlpg(g.box.cpu, LO + 0x123, 0),
      (t) => t.vpid === 1 && t.pcid === 3 && t.page === 'plain',
    );
  });

  it('drops a global translation whatever its PCID', () => {
    expectDrops(
      guest,
      (g) => invlpg(g.box.cpu, GLO[0], GLO[1]),
      (t) => t.vpid === 1 && t.page === 'global',
    );
  });

  it('drops a large page by any address in it', () => {
    const box = new PagingBox();
    box.map(0x4000_0000n, 0x180_0000, 0x67, 2);
    box.go(0x4000_1000n, ACCESS.READ);
    box.go(0x4000_3000n, ACCESS.WRITE);
    invlpg(box.cpu, 0x401f_f000, 0);
    expect([box.fastHit(0x4000_1000n, 0), box.fastHit(0x4000_3000n, 1)]).toEqual([false, false]);
    expect(box.cpu.mmu.tlb.used).toBe(0);
    expect(auditFastTlb(box.cpu)).toEqual([]);
  });
});

describe('MOV to CR3', () => {
  it('drops the new PCID without global translations', () => {
    expectDrops(
      guest,
      (g) => movCr3Flush(g.box.cpu, { noflush: false }),
      (t) => t.vpid === 1 && t.pcid === 3 && t.page !== 'global',
    );
  });

  it('drops nothing with bit 63 set', () => {
    expectDrops(
      guest,
      (g) => movCr3Flush(g.box.cpu, { noflush: true }),
      () => false,
    );
  });

  it('flushes PCID 0 while CR4.PCIDE is clear, bit 63 or not', () => {
    const box = new PagingBox();
    box.map(LIN.plain, 0x180_0000);
    box.go(LIN.plain, ACCESS.READ);
    movCr3Flush(box.cpu, { noflush: true });
    expect(box.cpu.mmu.tlb.used).toBe(0);
  });
});

describe('MOV to CR4 and CR0', () => {
  const all = (t: Tag): boolean => t.vpid === 1;

  it('drops all PCIDs and globals of the VPID when PGE changes', () => {
    for (const [from, to] of [
      [0, CR4.PGE],
      [CR4.PGE, 0],
    ] as const) {
      expectDrops(guest, (g) => flushOnCr4Change(g.box.cpu, from, to), all);
    }
  });

  it('drops the same when PCIDE is cleared, and nothing when it is set', () => {
    expectDrops(guest, (g) => flushOnCr4Change(g.box.cpu, CR4.PCIDE, 0), all);
    expectDrops(
      guest,
      (g) => flushOnCr4Change(g.box.cpu, 0, CR4.PCIDE),
      () => false,
    );
  });

  it('drops the current PCID when SMEP is set, and nothing when it is cleared', () => {
    const current = (t: Tag): boolean => t.vpid === 1 && (t.pcid === 3 || t.page === 'global');
    expectDrops(guest, (g) => flushOnCr4Change(g.box.cpu, 0, CR4.SMEP), current);
    expectDrops(
      guest,
      (g) => flushOnCr4Change(g.box.cpu, CR4.SMEP, 0),
      () => false,
    );
    expectDrops(
      guest,
      (g) => flushOnCr4Change(g.box.cpu, 0, CR4.SMAP),
      () => false,
    );
  });

  it('drops everything of the VPID when paging goes off', () => {
    expectDrops(guest, (g) => flushOnPagingOff(g.box.cpu), all);
  });
});

describe('INVPCID', () => {
  const run =
    (type: number, pcid: number, lo = 0, hi = 0) =>
    (g: Grid): void =>
      invpcid(g.box.cpu, type, pcid, lo, hi);

  it('type 0 drops one address of the PCID, not a global one', () => {
    expectDrops(guest, run(0, 0, LO), (t) => t.vpid === 1 && t.pcid === 0 && t.page === 'plain');
    expectDrops(guest, run(0, 3, ...GLO), () => false);
  });

  it('type 1 drops the PCID but no globals', () => {
    expectDrops(guest, run(1, 0), (t) => t.vpid === 1 && t.pcid === 0 && t.page !== 'global');
  });

  it('type 2 drops all PCIDs and globals of the VPID', () => {
    expectDrops(guest, run(2, 0), (t) => t.vpid === 1);
  });

  it('type 3 drops all PCIDs but no globals', () => {
    expectDrops(guest, run(3, 0), (t) => t.vpid === 1 && t.page !== 'global');
  });
});

describe('INVVPID', () => {
  const run =
    (type: number, vpid: number, lo = 0, hi = 0) =>
    (g: Grid): void =>
      invvpid(g.box.cpu, type, vpid, lo, hi);
  const root = { vpid: 0, pcid: 0, ept: 0 } as const;

  it('type 0 drops one address of the VPID, all PCIDs, globals too', () => {
    expectDrops(root, run(0, 2, LO), (t) => t.vpid === 2 && t.page === 'plain');
    expectDrops(root, run(0, 2, ...GLO), (t) => t.vpid === 2 && t.page === 'global');
  });

  it('type 1 drops the VPID', () => {
    expectDrops(root, run(1, 2), (t) => t.vpid === 2);
  });

  it('type 2 drops all VPIDs but 0', () => {
    expectDrops(root, run(2, 0), (t) => t.vpid !== 0);
  });

  it('type 3 keeps globals', () => {
    expectDrops(root, run(3, 2), (t) => t.vpid === 2 && t.page !== 'global');
  });
});

describe('INVEPT', () => {
  const root = { vpid: 0, pcid: 0, ept: 0 } as const;

  it('type 1 drops guest-physical and combined mappings of the EP4TA, no linear ones', () => {
    expectDrops(
      root,
      (g) => invept(g.box.cpu, 1, g.eptps[1]!),
      (t) => t.ept === 1,
      (ept) => ept === 1,
    );
  });

  it('goes by bits 51:12 of the EPTP only', () => {
    expectDrops(
      root,
      (g) => invept(g.box.cpu, 1, g.eptps[2]! ^ 0x5f),
      (t) => t.ept === 2,
      (ept) => ept === 2,
    );
  });

  it('type 2 drops those of every EP4TA', () => {
    expectDrops(
      root,
      (g) => invept(g.box.cpu, 2, 0),
      (t) => t.ept !== 0,
      () => true,
    );
  });
});

describe('VM entries and exits without VPID', () => {
  it('drop linear and combined mappings of VPID 0', () => {
    expectDrops(
      { vpid: 0, pcid: 0, ept: 0 },
      (g) => vmxTransitionFlush(g.box.cpu),
      (t) => t.vpid === 0,
    );
  });
});

describe('reset', () => {
  it('drops everything', () => {
    expectDrops(
      guest,
      (g) => flushAll(g.box.cpu),
      () => true,
      () => true,
    );
  });
});

describe('the ledger', () => {
  it('counts what each kind dropped and which were in vain', () => {
    const grid = new Grid();
    const { cpu } = grid.box;
    const { ledger } = cpu.mmu;
    grid.enter(guest);
    invlpg(cpu, LO, 0);
    invlpg(cpu, LO, 0);
    expect(ledger.totals(FLUSH.INVLPG)).toEqual({ calls: 2, dropped: 3, empty: 1 });
    ledger.cause = ledger.causeId('nested entry');
    invvpid(cpu, 1, 2, 0, 0);
    expect(ledger.totals(FLUSH.INVVPID_SINGLE, 'nested entry')).toEqual({ calls: 1, dropped: 15, empty: 0 });
    expect(ledger.totals(FLUSH.INVVPID_SINGLE, '')).toEqual({ calls: 0, dropped: 0, empty: 0 });
    const last = ledger.history().at(-1)!;
    expect([last.kind, last.cause, last.tag, last.dropped]).toEqual([
      FLUSH.INVVPID_SINGLE,
      'nested entry',
      2,
      15,
    ]);
  });
});
