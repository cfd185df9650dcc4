// SPDX-License-Identifier: GPL-2.0-only
/** A counting semaphore between threads of a test, after sem_overview(7); waiting is polling in virtual time. */
import type { Steps, Threads } from './backend.ts';
import { TEST_ASSERT } from './test_util.ts';

export class Semaphore {
  readonly #threads: Threads;
  #value = 0;

  constructor(threads: Threads) {
    this.#threads = threads;
  }

  /** sem_getvalue(). */
  get value(): number {
    return this.#value;
  }

  /** sem_post(). */
  post(): void {
    this.#value++;
  }

  /** sem_wait(). */
  *wait(): Steps<void> {
    yield* this.#threads.spinUntil(() => this.#value > 0);
    this.#value--;
  }

  /** sem_timedwait(): fails the test if nobody posts within `timeoutNs` of virtual time. */
  *timedWait(timeoutNs: number, what: string): Steps<void> {
    const posted = yield* this.#threads.spinUntil(() => this.#value > 0, timeoutNs);
    TEST_ASSERT(posted, () => `sem_timedwait() failed: ${what} within ${timeoutNs / 1e9} seconds`);
    this.#value--;
  }
}
