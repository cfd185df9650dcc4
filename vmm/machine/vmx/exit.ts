// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM exits. SDM, "VM Exits": recording the reason, saving guest state, loading host state. Fields that hold for one
 * reason only (instruction length and information, addresses) are written by whoever causes the exit, before.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { EXIT_REASON, VMX_EXIT_REASONS } from '../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { spend } from '../cost/ledger.ts';
import { COST } from '../cost/points.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { BLOCKING, RUN, S } from '../cpu/state.ts';
import { BugError, SanitizerError } from '../errors.ts';
import { addressIn } from './check_util.ts';
import { loadHostState } from './load_host.ts';
import { loadMsrArea, storeMsrArea } from './msr_areas.ts';
import { saveGuestState } from './save_guest.ts';
import { VMCS_WORD } from './vmcs_layout.ts';
import * as W from './words.ts';

/** VMX-abort indicators. SDM, "VMX Aborts". */
const VMX_ABORT = { SAVE_MSR: 1, LOAD_HOST_MSR: 4 } as const;
const IDT_VECTORING_BITS =
  INTR_INFO.VALID_MASK | INTR_INFO.DELIVER_CODE_MASK | INTR_INFO.TYPE_MASK | INTR_INFO.VECTOR_MASK;
const EXIT_DF = INTR_TYPE.HARD_EXCEPTION | VECTOR.DF;

/**
 * Perform a VM exit whose VM-exit interruption information is not valid; always RUN.VMEXIT. Costs VM_EXIT. RIP must be
 * what is to be saved: the instruction that exits, or the next one of a trap-like exit.
 */
export function vmxExit(cpu: Cpu, reason: number, qualLo = 0, qualHi = 0): number {
  cpu.mem.i32[cpu.vmx.base + W.EXIT_INTR_INFO] = 0;
  return finishExit(cpu, reason, qualLo, qualHi);
}

/** VM exit due to a vectored event: `info` is the VM-exit interruption information without the valid bit. */
export function vmxEventExit(
  cpu: Cpu,
  reason: number,
  info: number,
  errorCode: number,
  qualLo = 0,
  qualHi = 0,
): number {
  const {
    mem: { i32 },
    vmx: { base },
  } = cpu;
  i32[base + W.EXIT_INTR_INFO] = info | INTR_INFO.VALID_MASK;
  i32[base + W.EXIT_INTR_ERROR_CODE] = errorCode;
  return finishExit(cpu, reason, qualLo, qualHi);
}

function finishExit(cpu: Cpu, reason: number, qualLo: number, qualHi: number): number {
  const {
    mem: { i32 },
    vmx,
  } = cpu;
  if (!vmx.nonRoot) throw new BugError(`VM exit ${reason} outside of VMX non-root operation`);
  const { base } = vmx;
  i32[base + W.EXIT_REASON] = reason;
  i32[base + W.EXIT_QUALIFICATION] = qualLo;
  i32[base + W.EXIT_QUALIFICATION + 1] = qualHi;
  recordIdtVectoring(cpu, reason);
  i32[base + W.ENTRY_INTR_INFO] = i32[base + W.ENTRY_INTR_INFO]! & ~INTR_INFO.VALID_MASK;
  saveGuestState(cpu);
  if (i32[base + W.EXIT_MSR_STORE_COUNT] !== 0) storeMsrs(cpu);
  leaveGuest(cpu);
  if (
    reason === EXIT_REASON.EXCEPTION_NMI &&
    (i32[base + W.EXIT_INTR_INFO]! & INTR_INFO.TYPE_MASK) === INTR_TYPE.NMI_INTR
  ) {
    cpu.s[S.BLOCKING] = cpu.s[S.BLOCKING]! | BLOCKING.NMI;
  }
  spend(cpu, COST.VM_EXIT);
  return RUN.VMEXIT;
}

