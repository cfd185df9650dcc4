// SPDX-License-Identifier: GPL-2.0-only
/**
 * How an emulated VMX instruction ends: nested_vmx_succeed(), nested_vmx_failInvalid(), nested_vmx_failValid() and
 * nested_vmx_check_permission() of arch/x86/kvm/vmx/nested.c, 6.12. SDM, "Conventions" of the VMX instruction reference.
 */
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { VMCS_INFO } from '../../../../lib/x86/vmx/vmcs_info.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmInjectGp, kvmQueueException } from '../../x86/events.ts';
import { kvmSkipEmulatedInstruction } from '../../x86/skip.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { vmxGetCpl, vmxGetRflags, vmxSetRflags } from '../vmx_regs.ts';
import { INVALID_VMPTR } from './nested_vmx.ts';

const ARITH = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF;

function finish(vcpu: Vcpu, flag: number): number {
  vmxSetRflags(vcpu, (vmxGetRflags(vcpu) & ~ARITH) | flag);
  return kvmSkipEmulatedInstruction(vcpu);
}

/** VMsucceed. */
export const nestedVmxSucceed = (vcpu: Vcpu): number => finish(vcpu, 0);

/** VMfailInvalid: CF. */
export const nestedVmxFailInvalid = (vcpu: Vcpu): number => finish(vcpu, RFLAGS.CF);

/** nested_vmx_fail(): VMfailValid with the error's number if there is a current VMCS, else VMfailInvalid. */
export function nestedVmxFail(vcpu: Vcpu, error: number): number {
  const { nested } = toVmx(vcpu);
  if (nested.currentVmptr === INVALID_VMPTR) return nestedVmxFailInvalid(vcpu);
  // VM_INSTRUCTION_ERROR is not a shadowed field: the shadow VMCS need not learn of it.
  nested.cachedVmcs12.set32(VMCS_INFO.VM_INSTRUCTION_ERROR, error);
  return finish(vcpu, RFLAGS.ZF);
}

/** nested_vmx_check_permission(): false, and an exception, outside of VMX operation and in user mode. */
export function nestedVmxCheckPermission(vcpu: Vcpu): boolean {
  if (!toVmx(vcpu).nested.vmxon) {
    kvmQueueException(vcpu, VECTOR.UD);
    return false;
  }
  if (vmxGetCpl(vcpu) !== 0) {
    kvmInjectGp(vcpu, 0);
    return false;
  }
  return true;
}
