// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM exits due to instructions. SDM, "Instructions That Cause VM Exits" (unconditionally, conditionally) and "Basic
 * VM-Exit Information". Faults that come before the exit ("Relative Priority of Faults and VM Exits") are the caller's.
 */
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { IO_QUAL, IO_QUAL_PORT_SHIFT } from '../../../lib/x86/vmx/exit_quals.ts';
import { EXIT_REASON } from '../../../lib/x86/vmx/exit_reasons.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { SYSOP } from '../cpu/sys_insn.ts';
import { ioExits, rdmsrExits, vmreadExits, vmwriteExits, wrmsrExits } from './bitmaps.ts';
import { vmxExit } from './exit.ts';
import {
  displacement,
  randomInsnInfo,
  recordStringAddress,
  stringIoInfo,
  tableInsnInfo,
  vmxInsnInfo,
} from './insn_info.ts';
import { crAccessQual, drAccessQual } from './intercept_cr.ts';
import { pauseExits } from './pause_loop.ts';
import * as W from './words.ts';

/** Above every SYSOP. */
const NR_SYSOPS = 128;

/** Instructions whose exit depends on a control alone: reason, and the control of the primary or secondary word. */
interface SimpleExit {
  readonly reason: number;
  readonly cpuBased?: number;
  readonly secondary?: number;
}

// prettier-ignore
const SIMPLE: Readonly<Record<number, SimpleExit>> = {
  [SYSOP.CPUID]:   { reason: EXIT_REASON.CPUID },
  [SYSOP.INVD]:    { reason: EXIT_REASON.INVD },
  [SYSOP.XSETBV]:  { reason: EXIT_REASON.XSETBV },
  [SYSOP.VMCALL]:  { reason: EXIT_REASON.VMCALL },
  [SYSOP.VMLAUNCH]: { reason: EXIT_REASON.VMLAUNCH },
  [SYSOP.VMRESUME]: { reason: EXIT_REASON.VMRESUME },
  [SYSOP.VMXOFF]:  { reason: EXIT_REASON.VMOFF },
  [SYSOP.HLT]:     { reason: EXIT_REASON.HLT, cpuBased: CPU_BASED.HLT_EXITING },
  [SYSOP.RDTSC]:   { reason: EXIT_REASON.RDTSC, cpuBased: CPU_BASED.RDTSC_EXITING },
  [SYSOP.RDTSCP]:  { reason: EXIT_REASON.RDTSCP, cpuBased: CPU_BASED.RDTSC_EXITING },
  [SYSOP.RDPMC]:   { reason: EXIT_REASON.RDPMC, cpuBased: CPU_BASED.RDPMC_EXITING },
  [SYSOP.MWAIT]:   { reason: EXIT_REASON.MWAIT_INSTRUCTION, cpuBased: CPU_BASED.MWAIT_EXITING },
  [SYSOP.MONITOR]: { reason: EXIT_REASON.MONITOR_INSTRUCTION, cpuBased: CPU_BASED.MONITOR_EXITING },
  [SYSOP.WBINVD]:  { reason: EXIT_REASON.WBINVD, secondary: SECONDARY_EXEC.WBINVD_EXITING },
};

/** Instructions whose exits carry a displacement and VMX instruction information; all but VMREAD and VMWRITE always exit. */
// prettier-ignore
const VMX_OPERAND: Readonly<Record<number, number>> = {
  [SYSOP.VMCLEAR]: EXIT_REASON.VMCLEAR, [SYSOP.VMPTRLD]: EXIT_REASON.VMPTRLD, [SYSOP.VMPTRST]: EXIT_REASON.VMPTRST,
  [SYSOP.VMREAD]: EXIT_REASON.VMREAD, [SYSOP.VMWRITE]: EXIT_REASON.VMWRITE, [SYSOP.VMXON]: EXIT_REASON.VMON,
  [SYSOP.INVEPT]: EXIT_REASON.INVEPT, [SYSOP.INVVPID]: EXIT_REASON.INVVPID,
};

