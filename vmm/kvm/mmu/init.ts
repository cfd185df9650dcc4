// SPDX-License-Identifier: GPL-2.0-only
/**
 * What a vCPU's three MMU contexts describe, and when they have to be described anew: kvm_calc_cpu_role(),
 * kvm_init_mmu() and kvm_init_shadow_ept_mmu() of arch/x86/kvm/mmu/mmu.c, 6.12. All initialisation is in this file. An
 * initialisation whose role is the stored one is skipped; this runs on each transition between L1 and L2.
 */
import { CR0, CR4, EFER } from '../../../lib/x86/registers.ts';
import { VMX_EPTP } from '../../../lib/x86/vmx/controls.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { UnimplementedError } from '../../machine/errors.ts';
import type { Vcpu } from '../kvm_host.ts';
import { PAGING, type KvmMmu } from '../kvm_host_x86.ts';
import { HF_GUEST_MASK, kvmReadCr0, kvmReadCr3, kvmReadCr4 } from '../x86/cache_regs.ts';
import { kvmInjectPageFault } from '../x86/inject_page_fault.ts';
import { updatePermissionBitmask, updatePermissionBitmaskEpt, updatePkruBitmask } from './permission.ts';
import { ACC, mmuIsNested, ROLE, ROLE_ACCESS_SHIFT, ROLE_EXT, ROLE_SMM_SHIFT } from './role.ts';
import { kvmMmuNewPgd } from './root_cache.ts';
import { resetRsvdsBitsMask64, resetRsvdsBitsMaskEpt } from './rsvd_bits.ts';

export { mmuIsNested } from './role.ts';

const ACC_ALL = ACC.ALL << ROLE_ACCESS_SHIFT;

/** HF_SMM_MASK of vcpu->arch.hflags. */
const HF_SMM_MASK = 0x40;

/** kvm_calc_cpu_role(), the base role. */
export const kvmCalcCpuRoleBase = (vcpu: Vcpu): number =>
  cpuRoleBase(vcpu.arch.hflags, kvmReadCr0(vcpu), kvmReadCr4(vcpu), vcpu.arch.efer);

/** kvm_calc_cpu_role(), the extended role. */
export const kvmCalcCpuRoleExt = (vcpu: Vcpu): number =>
  cpuRoleExt(kvmReadCr0(vcpu), kvmReadCr4(vcpu), vcpu.arch.efer);

function cpuRoleBase(hflags: number, cr0: number, cr4: number, efer: number): number {
  let role: number = ACC_ALL;
  if ((hflags & HF_SMM_MASK) !== 0) role |= 1 << ROLE_SMM_SHIFT;
  if ((hflags & HF_GUEST_MASK) !== 0) role |= ROLE.GUEST_MODE;
  if ((cr0 & CR0.PG) === 0) return role | ROLE.DIRECT;
  if ((efer & EFER.NXE) !== 0) role |= ROLE.EFER_NX;
  if ((cr0 & CR0.WP) !== 0) role |= ROLE.CR0_WP;
  else {
    if ((cr4 & CR4.SMEP) !== 0) role |= ROLE.SMEP_ANDNOT_WP;
    if ((cr4 & CR4.SMAP) !== 0) role |= ROLE.SMAP_ANDNOT_WP;
  }
  if ((cr4 & CR4.PAE) === 0) role |= ROLE.HAS_4_BYTE_GPTE;
  return role | guestLevels(cr4, efer);
}

function guestLevels(cr4: number, efer: number): number {
  if ((efer & EFER.LMA) !== 0) return (cr4 & CR4.LA57) !== 0 ? 5 : 4;
  return (cr4 & CR4.PAE) !== 0 ? 3 : 2;
}

