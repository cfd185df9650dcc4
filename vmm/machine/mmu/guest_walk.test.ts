// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest's paging structures: formats, reserved bits, accessed and dirty flags. Expectations from the SDM, "4-Level
 * Paging and 5-Level Paging", "Reserved Bits", "Accessed and Dirty Flags", "Canonical Addressing".
 */
import { describe, expect, it } from 'vitest';
import { PFERR, VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR4, EFER } from '../../../lib/x86/registers.ts';
import { COST } from '../cost/points.ts';
import { PROFILES } from '../cost/profiles.ts';
import { FAULT, S } from '../cpu/state.ts';
import { SanitizerError } from '../errors.ts';
import { ACCESS } from './access.ts';
import { PagingBox, LEAF, TABLE } from './testing/paging_box.ts';

const { READ, WRITE, EXEC } = ACCESS;
const LIN = 0x7654_3210_9000n;
const PAGE = 0x180_0000;
const A = 0x20n;
const D = 0x40n;

const faultOf = (box: PagingBox): readonly number[] => [box.cpu.fault.vector, box.cpu.fault.errorCode];

describe('a walk', () => {
  it('translates 4 KiB, 2 MiB and 1 GiB pages', () => {
    const box = new PagingBox();
    box.map(LIN, PAGE);
    box.map(0x4000_0000n, 0x180_0000 & ~0x1f_ffff, LEAF, 2);
    box.map(0x8000_0000n, 0, LEAF, 3);
    expect(box.go(LIN + 0x123n, READ)).toBe(PAGE + 0x123);
    expect(box.go(0x4000_0000n + 0x1_2345n, READ)).toBe(0x180_0000 + 0x1_2345);
    expect(box.go(0x8000_0000n + 0x123_4567n, WRITE)).toBe(0x123_4567);
  });

  it('translates addresses of the upper half', () => {
    const box = new PagingBox();
    box.map(0xffff_ffff_8000_0000n, PAGE);
    expect(box.go(0xffff_ffff_8000_0ff8n, READ)).toBe(PAGE + 0xff8);
  });

  it('uses five levels with CR4.LA57', () => {
    const box = new PagingBox();
    box.cpu.s[S.CR4]! |= CR4.LA57;
    box.changed();
    box.map(0x00ab_cdef_0123_4000n, PAGE);
    expect(box.go(0x00ab_cdef_0123_4008n, READ)).toBe(PAGE + 8);
    expect(box.cpu.counts[COST.WALK_REF]).toBe(5);
    box.map(0xff00_0000_0000_1000n, PAGE + 0x1000);
    expect(box.go(0xff00_0000_0000_1000n, READ)).toBe(PAGE + 0x1000);
  });

  it('pays for one miss and a reference per level, on success and on failure', () => {
    const box = new PagingBox();
    box.map(LIN, PAGE);
    const { counts, prices, clock } = box.cpu;
    box.go(LIN, READ);
    expect([counts[COST.TLB_MISS], counts[COST.WALK_REF]]).toEqual([1, 4]);
    box.go(LIN, READ);
    expect([counts[COST.TLB_MISS], counts[COST.WALK_REF]]).toEqual([1, 4]);
    box.go(LIN + 0x1000n, READ); // the leaf is not present
    expect([counts[COST.TLB_MISS], counts[COST.WALK_REF]]).toEqual([2, 8]);
    expect(clock[0]).toBe(2 * prices[COST.TLB_MISS]! + 8 * prices[COST.WALK_REF]!);
  });

  it('leads to physical addresses outside of RAM, which the fast TLB does not take', () => {
    const box = new PagingBox();
    box.map(LIN, 0xfee0_0000);
    expect(box.go(LIN + 0x20n, READ)).toBe(0xfee0_0020);
    expect(box.go(LIN + 0x20n, READ)).toBe(0xfee0_0020);
    expect(box.fastHit(LIN, 0)).toBe(false);
    box.map(LIN + 0x1000n, 0x12_3456_7000);
    expect(box.go(LIN + 0x1004n, WRITE)).toBe(0x12_3456_7004);
  });

  it('refuses memory that belongs to the machine itself', () => {
    const box = new PagingBox();
    box.map(LIN, 0x1000);
    expect(() => box.go(LIN, READ)).toThrow(SanitizerError);
    box.map(0x4000_0000n, 0, LEAF, 3);
    expect(box.go(0x4180_0000n, READ)).toBe(0x180_0000);
    expect(() => box.go(0x4000_0000n, READ)).toThrow('firmware-reserved');
  });
});

