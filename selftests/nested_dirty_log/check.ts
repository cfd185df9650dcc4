// SPDX-License-Identifier: GPL-2.0-only
/** test_handle_ucall_sync() of x86/nested_dirty_log_test.c of the KVM selftests: memory and log after one access of L2's. */
import type { Steps } from '../../lib/kvm_util/backend.ts';
import { type KvmVm, readGpaU64 } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT } from '../../lib/kvm_util/test_util.ts';
import { kvmDirtyBitmapBytes } from '../../lib/uapi/memory.ts';
import { gpa } from '../../lib/x86/addr.ts';
import { hex } from '../../lib/x86/bits.ts';
import {
  TEST_GPA,
  TEST_MEM_ALIAS_BASE,
  TEST_MEM_BASE,
  TEST_MEM_PAGES,
  TEST_MEM_SLOT_INDEX,
  TEST_SYNC,
} from './guest.ts';

const UNTOUCHED = 0xaaaa_aaaa_aaaa_aaaan;

/** The page of slot 1 that an address of L2's stands for: L1's page number. */
function pageNumber(gva: number, arg: number): number {
  const page =
    gva === 0 ? 0 : (gva - (gva >= TEST_MEM_ALIAS_BASE ? TEST_MEM_ALIAS_BASE : TEST_MEM_BASE)) / 4096;
  TEST_ASSERT(
    page === 0 || page === 1,
    () => `Test bug, unexpected frame number '${page}' for arg = ${hex(arg)}`,
  );
  TEST_ASSERT(
    gva !== 0 || (arg & TEST_SYNC.NO_FAULT) !== 0,
    'Test bug, gva must be valid if a fault is expected',
  );
  return page;
}

/** KVM must log the page of L1's address, on a read fault too, since it maps the page writable. */
export function* handleSync(vm: KvmVm, argument: bigint): Steps<void> {
  const arg = Number(argument);
  const touched = pageNumber(arg - (arg % 4096), arg);
  const bitmap = new Uint8Array(kvmDirtyBitmapBytes(TEST_MEM_PAGES));
  yield* vm.fd.getDirtyLog({ slot: TEST_MEM_SLOT_INDEX, dirty_bitmap: bitmap });
  for (let i = 0; i < TEST_MEM_PAGES; i++) {
    const written = i === touched && (arg & TEST_SYNC.WRITE_FAULT) !== 0;
    const content = readGpaU64(vm, gpa(TEST_GPA(i)));
    TEST_ASSERT(
      content === (written ? 1n : UNTOUCHED),
      () => `Page ${i} incorrectly ${written ? 'not ' : ''}written by guest: ${hex(content)}`,
    );
    const dirty = i === touched && (arg & TEST_SYNC.NO_FAULT) === 0;
    const type = (arg & TEST_SYNC.READ_FAULT) !== 0 ? 'read' : 'write';
    TEST_ASSERT((((bitmap[0]! >>> i) & 1) !== 0) === dirty, () =>
      dirty
        ? `Page ${i} incorrectly reported clean on ${type} fault`
        : `Page ${i} incorrectly reported dirty`,
    );
  }
}
