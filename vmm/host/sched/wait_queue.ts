// SPDX-License-Identifier: GPL-2.0-only
/**
 * Wait queues after kernel/sched/wait.c: sleep until a condition holds. Between the test of the condition and the sleep
 * nothing can happen except at an explicit yield, so wake-ups cannot be lost; prepareToWait()/schedule() are there for
 * code whose own order of test and sleep is under examination.
 */
import type { Steps } from '../steps.ts';
import type { SchedCore } from './core.ts';
import { HrTimer } from './hrtimer.ts';
import { TASK, type Task, type WaitReason } from './task.ts';

export class WaitQueue implements WaitReason {
  readonly name: string;
  readonly #sched: SchedCore;
  readonly #waiters: Task[] = [];

  constructor(sched: SchedCore, name: string) {
    this.#sched = sched;
    this.name = name;
  }

  describe(): string {
    return this.name;
  }

  /** Tasks on the queue, in order of arrival. */
  get waiters(): readonly Task[] {
    return this.#waiters;
  }

  /** wait_event(): sleep, not to be interrupted, until `condition` holds. */
  *wait(condition: () => boolean): Steps<void> {
    this.#sched.mightSleep(this);
    while (!condition()) yield* this.#sleep(TASK.UNINTERRUPTIBLE);
  }

  /** wait_event_interruptible(): false if a signal came first. */
  *waitInterruptible(condition: () => boolean): Steps<boolean> {
    this.#sched.mightSleep(this);
    while (!condition()) {
      if (this.#sched.waiter(this).signalPending) return false;
      yield* this.#sleep(TASK.INTERRUPTIBLE);
    }
    return true;
  }

  /** wait_event_timeout(): false if the cycle `at` came first. */
  *waitUntil(at: number, condition: () => boolean): Steps<boolean> {
    this.#sched.mightSleep(this);
    const task = this.#sched.waiter(this);
    const timer = new HrTimer(`${this.name}: timeout`, () => void this.#sched.wake(task));
    this.#sched.hrtimerStart(timer, at);
    while (!condition() && timer.armed) yield* this.#sleep(TASK.UNINTERRUPTIBLE);
    this.#sched.hrtimerCancel(timer);
    return condition();
  }

  /** Join the queue without sleeping yet: from here on a wake-up is remembered. */
  prepareToWait(): void {
    this.#enqueue(TASK.INTERRUPTIBLE);
  }

  /** schedule() after prepareToWait(): sleep unless a wake-up or a signal came in between. */
  *schedule(): Steps<void> {
    const task = this.#sched.waiter(this);
    if (task.state === TASK.INTERRUPTIBLE && !task.signalPending) {
      this.#sched.mightSleep(this);
      task.offCpu = true;
      yield;
    }
    this.finishWait();
  }

  /** Leave the queue, woken or not. */
  finishWait(): void {
    const task = this.#sched.waiter(this);
    task.state = TASK.RUNNING;
    task.waitingFor = null;
    this.#remove(task);
  }

  /** Busy waiting: keep the pCPU until woken. For spinning locks and interprocessor calls. */
  *spin(): Steps<void> {
    const task = this.#enqueue(TASK.SPINNING);
    yield;
    task.waitingFor = null;
    this.#remove(task);
  }

  /** Wake every waiter; how many there were. */
  wakeAll(): number {
    if (this.#waiters.length === 0) return 0;
    let woken = 0;
    for (const task of this.#waiters.splice(0)) if (this.#sched.wake(task)) woken++;
    return woken;
  }

  /** Wake the longest waiter; false if there was none. */
  wakeOne(): boolean {
    for (let task = this.#waiters.shift(); task !== undefined; task = this.#waiters.shift()) {
      if (this.#sched.wake(task)) return true;
    }
    return false;
  }

  *#sleep(state: number): Steps<void> {
    const task = this.#enqueue(state);
    task.offCpu = true;
    yield;
    task.waitingFor = null;
    this.#remove(task);
  }

  #enqueue(state: number): Task {
    const task = this.#sched.waiter(this);
    if (!this.#waiters.includes(task)) this.#waiters.push(task);
    task.state = state;
    task.waitingFor = this;
    return task;
  }

  #remove(task: Task): void {
    const index = this.#waiters.indexOf(task);
    if (index >= 0) this.#waiters.splice(index, 1);
  }
}
