// SPDX-License-Identifier: GPL-2.0-only
/**
 * One cached mapping: a record of ENTRY_WORDS int32 words (doubles overlaid) in a TlbArray. It holds the translation,
 * its rights, the links of the array, and where it came from: who filled it, when, at which instruction, out of which
 * table entries. SDM, "Details of TLB Use" and "Information That May Be Cached".
 */

export const ENTRY_WORDS = 32;

/** Word offsets of a record. */
// prettier-ignore
export const ENTRY = {
  KEY_LO: 0,  // address of the page, low word; bits 1:0 are the PAGE_CODE
  KEY_HI: 1,
  SPACE:  2,  // tag, a TagSpaces id; -1: the record is free
  PERM:   3,  // PERM bits
  NEXT:   4,  // hash chain, or free list
  SEQ:    5,  // FrameTable.retirements when filled
  // 6 and 7 are ENTRY_F64.CYCLE
  PTE_HPA:  8, // host physical address of the leaf entry of the guest's tables; -1: none (guest-physical mapping)
  EPTE_HPA: 9, // ... of the leaf EPT entry; -1: EPT is off
  RIP_LO: 10, // the instruction that caused the walk
  RIP_HI: 11,
  FILLER: 12, // CPL (1:0), access kind (3:2), PCID (27:16) of the access that caused the walk
  HASH:   13,
  RAM:    14, // host physical address of the page if it begins in RAM, else -1
  // A plain walk touches nothing from here on: one line of the host's cache.
  BEFORE: 16, // list of the space
  AFTER:  17,
} as const;

/** Double offsets of a record (its first word / 2 + this). */
// prettier-ignore
export const ENTRY_F64 = {
  CYCLE:    3, // when it was filled
  HPA:      9, // host physical address of the page, valid if it is not in RAM: use recordBase()
  GPA:     10, // guest physical address of the page, valid with EPT only: use recordGpa()
  PTE_GPA: 11, // guest physical address of the leaf entry of the guest's tables; valid with EPT only
} as const;

/** Page sizes of a record. */
// prettier-ignore
export const PAGE_CODE = { S4K: 0, S2M: 1, S1G: 2 } as const;

/** Offset mask of a page by PAGE_CODE. */
export const pageOffsetMask = (code: number): number =>
  code === 0 ? 0xfff : code === 1 ? 0x1f_ffff : 0x3fff_ffff;

/** Rights of a record. */
// prettier-ignore
export const PERM = {
  W:      0x0001, // R/W is set in all guest entries
  U:      0x0002, // U/S is set in all guest entries
  X:      0x0004, // XD is set in no guest entry
  G:      0x0008, // global
  D:      0x0010, // dirty flags are set where there are any: stores need no walk
  PK_SHIFT: 8,    // protection key, bits 11:8
  EPT_R:  0x1000, // AND over the EPT entries; all set without EPT
  EPT_W:  0x2000,
  EPT_X:  0x4000,
  EPT_XU: 0x8000, // execute for user-mode addresses, under mode-based execute control
  EPT_ALL: 0xf000,
} as const;
