// SPDX-License-Identifier: GPL-2.0-only
/** HLT, PAUSE, MONITOR, MWAIT, cache and TLB invalidation. SDM, instruction reference. */
import { X86_FEATURE as F } from '../../../../lib/x86/cpuid.ts';
import { CR4 } from '../../../../lib/x86/registers.ts';
import { SECONDARY_EXEC } from '../../../../lib/x86/vmx/controls.ts';
import { COST } from '../../cost/points.ts';
import { spend } from '../../cost/ledger.ts';
import { invlpg, invpcid } from '../../mmu/invalidate.ts';
import { loadLinear } from '../../mmu/linear.ts';
import { vmxIntercepts } from '../../vmx/intercepts.ts';
import type { Cpu } from '../cpu.ts';
import { ACTIVITY, RUN, S, SEGN } from '../state.ts';
import { isCanonical } from './canonical.ts';
import { mwaitEnabled } from './cpuid.ts';
import { segAt } from './descriptors.ts';
import { raiseGp, raiseUd } from './fault.ts';
import { vmxDisables } from './op_info.ts';
import { complete, loadOperand } from './operands.ts';

/** HLT: cpuRun() sees the activity state. */
export function hlt(cpu: Cpu): number {
  if (cpu.s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  cpu.s[S.ACTIVITY] = ACTIVITY.HLT;
  return complete(cpu);
}

/** PAUSE. */
export function pause(cpu: Cpu): number {
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, COST.PAUSE);
  return complete(cpu);
}

/** MONITOR: checks, and touches the monitored byte at rAX. */
export function monitor(cpu: Cpu): number {
  const { s } = cpu;
  if (!cpu.sys.cpuid.has(F.MWAIT) || !mwaitEnabled(cpu) || s[S.CPL] !== 0) return raiseUd(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  if (s[S.GPR + 2] !== 0) return raiseGp(cpu);
  const base = cpu.insn.seg === SEGN.FS || cpu.insn.seg === SEGN.GS ? segAt(cpu.insn.seg) : S.ZERO;
  const lo = (s[S.GPR]! >>> 0) + (s[base]! >>> 0);
  const hi = (cpu.insn.addressSize === 8 ? s[S.GPR + 1]! : 0) + s[base + 1]! + (lo >= 0x1_0000_0000 ? 1 : 0);
  if (!loadLinear(cpu, lo | 0, hi | 0, 1, cpu.sys.value)) return RUN.FAULT;
  return complete(cpu);
}

/**
 * MWAIT: may end at any time.
 * DEVIATION: it always ends at once; no monitored address range is kept.
 */
export function mwait(cpu: Cpu): number {
  const { s } = cpu;
  if (!cpu.sys.cpuid.has(F.MWAIT) || !mwaitEnabled(cpu) || s[S.CPL] !== 0) return raiseUd(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  if (s[S.GPR + 2] !== 0) return raiseGp(cpu);
  return complete(cpu);
}

/** INVD, WBINVD: there are no caches to lose. */
export function cacheFlush(cpu: Cpu): number {
  if (cpu.s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  return complete(cpu);
}

/** INVLPG. */
export function invlpgInsn(cpu: Cpu): number {
  if (cpu.s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, COST.INVLPG);
  // SDM: a non-canonical address is not a fault, and invalidates nothing.
  if (isCanonical(cpu, cpu.insn.eaLo, cpu.insn.eaHi)) invlpg(cpu, cpu.insn.eaLo, cpu.insn.eaHi);
  return complete(cpu);
}

/** INVPCID. */
export function invpcidInsn(cpu: Cpu): number {
  const { s, sys, insn } = cpu;
  if (!sys.cpuid.has(F.INVPCID) || vmxDisables(cpu, SECONDARY_EXEC.ENABLE_INVPCID)) return raiseUd(cpu);
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  const type = s[S.GPR + 2 * insn.reg]! >>> 0;
  if (type > 3 || s[S.GPR + 2 * insn.reg + 1] !== 0) return raiseGp(cpu);
  if (!loadOperand(cpu, 0, 8)) return RUN.FAULT;
  const [pcid, reserved] = [sys.value[0]!, sys.value[1]!];
  if (!loadOperand(cpu, 8, 8)) return RUN.FAULT;
  const [lo, hi] = [sys.value[0]!, sys.value[1]!];
  if ((pcid & ~0xfff) !== 0 || reserved !== 0) return raiseGp(cpu);
  if (type < 2 && pcid !== 0 && (s[S.CR4]! & CR4.PCIDE) === 0) return raiseGp(cpu);
  if (type === 0 && !isCanonical(cpu, lo, hi)) return raiseGp(cpu);
  spend(cpu, COST.INVPCID);
  invpcid(cpu, type, pcid, lo, hi);
  return complete(cpu);
}
