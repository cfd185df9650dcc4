// SPDX-License-Identifier: GPL-2.0-only
/**
 * Random sequences of system calls against a model of what a process sees: an array of pages with protection and content.
 * Afterwards no frame may be lost, and no frame mapped twice. The model is the manual pages' text, not the code.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ERRNO } from '../errno.ts';
import type { Host } from '../host.ts';
import { drive, testHost } from '../testing/test_host.ts';
import { FOLL } from './fault.ts';
import { doMadvise, MADV } from './madvise.ts';
import { migratePage } from './migrate.ts';
import { doMmap, doMunmap, exitMmap } from './mmap.ts';
import type { MmStruct } from './mm_struct.ts';
import { doMprotect } from './mprotect.ts';
import { PTE, ptePfn } from './page_table.ts';
import { userHpa } from './user_access.ts';
import { PROT } from './vma.ts';

const PAGE = 4096;
/** Three times 2 MiB, so that whole, halved and foreign large pages occur. */
const PAGES = 1536;
const BASE = 0x7000_0000_0000;

/** What the process sees of one page: null where nothing is mapped. */
type Seen = { prot: number; value: number } | null;

interface World {
  readonly host: Host;
  readonly mm: MmStruct;
  readonly model: Seen[];
}

type Op = (world: World) => void;

/** Few pages, so that operations meet: at the borders of large pages and inside. */
const page = fc.constantFrom(0, 1, 100, 255, 256, 511, 512, 513, 800, 1023, 1024, 1535);
const range = fc
  .tuple(page, fc.constantFrom(1, 2, 3, 256, 512, 1024, PAGES))
  .map(([first, count]) => ({ first, last: Math.min(first + count, PAGES) }));
const prot = fc.constantFrom(PROT.NONE, PROT.READ, PROT.READ | PROT.WRITE);

const mmap = fc.tuple(range, prot).map(([{ first, last }, p]): Op => ({ host, mm, model }) => {
  const length = (last - first) * PAGE;
  expect(drive(host, doMmap(mm, { length, prot: p, fixed: BASE + first * PAGE }))).toBe(BASE + first * PAGE);
  for (let i = first; i < last; i++) model[i] = { prot: p, value: 0 };
});

const munmap = range.map(({ first, last }): Op => ({ host, mm, model }) => {
  expect(drive(host, doMunmap(mm, BASE + first * PAGE, (last - first) * PAGE))).toBe(0);
  model.fill(null, first, last);
});

const mprotect = fc.tuple(range, prot).map(([{ first, last }, p]): Op => ({ host, mm, model }) => {
  const hole = model.findIndex((page, i) => i >= first && i < last && page === null);
  const result = drive(host, doMprotect(mm, BASE + first * PAGE, (last - first) * PAGE, p));
  expect(result).toBe(hole < 0 ? 0 : -ERRNO.ENOMEM);
  for (let i = first; i < (hole < 0 ? last : hole); i++) model[i]!.prot = p;
});

const madvise = fc
  .tuple(range, fc.constantFrom(MADV.DONTNEED, MADV.HUGEPAGE, MADV.NOHUGEPAGE))
  .map(([{ first, last }, advice]): Op => ({ host, mm, model }) => {
    drive(host, doMadvise(mm, BASE + first * PAGE, (last - first) * PAGE, advice));
    if (advice !== MADV.DONTNEED) return;
    for (let i = first; i < last; i++) if (model[i] !== null) model[i]!.value = 0;
  });

const write = fc
  .tuple(page, fc.integer({ min: 1, max: 255 }))
  .map(([i, value]): Op => ({ host, mm, model }) => {
    const seen = model[i] ?? null;
    const hpa = userHpa(mm, BASE + i * PAGE + 100, FOLL.WRITE);
    if (seen === null || (seen.prot & PROT.WRITE) === 0) expect(hpa).toBe(-ERRNO.EFAULT);
    else {
      host.machine.mem.u8[hpa] = value;
      seen.value = value;
    }
  });

const read = page.map((i): Op => ({ host, mm, model }) => {
  const seen = model[i] ?? null;
  const hpa = userHpa(mm, BASE + i * PAGE + 100, FOLL.READ);
  if (seen === null || (seen.prot & PROT.READ) === 0) expect(hpa).toBe(-ERRNO.EFAULT);
  else expect(host.machine.mem.u8[hpa]).toBe(seen.value);
});

/** How every sequence begins: the whole area, with large pages or without. */
const begin = fc.constantFrom(MADV.HUGEPAGE, MADV.NORMAL).map((advice): Op => ({ host, mm, model }) => {
  drive(host, doMmap(mm, { length: PAGES * PAGE, fixed: BASE }));
  drive(host, doMadvise(mm, BASE, PAGES * PAGE, advice));
  for (let i = 0; i < PAGES; i++) model[i] = { prot: PROT.READ | PROT.WRITE, value: 0 };
});

const migrate = page.map((i): Op => ({ host, mm }) => {
  const mapped = mm.pageTable.get(BASE + i * PAGE) !== 0;
  expect(drive(host, migratePage(mm, BASE + i * PAGE))).toBe(mapped ? 0 : -ERRNO.ENOENT);
});

/** Every frame is mapped at most once, and nothing is left under migration. */
function checkFrames(mm: MmStruct): void {
  const entries = Array.from({ length: PAGES }, (_, i) => mm.pageTable.get(BASE + i * PAGE)).filter(
    (pte) => pte !== 0,
  );
  expect(new Set(entries.map(ptePfn)).size).toBe(entries.length);
  expect(entries.some((pte) => (pte & PTE.MIGRATION) !== 0)).toBe(false);
}

describe('an address space', () => {
  it('is what the manual pages say after any sequence of system calls, and loses no frame', () => {
    const op = fc.oneof(
      { arbitrary: mmap, weight: 3 },
      { arbitrary: munmap, weight: 2 },
      { arbitrary: mprotect, weight: 2 },
      { arbitrary: madvise, weight: 3 },
      { arbitrary: write, weight: 8 },
      { arbitrary: read, weight: 6 },
      { arbitrary: migrate, weight: 2 },
    );
    fc.assert(
      fc.property(begin, fc.array(op, { minLength: 5, maxLength: 60 }), (first, ops) => {
        const host = testHost({ ramBytes: 16 << 20 });
        const world: World = { host, mm: host.createMm('p'), model: new Array<Seen>(PAGES).fill(null) };
        const free = host.pages.nrFree;
        for (const step of [first, ...ops]) step(world);
        checkFrames(world.mm);
        drive(host, exitMmap(world.mm));
        expect(host.pages.nrFree).toBe(free);
        expect(world.mm.pageTable.nrTables).toBe(0);
      }),
      { numRuns: 50, seed: 20261121 },
    );
  });
});
