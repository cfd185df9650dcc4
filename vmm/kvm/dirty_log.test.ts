// SPDX-License-Identifier: GPL-2.0-only
/**
 * Dirty logging: every page that the guest wrote, no other, and again after each round. Errors from
 * kvm_get_dirty_log_protect() and kvm_clear_dirty_log_protect() of virt/kvm/kvm_main.c; Documentation/virt/kvm/api,
 * "KVM_CLEAR_DIRTY_LOG" and "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2".
 */
import { describe, expect, it } from 'vitest';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { ERRNO } from '../../lib/uapi/errno.ts';
import { KVM_DIRTY_LOG, kvmDirtyBitmapBytes } from '../../lib/uapi/memory.ts';
import { EPTE } from '../../lib/x86/paging.ts';
import { MADV } from '../host/mm/madvise.ts';
import type { Steps } from '../host/steps.ts';
import { kvmVmIoctlEnableCapGeneric } from './capabilities.ts';
import { kvmVmIoctlClearDirtyLog, kvmVmIoctlGetDirtyLog } from './dirty_log.ts';
import { markPageDirty } from './dirty_bitmap.ts';
import type { Kvm } from './kvm_host.ts';
import type { Gfn } from '../../lib/x86/addr.ts';
import { done, runGuest, testGuest } from './testing/test_guest.ts';
import { drive, errnoOf, LOG_DIRTY, tdpEntry } from './testing/test_kvm.ts';

const MB = 1 << 20;
const PAGES = 130;

/** Pages that the log names. */
function* dirtyPages(kvm: Kvm, slot = 0): Steps<number[]> {
  const npages = kvm.memslots[0]!.idToMemslot(slot)!.npages;
  const dirty_bitmap = new Uint8Array(kvmDirtyBitmapBytes(npages));
  yield* kvmVmIoctlGetDirtyLog(kvm, { slot, dirty_bitmap });
  return bitsOf(dirty_bitmap);
}

const bitsOf = (bitmap: Uint8Array): number[] =>
  [...bitmap].flatMap((byte, i) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((b) => (byte >> b) & 1).map((b) => 8 * i + b),
  );

const manual = (kvm: Kvm, flags: number): boolean =>
  kvmVmIoctlEnableCapGeneric(kvm, { cap: KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2, flags: 0, args: [flags] });

function bitmapOf(pages: readonly number[], npages: number): Uint8Array {
  const bitmap = new Uint8Array(kvmDirtyBitmapBytes(npages));
  for (const page of pages) bitmap[page >>> 3]! |= 1 << (page & 7);
  return bitmap;
}

for (const ad of ['ad', 'no-ad'] as const) {
  describe(`the dirty log (${ad})`, () => {
    it('has exactly the pages written since the last one', () =>
      runGuest({ ad, slots: [{ bytes: PAGES * 4096, flags: LOG_DIRTY }] }, function* ({ kvm, read, write }) {
        for (const page of [0, 31, 32, 63, 64, 129]) yield* write(page * 4096, 1);
        expect(yield* dirtyPages(kvm)).toEqual([0, 31, 32, 63, 64, 129]);
        expect(yield* dirtyPages(kvm)).toEqual([]);
        yield* write(64 * 4096, 2);
        yield* write(64 * 4096, 3);
        expect(yield* dirtyPages(kvm)).toEqual([64]);
        yield* read(63 * 4096);
        expect(yield* dirtyPages(kvm)).toEqual([]);
      }));

    it('repairs write access without mmu_lock', () =>
      runGuest({ ad, slots: [{ flags: LOG_DIRTY }] }, function* ({ kvm, vcpu, write }) {
        yield* write(0, 1);
        yield* dirtyPages(kvm);
        expect(tdpEntry(vcpu, 0) & EPTE.W).toBe(0);
        yield* write(0, 2);
        expect(tdpEntry(vcpu, 0) & EPTE.W).toBe(EPTE.W);
        expect(vcpu.stat.pf_fast).toBe(1);
      }));

    it('begins with write protection of what is mapped when it is switched on', () =>
      runGuest({ ad }, function* ({ kvm, hva, write, setSlot }) {
        yield* write(0x2000, 1);
        yield* write(0x3000, 1);
        yield* setSlot({ hva, flags: LOG_DIRTY });
        expect(yield* dirtyPages(kvm)).toEqual([]);
        yield* write(0x3000, 2);
        expect(yield* dirtyPages(kvm)).toEqual([3]);
        yield* setSlot({ hva });
        expect(kvm.memslots[0]!.idToMemslot(0)!.dirtyBitmap).toBeNull();
      }));
  });
}

describe('the dirty log', () => {
  it('has pages that KVM itself wrote', () =>
    runGuest({ slots: [{ gpa: 0x10_0000, flags: LOG_DIRTY }] }, function* ({ kvm }) {
      markPageDirty(kvm, 0x105 as Gfn);
      markPageDirty(kvm, 0x5 as Gfn);
      expect(yield* dirtyPages(kvm)).toEqual([5]);
    }));

  it('follows a slot that is moved', () =>
    runGuest({ slots: [{ flags: LOG_DIRTY }] }, function* ({ kvm, hva, write, setSlot }) {
      yield* write(0x1000, 1);
      yield* setSlot({ gpa: 0x40_0000, hva, flags: LOG_DIRTY });
      yield* write(0x40_2000, 1);
      expect(yield* dirtyPages(kvm)).toEqual([1, 2]);
    }));

  it('is refused for slots that do not exist or do not log, and buffers that are too small', () => {
    const logged = { slot: 1, gpa: 0x100_0000, bytes: PAGES * 4096, flags: LOG_DIRTY };
    const guest = testGuest({ slots: [{ slot: 0, bytes: PAGES * 4096 }, logged] });
    const errno = (slot: number, bytes: number): number => {
      const log = { slot, dirty_bitmap: new Uint8Array(bytes) };
      return errnoOf(() => drive(guest, kvmVmIoctlGetDirtyLog(guest.kvm, log)));
    };
    expect(errno(0, 24)).toBe(ERRNO.ENOENT);
    expect(errno(2, 24)).toBe(ERRNO.ENOENT);
    expect(errno(32_764, 24)).toBe(ERRNO.EINVAL);
    expect(errno(2 << 16, 24)).toBe(ERRNO.EINVAL);
    expect(errno(1, 23)).toBe(ERRNO.EFAULT);
    expect(errno(1, 24)).toBe(0);
  });
});

