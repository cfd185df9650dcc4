// SPDX-License-Identifier: GPL-2.0-only
/** From the number of a system instruction to the function that executes it. */
import { codeName } from '../../../../lib/x86/bits.ts';
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { UnimplementedError } from '../../errors.ts';
import { executeVmxInsn } from '../../vmx/guest_insns.ts';
import type { Cpu } from '../cpu.ts';
import { getRip } from '../regs.ts';
import { RUN, S, SEGN } from '../state.ts';
import { SYSOP } from '../sys_insn.ts';
import { handleFault } from './exceptions.ts';
import { raiseUd } from './fault.ts';
import { clts, lmsw, movFromCr, movFromDr, movToCr, movToDr, smsw, xgetbv, xsetbv } from './op_control.ts';
import { cli, popf, pushf, setAc, sti } from './op_flags.ts';
import { int1, int3, iret, softwareInterrupt, syscall, sysenter, sysexit, sysret } from './op_flow.ts';
import {
  cpuidInsn,
  rdmsr,
  rdpid,
  rdpkru,
  rdpmc,
  rdrand,
  rdseed,
  rdtsc,
  rdtscp,
  readBase,
  swapgs,
  writeBase,
  wrmsr,
  wrpkru,
} from './op_info.ts';
import { portIn, portIns, portOut, portOuts } from './op_io.ts';
import { cacheFlush, hlt, invlpgInsn, invpcidInsn, monitor, mwait, pause } from './op_misc.ts';
import {
  lar,
  lldt,
  loadTable,
  lsl,
  ltr,
  movFromSreg,
  movToSreg,
  popSreg,
  pushSreg,
  storeSelector,
  storeTable,
  verr,
  verw,
} from './op_tables.ts';

type Handler = (cpu: Cpu) => number;

const BY_NAME: Readonly<Record<keyof typeof SYSOP, Handler>> = {
  CPUID: cpuidInsn,
  RDTSC: rdtsc,
  RDTSCP: rdtscp,
  RDPMC: rdpmc,
  RDMSR: rdmsr,
  WRMSR: wrmsr,
  HLT: hlt,
  IN: portIn,
  OUT: portOut,
  INS: portIns,
  OUTS: portOuts,
  MOV_FROM_CR: movFromCr,
  MOV_TO_CR: movToCr,
  MOV_FROM_DR: movFromDr,
  MOV_TO_DR: movToDr,
  CLTS: clts,
  LMSW: lmsw,
  SMSW: smsw,
  INVLPG: invlpgInsn,
  INVPCID: invpcidInsn,
  INVD: cacheFlush,
  WBINVD: cacheFlush,
  SWAPGS: swapgs,
  LGDT: (cpu) => loadTable(cpu, S.GDTR_BASE, S.GDTR_LIMIT),
  LIDT: (cpu) => loadTable(cpu, S.IDTR_BASE, S.IDTR_LIMIT),
  SGDT: (cpu) => storeTable(cpu, S.GDTR_BASE, S.GDTR_LIMIT),
  SIDT: (cpu) => storeTable(cpu, S.IDTR_BASE, S.IDTR_LIMIT),
  LLDT: lldt,
  SLDT: (cpu) => storeSelector(cpu, SEGN.LDTR),
  LTR: ltr,
  STR: (cpu) => storeSelector(cpu, SEGN.TR),
  MOV_TO_SREG: movToSreg,
  MOV_FROM_SREG: movFromSreg,
  PUSH_SREG: pushSreg,
  POP_SREG: popSreg,
  LAR: lar,
  LSL: lsl,
  VERR: verr,
  VERW: verw,
  IRET: iret,
  CLI: cli,
  STI: sti,
  PUSHF: pushf,
  POPF: popf,
  INT: softwareInterrupt,
  INT3: int3,
  INT1: int1,
  PAUSE: pause,
  MONITOR: monitor,
  MWAIT: mwait,
  XGETBV: xgetbv,
  XSETBV: xsetbv,
  RDFSBASE: (cpu) => readBase(cpu, SEGN.FS),
  RDGSBASE: (cpu) => readBase(cpu, SEGN.GS),
  WRFSBASE: (cpu) => writeBase(cpu, SEGN.FS),
  WRGSBASE: (cpu) => writeBase(cpu, SEGN.GS),
  RDPKRU: rdpkru,
  WRPKRU: wrpkru,
  STAC: (cpu) => setAc(cpu, RFLAGS.AC),
  CLAC: (cpu) => setAc(cpu, 0),
  SYSCALL: syscall,
  SYSRET: sysret,
  SYSENTER: sysenter,
  SYSEXIT: sysexit,
  RDRAND: rdrand,
  RDSEED: rdseed,
  RDPID: rdpid,
  VMXON: executeVmxInsn,
  VMXOFF: executeVmxInsn,
  VMPTRLD: executeVmxInsn,
  VMPTRST: executeVmxInsn,
  VMCLEAR: executeVmxInsn,
  VMREAD: executeVmxInsn,
  VMWRITE: executeVmxInsn,
  VMLAUNCH: executeVmxInsn,
  VMRESUME: executeVmxInsn,
  VMCALL: executeVmxInsn,
  VMFUNC: executeVmxInsn,
  INVEPT: executeVmxInsn,
  INVVPID: executeVmxInsn,
  // Without EFER.SVME, which no profile allows yet.
  VMRUN: raiseUd,
  VMLOAD: raiseUd,
  VMSAVE: raiseUd,
  VMMCALL: raiseUd,
  CLGI: raiseUd,
  STGI: raiseUd,
  INVLPGA: raiseUd,
  SKINIT: raiseUd,
};

/** Handlers by number. */
const HANDLERS: readonly (Handler | undefined)[] = (() => {
  const table: (Handler | undefined)[] = [];
  for (const [name, number] of Object.entries(SYSOP)) table[number] = BY_NAME[name as keyof typeof SYSOP];
  return table;
})();

/**
 * Execute cpu.insn without delivering what it raises: NEXT, TRANSFERRED, RUN.FAULT (cpu.fault is set), or another RUN
 * value.
 */
export function dispatchSystem(cpu: Cpu): number {
  const handler = HANDLERS[cpu.insn.op];
  if (handler === undefined) {
    const where = `CPU ${cpu.id}, ${cpu.vmx.nonRoot ? 'VMX non-root' : 'root'}, RIP 0x${getRip(cpu).toString(16)}`;
    throw new UnimplementedError(`system instruction ${codeName(SYSOP, cpu.insn.op)}: ${where}`);
  }
  return handler(cpu);
}

/** Execute cpu.insn, exceptions included. -1: go on; else RUN.VMEXIT or RUN.SHUTDOWN. */
export function executeSystem(cpu: Cpu): number {
  const result = dispatchSystem(cpu);
  if (result === RUN.FAULT) return handleFault(cpu);
  return result < 0 ? -1 : result;
}
