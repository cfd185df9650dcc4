// SPDX-License-Identifier: GPL-2.0-only
/** VMCS VM-exit information fields by KVM's names. SDM, appendix "Field Encoding in VMCS": the read-only data fields. */

// prettier-ignore
export const VMCS_INFO = {
  GUEST_PHYSICAL_ADDRESS:   0x2400,
  ORIGINAL_EVENT_DATA:      0x2404,
  VM_INSTRUCTION_ERROR:     0x4400,
  VM_EXIT_REASON:           0x4402,
  VM_EXIT_INTR_INFO:        0x4404,
  VM_EXIT_INTR_ERROR_CODE:  0x4406,
  IDT_VECTORING_INFO_FIELD: 0x4408,
  IDT_VECTORING_ERROR_CODE: 0x440a,
  VM_EXIT_INSTRUCTION_LEN:  0x440c,
  VMX_INSTRUCTION_INFO:     0x440e,
  EXIT_QUALIFICATION:       0x6400,
  IO_RCX:                   0x6402,
  IO_RSI:                   0x6404,
  IO_RDI:                   0x6406,
  IO_RIP:                   0x6408,
  GUEST_LINEAR_ADDRESS:     0x640a,
} as const;
