// SPDX-License-Identifier: GPL-2.0-only
/**
 * Write protection of the tables that L0 shadows: kvm_mmu_slot_gfn_write_protect(), account_shadowed() and
 * unaccount_shadowed() of arch/x86/kvm/mmu/mmu.c and page_track.c, 6.12. Tables above level 1 are tracked: each write to
 * them is emulated. A table of level 1 is write-protected too, but the first write makes it unsync instead.
 */
import type { Gfn } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import type { KvmMmuPage } from './mmu_page.ts';
import type { KvmPageFault, LastSpte } from './page_fault.ts';
import { forEachRmapSpte, MAX_LEAF_LEVEL, writeProtectTable } from './rmap.ts';
import { trackKey } from './shadow_state.ts';
import { isLastSpte, isShadowPresentPte, pagesPerHpage, SPTE_HI, SPTE_LO } from './spte.ts';
import { tdpLastSpte } from './tdp_iter.ts';

/** kvm_gfn_is_write_tracked(). */
export function kvmGfnIsWriteTracked(kvm: Kvm, gfn: Gfn, asId: number): boolean {
  const { writeTrack } = kvm.arch.shadow;
  return writeTrack.size !== 0 && writeTrack.has(trackKey(gfn, asId));
}

/** page_fault_handle_page_track(): a write to a table that no other page fault can fix. */
export function pageFaultHandlePageTrack(vcpu: Vcpu, fault: KvmPageFault): boolean {
  if (fault.rsvd || !fault.present || !fault.write || fault.slot === null) return false;
  return kvmGfnIsWriteTracked(vcpu.kvm, fault.gfn, fault.slot.asId);
}

/** kvm_mmu_slot_gfn_write_protect(): in whatever maps the gfn; true if the TLBs must be flushed. */
export function kvmMmuSlotGfnWriteProtect(kvm: Kvm, asId: number, gfn: Gfn, minLevel: number): boolean {
  let changed = false;
  for (let level = minLevel; level <= MAX_LEAF_LEVEL; level++) {
    const base = gfn - (gfn % pagesPerHpage(level));
    if (forEachRmapSpte(kvm, base, level, asId, writeProtectTable)) changed = true;
  }
  return tdpMmuWriteProtectGfn(kvm, asId, gfn, minLevel) || changed;
}

/** kvm_tdp_mmu_write_protect_gfn(). */
function tdpMmuWriteProtectGfn(kvm: Kvm, asId: number, gfn: Gfn, minLevel: number): boolean {
  const { i32 } = kvm.host.machine.mem;
  const last: LastSpte = { sptep: 0, level: 0 };
  let changed = false;
  for (const root of kvm.arch.tdpMmuRoots) {
    if (root.invalid || root.role.smm !== asId) continue;
    tdpLastSpte(i32, root.hpa, root.role.level, gfn, last);
    const { sptep, level } = last;
    const lo = i32[sptep]!;
    const hi = i32[sptep + 1]!;
    if (level < minLevel || !isShadowPresentPte(lo) || !isLastSpte(lo, level)) continue;
    if ((lo & SPTE_LO.WRITABLE) === 0 && (hi & SPTE_HI.MMU_WRITABLE) === 0) continue;
    i32[sptep] = lo & ~SPTE_LO.WRITABLE;
    i32[sptep + 1] = hi & ~SPTE_HI.MMU_WRITABLE;
    spend(kvm.host.sched.cpu, COST.TDP_ZAP);
    changed = true;
  }
  return changed;
}

/** account_shadowed(): the page shadows a table from now on; true if the TLBs must be flushed. */
export function accountShadowed(kvm: Kvm, sp: KvmMmuPage): boolean {
  const { shadow } = kvm.arch;
  const { level, smm } = sp.role;
  shadow.indirectShadowPages++;
  if (level > 1) {
    const key = trackKey(sp.gfn, smm);
    shadow.writeTrack.set(key, (shadow.writeTrack.get(key) ?? 0) + 1);
  }
  // __kvm_write_track_add_gfn() forbids large mappings too: each page is protected by itself.
  changeDisallowLpage(kvm, sp.gfn, smm, 1);
  return kvmMmuSlotGfnWriteProtect(kvm, smm, sp.gfn, 1);
}

/** unaccount_shadowed(). */
export function unaccountShadowed(kvm: Kvm, sp: KvmMmuPage): void {
  const { shadow } = kvm.arch;
  const { level, smm } = sp.role;
  shadow.indirectShadowPages--;
  changeDisallowLpage(kvm, sp.gfn, smm, -1);
  if (level === 1) return;
  const key = trackKey(sp.gfn, smm);
  const count = shadow.writeTrack.get(key);
  if (count === undefined) throw new BugError(`${kvm.name}: gfn ${sp.gfn} was not tracked`);
  if (count === 1) shadow.writeTrack.delete(key);
  else shadow.writeTrack.set(key, count - 1);
}

/** update_gfn_disallow_lpage_count(). The slot is the one that was there: pages go before their slot does. */
function changeDisallowLpage(kvm: Kvm, gfn: Gfn, asId: number, by: number): void {
  const slot = kvm.memslots[asId]!.search(gfn);
  const info = slot?.arch.lpageInfo ?? null;
  if (slot === null || info === null) return;
  const span = pagesPerHpage(2);
  const index = Math.floor(gfn / span) - Math.floor(slot.baseGfn / span);
  info[index] = info[index]! + by;
}
