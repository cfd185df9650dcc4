// SPDX-License-Identifier: GPL-2.0-only
/**
 * Splitting large leaves of the shadow MMU: kvm_shadow_mmu_try_split_huge_pages() of arch/x86/kvm/mmu/mmu.c, 6.12. A
 * direct page takes the place of the leaf. mmu_lock is held for writing.
 */
import type { Kvm } from '../kvm_host.ts';
import { TP } from '../trace_events.ts';
import { forEachRmapInRange, rmapAdd } from './rmap.ts';
import { kvmMmuChildRole, kvmMmuGetShadowPage, linkShadowPage } from './shadow_page.ts';
import { isShadowPresentPte, pagesPerHpage, SPTE_ENT_PER_PAGE, SPTE_LO, spteU64 } from './spte.ts';

/** Split what maps something of [start, end); out of memory is no error, the page fault splits later. */
export function shadowTrySplitHugePages(kvm: Kvm, asId: number, start: number, end: number): void {
  for (const level of [3, 2]) {
    const range = { asId, start, end, minLevel: level, maxLevel: level };
    forEachRmapInRange(kvm, range, (_, sptep) => splitHugePage(kvm, sptep, level));
  }
}

/** shadow_mmu_split_huge_page(). */
function splitHugePage(kvm: Kvm, sptep: number, level: number): boolean {
  const { i32 } = kvm.host.machine.mem;
  const { shadow } = kvm.arch;
  const { trace } = kvm.module;
  const huge = shadow.pageOf(sptep);
  if (huge.role.invalid) return false;
  const index = huge.indexOf(sptep);
  const gfn = huge.gfnAt(index);
  const access = huge.accessAt(index);
  const lo = i32[sptep]!;
  const hi = i32[sptep + 1]!;
  const sp = kvmMmuGetShadowPage(kvm, null, gfn, kvmMmuChildRole(kvm, sptep, 'direct', access));
  if (trace.on[TP.KVM_MMU_SPLIT_HUGE_PAGE])
    trace.record(TP.KVM_MMU_SPLIT_HUGE_PAGE, gfn, spteU64(lo, hi), level, typeof sp === 'number' ? sp : 0);
  if (typeof sp === 'number') return false;
  const bytes = pagesPerHpage(level - 1) * 4096;
  const small = level === 2 ? lo & ~SPTE_LO.PAGE_SIZE : lo;
  for (let i = 0; i < SPTE_ENT_PER_PAGE; i++) {
    const at = sp.sptep(i);
    // The page may have been in use for the same part of memory elsewhere.
    if (isShadowPresentPte(i32[at]!)) continue;
    i32[at] = small + i * bytes;
    i32[at + 1] = hi;
    rmapAdd(kvm, sp, i, sp.gfnAt(i), access);
  }
  linkShadowPage(kvm, sptep, sp);
  return true;
}
