// SPDX-License-Identifier: GPL-2.0-only
/**
 * KVM_SET_USER_MEMORY_REGION(2): checks and the four kinds of change. Mirrors kvm_set_memory_region(),
 * kvm_set_memslot() and kvm_swap_active_memslots() of virt/kvm/kvm_main.c, 6.12; leaves out guest_memfd.
 * CREATE and FLAGS_ONLY publish one set, DELETE and MOVE two: first one in which the slot is invalid.
 */
import { ERRNO, KvmError } from '../../lib/uapi/errno.ts';
import type { KvmIoctl } from '../../lib/uapi/ioctls.ts';
import {
  KVM_MEM,
  KVM_MEM_MAX_NR_PAGES,
  KVM_MEM_SLOTS_NUM,
  KVM_USER_MEM_SLOTS,
  type KvmUserspaceMemoryRegion,
  type KvmUserspaceMemoryRegion2,
} from '../../lib/uapi/memory.ts';
import { PAGE_SIZE, type Gfn, type Hva } from '../../lib/x86/addr.ts';
import { hex } from '../../lib/x86/bits.ts';
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';
import { BugError } from '../machine/errors.ts';
import type { Steps } from '../host/steps.ts';
import type { Kvm } from './kvm_host.ts';
import { KVM_MR, kvmArchCommitMemoryRegion, kvmArchPrepareMemoryRegion } from './memory_region_x86.ts';
import {
  KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS,
  KVM_MEMSLOT_INVALID,
  KvmMemorySlot,
  memslotGen,
} from './memslots.ts';
import { allocDirtyBitmap, kvmDirtyLogManualProtectAndInitSet } from './dirty_bitmap.ts';
import { kvmArchFlushShadowMemslot, kvmArchMemslotsUpdated } from './mmu/zap.ts';

const U64_MAX = (1n << 64n) - 1n;
const PAGE_OFFSET = BigInt(PAGE_SIZE - 1);
/** TASK_SIZE_MAX of 4-level paging: where userspace ends. */
const TASK_SIZE_MAX = (1n << 47n) - BigInt(PAGE_SIZE);

/** A region after the checks of its own fields. */
interface Region {
  readonly id: number;
  readonly asId: number;
  readonly flags: number;
  readonly baseGfn: number;
  readonly npages: number;
  readonly userspaceAddr: number;
}

/** The ioctl KVM_SET_USER_MEMORY_REGION. */
export function* kvmVmIoctlSetUserMemoryRegion(kvm: Kvm, mem: KvmUserspaceMemoryRegion): Steps<void> {
  const ioctl = 'KVM_SET_USER_MEMORY_REGION';
  if (mem.flags & ~(KVM_MEM.LOG_DIRTY_PAGES | KVM_MEM.READONLY)) {
    throw new KvmError(ioctl, ERRNO.EINVAL, `flags ${hex(mem.flags)}`);
  }
  yield* setUserMemoryRegion(kvm, mem, ioctl);
}

/** The ioctl KVM_SET_USER_MEMORY_REGION2. */
export function* kvmVmIoctlSetUserMemoryRegion2(kvm: Kvm, mem: KvmUserspaceMemoryRegion2): Steps<void> {
  yield* setUserMemoryRegion(kvm, mem, 'KVM_SET_USER_MEMORY_REGION2');
}

function* setUserMemoryRegion(kvm: Kvm, mem: KvmUserspaceMemoryRegion, ioctl: KvmIoctl): Steps<void> {
  if ((mem.slot & 0xffff) >= KVM_USER_MEM_SLOTS) {
    throw new KvmError(ioctl, ERRNO.EINVAL, `slot ${mem.slot & 0xffff}, userspace has ${KVM_USER_MEM_SLOTS}`);
  }
  if (!kvm.slotsLock.fastLock()) yield* kvm.slotsLock.lock();
  try {
    yield* kvmSetMemoryRegion(kvm, mem, ioctl);
  } finally {
    kvm.slotsLock.unlock();
  }
}

/** __kvm_set_memory_region(): with slots_lock held; internal slots are allowed. Throws KvmError. */
export function* kvmSetMemoryRegion(kvm: Kvm, mem: KvmUserspaceMemoryRegion, ioctl: KvmIoctl): Steps<void> {
  kvm.slotsLock.assertHeld();
  const region = checkRegion(kvm, mem, ioctl);
  const slots = kvm.memslots[region.asId]!;
  const old = slots.idToMemslot(region.id);
  if (region.npages === 0) {
    if (old === null) throw new KvmError(ioctl, ERRNO.EINVAL, `slot ${region.id} to be deleted is not there`);
    return yield* kvmSetMemslot(kvm, old, null, KVM_MR.DELETE, ioctl);
  }
  const change = old === null ? KVM_MR.CREATE : changeOf(old, region, ioctl);
  if (change === null) return;
  if (change !== KVM_MR.FLAGS_ONLY) {
    const other = slots.overlapping(
      region.id,
      region.baseGfn as Gfn,
      (region.baseGfn + region.npages) as Gfn,
    );
    if (other !== null) throw new KvmError(ioctl, ERRNO.EEXIST, overlapStory(region, other));
  }
  const next = new KvmMemorySlot({
    ...region,
    baseGfn: region.baseGfn as Gfn,
    userspaceAddr: region.userspaceAddr as Hva,
  });
  yield* kvmSetMemslot(kvm, old, next, change, ioctl);
}

