// SPDX-License-Identifier: GPL-2.0-only
/**
 * The format that VM-entry interruption information, VM-exit interruption information and IDT-vectoring information
 * share. SDM, "VM-Entry Controls for Event Injection" and "Information for VM Exits Due to Vectored Events".
 */

// prettier-ignore
export const INTR_INFO = {
  VECTOR_MASK:       0x0000_00ff,
  TYPE_MASK:         0x0000_0700,
  INTR_TYPE_MASK:    0x0000_0700, // The kernel's name of the same
  DELIVER_CODE_MASK: 0x0000_0800, // An error code is delivered, or valid
  UNBLOCK_NMI:       0x0000_1000, // NMI unblocking due to IRET (exits only)
  RESVD_BITS_MASK:   0x7fff_f000, // On VM entry
  VALID_MASK:        0x8000_0000,
} as const;
export const INTR_INFO_TYPE_SHIFT = 8;

/** Event types in place: bits 10:8. */
// prettier-ignore
export const INTR_TYPE = {
  EXT_INTR:        0x000,
  RESERVED:        0x100,
  NMI_INTR:        0x200,
  HARD_EXCEPTION:  0x300,
  SOFT_INTR:       0x400,
  PRIV_SW_EXCEPTION: 0x500, // INT1
  SOFT_EXCEPTION:  0x600, // INT3, INTO
  OTHER_EVENT:     0x700, // VM entry: MTF pending (vector 0)
} as const;
