// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM exits at instruction boundaries. SDM, "Other Causes of VM Exits", "Monitor Trap Flag", "VMX-Preemption Timer" and
 * "Priority Among Concurrent Events": the traps of APIC virtualization, INIT and MTF come before debug traps, the timer and
 * windows after. What a higher exit supersedes is dropped, but for INIT.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED, VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { ACTIVITY, BLOCKING, RUN, S } from '../cpu/state.ts';
import { emulateApicWrite } from './apic_access.ts';
import { vmxEventExit, vmxExit } from './exit.ts';
import { processPostedInterrupts } from './virtual_interrupts.ts';
import { VMX_PENDING } from './vmx_unit.ts';
import * as W from './words.ts';

const WINDOWS = CPU_BASED.NMI_WINDOW_EXITING | CPU_BASED.INTR_WINDOW_EXITING;

/**
 * In non-root operation at an instruction boundary, before events are delivered. True: a VM exit has been done. What is
 * pending and does not exit is left to be delivered.
 */
export function vmxPendingWork(cpu: Cpu): boolean {
  if (!cpu.vmx.nonRoot || isQuiet(cpu)) return false;
  if ((cpu.vmx.pending & VMX_PENDING.APIC_EMULATION) !== 0) emulateApicWrite(cpu);
  return (
    trapLikeExit(cpu) ||
    (!debugTrapDue(cpu) && (timerExit(cpu) || nmiExit(cpu) || (!nmiDue(cpu) && interruptExit(cpu))))
  );
}

/** The common case: no timer is due, no control that opens a window, and nothing but an interrupt can be pending. */
function isQuiet(cpu: Cpu): boolean {
  const { vmx, sys, clock } = cpu;
  if ((vmx.pending | sys.initPending | sys.nmiPending | (vmx.cpuBased & WINDOWS)) !== 0) return false;
  if (clock[0]! >= vmx.timerDeadline || clock[0]! > vmx.mtfAfter) return false;
  return (vmx.pin & PIN_BASED.EXT_INTR_MASK) === 0 || cpu.apic.highestDeliverable() < 0;
}

/** Cycle at which the guest must be stopped to look: the preemption timer, or one instruction with the trap flag. */
export function vmxNextDeadline(cpu: Cpu): number {
  const activity = cpu.s[S.ACTIVITY]!;
  if (activity > ACTIVITY.HLT) return activity === ACTIVITY.WAIT_SIPI ? Infinity : cpu.vmx.timerDeadline;
  return Math.min(cpu.vmx.timerDeadline, cpu.vmx.mtfAfter + 1);
}

function trapLikeExit(cpu: Cpu): boolean {
  const { vmx, sys } = cpu;
  const active = cpu.s[S.ACTIVITY]! <= ACTIVITY.HLT;
  if (active && apicTrapExit(cpu)) return true;
  if (sys.initPending !== 0) {
    sys.initPending = 0;
    return vmxExit(cpu, EXIT_REASON.INIT_SIGNAL) === RUN.VMEXIT;
  }
  const mtf = (vmx.pending & VMX_PENDING.MTF) !== 0 || cpu.clock[0]! > vmx.mtfAfter;
  return active && mtf && vmxExit(cpu, EXIT_REASON.MONITOR_TRAP_FLAG) === RUN.VMEXIT;
}

/** The trap-like exits of APIC virtualization. */
function apicTrapExit(cpu: Cpu): boolean {
  const { pending, trapQualification } = cpu.vmx;
  if ((pending & VMX_PENDING.TPR) !== 0) return vmxExit(cpu, EXIT_REASON.TPR_BELOW_THRESHOLD) === RUN.VMEXIT;
  if ((pending & VMX_PENDING.EOI) !== 0)
    return vmxExit(cpu, EXIT_REASON.EOI_INDUCED, trapQualification) === RUN.VMEXIT;
  if ((pending & VMX_PENDING.APIC_WRITE) === 0) return false;
  return vmxExit(cpu, EXIT_REASON.APIC_WRITE, trapQualification) === RUN.VMEXIT;
}