describe('a page that is not present', () => {
  for (const level of [4, 3, 2, 1]) {
    it(`faults at level ${level} without the present flag`, () => {
      const box = new PagingBox();
      box.map(LIN, PAGE);
      box.write(box.entry(LIN, level), box.read(box.entry(LIN, level)) & ~1n);
      expect(box.go(LIN, READ)).toBe(-1);
      expect(faultOf(box)).toEqual([VECTOR.PF, 0]);
      expect([box.cpu.fault.linLo, box.cpu.fault.linHi]).toEqual([box.lo(LIN), box.hi(LIN)]);
      box.cpu.s[S.CPL] = 3;
      box.changed();
      expect(box.go(LIN, WRITE)).toBe(-1);
      expect(faultOf(box)).toEqual([VECTOR.PF, PFERR.WRITE | PFERR.USER]);
      expect(box.go(LIN, EXEC)).toBe(-1);
      expect(faultOf(box)).toEqual([VECTOR.PF, PFERR.FETCH | PFERR.USER]);
    });
  }
});

describe('reserved bits', () => {
  const rows: readonly (readonly [string, number, number, bigint])[] = [
    ['bit 7 of a PML4E', 4, 1, 0x80n],
    ['bit 46 of a PML4E with MAXPHYADDR 46', 4, 1, 1n << 46n],
    ['bit 51 of a PDPTE', 3, 1, 1n << 51n],
    ['bit 50 of a PDE', 2, 1, 1n << 50n],
    ['bit 46 of a PTE', 1, 1, 1n << 46n],
    ['bit 13 of a 2 MiB PDE', 2, 2, 1n << 13n],
    ['bit 20 of a 2 MiB PDE', 2, 2, 1n << 20n],
    ['bit 13 of a 1 GiB PDPTE', 3, 3, 1n << 13n],
    ['bit 29 of a 1 GiB PDPTE', 3, 3, 1n << 29n],
  ];
  for (const [name, level, leaf, bit] of rows) {
    it(`fault for ${name}`, () => {
      const box = new PagingBox();
      box.map(LIN, leaf === 1 ? PAGE : 0, LEAF, leaf);
      const at = box.entry(LIN, level);
      box.write(at, box.read(at) | bit);
      expect(box.go(LIN, WRITE)).toBe(-1);
      expect(faultOf(box)).toEqual([VECTOR.PF, PFERR.PRESENT | PFERR.RSVD | PFERR.WRITE]);
    });
  }

  it('do not include PAT, bit 12 of large pages, nor ignored bits', () => {
    const box = new PagingBox();
    const ignored = (0x7ffn << 52n) & ~(0xfn << 59n);
    box.map(LIN, PAGE, BigInt(LEAF) | 0x80n | 0xe00n | ignored);
    expect(box.go(LIN, READ)).toBe(PAGE);
    box.map(0x4000_0000n, PAGE & ~0x1f_ffff, LEAF | 0x1000, 2);
    expect(box.go(0x4000_0000n, READ)).toBe(PAGE & ~0x1f_ffff);
  });

  it('follow MAXPHYADDR: bits 47:46 exist on the Milan class', () => {
    const box = new PagingBox({ profile: PROFILES.milan });
    box.map(LIN, 2 ** 47);
    expect(box.go(LIN, READ)).toBe(2 ** 47);
    box.map(LIN + 0x1000n, PAGE, BigInt(LEAF) | (1n << 48n));
    expect(box.go(LIN + 0x1000n, READ)).toBe(-1);
    expect(faultOf(box)).toEqual([VECTOR.PF, PFERR.PRESENT | PFERR.RSVD]);
  });

  it('include XD while NXE is off', () => {
    const box = new PagingBox();
    box.map(LIN, PAGE, BigInt(LEAF) | (1n << 63n));
    box.cpu.s[S.EFER] = EFER.LMA;
    box.changed();
    expect(box.go(LIN, READ)).toBe(-1);
    expect(faultOf(box)).toEqual([VECTOR.PF, PFERR.PRESENT | PFERR.RSVD]);
    box.cpu.s[S.EFER] = EFER.LMA | EFER.NXE;
    box.changed();
    expect(box.go(LIN, READ)).toBe(PAGE);
  });

  it('are set in a table outside of RAM, which reads as ones', () => {
    const box = new PagingBox();
    box.map(LIN, PAGE);
    box.write(box.entry(LIN, 2), 0x7fff_f000n | BigInt(TABLE));
    expect(box.go(LIN, READ)).toBe(-1);
    expect(faultOf(box)).toEqual([VECTOR.PF, PFERR.PRESENT | PFERR.RSVD]);
    box.cpu.s[S.CR3] = 0x7fff_f000;
    box.changed();
    expect(box.go(LIN, READ)).toBe(-1);
    expect(faultOf(box)).toEqual([VECTOR.PF, PFERR.PRESENT | PFERR.RSVD]);
  });
});

