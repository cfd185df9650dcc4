// SPDX-License-Identifier: GPL-2.0-only
/**
 * Aging: has the guest touched a range, and forget it. Mirrors kvm_age_gfn() and kvm_test_age_gfn() of
 * arch/x86/kvm/mmu/mmu.c and tdp_mmu.c.
 * DEVIATION: aging takes no mmu_lock and flushes no TLB, as later kernels do it; 6.12 does both.
 */
import type { Kvm } from '../kvm_host.ts';
import { ageSpte, forEachRmapInRange, MAX_LEAF_LEVEL, testAgeSpte, type RmapRange } from './rmap.ts';
import { isAccessedSpte, markAccessTrackLo, savedAccess, SPTE_HI } from './spte.ts';
import { tdpWalkLeaves, type LeafVisitor } from './tdp_iter.ts';
import type { KvmGfnRange } from './zap.ts';

/** kvm_age_gfn(): clear accessed state of the range; whether there was any. */
export function kvmAgeGfn(kvm: Kvm, range: KvmGfnRange): boolean {
  const { i32 } = kvm.host.machine.mem;
  const { masks } = kvm.module;
  let young = false;
  walk(kvm, range, (sptep, lo) => {
    if (!isAccessedSpte(masks, lo)) return;
    young = true;
    if (masks.accessed !== 0) {
      i32[sptep] = lo & ~masks.accessed;
      return;
    }
    i32[sptep] = markAccessTrackLo(masks, lo);
    i32[sptep + 1] = (i32[sptep + 1]! & ~SPTE_HI.ACC_TRACK_MASK) | savedAccess(masks, lo);
  });
  return forEachRmapInRange(kvm, leavesOf(range), ageSpte) || young;
}

/** kvm_test_age_gfn(). */
export function kvmTestAgeGfn(kvm: Kvm, range: KvmGfnRange): boolean {
  const { masks } = kvm.module;
  let young = false;
  walk(kvm, range, (_sptep, lo) => {
    young ||= isAccessedSpte(masks, lo);
  });
  return forEachRmapInRange(kvm, leavesOf(range), testAgeSpte) || young;
}

const leavesOf = ({ slot, start, end }: KvmGfnRange): RmapRange => ({
  asId: slot.asId,
  start,
  end,
  minLevel: 1,
  maxLevel: MAX_LEAF_LEVEL,
});

function walk(kvm: Kvm, range: KvmGfnRange, visit: LeafVisitor): void {
  for (const root of kvm.arch.tdpMmuRoots) {
    if (root.role.smm !== range.slot.asId) continue;
    for (let gfn = range.start; gfn < range.end;) {
      gfn = tdpWalkLeaves(kvm.host.machine.mem.i32, root, gfn, range.end, visit);
    }
  }
}
