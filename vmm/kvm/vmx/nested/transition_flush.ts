// SPDX-License-Identifier: GPL-2.0-only
/**
 * Which TLB flush a switch between L1 and L2 needs: nested_vmx_transition_tlb_flush() and nested_has_guest_tlb_tag() of
 * arch/x86/kvm/vmx/nested.c, 6.12. The one place that decides it. Leaves out Hyper-V's flush requests.
 */
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { KVM_REQ } from '../../request_numbers.ts';
import { kvmMakeRequest } from '../../requests.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { nestedCpuHasVpid } from './vmcs12_controls.ts';

/** Whether L2's translations are tagged otherwise than L1's: guest_mode is in the role, so EPTPs differ. */
const nestedHasGuestTlbTag = (vcpu: Vcpu): boolean =>
  vcpu.kvm.module.caps.tdpEnabled || toVmx(vcpu).nested.vpid02 !== 0;

/** On entry: vmcs02 is current and L2 active; on exit: vmcs01, and L1's CR3 is loaded. */
export function nestedVmxTransitionTlbFlush(vcpu: Vcpu, direction: 'entry' | 'exit'): void {
  const { nested } = toVmx(vcpu);
  const vmcs12 = nested.cachedVmcs12;
  if (!nestedCpuHasVpid(vmcs12)) {
    // VPID 0 is flushed by every transition; L2 shares vpid01 then.
    kvmMakeRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu);
    return;
  }
  const vpid12 = vmcs12.lo(VMCS_CTRL.VIRTUAL_PROCESSOR_ID);
  if (direction === 'entry' && vpid12 !== nested.lastVpid) {
    nested.lastVpid = vpid12;
    kvmMakeRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu);
    return;
  }
  if (!nestedHasGuestTlbTag(vcpu)) kvmMakeRequest(KVM_REQ.TLB_FLUSH_CURRENT, vcpu);
}
