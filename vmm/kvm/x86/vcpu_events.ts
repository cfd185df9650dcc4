// SPDX-License-Identifier: GPL-2.0-only
/** KVM_GET/SET_VCPU_EVENTS, KVM_GET/SET_DEBUGREGS, KVM_GET/SET_XCRS. Mirrors arch/x86/kvm/x86.c, 6.12. */
import type { KvmDebugregs, KvmXcrs } from '../../../lib/uapi/regs.ts';
import { KVM_VCPUEVENT_VALID, kvmVcpuEvents, type KvmVcpuEvents } from '../../../lib/uapi/vcpu_state.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmCheckRequest, kvmClearRequest, kvmMakeRequest, kvmTestRequest } from '../requests.ts';
import { high, low, pair } from './cache_regs.ts';
import { kvmSetXcr } from './cr.ts';
import { kvmSetDr } from './dr.ts';
import { processNmi } from './events.ts';

const flag = (on: boolean): number => (on ? 1 : 0);

/** KVM_GET_VCPU_EVENTS. */
export function kvmGetVcpuEvents(vcpu: Vcpu): KvmVcpuEvents {
  const { arch, kvm } = vcpu;
  const { ops } = kvm.module;
  if (kvmCheckRequest(KVM_REQ.NMI, vcpu)) processNmi(vcpu);
  const ev = kvmVcpuEvents();
  const own = arch.exception;
  const ex = arch.exceptionVmexit.pending && !own.pending && !own.injected ? arch.exceptionVmexit : own;
  // A software exception happens again when its instruction does; its length has no place in the ABI.
  if (ex.vector !== VECTOR.BP && ex.vector !== VECTOR.OF) {
    // Without the payload capability, userspace sees a pending exception as injected, too.
    const conflated = ex.pending && !kvm.arch.exceptionPayloadEnabled;
    ev.exception.injected = flag(ex.injected || conflated);
    ev.exception.pending = flag(ex.pending);
  }
  ev.exception.nr = ex.vector;
  ev.exception.has_error_code = flag(ex.hasErrorCode);
  ev.exception.error_code = ex.errorCode;
  ev.exception_has_payload = flag(ex.hasPayload);
  ev.exception_payload = pair(ex.payloadLo, ex.payloadHi);
  ev.interrupt = {
    injected: flag(arch.interrupt.injected && !arch.interrupt.soft),
    nr: arch.interrupt.nr,
    soft: 0,
    shadow: ops.getInterruptShadow(vcpu),
  };
  ev.nmi = { injected: flag(arch.nmiInjected), pending: arch.nmiPending, masked: flag(ops.getNmiMask(vcpu)) };
  ev.triple_fault.pending = flag(kvm.arch.tripleFaultEvent && kvmTestRequest(KVM_REQ.TRIPLE_FAULT, vcpu));
  ev.flags =
    KVM_VCPUEVENT_VALID.NMI_PENDING |
    KVM_VCPUEVENT_VALID.SHADOW |
    KVM_VCPUEVENT_VALID.SMM |
    (kvm.arch.exceptionPayloadEnabled ? KVM_VCPUEVENT_VALID.PAYLOAD : 0) |
    (kvm.arch.tripleFaultEvent ? KVM_VCPUEVENT_VALID.TRIPLE_FAULT : 0);
  return ev;
}

const VALID_FLAGS = Object.values(KVM_VCPUEVENT_VALID).reduce((all: number, bit) => all | bit, 0);

