// SPDX-License-Identifier: GPL-2.0-only
/** Giving roots back: kvm_mmu_free_roots() and kvm_mmu_free_guest_mode_roots() of arch/x86/kvm/mmu/mmu.c, 6.12. */
import { BugError } from '../../machine/errors.ts';
import type { Kvm } from '../kvm_host.ts';
import {
  INVALID_PAGE,
  KVM_MMU_NUM_PREV_ROOTS,
  KVM_MMU_ROOT_CURRENT,
  type KvmMmu,
  type KvmMmuRootInfo,
} from '../kvm_host_x86.ts';
import { KvmMmuPage, TdpMmuRoot } from './mmu_page.ts';
import { putShadowRoot } from './shadow_zap.ts';
import { kvmTdpMmuPutRoot } from './tdp_roots.ts';

/** KVM_MMU_ROOT_PREVIOUS(): the bit of previous root `i`. */
export const kvmMmuRootPrevious = (i: number): number => KVM_MMU_ROOT_CURRENT << (i + 1);

/** kvm_mmu_free_roots(): `roots` is a mask of KVM_MMU_ROOT_CURRENT and kvmMmuRootPrevious(). */
export function kvmMmuFreeRoots(kvm: Kvm, mmu: KvmMmu, roots: number): void {
  if (roots & KVM_MMU_ROOT_CURRENT) freeRoot(kvm, mmu.root);
  for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) {
    if (roots & kvmMmuRootPrevious(i)) freeRoot(kvm, mmu.prevRoots[i]!);
  }
}

/** mmu_free_root_page(). */
function freeRoot(kvm: Kvm, info: KvmMmuRootInfo): void {
  const { sp } = info;
  info.hpa = INVALID_PAGE;
  info.pgd = 0;
  info.sp = null;
  if (sp === null) return;
  if (sp instanceof TdpMmuRoot) kvmTdpMmuPutRoot(kvm, sp);
  else if (sp instanceof KvmMmuPage) putShadowRoot(kvm, sp);
}

/** kvm_mmu_free_guest_mode_roots(): previous roots that were L2's, or that no page describes. Not while L2 runs. */
export function kvmMmuFreeGuestModeRoots(kvm: Kvm, mmu: KvmMmu): void {
  if (mmu.rootRole.guestMode) throw new BugError('L2 cannot give up its own roots only');
  let roots = 0;
  for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) {
    const { hpa, sp } = mmu.prevRoots[i]!;
    if (hpa !== INVALID_PAGE && (sp === null || sp.role.guestMode)) roots |= kvmMmuRootPrevious(i);
  }
  kvmMmuFreeRoots(kvm, mmu, roots);
}
