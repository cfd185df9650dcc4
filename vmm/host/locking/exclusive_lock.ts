// SPDX-License-Identifier: GPL-2.0-only
/** The owner of a lock that one at a time may have, and how it changes: what Mutex and SpinLock share. */
import { BugError } from '../../machine/errors.ts';
import type { ExecContext } from '../exec_context.ts';
import { LockBase } from './lock_base.ts';

export abstract class ExclusiveLock extends LockBase {
  #owner: ExecContext | null = null;

  get owner(): ExecContext | null {
    return this.#owner;
  }

  /** lockdep_assert_held(). */
  assertHeld(): void {
    const context = this.sched.context;
    if (this.#owner !== context) throw new BugError(`${this.name} is not held by ${context.describe()}`);
  }

  /** lock() without waiting: false if somebody else has it, and then lock() is next. */
  fastLock(): boolean {
    const context = this.sched.context;
    if (this.#owner !== null) {
      if (this.#owner !== context) return false;
      throw new BugError(`recursive lock: ${context.describe()} takes ${this.name} again`);
    }
    this.sched.lockdep.acquire(context, this);
    this.#owner = context;
    this.taken(context);
    return true;
  }

  /** mutex_trylock(), spin_trylock(): legal in atomic context, proves no lock order, and may fail for the owner itself. */
  tryLock(): boolean {
    if (this.#owner !== null) return false;
    const context = this.sched.context;
    this.sched.lockdep.acquireNoOrder(context, this);
    this.#owner = context;
    this.taken(context);
    return true;
  }

  /** `context` owns it from now on: pay, and become atomic if the lock is of that kind. */
  protected abstract taken(context: ExecContext): void;

  /** The first part of unlock(): nobody but the owner may do it. Waking the next is the lock's own. */
  protected release(context: ExecContext): void {
    if (this.#owner !== context) throw this.wrongUnlock(context, 'unlocks');
    this.sched.lockdep.release(context, this);
    this.#owner = null;
  }

  protected story(): string {
    return `held by ${this.#owner?.describe() ?? 'nobody'}`;
  }
}
