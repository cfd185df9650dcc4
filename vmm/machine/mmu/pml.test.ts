// SPDX-License-Identifier: GPL-2.0-only
/**
 * Page-modification logging as the walk does it. Expectations from the SDM, "Page-Modification Logging" and "Accessed
 * and Dirty Flags for EPT"; what the VM exit records is in vmx/pml.test.ts, and that
 * all walkers log alike in policies.test.ts.
 */
import { describe, expect, it } from 'vitest';
import { FAULT } from '../cpu/state.ts';
import { RAM_BASE } from '../layout.ts';
import { SanitizerError } from '../errors.ts';
import { FRAME } from '../memory/frames.ts';
import { ACCESS } from './access.ts';
import { flushAll } from './invalidate.ts';
import { EPT_LEAF, EPT_TABLE, G0, LEAF, PagingBox, TABLE } from './testing/paging_box.ts';
import { guestPhysToHost } from './translate.ts';

const { READ, WRITE, EXEC } = ACCESS;
const LIN = 0x7654_3210_9000n;
const GPA = 0x12_3000;
/** EPT leaf: write-back, everything allowed; what it lacks of EPT_LEAF are the accessed and the dirty flag. */
const CLEAN = 0x37;
const A = 0x100;
const D = 0x200;
/** Out of the way of the box's tables: the log, and the word that holds its index. */
const LOG = RAM_BASE + 0x70_0000;
const INDEX = RAM_BASE + 0x70_1000;
const AD_ENABLED = 0x5e;

/** A box that logs. Every EPT entry is accessed and dirty, but that of the page at GPA, which has `flags`. */
function logging(flags = CLEAN | A, index = 511, eptp = AD_ENABLED): PagingBox {
  const box = new PagingBox().withEpt('mapped', eptp);
  box.map(LIN, GPA);
  box.write(box.eptEntry(GPA, 2), BigInt(box.hostTable() | EPT_TABLE));
  box.mapEpt(GPA, G0 + GPA, flags);
  return withLog(box, index);
}

function withLog(box: PagingBox, index = 511): PagingBox {
  box.cpu.mmu.pmlPage = LOG;
  box.cpu.mmu.pmlIndexWord = INDEX / 4;
  setIndex(box, index);
  return box;
}

const setIndex = (box: PagingBox, index: number): void => {
  box.mem.i32[INDEX / 4] = index;
};
const indexOf = (box: PagingBox): number => box.mem.i32[INDEX / 4]!;
const entryAt = (box: PagingBox, n: number): bigint => box.read(LOG + 8 * n);
const leafOf = (box: PagingBox, gpa = GPA): number => Number(box.read(box.eptEntry(gpa, 1)) & 0xfffn);

/** What was logged since the index was 511, oldest first. */
function logged(box: PagingBox): bigint[] {
  const entries: bigint[] = [];
  for (let n = 511; n !== indexOf(box); n--) entries.push(entryAt(box, n));
  return entries;
}

