// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM exits that exceptions, EPT faults and triple faults cause. SDM, "Exceptions" under "Other Causes of VM Exits",
 * "EPT-Induced VM Exits", "APIC-Access VM Exits", "Page-Modification Logging", "Information for VM Exits Due to
 * Vectored Events".
 */
import { hasErrorCode, VECTOR } from '../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { EPT_VIOLATION } from '../../../lib/x86/vmx/exit_quals.ts';
import { EXIT_REASON } from '../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { FAULT, S } from '../cpu/state.ts';
import { vmxEventExit, vmxExit } from './exit.ts';
import * as W from './words.ts';

const TWO_32 = 0x1_0000_0000;

/**
 * In non-root operation, an exception is about to be delivered: exit if the exception bitmap says so (PF: with error-code
 * mask and match). Reads cpu.sys.exceptionType, and cpu.fault for a PF's address or a DB's cause. True: exit done.
 */
export function vmxInterceptException(cpu: Cpu, vector: number, errorCode: number): boolean {
  const {
    mem: { i32 },
    vmx: { base },
    sys,
  } = cpu;
  let wanted = (i32[base + W.EXCEPTION_BITMAP]! >>> vector) & 1;
  if (vector === VECTOR.PF && (errorCode & i32[base + W.PFEC_MASK]!) !== i32[base + W.PFEC_MATCH]!)
    wanted ^= 1;
  if (wanted === 0) return false;
  const type = sys.exceptionType;
  const hard = type === INTR_TYPE.HARD_EXCEPTION;
  const code = hard && hasErrorCode(vector) ? INTR_INFO.DELIVER_CODE_MASK : 0;
  const unblock = sys.iretUnblockedNmi !== 0 ? INTR_INFO.UNBLOCK_NMI : 0;
  if (!hard) i32[base + W.EXIT_INSN_LEN] = cpu.insn.length;
  const [qualLo, qualHi] = [qualificationLo(cpu, vector), vector === VECTOR.PF ? cpu.fault.linHi : 0];
  vmxEventExit(
    cpu,
    EXIT_REASON.EXCEPTION_NMI,
    vector | type | code | unblock,
    code === 0 ? 0 : errorCode,
    qualLo,
    qualHi,
  );
  return true;
}

function qualificationLo(cpu: Cpu, vector: number): number {
  if (vector === VECTOR.PF) return cpu.fault.linLo;
  return vector === VECTOR.DB ? cpu.fault.qualification : 0;
}

/** An EPT violation, EPT misconfiguration, APIC access or log-full event in cpu.fault, in non-root operation: do the exit. */
export function vmxAccessExit(cpu: Cpu): void {
  const {
    fault,
    s,
    mem: { i32 },
    vmx: { base },
    sys,
  } = cpu;
  // SDM, "Saving RIP, RSP, RFLAGS, and SSP": RF is saved as 1 unless an event was being delivered.
  if (sys.idtVectoring === 0) s[S.RFLAGS_SYS] = s[S.RFLAGS_SYS]! | RFLAGS.RF;
  if (fault.kind === FAULT.APIC_ACCESS) {
    vmxExit(cpu, EXIT_REASON.APIC_ACCESS, fault.qualification);
    return;
  }
  const unblock = sys.iretUnblockedNmi !== 0 ? EPT_VIOLATION.NMI_UNBLOCKING : 0;
  if (fault.kind === FAULT.PML_FULL) {
    // Bit 12 is as for EPT violations; no other bit and no address field is defined.
    vmxExit(cpu, EXIT_REASON.PML_FULL, unblock);
    return;
  }
  i32[base + W.GUEST_PHYSICAL_ADDRESS] = fault.gpa | 0;
  i32[base + W.GUEST_PHYSICAL_ADDRESS + 1] = Math.floor(fault.gpa / TWO_32);
  if (fault.kind === FAULT.EPT_MISCONFIG) {
    vmxExit(cpu, EXIT_REASON.EPT_MISCONFIG);
    return;
  }
  i32[base + W.GUEST_LINEAR_ADDRESS] = fault.linLo;
  i32[base + W.GUEST_LINEAR_ADDRESS + 1] = fault.linHi;
  vmxExit(cpu, EXIT_REASON.EPT_VIOLATION, fault.qualification | unblock);
}

/** A triple fault in non-root operation: do the exit. */
export function vmxTripleFaultExit(cpu: Cpu): void {
  vmxExit(cpu, EXIT_REASON.TRIPLE_FAULT);
}