/** SIMPLE by the number of the instruction: the reason (-1: not there) and the control, 0 for none. */
const SIMPLE_REASON = new Int32Array(NR_SYSOPS).fill(-1);
const SIMPLE_CPU_BASED = new Int32Array(NR_SYSOPS);
const SIMPLE_SECONDARY = new Int32Array(NR_SYSOPS);
for (const [op, { reason, cpuBased = 0, secondary = 0 }] of Object.entries(SIMPLE)) {
  SIMPLE_REASON[Number(op)] = reason;
  SIMPLE_CPU_BASED[Number(op)] = cpuBased;
  SIMPLE_SECONDARY[Number(op)] = secondary;
}

/**
 * In non-root operation: does cpu.insn cause a VM exit? If so the exit is done (true: return RUN.VMEXIT). RIP is still at
 * the instruction. LMSW: its source operand is in sys.value[0].
 */
export function vmxIntercepts(cpu: Cpu): boolean {
  const { insn, vmx } = cpu;
  const simple = SIMPLE_REASON[insn.op]!;
  if (simple >= 0) {
    const cpuBased = SIMPLE_CPU_BASED[insn.op]!;
    const secondary = SIMPLE_SECONDARY[insn.op]!;
    if (cpuBased !== 0 && (vmx.cpuBased & cpuBased) === 0) return false;
    if (secondary !== 0 && (vmx.secondary & secondary) === 0) return false;
    return insnExit(cpu, simple, 0, 0);
  }
  const reason = VMX_OPERAND[insn.op];
  if (reason !== undefined) return !isShadowed(cpu) && operandExit(cpu, reason, vmxInsnInfo(insn));
  return otherIntercepts(cpu);
}

/** VMREAD or VMWRITE that goes to the shadow VMCS without an exit. */
function isShadowed(cpu: Cpu): boolean {
  const { insn, s } = cpu;
  const at = S.GPR + 2 * insn.reg;
  if (insn.op === SYSOP.VMREAD) return !vmreadExits(cpu, s[at]!, s[at + 1]!);
  return insn.op === SYSOP.VMWRITE && !vmwriteExits(cpu, s[at]!, s[at + 1]!);
}

/** VM exit due to cpu.insn; true, so that checks can end with it. */
export function insnExit(cpu: Cpu, reason: number, qualLo: number, qualHi: number): true {
  // SDM, "Saving RIP, RSP, RFLAGS, and SSP": exits due to instructions save RF as 0.
  cpu.s[S.RFLAGS_SYS] = cpu.s[S.RFLAGS_SYS]! & ~RFLAGS.RF;
  cpu.mem.i32[cpu.vmx.base + W.EXIT_INSN_LEN] = cpu.insn.length;
  vmxExit(cpu, reason, qualLo, qualHi);
  return true;
}

function operandExit(cpu: Cpu, reason: number, info: number): true {
  cpu.mem.i32[cpu.vmx.base + W.EXIT_INSN_INFO] = info;
  const qual = displacement(cpu);
  return insnExit(cpu, reason, qual[0]!, qual[1]!);
}

