// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM entries: VMLAUNCH and VMRESUME after their UD, GP and non-root checks. SDM, "VM Entries". Checks whose fields were
 * not written since they passed are not repeated; what the outcome is does not depend on that.
 */
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { ENTRY_FAIL, EXIT_REASON } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMXERR } from '../../../lib/x86/vmx/insn_errors.ts';
import { spend } from '../cost/ledger.ts';
import { COST } from '../cost/points.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { BLOCKING, S } from '../cpu/state.ts';
import { SanitizerError } from '../errors.ts';
import { dropFastFrame } from '../mmu/fast.ts';
import { checkControls, checkInjection, checkTprThreshold, secondaryControls } from './check_controls.ts';
import { checkGuestRegisters, checkLinkPointer, checkSupportedMode } from './check_guest.ts';
import { checkGuestActivity } from './check_guest_activity.ts';
import { checkGuestSegments } from './check_guest_segments.ts';
import { checkHostState } from './check_host.ts';
import { addressIn, type Broken } from './check_util.ts';
import { failEntry } from './exit.ts';
import { prepareHostSegments } from './host_segments.ts';
import { injectEvent } from './inject.ts';
import { loadGuestState } from './load_guest.ts';
import { loadMsrArea } from './msr_areas.ts';
import { startTimer } from './preemption_timer.ts';
import { evaluateVirtualInterrupts, pprVirtualization, tprVirtualization } from './virtual_interrupts.ts';
import { activateVmcs, isShadowVmcs, linkedVmcs } from './vmcs_active.ts';
import { checkVmcsFrames } from './vmcs_frames.ts';
import { VMCS_STATE, VMCS_WORD } from './vmcs_layout.ts';
import { vmFail } from './vmx_result.ts';
import { VMX_RESULT } from './vmx_unit.ts';
import * as W from './words.ts';

/** VMLAUNCH: VMX_RESULT. On SUCCEED the guest's state is loaded; run it with cpuRun(). */
export function vmlaunch(cpu: Cpu): number {
  return vmEntry(cpu, 0);
}

/** VMRESUME: VMX_RESULT. */
export function vmresume(cpu: Cpu): number {
  return vmEntry(cpu, VMCS_STATE.LAUNCHED);
}

function vmEntry(cpu: Cpu, wanted: number): number {
  const {
    vmx,
    mem: { i32 },
  } = cpu;
  if (!vmx.vmxon || vmx.nonRoot)
    throw new SanitizerError(`CPU ${cpu.id}: VM entry outside of VMX root operation`);
  if (vmx.currentVmcs === -1 || isShadowVmcs(cpu, vmx.base)) return VMX_RESULT.FAIL_INVALID;
  if ((cpu.s[S.BLOCKING]! & BLOCKING.MOV_SS) !== 0) return vmFail(cpu, VMXERR.ENTRY_EVENTS_BLOCKED_BY_MOV_SS);
  const { base } = vmx;
  const state = i32[base + VMCS_WORD.STATE]!;
  if ((state & VMCS_STATE.LAUNCHED) !== wanted) {
    return vmFail(cpu, wanted === 0 ? VMXERR.VMLAUNCH_NONCLEAR_VMCS : VMXERR.VMRESUME_NONLAUNCHED_VMCS);
  }
  spend(cpu, COST.VM_ENTRY);
  const controls = (state & VMCS_STATE.CTRL_OK) !== 0 ? null : checkControls(cpu);
  const broken =
    controls ?? checkTprThreshold(cpu) ?? (i32[base + W.ENTRY_INTR_INFO]! < 0 ? checkInjection(cpu) : null);
  if (broken !== null) return refuse(cpu, VMXERR.ENTRY_INVALID_CONTROL_FIELD, broken);
  if ((state & VMCS_STATE.HOST_OK) === 0) {
    const host = checkHostState(cpu);
    if (host !== null) return refuse(cpu, VMXERR.ENTRY_INVALID_HOST_STATE_FIELD, host);
    prepareHostSegments(cpu);
  }
  i32[base + VMCS_WORD.STATE] = state | VMCS_STATE.CTRL_OK | VMCS_STATE.HOST_OK;
  const secondary = secondaryControls(cpu);
  checkVmcsFrames(cpu, secondary);
  return enterGuest(cpu, secondary);
}

function refuse(cpu: Cpu, error: number, rule: string): number {
  cpu.vmx.failedCheck = rule;
  return vmFail(cpu, error);
}

