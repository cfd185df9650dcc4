// SPDX-License-Identifier: GPL-2.0-only
/**
 * Dirty logging: every page that the guest wrote, no other, and again after each round. Errors from
 * kvm_get_dirty_log_protect() and kvm_clear_dirty_log_protect() of virt/kvm/kvm_main.c; Documentation/virt/kvm/api,
 * "KVM_CLEAR_DIRTY_LOG" and "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2".
 */
import { describe, expect, it } from 'vitest';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { ERRNO, KvmError } from '../../lib/uapi/errno.ts';
import { KVM_DIRTY_LOG, kvmDirtyBitmapBytes } from '../../lib/uapi/memory.ts';
import { EPTE } from '../../lib/x86/paging.ts';
import { doMadvise, MADV } from '../host/mm/madvise.ts';
import type { Steps } from '../host/steps.ts';
import { kvmVmIoctlEnableCapGeneric } from './capabilities.ts';
import { kvmVmIoctlClearDirtyLog, kvmVmIoctlGetDirtyLog } from './dirty_log.ts';
import { markPageDirty } from './dirty_bitmap.ts';
import type { Gfn } from '../../lib/x86/addr.ts';
import {
  createVcpu,
  drive,
  guestAccess,
  LOG_DIRTY,
  mmap,
  setSlot,
  tdpEntry,
  testVm,
  type TestVm,
} from './testing/test_kvm.ts';

const MB = 1 << 20;
const PAGES = 130;

/** Pages that the log names. */
function* dirtyPages(vm: TestVm, slot = 0): Steps<number[]> {
  const npages = vm.kvm.memslots[0]!.idToMemslot(slot)!.npages;
  const dirty_bitmap = new Uint8Array(kvmDirtyBitmapBytes(npages));
  yield* kvmVmIoctlGetDirtyLog(vm.kvm, { slot, dirty_bitmap });
  return bitsOf(dirty_bitmap);
}

const bitsOf = (bitmap: Uint8Array): number[] =>
  [...bitmap].flatMap((byte, i) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((b) => (byte >> b) & 1).map((b) => 8 * i + b),
  );

const manual = (vm: TestVm, flags: number): boolean =>
  kvmVmIoctlEnableCapGeneric(vm.kvm, { cap: KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2, flags: 0, args: [flags] });

function bitmapOf(pages: readonly number[], npages: number): Uint8Array {
  const bitmap = new Uint8Array(kvmDirtyBitmapBytes(npages));
  for (const page of pages) bitmap[page >>> 3]! |= 1 << (page & 7);
  return bitmap;
}

for (const ad of ['ad', 'no-ad'] as const) {
  describe(`the dirty log (${ad})`, () => {
    it('has exactly the pages written since the last one', () => {
      const vm = testVm({ ad });
      drive(
        vm,
        (function* () {
          yield* setSlot(vm, { bytes: PAGES * 4096, flags: LOG_DIRTY });
          const vcpu = yield* createVcpu(vm);
          for (const page of [0, 31, 32, 63, 64, 129]) yield* guestAccess(vcpu, page * 4096, 1);
          expect(yield* dirtyPages(vm)).toEqual([0, 31, 32, 63, 64, 129]);
          expect(yield* dirtyPages(vm)).toEqual([]);
          yield* guestAccess(vcpu, 64 * 4096, 2);
          yield* guestAccess(vcpu, 64 * 4096, 3);
          expect(yield* dirtyPages(vm)).toEqual([64]);
          yield* guestAccess(vcpu, 63 * 4096);
          expect(yield* dirtyPages(vm)).toEqual([]);
        })(),
      );
    });

    it('repairs write access without mmu_lock', () => {
      const vm = testVm({ ad });
      drive(
        vm,
        (function* () {
          yield* setSlot(vm, { flags: LOG_DIRTY });
          const vcpu = yield* createVcpu(vm);
          yield* guestAccess(vcpu, 0, 1);
          yield* dirtyPages(vm);
          expect(tdpEntry(vcpu, 0) & EPTE.W).toBe(0);
          yield* guestAccess(vcpu, 0, 2);
          expect(tdpEntry(vcpu, 0) & EPTE.W).toBe(EPTE.W);
          expect(vcpu.stat.pf_fast).toBe(1);
        })(),
      );
    });

    it('begins with write protection of what is mapped when it is switched on', () => {
      const vm = testVm({ ad });
      drive(
        vm,
        (function* () {
          const hva = yield* setSlot(vm);
          const vcpu = yield* createVcpu(vm);
          yield* guestAccess(vcpu, 0x2000, 1);
          yield* guestAccess(vcpu, 0x3000, 1);
          yield* setSlot(vm, { hva, flags: LOG_DIRTY });
          expect(yield* dirtyPages(vm)).toEqual([]);
          yield* guestAccess(vcpu, 0x3000, 2);
          expect(yield* dirtyPages(vm)).toEqual([3]);
          yield* setSlot(vm, { hva });
          expect(vm.kvm.memslots[0]!.idToMemslot(0)!.dirtyBitmap).toBeNull();
        })(),
      );
    });
  });
}

