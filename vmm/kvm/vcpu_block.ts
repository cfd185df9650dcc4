// SPDX-License-Identifier: GPL-2.0-only
/**
 * A vCPU that halts. Mirrors kvm_vcpu_halt() and kvm_vcpu_block() of virt/kvm/kvm_main.c, 6.12; leaves out halt polling.
 */
import type { Steps } from '../host/steps.ts';
import type { Vcpu } from './kvm_host.ts';
import { KVM_REQ } from './request_numbers.ts';
import { kvmCheckRequest } from './requests.ts';
import { TP } from './trace_events.ts';

/** kvm_vcpu_check_block(): true if the vCPU must not go on sleeping. */
export function kvmVcpuCheckBlock(vcpu: Vcpu): boolean {
  const { arch, host } = vcpu.kvm.module;
  const idx = vcpu.kvm.srcu.readLock();
  const stop =
    arch.vcpuRunnable(vcpu) ||
    arch.cpuHasPendingTimer(vcpu) ||
    (host.sched.current?.signalPending ?? false) ||
    kvmCheckRequest(KVM_REQ.UNBLOCK, vcpu);
  vcpu.kvm.srcu.readUnlock(idx);
  return stop;
}

/** kvm_vcpu_block(): sleep until there is something to do; whether it slept. */
export function* kvmVcpuBlock(vcpu: Vcpu): Steps<boolean> {
  let waited = false;
  vcpu.stat.blocking = 1;
  for (;;) {
    vcpu.wait.prepareToWait();
    // A wake-up from here on makes schedule() return at once.
    if (kvmVcpuCheckBlock(vcpu)) break;
    waited = true;
    yield* vcpu.wait.schedule();
  }
  vcpu.wait.finishWait();
  vcpu.stat.blocking = 0;
  return waited;
}

/** kvm_vcpu_halt(): block, and keep the books. */
export function* kvmVcpuHalt(vcpu: Vcpu): Steps<void> {
  const { host, trace } = vcpu.kvm.module;
  const start = host.sched.now();
  const waited = yield* kvmVcpuBlock(vcpu);
  const ns = Math.floor(((host.sched.now() - start) * 1e6) / vcpu.kvm.module.caps.tscKhz);
  if (waited) {
    vcpu.stat.halt_wait_ns += ns;
    const bucket = ns < 1 ? 0 : Math.min(Math.floor(Math.log2(ns)) + 1, vcpu.stat.halt_wait_hist.length - 1);
    vcpu.stat.halt_wait_hist[bucket] = vcpu.stat.halt_wait_hist[bucket]! + 1;
  }
  if (trace.on[TP.KVM_VCPU_WAKEUP]) trace.record(TP.KVM_VCPU_WAKEUP, ns, Number(waited), 1);
}
