// SPDX-License-Identifier: GPL-2.0-only
/**
 * The MSRs that every modelled processor has, with the checks of WRMSR. SDM, "Model-Specific Registers (MSRs)" and the
 * chapters of each facility. Memory types of MTRRs and PAT are stored and checked, but have no effect on accesses.
 */
import { APICBASE } from '../../../../lib/x86/apic.ts';
import { DEBUGCTL, MISC_ENABLE, MSR, PAT_RESET_HI, PAT_RESET_LO } from '../../../../lib/x86/msr.ts';
import { CR0, EFER } from '../../../../lib/x86/registers.ts';
import { FEAT_CTL } from '../../../../lib/x86/vmx/capability_msrs.ts';
import { UnimplementedError } from '../../errors.ts';
import { RAM_LIMIT } from '../../layout.ts';
import { mmuContextChanged } from '../../mmu/context.ts';
import type { Cpu } from '../cpu.ts';
import { S, SEG_WORDS, SEGN } from '../state.ts';
import { readOwnTsc, readTsc } from './apic_host.ts';
import { isCanonical } from './canonical.ts';
import { defineMtrrs } from './mtrr.ts';
import type { MsrDef, MsrFile } from './msr_file.ts';
import { SYSCALL_MSR } from './system_unit.ts';

/** Define the common registers; `vendor` decides which bits EFER has. */
export function defineMsrs(msrs: MsrFile, vendor: 'intel' | 'amd'): void {
  defineTsc(msrs);
  defineSyscall(msrs);
  defineBases(msrs);
  defineMtrrs(msrs);
  msrs.define(MSR.EFER, efer(vendor));
  msrs.define(MSR.IA32_APICBASE, APIC_BASE);
  msrs.define(MSR.IA32_FEAT_CTL, FEATURE_CONTROL);
  msrs.constant(MSR.IA32_PLATFORM_ID, 'IA32_PLATFORM_ID', 0, 0);
  msrs.constant(MSR.PLATFORM_INFO, 'PLATFORM_INFO', 0, 0);
  msrs.constant(MSR.IA32_MCG_CAP, 'IA32_MCG_CAP', 0, 0);
  msrs.store(MSR.IA32_MCG_STATUS, { name: 'IA32_MCG_STATUS', maskLo: 0x7, maskHi: 0 });
  msrs.define(MSR.IA32_UCODE_REV, {
    name: 'IA32_UCODE_REV',
    read: (_cpu, out) => out.set([0, 1]),
    write: () => true,
  });
  msrs.store(MSR.IA32_MISC_ENABLE, {
    name: 'IA32_MISC_ENABLE',
    resetLo: MISC_ENABLE.FAST_STRING | MISC_ENABLE.BTS_UNAVAIL | MISC_ENABLE.PEBS_UNAVAIL | MISC_ENABLE.MWAIT,
    maskLo: MISC_ENABLE.FAST_STRING | MISC_ENABLE.MWAIT,
    maskHi: 0,
  });
  // DEVIATION: LBR is stored, but no branch records are kept.
  msrs.store(MSR.IA32_DEBUGCTL, { name: 'IA32_DEBUGCTL', maskLo: DEBUGCTL.LBR | DEBUGCTL.BTF, maskHi: 0 });
  msrs.store(MSR.IA32_CR_PAT, {
    name: 'IA32_PAT',
    resetLo: PAT_RESET_LO,
    resetHi: PAT_RESET_HI,
    valid: validPat,
  });
}

/** Each byte of the PAT is UC, WC, WT, WP, WB or UC-. SDM, "Page Attribute Table (PAT)". */
function validPat(lo: number, hi: number): boolean {
  for (const word of [lo, hi]) {
    for (let shift = 0; shift < 32; shift += 8) {
      const type = (word >>> shift) & 0xff;
      if (type > 7 || type === 2 || type === 3) return false;
    }
  }
  return true;
}

/** SDM, "Extended Feature Enable Register": LMA is read-only, LME cannot change under paging. */
function efer(vendor: 'intel' | 'amd'): MsrDef {
  const known = EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE | (vendor === 'amd' ? EFER.SVME : 0);
  return {
    name: 'EFER',
    read: ({ s }, out) => out.set([s[S.EFER]!, s[S.EFER + 1]!]),
    write: (cpu, lo, hi) => {
      const { s } = cpu;
      const old = s[S.EFER]!;
      if ((lo & ~known) !== 0 || hi !== 0) return false;
      if (((lo ^ old) & EFER.LME) !== 0 && (s[S.CR0]! & CR0.PG) !== 0) return false;
      s[S.EFER] = (lo & ~EFER.LMA) | (old & EFER.LMA);
      if (((lo ^ old) & EFER.NXE) !== 0) mmuContextChanged(cpu);
      return true;
    },
  };
}

/** SDM, "Local APIC Status and Location". */
const APIC_BASE: MsrDef = {
  name: 'IA32_APIC_BASE',
  read: ({ apic }, out) => out.set([apic.baseLo, apic.baseHi]),
  write: (cpu, lo, hi) => {
    const known = APICBASE.BSP | APICBASE.EXTD | APICBASE.ENABLE | APICBASE.BASE_MASK;
    if ((lo & ~known) !== 0 || hi >>> (cpu.sys.maxPhyAddr - 32) !== 0) return false;
    if (hi === 0 && (lo & APICBASE.BASE_MASK) >>> 0 < RAM_LIMIT) {
      throw new UnimplementedError(`CPU ${cpu.id}: local APIC page moved over RAM`);
    }
    return cpu.apic.setBase(lo, hi);
  },
};

