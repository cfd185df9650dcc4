// SPDX-License-Identifier: GPL-2.0-only
/**
 * How the kernel reaches a frame, after mm/vmalloc.c, kernel/iomem.c and include/linux/highmem.h on x86-64: managed frames
 * through the direct map, at next to no cost; unmanaged ones through memremap(), which makes a vmap area each time.
 * Freed areas are purged lazily, with one TLB shootdown of all CPUs for many of them.
 * DEVIATION: the purge runs in the caller that passes the limit, not in a work queue.
 */
import type { Pfn } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST, type CostPoint } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import { KERNEL_MAPPING, KernelMapping } from './kernel_mapping.ts';
import type { MmServices } from './services.ts';

/** 32 MiB of lazily freed area for each bit of the number of CPUs. */
const LAZY_PAGES_PER_BIT = 8192;
/** Each vmap area is followed by an unmapped page. */
const GUARD_PAGES = 1;

export class KernelMap {
  readonly #services: MmServices;
  #lazyPages = 0;
  #vmapPages = 0;

  constructor(services: MmServices) {
    this.#services = services;
  }

  /** lazy_max_pages(): fls(number of CPUs) * 32 MiB. */
  get lazyMaxPages(): number {
    return (32 - Math.clz32(this.#services.sched.cpus.length)) * LAZY_PAGES_PER_BIT;
  }

  /** Pages of freed areas whose translations may still be in TLBs. */
  get lazyPages(): number {
    return this.#lazyPages;
  }

  /** Pages now mapped by memremap(): the part of unmanaged memory that the kernel exposes. */
  get vmapPages(): number {
    return this.#vmapPages;
  }

  /** kmap(): the direct map's view of a managed frame. */
  kmap(pfn: Pfn, name: string): KernelMapping {
    this.#mustBeManaged(pfn, name);
    return this.#mapDirect(COST.KMAP, KERNEL_MAPPING.DIRECT_MAP, pfn, name);
  }

  kunmap(mapping: KernelMapping): void {
    this.#unmapDirect(mapping, KERNEL_MAPPING.DIRECT_MAP);
  }

  /** kmap_local_page(). */
  kmapLocal(pfn: Pfn, name: string): KernelMapping {
    this.#mustBeManaged(pfn, name);
    return this.#mapDirect(COST.KMAP_LOCAL, KERNEL_MAPPING.KMAP_LOCAL, pfn, name);
  }

  kunmapLocal(mapping: KernelMapping): void {
    this.#unmapDirect(mapping, KERNEL_MAPPING.KMAP_LOCAL);
  }

  /** memremap(MEMREMAP_WB): the direct map for managed frames, else a new vmap area. */
  memremap(pfn: Pfn, name: string, nrPages = 1): KernelMapping {
    const { sched, pages, machine } = this.#services;
    if (pages.pfnValid(pfn)) return this.#mapDirect(COST.KMAP, KERNEL_MAPPING.DIRECT_MAP, pfn, name, nrPages);
    spend(sched.cpu, COST.MEMREMAP);
    sched.counters.maps++;
    this.#vmapPages += nrPages;
    this.#live(1);
    return new KernelMapping(machine, KERNEL_MAPPING.VMAP, pfn, nrPages, name);
  }

  memunmap(mapping: KernelMapping): void {
    if (mapping.kind !== KERNEL_MAPPING.VMAP) {
      this.#unmapDirect(mapping, KERNEL_MAPPING.DIRECT_MAP);
      return;
    }
    const { sched } = this.#services;
    mapping.retire();
    spend(sched.cpu, COST.MEMUNMAP);
    sched.counters.unmaps++;
    this.#vmapPages -= mapping.nrPages;
    this.#live(-1);
    this.#lazyPages += mapping.nrPages + GUARD_PAGES;
    if (this.#lazyPages > this.lazyMaxPages) this.purge();
  }

  /** purge_vmap_area_lazy(): after it no CPU can reach a freed area. */
  purge(): void {
    const { sched, smp } = this.#services;
    if (this.#lazyPages === 0) return;
    this.#lazyPages = 0;
    sched.counters.purges++;
    spend(sched.cpu, COST.VMAP_PURGE);
    smp.tlbShootdown(smp.onlineMask);
  }

  #mapDirect(cost: CostPoint, kind: number, pfn: Pfn, name: string, nrPages = 1): KernelMapping {
    const { sched, machine } = this.#services;
    spend(sched.cpu, cost);
    sched.counters.kmaps++;
    this.#live(1);
    return new KernelMapping(machine, kind, pfn, nrPages, name);
  }

  #unmapDirect(mapping: KernelMapping, kind: number): void {
    if (mapping.kind !== kind)
      throw new BugError(`mapping for ${mapping.name} is undone by the wrong function`);
    mapping.retire();
    this.#services.sched.counters.kunmaps++;
    this.#live(-1);
  }

  #live(change: number): void {
    const { counters } = this.#services.sched;
    counters.liveMappings += change;
    counters.peakMappings = Math.max(counters.peakMappings, counters.liveMappings);
  }

  #mustBeManaged(pfn: Pfn, name: string): void {
    if (this.#services.pages.pfnValid(pfn)) return;
    throw new BugError(
      `kmap for ${name}: ${this.#services.machine.frames.story(pfn)}, and has no struct page`,
    );
  }
}
