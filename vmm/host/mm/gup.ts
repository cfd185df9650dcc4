// SPDX-License-Identifier: GPL-2.0-only
/**
 * get_user_pages and friends, after mm/gup.c, as KVM's hva_to_pfn() uses them: first a lockless look at the page tables,
 * then faulting under mmap_lock. Frames of VM_PFNMAP areas, which the kernel finds with follow_pfnmap_start(), come back
 * without a reference. mm.gup holds what else was found out.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { ERRNO } from '../errno.ts';
import type { Steps } from '../steps.ts';
import { FAULT_RETRY, FOLL, framePfn, handleMmFault, pteAllows } from './fault.ts';
import { HUGE_ORDER } from './frame_pool.ts';
import type { MmStruct } from './mm_struct.ts';
import { PTE, pteIndex, type PteTable } from './page_table.ts';

/** get_user_page_fast_only(): the frame, with a reference, if it is mapped and allows the access; else -EAGAIN. */
export function getUserPageFastOnly(mm: MmStruct, hva: number, foll: number): number {
  const { sched } = mm.services;
  spend(sched.cpu, COST.GUP_FAST);
  const pte = mm.pageTable.get(hva);
  if (!pteAllows(pte, foll) || pte & PTE.SPECIAL) return -ERRNO.EAGAIN;
  sched.counters.gupFast++;
  return reference(mm, pte, hva, foll);
}

/** Like getUserPage() without waiting: -EAGAIN if mmap_lock or a migration would have to be waited for. */
export function getUserPageNowait(mm: MmStruct, hva: number, foll: number): number {
  const fast = getUserPageFastOnly(mm, hva, foll);
  if (fast >= 0 || !mm.mmapLock.readable) return fast;
  return getUserPageLocked(mm, hva, foll);
}

/** The frame at `hva`, with a reference (see mm.gup.refcounted), faulted in if need be; or -EFAULT, -ENOMEM. */
export function* getUserPage(mm: MmStruct, hva: number, foll: number): Steps<number> {
  const fast = getUserPageFastOnly(mm, hva, foll);
  if (fast >= 0) return fast;
  for (;;) {
    if (!mm.mmapLock.readFastLock()) yield* mm.mmapLock.readLock();
    const found = getUserPageLocked(mm, hva, foll);
    mm.mmapLock.readUnlock();
    if (found !== -ERRNO.EAGAIN) return found;
    yield* migrationEntryWait(mm, hva);
  }
}

/** migration_entry_wait(): sleep until the page at `hva` is not under migration. */
export function* migrationEntryWait(mm: MmStruct, hva: number): Steps<void> {
  yield* mm.migrationWait.wait(() => (mm.pageTable.get(hva) & PTE.MIGRATION) === 0);
}

function getUserPageLocked(mm: MmStruct, hva: number, foll: number): number {
  const { sched } = mm.services;
  spend(sched.cpu, COST.GUP_SLOW);
  sched.counters.gupSlow++;
  let pte = mm.pageTable.get(hva);
  if (!pteAllows(pte, foll)) {
    pte = handleMmFault(mm, hva, foll);
    if (pte === FAULT_RETRY) return -ERRNO.EAGAIN;
    if (pte < 0) return pte;
  }
  return reference(mm, pte, hva, foll);
}

function reference(mm: MmStruct, pte: number, hva: number, foll: number): number {
  const pfn = framePfn(pte);
  const { gup } = mm;
  gup.writable = (pte & PTE.WRITE) !== 0;
  gup.refcounted = (pte & PTE.SPECIAL) === 0;
  gup.order = pte & PTE.HUGE ? HUGE_ORDER : 0;
  if (gup.refcounted) mm.services.pages.getPage(pfn);
  touch(mm.pageTable.tableAlloc(hva), hva, foll & FOLL.WRITE ? PTE.ACCESSED | PTE.DIRTY : PTE.ACCESSED);
  return pfn;
}

/** Set accessed and dirty bits of the entry of `hva`. */
export function touch(table: PteTable, hva: number, bits: number): void {
  if (table.huge !== 0) table.huge |= bits;
  else {
    const index = pteIndex(hva);
    table.entries[index] = table.entries[index]! | bits;
  }
}

/** host_pfn_mapping_level(): log2 of the frames that the host maps together at `hva`; -1 if nothing is mapped. */
export function hostMappingOrder(mm: MmStruct, hva: number): number {
  const pte = mm.pageTable.get(hva);
  if ((pte & PTE.PRESENT) === 0) return -1;
  return pte & PTE.HUGE ? HUGE_ORDER : 0;
}
