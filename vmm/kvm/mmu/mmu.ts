// SPDX-License-Identifier: GPL-2.0-only
/**
 * The MMU of a vCPU: its role, loading and freeing roots. Mirrors kvm_init_mmu(), kvm_mmu_load(), kvm_mmu_free_roots()
 * and kvm_mmu_free_obsolete_roots() of arch/x86/kvm/mmu/mmu.c, 6.12, for two-dimensional paging.
 */
import { CR0, CR4, EFER } from '../../../lib/x86/registers.ts';
import { UnimplementedError } from '../../machine/errors.ts';
import type { Steps } from '../../host/steps.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import {
  INVALID_PAGE,
  KVM_MMU_NUM_PREV_ROOTS,
  KVM_MMU_ROOT_CURRENT,
  KVM_MMU_ROOTS_ALL,
  type KvmMmu,
  type KvmMmuRootInfo,
} from '../kvm_host_x86.ts';
import type { Hpa } from '../../../lib/x86/addr.ts';
import {
  kvmTdpMmuAllocRoot,
  kvmTdpMmuInvalidateRoots,
  kvmTdpMmuPutRoot,
  kvmTdpMmuZapInvalidatedRoots,
  tdpRootOf,
} from './tdp_roots.ts';

/** Bits of the cpuRole of a guest context that changes how the guest's tables are read. */
// prettier-ignore
const ROLE = { PG: 0x1, WP: 0x2, PSE: 0x4, SMEP: 0x8, SMAP: 0x10, PKE: 0x20, LA57: 0x40, NX: 0x80, LMA: 0x100, PAE: 0x200, VALID: 0x8000 } as const;

/** kvm_calc_cpu_role(): what of CR0, CR4 and EFER decides how the guest's page tables are read. */
export function kvmCalcCpuRole(vcpu: Vcpu): number {
  const { cr0, cr4, efer } = vcpu.arch;
  if ((cr0 & CR0.PG) === 0) return ROLE.VALID;
  let role: number = ROLE.VALID | ROLE.PG;
  if (cr0 & CR0.WP) role |= ROLE.WP;
  if (cr4 & CR4.PSE) role |= ROLE.PSE;
  if (cr4 & CR4.PAE) role |= ROLE.PAE;
  if (cr4 & CR4.SMEP) role |= ROLE.SMEP;
  if (cr4 & CR4.SMAP) role |= ROLE.SMAP;
  if (cr4 & CR4.PKE) role |= ROLE.PKE;
  if (cr4 & CR4.LA57) role |= ROLE.LA57;
  if (efer & EFER.NXE) role |= ROLE.NX;
  if (efer & EFER.LMA) role |= ROLE.LMA;
  return role;
}

/** Levels of the guest's tables; 0 without paging. */
export function guestPagingLevels(cpuRole: number): number {
  if ((cpuRole & ROLE.PG) === 0) return 0;
  if (cpuRole & ROLE.LMA) return cpuRole & ROLE.LA57 ? 5 : 4;
  return cpuRole & ROLE.PAE ? 3 : 2;
}

/** kvm_init_mmu(): after anything changed that the roles depend on. Does nothing if the role is the same. */
export function kvmInitMmu(vcpu: Vcpu): void {
  const { caps } = vcpu.kvm.module;
  if (!caps.tdpEnabled) throw new UnimplementedError('shadow paging (two-dimensional paging is off)');
  const mmu = vcpu.arch.rootMmu;
  const cpuRole = kvmCalcCpuRole(vcpu);
  if (mmu.cpuRole === cpuRole && mmu.rootRole.level !== 0) return;
  mmu.cpuRole = cpuRole;
  mmu.guestLevel = guestPagingLevels(cpuRole);
  const role = mmu.rootRole;
  role.level = caps.tdpRootLevel;
  role.direct = 1;
  role.adDisabled = caps.adEnabled ? 0 : 1;
}

/** kvm_mmu_reload(): make sure that there is a root; 0 or a negated errno. */
export function kvmMmuReload(vcpu: Vcpu): number {
  return vcpu.arch.mmu.root.hpa === INVALID_PAGE ? kvmMmuLoad(vcpu) : 0;
}

