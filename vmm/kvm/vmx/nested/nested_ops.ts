// SPDX-License-Identifier: GPL-2.0-only
/** vmx_nested_ops and the exit handlers of VMX instructions: the ways into nested VMX. Mirrors arch/x86/kvm/vmx/nested.c, 6.12. */
import { KVM_NESTED_STATE_MAX_SIZE } from '../../../../lib/uapi/nested_state.ts';
import { EXIT_REASON } from '../../../../lib/x86/vmx/exit_reasons.ts';
import type { Vcpu } from '../../kvm_host.ts';
import type { KvmX86NestedOps, MaybeSteps } from '../../kvm_host_x86.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { vmxVcpuLoad } from '../vmcs_load.ts';
import { handleVmlaunch, handleVmresume } from './enter.ts';
import { nestedEptInjectPageFault, nestedVmxWritePmlBuffer } from './ept_fault.ts';
import { nestedVmxIsExceptionVmexit, vmxCheckNestedEvents, vmxHasNestedEvents } from './events.ts';
import { nestedVmxTripleFault, vmxLeaveNested } from './exit.ts';
import { handleVmclear, handleVmptrld, handleVmptrst, handleVmxoff, handleVmxon } from './instructions.ts';
import { vmxCheckIntercept } from './check_intercept.ts';
import { handleInvept, handleInvvpid } from './invalidate.ts';
import { nestedEptGetEptp } from './mmu_context.ts';
import { settleExitPages } from './pages.ts';
import { vmxGetNestedState, vmxGetNestedStatePages, vmxSetNestedState } from './state.ts';
import { handleVmread, handleVmwrite } from './vmcs_access_insns.ts';
import { handleVmfunc } from './vmfunc.ts';

/** struct kvm_x86_nested_ops of VMX. */
export const vmxNestedOps: KvmX86NestedOps = {
  leaveNested: vmxLeaveNested,
  isExceptionVmexit: nestedVmxIsExceptionVmexit,
  checkEvents: vmxCheckNestedEvents,
  hasEvents: vmxHasNestedEvents,
  tripleFault: nestedVmxTripleFault,
  checkIntercept: vmxCheckIntercept,
  getNestedStatePages: vmxGetNestedStatePages,
  settleExitPages: (vcpu) => settleExitPages(vcpu),
  maxStateSize: KVM_NESTED_STATE_MAX_SIZE,
  getState: vmxGetNestedState,
  setState: vmxSetNestedState,
  writeLogDirty: nestedVmxWritePmlBuffer,
};

/** What nested_vmx_hardware_setup() adds to the exit handlers. */
// prettier-ignore
export const NESTED_EXIT_HANDLERS: Readonly<Record<number, (vcpu: Vcpu) => MaybeSteps<number>>> = {
  [EXIT_REASON.VMCLEAR]:  handleVmclear,
  [EXIT_REASON.VMLAUNCH]: handleVmlaunch,
  [EXIT_REASON.VMPTRLD]:  handleVmptrld,
  [EXIT_REASON.VMPTRST]:  handleVmptrst,
  [EXIT_REASON.VMREAD]:   handleVmread,
  [EXIT_REASON.VMRESUME]: handleVmresume,
  [EXIT_REASON.VMWRITE]:  handleVmwrite,
  [EXIT_REASON.VMOFF]:    handleVmxoff,
  [EXIT_REASON.VMON]:     handleVmxon,
  [EXIT_REASON.INVEPT]:   handleInvept,
  [EXIT_REASON.INVVPID]:  handleInvvpid,
  [EXIT_REASON.VMFUNC]:   handleVmfunc,
};

/** The hooks of guest_mmu, which belongs to nested EPT alone. */
export function nestedVmxInitMmu(vcpu: Vcpu): void {
  const { guestMmu } = vcpu.arch;
  guestMmu.getGuestPgd = nestedEptGetEptp;
  guestMmu.injectPageFault = nestedEptInjectPageFault;
}

/** nested_vmx_free_vcpu(): out of VMX operation, on whichever pCPU this is. */
export function nestedVmxFreeVcpu(vcpu: Vcpu): void {
  if (!toVmx(vcpu).nested.vmxon) return;
  vmxVcpuLoad(vcpu, vcpu.kvm.host.sched.cpu);
  vmxLeaveNested(vcpu);
}
