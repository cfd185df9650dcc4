// SPDX-License-Identifier: GPL-2.0-only
/** RFLAGS as a whole: CLI STI PUSHF POPF STAC CLAC. SDM, instruction reference. */
import { X86_FEATURE as F } from '../../../../lib/x86/cpuid.ts';
import { CR4, RFLAGS } from '../../../../lib/x86/registers.ts';
import { UnimplementedError } from '../../errors.ts';
import { mmuContextChanged } from '../../mmu/context.ts';
import type { Cpu } from '../cpu.ts';
import { ARITH_FLAGS, getRflags, setRflags } from '../flags.ts';
import { BLOCKING, RUN, S } from '../state.ts';
import { NEXT, raiseGp, raiseUd } from './fault.ts';
import { complete, peekStack, popStack, pushValue } from './operands.ts';

/** Flags that POPF and IRET may load at any privilege level. */
const POPF_ALWAYS = ARITH_FLAGS | RFLAGS.TF | RFLAGS.DF | RFLAGS.NT | RFLAGS.AC | RFLAGS.ID;

/** I/O privilege level. */
export function ioplOf(cpu: Cpu): number {
  return (cpu.s[S.RFLAGS_SYS]! & RFLAGS.IOPL) >> 12;
}

/** The flags that an instruction at `cpl` may change: IF at or below IOPL, IOPL itself at level 0. */
export function writableFlags(cpu: Cpu, cpl: number): number {
  return POPF_ALWAYS | (cpl <= ioplOf(cpu) ? RFLAGS.IF : 0) | (cpl === 0 ? RFLAGS.IOPL : 0);
}

/** Load RFLAGS under a mask and tell the MMU if AC changed. */
export function loadFlags(cpu: Cpu, value: number, mask: number): void {
  const old = getRflags(cpu);
  const now = (old & ~mask) | (value & mask);
  setRflags(cpu, now);
  if (((old ^ now) & RFLAGS.AC) !== 0) mmuContextChanged(cpu);
}

/** Whether CLI and STI are allowed; -1: yes. */
function interruptFlagAllowed(cpu: Cpu): number {
  const { s } = cpu;
  if (s[S.CPL]! <= ioplOf(cpu)) return NEXT;
  if (s[S.CPL] === 3 && (s[S.CR4]! & CR4.PVI) !== 0) {
    throw new UnimplementedError(`CPU ${cpu.id}: protected-mode virtual interrupts (CR4.PVI)`);
  }
  return raiseGp(cpu);
}

/** CLI. */
export function cli(cpu: Cpu): number {
  const refused = interruptFlagAllowed(cpu);
  if (refused >= 0) return refused;
  cpu.s[S.RFLAGS_SYS] = cpu.s[S.RFLAGS_SYS]! & ~RFLAGS.IF;
  return complete(cpu);
}

/** STI: interrupts stay blocked for one more instruction if IF was 0. */
export function sti(cpu: Cpu): number {
  const { s } = cpu;
  const refused = interruptFlagAllowed(cpu);
  if (refused >= 0) return refused;
  const wasClear = (s[S.RFLAGS_SYS]! & RFLAGS.IF) === 0;
  complete(cpu);
  s[S.RFLAGS_SYS] = s[S.RFLAGS_SYS]! | RFLAGS.IF;
  if (wasClear) s[S.BLOCKING] = s[S.BLOCKING]! | BLOCKING.STI;
  return NEXT;
}

/** PUSHF: RF and VM read as zero. */
export function pushf(cpu: Cpu): number {
  const { insn } = cpu;
  const value = getRflags(cpu) & ~(RFLAGS.RF | RFLAGS.VM);
  if (!pushValue(cpu, insn.size, insn.size === 2 ? value & 0xffff : value, 0)) return RUN.FAULT;
  return complete(cpu);
}

/** POPF. */
export function popf(cpu: Cpu): number {
  const { insn, s, sys } = cpu;
  if (!peekStack(cpu, 0, insn.size)) return RUN.FAULT;
  const width = insn.size === 2 ? 0xffff : -1;
  const value = sys.value[0]!;
  popStack(cpu, insn.size);
  complete(cpu);
  loadFlags(cpu, value, writableFlags(cpu, s[S.CPL]!) & width);
  return NEXT;
}

/** STAC, CLAC: invalid outside of level 0. */
export function setAc(cpu: Cpu, value: number): number {
  if (!cpu.sys.cpuid.has(F.SMAP) || cpu.s[S.CPL] !== 0) return raiseUd(cpu);
  loadFlags(cpu, value, RFLAGS.AC);
  return complete(cpu);
}