function cpuRoleExt(cr0: number, cr4: number, efer: number): number {
  if ((cr0 & CR0.PG) === 0) return ROLE_EXT.VALID;
  let ext: number = ROLE_EXT.VALID;
  if ((cr4 & CR4.SMEP) !== 0) ext |= ROLE_EXT.CR4_SMEP;
  if ((cr4 & CR4.SMAP) !== 0) ext |= ROLE_EXT.CR4_SMAP;
  if ((cr4 & CR4.PSE) !== 0) ext |= ROLE_EXT.CR4_PSE;
  if ((efer & EFER.LMA) === 0) return ext;
  if ((cr4 & CR4.PKE) !== 0) ext |= ROLE_EXT.CR4_PKE;
  if ((cr4 & CR4.LA57) !== 0) ext |= ROLE_EXT.CR4_LA57;
  return ext | ROLE_EXT.EFER_LMA;
}

/** kvm_init_mmu(): after anything changed that the roles depend on. Does nothing if the role is the same. */
export function kvmInitMmu(vcpu: Vcpu): void {
  const { hflags, efer } = vcpu.arch;
  const cr0 = kvmReadCr0(vcpu);
  const cr4 = kvmReadCr4(vcpu);
  const base = cpuRoleBase(hflags, cr0, cr4, efer);
  const ext = cpuRoleExt(cr0, cr4, efer);
  spend(vcpu.kvm.host.sched.cpu, COST.MMU_ROLE_CHECK);
  if (mmuIsNested(vcpu)) initKvmNestedMmu(vcpu, base, ext);
  else initKvmTdpMmu(vcpu, base, ext);
}

function countInit(vcpu: Vcpu, mmu: KvmMmu): void {
  mmu.inits++;
  spend(vcpu.kvm.host.sched.cpu, COST.MMU_INIT);
}

/** kvm_calc_tdp_mmu_root_page_role(). */
function tdpRootRole(vcpu: Vcpu, cpuRole: number): number {
  const { caps } = vcpu.kvm.module;
  const inherited = cpuRole & (ROLE.SMM_MASK | ROLE.GUEST_MODE);
  const ad = caps.adEnabled ? 0 : ROLE.AD_DISABLED;
  return inherited | ad | ACC_ALL | ROLE.CR0_WP | ROLE.EFER_NX | ROLE.DIRECT | caps.tdpRootLevel;
}

/** init_kvm_tdp_mmu(). */
function initKvmTdpMmu(vcpu: Vcpu, base: number, ext: number): void {
  if (!vcpu.kvm.module.caps.tdpEnabled)
    throw new UnimplementedError('shadow paging (two-dimensional paging is off)');
  const mmu = vcpu.arch.rootMmu;
  const { cpuRole, rootRole } = mmu;
  const rootWord = tdpRootRole(vcpu, base);
  const oldBase = cpuRole.base.word;
  const sameExt = cpuRole.ext === ext;
  if (oldBase === base && sameExt && rootRole.word === rootWord) return;
  cpuRole.base.word = base;
  cpuRole.ext = ext;
  rootRole.word = rootWord;
  countInit(vcpu, mmu);
  mmu.getGuestPgd = kvmReadCr3;
  mmu.getPdptr = noPdptr;
  mmu.injectPageFault = kvmInjectPageFault;
  // Whether L1 or L2 is active decides which tables are walked, not how: with an L1 that has no EPT nothing else changes.
  if (!sameExt || ((oldBase ^ base) & ~ROLE.GUEST_MODE) !== 0) resetGuestPagingMetadata(vcpu, mmu);
}

/** init_kvm_nested_mmu(): walks of L2's own tables; this context never has a root. */
function initKvmNestedMmu(vcpu: Vcpu, base: number, ext: number): void {
  const mmu = vcpu.arch.nestedMmu;
  const { cpuRole } = mmu;
  if (cpuRole.base.word === base && cpuRole.ext === ext) return;
  cpuRole.base.word = base;
  cpuRole.ext = ext;
  countInit(vcpu, mmu);
  mmu.getGuestPgd = kvmReadCr3;
  mmu.getPdptr = noPdptr;
  mmu.injectPageFault = kvmInjectPageFault;
  resetGuestPagingMetadata(vcpu, mmu);
}

