// SPDX-License-Identifier: GPL-2.0-only
/** CPUID and MSR structures of the ioctls. Mirrors arch/x86/include/uapi/asm/kvm.h, 6.12. */

/** kvm_cpuid_entry2.flags. */
// prettier-ignore
export const KVM_CPUID_FLAG = {
  SIGNIFCANT_INDEX: 0x1, // (sic)
  STATEFUL_FUNC:    0x2,
  STATE_READ_NEXT:  0x4,
} as const;

/** struct kvm_cpuid_entry2; registers are unsigned 32-bit numbers. */
export interface KvmCpuidEntry2 {
  function: number;
  index: number;
  flags: number;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

/** KVM_SET_CPUID2 accepts at most so many entries. */
export const KVM_MAX_CPUID_ENTRIES = 256;

/** struct kvm_msr_entry. */
export interface KvmMsrEntry {
  index: number;
  data: bigint;
}

/** kvm_run.msr.reason, and the mask of KVM_CAP_X86_USER_SPACE_MSR. */
// prettier-ignore
export const KVM_MSR_EXIT_REASON = {
  INVAL:   0x1,
  UNKNOWN: 0x2,
  FILTER:  0x4,
} as const;

/** struct kvm_msr_filter_range. */
export interface KvmMsrFilterRange {
  flags: number;
  nmsrs: number;
  base: number;
  bitmap: Uint8Array;
}
export const KVM_MSR_FILTER = { READ: 0x1, WRITE: 0x2 } as const;
export const KVM_MSR_FILTER_DEFAULT_DENY = 0x1;

/** struct kvm_msr_filter. */
export interface KvmMsrFilter {
  flags: number;
  ranges: KvmMsrFilterRange[];
}