/** The event whose delivery the exit interrupts. SDM, "Information for VM Exits That Occur During Event Delivery". */
function recordIdtVectoring(cpu: Cpu, reason: number): void {
  const {
    sys,
    mem: { i32 },
    vmx: { base },
  } = cpu;
  const info = sys.idtVectoring;
  sys.idtVectoring = 0;
  sys.iretUnblockedNmi = 0;
  if (info >= 0 || reason === EXIT_REASON.TRIPLE_FAULT || isDoubleFaultExit(i32, base, reason)) {
    i32[base + W.IDT_VECTORING_INFO] = 0;
    return;
  }
  i32[base + W.IDT_VECTORING_INFO] = info & IDT_VECTORING_BITS;
  i32[base + W.IDT_VECTORING_ERROR_CODE] = sys.idtVectoringError;
  const type = info & INTR_INFO.TYPE_MASK;
  if (type >= INTR_TYPE.SOFT_INTR && type <= INTR_TYPE.SOFT_EXCEPTION)
    i32[base + W.EXIT_INSN_LEN] = sys.idtVectoringLength;
}

function isDoubleFaultExit(i32: Int32Array, base: number, reason: number): boolean {
  const info = i32[base + W.EXIT_INTR_INFO]! & (INTR_INFO.TYPE_MASK | INTR_INFO.VECTOR_MASK);
  return reason === EXIT_REASON.EXCEPTION_NMI && info === EXIT_DF;
}

/** The TSC is the processor's again. */
function stopTsc({ sys }: Cpu): void {
  sys.vmxTscOffset[0] = 0;
  sys.vmxTscOffset[1] = 0;
  sys.vmxTscMultiplier[0] = 0;
  sys.vmxTscMultiplier[1] = 0;
}

/** The TSC goes into the list without the guest's offset: L0 relies on that, see nested_vmx_get_vmexit_msr_value(). */
function storeMsrs(cpu: Cpu): void {
  const {
    mem: { i32 },
    vmx: { base },
  } = cpu;
  stopTsc(cpu);
  const failed = storeMsrArea(
    cpu,
    addressIn(cpu, W.EXIT_MSR_STORE_ADDR) / 4,
    i32[base + W.EXIT_MSR_STORE_COUNT]! >>> 0,
  );
  if (failed !== 0) abort(cpu, VMX_ABORT.SAVE_MSR, `VM-exit MSR-store area, entry ${failed}`);
}

/** To VMX root operation: host state, host MSRs, nothing of the guest in force any more. */
export function leaveGuest(cpu: Cpu): void {
  const {
    mem: { i32 },
    vmx,
  } = cpu;
  const { base } = vmx;
  loadHostState(cpu);
  vmx.nonRoot = false;
  vmx.pin = 0;
  vmx.cpuBased = 0;
  vmx.secondary = 0;
  vmx.timerDeadline = Infinity;
  vmx.mtfAfter = Infinity;
  vmx.pending = 0;
  cpu.mmu.apicAccessPage = -1;
  stopTsc(cpu);
  cpu.s[S.PENDING] = 1;
  const count = i32[base + W.EXIT_MSR_LOAD_COUNT]! >>> 0;
  if (count === 0) return;
  const failed = loadMsrArea(cpu, addressIn(cpu, W.EXIT_MSR_LOAD_ADDR) / 4, count);
  if (failed !== 0) abort(cpu, VMX_ABORT.LOAD_HOST_MSR, `VM-exit MSR-load area, entry ${failed}`);
}

/**
 * Only a hypervisor's bug leads here. The indicator is written to the VMCS as by the processor.
 * DEVIATION: the run ends with an error instead of the CPU's shutdown.
 */
function abort(cpu: Cpu, indicator: number, what: string): never {
  cpu.mem.i32[cpu.vmx.base + VMCS_WORD.ABORT] = indicator;
  throw new SanitizerError(`CPU ${cpu.id}: VMX abort ${indicator}: ${what}`);
}

/** Host state after a VM entry that failed while or after loading guest state: nothing of the guest is saved. */
export function failEntry(cpu: Cpu, reason: number, qualification: number): void {
  const {
    mem: { i32 },
    vmx,
  } = cpu;
  i32[vmx.base + W.EXIT_REASON] = reason | VMX_EXIT_REASONS.FAILED_VMENTRY;
  i32[vmx.base + W.EXIT_QUALIFICATION] = qualification;
  i32[vmx.base + W.EXIT_QUALIFICATION + 1] = 0;
  leaveGuest(cpu);
  spend(cpu, COST.VM_EXIT);
}
