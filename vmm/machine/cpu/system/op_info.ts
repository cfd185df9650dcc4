// SPDX-License-Identifier: GPL-2.0-only
/**
 * Instructions that read or write processor information: CPUID, time stamp, MSRs, random numbers, protection keys, FS and
 * GS bases. SDM, instruction reference.
 */
import { X86_FEATURE as F, X86_FEATURE_EXT as X } from '../../../../lib/x86/cpuid.ts';
import { CR4, RFLAGS } from '../../../../lib/x86/registers.ts';
import { SECONDARY_EXEC } from '../../../../lib/x86/vmx/controls.ts';
import { COST } from '../../cost/points.ts';
import { spend } from '../../cost/ledger.ts';
import { mmuContextChanged } from '../../mmu/context.ts';
import { vmxIntercepts } from '../../vmx/intercepts.ts';
import { vmxReadX2apic, vmxWriteX2apic, X2APIC_WRITE } from '../../vmx/x2apic_virt.ts';
import type { Cpu } from '../cpu.ts';
import { getRflags, setRflags } from '../flags.ts';
import { RUN, S, SEGN } from '../state.ts';
import { readTsc } from './apic_host.ts';
import { isCanonical } from './canonical.ts';
import { cpuid } from './cpuid.ts';
import { segAt } from './descriptors.ts';
import { raiseGp, raiseUd } from './fault.ts';
import { complete, writeEdxEax, writeGpr } from './operands.ts';

const ECX = S.GPR + 2;

/** CPUID. */
export function cpuidInsn(cpu: Cpu): number {
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, COST.CPUID_INSN);
  const { s, sys } = cpu;
  cpuid(cpu, s[S.GPR]!, s[ECX]!, sys.value);
  const [eax = 0, ebx = 0, ecx = 0, edx = 0] = sys.value;
  writeEdxEax(cpu, eax, edx);
  writeGpr(cpu, 3, 4, ebx, 0);
  writeGpr(cpu, 1, 4, ecx, 0);
  return complete(cpu);
}

/** Whether CR4.TSD keeps the time stamp from this CPL. */
function tsdForbids(cpu: Cpu): boolean {
  return (cpu.s[S.CR4]! & CR4.TSD) !== 0 && cpu.s[S.CPL] !== 0;
}

/** RDTSC. */
export function rdtsc(cpu: Cpu): number {
  if (tsdForbids(cpu)) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, COST.RDTSC_INSN);
  readTsc(cpu, cpu.sys.value);
  writeEdxEax(cpu, cpu.sys.value[0]!, cpu.sys.value[1]!);
  return complete(cpu);
}

/** Whether a secondary control that must enable an instruction in non-root operation is missing. */
export function vmxDisables(cpu: Cpu, control: number): boolean {
  return cpu.vmx.nonRoot && (cpu.vmx.secondary & control) === 0;
}

/** RDTSCP. */
export function rdtscp(cpu: Cpu): number {
  if (!cpu.sys.cpuid.has(X.RDTSCP) || vmxDisables(cpu, SECONDARY_EXEC.ENABLE_RDTSCP)) return raiseUd(cpu);
  const result = rdtsc(cpu);
  if (result === -1) writeGpr(cpu, 1, 4, cpu.sys.tscAux, 0);
  return result;
}

/** RDPID. */
export function rdpid(cpu: Cpu): number {
  if (!cpu.sys.cpuid.has(F.RDPID) || vmxDisables(cpu, SECONDARY_EXEC.ENABLE_RDTSCP)) return raiseUd(cpu);
  writeGpr(cpu, cpu.insn.rm, 8, cpu.sys.tscAux, 0);
  return complete(cpu);
}

/** RDPMC: there are no counters, so every index is invalid. */
export function rdpmc(cpu: Cpu): number {
  if ((cpu.s[S.CR4]! & CR4.PCE) === 0 && cpu.s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  return raiseGp(cpu);
}

/** RDMSR. */
export function rdmsr(cpu: Cpu): number {
  const { s, sys } = cpu;
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, COST.RDMSR_INSN);
  const msr = s[ECX]! >>> 0;
  if (!vmxReadX2apic(cpu, msr, sys.value) && !sys.msrs.read(cpu, msr, sys.value)) return raiseGp(cpu);
  writeEdxEax(cpu, sys.value[0]!, sys.value[1]!);
  return complete(cpu);
}

