// SPDX-License-Identifier: GPL-2.0-only
/**
 * Spinning locks after include/linux/spinlock.h: the owner is in atomic context, waiters burn their pCPU. They check
 * their owner and the lock order. Uncontended use is plain: `if (!lock.fastLock()) yield* lock.lock();`.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { ExecContext } from '../exec_context.ts';
import type { SchedCore } from '../sched/core.ts';
import type { Steps } from '../steps.ts';
import { ExclusiveLock } from './exclusive_lock.ts';

export class SpinLock extends ExclusiveLock {
  constructor(sched: SchedCore, name: string) {
    super(sched, 'spinlock', name);
  }

  *lock(): Steps<void> {
    while (!this.fastLock()) {
      this.sched.counters.lockContentions++;
      yield* this.waiters.spin();
    }
  }

  unlock(): void {
    const context = this.sched.context;
    this.release(context);
    context.preemptCount--;
    this.waiters.wakeAll();
  }

  protected taken(context: ExecContext): void {
    spend(this.sched.cpu, COST.SPINLOCK);
    context.preemptCount++;
  }
}
