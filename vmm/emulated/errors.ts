// SPDX-License-Identifier: GPL-2.0-only
/** From the kernel's negated error numbers to what userspace sees. */
import { errnoName, KvmError } from '../../lib/uapi/errno.ts';
import type { KvmIoctl } from '../../lib/uapi/ioctls.ts';

/** The name of a negated errno: `ENOMEM`. */
export const errnoText = (r: number): string => errnoName(Math.abs(r));

/** Throw KvmError if `r` is a negated errno, else give it back. */
export function checkIoctl(ioctl: KvmIoctl, r: number, detail = ''): number {
  if (r < 0) throw new KvmError(ioctl, r, detail);
  return r;
}
