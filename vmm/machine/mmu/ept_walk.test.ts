// SPDX-License-Identifier: GPL-2.0-only
/**
 * Extended page tables. Expectations from the SDM, "EPT Translation Mechanism", "EPT Misconfigurations", "EPT
 * Violations", "Accessed and Dirty Flags for EPT" and "Exit Qualification for EPT Violations"; those of accesses to
 * the guest's own tables agree with the EPT access tests of kvm-unit-tests.
 */
import { describe, expect, it } from 'vitest';
import { COST } from '../cost/points.ts';
import { PROFILES } from '../cost/profiles.ts';
import { FAULT, S } from '../cpu/state.ts';
import { SanitizerError } from '../errors.ts';
import { ACCESS } from './access.ts';
import { flushAll } from './invalidate.ts';
import { EPT_LEAF, EPT_TABLE, G0, LEAF, PagingBox } from './testing/paging_box.ts';
import { guestPhysToHost } from './translate.ts';

const { READ, WRITE, EXEC } = ACCESS;
const LIN = 0x7654_3210_9000n;
const GPA = 0x12_3000;
const WB = 0x30;

/** A box whose guest tables are mapped by 2 MiB pages and whose page at GPA has an EPT entry of its own. */
function box4k(flags = EPT_LEAF, eptp = 0x1e): PagingBox {
  const box = new PagingBox().withEpt('mapped', eptp);
  box.map(LIN, GPA);
  box.write(box.eptEntry(GPA, 2), BigInt(box.hostTable() | EPT_TABLE));
  box.mapEpt(GPA, G0 + GPA, flags);
  return box;
}

/** A box whose guest page-table page of LIN has an EPT entry with `flags` of its own. */
function boxTable(flags: number, eptp: number, leaf: number): PagingBox {
  const box = new PagingBox().withEpt('mapped', eptp);
  const pte = box.map(LIN, GPA, leaf);
  const table = (pte - G0) & ~0xfff;
  const region = table & ~0x1f_ffff;
  const fine = box.hostTable();
  for (let n = 0; n < 512; n++) box.write(fine + n * 8, BigInt((G0 + region + n * 0x1000) | EPT_LEAF));
  box.write(box.eptEntry(table, 2), BigInt(fine | EPT_TABLE));
  box.mapEpt(table, G0 + table, flags);
  return box;
}

const outcome = (box: PagingBox, access: number): string => {
  flushAll(box.cpu);
  const hpa = box.go(LIN, access);
  const { fault } = box.cpu;
  if (hpa >= 0) return 'ok';
  if (fault.kind === FAULT.EPT_VIOLATION) return `violation ${fault.qualification.toString(16)}`;
  return fault.kind === FAULT.EPT_MISCONFIG ? 'misconfig' : `exception ${fault.errorCode}`;
};