/** WRMSR. */
export function wrmsr(cpu: Cpu): number {
  const { s, sys } = cpu;
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, COST.WRMSR_INSN);
  const msr = s[ECX]! >>> 0;
  const virtual = vmxWriteX2apic(cpu, msr, s[S.GPR]!, s[S.GPR + 4]!);
  const ok =
    virtual === X2APIC_WRITE.PLAIN
      ? sys.msrs.write(cpu, msr, s[S.GPR]!, s[S.GPR + 4]!)
      : virtual === X2APIC_WRITE.DONE;
  return ok ? complete(cpu) : raiseGp(cpu);
}

/** RDRAND and RDSEED: always succeed; CF is set, the other arithmetic flags are cleared. */
function random(cpu: Cpu): number {
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  const { insn, sys } = cpu;
  writeGpr(cpu, insn.rm, insn.size, sys.rng.next(), insn.size === 8 ? sys.rng.next() : 0);
  const others = RFLAGS.OF | RFLAGS.SF | RFLAGS.ZF | RFLAGS.AF | RFLAGS.PF;
  setRflags(cpu, (getRflags(cpu) & ~others) | RFLAGS.CF);
  return complete(cpu);
}

export function rdrand(cpu: Cpu): number {
  return cpu.sys.cpuid.has(F.RDRAND) ? random(cpu) : raiseUd(cpu);
}

export function rdseed(cpu: Cpu): number {
  return cpu.sys.cpuid.has(F.RDSEED) ? random(cpu) : raiseUd(cpu);
}

/** RDPKRU. */
export function rdpkru(cpu: Cpu): number {
  const { s } = cpu;
  if ((s[S.CR4]! & CR4.PKE) === 0) return raiseUd(cpu);
  if (s[ECX] !== 0) return raiseGp(cpu);
  writeEdxEax(cpu, s[S.PKRU]!, 0);
  return complete(cpu);
}

/** WRPKRU. */
export function wrpkru(cpu: Cpu): number {
  const { s } = cpu;
  if ((s[S.CR4]! & CR4.PKE) === 0) return raiseUd(cpu);
  if (s[ECX] !== 0 || s[S.GPR + 4] !== 0) return raiseGp(cpu);
  s[S.PKRU] = s[S.GPR]!;
  mmuContextChanged(cpu);
  return complete(cpu);
}

/** RDFSBASE, RDGSBASE. */
export function readBase(cpu: Cpu, seg: number): number {
  const { s, insn } = cpu;
  if ((s[S.CR4]! & CR4.FSGSBASE) === 0) return raiseUd(cpu);
  writeGpr(cpu, insn.rm, insn.size, s[segAt(seg)]!, s[segAt(seg) + 1]!);
  return complete(cpu);
}

/** WRFSBASE, WRGSBASE. */
export function writeBase(cpu: Cpu, seg: number): number {
  const { s, insn } = cpu;
  if ((s[S.CR4]! & CR4.FSGSBASE) === 0) return raiseUd(cpu);
  const lo = s[S.GPR + 2 * insn.rm]!;
  const hi = insn.size === 8 ? s[S.GPR + 2 * insn.rm + 1]! : 0;
  if (!isCanonical(cpu, lo, hi)) return raiseGp(cpu);
  s[segAt(seg)] = lo;
  s[segAt(seg) + 1] = hi;
  return complete(cpu);
}

/** SWAPGS. */
export function swapgs(cpu: Cpu): number {
  const { s } = cpu;
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  const gs = segAt(SEGN.GS);
  for (const half of [0, 1]) {
    const base = s[gs + half]!;
    s[gs + half] = s[S.KERNEL_GS + half]!;
    s[S.KERNEL_GS + half] = base;
  }
  return complete(cpu);
}
