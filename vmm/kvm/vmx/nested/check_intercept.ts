// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1's interceptions of instructions that L0 emulates for L2: vmx_check_intercept() of arch/x86/kvm/vmx/vmx.c, 6.18, for what L0's
 * emulator can carry out without memory. Leaves out PAUSE-loop exiting, which nobody can count on.
 */
import { CPU_BASED } from '../../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_INFO } from '../../../../lib/x86/vmx/vmcs_info.ts';
import type { Vcpu } from '../../kvm_host.ts';
import type { InterceptedInsn } from '../../kvm_host_x86.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { nestedVmxVmexitSimple } from './exit.ts';

// prettier-ignore
const INTERCEPT: Readonly<Record<InterceptedInsn, readonly [control: number, reason: number]>> = {
  hlt:   [CPU_BASED.HLT_EXITING, EXIT_REASON.HLT],
  pause: [CPU_BASED.PAUSE_EXITING, EXIT_REASON.PAUSE_INSTRUCTION],
};

/** vmx_check_intercept(): the exit's instruction length is that of the instruction, whatever prefix led to its emulation. */
export function vmxCheckIntercept(vcpu: Vcpu, insn: InterceptedInsn, length: number): boolean {
  const { cachedVmcs12 } = toVmx(vcpu).nested;
  const [control, reason] = INTERCEPT[insn];
  if ((cachedVmcs12.lo(VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL) & control) === 0) return false;
  nestedVmxVmexitSimple(vcpu, reason);
  cachedVmcs12.set32(VMCS_INFO.VM_EXIT_INSTRUCTION_LEN, length);
  return true;
}
