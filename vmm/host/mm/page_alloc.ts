// SPDX-License-Identifier: GPL-2.0-only
/**
 * The page allocator and page references, after mm/page_alloc.c and include/linux/mm.h: managed frames, those with a
 * struct page. Orders 0 and 9. Leaves out zones, watermarks and reclaim: out of memory is -ENOMEM at once.
 */
import { PAGE_SHIFT, PAGE_SIZE, pfn as toPfn, type Pfn } from '../../../lib/x86/addr.ts';
import { hex } from '../../../lib/x86/bits.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError, SanitizerError } from '../../machine/errors.ts';
import type { FrameTable } from '../../machine/memory/frames.ts';
import { ERRNO } from '../errno.ts';
import type { SchedCore } from '../sched/core.ts';
import { FramePool, HUGE_FRAMES } from './frame_pool.ts';
import type { HostMemory } from './host_memory.ts';

/** Allocation flags. */
// prettier-ignore
export const GFP = { KERNEL: 0x0, ZERO: 0x1 } as const;

/** A pin counts as this many references, as in the kernel. */
export const GUP_PIN_COUNTING_BIAS = 1024;

const PG_HEAD = 1;
const PG_TAIL = 2;

export class PageAllocator {
  readonly #machine: HostMemory;
  readonly #frames: FrameTable;
  readonly #sched: SchedCore;
  readonly #pool: FramePool;
  readonly #refs: Int32Array;
  readonly #flags: Uint8Array;
  /** Frames that were handed out before: others are still zero. */
  readonly #used: Uint8Array;
  readonly #putPage: number;

  /** Manages the free frames from `first` to `end` (exclusive). RAM that was never handed out reads as zero. */
  constructor(machine: HostMemory, sched: SchedCore, first: number, end: number) {
    this.#machine = machine;
    this.#frames = machine.frames;
    this.#sched = sched;
    this.#pool = new FramePool(machine.frames, first, end);
    this.#refs = new Int32Array(end);
    this.#flags = new Uint8Array(end);
    this.#used = new Uint8Array(end);
    this.#putPage = machine.frames.intern('put_page');
  }

  get nrFree(): number {
    return this.#pool.nrFree;
  }

  /** pfn_valid(): the frame has a struct page, hence a place in the direct map. */
  pfnValid(pfn: Pfn): boolean {
    return pfn >= this.#pool.first && pfn < this.#pool.end;
  }

  /** A name to take and free pages under; shows in the story of a frame. */
  owner(name: string): number {
    return this.#frames.intern(name);
  }

