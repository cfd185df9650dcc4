// SPDX-License-Identifier: GPL-2.0-only
/**
 * Faults of an access, filled into cpu.fault. SDM, "Page-Fault Exceptions", "Canonical Addressing", "Exit Qualification
 * for EPT Violations" and "Page-Modification Logging". Each function returns -1, what a failed translation returns.
 */
import { PFERR, VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR4, EFER } from '../../../lib/x86/registers.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { FAULT, S } from '../cpu/state.ts';
import { PERM } from '../tlb/entry.ts';
import { ACCESS } from './access.ts';
import { MODE } from './mmu.ts';
import { keyDenies } from './rights.ts';

/** EPT-violation exit qualification. */
// prettier-ignore
export const EPT_QUAL = {
  READ:       0x001,
  WRITE:      0x002,
  FETCH:      0x004,
  PERM_SHIFT: 3,     // bits 5:3: what the EPT entries allow together
  USER_EXEC:  0x040, // the same for user-mode execution, under mode-based execute control
  LINEAR:     0x080, // the guest linear address field is valid
  TRANSLATED: 0x100, // ... and the access was to its translation, not to a paging-structure entry
} as const;

/** An address that is not canonical. SS(0) for stack references, GP(0) for others. */
export function canonicalFault(cpu: Cpu, access: number): number {
  const fault = cpu.fault;
  fault.kind = FAULT.EXCEPTION;
  fault.vector = (access & ACCESS.STACK) !== 0 ? VECTOR.SS : VECTOR.GP;
  fault.errorCode = 0;
  return -1;
}

/** A page fault; `reason` is 0, PFERR.PRESENT or PFERR.PRESENT | PFERR.RSVD, `perm` that of a protection violation. */
export function pageFault(cpu: Cpu, mode: number, kind: number, reason: number, perm: number): number {
  const fault = cpu.fault;
  const s = cpu.s;
  let code = reason;
  if (kind === ACCESS.WRITE) code |= PFERR.WRITE;
  if ((mode & MODE.USER) !== 0) code |= PFERR.USER;
  if (kind === ACCESS.EXEC) {
    if ((s[S.CR4]! & CR4.SMEP) !== 0 || (s[S.EFER]! & EFER.NXE) !== 0) code |= PFERR.FETCH;
  } else if (reason === PFERR.PRESENT && (keyDenies(mode, perm, cpu.s[S.PKRU]!) & (1 << kind)) !== 0) {
    code |= PFERR.PK;
  }
  fault.kind = FAULT.EXCEPTION;
  fault.vector = VECTOR.PF;
  fault.errorCode = code;
  return -1;
}

/** An EPT violation: `bits` are READ, WRITE, FETCH, LINEAR and TRANSLATED; `perm` what the EPT entries allow. */
export function eptViolation(
  cpu: Cpu,
  mode: number,
  gLo: number,
  gHi: number,
  bits: number,
  perm: number,
): number {
  const fault = cpu.fault;
  let allowed = (perm & (PERM.EPT_R | PERM.EPT_W | PERM.EPT_X)) >>> (12 - EPT_QUAL.PERM_SHIFT);
  if ((mode & MODE.MBEC) !== 0 && (perm & PERM.EPT_XU) !== 0) allowed |= EPT_QUAL.USER_EXEC;
  fault.kind = FAULT.EPT_VIOLATION;
  fault.qualification = bits | allowed;
  fault.gpa = (gLo >>> 0) + gHi * 0x1_0000_0000;
  return -1;
}

/** An EPT misconfiguration. */
export function eptMisconfig(cpu: Cpu, gLo: number, gHi: number): number {
  const fault = cpu.fault;
  fault.kind = FAULT.EPT_MISCONFIG;
  fault.qualification = 0;
  fault.gpa = (gLo >>> 0) + gHi * 0x1_0000_0000;
  return -1;
}

/** A page-modification log-full event. */
export function pmlFull(cpu: Cpu): number {
  cpu.fault.kind = FAULT.PML_FULL;
  cpu.fault.qualification = 0;
  return -1;
}