/** From the checks on guest state to the guest's first instruction. */
function enterGuest(cpu: Cpu, secondary: number): number {
  const {
    vmx,
    mem: { i32 },
  } = cpu;
  const { base } = vmx;
  const state = base + VMCS_WORD.STATE;
  if ((i32[state]! & VMCS_STATE.GUEST_OK) === 0) {
    const broken: Broken = checkGuestRegisters(cpu) ?? checkGuestSegments(cpu);
    if (broken !== null) return fail(cpu, EXIT_REASON.INVALID_STATE, ENTRY_FAIL.DEFAULT, broken);
  }
  const activity = checkGuestActivity(cpu);
  if (activity !== null) return fail(cpu, EXIT_REASON.INVALID_STATE, ENTRY_FAIL.DEFAULT, activity);
  const link = checkLinkPointer(cpu);
  if (link !== null) return fail(cpu, EXIT_REASON.INVALID_STATE, ENTRY_FAIL.VMCS_LINK_PTR, link);
  if ((i32[state]! & VMCS_STATE.GUEST_OK) === 0) {
    const mode = checkSupportedMode(cpu);
    if (mode !== null) return fail(cpu, EXIT_REASON.INVALID_STATE, ENTRY_FAIL.DEFAULT, mode);
    i32[state] = i32[state]! | VMCS_STATE.GUEST_OK;
  }
  loadGuestState(cpu, secondary);
  const failed = loadEntryMsrs(cpu);
  if (failed !== 0)
    return fail(cpu, EXIT_REASON.MSR_LOAD_FAIL, failed, `VM-entry MSR-load area: entry ${failed}`);
  i32[state] = i32[state]! | VMCS_STATE.LAUNCHED;
  return startGuest(cpu, secondary);
}

function fail(cpu: Cpu, reason: number, qualification: number, rule: string): number {
  cpu.vmx.failedCheck = rule;
  failEntry(cpu, reason, qualification);
  return VMX_RESULT.EXITED;
}

function loadEntryMsrs(cpu: Cpu): number {
  const {
    mem: { i32 },
    vmx: { base },
  } = cpu;
  const count = i32[base + W.ENTRY_MSR_LOAD_COUNT]! >>> 0;
  return count === 0 ? 0 : loadMsrArea(cpu, addressIn(cpu, W.ENTRY_MSR_LOAD_ADDR) / 4, count);
}

/** SDM, "Overview" of "Virtual Machine Control Structures": VM entry makes the shadow VMCS active, not current. */
function activateLinked(cpu: Cpu): void {
  const base = linkedVmcs(cpu);
  if (base !== -1) activateVmcs(cpu, base, 'use as shadow');
}

/** Virtual interrupts that are pending, and the exit that a TPR threshold causes at once. */
function startApicVirtualization(cpu: Cpu, secondary: number): void {
  const { vmx, mmu } = cpu;
  const { VIRTUAL_INTR_DELIVERY, VIRTUALIZE_APIC_ACCESSES } = SECONDARY_EXEC;
  if ((secondary & VIRTUALIZE_APIC_ACCESSES) !== 0) {
    mmu.apicAccessPage = addressIn(cpu, W.APIC_ACCESS);
    if (mmu.apicAccessPage < cpu.mem.size) dropFastFrame(cpu, mmu.apicAccessPage / 4096);
  }
  if ((secondary & VIRTUAL_INTR_DELIVERY) !== 0) {
    pprVirtualization(cpu);
    evaluateVirtualInterrupts(cpu);
  } else if (mmu.apicAccessPage !== -1 && (vmx.cpuBased & CPU_BASED.TPR_SHADOW) !== 0) tprVirtualization(cpu);
}

/** The controls take force; event injection. */
function startGuest(cpu: Cpu, secondary: number): number {
  const {
    vmx,
    mem: { i32 },
  } = cpu;
  const { base } = vmx;
  vmx.nonRoot = true;
  vmx.pin = i32[base + W.PIN]!;
  vmx.cpuBased = i32[base + W.CPU_BASED]!;
  vmx.secondary = secondary;
  vmx.pending = 0;
  if ((secondary & SECONDARY_EXEC.SHADOW_VMCS) !== 0) activateLinked(cpu);
  if ((secondary & SECONDARY_EXEC.PAUSE_LOOP_EXITING) !== 0) vmx.lastPause = -Infinity;
  if ((vmx.cpuBased & CPU_BASED.USE_TSC_OFFSETTING) !== 0) startTsc(cpu, secondary);
  if ((vmx.pin & PIN_BASED.VMX_PREEMPTION_TIMER) !== 0) startTimer(cpu, i32[base + W.GUEST_TIMER]!);
  if ((vmx.cpuBased & CPU_BASED.MONITOR_TRAP_FLAG) !== 0) vmx.mtfAfter = cpu.clock[0]!;
  startApicVirtualization(cpu, secondary);
  cpu.s[S.PENDING] = 1;
  return i32[base + W.ENTRY_INTR_INFO]! < 0
    ? injectEvent(cpu, i32[base + W.ENTRY_INTR_INFO]!)
    : VMX_RESULT.SUCCEED;
}

/** What the guest reads for the TSC. The multiplier has no effect without the offset. */
function startTsc(cpu: Cpu, secondary: number): void {
  const {
    sys,
    vmx: { base },
    mem: { i32 },
  } = cpu;
  sys.vmxTscOffset[0] = i32[base + W.TSC_OFFSET]!;
  sys.vmxTscOffset[1] = i32[base + W.TSC_OFFSET + 1]!;
  if ((secondary & SECONDARY_EXEC.TSC_SCALING) === 0) return;
  sys.vmxTscMultiplier[0] = i32[base + W.TSC_MULTIPLIER]!;
  sys.vmxTscMultiplier[1] = i32[base + W.TSC_MULTIPLIER + 1]!;
}
