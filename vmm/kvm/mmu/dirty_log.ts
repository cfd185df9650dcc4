// SPDX-License-Identifier: GPL-2.0-only
/**
 * Dirty logging in the page tables: write protection, dirty bits, splitting and recovering huge pages. Mirrors the
 * dirty-log half of arch/x86/kvm/mmu/mmu.c and tdp_mmu.c, 6.12. Callers flush the TLBs unless it is said otherwise.
 */
import type { Gfn } from '../../../lib/x86/addr.ts';
import type { Steps } from '../../host/steps.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { kvmDirtyLogManualProtectAndInitSet } from '../dirty_bitmap.ts';
import type { Kvm } from '../kvm_host.ts';
import type { TdpMmuRoot } from './mmu_page.ts';
import type { KvmMemorySlot } from '../memslots.ts';
import { kvmFlushRemoteTlbs } from '../requests.ts';
import { kvmMmuMaxMappingLevel } from './hugepage.ts';
import {
  dropSpte,
  forEachRmapInRange,
  forEachRmapSpte,
  MAX_LEAF_LEVEL,
  writeProtectSpte,
  writeProtectTable,
} from './rmap.ts';
import { shadowTrySplitHugePages } from './shadow_split.ts';
import { kvmMmuCommitZapPages } from './shadow_zap.ts';
import { isLargePte, isShadowPresentPte, pagesPerHpage, SPTE_HI, SPTE_LO, spteHpa } from './spte.ts';
import { sptepOf, tdpMmuSetSpte, tdpWalkLeaves, type LeafVisitor } from './tdp_iter.ts';
import { handleRemovedPt, tdpMmuFreePages } from './tdp_pages.ts';
import { forEachTdpMmuRoot } from './tdp_roots.ts';
import { tdpMmuSplitHugePage } from './tdp_split.ts';

type LeafChange = (root: TdpMmuRoot) => LeafVisitor;

/** Visit the slot's leaves in every root under mmu_lock; lets go of it when the slice ends. */
function* forEachLeaf(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn, change: LeafChange): Steps<void> {
  const { machine, sched } = kvm.host;
  yield* forEachTdpMmuRoot(kvm, slot.asId, 'valid', function* (root) {
    const visit = change(root);
    for (let gfn = start; gfn < end;) {
      gfn = tdpWalkLeaves(machine.mem.i32, root, gfn, end, visit);
      if (gfn >= end || !sched.shouldYield()) continue;
      kvm.mmuLock.writeUnlock();
      yield;
      yield* kvm.mmuLock.writeLock();
    }
  });
}

const endOf = (slot: KvmMemorySlot): Gfn => (slot.baseGfn + slot.npages) as Gfn;

/** Clear bits of the low word of an entry that is there; nothing else changes. */
function clearBits(kvm: Kvm, sptep: number, lo: number, bits: number): void {
  if ((lo & bits) === 0) return;
  kvm.host.machine.mem.i32[sptep] = lo & ~bits;
  spend(kvm.host.sched.cpu, COST.TDP_ZAP);
}

/** kvm_mmu_slot_remove_write_access(): leaves of at least `minLevel` become read-only. */
export function* kvmMmuSlotRemoveWriteAccess(kvm: Kvm, slot: KvmMemorySlot, minLevel: number): Steps<void> {
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  shadowWriteProtectSlot(kvm, slot, minLevel, MAX_LEAF_LEVEL);
  yield* forEachLeaf(kvm, slot, slot.baseGfn, endOf(slot), () => (sptep, lo, level) => {
    if (level >= minLevel) clearBits(kvm, sptep, lo, SPTE_LO.WRITABLE);
  });
  kvm.mmuLock.writeUnlock();
}

