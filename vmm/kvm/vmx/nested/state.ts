// SPDX-License-Identifier: GPL-2.0-only
/**
 * KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE on VMX: vmx_get_nested_state(), vmx_set_nested_state() and
 * vmx_get_nested_state_pages() of arch/x86/kvm/vmx/nested.c, 6.12. Leaves out eVMCS and SMM, whose flags are refused.
 */
import { ERRNO } from '../../../../lib/uapi/errno.ts';
import {
  KVM_NESTED_NO_PA,
  KVM_NESTED_STATE_SIZE,
  KVM_STATE_NESTED,
  KVM_STATE_NESTED_FORMAT,
  KVM_STATE_NESTED_VMX_VMCS_SIZE,
  KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE,
  kvmNestedState,
  type KvmNestedState,
} from '../../../../lib/uapi/nested_state.ts';
import { X86_FEATURE } from '../../../../lib/x86/cpuid.ts';
import { VMCS_GUEST } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import type { Steps } from '../../../host/steps.ts';
import type { Vcpu } from '../../kvm_host.ts';
import type { MaybeSteps } from '../../kvm_host_x86.ts';
import { KVM_REQ } from '../../request_numbers.ts';
import { kvmMakeRequest } from '../../requests.ts';
import { isGuestMode } from '../../x86/cache_regs.ts';
import { guestHas } from '../../x86/cpuid_entry.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { nestedVmxCheckControls } from './check_controls.ts';
import { nestedVmxCheckGuestState } from './check_guest.ts';
import { nestedVmxCheckHostState } from './check_host.ts';
import { nestedVmxEnterNonRootMode, NVMX_VMENTRY } from './enter.ts';
import { vmxLeaveNested } from './exit.ts';
import { INVALID_VMPTR } from './nested_vmx.ts';
import { nestedGetVmcs12Pages, waitForVmcs12Pages } from './pages.ts';
import { copyShadowToVmcs12 } from './shadow_vmcs.ts';
import { copyVmcs02ToVmcs12Rare, syncVmcs02ToVmcs12, syncVmcs02ToVmcs12Rare } from './sync_vmcs12.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { nestedCpuHasPreemptionTimer, nestedCpuHasShadowVmcs } from './vmcs12_controls.ts';
import { VMCS12_REVISION } from './vmcs12_layout.ts';
import { enterVmxOperation, setCurrentVmptr } from './vmx_operation.ts';
import { pageAddressValid } from './vmx_operand.ts';

const hasShadow = (v: Vmcs12): boolean =>
  nestedCpuHasShadowVmcs(v) &&
  !(v.lo(VMCS_GUEST.VMCS_LINK_POINTER) === -1 && v.hi(VMCS_GUEST.VMCS_LINK_POINTER) === -1);

const physical = (address: number): bigint =>
  address === INVALID_VMPTR ? KVM_NESTED_NO_PA : BigInt(address);

/** vmx_get_nested_state(): without room for its data only the size counts. */
export function vmxGetNestedState(vcpu: Vcpu, userSize: number): KvmNestedState {
  const { nested } = toVmx(vcpu);
  const state = kvmNestedState();
  state.hdr.vmx.vmxon_pa = KVM_NESTED_NO_PA;
  state.hdr.vmx.vmcs12_pa = KVM_NESTED_NO_PA;
  if (!guestHas(vcpu, X86_FEATURE.VMX) || !nested.vmxon) return state;
  const vmcs12 = nested.cachedVmcs12;
  state.hdr.vmx.vmxon_pa = physical(nested.vmxonPtr);
  state.hdr.vmx.vmcs12_pa = physical(nested.currentVmptr);
  const hasVmcs12 = nested.currentVmptr !== INVALID_VMPTR;
  if (hasVmcs12) {
    state.size += KVM_STATE_NESTED_VMX_VMCS_SIZE;
    if (isGuestMode(vcpu) && hasShadow(vmcs12)) state.size += KVM_STATE_NESTED_VMX_VMCS_SIZE;
  }
  if (isGuestMode(vcpu)) guestModeState(vcpu, state);
  if (userSize < state.size || !hasVmcs12) return state;
  collectVmcs12(vcpu);
  state.data.vmx.vmcs12.set(vmcs12.bytes);
  if (hasShadow(vmcs12)) state.data.vmx.shadow_vmcs12.set(nested.cachedShadowVmcs12.bytes);
  return state;
}

function guestModeState(vcpu: Vcpu, state: KvmNestedState): void {
  const { nested } = toVmx(vcpu);
  state.flags |= KVM_STATE_NESTED.GUEST_MODE;
  if (nested.nestedRunPending) state.flags |= KVM_STATE_NESTED.RUN_PENDING;
  if (nested.mtfPending) state.flags |= KVM_STATE_NESTED.MTF_PENDING;
  if (!nestedCpuHasPreemptionTimer(nested.cachedVmcs12) || !nested.hasPreemptionTimerDeadline) return;
  state.hdr.vmx.flags |= KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE;
  state.hdr.vmx.preemption_timer_deadline = nested.preemptionTimerDeadline;
}

/** Where vmcs12's newest values are: in vmcs02 while L2 is active, else in the shadow VMCS unless L0 is ahead of it. */
function collectVmcs12(vcpu: Vcpu): void {
  const vmx = toVmx(vcpu);
  if (isGuestMode(vcpu)) {
    syncVmcs02ToVmcs12(vcpu);
    syncVmcs02ToVmcs12Rare(vcpu);
    return;
  }
  copyVmcs02ToVmcs12Rare(vcpu);
  if (!vmx.nested.needVmcs12ToShadowSync && vmx.vmcs01.shadowVmcs >= 0) copyShadowToVmcs12(vcpu);
}

