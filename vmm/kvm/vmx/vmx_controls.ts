// SPDX-License-Identifier: GPL-2.0-only
/**
 * Control words of the loaded VMCS: the *_controls_set(), _setbit() and _clearbit() accessors of arch/x86/kvm/vmx/vmx.h,
 * 6.12. A word that does not change is not written.
 */
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { vmwrite32 } from '../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { VmcsControlsShadow } from './loaded_vmcs.ts';
import { toVmx, vmxCpu } from './vcpu_vmx.ts';

// prettier-ignore
const FIELD: Readonly<Record<keyof VmcsControlsShadow, number>> = {
  pin:       VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL,
  exec:      VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL,
  secondary: VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL,
  entry:     VMCS_CTRL.VM_ENTRY_CONTROLS,
  exit:      VMCS_CTRL.VM_EXIT_CONTROLS,
};

/** Write one control word of the loaded VMCS. */
export function vmxSetControls(vcpu: Vcpu, which: keyof VmcsControlsShadow, value: number): void {
  const { controls } = toVmx(vcpu).loadedVmcs;
  const wanted = value | 0;
  if ((controls[which] | 0) === wanted) return;
  controls[which] = wanted;
  vmwrite32(vmxCpu(vcpu), FIELD[which], wanted);
}

/** Set or clear bits of the primary processor-based controls. */
export function vmxChangeCpuBased(vcpu: Vcpu, set: number, clear: number): void {
  vmxSetControls(vcpu, 'exec', (toVmx(vcpu).loadedVmcs.controls.exec | set) & ~clear);
}

/** Set or clear bits of the secondary controls. */
export function vmxChangeSecondary(vcpu: Vcpu, set: number, clear: number): void {
  vmxSetControls(vcpu, 'secondary', (toVmx(vcpu).loadedVmcs.controls.secondary | set) & ~clear);
}

/** Set or clear bits of the pin-based controls. */
export function vmxChangePin(vcpu: Vcpu, set: number, clear: number): void {
  vmxSetControls(vcpu, 'pin', (toVmx(vcpu).loadedVmcs.controls.pin | set) & ~clear);
}
