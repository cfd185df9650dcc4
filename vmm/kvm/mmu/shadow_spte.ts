// SPDX-License-Identifier: GPL-2.0-only
/**
 * Leaves of the shadow MMU: make_spte() of arch/x86/kvm/mmu/spte.c, and mmu_spte_update(), 6.12. Rights come from the
 * guest's entries (ACC.*), the frame and whether it is writable from the host.
 */
import type { Gfn, Pfn } from '../../../lib/x86/addr.ts';
import { EPTE } from '../../../lib/x86/paging.ts';
import { markPageDirtyInSlot } from '../dirty_bitmap.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { KvmMemorySlot } from '../memslots.ts';
import type { KvmMmuPage } from './mmu_page.ts';
import { ACC } from './role.ts';
import { isLastSpte, isShadowPresentPte, isWritablePte, spteAdEnabled, SPTE_HI, SPTE_LO } from './spte.ts';
import { mmuTryToUnsyncPages } from './unsync.ts';

/** What a leaf is made from. */
export interface ShadowLeaf {
  readonly slot: KvmMemorySlot;
  readonly gfn: Gfn;
  readonly pfn: Pfn;
  readonly access: number;
  readonly hostWritable: boolean;
  /** 'sync': the guest's entry changed; pages may not become unsync meanwhile. */
  readonly why: 'fault' | 'sync';
}

/** The words of an entry. */
export interface SpteWords {
  lo: number;
  hi: number;
  /** A table of the guest's is at the gfn: it must not become writable. */
  wrprot: boolean;
}

/** make_spte(): `oldLo` is what the entry holds now. Marks the page dirty if it becomes writable under dirty logging. */
export function makeShadowSpte(
  vcpu: Vcpu,
  sp: KvmMmuPage,
  leaf: ShadowLeaf,
  oldLo: number,
  out: SpteWords,
): void {
  const { masks, ops } = vcpu.kvm.module;
  const { role } = sp;
  out.wrprot = false;
  out.hi = role.adDisabled || masks.accessed === 0 ? SPTE_HI.TDP_AD_DISABLED : 0;
  const ad = spteAdEnabled(out.hi);
  out.lo = (leaf.pfn << 12) | SPTE_LO.MMU_PRESENT | ops.getMtMask(vcpu, leaf.gfn, 'ram');
  if (ad) out.lo |= masks.accessed;
  if ((leaf.access & ACC.EXEC) !== 0) out.lo |= masks.x;
  if ((leaf.access & ACC.USER) !== 0) out.lo |= EPTE.R;
  if (role.level > 1) out.lo |= SPTE_LO.PAGE_SIZE;
  if (leaf.hostWritable) out.hi |= SPTE_HI.HOST_WRITABLE;
  if ((leaf.access & ACC.WRITE) === 0 || !leaf.hostWritable) return;
  const wasWritable = isShadowPresentPte(oldLo) && isLastSpte(oldLo, role.level) && isWritablePte(oldLo);
  if (!wasWritable && !mmuTryToUnsyncPages(vcpu.kvm, leaf.gfn, role.smm, leaf.why)) {
    out.wrprot = true;
    return;
  }
  out.lo |= SPTE_LO.WRITABLE | (ad ? masks.dirty : 0);
  out.hi |= SPTE_HI.MMU_WRITABLE;
  markPageDirtyInSlot(leaf.slot, leaf.gfn);
}

/** mmu_spte_update(): write a present entry; true if CPUs must forget rights or an accessed state that they cached. */
export function mmuSpteUpdate(i32: Int32Array, sptep: number, words: SpteWords, accessed: number): boolean {
  const old = i32[sptep]!;
  i32[sptep] = words.lo;
  i32[sptep + 1] = words.hi;
  const lost = old & ~words.lo;
  return (lost & (SPTE_LO.WRITABLE | accessed)) !== 0;
}
