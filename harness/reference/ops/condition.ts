// SPDX-License-Identifier: GPL-2.0-only
/** Condition codes of the reference interpreter. SDM, "EFLAGS Condition Codes". */
import type { Exec } from '../exec.ts';

/** Whether condition `cc` (0 O .. 15 G) holds. */
export function holds(x: Exec, cc: number): boolean {
  const cf = x.flag('CF');
  const zf = x.flag('ZF');
  const less = x.flag('SF') !== x.flag('OF');
  const pairs = [x.flag('OF'), cf, zf, cf || zf, x.flag('SF'), x.flag('PF'), less, zf || less];
  return pairs[cc >> 1]! !== ((cc & 1) === 1);
}
