// SPDX-License-Identifier: GPL-2.0-only
/**
 * How many shadow pages a VM may have: make_mmu_pages_available(), kvm_mmu_zap_oldest_mmu_pages() and
 * kvm_mmu_change_mmu_pages() of arch/x86/kvm/mmu/mmu.c, 6.12. The limit follows the VM's memory, so that no guest can
 * make L0 keep more tables than that. Leaves out KVM_SET_NR_MMU_PAGES. mmu_lock is held for writing.
 */
import { ERRNO } from '../../../lib/uapi/errno.ts';
import type { Steps } from '../../host/steps.ts';
import type { Kvm } from '../kvm_host.ts';
import { kvmMmuCommitZapPages, kvmMmuPrepareZapPage } from './shadow_zap.ts';

/** KVM_MEMSLOT_PAGES_TO_MMU_PAGES_RATIO and KVM_MIN_ALLOC_MMU_PAGES: the limit from the pages in memslots. */
const RATIO = 50;
export const MIN_ALLOC_MMU_PAGES = 64;
/** KVM_MIN_FREE_MMU_PAGES: a fault may need as many; KVM_REFILL_PAGES: so many are made free then. */
const MIN_FREE = 5;
const REFILL = 25;

const availablePages = ({ arch: { shadow } }: Kvm): number =>
  Math.max(0, shadow.nMaxMmuPages - shadow.byFrame.size);

/** kvm_mmu_zap_oldest_mmu_pages(): no roots that vCPUs use: they would only be made anew. */
function zapOldest(kvm: Kvm, count: number): void {
  const { shadow } = kvm.arch;
  const goal = shadow.byFrame.size - count;
  for (const sp of shadow.active) {
    if (shadow.byFrame.size <= goal) break;
    if (sp.rootCount !== 0) continue;
    const before = shadow.byFrame.size;
    kvmMmuPrepareZapPage(kvm, sp);
    kvm.stat.mmu_recycled += before - shadow.byFrame.size;
  }
}

/** make_mmu_pages_available(): 0, or -ENOSPC if everything is in use as a root. */
export function makeMmuPagesAvailable(kvm: Kvm): number {
  const available = availablePages(kvm);
  if (available >= MIN_FREE) return 0;
  zapOldest(kvm, REFILL - available);
  return availablePages(kvm) === 0 ? -ERRNO.ENOSPC : 0;
}

/** The VM's memory has changed: kvm_mmu_change_mmu_pages() with the limit that follows from it. Takes mmu_lock. */
export function* kvmMmuUpdateMmuPages(kvm: Kvm): Steps<void> {
  const { shadow } = kvm.arch;
  const limit = Math.max(MIN_ALLOC_MMU_PAGES, Math.floor(kvm.nrMemslotPages / RATIO));
  if (shadow.byFrame.size <= limit) {
    shadow.nMaxMmuPages = limit;
    return;
  }
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  zapOldest(kvm, shadow.byFrame.size - limit);
  shadow.nMaxMmuPages = limit;
  yield* kvmMmuCommitZapPages(kvm);
  kvm.mmuLock.writeUnlock();
}
