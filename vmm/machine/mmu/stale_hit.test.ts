// SPDX-License-Identifier: GPL-2.0-only
/**
 * The instrument itself: a mapping survives a change of the tables until it is invalidated (SDM, "Invalidation of TLBs
 * and Paging-Structure Caches": software must invalidate), the checking mode sees its use, and a frame that changes
 * hands under a mapping is a use after free with both stories.
 */
import { describe, expect, it } from 'vitest';
import { pfn as asPfn } from '../../../lib/x86/addr.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import { S } from '../cpu/state.ts';
import { SanitizerError } from '../errors.ts';
import { ACCESS } from './access.ts';
import { auditFastTlb } from './audit.ts';
import { invept, invlpg, invvpid } from './invalidate.ts';
import type { TlbPolicy } from './mmu.ts';
import { describeProvenance } from './provenance.ts';
import { setStaleCheck, type StaleHit } from './stale_hit.ts';
import { EPT_TABLE, G0, LEAF, PagingBox } from './testing/paging_box.ts';

const { READ, WRITE, EXEC } = ACCESS;
const LIN = 0x7654_3210_9000n;
const OLD = 0x180_0000;
const NEW = 0x180_1000;
const GPA = 0x12_3000;

function watched(box: PagingBox): StaleHit[] {
  const hits: StaleHit[] = [];
  box.cpu.mmu.onStaleHit = (hit) => void hits.push(hit);
  setStaleCheck(box.cpu, 'hits');
  return hits;
}

describe('a mapping whose tables have changed', () => {
  for (const tlb of ['real', 'keep-forever'] as const) {
    it(`is used until INVLPG drops it (${tlb})`, () => {
      const box = new PagingBox({ tlb });
      box.map(LIN, OLD);
      expect(box.go(LIN, WRITE)).toBe(OLD);
      box.map(LIN, NEW);
      expect(box.go(LIN, WRITE)).toBe(OLD);
      invlpg(box.cpu, box.lo(LIN), box.hi(LIN));
      expect(box.go(LIN, WRITE)).toBe(NEW);
    });

    it(`is used after its entry became absent (${tlb})`, () => {
      const box = new PagingBox({ tlb });
      const pte = box.map(LIN, OLD);
      box.go(LIN, WRITE);
      box.write(pte, 0n);
      expect(box.go(LIN, WRITE)).toBe(OLD);
      invlpg(box.cpu, box.lo(LIN), box.hi(LIN));
      expect(box.go(LIN, WRITE)).toBe(-1);
    });
  }

  it('is never used if nothing is kept', () => {
    const box = new PagingBox({ tlb: 'keep-nothing' });
    box.map(LIN, OLD);
    expect(box.go(LIN, WRITE)).toBe(OLD);
    expect(box.fastHit(LIN, 1)).toBe(false);
    box.map(LIN, NEW);
    expect(box.go(LIN, WRITE)).toBe(NEW);
  });

  it('survives INVVPID as a guest-physical mapping, and INVEPT as a linear one', () => {
    const box = new PagingBox({ tlb: 'keep-forever' }).withEpt();
    box.cpu.mmu.vpid = 7;
    box.changed();
    box.write(box.eptEntry(GPA, 2), BigInt(box.hostTable() | EPT_TABLE));
    box.mapEpt(GPA, G0 + GPA);
    box.map(LIN, GPA);
    expect(box.go(LIN, READ)).toBe(G0 + GPA);
    box.mapEpt(GPA, G0 + GPA + 0x1000);
    invvpid(box.cpu, 1, 7, 0, 0);
    expect(box.go(LIN, READ)).toBe(G0 + GPA);
    invept(box.cpu, 1, box.cpu.mmu.eptp);
    expect(box.go(LIN, READ)).toBe(G0 + GPA + 0x1000);
  });
});

