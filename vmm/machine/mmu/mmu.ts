// SPDX-License-Identifier: GPL-2.0-only
/**
 * The paging unit of one logical processor: its modelled TLBs, the fast TLB's back references, the current translation
 * context, and the scratch of the walk under way. Data; the behaviour is in the files beside this one.
 * DEVIATION: no paging-structure caches; only whole translations can be stale.
 */
import type { CpuProfile } from '../cost/profiles.ts';
import { FlushLedger } from '../tlb/flush_ledger.ts';
import { TagSpaces } from '../tlb/tag_spaces.ts';
import { TlbArray, type TlbShape, type TlbStorage } from '../tlb/tlb_array.ts';
import type { StaleHit } from './stale_hit.ts';

/** Replacement of the modelled TLB: the profile's sizes; nothing is ever evicted; nothing is ever kept. */
export type TlbPolicy = 'real' | 'keep-forever' | 'keep-nothing';

export interface MmuOptions {
  readonly profile: CpuProfile;
  readonly tlb: TlbPolicy;
  /** Where the linear mappings lie if they have their real size; elsewhere without it. */
  readonly storage?: TlbStorage;
}

/** Bits of `Mmu.mode`: all that decides, besides the tables and PKRU, whether an access is allowed. */
// prettier-ignore
export const MODE = {
  USER:   0x001, // CPL 3
  WP:     0x002, // these three only if not USER
  SMEP:   0x004,
  SMAP:   0x008, // and RFLAGS.AC is clear
  NXE:    0x010,
  PKE:    0x020,
  LA57:   0x040,
  PGE:    0x080,
  EPT:    0x100,
  EPT_AD: 0x200,
  MBEC:   0x400,
} as const;

/** Word offsets in `Mmu.walk`: results of the last walk. */
// prettier-ignore
export const WALK = {
  PERM: 0,     // PERM bits of the translation
  CODE: 1,     // PAGE_CODE
  REFS: 2,     // paging-structure references so far
  EPT_PERM: 3, // PERM.EPT_* and D of the last EPT translation
  EPT_CODE: 4,
  EPTE_HPA: 5, // leaf entry of the last EPT translation; -1: EPT is off
} as const;

/** Offsets in `Mmu.walkAddr`: host and guest physical addresses of the last walk. */
// prettier-ignore
export const WALK_ADDR = { HPA: 0, GPA: 1, PTE_GPA: 2, PTE_HPA: 3 } as const;

/** Cached contexts: see context.ts. */
export const CONTEXT_SLOTS = 256;
export const CONTEXT_WORDS = 12;

const shapeOf = (policy: TlbPolicy, sets: number, ways: number): TlbShape =>
  policy === 'real'
    ? { sets, ways }
    : policy === 'keep-forever'
      ? { sets: 0, ways: 1 }
      : { sets: 1, ways: 0 };

export class Mmu {
  /** EPTP of the running guest, 0: EPT is off. Call mmuContextChanged() after changing any of these four. */
  eptp = 0;
  /** Accessed and dirty flags for EPT are enabled (EPTP bit 6): 0 or 1. */
  eptAd = 0;
  /** Mode-based execute control for EPT: 0 or 1. */
  mbec = 0;
  /** Host physical address of the APIC-access page; -1: accesses to it are not virtualized. */
  apicAccessPage = -1;
  /** Current VPID; 0 in VMX root operation, outside of VMX operation, and without "enable VPID". */
  vpid = 0;
  /** Host physical address of the page-modification log; -1 without "enable PML" and in VMX root operation. */
  pmlPage = -1;
  /** The word of the memory that holds the PML index, if there is a log. */
  pmlIndexWord = 0;

  /** Linear and combined mappings; guest-physical mappings. */
  readonly tlb: TlbArray;
  readonly gp: TlbArray;
  readonly spaces = new TagSpaces();
  readonly ledger = new FlushLedger();

  /** 'hits': every access is checked against the tables, at the price of speed; set it with setStaleCheck(). */
  check: 'off' | 'hits' = 'off';
  /** Called for every use of a translation that the tables no longer give, while `check` is 'hits'. */
  onStaleHit: (hit: StaleHit) => void = () => {};

  /** The current context, set by mmuContextChanged(). */
  mode = 0;
  pkru = 0;
  group = 0;
  space = 0;
  globalSpace = 0;
  gpGroup = 0;
  gpSpace = 0;
  eptLevels = 4;
  /** Host physical address of the EPT root, or -1 if it is not in RAM. */
  eptRoot = -1;
  readonly contexts: Int32Array = new Int32Array(CONTEXT_SLOTS * CONTEXT_WORDS).fill(-1);
  nrContexts = 0;

  readonly walk: Int32Array = new Int32Array(8);
  readonly walkAddr: Float64Array = new Float64Array(8);
  /** By level: host physical address of the guest entry used, and its guest physical address. */
  readonly entryHpa: Int32Array = new Int32Array(6);
  readonly entryGpa: Float64Array = new Float64Array(6);
  /** By level: host physical address of the EPT entry used. */
  readonly eptEntryHpa: Int32Array = new Int32Array(6);

  /** Bits of an entry's high word that must be clear: physical address bits that do not exist. */
  readonly reservedHi: number;
  readonly policy: TlbPolicy;
  readonly profile: CpuProfile;

  constructor(options: MmuOptions) {
    const { profile, tlb } = options;
    this.policy = tlb;
    this.profile = profile;
    this.tlb = new TlbArray(shapeOf(tlb, profile.tlb.sets, profile.tlb.ways), options.storage);
    this.gp = new TlbArray(shapeOf(tlb, profile.tlb.gpSets, profile.tlb.gpWays));
    this.reservedHi = 0xf_ffff & (-1 << (profile.maxPhysBits - 32));
  }
}
