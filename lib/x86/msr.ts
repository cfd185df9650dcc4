// SPDX-License-Identifier: GPL-2.0-only
/**
 * Numbers of model-specific registers and the bits of those that belong to no other table. SDM, "Model-Specific
 * Registers (MSRs)"; names as in msr-index.h without the MSR_ prefix. The IA32_VMX_* capability MSRs are in vmx/.
 */

// prettier-ignore
export const MSR = {
  IA32_TSC:             0x0000_0010,
  IA32_PLATFORM_ID:     0x0000_0017,
  IA32_APICBASE:        0x0000_001b,
  IA32_FEAT_CTL:        0x0000_003a,
  IA32_TSC_ADJUST:      0x0000_003b,
  IA32_SPEC_CTRL:       0x0000_0048,
  IA32_PRED_CMD:        0x0000_0049,
  IA32_UCODE_WRITE:     0x0000_0079,
  IA32_UCODE_REV:       0x0000_008b,
  IA32_SMM_MONITOR_CTL: 0x0000_009b,
  IA32_SMBASE:          0x0000_009e,
  PLATFORM_INFO:        0x0000_00ce,
  MTRRcap:              0x0000_00fe,
  IA32_ARCH_CAPABILITIES: 0x0000_010a,
  IA32_SYSENTER_CS:     0x0000_0174,
  IA32_SYSENTER_ESP:    0x0000_0175,
  IA32_SYSENTER_EIP:    0x0000_0176,
  IA32_MCG_CAP:         0x0000_0179,
  IA32_MCG_STATUS:      0x0000_017a,
  IA32_MISC_ENABLE:     0x0000_01a0,
  IA32_DEBUGCTL:        0x0000_01d9,
  MTRRphysBase0:        0x0000_0200, // base and mask in turns, to 0x20f
  MTRRfix64K_00000:     0x0000_0250,
  MTRRfix16K_80000:     0x0000_0258,
  MTRRfix16K_A0000:     0x0000_0259,
  MTRRfix4K_C0000:      0x0000_0268, // to 0x26f
  IA32_CR_PAT:          0x0000_0277,
  MTRRdefType:          0x0000_02ff,
  CORE_PERF_GLOBAL_CTRL: 0x0000_038f,
  IA32_TSC_DEADLINE:    0x0000_06e0,
  IA32_XSS:             0x0000_0da0,
  EFER:                 0xc000_0080,
  STAR:                 0xc000_0081,
  LSTAR:                0xc000_0082,
  CSTAR:                0xc000_0083,
  SYSCALL_MASK:         0xc000_0084,
  FS_BASE:              0xc000_0100,
  GS_BASE:              0xc000_0101,
  KERNEL_GS_BASE:       0xc000_0102,
  TSC_AUX:              0xc000_0103,
} as const;

/** IA32_MISC_ENABLE, low word. */
// prettier-ignore
export const MISC_ENABLE = {
  FAST_STRING: 0x0000_0001,
  EMON:        0x0000_0080, // Performance monitoring available, read only
  BTS_UNAVAIL: 0x0000_0800, // read only
  PEBS_UNAVAIL: 0x0000_1000, // read only
  MWAIT:       0x0004_0000, // MONITOR/MWAIT enable
  LIMIT_CPUID: 0x0040_0000,
} as const;

/** IA32_DEBUGCTL. */
// prettier-ignore
export const DEBUGCTL = { LBR: 0x1, BTF: 0x2 } as const;

/** IA32_PAT at reset: WB WT UC- UC, twice. */
export const PAT_RESET_LO = 0x0007_0406;
export const PAT_RESET_HI = 0x0007_0406;
