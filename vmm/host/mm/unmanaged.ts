// SPDX-License-Identifier: GPL-2.0-only
/**
 * Memory that the host kernel does not manage: hidden from it by `mem=`, so there is no struct page, no direct map and no
 * reference count. Its frames are given out by this allocator of its own, as a device or a userspace VMM would do.
 */
import { PAGE_SIZE, pfn as toPfn, type Pfn } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { FRAME } from '../../machine/memory/frames.ts';
import { ERRNO } from '../errno.ts';
import type { SchedCore } from '../sched/core.ts';
import { FramePool } from './frame_pool.ts';
import type { HostMemory } from './host_memory.ts';

export class UnmanagedMemory {
  readonly #machine: HostMemory;
  readonly #sched: SchedCore;
  readonly #pool: FramePool;
  readonly #used = new Set<number>();

  constructor(machine: HostMemory, sched: SchedCore, first: number, end: number) {
    this.#machine = machine;
    this.#sched = sched;
    this.#pool = new FramePool(machine.frames, first, end);
  }

  get nrFree(): number {
    return this.#pool.nrFree;
  }

  /** Whether the frame belongs to unmanaged memory. */
  owns(pfn: Pfn): boolean {
    return pfn >= this.#pool.first && pfn < this.#pool.end;
  }

  owner(name: string): number {
    return this.#machine.frames.intern(name);
  }

  /** A zeroed frame, or -ENOMEM. */
  alloc(owner: number): number {
    const frame = this.#pool.alloc();
    if (frame < 0) return -ERRNO.ENOMEM;
    spend(this.#sched.cpu, COST.PAGE_ALLOC);
    spend(this.#sched.cpu, COST.PAGE_CLEAR);
    this.#machine.frames.take(toPfn(frame), owner, FRAME.UNMANAGED);
    if (this.#used.has(frame)) this.#machine.mem.u8.fill(0, frame * PAGE_SIZE, (frame + 1) * PAGE_SIZE);
    this.#used.add(frame);
    return frame;
  }

  free(pfn: Pfn, by: number): void {
    spend(this.#sched.cpu, COST.PAGE_FREE);
    this.#machine.frames.retire(pfn, by);
    this.#pool.free(pfn);
  }

  copyPage(to: Pfn, from: Pfn): void {
    spend(this.#sched.cpu, COST.PAGE_COPY);
    const start = from * PAGE_SIZE;
    this.#machine.mem.u8.copyWithin(to * PAGE_SIZE, start, start + PAGE_SIZE);
    this.#machine.noteStore(to * PAGE_SIZE, PAGE_SIZE);
  }
}