describe('the dirty log', () => {
  it('has pages that KVM itself wrote', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        yield* setSlot(vm, { gpa: 0x10_0000, flags: LOG_DIRTY });
        markPageDirty(vm.kvm, 0x105 as Gfn);
        markPageDirty(vm.kvm, 0x5 as Gfn);
        expect(yield* dirtyPages(vm)).toEqual([5]);
      })(),
    );
  });

  it('follows a slot that is moved', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        const hva = yield* setSlot(vm, { flags: LOG_DIRTY });
        const vcpu = yield* createVcpu(vm);
        yield* guestAccess(vcpu, 0x1000, 1);
        yield* setSlot(vm, { gpa: 0x40_0000, hva, flags: LOG_DIRTY });
        yield* guestAccess(vcpu, 0x40_2000, 1);
        expect(yield* dirtyPages(vm)).toEqual([1, 2]);
      })(),
    );
  });

  it('is refused for slots that do not exist or do not log, and buffers that are too small', () => {
    const vm = testVm();
    const errno = (slot: number, bytes: number): number => {
      try {
        drive(vm, kvmVmIoctlGetDirtyLog(vm.kvm, { slot, dirty_bitmap: new Uint8Array(bytes) }));
      } catch (error) {
        if (error instanceof KvmError) return error.errno;
        throw error;
      }
      return 0;
    };
    drive(vm, setSlot(vm, { slot: 0, bytes: PAGES * 4096 }));
    drive(vm, setSlot(vm, { slot: 1, gpa: 0x100_0000, bytes: PAGES * 4096, flags: LOG_DIRTY }));
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
    it(`are split, and one page is dirty per page written (eager_page_split=${eager})`, () => {
      const vm = testVm({ params: [`kvm.eager_page_split=${eager}`] });
      drive(
        vm,
        (function* () {
          const hva = yield* mmap(vm, 4 * MB);
          yield* doMadvise(vm.mm, hva, 4 * MB, MADV.HUGEPAGE);
          yield* setSlot(vm, { bytes: 4 * MB, hva });
          const vcpu = yield* createVcpu(vm);
          yield* guestAccess(vcpu, 2 * MB + 0x5000, 41);
          expect(vm.kvm.stat.pages_2m).toBe(1);
          yield* setSlot(vm, { bytes: 4 * MB, hva, flags: LOG_DIRTY });
          expect(vm.kvm.stat.pages_2m).toBe(1 - eager);
          yield* guestAccess(vcpu, 2 * MB + 0x7000, 42);
          expect(vm.kvm.stat.pages_2m).toBe(0);
          expect(vm.kvm.stat.pages_4k).toBe(512);
          expect(yield* dirtyPages(vm)).toEqual([512 + 7]);
          expect(yield* guestAccess(vcpu, 2 * MB + 0x5000)).toEqual({ kind: 'done', value: 41 });
          yield* setSlot(vm, { bytes: 4 * MB, hva });
          expect(vm.kvm.stat.pages_4k).toBe(0);
          expect(yield* guestAccess(vcpu, 2 * MB + 0x7000)).toEqual({ kind: 'done', value: 42 });
          expect(vm.kvm.stat.pages_2m).toBe(1);
        })(),
      );
    });
  }
});

