// SPDX-License-Identifier: GPL-2.0-only
/**
 * KVM_REQ_TLB_FLUSH_CURRENT and _GUEST: requests about the context that was current when they were made, to be served
 * before another one becomes current. Mirrors kvm_service_local_tlb_flush_requests() of arch/x86/kvm/x86.c, 6.12.
 */
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmCheckRequest } from '../requests.ts';

export function kvmServiceLocalTlbFlushRequests(vcpu: Vcpu): void {
  const { ops } = vcpu.kvm.module;
  if (kvmCheckRequest(KVM_REQ.TLB_FLUSH_CURRENT, vcpu)) {
    vcpu.stat.tlb_flush++;
    ops.flushTlbCurrent(vcpu);
  }
  if (kvmCheckRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu)) {
    vcpu.stat.tlb_flush++;
    ops.flushTlbGuest(vcpu);
  }
}