/** kvm_mmu_slot_leaf_clear_dirty(): clear dirty bits, for CPUs that log them (PML). */
export function* kvmMmuSlotLeafClearDirty(kvm: Kvm, slot: KvmMemorySlot): Steps<void> {
  const { masks } = kvm.module;
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  // The CPU would log addresses of L2: pages of L2 are logged by write protection.
  shadowWriteProtectSlot(kvm, slot, 1, 1);
  yield* forEachLeaf(kvm, slot, slot.baseGfn, endOf(slot), () => (sptep, lo) => {
    clearBits(kvm, sptep, lo, masks.dirty === 0 ? SPTE_LO.WRITABLE : masks.dirty);
  });
  kvm.mmuLock.writeUnlock();
}

/** kvm_mmu_slot_try_split_huge_pages(): ahead of the first write, so that vCPUs need not. */
export function* kvmMmuSlotTrySplitHugePages(kvm: Kvm, slot: KvmMemorySlot): Steps<void> {
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  shadowTrySplitHugePages(kvm, slot.asId, slot.baseGfn, endOf(slot));
  yield* kvmMmuCommitZapPages(kvm);
  yield* forEachLeaf(kvm, slot, slot.baseGfn, endOf(slot), splitter(kvm));
  kvm.mmuLock.writeUnlock();
}

/** Out of memory is no error here: the page fault splits later. */
const splitter =
  (kvm: Kvm): LeafChange =>
  (root) =>
  (sptep, _lo, level, gfn) => {
    if (level > 1) tdpMmuSplitHugePage(kvm, root.role.smm, sptep, level, gfn);
  };

/**
 * kvm_arch_mmu_enable_log_dirty_pt_masked(): bits of `mask` were just cleared in word `firstGfn` (64 gfns) of the dirty
 * bitmap: protect these pages again. Plain code: mmu_lock is held for writing.
 */
export function kvmArchMmuEnableLogDirtyPtMasked(
  kvm: Kvm,
  slot: KvmMemorySlot,
  firstGfn: number,
  maskLo: number,
  maskHi: number,
): void {
  kvm.mmuLock.assertHeldWrite();
  const isSet = (gfn: number): boolean => {
    const bit = gfn - firstGfn;
    return ((bit < 32 ? maskLo >>> bit : maskHi >>> (bit - 32)) & 1) !== 0;
  };
  if (kvmDirtyLogManualProtectAndInitSet(kvm)) protectHuge(kvm, slot, firstGfn, maskLo, maskHi);
  const { masks, ops } = kvm.module;
  const bits = ops.cpuDirtyLogSize !== 0 && masks.dirty !== 0 ? masks.dirty : SPTE_LO.WRITABLE;
  walkNow(kvm, slot, firstGfn, firstGfn + 64, () => (sptep, lo, level, gfn) => {
    if (level === 1 && isSet(gfn)) clearBits(kvm, sptep, lo, bits);
  });
  if (kvm.arch.shadow.rmaps.size === 0) return;
  for (let gfn = firstGfn; gfn < firstGfn + 64; gfn++) {
    if (isSet(gfn)) forEachRmapSpte(kvm, gfn, 1, slot.asId, writeProtectSpte);
  }
}

/**
 * Initially-all-set: huge pages are not protected when logging starts, but here. The 64 gfns may cross two of them.
 */
function protectHuge(kvm: Kvm, slot: KvmMemorySlot, firstGfn: number, maskLo: number, maskHi: number): void {
  const start =
    firstGfn + (maskLo !== 0 ? 31 - Math.clz32(maskLo & -maskLo) : 63 - Math.clz32(maskHi & -maskHi));
  const end = firstGfn + (maskHi !== 0 ? 63 - Math.clz32(maskHi) : 31 - Math.clz32(maskLo)) + 1;
  if (kvm.module.params['kvm.eager_page_split']) {
    shadowTrySplitHugePages(kvm, slot.asId, start, end);
    walkNow(kvm, slot, start, end, splitter(kvm));
  }
  const large = { asId: slot.asId, start, end, minLevel: 2, maxLevel: MAX_LEAF_LEVEL };
  forEachRmapInRange(kvm, large, writeProtectTable);
  walkNow(kvm, slot, start, end, () => (sptep, lo, level) => {
    if (level > 1) clearBits(kvm, sptep, lo, SPTE_LO.WRITABLE);
  });
}

