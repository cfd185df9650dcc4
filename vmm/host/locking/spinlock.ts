// SPDX-License-Identifier: GPL-2.0-only
/**
 * Spinning locks after include/linux/spinlock.h: the holder is in atomic context, waiters burn their pCPU. They check
 * their owner and the lock order. Uncontended use is plain: `if (!lock.fastLock()) yield* lock.lock();`.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { ExecContext, HeldLock } from '../exec_context.ts';
import type { SchedCore } from '../sched/core.ts';
import { WaitQueue } from '../sched/wait_queue.ts';
import type { Steps } from '../steps.ts';

export class SpinLock implements HeldLock {
  readonly name: string;
  readonly classId: number;
  readonly #sched: SchedCore;
  readonly #waiters: WaitQueue;
  #holder: ExecContext | null = null;

  constructor(sched: SchedCore, name: string) {
    this.#sched = sched;
    this.name = name;
    this.classId = sched.lockdep.classOf(name);
    this.#waiters = new WaitQueue(sched, `spinlock ${name}`);
    this.#waiters.describe = () => `spinlock ${name}, held by ${this.#holder?.describe() ?? 'nobody'}`;
  }

  get holder(): ExecContext | null {
    return this.#holder;
  }

  /** lockdep_assert_held(). */
  assertHeld(): void {
    if (this.#holder !== this.#sched.context) throw new BugError(`${this.name} is not held by ${this.#me()}`);
  }

  /** lock() without waiting: false if somebody else has it, and then lock() is next. */
  fastLock(): boolean {
    const context = this.#sched.context;
    if (this.#holder !== null) {
      if (this.#holder === context)
        throw new BugError(`recursive lock: ${context.describe()} takes ${this.name} again`);
      return false;
    }
    this.#sched.lockdep.acquire(context, this);
    this.#take(context);
    return true;
  }

  *lock(): Steps<void> {
    while (!this.fastLock()) {
      this.#sched.counters.lockContentions++;
      yield* this.#waiters.spin();
    }
  }

  /** spin_trylock(): proves no lock order, and may fail for the holder itself. */
  tryLock(): boolean {
    if (this.#holder !== null) return false;
    const context = this.#sched.context;
    this.#sched.lockdep.acquireNoOrder(context, this);
    this.#take(context);
    return true;
  }

  unlock(): void {
    const context = this.#sched.context;
    if (this.#holder !== context) {
      throw new BugError(
        `${this.#me()} unlocks ${this.name}, which is held by ${this.#holder?.describe() ?? 'nobody'}`,
      );
    }
    this.#sched.lockdep.release(context, this);
    context.preemptCount--;
    this.#holder = null;
    this.#waiters.wakeAll();
  }

  #take(context: ExecContext): void {
    spend(this.#sched.cpu, COST.SPINLOCK);
    context.preemptCount++;
    this.#holder = context;
  }

  #me(): string {
    return this.#sched.context.describe();
  }
}
