// SPDX-License-Identifier: GPL-2.0-only
/** Frames: low first, references, 2 MiB pages, and every misuse found. */
import { describe, expect, it } from 'vitest';
import { pfn, type Pfn } from '../../../lib/x86/addr.ts';
import { COST } from '../../machine/cost/points.ts';
import { SanitizerError } from '../../machine/errors.ts';
import { ERRNO } from '../errno.ts';
import { FIRST_FRAME, testHost } from '../testing/test_host.ts';
import { FramePool } from './frame_pool.ts';
import { GFP } from './page_alloc.ts';

describe('the frame pool', () => {
  it('hands out the lowest free frame, across words and summary words', () => {
    const { frames } = testHost({ ramBytes: 64 << 20 }).machine;
    const pool = new FramePool(frames, FIRST_FRAME + 3, FIRST_FRAME + 9000);
    const got = Array.from({ length: 8997 }, () => pool.alloc());
    expect(got).toEqual(Array.from({ length: 8997 }, (_, i) => FIRST_FRAME + 3 + i));
    expect(pool.alloc()).toBe(-1);
    for (const frame of [8000, 40, 33]) pool.free(pfn(FIRST_FRAME + frame));
    expect(pool.nrFree).toBe(3);
    expect([pool.alloc(), pool.alloc(), pool.alloc()]).toEqual([33, 40, 8000].map((n) => FIRST_FRAME + n));
  });

  it('finds an aligned run of 512 only where all are free', () => {
    const { frames } = testHost({ ramBytes: 8 << 20 }).machine;
    const pool = new FramePool(frames, FIRST_FRAME, FIRST_FRAME + 2048);
    expect(pool.alloc()).toBe(FIRST_FRAME);
    expect([pool.allocHuge(), pool.allocHuge(), pool.allocHuge(), pool.allocHuge()]).toEqual([
      FIRST_FRAME + 512,
      FIRST_FRAME + 1024,
      FIRST_FRAME + 1536,
      -1,
    ]);
    expect(() => pool.free(pfn(FIRST_FRAME + 2048))).toThrow('not of this pool');
  });
});