/** SDM, "Feature Control MSR": locked until RESET. */
const FEATURE_CONTROL: MsrDef = {
  name: 'IA32_FEATURE_CONTROL',
  read: ({ sys }, out) => out.set([sys.featCtl, 0]),
  write: ({ sys }, lo, hi) => {
    const known = FEAT_CTL.LOCKED | FEAT_CTL.VMX_ENABLED_OUTSIDE_SMX;
    if ((sys.featCtl & FEAT_CTL.LOCKED) !== 0 || (lo & ~known) !== 0 || hi !== 0) return false;
    sys.featCtl = lo;
    return true;
  },
};

/** SDM, "Time-Stamp Counter" and "IA32_TSC_ADJUST MSR": the two writes move each other. */
function defineTsc(msrs: MsrFile): void {
  msrs.define(MSR.IA32_TSC, {
    name: 'IA32_TSC',
    read: readTsc,
    write: (cpu, lo, hi) => {
      const now = new Int32Array(2);
      // The offset and the multiplier of VMX non-root operation apply to reads only.
      readOwnTsc(cpu, now);
      moveTsc(cpu, pair(lo, hi) - pair(now[0]!, now[1]!));
      return true;
    },
  });
  msrs.define(MSR.IA32_TSC_ADJUST, {
    name: 'IA32_TSC_ADJUST',
    read: ({ sys }, out) => out.set(sys.tscAdjust),
    write: (cpu, lo, hi) => {
      moveTsc(cpu, pair(lo, hi) - pair(cpu.sys.tscAdjust[0]!, cpu.sys.tscAdjust[1]!));
      return true;
    },
  });
  msrs.define(MSR.IA32_TSC_DEADLINE, {
    name: 'IA32_TSC_DEADLINE',
    read: ({ apic }, out) => out.set([apic.timer.tscDeadlineLo, apic.timer.tscDeadlineHi]),
    write: ({ apic }, lo, hi) => {
      apic.timer.writeTscDeadline(lo, hi);
      return true;
    },
  });
  msrs.define(MSR.TSC_AUX, {
    name: 'TSC_AUX',
    read: ({ sys }, out) => out.set([sys.tscAux, 0]),
    write: ({ sys }, lo, hi) => {
      if (hi !== 0) return false;
      sys.tscAux = lo;
      return true;
    },
  });
}

function moveTsc(cpu: Cpu, delta: bigint): void {
  for (const word of [cpu.sys.tscOffset, cpu.sys.tscAdjust]) {
    const sum = pair(word[0]!, word[1]!) + delta;
    word[0] = Number(BigInt.asIntN(32, sum));
    word[1] = Number(BigInt.asIntN(32, sum >> 32n));
  }
  cpu.apic.timer.tscChanged();
}

function pair(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}

/** STAR and the rest: bases must be canonical, the mask has 32 bits. SDM, "Fast System Calls in 64-Bit Mode". */
function defineSyscall(msrs: MsrFile): void {
  const any = (): boolean => true;
  const canonical = (cpu: Cpu, lo: number, hi: number): boolean => isCanonical(cpu, lo, hi);
  const low32 = (_cpu: Cpu, _lo: number, hi: number): boolean => hi === 0;
  const rows: readonly [number, string, number, (cpu: Cpu, lo: number, hi: number) => boolean][] = [
    [MSR.STAR, 'STAR', SYSCALL_MSR.STAR, any],
    [MSR.LSTAR, 'LSTAR', SYSCALL_MSR.LSTAR, canonical],
    [MSR.CSTAR, 'CSTAR', SYSCALL_MSR.CSTAR, canonical],
    [MSR.SYSCALL_MASK, 'FMASK', SYSCALL_MSR.SYSCALL_MASK, low32],
    [MSR.IA32_SYSENTER_CS, 'IA32_SYSENTER_CS', SYSCALL_MSR.SYSENTER_CS, any],
    [MSR.IA32_SYSENTER_ESP, 'IA32_SYSENTER_ESP', SYSCALL_MSR.SYSENTER_ESP, canonical],
    [MSR.IA32_SYSENTER_EIP, 'IA32_SYSENTER_EIP', SYSCALL_MSR.SYSENTER_EIP, canonical],
  ];
  for (const [msr, name, word, valid] of rows) {
    msrs.define(msr, {
      name,
      read: ({ sys }, out) => out.set([sys.syscall[word]!, sys.syscall[word + 1]!]),
      write: (cpu, lo, hi) => {
        if (!valid(cpu, lo, hi)) return false;
        cpu.sys.syscall[word] = lo;
        cpu.sys.syscall[word + 1] = hi;
        return true;
      },
    });
  }
}

/** FS, GS and kernel GS bases are words of the CPU state. */
function defineBases(msrs: MsrFile): void {
  const rows: readonly [number, string, number][] = [
    [MSR.FS_BASE, 'FS_BASE', S.SEG + SEGN.FS * SEG_WORDS],
    [MSR.GS_BASE, 'GS_BASE', S.SEG + SEGN.GS * SEG_WORDS],
    [MSR.KERNEL_GS_BASE, 'KERNEL_GS_BASE', S.KERNEL_GS],
  ];
  for (const [msr, name, word] of rows) {
    msrs.define(msr, {
      name,
      read: ({ s }, out) => out.set([s[word]!, s[word + 1]!]),
      write: (cpu, lo, hi) => {
        if (!isCanonical(cpu, lo, hi)) return false;
        cpu.s[word] = lo;
        cpu.s[word + 1] = hi;
        return true;
      },
    });
  }
}
