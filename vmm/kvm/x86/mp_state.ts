// SPDX-License-Identifier: GPL-2.0-only
/** INIT, SIPI and NMI messages as a vCPU's local APIC receives them. Mirrors apic_accept of arch/x86/kvm/lapic.c, 6.12. */
import { KVM_MP_STATE } from '../../../lib/uapi/vcpu_state.ts';
import type { ApicHost } from '../../machine/apic/local_apic.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest, kvmVcpuKick } from '../requests.ts';

/** kvm_inject_nmi(). */
export function kvmInjectNmi(vcpu: Vcpu): void {
  vcpu.arch.nmiQueued++;
  kvmMakeRequest(KVM_REQ.NMI, vcpu);
  kvmVcpuKick(vcpu);
}

/** What a local APIC does to its vCPU besides interrupts. */
export function kvmApicHostEvents(vcpu: Vcpu): Pick<ApicHost, 'nmi' | 'init' | 'startup'> {
  return {
    nmi: () => kvmInjectNmi(vcpu),
    init: () => {
      vcpu.arch.mpState = KVM_MP_STATE.INIT_RECEIVED;
      kvmMakeRequest(KVM_REQ.EVENT, vcpu);
      kvmVcpuKick(vcpu);
    },
    startup: (vector) => {
      if (vcpu.arch.mpState !== KVM_MP_STATE.INIT_RECEIVED) return;
      vcpu.arch.sipiVector = vector;
      vcpu.arch.mpState = KVM_MP_STATE.SIPI_RECEIVED;
      kvmMakeRequest(KVM_REQ.EVENT, vcpu);
      kvmVcpuKick(vcpu);
    },
  };
}
