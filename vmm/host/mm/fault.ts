// SPDX-License-Identifier: GPL-2.0-only
/**
 * Page faults of a host process, after mm/memory.c and mm/huge_memory.c. Plain code under mmap_lock: nothing here waits,
 * except that a page under migration asks the caller to.
 * DEVIATION: no zero page and no copy-on-write: a read fault on anonymous memory gets a page of its own.
 */
import { PAGE_SIZE_2M, pfn as toPfn } from '../../../lib/x86/addr.ts';
import { hex } from '../../../lib/x86/bits.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import { ERRNO } from '../errno.ts';
import type { MmStruct } from './mm_struct.ts';
import { GFP } from './page_alloc.ts';
import { makePte, PTE, pteIndex, ptePfn, type PteTable } from './page_table.ts';
import { type MappedFile, VM, type Vma } from './vma.ts';

/** Access that a lookup or a fault is about: FOLL_WRITE of the kernel. */
// prettier-ignore
export const FOLL = { READ: 0x0, WRITE: 0x1 } as const;

/** The page is being migrated: wait on mm.migrationWait and try again. */
export const FAULT_RETRY = 0;

/**
 * handle_mm_fault(): make the page at `address` accessible. The entry (positive), a negated errno, or FAULT_RETRY.
 * mmap_lock is held, or free while nobody else can act.
 */
export function handleMmFault(mm: MmStruct, address: number, foll: number): number {
  const { sched } = mm.services;
  const vma = mm.vmas.find(address);
  if (vma === null || !accessAllowed(vma, foll)) return -ERRNO.EFAULT;
  const pte = mm.pageTable.get(address);
  if (pte & PTE.MIGRATION) return FAULT_RETRY;
  if (pte !== 0) throw new BugError(`${mm.name}: the entry of ${hex(address)} contradicts its area`);
  spend(sched.cpu, COST.PAGE_FAULT);
  sched.counters.faults++;
  const touched = PTE.ACCESSED | (foll & FOLL.WRITE ? PTE.DIRTY : 0);
  if (vma.file !== null) return fileFault(mm, vma, vma.file, address, touched);
  return anonymousFault(mm, vma, address, touched);
}

/** The flags of an entry of `vma` that its protection decides. */
export function pteAccess(vma: Vma): number {
  if ((vma.flags & (VM.READ | VM.WRITE | VM.EXEC)) === 0) return PTE.PROTNONE;
  return vma.flags & VM.WRITE ? PTE.PRESENT | PTE.WRITE : PTE.PRESENT;
}

function accessAllowed(vma: Vma, foll: number): boolean {
  return (vma.flags & (foll & FOLL.WRITE ? VM.WRITE : VM.READ)) !== 0;
}

function anonymousFault(mm: MmStruct, vma: Vma, address: number, touched: number): number {
  const table = mm.pageTable.tableAlloc(address);
  if (vma.flags & VM.HUGEPAGE && table.used === 0) {
    const pte = hugeFault(mm, vma, address, touched, table);
    if (pte !== 0) return pte;
  }
  const frame = mm.services.pages.allocPage(mm.owners.anon, GFP.ZERO);
  if (frame < 0) return frame;
  return install(mm, table, address, makePte(frame, pteAccess(vma) | touched));
}

/** do_huge_pmd_anonymous_page(): the new entry, or 0 if this has to be done with small pages. */
function hugeFault(mm: MmStruct, vma: Vma, address: number, touched: number, table: PteTable): number {
  const start = Math.floor(address / PAGE_SIZE_2M) * PAGE_SIZE_2M;
  if (start < vma.start || start + PAGE_SIZE_2M > vma.end) return 0;
  const head = mm.services.pages.allocHugePage(mm.owners.anon, GFP.ZERO);
  if (head < 0) return 0;
  spend(mm.services.sched.cpu, COST.PTE_OP);
  mm.services.sched.counters.hugeFaults++;
  table.huge = makePte(head, pteAccess(vma) | touched | PTE.HUGE);
  return table.get(address);
}

function fileFault(mm: MmStruct, vma: Vma, file: MappedFile, address: number, touched: number): number {
  const index = vma.fileIndex(address);
  if (index >= file.nrPages) return -ERRNO.EFAULT;
  const frame = file.frame(index);
  if (frame < 0) return frame;
  const table = mm.pageTable.tableAlloc(address);
  if (file.managed) mm.services.pages.getPage(toPfn(frame));
  return install(
    mm,
    table,
    address,
    makePte(frame, pteAccess(vma) | touched | (file.managed ? 0 : PTE.SPECIAL)),
  );
}

function install(mm: MmStruct, table: PteTable, address: number, pte: number): number {
  spend(mm.services.sched.cpu, COST.PTE_OP);
  table.set(pteIndex(address), pte);
  return pte;
}

/** Whether an entry lets an access through without a fault. */
export function pteAllows(pte: number, foll: number): boolean {
  return (pte & PTE.PRESENT) !== 0 && (!(foll & FOLL.WRITE) || (pte & PTE.WRITE) !== 0);
}

/** The frame number of an entry, branded. */
export const framePfn = (pte: number): ReturnType<typeof toPfn> => toPfn(ptePfn(pte));
