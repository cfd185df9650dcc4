// SPDX-License-Identifier: GPL-2.0-only
/** Error numbers of Linux that KVM returns, and the refusal of a KVM API call. Mirrors asm-generic/errno-base.h. */
import type { KvmIoctl } from './ioctls.ts';

// prettier-ignore
export const ERRNO = {
  EPERM:      1,
  ENOENT:     2,
  EINTR:      4,
  EIO:        5,
  ENXIO:      6,
  E2BIG:      7,
  EBADF:      9,
  EAGAIN:     11,
  ENOMEM:     12,
  EACCES:     13,
  EFAULT:     14,
  EBUSY:      16,
  EEXIST:     17,
  ENODEV:     19,
  EINVAL:     22,
  EMFILE:     24,
  ENOTTY:     25,
  ENOSPC:     28,
  ERANGE:     34,
  ENOSYS:     38,
  EOVERFLOW:  75,
  EOPNOTSUPP: 95,
} as const;

/** An error number; KVM's internal functions return it negated, as the kernel's do. */
export type Errno = (typeof ERRNO)[keyof typeof ERRNO];
export type ErrnoName = keyof typeof ERRNO;

/** `EINVAL` for 22 and for -22; the number in digits if it has no name here. */
export function errnoName(errno: number): string {
  const code = Math.abs(errno);
  for (const [name, value] of Object.entries(ERRNO)) {
    if (value === code) return name;
  }
  return `errno ${code}`;
}

/** KVM refused a call: `KVM_SET_USER_MEMORY_REGION: EEXIST: slot 3 overlaps slot 1`. */
export class KvmError extends Error {
  override readonly name: string = 'KvmError';
  readonly ioctl: KvmIoctl;
  /** Positive, as userspace sees it in errno. */
  readonly errno: number;

  constructor(ioctl: KvmIoctl, errno: number, detail = '') {
    const head = `${ioctl}: ${errnoName(errno)}`;
    super(detail === '' ? head : `${head}: ${detail}`);
    this.ioctl = ioctl;
    this.errno = Math.abs(errno);
  }
}
