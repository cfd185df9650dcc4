// SPDX-License-Identifier: GPL-2.0-only
/**
 * The outer loop of a CPU: events at instruction boundaries, the interpreter, faults, system instructions. SDM,
 * "Priority Among Concurrent Events"; VMX events: "Other Causes of VM Exits". Leaves out SMM and machine checks.
 */
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { DR6, RFLAGS } from '../../../../lib/x86/registers.ts';
import { PIN_BASED } from '../../../../lib/x86/vmx/controls.ts';
import { INTR_TYPE } from '../../../../lib/x86/vmx/intr_info.ts';
import { COST } from '../../cost/points.ts';
import { spend } from '../../cost/ledger.ts';
import { UnimplementedError } from '../../errors.ts';
import { debugTrapDue, nmiDue, vmxNextDeadline, vmxPendingWork } from '../../vmx/pending.ts';
import { takeVirtualInterrupt } from '../../vmx/virtual_interrupts.ts';
import { VMX_PENDING } from '../../vmx/vmx_unit.ts';
import type { Cpu } from '../cpu.ts';
import { ACTIVITY, BLOCKING, FAULT, RUN, S } from '../state.ts';
import { tier0 } from '../tier0.ts';
import { codeBreakpointHit } from './breakpoints.ts';
import { deliverEvent, handleFault, raiseException } from './exceptions.ts';
import { dispatchSystem } from './execute.ts';
import { NEXT } from './fault.ts';
import { endShadow } from './operands.ts';
import { initCpu } from './reset.ts';

const SHADOW = BLOCKING.STI | BLOCKING.MOV_SS;

/**
 * Let the CPU run until its clock reaches `deadline` (RUN.DEADLINE), a VM exit has been done (RUN.VMEXIT), it waits in
 * HLT or another inactive state (RUN.HLT; see nextWakeup), or it shut down (RUN.SHUTDOWN).
 */
export function cpuRun(cpu: Cpu, deadline: number): number {
  const { s, clock, apic } = cpu;
  for (;;) {
    if (clock[0]! >= deadline) return RUN.DEADLINE;
    s[S.PENDING] = 0;
    if (clock[0]! >= apic.timer.deadline) apic.timer.poll();
    const event = takeEvents(cpu);
    if (event !== NEXT) return event;
    if (s[S.ACTIVITY] !== ACTIVITY.ACTIVE) {
      if (s[S.ACTIVITY] === ACTIVITY.SHUTDOWN && !cpu.vmx.nonRoot) return RUN.SHUTDOWN;
      return RUN.HLT;
    }
    const limit = Math.min(deadline, apic.timer.deadline, vmxNextDeadline(cpu));
    if (clock[0]! >= limit) continue;
    const result = needsSingleStep(cpu) ? singleStep(cpu) : stretch(cpu, limit);
    if (result !== NEXT) return result;
  }
}

/** The next cycle at which a waiting CPU has something to do by itself; Infinity if only others can wake it. */
export function nextWakeup(cpu: Cpu): number {
  return Math.min(cpu.apic.timer.deadline, vmxNextDeadline(cpu));
}

/** Instructions until something happens. */
function stretch(cpu: Cpu, limit: number): number {
  const result = tier0(cpu, limit);
  if (result === RUN.DEADLINE) return NEXT;
  if (result === RUN.FAULT) return handleFault(cpu);
  // tier0() does not count a system instruction.
  spend(cpu, COST.INSN);
  const outcome = dispatchSystem(cpu);
  if (outcome === RUN.FAULT) return handleFault(cpu);
  return outcome < 0 ? NEXT : outcome;
}

/** One instruction at a time: under a shadow, with TF, or with breakpoints armed; tier0() ends RF itself. */
function needsSingleStep(cpu: Cpu): boolean {
  const { s } = cpu;
  return ((s[S.BLOCKING]! & SHADOW) | (s[S.RFLAGS_SYS]! & RFLAGS.TF) | (s[S.DR + 14]! & 0xff)) !== 0;
}

