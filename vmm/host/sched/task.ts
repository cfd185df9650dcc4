// SPDX-License-Identifier: GPL-2.0-only
/**
 * A task: a generator that runs on one pCPU at a time, in virtual time. After struct task_struct; leaves out priorities
 * and scheduling classes: tasks of one pCPU take turns.
 */
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { ExecContext } from '../exec_context.ts';
import type { Steps } from '../steps.ts';

/** Task states. SPINNING waits for a lock, POLLING for a condition in memory; both keep their pCPU busy. */
// prettier-ignore
export const TASK = { RUNNING: 0, INTERRUPTIBLE: 1, UNINTERRUPTIBLE: 2, SPINNING: 3, POLLING: 4, DEAD: 5 } as const;

/** What a blocked task waits for, in words. */
export interface WaitReason {
  describe(): string;
}

/** preempt_notifier: told when the task gets a pCPU and when it loses it. Plain code: these run in atomic context. */
export interface PreemptNotifier {
  schedIn(cpu: Cpu): void;
  schedOut(cpu: Cpu): void;
}

/** Where a task starts and what it belongs to. */
export interface TaskPlace {
  readonly pcpu: number;
  readonly affinity: number;
  readonly daemon: boolean;
  readonly process: object | null;
}

export class Task extends ExecContext {
  readonly id: number;
  readonly body: Steps<void>;
  /** Does not keep the run alive. */
  readonly daemon: boolean;
  /** The address space that it belongs to; null for kernel threads. Opaque to the scheduler. */
  readonly process: object | null;
  state: number = TASK.RUNNING;
  /** The task gave its pCPU up at its last yield (as opposed to a mere preemption point). */
  offCpu = false;
  /** Index of the pCPU that it runs or last ran on. */
  pcpu: number;
  /** The only pCPU it may run on, or -1. */
  affinity: number;
  /** Not before this cycle: when it was woken, or where it came from. */
  availableAt = 0;
  waitingFor: WaitReason | null = null;
  /** Condition of a POLLING task. */
  poll: (() => boolean) | null = null;
  signalPending = false;
  readonly preemptNotifiers: PreemptNotifier[] = [];
  readonly joiners: Task[] = [];

  constructor(id: number, name: string, body: Steps<void>, where: TaskPlace) {
    super(name);
    this.id = id;
    this.body = body;
    this.pcpu = where.pcpu;
    this.affinity = where.affinity;
    this.daemon = where.daemon;
    this.process = where.process;
  }

  get alive(): boolean {
    return this.state !== TASK.DEAD;
  }

  /** Name, state, reason and held locks in one line, for reports. */
  story(): string {
    const states = ['runnable', 'sleeps', 'sleeps uninterruptibly', 'spins', 'polls', 'is dead'];
    const reason = this.waitingFor === null ? '' : ` for ${this.waitingFor.describe()}`;
    return `${this.describe()} ${states[this.state]!}${reason} (pCPU ${this.pcpu})`;
  }
}