describe('KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2', () => {
  it('leaves clearing to KVM_CLEAR_DIRTY_LOG', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        manual(vm, KVM_DIRTY_LOG.MANUAL_PROTECT_ENABLE);
        yield* setSlot(vm, { bytes: PAGES * 4096, flags: LOG_DIRTY });
        const vcpu = yield* createVcpu(vm);
        for (const page of [1, 65, 70]) yield* guestAccess(vcpu, page * 4096, 1);
        expect(yield* dirtyPages(vm)).toEqual([1, 65, 70]);
        expect(yield* dirtyPages(vm)).toEqual([1, 65, 70]);
        const clear = { slot: 0, first_page: 64, num_pages: 64, dirty_bitmap: bitmapOf([1], 64) };
        yield* kvmVmIoctlClearDirtyLog(vm.kvm, clear);
        expect(yield* dirtyPages(vm)).toEqual([1, 70]);
        yield* guestAccess(vcpu, 65 * 4096, 2);
        yield* guestAccess(vcpu, 70 * 4096, 2);
        expect(yield* dirtyPages(vm)).toEqual([1, 65, 70]);
      })(),
    );
  });

  it('begins with every page dirty if INITIALLY_SET, and protects huge pages when a bit is cleared', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        manual(vm, 3);
        const hva = yield* mmap(vm, 2 * MB);
        yield* doMadvise(vm.mm, hva, 2 * MB, MADV.HUGEPAGE);
        yield* setSlot(vm, { bytes: 2 * MB, hva });
        const vcpu = yield* createVcpu(vm);
        yield* guestAccess(vcpu, 0x1000, 1);
        yield* setSlot(vm, { bytes: 2 * MB, hva, flags: LOG_DIRTY });
        expect((yield* dirtyPages(vm)).length).toBe(512);
        expect(vm.kvm.stat.pages_2m).toBe(1);
        const all = new Uint8Array(64).fill(0xff);
        yield* kvmVmIoctlClearDirtyLog(vm.kvm, { slot: 0, first_page: 0, num_pages: 512, dirty_bitmap: all });
        expect(vm.kvm.stat.pages_2m).toBe(0);
        expect(yield* dirtyPages(vm)).toEqual([]);
        yield* guestAccess(vcpu, 0x9000, 1);
        expect(yield* dirtyPages(vm)).toEqual([9]);
      })(),
    );
  });

  it('sets no bits behind the last page', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        manual(vm, 3);
        yield* setSlot(vm, { bytes: PAGES * 4096, flags: LOG_DIRTY });
        expect((yield* dirtyPages(vm)).at(-1)).toBe(PAGES - 1);
        expect((yield* dirtyPages(vm)).length).toBe(PAGES);
      })(),
    );
  });

  it('refuses ranges that are not made of whole words', () => {
    const vm = testVm();
    const errno = (first_page: number, num_pages: number, bytes = 24): number => {
      try {
        const log = { slot: 0, first_page, num_pages, dirty_bitmap: new Uint8Array(bytes) };
        drive(vm, kvmVmIoctlClearDirtyLog(vm.kvm, log));
      } catch (error) {
        if (error instanceof KvmError) return error.errno;
        throw error;
      }
      return 0;
    };
    drive(vm, setSlot(vm, { bytes: PAGES * 4096, flags: LOG_DIRTY }));
    expect(errno(1, 64)).toBe(ERRNO.EINVAL);
    expect(errno(0, 63)).toBe(ERRNO.EINVAL);
    expect(errno(64, 128)).toBe(ERRNO.EINVAL);
    expect(errno(192, 1)).toBe(ERRNO.EINVAL);
    expect(errno(0, 128, 15)).toBe(ERRNO.EFAULT);
    expect(errno(128, 2)).toBe(0);
    expect(errno(0, PAGES)).toBe(0);
  });
});
