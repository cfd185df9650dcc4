// SPDX-License-Identifier: GPL-2.0-only
/**
 * Reverse maps of the shadow MMU: from an L1 frame to the leaves that map it, and changes of single leaves. Mirrors
 * rmap_add(), drop_spte(), spte_write_protect() and mmu_spte_age() of arch/x86/kvm/mmu/mmu.c, 6.12. mmu_lock is held for
 * writing; callers flush.
 */
import type { Gfn } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { Kvm } from '../kvm_host.ts';
import type { KvmMmuPage } from './mmu_page.ts';
import { fromRmapKey, rmapKey } from './shadow_state.ts';
import {
  isAccessedShadowSpte,
  isLastSpte,
  isShadowPresentPte,
  markShadowSpteOld,
  pagesPerHpage,
  SPTE_HI,
  SPTE_LO,
} from './spte.ts';
import { kvmUpdatePageStats } from './tdp_iter.ts';

/** Levels that a leaf can have: KVM_MAX_HUGEPAGE_LEVEL. */
export const MAX_LEAF_LEVEL = 3;

/** __rmap_add(): the leaf `index` of `sp`, just made present, maps `gfn`. */
export function rmapAdd(kvm: Kvm, sp: KvmMmuPage, index: number, gfn: Gfn, access: number): void {
  const { rmaps } = kvm.arch.shadow;
  const { level, smm } = sp.role;
  sp.setTranslation(index, gfn, access);
  kvmUpdatePageStats(kvm, level, 1);
  const key = rmapKey(gfn, level, smm);
  const sptep = sp.sptep(index);
  const head = rmaps.get(key);
  if (head === undefined) rmaps.set(key, [sptep]);
  else head.push(sptep);
  const length = head?.length ?? 1;
  if (length > kvm.stat.max_mmu_rmap_size) kvm.stat.max_mmu_rmap_size = length;
}

/** drop_spte(): clear a leaf, and forget that it mapped its gfn. */
export function dropSpte(kvm: Kvm, sptep: number): void {
  const { i32 } = kvm.host.machine.mem;
  const { shadow } = kvm.arch;
  const lo = i32[sptep]!;
  i32[sptep] = 0;
  i32[sptep + 1] = 0;
  if (!isShadowPresentPte(lo)) return;
  const sp = shadow.pageOf(sptep);
  if (!isLastSpte(lo, sp.role.level)) throw new BugError('drop_spte() of a table');
  spend(kvm.host.sched.cpu, COST.TDP_ZAP);
  kvmUpdatePageStats(kvm, sp.role.level, -1);
  const key = rmapKey(sp.gfnAt(sp.indexOf(sptep)), sp.role.level, sp.role.smm);
  const head = shadow.rmaps.get(key);
  const at = head?.indexOf(sptep) ?? -1;
  if (head === undefined || at < 0) throw new BugError(`${kvm.name}: a leaf is missing in its reverse map`);
  if (head.length === 1) shadow.rmaps.delete(key);
  else head.splice(at, 1);
}

/** Changes one leaf; true if it did. */
export type RmapHandler = (kvm: Kvm, sptep: number) => boolean;

/** kvm_zap_rmap(). */
export const zapSpte: RmapHandler = (kvm, sptep) => {
  dropSpte(kvm, sptep);
  return true;
};

/** spte_write_protect(): for dirty logging. */
export const writeProtectSpte: RmapHandler = (kvm, sptep) => protect(kvm, sptep, 0);

/** spte_write_protect() with pt_protect: the page is a table of the guest's. */
export const writeProtectTable: RmapHandler = (kvm, sptep) => protect(kvm, sptep, SPTE_HI.MMU_WRITABLE);

function protect(kvm: Kvm, sptep: number, clearHi: number): boolean {
  const { i32 } = kvm.host.machine.mem;
  const lo = i32[sptep]!;
  const hi = i32[sptep + 1]!;
  if ((lo & SPTE_LO.WRITABLE) === 0 && (hi & clearHi) === 0) return false;
  i32[sptep] = lo & ~SPTE_LO.WRITABLE;
  i32[sptep + 1] = hi & ~clearHi;
  spend(kvm.host.sched.cpu, COST.TDP_ZAP);
  return true;
}

/** mmu_spte_age(): whether the guest has used it since; it is not used any more now. */
export const ageSpte: RmapHandler = (kvm, sptep) => {
  if (!testAgeSpte(kvm, sptep)) return false;
  markShadowSpteOld(kvm.module.masks, kvm.host.machine.mem.i32, sptep);
  return true;
};

/** is_accessed_spte(). */
export const testAgeSpte: RmapHandler = (kvm, sptep) => {
  const { i32 } = kvm.host.machine.mem;
  return isAccessedShadowSpte(kvm.module.masks, i32[sptep]!, i32[sptep + 1]!);
};

/** One gfn at one level: true if `handle` changed a leaf. */
export function forEachRmapSpte(
  kvm: Kvm,
  gfn: number,
  level: number,
  asId: number,
  handle: RmapHandler,
): boolean {
  const head = kvm.arch.shadow.rmaps.get(rmapKey(gfn, level, asId));
  if (head === undefined) return false;
  let changed = false;
  // A copy: a handler may take leaves out.
  for (const sptep of [...head]) if (handle(kvm, sptep)) changed = true;
  return changed;
}

/** Frames [start, end) of an address space, as the leaves of some levels map them. */
export interface RmapRange {
  readonly asId: number;
  readonly start: number;
  readonly end: number;
  readonly minLevel: number;
  readonly maxLevel: number;
}

/** Every leaf that maps something of the range, large ones at its borders too: true if `handle` changed one. */
export function forEachRmapInRange(kvm: Kvm, range: RmapRange, handle: RmapHandler): boolean {
  const { rmaps } = kvm.arch.shadow;
  if (rmaps.size === 0) return false;
  let changed = false;
  const visit = (gfn: number, level: number): void => {
    if (forEachRmapSpte(kvm, gfn, level, range.asId, handle)) changed = true;
  };
  if (range.end - range.start > rmaps.size) {
    for (const key of [...rmaps.keys()]) visitKey(key, range, visit);
    return changed;
  }
  for (let level = range.minLevel; level <= range.maxLevel; level++) {
    const span = pagesPerHpage(level);
    for (let gfn = range.start - (range.start % span); gfn < range.end; gfn += span) visit(gfn, level);
  }
  return changed;
}

function visitKey(key: number, range: RmapRange, visit: (gfn: number, level: number) => void): void {
  const { gfn, level, asId } = fromRmapKey(key);
  if (asId !== range.asId || level < range.minLevel || level > range.maxLevel) return;
  if (gfn < range.end && gfn + pagesPerHpage(level) > range.start) visit(gfn, level);
}
