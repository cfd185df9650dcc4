// SPDX-License-Identifier: GPL-2.0-only
/**
 * The bracket around every change of mappings: notifiers first, then the entries, then the notifiers' end, then the TLB
 * flush and only then the pages' freedom, as in zap_page_range_single() of mm/memory.c.
 */
import type { Steps } from '../steps.ts';
import type { MmStruct } from './mm_struct.ts';
import { MMU_NOTIFY, type MmuNotifierRange } from './mmu_notifier.ts';
import { anyMapped, MmuGather, zapPageRange } from './zap.ts';

/** What to take away, why, and in whose name. */
export interface ZapRequest {
  readonly start: number;
  readonly end: number;
  /** MMU_NOTIFY.*. */
  readonly cause: number;
  /** Name for the story of the freed frames; see MmOwners. */
  readonly by: number;
  /** Default true. */
  readonly blockable?: boolean;
}

/** zap_page_range_single(): 0, or -EAGAIN if the request must not block and a notifier would have to. */
export function* zapNotified(mm: MmStruct, request: ZapRequest): Steps<number> {
  const { sched } = mm.services;
  const { start, end, cause, by } = request;
  const range: MmuNotifierRange = { start, end, cause, blockable: request.blockable ?? true };
  const gather = new MmuGather(mm, by);
  const result = yield* mm.notifiers.invalidateRangeStart(range);
  if (result !== 0) return result;
  if (sched.shouldYield()) yield;
  zapPageRange(mm, start, end, gather);
  if (sched.shouldYield()) yield;
  yield* mm.notifiers.invalidateRangeEnd(range);
  gather.finish();
  return 0;
}

/** Bracket a change that keeps the pages: protection, or one step of a migration. */
export function* changeNotified(mm: MmStruct, range: MmuNotifierRange, change: () => void): Steps<void> {
  const { sched, smp } = mm.services;
  if (!anyMapped(mm, range.start, range.end)) {
    change();
    return;
  }
  yield* mm.notifiers.invalidateRangeStart(range);
  if (sched.shouldYield()) yield;
  change();
  smp.tlbShootdown(mm.cpumask());
  if (sched.shouldYield()) yield;
  yield* mm.notifiers.invalidateRangeEnd(range);
}

/** A blockable range. */
export const notifierRange = (
  start: number,
  end: number,
  cause: number = MMU_NOTIFY.CLEAR,
): MmuNotifierRange => ({
  start,
  end,
  cause,
  blockable: true,
});