function singleStep(cpu: Cpu): number {
  const { s, clock } = cpu;
  const hit = codeBreakpointHit(cpu);
  if (hit !== 0) {
    cpu.fault.qualification = hit;
    return raiseException(cpu, VECTOR.DB, 0);
  }
  const trap = (s[S.RFLAGS_SYS]! & RFLAGS.TF) !== 0;
  const result = tier0(cpu, clock[0]! + 1);
  if (result === RUN.SYS) {
    spend(cpu, COST.INSN);
    const outcome = dispatchSystem(cpu);
    if (outcome === RUN.FAULT) return handleFault(cpu);
    if (outcome !== NEXT) return outcome < 0 ? NEXT : outcome;
  } else {
    if (result === RUN.FAULT && !isTrap(cpu)) return handleFault(cpu);
    endShadow(cpu);
    s[S.RFLAGS_SYS] = s[S.RFLAGS_SYS]! & ~RFLAGS.RF;
  }
  if (trap) cpu.sys.pendingDebug |= DR6.BS;
  return NEXT;
}

/** Whether tier0() reports the single-step trap of an instruction that is complete. */
function isTrap({ fault }: Cpu): boolean {
  return fault.kind === FAULT.EXCEPTION && fault.vector === VECTOR.DB && (fault.qualification & DR6.BS) !== 0;
}

/**
 * What is pending at an instruction boundary, highest priority first. NEXT: nothing, or it was delivered to the guest;
 * else what cpuRun() returns.
 */
function takeEvents(cpu: Cpu): number {
  const { sys, s, vmx } = cpu;
  if (sys.initPending !== 0 && !vmx.vmxon) return takeInit(cpu);
  if (s[S.ACTIVITY] === ACTIVITY.WAIT_SIPI && sys.sipiPending >= 0 && !vmx.nonRoot) {
    throw new UnimplementedError(`CPU ${cpu.id}: startup IPI, real mode is not modelled`);
  }
  if (vmx.nonRoot && vmxPendingWork(cpu)) return RUN.VMEXIT;
  if (debugTrapDue(cpu)) return takeDebugTrap(cpu);
  if (s[S.ACTIVITY]! > ACTIVITY.HLT || (s[S.BLOCKING]! & SHADOW) !== 0) return NEXT;
  if (nmiDue(cpu)) {
    sys.nmiPending = 0;
    return deliver(cpu, INTR_TYPE.NMI_INTR | VECTOR.NMI);
  }
  if ((vmx.pending & VMX_PENDING.VIRTUAL_INTR) !== 0 && (s[S.RFLAGS_SYS]! & RFLAGS.IF) !== 0) {
    return deliver(cpu, INTR_TYPE.EXT_INTR | takeVirtualInterrupt(cpu));
  }
  if ((s[S.RFLAGS_SYS]! & RFLAGS.IF) === 0 || (vmx.pin & PIN_BASED.EXT_INTR_MASK) !== 0) return NEXT;
  if (cpu.apic.highestDeliverable() < 0) return NEXT;
  return deliver(cpu, INTR_TYPE.EXT_INTR | cpu.apic.acknowledge());
}

/** What else is pending, and may be delivered or exit, comes before the handler's first instruction. */
function deliver(cpu: Cpu, info: number): number {
  cpu.s[S.PENDING] = 1;
  return deliverEvent(cpu, info, 0, 0);
}

function takeInit(cpu: Cpu): number {
  initCpu(cpu);
  cpu.s[S.ACTIVITY] = ACTIVITY.WAIT_SIPI;
  return NEXT;
}

function takeDebugTrap(cpu: Cpu): number {
  cpu.fault.qualification = cpu.sys.pendingDebug & (DR6.BS | 0xf);
  cpu.sys.pendingDebug = 0;
  cpu.s[S.PENDING] = 1;
  return raiseException(cpu, VECTOR.DB, 0);
}
