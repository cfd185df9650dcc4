// SPDX-License-Identifier: GPL-2.0-only
/** VMX instructions of L2: all exit, with the displacement as qualification and the operands in the instruction information. */
import { m64, mem, R } from '../../../lib/asm/operands.ts';
import { SPECIAL } from './areas.ts';
import type { VmxCase } from './cases.ts';

const AT = { base: R.rbx, index: R.r14, scale: 2, disp: -0x18 } as const;
const regs = { rbx: SPECIAL + 0x100n, r14: 3, r9: SPECIAL, rsi: 0x6820 } as const;

/** VMX instructions in VMX non-root operation. SDM, "VMX Instruction Reference": each begins with this check. */
export const VMX_CASE_VMX_INSNS: readonly VmxCase[] = [
  ...(['vmlaunch', 'vmresume', 'vmxoff'] as const).map((insn): VmxCase => ({
    name: `l2_${insn}`,
    code: (a) => a.emit(insn),
  })),
  ...(['vmxon', 'vmclear', 'vmptrld', 'vmptrst'] as const).flatMap((insn): VmxCase[] => [
    { name: `l2_${insn}`, regs, code: (a) => a.emit(insn, m64(AT)) },
    { name: `l2_${insn}_base`, regs, code: (a) => a.emit(insn, m64({ base: R.r9 })) },
    { name: `l2_${insn}_gs`, regs, code: (a) => a.emit(insn, m64({ base: R.rbx, seg: R.gs, disp: 0x1234 })) },
  ]),
  { name: 'l2_vmread_register', regs, code: (a) => a.emit('vmread', R.rdi, R.rsi) },
  { name: 'l2_vmread_memory', regs, code: (a) => a.emit('vmread', m64(AT), R.rsi) },
  { name: 'l2_vmwrite_register', regs, code: (a) => a.emit('vmwrite', R.r11, R.rcx) },
  { name: 'l2_vmwrite_memory', regs, code: (a) => a.emit('vmwrite', R.rsi, m64({ base: R.rbx, disp: 8 })) },
  { name: 'l2_invept', regs, code: (a) => a.emit('invept', R.r10, mem(128, AT)) },
  { name: 'l2_invvpid', regs, code: (a) => a.emit('invvpid', R.rdx, mem(128, { base: R.r9, disp: 0x7f })) },
  { name: 'l2_vmfunc', code: (a) => a.emit('vmfunc') },
];