/** The checks of the region itself, in the kernel's order. */
function checkRegion(kvm: Kvm, mem: KvmUserspaceMemoryRegion, ioctl: KvmIoctl): Region {
  const [size, gpa, hva] = [u64(mem.memory_size), u64(mem.guest_phys_addr), u64(mem.userspace_addr)];
  const asId = mem.slot >>> 16;
  const id = mem.slot & 0xffff;
  const npages = Number(size >> 12n);
  const wrong = whatIsWrong(mem.flags, size, gpa, hva);
  if (wrong !== null) throw new KvmError(ioctl, ERRNO.EINVAL, wrong);
  if (asId >= kvm.memslots.length || id >= KVM_MEM_SLOTS_NUM) {
    throw new KvmError(ioctl, ERRNO.EINVAL, `slot ${id} of address space ${asId}`);
  }
  if (gpa + size > U64_MAX) {
    throw new KvmError(ioctl, ERRNO.EINVAL, `guest_phys_addr ${hex(gpa)} plus ${hex(size)} wraps`);
  }
  if (npages > KVM_MEM_MAX_NR_PAGES) throw new KvmError(ioctl, ERRNO.EINVAL, `${npages} pages`);
  return { id, asId, flags: mem.flags, baseGfn: Number(gpa >> 12n), npages, userspaceAddr: Number(hva) };
}

function whatIsWrong(flags: number, size: bigint, gpa: bigint, hva: bigint): string | null {
  if (flags & ~(KVM_MEM.LOG_DIRTY_PAGES | KVM_MEM.READONLY)) return `flags ${hex(flags)}`;
  if (size & PAGE_OFFSET) return `memory_size ${hex(size)} is not page aligned`;
  if (gpa & PAGE_OFFSET) return `guest_phys_addr ${hex(gpa)} is not page aligned`;
  if (hva & PAGE_OFFSET) return `userspace_addr ${hex(hva)} is not page aligned`;
  const userspace = size <= TASK_SIZE_MAX && hva <= TASK_SIZE_MAX - size;
  return userspace ? null : `userspace_addr ${hex(hva)} is not userspace's`;
}

const u64 = (value: number | bigint): bigint => BigInt.asUintN(64, BigInt(value));

/** What happens to a slot that exists: null for nothing. */
function changeOf(old: KvmMemorySlot, region: Region, ioctl: KvmIoctl): number | null {
  const fixed = immutableChange(old, region);
  if (fixed !== null) throw new KvmError(ioctl, ERRNO.EINVAL, `slot ${region.id}: ${fixed} cannot change`);
  if (region.baseGfn !== old.baseGfn) return KVM_MR.MOVE;
  return region.flags === old.flags ? null : KVM_MR.FLAGS_ONLY;
}

function immutableChange(old: KvmMemorySlot, region: Region): string | null {
  if (region.userspaceAddr !== old.userspaceAddr) return 'userspace_addr';
  if (region.npages !== old.npages) return 'memory_size';
  return (region.flags ^ old.flags) & KVM_MEM.READONLY ? 'KVM_MEM_READONLY' : null;
}

function overlapStory(region: Region, other: KvmMemorySlot): string {
  const span = (gfn: number, npages: number): string =>
    `[${hex(gfn * PAGE_SIZE)}, ${hex((gfn + npages) * PAGE_SIZE)})`;
  return `slot ${region.id} ${span(region.baseGfn, region.npages)} overlaps slot ${other.id} ${span(other.baseGfn, other.npages)}`;
}

/** kvm_set_memslot(): carry the change out. */
function* kvmSetMemslot(
  kvm: Kvm,
  old: KvmMemorySlot | null,
  next: KvmMemorySlot | null,
  change: number,
  ioctl: KvmIoctl,
): Steps<void> {
  spend(kvm.host.sched.cpu, COST.MEMSLOT_UPDATE);
  if (!kvm.slotsArchLock.fastLock()) yield* kvm.slotsArchLock.lock();
  const invalid =
    change === KVM_MR.DELETE || change === KVM_MR.MOVE ? yield* kvmInvalidateMemslot(kvm, old!) : null;
  const error = kvmPrepareMemoryRegion(kvm, old, next, change);
  if (error !== 0) {
    if (invalid === null) kvm.slotsArchLock.unlock();
    else yield* kvmActivateMemslot(kvm, invalid, old);
    throw new KvmError(ioctl, error, `slot ${(next ?? old)!.id}`);
  }
  const inactive = kvmGetInactiveMemslots(kvm, (next ?? old)!.asId);
  inactive.replace(old, next);
  yield* kvmActivateMemslot(kvm, invalid ?? old, next);
  yield* kvmCommitMemoryRegion(kvm, old, next, change);
}

