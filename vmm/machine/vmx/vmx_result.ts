// SPDX-License-Identifier: GPL-2.0-only
/** VMfail: where a VMX instruction leaves its error number. SDM, "Conventions" of the VMX instruction reference. */
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { vmcsWord } from './vmcs_layout.ts';
import { VMX_RESULT } from './vmx_unit.ts';

const VM_INSTRUCTION_ERROR = vmcsWord(VMCS_INFO.VM_INSTRUCTION_ERROR);

/** VMfailValid with an error number if there is a current VMCS, else VMfailInvalid. */
export function vmFail(cpu: Cpu, error: number): number {
  if (cpu.vmx.currentVmcs === -1) return VMX_RESULT.FAIL_INVALID;
  cpu.mem.i32[cpu.vmx.base + VM_INSTRUCTION_ERROR] = error;
  return VMX_RESULT.FAIL_VALID;
}