describe('accessed and dirty flags', () => {
  const flagsAt = (box: PagingBox): bigint[] =>
    [4, 3, 2, 1].map((level) => box.read(box.entry(LIN, level)) & (A | D));
  const cleanBox = (flags: number): PagingBox => {
    const box = new PagingBox();
    const at = box.entry(LIN, 1, 0x07);
    box.write(at, BigInt(PAGE | flags));
    return box;
  };

  it('a read sets A in every entry, D in none', () => {
    const box = cleanBox(0x07);
    expect(box.go(LIN, READ)).toBe(PAGE);
    expect(flagsAt(box)).toEqual([A, A, A, A]);
  });

  it('a write sets D in the leaf, too', () => {
    const box = cleanBox(0x07);
    expect(box.go(LIN, WRITE)).toBe(PAGE);
    expect(flagsAt(box)).toEqual([A, A, A, A | D]);
  });

  it('a write through a cached clean page walks again and sets D', () => {
    const box = cleanBox(0x07);
    box.go(LIN, READ);
    expect([box.fastHit(LIN, 0), box.fastHit(LIN, 1)]).toEqual([true, false]);
    const { counts } = box.cpu;
    const before = counts[COST.WALK_REF]!;
    expect(box.go(LIN, WRITE)).toBe(PAGE);
    expect(counts[COST.WALK_REF]).toBe(before + 4);
    expect(flagsAt(box)).toEqual([A, A, A, A | D]);
    expect(box.fastHit(LIN, 1)).toBe(true);
  });

  it('an access that faults sets none', () => {
    const box = cleanBox(0x03); // supervisor page
    box.cpu.s[S.CPL] = 3;
    box.changed();
    expect(box.go(LIN, WRITE)).toBe(-1);
    expect(flagsAt(box)).toEqual([0n, 0n, 0n, 0n]);
  });

  it('are those of the large page entry', () => {
    const box = new PagingBox();
    const at = box.entry(LIN, 2, 0x07);
    box.write(at, 0x180_0087n);
    expect(box.go(LIN, WRITE)).toBeGreaterThan(0);
    expect(box.read(at) & (A | D)).toBe(A | D);
  });

  it('are not set again in memory by a cached mapping', () => {
    const box = cleanBox(0x07);
    box.go(LIN, WRITE);
    const at = box.entry(LIN, 1);
    box.write(at, box.read(at) & ~(A | D));
    expect(box.go(LIN, WRITE)).toBe(PAGE);
    expect(box.read(at) & (A | D)).toBe(0n);
  });
});

describe('an address that is not canonical', () => {
  it('raises GP(0), or SS(0) through the stack segment', () => {
    const box = new PagingBox();
    for (const lin of [0x0000_8000_0000_0000n, 0x8000_0000_0000_0000n, 0xffff_7fff_ffff_f000n]) {
      expect(box.go(lin, READ)).toBe(-1);
      expect([box.cpu.fault.kind, ...faultOf(box)]).toEqual([FAULT.EXCEPTION, VECTOR.GP, 0]);
      expect(box.go(lin, WRITE | ACCESS.STACK)).toBe(-1);
      expect(faultOf(box)).toEqual([VECTOR.SS, 0]);
    }
  });

  it('has 57 significant bits with LA57', () => {
    const box = new PagingBox();
    box.cpu.s[S.CR4]! |= CR4.LA57;
    box.changed();
    expect(box.go(0x0000_8000_0000_0000n, READ)).toBe(-1);
    expect(faultOf(box)).toEqual([VECTOR.PF, 0]);
    expect(box.go(0x0100_0000_0000_0000n, READ)).toBe(-1);
    expect(faultOf(box)).toEqual([VECTOR.GP, 0]);
  });
});
