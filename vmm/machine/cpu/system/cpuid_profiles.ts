// SPDX-License-Identifier: GPL-2.0-only
/**
 * CPUID rows of the modelled processors: what the machine implements, dressed as a Skylake server part. Instructions
 * that the interpreter lacks (x87, SSE state beyond FXSAVE's image) are only claimed where long mode implies them.
 * DEVIATION: no AVX, no MOVBE, no performance monitoring, no speculation controls, unlike a real Skylake server.
 */
import {
  CPUID_REG,
  type CpuidFeature,
  cpuidMask,
  type CpuidRow,
  X86_FEATURE as F,
  X86_FEATURE_EXT as X,
} from '../../../../lib/x86/cpuid.ts';
import type { CpuProfile } from '../../cost/profiles.ts';

const COMMON: readonly CpuidFeature[] = [
  F.MWAIT,
  F.PCID,
  F.CX16,
  F.X2APIC,
  F.POPCNT,
  F.TSC_DEADLINE_TIMER,
  F.XSAVE,
  F.RDRAND,
  F.FPU,
  F.VME,
  F.DE,
  F.PSE,
  F.TSC,
  F.MSR,
  F.PAE,
  F.MCE,
  F.CX8,
  F.APIC,
  F.SEP,
  F.MTRR,
  F.PGE,
  F.MCA,
  F.CMOV,
  F.PAT,
  F.PSE36,
  F.CLFLUSH,
  F.FXSR,
  F.XMM,
  F.XMM2,
  F.ARAT,
  F.FSGSBASE,
  F.TSC_ADJUST,
  F.SMEP,
  F.ERMS,
  F.INVPCID,
  F.RDSEED,
  F.SMAP,
  F.PKU,
  X.LAHF_LM,
  X.ABM,
  X.SYSCALL,
  X.NX,
  X.GBPAGES,
  X.RDTSCP,
  X.LM,
  X.INVTSC,
];

interface Identity {
  readonly vendor: string;
  /** Leaf 1 EAX: family, model, stepping. */
  readonly signature: number;
  readonly brand: string;
  readonly features: readonly CpuidFeature[];
}

const IDENTITY: Readonly<Record<CpuProfile['name'], Identity>> = {
  // Family 6, model 0x55, stepping 4.
  skylake: {
    vendor: 'GenuineIntel',
    signature: 0x0005_0654,
    brand: 'nestbed emulated CPU, Skylake-SP class',
    features: [...COMMON, F.VMX],
  },
  // Family 6, model 0x6a, stepping 6.
  icelake: {
    vendor: 'GenuineIntel',
    signature: 0x0006_06a6,
    brand: 'nestbed emulated CPU, Ice Lake-SP class',
    features: [...COMMON, F.VMX],
  },
  // Family 0x19, model 1, stepping 1.
  milan: {
    vendor: 'AuthenticAMD',
    signature: 0x00a0_0f11,
    brand: 'nestbed emulated CPU, Milan class',
    features: COMMON.filter((f) => f !== F.TSC_DEADLINE_TIMER),
  },
};

/** The crystal clock that the APIC timer counts, in kHz. Skylake-SP: 25 MHz, as the kernel's native_calibrate_tsc() has it. */
export const CRYSTAL_KHZ = 25_000;

function words(text: string): readonly number[] {
  const out: number[] = [];
  for (let n = 0; n < text.length; n += 4) {
    out.push([3, 2, 1, 0].reduce((word, i) => word * 256 + (text.charCodeAt(n + i) || 0), 0));
  }
  return out;
}

/** The rows of a profile for `nrCpus` logical processors, one thread per core, one package. */
export function cpuidRows(profile: CpuProfile, nrCpus: number): readonly CpuidRow[] {
  const id = IDENTITY[profile.name];
  const vendor = words(id.vendor) as [number, number, number];
  const mask = (leaf: number, reg: number): number => cpuidMask(id.features, leaf, 0, reg);
  const { EAX, EBX, ECX, EDX } = CPUID_REG;
  const shift = Math.ceil(Math.log2(Math.max(nrCpus, 2)));
  return [
    [0x0, 0, 0x15, vendor[0], vendor[2], vendor[1]],
    [0x1, 0, id.signature, (nrCpus << 16) | 0x0800, mask(1, ECX), mask(1, EDX)],
    ...cacheRows(),
    [0x5, 0, 64, 64, 0, 0],
    [0x6, 0, mask(6, EAX), 0, 0, 0],
    [0x7, 0, 0, mask(7, EBX), mask(7, ECX), mask(7, EDX)],
    [0xa, 0, 0, 0, 0, 0],
    [0xb, 0, 0, 1, 0x100, 0],
    [0xb, 1, shift, nrCpus, 0x201, 0],
    // x87, SSE and PKRU state; standard form.
    [0xd, 0, 0x203, 576, 0xa88, 0],
    [0xd, 1, 0, 0, 0, 0],
    [0xd, 9, 8, 0xa80, 0, 0],
    [0x15, 0, 1, Math.round(profile.tscKhz / CRYSTAL_KHZ), CRYSTAL_KHZ * 1000, 0],
    [
      0x8000_0000,
      0,
      0x8000_0008,
      profile.vendor === 'amd' ? vendor[0] : 0,
      profile.vendor === 'amd' ? vendor[2] : 0,
      profile.vendor === 'amd' ? vendor[1] : 0,
    ],
    [0x8000_0001, 0, 0, 0, mask(0x8000_0001, ECX), mask(0x8000_0001, EDX)],
    ...brandRows(id.brand),
    [0x8000_0006, 0, 0, 0, 0x0100_6040, 0],
    [0x8000_0007, 0, 0, 0, 0, mask(0x8000_0007, EDX)],
    [0x8000_0008, 0, profile.maxPhysBits | (57 << 8), 0, 0, 0],
  ];
}

/** Leaf 4: 32 KiB L1D and L1I, 1 MiB L2; sets and ways of Skylake-SP. */
function cacheRows(): readonly CpuidRow[] {
  return [
    [0x4, 0, 0x0000_0121, 0x01c0_003f, 63, 0],
    [0x4, 1, 0x0000_0122, 0x01c0_003f, 63, 0],
    [0x4, 2, 0x0000_0143, 0x03c0_003f, 1023, 0],
    [0x4, 3, 0, 0, 0, 0],
  ];
}

function brandRows(brand: string): readonly CpuidRow[] {
  const w = words(brand.padEnd(48, '\0').slice(0, 48));
  return [0, 1, 2].map((n) => [0x8000_0002 + n, 0, w[n * 4]!, w[n * 4 + 1]!, w[n * 4 + 2]!, w[n * 4 + 3]!]);
}
