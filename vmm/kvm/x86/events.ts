// SPDX-License-Identifier: GPL-2.0-only
/**
 * Events that wait for injection and in which order they go in: kvm_queue_exception() and
 * kvm_check_and_inject_events() of arch/x86/kvm/x86.c, 6.12. Leaves out SMIs, nested guests and async page faults.
 */
import { VECTOR, hasErrorCode } from '../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest } from '../requests.ts';
import { TP } from '../trace_events.ts';
import { kvmCpuGetInterrupt, kvmCpuHasInjectableIntr } from './lapic.ts';

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

function setPending(vcpu: Vcpu, vector: number, errorCode: number | undefined): void {
  const ex = vcpu.arch.exception;
  ex.pending = true;
  ex.injected = false;
  ex.vector = vector;
  ex.hasErrorCode = errorCode !== undefined;
  ex.errorCode = errorCode ?? 0;
  ex.hasPayload = false;
}

/** kvm_multiple_exception(): an exception on top of another becomes a double or triple fault. */
function multipleException(vcpu: Vcpu, vector: number, errorCode: number | undefined): void {
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
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
  if (twice) setPending(vcpu, VECTOR.DF, 0);
  // Else the second replaces the first, which happens again when the instruction is restarted.
  else setPending(vcpu, vector, errorCode);
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

/** A pending exception becomes an injected one. Faults restart the instruction, so they set RF. */
function injectPendingException(vcpu: Vcpu): void {
  const ex = vcpu.arch.exception;
  const { ops } = vcpu.kvm.module;
  const isFault = ex.vector !== VECTOR.BP && ex.vector !== VECTOR.OF && ex.vector !== VECTOR.DB;
  if (isFault) ops.setRflags(vcpu, ops.getRflags(vcpu) | RFLAGS.RF);
  injectException(vcpu);
  ex.pending = false;
  ex.injected = true;
}

/** kvm_event_needs_reinjection(). */
const needsReinjection = (vcpu: Vcpu): boolean =>
  vcpu.arch.exception.injected || vcpu.arch.interrupt.injected || vcpu.arch.nmiInjected;

/** kvm_check_and_inject_events(); opens windows for what cannot go in now. */
export function kvmCheckAndInjectEvents(vcpu: Vcpu): void {
  const { arch } = vcpu;
  const { ops } = vcpu.kvm.module;
  reinject(vcpu);
  let canInject = !needsReinjection(vcpu);
  if (arch.exception.pending && canInject) {
    injectPendingException(vcpu);
    canInject = false;
  }
  if (arch.nmiPending !== 0) canInject = injectNmi(vcpu, canInject);
  if (!kvmCpuHasInjectableIntr(vcpu)) return;
  if (canInject && ops.interruptAllowed(vcpu, 'injection') > 0) {
    arch.interrupt.nr = kvmCpuGetInterrupt(vcpu);
    arch.interrupt.soft = false;
    arch.interrupt.injected = true;
    ops.injectIrq(vcpu, 'first');
  }
  if (kvmCpuHasInjectableIntr(vcpu)) ops.enableIrqWindow(vcpu);
}

/** Returns whether an event can still be injected. */
function injectNmi(vcpu: Vcpu, canInject: boolean): boolean {
  const { arch } = vcpu;
  const { ops } = vcpu.kvm.module;
  let room = canInject;
  if (room && ops.nmiAllowed(vcpu, 'injection') > 0) {
    arch.nmiPending--;
    arch.nmiInjected = true;
    ops.injectNmi(vcpu);
    room = false;
  }
  if (arch.nmiPending !== 0) ops.enableNmiWindow(vcpu);
  return room;
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