/** What of the header can be refused before anything changes. */
function headerOk(vcpu: Vcpu, state: KvmNestedState): boolean {
  const { vmx } = state.hdr;
  if (state.format !== KVM_STATE_NESTED_FORMAT.VMX) return false;
  if (vmx.vmxon_pa === KVM_NESTED_NO_PA) {
    if (vmx.smm.flags !== 0 || vmx.vmcs12_pa !== KVM_NESTED_NO_PA) return false;
    if ((state.flags & ~KVM_STATE_NESTED.EVMCS) !== 0) return false;
  } else if (!guestHas(vcpu, X86_FEATURE.VMX) || !pageAddressValid(vcpu, vmx.vmxon_pa)) return false;
  if (vmx.smm.flags !== 0) return false;
  if ((vmx.flags & ~KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE) !== 0) return false;
  return (state.flags & KVM_STATE_NESTED.EVMCS) === 0;
}

/** vmx_set_nested_state(): 0 or a negated errno. */
export function vmxSetNestedState(vcpu: Vcpu, state: KvmNestedState): number {
  const { nested } = toVmx(vcpu);
  const { vmx } = state.hdr;
  if (!headerOk(vcpu, state)) return -ERRNO.EINVAL;
  vmxLeaveNested(vcpu);
  if (vmx.vmxon_pa === KVM_NESTED_NO_PA) return 0;
  nested.vmxonPtr = Number(vmx.vmxon_pa);
  const err = enterVmxOperation(vcpu);
  if (err !== 0) return err;
  if (state.size < KVM_NESTED_STATE_SIZE + KVM_STATE_NESTED_VMX_VMCS_SIZE) {
    const empty = (state.flags & KVM_STATE_NESTED.GUEST_MODE) === 0 && vmx.vmcs12_pa === KVM_NESTED_NO_PA;
    return empty ? 0 : -ERRNO.EINVAL;
  }
  const legal = vmx.vmcs12_pa !== vmx.vmxon_pa && pageAddressValid(vcpu, vmx.vmcs12_pa);
  if (vmx.vmcs12_pa === KVM_NESTED_NO_PA || !legal) return -ERRNO.EINVAL;
  setCurrentVmptr(vcpu, Number(vmx.vmcs12_pa));
  nested.cachedVmcs12.bytes.set(state.data.vmx.vmcs12);
  // Bit 31 is the shadow-VMCS indicator: a shadow VMCS may be current.
  if ((nested.cachedVmcs12.revisionId & 0x7fff_ffff) !== VMCS12_REVISION) return -ERRNO.EINVAL;
  if ((state.flags & KVM_STATE_NESTED.GUEST_MODE) === 0) return 0;
  nested.nestedRunPending = (state.flags & KVM_STATE_NESTED.RUN_PENDING) !== 0;
  nested.mtfPending = (state.flags & KVM_STATE_NESTED.MTF_PENDING) !== 0;
  const entered = enterRestored(vcpu, state);
  if (!entered) nested.nestedRunPending = false;
  return entered ? 0 : -ERRNO.EINVAL;
}

/** The state was taken while L2 was active. */
function enterRestored(vcpu: Vcpu, state: KvmNestedState): boolean {
  const { nested } = toVmx(vcpu);
  const vmcs12 = nested.cachedVmcs12;
  if (hasShadow(vmcs12) && !restoreShadow(vcpu, state)) return false;
  nested.hasPreemptionTimerDeadline = (state.hdr.vmx.flags & KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE) !== 0;
  if (nested.hasPreemptionTimerDeadline)
    nested.preemptionTimerDeadline = state.hdr.vmx.preemption_timer_deadline;
  const valid =
    nestedVmxCheckControls(vcpu, vmcs12) === 0 &&
    nestedVmxCheckHostState(vcpu, vmcs12) === 0 &&
    nestedVmxCheckGuestState(vcpu, vmcs12, { code: 0 }) === 0;
  if (!valid) return false;
  nested.dirtyVmcs12 = true;
  nested.forceMsrBitmapRecalc = true;
  if (nestedVmxEnterNonRootMode(vcpu, 'restore') !== NVMX_VMENTRY.SUCCESS) return false;
  if (nested.mtfPending) kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  return true;
}

function restoreShadow(vcpu: Vcpu, state: KvmNestedState): boolean {
  const { cachedShadowVmcs12 } = toVmx(vcpu).nested;
  if (state.size < KVM_NESTED_STATE_SIZE + 2 * KVM_STATE_NESTED_VMX_VMCS_SIZE) return false;
  cachedShadowVmcs12.bytes.set(state.data.vmx.shadow_vmcs12);
  return cachedShadowVmcs12.revisionId === (VMCS12_REVISION | 0x8000_0000 | 0);
}

/** vmx_get_nested_state_pages(): false: KVM_RUN ends, with kvm_run filled in. */
export function vmxGetNestedStatePages(vcpu: Vcpu): MaybeSteps<boolean> {
  if (!isGuestMode(vcpu)) return true;
  const r = nestedGetVmcs12Pages(vcpu);
  return r === 'busy' ? waitAndGet(vcpu) : r === 'ok';
}

function* waitAndGet(vcpu: Vcpu): Steps<boolean> {
  for (;;) {
    yield* waitForVmcs12Pages(vcpu);
    const r = nestedGetVmcs12Pages(vcpu);
    if (r !== 'busy') return r === 'ok';
  }
}
