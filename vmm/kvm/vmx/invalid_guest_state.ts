// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1's guest state that no VM entry takes, without unrestricted guest: L0 emulates until it is valid. handle_invalid_guest_state()
 * and vmx_vcpu_pre_run() of arch/x86/kvm/vmx/vmx.c, 6.12.
 */
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmTestRequest } from '../requests.ts';
import { kvmEmulateInstruction, kvmPrepareEmulationFailureExit } from '../x86/emulate.ts';
import { kvmIsExceptionPending } from '../x86/events.ts';
import { vmxEmulationRequired } from './guest_state_valid.ts';
import { toVmx } from './vcpu_vmx.ts';

/** Instructions at a time. */
const MAX_INSTRUCTIONS = 130;

/**
 * vmx_unhandleable_emulation_required(), as later kernels have it: the emulator cannot deliver events, and an L2 that
 * userspace has put into invalid state just before it runs is a bug of userspace's; 6.12 ends the VM then.
 */
const unhandleableEmulationRequired = (vcpu: Vcpu): boolean =>
  toVmx(vcpu).guestStateTouched &&
  vmxEmulationRequired(vcpu) &&
  (toVmx(vcpu).nested.nestedRunPending || kvmIsExceptionPending(vcpu) || vcpu.arch.exception.injected);

/** handle_invalid_guest_state(): 1 to go on, 0 to go to userspace. */
export function handleInvalidGuestState(vcpu: Vcpu): number {
  for (let n = 0; n < MAX_INSTRUCTIONS && vmxEmulationRequired(vcpu); n++) {
    if (kvmTestRequest(KVM_REQ.EVENT, vcpu)) return 1;
    if (kvmEmulateInstruction(vcpu) === 0) return 0;
    if (unhandleableEmulationRequired(vcpu)) return kvmPrepareEmulationFailureExit(vcpu);
    if (vcpu.task?.signalPending === true) return 1;
  }
  return 1;
}

/** vmx_vcpu_pre_run(). */
export function vmxVcpuPreRun(vcpu: Vcpu): number {
  return unhandleableEmulationRequired(vcpu) ? kvmPrepareEmulationFailureExit(vcpu) : 1;
}
