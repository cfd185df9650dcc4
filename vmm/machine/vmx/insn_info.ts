// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM-exit instruction information and the exit qualification of instructions with a memory operand. SDM, "Information
 * for VM Exits Due to Instruction Execution"; one format per group of instructions.
 */
import { INSN_INFO } from '../../../lib/x86/vmx/exit_quals.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S, SEG_WORDS, SEGF, SEGN } from '../cpu/state.ts';
import { SYSOP, type SysInsn } from '../cpu/sys_insn.ts';
import * as W from './words.ts';

/** The identity of descriptor-table instructions: bits 29:28. */
// prettier-ignore
const IDENTITY: Readonly<Record<number, number>> = {
  [SYSOP.SGDT]: 0, [SYSOP.SIDT]: 1, [SYSOP.LGDT]: 2, [SYSOP.LIDT]: 3,
  [SYSOP.SLDT]: 0, [SYSOP.STR]: 1, [SYSOP.LLDT]: 2, [SYSOP.LTR]: 3,
};

/** Address size 2, 4 or 8 bytes as 0, 1, 2. */
const sizeCode = (bytes: number): number => bytes >>> 2;

/** Operand in memory (bit 10 clear) or the register that stands for it. */
function operandInfo(insn: SysInsn): number {
  if (insn.rm >= 0) return INSN_INFO.REG_OPERAND | (insn.rm << INSN_INFO.REG1_SHIFT);
  const index = insn.index < 0 ? INSN_INFO.INDEX_INVALID : (insn.index << INSN_INFO.INDEX_SHIFT) | insn.scale;
  const base = insn.base < 0 ? INSN_INFO.BASE_INVALID : insn.base << INSN_INFO.BASE_SHIFT;
  return (
    index |
    base |
    (sizeCode(insn.addressSize) << INSN_INFO.ADDR_SIZE_SHIFT) |
    (insn.seg << INSN_INFO.SEG_SHIFT)
  );
}

/** LGDT, SIDT and their kind; LLDT, STR and theirs. */
export function tableInsnInfo(insn: SysInsn): number {
  const size = insn.rm >= 0 ? 0 : (insn.size === 2 ? 0 : 1) << INSN_INFO.OPERAND_SIZE_SHIFT;
  return operandInfo(insn) | size | (IDENTITY[insn.op]! << INSN_INFO.IDENTITY_SHIFT);
}

/** INVEPT, INVVPID, INVPCID, VMREAD, VMWRITE (register operand in bits 31:28), VMCLEAR and the like (0 there). */
export function vmxInsnInfo(insn: SysInsn): number {
  const hasReg2 =
    insn.op === SYSOP.INVEPT ||
    insn.op === SYSOP.INVVPID ||
    insn.op === SYSOP.INVPCID ||
    insn.op === SYSOP.VMREAD ||
    insn.op === SYSOP.VMWRITE;
  return operandInfo(insn) | (hasReg2 ? insn.reg << INSN_INFO.REG2_SHIFT : 0);
}

/** RDRAND and RDSEED: destination and operand size. */
export function randomInsnInfo(insn: SysInsn): number {
  return (insn.rm << INSN_INFO.REG1_SHIFT) | (sizeCode(insn.size) << INSN_INFO.OPERAND_SIZE_SHIFT);
}

/** INS and OUTS: address size, and the segment of OUTS. */
export function stringIoInfo(insn: SysInsn): number {
  const seg = insn.op === SYSOP.OUTS ? insn.seg << INSN_INFO.SEG_SHIFT : 0;
  return (sizeCode(insn.addressSize) << INSN_INFO.ADDR_SIZE_SHIFT) | seg;
}

/**
 * The displacement of a memory operand as exit qualification, into vmx.scratch; RIP-relative operands have the sum with
 * the next instruction's address, which is the effective address before the segment base. 0 for a register operand.
 */
export function displacement(cpu: Cpu): Int32Array {
  const {
    insn,
    s,
    vmx: { scratch: out },
  } = cpu;
  out[0] = 0;
  out[1] = 0;
  if (insn.rm >= 0) return out;
  out[0] = insn.disp;
  out[1] = insn.disp >> 31;
  if (insn.base >= 0 || insn.index >= 0) return out;
  const hasBase = insn.seg === SEGN.FS || insn.seg === SEGN.GS;
  const at = S.SEG + insn.seg * SEG_WORDS + SEGF.BASE;
  const lo = (insn.eaLo >>> 0) - (hasBase ? s[at]! >>> 0 : 0);
  out[0] = lo | 0;
  out[1] = insn.eaHi - (hasBase ? s[at + 1]! : 0) - (lo < 0 ? 1 : 0);
  return out;
}

/** Linear address of the memory operand of INS (ES:RDI) or OUTS (seg:RSI) into the guest-linear-address field. */
export function recordStringAddress(cpu: Cpu): void {
  const {
    insn,
    s,
    mem: { i32 },
    vmx: { base },
  } = cpu;
  const reg = S.GPR + 2 * (insn.op === SYSOP.INS ? 7 : 6);
  const hasBase = insn.op === SYSOP.OUTS && (insn.seg === SEGN.FS || insn.seg === SEGN.GS);
  const seg = S.SEG + insn.seg * SEG_WORDS + SEGF.BASE;
  const lo = (s[reg]! >>> 0) + (hasBase ? s[seg]! >>> 0 : 0);
  const hi = (insn.addressSize === 8 ? s[reg + 1]! : 0) + (hasBase ? s[seg + 1]! : 0);
  i32[base + W.GUEST_LINEAR_ADDRESS] = lo | 0;
  i32[base + W.GUEST_LINEAR_ADDRESS + 1] = hi + (lo >= 0x1_0000_0000 ? 1 : 0);
}
