// SPDX-License-Identifier: GPL-2.0-only
/**
 * Control and debug registers: MOV, CLTS, LMSW, SMSW, XGETBV, XSETBV. SDM, instruction reference; what comes before a VM
 * exit and what after: "Relative Priority of Faults and VM Exits".
 */
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { X86_FEATURE as F, type CpuidFeature } from '../../../../lib/x86/cpuid.ts';
import { CR0, CR4, DR6, DR7, XCR0 } from '../../../../lib/x86/registers.ts';
import { COST } from '../../cost/points.ts';
import { spend } from '../../cost/ledger.ts';
import { mmuContextChanged } from '../../mmu/context.ts';
import { flushOnCr4Change, movCr3Flush } from '../../mmu/invalidate.ts';
import {
  vmxCrAllowed,
  vmxMergeCr,
  vmxReadCr,
  vmxReadTprShadow,
  vmxWriteTprShadow,
} from '../../vmx/cr_virt.ts';
import { vmxIntercepts } from '../../vmx/intercepts.ts';
import type { Cpu } from '../cpu.ts';
import { RUN, S } from '../state.ts';
import { raise, raiseGp, raiseUd } from './fault.ts';
import { complete, readRm16, writeEdxEax, writeGpr, writeRm16 } from './operands.ts';

/** Bits of CR0 that exist; writes to the other low bits are ignored. */
const CR0_KNOWN =
  CR0.PE | CR0.MP | CR0.EM | CR0.TS | CR0.ET | CR0.NE | CR0.WP | CR0.AM | CR0.NW | CR0.CD | CR0.PG;

/** CR4 bits by the CPUID feature that they need. */
const CR4_FEATURES: readonly (readonly [number, CpuidFeature])[] = [
  [CR4.VME | CR4.PVI, F.VME],
  [CR4.TSD, F.TSC],
  [CR4.DE, F.DE],
  [CR4.PSE, F.PSE],
  [CR4.PAE, F.PAE],
  [CR4.MCE, F.MCE],
  [CR4.PGE, F.PGE],
  [CR4.PCE, F.MSR],
  [CR4.OSFXSR, F.FXSR],
  [CR4.OSXMMEXCPT, F.XMM],
  [CR4.UMIP, F.UMIP],
  [CR4.LA57, F.LA57],
  [CR4.VMXE, F.VMX],
  [CR4.SMXE, F.SMX],
  [CR4.FSGSBASE, F.FSGSBASE],
  [CR4.PCIDE, F.PCID],
  [CR4.OSXSAVE, F.XSAVE],
  [CR4.SMEP, F.SMEP],
  [CR4.SMAP, F.SMAP],
  [CR4.PKE, F.PKU],
  [CR4.PKS, F.PKS],
];

/** The CR4 bits that the processor has. */
export function cr4Known(cpu: Cpu): number {
  let known = 0;
  for (const [bits, feature] of CR4_FEATURES) if (cpu.sys.cpuid.has(feature)) known |= bits;
  return known;
}

function crExists(n: number): boolean {
  return n === 0 || n === 2 || n === 3 || n === 4 || n === 8;
}

/** MOV r64, CRn. */
export function movFromCr(cpu: Cpu): number {
  const { insn, s, apic } = cpu;
  if (!crExists(insn.reg)) return raiseUd(cpu);
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, COST.MOV_CR);
  switch (insn.reg) {
    case 0:
    case 4:
      writeGpr(cpu, insn.rm, 8, vmxReadCr(cpu, insn.reg), 0);
      break;
    case 2:
      writeGpr(cpu, insn.rm, 8, s[S.CR2]!, s[S.CR2 + 1]!);
      break;
    case 3:
      writeGpr(cpu, insn.rm, 8, s[S.CR3]!, s[S.CR3 + 1]!);
      break;
    default: {
      const shadow = vmxReadTprShadow(cpu);
      writeGpr(cpu, insn.rm, 8, shadow >= 0 ? shadow : apic.cr8(), 0);
    }
  }
  return complete(cpu);
}

