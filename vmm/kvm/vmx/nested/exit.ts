// SPDX-License-Identifier: GPL-2.0-only
/**
 * From L2 to L1: nested_vmx_vmexit(), nested_vmx_restore_host_state(), nested_vmx_triple_fault() and vmx_leave_nested() of
 * arch/x86/kvm/vmx/nested.c, 6.12.
 */
import { KVM_MP_STATE } from '../../../../lib/uapi/vcpu_state.ts';
import { VM_ENTRY } from '../../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { VMXERR } from '../../../../lib/x86/vmx/insn_errors.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { spend } from '../../../machine/cost/ledger.ts';
import { COST } from '../../../machine/cost/points.ts';
import { BugError } from '../../../machine/errors.ts';
import { vmread32, vmread64, vmreadNum } from '../../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmMmuResetContext } from '../../mmu/mmu.ts';
import { KVM_REQ } from '../../request_numbers.ts';
import { kvmClearRequest, kvmMakeRequest } from '../../requests.ts';
import { TP } from '../../trace_events.ts';
import { isGuestMode, leaveGuestMode, markAvail, VCPU_EXREG } from '../../x86/cache_regs.ts';
import { kvmSetDr7 } from '../../x86/dr.ts';
import { kvmCpuHasInjectableIntr } from '../../x86/lapic.ts';
import { kvmServiceLocalTlbFlushRequests } from '../../x86/tlb_requests.ts';
import { exitReasonText } from '../exit_reason_text.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { CR0_GUEST_BITS } from '../vmcs01.ts';
import { vmxSwitchVmcs } from '../vmcs_load.ts';
import { vmxSetCr0, vmxSetCr4, vmxSetEfer } from '../vmx_regs.ts';
import { nestedVmxAbort } from './abort.ts';
import { loadVmcs12HostState } from './load_host_state.ts';
import { nestedEptUninitMmuContext } from './mmu_context.ts';
import { restoreHostMsrs } from './msr_switch.ts';
import { cancelPreemptionTimer } from './preemption_timer.ts';
import { nestedFlushCachedShadowVmcs12 } from './shadow_vmcs12.ts';
import { prepareVmcs12, syncVmcs02ToVmcs12, type NestedExit } from './sync_vmcs12.ts';
import { loadL1Tsc, selectL1Tsc } from './tsc.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { nestedCpuHasPreemptionTimer, nestedEntryHas } from './vmcs12_controls.ts';
import { freeNested, releasePages } from './vmx_operation.ts';
import { nestedVmxFail } from './vmx_results.ts';

/** nested_vmx_vmexit() with the parts of the exit in one object; null: L2 is left without L1 noticing (leave_nested). */
export function nestedVmxVmexit(vcpu: Vcpu, exit: NestedExit | null): void {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  const vmcs12 = nested.cachedVmcs12;
  nested.mtfPending = false;
  if (nested.nestedRunPending) throw new BugError(`${vcpu.name}: an exit to L1 before L2 ran`);
  spend(vmxCpu(vcpu), COST.L0_NESTED_EXIT);
  kvmClearRequest(KVM_REQ.GET_NESTED_STATE_PAGES, vcpu);
  // "Current" in these requests means L2's context.
  kvmServiceLocalTlbFlushRequests(vcpu);
  leaveGuestMode(vcpu);
  selectL1Tsc(vcpu);
  if (nestedCpuHasPreemptionTimer(vmcs12)) cancelPreemptionTimer(vcpu);
  if (vmx.fail === 0) {
    syncVmcs02ToVmcs12(vcpu);
    if (exit !== null && !prepareVmcs12(vcpu, exit)) nestedVmxAbort(vcpu);
    nestedFlushCachedShadowVmcs12(vcpu);
  }
  // Events for L2 are in vmcs12 now, or gone.
  vcpu.arch.nmiInjected = false;
  vcpu.arch.exception.pending = false;
  vcpu.arch.exception.injected = false;
  vcpu.arch.exceptionVmexit.pending = false;
  vcpu.arch.interrupt.injected = false;
  vmxSwitchVmcs(vcpu, vmx.vmcs01);
  loadL1Tsc(vcpu);
  releasePages(vcpu);
  if (exit !== null && vmx.vmcs01.shadowVmcs >= 0) nested.needVmcs12ToShadowSync = true;
  // L2 may have halted.
  vcpu.arch.mpState = KVM_MP_STATE.RUNNABLE;
  if (vmx.fail !== 0) {
    failedByHardware(vcpu);
    return;
  }
  if (exit !== null) traceInject(vcpu, vmcs12);
  loadVmcs12HostState(vcpu);
  reconsiderEvents(vcpu);
}

