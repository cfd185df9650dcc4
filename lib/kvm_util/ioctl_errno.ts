// SPDX-License-Identifier: GPL-2.0-only
/**
 * Calls that may be refused: the double-underscore variants of kvm_util.h (__vm_ioctl(), __vm_set_user_memory_region())
 * return -1 and set errno; here they return the errno, or 0. Anything but a KvmError passes through.
 */
import { ERRNO, KvmError, errnoName } from '../uapi/errno.ts';
import type { U64 } from '../uapi/memory.ts';
import type { Steps } from './backend.ts';
import type { KvmVm } from './kvm_util.ts';
import { TEST_ASSERT } from './test_util.ts';

/** Carry out a call that may sleep: 0, or the errno with which KVM refused it. */
export function* ioctlErrno(call: Steps<unknown>): Steps<number> {
  try {
    yield* call;
    return 0;
  } catch (error) {
    return errnoOf(error);
  }
}

/** As ioctlErrno(), for a call that cannot sleep. */
export function plainIoctlErrno(call: () => unknown): number {
  try {
    call();
    return 0;
  } catch (error) {
    return errnoOf(error);
  }
}

function errnoOf(error: unknown): number {
  if (error instanceof KvmError) return error.errno;
  throw error;
}

/** Fail unless `errno` is the expected one; the message names both. */
export function TEST_ASSERT_ERRNO(errno: number, expected: keyof typeof ERRNO, what: string): void {
  TEST_ASSERT(errno === ERRNO[expected], () => {
    const got = errno === 0 ? 'success' : errnoName(errno);
    return `${what} should fail with ${expected}, got ${got}`;
  });
}

/** A region as userspace passes it; what is left out is zero. */
export interface RawMemoryRegion {
  readonly slot: number;
  readonly flags?: number;
  readonly gpa?: U64;
  readonly size: U64;
  readonly hva?: U64;
}

const struct = (r: RawMemoryRegion) => ({
  slot: r.slot,
  flags: r.flags ?? 0,
  guest_phys_addr: r.gpa ?? 0,
  memory_size: r.size,
  userspace_addr: r.hva ?? 0,
});

/** __vm_set_user_memory_region(): the errno of KVM_SET_USER_MEMORY_REGION, or 0. The library does not learn of the slot. */
export const __vmSetUserMemoryRegion = (vm: KvmVm, region: RawMemoryRegion): Steps<number> =>
  ioctlErrno(vm.fd.setUserMemoryRegion(struct(region)));

/** __vm_set_user_memory_region2(): the errno of KVM_SET_USER_MEMORY_REGION2, or 0. */
export const __vmSetUserMemoryRegion2 = (vm: KvmVm, region: RawMemoryRegion): Steps<number> =>
  ioctlErrno(vm.fd.setUserMemoryRegion2({ ...struct(region), guest_memfd: 0, guest_memfd_offset: 0 }));
