// SPDX-License-Identifier: GPL-2.0-only
/**
 * The VMX-preemption timer: counts down by one each time a given bit of the TSC changes. SDM, "VMX-Preemption Timer".
 * Nothing counts here: the cycle at which the timer reaches zero is computed at VM entry.
 */
import type { Cpu } from '../cpu/cpu.ts';

/** The TSC's low bits are the clock's plus this: IA32_TSC writes shift the phase. */
const phase = (cpu: Cpu): number => cpu.sys.tscOffset[0]! >>> 0;

const ticksNow = (cpu: Cpu): number => Math.floor((cpu.clock[0]! + phase(cpu)) / 2 ** cpu.vmx.caps.timerRate);

/** Start the timer with the value of its field; it expires at vmx.timerDeadline. */
export function startTimer(cpu: Cpu, value: number): void {
  const ticks = ticksNow(cpu) + (value >>> 0);
  cpu.vmx.timerDeadline = value === 0 ? cpu.clock[0]! : ticks * 2 ** cpu.vmx.caps.timerRate - phase(cpu);
}

/** What VM exit saves: the ticks that are left. */
export function timerTicksLeft(cpu: Cpu): number {
  const end = Math.floor((cpu.vmx.timerDeadline + phase(cpu)) / 2 ** cpu.vmx.caps.timerRate);
  return Math.max(0, end - ticksNow(cpu)) | 0;
}