describe('a two-dimensional walk', () => {
  it('has 24 references with 4 levels and 4 KiB pages on both sides', () => {
    const box = new PagingBox({ tlb: 'keep-nothing' }).withEpt('empty');
    for (let gpa = 0; gpa < 0x80_0000; gpa += 0x1000) box.mapEpt(gpa, G0 + gpa);
    box.map(LIN, GPA);
    expect(box.go(LIN + 5n, READ)).toBe(G0 + GPA + 5);
    expect([box.cpu.counts[COST.WALK_REF], box.cpu.counts[COST.TLB_MISS]]).toEqual([24, 1]);
  });

  it('has 19 with 2 MiB pages in EPT, and fewer when guest-physical mappings are cached', () => {
    const bare = new PagingBox({ tlb: 'keep-nothing' }).withEpt();
    bare.map(LIN, GPA);
    bare.go(LIN, READ);
    expect(bare.cpu.counts[COST.WALK_REF]).toBe(19);
    const box = new PagingBox().withEpt();
    box.map(LIN, GPA);
    box.map(LIN + 0x1000n, GPA + 0x1000);
    box.go(LIN, READ);
    const first = box.cpu.counts[COST.WALK_REF]!;
    box.go(LIN + 0x1000n, READ);
    expect(box.cpu.counts[COST.WALK_REF]! - first).toBeLessThan(first);
  });

  it('makes a mapping of the smaller of the two pages', () => {
    const box = new PagingBox().withEpt();
    box.map(0x4000_0000n, 0x20_0000, LEAF, 2);
    box.map(0x8000_0000n, 0x20_0000, LEAF, 1);
    expect(box.go(0x4000_1000n, READ)).toBe(G0 + 0x20_1000);
    expect(box.go(0x8000_0004n, READ)).toBe(G0 + 0x20_0004);
    const walks = box.cpu.counts[COST.TLB_MISS];
    expect(box.go(0x401f_f000n, READ)).toBe(G0 + 0x3f_f000);
    expect(box.cpu.counts[COST.TLB_MISS]).toBe(walks);
  });

  it('can have five EPT levels', () => {
    const box = new PagingBox().withEpt('mapped', 0x26);
    box.map(LIN, GPA);
    expect(box.go(LIN, WRITE)).toBe(G0 + GPA);
  });

  it('with five EPT levels translates addresses of more than 48 bits, with four it violates', () => {
    const high = 2 ** 48 + 2 ** 39 + GPA;
    const five = new PagingBox({ profile: PROFILES.icelake }).withEpt('mapped', 0x26);
    five.map(LIN, GPA);
    five.write(five.entry(LIN, 1), BigInt(high) | BigInt(LEAF));
    expect(outcome(five, WRITE)).toBe('violation 182');
    expect(five.cpu.fault.gpa).toBe(high);
    five.mapEpt(high, G0 + GPA);
    expect(outcome(five, WRITE)).toBe('ok');
    const four = new PagingBox({ profile: PROFILES.icelake }).withEpt('mapped');
    four.map(LIN, GPA);
    four.write(four.entry(LIN, 1), BigInt(high) | BigInt(LEAF));
    // Bits 47:0 alone would have a translation.
    four.mapEpt(high - 2 ** 48, G0 + GPA);
    expect(outcome(four, WRITE)).toBe('violation 182');
    expect(four.cpu.fault.gpa).toBe(high);
  });

  it('finds reserved bits in an EPT PML5 entry', () => {
    for (const bit of [0x08, 0x80]) {
      const box = new PagingBox().withEpt('mapped', 0x26);
      box.map(LIN, GPA);
      const root = box.eptEntry(GPA, 5);
      box.write(root, box.read(root) | BigInt(bit));
      expect(outcome(box, READ)).toBe('misconfig');
    }
  });

  it('can use 1 GiB EPT pages', () => {
    const box = new PagingBox();
    box.cpu.mmu.eptp = box.ept | 0x1e;
    box.changed();
    box.mapEpt(0, 0, EPT_LEAF | 0x80, 3);
    expect(guestPhysToHost(box.cpu, 0x123_4567, READ)).toBe(0x123_4567);
  });
});

describe('an EPT violation of the access itself', () => {
  // Bits 2:0 the access, 5:3 what EPT allows, 7 linear address valid, 8 the translation was accessed.
  const rows: readonly (readonly [string, number, number, string])[] = [
    ['a read of a page that is not present', 0, READ, 'violation 181'],
    ['a write of one', 0, WRITE, 'violation 182'],
    ['a fetch from one', 0, EXEC, 'violation 184'],
    ['a write of a read-only page', WB | 1, WRITE, 'violation 18a'],
    ['a fetch from a read-only page', WB | 1, EXEC, 'violation 18c'],
    ['a fetch from a read-write page', WB | 3, EXEC, 'violation 19c'],
    ['a write of a read-execute page', WB | 5, WRITE, 'violation 1aa'],
    ['a read of an execute-only page', WB | 4, READ, 'violation 1a1'],
    ['a fetch from an execute-only page', WB | 4, EXEC, 'ok'],
    ['a read of a read-only page', WB | 1, READ, 'ok'],
  ];
  for (const [name, flags, access, expected] of rows) {
    it(`is reported for ${name}: ${expected}`, () => {
      const box = box4k();
      box.write(box.eptEntry(GPA, 1), flags === 0 ? 0n : BigInt((G0 + GPA) | flags));
      expect(outcome(box, access)).toBe(expected);
      if (expected === 'ok') return;
      expect(box.cpu.fault.gpa).toBe(GPA);
      expect([box.cpu.fault.linLo, box.cpu.fault.linHi]).toEqual([box.lo(LIN), box.hi(LIN)]);
    });
  }

  it('reports the rights of all levels together', () => {
    const box = box4k(WB | 7);
    box.write(box.eptEntry(GPA, 2), (box.read(box.eptEntry(GPA, 2)) & ~7n) | 5n);
    expect(outcome(box, WRITE)).toBe('violation 1aa');
  });

  it('reports a missing table with no rights', () => {
    const box = box4k();
    box.write(box.eptEntry(GPA, 2), 0n);
    // The tables of the guest lie elsewhere, at 4 MiB.
    expect(outcome(box, READ)).toBe('violation 181');
  });

  it('comes after the page fault of the guest, and after its A and D flags', () => {
    const box = box4k(0);
    const pte = box.map(LIN, GPA, 0x07);
    expect(outcome(box, WRITE)).toBe('violation 182');
    expect(box.read(pte) & 0x60n).toBe(0x60n);
    box.map(LIN, GPA, 0x05);
    expect(outcome(box, WRITE)).toBe('exception 3');
  });
});

