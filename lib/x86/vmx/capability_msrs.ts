// SPDX-License-Identifier: GPL-2.0-only
/** VMX capability MSRs: numbers and bits. SDM, appendix "VMX Capability Reporting Facility". */

/** MSR numbers by KVM's names, without the MSR_ prefix. */
// prettier-ignore
export const VMX_MSR = {
  IA32_FEATURE_CONTROL:          0x03a,
  IA32_VMX_BASIC:                0x480,
  IA32_VMX_PINBASED_CTLS:        0x481,
  IA32_VMX_PROCBASED_CTLS:       0x482,
  IA32_VMX_EXIT_CTLS:            0x483,
  IA32_VMX_ENTRY_CTLS:           0x484,
  IA32_VMX_MISC:                 0x485,
  IA32_VMX_CR0_FIXED0:           0x486,
  IA32_VMX_CR0_FIXED1:           0x487,
  IA32_VMX_CR4_FIXED0:           0x488,
  IA32_VMX_CR4_FIXED1:           0x489,
  IA32_VMX_VMCS_ENUM:            0x48a,
  IA32_VMX_PROCBASED_CTLS2:      0x48b,
  IA32_VMX_EPT_VPID_CAP:         0x48c,
  IA32_VMX_TRUE_PINBASED_CTLS:   0x48d,
  IA32_VMX_TRUE_PROCBASED_CTLS:  0x48e,
  IA32_VMX_TRUE_EXIT_CTLS:       0x48f,
  IA32_VMX_TRUE_ENTRY_CTLS:      0x490,
  IA32_VMX_VMFUNC:               0x491,
  IA32_VMX_PROCBASED_CTLS3:      0x492,
  IA32_VMX_EXIT_CTLS2:           0x493,
} as const;

/** IA32_FEATURE_CONTROL. SDM, "Enabling and Entering VMX Operation". */
// prettier-ignore
export const FEAT_CTL = {
  LOCKED:                   0x0000_0001,
  VMX_ENABLED_INSIDE_SMX:   0x0000_0002,
  VMX_ENABLED_OUTSIDE_SMX:  0x0000_0004,
  SGX_LC_ENABLED:           0x0002_0000,
  SGX_ENABLED:              0x0004_0000,
  LMCE_ENABLED:             0x0010_0000,
} as const;

/** IA32_VMX_BASIC: the low word is the revision identifier, these are bits 63:32 as masks of the high word. */
// prettier-ignore
export const VMX_BASIC_HI = {
  VMCS_SIZE_MASK:       0x0000_1fff,
  PHYS_ADDR_32BIT:      0x0001_0000, // Bit 48
  DUAL_MONITOR:         0x0002_0000, // Bit 49
  MEM_TYPE_MASK:        0x003c_0000, // Bits 53:50
  INOUT:                0x0040_0000, // Bit 54: information for INS and OUTS
  TRUE_CTLS:            0x0080_0000, // Bit 55
  NO_HW_ERROR_CODE_CC:  0x0100_0000, // Bit 56: the error-code consistency check is relaxed
} as const;
export const VMX_BASIC_HI_MEM_TYPE_SHIFT = 18;

/** IA32_VMX_MISC, bits 31:0. */
// prettier-ignore
export const VMX_MISC = {
  PREEMPTION_TIMER_RATE_MASK:  0x0000_001f,
  SAVE_EFER_LMA:               0x0000_0020,
  ACTIVITY_HLT:                0x0000_0040,
  ACTIVITY_SHUTDOWN:           0x0000_0080,
  ACTIVITY_WAIT_SIPI:          0x0000_0100,
  INTEL_PT:                    0x0000_4000,
  RDMSR_IN_SMM:                0x0000_8000,
  CR3_TARGET_COUNT_MASK:       0x01ff_0000,
  MSR_LIST_SIZE_MASK:          0x0e00_0000,
  SMI_BLOCKING:                0x1000_0000,
  VMWRITE_SHADOW_RO_FIELDS:    0x2000_0000, // VMWRITE may write the VM-exit information fields
  ZERO_LEN_INS:                0x4000_0000, // Software events may be injected with an instruction length of 0
} as const;
export const VMX_MISC_CR3_TARGET_COUNT_SHIFT = 16;
export const VMX_MISC_MSR_LIST_SIZE_SHIFT = 25;

/** IA32_VMX_EPT_VPID_CAP, bits 31:0. */
// prettier-ignore
export const VMX_EPT_CAP = {
  EXECUTE_ONLY_BIT:    0x0000_0001,
  PAGE_WALK_4_BIT:     0x0000_0040,
  PAGE_WALK_5_BIT:     0x0000_0080,
  UC_BIT:              0x0000_0100,
  WB_BIT:              0x0000_4000,
  PAGE_2MB_BIT:        0x0001_0000,
  PAGE_1GB_BIT:        0x0002_0000,
  INVEPT_BIT:          0x0010_0000,
  AD_BIT:              0x0020_0000,
  ADVANCED_EXIT_INFO_BIT: 0x0040_0000,
  SSS_BIT:             0x0080_0000,
  EXTENT_CONTEXT_BIT:  0x0200_0000,
  EXTENT_GLOBAL_BIT:   0x0400_0000,
} as const;

/** IA32_VMX_EPT_VPID_CAP, bits 63:32 as masks of the high word. */
// prettier-ignore
export const VMX_VPID_CAP_HI = {
  INVVPID_BIT:                   0x001,
  EXTENT_INDIVIDUAL_ADDR_BIT:    0x100,
  EXTENT_SINGLE_CONTEXT_BIT:     0x200,
  EXTENT_GLOBAL_CONTEXT_BIT:     0x400,
  EXTENT_SINGLE_NON_GLOBAL_BIT:  0x800,
} as const;

/** INVEPT types. SDM, "INVEPT — Invalidate Translations Derived from EPT". */
// prettier-ignore
export const VMX_EPT_EXTENT = { CONTEXT: 1, GLOBAL: 2 } as const;
/** INVVPID types. SDM, "INVVPID — Invalidate Translations Based on VPID". */
// prettier-ignore
export const VMX_VPID_EXTENT = { INDIVIDUAL_ADDR: 0, SINGLE_CONTEXT: 1, ALL_CONTEXT: 2, SINGLE_NON_GLOBAL: 3 } as const;
