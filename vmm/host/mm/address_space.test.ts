// SPDX-License-Identifier: GPL-2.0-only
/** mmap, munmap, mprotect, madvise and faults. Errors: mmap(2), munmap(2), mprotect(2), madvise(2). */
import { describe, expect, it } from 'vitest';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import { ERRNO } from '../errno.ts';
import type { Host } from '../host.ts';
import { drive, testHost } from '../testing/test_host.ts';
import { FOLL, framePfn } from './fault.ts';
import { getUserPage, hostMappingOrder } from './gup.ts';
import { doMadvise, MADV, punchHole } from './madvise.ts';
import { doMmap, doMunmap, exitMmap, type MmapRequest } from './mmap.ts';
import { TASK_SIZE, TASK_UNMAPPED_BASE, type MmStruct } from './mm_struct.ts';
import { doMprotect } from './mprotect.ts';
import { UserFault, UserMemory } from './user_access.ts';
import { PROT } from './vma.ts';

const PAGE = 4096;
const MIB = 1 << 20;

interface Process {
  readonly host: Host;
  readonly mm: MmStruct;
  readonly user: UserMemory;
  mmap(request: MmapRequest): number;
  munmap(start: number, length: number): number;
  mprotect(start: number, length: number, prot: number): number;
  madvise(start: number, length: number, advice: number): number;
}

function process(options: Parameters<typeof testHost>[0] = {}): Process {
  const host = testHost({ ramBytes: 8 * MIB, ...options });
  const mm = host.createMm('test');
  return {
    host,
    mm,
    user: new UserMemory(mm),
    mmap: (request) => drive(host, doMmap(mm, request)),
    munmap: (start, length) => drive(host, doMunmap(mm, start, length)),
    mprotect: (start, length, prot) => drive(host, doMprotect(mm, start, length, prot)),
    madvise: (start, length, advice) => drive(host, doMadvise(mm, start, length, advice)),
  };
}

describe('mmap', () => {
  it('finds room bottom-up and rounds the length up to pages', () => {
    const p = process();
    const a = p.mmap({ length: 1 });
    const b = p.mmap({ length: 2 * PAGE });
    expect(a).toBe(TASK_UNMAPPED_BASE);
    expect(b).toBe(a + PAGE);
    p.user.write8(a + PAGE - 1, 1);
    expect(p.mmap({ length: 2 * MIB }) % (2 * MIB)).toBe(0);
    expect(p.mmap({ length: PAGE, align: 0x10000 }) % 0x10000).toBe(0);
  });

  it('merges anonymous neighbours of equal protection only', () => {
    const p = process();
    p.mmap({ length: PAGE });
    p.mmap({ length: PAGE });
    expect(p.mm.vmas.size).toBe(1);
    p.mmap({ length: PAGE, prot: PROT.READ });
    p.mmap({ length: PAGE, file: p.host.memfdCreate('f', PAGE) });
    expect(p.mm.vmas.size).toBe(3);
  });

  it('replaces what is there with MAP_FIXED', () => {
    const p = process();
    const at = p.mmap({ length: 3 * PAGE });
    p.user.write32(at + PAGE, 7);
    expect(p.mmap({ length: PAGE, fixed: at + PAGE })).toBe(at + PAGE);
    expect(p.user.read32(at + PAGE)).toBe(0);
    const high = TASK_SIZE - PAGE;
    expect(p.mmap({ length: PAGE, fixed: high })).toBe(high);
    expect(p.mmap({ length: PAGE })).toBe(-ERRNO.ENOMEM);
  });

  it('refuses bad lengths, offsets and addresses', () => {
    const p = process();
    const file = p.host.memfdCreate('f', PAGE);
    expect(p.mmap({ length: 0 })).toBe(-ERRNO.EINVAL);
    expect(p.mmap({ length: PAGE, fixed: 5 })).toBe(-ERRNO.EINVAL);
    expect(p.mmap({ length: PAGE, fixed: TASK_SIZE })).toBe(-ERRNO.EINVAL);
    expect(p.mmap({ length: PAGE, fixed: -PAGE })).toBe(-ERRNO.EINVAL);
    expect(p.mmap({ length: PAGE, file, offset: 12 })).toBe(-ERRNO.EINVAL);
    expect(p.mmap({ length: PAGE, offset: PAGE })).toBe(-ERRNO.EINVAL);
  });
});

