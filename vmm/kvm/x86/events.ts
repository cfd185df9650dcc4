// SPDX-License-Identifier: GPL-2.0-only
/**
 * Events that wait for injection and in which order they go in: kvm_queue_exception() and
 * kvm_check_and_inject_events() of arch/x86/kvm/x86.c, 6.12. Leaves out SMIs and async page faults; where KVM
 * forces an immediate exit of L1 to inject a second event, a window waits for it.
 */
import { VECTOR, hasErrorCode } from '../../../lib/x86/exceptions.ts';
import { DR6, DR7, RFLAGS } from '../../../lib/x86/registers.ts';
import { ERRNO } from '../../../lib/uapi/errno.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { KvmQueuedException } from '../kvm_host_x86.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest, kvmTestRequest } from '../requests.ts';
import { TP } from '../trace_events.ts';
import { isGuestMode } from './cache_regs.ts';
import { kvmCpuGetInterrupt, kvmCpuHasInjectableIntr } from './lapic.ts';
import { kvmCheckNestedEvents } from './mp_state.ts';

/** SDM, "Exception Classes": which pairs make a double fault. */
const EXCPT = { BENIGN: 0, CONTRIBUTORY: 1, PF: 2 } as const;

function exceptionClass(vector: number): number {
  switch (vector) {
    case VECTOR.PF:
      return EXCPT.PF;
    case VECTOR.DE:
    case VECTOR.TS:
    case VECTOR.NP:
    case VECTOR.SS:
    case VECTOR.GP:
      return EXCPT.CONTRIBUTORY;
    default:
      return EXCPT.BENIGN;
  }
}

function fill(ex: KvmQueuedException, vector: number, errorCode: number | undefined): void {
  ex.pending = true;
  ex.injected = false;
  ex.vector = vector;
  ex.hasErrorCode = errorCode !== undefined;
  ex.errorCode = errorCode ?? 0;
  // A payload of before would make a fault look like a debug trap, which an MTF exit goes before.
  ex.hasPayload = false;
  ex.payloadLo = 0;
  ex.payloadHi = 0;
}

const setPending = (vcpu: Vcpu, vector: number, errorCode: number | undefined): void =>
  fill(vcpu.arch.exception, vector, errorCode);

/** kvm_is_exception_pending(): for whichever level. */
export const kvmIsExceptionPending = (vcpu: Vcpu): boolean =>
  vcpu.arch.exception.pending ||
  vcpu.arch.exceptionVmexit.pending ||
  kvmTestRequest(KVM_REQ.TRIPLE_FAULT, vcpu);

/** Whether L1 intercepts an exception of L2: then it is not merged with others, which L2's delivery would do. */
const isVmexit = (vcpu: Vcpu, vector: number, errorCode: number | undefined): boolean =>
  isGuestMode(vcpu) &&
  vcpu.kvm.module.ops.nestedOps?.isExceptionVmexit(vcpu, vector, errorCode ?? 0) === true;

/** kvm_multiple_exception(): an exception on top of another becomes a double or triple fault. */
function multipleException(vcpu: Vcpu, vector: number, errorCode: number | undefined): void {
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  if (isVmexit(vcpu, vector, errorCode)) {
    fill(vcpu.arch.exceptionVmexit, vector, errorCode);
    return;
  }
  const ex = vcpu.arch.exception;
  if (!ex.pending && !ex.injected) {
    setPending(vcpu, vector, errorCode);
    return;
  }
  const previous = ex.vector;
  if (previous === VECTOR.DF) {
    kvmMakeRequest(KVM_REQ.TRIPLE_FAULT, vcpu);
    return;
  }
  const first = exceptionClass(previous);
  const second = exceptionClass(vector);
  const twice =
    (first === EXCPT.CONTRIBUTORY && second === EXCPT.CONTRIBUTORY) ||
    (first === EXCPT.PF && second !== EXCPT.BENIGN);
  if (!twice) {
    // The second replaces the first, which happens again when the instruction is restarted.
    setPending(vcpu, vector, errorCode);
    return;
  }
  // L1 may intercept the double fault of L2, and has not intercepted what led to it.
  ex.pending = false;
  ex.injected = false;
  multipleException(vcpu, VECTOR.DF, 0);
}

