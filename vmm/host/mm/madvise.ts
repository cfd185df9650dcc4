// SPDX-License-Identifier: GPL-2.0-only
/**
 * madvise(), after mm/madvise.c, and the two other ways to lose pages without unmapping: punching a hole into a file, and
 * the OOM reaper (mm/oom_kill.c), whose notifiers must not wait.
 */
import { PAGE_SIZE } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { ERRNO } from '../errno.ts';
import type { Steps } from '../steps.ts';
import type { BackingFile } from './backing_file.ts';
import { zapNotified } from './invalidate.ts';
import { type MmStruct, TASK_SIZE } from './mm_struct.ts';
import { MMU_NOTIFY } from './mmu_notifier.ts';
import { VM } from './vma.ts';
import { pageAlign } from './zap.ts';

/** MADV_*, with the kernel's values. */
// prettier-ignore
export const MADV = { NORMAL: 0, DONTNEED: 4, HUGEPAGE: 14, NOHUGEPAGE: 15 } as const;

/** madvise(): 0, -EINVAL, or -ENOMEM if part of the range is not mapped (the rest was done). */
export function* doMadvise(mm: MmStruct, start: number, length: number, advice: number): Steps<number> {
  const end = start + pageAlign(length);
  if (start % PAGE_SIZE !== 0 || length < 0 || end > TASK_SIZE) return -ERRNO.EINVAL;
  if (length === 0) return 0;
  switch (advice) {
    case MADV.DONTNEED:
      return yield* dontneed(mm, start, end);
    case MADV.HUGEPAGE:
      return yield* setFlags(mm, start, end, VM.HUGEPAGE, VM.NOHUGEPAGE);
    case MADV.NOHUGEPAGE:
      return yield* setFlags(mm, start, end, VM.NOHUGEPAGE, VM.HUGEPAGE);
    case MADV.NORMAL:
      return 0;
    default:
      return -ERRNO.EINVAL;
  }
}

/** madvise_dontneed_single_vma() for each area: under mmap_lock for reading, so faults go on meanwhile. */
function* dontneed(mm: MmStruct, start: number, end: number): Steps<number> {
  if (!mm.mmapLock.readFastLock()) yield* mm.mmapLock.readLock();
  let at = start;
  let result = 0;
  for (const vma of mm.vmas.overlapping(start, end)) {
    if (vma.start > at) result = -ERRNO.ENOMEM;
    if (vma.flags & VM.PFNMAP) {
      result = -ERRNO.EINVAL;
      break;
    }
    spend(mm.services.sched.cpu, COST.VMA_OP);
    at = Math.min(vma.end, end);
    const from = Math.max(vma.start, start);
    yield* zapNotified(mm, { start: from, end: at, cause: MMU_NOTIFY.CLEAR, by: mm.owners.madvise });
  }
  mm.mmapLock.readUnlock();
  return result === 0 && at < end ? -ERRNO.ENOMEM : result;
}

function* setFlags(mm: MmStruct, start: number, end: number, set: number, clear: number): Steps<number> {
  if (!mm.mmapLock.writeFastLock()) yield* mm.mmapLock.writeLock();
  mm.vmas.splitAt(start);
  mm.vmas.splitAt(end);
  for (const vma of mm.vmas.overlapping(start, end)) {
    spend(mm.services.sched.cpu, COST.VMA_OP);
    vma.flags = (vma.flags & ~clear) | set;
  }
  mm.mmapLock.writeUnlock();
  return 0;
}

/**
 * fallocate(FALLOC_FL_PUNCH_HOLE): the file's frames go, and with them every mapping of them. Works for unmanaged memory
 * too, where it is the only way to lose a frame without unmapping.
 */
export function* punchHole(file: BackingFile, offset: number, length: number): Steps<number> {
  if (offset % PAGE_SIZE !== 0 || length % PAGE_SIZE !== 0 || length <= 0) return -ERRNO.EINVAL;
  const first = offset / PAGE_SIZE;
  const last = Math.min(first + length / PAGE_SIZE, file.nrPages);
  for (const mm of file.mappers) {
    if (!mm.mmapLock.readFastLock()) yield* mm.mmapLock.readLock();
    for (const vma of mm.vmas.all()) {
      if (vma.file !== file) continue;
      const start = Math.max(vma.start, vma.start + (first - vma.pgoff) * PAGE_SIZE);
      const end = Math.min(vma.end, vma.start + (last - vma.pgoff) * PAGE_SIZE);
      if (start < end) yield* zapNotified(mm, { start, end, cause: MMU_NOTIFY.CLEAR, by: mm.owners.madvise });
    }
    mm.mmapLock.readUnlock();
  }
  for (let index = first; index < last; index++) file.drop(index, file.hole);
  return 0;
}

/** __oom_reap_task_mm(): free anonymous memory without waiting for anybody. False if a notifier would have had to wait. */
export function* oomReapTaskMm(mm: MmStruct): Steps<boolean> {
  if (!mm.mmapLock.readable || !mm.mmapLock.readFastLock()) return false;
  let all = true;
  for (const { start, end, file } of mm.vmas.all()) {
    if (file !== null) continue;
    const request = { start, end, cause: MMU_NOTIFY.CLEAR, by: mm.owners.reap, blockable: false };
    if ((yield* zapNotified(mm, request)) !== 0) all = false;
  }
  mm.mmapLock.readUnlock();
  return all;
}
