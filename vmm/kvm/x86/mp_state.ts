// SPDX-License-Identifier: GPL-2.0-only
/**
 * INIT, SIPI and NMI messages as a vCPU's local APIC receives them, and KVM_SET_MP_STATE. Mirrors __apic_accept_irq(),
 * kvm_apic_accept_events() and kvm_vcpu_reset(), 6.12: a message only leaves a mark, the vCPU's own thread acts on it.
 */
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { KVM_EXIT } from '../../../lib/uapi/run.ts';
import { KVM_MP_STATE } from '../../../lib/uapi/vcpu_state.ts';
import { kvmSegment } from '../../../lib/uapi/regs.ts';
import { MISC_ENABLE } from '../../../lib/x86/msr.ts';
import type { ApicHost } from '../../machine/apic/local_apic.ts';
import { SEGN } from '../../machine/cpu/state.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest, kvmTestRequest, kvmVcpuKick } from '../requests.ts';
import { isGuestMode, kvmRipWrite } from './cache_regs.ts';

/** Bits of `pendingEvents`. */
export const KVM_APIC = { INIT: 0x1, SIPI: 0x2 } as const;

/** INIT and SIPI that wait for the vCPU's thread: kvm_lapic.pending_events. */
export class LapicEvents {
  pendingEvents = 0;

  /** kvm_lapic_reset(): with the vCPU, not when the INIT arrives. Messages that wait are not the registers' business. */
  reset(): void {
    // The registers are the subclass's.
  }
}

/** INIT and SIPI of the vCPU; null without an in-kernel APIC. */
export const pendingApicEvents = (vcpu: Vcpu): LapicEvents | null =>
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
  (pendingApicEvents(vcpu)?.pendingEvents ?? 0) !== 0;

/**
 * kvm_apic_accept_events(): 0, or a negated errno that ends KVM_RUN. Runs in the vCPU's thread. In VMX root operation INIT
 * stays pending and SIPIs are lost.
 */
export function kvmApicAcceptEvents(vcpu: Vcpu): number {
  const { arch } = vcpu;
  const { ops } = vcpu.kvm.module;
  const events = pendingApicEvents(vcpu);
  if (events === null || events.pendingEvents === 0) return 0;
  if (isGuestMode(vcpu)) {
    const r = kvmCheckNestedEvents(vcpu);
    if (r < 0) return r === -ERRNO.EBUSY ? 0 : r;
  }
  if (ops.apicInitSignalBlocked(vcpu)) {
    events.pendingEvents &= ~KVM_APIC.SIPI;
    return 0;
  }
  const pending = events.pendingEvents;
  events.pendingEvents = 0;
  if ((pending & KVM_APIC.INIT) !== 0) {
    kvmVcpuReset(vcpu, 'init');
    const bsp = vcpu.vcpuId === vcpu.kvm.arch.bspVcpuId;
    arch.mpState = bsp ? KVM_MP_STATE.RUNNABLE : KVM_MP_STATE.INIT_RECEIVED;
  }
  if ((pending & KVM_APIC.SIPI) !== 0 && arch.mpState === KVM_MP_STATE.INIT_RECEIVED) {
    deliverSipiVector(vcpu, arch.sipiVector);
    arch.mpState = KVM_MP_STATE.RUNNABLE;
  }
  return 0;
}

/** kvm_check_nested_events(): a triple fault of L2 is an exit to L1, and comes first. */
export function kvmCheckNestedEvents(vcpu: Vcpu): number {
  const { nestedOps } = vcpu.kvm.module.ops;
  if (nestedOps === null) return 0;
  if (kvmTestRequest(KVM_REQ.TRIPLE_FAULT, vcpu)) {
    nestedOps.tripleFault(vcpu);
    return 1;
  }
  return nestedOps.checkEvents(vcpu);
}

/** kvm_emulate_halt_noskip(): without an in-kernel APIC, a halt is userspace's. */
export function kvmEmulateHaltNoskip(vcpu: Vcpu): number {
  vcpu.stat.halt_exits++;
  if (vcpu.arch.apic !== null) {
    vcpu.arch.mpState = KVM_MP_STATE.HALTED;
    return 1;
  }
  vcpu.run.exit_reason = KVM_EXIT.HLT;
  return 0;
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
  if (isGuestMode(vcpu)) kvm.module.ops.nestedOps?.leaveNested(vcpu);
  arch.nmiQueued = 0;
  arch.nmiPending = 0;
  arch.nmiInjected = false;
  arch.interrupt.injected = false;
  arch.exception.injected = false;
  arch.exception.pending = false;
  arch.exceptionVmexit.pending = false;
  arch.db.fill(0);
  arch.dr6 = 0xffff_0ff0 | 0;
  arch.dr7 = 0x400;
  arch.cr2Lo = 0;
  arch.cr2Hi = 0;
  if (event === 'reset') {
    arch.xcr0 = 1;
    arch.miscEnable = BigInt(MISC_ENABLE.PEBS_UNAVAIL | MISC_ENABLE.BTS_UNAVAIL);
  }
  pendingApicEvents(vcpu)?.reset();
  kvm.module.ops.vcpuReset(vcpu, event);
  // Translations of before INIT are not for the code that runs after it.
  if (event === 'init') kvmMakeRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu);
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
}

/** KVM_SET_MP_STATE; 1: refused. Without an in-kernel APIC a vCPU is always runnable. */
export function kvmSetMpState(vcpu: Vcpu, state: number): number {
  const events = pendingApicEvents(vcpu);
  if (!(Object.values(KVM_MP_STATE) as number[]).includes(state)) return 1;
  if (events === null && state !== KVM_MP_STATE.RUNNABLE) return 1;
  if (events !== null && state === KVM_MP_STATE.SIPI_RECEIVED) {
    vcpu.arch.mpState = KVM_MP_STATE.INIT_RECEIVED;
    events.pendingEvents |= KVM_APIC.SIPI;
  } else vcpu.arch.mpState = state;
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  return 0;
}
