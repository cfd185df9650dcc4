// SPDX-License-Identifier: GPL-2.0-only
/**
 * What x86 adds to a change of memslots: huge page information, and starting or ending dirty logging. Mirrors
 * kvm_arch_prepare_memory_region() and kvm_arch_commit_memory_region() of arch/x86/kvm/x86.c, 6.12; page tracking
 * and rmaps are not in the slot (mmu/shadow_state.ts).
 */
import { ERRNO } from '../../lib/uapi/errno.ts';
import { KVM_MEM } from '../../lib/uapi/memory.ts';
import type { Steps } from '../host/steps.ts';
import { kvmDirtyLogManualProtectAndInitSet } from './dirty_bitmap.ts';
import type { Kvm } from './kvm_host.ts';
import type { KvmMemorySlot } from './memslots.ts';
import {
  kvmMmuSlotLeafClearDirty,
  kvmMmuSlotRemoveWriteAccess,
  kvmMmuSlotTrySplitHugePages,
  kvmMmuZapCollapsibleSptes,
} from './mmu/dirty_log.ts';
import { kvmMmuUpdateMmuPages } from './mmu/shadow_limit.ts';
import { kvmFlushRemoteTlbs } from './requests.ts';

/** enum kvm_mr_change. */
export const KVM_MR = { CREATE: 0, DELETE: 1, MOVE: 2, FLAGS_ONLY: 3 } as const;

const PAGES_PER_2M = 512;

/** kvm_arch_prepare_memory_region(): 0 or a negated errno. */
export function kvmArchPrepareMemoryRegion(
  kvm: Kvm,
  old: KvmMemorySlot | null,
  next: KvmMemorySlot | null,
  change: number,
): number {
  if (next === null) return 0;
  if (change === KVM_MR.FLAGS_ONLY) {
    next.arch.lpageInfo = old!.arch.lpageInfo;
    return 0;
  }
  const maxGfn = 2 ** (kvm.module.caps.maxphyaddr - 12) - 1;
  if (next.baseGfn + next.npages - 1 > maxGfn) return -ERRNO.EINVAL;
  next.arch.lpageInfo = allocLpageInfo(next);
  return 0;
}

/** kvm_alloc_memslot_metadata(): where a 2 MiB mapping cannot be, since the slot ends or its HVA is aligned differently. */
function allocLpageInfo(slot: KvmMemorySlot): Uint16Array {
  const first = Math.floor(slot.baseGfn / PAGES_PER_2M);
  const last = Math.floor((slot.baseGfn + slot.npages - 1) / PAGES_PER_2M);
  const info = new Uint16Array(last - first + 1);
  if (slot.baseGfn % PAGES_PER_2M !== 0) info[0] = 1;
  if ((slot.baseGfn + slot.npages) % PAGES_PER_2M !== 0) info[info.length - 1] = 1;
  const hvaFrame = Math.floor(slot.userspaceAddr / 4096);
  if ((slot.baseGfn - hvaFrame) % PAGES_PER_2M !== 0) info.fill(1);
  return info;
}

/** kvm_arch_commit_memory_region(), that is kvm_mmu_slot_apply_flags(). */
export function* kvmArchCommitMemoryRegion(
  kvm: Kvm,
  old: KvmMemorySlot | null,
  next: KvmMemorySlot | null,
  change: number,
): Steps<void> {
  if (change === KVM_MR.CREATE || change === KVM_MR.DELETE) yield* kvmMmuUpdateMmuPages(kvm);
  if (change !== KVM_MR.FLAGS_ONLY || next === null || next.flags & KVM_MEM.READONLY) return;
  if (((old?.flags ?? 0) & KVM_MEM.LOG_DIRTY_PAGES) === (next.flags & KVM_MEM.LOG_DIRTY_PAGES)) return;
  if ((next.flags & KVM_MEM.LOG_DIRTY_PAGES) === 0) {
    yield* kvmMmuZapCollapsibleSptes(kvm, next);
    return;
  }
  // Every page counts as dirty already; each is protected when its bit is cleared.
  if (kvmDirtyLogManualProtectAndInitSet(kvm)) return;
  if (kvm.module.params['kvm.eager_page_split']) yield* kvmMmuSlotTrySplitHugePages(kvm, next);
  if (kvm.module.ops.cpuDirtyLogSize !== 0) {
    yield* kvmMmuSlotLeafClearDirty(kvm, next);
    yield* kvmMmuSlotRemoveWriteAccess(kvm, next, 2);
  } else {
    yield* kvmMmuSlotRemoveWriteAccess(kvm, next, 1);
  }
  yield* kvmFlushRemoteTlbs(kvm);
}