describe('an EPT violation of an access to a guest table', () => {
  it('is a read without A/D for EPT', () => {
    for (const access of [READ, WRITE, EXEC]) {
      expect(outcome(boxTable(0, 0x1e, LEAF), access)).toBe('violation 81');
    }
  });

  it('is a read and a write with A/D for EPT', () => {
    for (const access of [READ, WRITE, EXEC]) {
      expect(outcome(boxTable(0, 0x5e, LEAF), access)).toBe('violation 83');
      expect(outcome(boxTable(WB | 1, 0x5e, LEAF), access)).toBe('violation 8b');
    }
  });

  it('is a read and a write when A or D must be set in a read-only table', () => {
    for (const access of [READ, WRITE, EXEC]) {
      expect(outcome(boxTable(WB | 1, 0x1e, 0x07), access)).toBe('violation 8b');
    }
    expect(outcome(boxTable(WB | 1, 0x1e, 0x27), READ)).toBe('ok');
    expect(outcome(boxTable(WB | 1, 0x1e, 0x27), WRITE)).toBe('violation 8b');
    expect(outcome(boxTable(WB | 1, 0x1e, 0x67), WRITE)).toBe('ok');
  });

  it('reports the address of the entry', () => {
    const box = boxTable(0, 0x1e, LEAF);
    outcome(box, READ);
    expect(box.cpu.fault.gpa).toBe(box.entry(LIN, 1) - G0);
  });
});

describe('an EPT misconfiguration', () => {
  const leaf = (G0 + GPA) | EPT_LEAF;
  const rows: readonly (readonly [string, number, bigint])[] = [
    ['write without read', 1, BigInt((leaf & ~7) | 2)],
    ['write and execute without read', 1, BigInt((leaf & ~7) | 6)],
    ['memory type 2', 1, BigInt((leaf & ~0x38) | (2 << 3))],
    ['memory type 3', 1, BigInt((leaf & ~0x38) | (3 << 3))],
    ['memory type 7', 1, BigInt(leaf | (7 << 3))],
    ['address bit 46 of a leaf', 1, BigInt(leaf) | (1n << 46n)],
    ['address bit 51 of a PDE', 2, BigInt(EPT_TABLE) | (1n << 51n)],
    ['bit 3 of a PDE that refers to a table', 2, BigInt(EPT_TABLE | 0x8)],
    ['bit 6 of a PDPTE that refers to a table', 3, BigInt(EPT_TABLE | 0x40)],
    ['bit 7 of a PML4E', 4, BigInt(EPT_TABLE | 0x80)],
    ['bit 12 of a 2 MiB page', 2, BigInt(EPT_LEAF | 0x80 | 0x1000)],
    ['bit 29 of a 1 GiB page', 3, BigInt(EPT_LEAF | 0x80) | (1n << 29n)],
    ['a table outside of RAM', 2, BigInt(EPT_TABLE) | 0x7fff_0000n],
  ];
  for (const [name, level, value] of rows) {
    it(`is ${name}`, () => {
      const box = box4k();
      const at = box.eptEntry(GPA, level);
      const table = level > 1 && level < 4 ? box.read(at) & 0xf_ffff_f000n : 0n;
      box.write(
        at,
        value | ((value & 0x80n) === 0n && level > 1 && (value & 0x7fff_0000n) === 0n ? table : 0n),
      );
      flushAll(box.cpu);
      expect(guestPhysToHost(box.cpu, GPA + 8, READ)).toBe(-1);
      expect([box.cpu.fault.kind, box.cpu.fault.gpa]).toEqual([FAULT.EPT_MISCONFIG, GPA + 8]);
    });
  }

  it('is not one of the memory types 0, 1, 4, 5, 6, nor an ignored bit', () => {
    for (const type of [0, 1, 4, 5, 6]) {
      const box = box4k((EPT_LEAF & ~0x38) | (type << 3) | 0x40);
      box.write(box.eptEntry(GPA, 1), box.read(box.eptEntry(GPA, 1)) | (0x7ffn << 52n) | 0x800n);
      expect(outcome(box, WRITE)).toBe('ok');
    }
  });

  it('is found in an entry that is present only', () => {
    const box = box4k();
    box.write(box.eptEntry(GPA, 1), 1n << 51n);
    expect(outcome(box, READ)).toBe('violation 181');
  });

  it('is a root outside of RAM', () => {
    const box = box4k();
    box.cpu.mmu.eptp = 0x7fff_f01e;
    box.changed();
    expect(outcome(box, READ)).toBe('misconfig');
  });
});