/** kvm_mmu_load(): get a root and point the hardware at it. */
export function kvmMmuLoad(vcpu: Vcpu): number {
  const { mmu } = vcpu.arch;
  const { ops } = vcpu.kvm.module;
  const root = kvmTdpMmuAllocRoot(vcpu);
  if (root < 0) return root;
  mmu.root.hpa = root as Hpa;
  mmu.root.pgd = 0;
  kvmMmuLoadPgd(vcpu);
  // A root's address may have belonged to an older root: nothing cached under it may be used.
  ops.flushTlbCurrent(vcpu);
  return 0;
}

/** kvm_mmu_load_pgd(). */
export function kvmMmuLoadPgd(vcpu: Vcpu): void {
  const { mmu } = vcpu.arch;
  if (mmu.root.hpa === INVALID_PAGE) return;
  vcpu.kvm.module.ops.loadMmuPgd(vcpu, mmu.root.hpa, mmu.rootRole.level);
}

/** kvm_mmu_free_roots(): `roots` is a mask of KVM_MMU_ROOT_CURRENT and 2 << i for the previous root i. */
export function kvmMmuFreeRoots(kvm: Kvm, mmu: KvmMmu, roots: number): void {
  if (roots & KVM_MMU_ROOT_CURRENT) freeRoot(kvm, mmu.root);
  for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) if (roots & (2 << i)) freeRoot(kvm, mmu.prevRoots[i]!);
}

function freeRoot(kvm: Kvm, info: KvmMmuRootInfo): void {
  if (info.hpa === INVALID_PAGE) return;
  kvmTdpMmuPutRoot(kvm, tdpRootOf(kvm, info.hpa));
  info.hpa = INVALID_PAGE;
  info.pgd = 0;
}

/** kvm_mmu_unload(): every root of the vCPU. */
export function kvmMmuUnload(vcpu: Vcpu): void {
  kvmMmuFreeRoots(vcpu.kvm, vcpu.arch.rootMmu, KVM_MMU_ROOTS_ALL);
  kvmMmuFreeRoots(vcpu.kvm, vcpu.arch.guestMmu, KVM_MMU_ROOTS_ALL);
}

/** kvm_mmu_reset_context(): roles may have changed; roots are looked up anew. */
export function kvmMmuResetContext(vcpu: Vcpu): void {
  kvmMmuUnload(vcpu);
  kvmInitMmu(vcpu);
}

/** kvm_mmu_free_obsolete_roots(): handler of KVM_REQ_MMU_FREE_OBSOLETE_ROOTS. */
export function kvmMmuFreeObsoleteRoots(vcpu: Vcpu): void {
  freeObsolete(vcpu.kvm, vcpu.arch.rootMmu);
  freeObsolete(vcpu.kvm, vcpu.arch.guestMmu);
}

function freeObsolete(kvm: Kvm, mmu: KvmMmu): void {
  let roots = 0;
  if (isObsoleteRoot(kvm, mmu.root.hpa)) roots |= KVM_MMU_ROOT_CURRENT;
  for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++)
    if (isObsoleteRoot(kvm, mmu.prevRoots[i]!.hpa)) roots |= 2 << i;
  if (roots !== 0) kvmMmuFreeRoots(kvm, mmu, roots);
}

const isObsoleteRoot = (kvm: Kvm, hpa: Hpa): boolean => hpa !== INVALID_PAGE && tdpRootOf(kvm, hpa).invalid;

/** kvm_mmu_destroy(): the vCPU goes away. */
export const kvmMmuDestroy = (vcpu: Vcpu): void => kvmMmuUnload(vcpu);

/** kvm_mmu_uninit_vm(): after the last vCPU; frees every root. */
export function* kvmMmuUninitVm(kvm: Kvm): Steps<void> {
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  kvmTdpMmuInvalidateRoots(kvm);
  kvm.mmuLock.writeUnlock();
  yield* kvmTdpMmuZapInvalidatedRoots(kvm);
}
