// SPDX-License-Identifier: GPL-2.0-only
/** The TSC of whoever becomes active, L2 or L1: the parts of prepare_vmcs02() and nested_vmx_vmexit() of vmx/nested.c, 6.12. */
import type { Vcpu } from '../../kvm_host.ts';
import { kvmCalcNestedTscMultiplier, kvmCalcNestedTscOffset } from '../../x86/tsc.ts';
import {
  vmxGetL2TscMultiplier,
  vmxGetL2TscOffset,
  vmxWriteTscMultiplier,
  vmxWriteTscOffset,
} from '../vmx_tsc.ts';

function write(vcpu: Vcpu): void {
  vmxWriteTscOffset(vcpu);
  if (vcpu.kvm.module.caps.hasTscControl) vmxWriteTscMultiplier(vcpu);
}

/** L2's TSC; vmcs02 is loaded. */
export function loadL2Tsc(vcpu: Vcpu): void {
  const { arch } = vcpu;
  const multiplier = vmxGetL2TscMultiplier(vcpu);
  arch.tscOffset = kvmCalcNestedTscOffset(arch.l1TscOffset, vmxGetL2TscOffset(vcpu), multiplier);
  arch.tscScalingRatio = kvmCalcNestedTscMultiplier(arch.l1TscScalingRatio, multiplier);
  write(vcpu);
}

/** L1's TSC for whoever reads it now, as the MSR-store area does, with vmcs02 still loaded. */
export function selectL1Tsc(vcpu: Vcpu): void {
  const { arch } = vcpu;
  arch.tscOffset = arch.l1TscOffset;
  arch.tscScalingRatio = arch.l1TscScalingRatio;
}

/** L1's TSC; vmcs01 is loaded. */
export function loadL1Tsc(vcpu: Vcpu): void {
  selectL1Tsc(vcpu);
  write(vcpu);
}
