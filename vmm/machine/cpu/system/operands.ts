// SPDX-License-Identifier: GPL-2.0-only
/**
 * Operands of system instructions: general registers by size, memory at cpu.insn's effective address, and the end of an
 * instruction.
 */
import { ACCESS } from '../../mmu/access.ts';
import { loadLinear, storeLinear } from '../../mmu/linear.ts';
import type { Cpu } from '../cpu.ts';
import { advanceRip } from '../regs.ts';
import { BLOCKING, RUN, S, SEGN } from '../state.ts';
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { NEXT } from './fault.ts';

/** The instruction is complete: RIP moves past it, RF and the shadows of STI and MOV SS end. */
export function complete(cpu: Cpu): number {
  const { s } = cpu;
  advanceRip(cpu, cpu.insn.length);
  endShadow(cpu);
  s[S.RFLAGS_SYS] = s[S.RFLAGS_SYS]! & ~RFLAGS.RF;
  return NEXT;
}

/** Blocking by STI and by MOV SS lasts for one instruction. */
export function endShadow(cpu: Cpu): void {
  cpu.s[S.BLOCKING] = cpu.s[S.BLOCKING]! & ~(BLOCKING.STI | BLOCKING.MOV_SS);
}

/** Write a general register: 8 bytes, 4 zero-extended, 2 or 1 merged. */
export function writeGpr(cpu: Cpu, reg: number, size: number, lo: number, hi: number): void {
  const { s } = cpu;
  const at = S.GPR + 2 * reg;
  switch (size) {
    case 8:
      s[at] = lo;
      s[at + 1] = hi;
      break;
    case 4:
      s[at] = lo;
      s[at + 1] = 0;
      break;
    case 2:
      s[at] = (s[at]! & ~0xffff) | (lo & 0xffff);
      break;
    default:
      s[at] = (s[at]! & ~0xff) | (lo & 0xff);
  }
}

/** Access flags of cpu.insn's memory operand. */
function operandFlags(cpu: Cpu): number {
  return cpu.insn.seg === SEGN.SS ? ACCESS.STACK : 0;
}

/** Load `size` bytes at the memory operand plus `offset` into sys.value[0..1]. */
export function loadOperand(cpu: Cpu, offset: number, size: number): boolean {
  const { insn, sys } = cpu;
  const lo = (insn.eaLo >>> 0) + offset;
  const hi = insn.eaHi + (lo >= 0x1_0000_0000 ? 1 : 0);
  return loadLinear(cpu, lo | 0, hi | 0, size, sys.value, operandFlags(cpu));
}

/** Store `size` bytes at the memory operand plus `offset`. */
export function storeOperand(cpu: Cpu, offset: number, size: number, vLo: number, vHi: number): boolean {
  const { insn } = cpu;
  const lo = (insn.eaLo >>> 0) + offset;
  const hi = insn.eaHi + (lo >= 0x1_0000_0000 ? 1 : 0);
  return storeLinear(cpu, lo | 0, hi | 0, size, vLo, vHi, operandFlags(cpu));
}

/** A 16-bit r/m source (selectors, machine status word) into sys.value[0]. */
export function readRm16(cpu: Cpu): boolean {
  const { insn, sys, s } = cpu;
  if (insn.rm < 0) return loadOperand(cpu, 0, 2);
  sys.value[0] = s[S.GPR + 2 * insn.rm]! & 0xffff;
  return true;
}

/** An r/m destination: a register takes the operand size, memory 16 bits. Completes the instruction. */
export function writeRm16(cpu: Cpu, value: number): number {
  const { insn } = cpu;
  if (insn.rm < 0) {
    if (!storeOperand(cpu, 0, 2, value, 0)) return RUN.FAULT;
  } else {
    writeGpr(cpu, insn.rm, insn.size, value, 0);
  }
  return complete(cpu);
}

/** EDX:EAX of an instruction that writes both, upper halves cleared. */
export function writeEdxEax(cpu: Cpu, eax: number, edx: number): void {
  writeGpr(cpu, 0, 4, eax, 0);
  writeGpr(cpu, 2, 4, edx, 0);
}

/** Push `size` (2 or 8) bytes; false: cpu.fault is set and RSP unchanged. */
export function pushValue(cpu: Cpu, size: number, lo: number, hi: number): boolean {
  const { s } = cpu;
  const at = S.GPR + 8;
  const old = s[at]! >>> 0;
  const spHi = old < size ? s[at + 1]! - 1 : s[at + 1]!;
  if (!storeLinear(cpu, (old - size) | 0, spHi | 0, size, lo, hi, ACCESS.STACK)) return false;
  s[at] = old - size;
  s[at + 1] = spHi;
  return true;
}

/** Read `size` bytes at RSP + offset into sys.value[0..1]; RSP does not move. */
export function peekStack(cpu: Cpu, offset: number, size: number): boolean {
  const { s, sys } = cpu;
  const lo = (s[S.GPR + 8]! >>> 0) + offset;
  const hi = s[S.GPR + 9]! + (lo >= 0x1_0000_0000 ? 1 : 0);
  return loadLinear(cpu, lo | 0, hi | 0, size, sys.value, ACCESS.STACK);
}

/** RSP += size. */
export function popStack(cpu: Cpu, size: number): void {
  const { s } = cpu;
  const lo = (s[S.GPR + 8]! >>> 0) + size;
  s[S.GPR + 8] = lo | 0;
  if (lo >= 0x1_0000_0000) s[S.GPR + 9] = s[S.GPR + 9]! + 1;
}
