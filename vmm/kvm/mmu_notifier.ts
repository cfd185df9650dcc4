// SPDX-License-Identifier: GPL-2.0-only
/**
 * What KVM does when the host changes mappings of the VM's memory. Mirrors the mmu_notifier half of
 * virt/kvm/kvm_main.c, 6.12. Order: count the invalidation, invalidate pfn caches (no mmu_lock), zap under mmu_lock.
 */
import { PAGE_SIZE, type Gfn, type Hva } from '../../lib/x86/addr.ts';
import type { MmuNotifier, MmuNotifierRange } from '../host/mm/mmu_notifier.ts';
import type { Steps } from '../host/steps.ts';
import { BugError } from '../machine/errors.ts';
import { INVALID_GFN, type Kvm } from './kvm_host.ts';
import { hvaToGfnMemslot, type KvmMemorySlot } from './memslots.ts';
import { kvmAgeGfn, kvmTestAgeGfn } from './mmu/age.ts';
import { kvmMmuZapAll, kvmUnmapGfnRange, type KvmGfnRange } from './mmu/zap.ts';
import { kvmFlushRemoteTlbs } from './requests.ts';
import { TP } from './trace_events.ts';

/** kvm_init_mmu_notifier(): one per VM. */
export class KvmMmuNotifier implements MmuNotifier {
  readonly name: string;
  readonly #kvm: Kvm;

  constructor(kvm: Kvm) {
    this.#kvm = kvm;
    this.name = kvm.name;
  }

  /** kvm_mmu_notifier_invalidate_range_start(). */
  *invalidateRangeStart(range: MmuNotifierRange): Steps<number> {
    const kvm = this.#kvm;
    const { trace } = kvm.module;
    if (trace.on[TP.KVM_UNMAP_HVA_RANGE]) trace.record(TP.KVM_UNMAP_HVA_RANGE, range.start, range.end);
    if (!kvm.mnInvalidateLock.fastLock()) yield* kvm.mnInvalidateLock.lock();
    kvm.mnActiveInvalidateCount++;
    kvm.mnInvalidateLock.unlock();
    // Here gfn_to_pfn_cache_invalidate_start() comes in: caches are invalidated before mmu_lock is taken.
    yield* this.#unmapRange(range);
    return 0;
  }

  /** kvm_mmu_notifier_invalidate_range_end(). */
  *invalidateRangeEnd(range: MmuNotifierRange): Steps<void> {
    const kvm = this.#kvm;
    const idx = kvm.srcu.readLock();
    if (this.#gfnRanges(range.start, range.end, range.blockable).length !== 0) {
      if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
      kvmMmuInvalidateEnd(kvm);
      kvm.mmuLock.writeUnlock();
    }
    kvm.srcu.readUnlock(idx);
    if (!kvm.mnInvalidateLock.fastLock()) yield* kvm.mnInvalidateLock.lock();
    const left = --kvm.mnActiveInvalidateCount;
    kvm.mnInvalidateLock.unlock();
    if (left < 0) throw new BugError(`${kvm.name}: an invalidation ends that never began`);
    // At most one waiter: it holds slots_lock.
    if (left === 0) kvm.mnMemslotsUpdateWait.wakeAll();
  }