describe('a dirty flag for EPT that changes from 0 to 1', () => {
  it.each([
    { index: 511, next: 510 },
    { index: 1, next: 0 },
    { index: 0, next: 0xffff },
  ])('is logged at index $index, and the index becomes $next', ({ index, next }) => {
    const box = logging(CLEAN | A, index);
    expect(box.go(LIN + 0xabcn, WRITE)).toBe(G0 + GPA + 0xabc);
    expect(entryAt(box, index)).toBe(BigInt(GPA));
    expect(indexOf(box)).toBe(next);
    expect(leafOf(box)).toBe(CLEAN | A | D);
  });

  it.each([
    { name: 'a write to a page that is dirty', flags: EPT_LEAF, access: WRITE },
    { name: 'a read', flags: CLEAN | A, access: READ },
    { name: 'a fetch', flags: CLEAN | A, access: EXEC },
    { name: 'a read that sets the accessed flag', flags: CLEAN, access: READ },
  ])('is not what $name makes: nothing is logged', ({ flags, access }) => {
    const box = logging(flags);
    expect(box.go(LIN, access)).toBe(G0 + GPA);
    expect(indexOf(box)).toBe(511);
    expect(entryAt(box, 511)).toBe(0n);
    expect(leafOf(box)).toBe(flags | A);
  });

  it('is logged once, also if the page was read before', () => {
    const box = logging();
    box.go(LIN, READ);
    box.go(LIN, WRITE);
    box.go(LIN + 8n, WRITE);
    flushAll(box.cpu);
    box.go(LIN, WRITE);
    expect(logged(box)).toEqual([BigInt(GPA)]);
  });

  it('is logged again after software cleared it', () => {
    const box = logging();
    box.go(LIN, WRITE);
    box.mapEpt(GPA, G0 + GPA, CLEAN | A);
    flushAll(box.cpu);
    box.go(LIN, WRITE);
    expect(logged(box)).toEqual([BigInt(GPA), BigInt(GPA)]);
  });

  it('of a large page is logged with the 4-KByte page of the access', () => {
    const box = withLog(new PagingBox().withEpt('mapped', AD_ENABLED));
    box.map(LIN, 0x20_5000);
    box.mapEpt(0x20_0000, G0 + 0x20_0000, CLEAN | A | 0x80, 2);
    expect(box.go(LIN + 0x10n, WRITE)).toBe(G0 + 0x20_5010);
    expect(logged(box)).toEqual([0x20_5000n]);
  });

  it('is logged with all bits of an address above 4 GiB, without a linear address too', () => {
    const box = withLog(new PagingBox().withEpt('mapped', AD_ENABLED));
    box.mapEpt(0x12_3456_7000, G0, CLEAN);
    expect(guestPhysToHost(box.cpu, 0x12_3456_7890, WRITE)).toBe(G0 + 0x890);
    expect(logged(box)).toEqual([0x12_3456_7000n]);
  });

  it('drops code that was decoded from the log', () => {
    const box = logging();
    const dropped: number[] = [];
    box.cpu.code.hasCode = (pfn) => pfn === LOG >>> 12;
    box.cpu.code.noteStore = (hpa) => dropped.push(hpa);
    box.go(LIN, WRITE);
    expect(dropped).toEqual([LOG + 8 * 511]);
  });

  it('finds out that the log was freed', () => {
    const box = logging();
    box.frames.managed = true;
    box.frames.state.fill(FRAME.ALLOCATED);
    box.frames.state[LOG >>> 12] = FRAME.FREE;
    expect(() => box.go(LIN, WRITE)).toThrow(SanitizerError);
  });
});

describe('pages that hold guest paging structures', () => {
  /** The page-table page of LIN has an EPT entry of its own, with `flags`. */
  function boxTable(flags: number, leaf: number, eptp = AD_ENABLED): { box: PagingBox; table: number } {
    const box = new PagingBox().withEpt('mapped', eptp);
    const pte = box.map(LIN, GPA, leaf);
    const table = (pte - G0) & ~0xfff;
    const region = table & ~0x1f_ffff;
    const fine = box.hostTable();
    for (let n = 0; n < 512; n++) box.write(fine + n * 8, BigInt((G0 + region + n * 0x1000) | EPT_LEAF));
    box.write(box.eptEntry(table, 2), BigInt(fine | EPT_TABLE));
    box.mapEpt(table, G0 + table, flags);
    return { box: withLog(box), table };
  }

  // Accesses to guest paging structures are writes as far as EPT's flags are concerned.
  it.each([
    { name: 'a read with nothing to set', leaf: LEAF, access: READ },
    { name: 'a read that sets the accessed flag', leaf: TABLE & ~0x20, access: READ },
    { name: 'a write that sets the dirty flag', leaf: TABLE, access: WRITE },
  ])('are logged on $name', ({ leaf, access }) => {
    const { box, table } = boxTable(CLEAN | A, leaf);
    expect(box.go(LIN, access)).toBe(G0 + GPA);
    expect(logged(box)).toEqual([BigInt(table)]);
    expect(leafOf(box, table)).toBe(CLEAN | A | D);
  });

  it('are not logged if they are dirty', () => {
    const { box } = boxTable(EPT_LEAF, TABLE & ~0x20);
    expect(box.go(LIN, READ)).toBe(G0 + GPA);
    expect(logged(box)).toEqual([]);
  });

  it('are logged before the page that they lead to', () => {
    const { box, table } = boxTable(CLEAN | A, LEAF);
    box.write(box.eptEntry(GPA, 2), BigInt(box.hostTable() | EPT_TABLE));
    box.mapEpt(GPA, G0 + GPA, CLEAN | A);
    expect(box.go(LIN, WRITE)).toBe(G0 + GPA);
    expect(logged(box)).toEqual([BigInt(table), BigInt(GPA)]);
  });

  it('do not fit a full log: neither their entry nor the guest entry changes', () => {
    const { box, table } = boxTable(CLEAN | A, TABLE & ~0x20);
    setIndex(box, 0xffff);
    expect(box.go(LIN, READ)).toBe(-1);
    expect(box.cpu.fault.kind).toBe(FAULT.PML_FULL);
    expect(leafOf(box, table)).toBe(CLEAN | A);
    expect(box.read(box.entry(LIN, 1)) & 0x60n).toBe(0n);
  });
});

