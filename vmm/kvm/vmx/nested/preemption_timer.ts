// SPDX-License-Identifier: GPL-2.0-only
/**
 * L2's preemption timer, emulated by a host timer: vmx_calc_preemption_timer_value(), vmx_start_preemption_timer() and
 * vmx_get_preemption_timer_value() of arch/x86/kvm/vmx/nested.c, 6.12. It counts L1's TSC.
 */
import { VMCS_GUEST } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { KVM_REQ } from '../../request_numbers.ts';
import { kvmMakeRequest, kvmVcpuKick } from '../../requests.ts';
import { kvmReadL1Tsc } from '../../x86/tsc.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { nestedCpuHasPreemptionTimer } from './vmcs12_controls.ts';

/** VMX_MISC_EMULATED_PREEMPTION_TIMER_RATE: the timer counts one for 2^5 cycles of L1's TSC. */
export const EMULATED_PREEMPTION_TIMER_RATE = 5;
const TICK = 2 ** EMULATED_PREEMPTION_TIMER_RATE;

/** vmx_preemption_timer_fn(). */
export function vmcs12NestedTimer(vcpu: Vcpu): void {
  toVmx(vcpu).nested.preemptionTimerExpired = true;
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  kvmVcpuKick(vcpu);
}

/** Host cycles in `ticks` of L1's TSC. */
function cyclesOf(vcpu: Vcpu, tscTicks: number): number {
  return (tscTicks * vcpu.kvm.module.caps.tscKhz) / vcpu.arch.virtualTscKhz;
}

/** vmx_calc_preemption_timer_value(): ticks of L1's TSC until it fires; a deadline that was restored stays. */
export function calcPreemptionTimerValue(vcpu: Vcpu): number {
  const { nested } = toVmx(vcpu);
  const scaled = kvmReadL1Tsc(vcpu) >> BigInt(EMULATED_PREEMPTION_TIMER_RATE);
  if (!nested.hasPreemptionTimerDeadline) {
    nested.preemptionTimerDeadline =
      BigInt(nested.cachedVmcs12.u32(VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE)) + scaled;
    nested.hasPreemptionTimerDeadline = true;
  }
  return Number(BigInt.asUintN(64, nested.preemptionTimerDeadline - scaled));
}

/** vmx_start_preemption_timer(): a value of zero has expired already, and no instruction of L2 comes before its exit. */
export function startPreemptionTimer(vcpu: Vcpu, value: number): void {
  const { nested } = toVmx(vcpu);
  const { sched } = vcpu.kvm.host;
  if (value === 0) {
    vmcs12NestedTimer(vcpu);
    return;
  }
  sched.hrtimerStart(nested.preemptionTimer!, sched.now() + cyclesOf(vcpu, value * TICK));
}

/** vmx_get_preemption_timer_value(): what is left, in the timer's units; the exit has cancelled the timer by then. */
export function preemptionTimerValue(vcpu: Vcpu): number {
  const { preemptionTimer: timer, preemptionTimerExpired } = toVmx(vcpu).nested;
  if (timer === null || preemptionTimerExpired || timer.at === Infinity) return 0;
  const remaining = timer.at - vcpu.kvm.host.sched.now();
  if (remaining <= 0) return 0;
  return Math.floor((remaining * vcpu.arch.virtualTscKhz) / vcpu.kvm.module.caps.tscKhz / TICK);
}

/** The exit cancels it. */
export function cancelPreemptionTimer(vcpu: Vcpu): void {
  const timer = toVmx(vcpu).nested.preemptionTimer;
  if (timer !== null && timer.armed) vcpu.kvm.host.sched.hrtimerCancel(timer);
}

/** nested_vmx_preemption_timer_pending(). */
export const nestedVmxPreemptionTimerPending = (vcpu: Vcpu): boolean => {
  const { nested } = toVmx(vcpu);
  return nestedCpuHasPreemptionTimer(nested.cachedVmcs12) && nested.preemptionTimerExpired;
};