describe('huge pages under dirty logging', () => {
  for (const eager of [0, 1]) {
    it(`are split, and one page is dirty per page written (eager_page_split=${eager})`, () =>
      runGuest(
        { params: [`kvm.eager_page_split=${eager}`], slots: [] },
        function* ({ kvm, read, write, mmap, setSlot }) {
          const hva = yield* mmap(4 * MB, MADV.HUGEPAGE);
          yield* setSlot({ bytes: 4 * MB, hva });
          yield* write(2 * MB + 0x5000, 41);
          expect(kvm.stat.pages_2m).toBe(1);
          yield* setSlot({ bytes: 4 * MB, hva, flags: LOG_DIRTY });
          expect(kvm.stat.pages_2m).toBe(1 - eager);
          yield* write(2 * MB + 0x7000, 42);
          expect(kvm.stat.pages_2m).toBe(0);
          expect(kvm.stat.pages_4k).toBe(512);
          expect(yield* dirtyPages(kvm)).toEqual([512 + 7]);
          expect(yield* read(2 * MB + 0x5000)).toEqual(done(41));
          yield* setSlot({ bytes: 4 * MB, hva });
          expect(kvm.stat.pages_4k).toBe(0);
          expect(yield* read(2 * MB + 0x7000)).toEqual(done(42));
          expect(kvm.stat.pages_2m).toBe(1);
        },
      ));
  }
});

describe('KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2', () => {
  it('leaves clearing to KVM_CLEAR_DIRTY_LOG', () =>
    runGuest({ slots: [] }, function* ({ kvm, write, setSlot }) {
      manual(kvm, KVM_DIRTY_LOG.MANUAL_PROTECT_ENABLE);
      yield* setSlot({ bytes: PAGES * 4096, flags: LOG_DIRTY });
      for (const page of [1, 65, 70]) yield* write(page * 4096, 1);
      expect(yield* dirtyPages(kvm)).toEqual([1, 65, 70]);
      expect(yield* dirtyPages(kvm)).toEqual([1, 65, 70]);
      const clear = { slot: 0, first_page: 64, num_pages: 64, dirty_bitmap: bitmapOf([1], 64) };
      yield* kvmVmIoctlClearDirtyLog(kvm, clear);
      expect(yield* dirtyPages(kvm)).toEqual([1, 70]);
      yield* write(65 * 4096, 2);
      yield* write(70 * 4096, 2);
      expect(yield* dirtyPages(kvm)).toEqual([1, 65, 70]);
    }));

  it('begins with every page dirty if INITIALLY_SET, and protects huge pages when a bit is cleared', () =>
    runGuest({ slots: [] }, function* ({ kvm, write, mmap, setSlot }) {
      manual(kvm, 3);
      const hva = yield* mmap(2 * MB, MADV.HUGEPAGE);
      yield* setSlot({ bytes: 2 * MB, hva });
      yield* write(0x1000, 1);
      yield* setSlot({ bytes: 2 * MB, hva, flags: LOG_DIRTY });
      expect((yield* dirtyPages(kvm)).length).toBe(512);
      expect(kvm.stat.pages_2m).toBe(1);
      const all = new Uint8Array(64).fill(0xff);
      yield* kvmVmIoctlClearDirtyLog(kvm, { slot: 0, first_page: 0, num_pages: 512, dirty_bitmap: all });
      expect(kvm.stat.pages_2m).toBe(0);
      expect(yield* dirtyPages(kvm)).toEqual([]);
      yield* write(0x9000, 1);
      expect(yield* dirtyPages(kvm)).toEqual([9]);
    }));

  it('sets no bits behind the last page', () =>
    runGuest({ slots: [] }, function* ({ kvm, setSlot }) {
      manual(kvm, 3);
      yield* setSlot({ bytes: PAGES * 4096, flags: LOG_DIRTY });
      expect((yield* dirtyPages(kvm)).at(-1)).toBe(PAGES - 1);
      expect((yield* dirtyPages(kvm)).length).toBe(PAGES);
    }));

  it('refuses ranges that are not made of whole words', () => {
    const guest = testGuest({ slots: [{ bytes: PAGES * 4096, flags: LOG_DIRTY }] });
    const errno = (first_page: number, num_pages: number, bytes = 24): number => {
      const log = { slot: 0, first_page, num_pages, dirty_bitmap: new Uint8Array(bytes) };
      return errnoOf(() => drive(guest, kvmVmIoctlClearDirtyLog(guest.kvm, log)));
    };
    expect(errno(1, 64)).toBe(ERRNO.EINVAL);
    expect(errno(0, 63)).toBe(ERRNO.EINVAL);
    expect(errno(64, 128)).toBe(ERRNO.EINVAL);
    expect(errno(192, 1)).toBe(ERRNO.EINVAL);
    expect(errno(0, 128, 15)).toBe(ERRNO.EFAULT);
    expect(errno(128, 2)).toBe(0);
    expect(errno(0, PAGES)).toBe(0);
  });
});