const kvmGetInactiveMemslots = (kvm: Kvm, asId: number): Kvm['memslots'][number] => {
  const [first, second] = kvm.memslotSets[asId]!;
  return kvm.memslots[asId] === first ? second : first;
};

/** kvm_invalidate_memslot(): publish a copy that resolves to an error HVA, and drop all translations of the slot. */
function* kvmInvalidateMemslot(kvm: Kvm, old: KvmMemorySlot): Steps<KvmMemorySlot> {
  const invalid = old.copyWithFlags(old.flags | KVM_MEMSLOT_INVALID);
  kvmGetInactiveMemslots(kvm, old.asId).replace(old, invalid);
  yield* kvmSwapActiveMemslots(kvm, old.asId);
  yield* kvmArchFlushShadowMemslot(kvm, old);
  if (!kvm.slotsArchLock.fastLock()) yield* kvm.slotsArchLock.lock();
  old.arch.lpageInfo = invalid.arch.lpageInfo;
  return invalid;
}

/** kvm_activate_memslot(): publish the prepared set, and make the other one equal. */
function* kvmActivateMemslot(kvm: Kvm, old: KvmMemorySlot | null, next: KvmMemorySlot | null): Steps<void> {
  const asId = (next ?? old)!.asId;
  yield* kvmSwapActiveMemslots(kvm, asId);
  kvmGetInactiveMemslots(kvm, asId).replace(old, next);
}

/**
 * kvm_swap_active_memslots(): one generation step. The generation carries the in-progress flag from publication until
 * every reader of the old set has left, so that nothing cached meanwhile can match afterwards. Drops slots_arch_lock.
 */
function* kvmSwapActiveMemslots(kvm: Kvm, asId: number): Steps<void> {
  const slots = kvmGetInactiveMemslots(kvm, asId);
  slots.generation = kvm.memslots[asId]!.generation + KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS;
  // An invalidation that began with the old set must end with it, else its locking is unbalanced.
  if (!kvm.mnInvalidateLock.fastLock()) yield* kvm.mnInvalidateLock.lock();
  while (kvm.mnActiveInvalidateCount !== 0) {
    kvm.mnInvalidateLock.unlock();
    yield* kvm.mnMemslotsUpdateWait.wait(() => kvm.mnActiveInvalidateCount === 0);
    if (!kvm.mnInvalidateLock.fastLock()) yield* kvm.mnInvalidateLock.lock();
  }
  kvm.memslots[asId] = slots;
  kvm.mnInvalidateLock.unlock();
  kvm.slotsArchLock.unlock();
  if (kvm.host.sched.shouldYield()) yield;
  yield* kvm.srcu.synchronize();
  const generation = memslotGen(slots.generation) + kvm.memslots.length;
  yield* kvmArchMemslotsUpdated(kvm, generation);
  slots.generation = generation;
}

/** kvm_prepare_memory_region(): what may fail; a negated errno. */
function kvmPrepareMemoryRegion(
  kvm: Kvm,
  old: KvmMemorySlot | null,
  next: KvmMemorySlot | null,
  change: number,
): number {
  if (next !== null && next.flags & KVM_MEM.LOG_DIRTY_PAGES) {
    next.dirtyBitmap = old?.dirtyBitmap ?? null;
    if (next.dirtyBitmap === null) {
      next.dirtyBitmap = allocDirtyBitmap(next.npages);
      if (kvmDirtyLogManualProtectAndInitSet(kvm)) setAll(next);
    }
  }
  return kvmArchPrepareMemoryRegion(kvm, old, next, change);
}

/** bitmap_set() of every page: bits beyond the last page stay clear. */
function setAll(slot: KvmMemorySlot): void {
  const bitmap = slot.dirtyBitmap!;
  const words = Math.floor(slot.npages / 32);
  bitmap.fill(0xffff_ffff, 0, words);
  if (slot.npages % 32 !== 0) bitmap[words] = 2 ** (slot.npages % 32) - 1;
}

/** kvm_commit_memory_region(): the change is visible; account for it and free what is left of the old slot. */
function* kvmCommitMemoryRegion(
  kvm: Kvm,
  old: KvmMemorySlot | null,
  next: KvmMemorySlot | null,
  change: number,
): Steps<void> {
  if (change === KVM_MR.CREATE) kvm.nrMemslotPages += next!.npages;
  else if (change === KVM_MR.DELETE) kvm.nrMemslotPages -= old!.npages;
  if (kvm.nrMemslotPages < 0) throw new BugError(`${kvm.name} has ${kvm.nrMemslotPages} pages in slots`);
  yield* kvmArchCommitMemoryRegion(kvm, old, next, change);
}