describe('accessed and dirty flags for EPT', () => {
  const AD = 0x300n;
  const flags = (box: PagingBox): bigint[] =>
    [4, 3, 2, 1].map((level) => box.read(box.eptEntry(GPA, level)) & AD);
  const cleanBox = (eptp: number): PagingBox => {
    const box = box4k(WB | 7, eptp);
    for (const level of [4, 3, 2]) {
      const at = box.eptEntry(GPA, level);
      box.write(at, box.read(at) & ~AD);
    }
    return box;
  };

  it('are not touched while the EPTP does not enable them', () => {
    const box = cleanBox(0x1e);
    expect(outcome(box, WRITE)).toBe('ok');
    expect(flags(box)).toEqual([0n, 0n, 0n, 0n]);
    expect(box.fastHit(LIN, 1)).toBe(true);
  });

  it('A in every entry on a read, D in the leaf on a write', () => {
    const box = cleanBox(0x5e);
    expect(outcome(box, READ)).toBe('ok');
    expect(flags(box)).toEqual([0x100n, 0x100n, 0x100n, 0x100n]);
    expect(box.fastHit(LIN, 1)).toBe(false);
    expect(box.go(LIN, WRITE)).toBe(G0 + GPA);
    expect(flags(box)).toEqual([0x100n, 0x100n, 0x100n, 0x300n]);
    expect(box.fastHit(LIN, 1)).toBe(true);
  });

  it('D is set for the pages that hold guest tables, which are written', () => {
    const box = boxTable(WB | 7, 0x5e, LEAF);
    const table = (box.entry(LIN, 1) - G0) & ~0xfff;
    expect(outcome(box, READ)).toBe('ok');
    expect(box.read(box.eptEntry(table, 1)) & AD).toBe(AD);
  });

  it('an access that violates sets none', () => {
    const box = cleanBox(0x5e);
    box.write(box.eptEntry(GPA, 1), BigInt((G0 + GPA) | WB | 1));
    expect(outcome(box, WRITE)).toBe('violation 18a');
    expect(box.read(box.eptEntry(GPA, 1)) & AD).toBe(0n);
  });
});

describe('mode-based execute control', () => {
  it('judges fetches by the U/S flag of the linear address', () => {
    const box = box4k(WB | 3);
    box.cpu.mmu.mbec = 1;
    box.cpu.s[S.CPL] = 3;
    box.changed();
    expect(outcome(box, EXEC)).toBe('violation 19c');
    box.write(box.eptEntry(GPA, 1), BigInt((G0 + GPA) | WB | 3 | 0x400));
    for (const level of [4, 3, 2])
      box.write(box.eptEntry(GPA, level), box.read(box.eptEntry(GPA, level)) | 0x400n);
    expect(outcome(box, EXEC)).toBe('ok');
    expect(box.fastHit(LIN, 2)).toBe(true);
    box.cpu.s[S.CPL] = 0;
    box.map(LIN, GPA, LEAF & ~4);
    box.changed();
    expect(outcome(box, EXEC)).toBe('violation 1dc');
  });
});

