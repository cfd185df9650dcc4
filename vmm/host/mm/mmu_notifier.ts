// SPDX-License-Identifier: GPL-2.0-only
/**
 * mmu_notifier after mm/mmu_notifier.c: whoever keeps translations of a process's memory is told before they change and
 * again afterwards. Callbacks are steps: they may block, for example to kick vCPUs and wait for them. Leaves out interval
 * notifiers.
 */
import { BugError } from '../../machine/errors.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { ERRNO } from '../errno.ts';
import { Srcu } from '../locking/srcu.ts';
import type { SchedCore } from '../sched/core.ts';
import type { Steps } from '../steps.ts';

/** enum mmu_notifier_event: why translations change. */
// prettier-ignore
export const MMU_NOTIFY = {
  UNMAP: 0, CLEAR: 1, PROTECTION_VMA: 2, PROTECTION_PAGE: 3, SOFT_DIRTY: 4, RELEASE: 5, MIGRATE: 6, EXCLUSIVE: 7,
} as const;

export interface MmuNotifierRange {
  /** Host virtual addresses, end exclusive, page aligned. */
  readonly start: number;
  readonly end: number;
  /** False: the callback must not wait; it returns -EAGAIN instead. */
  readonly blockable: boolean;
  /** MMU_NOTIFY.*. */
  readonly cause: number;
}

export interface MmuNotifier {
  readonly name: string;
  /** Translations of the range are about to go. When it returns 0 they are not used any more until the end. */
  invalidateRangeStart(range: MmuNotifierRange): Steps<number>;
  invalidateRangeEnd(range: MmuNotifierRange): Steps<void>;
  /** The address space goes away. */
  release?(): Steps<void>;
  /** Clear accessed bits of the range; whether one was set. */
  clearFlushYoung?(start: number, end: number): boolean;
  testYoung?(start: number, end: number): boolean;
}

export class MmuNotifierSubscriptions {
  readonly #sched: SchedCore;
  readonly #srcu: Srcu;
  /** Latest registration first, as the kernel's list. */
  readonly #list: MmuNotifier[] = [];

  constructor(sched: SchedCore, name: string) {
    this.#sched = sched;
    this.#srcu = new Srcu(sched, `mmu_notifier ${name}`);
  }

  get size(): number {
    return this.#list.length;
  }

  register(notifier: MmuNotifier): void {
    if (this.#list.includes(notifier))
      throw new BugError(`mmu_notifier ${notifier.name} is registered twice`);
    this.#list.unshift(notifier);
  }

  /** mmu_notifier_unregister(): no callback is running when it returns. */
  *unregister(notifier: MmuNotifier): Steps<void> {
    const index = this.#list.indexOf(notifier);
    if (index < 0) throw new BugError(`mmu_notifier ${notifier.name} is not registered`);
    this.#list.splice(index, 1);
    yield* this.#srcu.synchronize();
  }

  /** Tell everybody; 0, or -EAGAIN if the range is not blockable and somebody would have to wait. */
  *invalidateRangeStart(range: MmuNotifierRange): Steps<number> {
    if (this.#list.length === 0) return 0;
    this.#sched.counters.notifierStarts++;
    const index = this.#srcu.readLock();
    const told: MmuNotifier[] = [];
    let result = 0;
    for (const notifier of [...this.#list]) {
      spend(this.#sched.cpu, COST.NOTIFIER_CALL);
      result = yield* this.#start(notifier, range);
      if (result !== 0) break;
      told.push(notifier);
    }
    if (result !== 0) for (const notifier of told) yield* notifier.invalidateRangeEnd(range);
    this.#srcu.readUnlock(index);
    return result;
  }

  *invalidateRangeEnd(range: MmuNotifierRange): Steps<void> {
    if (this.#list.length === 0) return;
    this.#sched.counters.notifierEnds++;
    const index = this.#srcu.readLock();
    for (const notifier of [...this.#list]) {
      spend(this.#sched.cpu, COST.NOTIFIER_CALL);
      yield* notifier.invalidateRangeEnd(range);
    }
    this.#srcu.readUnlock(index);
  }

  *release(): Steps<void> {
    const index = this.#srcu.readLock();
    for (const notifier of [...this.#list]) if (notifier.release !== undefined) yield* notifier.release();
    this.#srcu.readUnlock(index);
  }

  /** mmu_notifier_clear_flush_young(). */
  clearFlushYoung(start: number, end: number): boolean {
    let young = false;
    for (const notifier of this.#list) young = (notifier.clearFlushYoung?.(start, end) ?? false) || young;
    return young;
  }

  /** mmu_notifier_test_young(). */
  testYoung(start: number, end: number): boolean {
    return this.#list.some((notifier) => notifier.testYoung?.(start, end) ?? false);
  }

  *#start(notifier: MmuNotifier, range: MmuNotifierRange): Steps<number> {
    const result = yield* notifier.invalidateRangeStart(range);
    if (result !== 0 && (range.blockable || result !== -ERRNO.EAGAIN)) {
      throw new BugError(`mmu_notifier ${notifier.name} refused a blockable invalidation: ${result}`);
    }
    return result;
  }
}