/** KVM_SET_VCPU_EVENTS; 1: refused. */
export function kvmSetVcpuEvents(vcpu: Vcpu, ev: KvmVcpuEvents): number {
  const { arch, kvm } = vcpu;
  const { ops } = kvm.module;
  if ((ev.flags & ~VALID_FLAGS) !== 0) return 1;
  if ((ev.flags & KVM_VCPUEVENT_VALID.PAYLOAD) !== 0 && !kvm.arch.exceptionPayloadEnabled) return 1;
  if ((ev.flags & KVM_VCPUEVENT_VALID.TRIPLE_FAULT) !== 0 && !kvm.arch.tripleFaultEvent) return 1;
  const payload = (ev.flags & KVM_VCPUEVENT_VALID.PAYLOAD) !== 0;
  const pending = payload && ev.exception.pending !== 0;
  const injected = !pending && ev.exception.injected !== 0;
  if ((injected || pending) && (ev.exception.nr > 31 || ev.exception.nr === VECTOR.NMI)) return 1;
  processNmi(vcpu);
  arch.exceptionFromUserspace = pending;
  arch.exceptionVmexit.pending = false;
  arch.exception.injected = injected;
  arch.exception.pending = pending;
  arch.exception.vector = ev.exception.nr;
  arch.exception.hasErrorCode = ev.exception.has_error_code !== 0;
  arch.exception.errorCode = ev.exception.error_code;
  arch.exception.hasPayload = pending && ev.exception_has_payload !== 0;
  arch.exception.payloadLo = low(ev.exception_payload);
  arch.exception.payloadHi = high(ev.exception_payload);
  arch.interrupt.injected = ev.interrupt.injected !== 0;
  arch.interrupt.nr = ev.interrupt.nr;
  arch.interrupt.soft = ev.interrupt.soft !== 0;
  if ((ev.flags & KVM_VCPUEVENT_VALID.SHADOW) !== 0) ops.setInterruptShadow(vcpu, ev.interrupt.shadow);
  arch.nmiInjected = ev.nmi.injected !== 0;
  if ((ev.flags & KVM_VCPUEVENT_VALID.NMI_PENDING) !== 0) {
    arch.nmiPending = 0;
    arch.nmiQueued = ev.nmi.pending;
    if (ev.nmi.pending !== 0) kvmMakeRequest(KVM_REQ.NMI, vcpu);
  }
  ops.setNmiMask(vcpu, ev.nmi.masked !== 0);
  if ((ev.flags & KVM_VCPUEVENT_VALID.SIPI_VECTOR) !== 0) arch.sipiVector = ev.sipi_vector;
  if ((ev.flags & KVM_VCPUEVENT_VALID.TRIPLE_FAULT) !== 0) {
    if (ev.triple_fault.pending !== 0) kvmMakeRequest(KVM_REQ.TRIPLE_FAULT, vcpu);
    else kvmClearRequest(KVM_REQ.TRIPLE_FAULT, vcpu);
  }
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  return 0;
}

/** KVM_GET_DEBUGREGS. */
export function kvmGetDebugregs(vcpu: Vcpu): KvmDebugregs {
  const { arch } = vcpu;
  const db = (n: number): bigint => pair(arch.db[2 * n]!, arch.db[2 * n + 1]!);
  return {
    db: [db(0), db(1), db(2), db(3)],
    dr6: BigInt(arch.dr6 >>> 0),
    dr7: BigInt(arch.dr7 >>> 0),
    flags: 0n,
  };
}

/** KVM_SET_DEBUGREGS; 1: refused. */
export function kvmSetDebugregs(vcpu: Vcpu, regs: KvmDebugregs): number {
  if (regs.flags !== 0n || regs.dr6 >> 32n !== 0n || regs.dr7 >> 32n !== 0n) return 1;
  for (const [n, value] of regs.db.entries()) kvmSetDr(vcpu, n, value);
  kvmSetDr(vcpu, 6, regs.dr6);
  kvmSetDr(vcpu, 7, regs.dr7);
  return 0;
}

/** KVM_GET_XCRS. */
export const kvmGetXcrs = (vcpu: Vcpu): KvmXcrs => ({
  flags: 0,
  xcrs: [{ xcr: 0, value: BigInt(vcpu.arch.xcr0) }],
});

/** KVM_SET_XCRS; 1: refused. */
export function kvmSetXcrs(vcpu: Vcpu, xcrs: KvmXcrs): number {
  if (xcrs.flags !== 0) return 1;
  const xcr0 = xcrs.xcrs.find((x) => x.xcr === 0);
  return xcr0 === undefined ? 0 : kvmSetXcr(vcpu, 0, xcr0.value);
}
