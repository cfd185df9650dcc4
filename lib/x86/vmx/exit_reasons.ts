// SPDX-License-Identifier: GPL-2.0-only
/**
 * Basic exit reasons by KVM's names (arch/x86/include/uapi/asm/vmx.h), and the bits above them. SDM, appendix "VMX Basic
 * Exit Reasons". Numbers that the manual leaves out (35, 38, 42, 71) are reserved.
 */

// prettier-ignore
export const EXIT_REASON = {
  EXCEPTION_NMI:       0,
  EXTERNAL_INTERRUPT:  1,
  TRIPLE_FAULT:        2,
  INIT_SIGNAL:         3,
  SIPI_SIGNAL:         4,
  IO_SMI:              5,
  OTHER_SMI:           6,
  INTERRUPT_WINDOW:    7,
  NMI_WINDOW:          8,
  TASK_SWITCH:         9,
  CPUID:               10,
  GETSEC:              11,
  HLT:                 12,
  INVD:                13,
  INVLPG:              14,
  RDPMC:               15,
  RDTSC:               16,
  RSM:                 17,
  VMCALL:              18,
  VMCLEAR:             19,
  VMLAUNCH:            20,
  VMPTRLD:             21,
  VMPTRST:             22,
  VMREAD:              23,
  VMRESUME:            24,
  VMWRITE:             25,
  VMOFF:               26,
  VMON:                27,
  CR_ACCESS:           28,
  DR_ACCESS:           29,
  IO_INSTRUCTION:      30,
  MSR_READ:            31,
  MSR_WRITE:           32,
  INVALID_STATE:       33,
  MSR_LOAD_FAIL:       34,
  MWAIT_INSTRUCTION:   36,
  MONITOR_TRAP_FLAG:   37,
  MONITOR_INSTRUCTION: 39,
  PAUSE_INSTRUCTION:   40,
  MCE_DURING_VMENTRY:  41,
  TPR_BELOW_THRESHOLD: 43,
  APIC_ACCESS:         44,
  EOI_INDUCED:         45,
  GDTR_IDTR:           46,
  LDTR_TR:             47,
  EPT_VIOLATION:       48,
  EPT_MISCONFIG:       49,
  INVEPT:              50,
  RDTSCP:              51,
  PREEMPTION_TIMER:    52,
  INVVPID:             53,
  WBINVD:              54,
  XSETBV:              55,
  APIC_WRITE:          56,
  RDRAND:              57,
  INVPCID:             58,
  VMFUNC:              59,
  ENCLS:               60,
  RDSEED:              61,
  PML_FULL:            62,
  XSAVES:              63,
  XRSTORS:             64,
  PCONFIG:             65,
  SPP:                 66,
  UMWAIT:              67,
  TPAUSE:              68,
  LOADIWKEY:           69,
  ENCLV:               70,
  ENQCMD:              72,
  ENQCMDS:             73,
  BUS_LOCK:            74,
  NOTIFY:              75,
  SEAMCALL:            76,
  TDCALL:              77,
} as const;

/** Bits of the exit-reason field above the basic exit reason. SDM, "Basic VM-Exit Information". */
// prettier-ignore
export const VMX_EXIT_REASONS = {
  BASIC_MASK:     0x0000_ffff,
  BUS_LOCK:       0x0400_0000, // Bus lock detected before the exit
  SGX_ENCLAVE:    0x0800_0000, // In enclave mode
  PENDING_MTF:    0x1000_0000, // An MTF VM exit was pending (SMM only)
  FROM_ROOT:      0x2000_0000, // From VMX root operation (SMM only)
  FAILED_VMENTRY: 0x8000_0000,
} as const;

/** Exit qualification of a failed VM entry due to invalid guest state. SDM, "VM-Entry Failures During or After Loading Guest State". */
// prettier-ignore
export const ENTRY_FAIL = { DEFAULT: 0, PDPTE: 2, NMI: 3, VMCS_LINK_PTR: 4 } as const;
