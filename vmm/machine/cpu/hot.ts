// SPDX-License-Identifier: GPL-2.0-only
/**
 * Records of the interpreter's loop: eight words each, in machine memory, so that a later compiler tier can read them.
 * Most instructions are one record; those with a memory operand may be several (address, load, operate, store).
 */

/** Words of a record. */
// prettier-ignore
export const REC = {
  K: 0,      // HOT.*
  D: 1,      // word index of the destination in cpu.s
  S: 2,      // of the source, or of the base register
  IMM: 3,    // immediate or displacement, low word; page offset of a branch's target
  IMM_HI: 4, // high word; LEA_BX: index register's word | scale << 16; CALL: page offset of the next instruction
  X: 5,      // branches: record of the target once it is known; else how many records of the instruction follow
  OFF: 6,    // page offset of the instruction
  POS: 7,    // see recordPosition()
} as const;
export const REC_WORDS = 8;

/** Cases of the loop. Suffix 64 or 32: operand size; I: immediate source. */
// prettier-ignore
export const HOT = {
  GENERIC: 0, LINK: 1, NOP: 2, MOV64: 3, MOV32: 4, MOVI: 5, LEA_BD: 6, LEA_BX: 7, LEA_RIP: 8,
  LD64: 9, LD32: 10, LD16: 11, LD8: 12,
  LDW64: 13, LDW32: 14, // load for a read-modify-write, ...
  STT64: 15, STT32: 16, // ... whose result is stored where the load was
  ST64: 17, ST32: 18, ST16: 19, ST8: 20, MOVZX8: 21, MOVZX16: 22, MOVSXD: 23,
  ADD64: 24, ADD64I: 25, SUB64: 26, SUB64I: 27, CMP64: 28, CMP64I: 29, AND64: 30, AND64I: 31,
  OR64: 32, OR64I: 33, XOR64: 34, XOR64I: 35, TEST64: 36, TEST64I: 37,
  ADD32: 38, ADD32I: 39, SUB32: 40, SUB32I: 41, CMP32: 42, CMP32I: 43, AND32: 44, AND32I: 45,
  OR32: 46, OR32I: 47, XOR32: 48, XOR32I: 49, TEST32: 50, TEST32I: 51,
  INC64: 52, DEC64: 53, INC32: 54, DEC32: 55,
  SHL64: 56, SHR64: 57, SAR64: 58, SHL32: 59, SHR32: 60, SAR32: 61, IMUL64: 62, IMUL32: 63,
  PUSH: 64, POP: 65, CALL: 66, RET: 67, JMP: 68, JMP_R: 69, CALL_R: 70, CMOV64: 71, CMOV32: 72, SETCC: 73,
  CMP8: 74, CMP8I: 75, TEST8: 76, TEST8I: 77, // low byte registers, and memory by way of a load
  JCC: 80, // and the condition: 80..95
} as const;

/** Why the loop hands over to slow.ts. */
// prettier-ignore
export const WHY = {
  ENTER:   0, // RIP has changed: find its record
  CHAIN:   1, // as ENTER, and the record of the branch wants to know the answer
  TIME:    2, // the time slice is over
  GENERIC: 3, // the instruction has no case of its own
  MISS:    4, // the fast TLB does not allow its memory access: SCRATCH.ADDR and KIND
} as const;

/**
 * REC.POS: how many records from this one to the next instruction (bits 7:0), how many instructions to take back so that
 * this one has not been counted, plus 128 (bits 15:8), how many records of the instruction are before this one (23:16).
 */
export function recordPosition(index: number, total: number): number {
  const undo = index === 0 ? 1 : index + 2 - total;
  return (total - index) | ((undo + 128) << 8) | (index << 16);
}
