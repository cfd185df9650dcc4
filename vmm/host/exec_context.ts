// SPDX-License-Identifier: GPL-2.0-only
/**
 * Who executes kernel code: a task, the interrupt context of a pCPU, or the boot context (set-up outside any task).
 * Mirrors preempt_count and the held-lock stack of lockdep; leaves out softirq and NMI levels.
 */

/** A lock as its holder's stack remembers it. */
export interface HeldLock {
  readonly name: string;
  /** Lock class of the order check; see LockDep. */
  readonly classId: number;
}

export class ExecContext {
  readonly name: string;
  /** Non-zero: atomic context, no sleeping and no switch to another task. */
  preemptCount = 0;
  /** Locks held, oldest first. */
  readonly held: HeldLock[] = [];

  constructor(name: string) {
    this.name = name;
  }

  /** `"vcpu 0" holding mmu_lock, slots_lock`, for messages. */
  describe(): string {
    const locks = this.held.map((lock) => lock.name).join(', ');
    return locks === '' ? `"${this.name}"` : `"${this.name}" holding ${locks}`;
  }
}
