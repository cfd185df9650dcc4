// SPDX-License-Identifier: GPL-2.0-only
/**
 * Sleeping mutual exclusion after kernel/locking/mutex.c. Waiters sleep, so taking one in atomic context is a bug even
 * when it is free. Leaves out optimistic spinning and priority inheritance.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { ExecContext, HeldLock } from '../exec_context.ts';
import type { SchedCore } from '../sched/core.ts';
import { WaitQueue } from '../sched/wait_queue.ts';
import type { Steps } from '../steps.ts';

export class Mutex implements HeldLock {
  readonly name: string;
  readonly classId: number;
  readonly #sched: SchedCore;
  readonly #waiters: WaitQueue;
  #owner: ExecContext | null = null;

  constructor(sched: SchedCore, name: string) {
    this.#sched = sched;
    this.name = name;
    this.classId = sched.lockdep.classOf(name);
    this.#waiters = new WaitQueue(sched, `mutex ${name}`);
    this.#waiters.describe = () => `mutex ${name}, held by ${this.#owner?.describe() ?? 'nobody'}`;
  }

  get owner(): ExecContext | null {
    return this.#owner;
  }

  /** lockdep_assert_held(). */
  assertHeld(): void {
    const context = this.#sched.context;
    if (this.#owner !== context) throw new BugError(`${this.name} is not held by ${context.describe()}`);
  }

  /** lock() without waiting: false if somebody else has it, and then lock() is next. */
  fastLock(): boolean {
    const context = this.#sched.context;
    this.#sched.mightSleep(this.#waiters);
    if (this.#owner === context) {
      throw new BugError(`recursive lock: ${context.describe()} takes ${this.name} again`);
    }
    if (this.#owner !== null) return false;
    this.#sched.lockdep.acquire(context, this);
    this.#take(context);
    return true;
  }

  *lock(): Steps<void> {
    while (!this.fastLock()) {
      this.#sched.counters.lockContentions++;
      yield* this.#waiters.wait(() => this.#owner === null);
    }
  }

  /** mutex_trylock(): legal in atomic context, proves no lock order. */
  tryLock(): boolean {
    if (this.#owner !== null) return false;
    const context = this.#sched.context;
    this.#sched.lockdep.acquireNoOrder(context, this);
    this.#take(context);
    return true;
  }

  unlock(): void {
    const context = this.#sched.context;
    if (this.#owner !== context) {
      const owner = this.#owner?.describe() ?? 'nobody';
      throw new BugError(`${context.describe()} unlocks ${this.name}, which is held by ${owner}`);
    }
    this.#sched.lockdep.release(context, this);
    this.#owner = null;
    this.#waiters.wakeOne();
  }

  #take(context: ExecContext): void {
    spend(this.#sched.cpu, COST.MUTEX);
    this.#owner = context;
  }
}
