// SPDX-License-Identifier: GPL-2.0-only
/**
 * KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG. Mirrors kvm_get_dirty_log_protect() and kvm_clear_dirty_log_protect() of
 * virt/kvm/kvm_main.c, 6.12. Without manual protection, getting the log clears it; with it, clearing is explicit.
 */
import { ERRNO, KvmError } from '../../lib/uapi/errno.ts';
import type { KvmIoctl } from '../../lib/uapi/ioctls.ts';
import {
  KVM_USER_MEM_SLOTS,
  kvmDirtyBitmapBytes,
  type KvmClearDirtyLog,
  type KvmDirtyLog,
} from '../../lib/uapi/memory.ts';
import type { Steps } from '../host/steps.ts';
import { KVM_MAX_NR_ADDRESS_SPACES } from './kvm_main.ts';
import type { Kvm } from './kvm_host.ts';
import type { KvmMemorySlot } from './memslots.ts';
import { kvmArchMmuEnableLogDirtyPtMasked } from './mmu/dirty_log.ts';
import { kvmFlushRemoteTlbs } from './requests.ts';

/** KVM_GET_DIRTY_LOG: fills `log.dirty_bitmap`. */
export function* kvmVmIoctlGetDirtyLog(kvm: Kvm, log: KvmDirtyLog): Steps<void> {
  if (!kvm.slotsLock.fastLock()) yield* kvm.slotsLock.lock();
  try {
    yield* kvmGetDirtyLogProtect(kvm, log);
  } finally {
    kvm.slotsLock.unlock();
  }
}

/** KVM_CLEAR_DIRTY_LOG: pages whose bit is set in `log.dirty_bitmap` are clean and protected again. */
export function* kvmVmIoctlClearDirtyLog(kvm: Kvm, log: KvmClearDirtyLog): Steps<void> {
  if (!kvm.slotsLock.fastLock()) yield* kvm.slotsLock.lock();
  try {
    yield* kvmClearDirtyLogProtect(kvm, log);
  } finally {
    kvm.slotsLock.unlock();
  }
}

function loggedSlot(kvm: Kvm, slot: number, ioctl: KvmIoctl): KvmMemorySlot {
  const asId = slot >>> 16;
  const id = slot & 0xffff;
  if (asId >= KVM_MAX_NR_ADDRESS_SPACES || id >= KVM_USER_MEM_SLOTS) {
    throw new KvmError(ioctl, ERRNO.EINVAL, `slot ${id} of address space ${asId}`);
  }
  const found = kvm.memslots[asId]!.idToMemslot(id);
  if (found?.dirtyBitmap == null) throw new KvmError(ioctl, ERRNO.ENOENT, `slot ${id} has no dirty log`);
  return found;
}

function* kvmGetDirtyLogProtect(kvm: Kvm, log: KvmDirtyLog): Steps<void> {
  const slot = loggedSlot(kvm, log.slot, 'KVM_GET_DIRTY_LOG');
  const bitmap = slot.dirtyBitmap!;
  const bytes = kvmDirtyBitmapBytes(slot.npages);
  if (log.dirty_bitmap.length < bytes) {
    throw new KvmError(
      'KVM_GET_DIRTY_LOG',
      ERRNO.EFAULT,
      `${log.dirty_bitmap.length} bytes, ${bytes} are needed`,
    );
  }
  const snapshot = new Uint32Array(bitmap);
  if (kvm.manualDirtyLogProtect === 0) {
    if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
    let flush = false;
    for (let word = 0; word < bitmap.length; word += 2) {
      // Cleared first: a write that comes in between is logged in the next round at the latest.
      const [lo, hi] = [bitmap[word]!, bitmap[word + 1]!];
      snapshot[word] = lo;
      snapshot[word + 1] = hi;
      if ((lo | hi) === 0) continue;
      flush = true;
      bitmap[word] = 0;
      bitmap[word + 1] = 0;
      kvmArchMmuEnableLogDirtyPtMasked(kvm, slot, slot.baseGfn + word * 32, lo, hi);
    }
    kvm.mmuLock.writeUnlock();
    if (flush) yield* kvmFlushRemoteTlbs(kvm);
  }
  log.dirty_bitmap.set(new Uint8Array(snapshot.buffer, 0, bytes));
}

function* kvmClearDirtyLogProtect(kvm: Kvm, log: KvmClearDirtyLog): Steps<void> {
  const slot = loggedSlot(kvm, log.slot, 'KVM_CLEAR_DIRTY_LOG');
  const bitmap = slot.dirtyBitmap!;
  checkClearRange(slot, log);
  const mask = new Uint32Array(Math.ceil(log.num_pages / 64) * 2);
  new Uint8Array(mask.buffer).set(log.dirty_bitmap.subarray(0, mask.length * 4));
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  const first = log.first_page / 32;
  let flush = false;
  for (let i = 0; i < mask.length; i += 2) {
    const lo = mask[i]! & bitmap[first + i]!;
    const hi = mask[i + 1]! & bitmap[first + i + 1]!;
    if ((lo | hi) === 0) continue;
    flush = true;
    bitmap[first + i] = bitmap[first + i]! & ~lo;
    bitmap[first + i + 1] = bitmap[first + i + 1]! & ~hi;
    kvmArchMmuEnableLogDirtyPtMasked(kvm, slot, slot.baseGfn + log.first_page + i * 32, lo, hi);
  }
  kvm.mmuLock.writeUnlock();
  if (flush) yield* kvmFlushRemoteTlbs(kvm);
}

/** The range begins at a multiple of 64 pages, and ends at one or at the end of the slot. */
function checkClearRange(slot: KvmMemorySlot, log: KvmClearDirtyLog): void {
  const { first_page: first, num_pages: count } = log;
  const refuse = (errno: number, why: string): never => {
    throw new KvmError('KVM_CLEAR_DIRTY_LOG', errno, why);
  };
  if (first % 64 !== 0) refuse(ERRNO.EINVAL, `first_page ${first} is no multiple of 64`);
  if (first > slot.npages || count > slot.npages - first)
    refuse(ERRNO.EINVAL, `pages ${first} to ${first + count}`);
  if (count % 64 !== 0 && count !== slot.npages - first) refuse(ERRNO.EINVAL, `num_pages ${count}`);
  const bytes = kvmDirtyBitmapBytes(count);
  if (log.dirty_bitmap.length < bytes)
    refuse(ERRNO.EFAULT, `${log.dirty_bitmap.length} bytes, ${bytes} are needed`);
}
