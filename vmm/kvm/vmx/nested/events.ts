// SPDX-License-Identifier: GPL-2.0-only
/**
 * Events that wait while L2 is active, in the order of their priority, and which of them L1 gets as an exit:
 * vmx_check_nested_events(), vmx_has_nested_events() and nested_vmx_is_exception_vmexit() of
 * arch/x86/kvm/vmx/nested.c, 6.12. SDM, "Priority Among Concurrent Events". Leaves out SMIs.
 */
import { ERRNO } from '../../../../lib/uapi/errno.ts';
import { KVM_MP_STATE } from '../../../../lib/uapi/vcpu_state.ts';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { CR0, DR6 } from '../../../../lib/x86/registers.ts';
import { EXIT_REASON } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { vmwrite32 } from '../../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../../kvm_host.ts';
import type { KvmQueuedException } from '../../kvm_host_x86.ts';
import { kvmReadCr0 } from '../../x86/cache_regs.ts';
import { kvmEventNeedsReinjection } from '../../x86/events.ts';
import { lapicInKernel, vcpuApic } from '../../x86/lapic.ts';
import { KVM_APIC, pendingApicEvents } from '../../x86/mp_state.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import {
  interruptsMasked,
  vmxGetNmiMask,
  vmxInterruptBlocked,
  vmxNmiBlocked,
  vmxSetNmiMask,
} from '../vmx_events.ts';
import { nestedVmxVmexitSimple } from './exit.ts';
import { completeNestedPostedInterrupt, virtualInterruptPending } from './posted_interrupts.ts';
import { nestedVmxPreemptionTimerPending } from './preemption_timer.ts';
import { nestedExitIntrAckSet, nestedExitOnIntr, nestedExitOnNmi } from './vmcs12_controls.ts';

/** nested_vmx_is_page_fault_vmexit(). SDM, "Exception Bitmap". */
function isPageFaultVmexit(vcpu: Vcpu, errorCode: number): boolean {
  const v = toVmx(vcpu).nested.cachedVmcs12;
  const bit = ((v.lo(C.EXCEPTION_BITMAP) >>> VECTOR.PF) & 1) !== 0;
  const differs =
    (errorCode & v.lo(C.PAGE_FAULT_ERROR_CODE_MASK)) >>> 0 !== v.u32(C.PAGE_FAULT_ERROR_CODE_MATCH);
  return differs !== bit;
}

/** nested_vmx_is_exception_vmexit(): L1 intercepts an exception that L0 raises for L2. */
export function nestedVmxIsExceptionVmexit(vcpu: Vcpu, vector: number, errorCode: number): boolean {
  if (vector === VECTOR.PF) return isPageFaultVmexit(vcpu, errorCode & 0xffff);
  return ((toVmx(vcpu).nested.cachedVmcs12.lo(C.EXCEPTION_BITMAP) >>> vector) & 1) !== 0;
}

function exceptionQualification(vcpu: Vcpu, ex: KvmQueuedException): { lo: number; hi: number } {
  if (ex.hasPayload) return { lo: ex.payloadLo, hi: ex.payloadHi };
  if (ex.vector === VECTOR.PF) return { lo: vcpu.arch.cr2Lo, hi: vcpu.arch.cr2Hi };
  // Bits of DR6 that are active when clear are set here when active.
  if (ex.vector === VECTOR.DB) return { lo: (vcpu.arch.dr6 & ~DR6.BT) ^ DR6.FIXED_1, hi: 0 };
  return { lo: 0, hi: 0 };
}

