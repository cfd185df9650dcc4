// SPDX-License-Identifier: GPL-2.0-only
/** nested_vmx_abort() of arch/x86/kvm/vmx/nested.c, 6.12: L1's VMX abort is a triple fault of its vCPU. */
import type { Vcpu } from '../../kvm_host.ts';
import { KVM_REQ } from '../../request_numbers.ts';
import { kvmMakeRequest } from '../../requests.ts';

export function nestedVmxAbort(vcpu: Vcpu): void {
  kvmMakeRequest(KVM_REQ.TRIPLE_FAULT, vcpu);
}
