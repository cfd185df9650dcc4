// SPDX-License-Identifier: GPL-2.0-only
/**
 * Sleeping reader-writer semaphore after kernel/locking/rwsem.c: mmap_lock. A waiting writer keeps new readers out, so
 * that it is not starved; a writer may downgrade to reader.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { ExecContext, HeldLock } from '../exec_context.ts';
import type { SchedCore } from '../sched/core.ts';
import { WaitQueue } from '../sched/wait_queue.ts';
import type { Steps } from '../steps.ts';

export class RwSem implements HeldLock {
  readonly name: string;
  readonly classId: number;
  readonly #sched: SchedCore;
  readonly #waiters: WaitQueue;
  readonly #readers: ExecContext[] = [];
  #writer: ExecContext | null = null;
  #writersWaiting = 0;

  constructor(sched: SchedCore, name: string) {
    this.#sched = sched;
    this.name = name;
    this.classId = sched.lockdep.classOf(name);
    this.#waiters = new WaitQueue(sched, `rwsem ${name}`);
    this.#waiters.describe = () => `rwsem ${name}, ${this.#story()}`;
  }

  get writer(): ExecContext | null {
    return this.#writer;
  }

  get readers(): readonly ExecContext[] {
    return this.#readers;
  }

  /** Whether a reader that is not allowed to wait would get it now. */
  get readable(): boolean {
    return this.#writer === null && this.#writersWaiting === 0;
  }

  /** lockdep_assert_held(): for reading or writing. */
  assertHeld(): void {
    const context = this.#sched.context;
    if (this.#writer !== context && !this.#readers.includes(context)) {
      throw new BugError(`${this.name} is not held by ${context.describe()}`);
    }
  }

  /** down_read() without waiting: false if a writer has it or waits for it. */
  readFastLock(): boolean {
    const context = this.#sched.context;
    this.#sched.mightSleep(this.#waiters);
    this.#refuseRecursion(context);
    if (!this.readable) return false;
    this.#sched.lockdep.acquire(context, this);
    this.#readers.push(context);
    spend(this.#sched.cpu, COST.MUTEX);
    return true;
  }

  *readLock(): Steps<void> {
    while (!this.readFastLock()) {
      this.#sched.counters.lockContentions++;
      yield* this.#waiters.wait(() => this.readable);
    }
  }

  readUnlock(): void {
    const context = this.#sched.context;
    const index = this.#readers.lastIndexOf(context);
    if (index < 0)
      throw new BugError(`${context.describe()} read-unlocks ${this.name}, which is ${this.#story()}`);
    if (index === this.#readers.length - 1) this.#readers.pop();
    else this.#readers.splice(index, 1);
    this.#sched.lockdep.release(context, this);
    if (this.#readers.length === 0) this.#waiters.wakeAll();
  }

  /** down_write() without waiting: false if somebody has it. */
  writeFastLock(): boolean {
    const context = this.#sched.context;
    this.#sched.mightSleep(this.#waiters);
    this.#refuseRecursion(context);
    if (this.#writer !== null || this.#readers.length !== 0) return false;
    this.#sched.lockdep.acquire(context, this);
    this.#writer = context;
    spend(this.#sched.cpu, COST.MUTEX);
    return true;
  }

  *writeLock(): Steps<void> {
    while (!this.writeFastLock()) {
      this.#sched.counters.lockContentions++;
      this.#writersWaiting++;
      yield* this.#waiters.wait(() => this.#writer === null && this.#readers.length === 0);
      this.#writersWaiting--;
    }
  }

  writeUnlock(): void {
    this.#checkWriter('write-unlocks');
    this.#writer = null;
    this.#sched.lockdep.release(this.#sched.context, this);
    this.#waiters.wakeAll();
  }

  /** downgrade_write(): go on as a reader. */
  downgrade(): void {
    this.#checkWriter('downgrades');
    this.#readers.push(this.#sched.context);
    this.#writer = null;
    this.#waiters.wakeAll();
  }

  #checkWriter(verb: string): void {
    const context = this.#sched.context;
    if (this.#writer !== context) {
      throw new BugError(`${context.describe()} ${verb} ${this.name}, which is ${this.#story()}`);
    }
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
