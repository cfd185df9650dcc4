// SPDX-License-Identifier: GPL-2.0-only
/**
 * Shadow page-table entries: their bits, and how leaf, non-leaf and MMIO entries are made. Mirrors
 * arch/x86/kvm/mmu/spte.c and spte.h, 6.12, for TDP entries. An entry is two int32 words of machine memory, low first;
 * host addresses fit the low word, so the high word holds software bits only (and the gfn of an MMIO entry).
 */
import { EPTE } from '../../../lib/x86/paging.ts';
import { PAGE_SIZE, type Gfn } from '../../../lib/x86/addr.ts';

/** Bits of the low word that EPT and NPT entries share. */
// prettier-ignore
export const SPTE_LO = {
  WRITABLE:    0x002,
  PAGE_SIZE:   0x080, // leaf above level 1
  MMU_PRESENT: 0x800, // the entry is KVM's and maps something
  PFN_MASK:    0x7fff_f000,
} as const;

/** Bits of the high word, that is bits 63:32 of the entry. */
// prettier-ignore
export const SPTE_HI = {
  TDP_AD_DISABLED:    0x0010_0000, // bit 52: no accessed and dirty bits here
  ACC_TRACK_SHIFT:    22,          // bits 56:54: R and X of an entry that is tracked by being not present
  ACC_TRACK_MASK:     0x0140_0000,
  HOST_WRITABLE:      0x0200_0000, // bit 57: the host maps the page writable
  MMU_WRITABLE:       0x0400_0000, // bit 58: KVM allows writing; write protection is for dirty logging only
} as const;

/** Formats differ in these masks of the low word: set once per vendor (kvm_mmu_set_ept_masks()). */
export interface SpteMasks {
  /** What makes an entry readable. */
  readonly present: number;
  readonly x: number;
  readonly accessed: number;
  readonly dirty: number;
  /** All of the access bits, for MMIO and access tracking. */
  readonly rwx: number;
  /** Access bits of an MMIO entry: a combination that is always misconfigured or reserved. */
  readonly mmioValue: number;
}

/** kvm_mmu_set_ept_masks(). */
export function eptMasks(ad: 'ad' | 'no-ad'): SpteMasks {
  const rwx = EPTE.R | EPTE.W | EPTE.X;
  return {
    present: EPTE.R,
    x: EPTE.X,
    accessed: ad === 'ad' ? EPTE.A : 0,
    dirty: ad === 'ad' ? EPTE.D : 0,
    rwx,
    mmioValue: EPTE.W | EPTE.X,
  };
}

export const isShadowPresentPte = (lo: number): boolean => (lo & SPTE_LO.MMU_PRESENT) !== 0;
export const isLargePte = (lo: number): boolean => (lo & SPTE_LO.PAGE_SIZE) !== 0;
export const isLastSpte = (lo: number, level: number): boolean => level === 1 || isLargePte(lo);
export const isWritablePte = (lo: number): boolean => (lo & SPTE_LO.WRITABLE) !== 0;
/** The table or page that a present entry points at. */
export const spteHpa = (lo: number): number => lo & SPTE_LO.PFN_MASK;

/** By level; a power would be computed each time. */
const PAGES_PER_HPAGE = [0, 1, 2 ** 9, 2 ** 18, 2 ** 27, 2 ** 36, 2 ** 45];

/** Index of a gfn in its table of `level`. */
export function spteIndex(gfn: number, level: number): number {
  if (level <= 3) return ((gfn | 0) >>> (9 * (level - 1))) & 511;
  return Math.floor(gfn / PAGES_PER_HPAGE[level]!) & 511;
}

/** KVM_PAGES_PER_HPAGE(): frames that an entry of `level` covers. */
export const pagesPerHpage = (level: number): number => PAGES_PER_HPAGE[level]!;

/** make_nonleaf_spte(): low word. The high word is SPTE_HI.TDP_AD_DISABLED or 0. */
export const makeNonleafSpteLo = (masks: SpteMasks, table: number): number =>
  table | masks.present | SPTE_LO.WRITABLE | masks.x | masks.accessed | SPTE_LO.MMU_PRESENT;
export const nonleafSpteHi = (masks: SpteMasks): number =>
  masks.accessed === 0 ? SPTE_HI.TDP_AD_DISABLED : 0;

/** is_access_track_spte(): not accessible, so that the next access is noticed; only without accessed bits. */
export const isAccessTrackSpte = (masks: SpteMasks, lo: number): boolean =>
  masks.accessed === 0 && isShadowPresentPte(lo) && (lo & masks.rwx) === 0;