function setPayload(ex: KvmQueuedException, lo: number, hi: number): void {
  ex.hasPayload = true;
  ex.payloadLo = lo;
  ex.payloadHi = hi;
}

/** kvm_queue_exception_p() of DB: the bits that DR6 gets when the exception is delivered. */
export function kvmQueueDebugException(vcpu: Vcpu, dr6: number): void {
  multipleException(vcpu, VECTOR.DB, undefined);
  const exit = vcpu.arch.exceptionVmexit;
  if (exit.pending && exit.vector === VECTOR.DB) {
    setPayload(exit, dr6, 0);
    return;
  }
  const ex = vcpu.arch.exception;
  if (ex.vector !== VECTOR.DB) return;
  setPayload(ex, dr6, 0);
  // Userspace that does not know of payloads must see DR6 as it will be.
  deliverDr6(vcpu);
}

/** kvm_deliver_exception_payload() of DB: bits 3:0 are replaced, bits that read as one stay. */
function deliverDr6(vcpu: Vcpu): void {
  const { arch } = vcpu;
  const ex = arch.exception;
  if (!ex.hasPayload) return;
  const cleared = (arch.dr6 & ~0xf) | DR6.FIXED_1;
  arch.dr6 = (cleared | ex.payloadLo) ^ (ex.payloadLo & DR6.FIXED_1);
  ex.hasPayload = false;
}

/** DR7.GD goes away when DB is delivered, so that its handler may use the debug registers. */
function kvmClearGeneralDetect(vcpu: Vcpu): void {
  const { arch, kvm } = vcpu;
  if ((arch.dr7 & DR7.GD) === 0) return;
  arch.dr7 &= ~DR7.GD;
  kvm.module.ops.setDr7(vcpu, arch.dr7 >>> 0);
}

/** kvm_queue_exception(): without an error code. */
export function kvmQueueException(vcpu: Vcpu, vector: number): void {
  multipleException(vcpu, vector, undefined);
}

/** kvm_queue_exception_e(). */
export function kvmQueueExceptionE(vcpu: Vcpu, vector: number, errorCode: number): void {
  multipleException(vcpu, vector, errorCode);
}

/** kvm_inject_gp(). */
export function kvmInjectGp(vcpu: Vcpu, errorCode: number): void {
  multipleException(vcpu, VECTOR.GP, errorCode);
}

/** An exception found by the emulator: with its error code if the vector has one; PF sets CR2. */
export function kvmInjectEmulatedException(
  vcpu: Vcpu,
  vector: number,
  errorCode: number,
  cr2?: { lo: number; hi: number },
): void {
  if (vector === VECTOR.PF && cr2 !== undefined) {
    vcpu.arch.cr2Lo = cr2.lo;
    vcpu.arch.cr2Hi = cr2.hi;
    vcpu.stat.pf_guest++;
  }
  multipleException(vcpu, vector, hasErrorCode(vector) ? errorCode : undefined);
}

/** kvm_inject_exception(): the vendor's part, traced. */
function injectException(vcpu: Vcpu): void {
  const ex = vcpu.arch.exception;
  const { trace, ops } = vcpu.kvm.module;
  if (trace.on[TP.KVM_INJ_EXCEPTION] !== 0) {
    trace.record(TP.KVM_INJ_EXCEPTION, ex.vector, ex.hasErrorCode ? 1 : 0, ex.errorCode, ex.injected ? 1 : 0);
  }
  ops.injectException(vcpu);
}

/** What was already on its way when the last entry was cut short goes first. */
function reinject(vcpu: Vcpu): void {
  const { arch } = vcpu;
  const { ops } = vcpu.kvm.module;
  if (arch.exception.injected) injectException(vcpu);
  else if (arch.exception.pending) return;
  else if (arch.nmiInjected) ops.injectNmi(vcpu);
  else if (arch.interrupt.injected) ops.injectIrq(vcpu, 'again');
}

/** exception_type() is neither EXCPT_TRAP, EXCPT_ABORT nor EXCPT_DB. */
const NOT_FAULTS: readonly number[] = [VECTOR.DB, VECTOR.BP, VECTOR.OF, VECTOR.DF, VECTOR.MC];