describe('a fault', () => {
  it('gives a zeroed page on first touch, and nothing outside of areas or protection', () => {
    const p = process();
    const at = p.mmap({ length: PAGE });
    const readOnly = p.mmap({ length: PAGE, prot: PROT.READ });
    const none = p.mmap({ length: PAGE, prot: PROT.NONE });
    expect(p.user.read64(at)).toBe(0n);
    p.user.write64(at, 0x1234n);
    expect(p.user.read64(at)).toBe(0x1234n);
    expect(p.user.read32(readOnly)).toBe(0);
    expect(() => p.user.write32(readOnly, 1)).toThrow(UserFault);
    expect(() => p.user.read8(none)).toThrow(/SIGSEGV in test: read of 0x/);
    expect(() => p.user.read8(0x1000)).toThrow('SIGSEGV in test: read of 0x1000');
    expect(p.host.counters.faults).toBe(2);
  });

  it('is ENOMEM without memory', () => {
    const p = process({ ramBytes: 1 << 16 });
    const at = p.mmap({ length: 32 * PAGE });
    p.user.fill(at, 16 * PAGE, 1);
    expect(() => p.user.write8(at + 16 * PAGE, 1)).toThrow('finds no memory');
    expect(drive(p.host, getUserPage(p.mm, at + 16 * PAGE, FOLL.WRITE))).toBe(-ERRNO.ENOMEM);
  });

  it('gives 2 MiB at once where asked, aligned, and whole', () => {
    const p = process({ ramBytes: 16 * MIB });
    const at = p.mmap({ length: 5 * MIB });
    expect(p.madvise(at, 5 * MIB, MADV.HUGEPAGE)).toBe(0);
    p.user.write32(at + 5000, 1);
    p.user.write32(at + 4 * MIB + 5000, 1);
    expect(hostMappingOrder(p.mm, at)).toBe(9);
    expect(hostMappingOrder(p.mm, at + 4 * MIB + 5000)).toBe(0);
    expect(hostMappingOrder(p.mm, at + 2 * MIB)).toBe(-1);
    expect(p.host.counters).toMatchObject({ faults: 2, hugeFaults: 1, pagesAllocated: 513 });
    expect(framePfn(p.mm.pageTable.get(at + 5000)) % 512).toBe(1);
    p.madvise(at + 2 * MIB, 2 * MIB, MADV.NOHUGEPAGE);
    p.user.write32(at + 2 * MIB, 1);
    expect(hostMappingOrder(p.mm, at + 2 * MIB)).toBe(0);
  });

  it('falls back to a small page when no 2 MiB page is free', () => {
    const p = process({ ramBytes: 3 * MIB });
    const at = p.mmap({ length: 4 * MIB });
    p.madvise(at, 4 * MIB, MADV.HUGEPAGE);
    p.user.write8(at, 1);
    p.user.write8(at + 2 * MIB, 1);
    expect([hostMappingOrder(p.mm, at), hostMappingOrder(p.mm, at + 2 * MIB)]).toEqual([9, 0]);
  });
});

describe('munmap', () => {
  it('frees the pages and splits the area', () => {
    const p = process();
    const at = p.mmap({ length: 4 * PAGE });
    p.user.fill(at, 4 * PAGE, 5);
    const free = p.host.pages.nrFree;
    expect(p.munmap(at + PAGE, 2 * PAGE)).toBe(0);
    expect(p.host.pages.nrFree).toBe(free + 2);
    expect(p.mm.vmas.all().map((vma) => [vma.start - at, vma.end - at])).toEqual([
      [0, PAGE],
      [3 * PAGE, 4 * PAGE],
    ]);
    expect(() => p.user.read8(at + PAGE)).toThrow(UserFault);
    expect(p.user.read8(at + 3 * PAGE)).toBe(5);
    expect(p.munmap(at, 4 * PAGE)).toBe(0);
    expect(p.mm.vmas.size).toBe(0);
    expect(p.mm.pageTable.nrTables).toBe(0);
  });

  it('keeps the other half of a 2 MiB page', () => {
    const p = process();
    const at = p.mmap({ length: 2 * MIB });
    p.madvise(at, 2 * MIB, MADV.HUGEPAGE);
    p.user.fill(at, 2 * MIB, 3);
    const free = p.host.pages.nrFree;
    p.munmap(at, MIB);
    expect(p.host.pages.nrFree).toBe(free + 256);
    expect(p.user.read8(at + MIB)).toBe(3);
    p.munmap(at, 2 * MIB);
    expect(p.host.pages.nrFree).toBe(free + 512);
  });

  it('refuses bad ranges', () => {
    const p = process();
    expect(p.munmap(1, PAGE)).toBe(-ERRNO.EINVAL);
    expect(p.munmap(PAGE, 0)).toBe(-ERRNO.EINVAL);
    expect(p.munmap(TASK_SIZE, PAGE)).toBe(-ERRNO.EINVAL);
    expect(p.munmap(PAGE, PAGE)).toBe(0);
  });

  it('of everything at the end of a process leaves no page behind', () => {
    const p = process();
    const free = p.host.pages.nrFree;
    p.user.fill(p.mmap({ length: 2 * MIB }), 2 * MIB, 1);
    p.user.fill(p.mmap({ length: PAGE, prot: PROT.READ | PROT.WRITE }), PAGE, 1);
    drive(p.host, exitMmap(p.mm));
    expect(p.host.pages.nrFree).toBe(free);
    expect(p.mm.vmas.size).toBe(0);
  });
});

