// SPDX-License-Identifier: GPL-2.0-only
/**
 * Random tables, random accesses: a correct program cannot tell whether translations are kept, how many, or for how
 * long; the straight-line walks agree with the general ones, page-modification log included; and the walker of the
 * checking mode, which shares no code with them, finds no stale mapping where no table changed.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CR0, CR4 } from '../../../lib/x86/registers.ts';
import { FAULT, S } from '../cpu/state.ts';
import { RAM_BASE } from '../layout.ts';
import { auditFastTlb } from './audit.ts';
import { invlpg } from './invalidate.ts';
import type { TlbPolicy } from './mmu.ts';
import { setStaleCheck, type StaleHit } from './stale_hit.ts';
import { EPT_LEAF, EPT_TABLE, G0, PagingBox } from './testing/paging_box.ts';

const BASE = 0x4000_0000n;
const PAGES = 12;
const GUEST_PAGE = 0x10_0000;
/** The page-modification log and the word with its index. */
const LOG = RAM_BASE + 0x70_0000;
const LOG_INDEX = RAM_BASE + 0x70_1000;

/** Flags of a leaf: P RW US A D G and XD at random, rarely a reserved bit. */
const leaf = fc.record({
  low: fc.integer({ min: 0, max: 0x7f }).map((bits) => (bits & 0x67) | ((bits & 8) << 5)),
  present: fc.nat(7),
  noExec: fc.boolean(),
  reserved: fc.nat(19),
});
const eptLeaf = fc.integer({ min: 0, max: 0x7ff });
const access = fc.record({
  page: fc.nat(PAGES - 1),
  kind: fc.nat(2),
  cpl: fc.constantFrom(0, 3),
  flush: fc.nat(9),
});
const scenario = fc.record({
  leaves: fc.array(leaf, { minLength: PAGES, maxLength: PAGES }),
  eptLeaves: fc.array(eptLeaf, { minLength: PAGES, maxLength: PAGES }),
  tableFlags: fc.constantFrom(0x07, 0x27, 0x25, 0x23),
  ept: fc.constantFrom(0, 0x1e, 0x5e),
  /** Index of a page-modification log, -1: none. */
  pml: fc.constantFrom(-1, 511, 4, 1, 0xffff),
  cr4: fc.constantFrom(0, CR4.SMEP, CR4.SMAP, CR4.PGE, CR4.SMEP | CR4.SMAP | CR4.PGE),
  wp: fc.boolean(),
  accesses: fc.array(access, { minLength: 1, maxLength: 60 }),
});
type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never;

interface Ways {
  readonly tlb: TlbPolicy;
  readonly check: 'off' | 'hits';
  /** Protection keys that deny nothing here, but which the straight-line walk leaves to the general one. */
  readonly keys: boolean;
}

function build(s: Scenario, ways: Ways): PagingBox {
  const box = new PagingBox({ tlb: ways.tlb });
  const { cpu } = box;
  cpu.s[S.CR0] = CR0.PE | CR0.PG | (s.wp ? CR0.WP : 0);
  cpu.s[S.CR4] = CR4.PAE | s.cr4 | (ways.keys ? CR4.PKE : 0);
  cpu.s[S.PKRU] = ways.keys ? 0x4000_0000 : 0;
  box.changed();
  if (s.ept !== 0) {
    box.withEpt('mapped', s.ept);
    box.write(box.eptEntry(GUEST_PAGE, 2), BigInt(box.hostTable() | EPT_TABLE));
    if (s.pml >= 0) startLog(box, s.pml);
  }
  for (let n = 0; n < PAGES; n++) {
    const { low, present, noExec, reserved } = s.leaves[n]!;
    const gpa = s.ept === 0 ? 0x180_0000 + n * 0x1000 : GUEST_PAGE + n * 0x1000;
    const high = (noExec ? 1n << 63n : 0n) | (reserved === 0 ? 1n << 50n : 0n);
    const entry = box.entry(BASE + BigInt(n) * 0x1000n, 1, s.tableFlags);
    box.write(entry, BigInt(gpa) | BigInt(present === 0 ? low & ~1 : low | 1) | high);
    // Mostly write-back; bits that make a misconfiguration are left in now and then.
    const flags = s.eptLeaves[n]!;
    if (s.ept !== 0) box.mapEpt(gpa, G0 + gpa, (flags & 0x407) === 0x400 ? flags : (flags & 0x307) | 0x30);
  }
  return box;
}

