// SPDX-License-Identifier: GPL-2.0-only
/**
 * INIT, SIPI and NMI messages as a vCPU's local APIC receives them, and KVM_SET_MP_STATE. Mirrors __apic_accept_irq(),
 * kvm_apic_accept_events() and kvm_vcpu_reset(), 6.12: a message only leaves a mark, the vCPU's own thread acts on it.
 */
import { KVM_MP_STATE } from '../../../lib/uapi/vcpu_state.ts';
import { kvmSegment } from '../../../lib/uapi/regs.ts';
import { MISC_ENABLE } from '../../../lib/x86/msr.ts';
import type { ApicHost } from '../../machine/apic/local_apic.ts';
import { SEGN } from '../../machine/cpu/state.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest, kvmVcpuKick } from '../requests.ts';
import { kvmRipWrite } from './cache_regs.ts';

/** Bits of `pendingEvents`. */
const KVM_APIC = { INIT: 0x1, SIPI: 0x2 } as const;

/** INIT and SIPI that wait for the vCPU's thread: kvm_lapic.pending_events. */
export class LapicEvents {
  pendingEvents = 0;
}

const eventsOf = (vcpu: Vcpu): LapicEvents | null =>
  vcpu.arch.apic instanceof LapicEvents ? vcpu.arch.apic : null;

/** kvm_inject_nmi(). */
export function kvmInjectNmi(vcpu: Vcpu): void {
  vcpu.arch.nmiQueued++;
  kvmMakeRequest(KVM_REQ.NMI, vcpu);
  kvmVcpuKick(vcpu);
}

/** What a local APIC does to its vCPU besides interrupts. */
export function kvmApicHostEvents(
  vcpu: Vcpu,
  events: LapicEvents,
): Pick<ApicHost, 'nmi' | 'init' | 'startup'> {
  const noticed = (): void => {
    kvmMakeRequest(KVM_REQ.EVENT, vcpu);
    kvmVcpuKick(vcpu);
  };
  return {
    nmi: () => kvmInjectNmi(vcpu),
    init: () => {
      // An INIT makes a SIPI that came before it void.
      events.pendingEvents = KVM_APIC.INIT;
      noticed();
    },
    startup: (vector) => {
      vcpu.arch.sipiVector = vector;
      events.pendingEvents |= KVM_APIC.SIPI;
      noticed();
    },
  };
}

/** kvm_apic_has_pending_init_or_sipi(). */
export const kvmApicHasPendingInitOrSipi = (vcpu: Vcpu): boolean =>
  (eventsOf(vcpu)?.pendingEvents ?? 0) !== 0;

/** kvm_apic_accept_events(); false if the vCPU waits for a SIPI now. Runs in the vCPU's thread. */
export function kvmApicAcceptEvents(vcpu: Vcpu): boolean {
  const { arch } = vcpu;
  const events = eventsOf(vcpu);
  const pending = events?.pendingEvents ?? 0;
  if (events !== null) events.pendingEvents = 0;
  if ((pending & KVM_APIC.INIT) !== 0) {
    kvmVcpuReset(vcpu, 'init');
    const bsp = vcpu.vcpuId === vcpu.kvm.arch.bspVcpuId;
    arch.mpState = bsp ? KVM_MP_STATE.RUNNABLE : KVM_MP_STATE.INIT_RECEIVED;
  }
  if ((pending & KVM_APIC.SIPI) !== 0 && arch.mpState === KVM_MP_STATE.INIT_RECEIVED) {
    deliverSipiVector(vcpu, arch.sipiVector);
    arch.mpState = KVM_MP_STATE.RUNNABLE;
  }
  return arch.mpState !== KVM_MP_STATE.INIT_RECEIVED;
}

/** kvm_vcpu_deliver_sipi_vector(): real mode, at the page that the vector names. */
function deliverSipiVector(vcpu: Vcpu, vector: number): void {
  const { ops } = vcpu.kvm.module;
  const cs = kvmSegment();
  ops.getSegment(vcpu, SEGN.CS, cs);
  ops.setSegment(vcpu, SEGN.CS, { ...cs, selector: vector << 8, base: BigInt(vector << 12) });
  kvmRipWrite(vcpu, 0n);
}

/** kvm_vcpu_reset(): events are forgotten; the registers are the vendor's part. */
export function kvmVcpuReset(vcpu: Vcpu, event: 'reset' | 'init'): void {
  const { arch, kvm } = vcpu;
  arch.nmiQueued = 0;
  arch.nmiPending = 0;
  arch.nmiInjected = false;
  arch.interrupt.injected = false;
  arch.exception.injected = false;
  arch.exception.pending = false;
  arch.db.fill(0);
  arch.dr6 = 0xffff_0ff0 | 0;
  arch.dr7 = 0x400;
  arch.cr2Lo = 0;
  arch.cr2Hi = 0;
  if (event === 'reset') {
    arch.xcr0 = 1;
    arch.miscEnable = BigInt(MISC_ENABLE.PEBS_UNAVAIL | MISC_ENABLE.BTS_UNAVAIL);
  }
  kvm.module.ops.vcpuReset(vcpu, event);
  // Translations of before INIT are not for the code that runs after it.
  if (event === 'init') kvmMakeRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu);
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
}

/** KVM_SET_MP_STATE; 1: refused. Without an in-kernel APIC a vCPU is always runnable. */
export function kvmSetMpState(vcpu: Vcpu, state: number): number {
  const events = eventsOf(vcpu);
  if (!(Object.values(KVM_MP_STATE) as number[]).includes(state)) return 1;
  if (events === null && state !== KVM_MP_STATE.RUNNABLE) return 1;
  if (events !== null && state === KVM_MP_STATE.SIPI_RECEIVED) {
    vcpu.arch.mpState = KVM_MP_STATE.INIT_RECEIVED;
    events.pendingEvents |= KVM_APIC.SIPI;
  } else vcpu.arch.mpState = state;
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  return 0;
}
