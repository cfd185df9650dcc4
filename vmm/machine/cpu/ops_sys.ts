// SPDX-License-Identifier: GPL-2.0-only
/** Hands a system instruction over: its operands go to cpu.insn, RIP stays at it. Executed by cpu/system and vmx. */
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { addSegmentBase, effectiveAddress } from './operand.ts';
import { DONE } from './op_result.ts';
import { SCRATCH } from './regs.ts';
import { S } from './state.ts';
import { SYSOP } from './sys_insn.ts';

const { ADDR } = SCRATCH;

/** Linear address of the operand: ModRM memory, or the string that INS and OUTS use. */
function operandAddress(cpu: Cpu, x: DecodedInsn): void {
  const { s } = cpu;
  if (x.memory) {
    effectiveAddress(cpu, x);
    return;
  }
  const at = x.sysop === SYSOP.INS ? S.GPR + 14 : S.GPR + 12;
  s[ADDR] = s[at]!;
  s[ADDR + 1] = x.addressSize === 4 ? 0 : s[at + 1]!;
  if (x.sysop === SYSOP.OUTS) addSegmentBase(cpu, ADDR, x.seg);
}

export function sysOp(cpu: Cpu, x: DecodedInsn): number {
  const { insn, s } = cpu;
  operandAddress(cpu, x);
  insn.op = x.sysop;
  insn.length = x.length;
  insn.size = x.size;
  insn.reg = x.reg;
  insn.rm = x.rm;
  insn.eaLo = s[ADDR]!;
  insn.eaHi = s[ADDR + 1]!;
  insn.seg = x.seg;
  insn.base = x.base;
  insn.index = x.index;
  insn.scale = x.scale;
  insn.disp = x.disp;
  insn.addressSize = x.addressSize;
  insn.imm = x.immLo;
  insn.rep = x.rep === 0 ? 0 : 1;
  return DONE.SYS;
}