/** nested_vmx_inject_exception_vmexit(). */
function injectExceptionVmexit(vcpu: Vcpu): void {
  const ex = vcpu.arch.exceptionVmexit;
  const { cachedVmcs12 } = toVmx(vcpu).nested;
  let info = ex.vector | INTR_INFO.VALID_MASK;
  const { lo, hi } = exceptionQualification(vcpu, ex);
  if (ex.hasErrorCode && (kvmReadCr0(vcpu) & CR0.PE) !== 0) {
    cachedVmcs12.set32(I.VM_EXIT_INTR_ERROR_CODE, ex.errorCode & 0xffff);
    info |= INTR_INFO.DELIVER_CODE_MASK;
  }
  const soft = ex.vector === VECTOR.BP || ex.vector === VECTOR.OF;
  info |= soft ? INTR_TYPE.SOFT_EXCEPTION : INTR_TYPE.HARD_EXCEPTION;
  if ((cachedVmcs12.lo(I.IDT_VECTORING_INFO_FIELD) & INTR_INFO.VALID_MASK) === 0 && vmxGetNmiMask(vcpu))
    info |= INTR_INFO.UNBLOCK_NMI;
  nestedVmxVmexitSimple(vcpu, EXIT_REASON.EXCEPTION_NMI, info, lo, hi);
}

/** vmx_get_pending_dbg_trap(): bits of a debug trap that waits; general-detect faults are no traps. */
const pendingDbgTrap = (ex: KvmQueuedException): number =>
  ex.pending && ex.vector === VECTOR.DB ? ex.payloadLo & ~DR6.BD : 0;

/** vmx_is_low_priority_db_trap(): an MTF exit comes before it. */
const isLowPriorityDbTrap = (ex: KvmQueuedException): boolean => (pendingDbgTrap(ex) & ~DR6.BT) !== 0;

/** nested_vmx_update_pending_dbg(): the exit comes before a trap that has happened; L1 learns of it. */
function updatePendingDbg(vcpu: Vcpu): void {
  const pending = pendingDbgTrap(vcpu.arch.exception);
  if (pending !== 0) vmwrite32(vmxCpu(vcpu), G.PENDING_DBG_EXCEPTIONS, pending);
}

/** What a look at one kind of event says: nothing of it, an exit was made, it must wait, L2 itself gets it. */
type Verdict = 'none' | 'exit' | 'busy' | 'no exit';

/** INIT makes L2 exit; a SIPI does so only in the wait-for-SIPI state. */
function initAndSipi(vcpu: Vcpu, blocked: boolean): Verdict {
  const events = pendingApicEvents(vcpu);
  if (events === null || events.pendingEvents === 0) return 'none';
  if (blocked) return 'busy';
  const waits = vcpu.arch.mpState === KVM_MP_STATE.INIT_RECEIVED;
  if ((events.pendingEvents & KVM_APIC.INIT) !== 0) {
    updatePendingDbg(vcpu);
    events.pendingEvents &= ~KVM_APIC.INIT;
    if (!waits) nestedVmxVmexitSimple(vcpu, EXIT_REASON.INIT_SIGNAL);
    toVmx(vcpu).nested.mtfPending = false;
    return 'exit';
  }
  events.pendingEvents &= ~KVM_APIC.SIPI;
  if (!waits) return 'none';
  nestedVmxVmexitSimple(vcpu, EXIT_REASON.SIPI_SIGNAL, 0, vcpu.arch.sipiVector & 0xff);
  return 'exit';
}

/** Exceptions above MTF (`faults`) or below it. */
function exceptions(vcpu: Vcpu, which: 'above MTF' | 'below MTF', blocked: boolean): Verdict {
  const { exception, exceptionVmexit } = vcpu.arch;
  const due = (ex: KvmQueuedException): boolean =>
    ex.pending && (which === 'below MTF' || !isLowPriorityDbTrap(ex));
  if (due(exceptionVmexit)) {
    if (blocked) return 'busy';
    injectExceptionVmexit(vcpu);
    return 'exit';
  }
  if (!due(exception)) return 'none';
  return blocked ? 'busy' : 'no exit';
}

function monitorTrap(vcpu: Vcpu, blocked: boolean): Verdict {
  if (!toVmx(vcpu).nested.mtfPending) return 'none';
  if (blocked) return 'busy';
  updatePendingDbg(vcpu);
  nestedVmxVmexitSimple(vcpu, EXIT_REASON.MONITOR_TRAP_FLAG);
  return 'exit';
}

