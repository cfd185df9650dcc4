// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMLAUNCH and VMRESUME of L1: nested_vmx_run() and nested_vmx_enter_non_root_mode() of arch/x86/kvm/vmx/nested.c, 6.12.
 * Checks of vmcs12, then vmcs02, then L2's state; what fails after that is unwound.
 */
import { KVM_X86_SHADOW_INT, KVM_MP_STATE } from '../../../../lib/uapi/vcpu_state.ts';
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { CPU_BASED, SECONDARY_EXEC, VM_ENTRY } from '../../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON, VMX_EXIT_REASONS } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { GUEST_ACTIVITY } from '../../../../lib/x86/vmx/guest_state.ts';
import { VMXERR } from '../../../../lib/x86/vmx/insn_errors.ts';
import { INTR_INFO } from '../../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { spend } from '../../../machine/cost/ledger.ts';
import { COST } from '../../../machine/cost/points.ts';
import { vmread32 } from '../../../machine/vmx/vmcs_access.ts';
import type { Steps } from '../../../host/steps.ts';
import type { Vcpu } from '../../kvm_host.ts';
import type { MaybeSteps } from '../../kvm_host_x86.ts';
import { KVM_REQ } from '../../request_numbers.ts';
import { kvmMakeRequest } from '../../requests.ts';
import { TP } from '../../trace_events.ts';
import { enterGuestMode, kvmRipRead, leaveGuestMode } from '../../x86/cache_regs.ts';
import { kvmApicHasPendingInitOrSipi } from '../../x86/mp_state.ts';
import { kvmServiceLocalTlbFlushRequests } from '../../x86/tlb_requests.ts';
import { kvmEmulateHaltNoskip } from '../../x86/mp_state.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { vmxSwitchVmcs } from '../vmcs_load.ts';
import { vmxGetInterruptShadow } from '../vmx_events.ts';
import { nestedVmxCheckControls } from './check_controls.ts';
import { nestedVmxCheckGuestState } from './check_guest.ts';
import { nestedVmxCheckAddressSpaceSize, nestedVmxCheckHostState } from './check_host.ts';
import { cc, ENTRY_FAIL } from './check_util.ts';
import { loadVmcs12HostState } from './load_host_state.ts';
import { nestedEptUninitMmuContext } from './mmu_context.ts';
import { nestedVmxLoadMsr } from './msr_switch.ts';
import { INVALID_VMPTR } from './nested_vmx.ts';
import { nestedGetVmcs12Pages, waitForVmcs12Pages } from './pages.ts';
import { postedInterruptsOnEntry } from './posted_interrupts.ts';
import { calcPreemptionTimerValue, startPreemptionTimer } from './preemption_timer.ts';
import { prepareVmcs02, prepareVmcs02Early } from './prepare_vmcs02.ts';
import { copyShadowToVmcs12 } from './shadow_vmcs.ts';
import { nestedCacheShadowVmcs12 } from './shadow_vmcs12.ts';
import { loadL1Tsc } from './tsc.ts';
import type { Vmcs12 } from './vmcs12.ts';
import {
  nestedCpuHas,
  nestedCpuHas2,
  nestedCpuHasPreemptionTimer,
  nestedEntryHas,
} from './vmcs12_controls.ts';
import { releasePages } from './vmx_operation.ts';
import { nestedVmxCheckPermission, nestedVmxFail, nestedVmxFailInvalid } from './vmx_results.ts';

/** enum nvmx_vmentry_status, and BUSY: a page must be waited for before the instruction can be executed. */
export const NVMX_VMENTRY = { SUCCESS: 0, VMFAIL: 1, VMEXIT: 2, KVM_INTERNAL_ERROR: 3, BUSY: 4 } as const;

/** Who wants L2 to run: L1's instruction, or KVM_SET_NESTED_STATE. */
export type EntrySource = 'vmentry' | 'restore';

/** Handlers of VMLAUNCH and VMRESUME. */
export const handleVmlaunch = (vcpu: Vcpu): MaybeSteps<number> => nestedVmxRun(vcpu, 'launch');
export const handleVmresume = (vcpu: Vcpu): MaybeSteps<number> => nestedVmxRun(vcpu, 'resume');

/** What the checks call the launch state that does not fit. */
const LAUNCH_STATE_RULE = {
  launch: 'launch state of the VMCS for VMLAUNCH',
  resume: 'launch state of the VMCS for VMRESUME',
} as const;

