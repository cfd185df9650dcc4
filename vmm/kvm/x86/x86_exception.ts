// SPDX-License-Identifier: GPL-2.0-only
/** struct x86_exception of arch/x86/kvm/kvm_emulate.h, 6.12: a fault that L0 found on behalf of a guest. */

/**
 * Additions to the access (PFERR.*) of a walk through L1's tables for L2: what is being accessed. They are bits 32 and 33
 * of KVM's PFERR_GUEST_FINAL_MASK and PFERR_GUEST_PAGE_MASK, kept as bits that PFERR does not use.
 */
export const PFERR_GUEST = { FINAL: 0x1_0000, PAGE: 0x2_0000 } as const;

export class X86Exception {
  vector = 0;
  errorCodeValid = false;
  errorCode = 0;
  /** The fault is one of L1's tables for L2 (EPT12), to be injected into L1. */
  nestedPageFault = false;
  /** The guest-physical address of L2, if nestedPageFault. */
  address = 0;
  /** Otherwise the linear address. */
  linear = 0n;
  /**
   * EPT_VIOLATION.*: what an EPT violation of EPT12 reports, bits 8:0. Bits 8:7 are those of a software walk: if
   * `fromHardware`, take them from the exit qualification of the exit being handled.
   */
  exitQualification = 0;
  /** An access of L2 itself met the fault, not a walk of L0. */
  fromHardware = false;
}
