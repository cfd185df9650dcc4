// SPDX-License-Identifier: GPL-2.0-only
/**
 * How a system instruction says that it failed: cpu.fault is filled and RUN.FAULT returned, as tier0() does; the outer
 * loop delivers it. Error codes of segment faults: SDM, "Error Code".
 */
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { SELECTOR } from '../../../../lib/x86/segments.ts';
import type { Cpu } from '../cpu.ts';
import { FAULT, RUN } from '../state.ts';

/** Result of an instruction that is complete: RIP is past it. */
export const NEXT = -1;
/** Result of an instruction that has delivered an event: control is elsewhere, no single-step trap is due. */
export const TRANSFERRED = -2;

/** Record an exception; `false`, so that checks can end with it. */
export function refuse(cpu: Cpu, vector: number, errorCode = 0): false {
  cpu.fault.kind = FAULT.EXCEPTION;
  cpu.fault.vector = vector;
  cpu.fault.errorCode = errorCode;
  cpu.fault.qualification = 0;
  return false;
}

/** Record an exception; RUN.FAULT. */
export function raise(cpu: Cpu, vector: number, errorCode = 0): number {
  refuse(cpu, vector, errorCode);
  return RUN.FAULT;
}

/** General protection with error code 0. */
export function raiseGp(cpu: Cpu): number {
  return raise(cpu, VECTOR.GP, 0);
}

/** Invalid opcode. */
export function raiseUd(cpu: Cpu): number {
  return raise(cpu, VECTOR.UD, 0);
}

/** Error code of a fault about a selector: RPL replaced by `ext` (1: an event outside of the program was being delivered). */
export function selectorError(selector: number, ext = 0): number {
  return (selector & (SELECTOR.INDEX_MASK | SELECTOR.TI)) | ext;
}
