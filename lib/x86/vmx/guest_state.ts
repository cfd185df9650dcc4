// SPDX-License-Identifier: GPL-2.0-only
/**
 * Formats of the guest non-register state and of segment access rights, by KVM's names. SDM, "Guest Register State"
 * and "Guest Non-Register State".
 */

/** Segment access rights. */
// prettier-ignore
export const VMX_AR = {
  TYPE_ACCESSES_MASK:  0x0000_0001,
  TYPE_READABLE_MASK:  0x0000_0002, // of a code segment
  TYPE_WRITEABLE_MASK: 0x0000_0002, // of a data segment
  TYPE_EXPAND_DOWN:    0x0000_0004, // of a data segment
  TYPE_CONFORMING:     0x0000_0004, // of a code segment
  TYPE_CODE_MASK:      0x0000_0008,
  TYPE_MASK:           0x0000_000f,
  TYPE_LDT:            0x0000_0002,
  TYPE_BUSY_16_TSS:    0x0000_0003,
  TYPE_BUSY_64_TSS:    0x0000_000b,
  S_MASK:              0x0000_0010,
  DPL_MASK:            0x0000_0060,
  P_MASK:              0x0000_0080,
  RESERVD_LOW:         0x0000_0f00,
  AVL_MASK:            0x0000_1000,
  L_MASK:              0x0000_2000,
  DB_MASK:             0x0000_4000,
  G_MASK:              0x0000_8000,
  UNUSABLE_MASK:       0x0001_0000,
  RESERVD_MASK:        0xfffe_0f00,
} as const;
export const VMX_AR_DPL_SHIFT = 5;

/** Interruptibility state. */
// prettier-ignore
export const GUEST_INTR_STATE = {
  STI:          0x01, // Blocking by STI
  MOV_SS:       0x02, // Blocking by MOV SS
  SMI:          0x04, // Blocking by SMI
  NMI:          0x08, // Blocking by NMI, or of virtual NMIs
  ENCLAVE_INTR: 0x10, // Enclave interruption
} as const;

/** Activity state. */
// prettier-ignore
export const GUEST_ACTIVITY = { ACTIVE: 0, HLT: 1, SHUTDOWN: 2, WAIT_SIPI: 3 } as const;

/** Pending debug exceptions. */
// prettier-ignore
export const PENDING_DBG = {
  B0_B3:              0x0000_000f,
  BLD:                0x0000_0800,
  ENABLED_BREAKPOINT: 0x0000_1000,
  BS:                 0x0000_4000,
  RTM:                0x0001_0000,
} as const;
