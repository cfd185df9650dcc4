// SPDX-License-Identifier: GPL-2.0-only
/**
 * struct kvm_mmu_page of arch/x86/kvm/mmu/mmu_internal.h, 6.12: a table page of KVM's. All of those of the shadow MMU are
 * described, and of the TDP MMU's the roots.
 */
import { pfn as toPfn, PAGE_SIZE, type Gfn, type Hpa, type Pfn } from '../../../lib/x86/addr.ts';
import type { KvmMmuRootPage } from '../kvm_host_x86.ts';
import { KvmMmuPageRole } from './role.ts';
import { pagesPerHpage, SPTE_ENT_PER_PAGE } from './spte.ts';

/** A root of the TDP MMU. */
export class TdpMmuRoot implements KvmMmuRootPage {
  readonly tdpMmuPage = true;
  readonly hpa: Hpa;
  readonly role: KvmMmuPageRole;
  /** vCPUs that use it, plus 1 while it is valid. A new root has its maker and itself. */
  refcount = 2;
  /** Invalidated by zap-all and still to be zapped by that caller. */
  scheduledZap = false;
  /** Always zero: it shadows nothing. */
  writeFloodingCount = 0;

  constructor(hpa: Hpa, role: number) {
    this.hpa = hpa;
    this.role = new KvmMmuPageRole(role);
  }

  get invalid(): boolean {
    return this.role.invalid;
  }
}

/** What a leaf of an indirect page translates to: the gfn and rights that the guest's entry gave when it was read. */
interface ShadowedTranslation {
  readonly gfn: Float64Array;
  readonly access: Uint8Array;
}

/** A page of the shadow MMU: it shadows the guest's table at `gfn`, or a part of a large page if it is direct. */
export class KvmMmuPage implements KvmMmuRootPage {
  readonly tdpMmuPage = false;
  readonly hpa: Hpa;
  readonly gfn: Gfn;
  readonly role: KvmMmuPageRole;
  readonly mmuValidGen: number;
  /** Root entries of vCPUs that hold it. */
  rootCount = 0;
  /** The guest may write the table that it shadows: entries can be older than the guest's. Only at level 1. */
  unsync = false;
  /** Indices of entries below which something may be unsync. */
  readonly unsyncChildren = new Set<number>();
  /** Entries that point at the page. */
  readonly parentPtes: number[] = [];
  /** Emulated writes to the guest's table since the page was last used. */
  writeFloodingCount = 0;
  readonly shadowed: ShadowedTranslation | null;

  constructor(hpa: Hpa, gfn: Gfn, role: number, mmuValidGen: number) {
    this.hpa = hpa;
    this.gfn = gfn;
    this.role = new KvmMmuPageRole(role);
    this.mmuValidGen = mmuValidGen;
    this.shadowed = this.role.direct
      ? null
      : { gfn: new Float64Array(SPTE_ENT_PER_PAGE), access: new Uint8Array(SPTE_ENT_PER_PAGE) };
  }

  get pfn(): Pfn {
    return toPfn(this.hpa / PAGE_SIZE);
  }

  /** sp_has_gptes(): it shadows a table, so that writes to it matter. */
  get hasGptes(): boolean {
    return !this.role.direct;
  }

  /** Word index of entry `index`. */
  sptep(index: number): number {
    return (this.hpa >>> 2) + 2 * index;
  }

  /** Index of the entry at `sptep`. */
  indexOf(sptep: number): number {
    return (sptep - (this.hpa >>> 2)) >> 1;
  }

  /** kvm_mmu_page_get_gfn(). */
  gfnAt(index: number): Gfn {
    if (this.shadowed !== null) return this.shadowed.gfn[index]! as Gfn;
    return (this.gfn + index * pagesPerHpage(this.role.level)) as Gfn;
  }

  /** kvm_mmu_page_get_access(). */
  accessAt(index: number): number {
    return this.shadowed === null ? this.role.access : this.shadowed.access[index]!;
  }

  /** kvm_mmu_page_set_translation(). */
  setTranslation(index: number, gfn: Gfn, access: number): void {
    if (this.shadowed === null) return;
    this.shadowed.gfn[index] = gfn;
    this.shadowed.access[index] = access;
  }
}

/** __clear_sp_write_flooding_count(). */
export function clearSpWriteFloodingCount(sp: KvmMmuRootPage | null): void {
  if (sp !== null) sp.writeFloodingCount = 0;
}
