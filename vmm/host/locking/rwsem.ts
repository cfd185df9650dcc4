// SPDX-License-Identifier: GPL-2.0-only
/**
 * Sleeping reader-writer semaphore after kernel/locking/rwsem.c: mmap_lock. A waiting writer keeps new readers out, so
 * that it is not starved; a writer may downgrade to reader.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { SchedCore } from '../sched/core.ts';
import type { Steps } from '../steps.ts';
import { RwBase } from './rwbase.ts';

export class RwSem extends RwBase {
  #writersWaiting = 0;

  constructor(sched: SchedCore, name: string) {
    super(sched, 'rwsem', name);
  }

  /** Whether a reader that is not allowed to wait would get it now. */
  get readable(): boolean {
    return this.writer === null && this.#writersWaiting === 0;
  }

  /** down_read() without waiting: false if a writer has it or waits for it. */
  readFastLock(): boolean {
    const context = this.sched.context;
    this.sched.mightSleep(this.waiters);
    this.refuseRecursion(context);
    if (!this.readable) return false;
    this.sched.lockdep.acquire(context, this);
    this.addReader(context);
    spend(this.sched.cpu, COST.MUTEX);
    return true;
  }

  *readLock(): Steps<void> {
    while (!this.readFastLock()) {
      this.sched.counters.lockContentions++;
      yield* this.waiters.wait(() => this.readable);
    }
  }

  readUnlock(): void {
    const context = this.sched.context;
    this.removeReader(context);
    this.sched.lockdep.release(context, this);
    if (this.readers.length === 0) this.waiters.wakeAll();
  }

  /** down_write() without waiting: false if somebody has it. */
  writeFastLock(): boolean {
    const context = this.sched.context;
    this.sched.mightSleep(this.waiters);
    this.refuseRecursion(context);
    if (!this.free) return false;
    this.sched.lockdep.acquire(context, this);
    this.setWriter(context);
    spend(this.sched.cpu, COST.MUTEX);
    return true;
  }

  *writeLock(): Steps<void> {
    while (!this.writeFastLock()) {
      this.sched.counters.lockContentions++;
      this.#writersWaiting++;
      yield* this.waiters.wait(() => this.free);
      this.#writersWaiting--;
    }
  }

  writeUnlock(): void {
    const context = this.sched.context;
    this.clearWriter(context, 'write-unlocks');
    this.sched.lockdep.release(context, this);
    this.waiters.wakeAll();
  }

  /** downgrade_write(): go on as a reader. */
  downgrade(): void {
    const context = this.sched.context;
    this.clearWriter(context, 'downgrades');
    this.addReader(context);
    this.waiters.wakeAll();
  }
}