/** A page-modification log, with something to log for the guest's tables too: they lie in a clean page. */
function startLog(box: PagingBox, index: number): void {
  const { mmu } = box.cpu;
  mmu.pmlPage = LOG;
  mmu.pmlIndexWord = LOG_INDEX / 4;
  box.mem.i32[LOG_INDEX / 4] = index;
  box.mapEpt(0x40_0000, G0 + 0x40_0000, (EPT_LEAF & ~0x200) | 0x80, 2);
}

const faultText = ({ kind, errorCode, qualification, gpa }: PagingBox['cpu']['fault']): string => {
  if (kind === FAULT.EXCEPTION) return `PF ${errorCode}`;
  return kind === FAULT.PML_FULL ? 'PML full' : `EPT ${qualification} ${gpa}`;
};

/** What the accesses left in the tables and in the log. */
function* leftovers(box: PagingBox, s: Scenario): Generator<string> {
  for (let n = 0; n < PAGES; n++) {
    yield box.read(box.entry(BASE + BigInt(n) * 0x1000n, 1)).toString(16);
    if (s.ept !== 0) yield box.read(box.eptEntry(GUEST_PAGE + n * 0x1000, 1)).toString(16);
  }
  if (s.ept === 0 || s.pml < 0) return;
  yield `log index ${box.mem.i32[LOG_INDEX / 4]!}`;
  for (let at = LOG; at < LOG + 0x1000; at += 8) if (box.read(at) !== 0n) yield `${at}: ${box.read(at)}`;
}

function outcomes(s: Scenario, ways: Ways): string[] {
  const box = build(s, ways);
  const stale: StaleHit[] = [];
  box.cpu.mmu.onStaleHit = (hit) => void stale.push(hit);
  setStaleCheck(box.cpu, ways.check);
  const seen: string[] = [];
  for (const { page, kind, cpl, flush } of s.accesses) {
    const lin = BASE + BigInt(page) * 0x1000n + 0x10n;
    box.cpu.s[S.CPL] = cpl;
    box.changed();
    if (flush === 0) invlpg(box.cpu, box.lo(lin), box.hi(lin));
    const hpa = box.go(lin, kind);
    seen.push(hpa >= 0 ? `${hpa}` : faultText(box.cpu.fault));
    if (hpa >= 0 && ways.check === 'off' && ways.tlb !== 'keep-nothing') {
      expect(box.fastHit(lin, kind as 0 | 1 | 2)).toBe(true);
    }
  }
  expect(stale).toEqual([]);
  expect(auditFastTlb(box.cpu)).toEqual([]);
  return [...seen, ...leftovers(box, s)];
}

describe('a program that flushes what it changes', () => {
  it('has the same outcome whatever is kept, and through every walker', () => {
    const all: Ways[] = (['real', 'keep-forever'] as const).flatMap((tlb) =>
      (['off', 'hits'] as const).flatMap((check) => [false, true].map((keys) => ({ tlb, check, keys }))),
    );
    const kinds = new Set<string>();
    fc.assert(
      fc.property(scenario, (s) => {
        const expected = outcomes(s, { tlb: 'keep-nothing', check: 'off', keys: true });
        expect(outcomes(s, { tlb: 'keep-nothing', check: 'off', keys: false })).toEqual(expected);
        for (const ways of all) expect({ ways, seen: outcomes(s, ways) }).toEqual({ ways, seen: expected });
        for (const text of expected.slice(0, s.accesses.length))
          kinds.add(text.split(' ')[0]!.replace(/^\d+$/, 'ok'));
      }),
      { numRuns: 8, seed: 11 },
    );
    expect([...kinds].sort()).toEqual(['EPT', 'PF', 'PML', 'ok']);
  });
});