/** MOV CRn, r64. */
export function movToCr(cpu: Cpu): number {
  const { insn, s } = cpu;
  if (!crExists(insn.reg)) return raiseUd(cpu);
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  spend(cpu, insn.reg === 3 ? COST.MOV_CR3 : COST.MOV_CR);
  const lo = s[S.GPR + 2 * insn.rm]!;
  const hi = s[S.GPR + 2 * insn.rm + 1]!;
  if (!loadCr(cpu, insn.reg, lo, hi)) return raiseGp(cpu);
  return complete(cpu);
}

function loadCr(cpu: Cpu, n: number, lo: number, hi: number): boolean {
  const { s } = cpu;
  switch (n) {
    case 0:
      return hi === 0 && loadCr0(cpu, vmxMergeCr(cpu, 0, lo));
    case 2:
      s[S.CR2] = lo;
      s[S.CR2 + 1] = hi;
      return true;
    case 3:
      return loadCr3(cpu, lo, hi);
    case 4:
      return hi === 0 && loadCr4(cpu, vmxMergeCr(cpu, 4, lo));
    default:
      return loadCr8(cpu, lo, hi);
  }
}

/** SDM, MOV to control registers: combinations of PG, PE, NW, CD; paging cannot be left in 64-bit mode. */
function loadCr0(cpu: Cpu, value: number): boolean {
  const { s } = cpu;
  const old = s[S.CR0]!;
  const now = (value & CR0_KNOWN) | CR0.ET;
  if ((now & CR0.NW) !== 0 && (now & CR0.CD) === 0) return false;
  if ((now & (CR0.PG | CR0.PE)) !== (CR0.PG | CR0.PE | 0)) return false;
  if (!vmxCrAllowed(cpu, 0, now)) return false;
  s[S.CR0] = now;
  if (((old ^ now) & CR0.WP) !== 0) mmuContextChanged(cpu);
  return true;
}

/** SDM: reserved bits are those from MAXPHYADDR up; bit 63 is an operand of its own with PCIDs. */
function loadCr3(cpu: Cpu, lo: number, hi: number): boolean {
  const { s } = cpu;
  const pcide = (s[S.CR4]! & CR4.PCIDE) !== 0;
  const noflush = pcide && hi < 0;
  const address = pcide ? hi & 0x7fff_ffff : hi;
  if (address >>> (cpu.sys.maxPhyAddr - 32) !== 0) return false;
  s[S.CR3] = lo;
  s[S.CR3 + 1] = address;
  movCr3Flush(cpu, { noflush });
  mmuContextChanged(cpu);
  return true;
}

/** SDM, MOV to control registers: PAE and LA57 are fixed in IA-32e mode, PCIDE needs PCID 0 in CR3. */
function loadCr4(cpu: Cpu, now: number): boolean {
  const { s } = cpu;
  const old = s[S.CR4]!;
  const changed = old ^ now;
  if ((now & ~cr4Known(cpu)) !== 0) return false;
  if ((now & CR4.PAE) === 0 || (changed & CR4.LA57) !== 0) return false;
  if ((changed & now & CR4.PCIDE) !== 0 && (s[S.CR3]! & 0xfff) !== 0) return false;
  if (!vmxCrAllowed(cpu, 4, now)) return false;
  s[S.CR4] = now;
  flushOnCr4Change(cpu, old, now);
  mmuContextChanged(cpu);
  return true;
}

function loadCr8(cpu: Cpu, lo: number, hi: number): boolean {
  if (hi !== 0 || (lo & ~0xf) !== 0) return false;
  if (!vmxWriteTprShadow(cpu, lo)) cpu.apic.setCr8(lo);
  return true;
}

/** CLTS. */
export function clts(cpu: Cpu): number {
  const { s } = cpu;
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  s[S.CR0] = vmxMergeCr(cpu, 0, s[S.CR0]! & ~CR0.TS);
  return complete(cpu);
}

