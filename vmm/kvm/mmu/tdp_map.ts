// SPDX-License-Identifier: GPL-2.0-only
/**
 * Installing a translation. Mirrors kvm_tdp_mmu_map() of arch/x86/kvm/mmu/tdp_mmu.c and make_spte(), 6.12. The walk and
 * the entries it writes are one step, so its compare-and-exchange cannot fail.
 */
import type { Gfn } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { markPageDirtyInSlot } from '../dirty_bitmap.ts';
import { kvmVcpuMemslots } from '../guest_memory.ts';
import type { Vcpu } from '../kvm_host.ts';
import { TP } from '../trace_events.ts';
import { kvmMmuHugepageAdjust } from './hugepage.ts';
import { RET_PF, type KvmPageFault } from './page_fault.ts';
import {
  isLargePte,
  isLastSpte,
  isShadowPresentPte,
  isWritablePte,
  makeNonleafSpteLo,
  mmioSpteHi,
  mmioSpteLo,
  MMIO_SPTE_GEN_MASK,
  nonleafSpteHi,
  pagesPerHpage,
  SPTE_HI,
  SPTE_LO,
  spteHpa,
  spteU64,
} from './spte.ts';
import { sptepOf, tdpMmuSetSpte } from './tdp_iter.ts';
import { tdpMmuAllocPage } from './tdp_pages.ts';
import { tdpMmuSplitHugePage } from './tdp_split.ts';
import { mmuTryToUnsyncPages } from './unsync.ts';

/** kvm_tdp_mmu_map(): with mmu_lock held for reading. RET_PF.*, or -ENOMEM. */
export function kvmTdpMmuMap(vcpu: Vcpu, fault: KvmPageFault): number {
  const { kvm } = vcpu;
  const { i32 } = kvm.host.machine.mem;
  const { trace } = kvm.module;
  kvmMmuHugepageAdjust(vcpu, fault);
  if (trace.on[TP.KVM_MMU_SPTE_REQUESTED]) {
    trace.record(TP.KVM_MMU_SPTE_REQUESTED, fault.gfn, fault.pfn, fault.goalLevel);
  }
  let table: number = vcpu.arch.mmu.root.hpa;
  for (let level = vcpu.arch.mmu.rootRole.level; level > fault.goalLevel; level--) {
    const sptep = sptepOf(table, fault.gfn, level);
    let lo = i32[sptep]!;
    if (!isShadowPresentPte(lo) || isLargePte(lo)) {
      const error = linkTable(vcpu, fault, sptep, level, lo);
      if (error < 0) return error;
      lo = i32[sptep]!;
    }
    table = spteHpa(lo);
  }
  return mapTargetLevel(vcpu, fault, sptepOf(table, fault.gfn, fault.goalLevel));
}

/** Put a table where there is nothing, or a page that is too large. */
function linkTable(vcpu: Vcpu, fault: KvmPageFault, sptep: number, level: number, lo: number): number {
  const { kvm } = vcpu;
  const asId = vcpu.arch.mmu.rootRole.smm;
  if (isShadowPresentPte(lo)) {
    const span = pagesPerHpage(level);
    return tdpMmuSplitHugePage(kvm, asId, sptep, level, (Math.floor(fault.gfn / span) * span) as Gfn);
  }
  const table = tdpMmuAllocPage(kvm);
  if (table < 0) return table;
  const { masks, trace } = kvm.module;
  if (trace.on[TP.KVM_MMU_GET_PAGE]) trace.record(TP.KVM_MMU_GET_PAGE, fault.gfn, level - 1, 1);
  tdpMmuSetSpte(kvm, asId, sptep, level, fault.gfn, makeNonleafSpteLo(masks, table), nonleafSpteHi(masks));
  return 0;
}

