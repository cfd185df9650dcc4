// SPDX-License-Identifier: GPL-2.0-only
/** Completions after kernel/sched/completion.c: each complete() lets one waiter through, whether it came before or after. */
import type { SchedCore } from '../sched/core.ts';
import { WaitQueue } from '../sched/wait_queue.ts';
import type { Steps } from '../steps.ts';

export class Completion {
  readonly name: string;
  readonly #waiters: WaitQueue;
  #done = 0;

  constructor(sched: SchedCore, name: string) {
    this.name = name;
    this.#waiters = new WaitQueue(sched, `completion ${name}`);
  }

  /** Whether a waiter would get through now. */
  get completed(): boolean {
    return this.#done > 0;
  }

  complete(): void {
    this.#done++;
    this.#waiters.wakeOne();
  }

  /** From now on nobody waits. */
  completeAll(): void {
    this.#done = Infinity;
    this.#waiters.wakeAll();
  }

  /** reinit_completion(). */
  reinit(): void {
    this.#done = 0;
  }

  *wait(): Steps<void> {
    yield* this.#waiters.wait(() => this.#done > 0);
    this.#done--;
  }

  /** False if a signal came first. */
  *waitInterruptible(): Steps<boolean> {
    if (!(yield* this.#waiters.waitInterruptible(() => this.#done > 0))) return false;
    this.#done--;
    return true;
  }
}
