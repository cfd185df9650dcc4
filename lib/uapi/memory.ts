// SPDX-License-Identifier: GPL-2.0-only
/** Memory regions, dirty logging and quirks. Mirrors include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h, 6.12. */

/** kvm_userspace_memory_region.flags. */
// prettier-ignore
export const KVM_MEM = {
  LOG_DIRTY_PAGES: 0x1,
  READONLY:        0x2,
  GUEST_MEMFD:     0x4,
} as const;

/** Values of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
// prettier-ignore
export const KVM_DIRTY_LOG = {
  MANUAL_PROTECT_ENABLE: 0x1,
  INITIALLY_SET:         0x2,
} as const;

/** KVM_CAP_DISABLE_QUIRKS2. */
// prettier-ignore
export const KVM_X86_QUIRK = {
  LINT0_REENABLED:        0x01,
  CD_NW_CLEARED:          0x02,
  LAPIC_MMIO_HOLE:        0x04,
  OUT_7E_INC_RIP:         0x08,
  MISC_ENABLE_NO_MWAIT:   0x10,
  FIX_HYPERCALL_INSN:     0x20,
  MWAIT_NEVER_UD_FAULTS:  0x40,
  SLOT_ZAP_ALL:           0x80,
} as const;
/** What KVM_CAP_DISABLE_QUIRKS2 accepts. */
export const KVM_X86_VALID_QUIRKS = 0xff;

/** Internal slots of x86: TSS, identity map, APIC access page. */
export const KVM_INTERNAL_MEM_SLOTS = 3;
export const KVM_MEM_SLOTS_NUM = 0x7fff;
export const KVM_USER_MEM_SLOTS = KVM_MEM_SLOTS_NUM - KVM_INTERNAL_MEM_SLOTS;
/** A region may not have more pages. */
export const KVM_MEM_MAX_NR_PAGES = 0x7fff_ffff;

/** An unsigned 64-bit ABI value: exact as bigint, convenient as number below 2^53. */
export type U64 = number | bigint;

/** struct kvm_userspace_memory_region. Bits 31:16 of `slot` are the address space. */
export interface KvmUserspaceMemoryRegion {
  slot: number;
  flags: number;
  guest_phys_addr: U64;
  memory_size: U64;
  userspace_addr: U64;
}

/** struct kvm_userspace_memory_region2, for KVM_SET_USER_MEMORY_REGION2. */
export interface KvmUserspaceMemoryRegion2 extends KvmUserspaceMemoryRegion {
  guest_memfd_offset: U64;
  guest_memfd: number;
}

/** struct kvm_dirty_log. The bitmap has one bit per page, in whole 64-bit words. */
export interface KvmDirtyLog {
  slot: number;
  dirty_bitmap: Uint8Array;
}

/** struct kvm_clear_dirty_log. */
export interface KvmClearDirtyLog {
  slot: number;
  num_pages: number;
  first_page: number;
  dirty_bitmap: Uint8Array;
}

/** struct kvm_enable_cap. */
export interface KvmEnableCap {
  cap: number;
  flags: number;
  args: readonly U64[];
}

/** Bytes of a dirty bitmap of `npages` pages: whole 64-bit words. */
export const kvmDirtyBitmapBytes = (npages: number): number => Math.ceil(npages / 64) * 8;
