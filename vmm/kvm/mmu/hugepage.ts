// SPDX-License-Identifier: GPL-2.0-only
/** How large a mapping may be. Mirrors kvm_mmu_hugepage_adjust() of arch/x86/kvm/mmu/mmu.c, 6.12. */
import type { Gfn, Pfn } from '../../../lib/x86/addr.ts';
import { hostMappingOrder } from '../../host/mm/gup.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import { gfnToHvaMemslot, kvmSlotDirtyTrackEnabled, type KvmMemorySlot } from '../memslots.ts';
import type { KvmPageFault } from './page_fault.ts';
import { pagesPerHpage } from './spte.ts';

/** kvm_mmu_max_mapping_level(): what the slot's alignment and the host's own mapping allow. */
export function kvmMmuMaxMappingLevel(kvm: Kvm, slot: KvmMemorySlot, gfn: Gfn, maxLevel: number): number {
  if (maxLevel < 2) return 1;
  const info = slot.arch.lpageInfo;
  const index = Math.floor(gfn / pagesPerHpage(2)) - Math.floor(slot.baseGfn / pagesPerHpage(2));
  if (info === null || info[index] !== 0) return 1;
  return hostMappingOrder(kvm.mm, gfnToHvaMemslot(slot, gfn)) >= 9 ? 2 : 1;
}

/** Decide the level of the fault's mapping, and take the first frame of a huge page. */
export function kvmMmuHugepageAdjust(vcpu: Vcpu, fault: KvmPageFault): void {
  const slot = fault.slot;
  if (fault.maxLevel === 1 || slot === null || fault.pfn < 0 || kvmSlotDirtyTrackEnabled(slot)) return;
  fault.reqLevel = kvmMmuMaxMappingLevel(vcpu.kvm, slot, fault.gfn, fault.maxLevel);
  if (fault.reqLevel === 1) return;
  fault.goalLevel = fault.reqLevel;
  fault.pfn = (fault.pfn & ~(pagesPerHpage(fault.goalLevel) - 1)) as Pfn;
}
