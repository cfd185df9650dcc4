// SPDX-License-Identifier: GPL-2.0-only
/** Addresses and frame numbers that stand for errors. Mirrors include/linux/kvm_types.h and kvm_host.h, 6.12. */
import type { Gfn, Gpa, Hva, Pfn } from '../../lib/x86/addr.ts';

/** `gpa` and `gfn` of nothing. */
export const INVALID_GPA = -1 as Gpa;
export const INVALID_GFN = -1 as Gfn;

/** HVAs that are no addresses. */
// prettier-ignore
export const KVM_HVA_ERR = {
  BAD:    -1 as Hva, // no slot, or one that is being deleted or moved
  RO_BAD: -2 as Hva, // a write to a read-only slot
} as const;
export const kvmIsErrorHva = (addr: Hva): boolean => addr < 0;

/** Frame numbers that are no frames. */
// prettier-ignore
export const KVM_PFN_ERR = {
  FAULT:      -1 as Pfn, // the host cannot fault the page in
  RO_FAULT:   -2 as Pfn, // a write to a read-only slot
  NOSLOT:     -3 as Pfn, // no slot: MMIO
  SIGPENDING: -4 as Pfn, // a signal came while faulting in
} as const;
export const isErrorPfn = (pfn: Pfn): boolean => pfn < 0 && pfn !== KVM_PFN_ERR.NOSLOT;
export const isErrorNoslotPfn = (pfn: Pfn): boolean => pfn < 0;