  /** kvm_mmu_notifier_release(): the process exits. */
  *release(): Steps<void> {
    const idx = this.#kvm.srcu.readLock();
    yield* kvmMmuZapAll(this.#kvm);
    this.#kvm.srcu.readUnlock(idx);
  }

  clearFlushYoung(start: number, end: number): boolean {
    const { trace } = this.#kvm.module;
    if (trace.on[TP.KVM_AGE_HVA]) trace.record(TP.KVM_AGE_HVA, start, end);
    return this.#gfnRanges(start, end, true)
      .map((range) => kvmAgeGfn(this.#kvm, range))
      .includes(true);
  }

  testYoung(start: number, end: number): boolean {
    const { trace } = this.#kvm.module;
    if (trace.on[TP.KVM_TEST_AGE_HVA]) trace.record(TP.KVM_TEST_AGE_HVA, start);
    return this.#gfnRanges(start, end, true).some((range) => kvmTestAgeGfn(this.#kvm, range));
  }

  /** kvm_handle_hva_range() with kvm_mmu_unmap_gfn_range(): mmu_lock is taken only if a slot overlaps. */
  *#unmapRange(hvas: MmuNotifierRange): Steps<void> {
    const kvm = this.#kvm;
    const { sched } = kvm.host;
    const idx = kvm.srcu.readLock();
    const ranges = this.#gfnRanges(hvas.start, hvas.end, hvas.blockable);
    if (ranges.length !== 0) {
      if (sched.shouldYield()) yield;
      if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
      kvmMmuInvalidateBegin(kvm);
      let flush = false;
      // All ranges before the first zap: it may let go of mmu_lock.
      for (const range of ranges) kvmMmuInvalidateRangeAdd(kvm, range.start, range.end);
      for (const range of ranges) flush = (yield* kvmUnmapGfnRange(kvm, range)) || flush;
      if (flush) yield* kvmFlushRemoteTlbs(kvm);
      kvm.mmuLock.writeUnlock();
    }
    kvm.srcu.readUnlock(idx);
  }

  /** The gfns behind [start, end), slot by slot, in every address space. */
  #gfnRanges(start: number, end: number, mayBlock: boolean): KvmGfnRange[] {
    return this.#kvm.memslots.flatMap((slots) =>
      slots.inHvaRange(start as Hva, (end - 1) as Hva).map((slot) => gfnRange(slot, start, end, mayBlock)),
    );
  }
}

function gfnRange(slot: KvmMemorySlot, start: number, end: number, mayBlock: boolean): KvmGfnRange {
  const first = Math.max(start, slot.userspaceAddr) as Hva;
  const last = Math.min(end, slot.userspaceAddr + slot.npages * PAGE_SIZE);
  const startGfn = hvaToGfnMemslot(first, slot);
  const endGfn = hvaToGfnMemslot((last + PAGE_SIZE - 1) as Hva, slot);
  return { slot, start: startGfn, end: endGfn, mayBlock };
}

/** kvm_mmu_invalidate_begin(). */
export function kvmMmuInvalidateBegin(kvm: Kvm): void {
  kvm.mmuLock.assertHeldWrite();
  kvm.mmuInvalidateInProgress++;
  if (kvm.mmuInvalidateInProgress === 1) {
    kvm.mmuInvalidateRangeStart = INVALID_GFN;
    kvm.mmuInvalidateRangeEnd = INVALID_GFN;
  }
}

/** kvm_mmu_invalidate_range_add(): concurrent invalidations share one range that covers all. */
export function kvmMmuInvalidateRangeAdd(kvm: Kvm, start: Gfn, end: Gfn): void {
  kvm.mmuLock.assertHeldWrite();
  if (kvm.mmuInvalidateRangeStart === INVALID_GFN) {
    kvm.mmuInvalidateRangeStart = start;
    kvm.mmuInvalidateRangeEnd = end;
    return;
  }
  kvm.mmuInvalidateRangeStart = Math.min(kvm.mmuInvalidateRangeStart, start) as Gfn;
  kvm.mmuInvalidateRangeEnd = Math.max(kvm.mmuInvalidateRangeEnd, end) as Gfn;
}

/** kvm_mmu_invalidate_end(). */
export function kvmMmuInvalidateEnd(kvm: Kvm): void {
  kvm.mmuLock.assertHeldWrite();
  // First the sequence, then the count: a fault that misses the count must see the sequence.
  kvm.mmuInvalidateSeq++;
  kvm.mmuInvalidateInProgress--;
  if (kvm.mmuInvalidateInProgress < 0)
    throw new BugError(`${kvm.name}: mmu_invalidate_in_progress is negative`);
}
