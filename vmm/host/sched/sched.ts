// SPDX-License-Identifier: GPL-2.0-only
/**
 * What kernel and test code calls: tasks, sleeping, signals, affinity, timers, interrupts and preemption. After
 * include/linux/sched.h and kernel/time; the dispatcher below it decides who runs.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { Steps } from '../steps.ts';
import type { SchedCore } from './core.ts';
import { Dispatcher } from './dispatcher.ts';
import { HrTimer, IRQ } from './hrtimer.ts';
import { type PreemptNotifier, TASK, Task, type WaitReason } from './task.ts';

export interface SpawnOptions {
  /** The only pCPU to run on. */
  readonly cpu?: number;
  /** The run ends without waiting for it. */
  readonly daemon?: boolean;
  /** Its address space: pCPUs that run it receive the TLB shootdowns of that address space. */
  readonly process?: object;
}

export class Scheduler extends Dispatcher implements SchedCore {
  #nextId = 0;

  /** need_resched(): another task of this pCPU has waited for the whole time slice, or the task belongs elsewhere. */
  needResched(): boolean {
    const task = this.current;
    if (task === null) return false;
    const pcpu = this.pcpus[task.pcpu]!;
    if (task.affinity >= 0 && task.affinity !== pcpu.id) return true;
    return (
      pcpu.queue.length !== 0 &&
      this.now() >= pcpu.scheduledIn + this.timeslice &&
      pcpu.queueTime() <= this.now()
    );
  }

  // Tasks.