describe('mprotect', () => {
  it('takes effect on pages that are there, and gives them back unchanged', () => {
    const p = process();
    const at = p.mmap({ length: 3 * PAGE });
    p.user.fill(at, 3 * PAGE, 9);
    expect(p.mprotect(at + PAGE, PAGE, PROT.NONE)).toBe(0);
    expect(() => p.user.read8(at + PAGE)).toThrow(UserFault);
    expect(p.user.read8(at + 2 * PAGE)).toBe(9);
    expect(p.mprotect(at + PAGE, PAGE, PROT.READ)).toBe(0);
    expect(p.user.read8(at + PAGE)).toBe(9);
    expect(() => p.user.write8(at + PAGE, 1)).toThrow(UserFault);
    expect(p.mprotect(at, 3 * PAGE, PROT.READ | PROT.WRITE)).toBe(0);
    p.user.write8(at + PAGE, 1);
    expect(p.host.counters.faults).toBe(3);
  });

  it('works on a whole 2 MiB page and splits one that it covers in part', () => {
    const p = process();
    const at = p.mmap({ length: 2 * MIB });
    p.madvise(at, 2 * MIB, MADV.HUGEPAGE);
    p.user.write8(at, 1);
    p.mprotect(at, 2 * MIB, PROT.READ);
    expect(() => p.user.write8(at, 1)).toThrow(UserFault);
    expect(hostMappingOrder(p.mm, at)).toBe(9);
    p.mprotect(at + PAGE, PAGE, PROT.NONE);
    expect(hostMappingOrder(p.mm, at)).toBe(0);
    expect(p.user.read8(at)).toBe(1);
    expect(() => p.user.read8(at + PAGE)).toThrow(UserFault);
  });

  it('is ENOMEM at a hole, after the areas before it', () => {
    const p = process();
    const at = p.mmap({ length: 3 * PAGE });
    p.munmap(at + PAGE, PAGE);
    expect(p.mprotect(at, 3 * PAGE, PROT.READ)).toBe(-ERRNO.ENOMEM);
    expect(() => p.user.write8(at, 1)).toThrow(UserFault);
    p.user.write8(at + 2 * PAGE, 1);
    expect(p.mprotect(at + 1, PAGE, PROT.READ)).toBe(-ERRNO.EINVAL);
    expect(p.mprotect(at, PAGE, PROT.READ)).toBe(0);
  });
});

describe('madvise', () => {
  it('DONTNEED gives fresh zero pages at the next touch', () => {
    const p = process();
    const at = p.mmap({ length: 4 * PAGE });
    p.user.fill(at, 4 * PAGE, 7);
    const free = p.host.pages.nrFree;
    expect(p.madvise(at + PAGE, 2 * PAGE, MADV.DONTNEED)).toBe(0);
    expect(p.host.pages.nrFree).toBe(free + 2);
    expect([p.user.read8(at), p.user.read8(at + PAGE), p.user.read8(at + 3 * PAGE)]).toEqual([7, 0, 7]);
  });

  it('frees more pages than one batch of the gather', () => {
    const p = process({ ramBytes: 64 * MIB });
    const at = p.mmap({ length: 48 * MIB });
    p.user.fill(at, 48 * MIB, 1);
    p.madvise(at, 48 * MIB, MADV.DONTNEED);
    expect(p.host.counters.pagesFreed).toBe(12288);
    expect(p.mm.pageTable.nrTables).toBe(0);
  });

  it('is refused where the manual says so', () => {
    const p = process({ unmanagedBytes: MIB });
    const at = p.mmap({ length: PAGE });
    const unmanaged = p.mmap({ length: PAGE, file: p.host.unmanagedFile('guest', PAGE) });
    expect(p.madvise(at + 1, PAGE, MADV.DONTNEED)).toBe(-ERRNO.EINVAL);
    expect(p.madvise(at, PAGE, 77)).toBe(-ERRNO.EINVAL);
    expect(p.madvise(at, 0, MADV.DONTNEED)).toBe(0);
    expect(p.madvise(at, PAGE, MADV.NORMAL)).toBe(0);
    expect(p.madvise(unmanaged, PAGE, MADV.DONTNEED)).toBe(-ERRNO.EINVAL);
    expect(p.madvise(at - PAGE, 2 * PAGE, MADV.DONTNEED)).toBe(-ERRNO.ENOMEM);
    expect(p.madvise(unmanaged + PAGE, PAGE, MADV.DONTNEED)).toBe(-ERRNO.ENOMEM);
  });
});

