// SPDX-License-Identifier: GPL-2.0-only
/**
 * mmap(), munmap() and the end of an address space, after mm/mmap.c. Addresses are found bottom-up and not used again
 * unless MAP_FIXED asks for it. Leaves out private file mappings, limits and mlock.
 */
import { PAGE_SIZE, PAGE_SIZE_2M } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { ERRNO } from '../errno.ts';
import type { Steps } from '../steps.ts';
import type { BackingFile } from './backing_file.ts';
import { zapNotified } from './invalidate.ts';
import { type MmStruct, TASK_SIZE } from './mm_struct.ts';
import { MMU_NOTIFY } from './mmu_notifier.ts';
import { PROT, VM, Vma } from './vma.ts';
import { pageAlign } from './zap.ts';

export interface MmapRequest {
  readonly length: number;
  /** PROT.*; default read and write. */
  readonly prot?: number;
  /** Shared mapping of a memfd or of unmanaged memory; anonymous without it. */
  readonly file?: BackingFile;
  /** Byte offset in the file. */
  readonly offset?: number;
  /** MAP_FIXED: exactly here, in place of what is there. */
  readonly fixed?: number;
  /** Alignment of an address that mmap() chooses. Default: a page; 2 MiB for lengths that allow huge pages. */
  readonly align?: number;
}

/** mmap(): the address, or a negated errno. */
export function* doMmap(mm: MmStruct, request: MmapRequest): Steps<number> {
  const length = pageAlign(request.length);
  const refusal = refuse(request, length);
  if (refusal !== 0) return refusal;
  if (!mm.mmapLock.writeFastLock()) yield* mm.mmapLock.writeLock();
  const start = request.fixed ?? findArea(mm, length, request.align);
  if (request.fixed !== undefined) yield* unmapRegion(mm, start, start + length);
  if (start + length <= TASK_SIZE) insertArea(mm, start, length, request);
  mm.mmapLock.writeUnlock();
  return start + length <= TASK_SIZE ? start : -ERRNO.ENOMEM;
}

/** munmap(): 0, or a negated errno. */
export function* doMunmap(mm: MmStruct, start: number, length: number): Steps<number> {
  const end = start + pageAlign(length);
  if (start % PAGE_SIZE !== 0 || length <= 0 || end > TASK_SIZE) return -ERRNO.EINVAL;
  if (!mm.mmapLock.writeFastLock()) yield* mm.mmapLock.writeLock();
  yield* unmapRegion(mm, start, end);
  mm.mmapLock.writeUnlock();
  return 0;
}

/** exit_mmap(): the process is gone; its secondary translations first. */
export function* exitMmap(mm: MmStruct): Steps<void> {
  yield* mm.notifiers.release();
  if (!mm.mmapLock.writeFastLock()) yield* mm.mmapLock.writeLock();
  for (const vma of [...mm.vmas.all()]) yield* unmapRegion(mm, vma.start, vma.end);
  mm.mmapLock.writeUnlock();
}

function refuse(request: MmapRequest, length: number): number {
  const { fixed, offset = 0, file } = request;
  if (length <= 0 || offset % PAGE_SIZE !== 0) return -ERRNO.EINVAL;
  if (fixed !== undefined && (fixed % PAGE_SIZE !== 0 || fixed < 0 || fixed + length > TASK_SIZE))
    return -ERRNO.EINVAL;
  return file === undefined && offset !== 0 ? -ERRNO.EINVAL : 0;
}

function findArea(mm: MmStruct, length: number, align?: number): number {
  const unit = align ?? (length >= PAGE_SIZE_2M ? PAGE_SIZE_2M : PAGE_SIZE);
  const start = Math.ceil(mm.mmapBase / unit) * unit;
  mm.mmapBase = start + length;
  return start;
}

function insertArea(mm: MmStruct, start: number, length: number, request: MmapRequest): void {
  spend(mm.services.sched.cpu, COST.VMA_OP);
  const { prot = PROT.READ | PROT.WRITE, file } = request;
  const shared = file === undefined ? 0 : file.managed ? VM.SHARED : VM.SHARED | VM.PFNMAP;
  const pgoff = (request.offset ?? 0) / PAGE_SIZE;
  mm.vmas.insert(new Vma(start, start + length, prot | shared, file ?? null, pgoff));
  file?.mappers.add(mm);
  if (start + length > mm.mmapBase) mm.mmapBase = start + length;
}

/** do_vmi_align_munmap(): mmap_lock is held for writing. */
function* unmapRegion(mm: MmStruct, start: number, end: number): Steps<void> {
  mm.vmas.splitAt(start);
  mm.vmas.splitAt(end);
  const areas = mm.vmas.overlapping(start, end);
  for (const vma of areas) {
    spend(mm.services.sched.cpu, COST.VMA_OP);
    mm.vmas.remove(vma);
  }
  for (const vma of areas) {
    yield* zapNotified(mm, { start: vma.start, end: vma.end, cause: MMU_NOTIFY.UNMAP, by: mm.owners.munmap });
  }
}