/** The checks that end in VMfailValid: the error's number, 0: passed. In the manual's order. */
function earlyChecks(vcpu: Vcpu, vmcs12: Vmcs12, how: 'launch' | 'resume'): number {
  const shadow = vmxGetInterruptShadow(vcpu);
  if (cc(vcpu, (shadow & KVM_X86_SHADOW_INT.MOV_SS) !== 0, 'events blocked by MOV SS'))
    return VMXERR.ENTRY_EVENTS_BLOCKED_BY_MOV_SS;
  const launched = vmcs12.launchState !== 0;
  if (cc(vcpu, launched === (how === 'launch'), LAUNCH_STATE_RULE[how]))
    return how === 'launch' ? VMXERR.VMLAUNCH_NONCLEAR_VMCS : VMXERR.VMRESUME_NONLAUNCHED_VMCS;
  if (nestedVmxCheckControls(vcpu, vmcs12) !== 0) return VMXERR.ENTRY_INVALID_CONTROL_FIELD;
  const host =
    nestedVmxCheckAddressSpaceSize(vcpu, vmcs12) !== 0 || nestedVmxCheckHostState(vcpu, vmcs12) !== 0;
  return host ? VMXERR.ENTRY_INVALID_HOST_STATE_FIELD : 0;
}

/** nested_vmx_run(). */
function nestedVmxRun(vcpu: Vcpu, how: 'launch' | 'resume'): MaybeSteps<number> {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  const vmcs12 = nested.cachedVmcs12;
  if (!nestedVmxCheckPermission(vcpu)) return 1;
  if (cc(vcpu, nested.currentVmptr === INVALID_VMPTR, 'no current VMCS')) return nestedVmxFailInvalid(vcpu);
  // There is a current VMCS, and yet this is no VMfailValid.
  if (cc(vcpu, vmcs12.revisionId < 0, 'entry of a shadow VMCS')) return nestedVmxFailInvalid(vcpu);
  if (vmx.vmcs01.shadowVmcs >= 0) copyShadowToVmcs12(vcpu);
  spend(vmxCpu(vcpu), COST.L0_NESTED_ENTRY);
  const error = earlyChecks(vcpu, vmcs12, how);
  if (error !== 0) return nestedVmxFail(vcpu, error);
  nested.nestedRunPending = true;
  nested.hasPreemptionTimerDeadline = false;
  const status = nestedVmxEnterNonRootMode(vcpu, 'vmentry');
  if (status === NVMX_VMENTRY.SUCCESS) return entered(vcpu, vmcs12);
  nested.nestedRunPending = false;
  if (status === NVMX_VMENTRY.BUSY) return retryLater(vcpu);
  if (status === NVMX_VMENTRY.KVM_INTERNAL_ERROR) return 0;
  if (status === NVMX_VMENTRY.VMEXIT) return 1;
  return nestedVmxFail(vcpu, VMXERR.ENTRY_INVALID_CONTROL_FIELD);
}

/** Nothing has changed: L1 executes its instruction again when the pages are there. */
function* retryLater(vcpu: Vcpu): Steps<number> {
  yield* waitForVmcs12Pages(vcpu);
  return 1;
}

/** What only an entry by instruction does once L2's state is loaded. */
function entered(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const { nested } = toVmx(vcpu);
  postedInterruptsOnEntry(vcpu);
  nestedCacheShadowVmcs12(vcpu);
  switch (vmcs12.lo(G.ACTIVITY_STATE)) {
    case GUEST_ACTIVITY.HLT: {
      const injects = (vmcs12.lo(C.VM_ENTRY_INTR_INFO_FIELD) & INTR_INFO.VALID_MASK) !== 0;
      const irqWindow =
        nestedCpuHas(vmcs12, CPU_BASED.INTR_WINDOW_EXITING) && (vmcs12.lo(G.RFLAGS) & RFLAGS.IF) !== 0;
      if (injects || nestedCpuHas(vmcs12, CPU_BASED.NMI_WINDOW_EXITING) || irqWindow) return 1;
      nested.nestedRunPending = false;
      return kvmEmulateHaltNoskip(vcpu);
    }
    case GUEST_ACTIVITY.WAIT_SIPI:
      nested.nestedRunPending = false;
      vcpu.arch.mpState = KVM_MP_STATE.INIT_RECEIVED;
      return 1;
    default:
      return 1;
  }
}

function traceVmenter(vcpu: Vcpu, vmcs12: Vmcs12): void {
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_NESTED_VMENTER] === 0) return;
  trace.record(
    TP.KVM_NESTED_VMENTER,
    kvmRipRead(vcpu),
    toVmx(vcpu).nested.currentVmptr,
    vmcs12.u64(G.RIP),
    vmcs12.lo(G.INTR_STATUS),
    vmcs12.u32(C.VM_ENTRY_INTR_INFO_FIELD),
    nestedCpuHas2(vmcs12, SECONDARY_EXEC.ENABLE_EPT) ? 1 : 0,
  );
}