function walkNow(kvm: Kvm, slot: KvmMemorySlot, start: number, end: number, change: LeafChange): void {
  const { i32 } = kvm.host.machine.mem;
  const last = Math.min(end, endOf(slot)) as Gfn;
  for (const root of kvm.arch.tdpMmuRoots) {
    if (root.invalid || root.role.smm !== slot.asId) continue;
    const visit = change(root);
    for (let gfn = start as Gfn; gfn < last;) gfn = tdpWalkLeaves(i32, root, gfn, last, visit);
  }
}

/**
 * kvm_mmu_zap_collapsible_sptes(): dirty logging ended. Tables of small pages go where a huge page could be; the next
 * fault maps it. Flushes.
 */
export function* kvmMmuZapCollapsibleSptes(kvm: Kvm, slot: KvmMemorySlot): Steps<void> {
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  const freed: number[] = [];
  for (const root of kvm.arch.tdpMmuRoots) {
    if (!root.invalid && root.role.smm === slot.asId) zapCollapsible(kvm, root, slot, freed);
  }
  const small = { asId: slot.asId, start: slot.baseGfn, end: endOf(slot), minLevel: 1, maxLevel: 1 };
  const zapped = forEachRmapInRange(kvm, small, (_, sptep) => zapCollapsibleSpte(kvm, slot, sptep));
  if (zapped || freed.length !== 0) yield* kvmFlushRemoteTlbs(kvm);
  tdpMmuFreePages(kvm, freed);
  kvm.mmuLock.writeUnlock();
}

function zapCollapsible(kvm: Kvm, root: TdpMmuRoot, slot: KvmMemorySlot, freed: number[]): void {
  const { i32 } = kvm.host.machine.mem;
  const span = pagesPerHpage(2);
  const first = Math.ceil(slot.baseGfn / span) * span;
  for (let gfn = first; gfn + span <= endOf(slot); gfn += span) {
    const sptep = tableEntry(i32, root, gfn);
    if (sptep < 0 || kvmMmuMaxMappingLevel(kvm, slot, gfn as Gfn, 2) < 2) continue;
    const table = spteHpa(i32[sptep]!);
    tdpMmuSetSpte(kvm, root.role.smm, sptep, 2, gfn as Gfn, 0, 0);
    spend(kvm.host.sched.cpu, COST.TDP_ZAP);
    handleRemovedPt(kvm, root.role.smm, table, 1, gfn, freed);
  }
}

/** kvm_rmap_zap_collapsible_sptes(): parts of a large page of L1's; what its small pages map must stay as it is. */
function zapCollapsibleSpte(kvm: Kvm, slot: KvmMemorySlot, sptep: number): boolean {
  const sp = kvm.arch.shadow.pageOf(sptep);
  if (!sp.role.direct || kvmMmuMaxMappingLevel(kvm, slot, sp.gfn, 2) < 2) return false;
  dropSpte(kvm, sptep);
  return true;
}

function shadowWriteProtectSlot(kvm: Kvm, slot: KvmMemorySlot, minLevel: number, maxLevel: number): void {
  const range = { asId: slot.asId, start: slot.baseGfn, end: endOf(slot), minLevel, maxLevel };
  forEachRmapInRange(kvm, range, writeProtectSpte);
}

/** The level-2 entry of `gfn` if it points at a table of level 1, else -1. */
function tableEntry(i32: Int32Array, root: TdpMmuRoot, gfn: number): number {
  let table: number = root.hpa;
  for (let level = root.role.level; level >= 2; level--) {
    const sptep = sptepOf(table, gfn, level);
    const lo = i32[sptep]!;
    if (!isShadowPresentPte(lo) || isLargePte(lo)) return -1;
    if (level === 2) return sptep;
    table = spteHpa(lo);
  }
  return -1;
}

/** The high word of a leaf that is writable but for dirty logging. */
export const isMmuWritable = (hi: number): boolean =>
  (hi & (SPTE_HI.MMU_WRITABLE | SPTE_HI.HOST_WRITABLE)) === (SPTE_HI.MMU_WRITABLE | SPTE_HI.HOST_WRITABLE);