const noPdptr = (): never => {
  throw new UnimplementedError('PAE paging');
};

/** reset_guest_paging_metadata(), and the choice of a walker. */
function resetGuestPagingMetadata(vcpu: Vcpu, mmu: KvmMmu): void {
  const { base } = mmu.cpuRole;
  const paging = base.level !== 0;
  mmu.format = paging ? PAGING.BITS_64 : PAGING.NONE;
  if (!paging) return;
  const nx = (base.word & ROLE.EFER_NX) !== 0;
  // guest_can_use_gbpages(): with two-dimensional paging nothing keeps a guest from using what the processor has.
  const { gbpages } = vcpu.kvm.module.caps;
  resetRsvdsBitsMask64(mmu.guestRsvdCheck, vcpu.arch.maxphyaddr, { nx, gbpages });
  updatePermissionBitmask(mmu);
  updatePkruBitmask(mmu);
}

/** What of L1's EPT decides how L0 shadows it. */
export interface ShadowEptParams {
  /** PG_LEVEL.* of the largest page that L1's capabilities allow in EPT12. */
  readonly hugePageLevel: number;
  readonly execonly: boolean;
  /** EPTP12 enables accessed and dirty flags. */
  readonly accessedDirty: boolean;
  readonly newEptp: number;
}

/** kvm_calc_shadow_ept_root_page_role(), the base role; the address space is that of the root MMU. */
function shadowEptRole(vcpu: Vcpu, accessedDirty: boolean, level: number): number {
  const smm = vcpu.arch.rootMmu.rootRole.word & ROLE.SMM_MASK;
  return smm | ROLE.GUEST_MODE | ACC_ALL | (accessedDirty ? 0 : ROLE.AD_DISABLED) | level;
}

/** kvm_init_shadow_ept_mmu(): L2 runs on EPT12, which L0 shadows. Always ends with the switch to EPTP12's root. */
export function kvmInitShadowEptMmu(vcpu: Vcpu, ept: ShadowEptParams): void {
  const mmu = vcpu.arch.guestMmu;
  const { cpuRole } = mmu;
  spend(vcpu.kvm.host.sched.cpu, COST.MMU_ROLE_CHECK);
  const level = (ept.newEptp & VMX_EPTP.PWL_MASK) === VMX_EPTP.PWL_5 ? 5 : 4;
  const base = shadowEptRole(vcpu, ept.accessedDirty, level);
  const ext = ROLE_EXT.VALID | (ept.execonly ? ROLE_EXT.EXECONLY : 0);
  if (cpuRole.base.word !== base || cpuRole.ext !== ext) {
    cpuRole.base.word = base;
    cpuRole.ext = ext;
    mmu.rootRole.word = base;
    countInit(vcpu, mmu);
    mmu.format = PAGING.EPT;
    updatePermissionBitmaskEpt(mmu);
    mmu.pkruMask = 0;
    resetRsvdsBitsMaskEpt(mmu.guestRsvdCheck, vcpu.arch.maxphyaddr, ept);
  }
  kvmMmuNewPgd(vcpu, ept.newEptp);
}

/**
 * kvm_mmu_after_set_cpuid(): what is not part of a role (MAXPHYADDR, 1 GiB pages) may have changed, so that no stored
 * role may match. The caller resets the context.
 */
export function kvmMmuInvalidateRoles(vcpu: Vcpu): void {
  const { rootMmu, guestMmu, nestedMmu } = vcpu.arch;
  for (const mmu of [rootMmu, guestMmu, nestedMmu]) {
    mmu.rootRole.word |= ROLE.INVALID;
    mmu.cpuRole.ext &= ~ROLE_EXT.VALID;
  }
}
