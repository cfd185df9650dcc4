// SPDX-License-Identifier: GPL-2.0-only
/**
 * Sleepable RCU after kernel/rcu/srcutree.c: readers never wait; synchronize() waits for the readers that were there
 * before it. Leaves out callbacks, expedited grace periods and the second flip that weak memory ordering asks for.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { ExecContext } from '../exec_context.ts';
import type { SchedCore } from '../sched/core.ts';
import { WaitQueue } from '../sched/wait_queue.ts';
import type { Steps } from '../steps.ts';
import { Mutex } from './mutex.ts';

export class Srcu {
  readonly name: string;
  readonly #sched: SchedCore;
  readonly #readers: readonly [ExecContext[], ExecContext[]] = [[], []];
  readonly #waiters: WaitQueue;
  readonly #gracePeriod: Mutex;
  #index = 0;

  constructor(sched: SchedCore, name: string) {
    this.#sched = sched;
    this.name = name;
    this.#gracePeriod = new Mutex(sched, `${name} grace period`);
    this.#waiters = new WaitQueue(sched, `srcu ${name}`);
    this.#waiters.describe = () => `the end of srcu ${name} readers ${this.#story(this.#index ^ 1)}`;
  }

  /** srcu_read_lock(): an index for readUnlock(). Nests. */
  readLock(): number {
    spend(this.#sched.cpu, COST.SRCU);
    this.#readers[this.#index]!.push(this.#sched.context);
    return this.#index;
  }

  readUnlock(index: number): void {
    const readers = this.#readers[index];
    const context = this.#sched.context;
    // Mostly the last to have entered.
    if (readers?.at(-1) === context) readers.pop();
    else this.#removeReader(readers, context, index);
    if (readers?.length === 0 && index !== this.#index) this.#waiters.wakeAll();
  }

  #removeReader(readers: ExecContext[] | undefined, context: ExecContext, index: number): void {
    const at = readers?.lastIndexOf(context) ?? -1;
    if (at < 0) {
      throw new BugError(
        `${context.describe()} leaves srcu ${this.name} (index ${index}) without having entered`,
      );
    }
    readers?.splice(at, 1);
  }

  /** srcu_read_lock_held(). */
  get readLockHeld(): boolean {
    const context = this.#sched.context;
    return this.#readers[0].includes(context) || this.#readers[1].includes(context);
  }

  /** synchronize_srcu(): when it returns, every reader that was inside at the call has left. */
  *synchronize(): Steps<void> {
    const context = this.#sched.context;
    if (this.readLockHeld)
      throw new BugError(`${context.describe()} synchronizes srcu ${this.name} inside its own read side`);
    if (!this.#gracePeriod.fastLock()) yield* this.#gracePeriod.lock();
    spend(this.#sched.cpu, COST.SRCU_SYNC);
    this.#sched.counters.srcuSyncs++;
    const old = this.#readers[this.#index]!;
    this.#index ^= 1;
    if (this.#sched.shouldYield()) yield;
    if (old.length !== 0) yield* this.#waiters.wait(() => old.length === 0);
    this.#gracePeriod.unlock();
  }

  #story(index: number): string {
    return this.#readers[index]!.map((reader) => reader.describe()).join(', ');
  }
}