/** Low word after mark_spte_for_access_track(); the high word gets `savedAccess`. W is not saved: a write must fault. */
export const markAccessTrackLo = (masks: SpteMasks, lo: number): number => lo & ~masks.rwx;
export const savedAccess = (masks: SpteMasks, lo: number): number =>
  (lo & (masks.present | masks.x)) << SPTE_HI.ACC_TRACK_SHIFT;
/** restore_acc_track_spte(). */
export const restoreAccessTrackLo = (lo: number, hi: number): number =>
  lo | ((hi & SPTE_HI.ACC_TRACK_MASK) >>> SPTE_HI.ACC_TRACK_SHIFT);

/** is_accessed_spte(). */
export const isAccessedSpte = (masks: SpteMasks, lo: number): boolean =>
  masks.accessed === 0 ? !isAccessTrackSpte(masks, lo) : (lo & masks.accessed) !== 0;

// The shadow MMU has pages with accessed and dirty bits and without at the same time: each entry says which it is.

/** spte_ad_enabled(). */
export const spteAdEnabled = (hi: number): boolean => (hi & SPTE_HI.TDP_AD_DISABLED) === 0;

/** is_accessed_spte(). */
export const isAccessedShadowSpte = (masks: SpteMasks, lo: number, hi: number): boolean =>
  (lo & (spteAdEnabled(hi) ? masks.accessed : masks.rwx)) !== 0;

/** mmu_spte_age() of an accessed leaf: without accessed bits, the next access must fault. */
export function markShadowSpteOld(masks: SpteMasks, i32: Int32Array, sptep: number): void {
  const lo = i32[sptep]!;
  const hi = i32[sptep + 1]!;
  if (spteAdEnabled(hi)) {
    i32[sptep] = lo & ~masks.accessed;
    return;
  }
  i32[sptep] = markAccessTrackLo(masks, lo);
  i32[sptep + 1] = (hi & ~SPTE_HI.ACC_TRACK_MASK) | savedAccess(masks, lo);
}

/** make_nonleaf_spte() of the shadow MMU: both words, by whether the page has accessed and dirty bits. */
export const makeShadowNonleafLo = (masks: SpteMasks, table: number, adDisabled: boolean): number =>
  adDisabled ? makeNonleafSpteLo(masks, table) & ~masks.accessed : makeNonleafSpteLo(masks, table);
export const shadowNonleafHi = (adDisabled: boolean): number => (adDisabled ? SPTE_HI.TDP_AD_DISABLED : 0);

/** The entry as the 64-bit value that traces show. */
export const spteU64 = (lo: number, hi: number): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);

// MMIO entries: 8 generation bits at 10:3, 11 at 62:52, the gfn at 51:12.

/** Generation bits that an MMIO entry has room for. */
export const MMIO_SPTE_GEN_MASK = 0x7_ffff;
const GEN_LOW_SHIFT = 3;
const GEN_LOW_MASK = 0xff;
const GEN_HIGH_SHIFT = 20;

export const isMmioSpte = (masks: SpteMasks, lo: number): boolean =>
  (lo & (masks.rwx | SPTE_LO.MMU_PRESENT)) === masks.mmioValue;

/** make_mmio_spte(), low word. `gen` is below MMIO_SPTE_GEN_MASK + 1. */
export const mmioSpteLo = (masks: SpteMasks, gfn: Gfn, gen: number): number =>
  masks.mmioValue | ((gen & GEN_LOW_MASK) << GEN_LOW_SHIFT) | ((gfn | 0) << 12);
/** make_mmio_spte(), high word. */
export const mmioSpteHi = (gfn: Gfn, gen: number): number =>
  ((gen >>> 8) << GEN_HIGH_SHIFT) | (Math.floor(gfn / 2 ** 20) & 0xf_ffff);

export const mmioSpteGen = (lo: number, hi: number): number =>
  ((lo >>> GEN_LOW_SHIFT) & GEN_LOW_MASK) | (((hi >>> GEN_HIGH_SHIFT) & 0x7ff) << 8);
export const mmioSpteGfn = (lo: number, hi: number): Gfn => ((hi & 0xf_ffff) * 2 ** 20 + (lo >>> 12)) as Gfn;

/** Entries of a table page. */
export const SPTE_ENT_PER_PAGE = PAGE_SIZE / 8;
