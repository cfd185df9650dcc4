// SPDX-License-Identifier: GPL-2.0-only
/**
 * TSC offset and multiplier in the VMCS that the vCPU runs on, and what L1 adds to them for L2: vmx_write_tsc_offset(),
 * vmx_get_l2_tsc_offset() and their kin of arch/x86/kvm/vmx/vmx.c, 6.12.
 */
import { CPU_BASED } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { vmwrite64 } from '../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_DEFAULT_TSC_SCALING_RATIO } from '../x86/tsc.ts';
import { nestedCpuHas, nestedCpuHasTscScaling } from './nested/vmcs12_controls.ts';
import { toVmx, vmxCpu } from './vcpu_vmx.ts';

/** The guest's TSC is the pCPU's, scaled, plus this. */
export function vmxWriteTscOffset(vcpu: Vcpu): void {
  vmwrite64(vmxCpu(vcpu), VMCS_CTRL.TSC_OFFSET, BigInt.asUintN(64, vcpu.arch.tscOffset));
}

/** vmx_write_tsc_multiplier(). */
export function vmxWriteTscMultiplier(vcpu: Vcpu): void {
  vmwrite64(vmxCpu(vcpu), VMCS_CTRL.TSC_MULTIPLIER, vcpu.arch.tscScalingRatio);
}

/** vmx_get_l2_tsc_offset(). */
export function vmxGetL2TscOffset(vcpu: Vcpu): bigint {
  const { cachedVmcs12 } = toVmx(vcpu).nested;
  return nestedCpuHas(cachedVmcs12, CPU_BASED.USE_TSC_OFFSETTING)
    ? cachedVmcs12.u64(VMCS_CTRL.TSC_OFFSET)
    : 0n;
}

/** vmx_get_l2_tsc_multiplier(). */
export function vmxGetL2TscMultiplier(vcpu: Vcpu): bigint {
  const { cachedVmcs12 } = toVmx(vcpu).nested;
  return nestedCpuHasTscScaling(cachedVmcs12)
    ? cachedVmcs12.u64(VMCS_CTRL.TSC_MULTIPLIER)
    : KVM_DEFAULT_TSC_SCALING_RATIO;
}