describe('the checking mode', () => {
  it('reports a stale translation with where it came from', () => {
    const box = new PagingBox();
    box.cpu.s[S.RIP] = 0x1234;
    box.cpu.clock[0] = 1000;
    const pte = box.map(LIN, OLD);
    const hits = watched(box);
    box.go(LIN, WRITE);
    box.go(LIN, READ);
    expect(hits).toEqual([]);
    box.map(LIN, NEW);
    const { counts } = box.cpu;
    const before = [...counts];
    expect(box.go(LIN + 8n, READ)).toBe(OLD + 8);
    expect([...counts]).toEqual(before);
    expect(hits).toHaveLength(1);
    const { provenance, lin, now } = hits[0]!;
    expect([lin, now]).toEqual([LIN + 8n, `hpa 0x${(NEW + 8).toString(16)}`]);
    expect(provenance).toMatchObject({
      kind: 'linear',
      page: LIN,
      pageSize: 0x1000,
      hpa: OLD,
      vpid: 0,
      pcid: 0,
      ep4ta: -1,
      cpu: 0,
      cpl: 0,
      rip: 0x1234n,
      access: WRITE,
      pteHpa: pte,
      pteGpa: pte,
      epteHpa: -1,
    });
    expect(describeProvenance(provenance)).toContain(`PTE at gpa 0x${pte.toString(16)}`);
  });

  const changes: readonly (readonly [string, string, (box: PagingBox) => void])[] = [
    ['a leaf that is gone', 'level 1 entry is not present', (b) => b.write(b.entry(LIN, 1), 0n)],
    ['a table that is gone', 'level 3 entry is not present', (b) => b.write(b.entry(LIN, 3), 0n)],
    ['a leaf that became read-only', 'hpa', (b) => b.write(b.entry(LIN, 1), b.read(b.entry(LIN, 1)) & ~2n)],
    ['a table that became supervisor', 'hpa', (b) => b.write(b.entry(LIN, 2), b.read(b.entry(LIN, 2)) & ~4n)],
    ['reserved bits', 'reserved', (b) => b.write(b.entry(LIN, 1), b.read(b.entry(LIN, 1)) | (1n << 51n))],
    ['an EPT leaf that is gone', 'level 2 EPT entry is not present', (b) => b.write(b.eptEntry(GPA, 2), 0n)],
    [
      'an EPT leaf that became read-only',
      'hpa',
      (b) => b.write(b.eptEntry(GPA, 2), b.read(b.eptEntry(GPA, 2)) & ~2n),
    ],
    [
      'a misconfigured EPT leaf',
      'misconfigured',
      (b) => b.write(b.eptEntry(GPA, 2), b.read(b.eptEntry(GPA, 2)) | (1n << 51n)),
    ],
    [
      'an EPT table of a guest table that is gone',
      'level 4 table: level 3 EPT',
      (b) => b.write(b.eptEntry(0, 3), 0n),
    ],
  ];
  for (const [name, now, change] of changes) {
    it(`sees ${name}`, () => {
      const box = new PagingBox().withEpt();
      box.map(LIN, GPA);
      box.go(LIN, WRITE);
      const hits = watched(box);
      box.go(LIN, WRITE);
      expect(hits).toEqual([]);
      change(box);
      expect(box.go(LIN, WRITE)).toBe(G0 + GPA);
      expect(hits.map((hit) => hit.now)).toEqual([expect.stringContaining(now)]);
      expect(hits[0]!.provenance).toMatchObject({ kind: 'combined', gpa: GPA, hpa: G0 + GPA });
      expect(describeProvenance(hits[0]!.provenance)).toMatch(/EP4TA 0x.*EPTE at hpa/);
    });
  }

  it('does not mind a mapping that allows less than the tables do', () => {
    const box = new PagingBox();
    box.map(LIN, OLD, 0x65);
    box.go(LIN, READ);
    const hits = watched(box);
    box.map(LIN, OLD);
    box.go(LIN, READ);
    expect(hits).toEqual([]);
  });

  it('understands large pages, five levels, mode-based execution and globals', () => {
    const box = new PagingBox();
    box.cpu.s[S.CR4]! |= CR4.LA57;
    box.withEpt();
    box.cpu.mmu.mbec = 1;
    box.changed();
    box.map(LIN, 0, LEAF | 0x100, 2);
    const hits = watched(box);
    expect([box.go(LIN, READ), box.go(LIN, READ)]).toEqual([G0 + 0x10_9000, G0 + 0x10_9000]);
    expect(box.go(0x1000n, EXEC)).toBe(-1);
    expect(hits).toEqual([]);
    box.write(box.entry(LIN, 2), 0n);
    box.go(LIN, READ);
    expect(describeProvenance(hits[0]!.provenance)).toContain('global; VPID 0x0, PCID any');
  });

  it('leaves the fast TLB empty', () => {
    const box = new PagingBox();
    box.map(LIN, OLD);
    box.go(LIN, READ);
    expect(box.fastHit(LIN, 0)).toBe(true);
    setStaleCheck(box.cpu, 'hits');
    box.go(LIN, READ);
    expect(box.fastHit(LIN, 0)).toBe(false);
    setStaleCheck(box.cpu, 'off');
    box.go(LIN, READ);
    expect(box.fastHit(LIN, 0)).toBe(true);
  });
});

