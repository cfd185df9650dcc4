// SPDX-License-Identifier: GPL-2.0-only
/**
 * The dispatcher: a discrete-event simulation of tasks on pCPUs, each with its own clock. The pCPU with the smallest clock
 * goes on, at most a quantum beyond the next one; ties go to the lower number. After schedule() and the wake-up half of
 * kernel/sched/core.c; tasks of one pCPU take turns of one time slice. Preemption happens at yields only.
 * DEVIATION: no load balancing: a task changes pCPU when it is woken and its own pCPU is busy. The tick comes only to end
 * the slice of a task that runs with interrupts off.
 */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { BugError } from '../../machine/errors.ts';
import type { HostCounters } from '../counters.ts';
import { ExecContext } from '../exec_context.ts';
import { LockDep } from '../locking/lockdep.ts';
import { type Candidate, candidates, type Chooser } from './candidates.ts';
import { DeadlockError, LivelockError } from './errors.ts';
import { HrTimer, IRQ, type Interrupt } from './hrtimer.ts';
import { PCpu } from './pcpu.ts';
import { TASK, type Task } from './task.ts';

export interface SchedOptions {
  /** How far a pCPU may run ahead of the next one, in cycles. Default 20,000. */
  readonly quantum?: number;
  /** How long a task keeps a pCPU that others want. Default 200,000 cycles. */
  readonly timeslice?: number;
  /** Longest run without returning to the scheduler, when nobody else wants anything. Default 2,000,000 cycles. */
  readonly maxSlice?: number;
  /** Livelock budgets: turns of the dispatcher, and the clock of any pCPU. Default: none. */
  readonly maxTurns?: number;
  readonly maxCycles?: number;
}

/** Runs tasks; what tasks call is in Scheduler. */
export class Dispatcher {
  readonly cpus: readonly Cpu[];
  readonly pcpus: readonly PCpu[];
  readonly counters: HostCounters;
  readonly lockdep = new LockDep();
  /** Tasks that have not ended. */
  readonly tasks: Task[] = [];
  cpu: Cpu;
  context: ExecContext;
  current: Task | null = null;
  /** Set while a schedule explorer is at work: every guarded yield is taken, and `choose` decides who goes on. */
  exploring = false;
  choose: Chooser | null = null;
  /** Turns of the dispatcher so far. */
  turns = 0;
  readonly quantum: number;
  readonly timeslice: number;
  readonly #maxSlice: number;
  readonly #maxTurns: number;
  readonly #maxCycles: number;
  protected readonly boot = new ExecContext('boot');
  protected readonly pollers: Task[] = [];
  protected sliceLimit = Infinity;
  #horizon = Infinity;
  #running = false;

  constructor(cpus: readonly Cpu[], counters: HostCounters, options: SchedOptions = {}) {
    if (cpus.length === 0) throw new BugError('a host needs a pCPU');
    this.cpus = cpus;
    this.counters = counters;
    this.pcpus = cpus.map((cpu) => new PCpu(cpu));
    this.cpu = cpus[0]!;
    this.context = this.boot;
    this.quantum = options.quantum ?? 20_000;
    this.timeslice = options.timeslice ?? 200_000;
    this.#maxSlice = options.maxSlice ?? 2_000_000;
    this.#maxTurns = options.maxTurns ?? Infinity;
    this.#maxCycles = options.maxCycles ?? Infinity;
  }

  /** The clock of the current pCPU. */
  now(): number {
    return this.cpu.clock[0]!;
  }

  /** Whether a guarded yield should be taken: the slice is over, or an explorer wants every one. */
  shouldYield(): boolean {
    return this.exploring || this.cpu.clock[0]! >= this.sliceLimit;
  }

  /** The cycle until which the current task may run its pCPU: the deadline of a vCPU's guest run. */
  sliceEnd(): number {
    return this.sliceLimit;
  }

  // Waking and interrupts.

  /** try_to_wake_up(): make a waiting task runnable. True if it was waiting. */
  wake(task: Task): boolean {
    switch (task.state) {
      case TASK.SPINNING:
        task.state = TASK.RUNNING;
        this.#release(task);
        return true;
      case TASK.INTERRUPTIBLE:
      case TASK.UNINTERRUPTIBLE:
        task.state = TASK.RUNNING;
        if (task.offCpu) this.#wakeSleeper(task);
        return true;
      default:
        return false;
    }
  }

