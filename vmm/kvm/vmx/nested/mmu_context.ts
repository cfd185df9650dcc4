// SPDX-License-Identifier: GPL-2.0-only
/**
 * Which MMU objects a vCPU uses while it runs L1 or L2: nested_ept_init_mmu_context(), its reverse and
 * nested_vmx_load_cr3() of arch/x86/kvm/vmx/nested.c, 6.12. The one place where a switch initialises an MMU.
 */
import { PG_LEVEL } from '../../../../lib/x86/paging.ts';
import { VMX_EPT_CAP } from '../../../../lib/x86/vmx/capability_msrs.ts';
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { BugError } from '../../../machine/errors.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmInitMmu, kvmInitShadowEptMmu } from '../../mmu/init.ts';
import { kvmMmuNewPgd } from '../../mmu/root_cache.ts';
import { markDirty, VCPU_EXREG } from '../../x86/cache_regs.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { nestedEptAdEnabled } from './vmcs12_controls.ts';

/** nested_ept_get_eptp(). */
export const nestedEptGetEptp = (vcpu: Vcpu): number =>
  toVmx(vcpu).nested.cachedVmcs12.num(VMCS_CTRL.EPT_POINTER);

/** nested_ept_lpage_level(): the largest page that L1 was told EPT12 may have. */
function nestedEptLpageLevel(eptCaps: number): number {
  if ((eptCaps & VMX_EPT_CAP.PAGE_1GB_BIT) !== 0) return PG_LEVEL.L1G;
  return (eptCaps & VMX_EPT_CAP.PAGE_2MB_BIT) !== 0 ? PG_LEVEL.L2M : PG_LEVEL.L4K;
}

/** nested_ept_new_eptp(): guest_mmu becomes the shadow of EPT12 as vmcs12 names it now. */
export function nestedEptNewEptp(vcpu: Vcpu): void {
  const { nested } = toVmx(vcpu);
  kvmInitShadowEptMmu(vcpu, {
    hugePageLevel: nestedEptLpageLevel(nested.msrs.eptCaps),
    execonly: (nested.msrs.eptCaps & VMX_EPT_CAP.EXECUTE_ONLY_BIT) !== 0,
    accessedDirty: nestedEptAdEnabled(nested.cachedVmcs12),
    newEptp: nestedEptGetEptp(vcpu),
  });
}

/** nested_ept_init_mmu_context(). */
export function nestedEptInitMmuContext(vcpu: Vcpu): void {
  const { arch } = vcpu;
  if (arch.walkMmu === arch.nestedMmu) throw new BugError(`${vcpu.name}: the MMU is that of L2 already`);
  arch.mmu = arch.guestMmu;
  nestedEptNewEptp(vcpu);
  arch.walkMmu = arch.nestedMmu;
}

/** nested_ept_uninit_mmu_context(). */
export function nestedEptUninitMmuContext(vcpu: Vcpu): void {
  vcpu.arch.mmu = vcpu.arch.rootMmu;
  vcpu.arch.walkMmu = vcpu.arch.rootMmu;
}

/** nested_vmx_load_cr3(): the CR3 field `lo`, `hi`; false: it is no legal CR3. `tables`: whose tables they are under. */
export function nestedVmxLoadCr3(vcpu: Vcpu, lo: number, hi: number, tables: 'nested EPT' | 'L0'): boolean {
  const { arch } = vcpu;
  if (hi >>> (arch.maxphyaddr - 32) !== 0) return false;
  arch.cr3 = (hi >>> 0) * 2 ** 32 + (lo >>> 0);
  markDirty(vcpu, VCPU_EXREG.CR3);
  kvmInitMmu(vcpu);
  if (tables === 'L0') kvmMmuNewPgd(vcpu, arch.cr3);
  return true;
}
