// SPDX-License-Identifier: GPL-2.0-only
/**
 * Taking shadow pages away: kvm_mmu_prepare_zap_page(), kvm_mmu_commit_zap_page() and kvm_zap_obsolete_pages() of
 * arch/x86/kvm/mmu/mmu.c, 6.12. Preparing unlinks and is plain code; committing flushes, then frees. mmu_lock is held for
 * writing.
 */
import { PAGE_SIZE, pfn as toPfn } from '../../../lib/x86/addr.ts';
import type { Steps } from '../../host/steps.ts';
import { BugError } from '../../machine/errors.ts';
import type { Kvm } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmFlushRemoteTlbs, kvmMakeAllCpusRequestNowait } from '../requests.ts';
import { TP } from '../trace_events.ts';
import type { KvmMmuPage } from './mmu_page.ts';
import { unaccountShadowed } from './page_track.ts';
import { dropSpte } from './rmap.ts';
import { ROLE } from './role.ts';
import { isLastSpte, isShadowPresentPte, SPTE_ENT_PER_PAGE, spteHpa } from './spte.ts';
import { isObsoleteSp, kvmUnlinkUnsyncPage, mmuUnsyncWalk } from './unsync.ts';

/** drop_parent_pte(): the entry at `sptep` points at the page no more. */
export function dropParentPte(kvm: Kvm, sp: KvmMmuPage, sptep: number): void {
  const { i32 } = kvm.host.machine.mem;
  const at = sp.parentPtes.indexOf(sptep);
  if (at < 0) throw new BugError(`${kvm.name}: an entry is missing among a page's parents`);
  sp.parentPtes.splice(at, 1);
  i32[sptep] = 0;
  i32[sptep + 1] = 0;
}

/**
 * mmu_page_zap_pte(): clear an entry. With `recursive`, a table of L2's that nothing else points at goes too: L1 is
 * unlikely to use it again.
 */
export function mmuPageZapPte(kvm: Kvm, sp: KvmMmuPage, sptep: number, recursive: 'recursive' | 'one'): void {
  const { i32 } = kvm.host.machine.mem;
  const lo = i32[sptep]!;
  if (!isShadowPresentPte(lo) || isLastSpte(lo, sp.role.level)) {
    if ((lo | i32[sptep + 1]!) !== 0) dropSpte(kvm, sptep);
    return;
  }
  const child = kvm.arch.shadow.pageAt(spteHpa(lo));
  dropParentPte(kvm, child, sptep);
  const orphan = child.parentPtes.length === 0 && child.rootCount === 0;
  if (recursive === 'recursive' && child.role.guestMode && orphan) kvmMmuPrepareZapPage(kvm, child);
}

/** kvm_mmu_prepare_zap_page(): unlink the page and, below it, what is unsync; kvmMmuCommitZapPages() frees. */
export function kvmMmuPrepareZapPage(kvm: Kvm, sp: KvmMmuPage): void {
  const { trace } = kvm.module;
  if (trace.on[TP.KVM_MMU_PREPARE_ZAP_PAGE]) trace.record(TP.KVM_MMU_PREPARE_ZAP_PAGE, sp.gfn, sp.role.level);
  kvm.stat.mmu_shadow_zapped++;
  zapUnsyncChildren(kvm, sp);
  for (let i = 0; i < SPTE_ENT_PER_PAGE; i++) mmuPageZapPte(kvm, sp, sp.sptep(i), 'recursive');
  while (sp.parentPtes.length !== 0) dropParentPte(kvm, sp, sp.parentPtes[0]!);
  if (!sp.role.invalid && sp.hasGptes) unaccountShadowed(kvm, sp);
  if (sp.unsync) kvmUnlinkUnsyncPage(kvm, sp);
  const usable = !isObsoleteSp(kvm, sp);
  kvm.arch.shadow.active.delete(sp);
  sp.role.word |= ROLE.INVALID;
  kvm.arch.shadow.flush = true;
  if (sp.rootCount === 0) retire(kvm, sp);
  // The last vCPU that has it as a root frees it. Only after it is marked, or the vCPUs would not find it.
  else if (usable) kvmMakeAllCpusRequestNowait(kvm, KVM_REQ.MMU_FREE_OBSOLETE_ROOTS);
}

/** mmu_zap_unsync_children(): a page that is unsync cannot stay without parents that lead to it. */
function zapUnsyncChildren(kvm: Kvm, parent: KvmMmuPage): void {
  if (parent.role.level === 1 || parent.unsyncChildren.size === 0) return;
  for (const sp of mmuUnsyncWalk(kvm, parent)) if (!sp.role.invalid) kvmMmuPrepareZapPage(kvm, sp);
  parent.unsyncChildren.clear();
}

/** The page waits for being freed. */
function retire(kvm: Kvm, sp: KvmMmuPage): void {
  const { shadow } = kvm.arch;
  shadow.zapped.push(sp);
  shadow.byFrame.delete(sp.pfn);
  const list = shadow.byGfn.get(sp.gfn);
  const at = list?.indexOf(sp) ?? -1;
  if (list === undefined || at < 0) throw new BugError(`${kvm.name}: a shadow page is missing in the hash`);
  if (list.length === 1) shadow.byGfn.delete(sp.gfn);
  else list.splice(at, 1);
}

/** mmu_free_root_page() of a shadow root: the last user of one that was zapped frees it. */
export function putShadowRoot(kvm: Kvm, sp: KvmMmuPage): void {
  sp.rootCount--;
  if (sp.rootCount < 0) throw new BugError(`${kvm.name}: a shadow root is given back too often`);
  if (sp.rootCount === 0 && sp.role.invalid) retire(kvm, sp);
}

/**
 * kvm_mmu_commit_zap_page() and kvm_mmu_remote_flush_or_zap(): flush if a translation went away since the last time, then
 * free what was zapped. Waits for vCPUs to leave guest mode.
 */
export function* kvmMmuCommitZapPages(kvm: Kvm): Steps<void> {
  const { shadow } = kvm.arch;
  if (!shadow.flush && shadow.zapped.length === 0) return;
  const pages = shadow.zapped;
  shadow.zapped = [];
  shadow.flush = false;
  yield* kvmFlushRemoteTlbs(kvm);
  const by = kvm.host.pages.owner(`shadow MMU of ${kvm.name}`);
  for (const sp of pages) kvm.host.pages.putPage(toPfn(sp.hpa / PAGE_SIZE), by);
}

/** kvm_zap_obsolete_pages(): those of an older generation. Lets go of mmu_lock when the slice ends. */
export function* kvmZapObsoletePages(kvm: Kvm): Steps<void> {
  const { active } = kvm.arch.shadow;
  for (const sp of active) {
    // Oldest first: behind the first that is not obsolete there is none.
    if (!isObsoleteSp(kvm, sp)) break;
    kvmMmuPrepareZapPage(kvm, sp);
    if (!kvm.host.sched.shouldYield()) continue;
    yield* kvmMmuCommitZapPages(kvm);
    kvm.mmuLock.writeUnlock();
    yield;
    yield* kvm.mmuLock.writeLock();
  }
  yield* kvmMmuCommitZapPages(kvm);
}

/** The shadow half of kvm_mmu_zap_all(). */
export function* zapAllShadowPages(kvm: Kvm): Steps<void> {
  for (const sp of kvm.arch.shadow.active) kvmMmuPrepareZapPage(kvm, sp);
  yield* kvmMmuCommitZapPages(kvm);
}