  /** Queue an interrupt on a pCPU; used by timers and by interprocessor interrupts. */
  raise(cpu: number, irq: Interrupt): void {
    const pcpu = this.pcpus[cpu];
    if (pcpu === undefined) throw new BugError(`interrupt ${irq.name}: there is no pCPU ${cpu}`);
    pcpu.irqs.add(irq);
    const own = pcpu === this.pcpu();
    if (!own) this.#horizon = Math.min(this.#horizon, irq.at);
    this.sliceLimit = Math.min(this.sliceLimit, own ? irq.at : Math.max(irq.at, pcpu.now) + this.quantum);
  }

  // Turns.

  /** Run until every task that is not a daemon has ended, or `until` holds. */
  run(until: () => boolean = () => false): void {
    if (this.#running) throw new BugError('the scheduler is running already');
    this.#running = true;
    try {
      while (!until() && this.tasks.some((task) => !task.daemon)) this.#turn();
    } finally {
      this.#running = false;
      this.#toBoot();
    }
  }

  #turn(): void {
    const choice =
      this.exploring && this.choose !== null ? this.#explore(this.choose) : this.#smallestClock();
    if (choice === null) throw new DeadlockError(this.#deadlockStory());
    this.turns++;
    if (this.turns > this.#maxTurns || choice.at > this.#maxCycles)
      throw new LivelockError(this.#livelockStory());
    const { pcpu } = choice;
    this.cpu = pcpu.cpu;
    this.context = this.boot;
    this.#advance(pcpu, choice.at);
    this.deliver(pcpu);
    const task = this.#pick(pcpu, choice.task);
    if (task !== null) this.#resume(pcpu, task);
    this.#pollAll(pcpu.now);
  }

  #smallestClock(): Candidate | null {
    let best: PCpu | null = null;
    let bestAt = Infinity;
    this.#horizon = Infinity;
    for (const pcpu of this.pcpus) {
      const at = pcpu.actionTime();
      if (at < bestAt) {
        this.#horizon = bestAt;
        bestAt = at;
        best = pcpu;
      } else if (at < this.#horizon) this.#horizon = at;
    }
    return best === null ? null : { pcpu: best, task: null, at: bestAt };
  }

  #explore(choose: Chooser): Candidate | null {
    const offered = candidates(this.pcpus);
    if (offered.length === 0) return null;
    const chosen = offered[choose(offered)];
    if (chosen === undefined) throw new BugError(`the explorer chose none of ${offered.length} candidates`);
    this.#horizon = chosen.at;
    return chosen;
  }

  /** Let the time of a pCPU pass that had nothing to do until `at`. */
  #advance(pcpu: PCpu, at: number): void {
    const gap = at - pcpu.now;
    if (gap <= 0) return;
    const price = pcpu.cpu.prices[COST.USER_SPIN]!;
    const polled = pcpu.current?.poll ?? null;
    if (polled !== null && price > 0) spend(pcpu.cpu, COST.USER_SPIN, Math.ceil(gap / price));
    else pcpu.cpu.clock[0] = at;
    if (pcpu.current === null) pcpu.idleCycles += gap;
    else pcpu.spinCycles += gap;
  }

  protected deliver(pcpu: PCpu): void {
    if (pcpu.irqsOff !== 0) return;
    const { context, current } = this;
    pcpu.irqsOff++;
    for (let irq = pcpu.irqs.take(pcpu.now); irq !== undefined; irq = pcpu.irqs.take(pcpu.now)) {
      this.context = pcpu.irqContext;
      this.current = null;
      if (irq instanceof HrTimer) irq.pcpu = -1;
      spend(pcpu.cpu, irq.kind === IRQ.IPI ? COST.IPI_RECEIVE : COST.EVENT_DELIVERY);
      if (irq.kind === IRQ.TIMER) this.counters.timerInterrupts++;
      irq.handler();
    }
    pcpu.irqsOff--;
    this.context = context;
    this.current = current;
  }

  /** The task that goes on; null if this turn was for interrupts only. */
  #pick(pcpu: PCpu, wanted: Task | null): Task | null {
    const current = pcpu.current;
    if (current !== null) {
      if (current.state === TASK.SPINNING || current.availableAt > pcpu.now) return null;
      const canLeave = current.state === TASK.POLLING || current.preemptCount === 0;
      if (current.state !== TASK.POLLING && !(canLeave && this.#mustLeave(pcpu, current, wanted)))
        return current;
      if (!canLeave || !this.#putBack(pcpu, current)) return current.state === TASK.POLLING ? null : current;
    }
    if (
      wanted !== null &&
      wanted !== current &&
      pcpu.queue.includes(wanted) &&
      wanted.availableAt <= pcpu.now
    ) {
      pcpu.remove(wanted);
      return wanted;
    }
    return pcpu.dequeue();
  }

  /** Whether the running task gives way: it belongs to another pCPU, its slice is over, or an explorer says so. */
  #mustLeave(pcpu: PCpu, task: Task, wanted: Task | null): boolean {
    if (task.affinity >= 0 && task.affinity !== pcpu.id) return true;
    if (wanted !== null) return wanted !== task;
    return pcpu.now >= pcpu.scheduledIn + this.timeslice && pcpu.queueTime() <= pcpu.now;
  }

  /** The running task goes back to a queue; false if there is nobody to take its place. */
  #putBack(pcpu: PCpu, task: Task): boolean {
    const elsewhere = task.affinity >= 0 && task.affinity !== pcpu.id;
    if (!elsewhere && pcpu.queueTime() > pcpu.now) return false;
    this.#schedOut(pcpu, task);
    if (elsewhere) this.move(task, task.affinity, pcpu.now);
    else pcpu.queue.push(task);
    return true;
  }

  #resume(pcpu: PCpu, task: Task): void {
    if (pcpu.current !== task) this.#schedIn(pcpu, task);
    if (pcpu.irqsOff !== 0 && this.#mustLeave(pcpu, task, null)) tick(pcpu);
    this.sliceLimit = this.#endOfSlice(pcpu);
    this.context = task;
    this.current = task;
    let result: IteratorResult<void, void>;
    try {
      result = task.body.next();
    } catch (error) {
      this.#bury(pcpu, task);
      throw error;
    } finally {
      this.context = this.boot;
      this.current = null;
    }
    if (result.done === true) this.#exit(pcpu, task);
    else if (task.offCpu) this.#schedOut(pcpu, task);
  }

  /** Always in the future: what is overdue and cannot be had now (interrupts off) is the task's to notice. */
  #endOfSlice(pcpu: PCpu): number {
    const now = pcpu.now;
    const laterThanNow = (at: number): number => (at > now ? at : Infinity);
    let end = Math.min(this.#horizon + this.quantum, now + this.#maxSlice, laterThanNow(pcpu.irqs.nextAt));
    if (this.pollers.length !== 0) end = Math.min(end, now + this.quantum);
    if (pcpu.queue.length !== 0) {
      end = Math.min(end, laterThanNow(Math.max(pcpu.scheduledIn + this.timeslice, pcpu.queueTime())));
    }
    return end;
  }

  #schedIn(pcpu: PCpu, task: Task): void {
    if (pcpu.last !== task) {
      spend(pcpu.cpu, COST.CONTEXT_SWITCH);
      this.counters.contextSwitches++;
    }
    pcpu.last = task;
    pcpu.current = task;
    pcpu.scheduledIn = pcpu.now;
    for (const notifier of task.preemptNotifiers) notifier.schedIn(pcpu.cpu);
  }