  /** alloc_page(): a frame with one reference, or -ENOMEM. */
  allocPage(owner: number, gfp: number = GFP.KERNEL): number {
    const frame = this.#pool.alloc();
    if (frame < 0) return -ERRNO.ENOMEM;
    this.#sched.counters.pagesAllocated++;
    spend(this.#sched.cpu, COST.PAGE_ALLOC);
    this.#frames.take(toPfn(frame), owner);
    this.#refs[frame] = 1;
    if (gfp & GFP.ZERO) this.#zero(frame);
    this.#used[frame] = 1;
    return frame;
  }

  /** alloc_pages(order 9): the first of 512 aligned frames with one reference for all, or -ENOMEM. */
  allocHugePage(owner: number, gfp: number = GFP.KERNEL): number {
    const head = this.#pool.allocHuge();
    if (head < 0) return -ERRNO.ENOMEM;
    this.#sched.counters.pagesAllocated += HUGE_FRAMES;
    spend(this.#sched.cpu, COST.PAGE_ALLOC);
    for (let frame = head; frame < head + HUGE_FRAMES; frame++) {
      this.#frames.take(toPfn(frame), owner);
      this.#flags[frame] = frame === head ? PG_HEAD : PG_TAIL;
      if (gfp & GFP.ZERO) this.#zero(frame);
      this.#used[frame] = 1;
    }
    this.#refs[head] = 1;
    return head;
  }

  /** compound_head(): the frame that carries the references of `pfn`. */
  compoundHead(pfn: Pfn): Pfn {
    return this.#flags[pfn] === PG_TAIL ? toPfn(pfn - (pfn % HUGE_FRAMES)) : pfn;
  }

  /** PageCompound(): the frame is part of a 2 MiB page. */
  isCompound(pfn: Pfn): boolean {
    return this.#flags[pfn] !== 0;
  }

  pageCount(pfn: Pfn): number {
    return this.#refs[this.compoundHead(pfn)]!;
  }

  /** get_page(). A page without references is nobody's to take. */
  getPage(pfn: Pfn): void {
    const head = this.compoundHead(pfn);
    const refs = this.#refs[head] ?? 0;
    if (refs <= 0) throw new SanitizerError(`get_page of a free page: ${this.#frames.story(pfn)}`);
    this.#refs[head] = refs + 1;
  }

  /** put_page(): the last reference frees the page, in the name of `by`. */
  putPage(pfn: Pfn, by: number = this.#putPage): void {
    spend(this.#sched.cpu, COST.PUT_PAGE);
    this.putRefs(pfn, 1, by);
  }

  /** pin_user_pages() on a page already found: migration must not move it. */
  pinPage(pfn: Pfn): void {
    this.getPage(pfn);
    const head = this.compoundHead(pfn);
    this.#refs[head] = this.#refs[head]! + GUP_PIN_COUNTING_BIAS - 1;
  }

  /** unpin_user_page(). */
  unpinPage(pfn: Pfn): void {
    if (!this.isPinned(pfn))
      throw new SanitizerError(`unpin of a page that is not pinned: ${this.#frames.story(pfn)}`);
    this.putRefs(pfn, GUP_PIN_COUNTING_BIAS, this.#putPage);
  }

  /** page_maybe_dma_pinned(). */
  isPinned(pfn: Pfn): boolean {
    return this.pageCount(pfn) >= GUP_PIN_COUNTING_BIAS;
  }

  /** Drop `count` references at once. */
  putRefs(pfn: Pfn, count: number, by: number): void {
    const head = this.compoundHead(pfn);
    const refs = (this.#refs[head] ?? 0) - count;
    if (refs < 0) throw new SanitizerError(`put_page without a reference: ${this.#frames.story(pfn)}`);
    this.#refs[head] = refs;
    if (refs === 0) this.#free(head, by);
  }

  /**
   * A 2 MiB page gets mapped by 512 entries instead of one. If nobody else holds it, it falls apart into 512 pages of
   * their own; else it stays whole and each entry holds a reference, as after the kernel's split of a PMD.
   */
  splitHugePage(head: Pfn): void {
    if (this.#flags[head] !== PG_HEAD) throw new BugError(`pfn ${hex(head)} is not the head of a huge page`);
    if (this.#refs[head] !== 1) {
      this.#refs[head] = this.#refs[head]! + HUGE_FRAMES - 1;
      return;
    }
    for (let frame = head; frame < head + HUGE_FRAMES; frame++) {
      this.#flags[frame] = 0;
      this.#refs[frame] = 1;
    }
  }

  /** copy_page(), for one frame. */
  copyPage(to: Pfn, from: Pfn): void {
    spend(this.#sched.cpu, COST.PAGE_COPY);
    const start = from * PAGE_SIZE;
    this.#machine.mem.u8.copyWithin(to * PAGE_SIZE, start, start + PAGE_SIZE);
    this.#machine.noteStore(to * PAGE_SIZE, PAGE_SIZE);
  }

  #zero(frame: number): void {
    spend(this.#sched.cpu, COST.PAGE_CLEAR);
    if (this.#used[frame] === 0) return;
    const word = (frame << PAGE_SHIFT) >>> 2;
    this.#machine.mem.i32.fill(0, word, word + PAGE_SIZE / 4);
  }

  #free(head: Pfn, by: number): void {
    const count = this.#flags[head] === PG_HEAD ? HUGE_FRAMES : 1;
    this.#sched.counters.pagesFreed += count;
    spend(this.#sched.cpu, COST.PAGE_FREE);
    for (let i = 0; i < count; i++) {
      const frame = toPfn(head + i);
      this.#flags[frame] = 0;
      this.#frames.retire(frame, by);
      this.#pool.free(frame);
    }
  }
}
