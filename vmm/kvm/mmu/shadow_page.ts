// SPDX-License-Identifier: GPL-2.0-only
/**
 * Finding and making shadow pages: kvm_mmu_get_shadow_page(), kvm_mmu_get_child_sp() and link_shadow_page() of
 * arch/x86/kvm/mmu/mmu.c, 6.12. mmu_lock is held for writing; what must be flushed before the guest goes on is in
 * kvm.arch.shadow.
 */
import { PAGE_SIZE, type Gfn, type Hpa } from '../../../lib/x86/addr.ts';
import { GFP } from '../../host/mm/page_alloc.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import { TP } from '../trace_events.ts';
import { clearSpWriteFloodingCount, KvmMmuPage } from './mmu_page.ts';
import { accountShadowed } from './page_track.ts';
import { dropSpte } from './rmap.ts';
import { ROLE, ROLE_ACCESS_SHIFT } from './role.ts';
import { kvmSyncPage } from './shadow_sync.ts';
import { dropParentPte, kvmMmuPrepareZapPage } from './shadow_zap.ts';
import { isLargePte, isShadowPresentPte, makeShadowNonleafLo, shadowNonleafHi, spteHpa } from './spte.ts';
import { isObsoleteSp, markUnsync } from './unsync.ts';

/** kvm_mmu_find_shadow_page(): brings a page that is unsync up to date, but leaves it unsync. */
function findShadowPage(kvm: Kvm, vcpu: Vcpu | null, gfn: Gfn, role: number): KvmMmuPage | null {
  const level = role & ROLE.LEVEL_MASK;
  for (const sp of [...(kvm.arch.shadow.byGfn.get(gfn) ?? [])]) {
    if (isObsoleteSp(kvm, sp)) continue;
    if (sp.role.word !== role) {
      // The table is used at an upper level now, which will be write-protected: this page is unlikely to be used again.
      if (level > 1 && sp.unsync) kvmMmuPrepareZapPage(kvm, sp);
      continue;
    }
    if (sp.role.direct) return sp;
    if (sp.unsync && (vcpu === null || kvmSyncPage(vcpu, vcpu.arch.mmu, sp) < 0)) break;
    clearSpWriteFloodingCount(sp);
    return sp;
  }
  kvm.stat.mmu_cache_miss++;
  return null;
}

/** kvm_mmu_alloc_shadow_page(): or -ENOMEM. */
function allocShadowPage(kvm: Kvm, gfn: Gfn, role: number): KvmMmuPage | number {
  const { pages, sched } = kvm.host;
  const { shadow, mmuValidGen } = kvm.arch;
  const frame = pages.allocPage(pages.owner(`shadow page of ${kvm.name}`), GFP.ZERO);
  if (frame < 0) return frame;
  spend(sched.cpu, COST.TDP_ROOT_ALLOC);
  const sp = new KvmMmuPage((frame * PAGE_SIZE) as Hpa, gfn, role, mmuValidGen);
  shadow.byFrame.set(frame, sp);
  shadow.active.add(sp);
  const list = shadow.byGfn.get(gfn);
  if (list === undefined) shadow.byGfn.set(gfn, [sp]);
  else list.push(sp);
  if (sp.hasGptes && accountShadowed(kvm, sp)) shadow.flush = true;
  return sp;
}

/** kvm_mmu_get_shadow_page(): a page for the table at `gfn` in this role, or -ENOMEM. `vcpu` null: for direct roles. */
export function kvmMmuGetShadowPage(
  kvm: Kvm,
  vcpu: Vcpu | null,
  gfn: Gfn,
  role: number,
): KvmMmuPage | number {
  const { trace } = kvm.module;
  const found = findShadowPage(kvm, vcpu, gfn, role);
  if (trace.on[TP.KVM_MMU_GET_PAGE])
    trace.record(TP.KVM_MMU_GET_PAGE, gfn, role & ROLE.LEVEL_MASK, found === null ? 1 : 0);
  return found ?? allocShadowPage(kvm, gfn, role);
}

/** kvm_mmu_child_role(). */
export function kvmMmuChildRole(
  kvm: Kvm,
  sptep: number,
  kind: 'direct' | 'indirect',
  access: number,
): number {
  const parent = kvm.arch.shadow.pageOf(sptep).role.word;
  const cleared = parent & ~(ROLE.ACCESS_MASK | ROLE.DIRECT | ROLE.PASSTHROUGH);
  return (cleared - 1) | (access << ROLE_ACCESS_SHIFT) | (kind === 'direct' ? ROLE.DIRECT : 0);
}

/**
 * kvm_mmu_get_child_sp(): the page that the entry at `sptep` has to point at, or null if it does already. An entry that
 * points at a page for another table, since the guest's memory was changed behind KVM's back, is cleared first.
 */
export function kvmMmuGetChildSp(
  vcpu: Vcpu,
  sptep: number,
  gfn: Gfn,
  kind: 'direct' | 'indirect',
  access: number,
): KvmMmuPage | number | null {
  const { kvm } = vcpu;
  const lo = kvm.host.machine.mem.i32[sptep]!;
  const role = kvmMmuChildRole(kvm, sptep, kind, access);
  if (isShadowPresentPte(lo) && !isLargePte(lo)) {
    const child = kvm.arch.shadow.pageAt(spteHpa(lo));
    if (child.gfn === gfn && child.role.word === role) return null;
    dropParentPte(kvm, child, sptep);
    kvm.arch.shadow.flush = true;
  }
  return kvmMmuGetShadowPage(kvm, vcpu, gfn, role);
}

/** __link_shadow_page(): a large page in its place goes. */
export function linkShadowPage(kvm: Kvm, sptep: number, sp: KvmMmuPage): void {
  const { i32 } = kvm.host.machine.mem;
  const { adDisabled } = sp.role;
  if (isShadowPresentPte(i32[sptep]!)) {
    dropSpte(kvm, sptep);
    kvm.arch.shadow.flush = true;
  }
  i32[sptep] = makeShadowNonleafLo(kvm.module.masks, sp.hpa, adDisabled);
  i32[sptep + 1] = shadowNonleafHi(adDisabled || kvm.module.masks.accessed === 0);
  sp.parentPtes.push(sptep);
  if (sp.unsync || sp.unsyncChildren.size !== 0) markUnsync(kvm, sptep);
}
