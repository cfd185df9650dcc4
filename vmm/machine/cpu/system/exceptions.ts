// SPDX-License-Identifier: GPL-2.0-only
/**
 * Events from their cause to the handler's first instruction: VMX interception, delivery, and what becomes of faults on
 * the way (benign, contributory, page fault; double and triple fault). SDM, "Interrupt 8 - Double Fault Exception" and
 * "Information for VM Exits That Occur During Event Delivery".
 */
import { hasErrorCode, VECTOR } from '../../../../lib/x86/exceptions.ts';
import { DR6, DR7, RFLAGS } from '../../../../lib/x86/registers.ts';
import { INTR_INFO, INTR_TYPE } from '../../../../lib/x86/vmx/intr_info.ts';
import { COST } from '../../cost/points.ts';
import { spend } from '../../cost/ledger.ts';
import { vmxAccessExit, vmxInterceptException, vmxTripleFaultExit } from '../../vmx/event_exits.ts';
import type { Cpu } from '../cpu.ts';
import { ACTIVITY, BLOCKING, FAULT, RUN, S } from '../state.ts';
import { deliverOnce } from './deliver.ts';

/** What a second fault during the delivery of an event becomes. */
const CHAIN = { SERIAL: 0, DOUBLE: 1, TRIPLE: 2 } as const;

/** Vectors whose cause is a fault: the saved RFLAGS image has RF set. DB, BP, OF, NMI are traps; DF and MC are aborts. */
const FAULT_CLASS = ~(
  (1 << VECTOR.DB) |
  (1 << VECTOR.NMI) |
  (1 << VECTOR.BP) |
  (1 << VECTOR.OF) |
  (1 << VECTOR.DF) |
  (1 << VECTOR.MC)
);

/** Deal with cpu.fault: raise the exception, or do the exit of the access. -1: an exception handler is about to run. */
export function handleFault(cpu: Cpu): number {
  const { fault } = cpu;
  if (fault.kind === FAULT.EXCEPTION) return raiseException(cpu, fault.vector, fault.errorCode);
  vmxAccessExit(cpu);
  cpu.sys.iretUnblockedNmi = 0;
  return RUN.VMEXIT;
}

/**
 * Raise a hardware exception with RIP at the faulting instruction (traps: past it). For PF, cpu.fault holds the address;
 * for DB, cpu.fault.qualification the DR6 bits. Returns -1, RUN.VMEXIT or RUN.SHUTDOWN.
 */
export function raiseException(cpu: Cpu, vector: number, errorCode: number): number {
  return raiseTyped(cpu, INTR_TYPE.HARD_EXCEPTION, vector, errorCode, 0);
}

/** INT3 (SOFT_EXCEPTION) and INT1 (PRIV_SW_EXCEPTION); RIP at the instruction, of `length` bytes. */
export function raiseSoftwareException(cpu: Cpu, type: number, vector: number, length: number): number {
  return raiseTyped(cpu, type, vector, 0, length);
}

/** RF of the RFLAGS image that the exception pushes, or that its VM exit saves. */
function resumeFlag(cpu: Cpu, vector: number): void {
  if (((FAULT_CLASS >>> vector) & 1) !== 0) cpu.s[S.RFLAGS_SYS] = cpu.s[S.RFLAGS_SYS]! | RFLAGS.RF;
}

function raiseTyped(cpu: Cpu, type: number, vector: number, errorCode: number, length: number): number {
  const { sys } = cpu;
  if (type === INTR_TYPE.HARD_EXCEPTION) resumeFlag(cpu, vector);
  sys.exceptionType = type;
  const exits = cpu.vmx.nonRoot && vmxInterceptException(cpu, vector, errorCode);
  sys.exceptionType = INTR_TYPE.HARD_EXCEPTION;
  sys.iretUnblockedNmi = 0;
  if (exits) return RUN.VMEXIT;
  commitCause(cpu, vector);
  const code = type === INTR_TYPE.HARD_EXCEPTION && hasErrorCode(vector) ? INTR_INFO.DELIVER_CODE_MASK : 0;
  return deliverEvent(cpu, type | vector | code, errorCode, length);
}

/** Registers that tell the cause: not changed by an exception that a VM exit took. */
function commitCause(cpu: Cpu, vector: number): void {
  const { s, fault } = cpu;
  if (vector === VECTOR.PF) {
    s[S.CR2] = fault.linLo;
    s[S.CR2 + 1] = fault.linHi;
  } else if (vector === VECTOR.DB) {
    s[S.DR + 12] = s[S.DR + 12]! | (fault.qualification & (0xf | DR6.BD | DR6.BS));
    s[S.DR + 14] = s[S.DR + 14]! & ~DR7.GD;
  }
}