/** tdp_mmu_map_handle_target_level(). */
function mapTargetLevel(vcpu: Vcpu, fault: KvmPageFault, sptep: number): number {
  const { kvm } = vcpu;
  const { i32 } = kvm.host.machine.mem;
  spend(kvm.host.sched.cpu, COST.TDP_MAP);
  if (fault.slot === null) return mapMmio(vcpu, fault, sptep);
  const level = fault.goalLevel;
  const oldLo = i32[sptep]!;
  const wrprot = fault.mapWritable && mustWriteProtect(vcpu, fault, oldLo);
  if (wrprot) fault.mapWritable = false;
  const lo = makeSpteLo(vcpu, fault);
  const hi = makeSpteHi(vcpu, fault) | (wrprot ? SPTE_HI.HOST_WRITABLE : 0);
  const r = wrprot && fault.write ? RET_PF.WRITE_PROTECTED : RET_PF.FIXED;
  if (lo === oldLo && hi === i32[sptep + 1]!) return wrprot ? r : RET_PF.SPURIOUS;
  // A table gives way to a huge page: other CPUs may be walking it.
  if (isShadowPresentPte(oldLo) && !isLastSpte(oldLo, level)) fault.replacedTable = spteHpa(oldLo);
  tdpMmuSetSpte(kvm, vcpu.arch.mmu.rootRole.smm, sptep, level, fault.gfn, lo, hi);
  const { trace } = kvm.module;
  if (trace.on[TP.KVM_MMU_SET_SPTE])
    trace.record(TP.KVM_MMU_SET_SPTE, fault.gfn, spteU64(lo, hi), level, sptep * 4);
  return r;
}

/** Is a table that L0 shadows at the gfn? One of level 1 becomes unsync instead. */
function mustWriteProtect(vcpu: Vcpu, fault: KvmPageFault, oldLo: number): boolean {
  const wasWritable = isShadowPresentPte(oldLo) && isLastSpte(oldLo, fault.goalLevel) && isWritablePte(oldLo);
  if (wasWritable) return false;
  return !mmuTryToUnsyncPages(vcpu.kvm, fault.gfn, vcpu.arch.mmu.rootRole.smm, 'fault');
}

/** make_spte(), low word; marks the page dirty if it becomes writable while dirty logging is on. */
function makeSpteLo(vcpu: Vcpu, fault: KvmPageFault): number {
  const { masks, ops } = vcpu.kvm.module;
  let lo = (fault.pfn << 12) | SPTE_LO.MMU_PRESENT | masks.present | masks.x | masks.accessed;
  if (fault.goalLevel > 1) lo |= SPTE_LO.PAGE_SIZE;
  lo |= ops.getMtMask(vcpu, fault.gfn, 'ram');
  if (!fault.mapWritable) return lo;
  lo |= SPTE_LO.WRITABLE | masks.dirty;
  markPageDirtyInSlot(fault.slot, fault.gfn);
  return lo;
}

/** make_spte(), high word. */
function makeSpteHi(vcpu: Vcpu, fault: KvmPageFault): number {
  const ad = vcpu.kvm.module.masks.accessed === 0 ? SPTE_HI.TDP_AD_DISABLED : 0;
  return fault.mapWritable ? ad | SPTE_HI.HOST_WRITABLE | SPTE_HI.MMU_WRITABLE : ad;
}

/** make_mmio_spte(): remember, for this generation of memslots, that nothing backs the gfn. */
function mapMmio(vcpu: Vcpu, fault: KvmPageFault, sptep: number): number {
  const { kvm } = vcpu;
  const { masks, trace } = kvm.module;
  const gen = kvmVcpuMemslots(vcpu).generation % (MMIO_SPTE_GEN_MASK + 1);
  const lo = mmioSpteLo(masks, fault.gfn, gen);
  const hi = mmioSpteHi(fault.gfn, gen);
  tdpMmuSetSpte(kvm, vcpu.arch.mmu.rootRole.smm, sptep, fault.goalLevel, fault.gfn, lo, hi);
  vcpu.stat.pf_mmio_spte_created++;
  if (trace.on[TP.MARK_MMIO_SPTE]) trace.record(TP.MARK_MMIO_SPTE, sptep * 4, fault.gfn, 0, gen);
  return RET_PF.EMULATE;
}
