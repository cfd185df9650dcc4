// SPDX-License-Identifier: GPL-2.0-only
/** VM-instruction error numbers by KVM's names. SDM, "VM Instruction Error Numbers". Numbers left out are not defined. */

// prettier-ignore
export const VMXERR = {
  VMCALL_IN_VMX_ROOT_OPERATION:                                 1,
  VMCLEAR_INVALID_ADDRESS:                                      2,
  VMCLEAR_VMXON_POINTER:                                        3,
  VMLAUNCH_NONCLEAR_VMCS:                                       4,
  VMRESUME_NONLAUNCHED_VMCS:                                    5,
  VMRESUME_AFTER_VMXOFF:                                        6,
  ENTRY_INVALID_CONTROL_FIELD:                                  7,
  ENTRY_INVALID_HOST_STATE_FIELD:                               8,
  VMPTRLD_INVALID_ADDRESS:                                      9,
  VMPTRLD_VMXON_POINTER:                                        10,
  VMPTRLD_INCORRECT_VMCS_REVISION_ID:                           11,
  UNSUPPORTED_VMCS_COMPONENT:                                   12,
  VMWRITE_READ_ONLY_VMCS_COMPONENT:                             13,
  VMXON_IN_VMX_ROOT_OPERATION:                                  15,
  ENTRY_INVALID_EXECUTIVE_VMCS_POINTER:                         16,
  ENTRY_NONLAUNCHED_EXECUTIVE_VMCS:                             17,
  ENTRY_EXECUTIVE_VMCS_POINTER_NOT_VMXON_POINTER:               18,
  VMCALL_NONCLEAR_VMCS:                                         19,
  VMCALL_INVALID_VM_EXIT_CONTROL_FIELDS:                        20,
  VMCALL_INCORRECT_MSEG_REVISION_ID:                            22,
  VMXOFF_UNDER_DUAL_MONITOR_TREATMENT_OF_SMIS_AND_SMM:          23,
  VMCALL_INVALID_SMM_MONITOR_FEATURES:                          24,
  ENTRY_INVALID_VM_EXECUTION_CONTROL_FIELDS_IN_EXECUTIVE_VMCS:  25,
  ENTRY_EVENTS_BLOCKED_BY_MOV_SS:                               26,
  INVALID_OPERAND_TO_INVEPT_INVVPID:                            28,
} as const;