describe('a frame that changes hands under a mapping', () => {
  function managed(tlb: TlbPolicy = 'real'): { box: PagingBox; guest: number; host: number } {
    const box = new PagingBox({ tlb });
    const guest = box.frames.intern('guest memory of vm0');
    const host = box.frames.intern('munmap by vm0');
    const tables = box.frames.intern('tables');
    for (let f = 0x100_0000 >>> 12; f < OLD >>> 12; f++) box.frames.take(asPfn(f), tables);
    box.frames.take(asPfn(OLD >>> 12), guest);
    box.frames.take(asPfn(NEW >>> 12), guest);
    return { box, guest, host };
  }

  for (const tlb of ['real', 'keep-forever'] as const) {
    it(`is a use after free through the TLB, told with both stories (${tlb})`, () => {
      const { box, host } = managed(tlb);
      box.map(LIN, OLD);
      expect(box.go(LIN, WRITE)).toBe(OLD);
      expect(box.fastHit(LIN, 1)).toBe(true);
      box.frames.retire(asPfn(OLD >>> 12), host);
      expect(box.fastHit(LIN, 1)).toBe(false);
      expect(auditFastTlb(box.cpu)).toEqual([]);
      expect(() => box.go(LIN, WRITE)).toThrow(SanitizerError);
      expect(() => box.go(LIN, WRITE)).toThrow(
        /use after free.*linear mapping.*taken by guest memory of vm0.*freed by munmap/,
      );
    });
  }

  it('is one even after the frame has a new owner', () => {
    const { box, guest, host } = managed();
    box.map(LIN, OLD);
    box.go(LIN, WRITE);
    box.frames.retire(asPfn(OLD >>> 12), host);
    box.frames.take(asPfn(OLD >>> 12), guest);
    expect(() => box.go(LIN, READ)).toThrow('use after free');
  });

  it('is none if the mapping was dropped in time', () => {
    const { box, host } = managed();
    box.map(LIN, OLD);
    box.go(LIN, WRITE);
    box.map(LIN, NEW);
    invlpg(box.cpu, box.lo(LIN), box.hi(LIN));
    box.frames.retire(asPfn(OLD >>> 12), host);
    expect(box.go(LIN, WRITE)).toBe(NEW);
  });

  it('is found under a large page, too, but only for the frame itself', () => {
    const { box, host } = managed();
    box.map(LIN, OLD & ~0x1f_ffff, LEAF, 2);
    const first = (LIN & ~0x1f_ffffn) | BigInt(OLD & 0x1f_ffff);
    box.go(first, WRITE);
    box.frames.retire(asPfn(OLD >>> 12), host);
    expect(box.go(first + 0x1000n, WRITE)).toBe(NEW);
    expect(() => box.go(first, WRITE)).toThrow('use after free');
  });

  it('is found when two slots of the fast TLB lead to it', () => {
    const { box, host } = managed();
    box.map(LIN, OLD);
    box.map(LIN + 0x1000n, OLD);
    box.go(LIN, WRITE);
    box.go(LIN + 0x1000n, WRITE);
    box.frames.retire(asPfn(OLD >>> 12), host);
    expect([box.fastHit(LIN, 1), box.fastHit(LIN + 0x1000n, 1)]).toEqual([false, false]);
  });

  it('is found in a walk that ends at it or goes through it', () => {
    const { box, host } = managed();
    box.map(LIN, OLD);
    box.frames.retire(asPfn(OLD >>> 12), host);
    expect(() => box.go(LIN, WRITE)).toThrow('ended at a free frame');
    box.map(LIN, NEW);
    box.frames.retire(asPfn(box.entry(LIN, 1) >>> 12), host);
    expect(() => box.go(LIN, WRITE)).toThrow('freed page table');
  });

  it('is found in EPT tables and behind guest-physical mappings', () => {
    const { box, guest, host } = managed();
    for (let f = (NEW >>> 12) + 1; f < box.mem.size >>> 12; f++) box.frames.take(asPfn(f), guest);
    box.withEpt();
    box.map(LIN, GPA);
    expect(box.go(LIN, READ)).toBe(G0 + GPA);
    const table = asPfn(box.entry(LIN, 1) >>> 12);
    box.frames.retire(table, host);
    box.cpu.mmu.tlb.dropSpace(box.cpu.mmu.space);
    expect(() => box.go(LIN, READ)).toThrow(/use after free.*guest-physical mapping/);
    box.frames.take(table, guest);
    invept(box.cpu, 2, 0);
    box.frames.retire(asPfn(box.eptEntry(GPA, 2) >>> 12), host);
    expect(() => box.go(LIN, READ)).toThrow('freed EPT table');
  });
});
