// SPDX-License-Identifier: GPL-2.0-only
/**
 * Interrupts of a pCPU that are still to come, in order of time: timers (after kernel/time/hrtimer.c) and interprocessor
 * interrupts alike. Handlers are plain code: they run in interrupt context and cannot wait.
 */
import { BugError } from '../../machine/errors.ts';

/** What kind of interrupt it is: decides the cost of taking it and what a schedule explorer may reorder. */
// prettier-ignore
export const IRQ = { TIMER: 0, IPI: 1 } as const;

/** One interrupt that a pCPU will take at cycle `at`, or later if interrupts are off then. */
export interface Interrupt {
  readonly name: string;
  readonly kind: number;
  at: number;
  handler(): void;
}

/** A timer. Arm it with sched.hrtimerStart(). It can be armed again from its own handler. */
export class HrTimer implements Interrupt {
  readonly name: string;
  readonly kind = IRQ.TIMER;
  readonly handler: () => void;
  at = Infinity;
  /** The pCPU that it is armed on, or -1. */
  pcpu = -1;

  constructor(name: string, handler: () => void) {
    this.name = name;
    this.handler = handler;
  }

  get armed(): boolean {
    return this.pcpu >= 0;
  }
}

/** Pending interrupts of one pCPU, earliest first; equal times in order of arrival. */
export class IrqQueue {
  readonly #list: Interrupt[] = [];

  get length(): number {
    return this.#list.length;
  }

  /** Time of the earliest, or Infinity. */
  get nextAt(): number {
    const list = this.#list;
    return list.length === 0 ? Infinity : list[0]!.at;
  }

  get first(): Interrupt | undefined {
    return this.#list[0];
  }

  add(irq: Interrupt): void {
    if (Number.isNaN(irq.at)) throw new BugError(`interrupt ${irq.name} has no time`);
    const list = this.#list;
    let index = list.length;
    while (index > 0 && list[index - 1]!.at > irq.at) index--;
    list.splice(index, 0, irq);
  }

  remove(irq: Interrupt): boolean {
    const index = this.#list.indexOf(irq);
    if (index < 0) return false;
    this.#list.splice(index, 1);
    return true;
  }

  /** Take the earliest interrupt if it is due at `now`. */
  take(now: number): Interrupt | undefined {
    return this.nextAt <= now ? this.#list.shift() : undefined;
  }
}
