// SPDX-License-Identifier: GPL-2.0-only
/**
 * Numbers and flags of vcpu->requests, and the vCPU modes. Mirrors include/linux/kvm_host.h and
 * arch/x86/include/asm/kvm_host.h, 6.12; clock, Xen, SEV and Hyper-V reset requests are left out.
 */

/** Bits 7:0 of a request are its number. */
export const KVM_REQUEST_MASK = 0xff;
/** Flags of a request. */
// prettier-ignore
export const KVM_REQUEST = {
  NO_WAKEUP: 0x100, // do not wake a blocked vCPU
  WAIT:      0x200, // wait until the vCPU left guest mode, or switched to host page tables
  NO_ACTION: 0x400, // the IPI is all: no bit is set in requests
} as const;

const WAIT_NO_WAKEUP = 0x300;
const ARCH = 8;

/** Requests by the kernel's names without KVM_REQ_. Architecture requests start at 8. */
// prettier-ignore
export const KVM_REQ = {
  TLB_FLUSH:                  0 + WAIT_NO_WAKEUP,
  VM_DEAD:                    1 + WAIT_NO_WAKEUP,
  UNBLOCK:                    2,
  DIRTY_RING_SOFT_FULL:       3,
  OUTSIDE_GUEST_MODE:         0 + WAIT_NO_WAKEUP + 0x400,
  REPORT_TPR_ACCESS:          ARCH + 1,
  TRIPLE_FAULT:               ARCH + 2,
  MMU_SYNC:                   ARCH + 3,
  LOAD_MMU_PGD:               ARCH + 5,
  EVENT:                      ARCH + 6,
  STEAL_UPDATE:               ARCH + 8,
  NMI:                        ARCH + 9,
  SMI:                        ARCH + 12,
  SCAN_IOAPIC:                ARCH + 15 + WAIT_NO_WAKEUP,
  APIC_PAGE_RELOAD:           ARCH + 17 + WAIT_NO_WAKEUP,
  IOAPIC_EOI_EXIT:            ARCH + 19,
  HV_STIMER:                  ARCH + 22,
  LOAD_EOI_EXITMAP:           ARCH + 23,
  GET_NESTED_STATE_PAGES:     ARCH + 24,
  APICV_UPDATE:               ARCH + 25 + WAIT_NO_WAKEUP,
  TLB_FLUSH_CURRENT:          ARCH + 26,
  TLB_FLUSH_GUEST:            ARCH + 27 + WAIT_NO_WAKEUP,
  MSR_FILTER_CHANGED:         ARCH + 29,
  UPDATE_CPU_DIRTY_LOGGING:   ARCH + 30 + WAIT_NO_WAKEUP,
  MMU_FREE_OBSOLETE_ROOTS:    ARCH + 31 + WAIT_NO_WAKEUP,
  HV_TLB_FLUSH:               ARCH + 32 + WAIT_NO_WAKEUP,
} as const;

/** vcpu->mode. */
// prettier-ignore
export const VCPU_MODE = {
  OUTSIDE_GUEST_MODE:         0,
  IN_GUEST_MODE:              1,
  EXITING_GUEST_MODE:         2,
  READING_SHADOW_PAGE_TABLES: 3,
} as const;

/** Name of a request, for traces and messages. */
export function requestName(request: number): string {
  for (const [name, value] of Object.entries(KVM_REQ)) {
    if (value === request) return `KVM_REQ_${name}`;
  }
  return `request ${request & KVM_REQUEST_MASK}`;
}