/** A pending exception becomes an injected one. Faults restart the instruction, so they set RF. */
function injectPendingException(vcpu: Vcpu): void {
  const ex = vcpu.arch.exception;
  const { ops } = vcpu.kvm.module;
  if (!NOT_FAULTS.includes(ex.vector)) ops.setRflags(vcpu, ops.getRflags(vcpu) | RFLAGS.RF);
  if (ex.vector === VECTOR.DB) {
    deliverDr6(vcpu);
    kvmClearGeneralDetect(vcpu);
  }
  injectException(vcpu);
  ex.pending = false;
  ex.injected = true;
}

/** kvm_event_needs_reinjection(). */
export const kvmEventNeedsReinjection = (vcpu: Vcpu): boolean =>
  vcpu.arch.exception.injected || vcpu.arch.interrupt.injected || vcpu.arch.nmiInjected;

/**
 * kvm_check_and_inject_events(): 0, or a negated errno that ends KVM_RUN. What cannot go in now waits for a window, or in
 * L2, where an exit to L1 may have to come first, for the guest's immediate exit.
 */
export function kvmCheckAndInjectEvents(vcpu: Vcpu): number {
  const { ops } = vcpu.kvm.module;
  const checked = isGuestMode(vcpu) ? kvmCheckNestedEvents(vcpu) : 0;
  reinject(vcpu);
  const r = checked < 0 ? checked : injectNew(vcpu);
  if (r === -ERRNO.EBUSY) {
    ops.requestImmediateExit(vcpu);
    return 0;
  }
  if (r === 0 && isGuestMode(vcpu) && ops.nestedOps?.hasEvents(vcpu, 'injection') === true)
    ops.requestImmediateExit(vcpu);
  return r;
}

/** New events, in the order of their priority; -EBUSY: one of L2's must wait. */
function injectNew(vcpu: Vcpu): number {
  const { arch } = vcpu;
  let canInject = !kvmEventNeedsReinjection(vcpu);
  // An exception goes before an NMI or interrupt that is to be injected again: it arose while that was delivered.
  if (arch.exception.pending) {
    injectPendingException(vcpu);
    canInject = false;
  }
  if (arch.nmiPending !== 0) {
    const r = injectNmi(vcpu, canInject);
    if (r < 0) return r;
    canInject = r === 1;
  }
  return kvmCpuHasInjectableIntr(vcpu) ? injectInterrupt(vcpu, canInject) : 0;
}

/** In L2 an event that finds another in its way asks for an immediate exit, in L1 for a window. */
const inTheWay = (vcpu: Vcpu): number => (isGuestMode(vcpu) ? -ERRNO.EBUSY : 0);

/** Whether an event can still be injected (1, 0), or -EBUSY. */
function injectNmi(vcpu: Vcpu, canInject: boolean): number {
  const { arch } = vcpu;
  const { ops } = vcpu.kvm.module;
  const allowed = canInject ? ops.nmiAllowed(vcpu, 'injection') : inTheWay(vcpu);
  if (allowed < 0) return allowed;
  if (allowed > 0) {
    arch.nmiPending--;
    arch.nmiInjected = true;
    ops.injectNmi(vcpu);
  }
  if (arch.nmiPending !== 0) ops.enableNmiWindow(vcpu);
  return canInject && allowed === 0 ? 1 : 0;
}

function injectInterrupt(vcpu: Vcpu, canInject: boolean): number {
  const { arch } = vcpu;
  const { ops } = vcpu.kvm.module;
  const allowed = canInject ? ops.interruptAllowed(vcpu, 'injection') : inTheWay(vcpu);
  if (allowed < 0) return allowed;
  if (allowed > 0) {
    arch.interrupt.nr = kvmCpuGetInterrupt(vcpu);
    arch.interrupt.soft = false;
    arch.interrupt.injected = true;
    ops.injectIrq(vcpu, 'first');
  }
  if (kvmCpuHasInjectableIntr(vcpu)) ops.enableIrqWindow(vcpu);
  return 0;
}

/** process_nmi(): queued NMIs become pending; one may wait while another is blocked. */
export function processNmi(vcpu: Vcpu): void {
  const { arch } = vcpu;
  const { ops } = vcpu.kvm.module;
  const limit = ops.getNmiMask(vcpu) || arch.nmiInjected ? 1 : 2;
  arch.nmiPending = Math.min(arch.nmiPending + arch.nmiQueued, limit);
  arch.nmiQueued = 0;
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
}
