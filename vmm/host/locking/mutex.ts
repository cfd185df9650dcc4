// SPDX-License-Identifier: GPL-2.0-only
/**
 * Sleeping mutual exclusion after kernel/locking/mutex.c. Waiters sleep, so taking one in atomic context is a bug even
 * when it is free. Leaves out optimistic spinning and priority inheritance.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { SchedCore } from '../sched/core.ts';
import type { Steps } from '../steps.ts';
import { ExclusiveLock } from './exclusive_lock.ts';

export class Mutex extends ExclusiveLock {
  constructor(sched: SchedCore, name: string) {
    super(sched, 'mutex', name);
  }

  override fastLock(): boolean {
    this.sched.mightSleep(this.waiters);
    return super.fastLock();
  }

  *lock(): Steps<void> {
    while (!this.fastLock()) {
      this.sched.counters.lockContentions++;
      yield* this.waiters.wait(() => this.owner === null);
    }
  }

  unlock(): void {
    this.release(this.sched.context);
    this.waiters.wakeOne();
  }

  protected taken(): void {
    spend(this.sched.cpu, COST.MUTEX);
  }
}