/** LMSW: a memory operand is fetched before the VM exit that depends on it. */
export function lmsw(cpu: Cpu): number {
  const { s, sys } = cpu;
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (!readRm16(cpu)) return RUN.FAULT;
  const source = sys.value[0]! & 0xf;
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  const old = s[S.CR0]!;
  // PE can be set but not cleared; in 64-bit mode it is set.
  const now = (old & ~(CR0.MP | CR0.EM | CR0.TS)) | source;
  s[S.CR0] = vmxMergeCr(cpu, 0, now);
  return complete(cpu);
}

/** SMSW. */
export function smsw(cpu: Cpu): number {
  if (umipForbids(cpu)) return raiseGp(cpu);
  return writeRm16(cpu, vmxReadCr(cpu, 0));
}

/** CR4.UMIP at CPL > 0. */
export function umipForbids(cpu: Cpu): boolean {
  return (cpu.s[S.CR4]! & CR4.UMIP) !== 0 && cpu.s[S.CPL] !== 0;
}

/** The checks that both directions of MOV DR share; -1: none fired. MOV-DR exiting comes before all of them. */
function debugAccess(cpu: Cpu): number {
  const { insn, s, fault } = cpu;
  if (insn.reg > 7) return raiseUd(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  if ((insn.reg & 6) === 4 && (s[S.CR4]! & CR4.DE) !== 0) return raiseUd(cpu);
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if ((s[S.DR + 14]! & DR7.GD) !== 0) {
    const result = raise(cpu, VECTOR.DB);
    fault.qualification = DR6.BD;
    return result;
  }
  return -1;
}

/** DR4 and DR5 are other names of DR6 and DR7. */
function debugWord(reg: number): number {
  return S.DR + 2 * ((reg & 6) === 4 ? reg + 2 : reg);
}

/** MOV r64, DRn. */
export function movFromDr(cpu: Cpu): number {
  const { insn, s } = cpu;
  const refused = debugAccess(cpu);
  if (refused >= 0) return refused;
  const word = debugWord(insn.reg);
  writeGpr(cpu, insn.rm, 8, s[word]!, s[word + 1]!);
  return complete(cpu);
}

/** MOV DRn, r64. */
export function movToDr(cpu: Cpu): number {
  const { insn, s } = cpu;
  const refused = debugAccess(cpu);
  if (refused >= 0) return refused;
  const word = debugWord(insn.reg);
  const lo = s[S.GPR + 2 * insn.rm]!;
  const hi = s[S.GPR + 2 * insn.rm + 1]!;
  if (word >= S.DR + 12 && hi !== 0) return raiseGp(cpu);
  if (word === S.DR + 12) s[word] = (lo & ~0x1000) | DR6.FIXED_1;
  else if (word === S.DR + 14) s[word] = (lo & ~0xd800) | DR7.FIXED_1;
  else {
    s[word] = lo;
    s[word + 1] = hi;
  }
  return complete(cpu);
}

/** XGETBV. */
export function xgetbv(cpu: Cpu): number {
  const { s } = cpu;
  if ((s[S.CR4]! & CR4.OSXSAVE) === 0) return raiseUd(cpu);
  if (s[S.GPR + 2] !== 0) return raiseGp(cpu);
  writeEdxEax(cpu, s[S.XCR0]!, s[S.XCR0 + 1]!);
  return complete(cpu);
}

/** XSETBV: the x87 bit is fixed, others as leaf 0xd says. */
export function xsetbv(cpu: Cpu): number {
  const { s, sys } = cpu;
  if ((s[S.CR4]! & CR4.OSXSAVE) === 0) return raiseUd(cpu);
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  const lo = s[S.GPR]!;
  const known = sys.cpuid.row(0xd, 0)?.[2] ?? XCR0.X87;
  const bad = s[S.GPR + 2] !== 0 || (lo & ~known) !== 0 || s[S.GPR + 4] !== 0 || (lo & XCR0.X87) === 0;
  if (bad || ((lo & XCR0.AVX) !== 0 && (lo & XCR0.SSE) === 0)) return raiseGp(cpu);
  s[S.XCR0] = lo;
  s[S.XCR0 + 1] = 0;
  return complete(cpu);
}
