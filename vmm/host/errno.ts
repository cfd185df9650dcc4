// SPDX-License-Identifier: GPL-2.0-only
/**
 * Error numbers that host kernel services return, negated, as the kernel's functions do. Values from the generic
 * errno-base table of the Linux uapi.
 */
// prettier-ignore
export const ERRNO = {
  EPERM: 1, ENOENT: 2, EINTR: 4, ENXIO: 6, E2BIG: 7, EAGAIN: 11, ENOMEM: 12, EACCES: 13, EFAULT: 14, EBUSY: 16, EEXIST: 17,
  EINVAL: 22, ENOSPC: 28,
} as const;
