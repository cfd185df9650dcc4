// SPDX-License-Identifier: GPL-2.0-only
/**
 * Requests to vCPUs, kicks, and waiting until vCPUs left guest mode. Mirrors kvm_make_request() and friends of
 * virt/kvm/kvm_main.c and include/linux/kvm_host.h, 6.12.
 */
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';
import { BugError } from '../machine/errors.ts';
import type { Steps } from '../host/steps.ts';
import type { Kvm, Vcpu } from './kvm_host.ts';
import { KVM_REQ, KVM_REQUEST, KVM_REQUEST_MASK, requestName, VCPU_MODE } from './request_numbers.ts';

/** Set the request's bit; nothing else. */
export function kvmMakeRequest(request: number, vcpu: Vcpu): void {
  if (request & KVM_REQUEST.NO_ACTION)
    throw new BugError(`${requestName(request)} has no bit: nobody would clear it`);
  const nr = request & KVM_REQUEST_MASK;
  if (nr < 32) vcpu.requestsLo |= 1 << nr;
  else vcpu.requestsHi |= 1 << (nr - 32);
}

export const kvmRequestPending = (vcpu: Vcpu): boolean => (vcpu.requestsLo | vcpu.requestsHi) !== 0;

export function kvmTestRequest(request: number, vcpu: Vcpu): boolean {
  const nr = request & KVM_REQUEST_MASK;
  return ((nr < 32 ? vcpu.requestsLo >>> nr : vcpu.requestsHi >>> (nr - 32)) & 1) !== 0;
}

export function kvmClearRequest(request: number, vcpu: Vcpu): void {
  const nr = request & KVM_REQUEST_MASK;
  if (nr < 32) vcpu.requestsLo &= ~(1 << nr);
  else vcpu.requestsHi &= ~(1 << (nr - 32));
}

/** Test and clear. */
export function kvmCheckRequest(request: number, vcpu: Vcpu): boolean {
  if (!kvmTestRequest(request, vcpu)) return false;
  kvmClearRequest(request, vcpu);
  return true;
}

/** kvm_vcpu_exiting_guest_mode(): the one mode change that others make, IN to EXITING; the mode before. */
export function kvmVcpuExitingGuestMode(vcpu: Vcpu): number {
  const mode = vcpu.mode;
  if (mode === VCPU_MODE.IN_GUEST_MODE) vcpu.mode = VCPU_MODE.EXITING_GUEST_MODE;
  return mode;
}

/** kvm_vcpu_wake_up(): true if the vCPU was blocking. */
export function kvmVcpuWakeUp(vcpu: Vcpu): boolean {
  if (vcpu.wait.waiters.length === 0 || vcpu.wait.wakeAll() === 0) return false;
  vcpu.ready = true;
  vcpu.stat.halt_wakeup++;
  return true;
}

/** kvm_vcpu_kick(): wake a blocked vCPU, or make a running one leave guest mode. Does not wait. */
export function kvmVcpuKick(vcpu: Vcpu): void {
  if (kvmVcpuWakeUp(vcpu)) return;
  const { module, host } = vcpu.kvm;
  const me = host.sched.cpu.id;
  if (module.runningVcpu[me] === vcpu) {
    kvmVcpuExitingGuestMode(vcpu);
    return;
  }
  if (kvmVcpuExitingGuestMode(vcpu) !== VCPU_MODE.IN_GUEST_MODE) return;
  if (vcpu.cpu >= 0 && vcpu.cpu !== me) host.smp.smpSendReschedule(vcpu.cpu);
}

/** kvm_request_needs_ipi(): with WAIT anybody who is not outside of guest mode, else only who is in it. */
function kvmRequestNeedsIpi(vcpu: Vcpu, request: number): boolean {
  const mode = kvmVcpuExitingGuestMode(vcpu);
  if (request & KVM_REQUEST.WAIT) return mode !== VCPU_MODE.OUTSIDE_GUEST_MODE;
  return mode === VCPU_MODE.IN_GUEST_MODE;
}

/** kvm_make_vcpu_request(): the request for one of many; a pCPU that must be interrupted goes to `cpus`. */
function kvmMakeVcpuRequest(vcpu: Vcpu, request: number, cpus: Set<number>, me: number): void {
  if (!(request & KVM_REQUEST.NO_ACTION)) kvmMakeRequest(request, vcpu);
  if (!(request & KVM_REQUEST.NO_WAKEUP) && kvmVcpuWakeUp(vcpu)) return;
  if (kvmRequestNeedsIpi(vcpu, request) && vcpu.cpu >= 0 && vcpu.cpu !== me) cpus.add(vcpu.cpu);
}

/**
 * kvm_make_vcpus_request_mask(): request something of some vCPUs, and interrupt those that are in guest mode. With
 * KVM_REQUEST.WAIT they have left it on return. True if an interrupt had to be sent.
 */
export function* kvmMakeVcpusRequest(kvm: Kvm, request: number, vcpus: Iterable<Vcpu>): Steps<boolean> {
  const { sched, smp } = kvm.host;
  if (sched.shouldYield() && sched.context.preemptCount === 0) yield;
  const cpus = new Set<number>();
  const me = sched.cpu.id;
  for (const vcpu of vcpus) kvmMakeVcpuRequest(vcpu, request, cpus, me);
  if (cpus.size === 0) return false;
  const name = requestName(request);
  if (request & KVM_REQUEST.WAIT) yield* smp.smpCallFunctionMany(cpus, ackKick, name);
  else smp.smpCallFunctionManyNowait(cpus, ackKick, name);
  return true;
}

/** kvm_make_all_cpus_request(): of every vCPU of the VM. */
export function* kvmMakeAllCpusRequest(kvm: Kvm, request: number): Steps<boolean> {
  return yield* kvmMakeVcpusRequest(kvm, request, kvm.vcpus);
}

/** kvm_make_all_cpus_request() by plain code: those in guest mode are interrupted, but may not have left it on return. */
export function kvmMakeAllCpusRequestNowait(kvm: Kvm, request: number): void {
  const { sched, smp } = kvm.host;
  const cpus = new Set<number>();
  for (const vcpu of kvm.vcpus) kvmMakeVcpuRequest(vcpu, request, cpus, sched.cpu.id);
  if (cpus.size !== 0) smp.smpCallFunctionManyNowait(cpus, ackKick, requestName(request));
}

/** The interrupt itself is the message. */
function ackKick(): void {}

/** kvm_flush_remote_tlbs(): no vCPU uses an old translation of the VM after it, or it flushes before it runs. */
export function* kvmFlushRemoteTlbs(kvm: Kvm): Steps<void> {
  kvm.stat.remote_tlb_flush_requests++;
  spend(kvm.host.sched.cpu, COST.REMOTE_TLB_FLUSH);
  if (yield* kvmMakeAllCpusRequest(kvm, KVM_REQ.TLB_FLUSH)) kvm.stat.remote_tlb_flush++;
}
