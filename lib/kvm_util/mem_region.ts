// SPDX-License-Identifier: GPL-2.0-only
/**
 * The memory regions of a VM as userspace knows them: where each slot lies in guest physical and in its own memory, and
 * which of its pages the test library has handed out. After `struct userspace_mem_region` of kvm_util.h.
 */
import { PAGE_SIZE, gpa, hva, type Gpa, type Hva } from '../x86/addr.ts';
import { hex } from '../x86/bits.ts';
import type { BackingSource } from './backend.ts';
import { TEST_ASSERT, TEST_FAIL } from './test_util.ts';

export interface UserspaceMemRegion {
  readonly slot: number;
  /** Changes when the slot is moved. */
  guestPhysAddr: Gpa;
  readonly hostMem: Hva;
  readonly npages: number;
  flags: number;
  readonly backing: BackingSource;
  /** One byte a page: 1 once vm_phy_pages_alloc() has handed it out. Made at the first allocation. */
  used: Uint8Array | undefined;
}

export const regionEnd = (r: UserspaceMemRegion): number => r.guestPhysAddr + r.npages * PAGE_SIZE;

/** Regions by slot and sorted by address; both stay quick with 32764 of them. */
export class MemRegions {
  readonly #bySlot = new Map<number, UserspaceMemRegion>();
  /** Sorted by guestPhysAddr. */
  readonly #sorted: UserspaceMemRegion[] = [];

  get size(): number {
    return this.#bySlot.size;
  }

  /** In ascending order of address. */
  all(): readonly UserspaceMemRegion[] {
    return this.#sorted;
  }

  /** memslot2region(): fails the test if there is no such slot. */
  get(slot: number): UserspaceMemRegion {
    return (
      this.#bySlot.get(slot) ??
      TEST_FAIL(`No mem region with the requested slot found, requested slot: ${slot}`)
    );
  }

  has(slot: number): boolean {
    return this.#bySlot.has(slot);
  }

  /** The region that holds `addr`, or undefined. */
  find(addr: number): UserspaceMemRegion | undefined {
    const candidate = this.#sorted[this.#upperBound(addr) - 1];
    return candidate !== undefined && addr < regionEnd(candidate) ? candidate : undefined;
  }

  /** A region that overlaps [start, start + size), or undefined. */
  findOverlap(start: number, size: number): UserspaceMemRegion | undefined {
    const candidate = this.#sorted[this.#upperBound(start + size - 1) - 1];
    return candidate !== undefined && regionEnd(candidate) > start ? candidate : undefined;
  }

  add(region: UserspaceMemRegion): void {
    TEST_ASSERT(
      !this.#bySlot.has(region.slot),
      () => `A mem region with the requested slot already exists: ${region.slot}`,
    );
    const clash = this.findOverlap(region.guestPhysAddr, region.npages * PAGE_SIZE);
    TEST_ASSERT(
      clash === undefined,
      () => `overlapping userspace_mem_region already exists at ${hex(clash?.guestPhysAddr ?? 0)}`,
    );
    this.#bySlot.set(region.slot, region);
    this.#insert(region);
  }

  remove(slot: number): UserspaceMemRegion {
    const region = this.get(slot);
    this.#bySlot.delete(slot);
    this.#sorted.splice(this.#sorted.indexOf(region), 1);
    return region;
  }

  /** The slot's address has changed in the kernel: keep the order. */
  move(slot: number, to: Gpa): void {
    const region = this.get(slot);
    this.#sorted.splice(this.#upperBound(region.guestPhysAddr) - 1, 1);
    region.guestPhysAddr = to;
    this.#insert(region);
  }

  #insert(region: UserspaceMemRegion): void {
    const at = this.#upperBound(region.guestPhysAddr);
    if (at === this.#sorted.length) this.#sorted.push(region);
    else this.#sorted.splice(at, 0, region);
  }

  /** Index of the first region that starts above `addr`. */
  #upperBound(addr: number): number {
    let low = 0;
    let high = this.#sorted.length;
    while (low < high) {
      const mid = (low + high) >>> 1;
      if (this.#sorted[mid]!.guestPhysAddr <= addr) low = mid + 1;
      else high = mid;
    }
    return low;
  }
}

/** vm_phy_pages_alloc(): the first run of `count` unused pages at or above `min`; marks it used. */
export function phyPagesAlloc(region: UserspaceMemRegion, count: number, min: Gpa): Gpa {
  const used = (region.used ??= new Uint8Array(region.npages));
  let run = 0;
  const first = Math.max(0, Math.ceil((min - region.guestPhysAddr) / PAGE_SIZE));
  for (let i = first; i < region.npages; i++) {
    run = used[i] === 0 ? run + 1 : 0;
    if (run < count) continue;
    used.fill(1, i - count + 1, i + 1);
    return gpa(region.guestPhysAddr + (i - count + 1) * PAGE_SIZE);
  }
  return TEST_FAIL(
    `No guest physical page available, paddr_min: ${hex(min)} page_size: 0x1000 memslot: ${region.slot}`,
  );
}

/** Where `addr` of this region lies in the test's own memory. */
export const regionGpaToHva = (r: UserspaceMemRegion, addr: Gpa): Hva =>
  hva(r.hostMem + (addr - r.guestPhysAddr));