describe('shared files', () => {
  it('show the same memfd page in two processes, also after one lets go', () => {
    const p = process();
    const other = p.host.createMm('other');
    const file = p.host.memfdCreate('shared', 4 * PAGE);
    const here = p.mmap({ length: 4 * PAGE, file });
    const there = drive(p.host, doMmap(other, { length: 2 * PAGE, file, offset: PAGE }));
    const user = new UserMemory(other);
    p.user.write32(here + PAGE, 0xcafe);
    expect(user.read32(there)).toBe(0xcafe);
    p.madvise(here, 4 * PAGE, MADV.DONTNEED);
    expect(p.user.read32(here + PAGE)).toBe(0xcafe);
    p.munmap(here, 4 * PAGE);
    expect(user.read32(there)).toBe(0xcafe);
    expect(p.host.pages.pageCount(framePfn(other.pageTable.get(there)))).toBe(2);
  });

  it('end where the file ends', () => {
    const p = process();
    const file = p.host.memfdCreate('short', PAGE);
    const at = p.mmap({ length: 2 * PAGE, file });
    expect(() => p.user.read8(at + PAGE)).toThrow(UserFault);
    expect(() => file.frame(1)).toThrow(BugError);
    expect(file.peek(9)).toBe(-1);
  });

  it('lose a punched hole in every mapping', () => {
    const p = process();
    const file = p.host.memfdCreate('shared', 4 * PAGE);
    const whole = p.mmap({ length: 4 * PAGE, file });
    const part = p.mmap({ length: PAGE, file, offset: 2 * PAGE });
    p.mmap({ length: PAGE });
    p.user.fill(whole, 4 * PAGE, 6);
    expect(p.user.read8(part)).toBe(6);
    const free = p.host.pages.nrFree;
    expect(drive(p.host, punchHole(file, PAGE, 2 * PAGE))).toBe(0);
    expect(p.host.pages.nrFree).toBe(free + 2);
    expect([0, 1, 2, 3].map((i) => p.user.read8(whole + i * PAGE))).toEqual([6, 0, 0, 6]);
    expect(p.user.read8(part)).toBe(0);
    expect(drive(p.host, punchHole(file, 5, PAGE))).toBe(-ERRNO.EINVAL);
  });

  it('map unmanaged frames without references', () => {
    const p = process({ unmanagedBytes: MIB });
    const file = p.host.unmanagedFile('guest', 2 * PAGE);
    const at = p.mmap({ length: 2 * PAGE, file });
    p.user.write32(at, 0x77);
    const frame = framePfn(p.mm.pageTable.get(at));
    expect(p.host.unmanaged.owns(frame)).toBe(true);
    p.munmap(at, 2 * PAGE);
    expect(p.host.machine.frames.story(frame)).toContain('is unmanaged');
    const again = p.mmap({ length: PAGE, file });
    expect(p.user.read32(again)).toBe(0x77);
    drive(p.host, punchHole(file, 0, PAGE));
    expect(p.host.machine.frames.story(frame)).toContain(
      'free, epoch 1, last taken by unmanaged guest, last freed by hole',
    );
  });
});

describe('user memory', () => {
  it('copies across pages, and costs one access per cache line', () => {
    const p = process();
    const at = p.mmap({ length: 2 * PAGE });
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    p.user.writeBytes(at + PAGE - 100, bytes);
    expect(p.user.readBytes(at + PAGE - 100, 256)).toEqual(bytes);
    expect(p.host.cpu.counts[COST.USER_ACCESS]).toBe(8);
    expect(() => p.user.read32(at + PAGE - 2)).toThrow('crosses a page');
    expect(() => p.user.writeBytes(at + 2 * PAGE - 8, bytes)).toThrow(UserFault);
    expect(p.user.read8(at + 2 * PAGE - 1)).toBe(7);
  });

  it('reports its stores, so that decoded code is dropped', () => {
    const host = testHost();
    const mm = host.createMm('test');
    const user = new UserMemory(mm);
    const at = drive(host, doMmap(mm, { length: PAGE }));
    user.write8(at, 1);
    user.write32(at + 4, 1);
    user.write64(at + 8, 1n);
    user.fill(at + 16, 8, 1);
    user.writeBytes(at + 32, Uint8Array.of(1));
    const base = framePfn(mm.pageTable.get(at)) * PAGE;
    expect(host.stores).toEqual([0, 4, 8, 16, 32].map((offset) => base + offset));
  });
});
