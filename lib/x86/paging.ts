// SPDX-License-Identifier: GPL-2.0-only
/** Paging-structure entries: the low word's bits, and those of the high word. SDM, "4-Level Paging and 5-Level Paging". */

/** Bits 31:0 of a paging-structure entry. */
// prettier-ignore
export const PTE = {
  P:   0x001, // Present
  RW:  0x002, // Writable
  US:  0x004, // User
  PWT: 0x008,
  PCD: 0x010,
  A:   0x020, // Accessed
  D:   0x040, // Dirty
  PS:  0x080, // Page size (not in a PTE, where the bit is PAT)
  G:   0x100, // Global
} as const;

/** Bits 63:32 of a paging-structure entry, as masks of the high word. */
// prettier-ignore
export const PTE_HI = {
  PK_MASK: 0x7800_0000, // Protection key, bits 62:59
  NX:      0x8000_0000, // Execute disable, bit 63
} as const;
export const PTE_HI_PK_SHIFT = 27;

/** Bits 31:0 of an EPT entry. SDM, "The Extended Page Table Mechanism". */
// prettier-ignore
export const EPTE = {
  R:       0x001, // Read
  W:       0x002, // Write
  X:       0x004, // Execute (supervisor, if mode-based execute control is on)
  MT_MASK: 0x038, // Memory type, bits 5:3, of a leaf
  IPAT:    0x040, // Ignore PAT, of a leaf
  PS:      0x080, // Leaf at levels 2 and 3
  A:       0x100, // Accessed
  D:       0x200, // Dirty
  XU:      0x400, // Execute for user-mode linear addresses
} as const;

/** Levels of a walk, as KVM counts them: 1 is the leaf table. */
// prettier-ignore
export const PG_LEVEL = { L4K: 1, L2M: 2, L1G: 3, L512G: 4, L256T: 5 } as const;
