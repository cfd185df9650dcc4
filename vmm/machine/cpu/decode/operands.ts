// SPDX-License-Identifier: GPL-2.0-only
/**
 * Operands, in the notation of the manual's opcode map with some additions. Kinds: E ModRM.rm, M memory only, R register
 * only, X register whatever ModRM.mod says, G ModRM.reg, Z register in the opcode, A accumulator, O memory offset, P the
 * row's FS or GS, I immediate, J branch displacement, 1, C (CL), D (DX), S only a size. Sizes: b w d q; v 16/32/64;
 * z 16/32; y 32/64; u 16/32 without REX.W; Q 64, or 16 with 66; s v for a register and 16 for memory; m v, at most 32.
 */
import type { Cursor } from './cursor.ts';
import type { DecodedInsn } from './insn.ts';
import { FORM, HIGH_BYTE } from './ops.ts';

const SEG_SS = 2;
const SEG_DS = 3;
const RSP = 4;
const RBP = 5;

/** Bytes of an operand of size letter `letter`. */
export function operandBytes(letter: string, c: Cursor, memory: boolean): number {
  const wide = (c.rex & 8) !== 0;
  const v = wide ? 8 : c.operandSize ? 2 : 4;
  switch (letter) {
    case 'b':
      return 1;
    case 'w':
      return 2;
    case 'd':
      return 4;
    case 'q':
      return 8;
    case 'z':
    case 'm':
      return Math.min(v, 4);
    case 'y':
      return wide ? 8 : 4;
    case 'u':
      return c.operandSize ? 2 : 4;
    case 'Q':
      return c.operandSize && !wide ? 2 : 8;
    case 's':
      return memory ? 2 : v;
    default:
      return v;
  }
}

/** Parse ModRM, SIB and displacement of a memory operand. SDM, "ModR/M and SIB Bytes". */
export function parseMemory(c: Cursor, insn: DecodedInsn, modrm: number): void {
  const mod = modrm >> 6;
  let rm = modrm & 7;
  insn.memory = true;
  let noBase = mod === 0 && rm === 5;
  insn.ripRelative = noBase;
  if (rm === 4) {
    const sib = c.u8();
    insn.scale = sib >> 6;
    const index = ((sib >> 3) & 7) | ((c.rex & 2) << 2);
    insn.index = index === RSP ? -1 : index;
    if (insn.index < 0) insn.scale = 0;
    rm = sib & 7;
    noBase = mod === 0 && rm === 5;
  }
  if (!noBase) insn.base = rm | ((c.rex & 1) << 3);
  if (mod === 1) insn.disp = c.i8();
  else if (mod === 2 || noBase) insn.disp = c.i32();
  insn.dispHi = insn.disp >> 31;
}

/** The segment that the memory operand uses. */
export function effectiveSegment(c: Cursor, insn: DecodedInsn): number {
  if (c.seg >= 0) return c.seg;
  return insn.base === RSP || insn.base === RBP ? SEG_SS : SEG_DS;
}

/** AH, CH, DH and BH have the numbers of SPL..DIL in instructions without REX. */
export function byteRegister(c: Cursor, reg: number, bytes: number): number {
  return bytes === 1 && c.rex === 0 && reg >= 4 && reg < 8 ? HIGH_BYTE + reg - 4 : reg;
}

/** Read the immediate that `token` names. */
export function parseImmediate(c: Cursor, insn: DecodedInsn, token: string): void {
  switch (token) {
    case '1':
      insn.immLo = 1;
      return;
    case 'D':
      insn.immLo = -1;
      break;
    case 'Ib':
    case 'IQB':
    case 'Jb':
      insn.immLo = c.i8();
      break;
    case 'IB':
      insn.immLo = c.u8();
      break;
    case 'Iw':
      insn.immLo = c.u16();
      break;
    case 'Jz':
      insn.immLo = c.i32();
      break;
    case 'IE':
      insn.immLo = c.u16();
      insn.immHi = c.u8();
      return;
    case 'Iv':
      if (insn.size === 8) {
        insn.immLo = c.i32();
        insn.immHi = c.i32();
        return;
      }
      insn.immLo = insn.size === 2 ? (c.u16() << 16) >> 16 : c.i32();
      break;
    default:
      insn.immLo = insn.size === 2 ? (c.u16() << 16) >> 16 : c.i32();
  }
  insn.immHi = insn.immLo >> 31;
}

const isRm = (kind: string): boolean => 'EMRXZAO'.includes(kind);

/** The form of an operand list. */
export function formOf(operands: readonly string[]): number {
  const kinds = operands.filter((t) => !t.startsWith('S') && !t.startsWith('P')).map((t) => t[0]!);
  const [a, b, c] = kinds;
  if (a === undefined) return FORM.NONE;
  if (a === 'I' || a === 'D') return FORM.I;
  if (a === 'J') return FORM.REL;
  if (b === undefined) return FORM.RM;
  if (a === 'G' || (a === 'A' && b === 'O')) return c === undefined ? FORM.R_RM : FORM.R_RM_I;
  if (!isRm(a)) return FORM.NONE;
  if (b === 'I' || b === '1') return FORM.RM_I;
  if (b === 'C') return FORM.RM_CL;
  if (c === 'I') return FORM.RM_R_I;
  return c === 'C' ? FORM.RM_R_CL : FORM.RM_R;
}
