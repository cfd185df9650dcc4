// SPDX-License-Identifier: GPL-2.0-only
/**
 * The shadow MMU's part of struct kvm_arch: its pages by gfn and by frame, what is write-protected because of them, and
 * the reverse maps of their leaves. Mirrors mmu_page_hash, active_mmu_pages, gfn_write_track and rmap of 6.12; maps
 * stand where the kernel has arrays in each memslot. Leaves out the list of large NX pages.
 */
import type { Steps } from '../../host/steps.ts';
import { BugError } from '../../machine/errors.ts';
import type { KvmMmuPage } from './mmu_page.ts';

/** What must be done under mmu_lock before a vCPU enters the guest again, found where nobody could wait for the lock. */
export type ShadowWork = () => Steps<void> | void;

export class ShadowMmu {
  /** kvm->arch.mmu_page_hash: pages that shadow the table at a gfn, or a large page that begins there. */
  readonly byGfn = new Map<number, KvmMmuPage[]>();
  /** sptep_to_sp(): by frame. */
  readonly byFrame = new Map<number, KvmMmuPage>();
  /** kvm->arch.active_mmu_pages, oldest first. */
  readonly active = new Set<KvmMmuPage>();
  /** kvm->arch.indirect_shadow_pages: while it is zero, no write of the guest matters. */
  indirectShadowPages = 0;
  /** gfn_write_track: tables above level 1 at a gfn of an address space (see trackKey). */
  readonly writeTrack = new Map<number, number>();
  /** Leaves by gfn, level and address space (see rmapKey). */
  readonly rmaps = new Map<number, number[]>();
  /** Pages that no table points at any more: to be freed when no CPU can be walking them. */
  zapped: KvmMmuPage[] = [];
  work: ShadowWork[] = [];
  /** kvm->arch.n_max_mmu_pages. */
  nMaxMmuPages = 64;
  /** The page of kvm_mmu_get_dummy_root(), or -1. */
  dummyRoot = -1;
  /** A translation was taken away, and CPUs may still use it. */
  flush = false;

  /** sptep_to_sp(). */
  pageOf(sptep: number): KvmMmuPage {
    return this.pageAt(sptep * 4);
  }

  /** The page at a host physical address: spte_to_child_sp(). */
  pageAt(hpa: number): KvmMmuPage {
    const sp = this.byFrame.get(hpa >>> 12);
    if (sp === undefined) throw new BugError(`no shadow page at ${hpa}`);
    return sp;
  }
}

/** Key of ShadowMmu.rmaps. */
export const rmapKey = (gfn: number, level: number, asId: number): number => (gfn * 4 + level) * 2 + asId;
export const fromRmapKey = (key: number): { gfn: number; level: number; asId: number } => ({
  gfn: Math.floor(key / 8),
  level: Math.floor(key / 2) % 4,
  asId: key % 2,
});
/** Key of ShadowMmu.writeTrack. */
export const trackKey = (gfn: number, asId: number): number => gfn * 2 + asId;
