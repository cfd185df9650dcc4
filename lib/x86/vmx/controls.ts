// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM-execution, VM-exit and VM-entry controls by KVM's names. SDM, "VM-Execution Control Fields", "VM-Exit Controls",
 * "VM-Entry Controls".
 */

/** Pin-based VM-execution controls. */
// prettier-ignore
export const PIN_BASED = {
  EXT_INTR_MASK:        0x0000_0001,
  NMI_EXITING:          0x0000_0008,
  VIRTUAL_NMIS:         0x0000_0020,
  VMX_PREEMPTION_TIMER: 0x0000_0040,
  POSTED_INTR:          0x0000_0080,
} as const;

/** Primary processor-based VM-execution controls. */
// prettier-ignore
export const CPU_BASED = {
  INTR_WINDOW_EXITING:         0x0000_0004,
  USE_TSC_OFFSETTING:          0x0000_0008,
  HLT_EXITING:                 0x0000_0080,
  INVLPG_EXITING:              0x0000_0200,
  MWAIT_EXITING:               0x0000_0400,
  RDPMC_EXITING:               0x0000_0800,
  RDTSC_EXITING:               0x0000_1000,
  CR3_LOAD_EXITING:            0x0000_8000,
  CR3_STORE_EXITING:           0x0001_0000,
  ACTIVATE_TERTIARY_CONTROLS:  0x0002_0000,
  CR8_LOAD_EXITING:            0x0008_0000,
  CR8_STORE_EXITING:           0x0010_0000,
  TPR_SHADOW:                  0x0020_0000,
  NMI_WINDOW_EXITING:          0x0040_0000,
  MOV_DR_EXITING:              0x0080_0000,
  UNCOND_IO_EXITING:           0x0100_0000,
  USE_IO_BITMAPS:              0x0200_0000,
  MONITOR_TRAP_FLAG:           0x0800_0000,
  USE_MSR_BITMAPS:             0x1000_0000,
  MONITOR_EXITING:             0x2000_0000,
  PAUSE_EXITING:               0x4000_0000,
  ACTIVATE_SECONDARY_CONTROLS: 0x8000_0000,
} as const;

/** Secondary processor-based VM-execution controls. */
// prettier-ignore
export const SECONDARY_EXEC = {
  VIRTUALIZE_APIC_ACCESSES:  0x0000_0001,
  ENABLE_EPT:                0x0000_0002,
  DESC:                      0x0000_0004, // Descriptor-table exiting
  ENABLE_RDTSCP:             0x0000_0008,
  VIRTUALIZE_X2APIC_MODE:    0x0000_0010,
  ENABLE_VPID:               0x0000_0020,
  WBINVD_EXITING:            0x0000_0040,
  UNRESTRICTED_GUEST:        0x0000_0080,
  APIC_REGISTER_VIRT:        0x0000_0100,
  VIRTUAL_INTR_DELIVERY:     0x0000_0200,
  PAUSE_LOOP_EXITING:        0x0000_0400,
  RDRAND_EXITING:            0x0000_0800,
  ENABLE_INVPCID:            0x0000_1000,
  ENABLE_VMFUNC:             0x0000_2000,
  SHADOW_VMCS:               0x0000_4000,
  ENCLS_EXITING:             0x0000_8000,
  RDSEED_EXITING:            0x0001_0000,
  ENABLE_PML:                0x0002_0000,
  EPT_VIOLATION_VE:          0x0004_0000,
  PT_CONCEAL_VMX:            0x0008_0000,
  ENABLE_XSAVES:             0x0010_0000,
  PASID_TRANSLATION:         0x0020_0000,
  MODE_BASED_EPT_EXEC:       0x0040_0000,
  SUB_PAGE_WRITE_PERMISSION: 0x0080_0000,
  PT_USE_GPA:                0x0100_0000,
  TSC_SCALING:               0x0200_0000,
  ENABLE_USR_WAIT_PAUSE:     0x0400_0000,
  ENABLE_PCONFIG:            0x0800_0000,
  ENCLV_EXITING:             0x1000_0000,
  BUS_LOCK_DETECTION:        0x4000_0000,
  NOTIFY_VM_EXITING:         0x8000_0000,
} as const;

