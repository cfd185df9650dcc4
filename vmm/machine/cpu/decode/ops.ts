// SPDX-License-Identifier: GPL-2.0-only
/**
 * What the decoder calls things: operations of the integer ISA (one per mnemonic of the manual), operand forms and
 * outcomes. System instructions are one operation, OP.SYS, with a SYSOP beside it.
 */

/** Operations. The first eight and ROL..SAR are numbered as the manual's groups 1 and 2. */
// prettier-ignore
export const OP = {
  ADD: 0, OR: 1, ADC: 2, SBB: 3, AND: 4, SUB: 5, XOR: 6, CMP: 7,
  ROL: 8, ROR: 9, RCL: 10, RCR: 11, SHL: 12, SHR: 13, SAL: 14, SAR: 15,
  TEST: 16, NOT: 17, NEG: 18, INC: 19, DEC: 20, MUL: 21, IMUL: 22, DIV: 23, IDIV: 24,
  IMUL2: 25,            // IMUL with a destination register, two or three operands
  SHLD: 26, SHRD: 27, BT: 28, BTS: 29, BTR: 30, BTC: 31,
  BSF: 32, BSR: 33, POPCNT: 34, LZCNT: 35, TZCNT: 36, BSWAP: 37,
  MOV: 38, MOVZX: 39, MOVSX: 40, MOVSXD: 41, LEA: 42, CMOVCC: 43, SETCC: 44, MOVNTI: 45,
  XCHG: 46, CMPXCHG: 47, CMPXCHG8B: 48, CMPXCHG16B: 49, XADD: 50,
  MOVS: 51, STOS: 52, LODS: 53, CMPS: 54, SCAS: 55,
  PUSH: 56, POP: 57, CALL: 58, CALL_IND: 59, RET: 60, JMP: 61, JMP_IND: 62, JCC: 63, JRCXZ: 64,
  LOOP: 65, LOOPE: 66, LOOPNE: 67, LEAVE: 68, ENTER: 69,
  NOP: 70, CLC: 71, STC: 72, CMC: 73, CLD: 74, STD: 75, LAHF: 76, SAHF: 77,
  CBW: 78,              // CBW, CWDE and CDQE by operand size
  CWD: 79,              // CWD, CDQ and CQO by operand size
  FENCE: 80,            // MFENCE, LFENCE, SFENCE
  CLFLUSH: 81, FXSAVE: 82, FXRSTOR: 83, XLAT: 84,
  UD: 85,               // UD0, UD1, UD2: decoded, and raise UD
  SYS: 86,
} as const;

/** Operand forms: destination first. RM is ModRM.rm (or the register in the opcode), R is ModRM.reg, I the immediate. */
// prettier-ignore
export const FORM = { NONE: 0, RM: 1, RM_R: 2, R_RM: 3, RM_I: 4, RM_CL: 5, R_RM_I: 6, RM_R_I: 7, RM_R_CL: 8, I: 9, REL: 10 } as const;

/** Outcome of decoding. */
// prettier-ignore
export const DECODE = {
  OK: 0,
  INVALID: 1,       // UD: no such instruction, or a prefix that it does not allow
  TOO_LONG: 2,      // GP: more than 15 bytes
  TRUNCATED: 3,     // the bytes end before the instruction does
  UNIMPLEMENTED: 4, // an instruction of real processors that is not modelled (x87, SSE, AVX, ...)
} as const;

/** Number of AH in `reg` and `rm` of byte instructions without REX; CH, DH and BH follow. */
export const HIGH_BYTE = 16;
