// SPDX-License-Identifier: GPL-2.0-only
/**
 * mprotect(), after mm/mprotect.c: areas are split, entries take the new protection at once, notifiers are told if
 * anything was mapped.
 */
import { PAGE_SIZE, PAGE_SIZE_2M } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { ERRNO } from '../errno.ts';
import type { Steps } from '../steps.ts';
import { pteAccess } from './fault.ts';
import { changeNotified, notifierRange } from './invalidate.ts';
import { type MmStruct, TASK_SIZE } from './mm_struct.ts';
import { MMU_NOTIFY } from './mmu_notifier.ts';
import { PTE, pteIndex } from './page_table.ts';
import { VM_ACCESS_FLAGS, type Vma } from './vma.ts';
import { pageAlign, splitHugePmd } from './zap.ts';

/** mprotect(): 0, -EINVAL for a bad range, -ENOMEM where nothing is mapped (areas before the hole have changed). */
export function* doMprotect(mm: MmStruct, start: number, length: number, prot: number): Steps<number> {
  const end = start + pageAlign(length);
  if (start % PAGE_SIZE !== 0 || length < 0 || end > TASK_SIZE) return -ERRNO.EINVAL;
  if (!mm.mmapLock.writeFastLock()) yield* mm.mmapLock.writeLock();
  mm.vmas.splitAt(start);
  mm.vmas.splitAt(end);
  let at = start;
  for (const vma of mm.vmas.overlapping(start, end)) {
    if (vma.start !== at) break;
    yield* protectArea(mm, vma, prot);
    at = vma.end;
  }
  mm.mmapLock.writeUnlock();
  return at < end ? -ERRNO.ENOMEM : 0;
}

function* protectArea(mm: MmStruct, vma: Vma, prot: number): Steps<void> {
  spend(mm.services.sched.cpu, COST.VMA_OP);
  const flags = (vma.flags & ~VM_ACCESS_FLAGS) | prot;
  if (flags === vma.flags) return;
  vma.flags = flags;
  const range = notifierRange(vma.start, vma.end, MMU_NOTIFY.PROTECTION_VMA);
  yield* changeNotified(mm, range, () => changeProtection(mm, vma));
}

/** change_protection(): every entry of the area gets the area's access bits. */
function changeProtection(mm: MmStruct, vma: Vma): void {
  const access = pteAccess(vma);
  const apply = (pte: number): number => (pte & ~(PTE.PRESENT | PTE.WRITE | PTE.PROTNONE)) | access;
  let changed = 0;
  for (let at = vma.start; at < vma.end;) {
    const chunkEnd = Math.min(vma.end, (Math.floor(at / PAGE_SIZE_2M) + 1) * PAGE_SIZE_2M);
    const table = mm.pageTable.table(at);
    if (table !== undefined) {
      if (table.huge !== 0 && chunkEnd - at < PAGE_SIZE_2M) splitHugePmd(mm, at);
      if (table.huge !== 0) {
        table.huge = apply(table.huge);
        changed++;
      } else {
        const first = pteIndex(at);
        const last = first + (chunkEnd - at) / PAGE_SIZE;
        for (let i = first; i < last; i++) {
          const pte = table.entries[i]!;
          if (pte === 0 || pte & PTE.MIGRATION) continue;
          table.entries[i] = apply(pte);
          changed++;
        }
      }
    }
    at = chunkEnd;
  }
  spend(mm.services.sched.cpu, COST.PTE_OP, changed);
}