/**
 * Deliver an event through the IDT. `info`: vector, type and error-code-valid bit in the format of INTR_INFO, without
 * interception (that has been decided by who calls). `length`: of the instruction, for INT n, INT3, INT1. Returns -1:
 * the handler's first instruction is next; RUN.VMEXIT: a VM exit took place on the way; RUN.SHUTDOWN.
 */
export function deliverEvent(cpu: Cpu, info: number, errorCode: number, length: number): number {
  const { s, sys, fault } = cpu;
  if ((info & INTR_INFO.TYPE_MASK) === INTR_TYPE.NMI_INTR) s[S.BLOCKING] = s[S.BLOCKING]! | BLOCKING.NMI;
  spend(cpu, COST.EVENT_DELIVERY);
  for (;;) {
    sys.idtVectoring = info | INTR_INFO.VALID_MASK;
    sys.idtVectoringError = errorCode;
    sys.idtVectoringLength = length;
    if (deliverOnce(cpu, info, errorCode, length)) {
      sys.idtVectoring = 0;
      return -1;
    }
    if (fault.kind !== FAULT.EXCEPTION) {
      vmxAccessExit(cpu);
      sys.idtVectoring = 0;
      return RUN.VMEXIT;
    }
    // The exception bitmap is asked for the fault itself before the fault makes a double or triple fault of the event.
    const rflags = s[S.RFLAGS_SYS]!;
    resumeFlag(cpu, fault.vector);
    if (cpu.vmx.nonRoot && vmxInterceptException(cpu, fault.vector, fault.errorCode)) {
      sys.idtVectoring = 0;
      return RUN.VMEXIT;
    }
    const chain = chainOf(info, fault.vector);
    if (chain !== CHAIN.SERIAL) s[S.RFLAGS_SYS] = rflags;
    if (chain === CHAIN.TRIPLE) return tripleFault(cpu);
    const vector = chain === CHAIN.DOUBLE ? VECTOR.DF : fault.vector;
    errorCode = chain === CHAIN.DOUBLE ? 0 : fault.errorCode;
    if (chain === CHAIN.DOUBLE) {
      // SDM: a VM exit caused directly by the double fault is not one during event delivery.
      sys.idtVectoring = 0;
      if (cpu.vmx.nonRoot && vmxInterceptException(cpu, VECTOR.DF, 0)) return RUN.VMEXIT;
    }
    if (fault.vector === VECTOR.PF) commitCause(cpu, VECTOR.PF);
    info = INTR_TYPE.HARD_EXCEPTION | vector | (hasErrorCode(vector) ? INTR_INFO.DELIVER_CODE_MASK : 0);
    length = 0;
  }
}

/** A fault while a double fault is delivered: shutdown, or a VM exit in non-root operation. */
export function tripleFault(cpu: Cpu): number {
  cpu.sys.idtVectoring = 0;
  if (cpu.vmx.nonRoot) {
    vmxTripleFaultExit(cpu);
    return RUN.VMEXIT;
  }
  cpu.s[S.ACTIVITY] = ACTIVITY.SHUTDOWN;
  return RUN.SHUTDOWN;
}

const CLASS = { BENIGN: 0, CONTRIBUTORY: 1, PAGE_FAULT: 2, DOUBLE_FAULT: 3 } as const;

function classOf(vector: number): number {
  switch (vector) {
    case VECTOR.DE:
    case VECTOR.TS:
    case VECTOR.NP:
    case VECTOR.SS:
    case VECTOR.GP:
    case VECTOR.CP:
      return CLASS.CONTRIBUTORY;
    case VECTOR.PF:
    case VECTOR.VE:
      return CLASS.PAGE_FAULT;
    case VECTOR.DF:
      return CLASS.DOUBLE_FAULT;
    default:
      return CLASS.BENIGN;
  }
}

/** The table "Conditions for Generating a Double Fault"; `info` is the event that was being delivered. */
function chainOf(info: number, second: number): number {
  const first =
    (info & INTR_INFO.TYPE_MASK) === INTR_TYPE.HARD_EXCEPTION
      ? classOf(info & INTR_INFO.VECTOR_MASK)
      : CLASS.BENIGN;
  const next = classOf(second);
  if (first === CLASS.BENIGN || next === CLASS.BENIGN) return CHAIN.SERIAL;
  if (first === CLASS.DOUBLE_FAULT) return CHAIN.TRIPLE;
  return first === CLASS.CONTRIBUTORY && next === CLASS.PAGE_FAULT ? CHAIN.SERIAL : CHAIN.DOUBLE;
}
