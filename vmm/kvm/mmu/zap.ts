// SPDX-License-Identifier: GPL-2.0-only
/**
 * Taking translations away: all of a VM, of a memslot, of a gfn range. Mirrors kvm_mmu_zap_all_fast(),
 * kvm_mmu_zap_memslot() and kvm_unmap_gfn_range() of arch/x86/kvm/mmu/mmu.c and tdp_mmu_zap_leafs(), 6.12.
 */
import { KVM_X86_QUIRK } from '../../../lib/uapi/memory.ts';
import type { Gfn } from '../../../lib/x86/addr.ts';
import type { Steps } from '../../host/steps.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { Kvm } from '../kvm_host.ts';
import type { TdpMmuRoot } from './mmu_page.ts';
import type { KvmMemorySlot } from '../memslots.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmFlushRemoteTlbs, kvmMakeAllCpusRequest, kvmVcpuKick } from '../requests.ts';
import { TP } from '../trace_events.ts';
import { forEachRmapInRange, MAX_LEAF_LEVEL, zapSpte } from './rmap.ts';
import {
  kvmMmuCommitZapPages,
  kvmMmuPrepareZapPage,
  kvmZapObsoletePages,
  zapAllShadowPages,
} from './shadow_zap.ts';
import { MMIO_SPTE_GEN_MASK } from './spte.ts';
import { tdpMmuSetSpte, tdpWalkLeaves } from './tdp_iter.ts';
import {
  forEachTdpMmuRoot,
  kvmTdpMmuInvalidateRoots,
  kvmTdpMmuZapInvalidatedRoots,
  tdpMmuZapRoot,
} from './tdp_roots.ts';

/** kvm_arch_flush_shadow_memslot(): the slot is invalid; drop every translation of it. */
export function* kvmArchFlushShadowMemslot(kvm: Kvm, slot: KvmMemorySlot): Steps<void> {
  if ((kvm.arch.disabledQuirks & KVM_X86_QUIRK.SLOT_ZAP_ALL) === 0) yield* kvmMmuZapAllFast(kvm);
  else yield* kvmMmuZapMemslot(kvm, slot);
}

/** kvm_mmu_zap_all_fast(): make all roots obsolete, tell the vCPUs, then zap at leisure. */
export function* kvmMmuZapAllFast(kvm: Kvm): Steps<void> {
  kvm.slotsLock.assertHeld();
  const { trace } = kvm.module;
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  if (trace.on[TP.KVM_MMU_ZAP_ALL_FAST]) {
    trace.record(TP.KVM_MMU_ZAP_ALL_FAST, kvm.arch.mmuValidGen, kvm.arch.tdpMmuPages);
  }
  kvm.arch.mmuValidGen ^= 1;
  kvmTdpMmuInvalidateRoots(kvm);
  yield* kvmMakeAllCpusRequest(kvm, KVM_REQ.MMU_FREE_OBSOLETE_ROOTS);
  yield* kvmZapObsoletePages(kvm);
  kvm.mmuLock.writeUnlock();
  yield* kvmTdpMmuZapInvalidatedRoots(kvm);
}

/** kvm_mmu_zap_memslot(): only the slot's own leaves, and what shadows tables in it. */
export function* kvmMmuZapMemslot(kvm: Kvm, slot: KvmMemorySlot): Steps<void> {
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  const range = { slot, start: slot.baseGfn, end: (slot.baseGfn + slot.npages) as Gfn, mayBlock: true };
  for (const sp of kvm.arch.shadow.active) {
    const inSlot = sp.role.smm === slot.asId && sp.gfn >= range.start && sp.gfn < range.end;
    if (inSlot && sp.hasGptes) kvmMmuPrepareZapPage(kvm, sp);
  }
  if (yield* kvmUnmapGfnRange(kvm, range)) kvm.arch.shadow.flush = true;
  yield* kvmMmuCommitZapPages(kvm);
  kvm.mmuLock.writeUnlock();
}

/** kvm_mmu_zap_all(): every root, before the VM or its process goes away. */
export function* kvmMmuZapAll(kvm: Kvm): Steps<void> {
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  yield* zapAllShadowPages(kvm);
  yield* forEachTdpMmuRoot(kvm, null, 'all', (root) => tdpMmuZapRoot(kvm, root, 'write'));
  yield* kvmFlushRemoteTlbs(kvm);
  kvm.mmuLock.writeUnlock();
}

/** struct kvm_gfn_range. */
export interface KvmGfnRange {
  readonly slot: KvmMemorySlot;
  readonly start: Gfn;
  /** Exclusive. */
  readonly end: Gfn;
  readonly mayBlock: boolean;
}

/** kvm_unmap_gfn_range(): with mmu_lock held for writing; true if the TLBs must be flushed before it is dropped. */
export function* kvmUnmapGfnRange(kvm: Kvm, range: KvmGfnRange): Steps<boolean> {
  const { start, end, slot } = range;
  const leaves = { asId: slot.asId, start, end, minLevel: 1, maxLevel: MAX_LEAF_LEVEL };
  // A leaf that is gone already may still be in a TLB.
  const pending = { flush: forEachRmapInRange(kvm, leaves, zapSpte) || kvm.arch.shadow.flush };
  yield* forEachTdpMmuRoot(kvm, range.slot.asId, 'all', (root) => tdpMmuZapLeafs(kvm, root, range, pending));
  return pending.flush;
}

/** tdp_mmu_zap_leafs(). When the slice ends it flushes, lets go of mmu_lock and goes on behind the last gfn. */
function* tdpMmuZapLeafs(
  kvm: Kvm,
  root: TdpMmuRoot,
  range: KvmGfnRange,
  pending: { flush: boolean },
): Steps<void> {
  const { machine, sched } = kvm.host;
  const zap = (sptep: number, _lo: number, level: number, gfn: Gfn): void => {
    tdpMmuSetSpte(kvm, root.role.smm, sptep, level, gfn, 0, 0);
    spend(sched.cpu, COST.TDP_ZAP);
    pending.flush = true;
  };
  for (let gfn = range.start; gfn < range.end;) {
    gfn = tdpWalkLeaves(machine.mem.i32, root, gfn, range.end, zap);
    if (!range.mayBlock || gfn >= range.end || !sched.shouldYield()) continue;
    if (pending.flush) yield* kvmFlushRemoteTlbs(kvm);
    pending.flush = false;
    kvm.mmuLock.writeUnlock();
    yield;
    yield* kvm.mmuLock.writeLock();
  }
}

/**
 * kvm_arch_memslots_updated(): MMIO entries of older generations must not match. The generation's bits that they store
 * have wrapped around: then all entries go.
 */
export function* kvmArchMemslotsUpdated(kvm: Kvm, generation: number): Steps<void> {
  const gen = generation % (MMIO_SPTE_GEN_MASK + 1);
  if (gen < kvm.memslots.length && generation > MMIO_SPTE_GEN_MASK) yield* kvmMmuZapAllFast(kvm);
  for (const vcpu of kvm.vcpus) kvmVcpuKick(vcpu);
}