  spawn(name: string, body: Steps<void>, options: SpawnOptions = {}): Task {
    const affinity = options.cpu ?? -1;
    if (affinity >= this.pcpus.length) throw new BugError(`task "${name}": there is no pCPU ${affinity}`);
    const where = {
      pcpu: Math.max(affinity, 0),
      affinity,
      daemon: options.daemon ?? false,
      process: options.process ?? null,
    };
    const task = new Task(this.#nextId++, name, body, where);
    task.pcpu = this.select(task, true);
    this.tasks.push(task);
    this.enqueue(task, this.now());
    return task;
  }

  /** Wait until `task` has ended. */
  *join(task: Task): Steps<void> {
    const reason = { describe: () => `the end of "${task.name}"` };
    this.mightSleep(reason);
    const self = this.waiter(reason);
    while (task.alive) {
      if (!task.joiners.includes(self)) task.joiners.push(self);
      yield* this.#sleep(self, TASK.UNINTERRUPTIBLE, reason);
    }
  }

  /** A signal: ends interruptible sleep, and makes a vCPU leave guest mode. */
  sendSignal(task: Task): void {
    task.signalPending = true;
    if (!task.alive) return;
    if (task.state === TASK.INTERRUPTIBLE) this.wake(task);
    else if (task !== this.current && this.pcpus[task.pcpu]!.current === task) this.kick(task.pcpu);
  }

  /** sched_setaffinity(): a sleeping or queued task moves now, a running one at its next yield outside atomic context. */
  setAffinity(task: Task, cpu: number): void {
    if (this.pcpus[cpu] === undefined) throw new BugError(`task "${task.name}": there is no pCPU ${cpu}`);
    task.affinity = cpu;
    if (task.pcpu === cpu || !task.alive) return;
    const old = this.pcpus[task.pcpu]!;
    if (old.current === task) {
      if (task !== this.current) this.kick(old.id);
      else this.sliceLimit = Math.min(this.sliceLimit, this.now());
      return;
    }
    old.remove(task);
    this.move(task, cpu, Math.max(task.availableAt, this.now()));
  }

  preemptNotifierRegister(task: Task, notifier: PreemptNotifier): void {
    task.preemptNotifiers.push(notifier);
  }

  preemptNotifierUnregister(task: Task, notifier: PreemptNotifier): void {
    const index = task.preemptNotifiers.indexOf(notifier);
    if (index >= 0) task.preemptNotifiers.splice(index, 1);
  }

  // Waiting.

  mightSleep(what: WaitReason): void {
    const context = this.context;
    const irqs = this.current !== null && this.pcpus[this.current.pcpu]!.irqsOff !== 0;
    if (context.preemptCount === 0 && !irqs && (this.current !== null || context === this.boot)) return;
    const why = irqs ? ' with interrupts off' : '';
    throw new BugError(
      `sleeping in atomic context${why}: ${context.describe()} would wait for ${what.describe()}`,
    );
  }

  waiter(what: WaitReason): Task {
    if (this.current === null) {
      throw new BugError(
        `only a task can wait, not ${this.context.describe()}: it would wait for ${what.describe()}`,
      );
    }
    return this.current;
  }

  /** Sleep until the cycle `at`. */
  *sleepUntil(at: number): Steps<void> {
    const reason = { describe: () => `cycle ${at}` };
    this.mightSleep(reason);
    const task = this.waiter(reason);
    const timer = new HrTimer(`sleep of "${task.name}"`, () => void this.wake(task));
    this.hrtimerStart(timer, at);
    while (timer.armed) yield* this.#sleep(task, TASK.UNINTERRUPTIBLE, reason);
  }

  /** Sleep until the cycle `at`; false if a signal came first. */
  *sleepInterruptibleUntil(at: number): Steps<boolean> {
    const reason = { describe: () => `cycle ${at} or a signal` };
    this.mightSleep(reason);
    const task = this.waiter(reason);
    const timer = new HrTimer(`sleep of "${task.name}"`, () => void this.wake(task));
    this.hrtimerStart(timer, at);
    while (timer.armed && !task.signalPending) yield* this.#sleep(task, TASK.INTERRUPTIBLE, reason);
    return !this.hrtimerCancel(timer);
  }

  *sleepCycles(cycles: number): Steps<void> {
    yield* this.sleepUntil(this.now() + cycles);
  }

  /**
   * A userspace thread that polls memory: burns its pCPU in virtual time, but is looked at only after somebody else has
   * run. `what` is for reports.
   */
  *spinUntil(condition: () => boolean, what: string): Steps<void> {
    const reason = { describe: () => what };
    this.mightSleep(reason);
    const task = this.waiter(reason);
    while (!condition()) {
      task.poll = condition;
      task.state = TASK.POLLING;
      task.waitingFor = reason;
      this.pollers.push(task);
      yield;
      task.poll = null;
      task.waitingFor = null;
    }
    spend(this.cpu, COST.USER_SPIN);
  }

  // Interrupts and preemption.

  localIrqDisable(): void {
    this.pcpu().irqsOff++;
  }

  localIrqEnable(): void {
    const pcpu = this.pcpu();
    if (pcpu.irqsOff === 0) throw new BugError(`interrupts of pCPU ${pcpu.id} are on already`);
    if (--pcpu.irqsOff === 0) this.deliver(pcpu);
  }

  preemptDisable(): void {
    this.context.preemptCount++;
  }

  preemptEnable(): void {
    if (this.context.preemptCount === 0)
      throw new BugError(`preemption of ${this.context.describe()} is enabled already`);
    this.context.preemptCount--;
  }

  /** An interrupt of the current pCPU is due: a vCPU in guest mode has to exit. */
  irqPending(): boolean {
    return this.pcpu().irqs.nextAt <= this.now();
  }

  /** smp_send_reschedule(): an interrupt without a function, to make a pCPU look around. */
  kick(cpu: number): void {
    spend(this.cpu, COST.IPI_SEND);
    this.counters.ipis++;
    this.raise(cpu, { name: 'reschedule', kind: IRQ.IPI, at: this.now(), handler: () => undefined });
  }

  /** Arm `timer` for the cycle `at` on the current pCPU, or move it there. */
  hrtimerStart(timer: HrTimer, at: number): void {
    this.hrtimerCancel(timer);
    timer.at = at;
    timer.pcpu = this.pcpu().id;
    this.raise(timer.pcpu, timer);
  }

  /** True if the timer was armed. */
  hrtimerCancel(timer: HrTimer): boolean {
    if (!timer.armed) return false;
    this.pcpus[timer.pcpu]!.irqs.remove(timer);
    timer.pcpu = -1;
    return true;
  }

  /** Run `steps` as a task, everything else beside it, until it ends; its result. */
  drive<T>(name: string, steps: Steps<T>, options: SpawnOptions = {}): T {
    const box: { result?: T } = {};
    const task = this.spawn(
      name,
      (function* (): Steps<void> {
        box.result = yield* steps;
      })(),
      options,
    );
    this.run(() => !task.alive);
    return box.result as T;
  }

  *#sleep(task: Task, state: number, reason: WaitReason): Steps<void> {
    task.state = state;
    task.waitingFor = reason;
    task.offCpu = true;
    yield;
    task.waitingFor = null;
  }
}
