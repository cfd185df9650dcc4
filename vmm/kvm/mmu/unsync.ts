// SPDX-License-Identifier: GPL-2.0-only
/**
 * Shadow pages that are out of sync with the guest's table, on purpose: mmu_try_to_unsync_pages(), mark_unsync() and
 * mmu_unsync_walk() of arch/x86/kvm/mmu/mmu.c, 6.12. A guest that writes a table of level 1 need not be emulated, since
 * it has to flush before it can count on the change.
 */
import type { Gfn } from '../../../lib/x86/addr.ts';
import type { Kvm } from '../kvm_host.ts';
import type { KvmMmuPage } from './mmu_page.ts';
import { kvmGfnIsWriteTracked } from './page_track.ts';
import { isLargePte, isShadowPresentPte, spteHpa } from './spte.ts';

/** is_obsolete_sp(). */
export const isObsoleteSp = (kvm: Kvm, sp: KvmMmuPage): boolean =>
  sp.role.invalid || sp.mmuValidGen !== kvm.arch.mmuValidGen;

/** for_each_gfn_valid_sp_with_gptes(): pages that shadow the table at `gfn`. A copy, since users zap. */
export function gfnValidSpsWithGptes(kvm: Kvm, gfn: number): KvmMmuPage[] {
  const list = kvm.arch.shadow.byGfn.get(gfn);
  return list === undefined ? [] : list.filter((sp) => sp.hasGptes && !isObsoleteSp(kvm, sp));
}

/** mark_unsync(): the entry at `sptep` leads to something unsync. */
export function markUnsync(kvm: Kvm, sptep: number): void {
  const sp = kvm.arch.shadow.pageOf(sptep);
  const { unsyncChildren } = sp;
  const known = unsyncChildren.size !== 0;
  unsyncChildren.add(sp.indexOf(sptep));
  if (!known) markParentsUnsync(kvm, sp);
}

/** kvm_mmu_mark_parents_unsync(). */
function markParentsUnsync(kvm: Kvm, sp: KvmMmuPage): void {
  for (const parent of sp.parentPtes) markUnsync(kvm, parent);
}

/** kvm_unlink_unsync_page(). */
export function kvmUnlinkUnsyncPage(kvm: Kvm, sp: KvmMmuPage): void {
  sp.unsync = false;
  kvm.stat.mmu_unsync--;
}

/**
 * mmu_try_to_unsync_pages(): a writable mapping of `gfn` is about to be made. False: it must be read-only, since a table
 * above level 1 is there, or since the caller is just synchronising.
 */
export function mmuTryToUnsyncPages(kvm: Kvm, gfn: Gfn, asId: number, why: 'fault' | 'sync'): boolean {
  if (kvm.arch.shadow.indirectShadowPages === 0) return true;
  if (kvmGfnIsWriteTracked(kvm, gfn, asId)) return false;
  for (const sp of gfnValidSpsWithGptes(kvm, gfn)) {
    if (why === 'sync') return false;
    if (sp.unsync) continue;
    sp.unsync = true;
    kvm.stat.mmu_unsync++;
    markParentsUnsync(kvm, sp);
  }
  return true;
}

/** mmu_unsync_walk(): the unsync pages below `sp`; forgets entries that do not lead to any. */
export function mmuUnsyncWalk(kvm: Kvm, sp: KvmMmuPage, found: KvmMmuPage[] = []): KvmMmuPage[] {
  if (sp.unsync) found.push(sp);
  for (const index of sp.unsyncChildren) {
    const before = found.length;
    const child = unsyncChild(kvm, sp, index);
    if (child !== null) mmuUnsyncWalk(kvm, child, found);
    if (found.length === before) sp.unsyncChildren.delete(index);
  }
  return found;
}

function unsyncChild(kvm: Kvm, sp: KvmMmuPage, index: number): KvmMmuPage | null {
  const lo = kvm.host.machine.mem.i32[sp.sptep(index)]!;
  if (!isShadowPresentPte(lo) || isLargePte(lo)) return null;
  return kvm.arch.shadow.pageAt(spteHpa(lo));
}