/** Tertiary processor-based VM-execution controls: bits 31:0 of a 64-bit field, all of whose upper bits are reserved. */
// prettier-ignore
export const TERTIARY_EXEC = {
  LOADIWKEY_EXITING:           0x0000_0001,
  ENABLE_HLAT:                 0x0000_0002,
  EPT_PAGING_WRITE_CONTROL:    0x0000_0004,
  GUEST_PAGING_VERIFICATION:   0x0000_0008,
  IPI_VIRT:                    0x0000_0010,
  ENABLE_GPAW:                 0x0000_0020,
  VIRTUALIZE_IA32_SPEC_CTRL:   0x0000_0080,
} as const;

/** VM-function controls: bits 31:0 of a 64-bit field; bit n enables VM function n. SDM, "VM-Function Controls". */
// prettier-ignore
export const VMX_VMFUNC = {
  EPTP_SWITCHING: 0x0000_0001,
} as const;
/** EPTPs in the 4-KByte page at the EPTP-list address. */
export const VMFUNC_EPTP_ENTRIES = 512;

/** Primary VM-exit controls. */
// prettier-ignore
export const VM_EXIT = {
  SAVE_DEBUG_CONTROLS:        0x0000_0004,
  HOST_ADDR_SPACE_SIZE:       0x0000_0200,
  LOAD_IA32_PERF_GLOBAL_CTRL: 0x0000_1000,
  ACK_INTR_ON_EXIT:           0x0000_8000,
  SAVE_IA32_PAT:              0x0004_0000,
  LOAD_IA32_PAT:              0x0008_0000,
  SAVE_IA32_EFER:             0x0010_0000,
  LOAD_IA32_EFER:             0x0020_0000,
  SAVE_VMX_PREEMPTION_TIMER:  0x0040_0000,
  CLEAR_BNDCFGS:              0x0080_0000,
  PT_CONCEAL_PIP:             0x0100_0000,
  CLEAR_IA32_RTIT_CTL:        0x0200_0000,
  CLEAR_IA32_LBR_CTL:         0x0400_0000,
  CLEAR_UINV:                 0x0800_0000,
  LOAD_CET_STATE:             0x1000_0000,
  LOAD_PKRS:                  0x2000_0000,
  SAVE_PERF_GLOBAL_CTRL:      0x4000_0000,
  ACTIVATE_SECONDARY_CONTROLS: 0x8000_0000,
} as const;

/** VM-entry controls. */
// prettier-ignore
export const VM_ENTRY = {
  LOAD_DEBUG_CONTROLS:        0x0000_0004,
  IA32E_MODE:                 0x0000_0200,
  SMM:                        0x0000_0400,
  DEACT_DUAL_MONITOR:         0x0000_0800,
  LOAD_IA32_PERF_GLOBAL_CTRL: 0x0000_2000,
  LOAD_IA32_PAT:              0x0000_4000,
  LOAD_IA32_EFER:             0x0000_8000,
  LOAD_BNDCFGS:               0x0001_0000,
  PT_CONCEAL_PIP:             0x0002_0000,
  LOAD_IA32_RTIT_CTL:         0x0004_0000,
  LOAD_UINV:                  0x0008_0000,
  LOAD_CET_STATE:             0x0010_0000,
  LOAD_IA32_LBR_CTL:          0x0020_0000,
  LOAD_PKRS:                  0x0040_0000,
  LOAD_FRED:                  0x0080_0000,
} as const;

/** Extended-page-table pointer, bits 11:0. SDM, "Extended-Page-Table Pointer (EPTP)". */
// prettier-ignore
export const VMX_EPTP = {
  MT_MASK:        0x007, // Memory type of accesses to EPT structures
  MT_UC:          0x000,
  MT_WB:          0x006,
  PWL_MASK:       0x038, // Page-walk length minus one
  PWL_4:          0x018,
  PWL_5:          0x020,
  AD_ENABLE_BIT:  0x040, // Accessed and dirty flags
  SSS_BIT:        0x080, // Supervisor shadow-stack enforcement
  RESERVED:       0xf00,
} as const;