/**
 * An interrupt or NMI that came while L2 was active, and that L2 blocked, waits for a window of vmcs02's, which L1 never
 * opens: it must be injected, or ask for a window of vmcs01's.
 */
function reconsiderEvents(vcpu: Vcpu): void {
  if (kvmCpuHasInjectableIntr(vcpu) || vcpu.arch.nmiPending !== 0) kvmMakeRequest(KVM_REQ.EVENT, vcpu);
}

function traceInject(vcpu: Vcpu, vmcs12: Vmcs12): void {
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_NESTED_VMEXIT_INJECT] === 0) return;
  trace.record(
    TP.KVM_NESTED_VMEXIT_INJECT,
    exitReasonText(vmcs12.u32(I.VM_EXIT_REASON)),
    vmcs12.u64(I.EXIT_QUALIFICATION),
    vmcs12.u32(I.IDT_VECTORING_INFO_FIELD),
    vmcs12.u32(I.VM_EXIT_INTR_INFO),
    vmcs12.u32(I.VM_EXIT_INTR_ERROR_CODE),
  );
}

/** The hardware refused vmcs02 with VMfail: L1's instruction fails, and L2's state must go from L0's model. */
function failedByHardware(vcpu: Vcpu): void {
  nestedVmxFail(vcpu, VMXERR.ENTRY_INVALID_CONTROL_FIELD);
  nestedVmxRestoreHostState(vcpu);
  toVmx(vcpu).fail = 0;
}

/** nested_vmx_restore_host_state(): L1's state is what vmcs01 has. */
function nestedVmxRestoreHostState(vcpu: Vcpu): void {
  const cpu = vmxCpu(vcpu);
  const vmcs12 = toVmx(vcpu).nested.cachedVmcs12;
  const { arch } = vcpu;
  arch.pat = vmread64(cpu, G.IA32_PAT);
  if (nestedEntryHas(vmcs12, VM_ENTRY.LOAD_DEBUG_CONTROLS)) kvmSetDr7(vcpu, vmread32(cpu, G.DR7));
  vmxSetEfer(vcpu, vmread32(cpu, G.IA32_EFER));
  arch.cr0GuestOwnedBits = CR0_GUEST_BITS;
  vmxSetCr0(vcpu, vmread32(cpu, C.CR0_READ_SHADOW));
  arch.cr4GuestOwnedBits = ~vmread32(cpu, C.CR4_GUEST_HOST_MASK);
  vmxSetCr4(vcpu, vmread32(cpu, C.CR4_READ_SHADOW));
  nestedEptUninitMmuContext(vcpu);
  arch.cr3 = vmreadNum(cpu, G.CR3);
  markAvail(vcpu, VCPU_EXREG.CR3);
  kvmMmuResetContext(vcpu);
  const entry = { address: C.VM_ENTRY_MSR_LOAD_ADDR, count: C.VM_ENTRY_MSR_LOAD_COUNT };
  const exit = { address: C.VM_EXIT_MSR_LOAD_ADDR, count: C.VM_EXIT_MSR_LOAD_COUNT };
  if (!restoreHostMsrs(vcpu, vmcs12, entry, exit)) nestedVmxAbort(vcpu);
}

/** An exit with only a reason. */
export function nestedVmxVmexitSimple(
  vcpu: Vcpu,
  reason: number,
  intrInfo = 0,
  qualLo = 0,
  qualHi = 0,
): void {
  nestedVmxVmexit(vcpu, { reason, intrInfo, qualLo, qualHi });
}

/** nested_vmx_triple_fault(). */
export function nestedVmxTripleFault(vcpu: Vcpu): void {
  kvmClearRequest(KVM_REQ.TRIPLE_FAULT, vcpu);
  // Userspace can bring both about, a pending triple fault and an L2 that is about to run: KVM warns, and exits.
  toVmx(vcpu).nested.nestedRunPending = false;
  nestedVmxVmexitSimple(vcpu, EXIT_REASON.TRIPLE_FAULT);
}

/** vmx_leave_nested(): back to L1, out of VMX operation. */
export function vmxLeaveNested(vcpu: Vcpu): void {
  if (isGuestMode(vcpu)) {
    toVmx(vcpu).nested.nestedRunPending = false;
    nestedVmxVmexit(vcpu, null);
  }
  freeNested(vcpu);
}