describe('guest-physical accesses without a linear address', () => {
  it('are identity without EPT', () => {
    expect(guestPhysToHost(new PagingBox().cpu, 0x1234, WRITE)).toBe(0x1234);
  });

  it('report a violation without bit 7', () => {
    const box = box4k(WB | 1);
    expect(guestPhysToHost(box.cpu, GPA + 0x10, READ)).toBe(G0 + GPA + 0x10);
    expect(guestPhysToHost(box.cpu, GPA + 0x10, WRITE)).toBe(-1);
    expect([box.cpu.fault.qualification, box.cpu.fault.gpa]).toEqual([0x0a, GPA + 0x10]);
  });

  it('can lie above 4 GiB', () => {
    const box = new PagingBox().withEpt();
    box.mapEpt(0x12_3456_7000, G0);
    expect(guestPhysToHost(box.cpu, 0x12_3456_7008, READ)).toBe(G0 + 8);
    box.mapEpt(0x12_3456_8000, 0xfee0_0000);
    expect(guestPhysToHost(box.cpu, 0x12_3456_8020, READ)).toBe(0xfee0_0020);
    expect(guestPhysToHost(box.cpu, 0x12_3456_8020, READ)).toBe(0xfee0_0020);
  });
});

describe('a cached mapping that allows too little', () => {
  it('faults on Intel and is dropped, so that the next access sees the tables', () => {
    const box = box4k(WB | 1);
    expect(box.go(LIN, READ)).toBe(G0 + GPA);
    box.write(box.eptEntry(GPA, 1), BigInt((G0 + GPA) | WB | 7));
    expect(box.go(LIN, WRITE)).toBe(-1);
    expect(box.cpu.fault.qualification).toBe(0x18a);
    expect(box.cpu.fault.gpa).toBe(GPA);
    expect(box.go(LIN, WRITE)).toBe(G0 + GPA);
  });

  it('drops the guest-physical mapping along with the combined one', () => {
    const box = box4k(WB | 1);
    expect(guestPhysToHost(box.cpu, GPA, READ)).toBe(G0 + GPA);
    expect(box.go(LIN, READ)).toBe(G0 + GPA);
    box.write(box.eptEntry(GPA, 1), BigInt((G0 + GPA) | WB | 7));
    expect(box.go(LIN, WRITE)).toBe(-1);
    expect(guestPhysToHost(box.cpu, GPA, WRITE)).toBe(G0 + GPA);
  });

  it('is walked again on AMD before it faults', () => {
    const box = new PagingBox({ profile: PROFILES.milan });
    const pte = box.map(LIN, 0x180_0000, 0x65);
    expect(box.go(LIN, READ)).toBe(0x180_0000);
    box.write(pte, box.read(pte) | 2n);
    expect(box.go(LIN, WRITE)).toBe(0x180_0000);
  });

  it('that is guest-physical is walked again on AMD, too', () => {
    const box = new PagingBox({ profile: PROFILES.milan }).withEpt();
    box.mapEpt(0x100_0000, G0, WB | 1);
    expect(guestPhysToHost(box.cpu, 0x100_0000, READ)).toBe(G0);
    box.mapEpt(0x100_0000, G0, WB | 3);
    expect(guestPhysToHost(box.cpu, 0x100_0000, WRITE)).toBe(G0);
  });
});

describe('tables that lead to the machine itself', () => {
  it('are reported', () => {
    const box = new PagingBox().withEpt();
    box.mapEpt(0x100_0000, 0x2000);
    expect(() => guestPhysToHost(box.cpu, 0x100_0000, READ)).toThrow(SanitizerError);
    box.mapEpt(0x4000_0000, 0, EPT_LEAF | 0x80, 3);
    expect(guestPhysToHost(box.cpu, 0x4180_0000, READ)).toBe(0x180_0000);
    expect(() => guestPhysToHost(box.cpu, 0x4000_0000, READ)).toThrow('firmware-reserved');
  });
});
