// SPDX-License-Identifier: GPL-2.0-only
/**
 * When PAUSE causes a VM exit: always, or in a loop that goes on for too long. SDM, "Instructions That Cause VM Exits
 * Conditionally" and "Controls for PAUSE-Loop Exiting". Time is that of the TSC, unscaled: the CPU's clock.
 */
import { CPU_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import * as W from './words.ts';

/** Whether the PAUSE about to be executed exits; remembers its time for the next one. */
export function pauseExits(cpu: Cpu): boolean {
  const {
    vmx,
    mem: { i32 },
  } = cpu;
  if ((vmx.cpuBased & CPU_BASED.PAUSE_EXITING) !== 0) return true;
  if ((vmx.secondary & SECONDARY_EXEC.PAUSE_LOOP_EXITING) === 0 || cpu.s[S.CPL] !== 0) return false;
  const now = cpu.clock[0]!;
  const gap = now - vmx.lastPause;
  vmx.lastPause = now;
  if (gap > i32[vmx.base + W.PLE_GAP]! >>> 0) {
    vmx.firstPause = now;
    return false;
  }
  return now - vmx.firstPause > i32[vmx.base + W.PLE_WINDOW]! >>> 0;
}
