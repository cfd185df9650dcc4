// SPDX-License-Identifier: GPL-2.0-only
/**
 * Changes of shadow pages that plain code asks for: kvm_mmu_track_write(), kvm_mmu_invalidate_addr() and
 * kvm_mmu_unprotect_gfn_and_retry() of arch/x86/kvm/mmu/mmu.c, 6.12.
 * DEVIATION: the kernel takes mmu_lock where it writes; here the work is queued, and done under mmu_lock before any vCPU
 * enters the guest again (kvm_mmu_reload()).
 */
import { offsetInPage, PAGE_SIZE, type Gpa } from '../../../lib/x86/addr.ts';
import type { Steps } from '../../host/steps.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import type { KvmMmu, KvmMmuRootPage } from '../kvm_host_x86.ts';
import { KvmMmuPage } from './mmu_page.ts';
import { kvmSyncSpte } from './shadow_sync.ts';
import { kvmMmuCommitZapPages, kvmMmuPrepareZapPage, mmuPageZapPte } from './shadow_zap.ts';
import { isLastSpte, isShadowPresentPte, spteHpa, spteIndex } from './spte.ts';
import { gfnValidSpsWithGptes } from './unsync.ts';

/** Is there something to be done before the guest may be entered? */
export const hasShadowWork = (kvm: Kvm): boolean => {
  const { work, zapped, flush } = kvm.arch.shadow;
  return flush || work.length !== 0 || zapped.length !== 0;
};

/** Do what was queued, and flush. */
export function* doShadowWork(kvm: Kvm): Steps<void> {
  const { shadow } = kvm.arch;
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  const { work } = shadow;
  shadow.work = [];
  for (const item of work) {
    const steps = item();
    if (steps !== undefined) yield* steps;
  }
  yield* kvmMmuCommitZapPages(kvm);
  kvm.mmuLock.writeUnlock();
}

/** kvm_mmu_track_write(): L0 wrote guest memory on behalf of the guest. Call it after the write, page by page. */
export function kvmMmuTrackWrite(kvm: Kvm, gpa: Gpa, bytes: number): void {
  const { shadow } = kvm.arch;
  if (shadow.indirectShadowPages === 0) return;
  const gfn = Math.floor(gpa / PAGE_SIZE);
  if (gfnValidSpsWithGptes(kvm, gfn).length === 0) return;
  shadow.work.push(() => trackWrite(kvm, gfn, offsetInPage(gpa), bytes));
}

function trackWrite(kvm: Kvm, gfn: number, offset: number, bytes: number): void {
  kvm.stat.mmu_pte_write++;
  for (const sp of gfnValidSpsWithGptes(kvm, gfn)) {
    // It went with another page of the list.
    if (sp.role.invalid) continue;
    if (isWriteMisaligned(offset, bytes) || isWriteFlooding(sp)) {
      kvmMmuPrepareZapPage(kvm, sp);
      kvm.stat.mmu_flooded++;
    } else zapWritten(kvm, sp, offset);
  }
}

/** The entry that the write changed. */
function zapWritten(kvm: Kvm, sp: KvmMmuPage, offset: number): void {
  const { i32 } = kvm.host.machine.mem;
  const sptep = sp.sptep(offset >>> 3);
  const present = isShadowPresentPte(i32[sptep]!);
  mmuPageZapPte(kvm, sp, sptep, 'one');
  if (!present) return;
  if (sp.role.level > 1) kvm.stat.mmu_pde_zapped++;
  kvm.arch.shadow.flush = true;
}

/** detect_write_misaligned(): more than one entry, or a part too small to be meant as one. */
function isWriteMisaligned(offset: number, bytes: number): boolean {
  // clear_bit() writes the byte with the flag only.
  if ((offset & 7) === 0 && bytes === 1) return false;
  return ((offset ^ (offset + bytes - 1)) & ~7) !== 0 || bytes < 4;
}

/** detect_write_flooding(): the page is written again and again without being used: it is no table any more. */
function isWriteFlooding(sp: KvmMmuPage): boolean {
  // Unsync pages are written freely; their gfn is only protected while others need it.
  if (sp.role.level === 1) return false;
  sp.writeFloodingCount++;
  return sp.writeFloodingCount >= 3;
}

/** kvm_mmu_unprotect_gfn_and_retry(), the first half: whatever shadows the table at the gfn goes. False: nothing does. */
export function kvmMmuUnprotectGfn(kvm: Kvm, gfn: number): boolean {
  if (gfnValidSpsWithGptes(kvm, gfn).length === 0) return false;
  kvm.arch.shadow.work.push(() => {
    for (const sp of gfnValidSpsWithGptes(kvm, gfn)) if (!sp.role.invalid) kvmMmuPrepareZapPage(kvm, sp);
  });
  return true;
}

/** kvm_mmu_invalidate_addr() of guest_mmu: what `root` translates for an address of L2 is read from EPT12 again. */
export function kvmMmuInvalidateNestedAddr(
  vcpu: Vcpu,
  mmu: KvmMmu,
  address: number,
  root: KvmMmuRootPage,
): void {
  if (!(root instanceof KvmMmuPage) || root.unsyncChildren.size === 0) return;
  vcpu.kvm.arch.shadow.work.push(() => invalidateAddr(vcpu, mmu, root, address));
}

/** __kvm_mmu_invalidate_addr(): down to the first page below which everything is in sync. */
function invalidateAddr(vcpu: Vcpu, mmu: KvmMmu, root: KvmMmuPage, address: number): void {
  const { kvm } = vcpu;
  const { i32 } = kvm.host.machine.mem;
  const gfn = Math.floor(address / PAGE_SIZE);
  let sp = root;
  while (!sp.role.invalid) {
    const index = spteIndex(gfn, sp.role.level);
    if (sp.unsync) {
      const r = kvmSyncSpte(vcpu, mmu, sp, index);
      if (r < 0) mmuPageZapPte(kvm, sp, sp.sptep(index), 'one');
      if (r !== 0) kvm.arch.shadow.flush = true;
    }
    const lo = i32[sp.sptep(index)]!;
    if (sp.unsyncChildren.size === 0 || !isShadowPresentPte(lo) || isLastSpte(lo, sp.role.level)) return;
    sp = kvm.arch.shadow.pageAt(spteHpa(lo));
  }
}
