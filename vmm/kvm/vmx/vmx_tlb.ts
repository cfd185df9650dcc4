// SPDX-License-Identifier: GPL-2.0-only
/**
 * EPTP, VPIDs and the flushes behind KVM_REQ_TLB_FLUSH*: vmx_load_mmu_pgd(), construct_eptp(), vmx_flush_tlb_*() and
 * allocate_vpid() of arch/x86/kvm/vmx/vmx.c, 6.12.
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
import { toVmx, vmxCpu } from './vcpu_vmx.ts';

/** construct_eptp(). */
export function constructEptp(vcpu: Vcpu, root: Hpa, level: number): number {
  const ad = vcpu.kvm.module.caps.adEnabled ? VMX_EPTP.AD_ENABLE_BIT : 0;
  return root + (VMX_EPTP.MT_WB | (level === 5 ? VMX_EPTP.PWL_5 : VMX_EPTP.PWL_4) | ad);
}

/** vmx_load_mmu_pgd(): GUEST_CR3 is the guest's own under EPT. */
export function vmxLoadMmuPgd(vcpu: Vcpu, root: Hpa, level: number): void {
  vmwriteNum(vmxCpu(vcpu), VMCS_CTRL.EPT_POINTER, constructEptp(vcpu, root, level));
}

function check(result: number, what: string): void {
  if (result !== VMX_RESULT.SUCCEED) throw new BugError(`${what} failed`);
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

/** vmx_flush_tlb_guest(): linear and combined mappings of the vCPU's VPID. */
export function vmxFlushTlbGuest(vcpu: Vcpu): void {
  const { vpid } = toVmx(vcpu);
  // Without VPIDs each entry flushes.
  if (vpid !== 0)
    check(vmxInvvpid(vmxCpu(vcpu), VMX_VPID_EXTENT.SINGLE_CONTEXT, vpid), 'INVVPID of one context');
}

/** vmx_flush_tlb_gva(). */
export function vmxFlushTlbGva(vcpu: Vcpu, lo: number, hi: number): void {
  const { vpid } = toVmx(vcpu);
  if (vpid !== 0)
    check(vmxInvvpid(vmxCpu(vcpu), VMX_VPID_EXTENT.INDIVIDUAL_ADDR, vpid, lo, hi), 'INVVPID of one address');
}

/** The bitmap behind allocate_vpid(); VPID 0 is the host's. */
export class VpidAllocator {
  readonly #used = new Set<number>([0]);
  readonly #limit = 0x1_0000;
  /** None below it is free. */
  #lowest = 1;

  /** A free VPID, or 0 if all are taken: that vCPU flushes at each entry. */
  allocate(): number {
    while (this.#lowest < this.#limit && this.#used.has(this.#lowest)) this.#lowest++;
    if (this.#lowest === this.#limit) return 0;
    this.#used.add(this.#lowest);
    return this.#lowest;
  }

  free(vpid: number): void {
    if (vpid === 0) return;
    this.#used.delete(vpid);
    this.#lowest = Math.min(this.#lowest, vpid);
  }
}
