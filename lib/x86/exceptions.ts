// SPDX-License-Identifier: GPL-2.0-only
/** Exception vectors and the page-fault error code. SDM, "Exception and Interrupt Reference". */

// prettier-ignore
export const VECTOR = {
  DE: 0,  // Divide error
  DB: 1,  // Debug
  NMI: 2,
  BP: 3,  // Breakpoint
  OF: 4,  // Overflow
  BR: 5,  // BOUND range exceeded
  UD: 6,  // Invalid opcode
  NM: 7,  // Device not available
  DF: 8,  // Double fault
  TS: 10, // Invalid TSS
  NP: 11, // Segment not present
  SS: 12, // Stack-segment fault
  GP: 13, // General protection
  PF: 14, // Page fault
  MF: 16, // x87 floating-point error
  AC: 17, // Alignment check
  MC: 18, // Machine check
  XM: 19, // SIMD floating-point
  VE: 20, // Virtualization exception
  CP: 21, // Control protection
} as const;

/** Page-fault error code; the names without KVM's PFERR_ prefix and _MASK suffix. SDM, "Page-Fault Exceptions". */
// prettier-ignore
export const PFERR = {
  PRESENT: 0x01, // Protection violation, not a missing page
  WRITE:   0x02,
  USER:    0x04,
  RSVD:    0x08, // Reserved bit set in an entry
  FETCH:   0x10, // Instruction fetch
  PK:      0x20, // Protection key
} as const;

/** Whether the exception pushes an error code. SDM, "Exception and Interrupt Reference". */
export function hasErrorCode(vector: number): boolean {
  return (
    vector === VECTOR.DF ||
    vector === VECTOR.AC ||
    vector === VECTOR.CP ||
    (vector >= VECTOR.TS && vector <= VECTOR.PF)
  );
}
