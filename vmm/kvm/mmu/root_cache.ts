// SPDX-License-Identifier: GPL-2.0-only
/**
 * The cache of roots of an MMU context, the current one and three previous: kvm_mmu_new_pgd(), fast_pgd_switch() and the
 * cached_root_*() functions of arch/x86/kvm/mmu/mmu.c, 6.12. A reused root is neither synced nor flushed: who changes
 * CR3 or EPTP in a way that needs it asks for it.
 */
import type { Kvm, Vcpu } from '../kvm_host.ts';
import {
  INVALID_PAGE,
  KVM_MMU_NUM_PREV_ROOTS,
  KVM_MMU_ROOT_CURRENT,
  type KvmMmu,
  type KvmMmuRootInfo,
} from '../kvm_host_x86.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest } from '../requests.ts';
import { vcpuClearMmioInfo } from './mmio.ts';
import { clearSpWriteFloodingCount } from './mmu_page.ts';
import { ROLE } from './role.ts';
import { kvmMmuFreeRoots } from './free_roots.ts';

/** is_root_usable(): direct roots serve every pgd; a root that became invalid or has another role serves none. */
function isRootUsable(root: KvmMmuRootInfo, pgd: number, role: number): boolean {
  const { sp } = root;
  return sp !== null && ((role & ROLE.DIRECT) !== 0 || root.pgd === pgd) && sp.role.word === role;
}

/** cached_root_find_and_keep_current(): a hit makes the old root the most recent one, a miss drops the oldest. */
function findAndKeepCurrent(kvm: Kvm, mmu: KvmMmu, pgd: number, role: number): boolean {
  if (isRootUsable(mmu.root, pgd, role)) return true;
  const { prevRoots } = mmu;
  for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) {
    // The old root moves to the front, each that is not it one place back; the last ends up current.
    const candidate = prevRoots[i]!;
    prevRoots[i] = mmu.root;
    mmu.root = candidate;
    if (isRootUsable(candidate, pgd, role)) return true;
  }
  kvmMmuFreeRoots(kvm, mmu, KVM_MMU_ROOT_CURRENT);
  return false;
}

/** cached_root_find_without_current(): on a hit the gap is closed. */
function findWithoutCurrent(mmu: KvmMmu, pgd: number, role: number): boolean {
  const { prevRoots } = mmu;
  for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) {
    const candidate = prevRoots[i]!;
    if (!isRootUsable(candidate, pgd, role)) continue;
    const empty = mmu.root;
    mmu.root = candidate;
    for (; i < KVM_MMU_NUM_PREV_ROOTS - 1; i++) prevRoots[i] = prevRoots[i + 1]!;
    prevRoots[i] = empty;
    return true;
  }
  return false;
}

/** fast_pgd_switch(): whether the current root is now one for `pgd` and `role`. Roots without a page are not cached. */
function fastPgdSwitch(kvm: Kvm, mmu: KvmMmu, pgd: number, role: number): boolean {
  if (mmu.root.hpa !== INVALID_PAGE && mmu.root.sp === null) kvmMmuFreeRoots(kvm, mmu, KVM_MMU_ROOT_CURRENT);
  return mmu.root.hpa === INVALID_PAGE
    ? findWithoutCurrent(mmu, pgd, role)
    : findAndKeepCurrent(kvm, mmu, pgd, role);
}

/** kvm_mmu_new_pgd(): the guest loaded CR3 or EPTP. Without a usable root, kvm_mmu_reload() makes one. */
export function kvmMmuNewPgd(vcpu: Vcpu, pgd: number): void {
  const { mmu } = vcpu.arch;
  const { kvm } = vcpu;
  if (!fastPgdSwitch(kvm, mmu, pgd, mmu.rootRole.word)) return;
  kvmMakeRequest(KVM_REQ.LOAD_MMU_PGD, vcpu);
  if (kvm.module.params['kvm.flush_on_reuse'] !== 0) {
    kvmMakeRequest(KVM_REQ.MMU_SYNC, vcpu);
    kvmMakeRequest(KVM_REQ.TLB_FLUSH_CURRENT, vcpu);
  }
  vcpuClearMmioInfo(vcpu);
  clearSpWriteFloodingCount(mmu.root.sp);
}
