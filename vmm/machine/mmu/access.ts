// SPDX-License-Identifier: GPL-2.0-only
/**
 * What a memory access is, to the paging unit. The low two bits are the kind; the flags say how a failure is reported
 * (STACK) and whose right it is judged by (SYSTEM). SDM, "Determination of Access Rights".
 */

// prettier-ignore
export const ACCESS = {
  READ:   0,
  WRITE:  1,
  EXEC:   2, // Instruction fetch
  KIND:   3, // Mask of the three above
  STACK:  4, // Flag: by way of SS; a non-canonical address raises SS(0) instead of GP(0)
  SYSTEM: 8, // Flag: implicit supervisor access (descriptor tables, TSS): CPL and RFLAGS.AC do not count
} as const;
