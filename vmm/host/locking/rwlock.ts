// SPDX-License-Identifier: GPL-2.0-only
/**
 * Spinning reader-writer locks after include/linux/rwlock.h. Holders of either kind are in atomic context. A waiting
 * writer does not keep new readers out.
 * DEVIATION: not fair as qrwlock is: a writer that spins can be overtaken by readers that come later.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { ExecContext, HeldLock } from '../exec_context.ts';
import type { SchedCore } from '../sched/core.ts';
import { WaitQueue } from '../sched/wait_queue.ts';
import type { Steps } from '../steps.ts';

export class RwLock implements HeldLock {
  readonly name: string;
  readonly classId: number;
  readonly #sched: SchedCore;
  readonly #waiters: WaitQueue;
  readonly #readers: ExecContext[] = [];
  #writer: ExecContext | null = null;

  constructor(sched: SchedCore, name: string) {
    this.#sched = sched;
    this.name = name;
    this.classId = sched.lockdep.classOf(name);
    this.#waiters = new WaitQueue(sched, `rwlock ${name}`);
    this.#waiters.describe = () => `rwlock ${name}, ${this.#story()}`;
  }

  get writer(): ExecContext | null {
    return this.#writer;
  }

  get readers(): readonly ExecContext[] {
    return this.#readers;
  }

  /** lockdep_assert_held(): for reading or writing. */
  assertHeld(): void {
    const context = this.#sched.context;
    if (this.#writer !== context && !this.#readers.includes(context)) {
      throw new BugError(`${this.name} is not held by ${context.describe()}`);
    }
  }

  /** lockdep_assert_held_write(). */
  assertHeldWrite(): void {
    const context = this.#sched.context;
    if (this.#writer !== context)
      throw new BugError(`${this.name} is not held for writing by ${context.describe()}`);
  }

  /** readLock() without waiting: false if a writer has it. */
  readFastLock(): boolean {
    const context = this.#sched.context;
    this.#refuseRecursion(context);
    if (this.#writer !== null) return false;
    this.#sched.lockdep.acquire(context, this);
    this.#readers.push(context);
    this.#taken(context);
    return true;
  }

  *readLock(): Steps<void> {
    while (!this.readFastLock()) {
      this.#sched.counters.lockContentions++;
      yield* this.#waiters.spin();
    }
  }

  readTryLock(): boolean {
    if (this.#writer !== null) return false;
    const context = this.#sched.context;
    this.#sched.lockdep.acquireNoOrder(context, this);
    this.#readers.push(context);
    this.#taken(context);
    return true;
  }

  readUnlock(): void {
    const context = this.#sched.context;
    const index = this.#readers.lastIndexOf(context);
    if (index < 0) {
      throw new BugError(`${context.describe()} read-unlocks ${this.name}, which is ${this.#story()}`);
    }
    if (index === this.#readers.length - 1) this.#readers.pop();
    else this.#readers.splice(index, 1);
    this.#released(context);
  }

  /** writeLock() without waiting: false if somebody has it. */
  writeFastLock(): boolean {
    const context = this.#sched.context;
    this.#refuseRecursion(context);
    if (this.#writer !== null || this.#readers.length !== 0) return false;
    this.#sched.lockdep.acquire(context, this);
    this.#writer = context;
    this.#taken(context);
    return true;
  }

  *writeLock(): Steps<void> {
    while (!this.writeFastLock()) {
      this.#sched.counters.lockContentions++;
      yield* this.#waiters.spin();
    }
  }

  writeTryLock(): boolean {
    if (this.#writer !== null || this.#readers.length !== 0) return false;
    const context = this.#sched.context;
    this.#sched.lockdep.acquireNoOrder(context, this);
    this.#writer = context;
    this.#taken(context);
    return true;
  }

  writeUnlock(): void {
    const context = this.#sched.context;
    if (this.#writer !== context) {
      throw new BugError(`${context.describe()} write-unlocks ${this.name}, which is ${this.#story()}`);
    }
    this.#writer = null;
    this.#released(context);
  }

  #taken(context: ExecContext): void {
    spend(this.#sched.cpu, COST.RWLOCK);
    context.preemptCount++;
  }

  #released(context: ExecContext): void {
    this.#sched.lockdep.release(context, this);
    context.preemptCount--;
    this.#waiters.wakeAll();
  }

  #refuseRecursion(context: ExecContext): void {
    if (this.#writer === context || (this.#readers.length !== 0 && this.#readers.includes(context))) {
      throw new BugError(
        `recursive lock: ${context.describe()} takes ${this.name} again, which is ${this.#story()}`,
      );
    }
  }

  #story(): string {
    if (this.#writer !== null) return `held for writing by ${this.#writer.describe()}`;
    if (this.#readers.length === 0) return 'held by nobody';
    return `held for reading by ${this.#readers.map((reader) => reader.describe()).join(', ')}`;
  }
}
