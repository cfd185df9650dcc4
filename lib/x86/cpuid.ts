// SPDX-License-Identifier: GPL-2.0-only
/**
 * CPUID feature bits by KVM's names (X86_FEATURE_*), each with the leaf, sub-leaf, register and bit that it is in. SDM,
 * "CPUID - CPU Identification". Two tables, because a table has at most 120 keys: basic leaves and the rest.
 */

/** Index of an output register of CPUID. */
// prettier-ignore
export const CPUID_REG = { EAX: 0, EBX: 1, ECX: 2, EDX: 3 } as const;

/** Where a feature bit is: leaf, sub-leaf, register (CPUID_REG), bit number. */
export type CpuidFeature = readonly [leaf: number, subleaf: number, reg: number, bit: number];

/** Sub-leaf of leaves that ignore ECX: matches any. */
const ANY = 0;
const { EAX, EBX, ECX, EDX } = CPUID_REG;

// prettier-ignore
export const X86_FEATURE = {
  XMM3:               [0x1, ANY, ECX, 0],
  PCLMULQDQ:          [0x1, ANY, ECX, 1],
  MWAIT:              [0x1, ANY, ECX, 3],
  VMX:                [0x1, ANY, ECX, 5],
  SMX:                [0x1, ANY, ECX, 6],
  PDCM:               [0x1, ANY, ECX, 15],
  PCID:               [0x1, ANY, ECX, 17],
  CX16:               [0x1, ANY, ECX, 13],
  X2APIC:             [0x1, ANY, ECX, 21],
  MOVBE:              [0x1, ANY, ECX, 22],
  POPCNT:             [0x1, ANY, ECX, 23],
  TSC_DEADLINE_TIMER: [0x1, ANY, ECX, 24],
  XSAVE:              [0x1, ANY, ECX, 26],
  OSXSAVE:            [0x1, ANY, ECX, 27],
  AVX:                [0x1, ANY, ECX, 28],
  RDRAND:             [0x1, ANY, ECX, 30],
  HYPERVISOR:         [0x1, ANY, ECX, 31],
  FPU:                [0x1, ANY, EDX, 0],
  VME:                [0x1, ANY, EDX, 1],
  DE:                 [0x1, ANY, EDX, 2],
  PSE:                [0x1, ANY, EDX, 3],
  TSC:                [0x1, ANY, EDX, 4],
  MSR:                [0x1, ANY, EDX, 5],
  PAE:                [0x1, ANY, EDX, 6],
  MCE:                [0x1, ANY, EDX, 7],
  CX8:                [0x1, ANY, EDX, 8],
  APIC:               [0x1, ANY, EDX, 9],
  SEP:                [0x1, ANY, EDX, 11],
  MTRR:               [0x1, ANY, EDX, 12],
  PGE:                [0x1, ANY, EDX, 13],
  MCA:                [0x1, ANY, EDX, 14],
  CMOV:               [0x1, ANY, EDX, 15],
  PAT:                [0x1, ANY, EDX, 16],
  PSE36:              [0x1, ANY, EDX, 17],
  CLFLUSH:            [0x1, ANY, EDX, 19],
  DS:                 [0x1, ANY, EDX, 21],
  FXSR:               [0x1, ANY, EDX, 24],
  XMM:                [0x1, ANY, EDX, 25],
  XMM2:               [0x1, ANY, EDX, 26],
  ARAT:               [0x6, ANY, EAX, 2],
  FSGSBASE:           [0x7, 0, EBX, 0],
  TSC_ADJUST:         [0x7, 0, EBX, 1],
  SGX:                [0x7, 0, EBX, 2],
  HLE:                [0x7, 0, EBX, 4],
  SMEP:               [0x7, 0, EBX, 7],
  ERMS:               [0x7, 0, EBX, 9],
  INVPCID:            [0x7, 0, EBX, 10],
  RTM:                [0x7, 0, EBX, 11],
  MPX:                [0x7, 0, EBX, 14],
  RDSEED:             [0x7, 0, EBX, 18],
  SMAP:               [0x7, 0, EBX, 20],
  PCOMMIT:            [0x7, 0, EBX, 22],
  CLFLUSHOPT:         [0x7, 0, EBX, 23],
  CLWB:               [0x7, 0, EBX, 24],
  UMIP:               [0x7, 0, ECX, 2],
  PKU:                [0x7, 0, ECX, 3],
  OSPKE:              [0x7, 0, ECX, 4],
  WAITPKG:            [0x7, 0, ECX, 5],
  LA57:               [0x7, 0, ECX, 16],
  RDPID:              [0x7, 0, ECX, 22],
  BUS_LOCK_DETECT:    [0x7, 0, ECX, 24],
  SGX_LC:             [0x7, 0, ECX, 30],
  PKS:                [0x7, 0, ECX, 31],
  SHSTK:              [0x7, 0, ECX, 7],
  IBT:                [0x7, 0, EDX, 20],
  AMX_TILE:           [0x7, 0, EDX, 24],
  SPEC_CTRL:          [0x7, 0, EDX, 26],
  ARCH_CAPABILITIES:  [0x7, 0, EDX, 29],
  XSAVEOPT:           [0xd, 1, EAX, 0],
  XSAVEC:             [0xd, 1, EAX, 1],
  XSAVES:             [0xd, 1, EAX, 3],
  XTILECFG:           [0xd, 0, EAX, 17],
  XTILEDATA:          [0xd, 0, EAX, 18],
} as const satisfies Readonly<Record<string, CpuidFeature>>;

