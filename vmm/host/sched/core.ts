// SPDX-License-Identifier: GPL-2.0-only
/**
 * What locks, wait queues and services need of the scheduler. Kept apart from it so that they can be built, and tested,
 * without the dispatcher.
 */
import type { Cpu } from '../../machine/cpu/cpu.ts';
import type { HostCounters } from '../counters.ts';
import type { ExecContext } from '../exec_context.ts';
import type { LockDep } from '../locking/lockdep.ts';
import type { HrTimer } from './hrtimer.ts';
import type { Task, WaitReason } from './task.ts';

export interface SchedCore {
  /** smp_processor_id(): the pCPU whose time passes now. */
  readonly cpu: Cpu;
  readonly cpus: readonly Cpu[];
  /** Who executes now. */
  readonly context: ExecContext;
  /** `current`, or null in interrupt and boot context. */
  readonly current: Task | null;
  readonly counters: HostCounters;
  readonly lockdep: LockDep;
  /** A schedule explorer is at work: every guarded yield is taken. */
  readonly exploring: boolean;
  /** Whether a guarded yield should be taken: `if (sched.shouldYield()) yield;`. */
  shouldYield(): boolean;
  /** might_sleep(): a BugError in atomic context, naming `what`. */
  mightSleep(what: WaitReason): void;
  /** The current task, about to wait for `what`; a BugError outside of tasks. */
  waiter(what: WaitReason): Task;
  /** try_to_wake_up(): make a waiting task runnable. True if it was waiting. */
  wake(task: Task): boolean;
  /** Interrupts of the current pCPU: off nests, and on delivers what is due. */
  localIrqDisable(): void;
  localIrqEnable(): void;
  /** Arm a timer on the current pCPU; true from hrtimerCancel() if it was armed. */
  hrtimerStart(timer: HrTimer, at: number): void;
  hrtimerCancel(timer: HrTimer): boolean;
  preemptDisable(): void;
  preemptEnable(): void;
}
