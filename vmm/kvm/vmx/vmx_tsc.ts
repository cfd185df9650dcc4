// SPDX-License-Identifier: GPL-2.0-only
/** vmx_write_tsc_offset() of arch/x86/kvm/vmx/vmx.c, 6.12. */
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { vmwrite64 } from '../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../kvm_host.ts';
import { vmxCpu } from './vcpu_vmx.ts';

/** The guest's TSC is the pCPU's plus this. */
export function vmxWriteTscOffset(vcpu: Vcpu): void {
  vmwrite64(vmxCpu(vcpu), VMCS_CTRL.TSC_OFFSET, BigInt.asUintN(64, vcpu.arch.l1TscOffset));
}