describe('a page-modification log-full event', () => {
  it.each([512, 0x8000, 0xffff])('comes at index %i before a dirty flag is set', (index) => {
    const box = logging(CLEAN | A, index);
    expect(box.go(LIN, WRITE)).toBe(-1);
    expect(box.cpu.fault).toMatchObject({ kind: FAULT.PML_FULL, qualification: 0 });
    expect(leafOf(box)).toBe(CLEAN | A);
    expect(indexOf(box)).toBe(index);
  });

  it.each([READ, WRITE, EXEC])('comes before an accessed flag is set, too (access %i)', (access) => {
    const box = logging(EPT_LEAF & ~A, 512);
    expect(box.go(LIN, access)).toBe(-1);
    expect(box.cpu.fault.kind).toBe(FAULT.PML_FULL);
    expect(leafOf(box)).toBe(EPT_LEAF & ~A);
  });

  it('leaves the accessed flags of the upper levels alone', () => {
    const box = logging(CLEAN | A, 512);
    const at = box.eptEntry(GPA, 2);
    box.write(at, box.read(at) & ~BigInt(A));
    expect(box.go(LIN, READ)).toBe(-1);
    expect(box.read(at) & BigInt(A)).toBe(0n);
  });

  it.each([READ, WRITE, EXEC])('does not come if there is nothing to set (access %i)', (access) => {
    const box = logging(EPT_LEAF, 512);
    expect(box.go(LIN, access)).toBe(G0 + GPA);
  });

  it('does not come for a read of an accessed page that is clean', () => {
    expect(logging(CLEAN | A, 512).go(LIN, READ)).toBe(G0 + GPA);
  });

  it('does not come for an access that violates: that is an EPT violation', () => {
    const box = logging((CLEAN | A) & ~2, 512);
    expect(box.go(LIN, WRITE)).toBe(-1);
    expect(box.cpu.fault.kind).toBe(FAULT.EPT_VIOLATION);
  });

  it('comes for a page whose clean mapping is cached', () => {
    const box = logging();
    expect(box.go(LIN, READ)).toBe(G0 + GPA);
    setIndex(box, 0xffff);
    expect(box.go(LIN, WRITE)).toBe(-1);
    expect(box.cpu.fault.kind).toBe(FAULT.PML_FULL);
    setIndex(box, 511);
    expect(box.go(LIN, WRITE)).toBe(G0 + GPA);
    expect(logged(box)).toEqual([BigInt(GPA)]);
  });
});

describe('without accessed and dirty flags for EPT', () => {
  it.each([511, 512])('a write sets, logs and exits nothing (index %i)', (index) => {
    const box = logging(CLEAN, index, 0x1e);
    expect(box.go(LIN, WRITE)).toBe(G0 + GPA);
    expect([leafOf(box), indexOf(box)]).toEqual([CLEAN, index]);
  });
});