  #schedOut(pcpu: PCpu, task: Task): void {
    task.availableAt = pcpu.now;
    for (const notifier of task.preemptNotifiers) notifier.schedOut(pcpu.cpu);
    pcpu.current = null;
  }

  #exit(pcpu: PCpu, task: Task): void {
    this.#bury(pcpu, task);
    if (task.held.length !== 0 || task.preemptCount !== 0) {
      throw new BugError(`${task.describe()} ended in atomic context (preempt count ${task.preemptCount})`);
    }
    for (const joiner of task.joiners.splice(0)) this.wake(joiner);
  }

  #bury(pcpu: PCpu, task: Task): void {
    task.state = TASK.DEAD;
    pcpu.current = null;
    this.tasks.splice(this.tasks.indexOf(task), 1);
  }

  /** Look at what polling tasks look at, each on its own pCPU's time. */
  #pollAll(now: number): void {
    for (let i = this.pollers.length - 1; i >= 0; i--) {
      const task = this.pollers[i]!;
      this.cpu = this.pcpus[task.pcpu]!.cpu;
      this.context = task;
      this.current = task;
      const met = task.poll === null || task.poll();
      this.context = this.boot;
      this.current = null;
      if (!met) continue;
      this.pollers.splice(i, 1);
      task.state = TASK.RUNNING;
      task.availableAt = Math.max(task.availableAt, now);
    }
  }

  #wakeSleeper(task: Task): void {
    spend(this.cpu, COST.WAKEUP);
    this.counters.wakeups++;
    const cpu = this.select(task, false);
    if (cpu === task.pcpu) this.enqueue(task, this.now());
    else this.move(task, cpu, this.now());
  }

  protected enqueue(task: Task, at: number): void {
    const pcpu = this.pcpus[task.pcpu]!;
    task.offCpu = false;
    task.availableAt = Math.max(task.availableAt, at);
    pcpu.queue.push(task);
    this.shorten(pcpu, at);
  }

  protected move(task: Task, cpu: number, at: number): void {
    task.pcpu = cpu;
    this.counters.taskMigrations++;
    if (task.offCpu && task.state !== TASK.RUNNING) return;
    this.enqueue(task, at);
  }

  /** A spinning task may go on. */
  #release(task: Task): void {
    task.availableAt = Math.max(task.availableAt, this.now());
    this.shorten(this.pcpus[task.pcpu]!, task.availableAt);
  }

  /** Somebody became runnable on `pcpu` at `at`: whoever runs now must not run too far ahead of that. */
  protected shorten(pcpu: PCpu, at: number): void {
    if (pcpu.cpu !== this.cpu) this.#horizon = Math.min(this.#horizon, Math.max(at, pcpu.now));
    const limit =
      pcpu.cpu === this.cpu ? pcpu.scheduledIn + this.timeslice : Math.max(at, pcpu.now) + this.quantum;
    this.sliceLimit = Math.min(this.sliceLimit, limit);
  }

  /** select_task_rq(): its own pCPU if that is idle, else the first idle one, else its own (a new task: the emptiest). */
  protected select(task: Task, isNew: boolean): number {
    if (task.affinity >= 0) return task.affinity;
    if (!isNew && this.pcpus[task.pcpu]!.idle) return task.pcpu;
    const idle = this.pcpus.find((pcpu) => pcpu.idle);
    if (idle !== undefined) return idle.id;
    if (!isNew) return task.pcpu;
    const load = (pcpu: PCpu): number => pcpu.queue.length + (pcpu.current === null ? 0 : 1);
    return this.pcpus.reduce((best, pcpu) => (load(pcpu) < load(best) ? pcpu : best)).id;
  }

  protected pcpu(): PCpu {
    return this.pcpus[this.cpu.id]!;
  }

  #toBoot(): void {
    this.cpu = this.cpus[0]!;
    this.context = this.boot;
    this.current = null;
    this.sliceLimit = Infinity;
  }

  #deadlockStory(): string {
    const stuck = this.tasks.map((task) => `  ${task.story()}`);
    return ['deadlock: no task can go on and no event is in sight', ...stuck].join('\n');
  }

  #livelockStory(): string {
    const busy = this.tasks.map((task) => `  ${task.story()}`);
    return [`livelock: the run did not end within ${this.turns} turns, cycle ${this.now()}`, ...busy].join(
      '\n',
    );
  }
}

/** The slice of a task that runs with interrupts off is over: a vCPU in guest mode has to exit for it. */
function tick(pcpu: PCpu): void {
  if (pcpu.irqs.nextAt <= pcpu.now) return;
  pcpu.irqs.add({ name: 'tick', kind: IRQ.TIMER, at: pcpu.now, handler: () => undefined });
}
