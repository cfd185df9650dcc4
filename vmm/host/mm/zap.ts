// SPDX-License-Identifier: GPL-2.0-only
/**
 * Taking mappings away, after mm/memory.c and mm/mmu_gather.c: entries are cleared first, then TLBs are flushed, then the
 * pages are freed, in batches.
 */
import { PAGE_SHIFT, PAGE_SIZE, PAGE_SIZE_2M, pfn as toPfn } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { MmStruct } from './mm_struct.ts';
import { PTE, pteIndex, ptePfn, type PteTable, PTRS_PER_TABLE } from './page_table.ts';

/** Pages gathered before they are freed, as the kernel's batches (20 of about 500). */
const GATHER_PAGES = 10_000;

/** struct mmu_gather: pages whose mappings are gone and that wait for the TLB flush. */
export class MmuGather {
  readonly #mm: MmStruct;
  readonly #by: number;
  readonly #pages: number[] = [];
  #cleared = 0;

  /** `by`: the name under which the pages are freed. */
  constructor(mm: MmStruct, by: number) {
    this.#mm = mm;
    this.#by = by;
  }

  /** One entry was cleared; `pfn` loses the reference of the mapping, or is -1 if it had none. */
  add(pfn: number): void {
    this.#cleared++;
    if (pfn < 0) return;
    this.#pages.push(pfn);
    if (this.#pages.length >= GATHER_PAGES) this.finish();
  }

  /** tlb_finish_mmu(): flush, then free. */
  finish(): void {
    const { smp, pages } = this.#mm.services;
    if (this.#cleared === 0) return;
    this.#cleared = 0;
    smp.tlbShootdown(this.#mm.cpumask());
    for (const pfn of this.#pages) pages.putRefs(toPfn(pfn), 1, this.#by);
    this.#pages.length = 0;
  }
}

/** unmap_page_range(): clear the entries of [start, end). A 2 MiB page that is only partly inside is split first. */
export function zapPageRange(mm: MmStruct, start: number, end: number, gather: MmuGather): void {
  for (let at = start; at < end;) {
    const chunkEnd = Math.min(end, (Math.floor(at / PAGE_SIZE_2M) + 1) * PAGE_SIZE_2M);
    const table = mm.pageTable.table(at);
    if (table !== undefined) zapTable(mm, table, at, chunkEnd, gather);
    at = chunkEnd;
  }
}

function zapTable(mm: MmStruct, table: PteTable, start: number, end: number, gather: MmuGather): void {
  const { cpu } = mm.services.sched;
  if (table.huge !== 0) {
    if (end - start === PAGE_SIZE_2M) {
      gather.add(ptePfn(table.huge));
      spend(cpu, COST.PTE_OP);
      table.huge = 0;
      mm.pageTable.free(start);
      return;
    }
    splitHugePmd(mm, start);
  }
  const first = pteIndex(start);
  const last = first + ((end - start) >>> PAGE_SHIFT);
  let cleared = 0;
  for (let i = first; i < last; i++) {
    const pte = table.entries[i]!;
    if (pte === 0) continue;
    table.entries[i] = 0;
    cleared++;
    gather.add(pte & (PTE.SPECIAL | PTE.MIGRATION) ? -1 : ptePfn(pte));
  }
  table.used -= cleared;
  if (cleared !== 0) spend(cpu, COST.PTE_OP, cleared);
  if (table.used === 0) mm.pageTable.free(start);
}

/** __split_huge_pmd(): map the 2 MiB page at `address` by 512 entries. */
export function splitHugePmd(mm: MmStruct, address: number): void {
  const table = mm.pageTable.table(address);
  if (table === undefined || table.huge === 0) return;
  mm.services.pages.splitHugePage(toPfn(ptePfn(table.huge)));
  table.splitHuge();
  spend(mm.services.sched.cpu, COST.PTE_OP, PTRS_PER_TABLE);
}

/** Whether anything is mapped in [start, end). */
export function anyMapped(mm: MmStruct, start: number, end: number): boolean {
  const first = Math.floor(start / PAGE_SIZE_2M) * PAGE_SIZE_2M;
  for (let at = first; at < end; at += PAGE_SIZE_2M) if (mm.pageTable.table(at) !== undefined) return true;
  return false;
}

/** Round up to a page. */
export const pageAlign = (n: number): number => Math.ceil(n / PAGE_SIZE) * PAGE_SIZE;
