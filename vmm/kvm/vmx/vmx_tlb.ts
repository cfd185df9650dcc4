// SPDX-License-Identifier: GPL-2.0-only
/**
 * EPTP, VPIDs and the flushes behind KVM_REQ_TLB_FLUSH*: vmx_load_mmu_pgd(), construct_eptp() and vmx_flush_tlb_*() of
 * arch/x86/kvm/vmx/vmx.c, 6.12. Which tag a guest runs with is decided here, for L1 and L2.
 */
import type { Hpa } from '../../../lib/x86/addr.ts';
import { VMX_EPT_EXTENT, VMX_VPID_EXTENT } from '../../../lib/x86/vmx/capability_msrs.ts';
import { VMX_EPTP } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { BugError } from '../../machine/errors.ts';
import { vmxInvept, vmxInvvpid } from '../../machine/vmx/invalidate_insns.ts';
import { vmwriteNum } from '../../machine/vmx/vmcs_access.ts';
import { VMX_RESULT } from '../../machine/vmx/vmx_unit.ts';
import type { Vcpu } from '../kvm_host.ts';
import { INVALID_PAGE } from '../kvm_host_x86.ts';
import { isGuestMode } from '../x86/cache_regs.ts';
import { nestedCpuHasVpid, nestedEptAdEnabled } from './nested/vmcs12_controls.ts';
import { toVmx, vmxCpu } from './vcpu_vmx.ts';

/** construct_eptp(): L2 runs with accessed and dirty flags only if EPT12 has them, since L0 maintains EPT12's. */
export function constructEptp(vcpu: Vcpu, root: Hpa, level: number): number {
  const wanted = !isGuestMode(vcpu) || nestedEptAdEnabled(toVmx(vcpu).nested.cachedVmcs12);
  const ad = vcpu.kvm.module.caps.adEnabled && wanted ? VMX_EPTP.AD_ENABLE_BIT : 0;
  return root + (VMX_EPTP.MT_WB | (level === 5 ? VMX_EPTP.PWL_5 : VMX_EPTP.PWL_4) | ad);
}

/** vmx_load_mmu_pgd(): GUEST_CR3 is the guest's own under EPT. */
export function vmxLoadMmuPgd(vcpu: Vcpu, root: Hpa, level: number): void {
  vmwriteNum(vmxCpu(vcpu), VMCS_CTRL.EPT_POINTER, constructEptp(vcpu, root, level));
}

function check(result: number, what: string): void {
  if (result !== VMX_RESULT.SUCCEED) throw new BugError(`${what} failed`);
}

/** nested_get_vpid02(): the tag of an L2 whose vmcs12 has VPIDs; L1's if there was none left. */
export function nestedGetVpid02(vcpu: Vcpu): number {
  const vmx = toVmx(vcpu);
  return vmx.nested.vpid02 === 0 ? vmx.vpid : vmx.nested.vpid02;
}

/**
 * vmx_get_current_vpid(): an L2 without VPID12 runs, like L1's own root mode, with VPID 0; both share vpid01.
 */
export function vmxGetCurrentVpid(vcpu: Vcpu): number {
  const vmx = toVmx(vcpu);
  return isGuestMode(vcpu) && nestedCpuHasVpid(vmx.nested.cachedVmcs12) ? nestedGetVpid02(vcpu) : vmx.vpid;
}

/** vpid_sync_context(). Without VPIDs each entry flushes. */
export function vpidSyncContext(vcpu: Vcpu, vpid: number): void {
  if (vpid !== 0)
    check(vmxInvvpid(vmxCpu(vcpu), VMX_VPID_EXTENT.SINGLE_CONTEXT, vpid), 'INVVPID of one context');
}

/** vpid_sync_vcpu_addr(). */
export function vpidSyncVcpuAddr(vcpu: Vcpu, vpid: number, lo: number, hi: number): void {
  if (vpid !== 0)
    check(vmxInvvpid(vmxCpu(vcpu), VMX_VPID_EXTENT.INDIVIDUAL_ADDR, vpid, lo, hi), 'INVVPID of one address');
}

/** vmx_flush_tlb_all(): guest-physical and combined mappings of every EPTP. */
export function vmxFlushTlbAll(vcpu: Vcpu): void {
  check(vmxInvept(vmxCpu(vcpu), VMX_EPT_EXTENT.GLOBAL, 0), 'INVEPT of all contexts');
}

/** vmx_flush_tlb_current(): those of the current root. */
export function vmxFlushTlbCurrent(vcpu: Vcpu): void {
  const { mmu } = vcpu.arch;
  if (mmu.root.hpa === INVALID_PAGE) return;
  const eptp = constructEptp(vcpu, mmu.root.hpa, mmu.rootRole.level);
  check(vmxInvept(vmxCpu(vcpu), VMX_EPT_EXTENT.CONTEXT, eptp), 'INVEPT of one context');
}

/** vmx_flush_tlb_guest(): linear and combined mappings of the current VPID. */
export function vmxFlushTlbGuest(vcpu: Vcpu): void {
  vpidSyncContext(vcpu, vmxGetCurrentVpid(vcpu));
}

/** vmx_flush_tlb_gva(). */
export function vmxFlushTlbGva(vcpu: Vcpu, lo: number, hi: number): void {
  vpidSyncVcpuAddr(vcpu, vmxGetCurrentVpid(vcpu), lo, hi);
}
