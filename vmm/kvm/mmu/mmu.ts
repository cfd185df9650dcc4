// SPDX-License-Identifier: GPL-2.0-only
/**
 * The MMU of a vCPU: getting, loading and giving up roots. Mirrors kvm_mmu_load(), kvm_mmu_unload() and
 * kvm_mmu_free_obsolete_roots() of arch/x86/kvm/mmu/mmu.c, 6.12, for two-dimensional paging.
 */
import type { Steps } from '../../host/steps.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import {
  INVALID_PAGE,
  KVM_MMU_NUM_PREV_ROOTS,
  KVM_MMU_ROOT_CURRENT,
  KVM_MMU_ROOTS_ALL,
  type KvmMmu,
  type KvmMmuRootInfo,
  type MaybeSteps,
} from '../kvm_host_x86.ts';
import { kvmMmuFreeRoots, kvmMmuRootPrevious } from './free_roots.ts';
import { kvmInitMmu, kvmMmuInvalidateRoles } from './init.ts';
import { KvmMmuPage } from './mmu_page.ts';
import { freeDummyRoot, mmuAllocShadowRoots } from './shadow_roots.ts';
import { doShadowWork, hasShadowWork } from './shadow_work.ts';
import { zapAllShadowPages } from './shadow_zap.ts';
import { kvmTdpMmuAllocRoot, kvmTdpMmuInvalidateRoots, kvmTdpMmuZapInvalidatedRoots } from './tdp_roots.ts';
import { isObsoleteSp } from './unsync.ts';

/**
 * kvm_mmu_reload(): make sure that there is a root, and that shadow pages are as the guest may expect; 0 or a negated
 * errno.
 */
export function kvmMmuReload(vcpu: Vcpu): MaybeSteps<number> {
  if (hasShadowWork(vcpu.kvm)) return reloadAfterWork(vcpu);
  return vcpu.arch.mmu.root.hpa === INVALID_PAGE ? kvmMmuLoad(vcpu) : 0;
}

function* reloadAfterWork(vcpu: Vcpu): Steps<number> {
  yield* doShadowWork(vcpu.kvm);
  const r = vcpu.arch.mmu.root.hpa === INVALID_PAGE ? kvmMmuLoad(vcpu) : 0;
  return typeof r === 'number' ? r : yield* r;
}

/** kvm_mmu_load(): get a root and point the hardware at it. */
export function kvmMmuLoad(vcpu: Vcpu): MaybeSteps<number> {
  const { mmu } = vcpu.arch;
  if (!mmu.rootRole.direct) return loadShadow(vcpu);
  const root = kvmTdpMmuAllocRoot(vcpu);
  if (typeof root === 'number') return root;
  mmu.root.hpa = root.hpa;
  mmu.root.sp = root;
  mmu.root.pgd = 0;
  return loaded(vcpu);
}

function* loadShadow(vcpu: Vcpu): Steps<number> {
  const r = yield* mmuAllocShadowRoots(vcpu);
  return r === 0 ? loaded(vcpu) : r;
}

/** There is a new root. */
function loaded(vcpu: Vcpu): number {
  kvmMmuLoadPgd(vcpu);
  // A root's address may have belonged to an older root: nothing cached under it may be used.
  vcpu.kvm.module.ops.flushTlbCurrent(vcpu);
  return 0;
}

/** kvm_mmu_load_pgd(). */
export function kvmMmuLoadPgd(vcpu: Vcpu): void {
  const { mmu } = vcpu.arch;
  if (mmu.root.hpa === INVALID_PAGE) return;
  vcpu.kvm.module.ops.loadMmuPgd(vcpu, mmu.root.hpa, mmu.rootRole.level);
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

/** kvm_mmu_after_set_cpuid(). */
export function kvmMmuAfterSetCpuid(vcpu: Vcpu): void {
  kvmMmuInvalidateRoles(vcpu);
  kvmMmuResetContext(vcpu);
}

/** kvm_mmu_free_obsolete_roots(): handler of KVM_REQ_MMU_FREE_OBSOLETE_ROOTS. */
export function kvmMmuFreeObsoleteRoots(vcpu: Vcpu): void {
  freeObsolete(vcpu.kvm, vcpu.arch.rootMmu);
  freeObsolete(vcpu.kvm, vcpu.arch.guestMmu);
}

function freeObsolete(kvm: Kvm, mmu: KvmMmu): void {
  let roots = 0;
  if (isObsoleteRoot(kvm, mmu.root)) roots |= KVM_MMU_ROOT_CURRENT;
  for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) {
    if (isObsoleteRoot(kvm, mmu.prevRoots[i]!)) roots |= kvmMmuRootPrevious(i);
  }
  if (roots !== 0) kvmMmuFreeRoots(kvm, mmu, roots);
}

/** is_obsolete_root(): a root without a page may be of any age. */
function isObsoleteRoot(kvm: Kvm, { hpa, sp }: KvmMmuRootInfo): boolean {
  if (hpa === INVALID_PAGE) return false;
  return sp instanceof KvmMmuPage ? isObsoleteSp(kvm, sp) : sp === null || sp.role.invalid;
}

/** kvm_mmu_destroy(): the vCPU goes away. */
export const kvmMmuDestroy = (vcpu: Vcpu): void => kvmMmuUnload(vcpu);

/** kvm_mmu_uninit_vm(): after the last vCPU; frees every root. */
export function* kvmMmuUninitVm(kvm: Kvm): Steps<void> {
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  kvmTdpMmuInvalidateRoots(kvm);
  yield* zapAllShadowPages(kvm);
  freeDummyRoot(kvm);
  kvm.mmuLock.writeUnlock();
  yield* kvmTdpMmuZapInvalidatedRoots(kvm);
}