function otherIntercepts(cpu: Cpu): boolean {
  const { insn, vmx, s } = cpu;
  switch (insn.op) {
    case SYSOP.RDMSR:
      return rdmsrExits(cpu, s[S.GPR + 2]!) && insnExit(cpu, EXIT_REASON.MSR_READ, 0, 0);
    case SYSOP.WRMSR:
      return wrmsrExits(cpu, s[S.GPR + 2]!) && insnExit(cpu, EXIT_REASON.MSR_WRITE, 0, 0);
    case SYSOP.MOV_TO_CR:
    case SYSOP.MOV_FROM_CR:
    case SYSOP.CLTS:
    case SYSOP.LMSW: {
      const qual = crAccessQual(cpu);
      return qual !== -1 && insnExit(cpu, EXIT_REASON.CR_ACCESS, qual, 0);
    }
    case SYSOP.MOV_TO_DR:
    case SYSOP.MOV_FROM_DR:
      return (
        (vmx.cpuBased & CPU_BASED.MOV_DR_EXITING) !== 0 &&
        insnExit(cpu, EXIT_REASON.DR_ACCESS, drAccessQual(cpu), 0)
      );
    case SYSOP.PAUSE:
      return pauseExits(cpu) && insnExit(cpu, EXIT_REASON.PAUSE_INSTRUCTION, 0, 0);
    case SYSOP.INVLPG:
      return (
        (vmx.cpuBased & CPU_BASED.INVLPG_EXITING) !== 0 &&
        insnExit(cpu, EXIT_REASON.INVLPG, insn.eaLo, insn.eaHi)
      );
    case SYSOP.INVPCID:
      return (
        (vmx.cpuBased & CPU_BASED.INVLPG_EXITING) !== 0 &&
        operandExit(cpu, EXIT_REASON.INVPCID, vmxInsnInfo(insn))
      );
    default:
      return ioIntercepts(cpu) || secondaryIntercepts(cpu);
  }
}

function ioIntercepts(cpu: Cpu): boolean {
  const {
    insn,
    s,
    mem: { i32 },
    vmx: { base },
  } = cpu;
  if (insn.op < SYSOP.IN || insn.op > SYSOP.OUTS) return false;
  const string = insn.op === SYSOP.INS || insn.op === SYSOP.OUTS;
  const inDx = string || insn.imm < 0;
  const port = inDx ? s[S.GPR + 4]! & 0xffff : insn.imm & 0xff;
  if (!ioExits(cpu, port, insn.size)) return false;
  const input = insn.op === SYSOP.IN || insn.op === SYSOP.INS;
  const qual =
    (insn.size - 1) |
    (input ? IO_QUAL.IN : 0) |
    (string ? IO_QUAL.STRING : 0) |
    (string && insn.rep !== 0 ? IO_QUAL.REP : 0) |
    (inDx ? 0 : IO_QUAL.IMMEDIATE) |
    (port << IO_QUAL_PORT_SHIFT);
  if (string) {
    i32[base + W.EXIT_INSN_INFO] = stringIoInfo(insn);
    recordStringAddress(cpu);
  }
  return insnExit(cpu, EXIT_REASON.IO_INSTRUCTION, qual, 0);
}

function secondaryIntercepts(cpu: Cpu): boolean {
  const {
    insn,
    vmx,
    mem: { i32 },
  } = cpu;
  const { secondary } = vmx;
  switch (insn.op) {
    case SYSOP.RDRAND:
    case SYSOP.RDSEED: {
      const rdrand = insn.op === SYSOP.RDRAND;
      if ((secondary & (rdrand ? SECONDARY_EXEC.RDRAND_EXITING : SECONDARY_EXEC.RDSEED_EXITING)) === 0)
        return false;
      i32[vmx.base + W.EXIT_INSN_INFO] = randomInsnInfo(insn);
      return insnExit(cpu, rdrand ? EXIT_REASON.RDRAND : EXIT_REASON.RDSEED, 0, 0);
    }
    case SYSOP.LGDT:
    case SYSOP.LIDT:
    case SYSOP.SGDT:
    case SYSOP.SIDT:
      return (
        (secondary & SECONDARY_EXEC.DESC) !== 0 &&
        operandExit(cpu, EXIT_REASON.GDTR_IDTR, tableInsnInfo(insn))
      );
    case SYSOP.LLDT:
    case SYSOP.SLDT:
    case SYSOP.LTR:
    case SYSOP.STR:
      return (
        (secondary & SECONDARY_EXEC.DESC) !== 0 && operandExit(cpu, EXIT_REASON.LDTR_TR, tableInsnInfo(insn))
      );
    default:
      return false;
  }
}
