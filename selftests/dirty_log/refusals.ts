// SPDX-License-Identifier: GPL-2.0-only
/**
 * Added to dirty_log_test: what KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG refuse, and that getting the log clears it in one
 * mode and does not in the other. Documentation/virt/kvm/api.rst, "KVM_CLEAR_DIRTY_LOG" and "KVM_GET_DIRTY_LOG".
 */
import { kvmDirtyBitmapBytes, KVM_MEM } from '../../lib/uapi/memory.ts';
import type { ERRNO } from '../../lib/uapi/errno.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import { ioctlErrno, TEST_ASSERT_ERRNO } from '../../lib/kvm_util/ioctl_errno.ts';
import { vmMemRegionSetFlags, type KvmVm } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import type { LogMode } from './options.ts';

const SLOT = 1;

const countBits = (bitmap: Uint8Array): number =>
  bitmap.reduce((sum, byte) => {
    let n = sum;
    for (let b = byte; b !== 0; b &= b - 1) n++;
    return n;
  }, 0);

/** KVM_DIRTY_LOG_INITIALLY_SET: the first log of a slot has every page. */
export function checkFirstClearLog(bitmap: Uint8Array, numPages: number): void {
  TEST_ASSERT_EQ(countBits(bitmap), numPages, 'pages in the first log, which is initially set');
}

function* getLog(vm: KvmVm, numPages: number): Steps<number> {
  const dirty_bitmap = new Uint8Array(kvmDirtyBitmapBytes(numPages));
  yield* vm.fd.getDirtyLog({ slot: SLOT, dirty_bitmap });
  return countBits(dirty_bitmap);
}

const clear = (vm: KvmVm, slot: number, first_page: number, num_pages: number): Steps<number> =>
  ioctlErrno(
    vm.fd.clearDirtyLog({
      slot,
      first_page,
      num_pages,
      dirty_bitmap: new Uint8Array(kvmDirtyBitmapBytes(num_pages)).fill(0xff),
    }),
  );

interface BadRange {
  readonly what: string;
  readonly first: number;
  readonly count: (numPages: number) => number;
}

const BAD_RANGES: readonly BadRange[] = [
  { what: 'a first page that is no multiple of 64', first: 1, count: () => 64 },
  { what: 'a number of pages that is no multiple of 64 before the end', first: 0, count: () => 63 },
  { what: 'pages beyond the end', first: 64, count: (n) => n },
];

/** The log is collected and nobody writes: it is empty, and stays so. */
export function* checkRefusals(vm: KvmVm, numPages: number, logMode: LogMode): Steps<void> {
  TEST_ASSERT_EQ(yield* getLog(vm, numPages), 0, 'dirty pages after the last collection');
  for (const { what, first, count } of BAD_RANGES)
    TEST_ASSERT_ERRNO(
      yield* clear(vm, SLOT, first, count(numPages)),
      'EINVAL',
      `KVM_CLEAR_DIRTY_LOG of ${what}`,
    );
  TEST_ASSERT_EQ(yield* clear(vm, SLOT, 0, numPages), 0, 'KVM_CLEAR_DIRTY_LOG of a clean log');
  for (const [slot, errno] of [
    [0, 'ENOENT'],
    [7, 'ENOENT'],
    [0x7fff, 'EINVAL'],
  ] as const satisfies readonly (readonly [number, keyof typeof ERRNO])[]) {
    const dirty_bitmap = new Uint8Array(kvmDirtyBitmapBytes(numPages));
    const got = yield* ioctlErrno(vm.fd.getDirtyLog({ slot, dirty_bitmap }));
    TEST_ASSERT_ERRNO(got, errno, `KVM_GET_DIRTY_LOG of slot ${slot}, which has none,`);
    TEST_ASSERT_ERRNO(
      yield* clear(vm, slot, 0, 64),
      errno,
      `KVM_CLEAR_DIRTY_LOG of slot ${slot}, which has none,`,
    );
  }
  yield* restart(vm, numPages, logMode);
}

/** Logging goes off and on: the log is new, and all set if it begins so. */
function* restart(vm: KvmVm, numPages: number, logMode: LogMode): Steps<void> {
  yield* vmMemRegionSetFlags(vm, SLOT, 0);
  const dirty_bitmap = new Uint8Array(kvmDirtyBitmapBytes(numPages));
  const got = yield* ioctlErrno(vm.fd.getDirtyLog({ slot: SLOT, dirty_bitmap }));
  TEST_ASSERT_ERRNO(got, 'ENOENT', 'KVM_GET_DIRTY_LOG once logging is off');
  yield* vmMemRegionSetFlags(vm, SLOT, KVM_MEM.LOG_DIRTY_PAGES);
  const expected = logMode === 'clear-log' ? numPages : 0;
  for (const when of ['once', 'twice'])
    TEST_ASSERT_EQ(yield* getLog(vm, numPages), expected, `pages of the new log, got ${when}`);
  TEST_ASSERT((yield* clear(vm, SLOT, 64, numPages - 64)) === 0, 'KVM_CLEAR_DIRTY_LOG up to the end failed');
  TEST_ASSERT_EQ(yield* getLog(vm, numPages), Math.min(expected, 64), 'pages that were not cleared');
}
