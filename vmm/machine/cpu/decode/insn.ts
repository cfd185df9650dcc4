// SPDX-License-Identifier: GPL-2.0-only
/** One decoded instruction: plain data, independent of any CPU. */
import { DECODE, FORM, OP } from './ops.ts';

export interface DecodedInsn {
  /** DECODE.*; all else is meaningful only if OK. */
  status: number;
  /** OP.* */
  op: number;
  /** SYSOP.* if op is OP.SYS, else 0. */
  sysop: number;
  /** FORM.* */
  form: number;
  /** Bytes of the instruction, prefixes included. */
  length: number;
  /** Operand size in bytes: 1, 2, 4 or 8. */
  size: number;
  /** Size of the source, if it differs (MOVZX, MOVSX, MOVSXD), else `size`. */
  srcSize: number;
  /** ModRM.reg with REX.R; HIGH_BYTE + n for AH, CH, DH, BH; or the CR, DR or segment register number. */
  reg: number;
  /** The register of ModRM.rm or of the opcode; -1: memory, or no such operand. */
  rm: number;
  /** Whether there is a memory operand described by the next fields. */
  memory: boolean;
  /** GPR, or -1. */
  base: number;
  /** GPR, or -1. */
  index: number;
  /** 0..3 */
  scale: number;
  /** Displacement, sign-extended to 64 bits: low and high word. RIP-relative: relative to the next instruction. */
  disp: number;
  dispHi: number;
  ripRelative: boolean;
  /** Effective segment (SEGN): the override if it is FS or GS, else SS for RSP and RBP bases, else DS. */
  seg: number;
  /** 4 or 8. */
  addressSize: number;
  /** Immediate, sign-extended to 64 bits; a branch's displacement. ENTER: low word size, high word level. */
  immLo: number;
  immHi: number;
  /** Condition of Jcc, SETcc, CMOVcc. */
  cc: number;
  /** 0xf3, 0xf2 or 0: the repeat prefix, of instructions that repeat. */
  rep: number;
  lock: boolean;
}

/** An instruction with no operands, to be filled in. */
export function blankInsn(): DecodedInsn {
  return {
    status: DECODE.OK,
    op: OP.UD,
    sysop: 0,
    form: FORM.NONE,
    length: 0,
    size: 4,
    srcSize: 4,
    reg: 0,
    rm: -1,
    memory: false,
    base: -1,
    index: -1,
    scale: 0,
    disp: 0,
    dispHi: 0,
    ripRelative: false,
    seg: 3,
    addressSize: 8,
    immLo: 0,
    immHi: 0,
    cc: 0,
    rep: 0,
    lock: false,
  };
}
