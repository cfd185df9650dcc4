// SPDX-License-Identifier: GPL-2.0-only
/**
 * Spinning reader-writer locks after include/linux/rwlock.h. Holders of either kind are in atomic context. A waiting
 * writer does not keep new readers out.
 * DEVIATION: not fair as qrwlock is: a writer that spins can be overtaken by readers that come later.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { ExecContext } from '../exec_context.ts';
import type { SchedCore } from '../sched/core.ts';
import type { Steps } from '../steps.ts';
import { RwBase } from './rwbase.ts';

export class RwLock extends RwBase {
  constructor(sched: SchedCore, name: string) {
    super(sched, 'rwlock', name);
  }

  /** readLock() without waiting: false if a writer has it. */
  readFastLock(): boolean {
    const context = this.sched.context;
    this.refuseRecursion(context);
    if (this.writer !== null) return false;
    this.sched.lockdep.acquire(context, this);
    this.addReader(context);
    this.#taken(context);
    return true;
  }

  *readLock(): Steps<void> {
    while (!this.readFastLock()) {
      this.sched.counters.lockContentions++;
      yield* this.waiters.spin();
    }
  }

  readTryLock(): boolean {
    if (this.writer !== null) return false;
    const context = this.sched.context;
    this.sched.lockdep.acquireNoOrder(context, this);
    this.addReader(context);
    this.#taken(context);
    return true;
  }

  readUnlock(): void {
    const context = this.sched.context;
    this.removeReader(context);
    this.#released(context);
  }

  /** writeLock() without waiting: false if somebody has it. */
  writeFastLock(): boolean {
    const context = this.sched.context;
    this.refuseRecursion(context);
    if (!this.free) return false;
    this.sched.lockdep.acquire(context, this);
    this.setWriter(context);
    this.#taken(context);
    return true;
  }

  *writeLock(): Steps<void> {
    while (!this.writeFastLock()) {
      this.sched.counters.lockContentions++;
      yield* this.waiters.spin();
    }
  }

  writeTryLock(): boolean {
    if (!this.free) return false;
    const context = this.sched.context;
    this.sched.lockdep.acquireNoOrder(context, this);
    this.setWriter(context);
    this.#taken(context);
    return true;
  }

  writeUnlock(): void {
    const context = this.sched.context;
    this.clearWriter(context, 'write-unlocks');
    this.#released(context);
  }

  #taken(context: ExecContext): void {
    spend(this.sched.cpu, COST.RWLOCK);
    context.preemptCount++;
  }

  #released(context: ExecContext): void {
    this.sched.lockdep.release(context, this);
    context.preemptCount--;
    this.waiters.wakeAll();
  }
}
