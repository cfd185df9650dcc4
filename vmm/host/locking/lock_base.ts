// SPDX-License-Identifier: GPL-2.0-only
/**
 * What every lock of kernel/locking has: a name, a class in the lock order, a queue of waiters, and messages that say who
 * holds it. The classes derived from it remember the holders; the locks themselves say who waits, how, and at what price.
 */
import { BugError } from '../../machine/errors.ts';
import type { ExecContext, HeldLock } from '../exec_context.ts';
import type { SchedCore } from '../sched/core.ts';
import { WaitQueue } from '../sched/wait_queue.ts';

export abstract class LockBase implements HeldLock {
  readonly name: string;
  readonly classId: number;
  protected readonly sched: SchedCore;
  protected readonly waiters: WaitQueue;

  protected constructor(sched: SchedCore, kind: string, name: string) {
    this.sched = sched;
    this.name = name;
    this.classId = sched.lockdep.classOf(name);
    this.waiters = new WaitQueue(sched, `${kind} ${name}`);
    this.waiters.describe = () => `${kind} ${name}, ${this.story()}`;
  }

  /** `held by "vcpu 0"`, for messages. */
  protected abstract story(): string;

  /** The error when `context` gives back what it does not have; `verb` says how. */
  protected wrongUnlock(context: ExecContext, verb: string): BugError {
    return new BugError(`${context.describe()} ${verb} ${this.name}, which is ${this.story()}`);
  }
}
