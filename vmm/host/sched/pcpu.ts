// SPDX-License-Identifier: GPL-2.0-only
/**
 * The scheduler's view of one pCPU: its running task, its run queue and the interrupts that await it. After struct rq;
 * leaves out load balancing beyond the choice made at wake-up.
 */
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { ExecContext } from '../exec_context.ts';
import { IrqQueue } from './hrtimer.ts';
import { TASK, type Task } from './task.ts';

export class PCpu {
  readonly id: number;
  readonly cpu: Cpu;
  readonly irqContext: ExecContext;
  readonly irqs = new IrqQueue();
  /** Runnable tasks that wait for the pCPU, in order of arrival. */
  readonly queue: Task[] = [];
  current: Task | null = null;
  /** Nesting of local_irq_disable(). */
  irqsOff = 0;
  /** When the current task got the pCPU. */
  scheduledIn = 0;
  /** The task that ran last: switching back to it is free. */
  last: Task | null = null;
  /** Cycles with nothing to do, and cycles lost to spinning on locks. */
  idleCycles = 0;
  spinCycles = 0;

  constructor(cpu: Cpu) {
    this.id = cpu.id;
    this.cpu = cpu;
    this.irqContext = new ExecContext(`interrupt on pCPU ${cpu.id}`);
  }

  get now(): number {
    return this.cpu.clock[0]!;
  }

  get idle(): boolean {
    return this.current === null && this.queue.length === 0;
  }

  /** When this pCPU can next do something; Infinity if nothing is in sight. */
  actionTime(): number {
    const now = this.now;
    let at = this.irqsOff === 0 ? Math.max(now, this.irqs.nextAt) : Infinity;
    const current = this.current;
    if (current !== null && onCpu(current)) at = Math.min(at, Math.max(now, current.availableAt));
    if (this.#mayPickFromQueue()) at = Math.min(at, Math.max(now, this.queueTime()));
    return at;
  }

  /** When the first task of the queue can run; Infinity if none can. */
  queueTime(): number {
    let at = Infinity;
    for (const task of this.queue)
      if (task.state === TASK.RUNNING && task.availableAt < at) at = task.availableAt;
    return at;
  }

  /** Take the next task off the queue: the first that is available now. */
  dequeue(): Task | null {
    const now = this.now;
    const index = this.queue.findIndex((task) => task.state === TASK.RUNNING && task.availableAt <= now);
    return index < 0 ? null : this.queue.splice(index, 1)[0]!;
  }

  remove(task: Task): void {
    const index = this.queue.indexOf(task);
    if (index >= 0) this.queue.splice(index, 1);
  }

  #mayPickFromQueue(): boolean {
    const current = this.current;
    if (this.queue.length === 0) return false;
    if (current === null || current.state === TASK.POLLING) return true;
    // A lock's waiter keeps its pCPU until the cycle at which the lock came free.
    return onCpu(current) && current.preemptCount === 0 && current.availableAt <= this.now;
  }
}

/** The task has its pCPU and can go on: neither asleep nor spinning. */
export function onCpu(task: Task): boolean {
  return !task.offCpu && task.state <= TASK.UNINTERRUPTIBLE;
}