/** Features of the extended (0x80000000) and KVM's (0x40000000) leaves. */
// prettier-ignore
export const X86_FEATURE_EXT = {
  LAHF_LM:       [0x8000_0001, ANY, ECX, 0],
  SVM:           [0x8000_0001, ANY, ECX, 2],
  ABM:           [0x8000_0001, ANY, ECX, 5], // LZCNT
  PERFCTR_CORE:  [0x8000_0001, ANY, ECX, 23],
  SYSCALL:       [0x8000_0001, ANY, EDX, 11],
  NX:            [0x8000_0001, ANY, EDX, 20],
  GBPAGES:       [0x8000_0001, ANY, EDX, 26],
  RDTSCP:        [0x8000_0001, ANY, EDX, 27],
  LM:            [0x8000_0001, ANY, EDX, 29],
  INVTSC:        [0x8000_0007, ANY, EDX, 8],
  RDPRU:         [0x8000_0008, ANY, EBX, 4],
  AMD_IBPB:      [0x8000_0008, ANY, EBX, 12],
  NPT:           [0x8000_000a, ANY, EDX, 0],
  LBRV:          [0x8000_000a, ANY, EDX, 1],
  NRIPS:         [0x8000_000a, ANY, EDX, 3],
  TSCRATEMSR:    [0x8000_000a, ANY, EDX, 4],
  VMCBCLEAN:     [0x8000_000a, ANY, EDX, 5],
  FLUSHBYASID:   [0x8000_000a, ANY, EDX, 6],
  PAUSEFILTER:   [0x8000_000a, ANY, EDX, 10],
  PFTHRESHOLD:   [0x8000_000a, ANY, EDX, 12],
  V_VMSAVE_VMLOAD: [0x8000_000a, ANY, EDX, 15],
  VGIF:          [0x8000_000a, ANY, EDX, 16],
  IDLE_HLT:      [0x8000_000a, ANY, EDX, 30],
  SEV:           [0x8000_001f, ANY, EAX, 1],
  KVM_CLOCKSOURCE:     [0x4000_0001, ANY, EAX, 0],
  KVM_NOP_IO_DELAY:    [0x4000_0001, ANY, EAX, 1],
  KVM_CLOCKSOURCE2:    [0x4000_0001, ANY, EAX, 3],
  KVM_ASYNC_PF:        [0x4000_0001, ANY, EAX, 4],
  KVM_STEAL_TIME:      [0x4000_0001, ANY, EAX, 5],
  KVM_PV_EOI:          [0x4000_0001, ANY, EAX, 6],
  KVM_PV_UNHALT:       [0x4000_0001, ANY, EAX, 7],
  KVM_PV_TLB_FLUSH:    [0x4000_0001, ANY, EAX, 9],
  KVM_ASYNC_PF_VMEXIT: [0x4000_0001, ANY, EAX, 10],
  KVM_PV_SEND_IPI:     [0x4000_0001, ANY, EAX, 11],
  KVM_POLL_CONTROL:    [0x4000_0001, ANY, EAX, 12],
  KVM_PV_SCHED_YIELD:  [0x4000_0001, ANY, EAX, 13],
  KVM_ASYNC_PF_INT:    [0x4000_0001, ANY, EAX, 14],
  KVM_MSI_EXT_DEST_ID: [0x4000_0001, ANY, EAX, 15],
  KVM_HC_MAP_GPA_RANGE: [0x4000_0001, ANY, EAX, 16],
  KVM_MIGRATION_CONTROL: [0x4000_0001, ANY, EAX, 17],
} as const satisfies Readonly<Record<string, CpuidFeature>>;

/** Output of one CPUID leaf: EAX, EBX, ECX, EDX as unsigned numbers. */
export type CpuidRow = readonly [
  leaf: number,
  subleaf: number,
  eax: number,
  ebx: number,
  ecx: number,
  edx: number,
];

/** The bits of one output register that `features` cover, as an unsigned mask. */
export function cpuidMask(
  features: readonly CpuidFeature[],
  leaf: number,
  subleaf: number,
  reg: number,
): number {
  let mask = 0;
  for (const [l, s, r, bit] of features) {
    if (l === leaf && s === subleaf && r === reg) mask |= 1 << bit;
  }
  return mask >>> 0;
}

/** Whether the leaf's output depends on ECX. SDM, CPUID: leaves 4, 7, 0xb, 0xd, 0xf, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1f; APM: 0x8000001d. */
export function cpuidLeafHasIndex(leaf: number): boolean {
  return INDEXED_LEAVES.has(leaf >>> 0);
}
const INDEXED_LEAVES: ReadonlySet<number> = new Set([
  0x4, 0x7, 0xb, 0xd, 0xf, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1d, 0x1e, 0x1f, 0x8000_001d,
]);
