// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1 enters and leaves VMX operation: enter_vmx_operation(), free_nested(), nested_release_vmcs12() and
 * set_current_vmptr() of arch/x86/kvm/vmx/nested.c, 6.12.
 */
import { ERRNO } from '../../../../lib/uapi/errno.ts';
import { gpa } from '../../../../lib/x86/addr.ts';
import { SECONDARY_EXEC } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_GUEST } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { HrTimer } from '../../../host/sched/hrtimer.ts';
import { vmwriteNum } from '../../../machine/vmx/vmcs_access.ts';
import { kvmVcpuUnmap } from '../../host_map.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { KVM_MMU_ROOTS_ALL } from '../../kvm_host_x86.ts';
import { kvmMmuFreeRoots } from '../../mmu/free_roots.ts';
import { KVM_REQ } from '../../request_numbers.ts';
import { kvmClearRequest } from '../../requests.ts';
import { kvmVcpuWriteGuest } from '../../x86/guest_access.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { allocLoadedVmcs, freeLoadedVmcs } from '../vmcs_load.ts';
import { vmxChangeSecondary } from '../vmx_controls.ts';
import { INVALID_VMPTR } from './nested_vmx.ts';
import { allocShadowVmcs, copyShadowToVmcs12, freeShadowVmcs, vmxDisableShadowVmcs } from './shadow_vmcs.ts';
import { copyVmcs02ToVmcs12Rare } from './sync_vmcs12.ts';
import { vmcs12NestedTimer } from './preemption_timer.ts';

/** enter_vmx_operation(): 0 or -ENOMEM. */
export function enterVmxOperation(vcpu: Vcpu): number {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  const vmcs02 = allocLoadedVmcs(vcpu, 'vmcs02');
  if (vmcs02 === null) return -ERRNO.ENOMEM;
  if (vmx.module.shadowBitmaps !== null && !allocShadowVmcs(vcpu)) {
    freeLoadedVmcs(vcpu, vmcs02);
    return -ERRNO.ENOMEM;
  }
  nested.vmcs02 = vmcs02;
  nested.cachedVmcs12.bytes.fill(0);
  nested.cachedShadowVmcs12.bytes.fill(0);
  nested.preemptionTimer = new HrTimer(`${vcpu.name} nested preemption timer`, () => vmcs12NestedTimer(vcpu));
  nested.vpid02 = vmx.vpid === 0 ? 0 : vmx.module.vpids.allocate();
  nested.lastVpid = 0;
  nested.vmcs02Initialized = false;
  nested.vmxon = true;
  return 0;
}

/** free_nested(): L1 stops using VMX. vmcs01 is loaded. */
export function freeNested(vcpu: Vcpu): void {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  if (!nested.vmxon) return;
  kvmClearRequest(KVM_REQ.GET_NESTED_STATE_PAGES, vcpu);
  nested.vmxon = false;
  nested.vmxonPtr = INVALID_VMPTR;
  vmx.module.vpids.free(nested.vpid02);
  nested.vpid02 = 0;
  nested.postedIntrNv = -1;
  nested.currentVmptr = INVALID_VMPTR;
  // What vmcs02 held goes with it: it must not come into a VMCS that is made current later.
  nested.needSyncVmcs02ToVmcs12Rare = false;
  if (vmx.vmcs01.shadowVmcs >= 0) {
    vmxDisableShadowVmcs(vcpu);
    freeShadowVmcs(vcpu);
  }
  releasePages(vcpu);
  kvmMmuFreeRoots(vcpu.kvm, vcpu.arch.guestMmu, KVM_MMU_ROOTS_ALL);
  nested.preemptionTimer = null;
  if (nested.vmcs02 !== null) freeLoadedVmcs(vcpu, nested.vmcs02);
  nested.vmcs02 = null;
}

/** Unpin the pages that vmcs02 refers to. */
export function releasePages(vcpu: Vcpu): void {
  const { nested } = toVmx(vcpu);
  kvmVcpuUnmap(vcpu, nested.apicAccessPageMap, 'clean');
  kvmVcpuUnmap(vcpu, nested.virtualApicMap, 'dirty');
  kvmVcpuUnmap(vcpu, nested.piDescMap, 'dirty');
}

/** set_current_vmptr(). */
export function setCurrentVmptr(vcpu: Vcpu, vmptr: number): void {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  nested.currentVmptr = vmptr;
  if (vmx.module.shadowBitmaps !== null) {
    vmxChangeSecondary(vcpu, SECONDARY_EXEC.SHADOW_VMCS, 0);
    vmwriteNum(vcpu.kvm.host.sched.cpu, VMCS_GUEST.VMCS_LINK_POINTER, vmx.vmcs01.shadowVmcs);
    nested.needVmcs12ToShadowSync = true;
  }
  nested.dirtyVmcs12 = true;
  nested.forceMsrBitmapRecalc = true;
}

/** nested_release_vmcs12(): the current VMCS goes back to L1's memory. */
export function nestedReleaseVmcs12(vcpu: Vcpu): void {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  if (nested.currentVmptr === INVALID_VMPTR) return;
  copyVmcs02ToVmcs12Rare(vcpu);
  if (vmx.module.shadowBitmaps !== null) {
    copyShadowToVmcs12(vcpu);
    vmxDisableShadowVmcs(vcpu);
  }
  nested.postedIntrNv = -1;
  kvmVcpuWriteGuest(vcpu, gpa(nested.currentVmptr), nested.cachedVmcs12.bytes);
  kvmMmuFreeRoots(vcpu.kvm, vcpu.arch.guestMmu, KVM_MMU_ROOTS_ALL);
  nested.currentVmptr = INVALID_VMPTR;
}
