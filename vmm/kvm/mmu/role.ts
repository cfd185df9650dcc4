// SPDX-License-Identifier: GPL-2.0-only
/**
 * Roles: what a table page translates (union kvm_mmu_page_role), and how the guest's own tables are read (union
 * kvm_cpu_role: the same word and an extended one). Mirrors arch/x86/include/asm/kvm_host.h, 6.12. A role is one int32, so
 * that comparing two is one comparison.
 */
import type { Vcpu } from '../kvm_host.ts';

/** Bits of union kvm_mmu_page_role. */
// prettier-ignore
export const ROLE = {
  LEVEL_MASK:       0x0000_000f,
  HAS_4_BYTE_GPTE:  0x0000_0010,
  QUADRANT_MASK:    0x0000_0060,
  DIRECT:           0x0000_0080, // translates gfn to pfn with no guest table behind it
  ACCESS_MASK:      0x0000_0700, // ACC.* that all entries are limited to
  INVALID:          0x0000_0800, // must not be loaded or linked any more
  EFER_NX:          0x0000_1000,
  CR0_WP:           0x0000_2000,
  SMEP_ANDNOT_WP:   0x0000_4000,
  SMAP_ANDNOT_WP:   0x0000_8000,
  AD_DISABLED:      0x0001_0000,
  GUEST_MODE:       0x0002_0000, // L2's
  PASSTHROUGH:      0x0004_0000,
  SMM_MASK:         0xff00_0000, // the address space: 1 while in SMM
} as const;
export const ROLE_ACCESS_SHIFT = 8;
export const ROLE_SMM_SHIFT = 24;

/** Bits of union kvm_mmu_extended_role. */
// prettier-ignore
export const ROLE_EXT = {
  VALID:    0x01, // an all-zero role never matches
  EXECONLY: 0x02,
  CR4_PSE:  0x04,
  CR4_PKE:  0x08,
  CR4_SMAP: 0x10,
  CR4_SMEP: 0x20,
  CR4_LA57: 0x40,
  EFER_LMA: 0x80,
} as const;

/** ACC_*_MASK: rights of an entry; for EPT, USER stands for readable. */
export const ACC = { EXEC: 1, WRITE: 2, USER: 4, ALL: 7 } as const;

/** mmu_is_nested(): linear addresses are L2's and go through L2's tables and L1's for L2. */
export const mmuIsNested = (vcpu: Vcpu): boolean => vcpu.arch.walkMmu === vcpu.arch.nestedMmu;

/** A role of a table page. */
export class KvmMmuPageRole {
  word: number;

  constructor(word = 0) {
    this.word = word;
  }

  get level(): number {
    return this.word & ROLE.LEVEL_MASK;
  }

  get direct(): boolean {
    return (this.word & ROLE.DIRECT) !== 0;
  }

  get access(): number {
    return (this.word & ROLE.ACCESS_MASK) >> ROLE_ACCESS_SHIFT;
  }

  get invalid(): boolean {
    return (this.word & ROLE.INVALID) !== 0;
  }

  get adDisabled(): boolean {
    return (this.word & ROLE.AD_DISABLED) !== 0;
  }

  get guestMode(): boolean {
    return (this.word & ROLE.GUEST_MODE) !== 0;
  }

  /** The address space. */
  get smm(): number {
    return this.word >>> ROLE_SMM_SHIFT;
  }
}

/** union kvm_cpu_role. */
export class KvmCpuRole {
  readonly base = new KvmMmuPageRole();
  /** ROLE_EXT.* */
  ext = 0;
}