/** Whether something waits that L2's entry may unblock. */
function mustEvaluatePending(vcpu: Vcpu): boolean {
  const windows = CPU_BASED.INTR_WINDOW_EXITING | CPU_BASED.NMI_WINDOW_EXITING;
  return (toVmx(vcpu).vmcs01.controls.exec & windows) !== 0 || kvmApicHasPendingInitOrSipi(vcpu);
}

/** nested_vmx_enter_non_root_mode(): NVMX_VMENTRY.*; vmcs01 is loaded, and on anything but SUCCESS it is again. */
export function nestedVmxEnterNonRootMode(vcpu: Vcpu, from: EntrySource): number {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  const vmcs12 = nested.cachedVmcs12;
  traceVmenter(vcpu, vmcs12);
  kvmServiceLocalTlbFlushRequests(vcpu);
  const evaluate = mustEvaluatePending(vcpu);
  if (!nested.nestedRunPending || !nestedEntryHas(vmcs12, VM_ENTRY.LOAD_DEBUG_CONTROLS))
    nested.preVmenterDebugctl = vmread32(vmxCpu(vcpu), G.IA32_DEBUGCTL);
  vmxSwitchVmcs(vcpu, nested.vmcs02!);
  prepareVmcs02Early(vcpu);
  if (from === 'vmentry') {
    const early = pagesAndGuestState(vcpu, vmcs12);
    if (early !== NVMX_VMENTRY.SUCCESS) return early;
  }
  enterGuestMode(vcpu);
  if (!prepareVmcs02(vcpu)) return failInGuestMode(vcpu, from, EXIT_REASON.INVALID_STATE, ENTRY_FAIL.DEFAULT);
  if (from === 'vmentry') {
    const failed = nestedVmxLoadMsr(
      vcpu,
      vmcs12.num(C.VM_ENTRY_MSR_LOAD_ADDR),
      vmcs12.u32(C.VM_ENTRY_MSR_LOAD_COUNT),
    );
    if (failed !== 0) return failInGuestMode(vcpu, from, EXIT_REASON.MSR_LOAD_FAIL, failed);
  } else kvmMakeRequest(KVM_REQ.GET_NESTED_STATE_PAGES, vcpu);
  if (evaluate) kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  nested.preemptionTimerExpired = false;
  if (nestedCpuHasPreemptionTimer(vmcs12)) startPreemptionTimer(vcpu, calcPreemptionTimerValue(vcpu));
  // Neither VMsucceed nor VMfail: L1 gets its result when L2 exits.
  return NVMX_VMENTRY.SUCCESS;
}

/** With vmcs02 loaded and L1 still active: map the pages, then check L2's state. */
function pagesAndGuestState(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const vmx = toVmx(vcpu);
  const pages = nestedGetVmcs12Pages(vcpu);
  if (pages !== 'ok') {
    releasePages(vcpu);
    vmxSwitchVmcs(vcpu, vmx.vmcs01);
    return pages === 'busy' ? NVMX_VMENTRY.BUSY : NVMX_VMENTRY.KVM_INTERNAL_ERROR;
  }
  const failure = { code: 0 };
  if (nestedVmxCheckGuestState(vcpu, vmcs12, failure) === 0) return NVMX_VMENTRY.SUCCESS;
  return failedVmexit(vcpu, 'vmentry', EXIT_REASON.INVALID_STATE, failure.code);
}

function failInGuestMode(vcpu: Vcpu, from: EntrySource, reason: number, qualification: number): number {
  // Requests that L2's entry made are about L2's context.
  kvmServiceLocalTlbFlushRequests(vcpu);
  leaveGuestMode(vcpu);
  return failedVmexit(vcpu, from, reason, qualification);
}

/** SDM, "VM-Entry Failures During or After Loading Guest State": an exit that leaves most exit information alone. */
function failedVmexit(vcpu: Vcpu, from: EntrySource, reason: number, qualification: number): number {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  releasePages(vcpu);
  vmxSwitchVmcs(vcpu, vmx.vmcs01);
  loadL1Tsc(vcpu);
  if (from === 'restore') {
    // DEVIATION: KVM leaves L2's MMU in place here, and a vCPU that runs after all has lost its way.
    nestedEptUninitMmuContext(vcpu);
    return NVMX_VMENTRY.VMEXIT;
  }
  loadVmcs12HostState(vcpu);
  nested.cachedVmcs12.set32(I.EXIT_QUALIFICATION, qualification);
  nested.cachedVmcs12.set32(I.VM_EXIT_REASON, reason | VMX_EXIT_REASONS.FAILED_VMENTRY);
  if (vmx.vmcs01.shadowVmcs >= 0) nested.needVmcs12ToShadowSync = true;
  return NVMX_VMENTRY.VMEXIT;
}
