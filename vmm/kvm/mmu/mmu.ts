// SPDX-License-Identifier: GPL-2.0-only
/**
 * The MMU of a vCPU: getting, loading and giving up roots. Mirrors kvm_mmu_load(), kvm_mmu_unload() and
 * kvm_mmu_free_obsolete_roots() of arch/x86/kvm/mmu/mmu.c, 6.12, for two-dimensional paging.
 */
import type { Steps } from '../../host/steps.ts';
import { UnimplementedError } from '../../machine/errors.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import {
  INVALID_PAGE,
  KVM_MMU_NUM_PREV_ROOTS,
  KVM_MMU_ROOT_CURRENT,
  KVM_MMU_ROOTS_ALL,
  type KvmMmu,
  type MaybeSteps,
} from '../kvm_host_x86.ts';
import { kvmMmuFreeRoots, kvmMmuRootPrevious } from './free_roots.ts';
import { kvmInitMmu, kvmMmuInvalidateRoles } from './init.ts';
import { kvmTdpMmuAllocRoot, kvmTdpMmuInvalidateRoots, kvmTdpMmuZapInvalidatedRoots } from './tdp_roots.ts';

/** kvm_mmu_reload(): make sure that there is a root; 0 or a negated errno. */
export function kvmMmuReload(vcpu: Vcpu): MaybeSteps<number> {
  return vcpu.arch.mmu.root.hpa === INVALID_PAGE ? kvmMmuLoad(vcpu) : 0;
}

/** kvm_mmu_load(): get a root and point the hardware at it. */
export function kvmMmuLoad(vcpu: Vcpu): MaybeSteps<number> {
  const { mmu } = vcpu.arch;
  const { ops } = vcpu.kvm.module;
  if (!mmu.rootRole.direct) throw new UnimplementedError('shadow paging');
  const root = kvmTdpMmuAllocRoot(vcpu);
  if (typeof root === 'number') return root;
  mmu.root.hpa = root.hpa;
  mmu.root.sp = root;
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
  if (mmu.root.sp?.role.invalid === true) roots |= KVM_MMU_ROOT_CURRENT;
  for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) {
    if (mmu.prevRoots[i]!.sp?.role.invalid === true) roots |= kvmMmuRootPrevious(i);
  }
  if (roots !== 0) kvmMmuFreeRoots(kvm, mmu, roots);
}

/** kvm_mmu_destroy(): the vCPU goes away. */
export const kvmMmuDestroy = (vcpu: Vcpu): void => kvmMmuUnload(vcpu);

/** kvm_mmu_uninit_vm(): after the last vCPU; frees every root. */
export function* kvmMmuUninitVm(kvm: Kvm): Steps<void> {
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  kvmTdpMmuInvalidateRoots(kvm);
  kvm.mmuLock.writeUnlock();
  yield* kvmTdpMmuZapInvalidatedRoots(kvm);
}