describe('the page allocator', () => {
  it('gives a page one reference and frees it with the last', () => {
    const host = testHost();
    const { pages } = host;
    const before = pages.nrFree;
    const page = pfn(pages.allocPage(pages.owner('test')));
    expect(page).toBe(FIRST_FRAME);
    expect(pages.pageCount(page)).toBe(1);
    pages.getPage(page);
    pages.putPage(page);
    expect(host.machine.frames.story(page)).toContain('allocated, epoch 0, last taken by test');
    pages.putPage(page, pages.owner('munmap by t'));
    expect(host.machine.frames.story(page)).toContain(
      'free, epoch 1, last taken by test, last freed by munmap by t',
    );
    expect(pages.nrFree).toBe(before);
    expect(host.cpu.counts[COST.PAGE_FREE]).toBe(1);
  });

  it('finds a double free and the use of a free page, with both stories', () => {
    const { pages } = testHost();
    const page = pfn(pages.allocPage(pages.owner('gpc')));
    pages.putPage(page, pages.owner('zap'));
    expect(() => pages.putPage(page)).toThrow(SanitizerError);
    expect(() => pages.getPage(page)).toThrow(
      /get_page of a free page.*last taken by gpc, last freed by zap/,
    );
    expect(() => pages.getPage(pfn(1))).toThrow(SanitizerError);
  });

  it('says -ENOMEM when the memory is used up', () => {
    const { pages } = testHost({ ramBytes: 1 << 20 });
    for (let i = 0; i < 256; i++) expect(pages.allocPage(0)).toBeGreaterThan(0);
    expect(pages.allocPage(0)).toBe(-ERRNO.ENOMEM);
    expect(pages.allocHugePage(0)).toBe(-ERRNO.ENOMEM);
  });

  it('clears a page only if asked, also one that was used before', () => {
    const { pages, machine } = testHost();
    const page = pfn(pages.allocPage(0, GFP.ZERO));
    machine.mem.u8[page * 4096 + 5] = 7;
    pages.putPage(page);
    expect(pages.allocPage(0)).toBe(page);
    expect(machine.mem.u8[page * 4096 + 5]).toBe(7);
    pages.putPage(page);
    expect(pages.allocPage(0, GFP.ZERO)).toBe(page);
    expect(machine.mem.u8[page * 4096 + 5]).toBe(0);
  });

  it('keeps the references of a 2 MiB page at its head', () => {
    const { pages } = testHost({ ramBytes: 8 << 20 });
    const head = pfn(pages.allocHugePage(0, GFP.ZERO));
    const tail = pfn(head + 77);
    expect(head % 512).toBe(0);
    expect(pages.compoundHead(tail)).toBe(head);
    expect(pages.isCompound(tail)).toBe(true);
    pages.getPage(tail);
    expect(pages.pageCount(head)).toBe(2);
    pages.putPage(tail);
    pages.putPage(head);
    expect(pages.nrFree).toBe(2048);
    expect(pages.isCompound(tail)).toBe(false);
  });

  it('splits a 2 MiB page into 512 pages if nobody else holds it, else into 512 references', () => {
    const { pages } = testHost({ ramBytes: 8 << 20 });
    const alone = pfn(pages.allocHugePage(0));
    pages.splitHugePage(alone);
    expect([pages.pageCount(alone), pages.pageCount(pfn(alone + 511))]).toEqual([1, 1]);
    expect(() => pages.splitHugePage(alone)).toThrow('not the head of a huge page');
    const held = pfn(pages.allocHugePage(0));
    pages.getPage(pfn(held + 9));
    pages.splitHugePage(held);
    expect(pages.pageCount(held)).toBe(513);
    const free = pages.nrFree;
    pages.putRefs(held, 513, 0);
    expect(pages.nrFree).toBe(free + 512);
  });

  it('counts pins, and refuses to undo what was not pinned', () => {
    const { pages } = testHost();
    const page = pfn(pages.allocPage(0));
    expect(() => pages.unpinPage(page)).toThrow('not pinned');
    pages.pinPage(page);
    expect(pages.isPinned(page)).toBe(true);
    expect(pages.pageCount(page)).toBe(1025);
    pages.unpinPage(page);
    expect(pages.isPinned(page)).toBe(false);
    expect(pages.pageCount(page)).toBe(1);
  });
});

describe('unmanaged memory', () => {
  it('has no struct page, and comes back zeroed', () => {
    const { pages, unmanaged, machine } = testHost({ unmanagedBytes: 1 << 20 });
    const frame = unmanaged.alloc(unmanaged.owner('guest')) as Pfn;
    expect(pages.pfnValid(frame)).toBe(false);
    expect(unmanaged.owns(frame)).toBe(true);
    expect(pages.pfnValid(pfn(FIRST_FRAME))).toBe(true);
    expect(unmanaged.owns(pfn(FIRST_FRAME))).toBe(false);
    expect(machine.frames.story(frame)).toContain('is unmanaged');
    expect(() => pages.getPage(frame)).toThrow(SanitizerError);
    machine.mem.u8[frame * 4096] = 9;
    unmanaged.free(frame, unmanaged.owner('vmm'));
    expect(() => unmanaged.free(frame, unmanaged.owner('again'))).toThrow(/double free.*freed by again/);
    expect(unmanaged.alloc(0)).toBe(frame);
    expect(machine.mem.u8[frame * 4096]).toBe(0);
  });

  it('is bounded, and leaves some memory to the kernel', () => {
    const { unmanaged } = testHost({ unmanagedBytes: 8192 });
    unmanaged.alloc(0);
    unmanaged.alloc(0);
    expect(unmanaged.nrFree).toBe(0);
    expect(unmanaged.alloc(0)).toBe(-ERRNO.ENOMEM);
    expect(() => testHost({ unmanagedBytes: 1 << 30 })).toThrow('leave none to the kernel');
  });
});