/** A debug trap is next; MOV SS holds it back, and nothing is delivered in shutdown. */
export function debugTrapDue(cpu: Cpu): boolean {
  return (
    cpu.sys.pendingDebug !== 0 &&
    (cpu.s[S.BLOCKING]! & BLOCKING.MOV_SS) === 0 &&
    cpu.s[S.ACTIVITY]! <= ACTIVITY.HLT
  );
}

function timerExit(cpu: Cpu): boolean {
  if (cpu.clock[0]! < cpu.vmx.timerDeadline || cpu.s[S.ACTIVITY] === ACTIVITY.WAIT_SIPI) return false;
  return vmxExit(cpu, EXIT_REASON.PREEMPTION_TIMER) === RUN.VMEXIT;
}

function nmiExit(cpu: Cpu): boolean {
  const { vmx, sys, s } = cpu;
  const blocking = s[S.BLOCKING]!;
  if ((blocking & BLOCKING.MOV_SS) !== 0 || s[S.ACTIVITY] === ACTIVITY.WAIT_SIPI) return false;
  if ((vmx.cpuBased & CPU_BASED.NMI_WINDOW_EXITING) !== 0 && (blocking & BLOCKING.NMI) === 0) {
    return vmxExit(cpu, EXIT_REASON.NMI_WINDOW) === RUN.VMEXIT;
  }
  if (sys.nmiPending === 0 || (vmx.pin & PIN_BASED.NMI_EXITING) === 0) return false;
  // Blocking of virtual NMIs does not block the processor's.
  if ((vmx.pin & PIN_BASED.VIRTUAL_NMIS) === 0 && (blocking & BLOCKING.NMI) !== 0) return false;
  sys.nmiPending = 0;
  return vmxEventExit(cpu, EXIT_REASON.EXCEPTION_NMI, INTR_TYPE.NMI_INTR | VECTOR.NMI, 0) === RUN.VMEXIT;
}

/** An NMI that does not exit goes to the guest before anything that has to do with interrupts. */
export function nmiDue(cpu: Cpu): boolean {
  const { vmx, sys, s } = cpu;
  const blocking = BLOCKING.NMI | BLOCKING.STI | BLOCKING.MOV_SS;
  return (
    sys.nmiPending !== 0 &&
    (vmx.pin & PIN_BASED.NMI_EXITING) === 0 &&
    (s[S.BLOCKING]! & blocking) === 0 &&
    s[S.ACTIVITY]! <= ACTIVITY.HLT
  );
}

function interruptExit(cpu: Cpu): boolean {
  const { vmx, s, apic } = cpu;
  if (s[S.ACTIVITY]! > ACTIVITY.HLT) return false;
  const shadow = (s[S.BLOCKING]! & (BLOCKING.STI | BLOCKING.MOV_SS)) !== 0;
  const blocked = shadow || (s[S.RFLAGS_SYS]! & RFLAGS.IF) === 0;
  if (!blocked && (vmx.cpuBased & CPU_BASED.INTR_WINDOW_EXITING) !== 0) {
    return vmxExit(cpu, EXIT_REASON.INTERRUPT_WINDOW) === RUN.VMEXIT;
  }
  // A virtual interrupt has the priority of the window: it is delivered before an external interrupt exits.
  if (!blocked && (vmx.pending & VMX_PENDING.VIRTUAL_INTR) !== 0) return false;
  // SDM, "Event Blocking": RFLAGS.IF does not matter to an interrupt that exits, other reasons do.
  if (shadow || (vmx.pin & PIN_BASED.EXT_INTR_MASK) === 0 || apic.highestDeliverable() < 0) return false;
  if ((cpu.mem.i32[vmx.base + W.EXIT_CONTROLS]! & VM_EXIT.ACK_INTR_ON_EXIT) === 0) {
    return vmxExit(cpu, EXIT_REASON.EXTERNAL_INTERRUPT) === RUN.VMEXIT;
  }
  const vector = apic.acknowledge();
  if (processPostedInterrupts(cpu, vector)) return interruptExit(cpu);
  return vmxEventExit(cpu, EXIT_REASON.EXTERNAL_INTERRUPT, INTR_TYPE.EXT_INTR | vector, 0) === RUN.VMEXIT;
}
