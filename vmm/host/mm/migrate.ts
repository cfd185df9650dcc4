// SPDX-License-Identifier: GPL-2.0-only
/**
 * Page migration after mm/migrate.c: the mapping is replaced by a migration entry under the notifiers' bracket, the
 * content is copied, the new frame takes the old one's place. A page with references beyond its mappings (pinned, or
 * held by somebody who looked it up) stays where it is. 4 KiB pages and unmanaged frames; a 2 MiB page is split first.
 * DEVIATION: a page that several mappings share is not migrated: there is no reverse map.
 */
import { PAGE_SIZE, pfn as toPfn, type Pfn } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { ERRNO } from '../errno.ts';
import type { Steps } from '../steps.ts';
import { framePfn } from './fault.ts';
import { changeNotified, notifierRange } from './invalidate.ts';
import type { MmStruct } from './mm_struct.ts';
import { MMU_NOTIFY } from './mmu_notifier.ts';
import { makePte, PTE, pteIndex } from './page_table.ts';
import type { Vma } from './vma.ts';
import { splitHugePmd } from './zap.ts';

/** One page on its way: where it is mapped, and its frames. */
interface Move {
  readonly mm: MmStruct;
  readonly vma: Vma;
  readonly address: number;
  readonly old: Pfn;
  readonly flags: number;
}

/**
 * Move the page at `hva` to another frame. 0; -ENOENT if nothing is mapped; -EAGAIN if the page is held or on its way
 * already; -EBUSY if it is unmanaged and other address spaces may map it too; -ENOMEM.
 */
export function* migratePage(mm: MmStruct, hva: number): Steps<number> {
  const address = hva - (hva % PAGE_SIZE);
  if (!mm.mmapLock.readFastLock()) yield* mm.mmapLock.readLock();
  const result = yield* migrateLocked(mm, address);
  mm.mmapLock.readUnlock();
  if (result === 0) mm.services.sched.counters.migrations++;
  else mm.services.sched.counters.migrationsRefused++;
  return result;
}

function* migrateLocked(mm: MmStruct, address: number): Steps<number> {
  const vma = mm.vmas.find(address);
  splitHugePmd(mm, address);
  const pte = mm.pageTable.get(address);
  if (vma === null || pte === 0) return -ERRNO.ENOENT;
  if (pte & PTE.MIGRATION) return -ERRNO.EAGAIN;
  const move: Move = { mm, vma, address, old: framePfn(pte), flags: pte & 0xff };
  return yield* pte & PTE.SPECIAL ? moveUnmanaged(move) : moveManaged(move);
}

function* moveManaged(move: Move): Steps<number> {
  const { pages } = move.mm.services;
  if (pages.isCompound(move.old)) return -ERRNO.EAGAIN;
  const fresh = pages.allocPage(move.mm.owners.migrate);
  if (fresh < 0) return fresh;
  pages.getPage(move.old);
  if (!(yield* unmapForMigration(move))) {
    pages.putPage(toPfn(fresh), move.mm.owners.migrate);
    pages.putPage(move.old, move.mm.owners.migrate);
    return -ERRNO.EAGAIN;
  }
  if (move.mm.services.sched.shouldYield()) yield;
  // One reference is ours, one the mapping's, and a file holds one more.
  const refusal = pages.pageCount(move.old) === (move.vma.file === null ? 2 : 3) ? 0 : -ERRNO.EAGAIN;
  if (refusal === 0) pages.copyPage(toPfn(fresh), move.old);
  const mapped = putBack(move, refusal === 0 ? toPfn(fresh) : move.old);
  if (refusal !== 0) {
    pages.putPage(toPfn(fresh), move.mm.owners.migrate);
    pages.putRefs(move.old, mapped ? 1 : 2, move.mm.owners.migrate);
    return refusal;
  }
  const { file } = move.vma;
  if (file !== null) {
    file.replace(move.vma.fileIndex(move.address), fresh);
    if (mapped) pages.getPage(toPfn(fresh));
  } else if (!mapped) pages.putPage(toPfn(fresh), move.mm.owners.migrate);
  pages.putRefs(move.old, file === null ? 2 : 3, move.mm.owners.migrate);
  return 0;
}

function* moveUnmanaged(move: Move): Steps<number> {
  const { unmanaged, sched } = move.mm.services;
  if (move.vma.file === null || move.vma.file.nrMappers > 1) return -ERRNO.EBUSY;
  const fresh = unmanaged.alloc(move.mm.owners.migrate);
  if (fresh < 0) return fresh;
  if (!(yield* unmapForMigration(move))) {
    unmanaged.free(toPfn(fresh), move.mm.owners.migrate);
    return -ERRNO.EAGAIN;
  }
  if (sched.shouldYield()) yield;
  unmanaged.copyPage(toPfn(fresh), move.old);
  putBack(move, toPfn(fresh));
  move.vma.file.replace(move.vma.fileIndex(move.address), fresh);
  unmanaged.free(move.old, move.mm.owners.migrate);
  return 0;
}

/**
 * try_to_migrate(): nobody reaches the page through the page tables from now on. False if another holder of mmap_lock has
 * taken the page away, or moves it, since it was looked up.
 */
function* unmapForMigration({ mm, address, old, flags }: Move): Steps<boolean> {
  const entry = makePte(old, (flags & ~(PTE.PRESENT | PTE.WRITE | PTE.PROTNONE)) | PTE.MIGRATION);
  const range = notifierRange(address, address + PAGE_SIZE, MMU_NOTIFY.MIGRATE);
  let unmapped = false;
  yield* changeNotified(mm, range, () => {
    const pte = mm.pageTable.get(address);
    unmapped = pte !== 0 && (pte & PTE.MIGRATION) === 0 && framePfn(pte) === old;
    if (!unmapped) return;
    spend(mm.services.sched.cpu, COST.PTE_OP);
    mm.pageTable.table(address)!.set(pteIndex(address), entry);
  });
  return unmapped;
}

/** remove_migration_ptes(): map `frame` where the page was; false if the mapping went away meanwhile. */
function putBack({ mm, address, old, flags }: Move, frame: Pfn): boolean {
  const table = mm.pageTable.table(address);
  const entry = table?.get(address) ?? 0;
  const still = (entry & PTE.MIGRATION) !== 0 && framePfn(entry) === old;
  if (still) {
    spend(mm.services.sched.cpu, COST.PTE_OP);
    table!.set(pteIndex(address), makePte(frame, flags));
  }
  mm.migrationWait.wakeAll();
  return still;
}