function preemptionTimer(vcpu: Vcpu, blocked: boolean): Verdict {
  if (!nestedVmxPreemptionTimerPending(vcpu)) return 'none';
  if (blocked) return 'busy';
  nestedVmxVmexitSimple(vcpu, EXIT_REASON.PREEMPTION_TIMER);
  return 'exit';
}

function nmi(vcpu: Vcpu, blocked: boolean): Verdict {
  const { arch } = vcpu;
  if (arch.nmiPending === 0 || vmxNmiBlocked(vcpu)) return 'none';
  if (blocked) return 'busy';
  if (!nestedExitOnNmi(toVmx(vcpu).nested.cachedVmcs12)) return 'no exit';
  nestedVmxVmexitSimple(
    vcpu,
    EXIT_REASON.EXCEPTION_NMI,
    VECTOR.NMI | INTR_TYPE.NMI_INTR | INTR_INFO.VALID_MASK,
  );
  // The exit counts as the NMI's delivery: it blocks further ones.
  arch.nmiPending = 0;
  vmxSetNmiMask(vcpu, true);
  return 'exit';
}

function interrupt(vcpu: Vcpu, blocked: boolean): Verdict {
  if (!lapicInKernel(vcpu)) return 'none';
  const { apic } = vcpuApic(vcpu);
  const vector = apic.highestDeliverable();
  if (vector < 0 || vmxInterruptBlocked(vcpu)) return 'none';
  if (blocked) return 'busy';
  const { nested } = toVmx(vcpu);
  const vmcs12 = nested.cachedVmcs12;
  if (!nestedExitOnIntr(vmcs12)) return 'no exit';
  if (!nestedExitIntrAckSet(vmcs12)) {
    nestedVmxVmexitSimple(vcpu, EXIT_REASON.EXTERNAL_INTERRUPT);
    return 'exit';
  }
  if (vector === nested.postedIntrNv) {
    nested.piPending = true;
    apic.vectors.cancel(vector);
    return 'no exit';
  }
  nestedVmxVmexitSimple(
    vcpu,
    EXIT_REASON.EXTERNAL_INTERRUPT,
    INTR_INFO.VALID_MASK | INTR_TYPE.EXT_INTR | vector,
  );
  apic.acknowledge();
  return 'exit';
}

/** vmx_check_nested_events(): 0, -EBUSY: an event waits until L2 has run or an instruction is complete, -ENXIO: KVM_RUN ends. */
export function vmxCheckNestedEvents(vcpu: Vcpu): number {
  const { nested } = toVmx(vcpu);
  const blockExceptions = nested.nestedRunPending;
  // New events are recognized at instruction boundaries, and an event that must be injected again is in the middle of one.
  const blockEvents = blockExceptions || kvmEventNeedsReinjection(vcpu);
  const verdict = firstVerdict([
    () => initAndSipi(vcpu, blockEvents),
    () => exceptions(vcpu, 'above MTF', blockExceptions),
    () => monitorTrap(vcpu, blockEvents),
    () => exceptions(vcpu, 'below MTF', blockExceptions),
    () => preemptionTimer(vcpu, blockEvents),
    () => nmi(vcpu, blockEvents),
    () => interrupt(vcpu, blockEvents),
  ]);
  if (verdict === 'busy') return -ERRNO.EBUSY;
  if (verdict === 'exit') return 0;
  return completeNestedPostedInterrupt(vcpu) ? 0 : -ERRNO.ENXIO;
}

function firstVerdict(looks: readonly (() => Verdict)[]): Verdict {
  for (const look of looks) {
    const verdict = look();
    if (verdict !== 'none') return verdict;
  }
  return 'none';
}

/** vmx_has_nested_events(): for injection, virtual interrupts need no injection, the processor delivers them. */
export function vmxHasNestedEvents(vcpu: Vcpu, what: 'query' | 'injection'): boolean {
  const { nested } = toVmx(vcpu);
  if (nestedVmxPreemptionTimerPending(vcpu) || nested.mtfPending) return true;
  return what === 'query' && !interruptsMasked(vcpu) && virtualInterruptPending(vcpu, nested);
}
