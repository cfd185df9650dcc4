// SPDX-License-Identifier: GPL-2.0-only
/**
 * Guest functions with known results, for whatever can run them: arithmetic by the rules of C, control flow, the calling
 * convention, the guest library. Each takes up to three 64-bit values and gives one. The expectations are C's, the ABI's and
 * printf's, written down by hand.
 */
import { arithmetic } from './cases/arithmetic.ts';
import { atomics } from './cases/atomics.ts';
import { calls } from './cases/calls.ts';
import { Cases, type GuestCase } from './cases/case_list.ts';
import { conditions } from './cases/conditions.ts';
import { controlFlow } from './cases/control_flow.ts';
import { memory } from './cases/memory.ts';
import { spills } from './cases/spills.ts';
import { formats, strings } from './cases/strings.ts';

/** All cases. */
export function guestCases(): readonly GuestCase[] {
  const cases = new Cases();
  for (const group of [arithmetic, conditions, controlFlow, calls, memory, spills, atomics, strings, formats])
    group(cases);
  return cases.list;
}
